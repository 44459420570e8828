"""Two runs on the same draws of the same images: is one below the other?

What `analysis.bootstrap` states of one cell of two runs with a seed each, small enough to be asked
during training.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from ablations.evaluation.matching import Matches
from ablations.evaluation.metrics import Metric
from ablations.evaluation.scoring import Axes, score_resamples

MIN_IMAGES = 20
"""Images with objects below which no difference is called real: too few different resamples."""
NO_SPREAD = 1e-12
"""Standard errors below it are rounding: every resample has the same difference."""


class Draws(NamedTuple):
    """A metric on the images as they are and on each draw of them, the same draws for every run."""

    values: list[float]
    """(1 + num_resamples); NaN where no object counts."""
    num_images: int
    num_images_with_objects: int


def draw(table: Matches, metric: Metric, num_resamples: int) -> Draws:
    """The metric of a run's matches on the images and on draws of them."""
    counts = draw_counts(0, table.num_images, num_resamples)
    scores = score_resamples(table, counts)
    values = Axes.of(table).read(metric.cell, scores.ap, scores.ar)
    assert values is not None, metric.name
    area = table.areas.index(metric.cell.area)
    with_objects = len(np.unique(table.truth_image[table.truth_counted[:, area]]))
    return Draws(values.tolist(), table.num_images, with_objects)


@lru_cache(maxsize=2)
def draw_counts(seed: int, num_images: int, num_resamples: int) -> NDArray[np.uint8]:
    """How often each image counts, (num_images, 1 + num_resamples): one matrix for all variants.

    First the images as they are, each once; then as many draws of images as there are images.
    """
    rng = np.random.default_rng(seed)
    counts = np.ones((num_images, 1 + num_resamples), np.uint8)
    for r in range(1, 1 + num_resamples):
        drawn = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
        counts[:, r] = np.minimum(drawn, 255)
    counts.setflags(write=False)
    return counts


def p_not_below(run: Draws, other: Draws) -> float:
    """How probable the difference is if `run` is not below `other`; 1 where nothing can be said.

    One-sided, by Student's t over the images: noise of training is not in it. Raises ValueError for
    draws of different images.
    """
    if (run.num_images, len(run.values)) != (other.num_images, len(other.values)):
        raise ValueError(
            f"draws of {run.num_images} and {other.num_images} images, {len(run.values)} and "
            f"{len(other.values)} times, are not the same"
        )
    if run.num_images_with_objects < MIN_IMAGES:
        return 1.0
    difference = np.array(run.values) - np.array(other.values)
    resampled = difference[1:][~np.isnan(difference[1:])]
    if np.isnan(difference[0]) or len(resampled) < 2:
        return 1.0
    num_images = run.num_images_with_objects
    error = np.sqrt(resampled.var(ddof=1) * num_images / (num_images - 1))
    degrees = image_degrees(num_images)
    return float(stdtr(degrees, difference[0] / error)) if error > NO_SPREAD else 1.0


def image_degrees(num_images: int, num_seeds: int = 1) -> float:
    """Degrees of freedom of a variance over images, of differences between means over seeds.

    An image gives 2 / (2 + k) of one, with k the excess kurtosis of the images' shares in the
    difference: 0 were they normal. A few crowded images carry much of it, so k is about 2 with one
    seed; that of a mean falls as one over the seeds.
    """
    return max((num_images - 1) / (1 + 1 / num_seeds), 1)

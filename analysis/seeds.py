"""How scores vary over training seeds, beside what the choice of images explains of it."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

LEAST_SEED_NOISE = 1 / 4
"""What a mark takes seeds to add at least, as a share of what images add to the variance.

One run each shows nothing of what another seed would change, and few seeds may agree by chance. An
interval says which noise it covers; a mark calls a difference real, so it allows for seeds all the
same. The share is assumed. With a quarter, more seeds find more and few marks are false
(`benchmarks/calibration.md`), and most runs of the shelf show more (`benchmarks/seed_noise.md`): on
400 drawn images seeds add to every metric 1.06 times what images add, or more, and 0.31 to 1.28
times in the median of the gains of a table. On 64 photographs metrics show no seed noise at all:
there a mark is more careful than it need be.
"""


class SeedSpread(NamedTuple):
    """How scores vary over the seeds of a variant, or of several; numbers, or an array of cells."""

    mean_square: Any
    """Variance over the seeds on the same images."""
    image_part: Any
    """How much of it the choice of images explains."""
    degrees: int
    """Degrees of freedom: the seeds, less one a variant."""

    def at(self, place: Any) -> "SeedSpread":
        """That of one cell."""
        return SeedSpread(
            float(self.mean_square[place]), float(self.image_part[place]), self.degrees
        )


def seed_spread(scores: NDArray[np.float64]) -> SeedSpread:
    """How a variant's scores vary over its seeds, (...).

    `scores` is (num_seeds, ..., 1 + num_resamples), first on the images as they are. Seeds scored
    on the same images differ by their training and by their luck with these images; resampling
    shows how far the luck goes.
    """
    degrees = len(scores) - 1
    if degrees == 0:
        return SeedSpread(np.zeros(scores.shape[1:-1]), np.zeros(scores.shape[1:-1]), 0)
    deviations = scores - scores.mean(axis=0)
    return SeedSpread(
        (deviations[..., 0] ** 2).sum(axis=0) / degrees,
        variance_of(deviations[..., 1:]).sum(axis=0) / degrees,
        degrees,
    )


def pool(sides: Iterable[SeedSpread]) -> SeedSpread:
    """The spread of one cell over the seeds of several variants, each taken once."""
    different = dict.fromkeys(sides)  # a baseline is in every comparison
    degrees = sum(side.degrees for side in different)
    if degrees == 0:
        return SeedSpread(0.0, 0.0, 0)
    return SeedSpread(
        sum(side.degrees * side.mean_square for side in different) / degrees,
        sum(side.degrees * side.image_part for side in different) / degrees,
        degrees,
    )


def at_median(spread: SeedSpread) -> SeedSpread:
    """The spread with the median of what the choice of images makes of it, not the mean.

    Over few seeds the images explain less than their mean more often than not (63 % with two
    degrees of freedom), and as often the mean would hide all that seeds add.
    """
    if spread.degrees == 0:
        return spread
    median = chdtri(spread.degrees, 0.5) / spread.degrees
    return spread._replace(image_part=spread.image_part * median)


def raised_to_mean(spreads: Sequence[SeedSpread]) -> list[SeedSpread]:
    """The spreads, none of them a smaller multiple of its image part than the mean of all cells.

    That multiple is much the same in all cells, since all see the same seeds. A mark of many cells
    must not pick those in which it is low by chance; the interval of a cell is not picked.
    """
    multiples = [each.mean_square / each.image_part for each in spreads if each.image_part > 0]
    mean = np.mean([each for each in multiples if each > 0] or [0])
    return [
        each._replace(mean_square=max(each.mean_square, mean * each.image_part)) for each in spreads
    ]


def variance_of(resampled: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., num_resamples) -> (...), over those that are present; 0 where fewer than two are."""
    present = ~np.isnan(resampled)
    count = present.sum(axis=-1)
    mean = np.where(present, resampled, 0).sum(axis=-1) / np.maximum(count, 1)
    squares = np.where(present, (resampled - mean[..., None]) ** 2, 0).sum(axis=-1)
    return squares / np.maximum(count - 1, 1)

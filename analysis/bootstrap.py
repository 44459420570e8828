"""Is the difference real? Every AP and AR cell of two variants, with an interval and a mark.

Images are drawn with replacement, the same draws for both variants, and both are scored on each
draw. Every resample is scored exactly (`evaluation.kernel`); intervals and p values are
approximations, as they are with any bootstrap.

With several seeds a side, images and seeds are crossed: each seed is scored on each image. Drawing
both at once would count the luck of single detections several times (Owen, "The pigeonhole
bootstrap", Annals of Applied Statistics, 2007). Therefore only the images are drawn, for the means
over seeds, and what the seeds add is estimated beside it:

    variance = of the images, with how each seed fares on each of them
             + of the seeds' scores, less the part of it that the same images explain

The second line is never below 0. Few seeds say little about it, so the sum has degrees of freedom
(Satterthwaite, "An approximate distribution of estimates of variance components", 1946). Its root
is the standard error, and interval and mark both come from Student's t with those degrees.

Many cells are looked at together. A difference is called real only if its |t| is one that the
largest |t| of all cells seldom reaches by chance (max-|t| in one step, from the same resamples:
Westfall and Young, "Resampling-based multiple testing", 1993).

How often intervals and marks are right is simulated in `benchmarks/calibration.py`, and written
down in `benchmarks/calibration.md`. The weak place is two seeds a side with much seed noise: there
about 9 of 10 intervals hold the true difference, and 1 table in 10 has a false mark. Two seeds
without seed noise get intervals that are a little too wide.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr, stdtr, stdtrit

from ablations.evaluation.matching import Matches
from ablations.evaluation.metrics import Cell, metrics_of
from ablations.evaluation.paired import IMAGES_PER_DEGREE, MIN_IMAGES, NO_SPREAD, draw_counts
from ablations.evaluation.scoring import Axes, score_resamples

CONFIDENCE = 0.95
MIN_RESAMPLES = 100
"""From 100 resamples a standard error is known to 7 %, from 1,000 to 2 %."""
CHANCE_SHARE = 0.4
"""Share of the image part of a variance over seeds that is not counted as seed noise when degrees
of freedom are. The larger, the more power and the more false marks from two seeds a side."""
_CELLS = {metric.name: metric.cell for metric in metrics_of("bbox")}

Name = TypeVar("Name", bound=Hashable)
Progress = Callable[[float], None]
"""Told the share of the work that is done."""

_RESAMPLED: WeakKeyDictionary[Matches, dict[tuple[int, int], NDArray[np.float64]]]
_RESAMPLED = WeakKeyDictionary()
"""What `resample` has made of a table, by number of resamples and seed."""


class NotComparableError(ValueError):
    """Runs that cannot be compared; the message says what differs."""


@dataclass(frozen=True)
class Difference:
    """One metric of b minus that of a."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    standard_error: float
    p_not_better: float
    """One-sided p value of "b is not above a"."""
    p: float
    """Two-sided: how often chance alone gives a |t| as large, for this cell by itself."""
    p_corrected: float
    """As `p`, for the largest |t| of all cells looked at together."""
    num_images: int
    """Images with objects that count for it."""

    @property
    def real(self) -> bool:
        """Whether the difference stays after correction, and enough images carry it."""
        return self.p_corrected < 1 - CONFIDENCE and self.num_images >= MIN_IMAGES


class Sample(NamedTuple):
    """A difference, what it is in each resample (NaN where there are no objects), and its seeds."""

    value: float
    resampled: NDArray[np.float64]
    """(num_resamples,)"""
    num_images: int
    """Images with objects that count for it."""
    seed_variance: float = 0.0
    """Variance of the difference that the scores of the seeds show, on the same images."""
    image_part: float = 0.0
    """How much of `seed_variance` the choice of images explains."""
    num_free_seeds: int = 0
    """Degrees of freedom of `seed_variance`: seeds of both sides, less one a side."""


@dataclass(frozen=True, eq=False)
class Comparison(Mapping[str, Difference]):
    """The difference b minus a of every cell; by COCO's name, `comparison['AP_small']`.

    Names are corrected together; `cells` are too, as a family of their own. Names without a value
    (no objects of that scale, say) are absent.
    """

    axes: Axes
    value: NDArray[np.float64]
    """(2, T + 1, A, M): AP and AR, each threshold and then their mean, scale, maxDets."""
    resampled: NDArray[np.float64]
    """(2, T + 1, A, M, num_resamples)"""
    seed_variance: NDArray[np.float64]
    """(2, T + 1, A, M): variance of the difference that the seeds show; 0 without seeds."""
    image_part: NDArray[np.float64]
    """(2, T + 1, A, M): how much of it the choice of images explains."""
    num_images: int
    num_images_with_objects: Mapping[str, int]
    """By scale."""
    num_seeds: tuple[int, int]

    @property
    def covers(self) -> str:
        """What the intervals cover, in a sentence."""
        return covers_text(self.resampled.shape[-1], self.num_images, self.num_seeds)

    @cached_property
    def metrics(self) -> dict[str, Difference]:
        """The twelve metrics that have a value."""
        return correct({"": self})[""]

    def __getitem__(self, name: str) -> Difference:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    @cached_property
    def cells(self) -> dict[Cell, Difference]:
        """Every cell that has a value, corrected over all of them."""
        samples = {cell: self.read(cell) for cell in self._places}
        present = {cell: sample for cell, sample in samples.items() if sample is not None}
        found = differences(list(present.values()))
        return {cell: each for cell, each in zip(present, found, strict=True) if each is not None}

    @cached_property
    def _places(self) -> dict[Cell, tuple[int, int, int, int]]:
        return {
            Cell(quantity, iou, area, limit): (q, t, a, m)
            for q, quantity in enumerate(("AP", "AR"))
            for t, iou in enumerate((*self.axes.iou_thresholds, None))
            for a, area in enumerate(self.axes.areas)
            for m, limit in enumerate(self.axes.max_dets)
        }

    def samples(self, cells: Mapping[str, Cell]) -> dict[str, Sample]:
        """What is known of the cells that have a value, by name."""
        found = {name: self.read(cell) for name, cell in cells.items()}
        return {name: sample for name, sample in found.items() if sample is not None}

    def read(self, cell: Cell) -> Sample | None:
        """What is known of a cell; None where it has no value."""
        limit = self.axes.max_dets[-1] if cell.max_dets is None else cell.max_dets
        place = self._places.get(cell._replace(max_dets=limit))
        if place is None or np.isnan(self.value[place]):
            return None
        return Sample(
            float(self.value[place]),
            self.resampled[place],
            self.num_images_with_objects[cell.area],
            float(self.seed_variance[place]),
            float(self.image_part[place]),
            num_free_seeds(*self.num_seeds),
        )


def compare(
    tables_a: Sequence[Matches],
    tables_b: Sequence[Matches],
    num_resamples: int = 1000,
    seed: int = 0,
    names: tuple[str, str] = ("a", "b"),
    progress: Progress | None = None,
) -> Comparison:
    """Compare two variants on the same images; a table per training seed.

    The same `seed` draws the same images in every comparison over them, which is what `correct`
    needs. Raises NotComparableError, and ValueError below MIN_RESAMPLES.
    """
    check_num_resamples(num_resamples)
    if not tables_a or not tables_b:
        raise ValueError("a comparison needs a table on each side")
    check_comparable(
        [*tables_a, *tables_b], [names[0]] * len(tables_a) + [names[1]] * len(tables_b)
    )
    sides = []
    num_tables = len(tables_a) + len(tables_b)
    for tables, before in ((tables_a, 0), (tables_b, len(tables_a))):
        runs = []
        for number, table in enumerate(tables, start=before):

            def on_share(share: float, number: int = number) -> None:
                if progress is not None:
                    progress((number + share) / num_tables)

            runs.append(resample(table, num_resamples, seed, on_share))
        sides.append(np.stack(runs))
    difference = sides[1].mean(axis=0) - sides[0].mean(axis=0)
    seed_variance, image_part = seed_components(*sides)
    return Comparison(
        axes=Axes.of(tables_a[0]),
        value=difference[..., 0],
        resampled=difference[..., 1:],
        seed_variance=seed_variance,
        image_part=image_part,
        num_images=tables_a[0].num_images,
        num_images_with_objects=count_images_with_objects(tables_a[0]),
        num_seeds=(len(tables_a), len(tables_b)),
    )


def correct(
    comparisons: Mapping[str, Comparison], cells: Mapping[str, Cell] = _CELLS
) -> dict[str, dict[str, Difference]]:
    """Differences by comparison and name of the cell, corrected over all of them together.

    For a table in which several variants stand against one baseline: the more that is looked at,
    the more chance finds. The comparisons must have drawn the same images (same images, same seed).
    """
    if len({comparison.num_images for comparison in comparisons.values()}) > 1:
        raise NotComparableError("comparisons corrected together must be over the same images")
    return correct_samples(
        {key: comparison.samples(cells) for key, comparison in comparisons.items()}
    )


def correct_samples(
    samples: Mapping[str, Mapping[Name, Sample]],
) -> dict[str, dict[Name, Difference]]:
    """Differences by comparison and name, corrected over all of them together.

    The samples must come from the same draws of the same images.
    """
    keys = [(key, name) for key, named in samples.items() for name in named]
    found = differences([sample for named in samples.values() for sample in named.values()])
    corrected: dict[str, dict[Name, Difference]] = {key: {} for key in samples}
    for (key, name), each in zip(keys, found, strict=True):
        if each is not None:
            corrected[key][name] = each
    return corrected


def covers_text(num_resamples: int, num_images: int, num_seeds: tuple[int, int]) -> str:
    """What intervals of differences cover, in a sentence."""
    num_a, num_b = num_seeds
    drawn = (
        f"{100 * CONFIDENCE:.0f} % intervals from {num_resamples:,} paired resamples of "
        f"{num_images:,} images"
    )
    if num_free_seeds(*num_seeds):
        few = " Two seeds say little about that noise." if min(num_seeds) == 2 else ""
        return (
            f"{drawn} and from the spread of {num_a} and {num_b} training seeds: they cover "
            f"the choice of images and the noise of training.{few}"
        )
    runs = "one run each" if num_a == num_b == 1 else f"{num_a} and {num_b} runs"
    return (
        f"{drawn} ({runs}): they cover the choice of images, not the noise of training; "
        "another seed may change the difference by more."
    )


def check_num_resamples(num_resamples: int) -> None:
    """ValueError for fewer resamples than an interval needs."""
    if num_resamples < MIN_RESAMPLES:
        raise ValueError(
            f"fewer than {MIN_RESAMPLES} resamples do not give a {100 * CONFIDENCE:.0f} % "
            f"interval; take 1000, not {num_resamples}"
        )


def count_images_with_objects(table: Matches) -> dict[str, int]:
    """By scale, the images that have an object that counts."""
    return {
        area: len(np.unique(table.truth_image[table.truth_counted[:, a]]))
        for a, area in enumerate(table.areas)
    }


def images_with_objects_text(num_images: Mapping[str, int]) -> str:
    """`images with objects: all 64, small 12 ...`, for the legend of a table."""
    counts = ", ".join(f"{area} {count:,}" for area, count in num_images.items())
    text = f"images with objects: {counts}"
    if any(count < MIN_IMAGES for count in num_images.values()):
        text += f" (no difference is called real on fewer than {MIN_IMAGES})"
    return text


def num_free_seeds(num_a: int, num_b: int) -> int:
    """Degrees of freedom of the variance over seeds; 0 unless both sides have several."""
    return num_a + num_b - 2 if min(num_a, num_b) > 1 else 0


def seed_components(
    scores_a: NDArray[np.float64], scores_b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of the difference (...) that the seeds show, and the part that images explain.

    `scores_a` and `scores_b` are (num_seeds, ..., 1 + num_resamples), first on the images as they
    are. Seeds scored on the same images differ by their training and by their luck with these
    images; resampling shows how far the luck goes. Both sides are taken to vary alike, as in the
    two-sample t test.

    The ratio of both numbers is much the same in all cells, since all see the same seeds. A cell
    whose ratio is below the mean ratio is raised half way to it: variances that are estimated side
    by side are better shrunk towards each other (Smyth, "Linear models and empirical Bayes
    methods", 2004), and a mark of many cells must not pick those that are low by chance.
    """
    shape = scores_a.shape[1:-1]
    num_a, num_b = len(scores_a), len(scores_b)
    free = num_free_seeds(num_a, num_b)
    if free == 0:
        return np.zeros(shape), np.zeros(shape)
    squares, image_part = np.zeros(shape), np.zeros(shape)
    for scores in (scores_a, scores_b):
        deviations = scores - scores.mean(axis=0)
        squares += (deviations[..., 0] ** 2).sum(axis=0)
        image_part += _variance(deviations[..., 1:]).sum(axis=0)
    of_mean = (1 / num_a + 1 / num_b) / free
    squares, image_part = squares * of_mean, image_part * of_mean
    share = np.divide(squares, image_part, out=np.zeros(shape), where=image_part > 0)
    if np.any(share > 0):
        common = share[share > 0].mean()
        squares = np.maximum(squares, (squares + common * image_part) / 2)
    return squares, image_part


def mean_sample(scores: NDArray[np.float64], num_images: int) -> Sample:
    """A score of one variant, the mean over its seeds; `scores` is (num_seeds, 1 + num_resamples).

    What `seed_components` says of two sides, of one.
    """
    mean, num_seeds = scores.mean(axis=0), len(scores)
    if num_seeds == 1:
        return Sample(float(mean[0]), mean[1:], num_images)
    deviations = scores - mean
    of_mean = 1 / num_seeds / (num_seeds - 1)
    squares = float((deviations[:, 0] ** 2).sum()) * of_mean
    image_part = float(_variance(deviations[:, 1:]).sum()) * of_mean
    return Sample(float(mean[0]), mean[1:], num_images, squares, image_part, num_seeds - 1)


def _variance(resampled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the resamples that are present; 0 where fewer than two are."""
    present = ~np.isnan(resampled)
    count = present.sum(axis=-1)
    mean = np.where(present, resampled, 0).sum(axis=-1) / np.maximum(count, 1)
    squares = np.where(present, (resampled - mean[..., None]) ** 2, 0).sum(axis=-1)
    return squares / np.maximum(count - 1, 1)


def resample(
    table: Matches, num_resamples: int, seed: int, progress: Progress | None = None
) -> NDArray[np.float64]:
    """AP and AR (2, T + 1, A, M, 1 + num_resamples), the mean over thresholds last in T.

    The first is of the images as they are. The result is kept as long as the table lives, so a
    baseline is resampled once for all variants that are compared with it.
    """
    kept = _RESAMPLED.setdefault(table, {})
    if (num_resamples, seed) not in kept:

        def on_category(done: int, total: int) -> None:
            if progress is not None:
                progress(done / total)

        counts = draw_counts(seed, table.num_images, num_resamples)
        both = np.stack(score_resamples(table, counts, on_category))
        kept[num_resamples, seed] = np.concatenate([both, both.mean(axis=1, keepdims=True)], axis=1)
    if progress is not None:
        progress(1.0)
    return kept[num_resamples, seed]


def differences(samples: Sequence[Sample]) -> list[Difference | None]:
    """Statistics of differences that are one family; None where there is no value.

    A resample in which a cell has no objects does not count for that cell.
    """
    results: list[Difference | None] = [None] * len(samples)
    usable = [
        i
        for i, sample in enumerate(samples)
        if not np.isnan(sample.value) and np.count_nonzero(~np.isnan(sample.resampled)) > 1
    ]
    if not usable:
        return results
    used = [samples[i] for i in usable]
    values = np.array([sample.value for sample in used])
    resampled = np.stack([sample.resampled for sample in used])
    image_variance = _variance(resampled)
    error, degrees = _standard_errors(used, image_variance)
    # Without spread there is nothing to tell a difference from: its t is 0.
    t = values / np.where(error > NO_SPREAD, error, np.inf)
    width = stdtrit(degrees, (1 + CONFIDENCE) / 2) * error
    p_not_better = stdtr(degrees, -t)
    p = 2 * stdtr(degrees, -np.abs(t))
    largest = _largest_by_chance(resampled, image_variance)
    for i, index in enumerate(usable):
        # Chance makes a |t| as large where the largest |z| over a root mean square of `degrees`
        # normal numbers does, as Student's t is one |z| over it.
        ratio = np.divide(largest, abs(t[i]), out=np.full_like(largest, np.inf), where=t[i] != 0)
        corrected = chdtr(degrees[i], degrees[i] * ratio**2).mean()
        results[index] = Difference(
            value=float(values[i]),
            low=float(values[i] - width[i]),
            high=float(values[i] + width[i]),
            standard_error=float(error[i]),
            p_not_better=float(p_not_better[i]),
            p=float(p[i]),
            p_corrected=float(max(corrected, p[i])),
            num_images=used[i].num_images,
        )
    return results


def _largest_by_chance(
    resampled: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The largest |deviation| of all cells in standard errors, in each resample."""
    mean = np.nanmean(resampled, axis=1, keepdims=True)
    deviation = np.abs(np.where(np.isnan(resampled), 0, resampled - mean))
    error = np.sqrt(variance)[:, None]
    return (deviation / np.where(error > NO_SPREAD, error, np.inf)).max(axis=0)


def _standard_errors(
    samples: Sequence[Sample], image_variance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard errors of images and seeds together, and their degrees of freedom (Satterthwaite).

    The image part of what seeds show is in `image_variance` already. `IMAGES_PER_DEGREE` images
    give one degree of freedom, as many as there are seeds beyond one a side the seeds.
    """
    num_images, num_free, of_seeds, image_part = (
        np.array([getattr(sample, name) for sample in samples], np.float64)
        for name in ("num_images", "num_free_seeds", "seed_variance", "image_part")
    )
    # n draws from n images vary by (n - 1) / n of what n other images would.
    of_images = image_variance * num_images / np.maximum(num_images - 1, 1)
    variance = of_images + np.maximum(of_seeds - image_part, 0)
    known_by_images = np.maximum((num_images - 1) / IMAGES_PER_DEGREE, 1)
    known_by_seeds = np.maximum(of_seeds - CHANCE_SHARE * image_part, 0)
    doubt = of_images**2 / known_by_images + known_by_seeds**2 / np.maximum(num_free, 1)
    degrees = np.divide(variance**2, doubt, out=np.ones_like(variance), where=doubt > 0)
    return np.sqrt(variance), np.maximum(degrees, 1)


def check_comparable(tables: Sequence[Matches], names: Sequence[str]) -> None:
    """Raise NotComparableError unless all tables are over the same truth and the same cells."""
    first = tables[0]
    for table, name in zip(tables[1:], names[1:], strict=True):
        pair = f"{names[0]} and {name} cannot be compared"
        for what, ids, other_ids in (
            ("images", first.image_ids, table.image_ids),
            ("categories", first.category_ids, table.category_ids),
        ):
            if not np.array_equal(ids, other_ids):
                differing = np.setxor1d(ids, other_ids)
                raise NotComparableError(
                    f"{pair}: their {what} differ ({len(ids)} and {len(other_ids)}, "
                    f"{len(differing)} only in one, id {differing[0]} first); "
                    "evaluate both on the same truth"
                )
        for what in ("iou_type", "category_names", "areas", "max_dets"):
            if getattr(first, what) != getattr(table, what):
                raise NotComparableError(
                    f"{pair}: their {what} differ ({getattr(first, what)!r} and "
                    f"{getattr(table, what)!r}); match both with the same options"
                )
        for what, remedy in (
            ("iou_thresholds", "match both with the same options"),
            ("area_bounds", "match both with the same options"),
            ("truth_starts", "their objects differ: evaluate both on the same truth"),
            ("truth_image", "their objects differ: evaluate both on the same truth"),
            ("truth_counted", "their objects differ: evaluate both on the same truth"),
        ):
            if not np.array_equal(getattr(first, what), getattr(table, what)):
                raise NotComparableError(f"{pair}: their {what} differ; {remedy}")

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

The second line is never below 0. All variants of a table are taken to vary alike over seeds, as in
an analysis of variance: the second line is pooled over those that have several seeds, which know
more of it together than any pair does. Each line has its degrees of freedom, and the interval is
as wide as both together (Howe, "Approximate confidence limits on the mean of X + Y", Journal of
the American Statistical Association, 1974):

    half of the width, squared = (t x standard error) of the images, squared
                               + (t x standard error) of the seeds, squared

Over few seeds, the images explain less than they do on average more often than not: the interval
takes off the median of it. The mark comes from Student's t with the degrees that give the same
width. As marks are picked among many cells, none of them goes by a seeds' line that is low by
chance: it is raised to the mean. Nor does any go by images alone: seeds are taken to add at least
`LEAST_SEED_NOISE` of what the images do, for one run each, too, whose interval leaves them out.

Many cells are looked at together. A difference is called real only if its |t| is one that the
largest |t| of all cells seldom reaches by chance (max-|t| in one step, from the same resamples:
Westfall and Young, "Resampling-based multiple testing", 1993).

How often intervals and marks are right is simulated in `benchmarks/calibration.py`, and written
down in `benchmarks/calibration.md`. The weak place is a lone pair with two seeds: where seeds do
not differ, it finds little more than one run each, and where they differ a little, its false marks
come nearest to the most that is allowed. A table of four variants and three seeds know more. Rules
that find more cover less (`benchmarks/seed_intervals.md`).
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr, stdtr, stdtridf, stdtrit

from ablations.evaluation.matching import Matches
from ablations.evaluation.metrics import Cell, metrics_of
from ablations.evaluation.paired import MIN_IMAGES, NO_SPREAD, draw_counts, image_degrees
from ablations.evaluation.scoring import Axes, score_resamples
from analysis.seeds import (
    LEAST_SEED_NOISE,
    SeedSpread,
    at_median,
    pool,
    raised_to_mean,
    seed_spread,
    variance_of,
)

CONFIDENCE = 0.95
MARK_TEXT = (
    "An interval is for one difference alone. A mark allows for all that are looked at together, "
    f"and takes training seeds to add at least {100 * LEAST_SEED_NOISE:.0f} % to the variance of "
    "the images, even where there is one run each."
)
"""Why a mark is more careful than the interval beside it, for the legend of a table."""
MIN_RESAMPLES, MAX_RESAMPLES = 100, 1_000_000
"""From 100 resamples a standard error is known to 7 %, from 1,000 to 2 %, and from the most to a
thousandth."""
_CELLS = {metric.name: metric.cell for metric in metrics_of("bbox")}

Name = TypeVar("Name", bound=Hashable)
Progress = Callable[[float], None]
"""Told the share of the work that is done."""

_Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
_RESAMPLED: WeakKeyDictionary[Matches, dict[tuple[int, int], _Scores]]
_RESAMPLED = WeakKeyDictionary()
"""What `resample` and `resample_categories` give of a table, by number of resamples and seed."""


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
    """As `p`, for the largest |t| of all cells looked at together, and with the least seed noise
    that a mark allows for."""
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
    sides: tuple[SeedSpread, ...] = ()
    """Of each variant in it."""

    @property
    def num_seeds(self) -> int:
        """Of the variant with the fewest."""
        return min((side.degrees + 1 for side in self.sides), default=1)


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
    sides: tuple[SeedSpread, SeedSpread]
    """Of a and of b, (2, T + 1, A, M)."""
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
            tuple(side.at(place) for side in self.sides),
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
    return Comparison(
        axes=Axes.of(tables_a[0]),
        value=difference[..., 0],
        resampled=difference[..., 1:],
        sides=(seed_spread(sides[0]), seed_spread(sides[1])),
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

    The samples must come from the same draws of the same images. What seeds add to a name is pooled
    over all variants.
    """
    keys = [(key, name) for key, named in samples.items() for name in named]
    sides: dict[Name, list[SeedSpread]] = {}
    for named in samples.values():
        for name, sample in named.items():
            sides.setdefault(name, []).extend(sample.sides)
    pooled = {name: pool(each) for name, each in sides.items()}
    found = differences(
        [samples[key][name] for key, name in keys], [pooled[name] for _, name in keys]
    )
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
    if min(num_seeds) > 1:
        few = " Two seeds of few variants say little of it." if min(num_seeds) == 2 else ""
        return (
            f"{drawn} and from the spread of {num_a} and {num_b} training seeds, pooled over the "
            "variants that are compared: they cover the choice of images and the noise of "
            f"training.{few}"
        )
    runs = "one run each" if num_a == num_b == 1 else f"{num_a} and {num_b} runs"
    return (
        f"{drawn} ({runs}): they cover the choice of images, not the noise of training; "
        "another seed may change the difference by more."
    )


def check_num_resamples(num_resamples: int) -> None:
    """ValueError for fewer resamples than an interval needs, or more than any does."""
    if num_resamples < MIN_RESAMPLES:
        raise ValueError(
            f"fewer than {MIN_RESAMPLES} resamples do not give a {100 * CONFIDENCE:.0f} % "
            f"interval; take 1000, not {num_resamples}"
        )
    if num_resamples > MAX_RESAMPLES:
        raise ValueError(
            f"more than {MAX_RESAMPLES:,} resamples tell no more; take 1000, not {num_resamples}"
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


def mean_sample(scores: NDArray[np.float64], num_images: int) -> Sample:
    """The mean over a variant's seeds; `scores` is (num_seeds, 1 + num_resamples)."""
    mean = scores.mean(axis=0)
    return Sample(float(mean[0]), mean[1:], num_images, (seed_spread(scores).at(()),))


def resample(
    table: Matches, num_resamples: int, seed: int, progress: Progress | None = None
) -> NDArray[np.float64]:
    """AP and AR (2, T + 1, A, M, 1 + num_resamples), the mean over thresholds last in T.

    The first is of the images as they are. The result is kept as long as the table lives, so a
    baseline is resampled once for all variants that are compared with it.
    """
    return _resample(table, num_resamples, seed, progress)[0]


def resample_categories(
    table: Matches, num_resamples: int, seed: int = 0, progress: Progress | None = None
) -> NDArray[np.float64]:
    """AP of each category, (K, 1 + num_resamples), first of the images as they are.

    NaN where a category has no objects. Kept as, and with, the result of `resample`.
    """
    return _resample(table, num_resamples, seed, progress)[1]


def _resample(table: Matches, num_resamples: int, seed: int, progress: Progress | None) -> _Scores:
    kept = _RESAMPLED.setdefault(table, {})
    if (num_resamples, seed) not in kept:

        def on_category(done: int, total: int) -> None:
            if progress is not None:
                progress(done / total)

        counts = draw_counts(seed, table.num_images, num_resamples)
        scores = score_resamples(table, counts, on_category)
        both = np.stack([scores.ap, scores.ar])
        cells = np.concatenate([both, both.mean(axis=1, keepdims=True)], axis=1)
        kept[num_resamples, seed] = cells, scores.category_ap
    if progress is not None:
        progress(1.0)
    return kept[num_resamples, seed]


def differences(
    samples: Sequence[Sample], spreads: Sequence[SeedSpread] | None = None
) -> list[Difference | None]:
    """Statistics of differences that are one family; None where there is no value.

    A resample in which a cell has no objects does not count for that cell. `spreads` are those over
    seeds, by default of a sample's own sides.
    """
    if spreads is None:
        spreads = [pool(sample.sides) for sample in samples]
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
    image_variance = variance_of(resampled)
    used_spreads = [spreads[i] for i in usable]
    at_medians = [at_median(spread) for spread in used_spreads]
    error, degrees = _standard_errors(used, at_medians, image_variance)
    # Without spread there is nothing to tell a difference from: its t is 0.
    t = values / np.where(error > NO_SPREAD, error, np.inf)
    width = stdtrit(degrees, (1 + CONFIDENCE) / 2) * error
    p_not_better = stdtr(degrees, -t)
    p = 2 * stdtr(degrees, -np.abs(t))
    mark_error, degrees = _standard_errors(
        used, raised_to_mean(used_spreads), image_variance, LEAST_SEED_NOISE
    )
    t = values / np.where(mark_error > NO_SPREAD, mark_error, np.inf)
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
    samples: Sequence[Sample],
    spreads: Sequence[SeedSpread],
    image_variance: NDArray[np.float64],
    least_seed_noise: float = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard errors of images and seeds together, and their degrees of freedom.

    The image part of what seeds show is in `image_variance` already. Seeds add at least the share
    `least_seed_noise` of what images do, which is known as well as that.
    """
    num_images = np.array([sample.num_images for sample in samples], np.float64)
    # n draws from n images vary by (n - 1) / n of what n other images would.
    of_images = image_variance * num_images / np.maximum(num_images - 1, 1)
    of_seeds = _seed_variance(samples, spreads)
    least_of_seeds = least_seed_noise * of_images
    variance = of_images + np.maximum(of_seeds, least_of_seeds)
    quantile = (1 + CONFIDENCE) / 2
    image_t = stdtrit(
        [image_degrees(each.num_images, each.num_seeds) for each in samples], quantile
    )
    seed_t = stdtrit(np.maximum([spread.degrees for spread in spreads], 1), quantile)
    squared = image_t**2 * of_images + np.maximum(seed_t**2 * of_seeds, image_t**2 * least_of_seeds)
    width = np.sqrt(np.divide(squared, variance, out=np.ones_like(variance), where=variance > 0))
    degrees = np.where(variance > 0, stdtridf(quantile, width), 1)
    return np.sqrt(variance), degrees


def _seed_variance(samples: Sequence[Sample], spreads: Sequence[SeedSpread]) -> NDArray[np.float64]:
    """What the seeds add to the variance of each difference: none unless each side has several."""
    of_mean = [
        sum(1 / (side.degrees + 1) for side in sample.sides) if sample.num_seeds > 1 else 0
        for sample in samples
    ]
    excess = np.array([spread.mean_square - spread.image_part for spread in spreads])
    return np.maximum(excess, 0) * of_mean


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

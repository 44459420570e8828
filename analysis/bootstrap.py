"""Is the difference real? The paired bootstrap of every AP and AR cell between two variants.

Images are drawn with replacement, the same draws for both variants, and both are scored again on
every draw, exactly (`evaluation.kernel`). Where both variants have several seeds, seeds are drawn
as well. Many cells are looked at together, so a difference is called real only after correction:
its |t| must be one that the largest |t| of all cells seldom reaches by chance (max-|t|, one step,
from the same resamples). Holm's method needs p below 0.05 / cells, which a thousand resamples
cannot show for hundreds of cells, and it does not know how closely the cells go together.

Two things make resampling too sure of itself, and a mark of what is real has to allow for both.
Where few images have objects, too few different resamples exist: no mark below MIN_IMAGES. And the
spread of few seeds is itself hardly known: each resample's t is therefore divided by the standard
error that other such seeds would have given, drawn from the chi-squared distribution of their
variance (Krishnamoorthy, Lu and Mathew, 2007, for means of unequal variance). In simulations of
one cell, whatever the share of seed noise, at most 9 % of differences that are none are then called
real with two seeds a side, 6 % with three and 5 % with five; the interval has no such allowance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.matching import Matches
from ablations.evaluation.metrics import Cell, metrics_of
from ablations.evaluation.scoring import Axes, Resampled, score_resamples

CONFIDENCE = 0.95
MIN_RESAMPLES = 100
"""Fewer leave the ends of a 95 % interval to two or three resamples."""
MIN_IMAGES = 20
"""Images with objects below which no difference is called real: of paired means that do not differ,
48 % would be at 2 images, 20 % at 3, 11 % at 5, 8 % at 10 and 6 % at 20, instead of 5 %."""
_CELLS = {metric.name: metric.cell for metric in metrics_of("bbox")}
_NO_SPREAD = 1e-12
"""Standard errors below it are rounding: every resample has the same difference."""

Progress = Callable[[float], None]
"""Told the share of the work that is done."""


class NotComparableError(ValueError):
    """Runs that cannot be compared; the message says what differs."""


@dataclass(frozen=True)
class Difference:
    """One metric of b minus that of a."""

    value: float
    low: float
    """Lower end of the percentile interval."""
    high: float
    standard_error: float
    p_not_better: float
    """Share of resamples in which b is not above a, P(d <= 0)."""
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
    """A difference, and what it is in each resample; NaN where there are no objects."""

    value: float
    resampled: NDArray[np.float64]
    """(num_resamples,)"""
    num_images: int
    """Images with objects that count for it."""
    relative_error: NDArray[np.float64] | float = 1.0
    """(num_resamples,) the standard error that other such seeds would give over that from these."""


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
    relative_error: NDArray[np.float64]
    """(2, T + 1, A, M, num_resamples) standard error from other such seeds over that from these; 1
    where seeds are not resampled."""
    num_images: int
    num_images_with_objects: Mapping[str, int]
    """By scale."""
    num_seeds: tuple[int, int]
    seeds_resampled: bool

    @property
    def covers(self) -> str:
        """What the intervals cover, in a sentence."""
        num_a, num_b = self.num_seeds
        num_resamples = self.resampled.shape[-1]
        drawn = (
            f"{100 * CONFIDENCE:.0f} % intervals from {num_resamples:,} paired resamples of "
            f"{self.num_images:,} images"
        )
        if self.seeds_resampled:
            return (
                f"{drawn} and of {num_a} and {num_b} training seeds: they cover the choice of "
                f"images and the noise of training. Of few seeds an interval is too narrow; "
                "the marks allow for how little they tell."
            )
        runs = "one run each" if num_a == num_b == 1 else f"{num_a} and {num_b} runs"
        return (
            f"{drawn} ({runs}): they cover the choice of images, not the noise of training; "
            "another seed may change the difference by more."
        )

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
            self.relative_error[place],
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
    rng = np.random.default_rng(seed)
    num_images = tables_a[0].num_images
    # The first column, the images as they are, gives the value itself.
    as_they_are = np.ones((num_images, 1), np.uint8)
    counts = np.hstack([as_they_are, draw_counts(rng, num_images, num_resamples)])
    both_have_seeds = len(tables_a) > 1 and len(tables_b) > 1
    means, seed_variances = [], []
    tables_done, num_tables = 0, len(tables_a) + len(tables_b)
    for tables in (tables_a, tables_b):
        weights = np.full((len(tables), num_resamples + 1), 1 / len(tables))
        if both_have_seeds:
            weights[:, 1:] = draw_seed_weights(rng, len(tables), num_resamples)
        mean: Any = 0.0
        as_they_scored = []
        for table, weight in zip(tables, weights, strict=True):

            def on_category(done: int, total: int, before: int = tables_done) -> None:
                if progress is not None:
                    progress((before + done / total) / num_tables)

            cells = _cells(score_resamples(table, counts, on_category))
            mean = mean + weight * cells
            as_they_scored.append(cells[..., 0])
            tables_done += 1
        means.append(mean)
        if both_have_seeds:
            seed_variances.append(np.var(as_they_scored, axis=0, ddof=1) / len(tables))
    difference = means[1] - means[0]
    num_seeds = (len(tables_a), len(tables_b))
    relative_error: NDArray[np.float64] = np.broadcast_to(1.0, difference[..., 1:].shape)
    if both_have_seeds:
        relative_error = draw_relative_errors(rng, difference[..., 1:], seed_variances, num_seeds)
    return Comparison(
        axes=Axes.of(tables_a[0]),
        value=difference[..., 0],
        resampled=difference[..., 1:],
        relative_error=relative_error,
        num_images=num_images,
        num_images_with_objects=count_images_with_objects(tables_a[0]),
        num_seeds=num_seeds,
        seeds_resampled=both_have_seeds,
    )


def correct(
    comparisons: Mapping[str, Comparison], cells: Mapping[str, Cell] = _CELLS
) -> dict[str, dict[str, Difference]]:
    """Differences by comparison and name of the cell, corrected over all of them together.

    For a table in which several variants stand against one baseline: the more that is looked at,
    the more chance finds. The comparisons must have drawn the same images (same images, same seed).
    """
    samples = {}
    for key, comparison in comparisons.items():
        for name, cell in cells.items():
            found = comparison.read(cell)
            if found is not None:
                samples[key, name] = found
    if len({comparison.num_images for comparison in comparisons.values()}) > 1:
        raise NotComparableError("comparisons corrected together must be over the same images")
    corrected: dict[str, dict[str, Difference]] = {key: {} for key in comparisons}
    for (key, name), each in zip(samples, differences(list(samples.values())), strict=True):
        if each is not None:
            corrected[key][name] = each
    return corrected


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


def draw_counts(rng: np.random.Generator, num_images: int, num_resamples: int) -> NDArray[np.uint8]:
    """How often each image is drawn, (num_images, num_resamples): one matrix for all variants."""
    counts = np.empty((num_images, num_resamples), np.uint8)
    for r in range(num_resamples):
        drawn = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
        counts[:, r] = np.minimum(drawn, 255)
    return counts


def draw_seed_weights(
    rng: np.random.Generator, num_seeds: int, num_resamples: int
) -> NDArray[np.float64]:
    """The weight of each seed's score in the mean of a resample, (num_seeds, num_resamples).

    Drawing S seeds from S gives (S - 1) / S of the variance of their mean; deviations from equal
    weights are therefore stretched by sqrt(S / (S - 1)), which matters for two or three seeds.
    """
    drawn = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples).T
    return (1 + (drawn - 1) * np.sqrt(num_seeds / (num_seeds - 1))) / num_seeds


def draw_relative_errors(
    rng: np.random.Generator,
    resampled: NDArray[np.float64],
    seed_variances: Sequence[NDArray[np.float64]],
    num_seeds: Sequence[int],
) -> NDArray[np.float64]:
    """The standard error that other such seeds would give over that from these.

    `resampled` (..., num_resamples) varies with images and seeds; `seed_variances` (...) are those
    of each side's mean over its `num_seeds`, known from S - 1 degrees of freedom. What the images
    add to the variance is known well and stays. One draw a side is shared by all cells, which see
    the same seeds.
    """
    of_seeds = np.add(*seed_variances)
    of_images = np.maximum(_variance(resampled) - of_seeds, 0)
    redrawn = of_images[..., None]
    for variance, count in zip(seed_variances, num_seeds, strict=True):
        drawn = rng.chisquare(count - 1, resampled.shape[-1]) / (count - 1)
        redrawn = redrawn + variance[..., None] * drawn
    total = (of_images + of_seeds)[..., None]
    return np.sqrt(np.divide(redrawn, total, out=np.ones_like(redrawn), where=total > 0))


def _variance(resampled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the resamples that are present; 0 where fewer than two are."""
    present = ~np.isnan(resampled)
    count = present.sum(axis=-1)
    mean = np.where(present, resampled, 0).sum(axis=-1) / np.maximum(count, 1)
    squares = np.where(present, (resampled - mean[..., None]) ** 2, 0).sum(axis=-1)
    return squares / np.maximum(count - 1, 1)


def _cells(scores: Resampled) -> NDArray[np.float64]:
    """AP and AR with the mean over thresholds added, (2, T + 1, A, M, ...)."""
    both = np.stack(scores)
    return np.concatenate([both, both.mean(axis=1, keepdims=True)], axis=1)


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
    values = np.array([samples[i].value for i in usable])
    resampled = np.stack([samples[i].resampled for i in usable])
    num_resamples = resampled.shape[1]
    relative_error = np.stack(
        [np.broadcast_to(samples[i].relative_error, num_resamples) for i in usable]
    )
    present = ~np.isnan(resampled)
    num_present = present.sum(axis=1)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    quantile = np.quantile if present.all() else np.nanquantile
    low, high = quantile(resampled, tails, axis=1)
    error = np.nanstd(resampled, axis=1, ddof=1)
    centered = resampled - np.nanmean(resampled, axis=1, keepdims=True)
    # Without spread there is nothing to tell a difference from: its t is 0.
    scale = np.where(error > _NO_SPREAD, error, np.inf)
    t = np.abs(values) / scale
    chance = np.where(present, np.abs(centered), 0) / scale[:, None] / relative_error
    largest = np.sort(chance.max(axis=0))
    corrected = (1 + num_resamples - np.searchsorted(largest, t)) / (1 + num_resamples)
    alone = (1 + (present & (chance >= t[:, None])).sum(axis=1)) / (1 + num_present)
    not_better = (resampled <= 0).sum(axis=1) / num_present
    for i, index in enumerate(usable):
        results[index] = Difference(
            value=float(values[i]),
            low=float(low[i]),
            high=float(high[i]),
            standard_error=float(error[i]),
            p_not_better=float(not_better[i]),
            p=float(alone[i]),
            p_corrected=float(max(corrected[i], alone[i])),
            num_images=samples[index].num_images,
        )
    return results


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

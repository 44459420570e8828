"""Is the difference real? The paired bootstrap of every AP and AR cell between two variants.

Images are drawn with replacement, the same draws for both variants, and both are scored again on
every draw, exactly (`ablations.kernel`). Where both variants have several seeds, seeds are drawn as
well. Many cells are looked at together, so a difference is called real only after correction: its
|t| must be one that the largest |t| of all cells seldom reaches by chance (max-|t|, single step,
from the same resamples). Holm's method needs p below 0.05 / cells, which a thousand resamples
cannot show for hundreds of cells, and it does not know how closely the cells go together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.matching import MatchTable
from ablations.score import COCO_METRICS, Axes, Cell, Resampled, score_resamples

CONFIDENCE = 0.95

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

    @property
    def real(self) -> bool:
        """Whether the difference stays after correction."""
        return self.p_corrected < 1 - CONFIDENCE


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
    num_images: int
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
                "images and, as well as so few seeds can tell, the noise of training."
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
        cells = [
            Cell(quantity, iou, area, limit)
            for quantity in ("AP", "AR")
            for iou in (*self.axes.iou_thresholds, None)
            for area in self.axes.areas
            for limit in self.axes.max_dets
        ]
        num_resamples = self.resampled.shape[-1]
        found = differences(self.value.ravel(), self.resampled.reshape(-1, num_resamples))
        return {cell: each for cell, each in zip(cells, found, strict=True) if each is not None}

    def read(self, cell: Cell) -> tuple[float, NDArray[np.float64]] | None:
        """Value and resampled values of a cell; None where it has none."""
        value = self.axes.read(cell, self.value[0, :-1], self.value[1, :-1])
        resampled = self.axes.read(cell, self.resampled[0, :-1], self.resampled[1, :-1])
        if value is None or resampled is None or np.isnan(value):
            return None
        return float(value), resampled


def compare(
    tables_a: Sequence[MatchTable],
    tables_b: Sequence[MatchTable],
    num_resamples: int = 1000,
    seed: int = 0,
    names: tuple[str, str] = ("a", "b"),
    progress: Progress | None = None,
) -> Comparison:
    """Compare two variants on the same images; a table per training seed.

    The same `seed` draws the same images in every comparison over them, which is what `correct`
    needs. Raises NotComparableError.
    """
    if not tables_a or not tables_b or num_resamples < 2:
        raise ValueError("a comparison needs a table on each side and two resamples or more")
    check_comparable(
        [*tables_a, *tables_b], [names[0]] * len(tables_a) + [names[1]] * len(tables_b)
    )
    rng = np.random.default_rng(seed)
    num_images = tables_a[0].num_images
    # The first column, the images as they are, gives the value itself.
    as_they_are = np.ones((num_images, 1), np.uint8)
    counts = np.hstack([as_they_are, draw_counts(rng, num_images, num_resamples)])
    both_have_seeds = len(tables_a) > 1 and len(tables_b) > 1
    means = []
    tables_done, num_tables = 0, len(tables_a) + len(tables_b)
    for tables in (tables_a, tables_b):
        weights = np.full((len(tables), num_resamples + 1), 1 / len(tables))
        if both_have_seeds:
            weights[:, 1:] = draw_seed_weights(rng, len(tables), num_resamples)
        mean: Any = 0.0
        for table, weight in zip(tables, weights, strict=True):

            def on_category(done: int, total: int, before: int = tables_done) -> None:
                if progress is not None:
                    progress((before + done / total) / num_tables)

            mean = mean + weight * _cells(score_resamples(table, counts, on_category))
            tables_done += 1
        means.append(mean)
    difference = means[1] - means[0]
    return Comparison(
        axes=Axes.of(tables_a[0]),
        value=difference[..., 0],
        resampled=difference[..., 1:],
        num_images=num_images,
        num_seeds=(len(tables_a), len(tables_b)),
        seeds_resampled=both_have_seeds,
    )


def correct(
    comparisons: Mapping[str, Comparison], names: Sequence[str] = tuple(COCO_METRICS)
) -> dict[str, dict[str, Difference]]:
    """Differences by comparison and metric, corrected over all of them together.

    For a table in which several variants stand against one baseline: the more that is looked at,
    the more chance finds. The comparisons must have drawn the same images (same images, same seed).
    """
    keys, values, resampled = [], [], []
    for key, comparison in comparisons.items():
        for name in names:
            found = comparison.read(COCO_METRICS[name])
            if found is not None:
                keys.append((key, name))
                values.append(found[0])
                resampled.append(found[1])
    if len({comparison.num_images for comparison in comparisons.values()}) > 1:
        raise NotComparableError("comparisons corrected together must be over the same images")
    corrected: dict[str, dict[str, Difference]] = {key: {} for key in comparisons}
    if keys:
        for (key, name), each in zip(
            keys, differences(np.array(values), np.stack(resampled)), strict=True
        ):
            if each is not None:
                corrected[key][name] = each
    return corrected


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


def _cells(scores: Resampled) -> NDArray[np.float64]:
    """AP and AR with the mean over thresholds added, (2, T + 1, A, M, ...)."""
    both = np.stack(scores)
    return np.concatenate([both, both.mean(axis=1, keepdims=True)], axis=1)


def differences(
    values: NDArray[np.float64], resampled: NDArray[np.float64]
) -> list[Difference | None]:
    """Statistics of cells (C,) and (C, num_resamples) that are one family; None for a NaN cell.

    A resample in which a cell has no objects does not count for that cell.
    """
    num_resamples = resampled.shape[1]
    present = ~np.isnan(resampled)
    usable = ~np.isnan(values) & (present.sum(axis=1) > 1)
    results: list[Difference | None] = [None] * len(values)
    if not usable.any():
        return results
    values, resampled, present = values[usable], resampled[usable], present[usable]
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    quantile = np.quantile if present.all() else np.nanquantile
    low, high = quantile(resampled, tails, axis=1)
    error = np.nanstd(resampled, axis=1, ddof=1)
    centred = resampled - np.nanmean(resampled, axis=1, keepdims=True)
    # Variants that are equal in a cell have no spread: the difference is 0 and so is its t.
    scale = np.where(error > 0, error, np.inf)
    t = np.abs(values) / scale
    chance = np.where(present, np.abs(centred), 0) / scale[:, None]
    largest = np.sort(chance.max(axis=0))
    corrected = num_resamples - np.searchsorted(largest, t)
    alone = (chance >= t[:, None]).sum(axis=1)
    not_better = (resampled <= 0).sum(axis=1) / present.sum(axis=1)
    for i, index in enumerate(np.flatnonzero(usable)):
        results[index] = Difference(
            value=float(values[i]),
            low=float(low[i]),
            high=float(high[i]),
            standard_error=float(error[i]),
            p_not_better=float(not_better[i]),
            p=float((1 + alone[i]) / (1 + num_resamples)),
            p_corrected=float((1 + corrected[i]) / (1 + num_resamples)),
        )
    return results


def check_comparable(tables: Sequence[MatchTable], names: Sequence[str]) -> None:
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
        for what in ("kind", "category_names", "areas", "max_dets"):
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

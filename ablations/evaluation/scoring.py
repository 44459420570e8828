"""AP and AR of every cell IoU threshold x category x object scale x maxDets, from a match table.

The evaluator of the whole project: equal to COCOeval to 1e-12, and exact for resampled images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.kernel import MAX_LANES, score_category
from ablations.evaluation.matching import Matches, match
from ablations.evaluation.metrics import Cell, metrics_of

_LANES_AT_ONCE = 16
"""A processor takes about as many in one instruction, so fewer lanes would save nothing."""


@dataclass(frozen=True)
class Axes:
    """What the indices of arrays (T, A, M, ...) stand for."""

    iou_thresholds: tuple[float, ...]
    areas: tuple[str, ...]
    max_dets: tuple[int, ...]

    @classmethod
    def of(cls, table: Matches) -> "Axes":
        # np.linspace gives 0.8999999999999999; these are labels.
        thresholds = tuple(round(threshold, 9) for threshold in table.iou_thresholds.tolist())
        return cls(thresholds, table.areas, table.max_dets)

    def read(
        self, cell: Cell, ap: NDArray[np.float64], ar: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """A cell of arrays (T, A, M, ...), or None where the axes do not have it."""
        values = {"AP": ap, "AR": ar}[cell.quantity]
        if cell.area not in self.areas:
            return None
        if cell.max_dets is not None and cell.max_dets not in self.max_dets:
            return None
        limit = -1 if cell.max_dets is None else self.max_dets.index(cell.max_dets)
        values = values[:, self.areas.index(cell.area), limit]
        if cell.iou is None:
            return values.mean(axis=0)
        found = np.flatnonzero(np.isclose(self.iou_thresholds, cell.iou, rtol=0, atol=1e-9))
        return values[found[0]] if len(found) else None


@dataclass(frozen=True, eq=False)
class Scores:
    """AP and AR per category; NaN where a category has no object that counts."""

    axes: Axes
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    ap: NDArray[np.float64]
    """(T, K, A, M)"""
    ar: NDArray[np.float64]
    """(T, K, A, M)"""
    num_objects: NDArray[np.int64]
    """(K, A) objects that count."""

    def category_means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """AP and AR (T, A, M), means over the categories that have objects."""
        return _mean(self.ap), _mean(self.ar)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the categories (axis 1) that are not NaN; NaN where all are."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0).sum(axis=1) / present.sum(axis=1)


class Resampled(NamedTuple):
    """Means over the categories that have objects in the resample; NaN where none has."""

    ap: NDArray[np.float64]
    """(T, A, M, num_resamples)"""
    ar: NDArray[np.float64]
    """(T, A, M, num_resamples)"""
    category_ap: NDArray[np.float64]
    """(K, num_resamples) of each category: mean over thresholds, scale `all`, largest limit; NaN
    where it has no objects, or the table no such scale."""


def score(table: Matches, weights: ArrayLike | None = None) -> Scores:
    """AP and AR of every cell; `weights` (num_images,) says how often each image counts."""
    counts = np.ones(table.num_images, np.int64) if weights is None else np.asarray(weights)
    blocks = blocks_of(table, counts[:, None])
    num_categories = len(table.category_ids)
    shape = (len(table.iou_thresholds), num_categories, len(table.areas), len(table.max_dets))
    ap, ar = np.empty(shape), np.empty(shape)
    num_objects = np.empty((num_categories, len(table.areas)), np.int64)
    for k in range(num_categories):
        category_ap, category_ar, objects = (
            part[..., 0] for part in score_category(table, k, blocks)
        )
        num_objects[k] = objects[:, 0]
        absent = num_objects[k][:, None] == 0
        ap[:, k] = np.where(absent, np.nan, category_ap[:, :, 0].transpose(2, 0, 1))
        ar[:, k] = np.where(absent, np.nan, category_ar[:, :, 0].transpose(2, 0, 1))
    ids = tuple(table.category_ids.tolist())
    return Scores(Axes.of(table), ids, table.category_names, ap, ar, num_objects)


def score_resamples(
    table: Matches,
    counts: NDArray[np.integer[Any]],
    progress: Callable[[int, int], None] | None = None,
) -> Resampled:
    """AP and AR of every cell in every resample; `counts` is (num_images, num_resamples).

    Memory is that of the result and of one category. `progress` is told categories done and in all.
    """
    blocks = blocks_of(table, counts)
    num_categories = len(table.category_ids)
    num_blocks, _, num_lanes = blocks.shape
    num_areas, num_limits, num_thresholds = map(
        len, (table.areas, table.max_dets, table.iou_thresholds)
    )
    shape = (num_areas, num_limits, num_blocks, num_thresholds, num_lanes)
    ap, ar = np.zeros(shape), np.zeros(shape)
    num_present = np.zeros((num_areas, 1, num_blocks, 1, num_lanes))
    by_category = np.full((num_categories, num_blocks, num_lanes), np.nan)
    everything = [a for a, area in enumerate(table.areas) if area == "all"]
    for k in range(num_categories):
        category_ap, category_ar, objects = score_category(table, k, blocks)
        ap += category_ap
        ar += category_ar
        num_present[:, 0, :, 0] += objects > 0
        for a in everything:
            mean = category_ap[a, -1].mean(axis=1)
            by_category[k] = np.where(objects[a] > 0, mean, np.nan)
        if progress is not None:
            progress(k + 1, num_categories)
    with np.errstate(invalid="ignore"):
        ap /= num_present
        ar /= num_present
    ap, ar = (unblock(values)[..., : counts.shape[1]] for values in (ap, ar))
    return Resampled(ap, ar, by_category.reshape(num_categories, -1)[:, : counts.shape[1]])


def unblock(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A, M, num_blocks, T, L) as (T, A, M, num_blocks * L)."""
    num_areas, num_limits, num_blocks, num_thresholds, num_lanes = values.shape
    shape = (num_thresholds, num_areas, num_limits, num_blocks * num_lanes)
    return values.transpose(3, 0, 1, 2, 4).reshape(shape)


def blocks_of(table: Matches, counts: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Counts (num_images, R) as (num_blocks, num_images, L lanes), filled up with zeros."""
    num_images, num_resamples = counts.shape
    if num_images != table.num_images:
        raise ValueError(f"counts are for {num_images} images, the table has {table.num_images}")
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"counts are whole numbers, how often an image counts, not {counts.dtype}")
    if counts.size and not (counts.min() >= 0 and counts.max() <= 255):
        raise ValueError("counts are between 0 and 255")
    num_lanes = min(-(-num_resamples // _LANES_AT_ONCE) * _LANES_AT_ONCE, MAX_LANES)
    num_blocks = -(-num_resamples // num_lanes)
    filled = np.zeros((num_images, num_blocks * num_lanes), np.uint8)
    filled[:, :num_resamples] = counts
    return np.ascontiguousarray(filled.reshape(num_images, num_blocks, num_lanes).swapaxes(0, 1))


def metrics(scores: Scores, iou_type: str = "bbox") -> dict[str, float | None]:
    """COCO's twelve numbers by name, as fractions; None where no object counts.

    Raises ValueError where the scale `all`, which six of them are about, was not scored.
    """
    if "all" not in scores.axes.areas:
        areas = ", ".join(scores.axes.areas)
        raise ValueError(f"areas {areas}: add `all`, the scale of AP, AP50, AR100 ...")
    ap, ar = scores.category_means()
    return {
        metric.name: _number(scores.axes.read(metric.cell, ap, ar))
        for metric in metrics_of(iou_type)
    }


def cells(scores: Scores) -> dict[str, Any]:
    """All cells for a JSON file: axes, category means [T][A][M], and each category's metrics."""
    ap, ar = scores.category_means()
    axes = scores.axes
    return {
        "iou_thresholds": list(axes.iou_thresholds),
        "areas": list(axes.areas),
        "max_dets": list(axes.max_dets),
        "AP": _nested(ap),
        "AR": _nested(ar),
        "categories": [
            {
                "id": scores.category_ids[k],
                "name": scores.category_names[k],
                "num_objects": dict(zip(axes.areas, scores.num_objects[k].tolist(), strict=True)),
                **{
                    metric.name: _number(axes.read(metric.cell, scores.ap[:, k], scores.ar[:, k]))
                    for metric in metrics_of("bbox")
                },
            }
            for k in range(len(scores.category_ids))
        ],
    }


def read_cell(cells: dict[str, Any], cell: Cell) -> float | None:
    """One cell of what `cells` returned, AP at IoU 0.6 of small objects say; None if absent."""
    axes = Axes(tuple(cells["iou_thresholds"]), tuple(cells["areas"]), tuple(cells["max_dets"]))
    ap, ar = (np.array(cells[name], dtype=np.float64) for name in ("AP", "AR"))
    return _number(axes.read(cell, ap, ar))


def _number(value: NDArray[np.float64] | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _nested(values: NDArray[np.float64]) -> list[Any]:
    nested = values.astype(object)
    nested[np.isnan(values)] = None
    return nested.tolist()


class Evaluation(NamedTuple):
    """What a record keeps of an evaluation."""

    metrics: dict[str, float | None]
    """COCO's names; those of masks begin with `mask_`."""
    cells: dict[str, dict[str, Any]]
    """All cells, by iou_type."""


def evaluate(
    truth: Truth, detections: Detections, iou_types: Sequence[str] = ("bbox",)
) -> Evaluation:
    """Match and score detections by boxes ('bbox'), masks ('segm') or both."""
    result = Evaluation({}, {})
    for iou_type in iou_types:
        scores = score(match(truth, detections, iou_type))
        result.metrics.update(metrics(scores, iou_type))
        result.cells[iou_type] = cells(scores)
    return result

"""Results files beside each other: every number of the comparison, as frames.

The first entry is the baseline. Frames hold fractions and counts in full precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.evaluation.coco import Truth
from ablations.evaluation.metrics import Cell, metrics_of
from ablations.evaluation.scoring import Axes
from analysis.bootstrap import Comparison, compare, correct
from analysis.categories import category_differences, distinct
from analysis.confusion import confusion_frame
from analysis.detection_errors import compare_errors, correct_errors
from analysis.entries import Entry
from analysis.frames import DIFFERENCE_COLUMNS, cell_differences, metric_differences
from analysis.matched import Tell
from analysis.precision_recall import precision_frame

_USUAL = (0.5, 0.75)
"""The IoU thresholds that COCO shows alone."""


@dataclass(frozen=True)
class SideBySide:
    """What a comparison of results files finds; every frame has a column `variant`.

    frames, by the name of their file:
        cells: AP and AR of every IoU threshold x scale x maxDets
        categories: the metrics of each category
        precision-recall: mean precision over categories, by IoU threshold and recall
        confusion: objects by true and detected category
        errors: what fixing each type of error would gain in AP50
    and where there is more than one entry, each minus the first:
        differences: of every cell, metric-differences: of COCO's metrics,
        category-differences: of each category's AP, error-differences: of the gains
    """

    entries: tuple[Entry, ...]
    frames: Mapping[str, pd.DataFrame]
    matrices: Mapping[str, NDArray[np.int64]]
    """Confusion matrices by name, see `analysis.confusion`."""
    category_names: tuple[str, ...]
    """Those of the rows and columns of the matrices."""
    covers: str = ""
    """What the intervals cover."""
    num_images_with_objects: Mapping[str, int] | None = None
    """By scale; None for a single entry."""

    @property
    def by_category(self) -> pd.DataFrame:
        """Each category's metrics, with the difference of its AP to the first entry's."""
        keys = ["variant", "category"]
        changes = self.frames.get("category-differences")
        if changes is None:
            changes = pd.DataFrame(columns=[*keys, *DIFFERENCE_COLUMNS[2:]])
        return self.frames["categories"].merge(changes, on=keys, how="left")


def compare_entries(
    truth: Truth,
    entries: Sequence[Entry],
    num_resamples: int = 1000,
    seed: int = 0,
    tell: Tell = lambda line: None,
) -> SideBySide:
    """Every number of entries over one truth."""
    baseline, *others = entries
    # First: what is scored here is kept, and `errors` tells some of it again
    comparisons = _compare(baseline, others, num_resamples, seed, tell)
    differences = {}
    if others:
        cells = named_cells(Axes.of(baseline.matches))
        differences = {
            **_cell_differences(comparisons, cells),
            "category-differences": _category_differences(baseline, others, num_resamples, seed),
            "error-differences": _error_differences(baseline, others, num_resamples, seed, tell),
        }
    names = distinct(truth.category_names, truth.category_ids.tolist())
    matrices = {entry.name: entry.confusion for entry in entries}
    frames = {
        "cells": _joined({entry.name: _cells(entry) for entry in entries}),
        "categories": _joined({entry.name: _categories(entry) for entry in entries}),
        "precision-recall": _joined(
            {
                entry.name: precision_frame(entry.matches, shown_thresholds(entry.scores.axes))
                for entry in entries
            }
        ),
        "confusion": _joined(
            {name: confusion_frame(matrix, names) for name, matrix in matrices.items()}
        ),
        "errors": pd.concat([entry.errors.frame(entry.name) for entry in entries]),
        **differences,
    }
    first = next(iter(comparisons.values()), None)
    return SideBySide(
        tuple(entries),
        frames,
        matrices,
        names,
        covers="" if first is None else first.covers,
        num_images_with_objects=None if first is None else first.num_images_with_objects,
    )


def _cell_differences(
    comparisons: Mapping[str, Comparison], cells: Mapping[str, Cell]
) -> dict[str, pd.DataFrame]:
    found = correct(comparisons, cells)
    by_cell = {
        name: cell_differences(each.cells, {cells[metric]: d for metric, d in found[name].items()})
        for name, each in comparisons.items()
    }
    return {"differences": _joined(by_cell), "metric-differences": metric_differences(found)}


def named_cells(axes: Axes) -> dict[str, Cell]:
    """The cells that are told as metrics, by name: the registry's, and own scales and limits."""
    registered = {metric.name: metric.cell for metric in metrics_of("bbox")}
    limits = {f"AR{limit}": Cell("AR", max_dets=limit) for limit in axes.max_dets}
    scales = {
        f"{quantity}_{area}": Cell(quantity, area=area)
        for quantity in ("AP", "AR")
        for area in axes.areas
        if area != "all"
    }
    cells = {**registered, **limits, **scales}
    present = {name: cell for name, cell in cells.items() if _has(axes, cell)}
    return dict(sorted(present.items(), key=lambda item: (item[1].quantity, item[1].area != "all")))


def _has(axes: Axes, cell: Cell) -> bool:
    return (
        cell.area in axes.areas
        and cell.iou in (None, *axes.iou_thresholds)
        and cell.max_dets in (None, *axes.max_dets)
    )


def _joined(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Frames of several variants in one, `variant` first."""
    return pd.concat(frames, names=["variant"]).reset_index("variant").reset_index(drop=True)


def _cells(entry: Entry) -> pd.DataFrame:
    ap, ar = entry.scores.category_means()
    axes = entry.scores.axes
    cells = [
        Cell(quantity, iou, area, limit)
        for quantity in ("AP", "AR")
        for iou in (*axes.iou_thresholds, None)
        for area in axes.areas
        for limit in axes.max_dets
    ]
    values = [axes.read(cell, ap, ar) for cell in cells]
    return pd.DataFrame(
        [
            {**cell._asdict(), "value": float(value)}
            for cell, value in zip(cells, values, strict=True)
            if value is not None and not np.isnan(value)
        ]
    )


def _categories(entry: Entry) -> pd.DataFrame:
    scores = entry.scores
    cells = named_cells(scores.axes)
    rows = []
    names = distinct(scores.category_names, scores.category_ids)
    everything = scores.axes.areas.index("all")
    for k, (number, name) in enumerate(zip(scores.category_ids, names, strict=True)):
        row = {
            "id": number,
            "category": name,
            "num_objects": int(scores.num_objects[k, everything]),
        }
        for metric, cell in cells.items():
            row[metric] = scores.axes.read(cell, scores.ap[:, k], scores.ar[:, k])
        rows.append(row)
    return pd.DataFrame(rows)


def shown_thresholds(axes: Axes) -> list[int]:
    """Indices of the IoU thresholds that pictures of single thresholds show: 0.5 and 0.75."""
    usual = [t for t, iou in enumerate(axes.iou_thresholds) if iou in _USUAL]
    return usual or [0]


def _compare(
    baseline: Entry, others: Sequence[Entry], num_resamples: int, seed: int, tell: Tell
) -> dict[str, Comparison]:
    found = {}
    for entry in others:

        def on_share(share: float, name: str = entry.name) -> None:
            tell(f"resampling images, {name}: {share:.0%}")

        found[entry.name] = compare(
            [baseline.matches],
            [entry.matches],
            num_resamples,
            seed,
            (baseline.name, entry.name),
            on_share,
        )
    return found


def _category_differences(
    baseline: Entry, others: Sequence[Entry], num_resamples: int, seed: int
) -> pd.DataFrame:
    found = category_differences(
        baseline.matches,
        {entry.name: entry.matches for entry in others},
        num_resamples,
        seed,
    )
    names = distinct(baseline.scores.category_names, baseline.scores.category_ids)
    frame = metric_differences(
        {
            variant: {names[k]: each for k, each in by_category.items()}
            for variant, by_category in found.items()
        }
    )
    return frame.rename(columns={"metric": "category"})


def _error_differences(
    baseline: Entry, others: Sequence[Entry], num_resamples: int, seed: int, tell: Tell
) -> pd.DataFrame:
    samples = {}
    for entry in others:
        tell(f"resampling images, errors of {entry.name}")
        samples[entry.name] = compare_errors(
            [baseline.errors],
            [entry.errors],
            num_resamples,
            seed,
            (baseline.name, entry.name),
        )
    return correct_errors(samples)

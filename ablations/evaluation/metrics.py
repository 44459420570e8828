"""The one registry of metrics: what each is called, where it is read and how it is shown.

A record, a table, a figure and a search all know a metric by its name here. To add one, add a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

IOU_TYPES = ("bbox", "segm")
"""What is matched, in COCO's words: boxes or masks."""
PREFIXES = {"bbox": "", "segm": "mask_"}
"""What a metric's name begins with, by IoU type."""
SCALES = ("all", "small", "medium", "large")
"""COCO's object scales, in the order of every table and figure."""
PAPER_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85)
"""IoU thresholds of the paper's Tables 3 and 4, beside the mean over all."""


class Cell(NamedTuple):
    """A quantity at an IoU threshold, an object scale and a limit on detections, or on guesses.

    The quantity is AP, AR or the error of a classification.
    """

    quantity: str
    iou: float | None = None
    """None: the mean over all thresholds."""
    area: str = "all"
    max_dets: int | None = None
    """None: the largest limit."""


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation: a fraction, shown in percent points."""

    name: str
    """Its key in a record's `metrics`."""
    iou_type: str
    """"" for what is not matched: the error of a classification."""
    cell: Cell
    label: str
    """What a table's header and a figure's axis call it."""
    paper_tables: tuple[str, ...] = ()
    """Numbers of the paper's tables that show it as a column."""
    unit: str = "percent points"
    higher_is_better: bool = True


_BOX_TABLES = ("1", "2", "5", "6", "7")
_MASK_TABLES = ("8",)
_ROWS: tuple[tuple[str, Cell, bool], ...] = (
    # COCO's name, cell, whether the paper's tables of whole results show it
    ("AP", Cell("AP"), True),
    ("AP50", Cell("AP", iou=0.5), True),
    ("AP75", Cell("AP", iou=0.75), True),
    ("AP_small", Cell("AP", area="small"), True),
    ("AP_medium", Cell("AP", area="medium"), True),
    ("AP_large", Cell("AP", area="large"), True),
    ("AR1", Cell("AR", max_dets=1), False),
    ("AR10", Cell("AR", max_dets=10), False),
    ("AR100", Cell("AR", max_dets=100), False),
    ("AR_small", Cell("AR", area="small"), False),
    ("AR_medium", Cell("AR", area="medium"), False),
    ("AR_large", Cell("AR", area="large"), False),
)


def _metric(name: str, cell: Cell, in_paper: bool, iou_type: str) -> Metric:
    tables = {"bbox": _BOX_TABLES, "segm": _MASK_TABLES}[iou_type] if in_paper else ()
    label = PREFIXES[iou_type].replace("_", " ") + name
    return Metric(PREFIXES[iou_type] + name, iou_type, cell, label, tables)


_ERRORS = tuple(
    Metric(
        name=f"top{limit}_error",
        iou_type="",
        cell=Cell("error", max_dets=limit),
        label=f"top-{limit} error",
        paper_tables=in_paper,
        higher_is_better=False,
    )
    for limit, in_paper in ((1, ("1",)), (5, ()))
)
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(_metric(*row, iou_type) for iou_type in IOU_TYPES for row in _ROWS),
        *_ERRORS,
    )
}
"""Every metric by its name: boxes in COCO's order, masks, then errors of classifications."""


def metrics_of(iou_type: str) -> tuple[Metric, ...]:
    """COCO's twelve metrics of boxes or of masks, in COCO's order."""
    return tuple(metric for metric in METRICS.values() if metric.iou_type == iou_type)


def error_metrics() -> tuple[Metric, ...]:
    """Errors of classifications."""
    return _ERRORS


def table_metrics(iou_types: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics of the paper's tables of whole results (1, 2, 5 to 8), in their order."""
    return tuple(
        metric
        for metric in METRICS.values()
        if metric.iou_type in iou_types and metric.paper_tables
    )


def scale_metrics(iou_type: str) -> dict[str, Metric]:
    """Scale -> its AP averaged over the IoU thresholds."""
    return {
        metric.cell.area: metric
        for metric in metrics_of(iou_type)
        if metric.cell.quantity == "AP" and metric.cell.iou is None
    }

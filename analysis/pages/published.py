"""Measured beside published, as text: the layout is that of the paper's table."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pandas as pd

from ablations.evaluation.metrics import PAPER_THRESHOLDS, PREFIXES, SCALES, table_metrics
from analysis.frames import by_threshold_and_scale, mean_and_deviation
from analysis.pages.numbers import count, mean_and_spread, points
from analysis.pages.tabular import Tabular
from analysis.published import CIRCUMSTANCES, beside, has_iou_type, published_errors
from analysis.runs import Table, Variant, protocol_name

_BY_THRESHOLD = {"table3": "AP", "table4": "AR"}
"""The paper's tables by IoU threshold and scale, and their quantity."""

Row = Mapping[Hashable, Any]
"""A row of `published.beside`."""
Lines = list[tuple[str, ...]]
"""The cells of a network, a line per object scale where the layout has them."""


def published_tabulars(table: Table, cells: pd.DataFrame) -> dict[str, Tabular]:
    """Measured beside published, by file name; `cells` is `frames.cells`.

    Where the table names its counterpart in the paper, all of that stands here; else what is known
    of the table's variants, and those of which nothing is known are left out.
    """
    if table.classifies:
        errors = _errors_tabular(table)
        return {"published": errors} if errors.rows else {}
    known = beside([variant.name for variant in table.variants], table.published)
    found = {}
    for iou_type in table.iou_types:
        prefix = PREFIXES[iou_type]
        if has_iou_type(known, prefix):
            by_threshold = table.published in _BY_THRESHOLD
            layout = _thresholds_tabular if by_threshold else _results_tabular
            found[f"{prefix}published"] = layout(table, known, cells, iou_type)
    return found


def _errors_tabular(table: Table) -> Tabular:
    """Of the variants whose top-1 error on ImageNet is published: the measured one beside it."""
    known = published_errors()
    rows = [
        (
            variant.name,
            mean_and_spread(*mean_and_deviation(variant.values("top1_error"))),
            f"{row.value:.1f}",
            str(row.data),
            str(row.source),
        )
        for variant in table.variants
        for row in known[known.variant == variant.name].itertuples()
    ]
    return Tabular(("variant", "top-1 error", "published", "published on", "source"), tuple(rows))


def _results_tabular(
    table: Table, known: pd.DataFrame, cells: pd.DataFrame, iou_type: str
) -> Tabular:
    """The layout of the tables of whole results; of Table 1, the backbones' own figures first."""
    metrics = [metric.name for metric in table_metrics([iou_type])]
    known = known.reindex(columns=[*known.columns, *(m for m in metrics if m not in known)])
    if table.published is None:
        known = known.dropna(subset=metrics, how="all")
    of_backbones = "GMACs" in known

    def measured(variant: Variant) -> Lines:
        line = [mean_and_spread(*mean_and_deviation(variant.values(name))) for name in metrics]
        if of_backbones:
            top1_error = mean_and_spread(*mean_and_deviation(variant.values("top1_error")))
            macs = count(variant.runs[0].record.cost.get("macs"), 1e9, 2)
            line = [top1_error, macs, *line]
        return [tuple(line)]

    def told(row: Row) -> Lines:
        line = [points(row[name] / 100) for name in metrics]
        if of_backbones:
            line = [points(row["top1_error"] / 100), count(row["GMACs"], 1, 1), *line]
        return [tuple(line)]

    header = (*(("top-1 error", "MACs (G)") if of_backbones else ()), *metrics)
    rows = _interleaved(table, known, measured, told)
    return Tabular(("variant", "source", *header), tuple(rows), num_labels=2)


def _thresholds_tabular(
    table: Table, known: pd.DataFrame, cells: pd.DataFrame, iou_type: str
) -> Tabular:
    """The layout of Tables 3 and 4: a line per object scale, a column per IoU threshold."""
    quantity = _BY_THRESHOLD[str(table.published)]
    wide = by_threshold_and_scale(cells, iou_type, quantity)
    columns = [f"m{quantity}", *(f"{quantity}{round(100 * iou)}" for iou in PAPER_THRESHOLDS)]

    by_scale = dict(zip(wide.index, wide.reindex(columns=columns).to_numpy(), strict=True))

    def measured(variant: Variant) -> Lines:
        return [
            (scale, *(points(value) for value in by_scale[variant.name, scale]))
            for scale in SCALES
            if (variant.name, scale) in by_scale
        ]

    def told(row: Row) -> Lines:
        lines: Lines = []
        for scale in SCALES:
            suffix = "" if scale == "all" else f"_{scale}"
            names = (column.removeprefix("m") + suffix for column in columns)
            lines.append((scale, *(points(row[name] / 100) for name in names)))
        return lines

    rows = _interleaved(table, known, measured, told)
    return Tabular(("variant", "source", "scale", *columns), tuple(rows), num_labels=3)


def _interleaved(
    table: Table,
    known: pd.DataFrame,
    measured: Callable[[Variant], Lines],
    told: Callable[[Row], Lines],
) -> Lines:
    """Each variant with what is published of it below, then the rest of the paper's table."""
    by_name: dict[str, list[Row]] = {}
    for row in known.to_dict("records"):
        by_name.setdefault(str(row["variant"]), []).append(row)
    rows: Lines = []
    for variant in table.variants:
        published = by_name.pop(variant.name, [])
        if published or table.published is not None:
            labels = (variant.name, _measured_here(variant))
            rows += [(*labels, *line) for line in measured(variant)]
        rows += _published_rows(published, told)
    for published in by_name.values():
        rows += _published_rows(published, told)
    return rows


def _published_rows(published: list[Row], told: Callable[[Row], Lines]) -> Lines:
    return [(str(row["variant"]), _source(row), *line) for row in published for line in told(row)]


def _source(row: Row) -> str:
    return ", ".join(row[name] for name in CIRCUMSTANCES if row[name])


def _measured_here(variant: Variant) -> str:
    config = variant.runs[0].record.config
    told = ["measured here", f"protocol {protocol_name(variant.runs[0])}", config.get("weights")]
    return ", ".join(str(part) for part in told if part)

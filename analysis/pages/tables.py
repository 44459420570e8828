"""The tables of a report as text, from the frames that hold their numbers."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ablations.evaluation.metrics import error_metrics, table_metrics
from ablations.record import Run
from analysis.costs import COSTS, throughput
from analysis.detection_errors import ERROR_TYPES
from analysis.frames import (
    by_variant_and_metric,
    last_loss,
    loss_curve,
    mark,
    mean_and_deviation,
)
from analysis.matched import MatchedRuns
from analysis.pages.numbers import ABSENT, count, difference_text, mean_and_spread, points
from analysis.pages.tabular import Tabular
from analysis.runs import Table

_ENVIRONMENT = ("device", "python", "torch", "torchvision", "timm", "version", "git")


def metric_tabular(summary: pd.DataFrame, differences: pd.DataFrame, iou_type: str) -> Tabular:
    """A table of whole results: the metrics, with the difference beside the first; of boxes, cost.

    `summary` and `differences` are those of `analysis.frames`.
    """
    metrics = [metric.name for metric in table_metrics([iou_type])]
    return _results(summary, differences, metrics, with_cost=iou_type == "bbox")


def error_tabular(summary: pd.DataFrame, differences: pd.DataFrame) -> Tabular:
    """A table of classifications: the errors, with the difference beside the first, and cost."""
    metrics = [metric.name for metric in error_metrics()]
    tabular = _results(summary, differences, metrics, with_cost=True)
    labels = {metric.name: metric.label for metric in error_metrics()}
    first = metrics[0]
    labels[f"Δ{first}"] = f"Δ{labels[first]}"
    return replace(tabular, header=tuple(labels.get(name, name) for name in tabular.header))


def _results(
    summary: pd.DataFrame, differences: pd.DataFrame, metrics: Sequence[str], *, with_cost: bool
) -> Tabular:
    compared = by_variant_and_metric(differences)
    rows = []
    for row in summary.to_dict("records"):
        first, *rest = (mean_and_spread(row[name], row[f"{name}_spread"]) for name in metrics)
        if row["is_baseline"]:
            difference = "baseline"
        else:
            difference = _difference_cell(compared.get((row["variant"], metrics[0])))
        cost = _cost_cells(row) if with_cost else ()
        rows.append((str(row["variant"]), first, difference, *rest, *cost))
    header = ("variant", metrics[0], f"Δ{metrics[0]}", *metrics[1:])
    if with_cost:
        header += ("params (M)", "MACs (G)", "images/s", "seeds", "images")
    return Tabular(header, tuple(rows))


def _cost_cells(row: dict[Any, Any]) -> tuple[str, ...]:
    return (
        count(row["params"], 1e6, 2),
        count(row["macs"], 1e9, 2),
        count(row["train_images_per_second"], 1, 1),
        str(row["num_seeds"]),
        ABSENT if pd.isna(row["num_images"]) else str(row["num_images"]),
    )


def cost_tabular(table: Table, summary: pd.DataFrame, intervals: pd.DataFrame | None) -> Tabular:
    """AP with its own interval beside every cost and throughput that was measured of a variant."""
    rates = {variant.name: throughput(variant.runs[0]) for variant in table.variants}
    batch_sizes = sorted({size for of_variant in rates.values() for size in of_variant})
    measured = [cost for cost in COSTS.values() if summary[cost.name].notna().any()]
    ends = {} if intervals is None else intervals.set_index("variant").to_dict("index")
    rows = []
    for row in summary.to_dict("records"):
        name = str(row["variant"])
        own = "" if name not in ends else " [{}, {}]".format(
            *(points(ends[name][end]) for end in ("low", "high"))
        )  # fmt: skip
        costs = (count(row[cost.name], cost.unit, cost.digits) for cost in measured)
        speeds = (count(rates[name].get(size), 1, 1) for size in batch_sizes)
        rows.append((name, f"{points(row['AP'])}{own}", *costs, *speeds))
    headers = [cost.header for cost in measured]
    headers += [f"images/s at batch {size}" for size in batch_sizes]
    return Tabular(("variant", "AP", *headers), tuple(rows))


def receptive_field_tabular(table: Table) -> Tabular | None:
    """Side of each stage's effective field beside the theoretical one; None if not measured."""
    measured = {each.name: each.receptive_field for each in table.variants if each.receptive_field}
    stages = list(dict.fromkeys(stage for found in measured.values() for stage in found["stages"]))
    rows = [
        (name, *(_of_theoretical(found["stages"].get(stage)) for stage in stages))
        for name, found in measured.items()
    ]
    return Tabular(("variant", *stages), tuple(rows)) if rows else None


def _of_theoretical(field: Mapping[str, Any] | None) -> str:
    if field is None:
        return ABSENT
    return f"{field['effective']:.0f} of {field['theoretical'] or '?'}"


def training_tabular(table: Table) -> Tabular | None:
    """How training ended, of the runs that logged losses: steps and the smoothed loss."""
    rows = []
    for variant in table.variants:
        curves = [curve for run in variant.runs if (curve := loss_curve(run)) is not None]
        if curves:
            mean, deviation = mean_and_deviation([last_loss(curve) for curve in curves])
            spread = "" if len(curves) == 1 else f" ± {deviation:.3f}"
            steps = max(int(curve.index.max()) for curve in curves)
            rows.append((variant.name, f"{steps:,}", f"{mean:.3f}{spread}"))
    if not rows:
        return None
    return Tabular(("variant", "last step", "loss over the last twentieth"), tuple(rows))


def difference_tabular(differences: pd.DataFrame, metrics: Sequence[str]) -> Tabular:
    """Differences to the baseline, a row per variant and a column per metric."""
    cells = by_variant_and_metric(differences)
    rows = [
        (str(variant), *(_difference_cell(cells.get((variant, metric))) for metric in metrics))
        for variant in differences["variant"].unique()
    ]
    return Tabular(("variant", *(f"Δ{metric}" for metric in metrics)), tuple(rows))


def differences_by_metric(differences: pd.DataFrame) -> Tabular:
    """Differences to the baseline, a row per metric and a column per variant."""
    cells = by_variant_and_metric(differences)
    variants = list(differences["variant"].unique())
    rows = [
        (str(metric), *(_difference_cell(cells.get((variant, metric))) for variant in variants))
        for metric in differences["metric"].unique()
    ]
    return Tabular(("", *variants), tuple(rows))


def category_tabular(frame: pd.DataFrame, baseline: str | None) -> Tabular:
    """AP of every category: the baseline's, and every other variant's difference to it.

    `frame` has a row per variant and category, as `AgainstBaseline.categories`. Where there are
    more variants than categories, a variant is a row.
    """
    variants, categories = (list(dict.fromkeys(frame[key])) for key in ("variant", "category"))
    rows = {(row["variant"], row["category"]): row for row in frame.to_dict("records")}
    objects = {c: f"{rows[variants[0], c]['num_objects']:,}" for c in categories}
    of_baseline = {category: rows.get((str(baseline), category)) for category in categories}

    def cell(variant: str, category: str) -> str:
        row, reference = rows.get((variant, category)), of_baseline[category]
        if row is None or variant == baseline or reference is None:
            return ABSENT if row is None else points(row["AP"])
        if pd.isna(row["difference"]):
            return points(row["AP"] - reference["AP"], sign=True)
        return _difference_cell(row)

    def title(variant: str) -> str:
        return variant if baseline is None or variant == baseline else f"Δ {variant}"

    if len(variants) <= len(categories):
        return Tabular(
            ("category", "objects", *map(title, variants)),
            tuple((c, objects[c], *(cell(v, c) for v in variants)) for c in categories),
        )
    return Tabular(
        ("variant", *categories),
        (
            ("objects", *objects.values()),
            *((title(v), *(cell(v, c) for c in categories)) for v in variants),
        ),
    )


def _difference_cell(row: dict[Hashable, Any] | None) -> str:
    if row is None:
        return ABSENT
    return difference_text(row["difference"], row["low"], row["high"], row["mark"])


def threshold_tabular(wide: pd.DataFrame) -> Tabular:
    """The layout of the paper's Tables 3 and 4, from `frames.by_threshold_and_scale`."""
    rows = [
        (str(variant), str(area), *(points(value) for value in row))
        for (variant, area), row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return Tabular(("variant", "scale", *wide.columns), tuple(rows), num_labels=2)


def gains_tabular(frame: pd.DataFrame) -> Tabular:
    """The gains in percent points of AP50, a row per variant and type, a column per scale."""
    gain = frame.set_index(["variant", "error", "area"])["gain"]
    return _error_tabular(frame, {key: points(float(value)) for key, value in gain.items()})


def gain_differences_tabular(frame: pd.DataFrame) -> Tabular:
    """The frame of `detection_errors.correct_errors` in the layout of `gains_tabular`."""
    cells = {
        key: difference_text(row["value"], row["low"], row["high"], mark(row["real"]))
        for key, row in frame.set_index(["variant", "error", "area"]).to_dict("index").items()
    }
    return _error_tabular(frame, cells)


def _error_tabular(frame: pd.DataFrame, cells: dict[Any, str]) -> Tabular:
    areas = list(dict.fromkeys(frame["area"]))
    rows = [
        (variant, name, *(cells.get((variant, name, area), ABSENT) for area in areas))
        for variant in frame["variant"].unique()
        for name in ERROR_TYPES
    ]
    return Tabular(("", "error", *areas), tuple(rows), 2)


def runs_tabular(runs: Sequence[Run], matched: MatchedRuns) -> Tabular:
    """Where, with what and how fast every run ran, and in how many images it detected nothing."""
    rows = []
    for run in runs:
        record = run.record
        empty = matched.num_images_without_detections(run)
        rows.append(
            (
                record.variant,
                str(record.seed),
                record.status,
                str(record.results_version),
                *(str(record.env.get(name) or ABSENT) for name in _ENVIRONMENT),
                count(record.timing.get("train_seconds")),
                count(record.timing.get("peak_memory_bytes"), 2**30, 2),
                ABSENT if empty is None else f"{empty[0]:,} of {empty[1]:,}",
            )
        )
    header = (
        *("variant", "seed", "status", "results version"),
        *_ENVIRONMENT,
        *("training (s)", "peak memory (GiB)", "images without detections"),
    )
    return Tabular(header, tuple(rows), num_labels=4 + len(_ENVIRONMENT))

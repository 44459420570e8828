"""The numbers of a table as frames, in full precision: AP and AR as fractions, not percent points.

`summary` has a row per variant, `cells` a row per variant and cell, `metric_differences` a row per
variant and metric, `cell_differences` a row per cell of one comparison. What they say as text is
the business of `analysis.pages`.
"""

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablations.evaluation.metrics import PAPER_THRESHOLDS, SCALES, Cell
from ablations.record import Run
from analysis.bootstrap import Difference
from analysis.costs import COSTS
from analysis.runs import Table

REAL, NOISE = "*", "~"
"""A difference's mark: real after correction, or below the noise; "" where there is no interval."""
DIFFERENCE_COLUMNS = (
    *("variant", "metric", "difference", "low", "high", "standard_error"),
    *("p_not_better", "p", "p_corrected", "num_images", "mark"),
)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; NaN where there are too few values for either."""
    mean = float(np.mean(values)) if values else math.nan
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return mean, deviation


def summary(table: Table) -> pd.DataFrame:
    """A row per variant: metrics (mean, and `_spread` over seeds), cost, speed and counts."""
    rows = []
    for variant in table.variants:
        row: dict[str, Any] = {
            "table": table.name,
            "variant": variant.name,
            "digest": variant.digest,
            "is_baseline": variant is table.baseline,
        }
        for metric in table.metrics:
            row[metric], row[f"{metric}_spread"] = mean_and_deviation(variant.values(metric))
        for cost in COSTS.values():
            row[cost.name] = _mean(cost.read(run) for run in variant.runs)
        for name in ("train_images_per_second", "eval_images_per_second"):
            row[name] = _mean(run.record.timing.get(name) for run in variant.runs)
        row["num_seeds"] = len(variant.runs)
        row["num_images"] = variant.runs[0].record.data.get("num_val")
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(values: Iterable[float | None]) -> float:
    """Of those that are known; NaN where none is."""
    return mean_and_deviation([float(value) for value in values if value is not None])[0]


def metric_differences(found: Mapping[str, Mapping[str, Difference]]) -> pd.DataFrame:
    """A row per variant and metric; `found` goes by variant, then by the metric's name."""
    rows = []
    for variant, by_metric in found.items():
        for metric, difference in by_metric.items():
            row = {"variant": variant, "metric": metric, **vars(difference)}
            row["difference"] = row.pop("value")
            row["mark"] = mark(difference.real)
            rows.append(row)
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def differences_to_baseline(
    table: Table, found: Mapping[str, Mapping[str, Difference]]
) -> pd.DataFrame:
    """As `metric_differences`, for every other variant and metric of a table.

    Where `found` has no interval, the difference is that of the means.
    """
    compared = by_variant_and_metric(metric_differences(found))
    rows = []
    for variant, metric in itertools.product(table.others, table.metrics):
        row = compared.get((variant.name, metric))
        if row is None and table.baseline is not None:
            ours, theirs = (
                mean_and_deviation(side.values(metric))[0] for side in (variant, table.baseline)
            )
            row = {
                "variant": variant.name, "metric": metric, "difference": ours - theirs, "mark": ""
            }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def cell_differences(
    cells: Mapping[Cell, Difference], in_table: Mapping[Cell, Difference]
) -> pd.DataFrame:
    """A row per cell of a comparison (`Comparison.cells`), with both corrections.

    `..._in_table` is what the tables mark, from `in_table`, and empty for a cell they do not show;
    `..._of_all_cells` is corrected over all cells of this comparison. A cell of the table may be
    real there and not among all cells: the more is looked at, the more chance finds.
    """
    limit = max((cell.max_dets or 0 for cell in cells), default=None)
    shown = {cell._replace(max_dets=cell.max_dets or limit): in_table[cell] for cell in in_table}
    rows = []
    for cell, found in cells.items():
        row = {**cell._asdict(), **vars(found)}
        row["p_corrected_of_all_cells"] = row.pop("p_corrected")
        row["real_of_all_cells"] = found.real
        row["p_corrected_in_table"] = shown[cell].p_corrected if cell in shown else None
        row["real_in_table"] = shown[cell].real if cell in shown else None
        rows.append(row)
    return pd.DataFrame(rows)


def mark(real: bool) -> str:
    return REAL if real else NOISE


def cells(table: Table) -> pd.DataFrame:
    """A row per variant and cell of AP and AR: mean and spread over seeds."""
    return cell_frame(
        {variant.name: [run.record.cells for run in variant.runs] for variant in table.variants}
    )


def cell_frame(scored: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """As `cells`, of variants by name: what `scoring.cells` says by iou_type, a mapping per run."""
    names = ["variant", "iou_type", "metric", "iou_threshold", "area", "max_dets", "mean", "spread"]
    rows = []
    for variant, runs in scored.items():
        for iou_type in runs[0]:
            recorded = [run[iou_type] for run in runs if iou_type in run]
            axes = [recorded[0][axis] for axis in ("iou_thresholds", "areas", "max_dets")]
            for metric in ("AP", "AR"):
                values = np.array([cell[metric] for cell in recorded], dtype=float)
                seeds = values.reshape(len(recorded), -1).T
                for labels, of_cell in zip(itertools.product(*axes), seeds, strict=True):
                    present = of_cell[~np.isnan(of_cell)].tolist()
                    rows.append((variant, iou_type, metric, *labels, *mean_and_deviation(present)))
    return pd.DataFrame(rows, columns=names)


def by_threshold_and_scale(cell_frame: pd.DataFrame, iou_type: str, metric: str) -> pd.DataFrame:
    """The paper's Tables 3 and 4: a row per variant and scale, at the largest maxDets.

    Columns are the mean over all thresholds (`mAP`) and the paper's thresholds that were evaluated.
    """
    of_type = cell_frame[(cell_frame.iou_type == iou_type) & (cell_frame.metric == metric)]
    most = of_type[of_type.max_dets == of_type.max_dets.max()]
    wide = most.pivot(index=["variant", "area"], columns="iou_threshold", values="mean")
    columns = {f"m{metric}": wide.mean(axis=1)}
    for threshold in PAPER_THRESHOLDS:
        near = [column for column in wide.columns if math.isclose(column, threshold, abs_tol=1e-9)]
        if near:
            columns[f"{metric}{round(100 * threshold)}"] = wide[near[0]]
    order = [(v, a) for v in most.variant.unique() for a in SCALES if (v, a) in wide.index]
    return pd.DataFrame(columns).reindex(order)


def loss_curve(run: Run) -> pd.Series | None:
    """Training loss by step; None where the run logged none."""
    rows = pd.DataFrame(run.curve())
    if not {"step", "loss"} <= set(rows.columns):
        return None
    # a resumed run may have logged a step twice; the later one counts
    return rows.drop_duplicates("step", keep="last").set_index("step")["loss"].sort_index()


def smoothed(curve: pd.Series) -> pd.Series:
    """Mean over a centered window of a twentieth of the logged steps."""
    return curve.rolling(_window(curve), center=True, min_periods=1).mean()


def last_loss(curve: pd.Series) -> float:
    """Mean over the last twentieth of the logged steps."""
    return float(curve.iloc[-_window(curve) :].mean())


def _window(curve: pd.Series) -> int:
    return max(1, len(curve) // 20)


def by_variant(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """The rows of `summary` by the variant's name."""
    return {str(row["variant"]): row for _, row in frame.iterrows()}


def by_variant_and_metric(frame: pd.DataFrame) -> dict[tuple[str, str], dict[Hashable, Any]]:
    """The rows of `metric_differences` by variant and metric."""
    return {(row["variant"], row["metric"]): row for row in frame.to_dict("records")}

"""From run records to tables: which runs stand together, and what each cell says.

Runs of one variant that differ in the seed are repetitions of it. A table holds only runs that
were scored on the same validation data; what failed or is missing is named beside it. Frames hold
fractions and counts in full precision; tabulars hold the same as text, AP in percent points like
the paper.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.evaluation.metrics import PAPER_THRESHOLDS, SCALES, table_metrics
from ablations.record import Run, read_runs, read_tables
from analysis.bootstrap import Difference
from analysis.pages.markup import Tabular
from analysis.published import detection_results

BOX_METRICS = tuple(metric.name for metric in table_metrics(["bbox"]))
MASK_METRICS = tuple(metric.name for metric in table_metrics(["segm"]))
ABSENT = "-"
_PARTS = ("low", "high", "standard_error", "p_not_better", "p", "p_corrected", "real")
_NO_RUN = "no run in this folder"
_CONTEXT = ("detector", "setting", "data")
REAL, NOISE = "*", "~"


class ReportError(ValueError):
    """The runs cannot be put into a table; the message names the runs and the remedy."""


@dataclass(frozen=True)
class Variant:
    """One point of the design space with its finished runs, a run per seed."""

    name: str
    digest: str
    runs: tuple[Run, ...]

    def values(self, metric: str) -> list[float]:
        """A metric over the seeds; empty where a run does not have it."""
        values = [run.record.metrics.get(metric) for run in self.runs]
        return [value for value in values if value is not None]


@dataclass(frozen=True)
class Absent:
    """A variant or one of its seeds that a table should have and has not, and why."""

    name: str
    digest: str
    status: str
    reason: str
    seed: int | None = None

    def __str__(self) -> str:
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.name}{seed}: {self.status} ({self.reason})"


@dataclass(frozen=True)
class Table:
    """Variants over the same validation data, in order; `baseline` is None if it has no run."""

    name: str
    variants: tuple[Variant, ...]
    baseline: Variant | None
    baseline_origin: str
    absent: tuple[Absent, ...] = ()

    @property
    def has_masks(self) -> bool:
        return any(variant.values("mask_AP") for variant in self.variants)

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for variant in self.variants for run in variant.runs)

    @property
    def iou_types(self) -> tuple[str, ...]:
        return ("bbox", "segm") if self.has_masks else ("bbox",)

    @property
    def metrics(self) -> tuple[str, ...]:
        return BOX_METRICS + (MASK_METRICS if self.has_masks else ())


def protocol_name(run: Run) -> str:
    return str(run.record.config.get("protocol", {}).get("name", "unnamed"))


def collect(
    runs_folder: Path, baseline: str | None = None, ignore_tables: bool = False
) -> list[Table]:
    """The tables of a runs folder: those noted in it, else one for each data and protocol.

    `baseline` overrides the baseline wherever it names a variant. Raises ReportError when nothing
    is finished, when no table has that baseline, or when a table mixes validation data.
    """
    runs = read_runs(runs_folder)
    if not runs:
        raise ReportError(
            f"{runs_folder}: no runs; a run leaves <variant>-<digest>/seed<k>/record.json"
        )
    if not any(run.record.status == "done" for run in runs):
        listed = "; ".join(str(_not_done(run, run.record.variant)) for run in runs)
        raise ReportError(f"{runs_folder}: no run is done: {listed}")
    noted = {} if ignore_tables else read_tables(runs_folder)
    tables = [_noted_table(content, runs, baseline) for content in noted.values()]
    if not noted:
        tables = _tables_by_data(runs, baseline)
    known = sorted({variant.name for table in tables for variant in table.variants})
    if baseline is not None and baseline not in known:
        raise ReportError(
            f"--baseline {baseline}: no such finished variant; there are {', '.join(known)}"
        )
    return tables


def outside(tables: Sequence[Table], runs: Sequence[Run]) -> list[Run]:
    """The runs of which no table says anything."""
    told = {variant.digest for table in tables for variant in table.variants}
    told |= {absent.digest for table in tables for absent in table.absent}
    return [run for run in runs if run.record.digest not in told]


def _not_done(run: Run, name: str) -> Absent:
    record = run.record
    reason = "not finished: the same command again continues it"
    if record.status == "failed":
        reason = first_line(record.error or "no error recorded")
    return Absent(name, record.digest, record.status, reason, record.seed)


def first_line(error: str) -> str:
    """The line that says what happened: of a traceback, the exception's."""
    lines = error.strip().splitlines() or [""]
    headers = [index for index, line in enumerate(lines) if line.startswith("Traceback (most")]
    after = lines[headers[-1] + 1 :] if headers else lines
    return next((line for line in after if not line.startswith(" ")), lines[-1]).strip()


def _noted_table(content: Mapping[str, Any], runs: Sequence[Run], baseline: str | None) -> Table:
    entries = list(dict.fromkeys((v["variant"], v["digest"]) for v in content["variants"]))
    digests = {digest for _, digest in entries}
    chosen = [run for run in runs if run.record.digest in digests]
    _refuse_mixed_data(content["name"], chosen)
    return _table(
        content["name"], entries, chosen, baseline, content["baseline"], "as the table notes"
    )


def _tables_by_data(runs: Sequence[Run], baseline: str | None) -> list[Table]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.record.status == "done":
            key = (run.record.data["val_fingerprint"], protocol_name(run))
            groups.setdefault(key, []).append(run)
    tables = []
    for (fingerprint, protocol), done in groups.items():
        other = [
            run
            for run in runs
            if run.record.status != "done"
            and protocol_name(run) == protocol
            and run.record.data.get("val_fingerprint", fingerprint) == fingerprint
        ]
        members = done + other
        entries = list(dict.fromkeys((run.record.variant, run.record.digest) for run in members))
        name = "runs" if len(groups) == 1 else f"{protocol}-{fingerprint}"
        tables.append(_table(name, entries, members, baseline, None, "the first variant"))
    return tables


def _refuse_mixed_data(name: str, runs: Sequence[Run]) -> None:
    by_data: dict[str, set[str]] = {}
    for run in runs:
        if run.record.status == "done":
            fingerprint = run.record.data["val_fingerprint"]
            by_data.setdefault(fingerprint, set()).add(run.record.variant)
    if len(by_data) > 1:
        listed = "; ".join(f"{data}: {', '.join(sorted(who))}" for data, who in by_data.items())
        raise ReportError(
            f"table {name}: its runs were scored on different validation data ({listed}); "
            "train all its variants on one data set, or keep them in two runs folders"
        )


def _table(
    name: str,
    entries: Sequence[tuple[str, str]],
    runs: Sequence[Run],
    wanted_baseline: str | None,
    noted_baseline: str | None,
    origin: str,
) -> Table:
    """A table of the entries (variant, digest) in order, with what is absent from it."""
    names = Counter(variant for variant, _ in entries)
    seeds = sorted({run.record.seed for run in runs})
    variants: dict[str, Variant] = {}
    absent = []
    for variant, digest in entries:
        label = variant if names[variant] == 1 else f"{variant} ({digest})"
        by_seed = {run.record.seed: run for run in runs if run.record.digest == digest}
        done = tuple(run for _, run in sorted(by_seed.items()) if run.record.status == "done")
        if done:
            variants[label] = Variant(label, digest, done)
        if not by_seed:
            absent.append(Absent(label, digest, "missing", _NO_RUN))
            continue
        for seed in seeds:
            if seed not in by_seed:
                absent.append(Absent(label, digest, "missing", _NO_RUN, seed))
            elif by_seed[seed].record.status != "done":
                absent.append(_not_done(by_seed[seed], label))
    if wanted_baseline in variants:
        baseline, origin = variants.get(wanted_baseline), "as asked for"
    elif noted_baseline is None:
        baseline = next(iter(variants.values()), None)
    else:
        baseline = variants.get(noted_baseline)
        if baseline is None:
            origin = f"{noted_baseline} has no finished run, so there are no differences"
    return Table(name, tuple(variants.values()), baseline, origin, tuple(absent))


# frames: full precision


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; NaN where there are too few values for either."""
    mean = float(np.mean(values)) if values else math.nan
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return mean, spread


def _first(variant: Variant, part: str, name: str) -> float:
    values = [getattr(run.record, part).get(name) for run in variant.runs]
    return next((float(value) for value in values if value is not None), math.nan)


def _mean_of(variant: Variant, part: str, name: str) -> float:
    values = [getattr(run.record, part).get(name) for run in variant.runs]
    return _mean_and_spread([float(value) for value in values if value is not None])[0]


def by_variant(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """The rows of `summary` by the variant's name."""
    return {str(row["variant"]): row for _, row in frame.iterrows()}


def summary(table: Table, differences: Mapping[str, Mapping[str, Difference]]) -> pd.DataFrame:
    """One row per variant in full precision; `differences` goes by variant, then COCO's name."""
    rows = []
    for variant in table.variants:
        row: dict[str, Any] = {
            "table": table.name,
            "variant": variant.name,
            "digest": variant.digest,
            "is_baseline": variant is table.baseline,
        }
        for metric in table.metrics:
            row[metric], row[f"{metric}_spread"] = _mean_and_spread(variant.values(metric))
        row["params"] = _first(variant, "cost", "params")
        row["macs"] = _first(variant, "cost", "macs")
        for name in ("train_images_per_second", "eval_images_per_second"):
            row[name] = _mean_of(variant, "timing", name)
        row["num_seeds"] = len(variant.runs)
        row["num_images"] = variant.runs[0].record.data.get("num_val")
        row |= _difference_columns(table, variant, differences.get(variant.name))
        rows.append(row)
    return pd.DataFrame(rows)


def _difference_columns(
    table: Table, variant: Variant, compared: Mapping[str, Difference] | None
) -> dict[str, float | bool | None]:
    if table.baseline is None or variant is table.baseline:
        return {}
    columns: dict[str, float | bool | None] = {}
    for metric in table.metrics:
        name = f"{metric}_difference"
        difference = None if compared is None else compared.get(metric)
        if difference is not None:
            columns[name] = difference.value
            for part in _PARTS:
                columns[f"{name}_{part}"] = getattr(difference, part)
        else:
            ours, _ = _mean_and_spread(variant.values(metric))
            theirs, _ = _mean_and_spread(table.baseline.values(metric))
            columns[name] = ours - theirs
    return columns


def cells(table: Table) -> pd.DataFrame:
    """Every cell of AP and AR of every variant, a row each, mean and spread over seeds."""
    rows = []
    for variant in table.variants:
        for iou_type in variant.runs[0].record.cells:
            recorded = [
                run.record.cells[iou_type] for run in variant.runs if iou_type in run.record.cells
            ]
            axes = recorded[0]
            for metric in ("AP", "AR"):
                values = np.array([cell[metric] for cell in recorded], dtype=float)
                for t, threshold in enumerate(axes["iou_thresholds"]):
                    for a, area in enumerate(axes["areas"]):
                        for m, max_dets in enumerate(axes["max_dets"]):
                            seeds = [v for v in values[:, t, a, m].tolist() if not math.isnan(v)]
                            mean, spread = _mean_and_spread(seeds)
                            rows.append(
                                (
                                    variant.name,
                                    iou_type,
                                    metric,
                                    threshold,
                                    area,
                                    max_dets,
                                    mean,
                                    spread,
                                )
                            )
    names = ["variant", "iou_type", "metric", "iou_threshold", "area", "max_dets", "mean", "spread"]
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


# tabulars: the same as text


def points(fraction: float | None, sign: bool = False) -> str:
    """A fraction in percent points with one decimal; a dash where it is absent."""
    if fraction is None or math.isnan(fraction):
        return ABSENT
    text = f"{100 * fraction:{'+' if sign else ''}.1f}"
    return text.replace("-0.0", "+0.0" if sign else "0.0") if float(text) == 0 else text


def mean_and_spread(mean: float, spread: float) -> str:
    return points(mean) if math.isnan(spread) else f"{points(mean)} ± {points(spread)}"


def difference_text(value: float, low: float, high: float, real: bool | None) -> str:
    """`+1.3 [+0.6, +2.0] *`; the mark is `*` where the difference is real, `~` below the noise."""
    if real is None or any(map(math.isnan, (value, low, high))):
        return points(value, sign=True)
    interval = f"[{points(low, sign=True)}, {points(high, sign=True)}]"
    return f"{points(value, sign=True)} {interval} {REAL if real else NOISE}"


def _difference_cell(row: pd.Series, metric: str) -> str:
    if row["is_baseline"]:
        return "baseline"
    name = f"{metric}_difference"
    real = row.get(f"{name}_real")
    return difference_text(
        row.get(name, math.nan),
        row.get(f"{name}_low", math.nan),
        row.get(f"{name}_high", math.nan),
        None if real is None or pd.isna(real) else bool(real),
    )


def _count(value: float, unit: float, digits: int) -> str:
    return ABSENT if math.isnan(value) else f"{value / unit:.{digits}f}"


def summary_tabular(frame: pd.DataFrame) -> Tabular:
    """The main table, of boxes, from `summary`; the difference stands beside what it is of."""
    cost = ("params (M)", "MACs (G)", "images/s", "seeds", "images")
    rows = [
        (
            str(row["variant"]),
            *_metric_cells(row, BOX_METRICS),
            _count(row["params"], 1e6, 2),
            _count(row["macs"], 1e9, 2),
            _count(row["train_images_per_second"], 1, 1),
            str(row["num_seeds"]),
            ABSENT if pd.isna(row["num_images"]) else str(row["num_images"]),
        )
        for _, row in frame.iterrows()
    ]
    return Tabular(("variant", *_metric_header(BOX_METRICS), *cost), tuple(rows))


def mask_tabular(frame: pd.DataFrame) -> Tabular:
    """The main table's AP of masks, from `summary`."""
    rows = [(str(row["variant"]), *_metric_cells(row, MASK_METRICS)) for _, row in frame.iterrows()]
    return Tabular(("variant", *_metric_header(MASK_METRICS)), tuple(rows))


def _metric_header(metrics: Sequence[str]) -> list[str]:
    return [metrics[0], f"Δ{metrics[0]}", *metrics[1:]]


def _metric_cells(row: pd.Series, metrics: Sequence[str]) -> list[str]:
    cells = [mean_and_spread(row[name], row[f"{name}_spread"]) for name in metrics]
    return [cells[0], _difference_cell(row, metrics[0]), *cells[1:]]


def difference_tabular(frame: pd.DataFrame, metrics: Sequence[str]) -> Tabular:
    """Differences to the baseline of several metrics, from `summary`."""
    rows = [
        (str(row["variant"]), *(_difference_cell(row, metric) for metric in metrics))
        for _, row in frame.iterrows()
        if not row["is_baseline"]
    ]
    return Tabular(("variant", *(f"Δ{metric}" for metric in metrics)), tuple(rows))


def threshold_tabular(wide: pd.DataFrame) -> Tabular:
    """The layout of the paper's Tables 3 and 4, from `by_threshold_and_scale`."""
    rows = [
        (str(variant), str(area), *(points(value) for value in row))
        for (variant, area), row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return Tabular(("variant", "scale", *wide.columns), tuple(rows), num_labels=2)


def published_tabular(table: Table, metrics: Sequence[str]) -> Tabular | None:
    """Measured beside published for the variants that have published figures, else None."""
    rows = []
    for variant in table.variants:
        known = detection_results(variant.name).reindex(columns=["source", *_CONTEXT, *metrics])
        known = known.dropna(subset=list(metrics), how="all")
        if known.empty:
            continue
        measured = (_mean_and_spread(variant.values(metric)) for metric in metrics)
        cells = [mean_and_spread(mean, spread) for mean, spread in measured]
        rows.append((variant.name, _circumstances(variant), *cells))
        for _, row in known.iterrows():
            told = filter(None, (row[name] for name in ("source", *_CONTEXT)))
            figures = (points(row[metric] / 100) for metric in metrics)
            rows.append((variant.name, ", ".join(told), *figures))
    return Tabular(("variant", "source", *metrics), tuple(rows), num_labels=2) if rows else None


def _circumstances(variant: Variant) -> str:
    config = variant.runs[0].record.config
    told = ["measured here", f"protocol {protocol_name(variant.runs[0])}", config.get("weights")]
    return ", ".join(str(part) for part in told if part)

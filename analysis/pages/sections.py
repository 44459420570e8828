"""What the report says of a table in figures: its tabulars, the differences to its baseline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import Matches, match
from ablations.evaluation.metrics import PREFIXES
from ablations.record import Run
from analysis import frames as tables
from analysis.bootstrap import (
    Difference,
    compare,
    correct,
    differences_frame,
    images_with_objects_text,
)
from analysis.detection_errors import (
    Errors,
    compare_errors,
    correct_errors,
    find_errors,
    gain_differences_tabular,
    gains_tabular,
)
from analysis.frames import NOISE, REAL, Table, Variant
from analysis.pages.markup import Tabular

MAIN_GRIDS = ("", "masks")

Progress = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True)
class Matched:
    """A run's stored detections matched, by iou_type."""

    tables: dict[str, Matches]
    errors: dict[str, Errors]


class MatchedRuns:
    """Runs matched from their stored detections and truth, each once."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._truths: dict[Path, Truth] = {}
        self._matched: dict[Path, Matched] = {}

    def of(self, run: Run) -> Matched:
        if run.folder not in self._matched:
            self._progress(f"matching {run.record.variant} seed {run.record.seed}")
            if run.truth_path not in self._truths:
                self._truths[run.truth_path] = Truth.from_coco(run.truth_path)
            truth = self._truths[run.truth_path]
            detections = Detections.from_coco(run.detections_path, truth)
            iou_types = [
                iou_type for iou_type in PREFIXES if f"{PREFIXES[iou_type]}AP" in run.record.metrics
            ]
            self._matched[run.folder] = Matched(
                {iou_type: match(truth, detections, iou_type) for iou_type in iou_types},
                {iou_type: find_errors(truth, detections, iou_type) for iou_type in iou_types},
            )
        return self._matched[run.folder]

    def images_without_detections(self, run: Run) -> str | None:
        """`3 of 64`; None for a run that was not matched."""
        if run.folder not in self._matched:
            return None
        table = next(iter(self._matched[run.folder].tables.values()), None)
        if table is None:
            return None
        return f"{table.num_images - len(np.unique(table.image)):,} of {table.num_images:,}"


@dataclass(frozen=True)
class Compared:
    """Differences to the baseline by variant and metric, and what there is to say of them."""

    differences: dict[str, dict[str, Difference]]
    covers: tuple[str, ...] = ()
    """What the intervals cover, and how many images carry each scale."""
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Every cell's difference: iou_type, variant, and the columns of `differences_frame`."""
    left_out: tuple[str, ...] = ()
    """Which variants have no interval, and why."""


@dataclass(frozen=True)
class Section:
    """A table as the report shows it, tabulars by file name."""

    table: Table
    summary: pd.DataFrame
    cells: pd.DataFrame
    tabulars: dict[str, Tabular]
    compared: Compared
    errors: dict[str, pd.DataFrame]
    """What fixing each type of error would gain, by iou_type."""

    @property
    def main_tabulars(self) -> list[Tabular]:
        return [self.tabulars[name] for name in MAIN_GRIDS if name in self.tabulars]

    @property
    def about(self) -> str:
        """What the runs share, and what they are compared with."""
        if not self.table.variants:
            return "No run of this table is done."
        data = self.table.runs[0].record.data
        protocols = ", ".join(dict.fromkeys(map(tables.protocol_name, self.table.runs)))
        baseline = "none" if self.table.baseline is None else self.table.baseline.name
        return (
            f"{data.get('num_val', '?')} validation images (data {data['val_fingerprint']}), "
            f"protocol {protocols}. Baseline: {baseline} ({self.table.baseline_origin})."
        )

    @property
    def legend(self) -> str:
        """What the columns are, and what the intervals cover."""
        columns = (
            "AP in percent points, mean ± standard deviation over seeds where there are several; "
            "params and MACs of the backbone at 224 x 224; images/s in training; ΔAP to baseline"
        )
        if not self.compared.covers:
            return f"{columns}, without intervals."
        marks = (
            f"{REAL} real after correction over all variants and AP columns of the table (boxes "
            f"and masks apart), {NOISE} below the noise"
        )
        return " ".join((f"{columns}: {marks}.", *self.compared.covers))

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the table should show and does not, with the reason."""
        return (*map(str, self.table.absent), *self.compared.left_out)


def make_section(
    table: Table, matches: MatchedRuns, num_resamples: int, progress: Progress
) -> Section:
    """Everything the report says of a table in figures."""
    compared = differences_to_baseline(table, matches, num_resamples, progress)
    summary = tables.summary(table, compared.differences)
    cells = tables.cells(table)
    tabulars = {"": tables.summary_tabular(summary)}
    if table.has_masks:
        tabulars["masks"] = tables.mask_tabular(summary)
    for iou_type in table.iou_types:
        prefix = PREFIXES[iou_type]
        metrics = [prefix + name for name in tables.BOX_METRICS]
        if table.baseline is not None and len(table.variants) > 1:
            tabulars[f"{prefix}differences"] = tables.difference_tabular(summary, metrics)
        if (beside := tables.published_tabular(table, metrics)) is not None:
            tabulars[f"{prefix}published"] = beside
        if iou_type in set(cells.iou_type):
            for metric in ("AP", "AR"):
                wide = tables.by_threshold_and_scale(cells, iou_type, metric)
                tabulars[f"{prefix}{metric}-by-iou-and-scale"] = tables.threshold_tabular(wide)
    gains = error_gains(table, matches)
    for iou_type, frame in gains.items():
        tabulars[f"{PREFIXES[iou_type]}errors"] = gains_tabular(frame)
        changes = error_differences(table, matches, iou_type, num_resamples)
        if len(changes):
            tabulars[f"{PREFIXES[iou_type]}error-differences"] = gain_differences_tabular(changes)
    return Section(table, summary, cells, tabulars, compared, gains)


def error_gains(table: Table, matches: MatchedRuns) -> dict[str, pd.DataFrame]:
    """By iou_type, what fixing each type of error would gain; the mean over a variant's runs."""
    found: dict[str, list[pd.DataFrame]] = {}
    for variant in filter(_has_detections, table.variants):
        for iou_type in matches.of(variant.runs[0]).errors:
            runs = [matches.of(run).errors[iou_type].frame(variant.name) for run in variant.runs]
            mean = runs[0].assign(gain=sum(frame["gain"] for frame in runs) / len(runs))
            found.setdefault(iou_type, []).append(mean.drop(columns=["AP50", "num_errors"]))
    return {iou_type: pd.concat(frames) for iou_type, frames in found.items()}


def error_differences(
    table: Table, matches: MatchedRuns, iou_type: str, num_resamples: int
) -> pd.DataFrame:
    """Each variant's gains minus the baseline's, corrected over all variants, types and scales.

    Empty without a baseline or resamples.
    """
    if table.baseline is None or num_resamples == 0:
        return pd.DataFrame()
    metric = f"{PREFIXES[iou_type]}AP"
    return correct_errors(
        {
            variant.name: compare_errors(
                [matches.of(run).errors[iou_type] for run in table.baseline.runs],
                [matches.of(run).errors[iou_type] for run in variant.runs],
                num_resamples,
                names=(table.baseline.name, variant.name),
            )
            for variant in _with_detections(table.baseline, table.variants)[0]
            if variant.values(metric) and table.baseline.values(metric)
        }
    )


def differences_to_baseline(
    table: Table, matches: MatchedRuns, num_resamples: int, progress: Progress
) -> Compared:
    """Every variant minus the baseline, corrected over all variants and a iou_type's AP columns."""
    if table.baseline is None or num_resamples == 0:
        return Compared({})
    others, left_out = _with_detections(table.baseline, table.variants)
    differences: dict[str, dict[str, Difference]] = {variant.name: {} for variant in others}
    covers = dict[str, list[str]]()
    counts = dict[str, None]()
    frames = {}
    for iou_type in table.iou_types:
        prefix = PREFIXES[iou_type]
        comparisons = {
            variant.name: compare(
                [matches.of(run).tables[iou_type] for run in table.baseline.runs],
                [matches.of(run).tables[iou_type] for run in variant.runs],
                num_resamples,
                names=(table.baseline.name, variant.name),
                progress=_every_few_seconds(progress, f"{variant.name}, {prefix}AP"),
            )
            for variant in others
            if variant.values(f"{prefix}AP") and table.baseline.values(f"{prefix}AP")
        }
        for name, found in correct(comparisons, tables.BOX_METRICS).items():
            differences[name] |= {prefix + metric: found[metric] for metric in found}
            frames[iou_type, name] = differences_frame(comparisons[name], found)
        for name, comparison in comparisons.items():
            covers.setdefault(comparison.covers, []).append(name)
            counts[images_with_objects_text(comparison.num_images_with_objects)] = None
    told = [
        sentence if len(covers) == 1 else f"{', '.join(dict.fromkeys(names))}: {sentence}"
        for sentence, names in covers.items()
    ]
    told += [f"{count[0].upper()}{count[1:]}." for count in counts]
    cells = pd.DataFrame()
    if frames:
        cells = pd.concat(frames, names=["iou_type", "variant"]).reset_index(
            ["iou_type", "variant"]
        )
    return Compared(differences, tuple(told), cells, tuple(left_out))


def _with_detections(
    baseline: Variant, variants: Sequence[Variant]
) -> tuple[list[Variant], list[str]]:
    """The variants that can be compared with the baseline, and why the others cannot."""
    others, left_out = [], []
    for variant in variants:
        if variant is baseline:
            continue
        lacking = [
            f"{run.record.variant} seed {run.record.seed}"
            for run in (*variant.runs, *baseline.runs)
            if not has_detections(run)
        ]
        if lacking:
            gone = f"the detections or the truth of {', '.join(lacking)} are not in the folder"
            left_out.append(f"{variant.name} has no interval: {gone}")
        else:
            others.append(variant)
    return others, left_out


def has_detections(run: Run) -> bool:
    """Whether the run can be matched again."""
    return run.detections_path.exists() and run.truth_path.exists()


def _has_detections(variant: Variant) -> bool:
    return all(map(has_detections, variant.runs))


def _every_few_seconds(progress: Progress, what: str) -> Callable[[float], None]:
    last = time.monotonic()

    def tell(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > 3:
            last = time.monotonic()
            progress(f"resampling {what}: {share:.0%}")

    return tell

"""What the report says of a table, in figures: its grids, and the differences to its baseline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ablations.matching import MatchTable, match
from ablations.record import Run
from ablations.score import PREFIXES
from ablations.truth import Detections, Truth
from analysis import tables
from analysis.bootstrap import (
    Difference,
    compare,
    correct,
    differences_frame,
    images_with_objects_text,
)
from analysis.errors import (
    Errors,
    compare_errors,
    correct_errors,
    find_errors,
    gain_differences_grid,
    gains_grid,
)
from analysis.markup import Grid
from analysis.tables import NOISE, REAL, Table, Variant

MAIN_GRIDS = ("", "masks")

Progress = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True)
class Matched:
    """A run's stored detections matched, by kind."""

    tables: dict[str, MatchTable]
    errors: dict[str, Errors]


class Matches:
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
            kinds = [kind for kind in PREFIXES if f"{PREFIXES[kind]}AP" in run.record.metrics]
            self._matched[run.folder] = Matched(
                {kind: match(truth, detections, kind) for kind in kinds},
                {kind: find_errors(truth, detections, kind) for kind in kinds},
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
    """Every cell's difference: kind, variant, and the columns of `differences_frame`."""
    left_out: tuple[str, ...] = ()
    """Which variants have no interval, and why."""


@dataclass(frozen=True)
class Section:
    """A table as the report shows it, grids by file name."""

    table: Table
    summary: pd.DataFrame
    cells: pd.DataFrame
    grids: dict[str, Grid]
    compared: Compared
    errors: dict[str, pd.DataFrame]
    """What fixing each type of error would gain, by kind."""

    @property
    def main_grids(self) -> list[Grid]:
        return [self.grids[name] for name in MAIN_GRIDS if name in self.grids]

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


def make_section(table: Table, matches: Matches, num_resamples: int, progress: Progress) -> Section:
    """Everything the report says of a table in figures."""
    compared = differences_to_baseline(table, matches, num_resamples, progress)
    summary = tables.summary(table, compared.differences)
    cells = tables.cells(table)
    grids = {"": tables.summary_grid(summary)}
    if table.has_masks:
        grids["masks"] = tables.mask_grid(summary)
    for kind in table.kinds:
        prefix = PREFIXES[kind]
        metrics = [prefix + name for name in tables.BOX_METRICS]
        if table.baseline is not None and len(table.variants) > 1:
            grids[f"{prefix}differences"] = tables.difference_grid(summary, metrics)
        if (beside := tables.published_grid(table, metrics)) is not None:
            grids[f"{prefix}published"] = beside
        if kind in set(cells.kind):
            for metric in ("AP", "AR"):
                wide = tables.by_threshold_and_scale(cells, kind, metric)
                grids[f"{prefix}{metric}-by-iou-and-scale"] = tables.threshold_grid(wide)
    gains = error_gains(table, matches)
    for kind, frame in gains.items():
        grids[f"{PREFIXES[kind]}errors"] = gains_grid(frame)
        changes = error_differences(table, matches, kind, num_resamples)
        if len(changes):
            grids[f"{PREFIXES[kind]}error-differences"] = gain_differences_grid(changes)
    return Section(table, summary, cells, grids, compared, gains)


def error_gains(table: Table, matches: Matches) -> dict[str, pd.DataFrame]:
    """By kind, what fixing each type of error would gain; the mean over a variant's runs."""
    found: dict[str, list[pd.DataFrame]] = {}
    for variant in filter(_has_detections, table.variants):
        for kind in matches.of(variant.runs[0]).errors:
            runs = [matches.of(run).errors[kind].frame(variant.name) for run in variant.runs]
            mean = runs[0].assign(gain=sum(frame["gain"] for frame in runs) / len(runs))
            found.setdefault(kind, []).append(mean.drop(columns=["AP50", "num_errors"]))
    return {kind: pd.concat(frames) for kind, frames in found.items()}


def error_differences(
    table: Table, matches: Matches, kind: str, num_resamples: int
) -> pd.DataFrame:
    """Each variant's gains minus the baseline's, corrected over all variants, types and scales.

    Empty without a baseline or resamples.
    """
    if table.baseline is None or num_resamples == 0:
        return pd.DataFrame()
    metric = f"{PREFIXES[kind]}AP"
    return correct_errors(
        {
            variant.name: compare_errors(
                [matches.of(run).errors[kind] for run in table.baseline.runs],
                [matches.of(run).errors[kind] for run in variant.runs],
                num_resamples,
                names=(table.baseline.name, variant.name),
            )
            for variant in _with_detections(table.baseline, table.variants)[0]
            if variant.values(metric) and table.baseline.values(metric)
        }
    )


def differences_to_baseline(
    table: Table, matches: Matches, num_resamples: int, progress: Progress
) -> Compared:
    """Every variant minus the baseline, corrected over all variants and a kind's AP columns."""
    if table.baseline is None or num_resamples == 0:
        return Compared({})
    others, left_out = _with_detections(table.baseline, table.variants)
    differences: dict[str, dict[str, Difference]] = {variant.name: {} for variant in others}
    covers = dict[str, list[str]]()
    counts = dict[str, None]()
    frames = {}
    for kind in table.kinds:
        prefix = PREFIXES[kind]
        comparisons = {
            variant.name: compare(
                [matches.of(run).tables[kind] for run in table.baseline.runs],
                [matches.of(run).tables[kind] for run in variant.runs],
                num_resamples,
                names=(table.baseline.name, variant.name),
                progress=_every_few_seconds(progress, f"{variant.name}, {prefix}AP"),
            )
            for variant in others
            if variant.values(f"{prefix}AP") and table.baseline.values(f"{prefix}AP")
        }
        for name, found in correct(comparisons, tables.BOX_METRICS).items():
            differences[name] |= {prefix + metric: found[metric] for metric in found}
            frames[kind, name] = differences_frame(comparisons[name], found)
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
        cells = pd.concat(frames, names=["kind", "variant"]).reset_index(["kind", "variant"])
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

"""Every variant of a table against its baseline, from stored detections: AP and errors."""

from dataclasses import dataclass, field

import pandas as pd

from ablations.evaluation.metrics import PREFIXES, table_metrics
from ablations.progress import Progress
from analysis.bootstrap import (
    Comparison,
    Difference,
    compare,
    correct,
    images_with_objects_text,
)
from analysis.detection_errors import compare_errors, correct_errors
from analysis.frames import cell_differences, differences_to_baseline
from analysis.matched import MatchedRuns, Tell, has_detections
from analysis.runs import Table, Variant

_SHARES = 100
_CELLS = {metric.name: metric.cell for metric in table_metrics(["bbox"])}
"""What tables show, by COCO's names: those of masks are the same with a prefix."""


@dataclass(frozen=True)
class AgainstBaseline:
    """Differences to the baseline, and what there is to say of them."""

    metrics: pd.DataFrame
    """A row per variant and metric, as `frames.metric_differences`."""
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Every cell's difference: iou_type, variant, and the columns of `frames.cell_differences`."""
    covers: tuple[str, ...] = ()
    """What the intervals cover, and how many images carry each scale."""
    left_out: tuple[str, ...] = ()
    """Which variants have no interval, and why."""


def compare_to_baseline(
    table: Table, matched: MatchedRuns, num_resamples: int, tell: Tell = lambda line: None
) -> AgainstBaseline:
    """Every variant minus the baseline, corrected over all variants and an iou_type's AP columns.

    With 0 resamples differences have no intervals.
    """
    if table.baseline is None or num_resamples == 0:
        return AgainstBaseline(differences_to_baseline(table, {}))
    others, left_out = _comparable(table)
    found: dict[str, dict[str, Difference]] = {variant.name: {} for variant in others}
    covers = dict[str, list[str]]()
    counts = dict[str, None]()
    frames = {}
    for iou_type in table.iou_types:
        comparisons = _comparisons(table, others, matched, iou_type, num_resamples, tell)
        for name, corrected in correct(comparisons, _CELLS).items():
            prefix = PREFIXES[iou_type]
            found[name] |= {prefix + metric: each for metric, each in corrected.items()}
            frames[iou_type, name] = cell_differences(
                comparisons[name], {_CELLS[metric]: each for metric, each in corrected.items()}
            )
        for name, comparison in comparisons.items():
            covers.setdefault(comparison.covers, []).append(name)
            counts[images_with_objects_text(comparison.num_images_with_objects)] = None
    told = [
        sentence if len(covers) == 1 else f"{', '.join(dict.fromkeys(names))}: {sentence}"
        for sentence, names in covers.items()
    ]
    told += [f"{count[0].upper()}{count[1:]}." for count in counts]
    levels = ["iou_type", "variant"]
    return AgainstBaseline(
        metrics=differences_to_baseline(table, found),
        cells=pd.concat(frames, names=levels).reset_index(levels) if frames else pd.DataFrame(),
        covers=tuple(told),
        left_out=tuple(left_out),
    )


def _comparisons(
    table: Table,
    others: list[Variant],
    matched: MatchedRuns,
    iou_type: str,
    num_resamples: int,
    tell: Tell,
) -> dict[str, Comparison]:
    assert table.baseline is not None
    found = {}
    for variant in _scored(table, others, iou_type):
        what = f"resampling {variant.name}, {PREFIXES[iou_type]}AP, percent"
        progress = Progress(what, _SHARES, tell=tell)

        def on_share(share: float, progress: Progress = progress) -> None:
            progress.update(int(share * _SHARES))

        found[variant.name] = compare(
            [matched.of(run).matches[iou_type] for run in table.baseline.runs],
            [matched.of(run).matches[iou_type] for run in variant.runs],
            num_resamples,
            names=(table.baseline.name, variant.name),
            progress=on_share,
        )
    return found


def error_gains(table: Table, matched: MatchedRuns) -> dict[str, pd.DataFrame]:
    """By iou_type, what fixing each type of error would gain; the mean over a variant's runs."""
    found: dict[str, list[pd.DataFrame]] = {}
    for variant in table.variants:
        if not all(map(has_detections, variant.runs)):
            continue
        for iou_type in matched.of(variant.runs[0]).errors:
            runs = [matched.of(run).errors[iou_type].frame(variant.name) for run in variant.runs]
            mean = runs[0].assign(gain=sum(frame["gain"] for frame in runs) / len(runs))
            found.setdefault(iou_type, []).append(mean.drop(columns=["AP50", "num_errors"]))
    return {iou_type: pd.concat(frames) for iou_type, frames in found.items()}


def error_differences(
    table: Table,
    matched: MatchedRuns,
    iou_type: str,
    num_resamples: int,
    tell: Tell = lambda line: None,
) -> pd.DataFrame:
    """Each variant's gains minus the baseline's, corrected over all variants, types and scales.

    Empty without a baseline or resamples.
    """
    if table.baseline is None or num_resamples == 0:
        return pd.DataFrame()
    others = _scored(table, _comparable(table)[0], iou_type)
    progress = Progress(
        f"comparing {PREFIXES[iou_type]}errors of {table.name}", len(others), tell=tell
    )
    samples = {}
    for done, variant in enumerate(others, start=1):
        samples[variant.name] = compare_errors(
            [matched.of(run).errors[iou_type] for run in table.baseline.runs],
            [matched.of(run).errors[iou_type] for run in variant.runs],
            num_resamples,
            names=(table.baseline.name, variant.name),
        )
        progress.update(done, variant.name)
    return correct_errors(samples)


def _scored(table: Table, others: list[Variant], iou_type: str) -> list[Variant]:
    """The variants that have, as the baseline has, AP of an iou_type."""
    name = f"{PREFIXES[iou_type]}AP"
    if table.baseline is None or not table.baseline.values(name):
        return []
    return [variant for variant in others if variant.values(name)]


def _comparable(table: Table) -> tuple[list[Variant], list[str]]:
    """The variants whose detections can be compared with the baseline's; why the others cannot."""
    assert table.baseline is not None
    others, left_out = [], []
    for variant in table.others:
        lacking = [
            f"{run.record.variant} seed {run.record.seed}"
            for run in (*variant.runs, *table.baseline.runs)
            if not has_detections(run)
        ]
        if lacking:
            gone = f"the detections or the truth of {', '.join(lacking)} are not in the folder"
            left_out.append(f"{variant.name} has no interval: {gone}")
        else:
            others.append(variant)
    return others, left_out

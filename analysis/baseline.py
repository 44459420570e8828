"""Every variant of a table against its baseline, from stored detections: AP, categories, errors.

Variants are taken one after the other, and of each only what its table needs is kept: the matches
of a thousand runs would not fit into the memory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.evaluation.faults import FormatError
from ablations.evaluation.matching import Matches
from ablations.evaluation.metrics import PREFIXES, Cell, table_metrics
from ablations.progress import Progress
from ablations.record import Run
from analysis.bootstrap import (
    Difference,
    Sample,
    compare,
    correct_samples,
    count_images_with_objects,
    images_with_objects_text,
    mean_sample,
    resample,
    resample_categories,
)
from analysis.categories import category_samples, distinct, num_images_by_category
from analysis.class_errors import compare_class_errors
from analysis.detection_errors import Errors, compare_errors, correct_errors
from analysis.frames import cell_differences, differences_to_baseline, metric_differences
from analysis.matched import MatchedRuns, Tell, has_detections
from analysis.runs import Table

_SEED = 0
"""Of the draws of images: the one that `compare` and its kin take by default."""
_CELLS = {metric.name: metric.cell for metric in table_metrics(["bbox"])}
"""What tables show, by COCO's names: those of masks are the same with a prefix."""


@dataclass(frozen=True)
class AgainstBaseline:
    """Differences to the baseline, and what there is to say of them."""

    metrics: pd.DataFrame
    """A row per variant and metric, as `frames.metric_differences`."""
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Every cell's difference: iou_type, variant, and the columns of `frames.cell_differences`."""
    gains: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By iou_type, a row per variant, scale and error type: what fixing all such would gain."""
    gain_differences: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By iou_type, `detection_errors.correct_errors` of the gains minus the baseline's."""
    intervals: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By iou_type, a row per variant: its own AP (`value`, mean over seeds) with low and high."""
    categories: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By iou_type, a row per variant and category: AP (mean over seeds), number of objects, and
    the columns of `frames.metric_differences`, empty for the baseline."""
    covers: tuple[str, ...] = ()
    """What the intervals cover, and how many images carry each scale."""
    left_out: tuple[str, ...] = ()
    """Which variants have no interval, and why."""


def compare_to_baseline(
    table: Table, matched: MatchedRuns, num_resamples: int, tell: Tell = lambda line: None
) -> AgainstBaseline:
    """Every variant minus the baseline; AP, categories and errors are corrected as families.

    A family holds all variants of the table, boxes and masks apart. With 0 resamples differences
    have no intervals. A table of classifications has differences of errors alone.
    """
    if table.classifies:
        found, covers, left_out = compare_class_errors(table, num_resamples)
        return AgainstBaseline(
            metrics=differences_to_baseline(table, found),
            covers=tuple(covers),
            left_out=tuple(left_out),
        )
    scored = [variant for variant in table.variants if all(map(has_detections, variant.runs))]
    by_type = {iou_type: _Gathered(num_resamples) for iou_type in table.iou_types}
    num_runs = sum(len(variant.runs) for variant in scored)
    progress = Progress(f"comparing the runs of {table.name}", num_runs, tell=tell)
    num_done, unreadable = 0, dict[str, str]()
    for variant in sorted(scored, key=lambda each: each is not table.baseline):
        try:
            for run in variant.runs:
                progress.update(num_done, f"matching {variant.name} seed {run.record.seed}")
                matched.of(run)
        except (FormatError, OSError) as error:
            unreadable[variant.name] = str(error)
            continue
        for iou_type, gathered in by_type.items():
            if not variant.values(f"{PREFIXES[iou_type]}AP"):
                continue

            def on_share(share: float, name: str = f"{variant.name}, {iou_type}") -> None:
                progress.update(num_done, f"resampling {name}, {share:.0%}")  # noqa: B023

            runs = [matched.of(run) for run in variant.runs]
            side = _Side(
                variant.name,
                [run.matches[iou_type] for run in runs],
                [run.errors[iou_type] for run in runs],
            )
            gathered.add(side, variant is table.baseline, on_share)
        num_done += len(variant.runs)
        progress.update(num_done, variant.name)
    lacking = [] if num_resamples == 0 else [run for run in table.runs if not has_detections(run)]
    return _joined(table, by_type, _left_out(table, unreadable, lacking))


@dataclass(frozen=True)
class _Side:
    """A variant at one IoU type, a table and its errors per seed."""

    name: str
    matches: list[Matches]
    errors: list[Errors]


class _Gathered:
    """What a table says at one IoU type, gathered variant by variant, the baseline first."""

    def __init__(self, num_resamples: int) -> None:
        self.num_resamples = num_resamples
        self.covers: dict[str, str] = {}
        self.images_with_objects: dict[str, None] = {}
        self.samples: dict[str, dict[str, Sample]] = {}
        self.cells: dict[str, Mapping[Cell, Difference]] = {}
        self.gains: dict[str, pd.DataFrame] = {}
        self.error_samples: dict[str, dict[tuple[str, str], Sample]] = {}
        self.ap_samples: dict[str, dict[str, Sample]] = {}
        self.category_ap: dict[str, pd.DataFrame] = {}
        self.category_samples: dict[str, dict[int, Sample]] = {}
        self._baseline: tuple[_Side, NDArray[np.float64]] | None = None

    def add(self, side: _Side, is_baseline: bool, progress: Callable[[float], None]) -> None:
        frames = [errors.frame(side.name) for errors in side.errors]
        mean = sum(frame["gain"] for frame in frames) / len(frames)
        self.gains[side.name] = frames[0].assign(gain=mean).drop(columns=["AP50", "num_errors"])
        categories = np.stack(
            [resample_categories(each, self.num_resamples, _SEED) for each in side.matches]
        )
        self.category_ap[side.name] = _category_ap(side.matches[0], categories[:, :, 0])
        if self.num_resamples > 0:
            self.ap_samples[side.name] = {
                "AP": _ap_sample(side.matches, self.num_resamples, progress)
            }
        if is_baseline:
            self._baseline = side, categories
        elif self._baseline is not None and self.num_resamples > 0:
            self._compare(*self._baseline, side, categories)

    def _compare(
        self,
        baseline: _Side,
        baseline_categories: NDArray[np.float64],
        side: _Side,
        categories: NDArray[np.float64],
    ) -> None:
        names = (baseline.name, side.name)
        found = compare(baseline.matches, side.matches, self.num_resamples, _SEED, names)
        self.covers[side.name] = found.covers
        self.images_with_objects[images_with_objects_text(found.num_images_with_objects)] = None
        self.cells[side.name] = found.cells
        self.samples[side.name] = {
            # a copy: a view would keep the resamples of all cells
            name: sample._replace(resampled=sample.resampled.copy())
            for name, sample in found.samples(_CELLS).items()
        }
        self.error_samples[side.name] = compare_errors(
            baseline.errors, side.errors, self.num_resamples, _SEED, names
        )
        self.category_samples[side.name] = category_samples(
            baseline_categories, categories, num_images_by_category(baseline.matches[0])
        )


def _ap_sample(
    tables: Sequence[Matches], num_resamples: int, progress: Callable[[float], None]
) -> Sample:
    """AP itself: its difference to 0."""
    area = tables[0].areas.index("all")
    scores = []
    for number, table in enumerate(tables):

        def on_share(share: float, number: int = number) -> None:
            progress((number + share) / len(tables))

        scores.append(resample(table, num_resamples, _SEED, on_share)[0, -1, area, -1])
    num_images = count_images_with_objects(tables[0])["all"]
    return mean_sample(np.stack(scores), num_images)


def _category_ap(matches: Matches, scores: NDArray[np.float64]) -> pd.DataFrame:
    """Of each category its number of objects and AP; `scores` is (num_seeds, K)."""
    everything = matches.areas.index("all")
    counted = np.concatenate([[0], matches.truth_counted[:, everything].cumsum()])
    return pd.DataFrame(
        {
            "category": distinct(matches.category_names, matches.category_ids.tolist()),
            "num_objects": np.diff(counted[matches.truth_starts]),
            "AP": scores.mean(axis=0),
        }
    )


def _joined(
    table: Table, by_type: Mapping[str, _Gathered], left_out: Sequence[str]
) -> AgainstBaseline:
    """Everything that was gathered, corrected, in the table's order."""
    found: dict[str, dict[str, Difference]] = {}
    cells, gains, gain_differences = {}, {}, {}
    intervals, categories = {}, {}
    for iou_type, gathered in by_type.items():
        prefix = PREFIXES[iou_type]
        for name, corrected in correct_samples(gathered.samples).items():
            found.setdefault(name, {}).update({prefix + m: each for m, each in corrected.items()})
            cells[iou_type, name] = cell_differences(
                gathered.cells[name], {_CELLS[m]: each for m, each in corrected.items()}
            )
        order = [variant.name for variant in table.variants if variant.name in gathered.gains]
        own = correct_samples(gathered.ap_samples)
        if any(own.values()):
            intervals[iou_type] = pd.DataFrame(
                [
                    (name, each.value, each.low, each.high)
                    for name, found_of in own.items()
                    for each in found_of.values()
                ],
                columns=["variant", "value", "low", "high"],
            )
        if order:
            gains[iou_type] = pd.concat([gathered.gains[name] for name in order])
            categories[iou_type] = _category_frame(gathered, order)
        changes = correct_errors(gathered.error_samples)
        if len(changes):
            gain_differences[iou_type] = changes
    levels = ["iou_type", "variant"]
    return AgainstBaseline(
        metrics=differences_to_baseline(table, found),
        cells=pd.concat(cells, names=levels).reset_index(levels) if cells else pd.DataFrame(),
        gains=gains,
        gain_differences=gain_differences,
        intervals=intervals,
        categories=categories,
        covers=_covers(by_type.values()),
        left_out=tuple(left_out),
    )


def _category_frame(gathered: _Gathered, order: Sequence[str]) -> pd.DataFrame:
    ap = pd.concat({name: gathered.category_ap[name] for name in order}, names=["variant"])
    ap = ap.reset_index("variant")
    names = gathered.category_ap[order[0]]["category"]
    corrected = correct_samples(gathered.category_samples)
    changes = metric_differences(
        {
            variant: {names[k]: each for k, each in by_category.items()}
            for variant, by_category in corrected.items()
        }
    )
    return ap.merge(
        changes.rename(columns={"metric": "category"}), on=["variant", "category"], how="left"
    )


def _covers(gathered: Iterable[_Gathered]) -> tuple[str, ...]:
    """What the intervals cover: said once where it is the same for all variants."""
    names: dict[str, dict[str, None]] = {}
    counts: dict[str, None] = {}
    for each in gathered:
        for name, sentence in each.covers.items():
            names.setdefault(sentence, {})[name] = None
        counts |= each.images_with_objects
    told = [
        sentence if len(names) == 1 else f"{', '.join(who)}: {sentence}"
        for sentence, who in names.items()
    ]
    return (*told, *(f"{count[0].upper()}{count[1:]}." for count in counts))


def _left_out(table: Table, unreadable: Mapping[str, str], lacking: Sequence[Run]) -> list[str]:
    """Which variants cannot be compared with the baseline, and why."""
    if table.baseline is None:
        return []
    told, folders = [], {run.folder for run in lacking}
    for variant in table.others:
        sides = (variant, table.baseline)
        reasons = [unreadable[side.name] for side in sides if side.name in unreadable]
        gone = [
            f"{run.record.variant} seed {run.record.seed}"
            for side in sides
            for run in side.runs
            if run.folder in folders
        ]
        if gone:
            listed = ", ".join(gone)
            reasons.append(f"the detections or the truth of {listed} are not in the folder")
        told += [f"{variant.name} has no interval: {reason}" for reason in reasons]
    return told

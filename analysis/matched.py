"""Runs matched with their truth again, from the detections that they stored."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.faults import FormatError
from ablations.evaluation.matching import Matches, match
from ablations.evaluation.metrics import PREFIXES
from ablations.record import TRUTH_REMEDY, Run
from analysis.detection_errors import Errors, find_errors

MAX_KEPT = 16
"""Runs whose matches are kept: a table or a few, not the thousand runs of a large sweep."""

Tell = Callable[[str], None]
"""Takes a line on what is being done."""


@dataclass(frozen=True)
class Matched:
    """A run's stored detections matched, by iou_type."""

    matches: dict[str, Matches]
    errors: dict[str, Errors]


class MatchedRuns:
    """Runs matched from their stored detections and truth; the last `MAX_KEPT` are kept."""

    def __init__(self) -> None:
        self._truths: dict[Path, Truth] = {}
        self._matched: OrderedDict[Path, Matched] = OrderedDict()
        self._num_without_detections: dict[Path, tuple[int, int]] = {}

    def of(self, run: Run) -> Matched:
        if run.folder not in self._matched:
            self._matched[run.folder] = self._match(run)
            if len(self._matched) > MAX_KEPT:
                self._matched.popitem(last=False)
        self._matched.move_to_end(run.folder)
        return self._matched[run.folder]

    def read(self, run: Run) -> tuple[Truth, Detections]:
        """The run's detections and what they are scored against, which is kept."""
        if run.truth_path not in self._truths:
            self._truths[run.truth_path] = read_truth(run.truth_path)
        truth = self._truths[run.truth_path]
        return truth, Detections.from_coco(run.detections_path, truth)

    def _match(self, run: Run) -> Matched:
        truth, detections = self.read(run)
        iou_types = [
            iou_type for iou_type in PREFIXES if f"{PREFIXES[iou_type]}AP" in run.record.metrics
        ]
        found = Matched(
            {iou_type: match(truth, detections, iou_type) for iou_type in iou_types},
            {iou_type: find_errors(truth, detections, iou_type) for iou_type in iou_types},
        )
        for matches in found.matches.values():
            self._num_without_detections[run.folder] = num_images_without_detections(matches)
        return found

    def num_images_without_detections(self, run: Run) -> tuple[int, int] | None:
        """Of how many images the run found nothing in how many; None where it was not matched."""
        return self._num_without_detections.get(run.folder)


def read_truth(path: Path, policy: str = "refuse", *, recompute_areas: bool = False) -> Truth:
    """What runs left to be scored against; raises FormatError that says what writes it anew."""
    try:
        return Truth.from_coco(path, policy=policy, recompute_areas=recompute_areas)
    except FormatError as error:
        raise FormatError(f"{error}; {TRUTH_REMEDY}") from error


def num_images_without_detections(matches: Matches) -> tuple[int, int]:
    """The images in which nothing was detected, and all images."""
    return matches.num_images - len(np.unique(matches.image)), matches.num_images


def has_detections(run: Run) -> bool:
    """Whether the run can be matched again."""
    return run.detections_path.exists() and run.truth_path.exists()

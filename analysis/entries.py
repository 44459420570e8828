"""Anyone's COCO results files, and runs of this project: read, matched with one truth, scored."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import (
    COCO_AREAS,
    COCO_IOUS,
    COCO_MAX_DETS,
    FEDERATED_MAX_DETS,
    Assignment,
    Matches,
    assign,
    tabulate,
)
from ablations.evaluation.scoring import Scores, score
from ablations.record import RecordError, Run, read_record
from analysis.confusion import MAX_DET, confusion
from analysis.detection_errors import FOREGROUND, Errors, find_errors
from analysis.matched import Tell, has_detections

_ENDINGS = (".json.gz", ".json")


@dataclass(frozen=True)
class Options:
    """How results are matched and scored; COCO's way where nothing else is said."""

    iou_type: str = "bbox"
    areas: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(COCO_AREAS))
    """Object scales in square pixels; `all` is among them."""
    iou_thresholds: tuple[float, ...] = tuple(COCO_IOUS.tolist())
    max_dets: tuple[int, ...] | None = None
    """None: COCO's, and LVIS's beside it where the truth is federated."""
    class_agnostic: bool = False
    """Whether all categories are one."""
    unknown_images: str = "refuse"
    image_ids: str = "id"
    """How results name images, see `result_ids.IMAGE_IDS`."""
    categories: str = "id"
    """How results name categories, see `result_ids.CATEGORIES`."""
    min_score: float = 0.5
    """The least score that a confusion matrix counts."""

    def __post_init__(self) -> None:
        if "all" not in self.areas:
            raise ValueError(
                f"areas {', '.join(self.areas)}: add `all`, the scale of AP, AP50, AR100 ..."
            )


@dataclass(frozen=True, eq=False)
class Entry:
    """One results file, matched and scored."""

    name: str
    path: Path
    num_detections: int
    notes: Mapping[str, int]
    """What was done to the file on reading, and how often."""
    matches: Matches
    scores: Scores
    micro: Scores
    """The detections of all categories in one list, each matched within its own category."""
    errors: Errors
    confusion: NDArray[np.int64]
    """Objects by true and detected category, see `analysis.confusion`."""


def area_bins(sides: Sequence[float]) -> dict[str, tuple[float, float]]:
    """Object scales from the sides of squares, in pixels: 0 16 32 inf gives `0-16`, `16-32`, `32+`.

    An object's side is the root of its area. Both ends of a bin are inside, as COCO's are. Raises
    ValueError for sides that do not rise.
    """
    # As they are told, to six digits: scales of one name would be one
    told = [float(f"{side:g}") for side in sides]
    rises = all(low < high for low, high in itertools.pairwise(told))
    if len(sides) < 2 or not rises or not sides[0] >= 0:
        raise ValueError(
            f"sides {' '.join(f'{side:g}' for side in sides)}: give two or more that rise from 0 "
            "or above, such as 0 16 32 64 96 128 inf"
        )
    most = COCO_AREAS["all"][1]
    return {
        f"{low:g}+" if math.isinf(high) else f"{low:g}-{high:g}": (low**2, min(high**2, most))
        for low, high in itertools.pairwise(sides)
    }


def as_run(path: Path) -> Run | None:
    """The run of this project that lies in a folder; None for a file.

    Raises RecordError for a folder that holds no run, or none that has detections.
    """
    if not path.is_dir():
        return None
    if not (path / "record.json").exists():
        raise RecordError(f"{path}: no run lies here: name one, such as <variant>-<digest>/seed0")
    run = Run(path, read_record(path / "record.json"))
    if not has_detections(run):
        raise RecordError(
            f"{path}: its detections or their truth are not in the folder (status "
            f"{run.record.status}): name a run that is done, such as <variant>-<digest>/seed0"
        )
    return run


def truth_of(paths: Sequence[Path]) -> Path:
    """The truth that runs were scored against; raises ValueError where it must be named."""
    found = {run.truth_path for path in paths if (run := as_run(path)) is not None}
    if len(found) != 1:
        runs = "the runs are over different validation data" if found else "no run is among them"
        raise ValueError(f"--truth: name the COCO instances file ({runs})")
    return found.pop()


def names_of(paths: Sequence[Path], given: Sequence[str] | None = None) -> list[str]:
    """A name per file: those given, else the file names, with folders where those are alike.

    Raises ValueError where there are not as many names as files, one is blank or two are the same.
    """
    if given is not None and len(given) != len(paths):
        raise ValueError(f"--names: {len(given)} names for {len(paths)} results files")
    names = list(given) if given is not None else _told_apart(paths)
    if not all(map(str.strip, names)):
        raise ValueError("--names: one is blank; give each file a name")
    if len(set(names)) < len(names):
        raise ValueError(f"--names: {', '.join(names)} are not all different; name them apart")
    return names


def _told_apart(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ, without the ending of the file."""
    whole = [path.absolute() for path in paths]
    stems = [_stem(path) for path in whole]
    names = stems
    for depth in range(1, max(len(path.parts) for path in whole)):
        if len(set(names)) == len(names):
            break
        count = Counter(names)
        names = [
            name if count[name] == 1 else "/".join((*path.parent.parts[-depth:], stem))
            for name, path, stem in zip(names, whole, stems, strict=True)
        ]
    return names


def _stem(path: Path) -> str:
    if (run := as_run(path)) is not None:
        return f"{run.record.variant} seed {run.record.seed}"
    ending = next((ending for ending in _ENDINGS if path.name.endswith(ending)), "")
    return path.name.removesuffix(ending)


def read(
    truth: Truth,
    paths: Sequence[Path],
    names: Sequence[str],
    options: Options,
    tell: Tell = lambda line: None,
) -> list[Entry]:
    """Read, match and score results files and run folders.

    Raises FormatError as `Detections.from_coco` does, and RecordError as `as_run`.
    """
    entries = []
    for name, path in zip(names, paths, strict=True):
        tell(f"reading and matching {path}")
        entries.append(_entry(truth, name, path, options))
    return entries


def _entry(truth: Truth, name: str, path: Path, options: Options) -> Entry:
    run = as_run(path)
    detections = Detections.from_coco(
        path if run is None else run.detections_path,
        truth,
        options.unknown_images,
        image_ids=options.image_ids,
        categories=options.categories,
    )
    matches, detection_scores, errors, matrix = _matched(truth, detections, options)
    num_detections, notes = len(detections), detections.notes
    del detections  # larger than what is kept of them
    return Entry(
        name=name,
        path=path,
        num_detections=num_detections,
        notes=notes,
        matches=matches,
        scores=score(matches),
        micro=score(pooled(matches, detection_scores)),
        errors=errors,
        confusion=matrix,
    )


def _matched(
    truth: Truth, detections: Detections, options: Options
) -> tuple[Matches, NDArray[np.float64], Errors, NDArray[np.int64]]:
    """Matches, the scores of their detections, errors and the confusion matrix."""
    scored_truth, scored = truth, detections
    if options.class_agnostic:
        scored_truth, scored = as_one_category(truth, detections)
    thresholds = np.array(options.iou_thresholds)
    limits = options.max_dets
    if limits is None:
        limits = COCO_MAX_DETS if truth.federated is None else FEDERATED_MAX_DETS
    limits = tuple(sorted(limits))
    how = (scored_truth, scored, options.iou_type, thresholds, options.areas)
    found = assign(*how, limits[-1])
    matches = tabulate(*how, limits, found)
    at_half = None
    if FOREGROUND in options.iou_thresholds:
        at_half = found.only(range(len(options.areas)), options.iou_thresholds.index(FOREGROUND))
    errors = find_errors(
        scored_truth, scored, options.iou_type, options.areas, max_det=limits[-1], found=at_half
    )
    matrix = _confusion(truth, detections, options, limits[-1], at_half)
    return matches, scored.scores[found.rows], errors, matrix


def _confusion(
    truth: Truth, detections: Detections, options: Options, max_det: int, at_half: Assignment | None
) -> NDArray[np.int64]:
    """The confusion matrix, from what is assigned at IoU 0.5 where it counts the same."""
    known = None
    if (
        at_half is not None
        and not options.class_agnostic
        and max_det == MAX_DET
        and options.areas["all"] == COCO_AREAS["all"]
    ):
        known = at_half.only([list(options.areas).index("all")], 0)
    return confusion(truth, detections, options.iou_type, options.min_score, found=known)


def as_one_category(truth: Truth, detections: Detections) -> tuple[Truth, Detections]:
    """The same objects and detections as if all were of one category, for class-agnostic AP.

    Raises ValueError where only some categories were looked for on an image.
    """
    if truth.federated is not None:
        raise ValueError(
            f"{truth.name}: on each image only some categories were looked for, so categories "
            "cannot be taken for one; leave out --class-agnostic"
        )
    one = replace(
        truth,
        category_ids=np.zeros(1, np.int64),
        category_names=("any",),
        category_frequencies=(None,),
        category=np.zeros_like(truth.category),
    )
    return one, replace(detections, category=np.zeros_like(detections.category))


def pooled(matches: Matches, scores: NDArray[np.float64]) -> Matches:
    """The matches with the detections of all categories in one list, for micro AP.

    Unlike class-agnostic AP, a detection finds objects of its own category alone. `scores` (D,) are
    those of the detections, in the order of the matches.
    """
    order = np.argsort(-scores, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    moved = place[matches.matched]
    rising = np.argsort(moved)
    return replace(
        matches,
        category_ids=np.zeros(1, np.int64),
        category_names=("any",),
        image=matches.image[order],
        rank=matches.rank[order],
        in_area=matches.in_area[order],
        starts=np.array([0, len(order)]),
        matched=moved[rising].astype(np.int32),
        outcome=matches.outcome[rising],
        truth_starts=np.array([0, len(matches.truth_image)]),
    )

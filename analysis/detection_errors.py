"""What fixing each type of error would gain, at each object scale.

The types are TIDE's (Bolya et al., ECCV 2020). The gain of a type is AP50 with all its errors
fixed, minus AP50. TIDE knows no object scales; here COCO's rules hold at each scale. Objects that
are crowds or outside the scale are ignored there. So are detections that take an ignored object,
and detections outside the scale that take none.

A false positive is the first of these that fits its IoU with the objects of the image:
Loc   0.1 to 0.5 with one of its own category: right class, box too far off
Cls   0.5 or more with one of another category: wrong class
Dupe  0.5 or more with one of its own category that a better detection has
Bkg   0.1 or less with all objects
Both  everything else: wrong class and box too far off
Miss is an object that no detection takes and no Loc or Cls error is about.

A detection outside the scale cannot be a false positive of the scale. One case counts all the same:
if it is a Loc or Cls error about an object of the scale that nothing takes, it is that error at the
scale. A box that is too large may be what found a small object.

How errors are fixed: of all Loc and Cls errors about an object that nothing takes, the one with the
highest score becomes its true positive. All other errors are removed. A missed object no longer
counts. Gains do not add up to 1 - AP50, since fixing one type changes what another would gain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.kernel import score_category
from ablations.evaluation.matching import (
    COCO_AREAS,
    IGNORED,
    TRUE_POSITIVE,
    Assignment,
    Matches,
    assign,
    find_pairs,
    shapes_of,
    stable_order,
    tabulate,
    take,
)
from ablations.evaluation.scoring import blocks_of, unblock
from analysis.bootstrap import (
    Sample,
    check_comparable,
    check_num_resamples,
    correct_samples,
    count_images_with_objects,
    draw_counts,
)
from analysis.seeds import seed_spread
from detnet_kernels.loader import BOOL, F64, FLOAT, I8, I32, INT, kernel

_classify = kernel(
    "classify",
    *(I32, I32, F64, I32, I32, BOOL, BOOL, BOOL, BOOL, BOOL),
    *(FLOAT, FLOAT, INT, INT, INT),
    *(I8, I32),
)

_FALSE_POSITIVES = ("Cls", "Loc", "Both", "Dupe", "Bkg")
ERROR_TYPES = (*_FALSE_POSITIVES, "Miss")
FOREGROUND = 0.5
"""TIDE's IoU from which a detection is about an object."""
_CLS, _LOC, _BOTH, _DUPE, _BKG = range(5)
_SIDE_BY_SIDE = ("Cls", "Loc", "Both", "Dupe")
"""Types that are fixed by other outcomes of the same detections."""
_AT_ONCE = 2**16
"""Detections that are classified together: their overlaps with objects take memory."""


@dataclass(frozen=True, eq=False)
class Errors:
    """The match table of one run at one threshold, and the same with each type fixed."""

    table: Matches
    """The table as it is and with each of `_SIDE_BY_SIDE` fixed, as if these were IoU thresholds.
    A detection whose category is fixed stands there again, in that category."""
    fixed_apart: Mapping[str, Matches]
    """With Bkg fixed, which leaves few detections, and Miss, which drops objects."""
    num_errors: NDArray[np.int64]
    """(types, A)"""
    _resampled: dict[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def gains(self, counts: NDArray[np.integer[Any]] | None = None) -> NDArray[np.float64]:
        """AP50 and the gain of each type, (1 + types, A, num_resamples); NaN without objects.

        `counts` (num_images, num_resamples) says how often each image counts; None: once.
        """
        if counts is None:
            counts = np.ones((self.table.num_images, 1), np.uint8)
        blocks = blocks_of(self.table, counts)
        total: Any = 0.0
        num_present: Any = 0.0
        for k in range(len(self.table.category_ids)):
            side_by_side, _, num_objects = score_category(self.table, k, blocks)
            ap, *others = np.moveaxis(side_by_side, 3, 0)
            fixed = dict(zip(_SIDE_BY_SIDE, others, strict=True))
            for name, table in self.fixed_apart.items():
                fixed[name] = score_category(table, k, blocks)[0][..., 0, :]
            present = (num_objects > 0)[:, None]
            # A category of which every object is missed is still one of the mean, with AP 0.
            gains = [(fixed[name] - ap) * present for name in ERROR_TYPES]
            total = total + np.stack([ap, *gains], axis=3)
            num_present = num_present + present[:, :, :, None]
        with np.errstate(invalid="ignore"):
            mean = unblock(total / num_present)
        return mean[:, :, 0, : counts.shape[1]]

    def resample(self, num_resamples: int, seed: int) -> NDArray[np.float64]:
        """As `gains`, (1 + types, A, 1 + num_resamples), first of the images as they are.

        Kept, so a baseline is resampled once for all variants that are compared with it.
        """
        kept = self._resampled
        if (num_resamples, seed) not in kept:
            counts = draw_counts(seed, self.table.num_images, num_resamples)
            kept[num_resamples, seed] = self.gains(counts)
        return kept[num_resamples, seed]

    def frame(self, variant: str = "") -> pd.DataFrame:
        """A row per scale and type: variant, area, error, AP50, gain, num_errors."""
        # Each begins with the images as they are
        known = next(iter(self._resampled.values()), None)
        ap50, *gains = (self.gains() if known is None else known)[..., 0]
        return pd.DataFrame(
            [
                (variant, area, name, ap50[a], gains[e][a], self.num_errors[e, a])
                for a, area in enumerate(self.table.areas)
                for e, name in enumerate(ERROR_TYPES)
            ],
            columns=["variant", "area", "error", "AP50", "gain", "num_errors"],
        )


def find_errors(
    truth: Truth,
    detections: Detections,
    iou_type: str = "bbox",
    areas: Mapping[str, tuple[float, float]] = COCO_AREAS,
    foreground: float = FOREGROUND,
    background: float = 0.1,
    max_det: int = 100,
    found: Assignment | None = None,
) -> Errors:
    """Classify every error at every scale; `foreground` and `background` are TIDE's thresholds.

    `found` is the assignment at `foreground`, where it is known already.
    """
    threshold = np.array([foreground])
    if found is None:
        found = assign(truth, detections, iou_type, threshold, areas, max_det)
    table = tabulate(truth, detections, iou_type, threshold, areas, (max_det,), found)
    outcome = np.zeros(found.in_area.shape, np.int8)
    outcome[found.matched] = found.outcome[:, :, 0]
    taken = np.zeros(found.ignored.shape, bool)
    for a in range(len(areas)):
        target = found.target[:, a, 0]
        taken[target[target >= 0], a] = True

    errors, doubted, about = _classified(
        truth, detections, found, iou_type, outcome == 0, taken, foreground, background
    )
    scores = detections.scores[found.rows]
    fixes = _choose_fixes(about, scores[doubted], found.ignored | taken)
    misses = ~found.ignored & ~taken
    for a in range(len(areas)):
        misses[about[about[:, a] >= 0, a], a] = False

    changing = np.flatnonzero(((outcome != 0) | ((errors >= 0) & (errors < _BKG))).any(axis=1))
    objects = np.full((len(changing), len(areas)), -1, np.int32)
    objects[np.searchsorted(changing, doubted)] = fixes
    outcomes = _fixed_outcomes(outcome[changing], errors[changing], objects)
    objects[errors[changing] != _CLS] = -1
    fixed = _with_moved(truth, found, table, scores, changing, outcomes, objects)
    num_errors = [(errors == e).sum(axis=0) for e in range(len(_FALSE_POSITIVES))]
    return Errors(
        fixed,
        {
            "Bkg": _without(table, errors == _BKG),
            "Miss": replace(
                fixed, outcome=fixed.outcome[:, :, :1], truth_counted=fixed.truth_counted & ~misses
            ),
        },
        np.array([*num_errors, misses.sum(axis=0)], np.int64),
    )


def _classified(
    truth: Truth,
    detections: Detections,
    found: Assignment,
    iou_type: str,
    unmatched: NDArray[np.bool_],
    taken: NDArray[np.bool_],
    foreground: float,
    background: float,
) -> tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.int32]]:
    """The error of each detection (D, A); the S detections of Loc and Cls errors, rising, and the
    object each of these is about (S, A), -1 where none."""
    category, object_category = detections.category[found.rows], truth.category[found.objects]
    crowd = truth.is_region(iou_type)[found.objects]
    num_areas = unmatched.shape[1]
    errors = np.empty(unmatched.shape, np.int8)
    doubted, about = [], []
    by_image = stable_order(detections.image[found.rows], len(truth.image_ids))
    for start in range(0, len(by_image) or 1, _AT_ONCE):
        rows = by_image[start : start + _AT_ONCE]
        pairs = overlaps(
            truth, detections, replace(found, rows=found.rows[rows]), iou_type, background
        )
        arrays = (
            *pairs,
            category[rows],
            object_category,
            crowd,
            unmatched[rows],
            found.in_area[rows],
            found.ignored,
            taken,
        )
        here = np.empty((len(rows), num_areas), np.int8)
        objects = np.empty(here.shape, np.int32)
        _classify(
            *map(np.ascontiguousarray, arrays),
            *(foreground, background, len(pairs[0]), len(rows), num_areas),
            *(here, objects),
        )
        errors[rows] = here
        has_object = (objects >= 0).any(axis=1)
        doubted.append(rows[has_object])
        about.append(objects[has_object])
    order = np.argsort(np.concatenate(doubted))
    return errors, np.concatenate(doubted)[order], np.concatenate(about)[order]


def overlaps(
    truth: Truth, detections: Detections, found: Assignment, iou_type: str, least_iou: float
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Detection, object and IoU of all that overlap in an image, of any category."""
    num_images = len(truth.image_ids)
    image, object_image = detections.image[found.rows], truth.image[found.objects]
    groups = stable_order(image, num_images)
    by_image = stable_order(object_image, num_images)
    objects = found.objects[by_image]
    detection, target, iou = find_pairs(
        groups,
        image.astype(np.int64),
        shapes_of(detections, iou_type)[0],
        found.rows,
        object_image[by_image].astype(np.int64),
        take(truth.boxes if iou_type == "bbox" else truth.rles, objects),
        truth.is_region(iou_type)[objects],
        least_iou,
    )
    return detection, by_image[target].astype(np.int32), iou


def _choose_fixes(
    about: NDArray[np.int32], score: NDArray[np.float64], unfit: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """The object each error becomes a true positive of, (D, A): the best error of an object.

    Objects that are taken or ignored (`unfit`) need none.
    """
    fixes = np.full_like(about, -1)
    falling = np.argsort(-score, kind="stable")
    for a in range(about.shape[1]):
        candidates = falling[about[falling, a] >= 0]
        objects, first = np.unique(about[candidates, a], return_index=True)
        fit = ~unfit[objects, a]
        fixes[candidates[first[fit]], a] = objects[fit]
    return fixes


def _fixed_outcomes(
    outcome: NDArray[np.int8], errors: NDArray[np.int8], fixes: NDArray[np.int32]
) -> NDArray[np.int8]:
    """Outcomes (E, A) as they are and with each of `_SIDE_BY_SIDE` fixed, (E, A, 1 + types)."""
    fixed = [outcome]
    for name in _SIDE_BY_SIDE:
        of_type = errors == _FALSE_POSITIVES.index(name)
        fixed.append(np.where(of_type, np.int8(IGNORED), outcome))
        if name != "Cls":
            fixed[-1][of_type & (fixes >= 0)] = TRUE_POSITIVE
    return np.stack(fixed, axis=2)


def _with_moved(
    truth: Truth,
    found: Assignment,
    table: Matches,
    scores: NDArray[np.float64],
    matched: NDArray[np.int64],
    outcome: NDArray[np.int8],
    fixes: NDArray[np.int32],
) -> Matches:
    """The table with these outcomes (E, A, 1 + types) of the detections `matched`.

    Where Cls is fixed, `fixes` (E, A) are the objects that they become true positives of: there
    they are added to the category of the object.
    """
    event, area = np.nonzero(fixes >= 0)
    category = truth.category[found.objects[fixes[event, area]]]
    order = np.lexsort((table.image[matched[event]], -scores[matched[event]], category))
    event, area, category = event[order], area[order], category[order]
    image, score = table.image[matched[event]], scores[matched[event]]
    added = np.zeros((len(event), *outcome.shape[1:]), np.int8)
    added[np.arange(len(added)), area, 1 + _SIDE_BY_SIDE.index("Cls")] = TRUE_POSITIVE
    before = _find_places(table, scores, category, image, score)
    num_added = np.bincount(category, minlength=len(table.category_ids))
    places = np.concatenate(
        [matched + np.searchsorted(before, matched, "right"), before + np.arange(len(before))]
    )
    rising = np.argsort(places)
    return replace(
        table,
        image=np.insert(table.image, before, image),
        rank=np.insert(table.rank, before, 0),
        in_area=np.insert(table.in_area, before, False, axis=0),
        starts=table.starts + np.concatenate([[0], np.cumsum(num_added)]),
        matched=places[rising].astype(np.int32),
        outcome=np.concatenate([outcome, added])[rising],
    )


def _find_places(
    table: Matches,
    scores: NDArray[np.float64],
    category: NDArray[np.int32],
    image: NDArray[np.int32],
    score: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Before which detections of the table (D) others (F), sorted as they are, stand among them.

    Behind those of the same category, score and image. `scores` are those of the table.
    """
    places = np.empty(len(category), np.int64)
    for k in np.unique(category):
        here, (start, end) = category == k, table.starts[k : k + 2]
        first, last = (
            start + np.searchsorted(-scores[start:end], -score[here], side)
            for side in ("left", "right")
        )
        places[here] = [
            i + np.searchsorted(table.image[i:j], each, "right")
            for i, j, each in zip(first, last, image[here], strict=True)
        ]
    return places


def _without(table: Matches, errors: NDArray[np.bool_]) -> Matches:
    """The table without errors (D, A) that take no object: as if outside the scale."""
    in_area: NDArray[np.bool_] = table.in_area & ~errors
    kept = np.zeros(len(in_area), bool)
    kept[table.matched] = True
    rows = np.flatnonzero(kept | in_area.any(axis=1))
    return replace(
        table,
        image=table.image[rows],
        rank=table.rank[rows],
        in_area=in_area[rows],
        starts=np.searchsorted(rows, table.starts),
        matched=np.searchsorted(rows, table.matched).astype(np.int32),
    )


def compare_errors(
    a: Sequence[Errors],
    b: Sequence[Errors],
    num_resamples: int = 1000,
    seed: int = 0,
    names: tuple[str, str] = ("a", "b"),
) -> dict[tuple[str, str], Sample]:
    """What b would gain by fixing each type, minus what a would: negative where b errs less.

    By scale and type, for `correct_errors`. Each side is the mean over its runs, images and seeds
    count as in `analysis.bootstrap.compare`. Raises `analysis.bootstrap.NotComparableError`, and
    ValueError for too few resamples.
    """
    check_num_resamples(num_resamples)
    check_comparable([run.table for run in (*a, *b)], [names[0]] * len(a) + [names[1]] * len(b))
    table = a[0].table
    gains_a, gains_b = (
        np.stack([run.resample(num_resamples, seed)[1:] for run in side]) for side in (a, b)
    )
    difference = gains_b.mean(axis=0) - gains_a.mean(axis=0)
    sides = seed_spread(gains_a), seed_spread(gains_b)
    num_images = count_images_with_objects(table)
    return {
        (area, name): Sample(
            float(difference[e, i, 0]),
            difference[e, i, 1:],
            num_images[area],
            tuple(side.at((e, i)) for side in sides),
        )
        for e, name in enumerate(ERROR_TYPES)
        for i, area in enumerate(table.areas)
    }


def correct_errors(
    comparisons: Mapping[str, Mapping[tuple[str, str], Sample]],
) -> pd.DataFrame:
    """A row per variant, scale and type that has a value, corrected over all of them together.

    `comparisons` are those of `compare_errors` by variant, from the same images and seed.
    """
    rows = [
        {"variant": variant, "area": area, "error": name, **vars(each), "real": each.real}
        for variant, found in correct_samples(comparisons).items()
        for (area, name), each in found.items()
    ]
    return pd.DataFrame(rows)

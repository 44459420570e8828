"""What detections take objects for: a confusion matrix from the matches that AP50 counts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import (
    COCO_AREAS,
    TRUE_POSITIVE,
    UNMATCHED,
    Assignment,
    assign,
)
from analysis.detection_errors import overlaps

BACKGROUND, MISSED = "(background)", "(missed)"
"""The row of detections of nothing, and the column of objects that nothing finds."""
MAX_DET = 100
"""Detections per image and category that are counted: COCO's."""


def confusion(
    truth: Truth,
    detections: Detections,
    iou_type: str = "bbox",
    min_score: float = 0.5,
    iou: float = 0.5,
    max_det: int = MAX_DET,
    found: Assignment | None = None,
) -> NDArray[np.int64]:
    """Objects by true and detected category, (K + 1, K + 1).

    The last row is what is detected in the background, the last column what is missed.

    Counts detections scored `min_score` or more. Those that take an object of their own category,
    as in AP at this IoU, stand on the diagonal. Then, from the highest score down, each other one
    takes the free object of another category with the highest IoU, if that is `iou` or more; one
    that takes none is background. Crowds, and detections that lie on them, are left out.

    `found` is the assignment at `iou` and objects of all sizes, where it is known already.
    """
    num_categories = len(truth.category_ids)
    if found is None:
        areas = {"all": COCO_AREAS["all"]}
        found = assign(truth, detections, iou_type, np.array([iou]), areas, max_det)
    scores = detections.scores[found.rows]
    shown = scores >= min_score
    outcome = np.full(len(found.rows), UNMATCHED, np.int8)
    outcome[found.matched] = found.outcome[:, 0, 0]
    target = np.full(len(found.rows), -1, np.int64)
    target[found.matched] = found.target[:, 0, 0]
    target[(outcome != TRUE_POSITIVE) | ~shown] = -1
    crowd = truth.is_region(iou_type)[found.objects]
    free = ~crowd
    free[target[target >= 0]] = False

    category = detections.category[found.rows]
    object_category = truth.category[found.objects]
    left = np.flatnonzero(shown & (outcome == UNMATCHED) & found.in_area[:, 0])
    some = replace(found, rows=found.rows[left])
    candidates = _candidates(*overlaps(truth, detections, some, iou_type, iou))
    for d in np.argsort(-scores[left], kind="stable"):
        for n in candidates.get(int(d), []):
            if free[n] and object_category[n] != category[left[d]]:
                target[left[d]] = n
                free[n] = False
                break

    matrix = np.zeros((num_categories + 1, num_categories + 1), np.int64)
    takes = np.flatnonzero(target >= 0)
    np.add.at(matrix, (object_category[target[takes]], category[takes]), 1)
    of_nothing = left[target[left] < 0]
    matrix[-1, :-1] = np.bincount(category[of_nothing], minlength=num_categories)
    matrix[:-1, -1] = np.bincount(object_category[free], minlength=num_categories)
    return matrix


def _candidates(
    detection: NDArray[np.int32], target: NDArray[np.int32], iou: NDArray[np.float64]
) -> dict[int, list[int]]:
    """The objects that a detection overlaps, the highest IoU first."""
    found: dict[int, list[int]] = {}
    for i in np.argsort(-iou, kind="stable"):
        found.setdefault(int(detection[i]), []).append(int(target[i]))
    return found


def confusion_frame(matrix: NDArray[np.int64], names: Sequence[str]) -> pd.DataFrame:
    """Rows true, detected, count, where the count is not 0."""
    true, detected = np.nonzero(matrix)
    return pd.DataFrame(
        {
            "true": np.array([*names, BACKGROUND], object)[true],
            "detected": np.array([*names, MISSED], object)[detected],
            "count": matrix[true, detected],
        }
    )

"""Precision by recall of a set of detections, as COCO's AP averages it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.evaluation.matching import IGNORED, TRUE_POSITIVE, UNMATCHED, Matches

RECALLS: NDArray[np.float64] = np.linspace(0, 1, 101)


def precision_by_recall(matches: Matches, threshold: int, area: str = "all") -> NDArray[np.float64]:
    """The highest precision at each of RECALLS or beyond, (K, 101); NaN where no object counts.

    At the IoU threshold of this index, an object scale, and the largest maxDets. The mean of a
    row is the category's AP there.
    """
    num_categories = len(matches.category_ids)
    a = matches.areas.index(area)
    outcome = np.full(len(matches.image), UNMATCHED, np.int8)
    outcome[matches.matched] = matches.outcome[:, a, threshold]
    counts = (outcome == TRUE_POSITIVE) | ((outcome != IGNORED) & matches.in_area[:, a])
    precision = np.full((num_categories, len(RECALLS)), np.nan)
    for k in range(num_categories):
        objects = slice(*matches.truth_starts[k : k + 2])
        num_objects = int(matches.truth_counted[objects, a].sum())
        if num_objects:
            chosen = slice(*matches.starts[k : k + 2])
            found = outcome[chosen][counts[chosen]] == TRUE_POSITIVE
            precision[k] = _envelope(found, num_objects)
    return precision


def _envelope(found: NDArray[np.bool_], num_objects: int) -> NDArray[np.float64]:
    """From whether each detection, the best scored first, is a true positive."""
    num_true = np.cumsum(found)
    precision = num_true / np.arange(1, len(found) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(num_true / num_objects, RECALLS, side="left")
    return np.append(highest, 0.0)[reached]


def precision_frame(matches: Matches, thresholds: Sequence[int]) -> pd.DataFrame:
    """Rows iou, recall, precision: means over the categories with objects, at these thresholds."""
    rows = []
    for threshold in thresholds:
        precision = precision_by_recall(matches, threshold)
        present = precision[~np.isnan(precision[:, 0])]
        if len(present):
            iou = round(float(matches.iou_thresholds[threshold]), 9)
            means = present.mean(axis=0)
            rows += [(iou, recall, each) for recall, each in zip(RECALLS, means, strict=True)]
    return pd.DataFrame(rows, columns=["iou", "recall", "precision"])

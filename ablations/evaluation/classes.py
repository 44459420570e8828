"""Errors of classifications: whether an image's class is among the first one or five guesses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.metrics import error_metrics

ERRORS = error_metrics()
NUM_TOP = max(metric.cell.max_dets or 0 for metric in ERRORS)
"""How many classes a prediction names, likeliest first."""


def class_faults(
    predictions: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[str, NDArray[np.bool_]]:
    """Metric -> whether each image (N,) is wrong by it, in the order of their ids.

    A prediction is {image_id, label, top}, with the likeliest classes in `top`. An error of more
    guesses than leave a class out says nothing, and is absent.
    """
    ordered = sorted(predictions, key=lambda prediction: prediction["image_id"])
    labels = np.array([[prediction["label"]] for prediction in ordered])
    is_label = np.array([prediction["top"] for prediction in ordered]) == labels
    limits = {metric.name: metric.cell.max_dets or 0 for metric in ERRORS}
    return {
        name: ~is_label[:, :limit].any(axis=1)
        for name, limit in limits.items()
        if limit < num_classes
    }


def resampled_error(is_wrong: NDArray[np.bool_], counts: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The error (R,) on draws of the images; `counts` (N, R) says how often each counts."""
    return counts[is_wrong].sum(axis=0, dtype=np.int64) / counts.sum(axis=0, dtype=np.int64)


def class_errors(
    predictions: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[str, float | None]:
    """The errors by their metrics' names, as fractions; None where one says nothing."""
    faults = class_faults(predictions, num_classes)
    names = [metric.name for metric in ERRORS]
    return {name: float(faults[name].mean()) if name in faults else None for name in names}

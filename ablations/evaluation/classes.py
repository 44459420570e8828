"""Errors of classifications: whether an image's class is the first, or among the first five."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_TOP = 5
"""How many classes a prediction names, likeliest first."""


def class_faults(
    predictions: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[str, NDArray[np.bool_]]:
    """Metric -> whether each image (N,) is wrong by it, in the order of their ids.

    A prediction is {image_id, label, top}, with the likeliest classes in `top`. Of five classes or
    fewer one is always among the first five: there is no `top5_error` then.
    """
    ordered = sorted(predictions, key=lambda prediction: prediction["image_id"])
    labels = np.array([[prediction["label"]] for prediction in ordered])
    is_label = np.array([prediction["top"] for prediction in ordered]) == labels
    faults = {"top1_error": ~is_label[:, 0]}
    if num_classes > NUM_TOP:
        faults["top5_error"] = ~is_label.any(axis=1)
    return faults


def class_errors(
    predictions: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[str, float | None]:
    """`top1_error` and `top5_error` as fractions; None where one says nothing."""
    faults = class_faults(predictions, num_classes)
    return {
        name: float(faults[name].mean()) if name in faults else None
        for name in ("top1_error", "top5_error")
    }

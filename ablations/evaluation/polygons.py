"""Polygons in the text of a JSON file, measured and copied without decoding them.

A million polygons take minutes and gigabytes as Python lists. What is no plain list of lists of
numbers is left to Python.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation import masks
from ablations.evaluation.masks import Survey, survey_flat
from ablations.evaluation.scan import Stored
from detnet_kernels.loader import BOOL, F64, I64, INT, U8, kernel

_read_polygons = kernel("read_polygons", U8, I64, INT, F64, I64, I64, BOOL, result=INT)
_copy = kernel("copy_as_python_writes", U8, I64, INT, U8, I64, BOOL)


def survey_plain(given: Sequence[Any]) -> tuple[NDArray[np.int64], Survey]:
    """Which segmentations are plain lists of polygons of numbers, and their survey."""
    if isinstance(given, Stored):
        return survey_stored(given)
    plain = [
        i
        for i, mask in enumerate(given)
        if type(mask) is list and mask and all(map(_is_plain, mask))
    ]
    try:
        survey = masks.survey([given[i] for i in plain])
    except (TypeError, OverflowError):
        return np.zeros(0, dtype=np.int64), masks.survey([])
    return np.array(plain, dtype=np.int64), survey


def _is_plain(polygon: Any) -> bool:
    return type(polygon) is list and len(polygon) >= 6 and not len(polygon) % 2


def survey_stored(stored: Stored) -> tuple[NDArray[np.int64], Survey]:
    """Which values are plain polygons of three points or more each, and their survey."""
    num_numbers = int((stored.spans[:, 1] - stored.spans[:, 0]).sum()) // 2 + 1
    values = np.empty(num_numbers)
    polygon_ends = np.empty(num_numbers, np.int64)
    mask_ends = np.empty(len(stored), np.int64)
    plain = np.empty(len(stored), np.bool_)
    data = np.frombuffer(stored.buffer, np.uint8)
    spans = np.ascontiguousarray(stored.spans)
    num_polygons = _read_polygons(data, spans, len(spans), values, polygon_ends, mask_ends, plain)
    survey = survey_flat(values, polygon_ends[:num_polygons], mask_ends[plain])
    return np.flatnonzero(plain), survey


def as_python_writes(stored: Stored) -> list[str]:
    """The values as `json.dumps` writes them, with sorted keys."""
    data = np.frombuffer(stored.buffer, np.uint8)
    room = 2 * int((stored.spans[:, 1] - stored.spans[:, 0]).sum())
    text = np.empty(room, np.uint8)
    ends = np.empty(len(stored) + 1, np.int64)
    copied = np.empty(len(stored), np.bool_)
    _copy(data, np.ascontiguousarray(stored.spans), len(stored), text, ends, copied)
    content: Any = text.data
    limits = ends.tolist()
    texts = [str(content[limits[i] : limits[i + 1]], "ascii") for i in range(len(stored))]
    for i in np.flatnonzero(~copied).tolist():
        texts[i] = json.dumps(stored[i], sort_keys=True)
    return texts

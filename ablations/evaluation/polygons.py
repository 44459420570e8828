"""Polygons in the text of a JSON file, measured and copied without decoding them.

A million polygons take minutes and gigabytes as Python lists. What is no plain list of lists of
numbers is left to Python.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ablations.evaluation import masks
from ablations.evaluation.masks import Survey, survey_flat
from ablations.evaluation.scan import HARD, NONE, Stored, blank, number

NUM_EXACT_DIGITS = 15
"""A decimal of so many digits comes back unchanged from float64, as the shortest one that does."""


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
    num_polygons = _read(data, stored.spans, values, polygon_ends, mask_ends, plain)
    survey = survey_flat(values, polygon_ends[:num_polygons], mask_ends[plain])
    return np.flatnonzero(plain), survey


@njit(cache=True, nogil=True)
def _read(data, spans, values, polygon_ends, mask_ends, plain):  # type: ignore[no-untyped-def]
    """Fill the numbers, where each polygon ends in them and each mask in the polygons."""
    num_numbers, num_polygons = 0, 0
    for i in range(len(spans)):
        at, end = spans[i]
        first_number, first_polygon = num_numbers, num_polygons
        plain[i] = False
        more = end > at and data[at] == ord("[")
        while more:
            at = blank(data, at + 1)
            if data[at] != ord("["):
                break
            start = num_numbers
            inside = True
            while inside:
                at, found, _, value = number(data, blank(data, at + 1))
                if found in (NONE, HARD):
                    break
                values[num_numbers] = value
                num_numbers += 1
                at = blank(data, at)
                inside = data[at] == ord(",")
            length = num_numbers - start
            if inside or data[at] != ord("]") or length < 6 or length % 2 == 1:
                break
            polygon_ends[num_polygons] = num_numbers
            num_polygons += 1
            at = blank(data, at + 1)
            more = data[at] == ord(",")
            plain[i] = data[at] == ord("]")
        if not plain[i]:
            num_numbers, num_polygons = first_number, first_polygon
        mask_ends[i] = num_polygons
    return num_polygons


def as_python_writes(stored: Stored) -> list[str]:
    """The values as `json.dumps` writes them, with sorted keys."""
    data = np.frombuffer(stored.buffer, np.uint8)
    room = 2 * int((stored.spans[:, 1] - stored.spans[:, 0]).sum())
    text = np.empty(room, np.uint8)
    ends = np.empty(len(stored) + 1, np.int64)
    copied = np.empty(len(stored), np.bool_)
    _copy(data, stored.spans, text, ends, copied)
    content: Any = text.data
    limits = ends.tolist()
    texts = [str(content[limits[i] : limits[i + 1]], "ascii") for i in range(len(stored))]
    for i in np.flatnonzero(~copied).tolist():
        texts[i] = json.dumps(stored[i], sort_keys=True)
    return texts


@njit(cache=True, nogil=True)
def _copy(data, spans, text, ends, copied):  # type: ignore[no-untyped-def]
    """Copy lists of numbers that stand there as Python writes them, a space after each comma."""
    num = 0
    ends[0] = 0
    for i in range(len(spans)):
        at, end = spans[i]
        sound = end > at and data[at] == ord("[")
        while sound and at < end:
            c = data[at]
            if c == ord("-") or ord("0") <= c <= ord("9"):
                start = at
                at = _python_number(data, at)
                sound = at > start
                for k in range(start, at):
                    text[num] = data[k]
                    num += 1
                continue
            if c == ord(",") or c == ord("[") or c == ord("]"):
                text[num] = c
                num += 1
                if c == ord(","):
                    text[num] = ord(" ")
                    num += 1
            elif c != 32 and c != 10 and c != 13 and c != 9:
                sound = False
            at += 1
        copied[i] = sound
        if not sound:
            num = ends[i]
        ends[i + 1] = num


@njit(cache=True, nogil=True, inline="always")
def _python_number(data, at):  # type: ignore[no-untyped-def]
    """The place behind a number that is sure to be written as Python writes it; else `at`."""
    start = at
    if data[at] == ord("-"):
        at += 1
    first = at
    while ord("0") <= data[at] <= ord("9"):
        at += 1
    num_whole = at - first
    if data[at] != ord("."):
        is_exponent = data[at] == ord("e") or data[at] == ord("E")
        is_long = num_whole > NUM_EXACT_DIGITS
        return (
            start if is_exponent or is_long or (first > start and data[first] == ord("0")) else at
        )
    point = at
    at += 1
    while ord("0") <= data[at] <= ord("9"):
        at += 1
    num_digits = num_whole + at - point - 1
    if num_digits > NUM_EXACT_DIGITS or data[at] == ord("e") or data[at] == ord("E"):
        return start
    if data[at - 1] == ord("0") and at - point > 2:
        return start  # 1.50
    if data[first] == ord("0") and data[point + 1] == ord("0") and data[point + 2] == ord("0"):
        return start  # 0.00001 is 1e-05
    return at

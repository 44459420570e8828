"""Results whose boxes are not x, y, width, height in pixels: refused by their format's name."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_coco import ABSENT, HEIGHT, WIDTH, annotation, content

from ablations.evaluation.coco import Detections, FormatError, Truth


def corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def center(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x + width / 2, y + height / 2, width, height]


def shares(box: list[float]) -> list[float]:
    return [value / side for value, side in zip(box, [WIDTH, HEIGHT] * 2, strict=True)]


def swapped(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [y, x, height, width]


FORMATS = {
    "x1, y1, x2, y2": corners,
    "center x, center y, width, height": center,
    "x, y, width, height, as shares": shares,
    "x1, y1, x2, y2, as shares": lambda box: shares(corners(box)),
    "center x, center y, width, height, as shares": lambda box: shares(center(box)),
}
ODD_FORMATS = {
    "y1, x1, y2, x2": lambda box: swapped(corners(box)),
    "y, x, height, width": lambda box: swapped(box),
    "y1, x1, y2, x2, as shares": lambda box: swapped(shares(corners(box))),
    "x, y, width, height, in percent": lambda box: [100 * share for share in shares(box)],
    "x1, y1, x2, y2, in thousandths": lambda box: [1000 * x for x in shares(corners(box))],
}
FIXED = [annotation(k, k % 2 + 1, bbox=[10 + k, 20, 24, 12], area=288) for k in (1, 2, 3, 4)]


def results_of(annotations: list[dict[str, Any]], convert: Any) -> list[dict[str, Any]]:
    return [
        {"image_id": a["image_id"], "category_id": 1, "score": 0.9, "bbox": convert(a["bbox"])}
        for a in annotations
    ]


@pytest.mark.parametrize("written", FORMATS | ODD_FORMATS)
def test_results_in_another_format_are_refused_by_its_name(written: str) -> None:
    truth = Truth.from_coco(content(*FIXED))
    with pytest.raises(FormatError) as refusal:
        Detections.from_coco(results_of(FIXED, (FORMATS | ODD_FORMATS)[written]), truth)
    assert written in str(refusal.value)
    assert "results[0].bbox" in str(refusal.value)
    assert "write x, y, width, height in pixels" in str(refusal.value)


@pytest.mark.parametrize("written", FORMATS)
def test_results_of_a_weak_detector_in_another_format_are_refused(written: str) -> None:
    """Of 200 objects it finds one in four, among many false boxes."""
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, [30, 25], (200, 2)), rng.uniform(4, 15, (200, 2))
    boxes = np.concatenate([corner, side], axis=1).round(1).tolist()
    objects = [
        annotation(k, k % 2 + 1, category_id=1, bbox=box, area=box[2] * box[3], segmentation=ABSENT)
        for k, box in enumerate(boxes, start=1)
    ]
    truth = Truth.from_coco(content(*objects))
    false = [{**objects[k], "bbox": [1, 1, 3 + k / 100, 3]} for k in range(200)]
    found = results_of(objects[::4] + false, FORMATS[written])
    with pytest.raises(FormatError, match=written):
        Detections.from_coco(found, truth)
    assert Detections.from_coco(results_of(objects[::4] + false, list), truth).notes == {}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 200))
def test_results_by_chance_are_not_taken_for_another_format(
    seed: int, num_objects: int, num_results: int
) -> None:
    """An untrained detector says little, but it does say it in COCO's format."""
    rng = np.random.default_rng(seed)

    def boxes(num: int) -> list[list[float]]:
        corner, side = rng.uniform(0, [40, 30], (num, 2)), rng.uniform(2, 30, (num, 2))
        return np.concatenate([corner, side], axis=1).tolist()

    objects = [
        annotation(k, k % 2 + 1, bbox=box, area=box[2] * box[3], segmentation=ABSENT)
        for k, box in enumerate(boxes(num_objects))
    ]
    found = [annotation(k, k % 2 + 1, bbox=box) for k, box in enumerate(boxes(num_results))]
    Detections.from_coco(results_of(found, list), Truth.from_coco(content(*objects)))


def test_results_between_0_and_1_are_shares_even_where_they_find_nothing() -> None:
    truth = Truth.from_coco(content(*FIXED))
    results = results_of(FIXED * 5, lambda box: [0.9, 0.9, 0.1, 0.1])
    with pytest.raises(FormatError, match="shares of the image"):
        Detections.from_coco(results, truth)


def test_results_that_leave_their_images_are_told() -> None:
    truth = Truth.from_coco(content(*FIXED))
    results = results_of(FIXED, lambda box: [40, 30, 20, 20])
    [note] = Detections.from_coco(results, truth).notes
    assert "leave their image" in note

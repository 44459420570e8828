"""Truth whose boxes are certainly not x, y, width, height: told to training, refused to scores."""

import re
from typing import Any

import numpy as np
import pytest

from ablations.evaluation.coco import FormatError, Truth

WIDTH, HEIGHT = 64, 48
SHARE = 1 / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])


def boxes(num: int, seed: int = 0) -> np.ndarray:
    """Boxes x, y, width, height anywhere in the image."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(4, 24, (num, 2))
    return np.hstack([rng.uniform(0, (WIDTH, HEIGHT) - size), size]).round(1)


def truth(
    boxes: np.ndarray, areas: Any = None, sized: bool = True, outlined: Any = None
) -> dict[str, Any]:
    """`outlined`: the boxes x, y, width, height that polygons are drawn around."""
    size = {"width": WIDTH, "height": HEIGHT} if sized else {}
    return {
        "images": [{"id": 1, **size}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1, "bbox": box}
            | ({} if areas is None else {"area": areas[k - 1]})
            | ({} if outlined is None else {"segmentation": [diamond(*outlined[k - 1].tolist())]})
            for k, box in enumerate(boxes.tolist(), start=1)
        ],
    }


def diamond(x: float, y: float, width: float, height: float) -> list[float]:
    """A polygon with these bounds."""
    middle, center = y + height / 2, x + width / 2
    return [x, middle, center, y, x + width, middle, center, y + height]


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def centers(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]])


def areas(boxes: np.ndarray) -> list[float]:
    return boxes[:, 2:].prod(axis=1).tolist()


@pytest.mark.parametrize(
    ("content", "reading"),
    [
        (truth(corners(boxes(30))), "x1, y1, x2, y2"),
        (truth(corners(boxes(30)), areas(boxes(30))), "x1, y1, x2, y2"),
        (truth(corners(boxes(4)), areas(boxes(4))), "x1, y1, x2, y2"),
        (truth(corners(boxes(30)), areas(boxes(30)), sized=False), "x1, y1, x2, y2"),
        (truth(corners(boxes(4)), outlined=boxes(4)), "x1, y1, x2, y2"),
        (truth(centers(boxes(4)), outlined=boxes(4)), "center x, center y, width, height"),
        (
            truth(boxes(4) * SHARE * 100, outlined=boxes(4)),
            "x, y, width, height, in percent of the image",
        ),
        (
            truth(corners(boxes(4)) * SHARE * 1000, outlined=boxes(4)),
            "x1, y1, x2, y2, in thousandths of the image",
        ),
        (truth(centers(boxes(60))), "center x, center y, width, height"),
        (truth(centers(boxes(60)), areas(boxes(60))), "center x, center y, width, height"),
    ],
)
def test_boxes_in_another_format_are_refused(content: dict[str, Any], reading: str) -> None:
    told = rf"annotation 1 of .*\.bbox.* are {reading}.*"
    with pytest.raises(FormatError, match=rf"{told}write x, y"):
        Truth.from_coco(content)
    if "of the image" in reading:  # no box would be where its object is
        with pytest.raises(FormatError, match=rf"{told}write x, y"):
            Truth.from_coco(content, policy="mend")
    else:
        faults = Truth.from_coco(content, policy="mend").faults.summary()
        (fault,) = (fault for fault in faults if fault["rule"] == "boxes_in_other_order")
        assert re.search(told, fault["examples"][0])


@pytest.mark.parametrize(
    "content",
    [
        truth(boxes(30)),
        truth(boxes(30), areas(boxes(30))),
        truth(boxes(30), sized=False),
        truth(boxes(9), outlined=boxes(9)),
        truth(corners(boxes(2)), outlined=boxes(2)),  # too few to tell
        truth(boxes(9), outlined=boxes(9, seed=1)),  # of no reading
        truth(np.array([[3.0, 3, WIDTH, HEIGHT]] * 9)),  # a slip of a few pixels in each
        truth(np.array([[0.0, 0, 30, 20]] * 9), [600] * 9),  # both readings are one
        truth(corners(boxes(2)), areas(boxes(2))),  # too few to tell
        truth(centers(boxes(9))),
        truth(np.array([[20.0, 10, 60, 40]] * 9), [2400] * 9),  # the areas are COCO's
        truth(corners(boxes(30, seed=2)), [5.0] * 30, sized=False),
    ],
)
def test_what_may_be_cocos_own_is_read(content: dict[str, Any]) -> None:
    assert len(Truth.from_coco(content).image) == len(content["annotations"])


@pytest.mark.parametrize("seed", range(20))
def test_detections_of_cocos_format_are_never_taken_for_another(seed: int) -> None:
    """A fifth of the boxes leave the image, as those of careless tools do."""
    rng = np.random.default_rng(seed)
    given = boxes(25, seed)
    given[rng.random(25) < 0.3, :2] += (WIDTH / 3, HEIGHT / 3)
    assert len(Truth.from_coco(truth(given)).image) == 25


@pytest.mark.filterwarnings("error")
def test_boxes_out_of_all_range_fit_no_reading() -> None:
    wild = np.array([[1e300, 20, 1e308, 12]] * 5)
    read = Truth.from_coco(truth(wild, outlined=boxes(5)), policy="mend")
    assert len(read.image) == 0
    assert read.faults.summary()[0]["rule"] == "box_outside"

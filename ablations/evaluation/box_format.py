"""Whether boxes are x, y, width, height in pixels, as COCO has them.

Other tools write corners, centers or shares of the image. Such files load like any other and score
low, or not quite so low. Of results the truth tells: boxes that find its objects when they are read
in another way, and do not when they are read as COCO's, are written in that way. Of the truth the
images tell, and the areas.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]

NUM_IMAGES = 100
"""Images with objects that are looked at, spread evenly over the truth."""

MIN_IOU = 0.5
MIN_FOUND, MIN_FOUND_ODDLY, MOST = 3, 4, 0.75
"""Another reading (an unusual one) is believed when it finds so many objects and so much of all.

A usual one also when ..."""
MIN_LEAD = 2.6
"""... it leads COCO's by so much in the square root of the number of objects found: 7 to none, 100
to 54. Of 4,000 random detectors on crowded images the luckiest led by 2.45."""

OVERHANG = 1.0
"""Pixels a box may reach over the image's edge as rounding: it is left as it stands."""

FAR = 0.1
"""Share of the image's longer side over which corners lie outside when they are read as COCO's."""
LEAVING_SHARE, MIN_LEAVING = 0.2, 5
"""Share and number of boxes over the edge from which the format, not single boxes, is in doubt."""
MIN_CENTERS = 20
"""Boxes that all lie in their image when they are read as centers; of few, many do by chance."""
MIN_FITTING, FITTING_SHARE = 3, 0.9
"""Objects whose `area` or outline fits one reading alone, and their share of all that have one."""
MIN_OUTLINE_IOU = 0.8


def from_corners(boxes: Boxes) -> Boxes:
    """x1, y1, x2, y2 -> x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_center(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _as_they_are(boxes: Boxes) -> Boxes:
    return boxes


def _swapped(boxes: Boxes) -> Boxes:
    return boxes[:, [1, 0, 3, 2]]


def _from_swapped_corners(boxes: Boxes) -> Boxes:
    return from_corners(_swapped(boxes))


COCO = "x, y, width, height"
CORNERS = "x1, y1, x2, y2"
CENTERS = "center x, center y, width, height"
READINGS: dict[str, Callable[[Boxes], Boxes]] = {
    COCO: _as_they_are,
    CORNERS: from_corners,
    CENTERS: _from_center,
    "y1, x1, y2, x2": _from_swapped_corners,
    "y, x, height, width": _swapped,
}
NUM_USUAL = 3
"""The first readings, in pixels or as shares, are what most other tools write."""


def leaves_image(
    boxes: Boxes, sizes: NDArray[np.int64], overhang: float | NDArray[np.float64] = OVERHANG
) -> NDArray[np.bool_]:
    """Which boxes reach over the edge of their image by more than rounding, where it is known.

    sizes: (N, 2), height and width
    """
    x, y, width, height = boxes.T
    image_height, image_width = sizes.T
    over = (x < -overhang) | (y < -overhang)
    over |= (x + width > image_width + overhang) | (y + height > image_height + overhang)
    return over & (image_width > 0) & (image_height > 0)


class Misreading(NamedTuple):
    """How boxes are certainly to be read, which is not as COCO's, and what tells it."""

    reading: str
    evidence: str


@np.errstate(over="ignore", invalid="ignore")  # boxes out of all range fit nothing
def find_truth_misreading(
    boxes: Boxes,
    sizes: NDArray[np.int64],
    areas: NDArray[np.float64],
    outlined: NDArray[np.int64],
    outlines: Boxes,
) -> Misreading | None:
    """The format that boxes are in when it is certainly not COCO's.

    sizes: (N, 2), height and width, -1 where unknown; areas: (N,), NaN where not given
    outlined, outlines: boxes (by place) that come with a polygon, and its bounds
    """
    fits = {
        reading: _iou(read, outlines) >= MIN_OUTLINE_IOU
        for reading, read in _read(ALL, boxes[outlined], sizes[outlined])
    }
    as_coco = fits.pop(COCO)
    reading = max(fits, key=lambda name: int(fits[name].sum()))
    if _nearly_all(fits[reading]) and _nearly_all(~as_coco):
        num = int(fits[reading].sum())
        return Misreading(reading, f"{num} of {len(outlined)} have the bounds of their polygons")
    corners, centers = from_corners(boxes), _from_center(boxes)
    has_area = _have_area(boxes, areas)
    if _lie_inside(corners, sizes):
        far = leaves_image(boxes, sizes, FAR * sizes.max(axis=1, initial=0))
        if are_many(far) and not has_area.all():
            return Misreading(CORNERS, _told(far))
        if _have_area(corners, areas).all() and (~has_area).sum() >= MIN_FITTING:
            return Misreading(CORNERS, "each has the area that `area` says")
    leaving = leaves_image(boxes, sizes)
    if len(boxes) >= MIN_CENTERS and are_many(leaving) and _lie_inside(centers, sizes):
        return Misreading(CENTERS, _told(leaving))
    return None


def _nearly_all(fits: NDArray[np.bool_]) -> bool:
    return bool(fits.sum() >= MIN_FITTING and fits.mean() >= FITTING_SHARE)


def are_many(leaving: NDArray[np.bool_]) -> bool:
    """Whether so many boxes leave their image that their format is in doubt."""
    return bool(leaving.sum() >= MIN_LEAVING and leaving.mean() > LEAVING_SHARE)


def _told(leaving: NDArray[np.bool_]) -> str:
    return (
        f"none of {len(leaving)} leaves its image, as x, y, width, height {int(leaving.sum())} do"
    )


def _lie_inside(boxes: Boxes, sizes: NDArray[np.int64]) -> bool:
    return bool((boxes[:, 2:] > 0).all() and not leaves_image(boxes, sizes).any())


def _have_area(boxes: Boxes, areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether an area is that of its box, but for rounding."""
    of_box = boxes[:, 2] * boxes[:, 3]
    return np.abs(of_box - areas) <= 0.01 * of_box + 1


class Objects(NamedTuple):
    """Boxes with the image and category each belongs to."""

    image: NDArray[np.integer[Any]]
    category: NDArray[np.integer[Any]]
    boxes: Boxes

    def take(self, index: NDArray[Any]) -> "Objects":
        """Some of them, by place or by mask."""
        return Objects(self.image[index], self.category[index], self.boxes[index])


PARTS: dict[int | None, str] = {
    None: "",
    1: ", as shares of the image",
    100: ", in percent of the image",
    1000: ", in thousandths of the image",
}
"""What the sides of boxes are in: pixels, or so many parts of the image's."""

Reading = tuple[str, int | None]
"""One of READINGS in one of PARTS."""

ALL: list[Reading] = [(name, part) for name in READINGS for part in PARTS]
AS_COCO: Reading = (COCO, None)
_USUAL_NAMES = list(READINGS)[:NUM_USUAL]
USUAL = [each for each in ALL if each[0] in _USUAL_NAMES and each[1] in (None, 1)]
USUAL.remove(AS_COCO)
ODD = [each for each in ALL if each not in (AS_COCO, *USUAL)]


def _read(
    readings: Iterable[Reading], boxes: Boxes, sizes: NDArray[np.int64]
) -> Iterator[tuple[str, Boxes]]:
    """What boxes of images of these sizes (N, 2) are when they are read in each way."""
    sides = sizes[:, [1, 0, 1, 0]]
    for name, part in readings:
        scale = sides[:, [1, 0, 3, 2]] if name.startswith("y") else sides
        yield name + PARTS[part], READINGS[name](boxes if part is None else boxes * scale / part)


class Misread(NamedTuple):
    """The reading that fits the truth, and how many of the objects looked at it finds."""

    reading: str
    num_found: int
    num_found_as_coco: int
    num_objects: int


@np.errstate(over="ignore", invalid="ignore")
def find_misreading(
    objects: Objects, results: Objects, scores: NDArray[np.float64], image_sizes: NDArray[np.int64]
) -> Misread | None:
    """The format that the boxes of results are in when it is not COCO's; None when it is.

    image_sizes: (num_images, 2), height and width, -1 where unknown
    """
    with_objects = np.flatnonzero(np.bincount(objects.image, minlength=len(image_sizes)))
    step = max(1, -(-len(with_objects) // NUM_IMAGES))
    chosen = np.zeros(len(image_sizes), dtype=bool)
    chosen[with_objects[::step]] = True
    objects = objects.take(chosen[objects.image])
    looked_at = np.flatnonzero(chosen[results.image])
    looked_at = looked_at[np.argsort(-scores[looked_at], kind="stable")]
    results = results.take(looked_at)
    pairs = _pairs(objects, results, len(image_sizes))
    if not len(pairs.row):
        return None

    of_objects = objects.boxes[pairs.object]
    results = results.take(pairs.row)
    sizes = image_sizes[results.image]

    def count_found(readings: Iterable[Reading]) -> dict[str, int]:
        counts = {}
        for reading, boxes in _read(readings, results.boxes, sizes):
            is_found = np.zeros(num_objects, bool)
            is_found[pairs.object[_iou(boxes, of_objects) >= MIN_IOU]] = True
            counts[reading] = int(is_found.sum())
        return counts

    num_objects = len(objects.boxes)
    (num_as_coco,) = count_found([AS_COCO]).values()
    found: dict[str, int] = {}
    for readings, least in ((USUAL, MIN_FOUND), (ODD, MIN_FOUND_ODDLY)):
        can_find_most = num_objects > 2 * num_as_coco
        can_lead = readings is USUAL and num_objects**0.5 - num_as_coco**0.5 >= MIN_LEAD
        if not (can_find_most or can_lead):
            return None
        found |= count_found(readings)
        reading = max(sorted(found), key=lambda name: found[name])
        num = found[reading]
        finds_most = num >= max(least, MOST * num_objects) and num > 2 * num_as_coco
        leads = readings is USUAL and num**0.5 - num_as_coco**0.5 >= MIN_LEAD
        if finds_most or leads:
            return Misread(reading, num, num_as_coco, num_objects)
    return None


class _Pairs(NamedTuple):
    row: NDArray[np.int64]
    object: NDArray[np.int64]


def _pairs(objects: Objects, results: Objects, num_images: int) -> _Pairs:
    """Each object with the best results of its image and category, as many as there are objects.

    More of them would find objects by chance. `results` are sorted from the highest score down.
    """
    object_key = objects.category.astype(np.int64) * num_images + objects.image
    key = results.category.astype(np.int64) * num_images + results.image
    keys, num_objects = np.unique(object_key, return_counts=True)
    by_key = np.argsort(object_key, kind="stable")
    starts = np.cumsum(num_objects) - num_objects

    order = np.argsort(key, kind="stable")
    rank = np.arange(len(key)) - np.searchsorted(key[order], key[order])
    place = np.minimum(np.searchsorted(keys, key[order]), len(keys) - 1)
    kept = (keys[place] == key[order]) & (rank < num_objects[place])
    rows, place = order[kept], place[kept]

    sizes = num_objects[place]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return _Pairs(np.repeat(rows, sizes), by_key[np.repeat(starts[place], sizes) + within])


def _iou(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    first = np.maximum(boxes[:, :2], others[:, :2])
    last = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    shared = np.prod(np.maximum(last - first, 0), axis=1)
    total = np.prod(boxes[:, 2:], axis=1) + np.prod(others[:, 2:], axis=1) - shared
    return np.where(total > 0, shared / np.where(total > 0, total, 1), 0.0)

"""COCO's masks: polygons and run lengths checked, turned into compressed runs, and counted.

pycocotools does the geometry (polygons, IoU, bitmaps). What it accepts without a word is checked
here: runs that do not fill the image, polygons that take all memory. Counting is done here, because
`pycocotools.mask.area` fails on more than 255 masks at once under NumPy 2.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from detnet_kernels.loader import F64, I64, INT, U8, kernel

Rle = dict[str, Any]
"""Compressed run-length mask: `size` is [height, width], `counts` the coded runs."""

Segmentation = list[list[float]] | dict[str, Any]
"""Polygons, or a run-length mask with compressed or plain runs."""

_survey = kernel("survey", F64, I64, I64, INT, F64, F64, F64)
_measure = kernel("measure", U8, I64, INT, I64, I64)

MAX_OUTLINE = 1_000_000
"""Pixels along the edges of a mask's polygons; pycocotools takes 80 bytes for each, inside the
image or not."""

MAX_OVERHANG = 2
"""Times the longer side of the image: a polygon that lies farther out is that of another image."""


def encode(segmentation: Any, height: int, width: int) -> Rle:
    """The compressed mask of a COCO `segmentation`: polygons, plain runs or compressed runs.

    Raises ValueError, in words that fit behind the name of the field, for what is none of these
    or has another size than the image. Compressed runs are checked by `measure`, many at once.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            raise ValueError("has no polygon")
        for polygon in segmentation:
            if (fault := polygon_fault(polygon, height, width)) is not None:
                raise ValueError(f"has {fault}")
        if (fault := outline_fault(segmentation)) is not None:
            raise ValueError(f"has {fault}")
        return mask.merge(mask.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("is neither a list of polygons nor a mask with 'size' and 'counts'")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(
            f"is a mask of size {size} in an image of [height, width] {[height, width]}; "
            "encode it at the image's size"
        )
    if isinstance(counts, str):
        counts = counts.encode()
    if isinstance(counts, bytes):
        return {"size": [height, width], "counts": counts}
    if not isinstance(counts, list) or not all(type(run) is int for run in counts):
        raise ValueError("has counts that are neither whole numbers nor a COCO compressed string")
    if any(run < 0 for run in counts):
        raise ValueError("has a negative run")
    if sum(counts) != height * width:
        raise ValueError(f"has runs of {sum(counts)} pixels in an image of {height * width}")
    return mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def checked(segmentation: Any, height: int, width: int) -> Rle:
    """As `encode`, with compressed runs checked too."""
    rle = encode(segmentation, height, width)
    if (fault := runs_fault(int(measure([rle])[0][0]), height * width)) is not None:
        raise ValueError(fault)
    return rle


def runs_fault(pixels: int, expected: int) -> str | None:
    """Why runs of so many pixels (-1: damaged, see `measure`) are no mask of the image."""
    if pixels < 0:
        return "its runs are damaged; encode the mask again"
    if pixels != expected:
        return f"its runs cover {pixels} pixels of {expected}; encode the mask again"
    return None


def polygon_fault(polygon: object, height: int, width: int) -> str | None:
    """Why a polygon cannot be rasterized; None when it can."""
    if not isinstance(polygon, list):
        if isinstance(polygon, int | float):
            return f"{polygon!r} where a polygon is due: write [[x1, y1, x2, y2, ...], ...]"
        return f"a polygon that is a {type(polygon).__name__}, not a list of numbers"
    # Four numbers would be read as a box by pycocotools, an odd number as a shorter polygon.
    if len(polygon) < 6:
        return f"a polygon of {len(polygon)} numbers, not of three points or more"
    if len(polygon) % 2:
        return f"a polygon of {len(polygon)} numbers, x and y do not pair up"
    if not all(type(value) in (int, float) for value in polygon):
        return "a polygon with values that are not numbers"
    try:
        finite = all(map(math.isfinite, polygon))
    except OverflowError:
        finite = False
    if not finite:
        return "a polygon with values that are not finite"
    limit = MAX_OVERHANG * max(width, height)
    if min(polygon) < -limit or max(polygon) > limit:
        return f"a polygon that lies far outside the {width}x{height} image"
    return outline_fault([polygon])


def outline_fault(polygons: list[list[float]]) -> str | None:
    """Why filling a mask's polygons takes too much; None when it does not."""
    outline = survey([polygons]).outline[0]
    if outline <= MAX_OUTLINE:
        return None
    which = "a polygon whose outline is" if len(polygons) == 1 else "polygons whose outlines are"
    return f"{which} {outline:.0f} pixels long, more than {MAX_OUTLINE}"


class Survey(NamedTuple):
    """Polygons measured without filling them; one row per mask."""

    corners: NDArray[np.float64]
    """(N, 4) least x, least y, largest x, largest y."""
    outline: NDArray[np.float64]
    """(N,) pixels along all edges, counted as the rasterizer does: the longer of the two sides."""
    area: NDArray[np.float64]
    """(N,) area in square pixels, summed over the mask's polygons; overlaps count twice."""


def survey(masks: Sequence[list[list[float]]]) -> Survey:
    """Measure masks of polygons, each of them a list of an even number of numbers.

    Raises TypeError for what is no number, OverflowError for one out of range.
    """
    polygons = list(chain.from_iterable(masks))
    numbers = list(chain.from_iterable(polygons))
    if not set(map(type, numbers)) <= {int, float}:
        raise TypeError("a polygon with values that are not numbers")
    lengths = np.fromiter(map(len, polygons), np.int64, len(polygons))
    values = np.fromiter(numbers, np.float64, len(numbers))
    num_polygons = np.fromiter(map(len, masks), np.int64, len(masks))
    return survey_flat(values, np.cumsum(lengths), np.cumsum(num_polygons))


def survey_flat(
    values: NDArray[np.float64], polygon_ends: NDArray[np.int64], mask_ends: NDArray[np.int64]
) -> Survey:
    """`survey` of all numbers in a row, with the ends of polygons in them and of masks in those."""
    num_masks = len(mask_ends)
    survey = Survey(np.empty((num_masks, 4)), np.empty(num_masks), np.empty(num_masks))
    _survey(values, polygon_ends, mask_ends, num_masks, *survey)
    return survey


def measure(rles: Sequence[Rle]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels under all runs and pixels of the mask, per compressed mask; -1 for damaged runs."""
    counts = [rle["counts"] for rle in rles]
    coded = np.frombuffer(b"".join(counts), dtype=np.uint8)
    ends = np.cumsum(np.fromiter(map(len, counts), np.int64, len(counts)))
    pixels, areas = np.empty(len(ends), np.int64), np.empty(len(ends), np.int64)
    _measure(coded, ends, len(ends), pixels, areas)
    return pixels, areas


def box_polygon(box: Sequence[float]) -> list[list[float]]:
    """The box x, y, width, height as a polygon."""
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def rasterize(
    segmentations: Sequence[Segmentation | None], width: int, height: int
) -> NDArray[np.uint8]:
    """Checked segmentations of one image -> (N, height, width) of 0 and 1; None has no pixel."""
    bitmaps = np.zeros((len(segmentations), height, width), dtype=np.uint8)
    given = [i for i, segmentation in enumerate(segmentations) if segmentation is not None]
    if given:
        rles = [_drawn(segmentations[i], height, width) for i in given]
        bitmaps[given] = mask.decode(rles).transpose(2, 0, 1)
    return bitmaps


def _drawn(segmentation: Any, height: int, width: int) -> Rle:
    """`encode` without its checks of polygons."""
    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, height, width))
    return encode(segmentation, height, width)


def scaled(polygons: list[list[float]], ratio: Sequence[float]) -> list[list[float]]:
    """Polygons of an image whose x and y are multiplied by these ratios."""
    x_ratio, y_ratio = ratio
    return [
        (np.array(polygon).reshape(-1, 2) * (x_ratio, y_ratio)).ravel().tolist()
        for polygon in polygons
    ]


def encode_bitmaps(bitmaps: NDArray[Any]) -> list[Rle]:
    """(N, height, width) masks -> compressed runs with `counts` as text, fit for JSON."""
    stacked = np.asfortranarray(bitmaps.transpose(1, 2, 0).astype(np.uint8))
    return [
        {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
        for rle in mask.encode(stacked)
    ]


def area(segmentation: Segmentation, width: int, height: int) -> int:
    """Number of pixels of a checked segmentation."""
    return int(measure([encode(segmentation, height, width)])[1][0])

"""COCO's run-length masks: polygons turned into them, runs checked and counted.

pycocotools does the geometry (polygons, IoU). Counting is done here, because
`pycocotools.mask.area` fails on more than 255 masks at once under NumPy 2, and because
pycocotools accepts masks whose runs do not fill the image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pycocotools import mask

Rle = dict[str, Any]
"""Compressed run-length mask: `size` is [height, width], `counts` the coded runs (bytes)."""


def encode(segmentation: Any, height: int, width: int) -> Rle:
    """The compressed mask of a COCO `segmentation`: polygons, plain runs or compressed runs.

    Raises ValueError, in words that fit behind the name of the field, for what is none of these
    or has another size than the image.
    """
    if isinstance(segmentation, list):
        return _encode_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("is neither a list of polygons nor a mask with 'size' and 'counts'")
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(
            f"is a mask of size {list(segmentation['size'])} in an image of [height, width] "
            f"{[height, width]}"
        )
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = counts.encode()
    if isinstance(counts, bytes):
        return {"size": [height, width], "counts": counts}
    if not all(type(run) is int and run >= 0 for run in counts):
        raise ValueError("has runs that are not counts of pixels")
    if sum(counts) != height * width:
        raise ValueError(f"has runs of {sum(counts)} pixels in an image of {height * width}")
    return mask.frPyObjects(segmentation, height, width)


def _encode_polygons(polygons: list[Any], height: int, width: int) -> Rle:
    for polygon in polygons:
        # Four numbers would be read as a box by pycocotools, an odd number as a shorter polygon.
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                "has a polygon that is not a list of x, y pairs of three points or more"
            )
        # pycocotools takes memory for every pixel of the outline, wherever it lies.
        if not (np.abs(polygon) < 1e5).all():
            raise ValueError("has a polygon with a coordinate that is not finite or 1e5 and more")
    if not polygons:
        raise ValueError("has no polygon")
    return mask.merge(mask.frPyObjects(polygons, height, width))


def measure(rles: Sequence[Rle]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels under all runs and pixels of the mask, per compressed mask; -1 for damaged runs."""
    coded = np.frombuffer(b"".join(rle["counts"] for rle in rles), dtype=np.uint8)
    ends = np.cumsum([len(rle["counts"]) for rle in rles], dtype=np.int64)
    return _measure(coded, ends)


@njit(cache=True, nogil=True)
def _measure(coded, ends):  # type: ignore[no-untyped-def]
    # A run is written in groups of five bits, low ones first; bit 5 says that more follow, bit 4
    # of the last group is the sign; from the third run on it is the difference to the run two
    # before (the format of pycocotools' maskApi.c).
    pixels = np.zeros(len(ends), np.int64)
    areas = np.zeros(len(ends), np.int64)
    position = 0
    for i in range(len(ends)):
        before_last, last, num_runs = 0, 0, 0
        damaged = False
        while position < ends[i] and not damaged:
            run, shift, more = 0, 0, True
            while more and not damaged:
                if (
                    position == ends[i]
                    or coded[position] < 48
                    or coded[position] > 111
                    or shift > 40
                ):
                    damaged = True
                    break
                group = int(coded[position]) - 48
                position += 1
                run |= (group & 31) << shift
                shift += 5
                more = (group & 32) != 0
                if not more and group & 16:
                    run |= -1 << shift
            if num_runs > 2:
                run += before_last
            if run < 0:
                damaged = True
            before_last, last = last, run
            pixels[i] += run
            if num_runs % 2 == 1:
                areas[i] += run
            num_runs += 1
        if damaged:
            pixels[i], areas[i] = -1, -1
        position = ends[i]
    return pixels, areas

"""COCO segmentations (polygons, RLE): checked before they are rasterized, then by pycocotools."""

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

Segmentation = list[list[float]] | dict[str, Any]


def polygon_fault(polygon: object, width: int, height: int) -> str | None:
    """Why a polygon cannot be rasterized; None when it can.

    Coordinates far outside the image are a fault: rasterizing costs memory by the perimeter.
    """
    if not isinstance(polygon, list):
        return f"a polygon is {type(polygon).__name__}, not a list of numbers"
    if len(polygon) < 6:
        return f"a polygon of {len(polygon)} numbers, a triangle needs 6"
    if len(polygon) % 2:
        return f"a polygon of {len(polygon)} numbers, x and y do not pair up"
    try:
        finite = math.isfinite(sum(polygon))
    except (TypeError, OverflowError):
        return "a polygon with values that are not numbers"
    if not finite:
        return "a polygon with values that are not finite"
    limit = 2 * max(width, height)
    if min(polygon) < -limit or max(polygon) > limit:
        return f"a polygon that lies far outside the {width}x{height} image"
    return None


def rle_fault(rle: dict[str, Any], width: int, height: int) -> str | None:
    """Why a run-length encoding does not fit its image; None when it does."""
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        return f"RLE size {size} is not the image's [height, width] {[height, width]}"
    if isinstance(counts, str):
        counts = _decompress(counts)
        if counts is None:
            return "RLE counts are not a COCO compressed string"
    if not isinstance(counts, list) or any(type(run) is not int for run in counts):
        return "RLE counts are neither a list of integers nor a COCO compressed string"
    if any(run < 0 for run in counts):
        return "RLE counts hold a negative run"
    if sum(counts) != width * height:
        return f"RLE runs sum to {sum(counts)}, not to {height} x {width} = {width * height}"
    return None


def _decompress(text: str) -> list[int] | None:
    """Runs of COCO's compressed RLE; None when the text is not one.

    Groups of five bits, least first, with a continuation and a sign bit, offset by 48; from the
    fourth run on, the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return None if shift else runs


def _as_rle(segmentation: Segmentation, width: int, height: int) -> dict[str, Any]:
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def rasterize(segmentations: list[Segmentation], width: int, height: int) -> np.ndarray:
    """Checked segmentations of one image -> (N, height, width) uint8 of 0 and 1."""
    if not segmentations:
        return np.zeros((0, height, width), dtype=np.uint8)
    stacked = coco_mask.decode([_as_rle(each, width, height) for each in segmentations])
    return np.ascontiguousarray(stacked.transpose(2, 0, 1))


def encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """(N, height, width) masks -> compressed RLE with `counts` as text, fit for JSON."""
    stacked = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [
        {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
        for rle in coco_mask.encode(stacked)
    ]


def area(segmentation: Segmentation, width: int, height: int) -> int:
    """Number of pixels of a checked segmentation."""
    return int(coco_mask.area(_as_rle(segmentation, width, height)))

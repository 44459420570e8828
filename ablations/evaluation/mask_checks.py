"""The masks of annotations, checked by the reader's policy.

Polygons are measured without being filled, which is enough for nearly all; only those that may
cover no pixel, or not those of their box, are filled.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from ablations.evaluation import masks
from ablations.evaluation.faults import FormatError
from ablations.evaluation.instances import (
    OVERHANG,
    Annotations,
    impossible,
    is_at_odds_with_box,
    is_possible,
)
from ablations.evaluation.masks import Rle, Segmentation

CHUNK = 10_000
"""Masks looked at together."""

MIN_OVERLAP = 0.1
"""Share of a mask's bounding box that must lie in the object's box."""

SURE_AREA = 4
SURE_OVERLAP = 0.5
"""Square pixels, and share of the bounding box, from which a polygon need not be filled."""


def check_masks(found: Annotations) -> Iterator[tuple[Segmentation | None, bool]]:
    """Each annotation's mask as the policy leaves it (None: none), and whether it is the file's.

    Raises FormatError for what is no mask, or not one of the annotation's image.
    """
    for start in range(0, len(found.rows), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(found.rows)))
        chunk = _Chunk(found, rows)
        given = list(chunk.left)
        for segmentation, original in zip(chunk.check(), given, strict=True):
            yield segmentation, segmentation is original or segmentation == original


class _Chunk:
    """Some annotations and what is left of their masks."""

    def __init__(self, found: Annotations, rows: NDArray[np.int64]) -> None:
        self.found = found
        self.rows = rows
        self.left: list[Any] = [found.segmentations[row] or None for row in rows]

    def check(self) -> list[Segmentation | None]:
        for i, segmentation in enumerate(self.left):
            height, width = self.size(i)
            if segmentation is not None and not is_possible(height, width):
                raise FormatError(f"{self.where(i)}: {impossible(height, width)}")
        drawn = self.check_polygons()
        unclear = {i: self.encode(i) for i in self.find_unclear(drawn)}
        coded = {i: self.encode(i) for i in range(len(self.left)) if type(self.left[i]) is dict}
        self.check_runs(coded)
        self.check_pixels(unclear | coded)
        return self.left

    def size(self, i: int) -> list[int]:
        """Height and width of the image."""
        return self.found.sizes[self.rows[i]].tolist()

    def where(self, i: int) -> str:
        return f"{self.found.where(int(self.found.rows[self.rows[i]]))}.segmentation"

    def encode(self, i: int) -> Rle:
        try:
            return masks.encode(self.left[i], *self.size(i))
        except (ValueError, TypeError) as error:
            raise FormatError(f"{self.where(i)}: {error}") from None

    def check_polygons(self) -> list[int]:
        """Take out polygons that cannot be filled; which masks are polygons."""
        drawn = [i for i, segmentation in enumerate(self.left) if type(segmentation) is list]
        for i, segmentation in enumerate(self.left):
            if segmentation is not None and type(segmentation) not in (list, dict):
                self.encode(i)
        plain = [i for i in drawn if all(map(_is_plain, self.left[i]))]
        doubted = set(drawn) - set(plain)
        try:
            found = masks.survey([self.left[i] for i in plain])
        except (TypeError, OverflowError):
            doubted.update(plain)
        else:
            sides = self.found.sizes[self.rows[plain]].max(axis=1)
            reach = np.abs(found.corners).max(axis=1) / sides
            sound = (reach <= masks.MAX_OVERHANG) & (found.outline <= masks.MAX_OUTLINE)
            sound &= np.isfinite(found.area)
            doubted.update(plain[k] for k in np.flatnonzero(~sound))
        for i in sorted(doubted):
            self.left[i] = self.usable_polygons(i)
        return [i for i in drawn if self.left[i]]

    def usable_polygons(self, i: int) -> list[list[float]] | None:
        usable = []
        for polygon in self.left[i]:
            fault = masks.polygon_fault(polygon, *self.size(i))
            if fault is None:
                usable.append(polygon)
            else:
                self.found.faults.note("mask_part_dropped", f"{self.where(i)}: has {fault}")
        fault = masks.outline_fault(usable) if usable else "no polygon that is of use"
        if fault is not None:
            self.found.faults.note("mask_dropped", f"{self.where(i)}: has {fault}")
            return None
        return usable

    def find_unclear(self, drawn: list[int]) -> list[int]:
        """Masks of polygons that have to be filled to know what they cover."""
        rows = self.rows[drawn]
        corners, outline, area = masks.survey([self.left[i] for i in drawn])
        height, width = self.found.sizes[rows].T
        limits = np.stack([height, width], axis=1)[:, ::-1] + OVERHANG
        leaves = (corners[:, :2] < -OVERHANG).any(axis=1) | (corners[:, 2:] > limits).any(axis=1)
        bounds = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        overlap = _overlap(bounds, self.found.boxes[rows])
        thin = (area < SURE_AREA) | (area < outline / 2)
        unclear = leaves | thin | ~(overlap >= SURE_OVERLAP) | self.is_at_odds(rows, area, outline)
        return [drawn[k] for k in np.flatnonzero(unclear)]

    def check_runs(self, coded: dict[int, Rle]) -> None:
        """Refuse runs that do not fill the image."""
        pixels, _ = masks.measure(list(coded.values()))
        for i, num in zip(coded, pixels.tolist(), strict=True):
            height, width = self.size(i)
            if (fault := masks.runs_fault(num, height * width)) is not None:
                raise FormatError(f"{self.where(i)}: {fault}")
            segmentation = self.left[i]
            self.left[i] = {"size": [height, width], "counts": segmentation["counts"]}

    def check_pixels(self, rles: dict[int, Rle]) -> None:
        """See to masks that cover nothing, or not what their box or area says."""
        if not rles:
            return
        which = np.array(list(rles))
        rows = self.rows[which]
        pixels = masks.measure(list(rles.values()))[1]
        bounds = mask.toBbox(list(rles.values())).reshape(-1, 4)
        empty = pixels == 0
        misses = ~empty & (_overlap(bounds, self.found.boxes[rows]) < MIN_OVERLAP)
        at_odds = ~empty & ~misses & self.is_at_odds(rows, pixels, bounds[:, 2:].sum(axis=1))
        areas = self.found.areas[rows]
        for rule, faulty, text in (
            ("mask_empty", empty, "covers no pixel of its image"),
            ("mask_misses_box", misses, "lies outside its box"),
        ):
            for k in np.flatnonzero(faulty):
                i = int(which[k])
                self.found.faults.note(rule, f"{self.where(i)}: {text}")
                if self.found.faults.mends:
                    self.left[i] = None
        for k in np.flatnonzero(at_odds):
            where = self.where(int(which[k])).removesuffix("segmentation")
            self.found.faults.note(
                "area_at_odds", f"{where}area: is {areas[k]:g}, but its mask has {pixels[k]} pixels"
            )

    def is_at_odds(
        self, rows: NDArray[np.int64], pixels: NDArray[Any], outline: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Whether `area` is far from the mask's, and no doubt of its box has told so already."""
        areas = self.found.areas[rows]
        difference = np.abs(areas - pixels)
        far = (difference > np.maximum(areas, pixels) / 2) & (difference > outline)
        told = is_at_odds_with_box(areas, self.found.boxes[rows])
        return far & ~told & self.found.areas_given[rows]


def _is_plain(polygon: Any) -> bool:
    return type(polygon) is list and len(polygon) >= 6 and not len(polygon) % 2


def _overlap(bounds: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each of the bounds (x, y, width, height) inside the box; 1 where it has no area."""
    first = np.maximum(bounds[:, :2], boxes[:, :2])
    last = np.minimum(bounds[:, :2] + bounds[:, 2:], boxes[:, :2] + boxes[:, 2:])
    inside = np.prod(np.maximum(last - first, 0), axis=1)
    total = bounds[:, 2:].prod(axis=1)
    return np.where(total > 0, inside / np.where(total > 0, total, 1), 1.0)

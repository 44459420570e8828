"""The masks of annotations, checked by the reader's policy.

Polygons are measured without being filled, which is enough for nearly all; only those that may
cover no pixel, or not those of their box, are filled.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from ablations.evaluation import masks
from ablations.evaluation.box_format import OVERHANG, from_corners
from ablations.evaluation.columns import take
from ablations.evaluation.faults import FormatError
from ablations.evaluation.instances import (
    Annotations,
    are_possible,
    impossible,
    is_at_odds_with_box,
)
from ablations.evaluation.masks import Rle, Segmentation, Survey
from ablations.evaluation.polygons import survey_plain

CHUNK = 10_000
"""Masks looked at together."""

MIN_OVERLAP = 0.1
"""Share of a mask's bounding box that must lie in the object's box."""

SURE_AREA = 4
SURE_OVERLAP = 0.5
"""Square pixels, and share of the bounding box, from which a polygon need not be filled."""


class CheckedMasks(NamedTuple):
    """The masks of annotations as the policy leaves them.

    usable: (N,) which annotations have a mask that is of use
    absent: (N,) which have none in the file; what is neither was dropped by name
    mended: by place, the masks that are not as they stand in the file
    """

    usable: NDArray[np.bool_]
    absent: NDArray[np.bool_]
    mended: dict[int, Segmentation]


def check_masks(found: Annotations) -> CheckedMasks:
    """See to the mask of each annotation.

    Raises FormatError for what is no mask, or not one of the annotation's image.
    """
    usable = np.zeros(len(found.rows), dtype=bool)
    absent = np.zeros(len(found.rows), dtype=bool)
    mended: dict[int, Segmentation] = {}
    for start in range(0, len(found.rows), CHUNK):
        chunk = _Chunk(found, np.arange(start, min(start + CHUNK, len(found.rows))))
        absent[chunk.rows] = ~chunk.usable
        chunk.check()
        usable[chunk.rows] = chunk.usable
        mended |= chunk.mended()
    return CheckedMasks(usable, absent, mended)


class _Chunk:
    """Some annotations and what is left of their masks.

    Plain polygons are decoded only where a doubt remains.
    """

    def __init__(self, found: Annotations, rows: NDArray[np.int64]) -> None:
        self.found = found
        self.rows = rows
        self.given = take(found.segmentations, rows)
        self.sizes = found.sizes[rows]
        self.plain, self.survey = survey_plain(self.given)
        self.usable = np.zeros(len(rows), dtype=bool)
        self.usable[self.plain] = True
        self.left: dict[int, Any] = {}
        """The masks that were looked at, by their place in `rows`."""
        for i in np.flatnonzero(~self.usable).tolist():
            if segmentation := self.given[i]:
                self.left[i] = segmentation
                self.usable[i] = True

    def check(self) -> None:
        for i in np.flatnonzero(self.usable & ~are_possible(self.sizes)).tolist():
            raise FormatError(f"{self.where(i)}: {impossible(*self.size(i))}")
        self.check_polygons()
        unclear = {i: self.encode(i) for i in self.find_unclear()}
        coded = {i: self.encode(i) for i, left in self.left.items() if type(left) is dict}
        self.check_runs(coded)
        self.check_pixels(unclear | coded)

    def mended(self) -> dict[int, Segmentation]:
        """Masks that differ from the file's, by their place among all annotations."""
        return {
            int(self.rows[i]): left
            for i, left in self.left.items()
            if self.usable[i] and left != self.given[i]
        }

    def size(self, i: int) -> list[int]:
        """Height and width of the image."""
        return self.sizes[i].tolist()

    def mask(self, i: int) -> Any:
        """What is left of a mask, decoded."""
        if i not in self.left:
            self.left[i] = self.given[i]
        return self.left[i]

    def where(self, i: int) -> str:
        return f"{self.found.where(int(self.found.rows[self.rows[i]]))}.segmentation"

    def encode(self, i: int) -> Rle:
        try:
            return masks.encode(self.mask(i), *self.size(i))
        except (ValueError, TypeError) as error:
            raise FormatError(f"{self.where(i)}: {error}") from None

    def check_polygons(self) -> None:
        """Take out polygons that cannot be filled."""
        for i, segmentation in self.left.items():
            if type(segmentation) not in (list, dict):
                self.encode(i)
        corners, outline, area = self.survey
        reach = np.abs(corners).max(axis=1, initial=0) / self.sizes[self.plain].max(axis=1)
        sound = (reach <= masks.MAX_OVERHANG) & (outline <= masks.MAX_OUTLINE) & np.isfinite(area)
        doubted = self.plain[~sound].tolist()
        doubted += [i for i, segmentation in self.left.items() if type(segmentation) is list]
        for i in sorted(doubted):
            usable = self.usable_polygons(i)
            self.usable[i] = usable is not None
            self.left[i] = usable
        self.plain, self.survey = self.plain[sound], Survey(*(each[sound] for each in self.survey))

    def usable_polygons(self, i: int) -> list[list[float]] | None:
        """What of a mask can be filled; None, with one note that says why, where nothing can."""
        polygons, size = self.mask(i), self.size(i)
        faults = [masks.polygon_fault(polygon, *size) for polygon in polygons]
        usable = [each for each, fault in zip(polygons, faults, strict=True) if fault is None]
        useless = masks.outline_fault(usable) if usable else next(iter(faults))
        if useless is not None:
            self.found.faults.note("mask_dropped", f"{self.where(i)}: has {useless}")
            return None
        for fault in dict.fromkeys(filter(None, faults)):
            self.found.faults.note("mask_part_dropped", f"{self.where(i)}: has {fault}")
        return usable

    def find_unclear(self) -> list[int]:
        """Masks of polygons that have to be filled to know what they cover."""
        mended = [i for i, left in self.left.items() if type(left) is list]
        which = np.concatenate([self.plain, np.array(mended, dtype=np.int64)])
        survey = masks.survey([self.left[i] for i in mended])
        corners, outline, area = map(np.concatenate, zip(self.survey, survey, strict=True))
        rows = self.rows[which]
        limits = self.sizes[which][:, ::-1] + OVERHANG
        leaves = (corners[:, :2] < -OVERHANG).any(axis=1) | (corners[:, 2:] > limits).any(axis=1)
        bounds = from_corners(corners)
        overlap = _overlap(bounds, self.found.boxes[rows])
        thin = (area < SURE_AREA) | (area < outline / 2)
        unclear = leaves | thin | ~(overlap >= SURE_OVERLAP) | self.is_at_odds(rows, area, outline)
        return np.sort(which[unclear]).tolist()

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
                    self.usable[i] = False
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


def _overlap(bounds: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each of the bounds (x, y, width, height) inside the box; 1 where it has no area."""
    first = np.maximum(bounds[:, :2], boxes[:, :2])
    last = np.minimum(bounds[:, :2] + bounds[:, 2:], boxes[:, :2] + boxes[:, 2:])
    inside = np.prod(np.maximum(last - first, 0), axis=1)
    total = bounds[:, 2:].prod(axis=1)
    return np.where(total > 0, inside / np.where(total > 0, total, 1), 1.0)

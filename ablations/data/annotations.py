"""The checked annotations of a split by image, as columns and as the text that is kept of them.

A million annotations as Python objects take gigabytes; here none is made.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.columns import Entries, is_written_whole, take
from ablations.evaluation.columns import boxes as box_column
from ablations.evaluation.instances import Annotations, InstancesFile
from ablations.evaluation.mask_checks import CheckedMasks
from ablations.evaluation.polygons import as_python_writes
from ablations.evaluation.scan import Stored

AREA_EDGES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
IMAGES_AT_ONCE = 1000
NUM_SHARES = 8
"""In which segmentations are let go: only large pieces of memory go back to the system."""
encode = json.JSONEncoder(sort_keys=True).encode


class Columns(NamedTuple):
    """What is counted of annotations, a row each; `image` and `num_images` say how they are spread.

    image, category_ids (N,) int64, areas (N,) in square pixels, crowd (N,) bool
    """

    num_images: int
    image: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    def num_objects(self) -> NDArray[np.int64]:
        """(num_images,) annotations that are no crowds."""
        return np.bincount(self.image[~self.crowd], minlength=self.num_images)


def count_objects(columns: Columns, categories: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the images' annotations, as plain JSON values."""
    num_objects = columns.num_objects()
    areas = columns.areas[~columns.crowd]
    labels = columns.category_ids[~columns.crowd]
    numbers, counts = np.unique(labels, return_counts=True)
    by_category = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return {
        "num_images": columns.num_images,
        "num_negatives": int((num_objects == 0).sum()),
        "num_objects": len(labels),
        "num_ignored": int(columns.crowd.sum()),
        "num_objects_by_size": {
            size: int(((areas >= low) & (areas < high)).sum())
            for size, (low, high) in AREA_EDGES.items()
        },
        "num_objects_by_category": {c["name"]: by_category.get(c["id"], 0) for c in categories},
    }


@dataclass(eq=False)
class ImageAnnotations:
    """Annotations by image; those of one image stay in the order of the file.

    image_ids: of all images, in their order
    image, order: (N,) which image each annotation is on, rising; its place in the columns below
    category_ids (M,), numbers (M, 5) area, x, y, width, height; crowd (M,)
    is_whole: (M, 5) which numbers have no decimal point
    segmentations: as in the file; checked: what is of use; None where the data set goes without
    """

    image_ids: NDArray[np.int64]
    image: NDArray[np.int64]
    order: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    numbers: NDArray[np.float64]
    is_whole: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    segmentations: Sequence[Any]
    checked: CheckedMasks | None

    @classmethod
    def sorted(
        cls,
        file: InstancesFile,
        found: Annotations,
        checked: CheckedMasks | None,
        image_ids: NDArray[np.int64],
    ) -> "ImageAnnotations":
        """Annotations of the images of these ids, in any order."""
        image = np.argsort(image_ids, kind="stable")[found.image]
        order = np.argsort(image, kind="stable")
        return cls(
            image_ids=image_ids,
            image=image[order],
            order=order,
            category_ids=file.category_ids[found.category],
            numbers=np.column_stack([found.areas, found.boxes]),
            is_whole=_is_whole(file.annotations, found),
            crowd=found.crowd,
            segmentations=found.segmentations,
            checked=checked,
        )

    def take(self, kept: NDArray[np.bool_]) -> "ImageAnnotations":
        """Those of some of the images."""
        rows = kept[self.image]
        return replace(
            self,
            image_ids=self.image_ids[kept],
            image=(np.cumsum(kept) - 1)[self.image[rows]],
            order=self.order[rows],
        )

    def columns(self) -> Columns:
        """What is counted of them."""
        order = self.order
        category_ids, areas = self.category_ids[order], self.numbers[order, 0]
        return Columns(len(self.image_ids), self.image, category_ids, areas, self.crowd[order])

    def texts(self) -> Iterator[str]:
        """The annotations of each image as `json.dumps` writes them, with sorted keys.

        Without ids; with a segmentation, null where none is of use, where the data set has masks.
        To be read once: the segmentations are let go as they are written.
        """
        num_images = len(self.image_ids)
        ends = np.searchsorted(self.image, np.arange(num_images + 1)).tolist()
        shares = list(pairwise(np.linspace(0, num_images, NUM_SHARES + 1).astype(int).tolist()))
        given = [
            _alone(take(self.segmentations, self.order[ends[first] : ends[last]]))
            for first, last in shares
        ]
        self.segmentations = []
        for first, last in shares:
            segmentations = given.pop(0)
            for start in range(first, last, IMAGES_AT_ONCE):
                images = range(start, min(start + IMAGES_AT_ONCE, last))
                part = slice(ends[images.start], ends[images.stop])
                in_share = slice(part.start - ends[first], part.stop - ends[first])
                entries = self._entries(part, segmentations[in_share])
                for k in images:
                    here = slice(ends[k] - part.start, ends[k + 1] - part.start)
                    yield f"[{', '.join(entries[here])}]"

    def _entries(self, part: slice, segmentations: Sequence[Any]) -> list[str]:
        order = self.order[part]
        numbers = self._numbers(order)
        heads = zip(
            *(numbers[column::5] for column in range(5)),
            self.category_ids[order].tolist(),
            self.image_ids[self.image[part]].tolist(),
            self.crowd[order].astype(int).tolist(),
            self._segmentations(order, segmentations),
            strict=True,
        )
        return [
            f'{{"area": {area}, "bbox": [{x}, {y}, {width}, {height}], "category_id": {category}, '
            f'"image_id": {image}, "iscrowd": {crowd}{segmentation}}}'
            for area, x, y, width, height, category, image, crowd, segmentation in heads
        ]

    def _numbers(self, order: NDArray[np.int64]) -> list[str]:
        values = self.numbers[order].ravel()
        texts = list(map(repr, values.tolist()))
        for place in np.flatnonzero(self.is_whole[order]).tolist():
            texts[place] = str(int(values[place]))
        return texts

    def _segmentations(self, order: NDArray[np.int64], given: Sequence[Any]) -> list[str]:
        """The end of each entry."""
        if self.checked is None:
            return [""] * len(order)
        texts = as_python_writes(given) if isinstance(given, Stored) else list(map(encode, given))
        key = ', "segmentation": '
        for place in np.flatnonzero(~self.checked.usable[order]).tolist():
            texts[place] = "null"
        for place, row in enumerate(order.tolist()):
            if row in self.checked.mended:
                texts[place] = encode(self.checked.mended[row])
        return [key + text for text in texts]


def _alone(segmentations: Sequence[Any]) -> Sequence[Any]:
    """Without the text that others stand in."""
    return segmentations.alone() if isinstance(segmentations, Stored) else segmentations


def _is_whole(entries: Entries, found: Annotations) -> NDArray[np.bool_]:
    """Which of area, x, y, width and height are 10 in the file, not 10.0, (N, 5).

    The two are equal, but give a data set two fingerprints. A box that was clipped is whole where
    all of it was.
    """
    box = is_written_whole(entries, "bbox")[found.rows]
    was_clipped = (box_column(entries, found.where)[found.rows] != found.boxes).any(axis=1)
    box[was_clipped] = box[was_clipped].all(axis=1, keepdims=True)
    area = is_written_whole(entries, "area")[found.rows] & (found.areas % 1 == 0)[:, None]
    return np.hstack([area, box])

"""Truth and detections: COCO files read into arrays, each fault refused by name or counted.

pycocotools accepts most broken files without a word, and a broken file gives a wrong AP. Here every
number that scoring rests on is checked once, on reading. What is kept or mended instead of refused
is counted in `notes`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation import masks
from ablations.evaluation.box_format import LEAVING_SHARE, Objects, find_misreading, leaves_image
from ablations.evaluation.columns import (
    BOX,
    Entries,
    Where,
    boxes,
    has_value,
    numbers,
    read_results,
    stored,
    take,
)
from ablations.evaluation.faults import Faults, FormatError
from ablations.evaluation.federated import Federated
from ablations.evaluation.instances import (
    Annotations,
    InstancesFile,
    are_shares,
    check_annotations,
    impossible,
    is_possible,
)
from ablations.evaluation.mask_checks import check_masks
from ablations.evaluation.masks import Rle
from ablations.evaluation.result_ids import (
    category_remedy,
    check_schemes,
    find_categories,
    find_images,
    refuse_unknown,
)
from ablations.evaluation.scan import Scanned

__all__ = ["Detections", "FormatError", "Truth"]


MIN_SHARES = 20
"""Boxes between 0 and 1 that are refused though they find no object; a detector that learned
nothing may put a few there."""
_AT_ONCE = 2**15
"""Boxes whose images' sizes are held at once."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The annotations of a COCO file as arrays, in the order of the file.

    Images and categories are sorted by id; `image` and `category` index into them.
    """

    name: str
    image_ids: NDArray[np.int64]
    image_sizes: NDArray[np.int64]
    """(num_images, 2), height and width; -1 where the file does not say."""
    file_names: tuple[str | None, ...]
    """Of each image, None where the file does not say."""
    category_ids: NDArray[np.int64]
    category_names: tuple[str, ...]
    category_frequencies: tuple[str | None, ...]
    """LVIS's 'r', 'c' or 'f'; None where the file does not say."""
    federated: Federated | None
    """What is known of the categories of each image; None where all were looked for on all."""
    image: NDArray[np.int32]
    category: NDArray[np.int32]
    boxes: NDArray[np.float64]
    """(num_annotations, 4) as x, y, width, height in pixels."""
    areas: NDArray[np.float64]
    """The annotation's own `area` in square pixels; it sets the object's scale."""
    crowd: NDArray[np.bool_]
    annotations: Annotations
    faults: Faults

    @classmethod
    def from_coco(
        cls,
        source: Mapping[str, Any] | Path | str,
        name: str = "truth",
        policy: str = "refuse",
        *,
        recompute_areas: bool = False,
    ) -> "Truth":
        """Read a COCO instances file (JSON, also gzipped) or its content.

        `name` stands in messages for content that comes from no file. `policy` is 'refuse', which
        scores what stands in the file or refuses it, or 'mend', which drops or repairs what is at
        fault as training does. `recompute_areas` takes each area from mask or box instead of from
        the file. Raises FormatError.
        """
        faults = Faults(policy)
        name = str(source) if isinstance(source, str | Path) else name
        file = InstancesFile.read(source, name, faults)
        found = check_annotations(
            file, file.image_ids, file.image_sizes, recompute_areas=recompute_areas
        )
        return cls(
            name=file.name,
            image_ids=file.image_ids,
            image_sizes=file.image_sizes,
            file_names=file.file_names,
            category_ids=file.category_ids,
            category_names=file.category_names,
            category_frequencies=file.category_frequencies,
            federated=file.federated,
            image=found.image.astype(np.int32),
            category=found.category.astype(np.int32),
            boxes=found.boxes,
            areas=found.areas,
            crowd=found.crowd & (file.federated is None),
            annotations=found,
            faults=faults,
        )

    @property
    def notes(self) -> dict[str, int]:
        """What was kept or mended, in words, and how often; of masks once they are used."""
        return self.faults.notes()

    @property
    def segmentations(self) -> Sequence[Any]:
        """As in the file; None where an annotation has none."""
        return self.annotations.segmentations

    @cached_property
    def _masks(self) -> tuple[list[Rle], NDArray[np.bool_]]:
        rles = []
        usable, absent, mended = check_masks(self.annotations)
        for i, size in enumerate(self.annotations.sizes.tolist()):
            segmentation = mended.get(i) or self.segmentations[i]
            if not usable[i]:
                segmentation = masks.box_polygon(_within(self.boxes[i], size))
            rles.append(masks.encode(segmentation, *size))
        self.annotations.note("mask_missing", absent, lambda i: ".segmentation: is absent")
        return rles, ~usable

    @property
    def rles(self) -> list[Rle]:
        """A run-length mask per annotation, made on first use; its box where it has no mask.

        Raises FormatError.
        """
        return self._masks[0]

    def is_region(self, iou_type: str) -> NDArray[np.bool_]:
        """Which annotations are regions to ignore, not objects: crowds, and, where masks are
        scored, what has none."""
        return self.crowd if iou_type == "bbox" else self.crowd | self._masks[1]


def _within(box: NDArray[np.float64], size: list[int]) -> list[float]:
    """The part of a box in its image of height and width."""
    height, width = size
    x, y, right, bottom = np.clip(
        [box[0], box[1], box[0] + box[2], box[1] + box[3]], 0, [width, height, width, height]
    ).tolist()
    return [x, y, right - x, bottom - y]


@dataclass(frozen=True, eq=False)
class Detections:
    """A COCO results file as arrays, in the order of the file; indices are those of its truth."""

    name: str
    image: NDArray[np.int32]
    category: NDArray[np.int32]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64] | None
    """(num_detections, 4) as x, y, width, height in pixels; None where the results have none."""
    segmentations: Sequence[Any] | None
    """As in the file; None where the results have none."""
    image_sizes: NDArray[np.int64]
    """(num_images, 2), height and width, of the truth."""
    notes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_coco(
        cls,
        source: Sequence[Mapping[str, Any]] | Path | str,
        truth: Truth,
        unknown_images: str = "refuse",
        name: str = "detections",
        *,
        image_ids: str = "id",
        categories: str = "id",
    ) -> "Detections":
        """Read a COCO results file (JSON, also gzipped) or its content.

        `unknown_images='drop'` counts results for images outside the truth in `notes` instead of
        refusing them. `image_ids` and `categories` say how the results name images and categories,
        see IMAGE_IDS and CATEGORIES in `result_ids`. Raises FormatError.
        """
        check_schemes(image_ids, categories)
        if unknown_images not in ("refuse", "drop"):
            raise ValueError(f"unknown_images is 'refuse' or 'drop', not {unknown_images!r}")
        if isinstance(source, str | Path):
            results, name = read_results(Path(source)), str(source)
        else:
            results = source
        if not isinstance(results, list | Scanned):
            raise FormatError(
                f"{name}: results are a list of detections, this is {type(results).__name__}; "
                "give a COCO results file, not an instances file"
            )

        def where(index: int) -> str:
            return f"{name}: results[{index}]"

        notes: Counter[str] = Counter()
        image, known = find_images(results, truth.image_ids, truth.file_names, image_ids, where)
        if unknown_images == "drop" and not known.all():
            notes["results dropped, image not in the truth"] = int((~known).sum())
            results, image = take(results, np.flatnonzero(known)), image[known]
        else:
            remedy = "score against the truth that has it, or drop results for unknown images"
            refuse_unknown(results, "image_id", known, where, remedy)
        category, known = find_categories(results, truth.category_ids, categories, where)
        if not known.all():
            remedy = category_remedy(results, len(truth.category_ids), where)
            refuse_unknown(results, "category_id", known, where, remedy)
        scores = numbers(results, "score", where)
        outside = int(((scores < 0) | (scores > 1)).sum())
        if outside:
            notes["scores outside [0, 1], kept"] = outside
        box_array = None
        if _has(results, "bbox", where):
            box_array = _sound_boxes(results, where)
            _check_format(Objects(image, category, box_array), scores, truth, notes, where)
        segmentations = None
        if _has(results, "segmentation", where):
            segmentations = stored(results, "segmentation")
        if len(results) and box_array is None and segmentations is None:
            raise FormatError(f"{where(0)}: has neither bbox nor segmentation; write one of them")
        return cls(
            name=name,
            image=image.astype(np.int32, copy=False),
            category=category.astype(np.int32, copy=False),
            scores=scores,
            boxes=box_array,
            segmentations=segmentations,
            image_sizes=truth.image_sizes,
            notes=notes,
        )

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def rles(self) -> list[Rle] | None:
        """A run-length mask per detection, checked on first use (FormatError); None without any."""
        if self.segmentations is None:
            return None
        sizes = self.image_sizes[self.image]
        rles = []
        for index, (height, width) in enumerate(sizes.tolist()):
            try:
                if not is_possible(height, width):
                    raise ValueError(impossible(height, width))
                rles.append(masks.encode(self.segmentations[index], height, width))
            except (ValueError, TypeError) as error:
                raise self._bad_mask(index, str(error)) from None
        pixels = masks.measure(rles)[0]
        expected = sizes.prod(axis=1)
        wrong = np.flatnonzero(pixels != expected)
        if len(wrong):
            index = int(wrong[0])
            fault = masks.runs_fault(int(pixels[index]), int(expected[index]))
            raise self._bad_mask(index, str(fault))
        return rles

    def _bad_mask(self, index: int, fault: str) -> FormatError:
        return FormatError(f"{self.name}: results[{index}].segmentation: {fault}")

    @cached_property
    def mask_areas(self) -> NDArray[np.float64] | None:
        """(num_detections,) in pixels; None where the results have no masks."""
        return None if self.rles is None else masks.measure(self.rles)[1].astype(np.float64)


def _sound_boxes(results: Entries, where: Where) -> NDArray[np.float64]:
    """Boxes of finite numbers, none of them negative in width or height."""
    found = boxes(results, where)
    if np.isfinite(found).all() and (found[:, 2:] >= 0).all():
        return found
    sound = np.isfinite(found).all(axis=1) & (found[:, 2:] >= 0).all(axis=1)
    index = int(np.argmin(sound))
    raise FormatError(f"{where(index)}.bbox: {BOX}, not {found[index].tolist()}")


def _check_format(
    results: Objects,
    scores: NDArray[np.float64],
    truth: Truth,
    notes: Counter[str],
    where: Where,
) -> None:
    """Refuse boxes that are not x, y, width, height in pixels."""
    remedy = "write x, y, width, height in pixels"
    first = f"{where(0)}.bbox: {results.boxes[0].tolist()}"
    objects = Objects(truth.image, truth.category, truth.boxes).take(~truth.crowd)
    misread = find_misreading(objects, results, scores, truth.image_sizes)
    if misread is not None:
        raise FormatError(
            f"{first}, and the others with it, seem to be {misread.reading}: so read, they find "
            f"{misread.num_found} of {misread.num_objects} objects, as COCO's x, y, width, height "
            f"{misread.num_found_as_coco}; {remedy}"
        )
    if are_shares(results.boxes):
        if len(results.boxes) >= MIN_SHARES:
            raise FormatError(
                f"{first}, and nearly all others with it, lie between 0 and 1: they are shares of "
                f"the image; {remedy}"
            )
        notes["boxes between 0 and 1, which may be shares of the image"] = len(results.boxes)
    num_leaving = 0
    for start in range(0, len(results.boxes), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        sizes = truth.image_sizes[results.image[here]]
        num_leaving += int(leaves_image(results.boxes[here], sizes).sum())
    if num_leaving > LEAVING_SHARE * len(results.boxes):
        notes["boxes that leave their image; x, y, width, height are expected"] = num_leaving


def _has(results: Entries, key: str, where: Where) -> bool:
    """Whether results carry a field: all of them or none."""
    given = has_value(results, key)
    num_with = int(given.sum())
    if 0 < num_with < len(results):
        index = int(np.argmin(given))
        raise FormatError(
            f"{where(index)}.{key}: is absent, {num_with} of {len(results)} results have one; "
            "write it for all or for none"
        )
    return num_with > 0

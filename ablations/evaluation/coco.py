"""Truth and detections: COCO files read into arrays, each fault refused by name or counted.

pycocotools accepts most broken files without a word, and a broken file gives a wrong AP. Here every
number that scoring rests on is checked once, on reading. What is repaired or dropped instead of
refused is counted in `notes`.
"""

import gc
import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation import masks as rle
from ablations.evaluation.masks import Rle

_MAX_SIDE = 40_000
"""Pixels; what a mask of a larger image needs would take the process down."""
_NO_SIZE = {"height": -1, "width": -1}


class FormatError(ValueError):
    """A COCO file that cannot be scored; names the file, the entry, the field and the remedy."""


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A large JSON file makes millions of objects, none of them garbage: 2.7 times faster."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_json(path: Path) -> Any:
    """The content of a .json or .json.gz file; FormatError where it is absent or not JSON."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        with _no_garbage_collection():
            return json.loads(data)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    # ValueError: no UTF-8, no JSON, or a number of too many digits.
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a readable JSON file ({error}); write it again") from None


@dataclass(frozen=True, eq=False)
class Truth:
    """The annotations of a COCO file as arrays, in the order of the file.

    Images and categories are sorted by id; `image` and `category` index into them.
    """

    name: str
    image_ids: NDArray[np.int64]
    image_sizes: NDArray[np.int64]
    """(num_images, 2), height and width; -1 where the file does not say."""
    category_ids: NDArray[np.int64]
    category_names: tuple[str, ...]
    image: NDArray[np.int32]
    category: NDArray[np.int32]
    boxes: NDArray[np.float64]
    """(num_annotations, 4) as x, y, width, height in pixels."""
    areas: NDArray[np.float64]
    """The annotation's own `area` in square pixels; it sets the object's scale."""
    crowd: NDArray[np.bool_]
    segmentations: Sequence[Any]
    """As in the file; None where an annotation has none."""
    notes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_coco(cls, source: Mapping[str, Any] | Path | str, name: str = "truth") -> "Truth":
        """Read a COCO instances file (.json or .json.gz) or its content.

        `name` stands in messages for content that comes from no file. Raises FormatError.
        """
        content, name = _open(source, name)
        if not isinstance(content, Mapping):
            raise FormatError(f"{name}: the top level is not an object with images and annotations")
        images = _entries(content, "images", name)
        if not images:
            raise FormatError(f"{name}: images: the list is empty; give the images to score on")
        categories = _entries(content, "categories", name)
        annotations = _entries(content, "annotations", name)

        image_ids, image_order = _unique_ids(images, f"{name}: images")
        category_ids, category_order = _unique_ids(categories, f"{name}: categories")
        where = f"{name}: annotations"
        notes: Counter[str] = Counter()
        boxes = _boxes(annotations, where)
        areas = _areas(annotations, boxes, where, notes)
        sized = [_NO_SIZE | entry for entry in images]
        sizes = np.stack(
            [_integers(sized, key, f"{name}: images")[image_order] for key in _NO_SIZE], axis=1
        )
        image = _indices(_integers(annotations, "image_id", where), image_ids, where, "image_id")
        _note_odd_boxes(boxes, sizes[image], notes)
        return cls(
            name=name,
            image_ids=image_ids,
            image_sizes=sizes,
            category_ids=category_ids,
            category_names=tuple(
                str(categories[i].get("name", categories[i]["id"])) for i in category_order
            ),
            image=image,
            category=_indices(
                _integers(annotations, "category_id", where), category_ids, where, "category_id"
            ),
            boxes=boxes,
            areas=areas,
            crowd=_flags(annotations, "iscrowd", where),
            segmentations=[entry.get("segmentation") for entry in annotations],
            notes=notes,
        )

    @cached_property
    def rles(self) -> list[Rle]:
        """A run-length mask per annotation, made on first use; FormatError where there is none."""
        where = f"{self.name}: annotations"
        return _rles(self.segmentations, self.image_sizes[self.image], where)


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
    ) -> "Detections":
        """Read a COCO results file (.json or .json.gz) or its content.

        `unknown_images='drop'` counts results for images outside the truth in `notes` instead of
        refusing them. Raises FormatError.
        """
        if unknown_images not in ("refuse", "drop"):
            raise ValueError(f"unknown_images is 'refuse' or 'drop', not {unknown_images!r}")
        results, name = _open(source, name)
        if not isinstance(results, list):
            raise FormatError(
                f"{name}: results are a list of detections, this is {type(results).__name__}; "
                "give a COCO results file, not an instances file"
            )
        notes: Counter[str] = Counter()
        where = f"{name}: results"
        image_ids = _integers(results, "image_id", where)
        if unknown_images == "drop":
            known = np.isin(image_ids, truth.image_ids)
            if not known.all():
                notes["results dropped, image not in the truth"] = int((~known).sum())
                results = [results[i] for i in np.flatnonzero(known)]
                image_ids = image_ids[known]
        remedy = "score against the truth that has it, or drop results for unknown images"
        image = _indices(image_ids, truth.image_ids, where, "image_id", remedy)
        category = _indices(
            _integers(results, "category_id", where), truth.category_ids, where, "category_id"
        )
        scores = _numbers(results, "score", where)
        outside = int(((scores < 0) | (scores > 1)).sum())
        if outside:
            notes["scores outside [0, 1], kept"] = outside
        boxes = _boxes(results, where) if _has(results, "bbox", where) else None
        segmentations = None
        if _has(results, "segmentation", where):
            segmentations = [entry["segmentation"] for entry in results]
        if results and boxes is None and segmentations is None:
            raise FormatError(f"{where}[0]: has neither bbox nor segmentation; write one of them")
        return cls(name, image, category, scores, boxes, segmentations, truth.image_sizes, notes)

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def rles(self) -> list[Rle] | None:
        """A run-length mask per detection, checked on first use (FormatError); None without any."""
        if self.segmentations is None:
            return None
        where = f"{self.name}: results"
        return _rles(self.segmentations, self.image_sizes[self.image], where)

    @cached_property
    def mask_areas(self) -> NDArray[np.float64] | None:
        """(num_detections,) in pixels; None where the results have no masks."""
        return None if self.rles is None else rle.measure(self.rles)[1].astype(np.float64)


def _open(source: Any, name: str) -> tuple[Any, str]:
    if isinstance(source, str | Path):
        return read_json(Path(source)), str(source)
    return source, name


def _entries(content: Mapping[str, Any], key: str, name: str) -> list[Any]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise FormatError(f"{name}: {key}: the list is absent; give a COCO instances file")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise FormatError(f"{name}: {key}[{index}]: is not an object")
    return entries


def _refuse(
    where: str, key: str, values: Sequence[Any], accept: Callable[[Any], bool], rule: str
) -> None:
    """Raise for the first value that is not accepted."""
    for index, value in enumerate(values):
        if not accept(value):
            raise FormatError(f"{where}[{index}].{key}: {rule}, not {value!r}")


def _values(entries: Sequence[Mapping[str, Any]], key: str, where: str) -> list[Any]:
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError):
        for index, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise FormatError(f"{where}[{index}]: is not an object") from None
            if key not in entry:
                raise FormatError(f"{where}[{index}].{key}: is absent; write it") from None
        raise


def _is_integer(kind: type) -> bool:
    return issubclass(kind, int | np.integer) and kind is not bool


def _is_number(kind: type) -> bool:
    return _is_integer(kind) or issubclass(kind, float | np.floating)


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(type(value)) and math.isfinite(value)
    except OverflowError:
        return False


def _integers(entries: Sequence[Mapping[str, Any]], key: str, where: str) -> NDArray[np.int64]:
    values = _values(entries, key, where)
    if not all(map(_is_integer, set(map(type, values)))):
        _refuse(
            where, key, values, lambda value: _is_integer(type(value)), "must be a whole number"
        )
    try:
        return np.fromiter(values, np.int64, len(values))
    except OverflowError:
        _refuse(where, key, values, lambda value: abs(value) < 2**63, "must fit into 64 bits")
        raise


def _flags(entries: Sequence[Mapping[str, Any]], key: str, where: str) -> NDArray[np.bool_]:
    values = [entry.get(key, 0) for entry in entries]
    _refuse(where, key, values, _is_flag, "must be 0, 1, true or false")
    return np.fromiter(values, bool, len(values))


def _is_flag(value: Any) -> bool:
    return isinstance(value, int | np.integer | np.bool_) and value in (0, 1)


def _numbers(entries: Sequence[Mapping[str, Any]], key: str, where: str) -> NDArray[np.float64]:
    values = _values(entries, key, where)
    if all(map(_is_number, set(map(type, values)))):
        with suppress(OverflowError):
            numbers = np.fromiter(values, np.float64, len(values))
            if np.isfinite(numbers).all():
                return numbers
    _refuse(where, key, values, _is_finite, "must be a finite number")
    raise AssertionError("unreachable: one of the values was refused")


def _boxes(entries: Sequence[Mapping[str, Any]], where: str) -> NDArray[np.float64]:
    boxes = _values(entries, "bbox", where)
    if all(issubclass(kind, list | tuple | np.ndarray) for kind in set(map(type, boxes))) and (
        set(map(len, boxes)) <= {4}
        and all(map(_is_number, set(map(type, chain.from_iterable(boxes)))))
    ):
        with suppress(OverflowError):
            numbers = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
            array = numbers.reshape(-1, 4)
            if np.isfinite(array).all() and (array[:, 2:] >= 0).all():
                return array
    _refuse(
        where, "bbox", boxes, _is_box, "must be four finite numbers x, y, width >= 0, height >= 0"
    )
    raise AssertionError("unreachable: one of the boxes was refused")


def _is_box(value: Any) -> bool:
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4:
        return False
    return bool(all(map(_is_finite, value)) and value[2] >= 0 and value[3] >= 0)


def _areas(
    annotations: Sequence[Mapping[str, Any]],
    boxes: NDArray[np.float64],
    where: str,
    notes: Counter[str],
) -> NDArray[np.float64]:
    absent = np.array(["area" not in annotation for annotation in annotations], dtype=bool)
    if absent.any():
        notes["annotations without area, area of the box taken"] = int(absent.sum())
        box_areas = boxes[:, 2] * boxes[:, 3]
        annotations = [
            {"area": box_areas[i]} if absent[i] else annotation
            for i, annotation in enumerate(annotations)
        ]
    areas = _numbers(annotations, "area", where)
    if (areas < 0).any():
        _refuse(where, "area", areas.tolist(), lambda value: value >= 0, "must not be negative")
    return areas


def _note_odd_boxes(
    boxes: NDArray[np.float64], sizes: NDArray[np.int64], notes: Counter[str]
) -> None:
    """Count what is scored as it stands, like COCO does, but is seldom meant."""
    x, y, width, height = boxes.T
    empty = int(((width == 0) | (height == 0)).sum())
    leaving = (x < -1) | (y < -1) | (x + width > sizes[:, 1] + 1) | (y + height > sizes[:, 0] + 1)
    leaving_known = int((leaving & (sizes > 0).all(axis=1)).sum())
    if empty:
        notes["boxes of no width or height, which nothing can match"] = empty
    if leaving_known:
        notes["boxes that leave their image; x, y, width, height are expected"] = leaving_known


def _unique_ids(
    entries: Sequence[Mapping[str, Any]], where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted ids, and the position in the file of each."""
    ids = _integers(entries, "id", where)
    order = np.argsort(ids, kind="stable")
    repeated = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(repeated):
        index = order[repeated[0] + 1]
        raise FormatError(f"{where}[{index}].id: {ids[index]} stands there twice; make ids unique")
    return ids[order], order


def _indices(
    ids: NDArray[np.int64],
    known_ids: NDArray[np.int64],
    where: str,
    key: str,
    remedy: str = "list it in the truth, or take the entry out",
) -> NDArray[np.int32]:
    """The position of every id among the sorted known ones."""
    positions = np.searchsorted(known_ids, ids)
    known = positions < len(known_ids)
    known[known] = known_ids[positions[known]] == ids[known]
    if not known.all():
        index = int(np.argmin(known))
        raise FormatError(
            f"{where}[{index}].{key}: {ids[index]} is not in the truth "
            f"({int((~known).sum())} such entries); {remedy}"
        )
    return positions.astype(np.int32)


def _has(results: Sequence[Mapping[str, Any]], key: str, where: str) -> bool:
    """Whether results carry a field: all of them or none."""
    values = [entry.get(key) for entry in results]
    given = [len(v) > 0 if isinstance(v, np.ndarray) else bool(v) for v in values]
    num_with = sum(given)
    if 0 < num_with < len(results):
        index = given.index(False)
        raise FormatError(
            f"{where}[{index}].{key}: is absent, {num_with} of {len(results)} results have one; "
            "write it for all or for none"
        )
    return num_with > 0


def _rles(segmentations: Sequence[Any], sizes: NDArray[np.int64], where: str) -> list[Rle]:
    """A checked compressed mask per segmentation; `sizes` is (N, 2), height and width."""
    rles = []
    for index, (segmentation, (height, width)) in enumerate(
        zip(segmentations, sizes.tolist(), strict=True)
    ):
        try:
            if not (0 < height < _MAX_SIDE and 0 < width < _MAX_SIDE):
                raise ValueError(
                    f"needs an image of height and width between 1 and {_MAX_SIDE}, the truth says "
                    f"{height} and {width}; correct the image's entry"
                )
            rles.append(rle.encode(segmentation, height, width))
        except (ValueError, TypeError) as error:
            raise FormatError(f"{where}[{index}].segmentation: {error}") from None
    pixels = rle.measure(rles)[0]
    wrong = np.flatnonzero(pixels != sizes.prod(axis=1))
    if len(wrong):
        index = int(wrong[0])
        raise FormatError(
            f"{where}[{index}].segmentation: its runs "
            + (
                "are damaged"
                if pixels[index] < 0
                else f"cover {pixels[index]} pixels of {sizes[index].prod()}"
            )
            + "; encode the mask again"
        )
    return rles

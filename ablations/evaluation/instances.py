"""The one reader of COCO instances: every check of images, categories, annotations and masks.

Checks run over whole columns; only what they doubt is looked at one by one. What a fault leads to
stands in `faults`.
"""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation import masks
from ablations.evaluation.box_format import (
    READINGS,
    are_many,
    find_truth_misreading,
    from_corners,
    leaves_image,
)
from ablations.evaluation.columns import (
    BOX,
    Entries,
    Where,
    entries_of,
    flags,
    integers,
    odd_ids,
    optional_floats,
    positions,
    read_instances,
    stored,
    take,
    unique_ids,
    whole_numbers,
)
from ablations.evaluation.columns import boxes as box_column
from ablations.evaluation.faults import Faults, FormatError, shown
from ablations.evaluation.federated import Federated
from ablations.evaluation.polygons import survey_plain

MIN_SIDE = 0.01
"""Pixels; a thinner box has no area left in float32 after clipping and resizing."""

NUM_OUTLINES = 1000
"""Polygons, spread evenly over the file, that are held against their boxes to know the format."""

SHARES = 0.9
"""Share of boxes between 0 and 1 from which they are no pixels but shares of the image."""

MIN_FILL = 0.01
"""Share of its box below which an object's `area` is in doubt."""

MAX_SIDE = 40_000
"""Pixels; what a mask of a larger image needs would take the process down."""


@dataclass(frozen=True, eq=False)
class InstancesFile:
    """A COCO instances file: images and categories checked, annotations as yet unread."""

    name: str
    images: list[dict[str, Any]]
    """As in the file."""
    image_ids: NDArray[np.int64]
    """Rising."""
    image_sizes: NDArray[np.int64]
    """(num_images, 2), height and width, in the order of `image_ids`; -1 where not said."""
    file_names: tuple[str | None, ...]
    """In the order of `image_ids`; None where not said."""
    category_ids: NDArray[np.int64]
    """Rising."""
    category_names: tuple[str, ...]
    """All different."""
    category_frequencies: tuple[str | None, ...]
    """LVIS's 'r', 'c' or 'f'; None where not said."""
    federated: Federated | None
    annotations: Entries
    faults: Faults

    @classmethod
    def read(cls, source: Any, name: str, faults: Faults) -> "InstancesFile":
        """Read a file (JSON, also gzipped) or its content; raises FormatError.

        `name` stands for it in messages.
        """
        if isinstance(source, str | Path):
            source = read_instances(Path(source))
        images = entries_of(source, "images", name)
        if not images:
            raise FormatError(f"{name}: images: the list is empty; give the images to score on")
        categories = entries_of(source, "categories", name)
        annotations = entries_of(source, "annotations", name)

        def image(index: int) -> str:
            return f"{name}: images[{index}]"

        image_ids, order = unique_ids(
            images, image, lambda entry: f"image {entry['id']}: {shown(entry.get('file_name'))}"
        )
        sizes = [
            whole_numbers([-1 if i.get(side) is None else i[side] for i in images], side, image)
            for side in ("height", "width")
        ]
        _check_file_names(images, name, faults)
        category_ids, names = _check_categories(categories, name, faults)
        return cls(
            name=name,
            images=images,
            image_ids=image_ids,
            image_sizes=np.stack(sizes, axis=1)[order],
            file_names=tuple(_file_name(images[place]) for place in order.tolist()),
            category_ids=category_ids,
            category_names=names,
            category_frequencies=_frequencies(categories, category_ids),
            federated=Federated.read(images, order, category_ids, name),
            annotations=annotations,
            faults=faults,
        )


def _frequencies(
    categories: list[dict[str, Any]], category_ids: NDArray[np.int64]
) -> tuple[str | None, ...]:
    by_id = {int(entry["id"]): entry.get("frequency") for entry in categories}
    return tuple(by_id[number] for number in category_ids.tolist())


def _file_name(image: dict[str, Any]) -> str | None:
    name = image.get("file_name")
    return name if isinstance(name, str) else None


def _check_file_names(images: list[dict[str, Any]], name: str, faults: Faults) -> None:
    """Note images of one file; `./1.png` is `1.png`."""
    named = [(i["id"], i["file_name"]) for i in images if isinstance(i.get("file_name"), str)]
    paths = [_normalized(file_name) for _, file_name in named]
    if len(set(paths)) == len(paths):
        return
    first: dict[str, Any] = {}
    for (image_id, file_name), path in zip(named, paths, strict=True):
        if path in first:
            faults.note(
                "duplicate_file_name",
                f"{name}: image {image_id}: file_name {shown(file_name)} "
                f"is also image {first[path]}'s",
            )
        first.setdefault(path, image_id)


def _normalized(path: str) -> str:
    is_odd = path.startswith(".") or "/." in path or "//" in path  # seldom, and much faster to see
    return posixpath.normpath(path) if is_odd else path


def _check_categories(
    categories: list[dict[str, Any]], name: str, faults: Faults
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Ids, rising, and names that tell the categories apart."""
    if not categories:
        raise FormatError(f"{name}: categories: the list is empty; list the categories")
    ids, order = unique_ids(
        categories,
        lambda index: f"{name}: categories[{index}]",
        lambda entry: f"category id {entry['id']}: {shown(entry.get('name'))}",
    )
    names = []
    for category_id, position in zip(ids.tolist(), order.tolist(), strict=True):
        given = categories[position].get("name")
        if given is None or not str(given).strip():
            faults.note(
                "category_unnamed",
                f"{name}: category {category_id}, categories[{position}].name: is {shown(given)}",
            )
            given = category_id
        names.append(str(given))
    count = Counter(names)
    for k, category_id in enumerate(ids.tolist()):
        if count[names[k]] > 1:
            faults.note(
                "category_name_repeated",
                f"{name}: category {category_id}: name {shown(names[k])} stands there "
                f"{count[names[k]]} times",
            )
    _note_alike(names, ids, name, faults)
    told_apart = [
        f"{text} ({number})" if count[text] > 1 else text
        for text, number in zip(names, ids.tolist(), strict=True)
    ]
    if len(set(told_apart)) < len(names):  # one of them is called "cat (1)" already
        told_apart = [f"{text} ({n})" for text, n in zip(names, ids.tolist(), strict=True)]
    return ids, tuple(told_apart)


def _note_alike(names: list[str], ids: NDArray[np.int64], name: str, faults: Faults) -> None:
    """Note categories whose different names a reader takes for one."""
    first: dict[str, int] = {}
    for k, text in enumerate(names):
        visible = "".join(c for c in text if unicodedata.category(c) != "Cf")  # of no width
        alike = unicodedata.normalize("NFKC", " ".join(visible.split())).casefold()
        other = first.setdefault(alike, k)
        if names[other] != text:
            faults.note(
                "category_names_alike",
                f"{name}: category {ids[k]}: name {shown(text)} is nearly that of category "
                f"{ids[other]}, {shown(names[other])}",
            )


@dataclass(eq=False)
class Annotations:
    """Annotations as the policy leaves them, in the order of the file."""

    where: Where
    """Names the annotation at a place in the file's list."""
    faults: Faults
    rows: NDArray[np.int64]
    """The place of each in the file's list."""
    image: NDArray[np.int64]
    """Indices into the image ids that were asked for."""
    sizes: NDArray[np.int64]
    """(N, 2), height and width of the image; -1 where unknown."""
    category: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    areas_given: NDArray[np.bool_]
    """Whether the area is the file's own."""
    crowd: NDArray[np.bool_]
    segmentations: Sequence[Any]
    """As in the file; None where an annotation has none."""

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Leave the others out."""
        if kept.all():
            return
        for name in ("rows", "image", "sizes", "category", "boxes", "areas", "areas_given"):
            setattr(self, name, getattr(self, name)[kept])
        self.crowd = self.crowd[kept]
        self.segmentations = take(self.segmentations, np.flatnonzero(kept))

    def note(self, rule: str, faulty: NDArray[np.bool_], what: Callable[[int], str]) -> None:
        """Note a fault of some annotations; `what` says it of one, behind its name."""
        self.faults.note_rows(
            rule, np.flatnonzero(faulty), lambda i: f"{self.where(self.rows[i])}{what(i)}"
        )

    def drop(self, rule: str, faulty: NDArray[np.bool_], what: Callable[[int], str]) -> None:
        """Note a fault that a mended file is rid of."""
        self.note(rule, faulty, what)
        if self.faults.mends:
            self.keep(~faulty)


def check_annotations(
    file: InstancesFile,
    image_ids: NDArray[np.int64],
    image_sizes: NDArray[np.int64],
    *,
    describe: Callable[[int], str] | None = None,
    with_masks: bool = True,
    recompute_areas: bool = False,
) -> Annotations:
    """The annotations of some of the file's images; raises FormatError.

    image_ids: rising; image_sizes: (num_images, 2), height and width, -1 where unknown
    describe: names an annotation by its place in the list where its id says nothing to the reader
    with_masks: take areas that are absent or wrong from the mask where there is one
    recompute_areas: take all areas from mask or box
    """
    entries, faults, name = file.annotations, file.faults, file.name

    def by_id(index: int) -> str:
        annotation_id, image_id = (shown(entries[index].get(k)) for k in ("id", "image_id"))
        return f"{name}: annotation {annotation_id} of image {image_id}, annotations[{index}]"

    where = describe or by_id
    all_image_ids = integers(entries, "image_id", where)
    listed = positions(all_image_ids, file.image_ids)[1]
    faults.note_rows(
        "unknown_image",
        np.flatnonzero(~listed),
        lambda i: (
            f"{where(i)}.image_id: {all_image_ids[i]} is not in the list of images "
            f"({int((~listed).sum())} such entries)"
        ),
    )
    image, wanted = positions(all_image_ids, image_ids)
    category_ids = integers(entries, "category_id", where)
    category, known = positions(category_ids, file.category_ids)
    unknown = np.flatnonzero(wanted & ~known)
    if len(unknown):
        raise FormatError(
            f"{where(int(unknown[0]))}.category_id: {category_ids[unknown[0]]} is not in the list "
            f"of categories ({len(unknown)} such entries); list it, or correct the entry"
        )
    areas, areas_given = optional_floats(entries, "area", where)
    found = Annotations(
        where=where,
        faults=faults,
        rows=np.arange(len(entries)),
        image=image,
        sizes=image_sizes[np.where(wanted, image, 0)],
        category=category,
        boxes=box_column(entries, where),
        areas=areas,
        areas_given=areas_given,
        crowd=flags(entries, "iscrowd", where),
        segmentations=stored(entries, "segmentation"),
    )
    found.keep(wanted)
    found.note(
        "annotation_ids_renumbered",
        odd_ids(entries, found.rows),
        lambda i: ".id: is absent, 0, used before or not whole",
    )
    _check_box_values(found)
    _check_reading(found)
    clipped = _check_box_places(found, file.name)
    _refuse_shares(found)
    _check_areas(found, clipped, with_masks, recompute_areas)
    _note_repeated(found)
    if not len(found.rows):
        faults.note("no_annotations", f"{file.name}: no annotation is left on any image")
    return found


def _check_box_values(found: Annotations) -> None:
    def bad(i: int) -> str:
        return f".bbox: {BOX}, not {found.boxes[i].tolist()}"

    found.drop("box_not_finite", np.any(~np.isfinite(found.boxes), axis=1), bad)
    found.drop("box_negative", np.any(found.boxes[:, 2:] < 0, axis=1), bad)
    found.drop(
        "box_empty",
        _is_empty(found.boxes),
        lambda i: f".bbox: {found.boxes[i].tolist()} has no area",
    )


def _is_empty(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (boxes[:, 2] < MIN_SIDE) | (boxes[:, 3] < MIN_SIDE)


def are_shares(boxes: NDArray[np.float64]) -> bool:
    """Whether boxes are written as shares of the image instead of pixels."""
    if not len(boxes) or not boxes.any():
        return False
    if (boxes[:, 2] <= 1).mean() < SHARES:  # what is no share is seen by one column
        return False
    return bool(((boxes >= 0) & (boxes <= 1)).all(axis=1).mean() >= SHARES)


def _refuse_shares(found: Annotations) -> None:
    if are_shares(found.boxes):
        first = int(np.flatnonzero((found.boxes <= 1).all(axis=1))[0])
        raise FormatError(
            f"{found.where(int(found.rows[first]))}.bbox: {found.boxes[first].tolist()}, and like "
            "it nearly all boxes lie between 0 and 1: they are shares of the image; "
            "write x, y, width, height in pixels"
        )


def _check_reading(found: Annotations) -> None:
    """Boxes in pixels of another order are doubted, or refused, by the policy; others refused."""
    areas = np.where(found.areas_given, found.areas, np.nan)
    spread = np.linspace(0, len(found.rows) - 1, NUM_OUTLINES).astype(np.int64)
    looked_at = spread[np.diff(spread, prepend=-1) > 0]
    plain, survey = survey_plain(take(found.segmentations, looked_at[: len(found.rows)]))
    misread = find_truth_misreading(
        found.boxes, found.sizes, areas, looked_at[plain], from_corners(survey.corners)
    )
    if misread is None:
        return
    what = (
        f"{found.where(int(found.rows[0]))}.bbox: {found.boxes[0].tolist()}, and the others "
        f"with it, are {misread.reading}: so read, {misread.evidence}"
    )
    if misread.reading in READINGS:
        found.faults.note("boxes_in_other_order", what)
    else:
        raise FormatError(f"{what}; write x, y, width, height in pixels")


def _check_box_places(found: Annotations, name: str) -> NDArray[np.bool_]:
    """Drop boxes outside their image, clip what reaches over its edge; which were clipped."""
    height, width = found.sizes.T
    x, y, box_width, box_height = found.boxes.T
    left, top = np.maximum(x, 0), np.maximum(y, 0)
    right, bottom = np.minimum(x + box_width, width), np.minimum(y + box_height, height)
    inside = np.stack([left, top, right - left, bottom - top], axis=1)
    sized = (found.sizes > 0).all(axis=1) & ~_is_empty(found.boxes)
    outside = sized & _is_empty(inside)
    over = sized & ~outside & leaves_image(found.boxes, found.sizes)

    def what(i: int) -> str:
        image = f"{found.sizes[i, 1]}x{found.sizes[i, 0]}"
        return f".bbox: {found.boxes[i].tolist()} leaves its image, {image}"

    leaving = outside | over
    found.note("box_clipped", over, what)
    if found.faults.mends:
        found.boxes = np.where(over[:, None], inside, found.boxes)
    found.drop("box_outside", outside, what)
    if are_many(leaving):
        found.faults.note(
            "boxes_leave_image",
            f"{name}: {int(leaving.sum())} of {len(leaving)} boxes leave their image",
        )
    return over[~outside] if found.faults.mends else np.zeros(len(over), dtype=bool)


def box_areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) in square pixels."""
    return boxes[:, 2] * boxes[:, 3]


def is_at_odds_with_box(
    areas: NDArray[np.float64], boxes: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether no object of that area fits the box, or next to nothing of the box is filled."""
    of_box = box_areas(boxes)
    rim = boxes[:, 2] + boxes[:, 3] + 1  # some tools count both ends of a box
    too_large = (areas > of_box + rim) & ~_is_empty(boxes)
    return too_large | ((areas < MIN_FILL * of_box) & (of_box > 1 / MIN_FILL))


def _check_areas(
    found: Annotations, clipped: NDArray[np.bool_], with_masks: bool, recompute: bool
) -> None:
    areas, given = found.areas, found.areas_given
    of_box = box_areas(found.boxes)
    most = np.where((found.sizes > 0).all(axis=1), found.sizes.prod(axis=1), np.inf)
    wrong = given & ~(np.isfinite(areas) & (areas >= 0))
    out_of_range = given & ~wrong & (((areas == 0) & ~_is_empty(found.boxes)) | (areas > most))
    if found.faults.mends:
        areas = np.where(clipped & ~wrong, np.minimum(areas, of_box), areas)
    at_odds = given & ~wrong & ~out_of_range & is_at_odds_with_box(areas, found.boxes)

    found.note("area_absent", ~given, lambda i: ".area: is absent")
    found.note(
        "area_wrong",
        wrong,
        lambda i: (
            f".area: must {'not be negative' if areas[i] < 0 else 'be a finite number'}, "
            f"not {areas[i]:g}"
        ),
    )
    found.note("area_out_of_range", out_of_range, lambda i: f".area: is {areas[i]:g}")
    found.note(
        "area_at_odds",
        at_odds,
        lambda i: f".area: is {areas[i]:g}, but its box has {of_box[i]:g} square pixels",
    )
    fresh = np.ones(len(areas), dtype=bool) if recompute else ~given
    if found.faults.mends:
        fresh |= wrong | out_of_range
    areas = np.where(fresh, of_box, areas)
    for i in np.flatnonzero(fresh).tolist() if with_masks else ():
        areas[i] = _mask_area(found.segmentations[i], found.sizes[i]) or areas[i]
    found.areas, found.areas_given = areas, ~fresh


def _mask_area(segmentation: Any, size: NDArray[np.int64]) -> int:
    """Pixels of a mask; 0 where it is none, which is told where masks are used."""
    height, width = size.tolist()
    if not segmentation or not is_possible(height, width):
        return 0
    if isinstance(segmentation, list):
        segmentation = [p for p in segmentation if masks.polygon_fault(p, height, width) is None]
    try:
        return int(masks.measure([masks.checked(segmentation, height, width)])[1][0])
    except ValueError:
        return 0


def is_possible(height: int, width: int) -> bool:
    """Whether a mask of that size can be had."""
    return 0 < height < MAX_SIDE and 0 < width < MAX_SIDE


def are_possible(sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`is_possible` of (N, 2) heights and widths."""
    return np.all((sizes > 0) & (sizes < MAX_SIDE), axis=1)


def impossible(height: int, width: int) -> str:
    """Why no mask of that size can be had."""
    return (
        f"needs an image of height and width between 1 and {MAX_SIDE}, the truth says "
        f"{height} and {width}; correct the image's entry"
    )


_ODD_NUMBER = np.uint64(0x9E3779B97F4A7C15)


def _note_repeated(found: Annotations) -> None:
    """Note annotations that repeat an earlier one in all but the id."""
    columns = (found.image, found.category, *found.boxes.T, found.areas)
    key = np.stack(columns, axis=1) + 0.0  # -0.0 is 0.0
    mixed = np.zeros(len(key), dtype=np.uint64)
    for column in key.view(np.uint64).T:  # sorting one number each is much faster than all
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _ODD_NUMBER + column
    order = np.argsort(mixed, kind="stable")
    alike = np.flatnonzero((key[order][1:] == key[order][:-1]).all(axis=1))
    repeated = np.zeros(len(key), dtype=bool)
    first = {}
    for one, other in zip(order[alike].tolist(), order[alike + 1].tolist(), strict=True):
        if found.segmentations[one] == found.segmentations[other]:
            repeated[other] = True
            first[other] = one
    found.note(
        "annotation_repeated",
        repeated,
        lambda i: f": is the same as {found.where(int(found.rows[first[i]]))}",
    )

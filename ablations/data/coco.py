"""Folders in COCO format: what may be wrong with one, and how each fault ends.

pycocotools loads most broken files without a word. Here a fault that leaves it open what the data
means (unknown category, two images with one id, RLE of another size, a path out of the image
folder) refuses the whole file; a fault confined to one annotation drops or mends that annotation,
by name, and is kept in the data set's `checks`.

Every annotation and every image header is looked at, none is sampled: on one core 37,000
annotations of 5,000 images open in 4 s, 860,000 annotations of 60,000 images in 52 s, a third of
it the JSON parser, a fifth the headers.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.progress import tracked

from . import masks as coco_masks
from .faults import DataError, Faults
from .images import MAX_PIXELS, image_sizes
from .paths import ImageFolder, below, is_there

Annotation = dict[str, Any]
ImageEntry = dict[str, Any]

SPLITS = ("train", "val")

KINDS = {
    "unknown_image": ("dropped", "list the image, or remove the annotation"),
    "box_not_finite": ("dropped", "write the box again as four finite numbers"),
    "box_empty": ("dropped", "give the box a width and height above 0, or remove it"),
    "box_outside": ("dropped", "the box shares no pixel with its image: correct or remove it"),
    "box_clipped": ("clipped", "keep boxes within the image"),
    "boxes_leave_image": (
        "warned",
        "are boxes written as x1,y1,x2,y2? COCO's are x,y,width,height",
    ),
    "area_wrong": ("computed anew", "leave `area` out, or write the number of pixels"),
    "mask_part_dropped": ("dropped that polygon", "mend or remove the polygon"),
    "mask_dropped": ("dropped the mask", "mend or remove the segmentation"),
    "mask_missing": (
        "ignored in training and evaluation",
        "draw the mask, or train boxes alone with data.masks=false",
    ),
    "masks_unused": ("boxes only", "draw the masks that are missing, or ask with data.masks=true"),
    "annotation_ids_renumbered": ("renumbered", "number annotations from 1, each id once"),
    "duplicate_file_name": ("warned", "list each image file once"),
    "no_annotations": ("warned", "every image counts as a negative: is this the right file?"),
}

OVERHANG = 1.0
"""Pixels a box may reach over the image's edge as rounding: the truth is left as it stands."""

MIN_SIDE = 0.01
"""Pixels; a thinner box has no area left in float32 after clipping and resizing."""

LEAVING_SHARE = 0.2
"""Share of boxes over the edge from which the format, not single boxes, is in doubt."""


@dataclass(kw_only=True, slots=True)
class CocoData:
    """Any folder in COCO format.

    root: folder that the other paths are relative to
    train, val: annotation files; images, val_images: image folders (val_images: where val differs)
    masks: True wants masks, False leaves them out, None uses them where most annotations have one
    negatives: keep training images without objects
    follow_links: take images that a link leads out of their folder
    """

    root: str
    train: str
    val: str
    images: str = "images"
    val_images: str | None = None
    masks: bool | None = None
    negatives: bool = True
    follow_links: bool = False

    def check(self) -> None:
        """ValueError naming field and remedy when a path does not exist."""
        check_folder(self.root, "data.root", "the folder that holds annotations and images")
        for name, file in (("data.train", self.train), ("data.val", self.val)):
            if not is_there(below(self.root, file)):
                raise ValueError(
                    f"{name}={file!r}: no such file in {self.root}: "
                    f"give the annotation file relative to data.root"
                )
        images = below(self.root, self.images)
        check_folder(images, "data.images", "the image folder below data.root")
        if self.val_images is not None:
            images = below(self.root, self.val_images)
            check_folder(images, "data.val_images", "val's image folder below data.root")

    def images_folder(self, split: str) -> ImageFolder:
        """A split's image folder."""
        name = self.images if split == "train" else self.val_images or self.images
        return ImageFolder(below(self.root, name).resolve(), self.follow_links)


@dataclass(kw_only=True, slots=True)
class Coco2017Data:
    """COCO 2017 as people have it: train2017/, val2017/, annotations/instances_*2017.json."""

    root: str
    masks: bool | None = None
    negatives: bool = True
    follow_links: bool = False

    def as_coco(self) -> CocoData:
        """The same data as a plain COCO folder."""
        return CocoData(
            root=self.root,
            train="annotations/instances_train2017.json",
            val="annotations/instances_val2017.json",
            images="train2017",
            val_images="val2017",
            masks=self.masks,
            negatives=self.negatives,
            follow_links=self.follow_links,
        )

    def check(self) -> None:
        """ValueError naming field and remedy when the layout is not there."""
        self.as_coco().check()


def check_folder(folder: str | Path, name: str, remedy: str) -> None:
    """ValueError unless the folder exists."""
    if not folder or not is_there(below("", str(folder)), folder=True):
        raise ValueError(f"{name}: no such folder {str(folder)!r}: give {remedy}")


@dataclass(slots=True)
class Instances:
    """One split after the checks: what is trained on and evaluated against.

    categories: {id, name} by ascending id
    images: {id, file_name, width, height}, in the file's order
    annotations: image id -> its annotations, without ids; segmentation only when has_masks
    """

    categories: list[dict[str, Any]]
    images: list[ImageEntry]
    annotations: dict[int, list[Annotation]]
    has_masks: bool
    faults: Faults = field(default_factory=lambda: Faults(KINDS))


def read_coco(config: CocoData, split: str, max_images: int | None = None) -> Instances:
    """Read and check one split; with `max_images`, that many images spread evenly over it."""
    file = config.train if split == "train" else config.val
    return check_instances(
        load_json(below(config.root, file)),
        source=file,
        folder=config.images_folder(split),
        masks=config.masks,
        max_images=max_images,
    )


def load_json(path: Path) -> Any:
    """Parse a JSON file, with or without a byte-order mark; a `DataError` says where it breaks."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error}): check data.root and the file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}): write or fetch it again") from error


def check_instances(
    raw: Any,
    *,
    source: str,
    folder: ImageFolder,
    masks: bool | None,
    max_images: int | None,
    describe: Callable[[Annotation], str] | None = None,
    describe_image: Callable[[ImageEntry], str] | None = None,
) -> Instances:
    """Check a parsed COCO instances file against its image folder.

    `source` names the file in messages; `describe` and `describe_image` name an annotation and an
    image where their ids would say nothing to the reader.
    """

    def by_id(annotation: Annotation) -> str:
        return (
            f"{source}: annotation {annotation.get('id')!r} (image {annotation.get('image_id')!r})"
        )

    describe = describe or by_id
    describe_image = describe_image or (lambda image: f"{source}: image {image['id']}")
    if not isinstance(raw, dict):
        raise DataError(
            f"{source}: top level is a {type(raw).__name__}, not an object: "
            "COCO files hold {images, annotations, categories}"
        )
    faults = Faults(KINDS)
    categories = _categories(raw, source)
    images = _images(raw, source, folder, faults, describe_image)
    listed = {image["id"] for image in images}
    images = spread(images, max_images)
    _settle_sizes(images, folder, describe_image)
    annotations = _annotations(
        _objects(raw, "annotations", source),
        {image["id"]: image for image in images},
        listed,
        {category["id"] for category in categories},
        faults,
        describe,
        with_masks=masks is not False,
    )
    has_masks = _settle_masks(annotations, masks, source, faults, describe)
    _strip_ids(annotations)
    return Instances(categories, images, annotations, has_masks, faults)


def spread(items: list[Any], num: int | None) -> list[Any]:
    """`num` of the items, evenly spaced, or all when there are no more."""
    if num is None or num >= len(items):
        return items
    if num < 1:
        raise ValueError(f"max_images={num}: ask for at least 1 image, or None for all")
    return [items[i * len(items) // num] for i in range(num)]


def _objects(raw: dict[str, Any], key: str, source: str) -> list[dict[str, Any]]:
    entries = raw.get(key)
    if not isinstance(entries, list):
        found = type(entries).__name__ if key in raw else "absent"
        raise DataError(f"{source}: {key!r} is {found}: write it as a list of objects")
    for position, entry in enumerate(entries):
        if type(entry) is not dict:
            raise DataError(f"{source}: {key}[{position}] is {entry!r}: write it as an object")
    return entries


def _whole(value: object, what: str) -> int:
    if type(value) is not int:
        raise DataError(f"{what} is {value!r}: write it as a whole number")
    return value


def _categories(raw: dict[str, Any], source: str) -> list[dict[str, Any]]:
    names: dict[int, str] = {}
    for position, category in enumerate(_objects(raw, "categories", source)):
        category_id = _whole(category.get("id"), f"{source}: categories[{position}].id")
        name = category.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{source}: category {category_id}: name is {name!r}: name it")
        if category_id in names:
            raise DataError(
                f"{source}: category id {category_id} is listed twice "
                f"({names[category_id]!r}, {name!r}): give each category its own id"
            )
        names[category_id] = name
    if not names:
        raise DataError(f"{source}: 'categories' is empty: list the categories")
    return [{"id": category_id, "name": names[category_id]} for category_id in sorted(names)]


def _images(
    raw: dict[str, Any],
    source: str,
    folder: ImageFolder,
    faults: Faults,
    describe: Callable[[ImageEntry], str],
) -> list[ImageEntry]:
    images: list[ImageEntry] = []
    ids: set[int] = set()
    file_names: dict[str, int] = {}
    for position, image in enumerate(_objects(raw, "images", source)):
        image_id = _whole(image.get("id"), f"{source}: images[{position}].id")
        where = describe(image)
        if image_id in ids:
            raise DataError(f"{where}: id is listed twice: give each image its own id")
        ids.add(image_id)
        file_name = image.get("file_name")
        if not isinstance(file_name, str):
            there = folder.suggestion(image.get("coco_url"))
            raise DataError(f"{where}: file_name is {file_name!r}{there}: give the image's path")
        folder.file(file_name, where)
        if file_name in file_names:
            faults.note(
                "duplicate_file_name",
                f"{where}: file_name {file_name!r} is also image {file_names[file_name]}'s",
            )
        file_names[file_name] = image_id
        entry: ImageEntry = {"id": image_id, "file_name": file_name}
        for side in ("width", "height"):
            if image.get(side) is not None:
                entry[side] = _whole(image[side], f"{where}: {side}")
        images.append(entry)
    if not images:
        raise DataError(f"{source}: 'images' is empty: list at least one image")
    return images


def _settle_sizes(
    images: list[ImageEntry], folder: ImageFolder, describe: Callable[[ImageEntry], str]
) -> None:
    """Hold each image's size against its file's header, and fill in what the JSON leaves out."""
    paths, sources = [], []
    for image in images:
        where = describe(image)
        if image.get("width", 1) * image.get("height", 1) > MAX_PIXELS:
            raise DataError(
                f"{where}: width x height is {image['width']}x{image['height']}, more than "
                f"{MAX_PIXELS} pixels: correct it, or scale the image down"
            )
        paths.append(folder.file(image["file_name"], where))
        sources.append(where)
    for image, (width, height) in zip(images, image_sizes(paths, sources), strict=True):
        said = (image.setdefault("width", width), image.setdefault("height", height))
        if said != (width, height):
            raise DataError(
                f"{describe(image)}: width x height is {said[0]}x{said[1]}, but "
                f"{image['file_name']} is {width}x{height} upright: correct the annotation file, "
                "or put back the image that the boxes were drawn on"
            )


def _annotations(
    raw: list[Annotation],
    images: dict[int, ImageEntry],
    listed: set[int],
    category_ids: set[int],
    faults: Faults,
    describe: Callable[[Annotation], str],
    with_masks: bool,
) -> dict[int, list[Annotation]]:
    kept: dict[int, list[Annotation]] = {image_id: [] for image_id in images}
    ids: set[int] = set()
    num_boxes = num_leaving = 0
    for annotation in tracked(raw, len(raw), "annotations checked"):
        image_id = annotation.get("image_id")
        if type(image_id) is not int:
            raise DataError(
                f"{describe(annotation)}: image_id is {image_id!r}: write it as a whole number"
            )
        if image_id not in listed:
            faults.note("unknown_image", f"{describe(annotation)}: image_id is not listed")
            continue
        if image_id not in images:  # left out by max_images
            continue
        annotation_id = annotation.get("id")
        if type(annotation_id) is not int or annotation_id == 0 or annotation_id in ids:
            faults.note(
                "annotation_ids_renumbered",
                f"{describe(annotation)}: id is absent, 0, used before or not a whole number",
            )
        else:
            ids.add(annotation_id)
        category_id = annotation.get("category_id")
        if type(category_id) is not int or category_id not in category_ids:
            raise DataError(
                f"{describe(annotation)}: category_id {category_id!r} is not listed: "
                "add it to 'categories', or correct the annotation"
            )
        image = images[image_id]
        box = _box(annotation, faults, describe)
        if box is None:
            continue
        num_boxes += 1
        clipped = _clip(box, image, annotation, faults, describe)
        num_leaving += clipped is not box
        if clipped is None:
            continue
        segmentation = _mask(annotation, image, faults, describe) if with_masks else None
        kept[image_id].append(
            {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": clipped,
                "area": _area(annotation, clipped, segmentation, image, faults, describe),
                "iscrowd": _crowd(annotation, describe),
                "segmentation": segmentation,
            }
        )
    if num_leaving > LEAVING_SHARE * num_boxes:
        faults.note("boxes_leave_image", f"{num_leaving} of {num_boxes} boxes leave their image")
    if not any(kept.values()):
        faults.note("no_annotations", "no annotation is left on any image")
    return kept


def _box(
    annotation: Annotation, faults: Faults, describe: Callable[[Annotation], str]
) -> list[float] | None:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{describe(annotation)}: bbox is {box!r}: write [x, y, width, height]")
    try:
        finite = math.isfinite(sum(box))
    except OverflowError:
        finite = False
    except TypeError as error:
        raise DataError(
            f"{describe(annotation)}: bbox is {box!r}: write its values as numbers"
        ) from error
    if not finite:
        faults.note("box_not_finite", f"{describe(annotation)}: bbox is {box}")
        return None
    if box[2] < MIN_SIDE or box[3] < MIN_SIDE:
        faults.note("box_empty", f"{describe(annotation)}: bbox is {box}")
        return None
    return box


def _clip(
    box: list[float],
    image: ImageEntry,
    annotation: Annotation,
    faults: Faults,
    describe: Callable[[Annotation], str],
) -> list[float] | None:
    """The box itself where it is within the image, a clipped copy, or None when nothing is left."""
    x, y, width, height = box
    right, bottom = image["width"], image["height"]
    within = x >= 0 and y >= 0 and x + width <= right and y + height <= bottom
    if within:
        return box
    x1, y1 = max(x, 0), max(y, 0)
    x2, y2 = min(x + width, right), min(y + height, bottom)
    if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
        faults.note("box_outside", f"{describe(annotation)}: bbox is {box}, image {right}x{bottom}")
        return None
    if max(x1 - x, y1 - y, x + width - x2, y + height - y2) <= OVERHANG:
        return box
    faults.note("box_clipped", f"{describe(annotation)}: bbox is {box}, image {right}x{bottom}")
    return [x1, y1, x2 - x1, y2 - y1]


def _mask(
    annotation: Annotation,
    image: ImageEntry,
    faults: Faults,
    describe: Callable[[Annotation], str],
) -> coco_masks.Segmentation | None:
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return None
    width, height = image["width"], image["height"]
    if isinstance(segmentation, dict):
        fault = coco_masks.rle_fault(segmentation, width, height)
        if fault is not None:
            raise DataError(
                f"{describe(annotation)}: segmentation: {fault}: encode it at the image's size"
            )
        return {"size": segmentation["size"], "counts": segmentation["counts"]}
    if not isinstance(segmentation, list):
        raise DataError(
            f"{describe(annotation)}: segmentation is {type(segmentation).__name__}: "
            "write a list of polygons, or an RLE object"
        )
    usable = []
    for polygon in segmentation:
        fault = coco_masks.polygon_fault(polygon, width, height)
        if fault is None:
            usable.append(polygon)
        else:
            faults.note("mask_part_dropped", f"{describe(annotation)}: segmentation: {fault}")
    if not usable:
        faults.note("mask_dropped", f"{describe(annotation)}: segmentation: no polygon is left")
        return None
    return usable


def _area(
    annotation: Annotation,
    box: list[float],
    segmentation: coco_masks.Segmentation | None,
    image: ImageEntry,
    faults: Faults,
    describe: Callable[[Annotation], str],
) -> float:
    """The annotation's own area (COCO bins sizes by it), at most its box's; computed if absent."""
    box_area = box[2] * box[3]
    area = annotation.get("area")
    if area is not None:
        if type(area) not in (int, float):
            raise DataError(f"{describe(annotation)}: area is {area!r}: write it as a number")
        if 0 < area <= image["width"] * image["height"]:
            return area if box is annotation["bbox"] else min(area, box_area)
        faults.note("area_wrong", f"{describe(annotation)}: area is {area}")
    if segmentation is not None:
        return coco_masks.area(segmentation, image["width"], image["height"]) or box_area
    return box_area


def _crowd(annotation: Annotation, describe: Callable[[Annotation], str]) -> int:
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise DataError(f"{describe(annotation)}: iscrowd is {crowd!r}: write 0 or 1")
    return int(crowd)


def _settle_masks(
    annotations: dict[int, list[Annotation]],
    masks: bool | None,
    source: str,
    faults: Faults,
    describe: Callable[[Annotation], str],
) -> bool:
    """Decide whether the data set has masks, and see to the annotations that go without."""
    every = [annotation for group in annotations.values() for annotation in group]
    objects = [annotation for annotation in every if not annotation["iscrowd"]]
    num_masks = sum(annotation["segmentation"] is not None for annotation in objects)
    if masks and not num_masks:
        raise DataError(
            f"{source}: data.masks=true, but no annotation has a usable segmentation: "
            "use data.masks=false, or draw masks"
        )
    has_masks = masks if masks is not None else 2 * num_masks > len(objects)
    if not has_masks:
        if num_masks:
            faults.note(
                "masks_unused", f"{source}: {num_masks} of {len(objects)} objects have a mask"
            )
        for annotation in every:
            del annotation["segmentation"]
        return False
    for annotation in every:
        if annotation["segmentation"] is None:
            faults.note("mask_missing", f"{describe(annotation)}: segmentation")
            x, y, width, height = annotation["bbox"]
            right, bottom = x + width, y + height
            annotation["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]
            annotation["iscrowd"] = 1
    return True


def _strip_ids(annotations: dict[int, list[Annotation]]) -> None:
    """Ids have named the faults; the truth is numbered anew from 1, each id once."""
    for group in annotations.values():
        for annotation in group:
            del annotation["id"]

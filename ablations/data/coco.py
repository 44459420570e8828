"""Folders in COCO format: annotation files and the images they name.

The annotations are read and checked by `ablations.evaluation`, which reads them for scoring too;
here they are mended: what is at fault is dropped or repaired by name, and kept in the data set's
`checks`. Every annotation and every image header is looked at, none is sampled.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.columns import whole_numbers
from ablations.evaluation.faults import Faults, FormatError
from ablations.evaluation.federated import FIELDS
from ablations.evaluation.instances import Annotations, InstancesFile, check_annotations
from ablations.evaluation.mask_checks import CheckedMasks, check_masks

from .annotations import ImageAnnotations
from .faults import DataError
from .images import (
    FOURTEEN_BITS,
    MAX_PIXELS,
    TWELVE_BITS,
    UNSCALED,
    Header,
    largest_sample,
    read_headers,
)
from .paths import ImageFolder, below, is_there

Annotation = dict[str, Any]
ImageEntry = dict[str, Any]

SPLITS = ("train", "val")

NUM_LOOKED_AT = 8
"""Images of 16 bits that are decoded where no header says how many are used."""


@dataclass(kw_only=True, slots=True)
class CocoData:
    """Any folder in COCO format.

    root: folder that the other paths are relative to
    train, val: annotation files; images, val_images: image folders (val_images: where val differs)
    masks: True wants masks, False leaves them out, None uses them where most annotations have one
    recompute_areas: take each object's area from its mask or box instead of from the file; it
        decides which size the object is scored as
    negatives: keep training images without objects
    follow_links: take images that a link leads out of their folder
    """

    root: str
    train: str
    val: str
    images: str = "images"
    val_images: str | None = None
    masks: bool | None = None
    recompute_areas: bool = False
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

    def read(self, split: str, max_images: int | None = None) -> "Instances":
        """Read and check one split; with `max_images`, that many images spread evenly over it."""
        file = self.train if split == "train" else self.val
        return check_instances(
            below(self.root, file),
            source=file,
            folder=self.images_folder(split),
            masks=self.masks,
            max_images=max_images,
            recompute_areas=self.recompute_areas,
        )


@dataclass(kw_only=True, slots=True)
class Coco2017Data:
    """COCO 2017 as people have it: train2017/, val2017/, annotations/instances_*2017.json."""

    root: str
    masks: bool | None = None
    recompute_areas: bool = False
    negatives: bool = True
    follow_links: bool = False

    @property
    def train(self) -> str:
        return "annotations/instances_train2017.json"

    @property
    def val(self) -> str:
        return "annotations/instances_val2017.json"

    def as_coco(self) -> CocoData:
        """The same data as a plain COCO folder."""
        return CocoData(
            root=self.root,
            train=self.train,
            val=self.val,
            images="train2017",
            val_images="val2017",
            masks=self.masks,
            recompute_areas=self.recompute_areas,
            negatives=self.negatives,
            follow_links=self.follow_links,
        )

    def check(self) -> None:
        """ValueError naming field and remedy when the layout is not there."""
        self.as_coco().check()

    def images_folder(self, split: str) -> ImageFolder:
        """A split's image folder."""
        return self.as_coco().images_folder(split)

    def read(self, split: str, max_images: int | None = None) -> "Instances":
        """Read and check one split; with `max_images`, that many images spread evenly over it."""
        return self.as_coco().read(split, max_images)


def check_folder(folder: str | Path, name: str, remedy: str) -> None:
    """ValueError unless the folder exists."""
    if not folder or not is_there(below("", str(folder)), folder=True):
        raise ValueError(f"{name}: no such folder {str(folder)!r}: give {remedy}")


@dataclass(slots=True)
class Instances:
    """One split after the checks: what is trained on and evaluated against.

    categories: {id, name} by ascending id
    images: {id, file_name, width, height}, in the file's order; paths: their files
    sources: what says in errors where each image is listed
    """

    categories: list[dict[str, Any]]
    images: list[ImageEntry]
    paths: list[Path]
    sources: list[str]
    annotations: ImageAnnotations
    faults: Faults

    @property
    def has_masks(self) -> bool:
        return self.annotations.checked is not None

    def take(self, kept: NDArray[np.bool_]) -> "Instances":
        """Some of the images with their annotations."""
        return replace(
            self,
            images=list(compress(self.images, kept)),
            paths=list(compress(self.paths, kept)),
            sources=list(compress(self.sources, kept)),
            annotations=self.annotations.take(kept),
        )


def check_instances(
    content: dict[str, Any] | Path,
    *,
    source: str,
    folder: ImageFolder,
    masks: bool | None,
    max_images: int | None,
    describe: Callable[[Annotation], str] | None = None,
    describe_image: Callable[[ImageEntry], str] | None = None,
    recompute_areas: bool = False,
) -> Instances:
    """Check COCO instances (a file or its content) against their image folder.

    `source` names the file in messages; `describe` and `describe_image` name an annotation and an
    image where their ids would say nothing to the reader. Raises DataError.
    """
    describe_image = describe_image or (lambda image: f"{source}: image {image['id']}")
    try:
        file = InstancesFile.read(content, source, Faults("mend"))
        listed = spread(_images(file, folder, describe_image), max_images)
        images, paths = [image for image, _ in listed], [path for _, path in listed]
        sources = [describe_image(image) for image in images]
        headers = _settle_sizes(images, paths, sources)
        _check_depth(paths, sources, headers, file.faults)
        by_id = sorted(images, key=lambda image: image["id"])
        annotations = check_annotations(
            file,
            np.array([image["id"] for image in by_id], dtype=np.int64),
            np.array([(image["height"], image["width"]) for image in by_id], dtype=np.int64),
            describe=None if describe is None else lambda i: describe(file.annotations[i]),
            with_masks=masks is not False,
            recompute_areas=recompute_areas,
        )
        checked = _settle_masks(annotations, masks, source)
    except FormatError as error:
        raise DataError(str(error)) from error
    return Instances(
        categories=[
            {"id": number, "name": name}
            for number, name in zip(file.category_ids.tolist(), file.category_names, strict=True)
        ],
        images=images,
        paths=paths,
        sources=sources,
        annotations=ImageAnnotations.sorted(
            file, annotations, checked, np.array([image["id"] for image in images], dtype=np.int64)
        ),
        faults=file.faults,
    )


def spread(items: list[Any], num: int | None) -> list[Any]:
    """`num` of the items, evenly spaced, or all when there are no more."""
    if num is None or num >= len(items):
        return items
    if num < 1:
        raise ValueError(f"max_images={num}: ask for at least 1 image, or None for all")
    return [items[i * len(items) // num] for i in range(num)]


def _images(
    file: InstancesFile, folder: ImageFolder, describe: Callable[[ImageEntry], str]
) -> list[tuple[ImageEntry, Path]]:
    """The images in the file's order, each with its file inside the folder."""
    columns = {
        key: whole_numbers(
            [0 if image.get(key) is None else image[key] for image in file.images],
            key,
            lambda index: f"{file.name}: images[{index}]",
        ).tolist()
        for key in ("id", "width", "height")
    }
    images: list[tuple[ImageEntry, Path]] = []
    for image, *values in zip(file.images, *columns.values(), strict=True):
        where = describe(image)
        file_name = image.get("file_name")
        if not isinstance(file_name, str):
            there = folder.suggestion(image.get("coco_url"))
            raise DataError(f"{where}: file_name is {file_name!r}{there}: give the image's path")
        path = folder.file(file_name, where)
        said = zip(columns, values, strict=True)
        entry = (
            {"file_name": file_name}
            | {k: v for k, v in said if image.get(k) is not None}
            | {key: image[key] for key in FIELDS if key in image}
        )
        images.append((entry, path))
    return images


def _settle_sizes(images: list[ImageEntry], paths: list[Path], sources: list[str]) -> list[Header]:
    """Hold each image's size against its file's header, and fill in what the JSON leaves out."""
    for image, source in zip(images, sources, strict=True):
        if image.get("width", 1) * image.get("height", 1) > MAX_PIXELS:
            raise DataError(
                f"{source}: width x height is {image['width']}x{image['height']}, more than "
                f"{MAX_PIXELS} pixels: correct it, or scale the image down"
            )
    headers = read_headers(paths, sources)
    for image, source, (width, height, _) in zip(images, sources, headers, strict=True):
        said = (image.setdefault("width", width), image.setdefault("height", height))
        if said != (width, height):
            raise DataError(
                f"{source}: width x height is {said[0]}x{said[1]}, but "
                f"{image['file_name']} is {width}x{height} upright: correct the annotation file, "
                "or put back the image that the boxes were drawn on"
            )
    return headers


def _check_depth(
    paths: list[Path], sources: list[str], headers: list[Header], faults: Faults
) -> None:
    """Look at a few images of 16 bits where nothing tells how many of them are used.

    What would be refused when it is decoded for use is refused at once; where all are dark, which
    14 bits or fewer look like, it is told.
    """
    unknown = [k for k, header in enumerate(headers) if not header.depth_is_known]
    looked_at = spread(unknown, NUM_LOOKED_AT)
    largest = 0
    for k in looked_at:
        value = largest_sample(paths[k])
        if 0 < value <= TWELVE_BITS:
            raise DataError(f"{sources[k]}: {paths[k]}: {UNSCALED}")
        largest = max(largest, value)
    if 0 < largest <= FOURTEEN_BITS:
        faults.note(
            "depth_in_doubt",
            f"{sources[unknown[0]]}: {paths[unknown[0]]}: 16 bits, but no value above "
            f"{largest} of 65535 in {len(looked_at)} images that were looked at",
            len(unknown),
        )


def _settle_masks(annotations: Annotations, masks: bool | None, source: str) -> CheckedMasks | None:
    """The masks, or None where the data set goes without."""
    if masks is False:
        return None
    faults = annotations.faults
    checked = check_masks(annotations)
    has_mask = checked.usable
    num_objects = int((~annotations.crowd).sum())
    num_masks = int(has_mask[~annotations.crowd].sum())
    if masks and not num_masks:
        raise DataError(
            f"{source}: masks are asked for, by a detector of masks or by data.masks=true, but no "
            "annotation has a usable segmentation: choose a detector of boxes, or draw masks"
        )
    if masks is None and 2 * num_masks <= num_objects:
        if num_masks:
            faults.note("masks_unused", f"{source}: {num_masks} of {num_objects} objects have one")
        return None
    annotations.note("mask_missing", checked.absent, lambda i: ".segmentation: is absent")
    return checked

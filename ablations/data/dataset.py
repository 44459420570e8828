"""A detection data set: images, training targets, and the truth that evaluation scores against."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ablations.evaluation import masks as coco_masks
from ablations.identity import digest
from ablations.progress import tracked
from detnet.detection.batch import size_within

from .annotations import count_objects, encode
from .coco import Annotation, ImageEntry, Instances
from .content import read_contents
from .encoded import Jpeg
from .faults import DataError
from .images import read_image, read_plain_jpeg
from .paths import ImageFolder

Target = dict[str, Any]
Example = tuple[np.ndarray, ImageEntry, list[Annotation]]


class DetectionDataset(Dataset[tuple[Tensor, Target]], ABC):
    """Images with boxes, labels 1..K and, where `has_masks`, instance masks.

    categories: [{id, name}]; label k is categories[k - 1]
    fingerprint: hex digest of everything that matters to training and scores, images by their
        content, but not of where the files lie
    fingerprint_by_size: the same with images by their size in bytes, as records of schema 1 have it
    checks: plain JSON values: counts, and what was dropped or mended, by name
    sizes: (N, 2) height and width of each image
    """

    categories: list[dict[str, Any]]
    has_masks: bool
    fingerprint: str
    fingerprint_by_size: str
    checks: dict[str, Any]
    sizes: np.ndarray

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def example(self, index: int) -> Example:
        """(RGB uint8 (H, W, 3), the image's entry, its annotations with crowds) of one image."""

    def reduced_example(self, index: int, used: tuple[int, int]) -> Example:
        """As `example`, but its pixels may be fewer, though none fewer than `used` (H, W)."""
        return self.example(index)

    def annotations(self, index: int) -> tuple[ImageEntry, list[Annotation]]:
        """The image's entry and its annotations, crowds included, without ids."""
        return self.example(index)[1:]

    def image(self, index: int) -> np.ndarray:
        """RGB uint8 (H, W, 3), upright."""
        return self.example(index)[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """(uint8 (3, H, W), target of its objects and ignored regions), as `_target` says."""
        return self._as_tensors(*self.example(index))

    def jpeg(self, index: int) -> Jpeg | None:
        """The image's file, where it is one that a GPU decodes to the very image."""
        return None

    def sized(
        self, index: int, short_side: int, long_side: int, *, encoded: bool = False
    ) -> tuple[Tensor, Target]:
        """The same for an image that will be resized to these sides; it may be smaller already.

        Boxes are at `original_size` (height, width) nevertheless, masks at it or as they will be.
        With `encoded`, an image that a GPU can decode has no channel, (0, height, width) as it will
        be, and its file stands in the target as `jpeg`.
        """
        height, width = self.sizes[index].tolist()
        used = size_within((height, width), short_side, long_side)
        if encoded and (jpeg := self.jpeg(index)) is not None:
            image = torch.empty(0, *used, dtype=torch.uint8)
            target = {**self._target(*self.annotations(index), used), "jpeg": jpeg}
        else:
            image, target = self._as_tensors(*self.reduced_example(index, used), used)
        return image, {**target, "original_size": (height, width)}

    def _as_tensors(
        self,
        pixels: np.ndarray,
        image: ImageEntry,
        annotations: list[Annotation],
        used: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Target]:
        used = used or (image["height"], image["width"])
        return torch.from_numpy(pixels).permute(2, 0, 1), self._target(image, annotations, used)

    def _target(
        self, image: ImageEntry, annotations: list[Annotation], used: tuple[int, int]
    ) -> Target:
        """What a detector trains on, boxes as (x1, y1, x2, y2) within the image.

        N objects: boxes (N, 4), labels (N,), area (N,), iscrowd (N,), all 0; where `has_masks`,
        masks (N, H, W) and has_mask (N,) bool, False where an object's mask is not known.
        ignored_boxes (M, 4): crowds, and objects marked as difficult.
        """
        labels = {category["id"]: k for k, category in enumerate(self.categories, start=1)}
        objects = [annotation for annotation in annotations if not annotation["iscrowd"]]
        ignored = [annotation for annotation in annotations if annotation["iscrowd"]]
        size = image["width"], image["height"]
        target: Target = {
            "image_id": image["id"],
            "boxes": _boxes(objects, *size),
            "labels": torch.tensor([labels[a["category_id"]] for a in objects], dtype=torch.int64),
            "area": torch.tensor([a["area"] for a in objects], dtype=torch.float32),
            "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
            "ignored_boxes": _boxes(ignored, *size),
        }
        if self.has_masks:
            segmentations = [annotation["segmentation"] for annotation in objects]
            target["has_mask"] = torch.tensor([s is not None for s in segmentations]).bool()
            target["masks"] = _masks(segmentations, (image["height"], image["width"]), used)
        return target

    @cached_property
    def truth(self) -> dict[str, Any]:
        """The split as a COCO instances dict, annotation ids from 1; crowds have iscrowd 1."""
        images, annotations = [], []
        for index in tracked(range(len(self)), len(self), "truth gathered"):
            image, group = self.annotations(index)
            images.append(image)
            annotations.extend(group)
        return {
            "info": {},
            "images": images,
            "annotations": [{"id": k, **a} for k, a in enumerate(annotations, start=1)],
            "categories": self.categories,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "truth"}


class PackedList:
    """A list of JSON values in one tensor.

    A million small Python objects would be copied into every forked worker by mere counting of
    references, and pickled to every spawned one; a tensor is shared.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """The texts are JSON, in one form: `digest` tells two of one value apart."""
        text, ends = bytearray(), [0]
        for value in texts:
            text += value.encode()
            ends.append(len(text))
        self._bytes = torch.frombuffer(text, dtype=torch.uint8)
        self._ends = torch.tensor(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._ends[index : index + 2].tolist()
        return json.loads(self._bytes[start:end].numpy().tobytes())

    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self._bytes.numpy().data).hexdigest()


class FolderDataset(DetectionDataset):
    """Image files below a folder, with annotations that were checked when they were read."""

    def __init__(
        self, instances: Instances, folder: ImageFolder, source: str, *, training: bool
    ) -> None:
        """`folder` holds the images, `source` names the annotation file in errors.

        Raises DataError when there is nothing to train on.
        """
        images = instances.images
        counts = count_objects(instances.annotations.columns(), instances.categories)
        if training and not counts["num_objects"]:
            told = "; ".join(
                f"{fault['action']} {fault['count']} x {fault['rule']}, first: "
                f"{fault['examples'][0]}"
                for fault in instances.faults.summary()
            )
            raise DataError(
                f"{source}: no object to train on in {len(images)} images: check 'annotations'"
                + (f", and what was put right: {told}" if told else "")
            )
        self.categories = instances.categories
        self.has_masks = instances.has_masks
        self.folder = folder
        self.sizes = np.array([(image["height"], image["width"]) for image in images])
        self.checks = {
            **counts,
            "has_masks": self.has_masks,
            "faults": instances.faults.summary(),
        }
        sizes, hashes = zip(*read_contents(folder.path, instances.paths), strict=True)
        pairs = zip(images, instances.annotations.texts(), strict=True)
        self._entries = PackedList(f"[{encode(image)}, {text}]" for image, text in pairs)
        listed = zip(images, instances.sources, strict=True)
        self._files = PackedList(
            encode([image["file_name"], image["id"], where]) for image, where in listed
        )
        self.fingerprint = digest([self.categories, self._entries.digest(), hashes])
        self.fingerprint_by_size = digest([self.categories, self._entries.digest(), sizes])

    def __len__(self) -> int:
        return len(self._entries)

    def annotations(self, index: int) -> tuple[ImageEntry, list[Annotation]]:
        """The image's entry and its annotations, without opening the image."""
        image, annotations = self._entries[index]
        return image, annotations

    def example(self, index: int) -> Example:
        """Decode one image; DataError names annotation file, image id and file."""
        return self._decoded(index, None)

    def reduced_example(self, index: int, used: tuple[int, int]) -> Example:
        """Decode one image, a JPEG at a half, a quarter or an eighth of its size where it may."""
        return self._decoded(index, used)

    def _decoded(self, index: int, used: tuple[int, int] | None) -> Example:
        image, annotations = self.annotations(index)
        where = self._files[index][2]
        path = self.folder.file(image["file_name"], where)
        try:
            pixels = read_image(path, image["width"], image["height"], used)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return pixels, image, annotations

    def jpeg(self, index: int) -> Jpeg | None:
        """The image's file, where it is one that a GPU decodes to the very image."""
        name, _, where = self._files[index]
        path = self.folder.file(name, where)
        height, width = self.sizes[index].tolist()
        data = read_plain_jpeg(path, width, height)
        return None if data is None else Jpeg(torch.from_numpy(data), f"{where}: {path}")

    def ids_by_file(self) -> dict[str, int]:
        """The id of each image by its path."""
        named = (self._files[index] for index in range(len(self)))
        return {os.path.normpath(self.folder.path / name): number for name, number, _ in named}


def _masks(segmentations: list[Any], original: tuple[int, int], used: tuple[int, int]) -> Tensor:
    """(N, height, width) uint8: polygons drawn at the `used` size, run lengths at the `original`.

    None has no pixel. Where one is a mask of runs, or the drawing would grow too large, all are at
    the original size, for `resize` to bring to the used one.
    """
    drawn = [segmentation for segmentation in segmentations if segmentation is not None]
    if all(isinstance(segmentation, list) for segmentation in drawn):
        ratio = used[1] / original[1], used[0] / original[0]
        scaled = [None if s is None else coco_masks.scaled(s, ratio) for s in segmentations]
        is_smaller = max(ratio) <= 1  # and so are the outlines
        if is_smaller or not any(s and coco_masks.outline_fault(s) for s in scaled):
            return torch.from_numpy(coco_masks.rasterize(scaled, used[1], used[0]))
    return torch.from_numpy(coco_masks.rasterize(segmentations, original[1], original[0]))


def _boxes(annotations: list[Annotation], width: int, height: int) -> Tensor:
    """COCO's (x, y, w, h) -> (N, 4) float32 corners, clipped to the image."""
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    np.clip(boxes, 0, (width, height, width, height), out=boxes)
    return torch.from_numpy(boxes.astype(np.float32))

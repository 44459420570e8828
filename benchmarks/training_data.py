"""Images for the training benchmark, in memory, in the form that each contender takes."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).resolve().parent
BCCD = HERE.parents[1] / "shared" / "data" / "bccd"
SIZES = {"bccd": (256, 384), "glyphs": (192, 320)}
"""Short and long side of each data set's images, pixels."""

Lists = tuple[list[Tensor], list[dict[str, Tensor]]]
"""Images and targets as torchvision takes them."""


def open_splits(name: str, root: Path, size: tuple[int, int], num: int, masks: bool) -> list[Any]:
    """Training and validation data that decode each image once.

    Glyphs are `num` images to train on, of photographs it is the most. Runs in a former checkout
    too, whose modules have the same names.
    """
    from ablations.data import GlyphsData, open_data
    from ablations.data.coco import CocoData

    if name == "glyphs":
        data: Any = GlyphsData(num_train=num, num_val=max(1, num // 4), image_size=size[0])
    else:
        data = CocoData(
            root=str(root), train="annotations/train.json", val="annotations/test_notwin.json"
        )
    splits: list[Any] = [open_data(data, s, num, masks=masks) for s in ("train", "val")]
    for split in splits:
        for reads in ("example", "reduced_example"):
            if hasattr(split, reads):
                setattr(split, reads, cache(getattr(split, reads)))
    return splits


def lists_of(batch: Any) -> Lists:
    """A `Batch` as images and targets of one size each."""
    images, targets, first = [], [], 0
    for k, (height, width) in enumerate(batch.sizes.tolist()):
        num = int(batch.targets.is_object[k].sum())
        target = {"boxes": batch.targets.boxes[k, :num], "labels": batch.targets.labels[k, :num]}
        if batch.targets.masks is not None:
            target["masks"] = batch.targets.masks[first : first + num, :height, :width]
            first += num
        images.append(batch.images[k, :, :height, :width])
        targets.append(target)
    return images, targets


def former_batches(split: Any, batch_size: int, size: tuple[int, int]) -> Iterator[Lists]:
    """A former checkout's batches, at the size that its detector would bring them to itself."""
    from ablations.data import train_batches

    names = ("boxes", "labels", "masks", "has_mask", "ignored_boxes")
    batches: Any = train_batches(split, batch_size, seed=0)
    for images, targets in batches:
        resized, kept = [], []
        for image, target in zip(images, targets, strict=True):
            short, long = min(image.shape[-2:]), max(image.shape[-2:])
            scale = min(size[0] / short, size[1] / long)
            sides = [int(side * scale) for side in image.shape[-2:]]
            target = {name: target[name] for name in names if name in target}
            target |= {k: target[k] * scale for k in ("boxes", "ignored_boxes") if k in target}
            if "masks" in target:
                target["masks"] = F.interpolate(target["masks"][None], sides)[0]
            resized.append(F.interpolate(image[None].float(), sides, mode="bilinear")[0].byte())
            kept.append(target)
        yield resized, kept

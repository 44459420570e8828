"""What a detector is given: images padded to one shape, with their objects padded to one count.

A batch is made beside the images' files, on the host; the device sees tensors whose shapes say
nothing of the single image, so nothing there waits for a count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPE_MULTIPLE = 32  # the coarsest stride of an FPN without extra levels
COUNT_MULTIPLE = 8

Example = tuple[Tensor, dict[str, Any]]
"""An image (3, H, W), uint8 or floats in [0, 1], and its target.

N objects: boxes (N, 4), labels (N,) from 1 on; ignored_boxes (M, 4), masks (N, H, W) and has_mask
(N,) bool may be left out. `image_id` and `original_size` (height, width) too.
"""


@dataclass(frozen=True, slots=True)
class Targets:
    """The objects of a batch; boxes are (x1, y1, x2, y2) in pixels of the padded images.

    boxes: (B, N, 4) float32, each image's objects first
    labels: (B, N) int64 from 1 on; 0 where there is no object
    ignored_boxes: (B, M, 4) float32, without area where there is no region
    masks: (T, H, W) uint8, the objects of all images one after another, T >= their number; the
        image's last row and column stand once more in the padding
    has_mask: (B, N) bool: the object's mask is known
    """

    boxes: Tensor
    labels: Tensor
    ignored_boxes: Tensor
    masks: Tensor | None = None
    has_mask: Tensor | None = None

    @property
    def is_object(self) -> Tensor:
        """(B, N) bool: False is padding."""
        return self.labels > 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one shape, and their objects where they are known.

    images: (B, 3, H, W), uint8 or floats in [0, 1], padded with 0 at the bottom right
    sizes: (B, 2) int64, each image's height and width within that
    original_sizes: its height and width before it was resized, on the host
    """

    images: Tensor
    sizes: Tensor
    original_sizes: list[tuple[int, int]]
    image_ids: list[int]
    targets: Targets | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; pinned memory is copied without waiting."""
        return _mapped(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in pinned memory; the name is the DataLoader's."""
        return _mapped(self, Tensor.pin_memory)


def _mapped(values: Any, change: Any) -> Any:
    changed = {}
    for name in (field.name for field in fields(values)):
        value = getattr(values, name)
        if isinstance(value, Tensor):
            changed[name] = change(value)
        elif isinstance(value, Targets):
            changed[name] = _mapped(value, change)
    return replace(values, **changed)


def size_within(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) scaled to a short side, or less where the long side would be longer."""
    scale = min(short_side / min(size), long_side / max(size))
    return math.floor(size[0] * scale), math.floor(size[1] * scale)


def resize(example: Example, short_side: int, long_side: int) -> Example:
    """The example with its short side brought to `short_side`, its long one to `long_side` at most.

    Images are resized bilinearly with antialiasing, masks to the nearest pixel. An image may be
    smaller than its target's `original_size`, which boxes and masks are given for, or resized
    already.
    """
    image, target = example
    stored: tuple[int, int] = (image.shape[-2], image.shape[-1])
    original = target.get("original_size", stored)
    size = size_within(original, short_side, long_side)
    resized = {"original_size": original, **target}
    if size == original == stored:
        return image, resized
    ratio = torch.tensor([size[1] / original[1], size[0] / original[0]], dtype=torch.float32)
    for name in ("boxes", "ignored_boxes"):
        if name in target:
            resized[name] = target[name] * ratio.repeat(2)
    if "masks" in target:
        masks = target["masks"]
        resized["masks"] = (
            F.interpolate(masks[None], size, mode="nearest")[0]
            if len(masks)
            else masks.new_zeros(0, *size)
        )
    if size != stored:
        image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    return image, resized


def collate(examples: Sequence[Example], *, with_targets: bool = True) -> Batch:
    """Pad images to a common multiple of 32 and their objects to a common multiple of 8.

    Raises ValueError for a box without width or height.
    """
    images = [image for image, _ in examples]
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = (_multiple(max(side), SHAPE_MULTIPLE) for side in zip(*sizes, strict=True))
    targets = [target for _, target in examples]
    return Batch(
        padded(images, (height, width)),
        torch.tensor(sizes),
        [target.get("original_size", size) for target, size in zip(targets, sizes, strict=True)],
        [int(target.get("image_id", k)) for k, target in enumerate(targets)],
        _padded_targets(targets, (height, width)) if with_targets else None,
    )


def padded(images: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Images (C, h, w) -> (B, C, *shape), padded with 0, channels last in memory."""
    batch = (
        images[0]
        .new_zeros(len(images), len(images[0]), *shape)
        .contiguous(memory_format=torch.channels_last)
    )
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[-2], : image.shape[-1]] = image
    return batch


def _padded_targets(targets: Sequence[dict[str, Any]], shape: tuple[int, int]) -> Targets:
    for k, target in enumerate(targets):
        degenerate = (target["boxes"][:, 2:] <= target["boxes"][:, :2]).any(dim=1)
        if degenerate.any():
            box = target["boxes"][degenerate][0].tolist()
            raise ValueError(
                f"image {target.get('image_id', k)}: the box {box} (x1, y1, x2, y2) has no width "
                "or no height"
            )
    num_objects = _multiple(max(len(target["boxes"]) for target in targets), COUNT_MULTIPLE)
    ignored = [target.get("ignored_boxes", torch.zeros(0, 4)) for target in targets]
    num_ignored = _multiple(max(map(len, ignored)), COUNT_MULTIPLE, least=0)
    if "masks" not in targets[0]:
        masks = has_mask = None
    else:
        total = sum(len(target["masks"]) for target in targets)
        masks = torch.zeros(_multiple(total, COUNT_MULTIPLE), *shape, dtype=torch.uint8)
        first = 0
        for target in targets:
            num, h, w = target["masks"].shape
            own = masks[first : first + num]
            own[:, :h, :w] = target["masks"]
            # RoIAlign reads half a pixel beyond the last one, which must be as if it were the last
            own[:, h : h + 1, :w] = own[:, h - 1 : h, :w]
            own[:, : h + 1, w : w + 1] = own[:, : h + 1, w - 1 : w]
            first += num
        has_mask = _stacked(
            [
                target.get("has_mask", torch.ones(len(target["boxes"]), dtype=torch.bool))
                for target in targets
            ],
            num_objects,
        )
    return Targets(
        _stacked([target["boxes"].float() for target in targets], num_objects),
        _stacked([target["labels"] for target in targets], num_objects),
        _stacked(ignored, num_ignored),
        masks,
        has_mask,
    )


def _stacked(values: Sequence[Tensor], num: int) -> Tensor:
    """(N_i, ...) of each image -> (B, num, ...), padded with zeros."""
    stacked = values[0].new_zeros(len(values), num, *values[0].shape[1:])
    for place, value in zip(stacked, values, strict=True):
        place[: len(value)] = value
    return stacked


def _multiple(value: int, of: int, least: int = 1) -> int:
    return -(-max(value, least) // of) * of

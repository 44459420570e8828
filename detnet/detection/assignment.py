"""Which box trains on which object, and which boxes are drawn to train on.

What a count of objects or of candidates would decide is decided by masks instead: every shape is
known before the first number is.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from detnet.detection import boxes as box
from detnet.detection import slots
from detnet.detection.batch import Targets
from detnet.detection.ignored import lies_on_ignored
from detnet.processes import own_rows

BACKGROUND, NEITHER = 0, -1


class Assignment(NamedTuple):
    """For each box of each image (B, A): the object that overlaps most, and what the box is.

    `label` is the object's, BACKGROUND, or NEITHER: between the thresholds, or on a region that is
    ignored.
    """

    matched: Tensor
    label: Tensor


def assign(
    boxes: Tensor,
    targets: Targets,
    *,
    object_iou: float,
    background_iou: float,
    best_counts: bool,
) -> Assignment:
    """Match (B or 1, A, 4) boxes to objects by IoU, as torchvision's Matcher does.

    A box is an object from `object_iou` on and background below `background_iou`. With
    `best_counts` a box that overlaps an object as much as any other does is that object too.
    """
    options = (object_iou, background_iou, best_counts)
    if boxes.device.type not in slots.COUNTED_ON:
        return _assign(boxes, targets, *options)
    # Image by image: its overlaps stay in the cache, and padding is not compared
    num_objects = targets.is_object.sum(dim=1).clamp(min=1).tolist()
    images = [
        _assign(own_boxes, _of_image(targets, image, num), *options)
        for image, (own_boxes, num) in enumerate(
            zip(boxes[:, None].expand(len(num_objects), -1, -1, -1), num_objects, strict=True)
        )
    ]
    return Assignment(*map(torch.cat, zip(*images, strict=True)))


def _of_image(targets: Targets, image: int, num_objects: int) -> Targets:
    own = slice(image, image + 1)
    return Targets(
        targets.boxes[own, :num_objects],
        targets.labels[own, :num_objects],
        targets.ignored_boxes[own],
    )


def _assign(
    boxes: Tensor, targets: Targets, object_iou: float, background_iou: float, best_counts: bool
) -> Assignment:
    is_object = targets.is_object
    overlap = box.iou(targets.boxes, boxes)
    overlap.masked_fill_(~is_object[..., None], -1.0)  # padding overlaps nothing
    most, matched = overlap.max(dim=1)
    label = targets.labels.gather(1, matched)
    label = torch.where(most < object_iou, NEITHER, label)
    label = torch.where(most < background_iou, BACKGROUND, label)
    if best_counts:
        best = torch.where(is_object, overlap.amax(dim=2), math.inf)
        is_best = (overlap == best[..., None]).any(dim=1)
        label = torch.where(is_best, targets.labels.gather(1, matched), label)
    on_ignored = lies_on_ignored(boxes, targets.ignored_boxes)
    return Assignment(matched, torch.where((label == BACKGROUND) & on_ignored, NEITHER, label))


class Sample(NamedTuple):
    """Indices of the boxes `drawn` from each image (B, K), and which of them `counts` (B, K)."""

    drawn: Tensor
    counts: Tensor


def sample(label: Tensor, num: int, num_objects: int) -> Sample:
    """Draw `num` boxes an image by chance from their `label` (B, A), at most `num_objects` objects.

    Objects come first; places that nothing fills do not count.
    """
    key = lots(label)
    object_key = torch.where(label > BACKGROUND, key, -1.0)
    best, index = object_key.topk(min(num_objects, label.shape[1]), dim=1)
    is_drawn = torch.zeros_like(label, dtype=torch.bool).scatter(1, index, best >= 0)
    rank = torch.where(label == BACKGROUND, key, -1.0)
    rank = torch.where(is_drawn, key + 1, rank)
    rank, index = rank.topk(min(num, label.shape[1]), dim=1)
    return Sample(index, rank >= 0)


def lots(label: Tensor) -> Tensor:
    """Numbers in [0, 1) by which boxes are drawn, the largest first."""
    return own_rows(
        lambda num: torch.rand((num, *label.shape[1:]), device=label.device), len(label)
    )

"""Regions that training must not judge: crowds, and objects too difficult to be labeled well.

A target may have `ignored_boxes` (M, 4), in the image's pixels. An anchor or an RoI that matches no
object and has half its area on one of them is neither positive nor negative: it stands on objects,
so it is no background, but on no object that could be named. Half is where COCO's evaluation stops
calling a detection on a crowd wrong (intersection over the detection's own area, at IoU 0.5);
mmdetection's `ignore_iof_thr` and Detectron's `CROWD_FILTER_THRESH` are the same rule in training.
"""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import box_area

IGNORED_SHARE = 0.5

Target = dict[str, Tensor]


def has_ignored(target: Target) -> bool:
    """Whether the target has any such region."""
    return len(target.get("ignored_boxes", ())) > 0


def lies_on_ignored(boxes: Tensor, target: Target) -> Tensor:
    """(N, 4) boxes -> (N,) bool: half of the box, or more, on one of the target's regions."""
    if not has_ignored(target):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    regions = target["ignored_boxes"]
    top_left = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=2)
    area = box_area(boxes)
    return (intersection.amax(dim=1) >= IGNORED_SHARE * area) & (area > 0)


class ImageTransform(GeneralizedRCNNTransform):
    """torchvision's preparation of images and targets, the ignored boxes resized with them."""

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        original_size: Any = image.shape[-2:]
        image, target = super().resize(image, target)
        if target is not None and "ignored_boxes" in target:
            size: Any = image.shape[-2:]
            target["ignored_boxes"] = resize_boxes(target["ignored_boxes"], original_size, size)
        return image, target

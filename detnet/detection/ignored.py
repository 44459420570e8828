"""Regions that training must not judge: crowds, and objects too difficult to be labeled well.

An anchor or an RoI that matches no object and has half its area on one of a target's
`ignored_boxes` is neither positive nor negative: it stands on objects, so it is no background, but
on no object that could be named. Half is where COCO's evaluation stops calling a detection on a
crowd wrong (intersection over the detection's own area, at IoU 0.5); mmdetection's `ignore_iof_thr`
and Detectron's `CROWD_FILTER_THRESH` are the same rule in training.
"""

import torch
from torch import Tensor

from detnet.detection import boxes as box

IGNORED_SHARE = 0.5


def lies_on_ignored(boxes: Tensor, regions: Tensor) -> Tensor:
    """(B or 1, A, 4) and (B, M, 4) -> (B, A): half of the box, or more, on one of the regions."""
    if regions.shape[1] == 0:
        return torch.zeros(len(regions), boxes.shape[1], dtype=torch.bool, device=boxes.device)
    common = box.intersection(regions, boxes).amax(dim=1)
    area = box.area(boxes)
    return (common >= IGNORED_SHARE * area) & (area > 0)

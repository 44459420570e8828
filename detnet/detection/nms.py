"""Non-maximum suppression of a whole batch whose answer has a shape known in advance.

The suppression itself is torchvision's `nms`. Its answer is as long as what it keeps, so on a GPU
it reads that count once a call; this operator hides it, and its caller sees a mask.
"""

import torch
from torch import Tensor
from torchvision.ops import nms

MAX_BOXES_PER_CALL = 32_768  # on a GPU torchvision takes n^2 / 8 bytes: 128 MiB


@torch.library.custom_op("detnet::kept_by_nms", mutates_args=())
def kept_by_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """(B, K) bool: what greedy suppression keeps of boxes (B, K, 4) within each group of an image.

    `groups` (B, K) are small whole numbers, such as levels or classes. A box without area
    suppresses nothing.
    """
    keep = _kept_group_by_group if boxes.device.type == "cpu" else _kept_at_once
    return keep(boxes, scores, groups, threshold)


@kept_by_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def _kept_group_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """The cost of `nms` on a CPU grows with the square of the boxes it is given."""
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    image = torch.arange(len(boxes))[:, None]
    group = (image * (groups.max() + 1) + groups).flatten() if groups.numel() else groups.flatten()
    order = group.argsort(stable=True)
    counts = group[order].unique_consecutive(return_counts=True)[1].tolist()
    parts = (values.split(counts) for values in (
        order, boxes.flatten(0, 1)[order], scores.flatten()[order]
    ))  # fmt: skip
    for index, boxes_of_group, scores_of_group in zip(*parts, strict=True):
        kept[index[nms(boxes_of_group, scores_of_group, threshold)]] = True
    return kept.view(scores.shape)


def _kept_at_once(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Groups are moved apart, side by side in both directions, so that coordinates stay small."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    num_images = max(1, MAX_BOXES_PER_CALL // max(1, boxes.shape[1]))
    for first in range(0, len(boxes), num_images):
        part = slice(first, first + num_images)
        side = boxes[part].amax() + 1
        image = torch.arange(len(boxes[part]), device=boxes.device)[:, None]
        place = torch.stack([image.expand_as(groups[part]), groups[part]], dim=-1).to(boxes)
        apart = boxes[part] + (place * side).repeat(1, 1, 2)
        index = nms(apart.flatten(0, 1), scores[part].flatten(), threshold)
        kept[part].view(-1)[index] = True
    return kept


def best_of(
    boxes: Tensor, scores: Tensor, groups: Tensor, is_valid: Tensor, threshold: float, num: int
) -> tuple[Tensor, Tensor]:
    """Indices (B, num) of the best that suppression leaves, best first, and which of them count."""
    valid_boxes = torch.where(is_valid[..., None], boxes, 0.0)
    kept = kept_by_nms(valid_boxes, scores, groups, threshold) & is_valid
    ranked = torch.where(kept, scores, -1.0)
    ranked, index = ranked.sort(dim=1, descending=True, stable=True)
    return index[:, :num], ranked[:, :num] >= 0

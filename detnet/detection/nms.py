"""Non-maximum suppression of a whole batch whose answer has a shape known in advance.

On a CPU the suppression itself is a loop in C, on a GPU a kernel of Triton's: torchvision's answer
is as long as what it keeps, and the host waits for that number. Where there is no Triton (Windows)
it has to.
"""

from importlib.util import find_spec

import torch
from torch import Tensor, library
from torchvision.ops import nms

HAS_TRITON = find_spec("triton") is not None
MAX_BOXES_PER_CALL = 32_768  # on a GPU torchvision takes n^2 / 8 bytes: 128 MiB


@library.custom_op("detnet::kept_by_nms", mutates_args=())
def kept_by_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, num: int
) -> Tensor:
    """(B, K) bool: what greedy suppression keeps of boxes (B, K, 4) within each group of an image.

    It is sure for the `num` best kept of each image; those after them may be left out. `groups`
    (B, K) are small whole numbers, such as levels or classes. A score below 0 is no box.
    """
    if boxes.is_cuda and HAS_TRITON:
        from detnet.detection.nms_gpu import kept_in_groups

        return kept_in_groups(boxes, scores, groups, threshold) & (scores >= 0)
    if boxes.device.type != "cpu":
        return _kept_at_once(boxes, scores, groups, threshold) & (scores >= 0)
    from detnet.detection.nms_cpu import best_kept

    return best_kept(boxes, scores, groups, threshold, num)


@kept_by_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, num: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


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
    boxes = torch.where(is_valid[..., None], boxes, 0.0)
    scores = torch.where(is_valid, scores, -1.0)
    kept = kept_by_nms(boxes, scores, groups, threshold, num)
    ranked = torch.where(kept, scores, -1.0)
    ranked, index = ranked.sort(dim=1, descending=True, stable=True)
    return index[:, :num], ranked[:, :num] >= 0

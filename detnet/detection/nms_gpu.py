"""Greedy suppression in one kernel of a GPU, whose answer has a shape known in advance.

torchvision's `nms` gives the indices of what it keeps, so the host waits for their number. This one
marks what is kept. The order is sequential by nature: a program takes one group of one image, box
after box, and compares each that is kept with all that follow at once.

Importing it needs Triton, which torch brings along where it computes on NVIDIA's or AMD's GPUs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from detnet.detection import boxes as box

BLOCK_SIZE = 1024  # boxes that are compared at once


def kept_in_groups(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """(B, K) bool: what greedy suppression keeps of boxes (B, K, 4) within each group (B, K)."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, groups.gather(1, order).argsort(dim=1, stable=True))
    ranked = groups.gather(1, order)
    ends = torch.searchsorted(ranked, ranked, right=True, out_int32=True)
    kept = torch.ones_like(ends, dtype=torch.int8)
    num_images, num_boxes = scores.shape
    if kept.numel():
        _suppress[num_boxes, num_images](
            box.take(boxes, order).float(), ends, kept, num_boxes, threshold,
            block_size=BLOCK_SIZE, enable_fp_fusion=False,
        )  # fmt: skip
    return torch.empty_like(kept).scatter_(1, order, kept).bool()


@triton.jit
def _suppress(boxes, ends, kept, num_boxes, threshold, block_size: tl.constexpr):  # type: ignore[no-untyped-def]
    """Clear `kept` (B, K) of each box that a better one of its group overlaps.

    Boxes stand group by group, the best of a group first; `ends` has where the group of each ends.
    Only the program of a group's first box has work to do.
    """
    first, image = tl.program_id(0), tl.program_id(1)
    boxes += image * num_boxes * 4
    ends += image * num_boxes
    kept += image * num_boxes
    end = tl.load(ends + first)
    is_head = first == 0
    if first > 0:
        is_head = tl.load(ends + first - 1) == first
    if is_head:
        for place in range(first, end):
            if tl.load(kept + place) != 0:
                x1 = tl.load(boxes + 4 * place)
                y1 = tl.load(boxes + 4 * place + 1)
                x2 = tl.load(boxes + 4 * place + 2)
                y2 = tl.load(boxes + 4 * place + 3)
                for start in range(place + 1, end, block_size):
                    other = start + tl.arange(0, block_size)
                    is_box = other < end
                    left = tl.load(boxes + 4 * other, is_box, 0.0)
                    top = tl.load(boxes + 4 * other + 1, is_box, 0.0)
                    right = tl.load(boxes + 4 * other + 2, is_box, 0.0)
                    bottom = tl.load(boxes + 4 * other + 3, is_box, 0.0)
                    width = tl.maximum(tl.minimum(x2, right) - tl.maximum(x1, left), 0.0)
                    height = tl.maximum(tl.minimum(y2, bottom) - tl.maximum(y1, top), 0.0)
                    common = width * height
                    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - common
                    is_suppressed = is_box & (tl.div_rn(common, union) > threshold)
                    tl.store(kept + other, 0, is_suppressed)
                # The next box may be one that other threads of the program have just cleared
                tl.debug_barrier()

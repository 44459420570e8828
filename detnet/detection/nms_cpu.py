"""Greedy suppression on a CPU that ends where enough is kept.

torchvision's `nms` compares every box it keeps with all worse ones of its group, one group of one
image a call. Here all groups are walked through together, the best box first, and each box is
compared with the kept ones of its group alone; of what stands behind the last box asked for,
nothing is compared.
"""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor


def best_kept(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, num: int) -> Tensor:
    """(B, K) bool: the `num` best of each image that suppression within each group leaves.

    boxes: (B, K, 4); groups: (B, K) small whole numbers. A score below 0 is no box.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    num_boxes = (scores >= 0).sum(dim=1)
    if kept.numel():
        arrays = (x.numpy() for x in (boxes.float(), groups, order, num_boxes))
        # The kernel is compiled for each layout of its arguments
        _mark_kept(*map(np.ascontiguousarray, arrays), threshold, num, kept.numpy())
    return kept


@njit(cache=True, error_model="numpy")
def _mark_kept(
    boxes: NDArray[np.float32],
    groups: NDArray[np.int64],
    order: NDArray[np.int64],
    num_boxes: NDArray[np.int64],
    threshold: float,
    num: int,
    kept: NDArray[np.bool_],
) -> None:
    """Set `kept` (B, K); `order` has the boxes from the best on, the `num_boxes` (B,) that are any.

    The kept boxes of a group are a chain: `last` has the latest one, `previous` the one before.
    """
    zero = np.float32(0)
    for image in range(len(boxes)):
        last = np.full(groups[image].max() + 1, -1)
        previous = np.empty(len(order[image]), np.int64)
        num_kept = 0
        for index in order[image, : num_boxes[image]]:
            if num_kept == num:
                break
            x1, y1, x2, y2 = boxes[image, index]
            area = (x2 - x1) * (y2 - y1)
            group = groups[image, index]
            better = last[group]
            while better >= 0:
                left, top, right, bottom = boxes[image, better]
                width = max(zero, min(x2, right) - max(x1, left))
                height = max(zero, min(y2, bottom) - max(y1, top))
                common = width * height
                union = (right - left) * (bottom - top) + area - common
                if common / union > threshold:
                    break
                better = previous[better]
            else:
                previous[index] = last[group]
                last[group] = index
                kept[image, index] = True
                num_kept += 1

"""Greedy suppression on a CPU that ends where enough is kept.

torchvision's `nms` compares every box it keeps with all worse ones of its group, one group of one
image a call. Here all groups are walked through together, the best box first, and each box is
compared with the kept ones of its group alone; of what stands behind the last box asked for,
nothing is compared.
"""

import numpy as np
import torch
from torch import Tensor

from detnet_kernels.loader import BOOL, F32, FLOAT, I64, INT, kernel

_mark_kept = kernel("mark_kept", F32, I64, I64, I64, INT, INT, INT, FLOAT, INT, I64, I64, BOOL)


def best_kept(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, num: int) -> Tensor:
    """(B, K) bool: the `num` best of each image that suppression within each group leaves.

    boxes: (B, K, 4); groups: (B, K) small whole numbers. A score below 0 is no box.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    num_boxes = (scores >= 0).sum(dim=1)
    if kept.numel():
        num_groups = int(groups.max()) + 1
        arrays = (x.numpy() for x in (boxes.float(), groups, order, num_boxes))
        _mark_kept(
            *map(np.ascontiguousarray, arrays),
            *(*kept.shape, num_groups, threshold, num),
            np.empty(num_groups, np.int64),
            np.empty(kept.shape[1], np.int64),
            kept.numpy(),
        )
    return kept

"""Boxes (..., 4) as (x1, y1, x2, y2) in pixels: overlaps, clipping, and the deltas of Fast R-CNN.

The numbers are torchvision's; its own functions take one image each, or build constants on the
host at every call, which a GPU has to wait for.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)  # torchvision's bound on how much a box may grow

Weights = Sequence[float]
"""What dx, dy, dw and dh are multiplied by."""


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """(B, N, 4) and (B or 1, A, 4) -> (B, N, A): the area that is common."""
    # A last dimension of 4 would be read in steps; a row for each coordinate is read in line
    left, top, right, bottom = (side[..., None] for side in boxes.unbind(-1))
    x1, y1, x2, y2 = (side[:, None] for side in others.mT.contiguous().unbind(-2))
    width = torch.minimum(right, x2).sub_(torch.maximum(left, x1)).clamp_(min=0)
    height = torch.minimum(bottom, y2).sub_(torch.maximum(top, y1)).clamp_(min=0)
    return width.mul_(height)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(B, N, 4) and (B or 1, A, 4) -> (B, N, A): intersection over union."""
    common = intersection(boxes, others)
    union = (area(boxes)[..., None] + area(others)[:, None]).sub_(common)
    return common.div_(union)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, ..., 4) within images of `sizes` (B, 2), height and width."""
    limit = sizes.flip(-1).repeat(1, 2).to(boxes.dtype)
    limit = limit.view(len(sizes), *[1] * (boxes.ndim - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def is_larger(boxes: Tensor, least: float) -> Tensor:
    """(..., 4) -> (...) bool: both sides at least so long; False for what is not a number."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(dim=-1)


def encode(boxes: Tensor, references: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The deltas that turn `references` into `boxes`, both (..., 4)."""
    reference_center, reference_size = _centers(references)
    center, size = _centers(boxes)
    shift, scale = center - reference_center, torch.log(size / reference_size)
    # The weight first, as torchvision rounds
    dx, dy = (weights[k] * shift[..., k] / reference_size[..., k] for k in range(2))
    dw, dh = (weights[2 + k] * scale[..., k] for k in range(2))
    return torch.stack([dx, dy, dw, dh], dim=-1)


def decode(deltas: Tensor, references: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The boxes that `deltas` make of `references`, both (..., 4)."""
    reference_center, reference_size = _centers(references)
    dx, dy, dw, dh = (delta / w for delta, w in zip(deltas.unbind(-1), weights, strict=True))
    center = torch.stack([dx, dy], dim=-1) * reference_size + reference_center
    size = torch.stack([dw, dh], dim=-1).clamp(max=MAX_LOG_SCALE).exp() * reference_size
    return torch.cat([center - 0.5 * size, center + 0.5 * size], dim=-1)


def take(values: Tensor, index: Tensor) -> Tensor:
    """(B, A, ...) and (B, K) -> (B, K, ...): rows of each image."""
    rest = values.shape[2:]
    index = index.view(*index.shape, *[1] * len(rest)).expand(*index.shape, *rest)
    return values.expand(len(index), *values.shape[1:]).gather(1, index)


def _centers(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size

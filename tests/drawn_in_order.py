"""Training steps without chance, so that those of our detectors and torchvision's compare."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torchvision.ops import nms

from detnet.detection import assignment


def first_highest(label: Tensor) -> Tensor:
    """Lots by which the first boxes are drawn, as torchvision's sampler does without chance."""
    num = label.shape[1]
    return (torch.arange(num, 0, -1) / (num + 1)).expand(label.shape)


def suppressed_by_level(boxes: Tensor, scores: Tensor, levels: Tensor, threshold: float) -> Tensor:
    """torchvision's `batched_nms`, but equal scores keep their order.

    One of its two ways also moves boxes of different levels far apart, which rounds their overlaps.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for level in levels.unique():
        index = (levels == level).nonzero().squeeze(1)
        kept[index[nms(boxes[index], scores[index], threshold)]] = True
    index = kept.nonzero().squeeze(1)
    return index[scores[index].argsort(descending=True, stable=True)]


@contextmanager
def drawn_in_order() -> Iterator[None]:
    """Both draw the same anchors and RoIs: the first."""
    with ExitStack() as stack:
        for place, replacement in {
            "torch.randperm": lambda num, device=None: torch.arange(num),
            "torchvision.ops.boxes._batched_nms_coordinate_trick": suppressed_by_level,
            "torchvision.ops.boxes._batched_nms_vanilla": suppressed_by_level,
        }.items():
            stack.enter_context(mock.patch(place, replacement))
        stack.enter_context(mock.patch.object(assignment, "lots", first_highest))
        yield


def smooth() -> mock._patch:
    """An input of a ReLU that is 0 but for rounding would open it in one of them."""
    return mock.patch("torch.nn.functional.relu", lambda x, inplace=False: softplus(x))

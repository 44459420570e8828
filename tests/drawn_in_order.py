"""Training steps without chance, so that those of our detectors and torchvision's compare."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torchvision.ops import boxes

from detnet.detection import assignment


def first_highest(label: Tensor) -> Tensor:
    """Lots by which the first boxes are drawn, as torchvision's sampler does without chance."""
    num = label.shape[1]
    return (torch.arange(num, 0, -1) / (num + 1)).expand(label.shape)


@contextmanager
def drawn_in_order() -> Iterator[None]:
    """Both draw the same anchors and RoIs: the first."""
    with ExitStack() as stack:
        for place, replacement in {
            "torch.randperm": lambda num, device=None: torch.arange(num),
            # its other way moves boxes of different levels far apart, and rounds their overlaps
            "torchvision.ops.boxes._batched_nms_coordinate_trick": boxes._batched_nms_vanilla,
        }.items():
            stack.enter_context(mock.patch(place, replacement))
        stack.enter_context(mock.patch.object(assignment, "lots", first_highest))
        yield


def smooth() -> mock._patch:
    """An input of a ReLU that is 0 but for rounding would open it in one of them."""
    return mock.patch("torch.nn.functional.relu", lambda x, inplace=False: softplus(x))

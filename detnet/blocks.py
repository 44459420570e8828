"""The stem's and the stages' parts. Blocks A, B and C of the paper are arguments of one bottleneck.

Block C: `Bottleneck(...)`. Block A: the same with `dilation=2`. Block B: with `dilation=2` and
`projection=True` (paper, section 3.2 and figure 2).

A new block is a `ResidualBlock` here, a row of `BLOCK_LAYERS`, and its numbers in
`detnet.spec.BLOCKS`, which knows no torch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import DropPath, FrozenBatchNormAct2d, create_act_layer
from torch import nn

from detnet.spec import BLOCKS

Layer = Callable[..., nn.Module]


class FrozenBatchNorm2d(FrozenBatchNormAct2d):
    """Batch norm with fixed statistics and affine, which loads what `nn.BatchNorm2d` saved.

    The output keeps the input's dtype. timm's and torchvision's promote half precision to float32,
    and with it every activation that autocast keeps for the backward pass.
    """

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__(channels, apply_act=False, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype).view(1, -1, 1, 1) + shift.to(x.dtype).view(1, -1, 1, 1)

    def reset_parameters(self) -> None:
        """The identity, up to eps."""
        for ones in (self.weight, self.running_var):
            ones.fill_(1.0)
        for zeros in (self.bias, self.running_mean):
            zeros.zero_()


def group_norm(channels: int, **factory: Any) -> nn.GroupNorm:
    """Group norm with 32 groups (Wu and He 2018), or the most that fit.

    The number of groups is the largest power of two up to 32 that divides the channels and leaves
    two at least in each, since groups of one channel would be instance norm. An odd number of
    channels is one group.
    """
    groups = math.gcd(32, channels)
    return nn.GroupNorm(groups if groups < channels else max(1, groups // 2), channels, **factory)


NORM_LAYERS: dict[str, Layer] = {
    "batch": nn.BatchNorm2d,
    "frozen_batch": FrozenBatchNorm2d,
    "group": group_norm,
}


class ResidualBlock(nn.Module, ABC):
    """Convolutions around a shortcut: (B, in_channels, H, W) -> (B, expansion * width, H/s, W/s).

    stride: s, of one convolution and of the shortcut.
    dilation: of the 3x3s; `first_dilation`, where given, of the first of them.
    projection: a 1x1 convolution on the shortcut. Without it shapes must agree.
    stride_on: which convolution of a bottleneck carries the stride, `1x1` or `3x3`.

    Parameters have the names of timm's and torchvision's ResNet, so that weights load by name:
    `conv1`, `bn1`, `act1`, ... A subclass gives the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
        projection: bool = False,
        stride_on: str = "3x3",
        norm_layer: Layer = nn.BatchNorm2d,
        act_layer: Any = nn.ReLU,
        drop_path: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        dilations = (first_dilation or dilation, dilation)
        convolutions = self.convolutions(
            in_channels, width, stride, dilations, stride_on, **factory
        )
        channels = convolutions[-1].out_channels
        for index, convolution in enumerate(convolutions, start=1):
            self.add_module(f"conv{index}", convolution)
            self.add_module(f"bn{index}", norm_layer(convolution.out_channels, **factory))
            if index == len(convolutions):  # timm's order
                self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
                self.downsample = (
                    nn.Sequential(
                        _convolution(in_channels, channels, 1, stride, **factory),
                        norm_layer(channels, **factory),
                    )
                    if projection
                    else None
                )
            self.add_module(f"act{index}", create_act_layer(act_layer, inplace=True))
        for convolution in convolutions:
            if convolution.stride != (1, 1):
                self.stride_on = "{}x{}".format(*convolution.kernel_size)
                self.register_state_dict_post_hook(_note_stride)
        self._last_norm, self._last_act = f"bn{len(convolutions)}", f"act{len(convolutions)}"

    @abstractmethod
    def convolutions(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilations: tuple[int, int],
        stride_on: str,
        **factory: Any,
    ) -> list[nn.Conv2d]:
        """The convolutions in a row; `dilations` are those of the first 3x3 and of the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for name, layer in self.named_children():
            if name == self._last_act:
                x += shortcut
            if name != "downsample":
                x = layer(x)
        return x

    def zero_init_last(self) -> None:
        """Start as the shortcut alone (Goyal et al. 2017), where the last norm can learn its scale.

        A frozen norm cannot: a scale of zero would remove the branch for good.
        """
        scale = getattr(self.get_submodule(self._last_norm), "weight", None)
        if isinstance(scale, nn.Parameter):
            nn.init.zeros_(scale)


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1. The first 1x1 or the 3x3 carries the stride."""

    def convolutions(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilations: tuple[int, int],
        stride_on: str,
        **factory: Any,
    ) -> list[nn.Conv2d]:
        strides = (stride, 1) if stride_on == "1x1" else (1, stride)
        channels = width * BLOCKS["bottleneck"].expansion
        return [
            _convolution(in_channels, width, 1, strides[0], **factory),
            _convolution(width, width, 3, strides[1], dilations[0], **factory),
            _convolution(width, channels, 1, **factory),
        ]


class BasicBlock(ResidualBlock):
    """3x3, 3x3. The first carries the stride: there is no 1x1 that could."""

    def convolutions(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilations: tuple[int, int],
        stride_on: str,
        **factory: Any,
    ) -> list[nn.Conv2d]:
        channels = width * BLOCKS["basic"].expansion
        return [
            _convolution(in_channels, width, 3, stride, dilations[0], **factory),
            _convolution(width, channels, 3, 1, dilations[1], **factory),
        ]


def _note_stride(block: Any, _: Any, __: str, metadata: dict[str, Any]) -> None:
    """Weights do not show where their block strides; what `torch.save` keeps beside them does."""
    metadata["stride_on"] = block.stride_on


BLOCK_LAYERS: dict[str, type[ResidualBlock]] = {"bottleneck": Bottleneck, "basic": BasicBlock}


def _convolution(
    in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1, **factory: Any
) -> nn.Conv2d:
    """A convolution without bias that keeps the map's size up to its stride."""
    return nn.Conv2d(
        in_channels,
        channels,
        kernel,
        stride=stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        bias=False,
        **factory,
    )

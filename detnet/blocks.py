"""The stem's and the stages' parts. Blocks A, B and C of the paper are arguments of one bottleneck.

Block C: `Bottleneck(...)`. Block A: the same with `dilation=2`. Block B: with `dilation=2` and
`projection=True` (paper, section 3.2 and figure 2).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import DropPath, FrozenBatchNormAct2d, create_act_layer
from torch import nn

from detnet.spec import EXPANSION

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


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut: (B, in_channels, H, W) -> (B, 4 * width, H/s, W/s).

    The first 1x1 or the 3x3 carries `stride` s, the 3x3 `dilation`. Without `projection` the
    shortcut is the identity and shapes must agree. Parameters have the names of timm's and
    torchvision's ResNet, so that weights load by name.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        dilation: int = 1,
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
        channels = width * EXPANSION
        strides = (stride, 1) if stride_on == "1x1" else (1, stride)

        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=strides[0], bias=False, **factory)
        self.bn1 = norm_layer(width, **factory)
        self.act1 = create_act_layer(act_layer, inplace=True)
        self.conv2 = nn.Conv2d(
            width,
            width,
            3,
            stride=strides[1],
            padding=dilation,
            dilation=dilation,
            bias=False,
            **factory,
        )
        self.bn2 = norm_layer(width, **factory)
        self.act2 = create_act_layer(act_layer, inplace=True)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False, **factory)
        self.bn3 = norm_layer(channels, **factory)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False, **factory),
                norm_layer(channels, **factory),
            )
            if projection
            else None
        )
        self.act3 = create_act_layer(act_layer, inplace=True)

    def zero_init_last(self) -> None:
        """Start as the shortcut alone (Goyal et al. 2017), where the last norm can learn its scale.

        A frozen norm cannot: a scale of zero would remove the branch for good.
        """
        scale = getattr(self.bn3, "weight", None)
        if isinstance(scale, nn.Parameter):
            nn.init.zeros_(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.drop_path(self.bn3(self.conv3(x)))
        x += shortcut
        return self.act3(x)

"""A feature pyramid over named stages, in which equal strides simply add.

DetNet's P4, P5 and P6 share stride 16 (Sec. 3.1): the top-down path between two maps of one size
is a plain sum. Elsewhere it is FPN's (arXiv 1612.03144): nearest upsampling, 1x1 lateral and 3x3
output convolutions.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

EXTRA_LEVELS = ("none", "max_pool", "convolution")


class Pyramid(nn.Module):
    """Turns {"c2": ..., "c6": ...} into {"p2": ..., "p6": ...}, all of `out_channels` channels.

    `extra_levels` appends levels above the top one, each at twice the stride of the one before:
    by `max_pool` (FPN) or by a 3x3 `convolution` of stride 2 (RetinaNet).
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        strides: Mapping[str, int],
        out_channels: int = 256,
        extra_levels: str = "none",
        num_extra_levels: int = 0,
    ) -> None:
        super().__init__()
        if extra_levels not in EXTRA_LEVELS:
            raise ValueError(
                f"extra_levels={extra_levels!r}: choose one of {', '.join(EXTRA_LEVELS)}"
            )
        if extra_levels == "none":
            num_extra_levels = 0
        stages = list(in_channels)
        top = int(stages[-1][1:])
        extra = [f"p{top + 1 + index}" for index in range(num_extra_levels)]
        self.out_channels = out_channels
        self.stages = stages
        self.levels = [level_of(stage) for stage in stages] + extra
        self.strides = {level_of(stage): strides[stage] for stage in stages}
        for level in extra:
            self.strides[level] = 2 * self.strides[f"p{int(level[1:]) - 1}"]

        self.lateral = nn.ModuleDict(
            {level_of(stage): nn.Conv2d(in_channels[stage], out_channels, 1) for stage in stages}
        )
        self.output = nn.ModuleDict(
            {
                level_of(stage): nn.Conv2d(out_channels, out_channels, 3, padding=1)
                for stage in stages
            }
        )
        self.extra = nn.ModuleDict(
            {
                level: nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
                if extra_levels == "convolution"
                else nn.MaxPool2d(kernel_size=1, stride=2)
                for level in extra
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"c2": (B, C2, H/4, W/4), ...} -> {"p2": (B, out_channels, H/4, W/4), ...}."""
        maps: dict[str, Tensor] = {}
        top_down: Tensor | None = None
        for stage in reversed(self.stages):
            level = level_of(stage)
            inner = self.lateral[level](features[stage])
            top_down = inner if top_down is None else inner + _at_size_of(inner, top_down)
            maps[level] = self.output[level](top_down)
        maps = {level: maps[level] for level in self.levels if level in maps}
        for index, (level, layer) in enumerate(self.extra.items()):
            below = maps[list(maps)[-1]]
            # RetinaNet (arXiv 1708.02002, footnote 2) puts a ReLU before its second extra level
            rectified = index > 0 and isinstance(layer, nn.Conv2d)
            maps[level] = layer(F.relu(below) if rectified else below)
        return maps


def level_of(stage: str) -> str:
    """The pyramid level that a stage feeds: c2 -> p2."""
    return f"p{stage[1:]}"


def _at_size_of(reference: Tensor, coarser: Tensor) -> Tensor:
    if reference.shape[-2:] == coarser.shape[-2:]:
        return coarser
    return F.interpolate(coarser, size=reference.shape[-2:], mode="nearest")

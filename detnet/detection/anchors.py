"""Anchors of a pyramid, made once for each shape of the images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


class Anchors(AnchorGenerator):
    """torchvision's anchors, remembered by the shapes they were made for."""

    def __init__(self, sizes: Sequence[Sequence[int]], ratios: Sequence[float]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self._made: dict[tuple, list[Tensor]] = {}

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        """(B, 3, H, W) and the levels' maps -> (A, 4) of each level, in pixels, row by row."""
        shape = images.shape[-2:]
        grids = [tuple(level.shape[-2:]) for level in maps]
        key = (tuple(shape), *grids, images.device)
        if key not in self._made:
            strides = [[shape[0] // grid[0], shape[1] // grid[1]] for grid in grids]
            self.set_cell_anchors(torch.float32, images.device)
            self._made[key] = self.grid_anchors(grids, strides)
        return self._made[key]

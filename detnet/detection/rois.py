"""RoIs pooled from pyramid levels that are told apart by order, not by stride.

torchvision's MultiScaleRoIAlign maps an RoI to a level by the level's stride. On DetNet, where P4,
P5 and P6 share stride 16, it never pools P5 and P6, without a word. Here the level is FPN's
k = floor(k0 + log2(sqrt(wh) / s0)) (arXiv 1612.03144, eq. 1), clamped to the pooled levels, and the
scale is the level's true stride. s0 is an option, as small images have no RoI for the upper levels
of FPN's own 224 pixels.

RoIAlign (arXiv 1703.06870) is a linear map: every pooled cell is a weighted sum of 4 map cells for
each of its sampling points. So all RoIs of all levels are one sparse product with the cells of all
maps, an embedding bag. Its backward pass is the transposed product, another embedding bag, which
adds in the same order every time. torchvision's `roi_align` takes one level a call and scatters
single numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detnet.detection import boxes as box

CANONICAL_LEVEL = 4  # k0
CANONICAL_SIZE = 224  # FPN's s0, the side of an ImageNet crop
_EPSILON = 1e-6  # as torchvision's LevelMapper: a side of exactly 2**n * s0 goes up


class Grids(NamedTuple):
    """Of each level: (L,) height, width, and the first row among the cells of all; (L,) scale."""

    height: Tensor
    width: Tensor
    first: Tensor
    scale: Tensor


class SparseProduct(torch.autograd.Function):
    """Sums of `index` (R, K) rows of values (N, C), times `weight` (R, K): (R, C).

    torch's own backward pass of `embedding_bag` takes twice the time on a CPU.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(index, weight)
        context.num_rows = len(values)
        return F.embedding_bag(index, values, per_sample_weights=weight, mode="sum")

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, weight = context.saved_tensors
        row, order = index.flatten().sort(stable=True)
        place = {"dtype": index.dtype, "device": index.device}
        first = torch.searchsorted(row, torch.arange(context.num_rows, **place), out_int32=True)
        taker = torch.arange(len(index), **place)[:, None].expand_as(index).flatten()
        of_values = F.embedding_bag(
            taker.index_select(0, order),
            gradient,
            first,
            per_sample_weights=weight.flatten().index_select(0, order),
            mode="sum",
        )
        return of_values, None, None


class LevelRoIAlign(nn.Module):
    """Pools each RoI from one of `levels` ("p2", "p3", ...), by its size.

    `strides` gives the stride of every level; `output_size` and `sampling_ratio` are RoIAlign's.
    RoIs from `canonical_size` pixels on, to twice that, are pooled from p4.
    """

    def __init__(
        self,
        levels: Sequence[str],
        strides: Mapping[str, int],
        output_size: int,
        sampling_ratio: int = 2,
        canonical_size: int = CANONICAL_SIZE,
    ) -> None:
        super().__init__()
        order = [int(level[1:]) for level in levels]
        if not order or order != list(range(order[0], order[0] + len(order))):
            raise ValueError(
                f"pooled_levels={list(levels)}: name consecutive levels from fine to coarse, "
                "such as [p2, p3, p4]"
            )
        if missing := [level for level in levels if level not in strides]:
            raise ValueError(
                f"pooled_levels: {missing[0]} is not in the pyramid ({', '.join(strides)})"
            )
        self.levels = list(levels)
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio
        self.canonical_size = canonical_size
        self.level_scales = [1 / strides[level] for level in levels]
        self._grids: dict[tuple, Grids] = {}

    def assign(self, boxes: Tensor) -> Tensor:
        """(..., 4) boxes in image pixels -> (...) indices into `levels`."""
        finest = int(self.levels[0][1:])
        size = torch.sqrt(box.area(boxes))
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / self.canonical_size) + _EPSILON)
        return level.clamp(finest, finest + len(self.levels) - 1).to(torch.int64) - finest

    def forward(
        self, features: Mapping[str, Tensor], boxes: Tensor, slots: Tensor | None = None
    ) -> Tensor:
        """Boxes (B, S, 4) in image pixels -> (B * S, C, output_size, output_size).

        `slots` (R,) picks from the B * S; then the answer has R rows.
        """
        if slots is None:
            slots = torch.arange(boxes[..., 0].numel(), device=boxes.device)
        maps = [features[level] for level in self.levels]
        # Never the RoIs in the maps' dtype: bfloat16 has no room for pixel coordinates
        cells = torch.cat([each.permute(0, 2, 3, 1).flatten(0, 2) for each in maps]).float()
        index, weight = self._samples(maps, boxes, slots)
        pooled = SparseProduct.apply(cells, index, weight)
        side = self.output_size
        return pooled.view(-1, side, side, cells.shape[1]).permute(0, 3, 1, 2).to(maps[0].dtype)

    def _samples(self, maps: list[Tensor], boxes: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """(R * side * side, 16) cells of every pooled cell, and their weights."""
        grids = self._grids_of(maps)
        image = slots // boxes.shape[1]
        boxes = boxes.flatten(0, 1)[slots]
        height, width, first, scale = (values[self.assign(boxes)] for values in grids)
        x1, y1, x2, y2 = (boxes * scale[:, None]).unbind(1)
        row, row_weight = self._samples_along(y1, y2, height)
        column, column_weight = self._samples_along(x1, x2, width)
        first = (first + image * height * width).int()
        row = first[:, None, None] + row * width.int()[:, None, None]
        index = row[:, :, None, :, None] + column[:, None, :, None, :]
        weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
        return index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2)

    def _samples_along(self, low: Tensor, high: Tensor, num: Tensor) -> tuple[Tensor, Tensor]:
        """Cells along one axis (R, side, 2 * sampling_ratio) of RoIs from `low` to `high`.

        A sampling point lies between two of the `num` cells; beyond the last or the first one it
        reads that, and a cell further away it reads nothing.
        """
        side, ratio = self.output_size, self.sampling_ratio
        bin_size = (high - low).clamp(min=1)[:, None] / side  # an RoI has a cell at least
        # In the order in which torchvision adds, to round as it does
        start = low[:, None] + torch.arange(side, device=low.device) * bin_size
        within = (torch.arange(ratio, device=low.device) + 0.5) * bin_size / ratio
        point = (start[:, :, None] + within[:, None, :]).flatten(1)
        last = (num - 1)[:, None]
        is_read = (point >= -1) & (point <= num[:, None])
        point = torch.minimum(point.clamp(min=0), last)
        below = torch.minimum(point.int(), last.int())
        above = torch.minimum(below + 1, last.int())
        fraction = point - below
        weight = torch.stack([1 - fraction, fraction], dim=-1) * (is_read / ratio)[..., None]
        cells = torch.stack([below, above], dim=-1)
        shape = (len(low), side, 2 * ratio)
        return cells.view(shape), weight.view(shape)

    def _grids_of(self, maps: list[Tensor]) -> Grids:
        key = tuple(tuple(each.shape) for each in maps), maps[0].device
        if key not in self._grids:
            shapes = [each.shape[-2:] for each in maps]
            num_cells = torch.tensor([len(maps[0]) * h * w for h, w in shapes])
            values = (
                torch.tensor([h for h, _ in shapes]),
                torch.tensor([w for _, w in shapes]),
                num_cells.cumsum(0) - num_cells,
                torch.tensor(self.level_scales),
            )
            self._grids[key] = Grids(*(value.to(maps[0].device) for value in values))
        return self._grids[key]

"""RoIs pooled from pyramid levels that are told apart by order, not by stride.

torchvision's MultiScaleRoIAlign maps an RoI to a level by the level's stride. On DetNet, where P4,
P5 and P6 share stride 16, it never pools P5 and P6, without a word. Here the level is FPN's
k = floor(k0 + log2(sqrt(wh) / s0)) (arXiv 1612.03144, eq. 1), clamped to the pooled levels, and the
scale is the level's true stride.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, box_area, roi_align

CANONICAL_LEVEL = 4  # k0
CANONICAL_SIZE = 224  # s0, the side of an ImageNet crop
_EPSILON = 1e-6  # as torchvision's LevelMapper: a side of exactly 2**n * s0 goes up


class LevelRoIAlign(MultiScaleRoIAlign):  # torchvision's detectors take nothing else
    """Pools each RoI from one of `levels` ("p2", "p3", ...), by its size.

    `strides` gives the stride of every level; `output_size` and `sampling_ratio` are RoIAlign's.
    """

    def __init__(
        self,
        levels: Sequence[str],
        strides: Mapping[str, int],
        output_size: int,
        sampling_ratio: int = 2,
    ) -> None:
        super().__init__(list(levels), output_size, sampling_ratio)
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
        self.level_scales = [1 / strides[level] for level in levels]

    def assign(self, boxes: Tensor) -> Tensor:
        """(N, 4) boxes in image pixels -> (N,) indices into `levels`."""
        finest = int(self.levels[0][1:])
        size = torch.sqrt(box_area(boxes))
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE) + _EPSILON)
        return level.clamp(finest, finest + len(self.levels) - 1).to(torch.int64) - finest

    def forward(
        self,
        features: Mapping[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Per-image (N_i, 4) boxes -> (sum N_i, C, output_size, output_size).

        `image_shapes` is part of torchvision's call and not needed: the strides are known.
        """
        maps = [features[level] for level in self.levels]
        rois = torch.cat(boxes)
        image_of_roi = torch.cat(
            [torch.full_like(b[:, :1], index) for index, b in enumerate(boxes)]
        )
        rois_with_image = torch.cat([image_of_roi, rois], dim=1)
        level_of_roi = self.assign(rois)
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        for index, (feature_map, scale) in enumerate(zip(maps, self.level_scales, strict=True)):
            chosen = torch.where(level_of_roi == index)[0]
            # Never the RoIs in the maps' dtype: bfloat16 has no room for pixel coordinates
            pooled[chosen] = roi_align(
                feature_map.to(rois.dtype),
                rois_with_image[chosen],
                output_size=self.output_size,
                spatial_scale=scale,
                sampling_ratio=self.sampling_ratio,
            ).to(pooled.dtype)
        return pooled

"""Faster R-CNN (arXiv 1506.01497) with a feature pyramid (arXiv 1612.03144)."""

import math
from dataclasses import dataclass
from typing import Any

from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from detnet.detection.detector import DetectorSpec, PyramidBackbone, in_float32
from detnet.detection.pyramid import Pyramid, level_of
from detnet.detection.rois import LevelRoIAlign


@dataclass(kw_only=True, slots=True)
class FasterRCNNSpec(DetectorSpec):
    """Proposals from all levels; boxes of RoIs pooled from the levels that stages feed.

    `pooled_levels` are those the RoI heads read; None means every level that a stage feeds.
    `num_proposals_before_nms_*` count per level, `num_proposals_*` per image.
    """

    pooled_levels: list[str] | None = None
    num_proposals_before_nms_train: int = 2000
    num_proposals_before_nms_test: int = 1000
    num_proposals_train: int = 2000
    num_proposals_test: int = 1000
    num_sampled_anchors: int = 256
    num_sampled_rois: int = 512
    box_head_channels: int = 1024

    def assemble(
        self, backbone: PyramidBackbone, num_classes: int, transform: dict[str, Any]
    ) -> FasterRCNN:
        return FasterRCNN(backbone, **self.parts(backbone, num_classes), **transform)

    def parts(self, backbone: PyramidBackbone, num_classes: int) -> dict[str, Any]:
        """torchvision's arguments for proposals and boxes."""
        channels, width = backbone.out_channels, self.box_head_channels
        anchors = self.anchors(backbone.pyramid)
        pool = self.roi_align(backbone.pyramid, output_size=7)
        return {
            "rpn_anchor_generator": anchors,
            "rpn_head": in_float32(RPNHead(channels, anchors.num_anchors_per_location()[0])),
            "rpn_pre_nms_top_n_train": self.num_proposals_before_nms_train,
            "rpn_pre_nms_top_n_test": self.num_proposals_before_nms_test,
            "rpn_post_nms_top_n_train": self.num_proposals_train,
            "rpn_post_nms_top_n_test": self.num_proposals_test,
            "rpn_batch_size_per_image": self.num_sampled_anchors,
            "box_roi_pool": pool,
            "box_head": TwoMLPHead(channels * math.prod(pool.output_size), width),
            "box_predictor": in_float32(FastRCNNPredictor(width, num_classes + 1)),
            "box_score_thresh": self.score_threshold,
            "box_nms_thresh": self.nms_threshold,
            "box_detections_per_img": self.num_detections,
            "box_batch_size_per_image": self.num_sampled_rois,
        }

    def roi_align(self, pyramid: Pyramid, output_size: int) -> LevelRoIAlign:
        """RoIs of `output_size` x `output_size` from the pooled levels."""
        levels = self.pooled_levels or [level_of(stage) for stage in pyramid.stages]
        return LevelRoIAlign(list(levels), pyramid.strides, output_size)

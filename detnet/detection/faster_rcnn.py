"""Faster R-CNN (arXiv 1506.01497) with a feature pyramid (arXiv 1612.03144)."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou

from detnet.detection.detector import DetectorSpec, PyramidBackbone, in_float32
from detnet.detection.ignored import ImageTransform, Target, has_ignored, lies_on_ignored
from detnet.detection.pyramid import Pyramid, level_of
from detnet.detection.rois import LevelRoIAlign

ROI_MATCH_IOU = 0.5  # Faster R-CNN: at least this much of an object, or background


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
        self, backbone: PyramidBackbone, num_classes: int, transform: ImageTransform
    ) -> nn.Module:
        roi_heads = self.roi_heads(backbone, num_classes)
        return GeneralizedRCNN(backbone, self.proposals(backbone), roi_heads, transform)

    def proposals(self, backbone: PyramidBackbone) -> RegionProposalNetwork:
        """One objectness and one box for every anchor; the best of them after NMS."""
        anchors = self.anchors(backbone.pyramid)
        num_anchors = anchors.num_anchors_per_location()[0]
        return ProposalNetwork(
            anchors,
            in_float32(RPNHead(backbone.out_channels, num_anchors)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=self.num_sampled_anchors,
            positive_fraction=0.5,
            pre_nms_top_n={
                "training": self.num_proposals_before_nms_train,
                "testing": self.num_proposals_before_nms_test,
            },
            post_nms_top_n={
                "training": self.num_proposals_train,
                "testing": self.num_proposals_test,
            },
            nms_thresh=0.7,
        )

    def roi_heads(self, backbone: PyramidBackbone, num_classes: int) -> RoIHeads:
        """A class and a box for every RoI."""
        return BoxHeads(**self.box_arguments(backbone, num_classes))

    def box_arguments(self, backbone: PyramidBackbone, num_classes: int) -> dict[str, Any]:
        """torchvision's arguments for what follows a proposal's box."""
        pool = self.roi_align(backbone.pyramid, output_size=7)
        num_inputs = backbone.out_channels * math.prod(pool.output_size)
        return {
            "box_roi_pool": pool,
            "box_head": TwoMLPHead(num_inputs, self.box_head_channels),
            "box_predictor": in_float32(FastRCNNPredictor(self.box_head_channels, num_classes + 1)),
            "fg_iou_thresh": ROI_MATCH_IOU,
            "bg_iou_thresh": ROI_MATCH_IOU,
            "batch_size_per_image": self.num_sampled_rois,
            "positive_fraction": 0.25,
            "bbox_reg_weights": None,
            "score_thresh": self.score_threshold,
            "nms_thresh": self.nms_threshold,
            "detections_per_img": self.num_detections,
        }

    def roi_align(self, pyramid: Pyramid, output_size: int) -> LevelRoIAlign:
        """RoIs of `output_size` x `output_size` from the pooled levels."""
        levels = self.pooled_levels or [level_of(stage) for stage in pyramid.stages]
        return LevelRoIAlign(list(levels), pyramid.strides, output_size)


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's, but background on an ignored region is not sampled."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched_boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, boxes, target in zip(labels, anchors, targets, strict=True):
            # -1 is neither, for torchvision
            label.masked_fill_((label == 0) & lies_on_ignored(boxes, target), -1)
        return labels, matched_boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        if (torch.cat(labels) < 0).all():  # a mean over nothing is not a number
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)


class Samples(NamedTuple):
    """RoIs to train on, of each image: boxes (N, 4), objects, labels (0: none), box targets."""

    rois: list[Tensor]
    matched: list[Tensor]
    labels: list[Tensor]
    deltas: list[Tensor]


class BoxHeads(RoIHeads):
    """torchvision's, but background on an ignored region is not sampled."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Each image's detections, or in training mode the losses, as torchvision's RoIHeads."""
        if not self.training or targets is None:
            return super().forward(features, proposals, image_shapes, targets)
        judged = [_judged(boxes, t) for boxes, t in zip(proposals, targets, strict=True)]
        samples = Samples(*self.select_training_samples(judged, targets))
        return [], self.losses(features, image_shapes, targets, samples)

    def losses(
        self,
        features: dict[str, Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target],
        samples: Samples,
    ) -> dict[str, Tensor]:
        """The loss of each head by name."""
        pooled = self.box_roi_pool(features, samples.rois, image_shapes)
        scores, boxes = self.box_predictor(self.box_head(pooled))
        if len(scores) == 0:  # a mean over nothing is not a number
            return {"loss_classifier": scores.sum(), "loss_box_reg": boxes.sum()}
        loss_classifier, loss_box_reg = fastrcnn_loss(scores, boxes, samples.labels, samples.deltas)
        return {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}


def _judged(proposals: Tensor, target: Target) -> Tensor:
    """The proposals that match an object or do not lie on an ignored region."""
    if not has_ignored(target):
        return proposals
    ignored = lies_on_ignored(proposals, target)
    if len(target["boxes"]):
        overlap = box_iou(proposals, target["boxes"].to(proposals.dtype)).amax(dim=1)
        ignored &= overlap < ROI_MATCH_IOU
    return proposals[~ignored]

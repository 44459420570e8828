"""Faster R-CNN (arXiv 1506.01497) with a feature pyramid (arXiv 1612.03144)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from detnet.detection import boxes as box
from detnet.detection.assignment import assign, sample
from detnet.detection.batch import Batch, Targets
from detnet.detection.detector import (
    Detections,
    Detector,
    DetectorSpec,
    Normalization,
    PyramidBackbone,
    best_detections,
    in_float32,
)
from detnet.detection.proposals import (
    SMOOTH_L1_BETA,
    Outputs,
    ProposalNetwork,
    Proposals,
    box_loss,
)
from detnet.detection.pyramid import Pyramid, level_of
from detnet.detection.rois import CANONICAL_SIZE, LevelRoIAlign
from detnet.detection.slots import of_filled
from detnet.processes import mean_count

ROI_MATCH_IOU = 0.5  # Faster R-CNN: at least this much of an object, or background
ROI_OBJECT_FRACTION = 0.25  # Fast R-CNN, Sec. 2.3
ROI_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # torchvision's
MIN_DETECTION_SIZE = 1e-2  # pixels; torchvision's


@dataclass(kw_only=True, slots=True)
class FasterRCNNSpec(DetectorSpec):
    """Proposals from all levels; boxes of RoIs pooled from the levels that stages feed.

    `pooled_levels` are those the RoI heads read; None means every level that a stage feeds.
    RoIs of `canonical_size` pixels are pooled from p4, those of twice that from p5.
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
    canonical_size: int = CANONICAL_SIZE

    def assemble(
        self, backbone: PyramidBackbone, num_classes: int, normalize: Normalization
    ) -> Detector:
        roi_heads = self.roi_heads(backbone, num_classes)
        return FasterRCNN(normalize, backbone, self.proposals(backbone), roi_heads)

    def proposals(self, backbone: PyramidBackbone) -> ProposalNetwork:
        """One objectness and one box for every anchor; the best of them after NMS."""
        anchors = self.anchors(backbone.pyramid)
        num_anchors = anchors.num_anchors_per_location()[0]
        return ProposalNetwork(
            anchors,
            in_float32(RPNHead(backbone.out_channels, num_anchors)),
            (self.num_proposals_before_nms_train, self.num_proposals_before_nms_test),
            (self.num_proposals_train, self.num_proposals_test),
            self.num_sampled_anchors,
        )

    def roi_heads(self, backbone: PyramidBackbone, num_classes: int) -> "BoxHeads":
        """A class and a box for every RoI."""
        return BoxHeads(self, backbone, num_classes)

    def roi_align(self, pyramid: Pyramid, output_size: int) -> LevelRoIAlign:
        """RoIs of `output_size` x `output_size` from the pooled levels."""
        levels = self.pooled_levels or [level_of(stage) for stage in pyramid.stages]
        return LevelRoIAlign(
            list(levels), pyramid.strides, output_size, canonical_size=self.canonical_size
        )


class Samples(NamedTuple):
    """RoIs to train on (B, S), those on objects first.

    rois: (B, S, 4); matched: (B, S) their objects; label: (B, S), 0 on none; counts: (B, S) bool
    """

    rois: Tensor
    matched: Tensor
    label: Tensor
    counts: Tensor


class BoxHead(TwoMLPHead):
    """torchvision's, which turns its weight round instead of the many RoIs.

    Channels of pooled RoIs come last in memory; torchvision's weights have them first.
    """

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, side, side) -> (R, channels)."""
        weight = self.fc6.weight.unflatten(1, pooled.shape[1:]).permute(0, 2, 3, 1).flatten(1)
        hidden = F.linear(pooled.permute(0, 2, 3, 1).flatten(1), weight, self.fc6.bias)
        return F.relu(self.fc7(F.relu(hidden)))


class BoxHeads(nn.Module):
    """What follows a proposal's box: a class and a better box."""

    def __init__(self, spec: FasterRCNNSpec, backbone: PyramidBackbone, num_classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.num_objects = int(spec.num_sampled_rois * ROI_OBJECT_FRACTION)
        self.box_roi_pool = spec.roi_align(backbone.pyramid, output_size=7)
        num_inputs = backbone.out_channels * self.box_roi_pool.output_size**2
        self.box_head = BoxHead(num_inputs, spec.box_head_channels)
        self.box_predictor = in_float32(FastRCNNPredictor(spec.box_head_channels, num_classes + 1))

    def answers(
        self, maps: dict[str, Tensor], rois: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, S, 4) -> logits (B, S, C) with background 0, and deltas (B, S, C, 4)."""
        shape = rois.shape[:2]
        hidden = of_filled(
            lambda slots: self.box_head(self.box_roi_pool(maps, rois, slots)), counts
        )
        logits, deltas = self.box_predictor(hidden)
        return logits.view(*shape, -1), deltas.view(*shape, -1, 4)

    @torch.no_grad()
    def sample(self, proposals: Proposals, targets: Targets) -> Samples:
        """Draw RoIs from the proposals and the objects themselves."""
        boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)
        counts = torch.cat([proposals.counts, targets.is_object], dim=1)
        assigned = assign(
            boxes, targets,
            object_iou=ROI_MATCH_IOU, background_iou=ROI_MATCH_IOU, best_counts=False,
        )  # fmt: skip
        label = torch.where(counts, assigned.label, -1)
        index, drawn = sample(label, self.spec.num_sampled_rois, self.num_objects)
        label = torch.where(drawn, label.gather(1, index), 0)
        return Samples(box.take(boxes, index), assigned.matched.gather(1, index), label, drawn)

    def losses(
        self, maps: dict[str, Tensor], samples: Samples, targets: Targets
    ) -> dict[str, Tensor]:
        """The loss of each head by name: means over the RoIs."""
        logits, deltas = self.answers(maps, samples.rois, samples.counts)
        weight = samples.counts / mean_count(samples.counts.sum())
        each = F.cross_entropy(logits.flatten(0, 1), samples.label.flatten(), reduction="none")
        label = samples.label[..., None, None].expand(-1, -1, 1, 4)
        loss_box = box_loss(
            deltas.gather(2, label).squeeze(2),
            box.take(targets.boxes, samples.matched),
            samples.rois,
            weight * (samples.label > 0),
            beta=SMOOTH_L1_BETA,
            coder_weights=ROI_BOX_WEIGHTS,
        )
        return {"loss_classifier": (each * weight.flatten()).sum(), "loss_box_reg": loss_box}

    def detect(self, maps: dict[str, Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        """The best boxes of all classes after suppression within each class."""
        logits, deltas = self.answers(maps, proposals.boxes, proposals.counts)
        scores = logits.softmax(dim=-1)[..., 1:]
        boxes = box.decode(deltas[:, :, 1:], proposals.boxes[:, :, None], ROI_BOX_WEIGHTS)
        boxes = box.clip(boxes, sizes).flatten(1, 2)
        labels = torch.arange(1, scores.shape[-1] + 1, device=scores.device).expand_as(scores)
        counts = (scores > self.spec.score_threshold) & proposals.counts[..., None]
        scores, labels, counts = scores.flatten(1), labels.flatten(1), counts.flatten(1)
        counts &= box.is_larger(boxes, MIN_DETECTION_SIZE)
        return best_detections(
            boxes, scores, labels, counts, self.spec.nms_threshold, self.spec.num_detections
        )


class FasterRCNN(Detector):
    """Proposals, then what the RoI heads say of them."""

    def __init__(
        self,
        normalize: Normalization,
        backbone: PyramidBackbone,
        rpn: ProposalNetwork,
        roi_heads: BoxHeads,
    ) -> None:
        super().__init__(normalize, backbone)
        self.rpn = rpn
        self.roi_heads = roi_heads

    def outputs(self, maps: dict[str, Tensor]) -> Outputs:
        return self.rpn.outputs(maps)

    def losses(self, maps: dict[str, Tensor], outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        assert batch.targets is not None
        anchors = self.rpn.anchor_generator(batch.images, list(maps.values()))
        proposals = self.rpn.propose(outputs, anchors, batch.sizes)
        samples = self.roi_heads.sample(proposals, batch.targets)
        return {
            **self.roi_heads.losses(maps, samples, batch.targets),
            **self.rpn.losses(outputs, anchors, batch.targets),
        }

    def detect(self, maps: dict[str, Tensor], outputs: Outputs, batch: Batch) -> Detections:
        anchors = self.rpn.anchor_generator(batch.images, list(maps.values()))
        proposals = self.rpn.propose(outputs, anchors, batch.sizes)
        return self.roi_heads.detect(maps, proposals, batch.sizes)

"""RetinaNet (arXiv 1708.02002): one stage, three anchor scales an octave, from p3 on."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from detnet.detection import boxes as box
from detnet.detection.assignment import NEITHER, assign
from detnet.detection.batch import Batch
from detnet.detection.detector import (
    Detections,
    Detector,
    DetectorSpec,
    Normalization,
    PyramidBackbone,
    best_detections,
    in_float32,
)
from detnet.detection.proposals import box_loss

OBJECT_IOU, BACKGROUND_IOU = 0.5, 0.4  # Sec. 4


@dataclass(kw_only=True, slots=True)
class RetinaNetSpec(DetectorSpec):
    """`num_candidates_per_level` boxes of each level, the best by score, go into NMS."""

    finest_stage: ClassVar[int] = 3

    extra_levels: str = "convolution"
    num_anchor_scales: int = 3
    num_candidates_per_level: int = 1000

    def assemble(
        self, backbone: PyramidBackbone, num_classes: int, normalize: Normalization
    ) -> Detector:
        return RetinaNet(self, normalize, backbone, num_classes)


class RetinaNet(Detector):
    """A class and a box for every anchor."""

    def __init__(
        self,
        spec: RetinaNetSpec,
        normalize: Normalization,
        backbone: PyramidBackbone,
        num_classes: int,
    ) -> None:
        super().__init__(normalize, backbone)
        self.spec = spec
        self.anchor_generator = spec.anchors(backbone.pyramid)
        num_anchors = self.anchor_generator.num_anchors_per_location()[0]
        self.head = in_float32(RetinaNetHead(backbone.out_channels, num_anchors, num_classes + 1))

    def outputs(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.head(list(maps.values()))

    def losses(
        self, maps: dict[str, Tensor], outputs: dict[str, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        targets = batch.targets
        assert targets is not None
        references = torch.cat(self.anchor_generator(batch.images, list(maps.values())))[None]
        assigned = assign(
            references, targets,
            object_iou=OBJECT_IOU, background_iou=BACKGROUND_IOU, best_counts=True,
        )  # fmt: skip
        logits, deltas = outputs["cls_logits"], outputs["bbox_regression"]
        is_object = assigned.label > 0
        num_objects = is_object.sum(dim=1, keepdim=True).clamp(min=1)
        weight = 1 / (num_objects * len(logits))  # a mean over images of sums per object
        wanted = torch.zeros_like(logits).scatter(
            2, assigned.label.clamp(min=0)[..., None], is_object[..., None].to(logits.dtype)
        )
        each = sigmoid_focal_loss(logits, wanted).sum(dim=-1)
        loss_box = box_loss(
            deltas,
            box.take(targets.boxes, assigned.matched),
            references.expand(len(logits), -1, -1),
            is_object * weight,
            beta=0.0,
        )
        return {
            "classification": (each * (assigned.label != NEITHER) * weight).sum(),
            "bbox_regression": loss_box,
        }

    def detect(
        self, maps: dict[str, Tensor], outputs: dict[str, Tensor], batch: Batch
    ) -> Detections:
        anchors = self.anchor_generator(batch.images, list(maps.values()))
        num_anchors = [len(level) for level in anchors]
        num_classes = outputs["cls_logits"].shape[-1]
        boxes, scores, labels = [], [], []
        for logits, deltas, level in zip(
            outputs["cls_logits"].split(num_anchors, dim=1),
            outputs["bbox_regression"].split(num_anchors, dim=1),
            anchors,
            strict=True,
        ):
            all_scores = logits.sigmoid().flatten(1)
            most = min(self.spec.num_candidates_per_level, all_scores.shape[1])
            best, index = all_scores.topk(most, dim=1)
            anchor = index // num_classes
            scores.append(best)
            labels.append(index % num_classes)
            boxes.append(box.decode(box.take(deltas, anchor), box.take(level[None], anchor)))
        best = torch.cat(scores, dim=1)
        return best_detections(
            box.clip(torch.cat(boxes, dim=1), batch.sizes),
            best,
            torch.cat(labels, dim=1),
            best > self.spec.score_threshold,
            self.spec.nms_threshold,
            self.spec.num_detections,
        )

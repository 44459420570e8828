"""RetinaNet (arXiv 1708.02002): one stage, three anchor scales an octave, from p3 on."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead

from detnet.detection.detector import DetectorSpec, PyramidBackbone, in_float32
from detnet.detection.ignored import ImageTransform, Target, lies_on_ignored


@dataclass(kw_only=True, slots=True)
class RetinaNetSpec(DetectorSpec):
    """`num_candidates_per_level` boxes of each level, the best by score, go into NMS."""

    finest_stage: ClassVar[int] = 3

    extra_levels: str = "convolution"
    num_anchor_scales: int = 3
    num_candidates_per_level: int = 1000

    def assemble(
        self, backbone: PyramidBackbone, num_classes: int, transform: ImageTransform
    ) -> nn.Module:
        anchors = self.anchors(backbone.pyramid)
        num_anchors = anchors.num_anchors_per_location()[0]
        model = RetinaNet(
            backbone,
            num_classes=num_classes + 1,
            anchor_generator=anchors,
            head=in_float32(Head(backbone.out_channels, num_anchors, num_classes + 1)),
            score_thresh=self.score_threshold,
            nms_thresh=self.nms_threshold,
            detections_per_img=self.num_detections,
            topk_candidates=self.num_candidates_per_level,
        )
        model.transform = transform
        return model


class Head(RetinaNetHead):
    """torchvision's, but background on an ignored region is left out of the loss."""

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        for matched, boxes, target in zip(matched_idxs, anchors, targets, strict=True):
            background = matched == Matcher.BELOW_LOW_THRESHOLD
            ignored = background & lies_on_ignored(boxes, target)
            matched.masked_fill_(ignored, Matcher.BETWEEN_THRESHOLDS)
        return super().compute_loss(targets, head_outputs, anchors, matched_idxs)

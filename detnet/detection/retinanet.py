"""RetinaNet (arXiv 1708.02002): one stage, three anchor scales an octave, from p3 on."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torchvision.models.detection import RetinaNet

from detnet.detection.detector import DetectorSpec, PyramidBackbone, in_float32


@dataclass(kw_only=True, slots=True)
class RetinaNetSpec(DetectorSpec):
    """`num_candidates_per_level` boxes of each level, the best by score, go into NMS."""

    finest_stage: ClassVar[int] = 3

    extra_levels: str = "convolution"
    num_anchor_scales: int = 3
    num_candidates_per_level: int = 1000

    def assemble(
        self, backbone: PyramidBackbone, num_classes: int, transform: dict[str, Any]
    ) -> RetinaNet:
        model = RetinaNet(
            backbone,
            num_classes=num_classes + 1,
            anchor_generator=self.anchors(backbone.pyramid),
            score_thresh=self.score_threshold,
            nms_thresh=self.nms_threshold,
            detections_per_img=self.num_detections,
            topk_candidates=self.num_candidates_per_level,
            **transform,
        )
        in_float32(model.head)
        return model

"""Mask R-CNN (arXiv 1703.06870): Faster R-CNN with a mask for every detection."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from detnet.detection.detector import PyramidBackbone, in_float32
from detnet.detection.faster_rcnn import FasterRCNNSpec


@dataclass(kw_only=True, slots=True)
class MaskRCNNSpec(FasterRCNNSpec):
    """Faster R-CNN's fields and the width of the mask head's four convolutions."""

    has_masks: ClassVar[bool] = True

    mask_head_channels: int = 256

    def assemble(
        self, backbone: PyramidBackbone, num_classes: int, transform: dict[str, Any]
    ) -> MaskRCNN:
        width = self.mask_head_channels
        return MaskRCNN(
            backbone,
            mask_roi_pool=self.roi_align(backbone.pyramid, output_size=14),
            mask_head=MaskRCNNHeads(backbone.out_channels, (width,) * 4, dilation=1),
            mask_predictor=in_float32(MaskRCNNPredictor(width, width, num_classes + 1)),
            **self.parts(backbone, num_classes),
            **transform,
        )

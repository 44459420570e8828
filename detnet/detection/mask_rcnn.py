"""Mask R-CNN (arXiv 1703.06870): Faster R-CNN with a mask for every detection."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss

from detnet.detection.detector import PyramidBackbone, in_float32
from detnet.detection.faster_rcnn import BoxHeads, FasterRCNNSpec, Samples
from detnet.detection.ignored import Target


@dataclass(kw_only=True, slots=True)
class MaskRCNNSpec(FasterRCNNSpec):
    """Faster R-CNN's fields and the width of the mask head's four convolutions."""

    has_masks: ClassVar[bool] = True

    mask_head_channels: int = 256

    def roi_heads(self, backbone: PyramidBackbone, num_classes: int) -> RoIHeads:
        """A class, a box and a mask for every RoI."""
        width = self.mask_head_channels
        return MaskHeads(
            **self.box_arguments(backbone, num_classes),
            mask_roi_pool=self.roi_align(backbone.pyramid, output_size=14),
            mask_head=MaskRCNNHeads(backbone.out_channels, (width,) * 4, dilation=1),
            mask_predictor=in_float32(MaskRCNNPredictor(width, width, num_classes + 1)),
        )


class MaskHeads(BoxHeads):
    """torchvision's, but objects whose mask is not known train their box alone.

    A target's `has_mask` (N,) bool says which masks are known; absent, all are.
    """

    def losses(
        self,
        features: dict[str, Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target],
        samples: Samples,
    ) -> dict[str, Tensor]:
        losses = super().losses(features, image_shapes, targets, samples)
        chosen = [
            _on_known_masks(labels, matched, target)
            for labels, matched, target in zip(
                samples.labels, samples.matched, targets, strict=True
            )
        ]
        rois, matched = (
            [values[index] for values, index in zip(of_images, chosen, strict=True)]
            for of_images in (samples.rois, samples.matched)
        )
        losses["loss_mask"] = maskrcnn_loss(
            self.mask_predictor(self.mask_head(self.mask_roi_pool(features, rois, image_shapes))),
            rois,
            [target["masks"] for target in targets],
            [target["labels"] for target in targets],
            matched,
        )
        return losses


def _on_known_masks(labels: Tensor, matched: Tensor, target: Target) -> Tensor:
    """Indices of the RoIs on objects whose mask is known."""
    positive = torch.where(labels > 0)[0]
    has_mask = target.get("has_mask")
    return positive if has_mask is None else positive[has_mask[matched[positive]]]

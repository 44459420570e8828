"""Mask R-CNN (arXiv 1703.06870): Faster R-CNN with a mask for every detection."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from detnet.detection.batch import Targets
from detnet.detection.detector import Detections, PyramidBackbone, in_float32
from detnet.detection.faster_rcnn import BoxHeads, FasterRCNNSpec, Samples
from detnet.detection.proposals import Proposals
from detnet.detection.slots import of_filled
from detnet.processes import mean_count


@dataclass(kw_only=True, slots=True)
class MaskRCNNSpec(FasterRCNNSpec):
    """Faster R-CNN's fields and the width of the mask head's four convolutions."""

    has_masks: ClassVar[bool] = True

    mask_head_channels: int = 256

    def roi_heads(self, backbone: PyramidBackbone, num_classes: int) -> "MaskHeads":
        """A class, a box and a mask for every RoI."""
        return MaskHeads(self, backbone, num_classes)


class MaskHeads(BoxHeads):
    """Objects whose mask is not known train their box alone."""

    def __init__(self, spec: MaskRCNNSpec, backbone: PyramidBackbone, num_classes: int) -> None:
        super().__init__(spec, backbone, num_classes)
        width = spec.mask_head_channels
        self.mask_roi_pool = spec.roi_align(backbone.pyramid, output_size=14)
        self.mask_head = MaskRCNNHeads(backbone.out_channels, (width,) * 4, dilation=1)
        self.mask_predictor = in_float32(MaskRCNNPredictor(width, width, num_classes + 1))

    def mask_logits(
        self, maps: dict[str, Tensor], rois: Tensor, labels: Tensor, counts: Tensor
    ) -> Tensor:
        """(B, S, 4) and classes (B, S) -> (B * S, 28, 28)."""

        def answer(slots: Tensor | None) -> Tensor:
            logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, rois, slots)))
            label = labels.flatten() if slots is None else labels.flatten()[slots]
            index = label[:, None, None, None].expand(-1, 1, *logits.shape[2:])
            return logits.gather(1, index).squeeze(1)

        return of_filled(answer, counts)

    def losses(
        self, maps: dict[str, Tensor], samples: Samples, targets: Targets
    ) -> dict[str, Tensor]:
        losses = super().losses(maps, samples, targets)
        assert targets.masks is not None
        assert targets.has_mask is not None
        # RoIs on objects stand first
        rois, matched, label, _ = (values[:, : self.num_objects] for values in samples)
        is_known = (label > 0) & targets.has_mask.gather(1, matched)
        logits = self.mask_logits(maps, rois, label, is_known)
        wanted = masks_within(rois, matched, targets, logits.shape[-1])
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(1, 2))
        weight = is_known.flatten() / mean_count(is_known.sum())
        return {**losses, "loss_mask": (each * weight).sum()}

    def detect(self, maps: dict[str, Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        found = super().detect(maps, proposals, sizes)
        place = torch.arange(found.labels.shape[1], device=found.num.device)
        counts = place < found.num[:, None]
        logits = self.mask_logits(maps, found.boxes, found.labels, counts)
        masks = logits.sigmoid().view(*found.labels.shape, *logits.shape[1:])
        return found._replace(masks=masks)


@torch.no_grad()
def masks_within(rois: Tensor, matched: Tensor, targets: Targets, side: int) -> Tensor:
    """The masks of the `matched` objects (B, S) within RoIs (B, S, 4): (B * S, side, side)."""
    assert targets.masks is not None
    num = targets.is_object.sum(dim=1, keepdim=True)
    place = num.cumsum(dim=0) - num + matched  # masks of all images stand one after another
    boxes = torch.cat([place[..., None].clamp(max=len(targets.masks) - 1), rois], dim=-1)
    masks = targets.masks[:, None].to(rois.dtype)
    return roi_align(masks, boxes.flatten(0, 1), (side, side), 1.0)[:, 0]

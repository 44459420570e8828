"""What the training benchmark compares: detectors of three codes, and backbones alone."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import timm
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

LIGHT = Path(__file__).resolve().parents[1] / "conf" / "detector"
"""Where the light detectors' fields stand; RetinaNet takes those of Faster R-CNN that it has."""
LIGHT_FILES = {"mask_rcnn": "mask_rcnn_light.yaml"}


def build(settings: Namespace, num_classes: int) -> nn.Module:
    """The detector, or the backbone alone, that `settings` name."""
    builders = {
        "ours": build_ours,
        "former": build_former,
        "torchvision": build_torchvision,
        "alone": build_alone,
    }
    return builders[settings.code](settings, num_classes)


def build_ours(settings: Namespace, num_classes: int) -> nn.Module:
    return spec_of(settings).build(body_of(settings.backbone), num_classes)


def build_former(settings: Namespace, num_classes: int) -> nn.Module:
    short, long = settings.size
    spec = spec_of(settings)
    return spec.build(body_of(settings.backbone), num_classes, short_side=short, long_side=long)


def build_alone(settings: Namespace, _: int) -> nn.Module:
    return body_of(settings.backbone)


def spec_of(settings: Namespace) -> Any:
    """The detector's fields, those that its checkout knows."""
    from detnet.detection import DETECTORS

    kind = DETECTORS[settings.detector]
    file = LIGHT / LIGHT_FILES.get(settings.detector, "faster_rcnn_light.yaml")
    given = {} if settings.full else dict(OmegaConf.load(file))
    return kind(**{each.name: given[each.name] for each in fields(kind) if each.name in given})


def body_of(backbone: str) -> nn.Module:
    import detnet  # noqa: F401  (registers the zoo with timm)

    return timm.create_model(backbone, features_only=True)


class PeerBackbone(nn.Module):
    """A timm network under torchvision's own pyramid, from a stride on."""

    def __init__(self, body: Any, channels: int, finest_stride: int, extra: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.first = list(body.feature_info.reduction()).index(finest_stride)
        widths = body.feature_info.channels()[self.first :]
        self.pyramid = FeaturePyramidNetwork(widths, channels, extra_blocks=extra)
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> maps by name."""
        maps = self.body(x)[self.first :]
        return self.pyramid({str(k): each for k, each in enumerate(maps)})


def build_torchvision(settings: Namespace, num_classes: int) -> nn.Module:
    """torchvision's detector with the same numbers."""
    spec = spec_of(settings)
    body, channels = body_of(settings.backbone), spec.channels
    scales = [2 ** (k / spec.num_anchor_scales) for k in range(spec.num_anchor_scales)]
    anchors = AnchorGenerator(
        tuple(tuple(int(spec.anchor_size * 2**level * s) for s in scales) for level in range(5)),
        (tuple(spec.anchor_ratios),) * 5,
    )
    sizes = {"min_size": settings.size[0], "max_size": settings.size[1]}
    if settings.detector == "retinanet":
        return RetinaNet(
            PeerBackbone(body, channels, 8, LastLevelP6P7(channels, channels)), num_classes + 1,
            anchor_generator=anchors, score_thresh=spec.score_threshold,
            detections_per_img=spec.num_detections, **sizes,
        )  # fmt: skip
    options: dict[str, Any] = {
        "rpn_anchor_generator": anchors,
        "rpn_pre_nms_top_n_train": spec.num_proposals_before_nms_train,
        "rpn_pre_nms_top_n_test": spec.num_proposals_before_nms_test,
        "rpn_post_nms_top_n_train": spec.num_proposals_train,
        "rpn_post_nms_top_n_test": spec.num_proposals_test,
        "box_batch_size_per_image": spec.num_sampled_rois,
        "box_score_thresh": spec.score_threshold,
        "box_head": TwoMLPHead(channels * 49, spec.box_head_channels),
        "box_predictor": FastRCNNPredictor(spec.box_head_channels, num_classes + 1),
    }
    backbone = PeerBackbone(body, channels, 4, LastLevelMaxPool())
    if settings.detector == "faster_rcnn":
        return FasterRCNN(backbone, **sizes, **options)
    width = spec.mask_head_channels
    return MaskRCNN(
        backbone,
        mask_head=MaskRCNNHeads(channels, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, num_classes + 1),
        **sizes, **options,
    )  # fmt: skip

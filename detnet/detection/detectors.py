"""Faster R-CNN, Mask R-CNN and RetinaNet: torchvision's heads on our pyramid and RoI levels."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from detnet.detection.features import FeatureExtractor
from detnet.detection.pyramid import EXTRA_LEVELS, Pyramid, level_of
from detnet.detection.rois import LevelRoIAlign

KINDS = ("faster_rcnn", "mask_rcnn", "retinanet")
NUM_LEVELS = 5  # FPN and RetinaNet both predict on five levels


@dataclass(kw_only=True, slots=True)
class DetectorSpec:
    """A detector as numbers; sizes in pixels, thresholds in IoU, counts per image.

    `stages` feed the pyramid (all from c2 on, for RetinaNet from c3 on, where None).
    `extra_levels` fills the pyramid up to five levels where the stages give fewer.
    `pooled_levels` are those the RoI heads read; None means every level that a stage feeds.
    `freeze` names the last stage that is not trained ("c1" is the paper's stage 1).
    """

    kind: str = "faster_rcnn"
    stages: list[str] | None = None
    channels: int = 256
    extra_levels: str = "max_pool"
    pooled_levels: list[str] | None = None
    freeze: str | None = None
    anchor_size: int = 32
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    num_anchor_scales: int = 1
    num_proposals_before_nms_train: int = 2000
    num_proposals_before_nms_test: int = 1000
    num_proposals_train: int = 2000
    num_proposals_test: int = 1000
    num_sampled_anchors: int = 256
    num_sampled_rois: int = 512
    box_head_channels: int = 1024
    mask_head_channels: int = 256
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    num_detections: int = 100

    @property
    def has_masks(self) -> bool:
        return self.kind == "mask_rcnn"

    def check(self) -> None:
        """Raises ValueError that names the field and the remedy."""
        for name, choices in (("kind", KINDS), ("extra_levels", EXTRA_LEVELS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"detector.{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}"
                )
        counts = [name for name in self.__slots__ if name.startswith("num_")]
        for name in ["channels", "anchor_size", "box_head_channels", "mask_head_channels", *counts]:
            if getattr(self, name) < 1:
                raise ValueError(f"detector.{name}={getattr(self, name)}: give a positive number")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"detector.{name}={getattr(self, name)}: give a number between 0 and 1"
                )
        if not self.anchor_ratios or min(self.anchor_ratios) <= 0:
            raise ValueError(
                f"detector.anchor_ratios={list(self.anchor_ratios)}: give positive ratios of "
                "height to width"
            )


class PyramidBackbone(nn.Module):
    """The features of the chosen stages, then the pyramid: what torchvision's detectors call."""

    def __init__(self, features: FeatureExtractor, pyramid: Pyramid) -> None:
        super().__init__()
        self.features = features
        self.pyramid = pyramid
        self.out_channels = pyramid.out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"p2": (B, out_channels, H/4, W/4), ...}."""
        return self.pyramid(self.features(x))


def build_detector(
    spec: DetectorSpec,
    body: nn.Module,
    num_classes: int,
    *,
    short_side: int | list[int] = 800,
    long_side: int = 1333,
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225),
    backbone_name: str = "backbone",
) -> nn.Module:
    """A detector of `num_classes` object classes (background not counted) on a timm feature net.

    `body` is what `timm.create_model(name, features_only=True)` returns. The model takes a list of
    float images (3, H, W) in [0, 1] of any size, resizes and pads them itself, and answers in each
    image's own pixels, as torchvision's detectors do. Labels run from 1 to `num_classes`.

    Raises ValueError that names the field for stages or levels the backbone does not have.
    """
    spec.check()
    features = FeatureExtractor(body, backbone_name)
    if spec.freeze is not None:
        features.freeze(spec.freeze)
    backbone = PyramidBackbone(features, _pyramid(spec, features))
    transform = {
        "min_size": short_side,
        "max_size": long_side,
        "image_mean": list(image_mean),
        "image_std": list(image_std),
    }
    if spec.kind == "retinanet":
        model = _retinanet(spec, backbone, num_classes, transform)
        heads = [model.head]
    else:
        model = _rcnn(spec, backbone, num_classes, transform)
        heads = [model.rpn.head, model.roi_heads.box_predictor]
        if spec.has_masks:
            heads.append(model.roi_heads.mask_predictor)
    for head in heads:
        head.register_forward_hook(_answer_in_float32)
    return model


def _answer_in_float32(module: nn.Module, inputs: object, output: Any) -> Any:
    # torchvision brings boxes to the dtype of what a head says; under autocast that is bfloat16,
    # which from 256 pixels on knows even numbers only
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: _answer_in_float32(module, inputs, part) for name, part in output.items()}
    return type(output)(_answer_in_float32(module, inputs, part) for part in output)


def _pyramid(spec: DetectorSpec, features: FeatureExtractor) -> Pyramid:
    finest = 3 if spec.kind == "retinanet" else 2
    stages = spec.stages or [stage for stage in features.stages if int(stage[1:]) >= finest]
    if missing := [stage for stage in stages if stage not in features.stages]:
        raise ValueError(
            f"detector.stages: {missing[0]} is not a stage of this backbone "
            f"({', '.join(features.stages)})"
        )
    return Pyramid(
        {stage: features.channels[stage] for stage in stages},
        features.strides,
        spec.channels,
        spec.extra_levels,
        max(0, NUM_LEVELS - len(stages)),
    )


def _anchors(spec: DetectorSpec, pyramid: Pyramid) -> AnchorGenerator:
    """One size per level by its order, doubling: p2 has `anchor_size` (p3 for RetinaNet)."""
    scales = [2 ** (index / spec.num_anchor_scales) for index in range(spec.num_anchor_scales)]
    sizes = tuple(
        tuple(int(spec.anchor_size * 2**order * scale) for scale in scales)
        for order in range(len(pyramid.levels))
    )
    return AnchorGenerator(sizes, (tuple(spec.anchor_ratios),) * len(sizes))


def _pooled_levels(spec: DetectorSpec, pyramid: Pyramid) -> list[str]:
    return list(spec.pooled_levels or [level_of(stage) for stage in pyramid.stages])


def _rcnn(
    spec: DetectorSpec, backbone: PyramidBackbone, num_classes: int, transform: dict[str, Any]
) -> FasterRCNN:
    channels, strides = backbone.out_channels, backbone.pyramid.strides
    levels = _pooled_levels(spec, backbone.pyramid)
    box_pool = LevelRoIAlign(levels, strides, output_size=7)
    arguments = {
        "rpn_anchor_generator": _anchors(spec, backbone.pyramid),
        "rpn_pre_nms_top_n_train": spec.num_proposals_before_nms_train,
        "rpn_pre_nms_top_n_test": spec.num_proposals_before_nms_test,
        "rpn_post_nms_top_n_train": spec.num_proposals_train,
        "rpn_post_nms_top_n_test": spec.num_proposals_test,
        "rpn_batch_size_per_image": spec.num_sampled_anchors,
        "box_roi_pool": box_pool,
        "box_head": TwoMLPHead(channels * math.prod(box_pool.output_size), spec.box_head_channels),
        "box_predictor": FastRCNNPredictor(spec.box_head_channels, num_classes + 1),
        "box_score_thresh": spec.score_threshold,
        "box_nms_thresh": spec.nms_threshold,
        "box_detections_per_img": spec.num_detections,
        "box_batch_size_per_image": spec.num_sampled_rois,
        **transform,
    }
    if not spec.has_masks:
        return FasterRCNN(backbone, **arguments)
    width = spec.mask_head_channels
    return MaskRCNN(
        backbone,
        mask_roi_pool=LevelRoIAlign(levels, strides, output_size=14),
        mask_head=MaskRCNNHeads(channels, (width,) * 4, dilation=1),
        mask_predictor=MaskRCNNPredictor(width, width, num_classes + 1),
        **arguments,
    )


def _retinanet(
    spec: DetectorSpec, backbone: PyramidBackbone, num_classes: int, transform: dict[str, Any]
) -> RetinaNet:
    return RetinaNet(
        backbone,
        num_classes=num_classes + 1,
        anchor_generator=_anchors(spec, backbone.pyramid),
        score_thresh=spec.score_threshold,
        nms_thresh=spec.nms_threshold,
        detections_per_img=spec.num_detections,
        topk_candidates=spec.num_proposals_test,
        **transform,
    )

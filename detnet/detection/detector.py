"""What every detector is given: stages that feed a pyramid, anchors, images, thresholds.

A detector is a file beside this one: a subclass of `DetectorSpec` with its own fields and its
`assemble()`, and a row of `detnet.detection.DETECTORS`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from detnet.detection.features import FeatureExtractor
from detnet.detection.ignored import ImageTransform
from detnet.detection.pyramid import EXTRA_LEVELS, Pyramid

NUM_LEVELS = 5  # FPN and RetinaNet both predict on five levels


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


@dataclass(kw_only=True, slots=True)
class DetectorSpec(ABC):
    """A detector as numbers; sizes in pixels, thresholds in IoU, counts per image.

    `stages` feed the pyramid (None: all from `finest_stage` on). `extra_levels` fills the pyramid
    up to five levels where the stages give fewer. `freeze` names the last stage that is not
    trained ("c1" is the paper's stage 1). `anchor_size` is that of the finest level and doubles
    from level to level, `num_anchor_scales` sizes to an octave.
    """

    finest_stage: ClassVar[int] = 2
    has_masks: ClassVar[bool] = False

    stages: list[str] | None = None
    channels: int = 256
    extra_levels: str = "max_pool"
    freeze: str | None = None
    anchor_size: int = 32
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    num_anchor_scales: int = 1
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    num_detections: int = 100

    @abstractmethod
    def assemble(
        self, backbone: PyramidBackbone, num_classes: int, transform: ImageTransform
    ) -> nn.Module:
        """The detector around `backbone`, which sees what `transform` makes of images."""

    def build(
        self,
        body: nn.Module,
        num_classes: int,
        *,
        short_side: int | list[int] = 800,
        long_side: int = 1333,
        image_mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        image_std: tuple[float, ...] = (0.229, 0.224, 0.225),
        backbone_name: str = "backbone",
    ) -> nn.Module:
        """A detector of `num_classes` object classes (background not counted) on a timm network.

        `body` is what `timm.create_model(name, features_only=True)` returns. The model takes a list
        of float images (3, H, W) in [0, 1] of any size, resizes and pads them itself, and answers
        in each image's own pixels, as torchvision's detectors do. Labels run from 1 to
        `num_classes`. Targets are torchvision's, and may have `ignored_boxes` (M, 4), on which
        nothing is background, and `has_mask` (N,) bool, which masks are known.

        Raises ValueError that names the field for stages or levels the backbone does not have.
        """
        self.check()
        features = FeatureExtractor(body, backbone_name)
        if self.freeze is not None:
            features.freeze(self.freeze)
        backbone = PyramidBackbone(features, self._pyramid(features))
        transform = ImageTransform(short_side, long_side, list(image_mean), list(image_std))
        return self.assemble(backbone, num_classes, transform)

    def check(self) -> None:
        """Raises ValueError that names the field and the remedy."""
        if self.extra_levels not in EXTRA_LEVELS:
            raise ValueError(
                f"detector.extra_levels={self.extra_levels!r}: choose one of "
                f"{', '.join(EXTRA_LEVELS)}"
            )
        for name in (f.name for f in fields(self) if f.type is int):
            if getattr(self, name) < 1:
                raise ValueError(f"detector.{name}={getattr(self, name)}: give a positive number")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"detector.{name}={getattr(self, name)}: give a number between 0 and 1"
                )
        if not self.anchor_ratios or not all(0 < ratio < math.inf for ratio in self.anchor_ratios):
            raise ValueError(
                f"detector.anchor_ratios={list(self.anchor_ratios)}: give positive ratios of "
                "height to width"
            )

    def anchors(self, pyramid: Pyramid) -> AnchorGenerator:
        """Anchors of every level, whose size follows from the level's order, not its stride."""
        scales = [2 ** (index / self.num_anchor_scales) for index in range(self.num_anchor_scales)]
        sizes = tuple(
            tuple(int(self.anchor_size * 2**order * scale) for scale in scales)
            for order in range(len(pyramid.levels))
        )
        return AnchorGenerator(sizes, (tuple(self.anchor_ratios),) * len(sizes))

    def _pyramid(self, features: FeatureExtractor) -> Pyramid:
        stages = self.stages or [s for s in features.stages if int(s[1:]) >= self.finest_stage]
        if missing := [stage for stage in stages if stage not in features.stages]:
            raise ValueError(
                f"detector.stages: {missing[0]} is not a stage of this backbone "
                f"({', '.join(features.stages)})"
            )
        return Pyramid(
            {stage: features.channels[stage] for stage in stages},
            features.strides,
            self.channels,
            self.extra_levels,
            max(0, NUM_LEVELS - len(stages)),
        )


def in_float32(head: nn.Module) -> nn.Module:
    """The head itself, from now on answering in float32 under autocast too.

    torchvision brings boxes to the dtype of what a head says: in bfloat16, which from 256 pixels on
    knows even numbers only.
    """
    head.register_forward_hook(lambda _, __, output: _to_float32(output))
    return head


def _to_float32(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: _to_float32(part) for name, part in output.items()}
    return type(output)(map(_to_float32, output))

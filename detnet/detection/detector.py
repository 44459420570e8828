"""What every detector is given: stages that feed a pyramid, anchors, images, thresholds.

A detector is a file beside this one: a subclass of `DetectorSpec` with its own fields and its
`assemble()`, and a row of `detnet.detection.DETECTORS`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detnet.detection import boxes as box
from detnet.detection.anchors import Anchors
from detnet.detection.batch import Batch
from detnet.detection.features import FeatureExtractor
from detnet.detection.nms import best_of
from detnet.detection.pyramid import EXTRA_LEVELS, Pyramid

NUM_LEVELS = 5  # FPN and RetinaNet both predict on five levels
MAX_NUMBER = 2**20  # of anchors, say: far beyond what a detector has; torch can still count it


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


class Normalization(nn.Module):
    """Images as networks are trained on: mean 0 and deviation 1 by channel, padding 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """(B, 3, H, W), uint8 or in [0, 1], of which (height, width) is the image: (B, 2)."""
        values = images if images.is_floating_point() else images / 255
        values = (values - self.mean).div_(self.std)
        inside = [
            torch.arange(side, device=images.device) < sizes[:, axis, None]
            for axis, side in enumerate(images.shape[-2:])
        ]
        return values.mul_(inside[0][:, None, :, None] & inside[1][:, None, None, :])


class Detections(NamedTuple):
    """The best of each image, best first: `num` (B,) of the D that there is room for.

    boxes: (B, D, 4) in pixels of the batch; scores, labels: (B, D)
    masks: (B, D, 28, 28), how likely the object covers each part of its box
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    num: Tensor
    masks: Tensor | None = None


class Detector(nn.Module, ABC):
    """A function of a `Batch`: of its losses by name in training mode, else of its detections."""

    def __init__(self, normalize: Normalization, backbone: PyramidBackbone) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone

    @abstractmethod
    def outputs(self, maps: dict[str, Tensor]) -> Any:
        """What the convolutional head says of the pyramid's levels."""

    @abstractmethod
    def losses(self, maps: dict[str, Tensor], outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The losses by name, each a scalar."""

    @abstractmethod
    def detect(self, maps: dict[str, Tensor], outputs: Any, batch: Batch) -> Detections:
        """What is found on the batch's images."""

    def dense(self, images: Tensor, sizes: Tensor) -> tuple[dict[str, Tensor], Any]:
        """Maps and head outputs: all that has to do with every pixel alike.

        It has fixed shapes and no choices, so it can be compiled whole.
        """
        maps = self.backbone(self.normalize(images, sizes))
        return maps, self.outputs(maps)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `nn.Module.compile`, with its arguments; only the dense part has to be compiled."""
        self.dense = torch.compile(self.dense, *args, **kwargs)  # type: ignore[method-assign]

    def forward(self, batch: Batch) -> Any:
        """Losses by name in training mode, else each image's detections in its own pixels.

        Those are torchvision's: a list of `boxes` (D, 4), `scores`, `labels` (D,) and, of detectors
        of masks, `masks` (D, 1, H, W).
        """
        maps, outputs = self.dense(batch.images, batch.sizes)
        if self.training:
            return self.losses(maps, outputs, batch)
        return in_own_pixels(self.detect(maps, outputs, batch), batch)


def best_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, counts: Tensor, threshold: float, num: int
) -> Detections:
    """The `num` best of each image's candidates (B, K) after suppression within each class."""
    # Mostly few of very many candidates count; evaluation may wait for their number
    most = max(1, int(counts.sum(dim=1).amax()))
    ranked, first = torch.where(counts, scores, -1.0).sort(dim=1, descending=True, stable=True)
    first = first[:, :most]
    boxes, labels = box.take(boxes, first), labels.gather(1, first)
    index, kept = best_of(boxes, ranked[:, :most], labels, ranked[:, :most] >= 0, threshold, num)
    return Detections(
        box.take(boxes, index), ranked.gather(1, index), labels.gather(1, index), kept.sum(dim=1)
    )


def in_own_pixels(found: Detections, batch: Batch) -> list[dict[str, Tensor]]:
    """Each image's detections, boxes and masks at the size it had before it was resized."""
    results = []
    sizes = batch.sizes.tolist()
    for index, (num, size, original) in enumerate(
        zip(found.num.tolist(), sizes, batch.original_sizes, strict=True)
    ):
        vertical, horizontal = original[0] / size[0], original[1] / size[1]
        ratio = found.boxes.new_tensor([horizontal, vertical, horizontal, vertical])
        result = {
            "boxes": found.boxes[index, :num] * ratio,
            "labels": found.labels[index, :num],
            "scores": found.scores[index, :num],
        }
        if found.masks is not None:
            masks = found.masks[index, :num, None]
            result["masks"] = paste_masks_in_image(masks, result["boxes"], original)
        results.append(result)
    return results


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
        self, backbone: PyramidBackbone, num_classes: int, normalize: Normalization
    ) -> Detector:
        """The detector around `backbone`, which sees what `normalize` makes of images."""

    def build(
        self,
        body: nn.Module,
        num_classes: int,
        *,
        image_mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        image_std: tuple[float, ...] = (0.229, 0.224, 0.225),
        backbone_name: str = "backbone",
    ) -> Detector:
        """A detector of `num_classes` object classes (background not counted) on a timm network.

        `body` is what `timm.create_model(name, features_only=True)` returns. The model takes a
        `Batch`, as `detnet.detection.collate` makes it of images. In training mode it gives the
        losses by name; else each image's detections in its own pixels, as torchvision's detectors
        do. Labels run from 1 to `num_classes`.

        Raises ValueError that names the field for stages or levels the backbone does not have.
        """
        self.check()
        features = FeatureExtractor(body, backbone_name)
        if self.freeze is not None:
            features.freeze(self.freeze)
        backbone = PyramidBackbone(features, self._pyramid(features))
        return self.assemble(backbone, num_classes, Normalization(image_mean, image_std))

    def check(self) -> None:
        """Raises ValueError that names the field and the remedy."""
        if self.extra_levels not in EXTRA_LEVELS:
            raise ValueError(
                f"detector.extra_levels={self.extra_levels!r}: choose one of "
                f"{', '.join(EXTRA_LEVELS)}"
            )
        for name in (f.name for f in fields(self) if f.type is int):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MAX_NUMBER:
                raise ValueError(
                    f"detector.{name}={value!r}: give a positive whole number up to {MAX_NUMBER}"
                )
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

    def anchors(self, pyramid: Pyramid) -> Anchors:
        """Anchors of every level, whose size follows from the level's order, not its stride."""
        scales = [2 ** (index / self.num_anchor_scales) for index in range(self.num_anchor_scales)]
        sizes = [
            [int(self.anchor_size * 2**order * scale) for scale in scales]
            for order in range(len(pyramid.levels))
        ]
        return Anchors(sizes, self.anchor_ratios)

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

"""From a RunConfig to the detector it describes."""

from typing import Any

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

import detnet
from ablations.config import PRETRAINED, SCRATCH, RunConfig, TimmBackbone
from detnet.spec import BackboneSpec


def build_classifier(backbone: TimmBackbone) -> nn.Module:
    """A timm backbone as its classifier, which is what its cost is told of."""
    return _create(backbone)


def _create(backbone: TimmBackbone, **arguments: Any) -> nn.Module:
    if backbone.output_stride is not None:
        arguments["output_stride"] = backbone.output_stride
    model = timm.create_model(backbone.name, **arguments)
    return freeze_batch_norm_2d(model) if backbone.norm == "frozen_batch" else model


def build_body(config: RunConfig) -> nn.Module:
    """The run's backbone as a timm feature network, with its weights loaded."""
    backbone = config.backbone
    arguments: dict[str, Any] = {"features_only": True, "pretrained": config.weights != SCRATCH}
    if config.weights not in (SCRATCH, PRETRAINED):
        arguments["pretrained_cfg_overlay"] = {"file": config.weights}
    if isinstance(backbone, BackboneSpec):
        return detnet.create_from_spec(backbone, **arguments)
    if backbone.out_indices is not None:
        arguments["out_indices"] = backbone.out_indices
    return _create(backbone, **arguments)


def build_model(config: RunConfig, num_classes: int) -> nn.Module:
    """The run's detector for `num_classes` object classes, on the CPU.

    Channels come last in memory, which convolutions on CPUs and tensor cores prefer.
    """
    name, normalization = "backbone", {}
    if isinstance(config.backbone, TimmBackbone):
        name = config.backbone.name
        if (published := timm.get_pretrained_cfg(name)) is not None:
            normalization = {"image_mean": published.mean, "image_std": published.std}
    model = config.detector.build(
        build_body(config),
        num_classes,
        short_side=list(config.protocol.short_side),
        long_side=config.protocol.long_side,
        backbone_name=name,
        **normalization,
    )
    return model.to(memory_format=torch.channels_last)

import pytest
import timm
import torch

from ablations.config import JobConfig, ProtocolConfig, RunConfig, TimmBackbone
from ablations.data import GlyphsData
from ablations.planning import backbone_cost
from ablations.tasks.detection import build_model
from detnet import ZOO
from detnet.detection import FasterRCNNSpec


def config(**backbone):
    return RunConfig(
        backbone=TimmBackbone(name="resnet18", **backbone),
        detector=FasterRCNNSpec(channels=16, box_head_channels=16),
        data=GlyphsData(),
        protocol=ProtocolConfig(name="test"),
        job=JobConfig(),
    )


def test_a_timm_backbones_cost_is_told_of_the_network_that_is_built():
    natural, dense = backbone_cost(config()), backbone_cost(config(output_stride=16))
    assert natural["params"] == sum(p.numel() for p in timm.create_model("resnet18").parameters())
    assert dense["params"] == natural["params"]
    assert dense["macs"] > natural["macs"]


def test_a_timm_backbone_takes_the_fields_given():
    model = build_model(config(output_stride=16, norm="frozen_batch"), 3)
    assert model.backbone.features.strides["c5"] == 16
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_a_timm_backbone_is_normalized_as_it_was_trained():
    run = config()
    run.backbone = TimmBackbone(name="tf_efficientnet_lite0")
    normalize = build_model(run, 3).normalize
    # Inception's, as timm's configuration says; most others have ImageNet's
    assert normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert normalize.std.flatten().tolist() == [0.5, 0.5, 0.5]
    run.backbone = ZOO["detnet_atto"]
    mean = build_model(run, 3).normalize.mean.flatten()
    assert mean.tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_channels_come_last_in_memory():
    weights = [p for p in build_model(config(), 3).parameters() if p.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not all(weight.is_contiguous() for weight in weights)

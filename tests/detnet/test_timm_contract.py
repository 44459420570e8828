"""What timm and its users rely on, of every name of the zoo.

Built an eighth as wide and two blocks a stage at most, which changes neither a block's geometry nor
the interface; what a name says of its full size is read on the meta device. timm's own suite runs
in test_timm_suite.
"""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from detnet import ZOO, DetNet

NAMES = list(ZOO)
SIZE = 64
IMAGES = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def narrow(name: str, **arguments: Any) -> Any:
    """The small network in evaluation mode, with residual branches that count."""
    torch.manual_seed(0)
    stages = {c: {"depth": min(stage.depth, 2)} for c, stage in ZOO[name].stages.items()}
    small = {"width_multiplier": 0.125, "stages": stages, "zero_init_last": False}
    return timm.create_model(name, **small, **arguments).eval()


def full(name: str, **arguments: Any) -> Any:
    return timm.create_model(name, device="meta", **arguments).eval()


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


# What a name says of itself


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_is_that_of_the_network(name: str) -> None:
    model, cfg = full(name), timm.get_pretrained_cfg(name)
    assert cfg.architecture == name
    weights = model.state_dict()
    first, classifier = weights[f"{cfg.first_conv}.weight"], weights[f"{cfg.classifier}.weight"]
    assert first.shape[1] == cfg.input_size[0]
    assert classifier.shape == (cfg.num_classes, model.num_features)
    image = torch.empty(1, *cfg.input_size, device="meta")
    features = model.forward_features(image)
    assert features.shape == (1, model.num_features, *cfg.pool_size)
    assert model(image).shape == (1, cfg.num_classes)


@pytest.mark.parametrize("name", NAMES)
def test_there_are_no_published_weights_and_timm_says_so(name: str) -> None:
    assert not timm.models.is_model_pretrained(name)
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        narrow(name, pretrained=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_as_its_stage_says(name: str) -> None:
    """timm's own suite notices neither a lost dilation nor a lost projection."""
    model, spec = full(name), ZOO[name]
    for number, stage in enumerate(spec.stages.values(), start=1):
        blocks = list(model.get_submodule(f"layer{number}"))
        assert len(blocks) == stage.depth
        for index, block in enumerate(blocks):
            stride = stage.stride if index == 0 else 1
            strides = (stride, 1) if spec.stride_on == "1x1" else (1, stride)
            assert (block.conv1.stride[0], block.conv2.stride[0]) == strides
            assert block.conv2.dilation == (stage.dilation, stage.dilation)
            assert (block.downsample is not None) == (stage.projection and index == 0)


# Outputs


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_the_heads_of_the_features(name: str) -> None:
    model = narrow(name, num_classes=7)
    features = model.forward_features(IMAGES)
    assert model(IMAGES).shape == (2, 7)
    assert torch.equal(model.forward_head(features), model(IMAGES))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    assert torch.allclose(pooled, features.mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_that_feature_info_describes(name: str) -> None:
    model, features = narrow(name), narrow(name, features_only=True)
    info = features.feature_info
    assert len(info) == 1 + len(ZOO[name].stages)  # all: the stem's and every stage's
    assert info.module_name() == [i["module"] for i in model.feature_info]
    maps = features(IMAGES)
    assert [m.shape[1] for m in maps] == info.channels()
    assert [SIZE // m.shape[2] for m in maps] == info.reduction() == sorted(info.reduction())
    final, intermediates = model.forward_intermediates(IMAGES)
    assert equal(maps, intermediates)
    assert torch.equal(final, maps[-1])
    assert torch.equal(final, model.forward_features(IMAGES))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_output_stride_is_that_of_the_last_map(name: str, output_stride: int) -> None:
    features = narrow(name, features_only=True, output_stride=output_stride)
    maps = features(IMAGES)
    assert max(features.feature_info.reduction()) == output_stride
    assert [SIZE // m.shape[2] for m in maps] == features.feature_info.reduction()


@pytest.mark.parametrize("name", NAMES)
def test_other_inputs_and_heads_are_arguments(name: str) -> None:
    bands = narrow(name, in_chans=5, num_classes=3, global_pool="catavgmax")
    assert bands(torch.rand(1, 5, SIZE, SIZE)).shape == (1, 3)
    assert bands.head_hidden_size == 2 * bands.num_features
    headless = narrow(name, num_classes=0)
    assert headless(IMAGES).shape == (2, headless.num_features)
    unpooled = narrow(name, num_classes=0, global_pool="")
    assert torch.equal(unpooled(IMAGES), unpooled.forward_features(IMAGES))
    with pytest.raises(TypeError, match="num_clases"):
        narrow(name, num_clases=3)


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_can_be_changed_and_taken_off(name: str) -> None:
    model = narrow(name)
    assert model.get_classifier() is model.get_submodule(model.get_classifier(name_only=True))
    model.reset_classifier(5)
    assert model(IMAGES).shape == (2, 5)
    assert (model.num_classes, model.get_classifier().out_features) == (5, 5)
    model.reset_classifier(0, "")
    assert torch.equal(model(IMAGES), model.forward_features(IMAGES))


@pytest.mark.parametrize("name", NAMES)
def test_pruning_ends_the_network_at_the_last_map_taken(name: str) -> None:
    model = narrow(name)
    expected = model.forward_intermediates(IMAGES, [1, 2], intermediates_only=True)
    assert model.prune_intermediate_layers([1, 2]) == [1, 2]
    assert equal(model.forward_intermediates(IMAGES, [1, 2], intermediates_only=True), expected)
    assert torch.equal(model(IMAGES), expected[-1])
    assert model.num_features == expected[-1].shape[1]
    assert not [n for n, _ in model.named_parameters() if n.startswith(("layer3", "fc"))]


# Training


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name: str) -> None:
    model = narrow(name).train()
    model(IMAGES).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_gradients_changes_no_output(name: str) -> None:
    model = narrow(name).train()
    torch.manual_seed(1)
    expected = model(IMAGES)
    model.set_grad_checkpointing()
    assert torch.equal(model(IMAGES), expected)


@pytest.mark.parametrize("name", NAMES)
def test_regularization_acts_in_training_only(name: str) -> None:
    model = narrow(name, drop_path_rate=0.5, drop_rate=0.5)
    assert torch.equal(model(IMAGES), narrow(name)(IMAGES))
    model.train()
    assert not torch.equal(model.forward_features(IMAGES), model.forward_features(IMAGES))
    pooled = model.forward_head(torch.ones(1, model.num_features, 1, 1), pre_logits=True)
    assert set(pooled.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_other_kinds_are_arguments(name: str) -> None:
    model = narrow(name, act_layer="silu", norm_layer="layernorm2d")
    layers = list(model.modules())
    assert not [m for m in layers if isinstance(m, nn.ReLU | nn.BatchNorm2d)]
    assert [m for m in layers if isinstance(m, nn.SiLU)]
    assert model(IMAGES).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_fall_into_groups_from_stem_to_head(name: str) -> None:
    model = full(name)
    num_blocks = sum(stage.depth for stage in ZOO[name].stages.values())
    for coarse, num_groups in ((True, 2 + len(ZOO[name].stages)), (False, 2 + num_blocks)):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse=coarse))
        assert len(groups) == num_groups
        assert sum(map(len, groups.values())) == len(list(model.parameters()))


# Weights, and other ways to run


@pytest.mark.parametrize("name", NAMES)
def test_weights_saved_by_timm_come_back_under_the_name(name: str, tmp_path: Path) -> None:
    model = narrow(name, num_classes=3)
    save_for_hf(model, tmp_path)
    restored = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert isinstance(restored, DetNet)
    assert restored.pretrained_cfg["architecture"] == name
    assert torch.equal(restored(IMAGES), model(IMAGES))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name: str) -> None:
    assert narrow(name, dtype=torch.bfloat16)(IMAGES.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_it_computes_the_same(name: str) -> None:
    model = narrow(name)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(model)(IMAGES), model(IMAGES))


@pytest.mark.parametrize("name", NAMES)
def test_traced_symbolically_it_gives_the_same_maps(name: str) -> None:
    traced = narrow(name, features_only=True, feature_cls="fx")
    assert equal(list(traced(IMAGES)), narrow(name, features_only=True)(IMAGES))

"""DetNet is what its spec says, computes what timm's and torchvision's ResNet compute, and has
timm's interface. The suite of timm itself runs in test_timm_suite."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import DropPath, freeze_batch_norm_2d
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import nn

from detnet import ZOO, BackboneSpec, DetNet, create_from_spec
from detnet.blocks import Bottleneck

ATTO = ZOO["detnet_atto"]


def randomized(model: nn.Module) -> nn.Module:
    """Weights and norm statistics away from their initial values, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            tensor.uniform_(-0.2, 0.2, generator=generator)
        elif tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def image(*shape: int) -> torch.Tensor:
    return torch.rand(*(shape or (2, 3, 64, 64)), generator=torch.Generator().manual_seed(1))


def build(**kwargs: Any) -> DetNet:
    model = timm.create_model("detnet_atto", **kwargs)
    assert isinstance(model, DetNet)
    return model


def bottlenecks(model: nn.Module) -> list[Bottleneck]:
    return [module for module in model.modules() if isinstance(module, Bottleneck)]


# Numbers: timm's and torchvision's ResNet are the oracle


def test_resnet50_equals_timms_at_every_level() -> None:
    torch.manual_seed(0)
    reference = randomized(timm.create_model("resnet50"))
    ours = create_from_spec(ZOO["detnet_resnet50"].override(stride_on="3x3")).eval()
    ours.load_state_dict(reference.state_dict())
    x = image(1, 3, 96, 64)
    with torch.no_grad():
        final, maps = ours.forward_intermediates(x)
        expected_final, expected_maps = reference.forward_intermediates(x)
        for level, expected in zip([*maps, final], [*expected_maps, expected_final], strict=True):
            assert torch.equal(level, expected)
        assert torch.equal(ours(x), reference(x))


def resnet_of_basic_blocks(*depths: int) -> BackboneSpec:
    stages = {f"c{k}": {"depth": d, "block": "basic"} for k, d in enumerate(depths, start=2)}
    return ZOO["detnet_resnet50"].override(stages=stages)


@pytest.mark.parametrize(
    ("name", "depths", "depth"), [("resnet18", (2, 2, 2, 2), 18), ("resnet34", (3, 4, 6, 3), 34)]
)
def test_a_resnet_of_basic_blocks_equals_timms_at_every_level(
    name: str, depths: tuple[int, ...], depth: int
) -> None:
    torch.manual_seed(0)
    reference = randomized(timm.create_model(name))
    # timm's first stage, whose shapes agree, has no projection
    spec = resnet_of_basic_blocks(*depths).override(stages={"c2": {"projection": False}})
    ours = create_from_spec(spec).eval()
    ours.load_state_dict(reference.state_dict())
    x = image(1, 3, 96, 64)
    with torch.no_grad():
        maps = ours.forward_intermediates(x, intermediates_only=True)
        expected = reference.forward_intermediates(x, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
        assert torch.equal(ours(x), reference(x))
    assert spec.depth == depth


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_output_stride_of_basic_blocks_equals_timms(output_stride: int) -> None:
    torch.manual_seed(0)
    reference = randomized(TimmResNet(TimmBasicBlock, (2, 2, 2, 2), output_stride=output_stride))
    spec = resnet_of_basic_blocks(2, 2, 2, 2).override(
        stages={"c2": {"projection": False}}, output_stride=output_stride
    )
    ours = create_from_spec(spec).eval()
    ours.load_state_dict(reference.state_dict())
    with torch.no_grad():
        x = image(1, 3, 64, 64)
        assert torch.equal(ours.forward_features(x), reference.forward_features(x))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_output_stride_equals_timms(output_stride: int) -> None:
    torch.manual_seed(0)
    reference = randomized(TimmResNet(TimmBottleneck, (2, 2, 2, 2), output_stride=output_stride))
    depths = {name: {"depth": 2} for name in ("c2", "c3", "c4", "c5")}
    spec = ZOO["detnet_resnet50"].override(
        stages=depths, stride_on="3x3", output_stride=output_stride
    )
    ours = create_from_spec(spec).eval()
    ours.load_state_dict(reference.state_dict())
    with torch.no_grad():
        maps = ours.forward_intermediates(image(1, 3, 64, 64), intermediates_only=True)
        expected = reference.forward_intermediates(image(1, 3, 64, 64), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
    assert [i["reduction"] for i in ours.feature_info] == [
        i["reduction"] for i in reference.feature_info
    ]


def test_resnet50_equals_torchvisions_logits() -> None:
    torch.manual_seed(0)
    reference = randomized(torchvision.models.resnet50())
    ours = create_from_spec(ZOO["detnet_resnet50"].override(stride_on="3x3")).eval()
    ours.load_state_dict(reference.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(image(1, 3, 64, 64)), reference(image(1, 3, 64, 64)))


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@pytest.mark.parametrize("name", ["detnet17", "detnet_resnet14"])
def test_removed_strides_leave_the_function_on_the_coarse_grid(name: str, stride_on: str) -> None:
    """The algorithme a trous: every second position of the finer map is the coarser map's."""
    deeper = {"c4": {"depth": 2}, "c5": {"depth": 2}}
    spec = ZOO[name].override(stages=deeper, width_multiplier=0.125, stride_on=stride_on)
    torch.manual_seed(0)
    natural = randomized(create_from_spec(spec))
    x = image(1, 3, 64, 96)
    with torch.no_grad():
        coarse = natural.forward_features(x)
        for output_stride in (16, 8):
            finer = create_from_spec(spec.override(output_stride=output_stride)).eval()
            finer.load_state_dict(natural.state_dict())
            step = natural.feature_info[-1]["reduction"] // output_stride
            fine = finer.forward_features(x)[..., ::step, ::step]
            torch.testing.assert_close(fine, coarse)


# What the suite of timm does not notice


def test_a_stage_may_project_in_every_block() -> None:
    spec = ZOO["detnet59"].override(stages={"c6": {"project_every_block": True}})
    model = create_from_spec(spec, device="meta")
    projections = [
        [b.downsample is not None for b in stage] for stage in (model.layer4, model.layer5)
    ]
    assert projections == [[True, False, False], [True, True, True]]


def test_every_block_has_the_dilation_stride_and_projection_of_its_stage() -> None:
    model = create_from_spec(ZOO["detnet59"], device="meta")
    geometry = [
        [(b.conv2.dilation[0], b.conv1.stride[0], b.downsample is not None) for b in stage]
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4, model.layer5)
    ]
    block_b, block_a = (2, 1, True), (2, 1, False)
    assert geometry == [
        [(1, 1, True), (1, 1, False), (1, 1, False)],
        [(1, 2, True), *3 * [(1, 1, False)]],
        [(1, 2, True), *5 * [(1, 1, False)]],
        [block_b, block_a, block_a],
        [block_b, block_a, block_a],
    ]


def test_noproj_opens_c6_with_block_a() -> None:
    model = create_from_spec(ZOO["detnet59_noproj"], device="meta")
    assert model.layer4[0].downsample is not None
    assert model.layer5[0].downsample is None


def test_features_only_gives_the_stem_and_all_stages() -> None:
    model = timm.create_model("detnet_atto", features_only=True).eval()
    assert model.feature_info.reduction() == [2, 4, 8, 16, 16, 16]
    assert model.feature_info.channels() == [8, 32, 64, 128, 128, 128]
    maps = model(image())
    assert [tuple(m.shape[1:]) for m in maps] == [
        (8, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
        (128, 4, 4),
        (128, 4, 4),
    ]


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "fx", "getter"])
def test_every_feature_class_gives_the_same_maps(feature_cls: str) -> None:
    torch.manual_seed(0)
    model = build(zero_init_last=False).eval()
    torch.manual_seed(0)
    wrapper = timm.create_model(
        "detnet_atto", features_only=True, feature_cls=feature_cls, zero_init_last=False
    ).eval()
    maps = wrapper(image())
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    expected = model.forward_intermediates(image(), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


def test_out_indices_pick_stages_by_order() -> None:
    model = timm.create_model("detnet_atto", features_only=True, out_indices=(1, 4, -1)).eval()
    assert model.feature_info.module_name() == ["layer1", "layer4", "layer5"]
    assert len(model(image())) == 3


def test_drop_path_rate_grows_linearly_over_the_blocks() -> None:
    rates = [
        b.drop_path.drop_prob if isinstance(b.drop_path, DropPath) else 0.0
        for b in bottlenecks(build(drop_path_rate=0.4))
    ]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    torch.manual_seed(0)
    model = build(drop_path_rate=0.4, zero_init_last=False).train()
    x = image(8, 3, 32, 32)
    assert not torch.equal(model.forward_features(x), model.forward_features(x))
    model.eval()
    assert torch.equal(model.forward_features(x), model.forward_features(x))


def test_drop_rate_drops_before_the_classifier_in_training_only() -> None:
    model = build(drop_rate=0.5).train()
    pooled = model.forward_head(torch.ones(1, 128, 2, 2), pre_logits=True)
    assert set(pooled.unique().tolist()) == {0.0, 2.0}
    pooled = model.eval().forward_head(torch.ones(1, 128, 2, 2), pre_logits=True)
    assert set(pooled.unique().tolist()) == {1.0}


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"activation": "silu"}, nn.SiLU),
        ({"act_layer": "leaky_relu"}, nn.LeakyReLU),
        ({"act_layer": nn.ELU}, nn.ELU),
    ],
)
def test_activation_reaches_stem_and_blocks(kwargs: dict[str, Any], expected: type) -> None:
    model = build(**kwargs)
    acts = [model.act1, *(a for b in bottlenecks(model) for a in (b.act1, b.act2, b.act3))]
    assert all(isinstance(act, expected) for act in acts)
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    model(image()).sum().backward()  # in place as they are


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"norm": "group"}, nn.GroupNorm),
        ({"norm_layer": nn.InstanceNorm2d}, nn.InstanceNorm2d),
        ({"norm_layer": "layernorm2d"}, nn.LayerNorm),
    ],
)
def test_norm_reaches_stem_blocks_and_projections(kwargs: dict[str, Any], expected: type) -> None:
    model = build(**kwargs)
    norms = [model.bn1, *(n for b in bottlenecks(model) for n in (b.bn1, b.bn2, b.bn3))]
    norms += [b.downsample[1] for b in bottlenecks(model) if b.downsample is not None]
    assert all(isinstance(norm, expected) for norm in norms)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert model(image()).shape == (2, 1000)


def test_an_unknown_activation_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="activation: timm knows no 'rulu'; use"):
        build(activation="rulu")


def test_a_spec_that_does_not_check_is_refused() -> None:
    with pytest.raises(ValueError, match="at least c2"):
        DetNet(BackboneSpec())


# Initialization


@pytest.mark.parametrize("norm", ["batch", "frozen_batch", "group"])
def test_init_weights_reaches_every_parameter_and_buffer(norm: str) -> None:
    model = build(norm=norm, device="meta", dtype=torch.float64, num_classes=5)
    assert all(t.is_meta and t.dtype == torch.float64 for t in model.parameters())
    model = model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.fill_(float("nan"))
    model.init_weights()
    assert model(image().double()).isfinite().all()
    assert all(t.isfinite().all() for t in (*model.parameters(), *model.buffers()))
    assert model.bn1.weight.eq(1).all()


def test_zero_init_last_is_on_unless_turned_off() -> None:
    assert all(b.bn3.weight.eq(0).all() for b in bottlenecks(build()))
    assert all(b.bn3.weight.eq(1).all() for b in bottlenecks(build(zero_init_last=False)))
    frozen = build(norm="frozen_batch")
    assert all(b.bn3.weight.eq(1).all() for b in bottlenecks(frozen))


def test_dtype_can_change_after_a_forward() -> None:
    model = build().eval()
    model(image())
    assert model.to(torch.bfloat16)(image().bfloat16()).dtype == torch.bfloat16


# timm's interface


def test_frozen_batch_norm_equals_timms_freezing_of_batch_norm() -> None:
    torch.manual_seed(0)
    model = randomized(build())
    frozen = build(norm="frozen_batch").train()
    frozen.load_state_dict(model.state_dict())
    expected = freeze_batch_norm_2d(randomized(build())).train()
    expected.load_state_dict(model.state_dict())
    torch.testing.assert_close(frozen(image()), expected(image()))
    torch.testing.assert_close(frozen(image()), model(image()))
    norms = {k for k in frozen.state_dict() if "bn" in k or "downsample.1" in k}
    assert norms.isdisjoint(dict(frozen.named_parameters()))


@pytest.mark.parametrize("global_pool", ["avg", "max", "catavgmax"])
def test_reset_classifier_keeps_pooling_mode_dtype_and_training(global_pool: str) -> None:
    model = build(global_pool=global_pool).double().eval()
    model.reset_classifier(7)
    assert model(image().double()).shape == (2, 7)
    assert model.global_pool.pool_type == global_pool
    assert model.head_hidden_size == 128 * (2 if global_pool == "catavgmax" else 1)
    assert not model.fc.training
    model.reset_classifier(0, "")
    assert model(image().double()).shape == (2, 128, 4, 4)
    assert model.num_classes == 0


def test_get_classifier() -> None:
    model = build()
    assert model.get_classifier() is model.fc
    assert model.get_classifier(name_only=True) == "fc"


def test_forward_is_head_after_features() -> None:
    model = build().eval()
    assert torch.equal(model(image()), model.forward_head(model.forward_features(image())))


@pytest.mark.parametrize(("coarse", "num_groups"), [(True, 7), (False, 7)])
def test_group_matcher_orders_stem_stages_and_head(coarse: bool, num_groups: int) -> None:
    groups = timm.models.group_parameters(build(), build().group_matcher(coarse=coarse))
    assert len(groups) == num_groups  # one block a stage: stem, c2..c6, head either way
    assert "conv1.weight" in groups[0]
    assert "fc.weight" in groups[num_groups - 1]
    fine = create_from_spec(ZOO["detnet59"], device="meta")
    assert len(timm.models.group_parameters(fine, fine.group_matcher())) == 1 + 19 + 1


def test_gradient_checkpointing_changes_neither_output_nor_gradient() -> None:
    torch.manual_seed(0)
    plain = randomized(build(num_classes=3)).train()
    checkpointed = build(num_classes=3).train()
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.set_grad_checkpointing()
    for model in (plain, checkpointed):
        model(image()).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_forward_intermediates_takes_last_n_negatives_and_stops_early() -> None:
    model = build().eval()
    final, maps = model.forward_intermediates(image(), indices=2)
    assert torch.equal(final, maps[-1])
    assert len(maps) == 2
    ran = []
    model.layer4.register_forward_hook(lambda *_: ran.append("layer4"))
    early = model.forward_intermediates(
        image(), indices=[0, -4], stop_early=True, intermediates_only=True
    )
    assert [tuple(m.shape[1:]) for m in early] == [(8, 32, 32), (64, 8, 8)]
    assert not ran


def test_pruning_leaves_no_unused_parameter() -> None:
    model = build().train()
    assert model.prune_intermediate_layers([1, 3]) == [1, 3]
    maps = model.forward_intermediates(image(), [1, 3], intermediates_only=True)
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.num_features == 128
    assert model(image()).shape == (2, 128, 4, 4)
    stem = build()
    stem.prune_intermediate_layers([0])
    assert stem(image()).shape == (2, 8, 32, 32)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_equals_eager() -> None:
    model = randomized(build(stages={"c7": {"depth": 2, "width": 64}}))
    assert torch.equal(torch.jit.script(model)(image()), model(image()))
    getter = timm.create_model("detnet_atto", features_only=True, feature_cls="getter").eval()
    for scripted, expected in zip(torch.jit.script(getter)(image()), getter(image()), strict=True):
        assert torch.equal(scripted, expected)


def test_export_takes_other_sizes() -> None:
    model = create_from_spec(ATTO, features_only=True).eval()
    batch, height, width = (torch.export.Dim(name, min=2) for name in ("batch", "h", "w"))
    program = torch.export.export(
        model, (image(2, 3, 64, 96),), dynamic_shapes=({0: batch, 2: 16 * height, 3: 16 * width},)
    ).module()
    other = image(3, 3, 96, 32)
    for exported, expected in zip(program(other), model(other), strict=True):
        torch.testing.assert_close(exported, expected)

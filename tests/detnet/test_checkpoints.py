"""Weights load from local files by timm's own route; what does not fit is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from detnet import ZOO, DetNet, create_from_spec
from detnet.checkpoints import checkpoint_filter_fn, stride_note
from detnet.detection import FasterRCNNSpec

TINY = ZOO["detnet_atto"].override(stride_on="3x3")
X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    return _used(timm.create_model("resnet50"))


@pytest.fixture(scope="module")
def resnet50_file(resnet50: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    save_file(resnet50.state_dict(), path)
    return path


def _used(model: nn.Module) -> nn.Module:
    """As if trained: norm statistics and residual scales away from their initial values."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_var", "bn3.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            tensor.uniform_(-0.2, 0.2, generator=generator)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
    return model.eval()


def tiny(**kwargs: Any) -> DetNet:
    return create_from_spec(TINY, **kwargs).eval()


def saved(path: Path, state: Any) -> dict[str, Any]:
    """Arguments with which timm loads `state` from a file."""
    torch.save(state, path)
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}


def community_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of ruoqianguo/DetNet_pytorch: projections of its stages 5, 6 are `extra_conv`."""
    renamed = {}
    for name, weight in state.items():
        if name.startswith(("layer4", "layer5")):
            name = name.replace("downsample", "extra_conv")
        renamed[name] = weight
    assert sum("extra_conv" in name for name in renamed) == 12
    return renamed


def detector_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same inside its Faster R-CNN, which has no classifier."""
    renamed = {}
    for name, weight in community_layout(state).items():
        part, rest = name.split(".", 1)
        place = {"conv1": "RCNN_layer0.0", "bn1": "RCNN_layer0.1", "fc": None}.get(
            part, f"RCNN_{part}.0"
        )
        if place:
            renamed[f"{place}.{rest}"] = weight
    renamed["RCNN_toplayer.weight"] = torch.zeros(8, 128, 1, 1)
    renamed["RCNN_rpn.RPN_Conv.bias"] = torch.zeros(8)
    return renamed


# Our own


def test_native_weights_pass_unchanged() -> None:
    state = tiny().state_dict()
    filtered = checkpoint_filter_fn(state, tiny())
    assert filtered.keys() == state.keys()
    assert all(filtered[name] is state[name] for name in state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": weight for name, weight in state.items()}},
    ],
)
def test_native_weights_load_from_a_file(tmp_path: Path, wrap: Any) -> None:
    source = _used(tiny())
    model = tiny(**saved(tmp_path / "detnet.pth", wrap(source.state_dict())))
    assert torch.equal(model(X), source(X))


def test_the_filter_unwraps_what_timm_has_not() -> None:
    source = tiny().state_dict()
    wrapped = {"model": {f"module.{name}": weight for name, weight in source.items()}, "epoch": 3}
    assert checkpoint_filter_fn(wrapped, tiny()).keys() == source.keys()


def test_only_weights_are_read_from_a_file(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        tiny(**saved(tmp_path / "bad.pth", {"state_dict": tiny().state_dict(), "x": Payload()}))
    assert not mark.exists()


def test_batch_norm_weights_load_into_frozen_batch_norm(tmp_path: Path) -> None:
    source = _used(tiny())
    spec = TINY.override(norm="frozen_batch")
    frozen = create_from_spec(spec, **saved(tmp_path / "w.pth", source.state_dict())).train()
    torch.testing.assert_close(frozen(X), source(X))


# The community's DetNet-59


@pytest.mark.parametrize("counters", [True, False])
def test_community_classifier_loads(tmp_path: Path, counters: bool) -> None:
    source = _used(tiny())
    state = community_layout(source.state_dict())
    if not counters:  # files older than torch 0.4 have none
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    model = tiny(**saved(tmp_path / "detnet59.pth", state))
    assert torch.equal(model(X), source(X))


def test_community_detector_gives_its_backbone(tmp_path: Path) -> None:
    source = _used(tiny())
    kwargs = saved(tmp_path / "fpn.pth", {"model": detector_layout(source.state_dict())})
    maps = tiny(features_only=True, **kwargs)(X)
    expected = source.forward_intermediates(X, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
    headless = tiny(num_classes=0, **kwargs)
    assert torch.equal(headless(X), source.forward_head(source.forward_features(X), True))


def test_community_detector_has_no_classifier_to_give(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Missing key.*fc\.weight"):
        tiny(**saved(tmp_path / "fpn.pth", detector_layout(tiny().state_dict())))


# ResNet-50


def test_resnet50_fills_stem_to_c4_and_says_so(
    resnet50: nn.Module, resnet50_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="detnet.checkpoints"):
        model = timm.create_model(
            "detnet59b", pretrained=True, pretrained_cfg_overlay={"file": str(resnet50_file)}
        ).eval()
    maps = model.forward_intermediates(X, intermediates_only=True)
    expected = resnet50.forward_intermediates(X, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps[:4], expected[:4], strict=True))
    # the groups stay new as a whole, counters and classifier bias too, although those would fit
    assert model.layer4[0].bn1.num_batches_tracked == 0
    assert model.layer4[0].bn3.weight.eq(0).all()
    assert not torch.equal(model.fc.bias, resnet50.fc.bias)
    assert [record.getMessage() for record in caplog.records] == [
        "loaded stem, c2, c3, c4 (258 tensors); "
        "c5, c6, classifier (122 tensors) stay newly initialized"
    ]


def test_resnet50_loads_with_other_inputs_classes_and_as_features(
    resnet50: nn.Module, resnet50_file: Path
) -> None:
    file = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(resnet50_file)}}
    other = timm.create_model("detnet59b", in_chans=1, num_classes=5, **file).eval()
    assert other(X[:, :1]).shape == (1, 5)
    # timm's rule for one channel: the sum over the three
    gray = X[:, :1].expand(-1, 3, -1, -1)
    expected = resnet50.forward_intermediates(gray, [3], intermediates_only=True)[0]
    actual = other.forward_intermediates(X[:, :1], [3], intermediates_only=True)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    features = timm.create_model("detnet59b", features_only=True, out_indices=(3, 5), **file)
    expected = resnet50.forward_intermediates(X, [3], intermediates_only=True)[0]
    assert torch.equal(features.eval()(X)[0], expected)


@pytest.mark.parametrize("name", ["detnet_resnet50", "detnet_resnet50_dilated"])
def test_resnet50_fills_our_resnet50_fully(name: str, resnet50: nn.Module) -> None:
    model = create_from_spec(ZOO[name].override(stride_on="3x3"))
    model.load_state_dict(checkpoint_filter_fn(resnet50.state_dict(), model))
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in resnet50.state_dict().items())


def test_resnet50_fills_a_net_that_ends_at_c4(resnet50: nn.Module) -> None:
    spec = ZOO["detnet59b"].override(stages={"c5": None, "c6": None})
    model = create_from_spec(spec).eval()
    model.load_state_dict(checkpoint_filter_fn(resnet50.state_dict(), model))
    expected = resnet50.forward_intermediates(X, [3], intermediates_only=True)[0]
    assert torch.equal(model.forward_features(X), expected)


# Where the network strides that the weights come from


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage()
        for r in caplog.records
        if r.name == "detnet.checkpoints" and r.levelno == logging.WARNING
    ]


@pytest.mark.parametrize("name", ["detnet59", "detnet_resnet50"])
def test_weights_from_elsewhere_may_stride_elsewhere(
    name: str, resnet50_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overlay = {"file": str(resnet50_file)}
    timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    (warning,) = warnings_of(caplog)
    assert "may come from a network that strides elsewhere" in warning
    assert "build it with stride_on='3x3'" in warning


@pytest.mark.parametrize("name", ["detnet59b", "detnet_resnet50b"])
def test_the_members_for_the_weights_in_the_wild_compute_the_same_and_load_quietly(
    name: str, resnet50: nn.Module, resnet50_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overlay = {"file": str(resnet50_file)}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    maps = model.forward_intermediates(X, intermediates_only=True)
    expected = resnet50.forward_intermediates(X, intermediates_only=True)
    shared = 4 if name == "detnet59b" else 5
    assert all(torch.equal(a, b) for a, b in zip(maps[:shared], expected[:shared], strict=True))
    assert not warnings_of(caplog)


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "step": 3}])
def test_own_weights_load_without_a_word_of_stride(
    tmp_path: Path, stride_on: str, wrap: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spec = TINY.override(stride_on=stride_on)
    state = create_from_spec(spec).state_dict()
    create_from_spec(spec, **saved(tmp_path / "own.pth", wrap(state)))
    checkpoint_filter_fn(state, create_from_spec(spec))
    assert not warnings_of(caplog)


@pytest.mark.parametrize(("theirs", "ours"), [("1x1", "3x3"), ("3x3", "1x1")])
def test_own_weights_of_the_other_convention_are_told_of_for_certain(
    tmp_path: Path, theirs: str, ours: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = create_from_spec(TINY.override(stride_on=theirs)).state_dict()
    create_from_spec(TINY.override(stride_on=ours), **saved(tmp_path / "own.pth", state))
    (warning,) = warnings_of(caplog)
    assert f"strides on the {theirs} convolution, the model strides on the {ours}" in warning
    assert "layer2.0, layer3.0" in warning
    assert f"stride_on='{theirs}'" in warning


def test_an_exported_folder_comes_back_without_a_word_of_stride(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_for_hf(create_from_spec(ZOO["detnet_atto"]), tmp_path)
    timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert not warnings_of(caplog)


def test_a_network_that_strides_nowhere_on_a_1x1_has_nothing_to_warn_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    basic = {name: {"block": "basic"} for name in ("c2", "c3", "c4")}
    spec = ZOO["detnet_atto"].override(stages=basic)
    state = dict(create_from_spec(spec).state_dict())  # without what says where it strides
    checkpoint_filter_fn(state, create_from_spec(spec))
    assert not warnings_of(caplog)


# What is around a backbone


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"model.{name}": w for name, w in state.items()},
        lambda state: {f"module.model.{name}": w for name, w in state.items()},
        lambda state: {f"backbone.{name}": w for name, w in state.items()},
        lambda state: {"state_dict": {f"backbone.body.{name}": w for name, w in state.items()}},
        lambda state: {"teacher": {f"module.backbone.{name}": w for name, w in state.items()}},
        lambda state: {f"teacher.backbone.{name}": w for name, w in state.items()},
        lambda state: {
            **{f"backbone.{name}": w for name, w in state.items()},
            "rpn.head.conv.weight": torch.zeros(3),
            "roi_heads.layer1.0.conv1.weight": torch.zeros(3),
        },
    ],
)
def test_known_prefixes_are_taken_off(tmp_path: Path, wrap: Any) -> None:
    source = _used(tiny())
    model = tiny(**saved(tmp_path / "w.pth", wrap(dict(source.state_dict()))))
    assert torch.equal(model(X), source(X))


def test_a_detector_of_this_project_gives_its_backbone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = TINY.override(stride_on="1x1")
    body = create_from_spec(spec, features_only=True)
    trained = _used(FasterRCNNSpec(channels=8, box_head_channels=8).build(body, 2))
    file = saved(tmp_path / "checkpoint.pt", {"model": trained.state_dict(), "step": 3})
    model = create_from_spec(spec, features_only=True, **file).eval()
    assert all(torch.equal(a, b) for a, b in zip(model(X), body(X), strict=True))
    assert not warnings_of(caplog)


def test_an_unknown_prefix_is_told_by_the_files_own_keys(tmp_path: Path) -> None:
    state = {f"encoder_q.{name}": w for name, w in tiny().state_dict().items()}
    with pytest.raises(
        ValueError, match=r"first keys are encoder_q\.conv1\.weight, encoder_q"
    ) as e:
        tiny(**saved(tmp_path / "w.pth", state))
    assert "rename its weights to the model's, the stem's being conv1.weight" in str(e.value)


# What does not fit


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ({"width_multiplier": 0.25}, r"conv1.weight: checkpoint 8x7x7, model 16x7x7"),
        ({"stages": {"c6": {"projection": False}}}, r"layer5.0.downsample.0.weight: .* absent"),
        ({"stages": {"c3": {"depth": 2}}}, r"layer2.1.conv1.weight: checkpoint absent, model"),
        ({"stages": {"c5": {"depth": 2}}}, r"layer4.1.conv1.weight: checkpoint absent, model"),
        ({"norm": "group"}, r"bn1.running_mean: checkpoint 8, model absent"),
    ],
)
@pytest.mark.parametrize("num_classes", [1000, 5])
def test_weights_of_another_architecture_are_refused(
    tmp_path: Path, override: dict, named: str, num_classes: int
) -> None:
    kwargs = saved(tmp_path / "w.pth", tiny().state_dict())
    with pytest.raises(ValueError, match=named) as error:
        create_from_spec(TINY.override(**override), num_classes=num_classes, **kwargs)
    assert "build the model with the checkpoint's stages, widths and norm" in str(error.value)


@pytest.mark.parametrize("name", ["detnet17", "detnet_atto"])
def test_resnet50_is_refused_where_depth_or_width_differ(
    name: str, resnet50: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    model = timm.create_model(name)
    with (
        caplog.at_level(logging.INFO, logger="detnet.checkpoints"),
        pytest.raises(ValueError, match="does not fit the model"),
    ):
        checkpoint_filter_fn(resnet50.state_dict(), model)
    assert not caplog.records  # nothing was loaded, so nothing is said to be


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("layer3.0.bn2.bias"),
        lambda state: state.update({"layer9.weight": torch.zeros(2)}),
        lambda state: state.update({"bn1.weight": torch.ones(3)}),
    ],
)
def test_a_single_misfit_is_refused(change: Any) -> None:
    state = dict(tiny().state_dict())
    change(state)
    with pytest.raises(ValueError, match="does not fit the model, number of misfits: 1"):
        checkpoint_filter_fn(state, tiny())


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("layer1.0.conv1.weight", lambda w: (w * 100).to(torch.int8), "no floating-point numbers"),
        ("layer1.0.conv1.weight", lambda w: w.to(torch.complex64), "no floating-point numbers"),
        ("layer1.0.bn1.running_var", lambda w: w - 2, "negative variances"),
    ],
)
def test_values_that_are_no_weights_are_refused(tmp_path, name, spoil, message):
    state = timm.create_model("detnet_atto").state_dict()
    torch.save({**state, name: spoil(state[name])}, tmp_path / "spoilt.pth")
    with pytest.raises(ValueError, match=f"{message} in {name}:"):
        timm.create_model(
            "detnet_atto",
            pretrained=True,
            pretrained_cfg_overlay={"file": str(tmp_path / "spoilt.pth")},
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "bn1.running_var", "fc.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float) -> None:
    state = dict(tiny().state_dict())
    state[name] = state[name].clone()
    state[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"NaN or infinite values in {name}:"):
        checkpoint_filter_fn(state, tiny())


def test_activations_with_weights_load_too() -> None:
    spec = TINY.override(activation="prelu")
    model = create_from_spec(spec)
    assert "act1.weight" in checkpoint_filter_fn(model.state_dict(), create_from_spec(spec))


def test_something_else_altogether_is_refused() -> None:
    with pytest.raises(ValueError, match=r"conv1\.weight: checkpoint absent"):
        checkpoint_filter_fn({"optimizer": {}, "epoch": 3}, tiny())


def test_a_safetensors_file_says_where_its_network_strides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "atto.safetensors"
    model = timm.create_model("detnet_atto", num_classes=3)

    def warnings_loading(stride_on: str) -> list[str]:
        caplog.clear()
        overlay = {"file": str(file), "num_classes": 3}
        timm.create_model(
            "detnet_atto", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3,
            stride_on=stride_on,
        )  # fmt: skip
        return warnings_of(caplog)

    save_file(model.state_dict(), file, metadata=stride_note(model))
    assert warnings_loading("1x1") == []
    (told,) = warnings_loading("3x3")
    assert "come from a network that strides on the 1x1" in told
    save_file(model.state_dict(), file)  # no note: it can only be said that it may be so
    (told,) = warnings_loading("1x1")
    assert "may come from a network that strides elsewhere" in told
    assert stride_note(timm.create_model("test_resnet")) == {}

"""Every row of the ZOO is a timm model that takes overrides in the spec's words."""

import json
import random
import re
from pathlib import Path

import pytest
import timm
import timm.models
import torch
from timm.models import save_for_hf

from detnet import ZOO, BackboneSpec, DetNet, StageSpec, create_from_spec
from detnet.spec import BLOCKS, NORMS, STRIDE_ON


def test_names_are_not_timms_own() -> None:
    assert hasattr(timm.models, "resnet50")  # so would be any name of timm's own
    assert not [name for name in ZOO if hasattr(timm.models, name)]


def test_names_are_listed() -> None:
    assert set(ZOO) <= set(timm.list_models("detnet*"))


@pytest.mark.parametrize("name", ZOO)
def test_every_row_checks_and_builds(name: str) -> None:
    ZOO[name].check()
    model = timm.create_model(name, device="meta")
    assert isinstance(model, DetNet)
    assert model.spec == ZOO[name]
    image = torch.empty(1, 3, *model.default_cfg["input_size"][1:], device="meta")
    assert model.forward_features(image).shape[2:] == model.default_cfg["pool_size"]
    assert model(image).shape == (1, 1000)


def test_one_convention_but_for_the_members_that_take_the_weights_in_the_wild() -> None:
    assert {spec.stride_convention for spec in ZOO.values()} == {"1x1", "3x3"}
    twins = {n: re.sub(r"\d+b", lambda m: m[0][:-1], n) for n in ZOO if re.search(r"\d+b", n)}
    assert {n for n, spec in ZOO.items() if spec.stride_convention == "3x3"} == set(twins)
    for name, twin in twins.items():
        assert ZOO[name] == ZOO[twin].override(stride_on="3x3")
    resnets = {n for n in ZOO if n.startswith("detnet_resnet")} - set(twins)
    assert resnets <= set(twins.values())


def test_create_model_takes_the_words_of_the_spec() -> None:
    model = timm.create_model(
        "detnet59",
        stages={"c2": {"depth": 1}, "c5": {"dilation": 4}, "c6": {"projection": False}},
        output_stride=32,
        width_multiplier=0.5,
        stride_on="3x3",
        drop_path_rate=0.1,
        features_only=True,
        device="meta",
    )
    assert model.feature_info.channels() == [32, 128, 256, 512, 512, 512]
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32, 32]
    assert len(model.layer1) == 1
    assert model.layer3[0].conv2.stride == (2, 2)
    assert model.layer4[0].conv2.dilation == (4, 4)
    assert model.layer5[0].downsample is None


def test_a_stage_can_be_removed_and_added() -> None:
    shorter = timm.create_model("detnet_atto", stages={"c6": None}, features_only=True)
    assert shorter.feature_info.module_name() == ["act1", "layer1", "layer2", "layer3", "layer4"]
    longer = timm.create_model(
        "detnet_atto", stages={"c7": {"depth": 1, "width": 256, "dilation": 2}}, features_only=True
    )
    assert len(longer(torch.rand(2, 3, 32, 32))) == 7


def test_overrides_leave_the_zoo_alone() -> None:
    before = ZOO["detnet_atto"].override()
    timm.create_model("detnet_atto", stages={"c6": {"dilation": 1}}, norm="group")
    assert ZOO["detnet_atto"] == before


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"widht_multiplier": 0.5}, TypeError, "widht_multiplier"),
        ({"stages": {"c6": {"dialtion": 1}}}, TypeError, "stage c6: unknown field 'dialtion'"),
        ({"output_stride": 4}, ValueError, "output_stride: 4"),
        ({"output_stride": 64}, ValueError, "output_stride: 64"),
        ({"features_only": True, "out_indices": (6,)}, IndexError, "range"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(
    kwargs: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        timm.create_model("detnet_atto", **kwargs)


def test_create_from_spec_builds_what_the_name_builds() -> None:
    spec = ZOO["detnet_atto"]
    torch.manual_seed(0)
    by_name = timm.create_model("detnet_atto", num_classes=5, in_chans=1)
    torch.manual_seed(0)
    by_spec = create_from_spec(spec, num_classes=5, in_chans=1)
    for (name, a), b in zip(
        by_name.state_dict().items(), by_spec.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert by_spec.pretrained_cfg["architecture"] == "detnet"
    assert by_spec.pretrained_cfg["pool_size"] == by_name.pretrained_cfg["pool_size"]


def test_create_from_spec_gives_all_maps_of_any_number_of_stages() -> None:
    spec = ZOO["detnet_atto"].override(stages={"c7": {"depth": 1, "width": 64, "stride": 2}})
    model = create_from_spec(spec, features_only=True).eval()
    assert model.feature_info.reduction() == [2, 4, 8, 16, 16, 16, 32]
    assert model(torch.rand(1, 3, 64, 64))[-1].shape == (1, 32, 2, 2)


def test_create_from_spec_refuses_what_does_not_check_or_exist() -> None:
    spec = ZOO["detnet_atto"].override()
    with pytest.raises(TypeError, match="stages_"):
        create_from_spec(spec, stages_={})
    spec.stages["c6"].depth = 0
    with pytest.raises(ValueError, match="stage c6, depth: 0"):
        create_from_spec(spec)


def test_a_saved_variant_comes_back_from_its_directory(tmp_path: Path) -> None:
    model = timm.create_model(
        "detnet_atto", stages={"c6": {"projection": False}}, output_stride=8, num_classes=4
    ).eval()
    save_for_hf(model, tmp_path)
    restored = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.rand(1, 3, 64, 64)
    assert restored.spec == model.spec
    assert torch.equal(restored(x), model(x))


def test_what_was_built_from_a_spec_comes_back_from_its_directory(tmp_path: Path) -> None:
    spec = ZOO["detnet_atto"].override(
        stages={"c2": {"block": "basic"}, "c7": {"depth": 2, "width": 64}}, norm="group"
    )
    model = create_from_spec(spec, num_classes=4).eval()
    save_for_hf(model, tmp_path)
    restored = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert restored.spec == spec
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(restored(x), model(x))
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "detnet"


@pytest.mark.parametrize("spec", ["detnet59", None, {"stages": {}}])
def test_what_is_no_spec_is_refused(spec: object) -> None:
    with pytest.raises(TypeError, match="spec: give a BackboneSpec"):
        create_from_spec(spec)


def test_the_name_of_any_spec_needs_stages() -> None:
    with pytest.raises(ValueError, match="stages: there is none"):
        timm.create_model("detnet")


def test_the_models_configuration_says_how_images_are_prepared() -> None:
    """ImageNet's mean and standard deviation, and the paper's test: 224 of a short side of 256."""
    for name in ZOO:
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.mean == (0.485, 0.456, 0.406)
        assert cfg.std == (0.229, 0.224, 0.225)
        assert cfg.crop_pct == 224 / 256
        assert cfg.input_size == (3, 224, 224)


def test_whatever_checks_is_built_as_it_says() -> None:
    choose = random.Random(0).choice
    num_built = 0
    for _ in range(100):
        stages = {
            f"c{number}": StageSpec(
                depth=choose([1, 2]),
                width=choose([1, 3, 8, 24, 33, 48]),
                stride=choose([1, 2]),
                dilation=choose([1, 2, 3]),
                projection=choose([True, True, False]),
                block=choose(list(BLOCKS)),
            )
            for number in range(2, choose([3, 5, 7]))
        }
        spec = BackboneSpec(
            stages=stages,
            stem_width=choose([1, 20, 33, 64]),
            stride_on=choose(STRIDE_ON),
            norm=choose(NORMS),
            width_multiplier=choose([0.3, 1.0]),
            output_stride=choose([None, 8, 16, 32]),
        )
        try:
            spec.check()
        except ValueError:  # a shortcut between unequal shapes
            continue
        model = create_from_spec(spec, features_only=True, device="meta")
        maps = model(torch.empty(1, 3, 64, 96, device="meta"))
        assert [m.shape[1] for m in maps[1:]] == list(spec.channels.values())
        assert [64 // m.shape[2] for m in maps[1:]] == [min(s, 64) for s in spec.strides.values()]
        num_built += 1
    assert num_built > 30

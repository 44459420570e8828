"""A spec says what is built, merges overrides in its own words and names what is wrong."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detnet.spec import BackboneSpec, StageSpec
from detnet.zoo import ZOO


@pytest.fixture
def detnet59() -> BackboneSpec:
    return ZOO["detnet59"].override()


# Derived numbers, by hand from the paper: 59 = 1 + 3 * (3 + 4 + 6 + 3 + 3) + 1


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("detnet59", 59),
        ("detnet59b", 59),
        ("detnet_resnet101b", 101),
        ("detnet59_noproj", 59),
        ("detnet59_nodilation", 59),
        ("detnet110", 110),
        ("detnet_resnet50", 50),
        ("detnet_resnet50_dilated", 50),
        ("detnet_resnet101", 101),
        ("detnet17", 17),
        ("detnet_resnet14", 14),
    ],
)
def test_depth_is_the_number_in_the_name(name: str, depth: int) -> None:
    assert ZOO[name].depth == depth


def test_detnet59_is_the_papers(detnet59: BackboneSpec) -> None:
    assert detnet59.channels == {"c2": 256, "c3": 512, "c4": 1024, "c5": 1024, "c6": 1024}
    assert detnet59.strides == {"c2": 4, "c3": 8, "c4": 16, "c5": 16, "c6": 16}
    assert detnet59.dilations == {"c2": 1, "c3": 1, "c4": 1, "c5": 2, "c6": 2}
    assert all(stage.projection for stage in detnet59.stages.values())
    assert detnet59.stride_on == "1x1"


def test_variants_differ_from_detnet59_only_where_their_names_say(detnet59: BackboneSpec) -> None:
    expected = {
        "detnet59b": detnet59.override(stride_on="3x3"),
        "detnet59_noproj": detnet59.override(stages={"c6": {"projection": False}}),
        "detnet59_nodilation": detnet59.override(
            stages={"c5": {"dilation": 1}, "c6": {"dilation": 1}}
        ),
        "detnet110": detnet59.override(stages={"c4": {"depth": 23}}),
    }
    assert {name: ZOO[name] for name in expected} == expected


def test_width_multiplier_scales_stem_and_stages_to_multiples_of_8(detnet59: BackboneSpec) -> None:
    narrow = detnet59.override(width_multiplier=0.3)
    # 64 * 0.3 = 19.2 -> 16, 128 * 0.3 = 38.4 -> 40, 256 * 0.3 = 76.8 -> 80
    assert narrow.stem_channels == 16
    assert narrow.channels == {"c2": 64, "c3": 160, "c4": 320, "c5": 320, "c6": 320}
    assert detnet59.override(width_multiplier=0.01).stem_channels == 8


def test_widths_stand_as_written_at_multiplier_one(detnet59: BackboneSpec) -> None:
    odd = detnet59.override(stem_width=20, stages={"c2": {"width": 50}}, width_multiplier=1)
    assert (odd.stem_channels, odd.channels["c2"]) == (20, 200)


def test_depth_multiplier_scales_every_stage_to_whole_blocks(detnet59: BackboneSpec) -> None:
    # 3, 4, 6, 3, 3 by 0.4: 1.2, 1.6, 2.4, 1.2, 1.2
    shallow = detnet59.override(depth_multiplier=0.4)
    assert [stage.depth for stage in shallow.resolve()] == [1, 2, 2, 1, 1]
    assert shallow.depth == 1 + 3 * (1 + 2 + 2 + 1 + 1) + 1
    least = detnet59.override(depth_multiplier=0.01)
    assert [stage.depth for stage in least.resolve()] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("detnet59", "detnet17"),
        ("detnet59_noproj", "detnet17_noproj"),
        ("detnet59_nodilation", "detnet17_nodilation"),
        ("detnet_resnet50", "detnet_resnet14"),
    ],
)
def test_a_fifth_of_the_depth_leaves_one_block_a_stage(name: str, small: str) -> None:
    assert ZOO[name].override(depth_multiplier=0.2).resolve() == ZOO[small].resolve()


# Blocks


def test_stages_of_different_blocks_stand_in_one_network(detnet59: BackboneSpec) -> None:
    mixed = detnet59.override(stages={"c2": {"block": "basic"}})
    assert mixed.depth == 59 - 3  # three blocks of one layer less
    assert (mixed.channels["c2"], mixed.channels["c3"]) == (64, 512)


@pytest.mark.parametrize(
    ("name", "override", "convention"),
    [
        ("detnet59", {}, "1x1"),
        ("detnet59b", {}, "3x3"),
        ("detnet_resnet50", {"stages": {c: {"block": "basic"} for c in ("c3", "c4", "c5")}}, None),
        ("detnet59", {"stages": {c: {"stride": 1} for c in ("c3", "c4")}}, None),
        ("detnet59", {"stages": {"c3": {"block": "basic"}}}, "1x1"),
    ],
)
def test_the_convention_is_that_of_the_bottlenecks_that_stride(
    name: str, override: dict, convention: str | None
) -> None:
    assert ZOO[name].override(**override).stride_convention == convention


# Output stride: 8, 16, 32 as timm means it


@pytest.mark.parametrize(
    ("name", "output_stride", "strides", "dilations"),
    [
        ("detnet59", None, [4, 8, 16, 16, 16], [1, 1, 1, 2, 2]),
        ("detnet59", 8, [4, 8, 8, 8, 8], [1, 1, 2, 4, 4]),
        ("detnet59", 16, [4, 8, 16, 16, 16], [1, 1, 1, 2, 2]),
        ("detnet59", 32, [4, 8, 16, 32, 32], [1, 1, 1, 2, 2]),
        ("detnet_resnet50", None, [4, 8, 16, 32], [1, 1, 1, 1]),
        ("detnet_resnet50", 8, [4, 8, 8, 8], [1, 1, 2, 4]),
        ("detnet_resnet50", 16, [4, 8, 16, 16], [1, 1, 1, 2]),
        ("detnet_resnet50", 32, [4, 8, 16, 32], [1, 1, 1, 1]),
    ],
)
def test_output_stride(
    name: str, output_stride: int | None, strides: list[int], dilations: list[int]
) -> None:
    spec = ZOO[name].override(output_stride=output_stride)
    assert list(spec.strides.values()) == strides
    assert list(spec.dilations.values()) == dilations


def test_output_stride_is_an_upper_bound_for_a_net_that_cannot_reach_it(
    detnet59: BackboneSpec,
) -> None:
    up_to_c4 = detnet59.override(stages={"c5": None, "c6": None}, output_stride=32)
    assert list(up_to_c4.strides.values()) == [4, 8, 16]


# Overrides


def test_override_changes_a_copy(detnet59: BackboneSpec) -> None:
    changed = detnet59.override(stages={"c6": {"projection": False, "dilation": 1}})
    assert changed.stages["c6"] == StageSpec(depth=3, width=256, dilation=1, projection=False)
    assert detnet59 == ZOO["detnet59"]
    changed.stages["c2"].depth = 9
    assert detnet59.stages["c2"].depth == 3


def test_override_removes_adds_and_replaces_stages(detnet59: BackboneSpec) -> None:
    assert list(detnet59.override(stages={"c6": None}).stages) == ["c2", "c3", "c4", "c5"]
    longer = detnet59.override(stages={"c7": {"depth": 2, "width": 64, "stride": 2}})
    assert longer.depth == 59 + 6
    assert (longer.strides["c7"], longer.channels["c7"]) == (32, 256)
    replaced = detnet59.override(stages={"c6": StageSpec(depth=1, width=128)})
    assert replaced.stages["c6"] == StageSpec(depth=1, width=128)


def test_stages_are_ordered_by_number_not_by_how_they_were_written(detnet59: BackboneSpec) -> None:
    shuffled = BackboneSpec(stages=dict(reversed(detnet59.stages.items())))
    assert list(shuffled.strides.items()) == list(detnet59.strides.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"outputstride": 16}, "unknown backbone field 'outputstride'"),
        ({"stages": {"c6": {"projektion": True}}}, "stage c6: unknown field 'projektion'"),
        ({"stages": {"c6": 3}}, "stage c6: give a mapping"),
    ],
)
def test_unknown_words_raise_type_error(
    detnet59: BackboneSpec, override: dict, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        detnet59.override(**override)


# Errors name stage, field and remedy


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"stages": {"c4": {"depth": 0}}}, r"stage c4, depth: 0 .* or remove the stage"),
        ({"stages": {"c4": {"depth": -1}}}, "stage c4, depth: -1"),
        ({"stages": {"c4": {"depth": True}}}, "stage c4, depth: True"),
        ({"stages": {"c3": {"width": 1.5}}}, "stage c3, width: 1.5"),
        ({"stages": {"c3": {"stride": 3}}}, "stage c3, stride: 3 .* use 1 or 2"),
        ({"stages": {"c6": {"dilation": 0}}}, "stage c6, dilation: 0 .* 1 turns dilation off"),
        ({"stages": {"c6": {"projection": None}}}, "stage c6, projection: None .* True or False"),
        ({"stages": {"c6": {"projection": "no"}}}, "stage c6, projection: 'no'"),
        ({"stages": {"c6": {"block": "dense"}}}, "stage c6, block: 'dense' .* bottleneck or basic"),
        ({"stages": {"c6": {"block": ["basic"]}}}, "stage c6, block: "),
        ({"stages": {"c3": None}}, "stage c6: .* without gaps; .* use c2, c3, c4, c5"),
        ({"stages": {"c9": {"depth": 1, "width": 8}}}, "stage c9: .* without gaps"),
        ({"stages": {"p2": {"depth": 1, "width": 8}}}, "stage p2"),
        ({"stages": {"c7": {"depth": 1}}}, "stage c7 is new: give its width"),
        ({"stages": {"c8": None}}, "stage c8 cannot be removed"),
        ({"stages": dict.fromkeys(["c2", "c3", "c4", "c5", "c6"])}, "at least c2"),
        ({"stem_width": 0}, "stem_width: 0 .* the paper has 64"),
        ({"stride_on": "2x2"}, "stride_on: '2x2' .* use 1x1 or 3x3"),
        ({"norm": "layer"}, "norm: 'layer' .* use batch or frozen_batch or group"),
        ({"activation": ""}, "activation: ''"),
        ({"depth_multiplier": 0}, "depth_multiplier: 0 .* 1.0 keeps the depths"),
        ({"width_multiplier": 0}, "width_multiplier: 0 .* 1.0 keeps the widths"),
        ({"width_multiplier": -0.5}, "width_multiplier: -0.5"),
        ({"width_multiplier": float("nan")}, "width_multiplier: nan"),
        ({"output_stride": 4}, "output_stride: 4 .* use 8, 16, 32"),
        ({"output_stride": 64}, "output_stride: 64"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate: 1.0 .* 0.0 turns it off"),
    ],
)
def test_a_bad_value_is_refused_by_name(
    detnet59: BackboneSpec, override: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detnet59.override(**override)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"c2": {"depth": 1, "width": 8}}, r"stage c2: .* is no StageSpec; give StageSpec\(depth"),
        ({"c2": None}, "stage c2: None is no StageSpec"),
        ({"c2": 3, "c3": StageSpec(depth=0, width=8)}, "(?s)stage c2: 3 is.*stage c3, depth: 0"),
        ({2: StageSpec(depth=1, width=8)}, "stage 2: stages are named c2"),
        ([StageSpec(depth=1, width=8)], "stages: .* is not a mapping"),
        ("c2", "stages: 'c2' is not a mapping"),
        (None, "stages: None is not a mapping"),
    ],
)
def test_what_is_no_stage_is_refused_by_name(stages: object, message: str) -> None:
    spec = BackboneSpec(stages=stages)
    with pytest.raises(ValueError, match=message):
        spec.check()


@pytest.mark.parametrize("stages", [[], "c6", 3, [{"depth": 1}]])
def test_an_override_of_stages_is_a_mapping(detnet59: BackboneSpec, stages: object) -> None:
    with pytest.raises(TypeError, match="stages: give a mapping such as"):
        detnet59.override(stages=stages)
    with pytest.raises(ValueError, match="is not a mapping"):
        BackboneSpec(stages=stages or ()).override()


def test_all_problems_are_told_at_once(detnet59: BackboneSpec) -> None:
    with pytest.raises(ValueError) as error:
        detnet59.override(norm="layer", stages={"c2": {"depth": 0}, "c5": {"stride": 4}})
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"stages": {"c3": {"projection": False}}}, "stage c3, projection: .* 256 .* 512 at str"),
        (
            {"stages": {"c5": {"projection": False}}, "output_stride": 32},
            "stage c5, projection: .* at stride 2; set projection=True",
        ),
    ],
)
def test_an_identity_shortcut_between_unequal_shapes_is_refused(
    detnet59: BackboneSpec, override: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detnet59.override(**override)


# As an OmegaConf structured config, which is how Hydra reads it


def test_round_trip_through_omegaconf(detnet59: BackboneSpec) -> None:
    assert OmegaConf.to_object(OmegaConf.structured(detnet59)) == detnet59


def test_omegaconf_overrides_are_typed(detnet59: BackboneSpec) -> None:
    config = OmegaConf.structured(detnet59)
    config.stages.c6.dilation = "1"
    assert OmegaConf.to_object(config).stages["c6"].dilation == 1
    with pytest.raises(OmegaConfBaseException):
        config.stages.c6.dilation = "wide"
    with pytest.raises(OmegaConfBaseException):
        config.stages.c6.dilatation = 1


def test_omegaconf_removes_and_adds_stages(detnet59: BackboneSpec) -> None:
    config = OmegaConf.structured(detnet59)
    del config.stages["c6"]
    assert list(OmegaConf.to_object(config).stages) == ["c2", "c3", "c4", "c5"]
    OmegaConf.update(config, "stages", {"c6": {"depth": 1, "width": 64}}, merge=True)
    spec = OmegaConf.to_object(config)
    spec.check()
    assert spec.stages["c6"] == StageSpec(depth=1, width=64)

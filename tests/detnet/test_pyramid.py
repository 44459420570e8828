from collections import OrderedDict

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from detnet.detection import Pyramid

CHANNELS = {"c2": 4, "c3": 6, "c4": 8, "c5": 8, "c6": 8}
PLATEAU = {"c2": 4, "c3": 8, "c4": 16, "c5": 16, "c6": 16}


def features(strides, height=64, width=96):
    torch.manual_seed(0)
    return {
        stage: torch.randn(2, CHANNELS[stage], height // stride, width // stride)
        for stage, stride in strides.items()
    }


def test_levels_of_one_stride_are_a_plain_sum():
    pyramid = Pyramid(CHANNELS, PLATEAU, out_channels=5)
    maps = features(PLATEAU)
    p4_before_output = sum(pyramid.lateral[f"p{k}"](maps[f"c{k}"]) for k in (4, 5, 6))
    assert torch.allclose(pyramid(maps)["p4"], pyramid.output["p4"](p4_before_output), atol=1e-6)


def test_levels_come_from_fine_to_coarse_with_their_true_strides():
    pyramid = Pyramid(CHANNELS, PLATEAU, out_channels=5)
    maps = pyramid(features(PLATEAU))
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]
    assert pyramid.strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 16, "p6": 16}
    assert [tuple(m.shape[-2:]) for m in maps.values()] == [(16, 24), (8, 12)] + [(4, 6)] * 3


@pytest.mark.parametrize(("extra_levels", "num_extra"), [("max_pool", 1), ("convolution", 2)])
def test_on_halving_strides_it_is_torchvisions_pyramid(extra_levels, num_extra):
    strides = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
    channels = {stage: CHANNELS[stage] for stage in strides}
    ours = Pyramid(channels, strides, 5, extra_levels, num_extra)
    # of maps that have negative values too: a ReLU stands before p7 and not before p6
    extra = LastLevelMaxPool() if extra_levels == "max_pool" else LastLevelP6P7(5, 5)
    theirs = FeaturePyramidNetwork(list(channels.values()), 5, extra)
    if extra_levels == "convolution":
        extra.load_state_dict(ours.extra.state_dict())
    for index, level in enumerate(["p2", "p3", "p4", "p5"]):
        theirs.inner_blocks[index][0].load_state_dict(ours.lateral[level].state_dict())
        theirs.layer_blocks[index][0].load_state_dict(ours.output[level].state_dict())
    maps = features(strides, height=96, width=160)
    expected = theirs(OrderedDict(maps))
    for mine, other in zip(ours(maps).values(), expected.values(), strict=True):
        assert torch.equal(mine, other)
    assert ours.strides["p6"] == 64
    assert (ours(maps)["p5"] < 0).any()


def test_an_unknown_way_to_extend_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="choose one of none, max_pool, convolution"):
        Pyramid(CHANNELS, PLATEAU, extra_levels="guess")

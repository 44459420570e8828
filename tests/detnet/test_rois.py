from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from detnet.detection import LevelRoIAlign

PLATEAU = {"p2": 4, "p3": 8, "p4": 16, "p5": 16, "p6": 16}


def square(side, x=0.0, y=0.0):
    return [x, y, x + side, y + side]


@pytest.mark.parametrize(
    ("side", "level"),
    [(10, "p2"), (111, "p2"), (112, "p3"), (223, "p3"), (224, "p4"), (448, "p5"), (896, "p6"),
     (5000, "p6")],
)  # fmt: skip
def test_the_level_is_floor_of_4_plus_log2_of_size_over_224(side, level):
    pool = LevelRoIAlign(list(PLATEAU), PLATEAU, output_size=7)
    index = pool.assign(torch.tensor([square(side)], dtype=torch.float32))
    assert pool.levels[index] == level


def test_rois_are_clamped_to_the_pooled_levels():
    pool = LevelRoIAlign(["p3", "p4"], PLATEAU, output_size=7)
    boxes = torch.tensor([square(10), square(224), square(2000)], dtype=torch.float32)
    assert [pool.levels[i] for i in pool.assign(boxes)] == ["p3", "p4", "p4"]


def test_on_halving_strides_it_is_torchvisions_pooling():
    torch.manual_seed(0)
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    maps = OrderedDict((k, torch.randn(2, 3, 1024 // s, 1024 // s)) for k, s in strides.items())
    for each in maps.values():
        each.requires_grad_()
    corner = torch.rand(2, 300, 2) * 1000
    side = 2 ** (torch.rand(2, 300, 2) * 11 - 1)  # below a cell, and beyond the image
    boxes = torch.cat([corner, corner + side], dim=2)
    theirs = MultiScaleRoIAlign(list(strides), output_size=7, sampling_ratio=2)
    expected = theirs(maps, list(boxes), [(1024, 1024)] * 2)
    found = LevelRoIAlign(list(strides), strides, output_size=7)(maps, boxes)
    assert torch.allclose(found, expected, atol=1e-5)
    weight = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((x * weight).sum(), list(maps.values())) for x in (found, expected)
    ]
    for ours_at, theirs_at in zip(*gradients, strict=True):
        assert torch.allclose(ours_at, theirs_at, atol=1e-4 * theirs_at.abs().max())


def test_an_roi_is_read_where_it_lies_on_every_level():
    # Each map holds its own x coordinate in image pixels, so a pooled RoI must average to its
    # center, but for RoIAlign's half cell (aligned=False)
    maps = {
        level: (torch.arange(2048 // s) * float(s)).expand(1, 1, 2048 // s, -1)
        for level, s in PLATEAU.items()
    }
    pool = LevelRoIAlign(list(PLATEAU), PLATEAU, output_size=7)
    for side in (40, 150, 300, 500, 900):
        box = torch.tensor([square(side, x=400, y=300)], dtype=torch.float32)
        center = pool(maps, box[None]).mean()
        assert center == pytest.approx(400 + side / 2, abs=1e-2)


def test_low_precision_maps_do_not_round_where_an_roi_lies():
    # 1 / 256 of 1000 pixels is 4 pixels: bfloat16 coordinates would move these boxes
    ramp = {"p2": (torch.arange(512) / 512).expand(1, 1, 512, -1)}
    boxes = torch.tensor([[[1001.0, 1003.0, 1031.0, 1033.0], [1501.0, 1503.0, 1517.0, 1519.0]]])
    pool = LevelRoIAlign(["p2"], {"p2": 4}, output_size=7)
    exact = pool(ramp, boxes)
    low = pool({"p2": ramp["p2"].bfloat16()}, boxes)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), exact, atol=0.004)  # one rounding of values below 1


def test_no_rois_give_an_empty_answer():
    pool = LevelRoIAlign(["p2"], {"p2": 4}, output_size=7)
    assert pool({"p2": torch.zeros(1, 3, 8, 8)}, torch.zeros(1, 0, 4)).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("levels", [[], ["p2", "p4"], ["p3", "p2"]])
def test_levels_that_leave_gaps_are_refused(levels):
    with pytest.raises(ValueError, match="consecutive"):
        LevelRoIAlign(levels, PLATEAU, output_size=7)


def test_a_level_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match="p7 is not in the pyramid"):
        LevelRoIAlign(["p6", "p7"], PLATEAU, output_size=7)


def test_the_canonical_size_is_where_p4_begins():
    sides = torch.tensor([10.0, 27, 28, 55, 56, 111, 112, 500])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    pool = LevelRoIAlign(list(PLATEAU), PLATEAU, output_size=7, canonical_size=28)
    named = [pool.levels[index] for index in pool.assign(boxes)]
    assert named == ["p2", "p3", "p4", "p4", "p5", "p5", "p6", "p6"]

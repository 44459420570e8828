import numpy as np
import pytest
import torch
from torch import nn

from detnet.receptive_field import EffectiveField, effective_fields


def convolutions(num_layers, dilation=1, stride=1):
    """3x3 convolutions whose weights are all 1."""
    layers = [
        nn.Conv2d(1, 1, 3, stride if n == 0 else 1, dilation, dilation, bias=False)
        for n in range(num_layers)
    ]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return nn.Sequential(*layers)


def gradient_by_hand(num_layers, dilation):
    """Of a center over the pixels along one axis: a box convolved with itself, layer by layer."""
    box = np.zeros(1 + 2 * dilation)
    box[::dilation] = 1
    line = np.ones(1)
    for _ in range(num_layers):
        line = np.convolve(line, box)
    return line


@pytest.mark.parametrize(("num_layers", "dilation"), [(1, 1), (4, 1), (10, 1), (3, 2)])
def test_contributions_of_linear_layers_are_boxes_convolved(num_layers, dilation):
    network = convolutions(num_layers, dilation)
    fields = effective_fields(lambda x: {"c2": network(x)}, torch.rand(2, 1, 41, 41))
    line = gradient_by_hand(num_layers, dilation)
    by_hand = np.outer(line, line)
    found = fields["c2"].contributions.numpy()
    reach = len(line) // 2
    inside = found[20 - reach : 21 + reach, 20 - reach : 21 + reach]
    assert inside == pytest.approx(by_hand, rel=1e-5)
    assert found.sum() == pytest.approx(by_hand.sum(), rel=1e-5)
    counted = (by_hand > 0.0455 * by_hand.max()).sum()
    assert fields["c2"].side == pytest.approx(np.sqrt(counted))


def test_deep_networks_see_a_falling_share_of_what_they_could():
    shares = []
    for num_layers in (5, 20):
        network = convolutions(num_layers)
        (field,) = effective_fields(
            lambda x, n=network: {"c": n(x)}, torch.rand(1, 1, 64, 64)
        ).values()
        shares.append(field.side / (2 * num_layers + 1))
    assert shares[1] < shares[0] < 1


def test_every_stage_has_its_field_and_later_ones_are_larger():
    first, second = convolutions(2), convolutions(3)

    def features(x):
        c2 = first(x)
        return {"c2": c2, "c3": second(c2)}

    fields = effective_fields(features, torch.rand(3, 1, 33, 33))
    assert list(fields) == ["c2", "c3"]
    assert fields["c2"].side == 5  # all of 5 x 5 count
    assert fields["c3"].side > 5


def test_an_output_that_depends_on_nothing_has_a_field_of_0():
    fields = effective_fields(lambda x: {"c2": 0 * x}, torch.rand(1, 3, 8, 8))
    assert fields["c2"].side == 0
    assert EffectiveField(torch.zeros(4, 4)).side == 0

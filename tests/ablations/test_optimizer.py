import pytest
import torch
from torch import nn

from ablations.config import ProtocolConfig
from ablations.field_checks import ConfigError
from ablations.training.optimizer import learning_rate, optimizer_of, schedule_of


def rates(protocol, steps):
    return [learning_rate(protocol, step) for step in steps]


def test_the_learning_rate_warms_up_in_a_line_and_drops_at_milestones():
    paper = ProtocolConfig(name="paper", milestones=[120_000, 160_000])
    steps = (0, 250, 500, 119_999, 120_000, 160_000)
    assert rates(paper, steps) == pytest.approx([0.006, 0.013, 0.02, 0.02, 0.002, 0.0002])


def test_the_cosine_schedule_is_torchs_after_the_warm_up():
    protocol = ProtocolConfig(num_steps=50, warmup_steps=10, schedule="cosine", learning_rate=0.3)
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=40)
    expected = []
    for _ in range(40):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        cosine.step()
    assert rates(protocol, range(10, 50)) == pytest.approx(expected)
    assert rates(protocol, (0, 5)) == pytest.approx([0.09, 0.195])


def test_the_linear_rule_scales_the_rate_with_the_batch_and_says_so(caplog):
    caplog.set_level("INFO")
    small = ProtocolConfig(batch_size=4, learning_rate_batch=16, learning_rate=0.02)
    optimizer = optimizer_of(nn.Linear(1, 1), small)
    assert schedule_of(optimizer, small)(500) == optimizer.param_groups[0]["lr"] == 0.005
    assert "the learning rate is 0.005: 0.02 is for 16 images a step and this has 4" in caplog.text


def test_the_papers_batch_has_the_papers_rate(caplog):
    caplog.set_level("INFO")
    paper = ProtocolConfig(batch_size=16, learning_rate_batch=16, learning_rate=0.02)
    assert schedule_of(optimizer_of(nn.Linear(1, 1), paper), paper)(500) == 0.02
    assert not caplog.text


@pytest.mark.parametrize(
    "protocol", [ProtocolConfig(), ProtocolConfig(optimizer="adamw", momentum=0.8)]
)
def test_frozen_parameters_are_not_given_to_the_optimizer(protocol):
    model = nn.Linear(2, 1)
    model.weight.requires_grad_(False)
    optimizer = optimizer_of(model, protocol)
    (group,) = optimizer.param_groups
    assert group["params"] == [model.bias]
    assert group["weight_decay"] == 1e-4
    if protocol.optimizer == "adamw":
        assert isinstance(optimizer, torch.optim.AdamW)
        assert group["betas"] == (0.8, 0.999)
    else:
        assert group["momentum"] == 0.9


def test_adamw_moves_weights_as_torchs_loop_over_parameters_does():
    protocol = ProtocolConfig(optimizer="adamw", learning_rate=0.1, weight_decay=0.1)
    moved = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = optimizer_of(model, protocol)
        assert optimizer.param_groups[0]["fused"]
        optimizer.param_groups[0]["fused"] = fused
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.rand(2, 3, 8, 8)).square().sum().backward()
            optimizer.step()
        moved.append(model.weight.detach())
    assert torch.allclose(*moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "protocol.optimizer=adam: give one of sgd, adamw"),
        ({"schedule": "step"}, "protocol.schedule=step: give one of milestones, cosine"),
        (
            {"schedule": "cosine", "milestones": [3]},
            r"protocol.milestones=\[3\]: give \[\] with protocol.schedule=cosine",
        ),
    ],
)
def test_what_no_optimizer_or_schedule_knows_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        ProtocolConfig(name="test", **changes).check()

import time

import pytest
import torch
from torch import nn

from detnet.latency import Latency, measure_latency


class Sleeper(nn.Module):
    """Takes `seconds` a pass, and notes its name and its batch's shape."""

    def __init__(self, name, calls, seconds=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.name, self.calls, self.seconds = name, calls, iter(seconds) if seconds else None

    def forward(self, batch):
        self.calls.append((self.name, tuple(batch.shape), self.training, torch.is_grad_enabled()))
        if self.seconds is not None:
            time.sleep(next(self.seconds))
        return batch


def test_every_round_times_each_network_once_in_an_order_drawn_anew():
    calls = []
    networks = {name: Sleeper(name, calls) for name in "abcd"}
    measure_latency(networks, (3, 8, 8), batch_size=2, num_repeats=20, num_warmup=5)
    rounds = [tuple(call[0] for call in calls[n : n + 4]) for n in range(0, len(calls), 4)]
    assert len(rounds) == 25
    assert all(sorted(names) == list("abcd") for names in rounds)
    assert len(set(rounds)) > 5


def test_passes_are_in_evaluation_mode_without_gradients_and_the_mode_is_given_back():
    calls = []
    network = Sleeper("a", calls).train()
    measure_latency({"a": network}, (3, 8, 16), batch_size=4, num_repeats=2, num_warmup=0)
    assert calls == [("a", (4, 3, 8, 16), False, False)] * 2
    assert network.training


def test_percentiles_are_of_the_repeats_alone():
    # two slow passes to warm up, then nineteen of 1 ms and two of 40 ms
    seconds = [0.2, 0.2, *[0.001] * 19, 0.04, 0.04]
    found = measure_latency(
        {"a": Sleeper("a", [], seconds)}, (1, 2, 2), batch_size=3, num_repeats=21, num_warmup=2
    )["a"]
    assert 0.001 <= found.p50 < 0.03
    assert 0.04 <= found.p95 < 0.2
    assert found.num_repeats == 21
    assert found.images_per_second == pytest.approx(3 / found.p50)


def test_progress_is_told_round_by_round():
    told = []
    measure_latency(
        {"a": Sleeper("a", [])}, (1, 2, 2), num_repeats=3, num_warmup=1,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_repeats": 0}, {"num_warmup": -1}])
def test_nothing_to_time_is_refused(wrong):
    with pytest.raises(ValueError, match="time at least one batch"):
        measure_latency({"a": Sleeper("a", [])}, **wrong)


def test_a_rate_is_the_images_of_the_median_pass():
    latency = Latency(batch_size=8, num_repeats=3, p50=0.5, p95=0.6)
    assert latency.images_per_second == 16

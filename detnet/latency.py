"""How long networks take on this device: latency, and throughput at larger batches.

Networks are timed in turns: each round passes one batch through every network, in an order drawn
anew, so that a processor that slows down or is shared hits all alike. What is told is the median
and the 95th percentile over the rounds; a mean would tell of the disturbances.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds of one pass over a batch, without gradients."""

    batch_size: int
    num_repeats: int
    p50: float
    p95: float

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.p50


def measure_latency(
    networks: Mapping[str, nn.Module],
    input_size: tuple[int, int, int] = (3, 224, 224),
    *,
    batch_size: int = 1,
    num_repeats: int = 100,
    num_warmup: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Latency]:
    """Time networks in evaluation mode, each on the device and in the type of its parameters.

    `input_size` is (C, H, W). `progress` is told the rounds done and in all. Raises ValueError for
    no repeats or no images.
    """
    if min(batch_size, num_repeats) < 1 or num_warmup < 0:
        raise ValueError(
            f"batch_size={batch_size}, num_repeats={num_repeats}, num_warmup={num_warmup}: time at "
            "least one batch of one image"
        )
    batches = {name: _batch(network, batch_size, input_size) for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    order, draw = list(networks), random.Random(seed)
    was_training = {name: network.training for name, network in networks.items()}
    for network in networks.values():
        network.eval()
    with torch.inference_mode():
        for done in range(num_warmup + num_repeats):
            draw.shuffle(order)
            for name in order:
                elapsed = _seconds(networks[name], batches[name])
                if done >= num_warmup:
                    seconds[name].append(elapsed)
            progress(done + 1, num_warmup + num_repeats)
    for name, network in networks.items():
        network.train(was_training[name])
    return {
        name: Latency(
            batch_size=batch_size,
            num_repeats=num_repeats,
            p50=_percentile(values, 0.5),
            p95=_percentile(values, 0.95),
        )
        for name, values in seconds.items()
    }


def _batch(network: nn.Module, batch_size: int, input_size: tuple[int, int, int]) -> torch.Tensor:
    parameter = next(network.parameters())
    batch = torch.rand(batch_size, *input_size).to(parameter.device, parameter.dtype)
    return batch.contiguous(memory_format=torch.channels_last)


def _seconds(network: nn.Module, batch: torch.Tensor) -> float:
    """Of one pass, to the end of what it started on the device."""
    _wait_for(batch.device)
    begun = time.perf_counter()
    network(batch)
    _wait_for(batch.device)
    return time.perf_counter() - begun


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _percentile(values: list[float], share: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))

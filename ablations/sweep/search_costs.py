"""What a variant costs, before it is trained: what a search may limit."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ablations.config import SCRATCH, RunConfig
from ablations.run import backbone_cost
from ablations.runtime import select_device
from ablations.tasks.network import build_body

COUNTED = ("macs", "params", "activations")
"""Of the backbone at 224 x 224, as tables show them."""
_WARM_UP, _REPEATS = 3, 10
_COPIES = {"sgd": 3, "adamw": 4}
"""Of a parameter in a training step: itself, its gradient and what the optimizer keeps of it."""


def training_memory(config: RunConfig) -> float:
    """Bytes that a training step of the backbone holds: parameters, and activations kept.

    Counted on the meta device for the protocol's batch at its largest image: what autograd keeps
    for the backward pass, each storage once. The detector's heads come on top.
    """
    with torch.device("meta"):
        body = _body(config).train()
        images = torch.empty(config.protocol.batch_size, 3, *_image_size(config))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    own = {parameter.untyped_storage()._cdata for parameter in body.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = body(images)
    activations = sum(size for storage, size in kept.items() if storage not in own)
    del outputs  # until here: a storage that is freed gives its name to the next
    copies = _COPIES[config.protocol.optimizer]
    return activations + copies * sum(p.numel() * p.element_size() for p in body.parameters())


def latency(config: RunConfig) -> float:
    """Milliseconds of the backbone's forward pass for one image, the median of ten.

    At the protocol's largest image, on the device that the run would take, here.
    """
    device = select_device(config.job.device)
    body = _body(config).eval().to(device)
    image = torch.rand(1, 3, *_image_size(config), device=device)
    with torch.inference_mode():
        seconds = [_timed(lambda: body(image), device) for _ in range(_WARM_UP + _REPEATS)]
    return 1000 * statistics.median(seconds[_WARM_UP:])


MEASURED: Mapping[str, Callable[[RunConfig], float]] = {
    "memory": training_memory,
    "latency": latency,
}
COSTS = (*COUNTED, *MEASURED)

_known: dict[str, dict[str, float]] = {}
"""By what they depend on: trials often share a backbone."""


def costs_of(config: RunConfig, names: Mapping[str, Any]) -> dict[str, float]:
    """The costs of these names, each counted or measured once a backbone, protocol and device."""
    known = _known.setdefault(repr((config.backbone, config.protocol, config.job.device)), {})
    if any(name in COUNTED and name not in known for name in names):
        known |= {
            name: float(value) for name, value in backbone_cost(config).items() if name in COUNTED
        }
    for name in names:
        if name not in known:
            known[name] = MEASURED[name](config)
    return {name: known[name] for name in names}


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _image_size(config: RunConfig) -> tuple[int, int]:
    """Height and width, as detectors pad them."""
    protocol = config.protocol
    sides = (max(protocol.short_side), protocol.long_side)
    return (32 * math.ceil(sides[0] / 32), 32 * math.ceil(sides[1] / 32))


def _body(config: RunConfig) -> nn.Module:
    return build_body(replace(config, weights=SCRATCH))

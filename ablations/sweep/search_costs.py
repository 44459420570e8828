"""What a variant costs, before it is trained: what a search may limit."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ablations.config import SCRATCH, RunConfig
from ablations.planning import backbone_cost
from ablations.runtime import select_device
from ablations.tasks.network import build_body
from ablations.training.optimizer import optimizer_of
from detnet.detection.batch import SHAPE_MULTIPLE
from detnet.latency import measure_latency

COUNTED = ("macs", "params", "activations")
"""Of the backbone at 224 x 224, as tables show them."""
_WARM_UP, _REPEATS = 3, 10


def training_memory(config: RunConfig) -> float:
    """Bytes that a training step of the backbone holds: parameters with their gradients and what
    the optimizer keeps of them, and activations kept.

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
    return activations + _of_parameters(body, config)


def _of_parameters(body: nn.Module, config: RunConfig) -> int:
    """Bytes of parameters, gradients and the optimizer's state after a step."""
    optimizer = optimizer_of(body, config.protocol)
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    kept = (
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    return sum(tensor.nbytes for tensor in (*body.parameters(), *trained, *kept))


def latency(config: RunConfig) -> float:
    """Milliseconds of the backbone's forward pass for one image, the median of ten.

    At the protocol's largest image, on the device that the run would take, here.
    """
    body = _body(config).to(select_device(config.job.device))
    size = (3, *_image_size(config))
    found = measure_latency({"": body}, size, num_repeats=_REPEATS, num_warmup=_WARM_UP)
    return 1000 * found[""].p50


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


def _image_size(config: RunConfig) -> tuple[int, int]:
    """Height and width, as detectors pad them."""
    short, long = (
        SHAPE_MULTIPLE * math.ceil(side / SHAPE_MULTIPLE) for side in config.protocol.largest_image
    )
    return short, long


def _body(config: RunConfig) -> nn.Module:
    return build_body(replace(config, weights=SCRATCH))

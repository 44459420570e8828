"""How weights move: the optimizer, the learning rate of each step, and the average of weights.

A classifier's are timm's (`timm_recipe`). For the detector, the paper has SGD with momentum and a
rate that drops twice in 180k steps. Short trainings on a CPU learn more from AdamW, and from a rate
that falls smoothly to zero.
"""

import logging
import math
from collections.abc import Callable

import torch
from timm.utils import ModelEmaV3
from torch import nn

from ablations.classification_protocol import ClassificationProtocol
from ablations.config import Protocol, ProtocolConfig
from ablations.training.timm_recipe import timm_average, timm_optimizer, timm_schedule

log = logging.getLogger(__name__)


def learning_rate(protocol: ProtocolConfig, step: int) -> float:
    """The rate of a step (counted from 0): linear warm-up, then the protocol's schedule."""
    rate = protocol.scaled_learning_rate
    if step < protocol.warmup_steps:
        done = step / protocol.warmup_steps
        rate *= protocol.warmup_factor * (1 - done) + done
    if protocol.schedule == "cosine":
        length = max(protocol.num_steps - protocol.warmup_steps, 1)
        done = max(step - protocol.warmup_steps, 0) / length
        return rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return rate * protocol.gamma ** sum(step >= milestone for milestone in protocol.milestones)


def schedule_of(optimizer: torch.optim.Optimizer, protocol: Protocol) -> Callable[[int], float]:
    """A function that sets the optimizer's rates for a step (from 0) and returns the rate."""
    if isinstance(protocol, ClassificationProtocol):
        return timm_schedule(optimizer, protocol)
    if protocol.batch_size != (protocol.learning_rate_batch or protocol.batch_size):
        log.info(
            "the learning rate is %g: %g is for %d images a step and this has %d (linear rule; the "
            "number of steps is as given)",
            protocol.scaled_learning_rate, protocol.learning_rate, protocol.learning_rate_batch,
            protocol.batch_size,
        )  # fmt: skip

    def set_rates(step: int) -> float:
        rate = learning_rate(protocol, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    return set_rates


def average_of(model: nn.Module, protocol: Protocol) -> ModelEmaV3 | None:
    """The moving average of weights that the protocol asks for, if any."""
    if isinstance(protocol, ClassificationProtocol):
        return timm_average(model, protocol)
    return None


def optimizer_of(model: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """The protocol's optimizer over every parameter that trains.

    `momentum` is SGD's, and the first of AdamW's betas.
    """
    if isinstance(protocol, ClassificationProtocol):
        return timm_optimizer(model, protocol)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=protocol.scaled_learning_rate,
            betas=(protocol.momentum, 0.999),
            weight_decay=protocol.weight_decay,
            fused=True,  # half the time on a CPU
        )
    return torch.optim.SGD(
        parameters,
        lr=protocol.scaled_learning_rate,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )

"""How weights move: the optimizer and the learning rate of each step.

The paper has SGD with momentum and a rate that drops twice in 180k steps. Short trainings on a CPU
learn more from AdamW, and from a rate that falls smoothly to zero.
"""

import math

import torch
from torch import nn

from ablations.config import ProtocolConfig


def learning_rate(protocol: ProtocolConfig, step: int) -> float:
    """The rate of a step (counted from 0): linear warm-up, then the protocol's schedule."""
    rate = protocol.learning_rate
    if step < protocol.warmup_steps:
        done = step / protocol.warmup_steps
        rate *= protocol.warmup_factor * (1 - done) + done
    if protocol.schedule == "cosine":
        length = max(protocol.num_steps - protocol.warmup_steps, 1)
        done = max(step - protocol.warmup_steps, 0) / length
        return rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return rate * protocol.gamma ** sum(step >= milestone for milestone in protocol.milestones)


def optimizer_of(model: nn.Module, protocol: ProtocolConfig) -> torch.optim.Optimizer:
    """The protocol's optimizer over every parameter that trains.

    `momentum` is SGD's, and the first of AdamW's betas.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=protocol.learning_rate,
            betas=(protocol.momentum, 0.999),
            weight_decay=protocol.weight_decay,
        )
    return torch.optim.SGD(
        parameters,
        lr=protocol.learning_rate,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )

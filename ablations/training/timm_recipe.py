"""A classifier's optimizer, schedule and average of weights: timm's, made from the protocol."""

from collections.abc import Callable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from ablations.classification_protocol import ClassificationProtocol


def timm_optimizer(model: nn.Module, protocol: ClassificationProtocol) -> torch.optim.Optimizer:
    """timm's optimizer over every parameter that trains; raises ValueError for its arguments."""
    asked = protocol.optimizer
    own: dict[str, Any] = {"betas": asked.betas, "eps": asked.eps}
    try:
        return create_optimizer_v2(
            model,
            opt=asked.name,
            lr=asked.learning_rate,
            momentum=asked.momentum,
            weight_decay=asked.weight_decay,
            filter_bias_and_bn=asked.filter_bias_and_bn,
            layer_decay=asked.layer_decay,
            **{name: value for name, value in own.items() if value is not None},
        )
    except TypeError as error:  # of an optimizer that has no betas, say
        raise ValueError(f"protocol.optimizer.name={asked.name}: {error}") from error


def timm_schedule(
    optimizer: torch.optim.Optimizer, protocol: ClassificationProtocol
) -> Callable[[int], float]:
    """A function that sets the optimizer's rates for a step (from 0) and returns the rate."""
    asked = protocol.schedule
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=asked.name,
        num_epochs=protocol.num_steps,
        decay_epochs=asked.decay_steps,
        # timm drops the rate a step before a milestone, the detector's schedule at it
        decay_milestones=[milestone + 1 for milestone in asked.milestones],
        decay_rate=asked.decay_rate,
        min_lr=asked.min_learning_rate,
        warmup_lr=asked.warmup_learning_rate,
        warmup_epochs=asked.warmup_steps,
        step_on_epochs=False,
        updates_per_epoch=1,  # an "epoch" of timm's is a step here
    )

    def set_rates(step: int) -> float:
        scheduler.step_update(step)
        return float(max(group["lr"] for group in optimizer.param_groups))

    return set_rates


def timm_average(model: nn.Module, protocol: ClassificationProtocol) -> ModelEmaV3 | None:
    """A moving average that starts as the model's weights; None where the protocol has none."""
    asked = protocol.average
    if asked.decay is None:
        return None
    average = ModelEmaV3(model, decay=asked.decay, use_warmup=asked.warmup)
    average.requires_grad_(False)
    return average

"""The losses of past steps, read without making a GPU wait for the host."""

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ablations.runtime import Runtime

LAG = 8
"""Steps after which a loss is read: a GPU has long computed it, and little has been trained since
one that is not finite."""


class NonFiniteLossError(RuntimeError):
    """A loss is infinite or not a number; the message names step, losses and images."""


class Step(NamedTuple):
    """A step whose losses are on their way to the host."""

    step: int
    names: list[str]
    values: Tensor
    copied: torch.cuda.Event | None
    image_ids: list[int]


class LossReader:
    """Hands the losses of each step to `use(step, losses by name)`, `LAG` steps later.

    `add` and `finish` raise NonFiniteLossError for the first step with a loss that is not finite.
    """

    def __init__(self, use: Callable[[int, dict[str, float]], None], runtime: Runtime) -> None:
        self.use = use
        self.runtime = runtime
        self._waiting: deque[Step] = deque()

    def add(self, step: int, losses: dict[str, Tensor], image_ids: list[int]) -> None:
        """Take the losses of a step, each a scalar, and read those of a former one.

        Of several processes the mean counts, which is what one process would have had.
        """
        own = torch.stack([loss.detach().float() for loss in losses.values()])
        values = self.runtime.mean(own)
        copied = None
        if values.is_cuda:
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._waiting.append(Step(step, list(losses), values, copied, image_ids))
        if len(self._waiting) > LAG:
            self._read()

    def finish(self) -> None:
        """Read all that is left, waiting for it."""
        while self._waiting:
            self._read()

    def _read(self) -> None:
        step, names, numbers, copied, image_ids = self._waiting.popleft()
        if copied is not None:
            copied.synchronize()
        values = dict(zip(names, numbers.tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteLossError(
                f"step {step}: a loss is not finite "
                f"({', '.join(f'{name} {value:g}' for name, value in values.items())}) on images "
                f"{', '.join(map(str, image_ids))}; lower protocol.learning_rate, set "
                "protocol.clip_norm, or look at these images"
            )
        self.use(step, values)

"""The only loops: `fit` trains a model for a task, `predict` applies it.

Both take plain values, no configuration framework. A run continued after a kill ends with the same
weights as one that was never interrupted (bit for bit on a CPU with the same number of threads):
the batch of a step and the random numbers drawn in it depend on (seed, step) alone, so a checkpoint
needs no generator states.

Several processes share a batch; the main one alone writes and tells.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ablations.config import Protocol
from ablations.progress import Progress
from ablations.runtime import PrunedError, Runtime, StoppedError
from ablations.tasks.task import Prediction, Task
from ablations.training.checkpoint import resume, save_checkpoint
from ablations.training.curve import Curve
from ablations.training.losses import LossReader
from ablations.training.optimizer import average_of, optimizer_of, schedule_of
from ablations.training.parallel import align, parallel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Effort:
    """What a training took in all, before and after interruptions."""

    seconds: float = 0.0
    peak_memory: int | None = None
    """Bytes; None where the system does not tell."""


def fit(
    task: Task,
    model: nn.Module,
    protocol: Protocol,
    folder: Path,
    *,
    seed: int,
    runtime: Runtime,
    checkpoint_seconds: float = 60.0,
    log_seconds: float = 10.0,
    evaluate_every: int | None = None,
    evaluate: Callable[[int], None] = lambda step: None,
) -> Effort:
    """Train `model` in place for `protocol.num_steps`, going on from a checkpoint in `folder`.

    Where the protocol averages weights, the model ends with the average. Writes checkpoint.pt and
    curve.jsonl. Raises NonFiniteLossError a few steps after such a loss, and StoppedError once a
    checkpoint holds what was done, when `runtime.stop` is set.

    `evaluate` is called after each `evaluate_every` steps but the last, and told how many are done.
    It may raise PrunedError, which ends the training with a checkpoint.
    """
    device = runtime.device
    optimizer = optimizer_of(model, protocol)
    set_rates = schedule_of(optimizer, protocol)
    average = average_of(model, protocol)
    scaler = torch.amp.GradScaler(device.type, enabled=protocol.precision == "float16")
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scaler": scaler}
    if average is not None:
        parts["average"] = average
    start, before = _go_on(parts, folder, protocol.num_steps, runtime)
    curve = Curve(folder / "curve.jsonl", start, protocol.num_steps) if runtime.is_main else None
    if start >= protocol.num_steps:
        return before
    network = parallel(model, runtime, synchronized=protocol.batch_norm_images is None)
    progress = Progress(
        "train", protocol.num_steps, rate=("images", protocol.batch_size), every=log_seconds,
        start=start, closing=True,
    )  # fmt: skip

    def effort() -> Effort:
        peaks = [peak for peak in (before.peak_memory, runtime.peak_memory()) if peak is not None]
        return Effort(before.seconds + progress.seconds, max(peaks, default=None))

    rates: dict[int, float] = {}

    def tell(step: int, values: dict[str, float]) -> None:
        rate, loss = rates.pop(step), sum(values.values())
        if curve is not None:
            curve.add(step, rate, loss, values)
        progress.update(step + 1, f"loss {loss:.3f}")

    losses_of_steps = LossReader(tell, runtime)

    def save(step: int) -> None:
        losses_of_steps.finish()  # no checkpoint once a loss was not finite
        if curve is None:
            return
        # The curve first: a checkpoint must never be ahead of the curve that leads to it.
        curve.flush()
        state = {part: thing.state_dict() for part, thing in parts.items()}
        threads = torch.get_num_threads()
        save_checkpoint(folder, {**state, "step": step, "num_threads": threads, **asdict(effort())})

    model.train()
    last_save = time.monotonic()
    for step, batch in _steps(task.train_batches(start, runtime), start, protocol.num_steps):
        seed_step(seed, step)
        rates[step] = set_rates(step)
        with autocast(protocol, device):
            losses = task.losses(network, batch, device)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()
        if protocol.clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), protocol.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            average.update(model, step + 1)
        told = runtime.all_gather((task.image_ids(batch), runtime.stop.by))
        losses_of_steps.add(step, losses, [image_id for ids, _ in told for image_id in ids])
        stop = next((by for _, by in told if by), None)
        if step + 1 == protocol.num_steps:
            break
        if evaluate_every and (step + 1) % evaluate_every == 0:
            losses_of_steps.finish()
            align(model, runtime)
            try:
                with progress.paused(), undisturbed(model, device):
                    evaluate(step + 1)
            except (PrunedError, StoppedError):
                save(step + 1)
                raise
        if stop or time.monotonic() - last_save > checkpoint_seconds:
            save(step + 1)
            last_save = time.monotonic()
        if stop:
            raise StoppedError(
                f"{stop} after step {step + 1} of {protocol.num_steps}; the same "
                "command goes on from there"
            )
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    align(model, runtime)
    save(protocol.num_steps)
    return effort()


@torch.no_grad()
def predict(
    task: Task,
    model: nn.Module,
    protocol: Protocol,
    *,
    num_images: int,
    runtime: Runtime,
    log_seconds: float = 10.0,
) -> tuple[list[Prediction], float]:
    """What the model says of every validation image, in order, and images per second.

    Of several processes each takes a part, and the main one alone is given the predictions.
    Raises StoppedError when `runtime.stop` is set.
    """
    model.eval()
    predictions: list[Prediction] = []
    progress = Progress("evaluate", num_images, rate=("images", 1), every=log_seconds, closing=True)
    done = 0
    for batch in task.val_batches(runtime):
        with autocast(protocol, runtime.device):
            predictions += task.predict(model, batch, runtime.device)
        done += len(task.image_ids(batch))
        # The others are about as far
        progress.update(min(done * runtime.world_size, num_images))
        if runtime.stop.by:
            raise StoppedError(
                f"{runtime.stop.by} in evaluation; the same command goes on from the checkpoint"
            )
    whole = list(chain(*runtime.gather(predictions)))
    return whole, num_images / max(progress.seconds, 1e-9)


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Give every module its mode back afterwards, and every generator of random numbers its state.

    Statistics of batch norm stay as they are while modules are in evaluation mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 what others may draw from
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, is_training in modes:
                module.training = is_training
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def seed_step(seed: int, step: int) -> None:
    """Make the random numbers of a step depend on (seed, step) alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))


def autocast(protocol: Protocol, device: torch.device) -> torch.autocast:
    """The protocol's precision as a context."""
    if protocol.precision == "float32":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, getattr(torch, protocol.precision))


def _steps(batches: Iterator[Any], start: int, end: int) -> Iterator[tuple[int, Any]]:
    return zip(range(start, end), batches, strict=False)  # the batches never end


def _go_on(
    parts: dict[str, Any], folder: Path, num_steps: int, runtime: Runtime
) -> tuple[int, Effort]:
    """Load what a checkpoint holds of `parts`; returns its step and what it took so far.

    The main process first, which sets aside a checkpoint that cannot be used.
    """
    if runtime.is_main:
        checkpoint = resume(parts, folder, runtime.device, num_steps)
    runtime.broadcast("the checkpoint is read")
    if not runtime.is_main:
        checkpoint = resume(parts, folder, runtime.device, num_steps)
    if checkpoint is None:
        return 0, Effort()
    threads = checkpoint.get("num_threads")
    if not runtime.is_gpu and threads not in (None, torch.get_num_threads()):
        log.warning(
            "the checkpoint was computed with %d threads and this process has %d: the weights "
            "will not be those of one uninterrupted run to the bit; set job.num_threads",
            threads, torch.get_num_threads(),
        )  # fmt: skip
    return checkpoint["step"], Effort(checkpoint["seconds"], checkpoint["peak_memory"])

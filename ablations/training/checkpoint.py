"""The checkpoint of a training: written in one step, checked before it is believed."""

import logging
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ablations.storage import replacing, set_aside

log = logging.getLogger(__name__)

FILE_NAME = "checkpoint.pt"
_REQUIRED = ("model", "step", "seconds", "peak_memory")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the remedy."""


def load_checkpoint(folder: Path, device: torch.device, num_steps: int) -> dict[str, Any] | None:
    """The run's checkpoint, or None: `model`, `step`, its effort, `optimizer` until the end.

    Raises CheckpointError for a file that is empty, cut short, or none of a training of `num_steps`
    steps.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a dozen types for damaged files
        told = str(error).splitlines()
        # torch advises weights_only=False, which would run what the file says
        reason = told[0] if told and "weights_only" not in told[0] else type(error).__name__
        raise _unusable(path, f"not a whole checkpoint ({reason})") from error
    missing = [name for name in _REQUIRED if not isinstance(content, dict) or name not in content]
    if missing:
        raise _unusable(path, f"{missing[0]!r} is missing in it")
    if problem := _problem(content, num_steps):
        raise _unusable(path, problem)
    return content


def _problem(content: dict[str, Any], num_steps: int) -> str | None:
    """Why what a checkpoint holds cannot be of a training; None where it can."""
    model, step, seconds, peak = (content[name] for name in _REQUIRED)
    if not isinstance(model, dict) or not all(isinstance(t, torch.Tensor) for t in model.values()):
        return "its model is no mapping of names to tensors"
    if type(step) is not int or not 0 <= step <= num_steps:
        return f"its step is {step!r}, no whole number from 0 to {num_steps}"
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        return f"its seconds are {seconds!r}, no number from 0 up"
    if peak is not None and (type(peak) is not int or peak < 0):
        return f"its peak_memory is {peak!r}, no whole number from 0 up"
    return None


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Replace the run's checkpoint in one step; raises StorageError."""
    with replacing(folder / FILE_NAME) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch, closing its archive, hides that the disk was full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def resume(
    parts: dict[str, Any], folder: Path, device: torch.device, num_steps: int
) -> dict[str, Any] | None:
    """Load a checkpoint into `parts` (`model`, `optimizer`, ...) and return it.

    One that cannot be used is set aside, with a word, and None is returned as if there were none.
    """
    try:
        checkpoint = load_checkpoint(folder, device, num_steps)
        if checkpoint is None:
            return None
        _check_fits(parts, checkpoint, folder / FILE_NAME, num_steps)
        _load(parts, checkpoint, folder / FILE_NAME)
    except CheckpointError as error:
        aside = set_aside(folder / FILE_NAME)
        log.warning("%s; it is set aside as %s, and training starts anew", error, aside.name)
        return None
    log.info("going on from step %d (%s)", checkpoint["step"], folder / FILE_NAME)
    return checkpoint


def _load(parts: dict[str, Any], checkpoint: dict[str, Any], path: Path) -> None:
    """Load all parts that it holds, or change none: once training has ended it is the model."""
    held = {name: part for name, part in parts.items() if name in checkpoint}
    fresh = {name: deepcopy(part.state_dict()) for name, part in held.items()}
    try:
        for name, part in held.items():
            _load_part(part, checkpoint[name], name, path)
    except CheckpointError:
        for name, part in held.items():
            part.load_state_dict(fresh[name])
        raise


def _load_part(part: Any, state: Any, name: str, path: Path) -> None:
    # timm's optimizers keep what they like in their groups, torch's only settings
    is_known = type(part) in (torch.optim.SGD, torch.optim.AdamW)
    settings = _settings(part) if is_known else None
    try:
        part.load_state_dict(state)
    except Exception as error:  # each part has its own types for what it cannot take
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _unusable(path, f"its {name} cannot be loaded ({reason})") from error
    if is_known and not (_settings(part) == settings and _fits_weights(part)):
        raise _unusable(path, f"its {name} is none of this training")


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What the groups are set to, but for the rate, which every step sets."""
    groups = optimizer.state_dict()["param_groups"]
    return [{k: v for k, v in group.items() if k not in ("lr", "initial_lr")} for group in groups]


def _fits_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether what is remembered of each weight has its shape."""
    return all(
        not isinstance(value, torch.Tensor) or value.dim() == 0 or value.shape == weight.shape
        for weight, state in optimizer.state.items()
        for value in state.values()
    )


def _check_fits(
    parts: dict[str, Any], checkpoint: dict[str, Any], path: Path, num_steps: int
) -> None:
    """What is missing or has other shapes; told before anything is loaded."""
    model: nn.Module = parts["model"]
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    saved = {name: tensor.shape for name, tensor in checkpoint["model"].items()}
    if wrong := sorted(name for name in shapes | saved if shapes.get(name) != saved.get(name)):
        raise _unusable(path, f"its {wrong[0]} does not fit this model")
    needed = [] if checkpoint["step"] >= num_steps else [n for n in parts if n not in checkpoint]
    if needed:
        raise _unusable(path, f"{needed[0]!r} is missing in it")


def _unusable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: {reason}; move it away and the same command trains anew")

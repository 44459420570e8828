"""The only loops: `fit` trains a detector, `predict` applies it.

Both take plain values, no configuration framework. A run continued after a kill ends with the same
weights as one that was never interrupted (bit for bit on a CPU): the batch of a step and the random
numbers drawn in it depend on (seed, step) alone, so a checkpoint needs no generator states.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor, nn

from ablations.config import ProtocolConfig
from ablations.progress import Progress
from ablations.record import write_atomically
from ablations.training import runtime

log = logging.getLogger(__name__)

Batch = tuple[list[Tensor], list[dict[str, Any]]]
MASK_THRESHOLD = 0.5  # Mask R-CNN, Sec. 3.1 (arXiv 1703.06870)
NUM_CURVE_POINTS = 1000


class NonFiniteLossError(RuntimeError):
    """A loss is infinite or not a number; the message names step, losses and images."""


@dataclass(frozen=True)
class Effort:
    """What a training took in all, before and after interruptions."""

    seconds: float = 0.0
    peak_memory: int = 0
    """Bytes."""


def learning_rate(protocol: ProtocolConfig, step: int) -> float:
    """The rate of a step (counted from 0): linear warm-up, then a drop at each milestone."""
    rate = protocol.learning_rate
    if step < protocol.warmup_steps:
        done = step / protocol.warmup_steps
        rate *= protocol.warmup_factor * (1 - done) + done
    return rate * protocol.gamma ** sum(step >= milestone for milestone in protocol.milestones)


def optimizer_of(model: nn.Module, protocol: ProtocolConfig) -> torch.optim.SGD:
    """SGD with momentum and weight decay on every parameter that trains."""
    return torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=protocol.learning_rate,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )


def fit(
    model: nn.Module,
    batches_from: Callable[[int], Iterator[Batch]],
    protocol: ProtocolConfig,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    checkpoint_seconds: float = 60.0,
    log_seconds: float = 10.0,
) -> Effort:
    """Train `model` in place for `protocol.num_steps`, going on from a checkpoint in `folder`.

    `batches_from(step)` yields the batches from that step on. Writes checkpoint.pt and
    curve.jsonl. Raises NonFiniteLossError.
    """
    optimizer = optimizer_of(model, protocol)
    scaler = torch.amp.GradScaler(device.type, enabled=protocol.precision == "float16")
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scaler": scaler}
    start, before = _resume(parts, folder, device)
    curve = _Curve(folder / "curve.jsonl", start, protocol.num_steps)
    progress = Progress(
        "train",
        protocol.num_steps,
        rate=("images", protocol.batch_size),
        every=log_seconds,
        start=start,
        closing=True,
    )
    model.train()
    last_save = time.monotonic()

    def effort() -> Effort:
        memory = max(before.peak_memory, runtime.peak_memory(device))
        return Effort(before.seconds + progress.seconds, memory)

    def save(step: int) -> None:
        # The curve first: a checkpoint must never be ahead of the curve that leads to it.
        curve.flush()
        state = {part: thing.state_dict() for part, thing in parts.items()}
        save_checkpoint(folder, {**state, "step": step, **asdict(effort())})

    if start == protocol.num_steps:
        return before
    for step, (images, targets) in zip(
        range(start, protocol.num_steps), batches_from(start), strict=False
    ):
        seed_step(seed, step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(protocol, step)
        losses = _losses(model, images, targets, protocol, device)
        total = sum(losses.values(), torch.zeros((), device=device))
        values = {name: value.item() for name, value in losses.items()}
        _refuse_non_finite(values, step, targets)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()
        if protocol.clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), protocol.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        loss = sum(values.values())
        curve.add(step, learning_rate(protocol, step), loss, values)
        progress.update(step + 1, f"loss {loss:.3f}")
        if time.monotonic() - last_save > checkpoint_seconds:
            save(step + 1)
            last_save = time.monotonic()
    save(protocol.num_steps)
    return effort()


@torch.no_grad()
def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    num_images: int,
    category_ids: list[int],
    *,
    protocol: ProtocolConfig,
    device: torch.device,
    log_seconds: float = 10.0,
) -> tuple[list[dict[str, Any]], float]:
    """Detections of every image in COCO's results format, and images per second.

    `category_ids[k - 1]` is the category of label k. Boxes are rounded to hundredths of a pixel and
    scores to six decimals; what is scored is what is stored.
    """
    model.eval()
    detections: list[dict[str, Any]] = []
    progress = Progress("evaluate", num_images, rate=("images", 1), every=log_seconds, closing=True)
    done = 0
    for images, targets in batches:
        with _autocast(protocol, device):
            outputs = model([_as_input(image, device) for image in images])
        for output, target in zip(outputs, targets, strict=True):
            detections += as_results(output, int(target["image_id"]), category_ids)
        done += len(images)
        progress.update(done, f"{len(detections)} detections")
    return detections, done / max(progress.seconds, 1e-9)


def as_results(
    output: dict[str, Tensor], image_id: int, category_ids: list[int]
) -> list[dict[str, Any]]:
    """One image's torchvision output as COCO results: boxes (x, y, w, h), masks as RLE."""
    boxes = output["boxes"].double().cpu().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    scores, labels = output["scores"].double().tolist(), output["labels"].tolist()
    results: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": [round(float(value), 2) for value in box],
            "score": round(score, 6),
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    if "masks" in output:
        masks = (output["masks"][:, 0] > MASK_THRESHOLD).to(torch.uint8).cpu().numpy()
        for result, mask in zip(results, masks, strict=True):
            encoded = rle.encode(np.asfortranarray(mask))
            size = [int(side) for side in encoded["size"]]
            result["segmentation"] = {"size": size, "counts": encoded["counts"].decode()}
    return results


def seed_step(seed: int, step: int) -> None:
    """Make the random numbers of a step depend on (seed, step) alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The run's checkpoint, or None: `model`, `step`, its effort, `optimizer` until the end."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    return torch.load(path, map_location=device, weights_only=True)


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Replace the run's checkpoint in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    # One name, so that what a kill leaves is overwritten: the run's folder is ours alone
    temporary = folder / ".checkpoint.pt.partial"
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "checkpoint.pt")


def _resume(parts: dict[str, Any], folder: Path, device: torch.device) -> tuple[int, Effort]:
    """Load what a checkpoint holds of `parts`; returns its step and what it took so far."""
    checkpoint = load_checkpoint(folder, device)
    if checkpoint is None:
        return 0, Effort()
    for name, part in parts.items():
        if name in checkpoint:  # only the model is kept once training has ended
            part.load_state_dict(checkpoint[name])
    log.info("going on from step %d (%s)", checkpoint["step"], folder / "checkpoint.pt")
    return checkpoint["step"], Effort(checkpoint["seconds"], checkpoint["peak_memory"])


def _losses(
    model: nn.Module,
    images: list[Tensor],
    targets: list[dict[str, Any]],
    protocol: ProtocolConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    inputs = [_as_input(image, device) for image in images]
    wanted = ("boxes", "labels", "masks")
    on_device = [
        {name: target[name].to(device, non_blocking=True) for name in wanted if name in target}
        for target in targets
    ]
    with _autocast(protocol, device):
        return model(inputs, on_device)


def _as_input(image: Tensor, device: torch.device) -> Tensor:
    # uint8 until here: a quarter of the bytes to move
    return image.to(device, non_blocking=True).float() / 255


def _autocast(protocol: ProtocolConfig, device: torch.device) -> torch.autocast:
    if protocol.precision == "float32":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, getattr(torch, protocol.precision))


def _refuse_non_finite(values: dict[str, float], step: int, targets: list[dict[str, Any]]) -> None:
    if all(math.isfinite(value) for value in values.values()):
        return
    images = ", ".join(str(int(target["image_id"])) for target in targets)
    losses = ", ".join(f"{name} {value:g}" for name, value in values.items())
    raise NonFiniteLossError(
        f"step {step}: a loss is not finite ({losses}) on images {images}; lower "
        "protocol.learning_rate, set protocol.clip_norm, or look at these images"
    )


class _Curve:
    """About a thousand rows of the losses; rows beyond the step resumed from are dropped."""

    def __init__(self, path: Path, start: int, num_steps: int) -> None:
        self.path = path
        self.every = max(1, num_steps // NUM_CURVE_POINTS)
        self.rows: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) < start]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def add(self, step: int, rate: float, loss: float, values: dict[str, float]) -> None:
        if step % self.every == 0:
            row = {"step": step, "learning_rate": rate, "loss": loss, **values}
            self.rows.append(json.dumps(row) + "\n")

    def flush(self) -> None:
        with self.path.open("a") as file:
            file.writelines(self.rows)
            file.flush()
            os.fsync(file.fileno())
        self.rows.clear()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line cut short by a kill

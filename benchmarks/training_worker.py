"""One contender of the training benchmark in a process of its own, which answers its parent.

    python training_worker.py '{"code": "ours", ...}'

Each line of input names a method of `Worker` and its arguments, in JSON; a line answers it.
"""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from training_data import former_batches, lists_of, open_splits
from training_models import build
from waits import as_on_gpu, counted

NUM_BATCHES = 4
PROFILED_STEPS = 3


class Worker:
    """A model, its data and its optimizer.

    Steps are compared with SGD, at a rate at which nothing diverges; learning has AdamW and half a
    cosine, the same for every code.
    """

    def __init__(self, settings: Namespace) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        self.train, self.val = open_splits(
            settings.data, Path(settings.root), tuple(settings.size), settings.num_images,
            masks=settings.detector == "mask_rcnn",
        )  # fmt: skip
        torch.manual_seed(0)
        self.model: Any = build(settings, len(self.train.categories)).to(self.device)
        if settings.code != "torchvision":
            self.model = self.model.to(memory_format=torch.channels_last)
        if settings.code == "ours":
            self.prepare_as_a_run()
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.01, momentum=0.9
        )
        self.clip_norm = 10.0
        self.is_finite = True  # where it is read at every step
        if settings.learn:
            self.prepare_to_learn()
        self.batches = self.stream()
        self.kept = list(islice(self.batches, NUM_BATCHES))
        self.num_steps = 0
        self.turn(1)

    def prepare_as_a_run(self) -> None:
        """What `ablations.computing` does before it trains."""
        from ablations.runtime import keep_freed_memory

        keep_freed_memory(self.device)
        if self.settings.compile:
            self.model.compile(mode=self.settings.compile)

    def prepare_to_learn(self) -> None:
        """The recipe of `protocol=smoke`, at this size and length."""
        from ablations.config import ProtocolConfig
        from ablations.training.optimizer import optimizer_of

        self.protocol = ProtocolConfig(
            optimizer="adamw", schedule="cosine", learning_rate=1e-3, weight_decay=0.01,
            num_steps=self.settings.learn, warmup_steps=min(40, self.settings.learn // 10),
        )  # fmt: skip
        self.optimizer = optimizer_of(self.model, self.protocol)
        self.clip_norm = 1.0

    def stream(self) -> Iterator[Any]:
        """Batches as the contender's own code makes them; torchvision gets ours as lists."""
        settings = self.settings
        if settings.code == "former":
            return former_batches(self.train, settings.batch_size, tuple(settings.size))
        from ablations.data import Sides, train_batches

        sides = Sides([settings.size[0]], settings.size[1])
        batches = train_batches(self.train, settings.batch_size, seed=0, sides=sides)
        return map(lists_of, batches) if settings.code == "torchvision" else batches

    def losses(self, batch: Any) -> dict[str, Tensor]:
        if self.settings.code == "alone":
            maps = self.model(batch.images.to(self.device).float() / 255)
            return {str(k): each.float().mean() for k, each in enumerate(maps)}
        if self.settings.code == "ours":
            return self.model(batch.to(self.device))
        images, targets = batch
        return self.model(
            [image.to(self.device).float() / 255 for image in images],
            [{k: value.to(self.device) for k, value in target.items()} for target in targets],
        )

    def step(self, batch: Any) -> None:
        """As the training loop does it: the former one, like torchvision's, reads its losses."""
        with self.autocast():
            losses = self.losses(batch)
        if self.settings.code in ("former", "torchvision"):
            self.is_finite = all(loss.isfinite().item() for loss in losses.values())
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()

    def autocast(self) -> torch.autocast:
        low = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def turn(self, num_steps: int) -> dict[str, float]:
        """Seconds a step, by the clock and of the processor."""
        self.model.train()
        self.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        for k in range(num_steps):
            self.step(self.kept[k % NUM_BATCHES])
        self.synchronize()
        return {
            "seconds": (time.perf_counter() - wall) / num_steps,
            "cpu_seconds": (time.process_time() - cpu) / num_steps,
        }

    def describe(self) -> dict[str, Any]:
        """What a step consists of; seconds of one at which it is all convolutions at full speed."""
        batch = self.kept[0]
        with FlopCounterMode(display=False) as flops:
            self.step(batch)
        with as_on_gpu() if self.settings.code == "ours" else nullcontext(), counted() as waits:
            self.step(batch)
        with Convolutions() as convolutions:
            self.step(batch)
        told = {
            "flops": flops.get_total_flops(),
            "waits": sum(waits.values()),
            "seconds_at_peak": convolutions.seconds_at_peak(self.device, self.synchronize),
        }
        return told | self.profiled(batch) | {"is_finite": self.is_finite}

    def profiled(self, batch: Any) -> dict[str, Any]:
        """Seconds in convolutions a step; on a GPU kernels, busy share and peak memory too."""
        activities = [ProfilerActivity.CPU]
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.reset_peak_memory_stats(self.device)
        begun = time.perf_counter()
        with profile(activities=activities) as profiler:
            for _ in range(PROFILED_STEPS):
                self.step(batch)
            self.synchronize()
        seconds = time.perf_counter() - begun
        if not on_gpu:
            inside = sum(e.self_cpu_time_total for e in profiler.key_averages() if "conv" in e.key)
            return {"convolution_seconds": inside / 1e6 / PROFILED_STEPS}
        kernels = [e for e in profiler.events() if e.device_type.name == "CUDA"]
        names = ("aten::cudnn_convolution", "aten::convolution_backward")
        averages = profiler.key_averages()
        inside = sum(e.device_time_total for e in averages if e.key in names)
        return {
            "convolution_seconds": inside / 1e6 / PROFILED_STEPS,
            "kernels": len(kernels) // PROFILED_STEPS,
            "busy": sum(e.self_device_time_total for e in kernels) / 1e6 / seconds,
            "peak_bytes": torch.cuda.max_memory_allocated(self.device),
        }

    def learn(self, num_steps: int) -> dict[str, float]:
        """AP after so many more steps on fresh batches, and the seconds they took."""
        from ablations.training.optimizer import learning_rate

        self.model.train()
        begun = time.perf_counter()
        for _ in range(num_steps):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.protocol, self.num_steps)
            self.step(next(self.batches))
            self.num_steps += 1
        self.synchronize()
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "steps": self.num_steps, "AP": self.average_precision()}

    @torch.no_grad()
    def average_precision(self) -> float:
        """Of boxes, on the validation images."""
        from ablations.data import Sides, val_batches
        from ablations.tasks.detection import as_results, score

        self.model.eval()
        ids = [category["id"] for category in self.val.categories]
        sides = Sides([self.settings.size[0]], self.settings.size[1])
        results = []
        for batch in val_batches(self.val, self.settings.batch_size, sides=sides):
            with self.autocast():
                outputs = self.found(batch)
            for output, image_id in zip(outputs, batch.image_ids, strict=True):
                results += as_results(output, image_id, ids)
        return score(self.val.truth, results, with_masks=False).metrics["AP"] or 0.0

    def found(self, batch: Any) -> list[dict[str, Tensor]]:
        """Detections in the images' own pixels."""
        if self.settings.code == "ours":
            return self.model(batch.to(self.device))
        images, _ = lists_of(batch)
        outputs = self.model([image.to(self.device).float() / 255 for image in images])
        for output, image, original in zip(outputs, images, batch.original_sizes, strict=True):
            vertical, horizontal = original[0] / image.shape[1], original[1] / image.shape[2]
            ratio = output["boxes"].new_tensor([horizontal, vertical, horizontal, vertical])
            output["boxes"] = output["boxes"] * ratio
            output.pop("masks", None)
        return outputs


class Convolutions(TorchDispatchMode):
    """Remembers every convolution of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function._schema.name == "aten::convolution":
            x, weight, _, stride, padding, dilation, transposed, _, groups = args
            if not transposed:
                self.calls.append((x.shape, weight.shape, x.dtype, tuple(stride), tuple(padding),
                                   tuple(dilation), groups))  # fmt: skip
        return function(*args, **(kwargs or {}))

    def seconds_at_peak(self, device: torch.device, synchronize: Any) -> float:
        """What plain convolutions of these shapes take, three times: once forward, twice back."""
        best: dict[tuple[Any, ...], float] = {}
        for call in set(self.calls):
            shape, of_weight, dtype, *options = call
            x, weight = (
                torch.randn(s, device=device).to(dtype, memory_format=torch.channels_last)
                for s in (shape, of_weight)
            )
            for _ in range(4):
                synchronize()
                begun = time.perf_counter()
                F.conv2d(x, weight, None, *options)
                synchronize()
                seconds = time.perf_counter() - begun
                best[call] = min(best.get(call, seconds), seconds)
        return 3 * sum(best[call] for call in self.calls)


def main() -> None:
    """Answer the parent's questions, a line of JSON each."""
    worker = Worker(Namespace(**json.loads(sys.argv[1])))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *values = json.loads(line)
        print(json.dumps(getattr(worker, name)(*values)), flush=True)


if __name__ == "__main__":
    main()

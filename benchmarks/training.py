"""What a training step costs: this project's, torchvision's, and that of an earlier checkout.

    python benchmarks/training.py                                   # light detectors, this machine
    python benchmarks/training.py --former ../before                # an earlier commit beside it
    python benchmarks/training.py --device cuda --size 800 1333 --batch-size 16 \\
        --backbone detnet59 --peer resnet50 --detector mask_rcnn faster_rcnn --full
    python benchmarks/training.py --learn 300 --device cpu          # AP against wall time
    python benchmarks/training.py --dry-run                         # a step of everything

Every contender is a process of its own with the same glyphs already in memory. They take turns,
three steps a turn, and the medians over the turns are compared. CPU seconds of the process stand
beside wall time: on a busy machine only they mean anything. Told beside:

- share: what the step reaches of the machine's own peak, which is a plain convolution's
- outside: the step without its convolutions, by torch's profiler
- waits: what would make the host wait for a GPU in a step (`benchmarks/waits.py`)
- on a GPU: peak memory, kernels a step, and the share of time in which it is busy
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).resolve().parent
STEPS_A_TURN = 3
NUM_BATCHES = 4
LIGHT = HERE.parent / "conf" / "detector"
"""Where the light detectors' fields stand, as <detector>_light.yaml; RetinaNet has none."""

Losses = Callable[[Any], dict[str, Tensor]]


@dataclass(frozen=True)
class Contender:
    """A detector of some code on some backbone."""

    code: str  # ours, former or torchvision
    backbone: str
    detector: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.code} {self.backbone} {self.detector} {self.precision}"


# what a process measures


def spec_of(detector: str, full: bool) -> Any:
    """The detector's fields, those that its checkout knows."""
    from detnet.detection import DETECTORS

    kind = DETECTORS[detector]
    light = {} if full else dict(OmegaConf.load(LIGHT / f"{detector}_light.yaml"))
    return kind(**{each.name: light[each.name] for each in fields(kind) if each.name in light})


def body_of(backbone: str) -> nn.Module:
    import timm

    import detnet  # noqa: F401  (registers the zoo with timm)

    return timm.create_model(backbone, features_only=True)


def build_ours(args: argparse.Namespace, num_classes: int) -> nn.Module:
    return spec_of(args.detector, args.full).build(body_of(args.backbone), num_classes)


def build_former(args: argparse.Namespace, num_classes: int) -> nn.Module:
    short, long = args.size
    spec = spec_of(args.detector, args.full)
    return spec.build(body_of(args.backbone), num_classes, short_side=short, long_side=long)


class PeerBackbone(nn.Module):
    """A timm network under torchvision's own pyramid."""

    def __init__(self, body: Any, channels: int) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        self.body = body
        self.first = list(body.feature_info.reduction()).index(4)
        widths = body.feature_info.channels()[self.first :]
        self.pyramid = FeaturePyramidNetwork(widths, channels, extra_blocks=LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> maps by name."""
        maps = self.body(x)[self.first :]
        return self.pyramid({str(k): each for k, each in enumerate(maps)})


def build_torchvision(args: argparse.Namespace, num_classes: int) -> nn.Module:
    """torchvision's detector with the same numbers."""
    from torchvision.models.detection import FasterRCNN, MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    spec = spec_of(args.detector, args.full)
    backbone = PeerBackbone(body_of(args.backbone), spec.channels)
    sizes = tuple((spec.anchor_size * 2**k,) for k in range(5))
    options: dict[str, Any] = {
        "min_size": args.size[0], "max_size": args.size[1],
        "rpn_anchor_generator": AnchorGenerator(sizes, (tuple(spec.anchor_ratios),) * 5),
        "rpn_pre_nms_top_n_train": spec.num_proposals_before_nms_train,
        "rpn_pre_nms_top_n_test": spec.num_proposals_before_nms_test,
        "rpn_post_nms_top_n_train": spec.num_proposals_train,
        "rpn_post_nms_top_n_test": spec.num_proposals_test,
        "box_batch_size_per_image": spec.num_sampled_rois,
        "box_score_thresh": spec.score_threshold,
        "box_head": TwoMLPHead(spec.channels * 49, spec.box_head_channels),
        "box_predictor": FastRCNNPredictor(spec.box_head_channels, num_classes + 1),
    }  # fmt: skip
    if args.detector == "faster_rcnn":
        return FasterRCNN(backbone, **options)
    width = spec.mask_head_channels
    return MaskRCNN(
        backbone,
        mask_head=MaskRCNNHeads(spec.channels, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, num_classes + 1),
        **options,
    )


def as_lists(batch: Any, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A former checkout's batch as torchvision takes it."""
    images, targets = batch
    names = ("boxes", "labels", "masks", "has_mask", "ignored_boxes")
    given = [{name: t[name].to(device) for name in names if name in t} for t in targets]
    return [image.to(device).float() / 255 for image in images], given


def lists_of(batch: Any) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Our batch as a former checkout gave it: images and targets of one size each."""
    images, targets, first = [], [], 0
    for k, (height, width) in enumerate(batch.sizes.tolist()):
        num = int(batch.targets.is_object[k].sum())
        target = {"boxes": batch.targets.boxes[k, :num], "labels": batch.targets.labels[k, :num]}
        if batch.targets.masks is not None:
            target["masks"] = batch.targets.masks[first : first + num, :height, :width]
            first += num
        images.append(batch.images[k, :, :height, :width])
        targets.append(target)
    return images, targets


class Worker:
    """One contender in this process."""

    def __init__(self, args: argparse.Namespace) -> None:
        from ablations.data import GlyphsData, open_data

        self.args = args
        self.device = torch.device(args.device)
        data = GlyphsData(num_train=args.num_images, num_val=args.num_images // 4,
                          image_size=args.size[0])  # fmt: skip
        with_masks = args.detector == "mask_rcnn"
        self.train, self.val = (open_data(data, split, masks=with_masks) for split in SPLITS)
        torch.manual_seed(0)
        build = {"ours": build_ours, "former": build_former, "torchvision": build_torchvision}
        model: Any = build[args.code](args, len(self.train.categories)).to(self.device)
        self.model = (
            model if args.code == "torchvision" else model.to(memory_format=torch.channels_last)
        )
        if args.compile:
            self.model.dense = torch.compile(model.dense, mode=args.compile)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.batches = self.stream()
        self.kept = [next(self.batches) for _ in range(NUM_BATCHES)]
        self.num_steps = 0

    def stream(self) -> Any:
        """Batches as the contender's own code makes them; torchvision gets ours as lists."""
        from ablations.data import train_batches

        if self.args.code == "former":
            return train_batches(self.train, self.args.batch_size, seed=0)
        from ablations.data import Sides

        sides = Sides([self.args.size[0]], self.args.size[1])
        batches = train_batches(self.train, self.args.batch_size, seed=0, sides=sides)
        return map(lists_of, batches) if self.args.code == "torchvision" else batches

    def losses(self, batch: Any) -> dict[str, Tensor]:
        if self.args.code == "ours":
            return self.model(batch.to(self.device))
        return self.model(*as_lists(batch, self.device))

    def step(self, batch: Any) -> None:
        """As the training loop does it: the former ones read their losses."""
        with self.autocast():
            losses = self.losses(batch)
        if self.args.code != "ours":
            assert all(loss.isfinite().item() for loss in losses.values())
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.num_steps += 1

    def autocast(self) -> torch.autocast:
        low = self.args.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def turn(self, num_steps: int) -> dict[str, float]:
        """Seconds a step, by the clock and of the processor."""
        self.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        for k in range(num_steps):
            self.step(self.kept[k % NUM_BATCHES])
        self.synchronize()
        return {
            "seconds": (time.perf_counter() - wall) / num_steps,
            "cpu_seconds": (time.process_time() - cpu) / num_steps,
        }

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def describe(self) -> dict[str, Any]:
        """What one step consists of."""
        from waits import as_on_gpu, counted  # type: ignore[import-not-found]  # beside this file

        with FlopCounterMode(display=False) as flops:
            self.step(self.kept[0])
        with as_on_gpu() if self.args.code == "ours" else nullcontext(), counted() as waits:
            self.step(self.kept[0])
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.reset_peak_memory_stats(self.device)
        begun = time.perf_counter()
        with profile(activities=activities) as profiled:
            self.step(self.kept[0])
            self.synchronize()
        seconds = time.perf_counter() - begun
        told: dict[str, Any] = {"flops": flops.get_total_flops(), "waits": dict(waits)}
        if self.device.type == "cuda":
            kernels = [e for e in profiled.events() if e.device_type.name == "CUDA"]
            busy = sum(e.self_device_time_total for e in kernels) / 1e6
            told |= {"kernels": len(kernels), "busy": busy / seconds,
                     "peak_bytes": torch.cuda.max_memory_allocated(self.device)}  # fmt: skip
        averages = profiled.key_averages()
        total = sum(e.self_cpu_time_total for e in averages)
        convolution = sum(e.self_cpu_time_total for e in averages if "conv" in e.key)
        return told | {"outside": 1 - convolution / max(total, 1)}

    def learn(self, num_steps: int) -> dict[str, float]:
        """AP after so many more steps on fresh batches, and the seconds they took."""
        self.model.train()
        begun = time.perf_counter()
        for _ in range(num_steps):
            self.step(next(self.batches))
        self.synchronize()
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "steps": self.num_steps, "AP": self.average_precision()}

    @torch.no_grad()
    def average_precision(self) -> float:
        from ablations.tasks.detection import as_results, score

        self.model.eval()
        results = []
        ids = [category["id"] for category in self.val.categories]
        for index in range(len(self.val)):
            image, target = self.val[index]
            with self.autocast():
                (found,) = self.found(image, target)
            results += as_results(found, int(target["image_id"]), ids)
        with_masks = self.args.detector == "mask_rcnn"
        return score(self.val.truth, results, with_masks=with_masks).metrics["AP"] or 0.0

    def found(self, image: Tensor, target: dict[str, Any]) -> list[dict[str, Tensor]]:
        if self.args.code != "ours":
            return self.model([image.to(self.device).float() / 255])
        from detnet.detection import collate, resize

        return self.model(collate([resize((image, target), *self.args.size)]).to(self.device))


SPLITS = ("train", "val")


def serve(args: argparse.Namespace) -> None:
    """Answer the parent's questions, a line of JSON each."""
    worker = Worker(args)
    worker.turn(1)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *values = json.loads(line)
        print(json.dumps(getattr(worker, name)(*values)), flush=True)


# the parent


class Process:
    """A contender's process, and what it was asked."""

    def __init__(self, contender: Contender, args: argparse.Namespace) -> None:
        root = args.former if contender.code == "former" else HERE.parent
        options = {
            "code": contender.code, "backbone": contender.backbone,
            "detector": contender.detector, "precision": contender.precision,
            "device": args.device, "batch-size": args.batch_size, "num-images": args.num_images,
        }  # fmt: skip
        command = [sys.executable, "-W", "ignore", __file__, "--serve", "--size"]
        command += map(str, args.size)
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        command += ["--full"] if args.full else []
        if args.compile is not None and contender.code == "ours":
            command += ["--compile", args.compile]
        self.contender = contender
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip

    def answer(self) -> Any:
        """The next line; RuntimeError where the process ended."""
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"{self.contender.name} ended: see above")
        return json.loads(line)

    def ask(self, name: str, *values: Any) -> Any:
        """What the worker's method returns."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *values]) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a plain convolution of a usual shape, the best of several."""
    dtype = getattr(torch, precision)
    x = torch.randn(8, 256, 48, 48, device=device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
    weight = weight.to(memory_format=torch.channels_last)
    flops = 2 * 8 * 48 * 48 * 256 * 256 * 9
    best = 0.0
    for _ in range(6):
        begun = time.perf_counter()
        y = F.conv2d(x, weight, padding=1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, flops / (time.perf_counter() - begun))
        del y
    return best


def contenders(args: argparse.Namespace) -> list[Contender]:
    """Ours first, as what the others are compared with."""
    listed = []
    for detector in args.detector:
        listed += [Contender("ours", name, detector, "bfloat16") for name in args.backbone]
        if args.former is not None:
            listed += [Contender("former", name, detector, "bfloat16") for name in args.backbone]
        listed += [
            Contender("torchvision", args.peer, detector, p) for p in ("float32", "bfloat16")
        ]
    return listed


def compare_steps(processes: list[Process], args: argparse.Namespace) -> None:
    """Print a line for each contender."""
    turns: list[list[dict[str, float]]] = [[] for _ in processes]
    for _ in range(args.turns):
        for process, measured in zip(processes, turns, strict=True):
            measured.append(process.ask("turn", 1 if args.dry_run else STEPS_A_TURN))
    peaks = {p: peak(torch.device(args.device), p) for p in ("float32", "bfloat16")}
    print(", ".join(f"a convolution's {p}: {v / 1e9:.0f} GFLOP/s" for p, v in peaks.items()))
    for process, measured in zip(processes, turns, strict=True):
        told = process.ask("describe")
        seconds, cpu = (
            statistics.median(turn[name] for turn in measured)
            for name in ("seconds", "cpu_seconds")
        )
        share = told["flops"] / seconds / peaks[process.contender.precision]
        line = (
            f"{process.contender.name:48} {args.batch_size / seconds:7.1f} images/s  "
            f"{cpu:6.3f} CPU s  share {share:4.0%}  outside {told['outside']:4.0%}  "
            f"waits {sum(told['waits'].values())} {told['waits'] or ''}"
        )
        if "kernels" in told:
            line += (f"  {told['kernels']} kernels  busy {told['busy']:.0%}  "
                     f"{told['peak_bytes'] / 2**30:.1f} GiB")  # fmt: skip
        print(line, flush=True)


def compare_learning(processes: list[Process], args: argparse.Namespace) -> None:
    """Print AP against the seconds of training, a line for each tenth of the steps."""
    seconds = dict.fromkeys(range(len(processes)), 0.0)
    for _ in range(10):
        for index, process in enumerate(processes):
            told = process.ask("learn", max(1, args.learn // 10))
            seconds[index] += told["seconds"]
            print(f"{process.contender.name:48} step {told['steps']:5}  "
                  f"{seconds[index]:8.1f} s  AP {told['AP']:.3f}", flush=True)  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--former", type=Path, help="checkout of an earlier commit to measure too")
    parser.add_argument("--backbone", nargs="+", default=["detnet17", "detnet_resnet14"])
    parser.add_argument("--peer", default="resnet14t", help="torchvision's backbone, of timm")
    parser.add_argument(
        "--detector", nargs="+", default=["faster_rcnn"], choices=["faster_rcnn", "mask_rcnn"]
    )
    parser.add_argument("--size", type=int, nargs=2, default=[192, 320], help="short and long side")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-images", type=int, default=320)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--learn", type=int, metavar="STEPS", help="AP against time instead")
    parser.add_argument(
        "--full", action="store_true", help="the full detectors, not the light ones"
    )
    parser.add_argument(
        "--compile",
        choices=["default", "reduce-overhead", "max-autotune"],
        help="compile our dense part; reduce-overhead captures CUDA graphs where it can",
    )
    parser.add_argument("--dry-run", action="store_true", help="one step of each, at 64 pixels")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--code", help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure every contender in turns."""
    args = parse()
    if args.serve:
        args.backbone, args.detector = args.backbone[0], args.detector[0]
        serve(args)
        return 0
    if args.dry_run:
        args.size, args.batch_size, args.num_images, args.turns = [64, 64], 2, 8, 1
        args.backbone = ["detnet_atto"]
    device = "GPU" if args.device != "cpu" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}, {args.batch_size} images of {args.size} a step")
    processes = []
    try:
        for contender in contenders(args):
            processes.append(Process(contender, args))
            processes[-1].answer()
        (compare_steps if args.learn is None else compare_learning)(processes, args)
    finally:
        for process in processes:
            process.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

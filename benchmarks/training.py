"""What a training step costs: this project's, torchvision's, and that of an earlier checkout.

    python benchmarks/training.py                                   # light detectors on glyphs
    python benchmarks/training.py --data bccd glyphs --former ../before --backbone detnet17
    python benchmarks/training.py --data bccd --learn 300 --until-ap 0.54   # AP against wall time
    python benchmarks/training.py --device cuda --size 800 1333 --batch-size 16 --full \\
        --backbone detnet59 detnet_resnet50 --peer resnet50 --detector mask_rcnn faster_rcnn \\
        --alone detnet59 resnet50                                   # a GPU
    python benchmarks/training.py --dry-run ...                     # a step of all that is named

Every contender is a process of its own with the same images already in memory. They take turns,
three steps a turn, and the medians over the turns are compared. CPU seconds of the process stand
beside wall time: on a busy machine only they mean anything. Told beside:

- peak: the time in which plain convolutions of the step's shapes do its work, as a share of its own
- outside: seconds of the step outside convolutions, by torch's profiler
- waits: what would make the host wait for a GPU in a step (`benchmarks/waits.py`)
- on a GPU: peak memory, kernels a step, and the share of time in which it is busy
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from training_data import BCCD, HERE, SIZES

WORKER = "training_worker.py"
STEPS_A_TURN = 3
DRY_RUN = {"device": "cpu", "size": [64, 64], "batch_size": 2, "num_images": 8, "turns": 1}


@dataclass(frozen=True)
class Contender:
    """A detector of some code on some backbone, or a backbone alone."""

    code: str  # ours, former, torchvision or alone
    backbone: str
    detector: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.code} {self.backbone} {self.detector} {self.precision}"


class Process:
    """A contender's process, which is asked."""

    def __init__(self, contender: Contender, args: argparse.Namespace) -> None:
        root = args.former if contender.code == "former" else HERE.parent
        passed = ("data", "root", "size", "batch_size", "num_images", "device", "full", "compile",
                  "learn")  # fmt: skip
        settings = {**vars(contender), **{name: getattr(args, name) for name in passed}}
        self.contender = contender
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / WORKER), json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
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


def contenders(args: argparse.Namespace) -> list[Contender]:
    """Backbones alone, then each detector of every code."""
    listed = [Contender("alone", name, "", "bfloat16") for name in args.alone]
    for detector in args.detector:
        listed += [Contender("ours", name, detector, "bfloat16") for name in args.backbone]
        if args.former is not None:
            listed += [Contender("former", name, detector, "bfloat16") for name in args.backbone]
        listed += [
            Contender("torchvision", args.peer, detector, precision)
            for precision in args.peer_precision
        ]
    return listed


def compare_steps(processes: list[Process], args: argparse.Namespace) -> None:
    """Print a line for each contender, in medians over its turns."""
    turns: list[list[dict[str, float]]] = [[] for _ in processes]
    for _ in range(args.turns):
        for process, measured in zip(processes, turns, strict=True):
            measured.append(process.ask("turn", 1 if args.dry_run else STEPS_A_TURN))
    for process, measured in zip(processes, turns, strict=True):
        told = process.ask("describe")
        seconds, cpu = (
            statistics.median(turn[name] for turn in measured)
            for name in ("seconds", "cpu_seconds")
        )
        outside = seconds - told["convolution_seconds"]
        line = (
            f"{process.contender.name:46} {args.batch_size / seconds:7.1f} images/s  "
            f"{seconds:7.3f} s  {cpu:7.3f} CPU s  outside {outside:6.3f} s  "
            f"{told['flops'] / seconds / 1e9:7.0f} GFLOP/s  "
            f"peak {told['seconds_at_peak'] / seconds:4.0%}  waits {told['waits']}"
        )
        if "kernels" in told:
            line += (f"  {told['kernels']} kernels  busy {told['busy']:.0%}  "
                     f"{told['peak_bytes'] / 2**30:.1f} GiB")  # fmt: skip
        print(line + ("" if told["is_finite"] else "  losses not finite"), flush=True)


def compare_learning(processes: list[Process], args: argparse.Namespace) -> None:
    """Print AP against the seconds of training; who has reached the AP asked for is done."""
    seconds = dict.fromkeys(processes, 0.0)
    learning = list(processes)
    for _ in range(args.evaluations):
        for process in list(learning):
            told = process.ask("learn", max(1, args.learn // args.evaluations))
            seconds[process] += told["seconds"]
            print(f"{process.contender.name:46} step {told['steps']:5}  "
                  f"{seconds[process]:8.1f} s  AP {told['AP']:.3f}", flush=True)  # fmt: skip
            if args.until_ap is not None and told["AP"] >= args.until_ap:
                print(f"{process.contender.name:46} AP {args.until_ap} after "
                      f"{seconds[process]:.1f} s", flush=True)  # fmt: skip
                learning.remove(process)


def compare(data: str, args: argparse.Namespace) -> None:
    """Measure every contender in turns on one data set."""
    size = args.size or list(SIZES[data])
    args = argparse.Namespace(**{**vars(args), "data": data, "size": size})
    print(f"{data}, {args.batch_size} images of {args.size} a step", flush=True)
    processes: list[Process] = []
    try:
        for contender in contenders(args):
            processes.append(Process(contender, args))
            processes[-1].answer()
        (compare_learning if args.learn else compare_steps)(processes, args)
    finally:
        for process in processes:
            process.close()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["glyphs"], choices=sorted(SIZES))
    parser.add_argument("--root", default=str(BCCD), help="folder of bccd")
    parser.add_argument(
        "--former",
        type=Path,
        help="checkout of an earlier commit to measure too; run `python -m detnet_kernels.build` "
        "in it, or install numba for one that has no such package",
    )
    parser.add_argument("--backbone", nargs="+", default=["detnet17", "detnet_resnet14"])
    parser.add_argument("--peer", default="resnet14t", help="torchvision's backbone, of timm")
    parser.add_argument("--peer-precision", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument(
        "--detector", nargs="*", default=["faster_rcnn"],
        choices=["faster_rcnn", "mask_rcnn", "retinanet"],
    )  # fmt: skip
    parser.add_argument("--alone", nargs="+", default=[], help="backbones without a detector")
    parser.add_argument("--size", type=int, nargs=2, help="short and long side; the data's own")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-images", type=int, default=320, help="to train on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--learn", type=int, metavar="STEPS", help="AP against time instead")
    parser.add_argument("--evaluations", type=int, default=10, help="while learning")
    parser.add_argument("--until-ap", type=float, help="stop a contender once it has this AP")
    parser.add_argument("--full", action="store_true", help="detectors in full width")
    parser.add_argument(
        "--compile",
        choices=["default", "reduce-overhead", "max-autotune"],
        help="compile our dense part; reduce-overhead captures CUDA graphs where it can",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="a step of each on the CPU, at 64 pixels"
    )
    args = parser.parse_args()
    if args.dry_run:
        vars(args).update(DRY_RUN)
    return args


def main() -> int:
    """Measure on each data set."""
    args = parse()
    on = args.device if args.device != "cpu" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{on}, torch {torch.__version__}")
    for data in args.data:
        compare(data, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())

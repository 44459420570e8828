"""Running the project's own commands as a user does, small enough for tests."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 300  # seconds

# A run of seconds: eight steps of two small images, scored on four
TINY = [
    "backbone=detnet_atto",
    "detector.channels=16",
    "detector.box_head_channels=32",
    "detector.num_sampled_rois=16",
    "data.image_size=64",
    "protocol.short_side=[64]",
    "protocol.long_side=64",
    "protocol.batch_size=2",
    "protocol.num_steps=8",
    "protocol.milestones=[6]",
    "protocol.max_train_images=12",
    "protocol.max_val_images=4",
    "job.num_workers=0",
    "job.device=cpu",
]


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_module(
    module: str, *arguments: str, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m module` in a process of its own, forked from one that has torch imported.

    Importing torch, timm and Hydra takes longer than most of what is tested.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder) / name for name in ("out", "err"))
        process = _servers().Process(target=_as_main, args=(module, arguments, cwd, out, err))
        process.start()
        process.join(timeout=TIMEOUT)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{module} {arguments}: {out.read_text()} {err.read_text()}")
        return subprocess.CompletedProcess(
            command(module, *arguments), process.exitcode, out.read_text(), err.read_text()
        )


@cache
def _servers() -> Any:
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.train", "ablations.plan", "ablations.rescore"])
    return context


def _as_main(module: str, arguments: Sequence[str], cwd: Path, out: Path, err: Path) -> None:
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    # It is imported already, which is what makes this fast
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def train(
    runs: Path, *overrides: str, tiny: Sequence[str] = TINY
) -> "subprocess.CompletedProcess[str]":
    # Hydra takes its flags before the overrides only
    flags = [word for word in overrides if word.startswith("-")]
    words = [word for word in overrides if not word.startswith("-")]
    return run_module("ablations.train", *flags, *tiny, f"job.runs={runs}", *words)

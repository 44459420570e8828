"""Running the project's own commands as a user does, small enough for tests."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

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
    return subprocess.run(
        command(module, *arguments), cwd=cwd, capture_output=True, text=True, env=environment(),
        check=False, timeout=300,
    )  # fmt: skip


def train(
    runs: Path, *overrides: str, tiny: Sequence[str] = TINY
) -> "subprocess.CompletedProcess[str]":
    # Hydra takes its flags before the overrides only
    flags = [word for word in overrides if word.startswith("-")]
    words = [word for word in overrides if not word.startswith("-")]
    return run_module("ablations.train", *flags, *tiny, f"job.runs={runs}", *words)

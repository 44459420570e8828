"""Every mode of the training benchmark, by a step of small networks."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "training.py"

pytestmark = pytest.mark.slow


def lines_of(*arguments):
    """What a dry run prints."""
    command = [sys.executable, str(SCRIPT), "--dry-run", "--backbone", "detnet_atto", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_step_of_every_contender_is_measured():
    detectors = ["faster_rcnn", "mask_rcnn", "retinanet"]
    lines = lines_of("--detector", *detectors, "--alone", "detnet_atto")
    named = [line for line in lines if " images/s " in line]
    for detector in detectors:
        (ours,) = [line for line in named if line.startswith(f"ours detnet_atto {detector}")]
        assert ours.endswith("waits 0")
        peers = [f"torchvision resnet14t {detector} {p}" for p in ("float32", "bfloat16")]
        assert all(any(line.startswith(peer) for line in named) for peer in peers)
    assert named[0].startswith("alone detnet_atto")


def test_learning_is_measured_until_an_ap(shared):
    lines = lines_of("--data", "bccd", "glyphs", "--learn", "2", "--until-ap", "0")
    reached = [line for line in lines if " AP 0.0 after " in line]
    assert len(reached) == 2 * 3


def test_full_detectors_compile_and_the_gpus_command_runs_on_a_cpu():
    lines = lines_of(
        "--device", "cuda", "--size", "800", "1333", "--batch-size", "16", "--full",
        "--compile", "default", "--detector", "mask_rcnn", "--peer", "resnet18",
    )  # fmt: skip
    assert any(line.startswith("ours detnet_atto mask_rcnn bfloat16") for line in lines)

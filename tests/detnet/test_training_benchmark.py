import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "training.py"


@pytest.mark.slow
def test_the_benchmark_measures_a_step_of_every_contender():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry-run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (ours,) = [line for line in lines if line.startswith("ours detnet_atto faster_rcnn bfloat16")]
    assert "waits 1 {'nms': 1}" in ours
    for precision in ("float32", "bfloat16"):
        assert any(
            line.startswith(f"torchvision resnet14t faster_rcnn {precision}") for line in lines
        )

"""The benchmark of sweeps runs to its end on a twentieth of its size."""

import os
import subprocess
import sys

import pytest
from commands import ROOT, environment


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes that start at once")
def test_the_sweep_benchmark_measures_planning_reading_crowding_and_studies():
    done = subprocess.run(
        [sys.executable, "benchmarks/sweep.py", "--quick", "--only", "planning", "reading",
         "crowding", "studying"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for what in ("plan 50 finished runs", "skip 50 finished runs", "read 500 records"):
        assert what in done.stdout
    assert "10 processes at once at one run" in done.stdout
    assert "10 trials of one study at once, study.journal (10 kept)" in done.stdout

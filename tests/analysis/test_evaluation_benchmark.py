import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_benchmark_prints_its_table_and_is_exact():
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "evaluation.py"
    done = subprocess.run(
        [sys.executable, str(script), "--quick"], capture_output=True, text=True, check=True
    )
    assert "1,000 paired resamples, two models" in done.stdout
    assert "target 1 met: exact" in done.stdout

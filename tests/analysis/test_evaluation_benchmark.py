import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "evaluation.py"


@pytest.mark.skipif(sys.platform != "linux", reason="another process starts anew and finds no mock")
def test_the_task_is_made_in_a_process_whose_memory_is_not_measured(tmp_path):
    """A process begins with the peak memory of the one that starts it."""
    main = runpy.run_path(str(SCRIPT))["main"]

    def make_task(folder, size):
        (folder / "b.json").write_text(str(os.getpid()))

    def measure(name, folder):
        raise SystemExit

    main.__globals__.update(make_task=make_task, measure=measure)
    with pytest.raises(SystemExit):
        main(["--folder", str(tmp_path)])
    assert int((tmp_path / "b.json").read_text()) != os.getpid()


@pytest.mark.slow
def test_the_benchmark_prints_its_table_and_is_exact():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=True
    )
    assert "1,000 paired resamples, two models" in done.stdout
    assert "target 1 met: exact" in done.stdout

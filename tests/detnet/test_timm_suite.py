"""timm's own model tests, aimed at our models by ../shared/tools/timm_suite."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT.parent / "shared" / "tools" / "timm_suite" / "timm_suite.sh"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SUITE.exists(), reason="../shared/tools/timm_suite is absent"),
]


def test_timms_own_tests_pass() -> None:
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PKG_DIR": str(ROOT),
        "MODELS": "detnet_atto detnet17_noproj",
        "GROUPS_ON": "listed,sampled,extra",
    }
    run = subprocess.run([SUITE], env=environment, capture_output=True, text=True, check=False)
    if f"no tests for timm {importlib.metadata.version('timm')}" in run.stderr:
        pytest.skip("timm's tests come with its sdist, and no package index was reached")
    assert run.stdout.splitlines()[-1].endswith(" passed, 0 failed, 0 skipped"), run.stdout[-4000:]

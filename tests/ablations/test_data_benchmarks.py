"""The benchmarks of data run to their end on small ones."""

import subprocess
import sys

import pytest
from commands import ROOT, environment


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["faster_rcnn", "mask_rcnn"])
def test_loading_is_told_for_each_number_of_workers(detector: str) -> None:
    out = run(
        "benchmarks/loading.py", "--num-images", "8", "--seconds", "0.2", "--workers", "0", "1",
        "--short", "64", "--long", "96", "--backbone", "detnet_atto", "--detector", detector,
        "--decode", "pillow", "cuda",
    )  # fmt: skip
    assert ("without masks" in out) == (detector == "faster_rcnn")
    header, *rows = out.splitlines()[-5:]
    assert header.startswith("workers  images/s")
    assert [row.split()[0] for row in rows] == ["0", "1", "0", "1"]
    assert [row.split()[-1] for row in rows] == ["pillow", "pillow", "cuda", "cuda"]


@pytest.mark.slow
def test_opening_is_told_for_images_never_seen_and_seen_before() -> None:
    out = run("benchmarks/opening.py", "--num-images", "50")
    assert "50 images" in out
    for line in ("images never seen", "images hashed before"):
        assert line in out

"""The compiled kernels: built from their sources, named after them, the same on every processor."""

import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ablations.evaluation.kernel
from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import match
from ablations.evaluation.scoring import score_resamples
from detnet_kernels import loader
from detnet_kernels.build import FLAGS, FOLDER, compiler, library_path

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


@pytest.fixture
def sources(tmp_path) -> Path:
    """A copy of the sources, without the library."""
    copy = tmp_path / "detnet_kernels"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return copy


def run(sources: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words], cwd=sources.parent, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(sources.parent), **environment},
    )  # fmt: skip


def build(sources: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run(sources, "-m", "detnet_kernels.build", **environment)


@needs_compiler
def test_changed_sources_ask_for_another_library(sources):
    load = ("-c", "from detnet_kernels.loader import kernel; print(kernel('count'))")
    assert build(sources).returncode == 0
    assert run(sources, *load).returncode == 0
    with (sources / "scan.c").open("a") as file:
        file.write("\n")
    refused = run(sources, *load)
    assert "run `python -m detnet_kernels.build`" in refused.stderr
    assert build(sources).returncode == 0
    assert run(sources, *load).returncode == 0
    assert len(list(sources.glob("*.so"))) == 1


@needs_compiler
def test_processes_that_build_at_once_leave_one_library(sources):
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: build(sources), range(3)))
    assert [each.returncode for each in done] == [0, 0, 0], done
    assert len(list(sources.glob("*.so"))) == 1


def test_without_a_compiler_the_remedy_is_told(sources):
    refused = build(sources, PATH="", CC="")
    if refused.returncode == 0:
        pytest.skip("ziglang is installed")
    assert refused.stderr.strip() == (
        "error: the kernels are written in C, and there is no compiler: install one (gcc, or "
        "clang), or `pip install ziglang`, which brings one"
    )


@needs_compiler
def test_what_the_compiler_says_is_told(sources):
    (sources / "scan.c").write_text("int scan(")
    refused = build(sources)
    assert refused.returncode == 1
    assert "scan.c:1" in refused.stderr
    assert not list(sources.glob("*.so"))


def test_an_array_of_another_type_is_refused():
    count = loader.kernel("count", loader.U8, loader.INT, loader.INT, result=loader.INT)
    assert count(np.frombuffer(b"banana", np.uint8), 6, ord("a")) == 3
    with pytest.raises(ctypes.ArgumentError):
        count(np.zeros(6, np.int32), 6, 0)
    with pytest.raises(ctypes.ArgumentError):
        count(np.zeros(6, np.uint8)[::2], 3, 0)


@needs_compiler
def test_every_width_of_vectors_gives_the_same_bits(sources, tmp_path, monkeypatch):
    """The library chooses its loops by the processor; resamples must not depend on it."""
    plain = tmp_path / "plain.so"
    words = ["-DFOR_EACH_PROCESSOR=", *map(str, sorted(sources.glob("*.c"))), "-o", str(plain)]
    subprocess.run([*(compiler() or []), *FLAGS, *words, "-lm"], check=True)
    assert plain.read_bytes() != library_path().read_bytes()
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, 60, (400, 4)) + np.array([0, 0, 9, 9])
    truth = Truth.from_coco(
        {
            "images": [{"id": i, "width": 200, "height": 200} for i in range(20)],
            "categories": [{"id": 1, "name": "one"}],
            "annotations": [
                {"id": n + 1, "image_id": n % 20, "category_id": 1, "bbox": b,
                 "area": b[2] * b[3]}
                for n, b in enumerate(boxes[:100].tolist())
            ],
        }
    )  # fmt: skip
    detections = Detections.from_coco(
        [
            {"image_id": n % 20, "category_id": 1, "bbox": b, "score": s}
            for n, (b, s) in enumerate(zip(boxes.tolist(), rng.random(400).tolist(), strict=True))
        ],
        truth,
    )
    table = match(truth, detections)
    counts = rng.multinomial(20, [1 / 20] * 20, 77).T.astype(np.uint8)
    ours = score_resamples(table, counts)
    score_category = ctypes.CDLL(str(plain))["score_category"]
    chosen = ablations.evaluation.kernel._score_category
    score_category.argtypes, score_category.restype = chosen.argtypes, chosen.restype
    monkeypatch.setattr(ablations.evaluation.kernel, "_score_category", score_category)
    theirs = score_resamples(table, counts)
    assert np.array_equal(ours.ap, theirs.ap, equal_nan=True)
    assert np.array_equal(ours.ar, theirs.ar, equal_nan=True)

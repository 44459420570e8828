"""Running the project's own commands as a user does, small enough for tests."""

import importlib
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
    "protocol.optimizer=sgd",
    "protocol.schedule=milestones",
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


class Forked:
    """`python -m module` in a process of its own, forked from one that has torch imported.

    Importing torch, timm and Hydra takes longer than most of what is tested. `site` is a folder of
    installed packages that are to answer instead of the checkout.
    """

    def __init__(
        self, module: str, *arguments: str, cwd: Path = ROOT, site: Path | None = None
    ) -> None:
        self.words = command(module, *arguments)
        self._folder = tempfile.TemporaryDirectory()
        self._printed = [Path(self._folder.name) / name for name in ("out", "err")]
        target = (module, arguments, cwd, site, *self._printed)
        self._process = _servers().Process(target=_as_main, args=target)
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.exitcode is not None

    def wait(self) -> "subprocess.CompletedProcess[str]":
        """Its exit code and what it printed; TimeoutError after TIMEOUT seconds."""
        self._process.join(timeout=TIMEOUT)
        code, (out, err) = self._process.exitcode, (p.read_text() for p in self._printed)
        if code is None:
            self._process.kill()
            raise TimeoutError(f"{self.words}: {out} {err}")
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.words, code, out, err)


def run_module(
    module: str, *arguments: str, cwd: Path = ROOT, site: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, see `Forked`."""
    return Forked(module, *arguments, cwd=cwd, site=site).wait()


@cache
def _servers() -> Any:
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.train", "ablations.plan", "ablations.rescore"])
    return context


def _as_main(
    module: str, arguments: Sequence[str], cwd: Path, site: Path | None, out: Path, err: Path
) -> None:
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    multiprocessing.set_start_method(None, force=True)  # the system's own, not this server's
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    if site is not None:
        _forget_the_checkout(site)
    # It is imported already, which is what makes this fast
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _forget_the_checkout(site: Path) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in (
            "ablations",
            "analysis",
            "detnet",
            "detnet_kernels",
            "hydra_plugins",
        ):
            del sys.modules[name]
    sys.path[:] = [str(site), *(path for path in sys.path if path not in ("", str(ROOT)))]
    for package in ("ablations", "detnet"):
        assert Path(importlib.import_module(package).__file__ or "").is_relative_to(site)


def processes_at_work(folder: Path) -> list[int]:
    """Those that hold a file below the folder open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(f"{folder}/"):
                found.add(int(link.parts[2]))
        except OSError:
            continue
    return sorted(found)


def train(
    runs: Path, *overrides: str, tiny: Sequence[str] = TINY
) -> "subprocess.CompletedProcess[str]":
    """A tiny training, to its end."""
    return run_module("ablations.train", *train_words(runs, *overrides, tiny=tiny))


def train_words(runs: Path, *overrides: str, tiny: Sequence[str] = TINY) -> list[str]:
    """The arguments of a tiny training; Hydra takes its flags before the overrides only."""
    flags = [word for word in overrides if word.startswith("-")]
    words = [word for word in overrides if not word.startswith("-")]
    return [*flags, *tiny, f"job.runs={runs}", *words]

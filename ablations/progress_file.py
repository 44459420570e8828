"""How far a run is, in a file of its folder: for whoever sees the folder, on whatever machine."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ablations.progress import Progress, heard_by

FILE_NAME = "progress.json"
SILENT_TIMES = 6
"""A run that was to tell of itself this many times and did not is cut off."""


@dataclass(frozen=True)
class RunProgress:
    """What a run at work last said: `done` of `total` units of `what`; told every `every` s."""

    what: str
    done: int
    total: int
    seconds_left: float | None
    host: str
    process: int
    every: float
    age: float = 0.0
    """Seconds since it was told."""

    @property
    def is_alive(self) -> bool:
        return self.age < SILENT_TIMES * self.every

    def __str__(self) -> str:
        share = f" {self.done / self.total:.0%}" if self.total else ""
        return f"{self.what}{share}"


@contextmanager
def progress_told(folder: Path, every: float) -> Iterator[None]:
    """Keep the folder's progress file fresh while the work inside goes on; remove it at its end.

    What the innermost `Progress` says is told; between two of them the last one stands.
    """
    host, process = socket.gethostname(), os.getpid()
    latest = RunProgress("start", 0, 0, None, host, process, every)
    ended = threading.Event()

    def hear(progress: Progress, done: int) -> None:
        nonlocal latest
        left = progress.seconds_left(done)
        latest = RunProgress(progress.what, done, progress.total, left, host, process, every)

    def tell() -> None:
        while True:
            _write(folder, latest)
            if ended.wait(every):
                return

    teller = threading.Thread(target=tell, daemon=True)
    with heard_by(hear):
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()
            (folder / FILE_NAME).unlink(missing_ok=True)


def read_progress(folder: Path) -> RunProgress | None:
    """What the run of this folder last said; None where it says nothing."""
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text())
        content["age"] = max(0.0, time.time() - path.stat().st_mtime)
        return RunProgress(**content)
    except (OSError, ValueError, TypeError):
        return None


def _write(folder: Path, latest: RunProgress) -> None:
    # Of no worth after a crash, so it is not synced; and a full disk must not end a run for it
    with suppress(OSError):
        temporary = folder / f".{FILE_NAME}.partial"
        content = asdict(latest)
        del content["age"]
        temporary.write_text(json.dumps(content))
        temporary.replace(folder / FILE_NAME)

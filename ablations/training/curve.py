"""The learning curve of a run: `curve.jsonl`, a line of losses for about every thousandth step."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ablations.storage import StorageError, write_atomically

NUM_POINTS = 1000


class Curve:
    """Rows of losses by step; rows at and beyond the step resumed from are dropped."""

    def __init__(self, path: Path, start: int, num_steps: int) -> None:
        self.path = path
        self.every = max(1, num_steps // NUM_POINTS)
        self.rows: list[str] = []
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) < start]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def add(self, step: int, rate: float, loss: float, values: dict[str, float]) -> None:
        """Keep the losses of a step where it is one that is logged."""
        if step % self.every == 0:
            row = {"step": step, "learning_rate": rate, "loss": loss, **values}
            for listener in _listeners:
                listener(step, row)
            self.rows.append(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Write what was added; raises StorageError."""
        try:
            with self.path.open("a") as file:
                file.writelines(self.rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror})") from error
        self.rows.clear()


_listeners: list[Callable[[int, dict[str, float]], None]] = []


@contextmanager
def heard_by(listener: Callable[[int, dict[str, float]], None]) -> Iterator[None]:
    """Tell `listener` of every row that is added to any curve."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line cut short by a kill

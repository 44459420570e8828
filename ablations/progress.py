"""How far long work is: a line every few seconds with what is done, how fast, and the time left."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

log = logging.getLogger(__name__)

SECONDS = 5.0
"""How long work may be silent."""

T = TypeVar("T")


class Progress:
    """Tells how many of `total` units of work are done.

    rate: the unit of the speed that is told and how many of it one unit of work holds, as
        ("images", 8); None tells no speed
    tell: takes each line; the log by default
    start: units done before, in an earlier process
    closing: tell of the last unit even where the work was short
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        rate: tuple[str, int] | None = None,
        every: float | None = None,
        tell: Callable[[str], None] = log.info,
        start: int = 0,
        closing: bool = False,
    ) -> None:
        self.what, self.total, self.start = what, total, start
        self.rate, self.closing = rate, closing
        self.every = SECONDS if every is None else every
        self.tell = tell
        self.begun = self.last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the work began in this process."""
        return time.monotonic() - self.begun

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of speed and time what is done meanwhile."""
        begun = time.monotonic()
        yield
        spent = time.monotonic() - begun
        self.begun += spent
        self.last += spent

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` units are done; a line follows when the last one is long ago."""
        for listener in _listeners:
            listener(self, done)
        now = time.monotonic()
        is_last = done >= self.total and (self.closing or self.last > self.begun)
        if now - self.last < self.every and not is_last:
            return
        self.last = now
        speed = self._speed(done)
        parts = [f"{self.what} {done:,}/{self.total:,}", note]
        if self.rate is not None:
            unit, count = self.rate
            parts.append(f"{speed * count:.1f} {unit}/s")
        if (left := self.seconds_left(done)) is not None:
            parts.append(f"ETA {clock(left)}")
        self.tell("  ".join(filter(None, parts)))

    def seconds_left(self, done: int) -> float | None:
        """Until all is done at the speed so far; None where nothing is done yet."""
        return (self.total - done) / self._speed(done) if done > self.start else None

    def _speed(self, done: int) -> float:
        """Units a second."""
        return max(done - self.start, 1e-9) / max(self.seconds, 1e-9)


_listeners: list[Callable[[Progress, int], None]] = []


@contextmanager
def heard_by(listener: Callable[[Progress, int], None]) -> Iterator[None]:
    """Tell `listener` of every update of any progress, silent ones too."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def clock(seconds: float) -> str:
    """Minutes and seconds, `3:05`."""
    return "{}:{:02d}".format(*divmod(round(seconds), 60))


def tracked(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass `items` on, telling how far it is when it takes long."""
    progress = Progress(what, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress.update(done)

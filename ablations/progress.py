"""How far long work is: a line every few seconds with what is done, how fast, and the time left."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
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

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` units are done; a line follows when the last one is long ago."""
        now = time.monotonic()
        is_last = done >= self.total and (self.closing or self.last > self.begun)
        if now - self.last < self.every and not is_last:
            return
        self.last = now
        speed = max(done - self.start, 1e-9) / max(self.seconds, 1e-9)
        minutes, seconds = divmod(round((self.total - done) / speed), 60)
        parts = [f"{self.what} {done:,}/{self.total:,}", note]
        if self.rate is not None:
            unit, count = self.rate
            parts.append(f"{speed * count:.1f} {unit}/s")
        if done > self.start:
            parts.append(f"ETA {minutes}:{seconds:02d}")
        self.tell("  ".join(filter(None, parts)))


def tracked(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass `items` on, telling how far it is when it takes long."""
    progress = Progress(what, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress.update(done)

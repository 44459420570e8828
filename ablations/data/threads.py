"""Many files looked at: at once where each takes its time, as on network disks."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

THREADS = 16
MOST_AT_ONCE = 32
"""Files that a thread is given together: handing out one costs more than looking at it."""
NUM_TRIED, NUM_HANDED_OUT = 16, 4096
"""Files after which it is looked again whether to hand out the next ones."""
QUICK_SECONDS = 2e-4
"""Files that take less are not handed out: threads that pass on Python's lock for each took four
times as long."""

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """What `function` makes of each item, in their order; raises what it raises first."""

    def some(some_items: Sequence[T]) -> list[R]:
        return [function(item) for item in some_items]

    with ThreadPoolExecutor(THREADS) as pool:
        start = 0
        while start < len(items):
            tried = items[start : start + NUM_TRIED]
            begun = time.perf_counter()
            found = some(tried)
            is_quick = time.perf_counter() - begun < QUICK_SECONDS * len(tried)
            start += len(tried)
            yield from found
            if not is_quick:
                slow = items[start : start + NUM_HANDED_OUT]
                start += len(slow)
                num = min(MOST_AT_ONCE, 1 + len(slow) // (4 * THREADS))
                parts = [slow[i : i + num] for i in range(0, len(slow), num)]
                yield from chain.from_iterable(pool.map(some, parts))

import threading
import time

import pytest

from ablations.data import threads
from ablations.data.threads import (
    NUM_HANDED_OUT,
    NUM_TRIED,
    QUICK_SECONDS,
    THREADS,
    in_threads,
)


def test_items_that_wait_are_looked_at_at_once_and_in_order():
    used, numbers = set(), range(20 * NUM_TRIED)

    def wait(number):
        used.add(threading.get_ident())
        time.sleep(0.002)
        return -number

    assert list(in_threads(wait, numbers)) == [-number for number in numbers]
    assert len(used) > THREADS // 2


def test_quick_items_stay_in_this_thread_until_they_take_longer(monkeypatch):
    slow_from = NUM_TRIED * 50
    used: dict[bool, set[int]] = {True: set(), False: set()}
    seconds = [0.0]
    monkeypatch.setattr(threads.time, "perf_counter", lambda: sum(seconds))

    def look(number):
        is_slow = number >= slow_from
        used[is_slow].add(threading.get_ident())
        seconds.append(2 * QUICK_SECONDS if is_slow else 0.0)
        if is_slow:
            time.sleep(0.001)
        return number

    numbers = range(slow_from + 40 * NUM_TRIED)
    assert list(in_threads(look, numbers)) == list(numbers)
    assert used[False] == {threading.get_ident()}
    assert len(used[True]) > 2


@pytest.mark.parametrize("num", [0, 1, NUM_TRIED, NUM_TRIED + NUM_HANDED_OUT + 1])
def test_nothing_is_left_out(num):
    assert list(in_threads(abs, range(num))) == list(range(num))


def test_the_first_item_that_fails_is_told():
    def fail(number):
        time.sleep(0.001)
        if number in (70, 90):
            raise ValueError(number)

    with pytest.raises(ValueError, match="70"):
        list(in_threads(fail, range(200)))

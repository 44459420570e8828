"""A run in a process of its own: whatever kills it is told as its outcome, and the sweep goes on.

An exception is caught in the run itself. A segmentation fault, the system's out-of-memory killer
or `os._exit` takes a process along, and with it every launcher's knowledge of the others.
"""

import logging
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ablations.config import RunConfig
from ablations.run import Outcome, execute
from ablations.runtime import START_METHOD, Stop, death, restore_signals, stopped_by_signals

log = logging.getLogger(__name__)

_stopped = Stop()
"""Set once a signal has ended a run of this process: the next ones are not begun."""


def execute_apart(config: RunConfig, variant: str) -> Outcome:
    """Do the run in a child process and return its outcome, `lost` where the child died.

    Signals that would end this process are passed on, so that the child leaves a checkpoint.
    """
    if _stopped.by:
        return Outcome(variant, config.seed, "stopped", error=f"not begun, after {_stopped.by}")
    context: Any = multiprocessing.get_context(START_METHOD)
    outcomes, answer = context.Pipe(duplex=False)
    lifeline, parent_end = context.Pipe(duplex=False)
    inherited = (outcomes, parent_end) if START_METHOD == "fork" else ()
    child = context.Process(
        target=_work, args=(config, variant, answer, lifeline, inherited), name=variant
    )
    with stopped_by_signals(on_signal=lambda number: _pass_on(child, number)) as stop:
        child.start()
        answer.close()
        lifeline.close()
        try:
            outcome = outcomes.recv()
        except EOFError:
            outcome = None
        finally:  # a cluster that takes this job away leaves by an exception: the child is to end
            parent_end.close()
            child.join()
    _stopped.by = stop.by
    if outcome is None and stop.by:
        return Outcome(variant, config.seed, "stopped", error=f"{stop.by} before it began")
    if outcome is None:
        error = f"its process died ({death(child.exitcode)}) before the run ended"
        log.error("%s seed %d is lost: %s", variant, config.seed, error)
        return Outcome(variant, config.seed, "lost", error=error)
    return outcome


def _work(
    config: RunConfig,
    variant: str,
    answer: Connection,
    lifeline: Connection,
    inherited: tuple[Connection, ...],
) -> None:
    for connection in inherited:
        connection.close()
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a terminal's Ctrl-C then reaches the parent alone, which passes it on
    restore_signals()
    # joblib's workers leave their own method here, with which data workers cannot start
    multiprocessing.set_start_method(START_METHOD, force=True)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    with suppress(KeyboardInterrupt):  # before the run began: the parent tells it
        answer.send(execute(config, variant))
    answer.close()


def _end_with_parent(lifeline: Connection) -> None:
    """Nothing is ever sent: the connection ends when the parent does."""
    try:
        lifeline.recv()
    except EOFError:
        os.kill(os.getpid(), signal.SIGTERM)


def _pass_on(child: Any, number: int) -> None:
    if child.pid is not None and child.exitcode is None:
        os.kill(child.pid, number)

"""A sweep as its runs folder shows it, on any machine that sees the folder: no torch, no data."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ablations.progress import clock
from ablations.progress_file import read_progress
from ablations.record import RunRecord, read_runs, read_sweeps

HEADER = ("variant", "seed", "state")
MAX_ERROR = 80
"""Characters of an error's line."""
AT_WORK = ("running", "missing")
"""States that may become others by themselves."""


def rows_of(runs: Path, faults: list[str]) -> list[tuple[str, str, str]]:
    """A line of words for each run that the folder's sweeps planned, or that lies there.

    A file that cannot be read is named in `faults`. Raises RecordError where there is no such
    folder.
    """
    found = {(run.record.digest, run.record.seed): run for run in read_runs(runs, faults)}
    rows = []
    for planned in read_sweeps(runs, faults):
        variant, digest, seed = planned["variant"], planned["digest"], planned["seed"]
        if (run := found.pop((digest, seed), None)) is not None:
            told = state_of(run.folder, run.record.status, run.record)
            rows.append((run.record.variant, str(seed), told))
        else:
            folder = runs / f"{variant}-{digest}" / f"seed{seed}"
            is_there = (folder / "record.json").exists()
            rows.append((variant, str(seed), "unreadable" if is_there else "missing"))
    for run in found.values():
        told = state_of(run.folder, run.record.status, run.record)
        rows.append((run.record.variant, str(run.record.seed), told))
    return rows


def state_of(folder: Path, status: str, record: RunRecord | None) -> str:
    """A run's state, and what there is to say of it: progress, the error, the results version."""
    if record is not None and status == "done" and record.is_outdated:
        status = "outdated"
    if record is None:
        return status
    if status == "outdated":
        return f"outdated (results {record.results_version})"
    if status == "failed":
        lines = (record.error or "").strip().splitlines()
        return f"failed: {lines[-1][:MAX_ERROR]}" if lines else "failed"
    if status != "running":
        return status
    progress = read_progress(folder)
    if progress is None:
        return "cut off"
    if not progress.is_alive:
        return f"cut off at {progress}, {clock(progress.age)} ago on {progress.host}"
    left = "" if progress.seconds_left is None else f", ETA {clock(progress.seconds_left)}"
    return f"running: {progress}{left} on {progress.host}"


def counts(states: Sequence[str]) -> str:
    """`8 runs: 4 done, 4 missing`."""
    kinds = [_kind(state) for state in states]
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return f"{len(states)} runs: {told}"


def _kind(state: str) -> str:
    """The state's first words: what follows tells of one run."""
    if state.startswith(("cut off", "outdated")):
        return "cut off" if state.startswith("cut off") else "outdated"
    return state.partition(":")[0]


def watch(show: Callable[[], Sequence[str]], every: float, *, is_terminal: bool) -> None:
    """Call `show`, which prints and returns the states, until none may change by itself."""
    while True:
        if is_terminal:
            print("\x1b[H\x1b[2J", end="")
        states = show()
        if not {_kind(state) for state in states} & set(AT_WORK):
            return
        time.sleep(every)
        if not is_terminal:
            print()

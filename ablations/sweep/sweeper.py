"""What runs a sweep: plans every run, launches what is missing, and tells all that failed."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ablations.run import Outcome, done_before
from ablations.storage import held
from ablations.sweep.compose import REFUSALS, plain_reason
from ablations.sweep.grid import Grid, PlannedPoint, in_order, note_sweep, note_tables

log = logging.getLogger(__name__)

_TOLD = {
    "done": "trained",
    "skipped": "done before",
    "failed": "failed",
    "lost": "lost",
    "pruned": "pruned",
    "outdated": "of an older results version",
    "held": "left to another process",
    "stopped": "stopped",
    "queued": "left in the queue",
}
LOST = "its process ended before the run did"
_ALWAYS_TOLD = ("done", "skipped", "failed", "lost")


class LeftInQueueError(RuntimeError):
    """The command was interrupted while its jobs were queued or at work; they go on."""


class Sweep:
    """What Hydra calls before any sweep: `grid` composes and plans, `launcher` does the runs."""

    def setup(
        self, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before `sweep`."""
        self.grid = Grid(hydra_context.config_loader, config)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )


class GridSweep(Sweep):
    """`+table=NAME` runs the table's variants; `seed=0,1,2` and other lists multiply them.

    `params` are lists that every sweep has; `order` is one of `ORDERS`.
    """

    def __init__(self, params: dict[str, str] | None = None, order: str = "asked") -> None:
        self.params = params or {}
        self.order = order

    def sweep(self, arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
        """Plan all runs, launch the missing, tell what became of each.

        Exits 1 if any failed, 2 if nothing was started since something is wrong.
        """
        params = [f"{key}={value}" for key, value in self.params.items()]
        try:
            planned = in_order(self.grid.plan([*params, *arguments]), self.order)
            note_tables(planned)
            note_sweep(planned)
        except REFUSALS as error:
            print(f"ablations.train: {plain_reason(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        runs = each_once(planned)
        earlier = [done_before(each.run) for each in runs]
        missing = [each for each, known in zip(runs, earlier, strict=True) if known is None]
        # What others are at work on comes last, so that waiting for them holds nothing up
        first, outcomes = launch(self.launcher, missing)
        busy = {
            number: each
            for number, each in enumerate(missing)
            if outcomes[number].status == "held" and each.run.config.job.wait
        }
        second, later = launch(self.launcher, list(busy.values()), wait=True)
        for number, outcome in zip(busy, later, strict=True):
            outcomes[number] = outcome
        summarize([*filter(None, earlier), *outcomes])
        return [first, second]


def launch(
    launcher: Launcher,
    missing: Sequence[PlannedPoint],
    first_number: int = 0,
    *,
    wait: bool = False,
) -> tuple[Sequence[JobReturn], list[Outcome]]:
    """Do the runs with Hydra's launcher; what it does not tell of a run, the run's record does.

    With `wait`, a run that another process is at work on is waited for.
    """
    if not missing:
        return [], []
    words = [[*each.overrides, f"job.wait={str(wait).lower()}"] for each in missing]
    try:
        returns = launcher.launch(words, first_number)
    except LeftInQueueError:
        return [], [_left_in_queue(each) for each in missing]
    except (Exception, KeyboardInterrupt) as error:
        # The launcher's own processes died, or it was interrupted: the records say the rest
        log.error("the launcher ended with %s: %s", type(error).__name__, error)
        return [], [_from_record(each, LOST) for each in missing]
    told = [_told_by(result) for result in returns]
    told += [LOST] * (len(missing) - len(told))
    return returns, [
        _from_record(each, outcome) if isinstance(outcome, str) else outcome
        for each, outcome in zip(missing, told, strict=True)
    ]


def each_once(
    planned: Sequence[PlannedPoint], tell: Callable[[str], None] = log.info
) -> list[PlannedPoint]:
    """The points without those whose run stands before: tables share runs, lists may repeat."""
    first: dict[tuple[str, int], PlannedPoint] = {}
    for each in planned:
        key = (each.run.digest, each.run.config.seed)
        if key in first:
            again, former = each.run.variant, first[key].run.variant
            what = "is asked for twice" if again == former else f"is the same run as {former}"
            tell(f"{again} seed {each.run.config.seed} {what}: done once")
        first.setdefault(key, each)
    return list(first.values())


def _told_by(result: JobReturn) -> Outcome | str:
    """A run's outcome, or why the launcher has none."""
    try:
        value: Any = result.return_value
    except Exception as error:  # Hydra raises here what the job raised
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return value if isinstance(value, Outcome) else LOST


def _from_record(each: PlannedPoint, reason: str) -> Outcome:
    """What a run's record says once no process is at work on it any more."""
    run = each.run
    if run.folder.exists():
        with held(run.folder, wait=True):
            earlier = done_before(run)
        if earlier is not None:
            return earlier
    error = f"{reason}; the same command continues it"
    return Outcome(run.variant, run.config.seed, "lost", run.digest, str(run.folder), error)


def _left_in_queue(each: PlannedPoint) -> Outcome:
    """A run that may be done, at work or waiting: it is not waited for."""
    run = each.run
    told = "it goes on without this command; ablations.plan --runs shows how far it is"
    return done_before(run) or Outcome(status="queued", error=told, **run.place)


def summarize(outcomes: Sequence[Outcome]) -> None:
    """Log what became of the runs; exits 1 if any failed, was lost or is left in the queue."""
    states = [outcome.status for outcome in outcomes]
    counts = [
        f"{states.count(state)} {told}"
        for state, told in _TOLD.items()
        if state in _ALWAYS_TOLD or state in states
    ]
    log.info("%d jobs: %s", len(outcomes), ", ".join(counts))
    for outcome in outcomes:
        if outcome.is_fault:
            where = f" ({Path(outcome.folder) / 'log.txt'})" if outcome.folder else ""
            log.error(
                "%s: %s seed %d: %s%s",
                outcome.status, outcome.variant, outcome.seed, outcome.error, where,
            )  # fmt: skip
    if any(outcome.is_fault for outcome in outcomes):
        raise SystemExit(1)

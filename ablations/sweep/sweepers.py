"""What runs a sweep: the grid, which tells all failures where Hydra's tells the first."""

import logging
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ablations.job import Outcome
from ablations.sweep.grid import Grid, Overrides, note_tables

log = logging.getLogger(__name__)


class GridSweeper:
    """`+table=NAME` runs the table's variants; `seed=0,1,2` and other lists multiply them."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}

    def setup(
        self, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before `sweep`."""
        self.grid = Grid(hydra_context.config_loader, config)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
        """Check all jobs, run all jobs, tell what failed; exits 1 if anything did."""
        params = [f"{key}={value}" for key, value in self.params.items()]
        jobs = self.grid.expand([*params, *arguments])
        note_tables(self.grid.check(jobs))
        returns = self.launcher.launch(jobs, initial_job_idx=0)
        summarize(jobs, [outcome_of(result) for result in returns])
        return [returns]


def outcome_of(result: JobReturn) -> Outcome | None:
    """A job's outcome; None where the launcher lost it (a killed process)."""
    try:
        value: Any = result.return_value
    except Exception as error:  # Hydra raises here what the job raised
        log.error("a job ended with %s: %s", type(error).__name__, error)
        return None
    return value if isinstance(value, Outcome) else None


def summarize(jobs: Sequence[Overrides], outcomes: Sequence[Outcome | None]) -> None:
    """Log what became of the jobs; exits 1 if any failed or was lost."""
    outcomes = [*outcomes, *[None] * (len(jobs) - len(outcomes))]
    states = ["lost" if outcome is None else outcome.status for outcome in outcomes]
    log.info(
        "%d jobs: %d trained, %d done before, %d failed, %d lost",
        len(jobs), *(states.count(state) for state in ("done", "skipped", "failed", "lost")),
    )  # fmt: skip
    for overrides, outcome in zip(jobs, outcomes, strict=True):
        if outcome is None:
            log.error("lost: %s", " ".join(overrides))
        elif outcome.status == "failed":
            log.error("failed: %s seed %d: %s", outcome.variant, outcome.seed, outcome.error)
    if "failed" in states or "lost" in states:
        raise SystemExit(1)

"""`hydra/sweeper=search`: points that Optuna proposes, each an ordinary run.

The same command again goes on with the study: `n_trials` counts what earlier calls have done, and a
trial whose process died runs again.
"""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, Transformer
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from ablations.config import RunConfig
from ablations.evaluation.metrics import METRICS
from ablations.field_checks import nearest
from ablations.record import RunRecord, read_record
from ablations.run import Outcome, plan_run
from ablations.storage import HeldElsewhereError, held
from ablations.study.record import STATES, Study, study_folder, write_study
from ablations.sweep.compose import REFUSALS, as_run_config, plain_reason
from ablations.sweep.grid import Grid, PlannedPoint
from ablations.sweep.search_config import SearchConfig
from ablations.sweep.search_costs import COUNTED, costs_of
from ablations.sweep.search_known import known_variants
from ablations.sweep.search_space import SearchError, SearchSpace, search_space
from ablations.sweep.search_study import INFEASIBLE, SearchStudy
from ablations.sweep.sweeper import Sweep, launch, summarize
from ablations.tasks import TASKS

log = logging.getLogger(__name__)

TIMINGS = (
    "train_images_per_second",
    "train_seconds",
    "eval_images_per_second",
    "peak_memory_bytes",
)
MAX_INFEASIBLE = 200
"""Proposals in a row that no constraint lets pass before a search gives up."""
MAX_TOLD = 10
"""How many of the best trials the summary names."""
_OUTDATED = (
    "its run is of an older results version, whose values stand for nothing here: "
    "job.retrain_outdated=true trains it anew"
)

Launch = Callable[[PlannedPoint, int], Outcome]
"""Does a point's run, under the trial's number, and returns what became of it."""


class SearchSweep(Sweep):
    """What Hydra calls; conf/hydra/sweeper/search.yaml says what the options mean."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def sweep(self, arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
        """Search until the study has its trials, and tell what became of them.

        Exits 1 if any failed, 2 if nothing was started since something is wrong.
        """
        try:
            outcomes = self._search(arguments)
        except (*REFUSALS, HeldElsewhereError) as error:
            print(f"ablations.train: {plain_reason(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        summarize(outcomes)
        return []

    def _search(self, arguments: Sequence[str]) -> list[Outcome]:
        config = SearchConfig.of(self.options)
        parser = OverridesParser.create(config_loader=self.grid.loader)
        space = search_space(parser.parse_overrides(list(arguments)), config.only_if)
        config.check_space(space)
        check_parallel(self.launcher, config.n_jobs)
        example = check_types(self.grid, space)
        objectives = objectives_of(config, example)
        check_pruning(config, example, objectives)
        folder = study_folder(Path(example.job.runs).expanduser(), config.study)
        with held(folder):
            self.study = study = SearchStudy.open(config, space, objectives)
            for values in known_variants(self.grid, space, config.known):
                study.enqueue_trial(values, skip_if_exists=True)
            search = Search(study, self.grid, self._launch, folder)
            search.run()
        return search.outcomes

    def _launch(self, point: PlannedPoint, number: int) -> Outcome:
        _, (outcome,) = launch(self.launcher, [as_trial(point, self.study, number)], number)
        return outcome


@dataclass
class Search:
    """Asks the study for trials, has their runs done, and tells it what they gave."""

    study: SearchStudy
    grid: Grid
    launch: Launch
    folder: Path
    outcomes: list[Outcome] = field(default_factory=list)
    """Of the trials of this call."""
    _is_stopped: bool = False

    def run(self) -> None:
        """Run what remains of the study; raises SearchError where no point is feasible."""
        leftover = self.study.unfinished()
        running: dict[Future[Outcome], list[tuple[optuna.Trial, PlannedPoint]]] = {}
        num_jobs = self.study.config.n_jobs
        with _Here() if num_jobs == 1 else ThreadPoolExecutor(num_jobs) as pool:
            while True:
                while len(running) < num_jobs and (asked := self._next(leftover)) is not None:
                    trial, point = asked
                    twins = [each for each in running.values() if _is_same(each[0][1], point)]
                    if twins:
                        twins[0].append(asked)  # one run answers both
                    else:
                        future = pool.submit(self.launch, point, trial.number)
                        running[future] = [asked]
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    for trial, point in running.pop(future):
                        self._tell(trial, point, future.result())
        self._summarize()

    def _next(self, leftover: list[optuna.Trial]) -> tuple[optuna.Trial, PlannedPoint] | None:
        """The next trial that can be trained; None where there is none to come."""
        for _ in range(MAX_INFEASIBLE):
            if self._is_stopped or not (leftover or not self.study.is_complete):
                return None
            trial = leftover.pop(0) if leftover else self.study.propose()
            if (point := self._feasible(trial)) is not None:
                return trial, point
        self._note()
        reasons = Counter(
            str(t.user_attrs.get(INFEASIBLE)).partition(":")[0]
            for t in self.study.all[-MAX_INFEASIBLE:]
        )
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise SearchError(
            f"the last {MAX_INFEASIBLE} trials were all infeasible ({listed}): widen "
            "hydra.sweeper.constraints, or search smaller values"
        )

    def _feasible(self, trial: optuna.Trial) -> PlannedPoint | None:
        """The trial's run; None, after telling the study why, where it must not be trained."""
        point = self.study.space.point(self.study.space.suggest(trial))
        limits = self.study.config.constraints
        try:
            run = plan_run(*self.grid.compose(point))
        except REFUSALS as error:
            self._refuse(trial, f"invalid: {plain_reason(error)}", {"invalid": 1.0})
            return None
        costs = costs_of(run.config, limits)
        for name, value in costs.items():
            trial.set_user_attr(name, value)
        excess = {name: value - limits[name] for name, value in costs.items()}
        if over := [
            f"{name} {costs[name]:g} > {limits[name]:g}" for name in excess if excess[name] > 0
        ]:
            self._refuse(trial, f"over {', '.join(over)}", excess)
            return None
        for name, value in excess.items():
            if name not in trial.constraints:  # an earlier call may have told it
                trial.set_constraint(name, value)
        for name in ("variant", "digest"):
            trial.set_user_attr(name, getattr(run, name))
        trial.set_user_attr("seed", run.config.seed)
        log.info("trial %d: %s", trial.number, run.variant)
        return PlannedPoint(point, run)

    def _refuse(self, trial: optuna.Trial, reason: str, excess: Mapping[str, float]) -> None:
        log.info("trial %d is infeasible, %s", trial.number, reason)
        self.study.refuse(trial, reason, excess)

    def _tell(self, trial: optuna.Trial, point: PlannedPoint, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._is_stopped |= outcome.status in ("stopped", "queued")
        if outcome.status in ("done", "skipped"):
            self._tell_values(trial, read_record(point.run.folder / "record.json"))
        elif outcome.status == "pruned":
            self.study.end_early(trial, outcome.error or "")
        elif outcome.status in ("failed", "outdated"):
            self.study.fail(trial, outcome.error or _OUTDATED)
        # held, stopped, queued or lost: it runs again with the next call
        self._note()

    def _tell_values(self, trial: optuna.Trial, record: RunRecord) -> None:
        found = {name: value_of(record, name) for name in self.study.objectives}
        absent = [name for name, value in found.items() if value is None]
        if absent:
            self.study.fail(trial, f"{absent[0]} has no value in {record.variant}")
        else:
            self.study.tell(trial.number, [value for value in found.values() if value is not None])

    def _note(self) -> Study:
        note = self.study.note()
        write_study(self.folder, note)
        return note

    def _summarize(self) -> None:
        note = self._note()
        states = [trial.state for trial in note.trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
        log.info("study %s, %d trials wanted: %s", note.name, note.num_trials, counts)
        if self.study.is_exhausted:
            log.info("every point of the space was tried")
        best = self.study.best_trials if note.done else []
        for trial in best[:MAX_TOLD]:
            values = ", ".join(
                f"{name} {value:g}"
                for name, value in zip(self.study.objectives, trial.values, strict=True)
            )
            log.info("best: trial %d, %s, %s", trial.number, values, trial.user_attrs["variant"])


class _Here(Executor):
    """Does work at once, in this thread: signals reach the main thread alone."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _is_same(one: PlannedPoint, other: PlannedPoint) -> bool:
    return (one.run.digest, one.run.config.seed) == (other.run.digest, other.run.config.seed)


def check_types(grid: Grid, space: SearchSpace) -> RunConfig:
    """Compose every choice and every end of the space; raises SearchError naming all faults.

    Returns one of the configs. Values that only together are no network are found trial by trial.
    """
    faults: dict[str, None] = {}
    example = None
    for values in space.probes():
        words = space.point(values).overrides
        try:
            example = as_run_config(grid.loader.load_sweep_config(grid.master, words))
        except REFUSALS as error:
            faults[f"{' '.join(words)}: {plain_reason(error)}"] = None
    if faults or example is None:
        raise SearchError("nothing was started:\n  " + "\n  ".join(faults))
    return example


def check_pruning(config: SearchConfig, example: RunConfig, objectives: Mapping[str, str]) -> None:
    """Raises SearchError where nothing could be pruned, or not as asked."""
    if config.pruner == "none":
        return
    asked = f"hydra.sweeper.pruner={config.pruner}"
    every, num_steps = example.job.evaluate_every, example.protocol.num_steps
    if every is None or every >= num_steps:
        raise SearchError(
            f"{asked}: needs evaluations during training: give job.evaluate_every, in steps, below "
            f"protocol.num_steps ({num_steps})"
        )
    if config.storage is None:
        raise SearchError(
            f"{asked}: a run reads the other trials' evaluations in the study's storage: give "
            "hydra.sweeper.storage"
        )
    if len(objectives) > 1 or set(objectives) & {*COUNTED, *TIMINGS}:
        raise SearchError(
            f"{asked}: compares one metric during training, not {' and '.join(objectives)}: leave "
            "hydra.sweeper.pruner out, or give one metric as objective"
        )


def as_trial(point: PlannedPoint, study: SearchStudy, number: int) -> PlannedPoint:
    """The point told which trial it is, where its training is evaluated for the study."""
    config, objectives = study.config, list(study.objectives)
    is_evaluated = point.run.config.job.evaluate_every is not None
    if not is_evaluated or config.storage is None or len(objectives) > 1:
        return point
    if objectives[0] in (*COUNTED, *TIMINGS):
        return point
    trial = {
        "study": QuotedString(config.study, Quote.single),
        "storage": QuotedString(config.storage, Quote.single),
        "number": number,
        "objective": objectives[0],
        "pruner": config.pruner,
        "pruner_options": dict(config.pruner_options),
    }
    word = f"++job.trial={Transformer.str(trial)}"  # options are keys of their own
    return replace(point, point=replace(point.point, fixed=(*point.point.fixed, word)))


def check_parallel(launcher: Launcher, num_jobs: int) -> None:
    """Raises SearchError where the launcher runs jobs one after the other in this process."""
    # By name: Hydra loads its plugins anew, so that its class is another than what is imported
    if num_jobs > 1 and type(launcher).__name__ == "BasicLauncher":
        raise SearchError(
            f"hydra.sweeper.n_jobs={num_jobs}: the launcher basic runs jobs one after the other "
            "in this process: add hydra/launcher=processes, local_jobs or another that runs them "
            "elsewhere, or leave n_jobs at 1"
        )


def objectives_of(config: SearchConfig, example: RunConfig) -> dict[str, str]:
    """Name and direction of each objective; raises SearchError for a name that is not known."""
    if example.task not in TASKS:
        raise SearchError(f"task={example.task}: give {' or '.join(TASKS)}")
    primary = TASKS[example.task].primary_metric
    direction = "maximize" if METRICS[primary].higher_is_better else "minimize"
    objectives = dict(config.objectives or {primary: direction})
    known = [primary, *METRICS, *COUNTED, *TIMINGS]
    for name in objectives:
        if name not in known:
            raise SearchError(
                f"hydra.sweeper.objectives.{name}: no such metric or cost; {nearest(name, known)}"
            )
    return objectives


def value_of(record: RunRecord, objective: str) -> float | None:
    """An objective's value in a record: a metric, a cost of the backbone, or a timing."""
    for values in (record.metrics, record.cost, record.timing):
        if (value := values.get(objective)) is not None:
            return float(value)
    return None

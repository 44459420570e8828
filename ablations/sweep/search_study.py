"""The study of a search: where Optuna keeps it, what is left to do in it, and what it is told."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ablations.study.pruning import pruner_of
from ablations.study.record import Study, Trial
from ablations.study.storage import quiet, storage_of
from ablations.sweep.search_config import SearchConfig
from ablations.sweep.search_space import SearchError, SearchSpace

INFEASIBLE, REASON = "infeasible", "reason"
"""Names of what is noted on a trial."""
_ASKED, _EXHAUSTED = "asked", "exhausted"
_STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}


class SearchStudy(optuna.Study):
    """Optuna's study, asked and told trial by trial, which knows how many of its trials count.

    Infeasible trials do not count: they cost nothing.
    """

    @classmethod
    def open(
        cls, config: SearchConfig, space: SearchSpace, objectives: Mapping[str, str]
    ) -> "SearchStudy":
        """The study of this name, new or gone on with; raises SearchError if it asks otherwise."""
        quiet()
        storage = storage_of(config.storage)
        created = optuna.create_study(
            study_name=config.study, storage=storage, load_if_exists=True,
            directions=[StudyDirection[each.upper()] for each in objectives.values()],
        )  # fmt: skip
        pruner = pruner_of(config.pruner, config.pruner_options)
        study = cls(config.study, storage, pruner=pruner)
        study.config, study.space, study.objectives = config, space, objectives
        asked = {
            **space.described(),
            "objectives": dict(objectives),
            "constraints": dict(config.constraints),
        }
        if (before := created.user_attrs.get(_ASKED)) is None:
            study.set_user_attr(_ASKED, asked)
            study.set_metric_names(list(objectives))
        elif before != asked:
            raise SearchError(
                f"study {config.study} of {config.storage} asks something else: "
                f"{_difference(before, asked)}; give hydra.sweeper.study=NAME, or what it asks"
            )
        return study

    config: SearchConfig
    space: SearchSpace
    objectives: Mapping[str, str]

    def stop(self) -> None:
        """Called by samplers that have tried every point; Optuna's own knows its own loop only."""
        self.set_user_attr(_EXHAUSTED, True)

    @property
    def all(self) -> list[FrozenTrial]:
        return self.get_trials(deepcopy=False)

    @property
    def is_complete(self) -> bool:
        """Whether no further trial is to be asked for."""
        if any(trial.state == TrialState.WAITING for trial in self.all):
            return self.num_counted >= self.config.n_trials
        return self.num_counted >= self.config.n_trials or self.is_exhausted

    @property
    def is_exhausted(self) -> bool:
        """Whether every point of the space was tried."""
        return bool(self.user_attrs.get(_EXHAUSTED))

    @property
    def num_counted(self) -> int:
        """The trials that cost, or will: all but the infeasible and those that wait."""
        return sum(
            trial.state != TrialState.WAITING and INFEASIBLE not in trial.user_attrs
            for trial in self.all
        )

    def unfinished(self) -> list[optuna.Trial]:
        """The trials whose process ended before they did."""
        self.sampler = optuna.samplers.RandomSampler()
        return [
            optuna.Trial(self, trial._trial_id)
            for trial in self.all
            if trial.state == TrialState.RUNNING
        ]

    def propose(self) -> optuna.Trial:
        """A new trial: a known variant first, else the sampler's."""
        trials = [trial for trial in self.all if trial.state != TrialState.WAITING]
        after_infeasible = bool(trials) and INFEASIBLE in trials[-1].user_attrs
        self.sampler = self.config.sampler_for(
            len(trials), self.space, after_infeasible=after_infeasible
        )
        return self.ask()

    def refuse(self, trial: optuna.Trial, reason: str, excess: Mapping[str, float]) -> None:
        """Tell that a trial is infeasible; `excess` says by how much, per constraint."""
        for name, value in excess.items():
            if name not in trial.constraints:
                trial.set_constraint(name, value)
        trial.set_user_attr(INFEASIBLE, reason)
        self.tell(trial.number, state=TrialState.PRUNED)

    def end_early(self, trial: optuna.Trial, reason: str) -> None:
        """Tell that a trial was stopped in its training; its last evaluation is its value."""
        trial.set_user_attr(REASON, reason)
        self.tell(trial.number, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Tell that a trial has no value."""
        trial.set_user_attr(REASON, reason)
        self.tell(trial.number, state=TrialState.FAIL)

    def note(self) -> Study:
        """The study as the runs folder keeps it."""
        distributions: dict[str, str] = {}
        for trial in self.all:
            for name, each in trial.distributions.items():
                distributions.setdefault(name, distribution_to_json(each))
        return Study(
            name=self.study_name,
            objectives=dict(self.objectives),
            num_trials=self.config.n_trials,
            sampler=self.config.sampler,
            distributions=distributions,
            trials=tuple(_noted(t) for t in self.all if t.state != TrialState.WAITING),
        )


def _noted(trial: FrozenTrial) -> Trial:
    attributes = trial.user_attrs
    infeasible = attributes.get(INFEASIBLE)
    state = _STATES[trial.state]
    is_done = trial.state == TrialState.COMPLETE
    return Trial(
        number=trial.number,
        state="infeasible" if infeasible is not None else state,
        params=trial.params,
        values=tuple(trial.values) if is_done else None,
        variant=attributes.get("variant"),
        digest=attributes.get("digest"),
        seed=attributes.get("seed"),
        reason=infeasible or attributes.get(REASON),
    )


def _difference(before: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first thing that differs, as `fixed: [...] before, [...] now`."""
    for name, value in asked.items():
        former = before.get(name)
        if former == value:
            continue
        if isinstance(value, Mapping) and isinstance(former, Mapping):
            keys: Sequence[str] = sorted({*value, *former})
            key = next(key for key in keys if value.get(key) != former.get(key))
            name, former, value = key, former.get(key), value.get(key)
        elif isinstance(value, list) and isinstance(former, list):
            former, value = (
                [each for each in former if each not in value],
                [each for each in value if each not in former],
            )
        return f"{name} was {json.dumps(former)}, is {json.dumps(value)}"
    return "its objectives or constraints"

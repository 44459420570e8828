"""What a search is told beside its space: `hydra.sweeper.*`, checked before anything runs."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from ablations.field_checks import nearest
from ablations.study.pruning import PRUNERS, pruner_of
from ablations.sweep.search_costs import COSTS
from ablations.sweep.search_space import SearchError, SearchSpace

DIRECTIONS = ("maximize", "minimize")
SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "nsga2": optuna.samplers.NSGAIISampler,
    "gp": optuna.samplers.GPSampler,
    "qmc": optuna.samplers.QMCSampler,
    "random": optuna.samplers.RandomSampler,
    "grid": optuna.samplers.GridSampler,
    "brute_force": optuna.samplers.BruteForceSampler,
}
_FINITE = ("grid", "brute_force")
"""They try every point there is, each once."""
_ONE_SEQUENCE = ("qmc", *_FINITE)
"""Their trials are places in one sequence, which the seed chooses."""
IN_PLACE_OF_OPTUNA = """\
hydra/sweeper=optuna: is not in this project, whose own sweeper is hydra/sweeper=search. Its words:
  hydra.sweeper.n_trials=N          the same; it is the total, whatever an earlier call has done
  hydra.sweeper.direction=maximize  hydra.sweeper.objectives={AP:maximize}, or null: the task's
  hydra.sweeper.study_name=NAME     hydra.sweeper.study=NAME
  hydra.sweeper.storage=URL         the same; or FILE, FILE.db, null
  hydra.sweeper.n_jobs=N            the same, with a launcher that runs jobs in other processes
  hydra/sweeper/sampler=NAME        hydra.sweeper.sampler=NAME: tpe, nsga2, gp, qmc, random, ...
  hydra.sweeper.sampler.seed=N      hydra.sweeper.seed=N
  hydra.sweeper.params, KEY=...     KEY=choice(..), range(..), interval(..), tag(log,..)
  custom_search_space               hydra.sweeper.only_if={KEY:OTHER}, and `absent` as a choice
  max_failure_rate                  not needed: a failed trial is told, and the search goes on"""
"""Said to whoever comes from Hydra's own Optuna sweeper, which is held to Optuna 2."""
_SET_HERE = ("self", "seed", "search_space", "constraints_func")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(kw_only=True, slots=True)
class SearchConfig:
    """`hydra.sweeper` of a search; conf/hydra/sweeper/search.yaml says what each field means."""

    study: str = "search"
    n_trials: int = 20
    objectives: Mapping[str, str] | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)
    only_if: Mapping[str, str] = field(default_factory=dict)
    sampler: str = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    storage: str | None = None
    known: str | None = None
    pruner: str = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    n_jobs: int = 1

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SearchConfig":
        """The options as Hydra gives them; raises SearchError naming field and remedy."""
        known = {each.name: each for each in fields(cls)}
        options = {name: value for name, value in options.items() if name != "help"}
        for name in options:
            if name not in known:
                raise SearchError(f"hydra.sweeper.{name}: no such field; {nearest(name, known)}")
        # an empty mapping in a file would be one that Hydra lets nobody fill
        config = cls(**{name: value for name, value in options.items() if value is not None})
        config.check()
        return config

    def check(self) -> None:
        """Raises SearchError that names the field and the remedy."""
        for name in ("n_trials", "n_jobs"):
            value = getattr(self, name)
            _require(
                isinstance(value, int) and value > 0, name, value, "give a whole number above 0"
            )
        seeded = isinstance(self.seed, int) and self.seed >= 0
        _require(seeded, "seed", self.seed, "give a whole number of at least 0")
        named = isinstance(self.study, str) and _NAME.fullmatch(self.study) is not None
        _require(named, "study", self.study, "use letters, digits and . _ - only")
        for name in ("constraints", "only_if", "sampler_options", "pruner_options"):
            value = getattr(self, name)
            _require(isinstance(value, Mapping), name, value, "give {NAME: VALUE}")
        objectives = self.objectives
        _require(
            objectives is None or (isinstance(objectives, Mapping) and len(objectives) > 0),
            "objectives", objectives, "give {METRIC: maximize} or null",
        )  # fmt: skip
        for name, direction in (objectives or {}).items():
            where = f"objectives.{name}"
            _require(direction in DIRECTIONS, where, direction, f"give {' or '.join(DIRECTIONS)}")
        for name, most in self.constraints.items():
            if name not in COSTS:
                raise SearchError(
                    f"hydra.sweeper.constraints.{name}: no such cost; {nearest(name, COSTS)}"
                )
            is_number = isinstance(most, int | float) and most > 0
            _require(is_number, f"constraints.{name}", most, "give the most there may be, above 0")
        _require(
            self.sampler in SAMPLERS, "sampler", self.sampler, nearest(str(self.sampler), SAMPLERS)
        )
        check_options("sampler", SAMPLERS[self.sampler], self.sampler_options)
        _require(self.pruner in PRUNERS, "pruner", self.pruner, nearest(str(self.pruner), PRUNERS))
        check_options("pruner", PRUNERS[self.pruner].__init__, self.pruner_options)
        try:
            pruner_of(self.pruner, self.pruner_options)
        except (TypeError, ValueError) as error:
            raise SearchError(f"hydra.sweeper.pruner_options: {error}") from None

    def check_space(self, space: SearchSpace) -> None:
        """Raises SearchError where the sampler cannot search the space."""
        if self.sampler not in _FINITE:
            return
        for parameter in space.parameters:
            if parameter.choices is None:
                raise SearchError(
                    f"hydra.sweeper.sampler={self.sampler}: {parameter.name} has no end of values: "
                    "give a list or a range, or take another sampler"
                )
        if self.sampler == "grid" and (space.is_conditional or self.known is not None):
            what = "hydra.sweeper.known" if self.known is not None else "a conditional parameter"
            raise SearchError(
                f"hydra.sweeper.sampler=grid: knows no {what}; take brute_force, which tries "
                "every point too"
            )

    def sampler_for(
        self, number: int, space: SearchSpace, *, after_infeasible: bool
    ) -> BaseSampler:
        """The sampler of one trial.

        Its random numbers depend on (seed, number) alone, so that an interrupted search goes on
        as if it had never been. The Gaussian process learns from trained trials only and would
        propose an infeasible point again; the proposal after one is random.
        """
        name = "random" if self.sampler == "gp" and after_infeasible else self.sampler
        options = dict(self.sampler_options) if name == self.sampler else {}
        if name == "grid":
            options["search_space"] = space.grid
        if name in _ONE_SEQUENCE:
            seed = self.seed
        else:
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if name in ("qmc", "gp"):  # asked one by one, some parameters are drawn apart: no news
            options.setdefault("warn_independent_sampling", False)
        return SAMPLERS[name](seed=seed, **options)  # type: ignore[call-arg]


def check_options(field_name: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises SearchError for an option that Optuna's class does not have."""
    known = [name for name in inspect.signature(kind).parameters if name not in _SET_HERE]
    for name in options:
        if name not in known:
            raise SearchError(
                f"hydra.sweeper.{field_name}_options.{name}: no such option; {nearest(name, known)}"
            )


def _require(holds: bool, name: str, value: object, remedy: str) -> None:
    if not holds:
        raise SearchError(f"hydra.sweeper.{name}={value}: {remedy}")

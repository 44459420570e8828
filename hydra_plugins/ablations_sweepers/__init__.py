"""Hydra's door to the project's sweepers: Hydra finds plugins in this package only."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """`hydra/sweeper=grid`, see ablations.sweep.sweeper.GridSweep."""

    def __init__(
        self,
        params: dict[str, str] | None = None,
        paired: Sequence[Any] = (),
        order: str = "asked",
    ) -> None:
        # Hydra imports every plugin at every start, also where no sweep is run
        from ablations.sweep.sweeper import GridSweep

        self.grid = GridSweep(params, order)  # the grid itself reads what is paired

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.grid.setup(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        return self.grid.sweep(arguments)


class SearchSweeper(Sweeper):
    """`hydra/sweeper=search`, see ablations.sweep.search.SearchSweep."""

    def __init__(self, **options: Any) -> None:
        from ablations.sweep.search import SearchSweep

        self.search = SearchSweep(**options)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.search.setup(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        return self.search.sweep(arguments)


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=optuna`: says which sweeper is ours, in that one's words."""

    def __init__(self, **_: Any) -> None:
        from ablations.sweep.search_config import IN_PLACE_OF_OPTUNA

        print(f"ablations.train: {IN_PLACE_OF_OPTUNA}", file=sys.stderr)
        raise SystemExit(2)

    def setup(self, **_: Any) -> None:
        """Never called."""

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        """Never called."""
        return []


_OPTUNA_WORDS = (
    *("n_trials", "direction", "study_name", "storage", "n_jobs", "max_failure_rate"),
    *("search_space", "params", "custom_search_space"),
)
_OPTUNA_SAMPLERS = ("tpe", "random", "cmaes", "nsgaii", "motpe", "qmc", "grid")
for _sampler in _OPTUNA_SAMPLERS:
    ConfigStore.instance().store(
        group="hydra/sweeper/sampler", name=_sampler, node={"seed": None}, provider="ablations"
    )
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="optuna",
    node={
        "defaults": [{"sampler": "tpe"}],
        "_target_": f"{OptunaSweeper.__module__}.{OptunaSweeper.__name__}",
        **dict.fromkeys(_OPTUNA_WORDS),
    },
    provider="ablations",
)
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="grid",
    node={
        "_target_": f"{GridSweeper.__module__}.{GridSweeper.__name__}",
        "params": None,
        "paired": [],
        "order": "asked",
    },
    provider="ablations",
)

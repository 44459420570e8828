"""The hook by which Hydra finds our sweepers; they themselves are in ablations.sweep.sweepers.

Hydra imports every plugin at the start of every application in the environment, so nothing heavy is
imported until the sweeper is chosen.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Grid(Sweeper):
    """`hydra/sweeper=grid`, see ablations.sweep.sweepers.GridSweeper."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        from ablations.sweep.sweepers import GridSweeper

        self.grid = GridSweeper(params)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.grid.setup(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        return self.grid.sweep(arguments)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="grid",
    node={"_target_": f"{Grid.__module__}.{Grid.__name__}", "params": None},
    provider="ablations",
)

"""The Hydra application: from the command line to one run, or with -m to many.

python -m ablations.train backbone=detnet59 data=glyphs protocol=smoke
python -m ablations.train -m +table=ablation seed=0,1,2
"""

import logging
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ablations.config import RunConfig
from ablations.field_checks import ConfigError
from ablations.planning import plan_run
from ablations.process import execute_apart
from ablations.run import Outcome, execute_planned
from ablations.sweep.compose import (
    REFUSALS,
    config_folder,
    is_refusal,
    plain_reason,
    run_config,
)
from ablations.sweep.grid import Grid
from ablations.sweep.habits import understood

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def main(composed: DictConfig) -> Outcome:
    """Do the composed run; outside a sweep exits 1 if it failed, 2 if it is no run."""
    single = HydraConfig.get().mode == RunMode.RUN
    try:
        config = run_config(composed)
        if config.table is not None and (single or config.variant is None):
            remedy = "add -m" if single else "leave out hydra/sweeper, whose grid runs tables"
            raise ConfigError(f"+table={config.table.name} is a sweep of several runs: {remedy}")
        variant = config.variant or _variant_name(config)
        if not single:
            return _told(execute_apart(config, variant))
        planned = plan_run(config, variant)
    except REFUSALS as error:
        log.error("%s", plain_reason(error))
        sys.exit(2)
    outcome = execute_planned(planned)
    if outcome.is_fault:
        sys.exit(1)
    return outcome


class FailedRunError(RuntimeError):
    """A run of a foreign sweeper failed, which knows no other way to learn of it."""


def _told(outcome: Outcome) -> Outcome:
    """The outcome, which the project's own sweepers read; another's is told by an exception."""
    own = HydraConfig.get().sweeper._target_.startswith("hydra_plugins.ablations_sweepers.")
    if outcome.is_fault and not own:
        raise FailedRunError(f"{outcome.variant} seed {outcome.seed}: {outcome.error}")
    return outcome


def _variant_name(config: RunConfig) -> str:
    return Grid.of_hydra().name(config, HydraConfig.get().runtime.choices)


def command_line() -> None:
    """The command: exits 0 when all is done, 1 when something failed, 2 when nothing was started.

    What Hydra cannot compose is told in a line, without its traceback.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints and exits by itself
    try:
        sys.argv[1:] = understood(sys.argv[1:])
        main()
    except FailedRunError as error:
        print(f"ablations.train: failed: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if not is_refusal(error):
            raise
        print(f"ablations.train: {plain_reason(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    command_line()

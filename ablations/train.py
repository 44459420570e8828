"""The Hydra application: from the command line to one run, or with -m to many.

python -m ablations.train backbone=detnet59 data=glyphs protocol=smoke
python -m ablations.train -m +table=ablation seed=0,1,2
"""

import logging
import sys

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ablations.config import ConfigError, RunConfig
from ablations.process import execute_apart
from ablations.run import Outcome, execute
from ablations.sweep.compose import config_folder, plain_reason, run_config
from ablations.sweep.grid import Grid

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
    except (ValueError, OmegaConfBaseException) as error:
        log.error("%s", plain_reason(error))
        sys.exit(2)
    if not single:
        return execute_apart(config, variant)
    outcome = execute(config, variant)
    if outcome.is_fault:
        sys.exit(1)
    return outcome


def _variant_name(config: RunConfig) -> str:
    hydra_instance = GlobalHydra.instance().hydra
    assert hydra_instance is not None
    master = hydra_instance.compose_config("config", overrides=[], run_mode=RunMode.MULTIRUN)
    grid = Grid(hydra_instance.config_loader, master)
    return grid.name(config, HydraConfig.get().runtime.choices)


if __name__ == "__main__":
    main()

"""The Hydra application: from the command line to one run, or with -m to many.

python -m ablations.train backbone=detnet59 data=glyphs protocol=smoke
python -m ablations.train -m +table=ablation seed=0,1,2
"""

import logging
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ablations.config import ConfigError
from ablations.job import Outcome, execute
from ablations.sweep.compose import config_folder, run_config, variant_name

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def main(composed: DictConfig) -> Outcome:
    """Do the composed run; outside a sweep exits 1 if it failed, 2 if it is no run."""
    hydra_config = HydraConfig.get()
    single = hydra_config.mode == RunMode.RUN
    try:
        config = run_config(composed)
        if single and config.table is not None:
            raise ConfigError(f"+table={config.table.name} is a sweep of several runs: add -m")
    except (ValueError, OmegaConfBaseException) as error:
        log.error("%s", error)
        sys.exit(2)
    overrides = list(hydra_config.overrides.task)
    variant = variant_name(config, hydra_config.runtime.choices["backbone"], overrides)
    outcome = execute(config, variant)
    if single and outcome.status == "failed":
        sys.exit(1)
    return outcome


if __name__ == "__main__":
    main()

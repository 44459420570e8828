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

from ablations.compose import config_folder, run_config, variant_name
from ablations.job import Outcome, execute

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def main(composed: DictConfig) -> Outcome:
    """Do the composed run; exits 1 if it failed and is not part of a sweep."""
    hydra_config = HydraConfig.get()
    config = run_config(composed)
    overrides = list(hydra_config.overrides.task)
    variant = variant_name(config, hydra_config.runtime.choices["backbone"], overrides)
    outcome = execute(config, variant)
    if outcome.status == "failed" and hydra_config.mode == RunMode.RUN:
        sys.exit(1)
    return outcome


if __name__ == "__main__":
    main()

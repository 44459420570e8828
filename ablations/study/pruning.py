"""What stops a trial early: a pruner of Optuna by name, or a paired test against the best trial.

Asked during training, in the run's own process, which may be another machine: the study is read
from its storage, the evaluations of the best trial from its run's folder.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection

from ablations.config import TrialConfig
from ablations.evaluation.paired import Draws, p_not_below
from ablations.record import read_evaluations
from ablations.study.storage import quiet, storage_of

log = logging.getLogger(__name__)

PAIRED = "paired"
NUM_RESAMPLES = 200
LEVEL = 0.05


class PairedPruner(optuna.pruners.NopPruner):
    """Stops a trial that is significantly below the best trial at the same step.

    Both are scored on the same draws of the same images. `level` is the probability, over all steps
    of a training together, to stop a trial that is as good on other images of the kind (Bonferroni
    over its evaluations). Noise of training is not in it.
    """

    def __init__(self, level: float = LEVEL, num_resamples: int = NUM_RESAMPLES) -> None:
        if not 0 < level < 1:
            raise ValueError(f"level={level}: give a probability between 0 and 1")
        if num_resamples < 100:
            raise ValueError(f"num_resamples={num_resamples}: give 100 or more")
        self.level, self.num_resamples = level, num_resamples


PRUNERS: dict[str, type[BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    PAIRED: PairedPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "patient": optuna.pruners.PatientPruner,
}
"""Optuna's Wilcoxon pruner is not among them: it pairs instances of a problem, not images."""


def pruner_of(name: str, options: Mapping[str, Any]) -> BasePruner:
    """The pruner of this name; raises ValueError or TypeError for an option it does not take."""
    if name == "patient":
        options = {"wrapped_pruner": None, **options}
    return PRUNERS[name](**options)


class TrialOfRun:
    """The trial that a run is: told of its evaluations, it says whether the training goes on."""

    def __init__(self, config: TrialConfig, folder: Path, num_evaluations: int) -> None:
        quiet()
        self.folder, self.num_evaluations = folder, num_evaluations
        self.objective = config.objective
        self.pruner = pruner_of(config.pruner, config.pruner_options)
        self.study = optuna.load_study(
            study_name=config.study, storage=storage_of(config.storage), pruner=self.pruner,
            sampler=optuna.samplers.RandomSampler(),
        )  # fmt: skip
        frozen = self.study.get_trials(deepcopy=False)[config.number]
        self.trial = optuna.Trial(self.study, frozen._trial_id)
        self.told = frozen.intermediate_values

    @property
    def num_resamples(self) -> int | None:
        """How many draws of the images the pruner wants to see of each evaluation."""
        return self.pruner.num_resamples if isinstance(self.pruner, PairedPruner) else None

    def reason_to_stop(self, step: int, value: float, draws: Draws | None) -> str | None:
        """Report an evaluation; why the trial is to be stopped, or None."""
        if step not in self.told:  # by an earlier process, which was cut off
            self.trial.report(value, step)
        if isinstance(self.pruner, PairedPruner):
            assert draws is not None
            return self._below_the_best(self.pruner, step, draws)
        if self.trial.should_prune():
            name = next(name for name, kind in PRUNERS.items() if type(self.pruner) is kind)
            return f"pruned at step {step} by {name}"
        return None

    def _below_the_best(self, pruner: PairedPruner, step: int, draws: Draws) -> str | None:
        try:
            best = self.study.best_trial
        except ValueError:
            return None  # no trial is done yet
        there = self._draws_of(best, step)
        if there is None:
            log.info("trial %d, the best, has no evaluation at step %d", best.number, step)
            return None
        if self.study.direction == StudyDirection.MINIMIZE:
            p = p_not_below(there, draws)
        else:
            p = p_not_below(draws, there)
        level = pruner.level / self.num_evaluations
        if p >= level:
            return None
        return (
            f"pruned at step {step}: {draws.values[0]:.4f} is significantly worse than "
            f"{there.values[0]:.4f} of trial {best.number} on the same images (p = {p:.2g} < "
            f"{level:.2g})"
        )

    def _draws_of(self, trial: optuna.trial.FrozenTrial, step: int) -> Draws | None:
        digest, seed = trial.user_attrs.get("digest"), trial.user_attrs.get("seed")
        for folder in self.folder.parents[1].glob(f"*-{digest}/seed{seed}"):
            for row in read_evaluations(folder):
                if row["step"] == step and "draws" in row:
                    return Draws(**row["draws"])
        return None

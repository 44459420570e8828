"""What a search found: its history, its best trials told apart, which parameters matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import json_to_distribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from ablations.evaluation.metrics import METRICS
from ablations.record import Run
from ablations.study.record import Study, Trial
from analysis.bootstrap import Difference, compare, correct
from analysis.matched import MatchedRuns, Tell, has_detections

MAX_LEADING = 8
"""Trials of a single objective that are compared: the best ones."""
MIN_DONE = 5
"""Trials that are done below which no importance is told."""


def history(study: Study) -> pd.DataFrame:
    """A row per trial that was not infeasible: trial, variant, state, objectives, best so far.

    `best` is of a single objective only.
    """
    rows = []
    for trial in study.trials:
        if trial.state != "infeasible":
            values = trial.values or (np.nan,) * len(study.objectives)
            told = {"trial": trial.number, "variant": trial.variant, "state": trial.state}
            rows.append({**told, **dict(zip(study.objectives, values, strict=True))})
    frame = pd.DataFrame(rows, columns=["trial", "variant", "state", *study.objectives])
    if len(study.objectives) == 1:
        ((name, direction),) = study.objectives.items()
        best = frame[name].cummax() if direction == "maximize" else frame[name].cummin()
        frame["best"] = best.ffill()
    return frame


def leading(study: Study) -> list[Trial]:
    """The front of several objectives; of a single one the best trials, each variant once."""
    unique: dict[str | None, Trial] = {}
    for trial in study.done:
        unique.setdefault(trial.digest, trial)
    trials = list(unique.values())
    signs = [1 if direction == "maximize" else -1 for direction in study.objectives.values()]
    gains = {
        trial.number: [s * value for s, value in zip(signs, trial.values or (), strict=True)]
        for trial in trials
    }
    ordered = sorted(trials, key=lambda trial: gains[trial.number], reverse=True)
    if len(signs) == 1:
        return ordered[:MAX_LEADING]
    return [
        trial
        for trial in ordered
        if not any(_beats(gains[other.number], gains[trial.number]) for other in trials)
    ]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """As good in every objective and better in one."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


@dataclass(frozen=True)
class Apart:
    """The leading trials' differences in a metric, on the same images."""

    metric: str
    differences: Mapping[tuple[int, int], Difference]
    """By the numbers of two trials, the first minus the second, corrected over all pairs."""
    left_out: tuple[str, ...] = ()
    """Trials without stored detections."""

    def difference(self, one: int, other: int) -> Difference | None:
        """Of two trials in either order; None where it is not known."""
        return self.differences.get((one, other))

    def not_told_from(self, number: int) -> list[int]:
        """The trials whose difference to this one is below the noise."""
        return sorted(
            other
            for pair, each in self.differences.items()
            for other in pair
            if number in pair and other != number and not each.real
        )


def told_apart(
    study: Study,
    runs: Sequence[Run],
    matched: MatchedRuns,
    num_resamples: int,
    tell: Tell = lambda line: None,
) -> Apart | None:
    """Every two of the leading trials compared; None where no objective is a metric of COCO's."""
    metric = next((name for name in study.objectives if name in METRICS), None)
    if metric is None or num_resamples == 0:
        return None
    by_key = {(run.record.digest, run.record.seed): run for run in runs}
    iou_type = METRICS[metric].iou_type
    tables, left_out = {}, []
    for trial in leading(study):
        run = by_key.get((str(trial.digest), trial.seed if trial.seed is not None else -1))
        if run is None or not has_detections(run):
            left_out.append(f"trial {trial.number}: its detections are gone")
            continue
        tell(f"matching trial {trial.number} of study {study.name}")
        tables[trial.number] = matched.of(run).matches[iou_type]
    comparisons = {
        (one, other): compare([tables[other]], [tables[one]], num_resamples)
        for one, other in combinations(tables, 2)
    }
    named = {f"{one} {other}": each for (one, other), each in comparisons.items()}
    corrected = correct(named, {metric: METRICS[metric].cell})
    found = {
        pair: corrected[f"{pair[0]} {pair[1]}"][metric]
        for pair in comparisons
        if metric in corrected[f"{pair[0]} {pair[1]}"]
    }
    return Apart(metric, found, tuple(left_out))


def importance(study: Study) -> pd.DataFrame:
    """A row per parameter, a column per objective: shares that sum to 1 (PED-ANOVA).

    Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces", IJCAI 2023, as Optuna has it. Empty below `MIN_DONE` trials.
    """
    if len(study.done) < MIN_DONE:
        return pd.DataFrame()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: json_to_distribution(text) for name, text in study.distributions.items()}
    columns = {}
    for index, (name, direction) in enumerate(study.objectives.items()):
        one = optuna.create_study(
            direction=optuna.study.StudyDirection[direction.upper()],
            storage=optuna.storages.InMemoryStorage(),
        )
        for trial in study.done:
            assert trial.values is not None
            one.add_trial(
                optuna.create_trial(
                    params=dict(trial.params),
                    distributions={key: distributions[key] for key in trial.params},
                    value=trial.values[index],
                )
            )
        columns[name] = get_param_importances(one, evaluator=PedAnovaImportanceEvaluator())
    return pd.DataFrame(columns).rename_axis("parameter").reset_index()

"""Evaluations during a run's training: written down, and told to the trial that the run may be."""

import json
import logging
from typing import Any

from torch import nn

from ablations.planning import PlannedRun
from ablations.record import evaluations_path, read_evaluations
from ablations.runtime import PrunedError, Runtime
from ablations.storage import write_atomically
from ablations.study.pruning import TrialOfRun
from ablations.tasks.task import Prediction
from ablations.training.loop import predict

log = logging.getLogger(__name__)


class InterimEvaluation:
    """Evaluates the model of a run when called with the number of steps that are done.

    Of several processes the main one scores, and decides for all.
    """

    def __init__(self, planned: PlannedRun, model: nn.Module, runtime: Runtime) -> None:
        self.planned, self.model, self.runtime = planned, model, runtime
        config, every = planned.config, planned.config.job.evaluate_every
        self.trial: TrialOfRun | None = None
        if config.job.trial.study is not None and every is not None and runtime.is_main:
            num_evaluations = (config.protocol.num_steps - 1) // every
            self.trial = TrialOfRun(config.job.trial, planned.folder, num_evaluations)

    def __call__(self, step: int) -> None:
        """Evaluate and write down; raises PrunedError where the trial is not to go on."""
        task, config = self.planned.task, self.planned.config
        predictions, _ = predict(
            task, self.model, config.protocol, num_images=task.data_summary()["num_val"],
            runtime=self.runtime, log_seconds=config.job.log_seconds,
        )  # fmt: skip
        reason = self._reason_to_stop(step, predictions) if self.runtime.is_main else None
        if reason := self.runtime.broadcast(reason):
            raise PrunedError(reason)

    def _reason_to_stop(self, step: int, predictions: list[Prediction]) -> str | None:
        task = self.planned.task
        metrics, _ = task.score(predictions)
        value = metrics[task.primary_metric]
        log.info(
            "after step %d: %s %s", step, task.primary_metric,
            "-" if value is None else f"{value:.4f}",
        )  # fmt: skip
        row: dict[str, Any] = {"step": step, "metrics": metrics}
        if self.trial is None:
            self._add(row)
            return None
        objective, draws = self.trial.objective, None
        if (num_resamples := self.trial.num_resamples) is not None:
            draws = task.draw(predictions, objective, num_resamples)
            row["draws"] = draws._asdict()
        self._add(row)
        value = metrics[objective]
        return None if value is None else self.trial.reason_to_stop(step, value, draws)

    def _add(self, row: dict[str, Any]) -> None:
        """In place of what an earlier process wrote of this step and later ones."""
        folder = self.planned.folder
        earlier = [each for each in read_evaluations(folder) if each["step"] < row["step"]]
        lines = "".join(json.dumps(each) + "\n" for each in [*earlier, row])
        write_atomically(evaluations_path(folder), lines.encode())

"""Where a run's losses and metrics are shown beside the record: `job.trackers=[tensorboard]`.

A tracker is a class of three methods and a row of `TRACKERS`. The record stays what counts: a
tracker that is not installed refuses the run before it starts, and nothing is read back from one.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from ablations.training import curve

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What is told of one run."""

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        """Losses and learning rate of a step, about a thousand times a run."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The run's metrics, once it is done."""

    def close(self) -> None:
        """The run has ended, whatever way."""


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir RUNS`."""

    package = "tensorboard"

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"val/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; its own variables (WANDB_PROJECT, WANDB_MODE) say where."""

    package = "wandb"

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        import wandb

        # the folder names the run, so that one that goes on is the same run there
        identity = f"{folder.parent.name}-{folder.name}".replace(",", "_").replace("=", "_")[-128:]
        self.run = wandb.init(
            name=name, id=identity, resume="allow", dir=str(folder), config=dict(config)
        )

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.run.summary.update({f"val/{name}": value for name, value in values.items()})

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where."""

    package = "mlflow"

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        import mlflow

        self.client = mlflow
        mlflow.start_run(run_name=name)
        mlflow.log_dict(dict(config), "config.json")

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        self.client.log_metrics({f"train/{name}": v for name, v in values.items()}, step=step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.client.log_metrics({f"val/{name}": v for name, v in values.items()}, step=step)

    def close(self) -> None:
        self.client.end_run()


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


class TrackerError(ValueError):
    """A tracker that is not there; the message names the remedy."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises TrackerError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise TrackerError(f"job.trackers=[{name}]: give some of {', '.join(TRACKERS)}")
        package = TRACKERS[name].package
        if importlib.util.find_spec(package) is None:
            raise TrackerError(f"job.trackers=[{name}]: not installed; pip install {package}")


@contextmanager
def told_to_trackers(
    names: Sequence[str], folder: Path, name: str, config: Mapping[str, Any]
) -> Iterator[list[Tracker]]:
    """Tell trackers of a run's losses while it trains; yields them, to be told its metrics.

    One that fails is dropped with a word: a run must not end because nobody could watch it.
    """
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        for each in names:
            tracker = _Forgiven(each, TRACKERS[each](folder, name, config))
            stack.callback(tracker.close)
            stack.enter_context(curve.heard_by(tracker.losses))
            trackers.append(tracker)
        yield trackers


class _Forgiven:
    """A tracker that is no longer told anything once it has failed."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name, self.tracker = name, tracker

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        self._tell(lambda: self.tracker.losses(step, values))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._tell(lambda: self.tracker.metrics(step, values))

    def close(self) -> None:
        self._tell(self.tracker.close)

    def _tell(self, call: Callable[[], None]) -> None:
        if self.name:
            try:
                call()
            except Exception as error:  # whatever a service's client raises
                log.warning("%s is told no more: %s: %s", self.name, type(error).__name__, error)
                self.name = ""

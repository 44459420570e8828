"""What every task offers to the run and the loop, which know no more of it than this."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from ablations.config import SCRATCH, RunConfig
from ablations.evaluation.paired import Draws
from ablations.runtime import Runtime

Prediction = dict[str, Any]
"""JSON values."""


class Evaluation(NamedTuple):
    """What a record keeps of an evaluation."""

    metrics: dict[str, float | None]
    """By name; None where nothing counts."""
    cells: dict[str, Any]
    """Whatever finer numbers the task knows."""


class Task(ABC):
    """A network's task on opened data: model, batches, losses, predictions, scores.

    A new task is one dataclass here and one row in `ablations.tasks.TASKS`. Batches are opaque to
    the loop; the batch of a step depends on (seed, step) alone.
    """

    config: RunConfig
    primary_metric: str
    """The metric that a log line tells and a search optimizes."""
    predictions_file: str
    """The name of the file in the run's folder that holds what the model predicted."""

    def with_config(self, config: RunConfig) -> Self:
        """The same opened data under another config."""
        return cast(Self, replace(cast(Any, self), config=config))

    def check_model(self) -> None:
        """Build the model without weights; raises ValueError where its parts do not fit."""
        with torch.device("meta"):
            self.with_config(replace(self.config, weights=SCRATCH)).build_model()

    def check_device(self, device: torch.device) -> None:  # noqa: B027 most tasks take any
        """Raises DeviceError, a ValueError, for one that cannot do all that the config asks."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The model with its starting weights, on the CPU."""

    @abstractmethod
    def train_batches(self, start_step: int, runtime: Runtime) -> Iterator[Any]:
        """Endless batches from a step on: this process's part of them."""

    @abstractmethod
    def val_batches(self, runtime: Runtime) -> Iterable[Any]:
        """Every validation image once: this process's part of them."""

    @abstractmethod
    def image_ids(self, batch: Any) -> list[int]:
        """The images of a batch, for messages."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any, device: torch.device) -> dict[str, Tensor]:
        """The losses by name, each a scalar; the sum is what is minimized."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Any, device: torch.device) -> list[Prediction]:
        """The model's answers for a batch, as they are stored and scored."""

    @abstractmethod
    def score(self, predictions: Sequence[Prediction]) -> Evaluation:
        """Score what was predicted on the whole validation data."""

    @abstractmethod
    def draw(self, predictions: Sequence[Prediction], metric: str, num_resamples: int) -> Draws:
        """A metric on the validation images and on draws of them, for paired tests."""

    @abstractmethod
    def data_summary(self) -> dict[str, Any]:
        """What a record says of the data: `train_` and `val_fingerprint`, counts.

        `..._fingerprint_by_size` of a detection is what schema 1 called the data's fingerprint.
        """

    @abstractmethod
    def leave_validation_data(self, runs: Path, num_sample_images: int) -> None:
        """Put what later scoring and pictures need into the runs folder, once for all its runs."""

    @abstractmethod
    def leave_weights(self, model: nn.Module, folder: Path) -> None:
        """Put trained weights that other runs may start from into the run's folder, if any."""

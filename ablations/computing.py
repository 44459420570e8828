"""What a run computes, whether one process does it or several share it: training and scores."""

from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from ablations.config import as_plain
from ablations.interim import InterimEvaluation
from ablations.planning import PlannedRun
from ablations.progress_file import progress_told
from ablations.runtime import Runtime, keep_freed_memory
from ablations.storage import write_json_gz
from ablations.tasks.task import Prediction
from ablations.trackers import told_to_trackers
from ablations.training.checkpoint import save_checkpoint
from ablations.training.loop import fit, predict


class Results(NamedTuple):
    """What a record keeps of a finished run."""

    metrics: dict[str, float | None]
    cells: dict[str, Any]
    timing: dict[str, Any]


def take_part(planned: PlannedRun, runtime: Runtime) -> None:
    """The share of a process that is not the main one, while that one computes."""
    _train_and_predict(planned, runtime)


def compute(planned: PlannedRun, runtime: Runtime) -> Results:
    """Train and score the run, and leave every file but its record."""
    config, task = planned.config, planned.task
    name = f"{planned.variant} seed {config.seed}"
    with (
        progress_told(planned.folder, config.job.log_seconds),
        told_to_trackers(config.job.trackers, planned.folder, name, as_plain(config)) as trackers,
    ):
        timing, predictions = _train_and_predict(planned, runtime)
        metrics, cells = task.score(predictions)
        known = {metric: value for metric, value in metrics.items() if value is not None}
        for tracker in trackers:
            tracker.metrics(config.protocol.num_steps, known)
    task.leave_validation_data(planned.folder.parents[1], config.job.num_sample_images)
    write_json_gz(planned.folder / task.predictions_file, predictions)
    return Results(metrics, cells, timing)


def _train_and_predict(
    planned: PlannedRun, runtime: Runtime
) -> tuple[dict[str, Any], list[Prediction]]:
    config, task = planned.config, planned.task
    settings, protocol = config.job, config.protocol
    runtime.reset_peak_memory()
    keep_freed_memory(runtime.device)
    torch.manual_seed(config.seed)
    model = task.build_model().to(runtime.device)
    if settings.compile != "off":
        model.compile(mode=settings.compile, dynamic=False)
    effort = fit(
        task,
        model,
        protocol,
        planned.folder,
        seed=config.seed,
        runtime=runtime,
        checkpoint_seconds=settings.checkpoint_seconds,
        log_seconds=settings.log_seconds,
        evaluate_every=settings.evaluate_every,
        evaluate=InterimEvaluation(planned, model, runtime),
    )
    predictions, images_per_second = predict(
        task,
        model,
        protocol,
        num_images=task.data_summary()["num_val"],
        runtime=runtime,
        log_seconds=settings.log_seconds,
    )
    if runtime.is_main:
        # The optimizer's state is of no more use
        final = {"model": model.state_dict(), "step": protocol.num_steps, **asdict(effort)}
        save_checkpoint(planned.folder, final)
        task.leave_weights(model, planned.folder)
    peaks = [peak for peak in (effort.peak_memory, runtime.peak_memory()) if peak is not None]
    timing = {
        "train_images_per_second": protocol.num_steps * protocol.batch_size / effort.seconds,
        "train_seconds": effort.seconds,
        "eval_images_per_second": images_per_second,
        "peak_memory_bytes": max(peaks, default=None),
    }
    return timing, predictions

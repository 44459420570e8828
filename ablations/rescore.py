"""Score runs again: from their stored predictions, or from their checkpoint.

    python -m ablations.rescore runs/detnet59-0123456789abcdef/seed0
    python -m ablations.rescore --predict runs/detnet59-0123456789abcdef/seed0

The first needs no images and no GPU; the second opens the data again and applies the checkpoint.
Both rewrite the metrics of the record.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ablations.config import CLASSIFY, SCRATCH, RunConfig, from_plain
from ablations.evaluation.classes import class_errors
from ablations.planning import plan_run
from ablations.record import RecordError, Run, read_record, write_record
from ablations.runtime import Runtime, select_device
from ablations.storage import held, write_json_gz
from ablations.tasks.detection import score
from ablations.training.checkpoint import load_checkpoint
from ablations.training.loop import predict

Model = TypeVar("Model", bound=nn.Module)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score every named run again; returns 2, and says why, where one cannot be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m ablations.rescore",
        description="Score runs again and rewrite the metrics of their records.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run folders: <variant>/seed<k>")
    parser.add_argument(
        "--predict",
        action="store_true",
        help="apply the checkpoint again first (needs the data), else score what is stored",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    try:
        for folder in options.folders:
            run = Run(folder, read_record(folder / "record.json"))
            with held(folder):
                if options.predict:
                    predict_again(run, options.device)
                metrics = score_again(run)
            print(folder, *(f"{name} {_shown(value)}" for name, value in metrics.items()), sep="  ")
    except (ValueError, RuntimeError, OSError, OmegaConfBaseException) as error:
        print(f"ablations.rescore: {error}", file=sys.stderr)
        return 2
    return 0


def score_again(run: Run) -> dict[str, float | None]:
    """Score the run's stored predictions and rewrite its record; returns the metrics."""
    config = from_plain(run.record.config)
    cells: dict[str, Any] = {}
    if config.task == CLASSIFY:
        metrics = class_errors(run.classes(), len(run.record.data["categories"]))
    else:
        metrics, cells = score(run.truth(), run.detections(), with_masks=config.detector.has_masks)
    done = replace(run.record, status="done", metrics=metrics, cells=cells, error=None)
    write_record(run.folder, done)
    return metrics


def config_of(run: Run) -> RunConfig:
    """The run's config; its trained weights replace those that training began with."""
    return replace(from_plain(run.record.config), weights=SCRATCH)


def trained_model(run: Run, model: Model, device: torch.device) -> Model:
    """A model as the run's task builds it, with the weights of the run's checkpoint.

    Raises RecordError where the checkpoint is missing or unfinished.
    """
    num_steps = run.record.config["protocol"]["num_steps"]
    checkpoint = load_checkpoint(run.folder, device, num_steps)
    if checkpoint is None or checkpoint["step"] < num_steps:
        raise RecordError(
            f"{run.folder}: no finished checkpoint, and random weights say nothing: train the run "
            "to its end first"
        )
    model.to(device).load_state_dict(checkpoint["model"])
    return model


def predict_again(run: Run, device_name: str) -> None:
    """Replace the run's stored predictions by those of its checkpoint.

    Raises RecordError where the checkpoint is missing, or unfinished, or the data have changed.
    """
    config = config_of(run)
    runtime = Runtime(select_device(device_name))
    task = plan_run(config, run.record.variant).task
    task.check_device(runtime.device)
    data = task.data_summary()
    for split in ("train_fingerprint", "val_fingerprint"):
        if data[split] != run.record.data[split]:
            raise RecordError(f"{run.folder}: the data are not those the run was trained on")
    model = trained_model(run, task.build_model(), runtime.device)
    predictions, _ = predict(
        task, model, config.protocol, num_images=data["num_val"], runtime=runtime
    )
    write_json_gz(run.folder / task.predictions_file, predictions)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())

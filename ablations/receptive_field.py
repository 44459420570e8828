"""Measure the effective receptive field of a runs folder's trained backbones, stage by stage.

    python -m ablations.receptive_field runs

Takes of each variant the first run that has its checkpoint, and the sample images of its validation
data, and leaves `receptive_field.json` beside its runs, where the report finds it.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from torch import Tensor

from ablations.config import DETECT
from ablations.progress import Progress
from ablations.record import RecordError, Run, read_runs, receptive_field_path
from ablations.rescore import config_of, trained_model
from ablations.runtime import select_device
from ablations.storage import write_json
from ablations.tasks.detection import build_model
from detnet.receptive_field import effective_fields

log = logging.getLogger(__name__)

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; returns 2, and says why, where nothing can be measured."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    try:
        measured = measure_runs(options.runs, select_device(options.device), options.size)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"ablations.receptive_field: {error}", file=sys.stderr)
        return 2
    for path, found in measured.items():
        sides = (
            f"{stage} {field['effective']:.0f} of {field['theoretical'] or '?'}"
            for stage, field in found["stages"].items()
        )
        print(path, *sides, sep="  ")
    return 0


def measure_runs(runs: Path, device: torch.device, size: int) -> dict[Path, dict[str, Any]]:
    """Measure every variant that has a trained run and write it down; returns it by file.

    Runs that cannot be measured are told and left out. Raises RecordError where none is left.
    """
    faults = list[str]()
    found = read_runs(runs, faults)
    progress = Progress("measuring, runs", len(found), closing=True)
    written: dict[Path, dict[str, Any]] = {}
    for done, run in enumerate(found, start=1):
        path = receptive_field_path(run.folder)
        if path not in written:
            try:
                written[path] = measure_run(run, device, size)
                write_json(path, written[path])
            except (KeyError, ValueError, OSError, OmegaConfBaseException) as error:
                faults.append(f"{run.folder}: {error}")
        progress.update(done)
    for fault in faults:
        log.warning("left out: %s", fault)
    if not written:
        raise RecordError(f"{runs}: no run can be measured; train one to its end first")
    return written


def measure_run(run: Run, device: torch.device, size: int) -> dict[str, Any]:
    """The fields of one run's stages in input pixels, over images of `size` x `size`.

    Raises RecordError for a run that is no finished detection, or without its checkpoint or sample
    images.
    """
    config = config_of(run)
    if config.task != DETECT:
        raise RecordError(f"task={config.task}: it is measured of detectors' backbones")
    detector = build_model(config, len(run.record.data["categories"]))
    model = trained_model(run, detector, device).eval()
    images = _sample_images(run, size).to(device)
    normalized = model.normalize(images, torch.tensor([[size, size]] * len(images), device=device))
    fields = effective_fields(model.backbone.features, normalized)
    theoretical = [
        stage["receptive_field"]
        for name, stage in run.record.cost["stages"].items()
        if name != "head"
    ]
    if len(theoretical) != len(fields):  # fewer maps are used than the network has
        theoretical = [None] * len(fields)
    return {
        "image_size": size,
        "num_images": len(images),
        "seed": run.record.seed,
        "stages": {
            stage: {"effective": field.side, "theoretical": reach}
            for (stage, field), reach in zip(fields.items(), theoretical, strict=True)
        },
    }


def _sample_images(run: Run, size: int) -> Tensor:
    """The stored validation images, (N, 3, size, size) in [0, 1]."""
    folder = run.validation_folder / "images"
    paths = [path for path in sorted(folder.glob("*.*")) if path.suffix in IMAGE_ENDINGS]
    if not paths:
        raise RecordError(f"{folder}: no sample images; train with job.num_sample_images=8")
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            pixels.append(np.asarray(image.convert("RGB").resize((size, size))))
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ablations.receptive_field",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, metavar="RUNS", help="the folder that holds the runs")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--size", type=int, default=512, help="side of the images (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

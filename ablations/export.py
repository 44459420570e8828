"""Write a run's detections as a COCO results file, for COCO's server or any other tool.

    python -m ablations.export runs/detnet59-0123456789abcdef/seed0 --out results.json
    python -m ablations.export runs/detnet59-0123456789abcdef/seed0 --out \\
        detections_test-dev2017_detnet59_results.json \\
        --images image_info_test-dev2017.json --folder test2017

The first writes what the run found in its validation images; the second applies its checkpoint to
the images that a COCO file lists, annotated or not. Ids are those of the files either way.
"""

import argparse
import json
import logging
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from ablations.config import DETECT
from ablations.data import FolderDataset
from ablations.data.coco import check_instances
from ablations.data.faults import DataError
from ablations.data.paths import ImageFolder
from ablations.record import RecordError, Run, read_record
from ablations.rescore import config_of, trained_model
from ablations.runtime import Runtime, select_device
from ablations.storage import write_atomically
from ablations.tasks.detection import DetectionTask
from ablations.tasks.task import Prediction
from ablations.training.loop import predict


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; returns 2, and says why, where there is nothing to write."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    try:
        run = Run(options.run, read_record(options.run / "record.json"))
        if options.images is None:
            detections = run.detections()
        else:
            folder = options.images.parent if options.folder is None else options.folder
            runtime = Runtime(select_device(options.device))
            detections = detect(run, options.images, folder, runtime)
        write_results(options.out, detections)
    except (ValueError, RuntimeError, OSError, OmegaConfBaseException) as error:
        print(f"ablations.export: {error}", file=sys.stderr)
        return 2
    print(f"{len(detections):,} detections: {options.out}")
    return 0


def detect(run: Run, listed: Path, folder: Path, runtime: Runtime) -> list[Prediction]:
    """What the run's checkpoint finds in the images that a COCO file lists, in `folder`.

    Raises RecordError for an unfinished run or one of other categories, DataError for images that
    cannot be used.
    """
    config = config_of(run)
    if config.task != DETECT:
        raise RecordError(f"{run.folder}: task {config.task} has no detections to export")
    dataset = _images_of(listed, folder, run.truth()["categories"])
    task = DetectionTask(config, dataset, dataset)
    task.check_device(runtime.device)
    model = trained_model(run, task.build_model(), runtime.device)
    found, _ = predict(task, model, config.protocol, num_images=len(dataset), runtime=runtime)
    return found


def _images_of(listed: Path, folder: Path, categories: list[dict[str, Any]]) -> FolderDataset:
    """The images of a COCO file without its annotations, under the run's categories."""
    try:
        content = json.loads(listed.read_text())
        images = content["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{listed}: not readable as a COCO file with `images` ({error!r}): give one such as "
            "image_info_test-dev2017.json"
        ) from error
    ours = {category["id"]: category["name"] for category in categories}
    theirs = {each["id"]: each["name"] for each in content.get("categories", categories)}
    if ours != theirs:
        differing = sorted(set(ours.items()) ^ set(theirs.items()))
        raise RecordError(
            f"{listed}: its categories are not those the run was trained on, first "
            f"{differing[0]}: give a file of the same categories, or one without any"
        )
    bare = {"images": images, "annotations": [], "categories": categories}
    images_folder = ImageFolder(folder.resolve(), follow_links=True)
    instances = check_instances(
        bare, source=str(listed), folder=images_folder, masks=False, max_images=None
    )
    return FolderDataset(instances, images_folder, str(listed), training=False)


def write_results(path: Path, detections: Sequence[Prediction]) -> None:
    """Write a COCO results file; a path that ends in .zip holds it as the server takes it."""
    text = json.dumps(list(detections))
    if path.suffix != ".zip":
        write_atomically(path, text.encode())
        return
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.json", text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ablations.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="<variant>-<digest>/seed<k>")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="results.json, or results.zip"
    )
    parser.add_argument(
        "--images", type=Path, metavar="FILE", help="COCO file that lists images to detect in"
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where they lie (default: beside that file)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(main())

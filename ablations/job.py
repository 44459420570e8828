"""One run, from its config to its record: skipped if done, resumed if cut off, marked if failed."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ablations.config import SCRATCH, RunConfig, as_plain, run_digest
from ablations.data import (
    DataConfig,
    DetectionDataset,
    check_same_task,
    open_data,
    train_batches,
    val_batches,
)
from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.scoring import Evaluation, evaluate
from ablations.record import (
    RunRecord,
    detections_path,
    locked,
    read_record,
    run_folder,
    validation_folder,
    write_json_gz,
    write_record,
)
from ablations.tasks.detection import build_classifier, build_model
from ablations.training import loop, runtime
from detnet.cost import cost
from detnet.spec import BackboneSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A run before it is run: its data, its digest and its folder."""

    config: RunConfig
    variant: str
    train: DetectionDataset
    val: DetectionDataset
    digest: str
    folder: Path

    @property
    def status(self) -> str:
        """done, failed, running (or cut off), or missing."""
        path = self.folder / "record.json"
        return read_record(path).status if path.exists() else "missing"


@dataclass(frozen=True)
class Outcome:
    """What became of a job; `status` is done, skipped (done before) or failed."""

    variant: str
    seed: int
    digest: str
    folder: str
    status: str
    error: str | None = None


def prepare(config: RunConfig, variant: str) -> Job:
    """Open the data and find the run's folder; raises ValueError that names what is wrong."""
    with_masks = config.detector.has_masks
    train = _open(config.data, "train", config.protocol.max_train_images, with_masks)
    val = _open(config.data, "val", config.protocol.max_val_images, with_masks)
    check_same_task(train, val)
    _check_builds(config, len(train.categories))
    digest = run_digest(config, train.fingerprint, val.fingerprint)
    folder = find_folder(Path(config.job.runs), variant, digest, config.seed)
    return Job(config, variant, train, val, digest, folder)


def _check_builds(config: RunConfig, num_classes: int) -> None:
    """Stages, levels and strides that do not fit each other show only when the model is built."""
    with torch.device("meta"):
        build_model(replace(config, weights=SCRATCH), num_classes)


def find_folder(runs: Path, variant: str, digest: str, seed: int) -> Path:
    """Where the run lies, under whatever name it was first run, or where it will."""
    there = sorted(runs.glob(f"*-{digest}/seed{seed}/record.json"))
    return there[0].parent if there else run_folder(runs, variant, digest, seed)


def execute(config: RunConfig, variant: str) -> Outcome:
    """Do the run and leave its record; a failure is recorded and told, not raised."""
    folder, digest = None, ""
    try:
        job = prepare(config, variant)
        folder, digest = job.folder, job.digest
        if job.status == "done":
            log.info("%s seed %d is done already: %s", variant, config.seed, folder)
            return Outcome(variant, config.seed, digest, str(folder), "skipped")
        with locked(folder), _logged_to(folder / "log.txt"):
            if job.status == "done":  # by another process, until a moment ago
                return Outcome(variant, config.seed, digest, str(folder), "skipped")
            _run(job)
    except Exception as error:
        summary = f"{type(error).__name__}: {error}"
        # A ValueError says all there is to say; the record keeps every traceback
        unexpected = not isinstance(error, ValueError)
        log.error("%s seed %d failed: %s", variant, config.seed, summary, exc_info=unexpected)
        return Outcome(variant, config.seed, digest, str(folder or ""), "failed", summary)
    return Outcome(variant, config.seed, digest, str(folder), "done")


def record_of(job: Job, status: str, **values: Any) -> RunRecord:
    """The job's record with what is known before it runs, and `values`."""
    return RunRecord(
        variant=job.variant,
        seed=job.config.seed,
        digest=job.digest,
        status=status,
        config=as_plain(job.config),
        data={
            "train_fingerprint": job.train.fingerprint,
            "val_fingerprint": job.val.fingerprint,
            "num_train": len(job.train),
            "num_val": len(job.val),
            "categories": [category["name"] for category in job.val.categories],
            "train_checks": job.train.checks,
            "val_checks": job.val.checks,
        },
        **values,
    )


def _run(job: Job) -> None:
    settings = job.config.job
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    known: dict[str, Any] = {}
    try:
        device = runtime.select_device(settings.device)
        known = {"env": runtime.describe(device), "cost": backbone_cost(job.config)}
        write_record(job.folder, record_of(job, "running", **known))
        timing, detections = _train_and_predict(job, device)
        metrics, cells = score(job.val.truth, detections, with_masks=job.config.detector.has_masks)
        leave_validation_data(job)
        write_json_gz(detections_path(job.folder), detections)
    except BaseException as error:
        # KeyboardInterrupt leaves the run to be continued: it stays "running"
        if isinstance(error, Exception):
            failed = record_of(job, "failed", error=traceback.format_exc(), **known)
            write_record(job.folder, failed)
        raise
    done = record_of(job, "done", metrics=metrics, cells=cells, timing=timing, **known)
    write_record(job.folder, done)
    log.info("%s seed %d: AP %.4f  %s", job.variant, job.config.seed, _ap(metrics), job.folder)


def _ap(metrics: dict[str, float | None]) -> float:
    value = metrics["AP"]
    return float("nan") if value is None else value


def backbone_cost(config: RunConfig) -> dict[str, Any]:
    """Params, MACs and so on of the backbone at 224 x 224, the field's convention."""
    if isinstance(config.backbone, BackboneSpec):
        return asdict(cost(config.backbone))
    with torch.device("meta"):
        return asdict(cost(build_classifier(config.backbone)))


def _train_and_predict(
    job: Job, device: torch.device
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    config = job.config
    settings, protocol = config.job, config.protocol
    runtime.reset_peak_memory(device)
    torch.manual_seed(config.seed)
    model = build_model(config, len(job.train.categories)).to(device)
    effort = loop.fit(
        model,
        lambda step: train_batches(
            job.train,
            protocol.batch_size,
            seed=config.seed,
            start_step=step,
            num_workers=settings.num_workers,
            flip=protocol.flip,
            pin_memory=device.type == "cuda",
        ),
        protocol,
        job.folder,
        seed=config.seed,
        device=device,
        checkpoint_seconds=settings.checkpoint_seconds,
        log_seconds=settings.log_seconds,
    )
    detections, images_per_second = predict_validation(job, model, device)
    # The optimizer's state is of no more use
    final = {"model": model.state_dict(), "step": protocol.num_steps, **asdict(effort)}
    loop.save_checkpoint(job.folder, final)
    timing = {
        "train_images_per_second": protocol.num_steps * protocol.batch_size / effort.seconds,
        "train_seconds": effort.seconds,
        "eval_images_per_second": images_per_second,
        "peak_memory_bytes": max(effort.peak_memory, runtime.peak_memory(device)),
    }
    return timing, detections


def predict_validation(
    job: Job, model: nn.Module, device: torch.device
) -> tuple[list[dict[str, Any]], float]:
    """The model's detections on the validation data, and images per second."""
    settings = job.config.job
    pinned = device.type == "cuda"
    return loop.predict(
        model,
        val_batches(job.val, 1, num_workers=settings.num_workers, pin_memory=pinned),
        len(job.val),
        [category["id"] for category in job.val.categories],
        protocol=job.config.protocol,
        device=device,
        log_seconds=settings.log_seconds,
    )


def score(
    instances: dict[str, Any], detections: list[dict[str, Any]], *, with_masks: bool
) -> Evaluation:
    """Metrics under COCO's names, and every cell, of detections against COCO instances."""
    truth = Truth.from_coco(instances)
    iou_types = ("bbox", "segm") if with_masks else ("bbox",)
    return evaluate(truth, Detections.from_coco(detections, truth), iou_types)


def leave_validation_data(job: Job) -> None:
    """Put the truth and a few images where the tables and pictures find them."""
    folder = validation_folder(Path(job.config.job.runs), job.val.fingerprint)
    if (folder / "truth.json.gz").exists():
        return
    for index in range(min(job.config.job.num_sample_images, len(job.val))):
        _, target = job.val[index]
        path = folder / "images" / f"{int(target['image_id'])}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(job.val.image(index)).save(path)
    write_json_gz(folder / "truth.json.gz", job.val.truth)


_datasets: dict[str, DetectionDataset] = {}


def _open(
    data: DataConfig, split: str, max_images: int | None, with_masks: bool
) -> DetectionDataset:
    key = f"{data!r} {split} {max_images} {with_masks}"
    if key not in _datasets:
        _datasets[key] = open_data(data, split, max_images, masks=with_masks)
    return _datasets[key]


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()

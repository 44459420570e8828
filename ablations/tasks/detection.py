"""Detection: a backbone under an FPN detector, trained on boxes or masks, scored by COCO's AP."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ablations.config import RunConfig, TimmBackbone
from ablations.data import (
    DetectionDataset,
    Sides,
    check_same_task,
    open_data,
    train_batches,
    val_batches,
)
from ablations.evaluation import masks
from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.faults import FormatError
from ablations.evaluation.matching import match
from ablations.evaluation.metrics import METRICS
from ablations.evaluation.paired import Draws, draw
from ablations.evaluation.scoring import evaluate
from ablations.record import DETECTIONS_FILE, validation_folder
from ablations.runtime import DeviceError, Runtime
from ablations.storage import held, replacing, write_json_gz
from ablations.tasks.network import build_body, check_weights
from ablations.tasks.task import Evaluation, Prediction, Task
from detnet.detection import Batch, Detector

log = logging.getLogger(__name__)

MASK_THRESHOLD = 0.5  # Mask R-CNN, Sec. 3.1 (arXiv 1703.06870)


@dataclass(frozen=True)
class DetectionTask(Task):
    """A run's detector with its training and validation data."""

    config: RunConfig
    train: DetectionDataset
    val: DetectionDataset
    primary_metric: str = "AP"
    predictions_file: str = DETECTIONS_FILE

    @classmethod
    def open(cls, config: RunConfig) -> "DetectionTask":
        """Open and check the data; raises ValueError."""
        check_weights(config)
        train, val = (_open(config, split) for split in ("train", "val"))
        check_same_task(train, val)
        return cls(config, train, val)

    def build_model(self) -> nn.Module:
        return build_model(self.config, len(self.train.categories))

    def train_batches(self, start_step: int, runtime: Runtime) -> Iterator[Batch]:
        protocol = self.config.protocol
        return train_batches(
            self.train,
            protocol.batch_size // runtime.world_size,
            seed=self.config.seed,
            start_step=start_step,
            num_workers=self.config.job.num_workers,
            flip=protocol.flip,
            sides=self._sides,
            encoded=self._gpu_decodes,
            pin_memory=runtime.is_gpu,
            rank=runtime.rank,
            world_size=runtime.world_size,
        )

    def val_batches(self, runtime: Runtime) -> Iterable[Batch]:
        return val_batches(
            self.val,
            self.config.protocol.batch_size // runtime.world_size,
            sides=self._sides,
            encoded=self._gpu_decodes,
            num_workers=self.config.job.num_workers,
            pin_memory=runtime.is_gpu,
            rank=runtime.rank,
            world_size=runtime.world_size,
        )

    @property
    def _sides(self) -> Sides:
        protocol = self.config.protocol
        return Sides(list(protocol.short_side), protocol.long_side)

    @property
    def _gpu_decodes(self) -> bool:
        return self.config.protocol.decode == "cuda"

    def check_device(self, device: torch.device) -> None:
        if self._gpu_decodes and device.type != "cuda":
            raise DeviceError(
                f"protocol.decode=cuda: the run would compute on {device}, and a GPU decodes its "
                "images; use a GPU (job.device=cuda), or train with protocol.decode=pillow"
            )

    def image_ids(self, batch: Batch) -> list[int]:
        return batch.image_ids

    def losses(self, model: nn.Module, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        return model(batch.to(device))

    def predict(self, model: nn.Module, batch: Batch, device: torch.device) -> list[Prediction]:
        category_ids = [category["id"] for category in self.val.categories]
        return [
            result
            for output, image_id in zip(model(batch.to(device)), batch.image_ids, strict=True)
            for result in as_results(output, image_id, category_ids)
        ]

    def score(self, predictions: Sequence[Prediction]) -> Evaluation:
        return score(self.val.truth, predictions, with_masks=self.config.detector.has_masks)

    def draw(self, predictions: Sequence[Prediction], metric: str, num_resamples: int) -> Draws:
        truth, known = Truth.from_coco(self.val.truth), METRICS[metric]
        table = match(truth, Detections.from_coco(predictions, truth), known.iou_type)
        return draw(table, known, num_resamples)

    def data_summary(self) -> dict[str, Any]:
        return {
            "train_fingerprint": self.train.fingerprint,
            "val_fingerprint": self.val.fingerprint,
            "train_fingerprint_by_size": self.train.fingerprint_by_size,
            "val_fingerprint_by_size": self.val.fingerprint_by_size,
            "num_train": len(self.train),
            "num_val": len(self.val),
            "categories": [category["name"] for category in self.val.categories],
            "train_checks": self.train.checks,
            "val_checks": self.val.checks,
        }

    def leave_validation_data(self, runs: Path, num_sample_images: int) -> None:
        folder = validation_folder(runs, self.val.fingerprint)
        path = folder / "truth.json.gz"
        if _is_whole(path):
            return
        with held(folder, wait=True):  # other runs leave the same
            if _is_whole(path):
                return
            if path.exists():
                log.warning("%s: is damaged, and is written anew", path)
            for index in range(min(num_sample_images, len(self.val))):
                _, target = self.val[index]
                with replacing(folder / "images" / f"{int(target['image_id'])}.png") as temporary:
                    Image.fromarray(self.val.image(index)).save(temporary, format="png")
            write_json_gz(path, self.val.truth)

    def leave_weights(self, model: nn.Module, folder: Path) -> None:
        """A detector's weights are for this detector only, and its checkpoint holds them."""


def _is_whole(truth: Path) -> bool:
    """Whether a truth file is there and can be scored against."""
    if not truth.exists():
        return False
    status = truth.stat()
    return _can_be_read(truth, status.st_size, status.st_mtime_ns)


@cache  # a sweep's runs share few files
def _can_be_read(truth: Path, size: int, changed: int) -> bool:
    try:
        Truth.from_coco(truth)
    except FormatError:
        return False
    return True


def score(
    instances: dict[str, Any], detections: Sequence[Prediction], *, with_masks: bool
) -> Evaluation:
    """Metrics under COCO's names, and every cell, of detections against COCO instances."""
    truth = Truth.from_coco(instances)
    iou_types = ("bbox", "segm") if with_masks else ("bbox",)
    return Evaluation(*evaluate(truth, Detections.from_coco(detections, truth), iou_types))


def build_model(config: RunConfig, num_classes: int) -> Detector:
    """The run's detector for `num_classes` object classes, on the CPU.

    Channels come last in memory, which convolutions on CPUs and tensor cores prefer.
    """
    name, normalization = "backbone", {}
    if isinstance(config.backbone, TimmBackbone):
        name = config.backbone.name
        if (published := timm.get_pretrained_cfg(name)) is not None:
            normalization = {"image_mean": published.mean, "image_std": published.std}
    model = config.detector.build(
        build_body(config), num_classes, backbone_name=name, **normalization
    )
    return model.to(memory_format=torch.channels_last)


def as_results(
    output: dict[str, Tensor], image_id: int, category_ids: list[int]
) -> list[Prediction]:
    """One image's torchvision output as COCO results: boxes (x, y, w, h), masks as RLE.

    `category_ids[k - 1]` is the category of label k. Boxes are rounded to hundredths of a pixel and
    scores to six decimals; what is scored is what is stored.
    """
    boxes = output["boxes"].double().cpu().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    scores, labels = output["scores"].double().tolist(), output["labels"].tolist()
    results: list[Prediction] = [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": [round(float(value), 2) for value in box],
            "score": round(score, 6),
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    if "masks" in output:
        inside = (output["masks"][:, 0] > MASK_THRESHOLD).to(torch.uint8).cpu().numpy()
        for result, mask in zip(results, masks.encode_bitmaps(inside), strict=True):
            result["segmentation"] = mask
    return results


_datasets: dict[str, DetectionDataset] = {}
"""Opened splits: the runs of a sweep mostly share theirs."""


def _open(config: RunConfig, split: str) -> DetectionDataset:
    limit = getattr(config.protocol, f"max_{split}_images")
    with_masks = config.detector.has_masks
    key = json.dumps([repr(config.data), split, limit, with_masks])
    if key not in _datasets:
        _datasets[key] = open_data(config.data, split, limit, masks=with_masks)
    return _datasets[key]

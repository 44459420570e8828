"""Classification: a backbone with its classifier, trained on one class an image, scored by error.

This is what pretrains a detector's backbone. Images, augmentation and losses are timm's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    Mixup,
    create_transform,
)
from timm.data.random_erasing import RandomErasing
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ablations.classification_protocol import ClassificationProtocol
from ablations.config import WEIGHTS_FILE, RunConfig, TimmBackbone
from ablations.data import (
    ClassBatch,
    ClassDataset,
    class_train_batches,
    class_val_batches,
    open_class_data,
    seeded,
)
from ablations.evaluation.classes import NUM_TOP, class_errors, class_faults, resampled_error
from ablations.evaluation.paired import Draws, draw_counts
from ablations.record import CLASSES_FILE, validation_folder
from ablations.runtime import Runtime
from ablations.storage import held, replacing
from ablations.tasks.network import build_network, check_weights
from ablations.tasks.task import Evaluation, Prediction, Task
from detnet.checkpoints import stride_note
from detnet.processes import own_rows


@dataclass(frozen=True)
class ClassificationTask(Task):
    """A run's classifier with its training and validation data."""

    config: RunConfig
    train: ClassDataset
    val: ClassDataset
    primary_metric: str = "top1_error"
    predictions_file: str = CLASSES_FILE

    @classmethod
    def open(cls, config: RunConfig) -> "ClassificationTask":
        """Open and check the data, and check that the model builds; raises ValueError."""
        check_weights(config)
        protocol = config.protocol
        train, val = open_class_data(
            config.data, protocol.max_train_images, protocol.max_val_images
        )
        return cls(config, train, val)

    @property
    def protocol(self) -> ClassificationProtocol:
        protocol = self.config.protocol
        assert isinstance(protocol, ClassificationProtocol)
        return protocol

    def build_model(self) -> nn.Module:
        model = build_network(self.config, num_classes=len(self.train.classes))
        return model.to(memory_format=torch.channels_last)

    def train_batches(self, start_step: int, runtime: Runtime) -> Iterator[ClassBatch]:
        return class_train_batches(
            self.train,
            train_transform(self.protocol, self._mean_and_std[0]),
            self.protocol.batch_size // runtime.world_size,
            seed=self.config.seed,
            start_step=start_step,
            num_workers=self.config.job.num_workers,
            pin_memory=runtime.is_gpu,
            rank=runtime.rank,
            world_size=runtime.world_size,
        )

    def val_batches(self, runtime: Runtime) -> Iterable[ClassBatch]:
        return class_val_batches(
            self.val,
            val_transform(self.protocol),
            self.protocol.batch_size // runtime.world_size,
            num_workers=self.config.job.num_workers,
            pin_memory=runtime.is_gpu,
            rank=runtime.rank,
            world_size=runtime.world_size,
        )

    def image_ids(self, batch: ClassBatch) -> list[int]:
        return batch.image_ids

    def losses(
        self, model: nn.Module, batch: ClassBatch, device: torch.device
    ) -> dict[str, Tensor]:
        images = self._as_input(batch.images, device)
        labels: Tensor = batch.labels.to(device, non_blocking=True)
        # From the generator that the loop seeds
        seed = own_rows(lambda num: torch.randint(2**31, (num,)), 1)
        with seeded(int(seed)):
            images, labels = self._mixed(images, labels)
        return {"loss_classifier": loss_of(self.protocol)(model(images), labels)}

    def _mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Erased and mixed images; mixing makes soft targets (B, num_classes) of labels."""
        asked = self.protocol.augmentation
        if asked.re_prob:
            erase = RandomErasing(
                asked.re_prob,
                mode=asked.re_mode,
                max_count=asked.re_count,
                device=images.device.type,
            )
            images = erase(images)
        if asked.mixes:
            mix = Mixup(
                mixup_alpha=asked.mixup,
                cutmix_alpha=asked.cutmix,
                prob=asked.mixup_prob,
                switch_prob=asked.mixup_switch_prob,
                mode=asked.mixup_mode,
                label_smoothing=self.protocol.smoothing,
                num_classes=len(self.train.classes),
            )
            images, labels = mix(images, labels)
        return images, labels

    def predict(
        self, model: nn.Module, batch: ClassBatch, device: torch.device
    ) -> list[Prediction]:
        logits = model(self._as_input(batch.images, device)).float()
        top = logits.topk(min(NUM_TOP, logits.shape[1])).indices.tolist()
        return [
            {"image_id": image_id, "label": label, "top": guesses}
            for image_id, label, guesses in zip(
                batch.image_ids, batch.labels.tolist(), top, strict=True
            )
        ]

    def score(self, predictions: Sequence[Prediction]) -> Evaluation:
        return Evaluation(class_errors(predictions, len(self.train.classes)), {})

    def draw(self, predictions: Sequence[Prediction], metric: str, num_resamples: int) -> Draws:
        is_wrong = class_faults(predictions, len(self.train.classes))[metric]
        values = resampled_error(is_wrong, draw_counts(0, len(is_wrong), num_resamples))
        return Draws(values.tolist(), len(is_wrong), len(is_wrong))

    def data_summary(self) -> dict[str, Any]:
        return {
            "train_fingerprint": self.train.fingerprint,
            "val_fingerprint": self.val.fingerprint,
            "num_train": len(self.train),
            "num_val": len(self.val),
            "categories": self.train.classes,
            "train_checks": self.train.checks,
            "val_checks": self.val.checks,
        }

    def leave_validation_data(self, runs: Path, num_sample_images: int) -> None:
        folder = validation_folder(runs, self.val.fingerprint) / "images"
        if folder.exists():
            return
        with held(folder.parent, wait=True):  # other runs leave the same
            for index in range(min(num_sample_images, len(self.val))):
                with replacing(folder / f"{index + 1}.png") as temporary:
                    self.val.image(index).save(temporary, format="png")

    def leave_weights(self, model: nn.Module, folder: Path) -> None:
        weights = {
            name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
        }
        with replacing(folder / WEIGHTS_FILE) as temporary:
            save_file(weights, temporary, metadata=stride_note(model))

    @property
    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return normalization(self.config)

    def _as_input(self, images: Tensor, device: torch.device) -> Tensor:
        """uint8 (B, 3, S, S) as normalized floats on the device."""
        mean, std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in self._mean_and_std
        )
        floats = images.to(device, non_blocking=True).float() / 255
        return ((floats - mean) / std).contiguous(memory_format=torch.channels_last)


def normalization(config: RunConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the colors that the backbone expects, as timm states them."""
    if isinstance(config.backbone, TimmBackbone):
        published = timm.get_pretrained_cfg(config.backbone.name)
        if published is not None:
            return published.mean, published.std
    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def train_transform(protocol: ClassificationProtocol, mean: tuple[float, ...]) -> Any:
    """timm's transform of training images, to uint8 (3, S, S)."""
    asked = protocol.augmentation
    return create_transform(
        protocol.image_size,
        is_training=True,
        no_aug=asked.no_aug,
        train_crop_mode=asked.train_crop_mode,
        scale=tuple(asked.scale),
        ratio=tuple(asked.ratio),
        hflip=asked.hflip,
        vflip=asked.vflip,
        color_jitter=asked.color_jitter,
        auto_augment=asked.auto_augment,
        interpolation=protocol.interpolation,
        mean=mean,
        normalize=False,
    )


def val_transform(protocol: ClassificationProtocol) -> Any:
    """timm's transform of validation images: resized, cropped at the center, uint8 (3, S, S)."""
    return create_transform(
        protocol.image_size,
        is_training=False,
        interpolation=protocol.interpolation,
        crop_pct=protocol.crop_pct,
        normalize=False,
    )


def loss_of(protocol: ClassificationProtocol) -> nn.Module:
    """timm's loss for labels (B,), or for the soft targets (B, num_classes) of mixing."""
    if protocol.loss == "binary_cross_entropy":
        smoothing = 0.0 if protocol.augmentation.mixes else protocol.smoothing
        return BinaryCrossEntropy(smoothing=smoothing)
    if protocol.augmentation.mixes:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing=protocol.smoothing)

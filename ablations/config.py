"""What a run is, as typed values: backbone, detector, data, protocol, job, seed."""

import hashlib
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
from omegaconf import MISSING, OmegaConf

from ablations.data import Coco2017Data, CocoData, GlyphsData, VocData
from ablations.record import digest
from detnet.detection import DETECTORS
from detnet.spec import BackboneSpec

PRECISIONS = ("float32", "bfloat16", "float16")
SCRATCH, PRETRAINED = "scratch", "pretrained"


class ConfigError(ValueError):
    """A value of the configuration is wrong; the message names the field and the remedy."""


@dataclass(kw_only=True, slots=True)
class TimmBackbone:
    """Any backbone of timm by name: `backbone=timm backbone.name=resnet18`.

    `norm` is `batch` or `frozen_batch`; `out_indices` None takes all feature maps.
    """

    name: str = MISSING
    output_stride: int | None = None
    out_indices: list[int] | None = None
    norm: str = "batch"

    def check(self) -> None:
        """Raises ConfigError that names the field and the remedy."""
        if not timm.is_model(self.name):
            close = timm.list_models(f"*{self.name}*")[:5]
            hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
            raise ConfigError(f"backbone.name={self.name!r} is no timm model: {hint}")
        if self.norm not in ("batch", "frozen_batch"):
            raise ConfigError(f"backbone.norm={self.norm!r}: choose batch or frozen_batch")


DATA = {"coco": CocoData, "coco2017": Coco2017Data, "voc": VocData, "glyphs": GlyphsData}
BACKBONES = {"spec": BackboneSpec, "timm": TimmBackbone}
TYPES: dict[str, dict[str, Any]] = {"backbone": BACKBONES, "detector": DETECTORS, "data": DATA}
"""The dataclasses that a part of the run can be, by the name that a record keeps as `type`."""


@dataclass(kw_only=True, slots=True)
class ProtocolConfig:
    """How long, how large and how fast: image sizes in pixels, the schedule in steps (batches).

    The learning rate rises over `warmup_steps` from `warmup_factor` of `learning_rate`, then is
    multiplied by `gamma` at each of `milestones` (PAPER: 0.02, 500 steps from 0.3 of it, a tenth at
    120k and 160k of 180k). `precision` other than float32 means autocast.
    """

    name: str = MISSING
    short_side: list[int] = field(default_factory=lambda: [800])
    long_side: int = 1333
    flip: bool = True
    batch_size: int = 16
    num_steps: int = 180_000
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    warmup_factor: float = 0.3
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    clip_norm: float | None = None
    precision: str = "float32"
    max_train_images: int | None = None
    max_val_images: int | None = None

    def check(self) -> None:
        """Raises ConfigError that names the field and the remedy."""
        for name in ("batch_size", "num_steps", "learning_rate", "long_side", "gamma"):
            _require(getattr(self, name) > 0, f"protocol.{name}", getattr(self, name), "above 0")
        for name in ("momentum", "weight_decay", "warmup_steps", "warmup_factor"):
            value = getattr(self, name)
            _require(value >= 0, f"protocol.{name}", value, "at least 0")
        for name in ("max_train_images", "max_val_images", "clip_norm"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"protocol.{name}", value, "above 0, or null")
        sides = list(self.short_side)
        _require(
            bool(sides) and min(sides) > 0 and max(sides) <= self.long_side,
            "protocol.short_side",
            sides,
            f"one or more sizes from 1 to long_side ({self.long_side})",
        )
        milestones = list(self.milestones)
        _require(
            milestones == sorted(set(milestones)) and all(m > 0 for m in milestones),
            "protocol.milestones",
            milestones,
            "rising steps above 0",
        )
        _require(
            self.precision in PRECISIONS,
            "protocol.precision",
            self.precision,
            f"one of {', '.join(PRECISIONS)}",
        )


@dataclass(kw_only=True, slots=True)
class JobConfig:
    """Where and with what means a run is done; nothing here changes what is computed.

    `device` `auto` takes a GPU where there is one. `num_threads` null leaves torch's own choice.
    `checkpoint_seconds` is how much work a kill may cost at most.
    """

    runs: str = "runs"
    device: str = "auto"
    num_workers: int = 2
    num_threads: int | None = None
    checkpoint_seconds: float = 60.0
    log_seconds: float = 10.0
    num_sample_images: int = 8

    def check(self) -> None:
        """Raises ConfigError that names the field and the remedy."""
        _require(self.num_workers >= 0, "job.num_workers", self.num_workers, "at least 0")
        _require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            "job.device",
            self.device,
            "auto, cpu, cuda or cuda:N",
        )


@dataclass(kw_only=True, slots=True)
class TableConfig:
    """A table: variant -> the overrides that make it; `baseline` null means the first."""

    name: str = MISSING
    variants: dict[str, list[str]] = MISSING
    baseline: str | None = None


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run: a variant, trained from `weights` under a protocol with a seed.

    `weights` is `scratch`, `pretrained` (timm's published weights) or a local checkpoint file.
    `variant` names the run in tables; null derives it from the overrides.
    """

    backbone: Any = MISSING
    detector: Any = MISSING
    data: Any = MISSING
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    job: JobConfig = field(default_factory=JobConfig)
    weights: str = SCRATCH
    seed: int = 0
    variant: str | None = None
    table: TableConfig | None = None

    def check(self) -> None:
        """Raises ValueError that names the field and the remedy."""
        for part in (self.backbone, self.detector, self.data, self.protocol, self.job):
            part.check()
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        if self.weights not in (SCRATCH, PRETRAINED) and not Path(self.weights).is_file():
            raise ConfigError(
                f"weights={self.weights!r}: no such file; give scratch, pretrained or a local "
                "checkpoint"
            )
        if self.weights == SCRATCH and self.detector.freeze is not None:
            raise ConfigError(
                f"detector.freeze={self.detector.freeze} with weights=scratch fixes random "
                "weights: give weights=..., or detector.freeze=null"
            )
        if self.weights == PRETRAINED and isinstance(self.backbone, BackboneSpec):
            raise ConfigError(
                "weights=pretrained: no weights are published for this backbone; give a local "
                "checkpoint file (a timm or torchvision ResNet-50 fills stages 1-4)"
            )


def _require(holds: bool, name: str, value: object, remedy: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={value}: give {remedy}")


def as_plain(config: RunConfig) -> dict[str, Any]:
    """The config as JSON values, with the `type` of backbone, detector and data."""
    plain = asdict(config)
    for part, types in TYPES.items():
        chosen = next(name for name, known in types.items() if type(getattr(config, part)) is known)
        plain[part] = {"type": chosen, **plain[part]}
    return plain


def from_plain(plain: dict[str, Any]) -> RunConfig:
    """The config that `as_plain` wrote, as a record keeps it."""
    untyped, typed = dict(plain), {}
    for part, types in TYPES.items():
        untyped[part] = {name: v for name, v in plain[part].items() if name != "type"}
        typed[part] = OmegaConf.structured(types[plain[part]["type"]])
    config = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(RunConfig), typed, OmegaConf.create(untyped))
    )
    assert isinstance(config, RunConfig)
    return config


def run_digest(config: RunConfig, train_fingerprint: str, val_fingerprint: str) -> str:
    """What names the run's folder: all that decides its result, bar names and the seed."""
    weights = config.weights
    if weights not in (SCRATCH, PRETRAINED):
        weights = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    protocol = asdict(config.protocol)
    del protocol["name"]
    return digest(
        {
            "backbone": asdict(config.backbone),
            "detector": asdict(config.detector),
            "data": {"train": train_fingerprint, "val": val_fingerprint},
            "protocol": protocol,
            "weights": weights,
        }
    )

"""What a run is, as typed values: backbone, detector, data, protocol, job, seed.

Each part checks itself; the groups of types that a part can have stand in `BACKBONES`, `DETECTORS`
and `DATA`, and a plain config names its type under `type`.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import timm
from omegaconf import MISSING, OmegaConf

from ablations.classification_protocol import PRECISIONS, ClassificationProtocol
from ablations.data import CLASS_DATA, DATA
from ablations.evaluation.faults import shown
from ablations.field_checks import ConfigError, require, require_choice, require_number
from ablations.identity import NO_RESULT, differences, digest
from detnet.detection import DETECTORS
from detnet.spec import BackboneSpec

DECODERS = ("pillow", "cuda")
OPTIMIZERS = ("sgd", "adamw")
COMPILE = ("off", "default", "reduce-overhead", "max-autotune")
SCHEDULES = ("milestones", "cosine")
SCRATCH, PRETRAINED = "scratch", "pretrained"
MAX_SEED = 2**63 - 1
"""What torch's generators take."""
MAX_OF_A_MACHINE = 1024
"""Threads or processes: more than any machine that this was tried on runs at once."""
MAX_SECONDS = 1e9
"""What every system's timers take."""


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
            close = difflib.get_close_matches(self.name, timm.list_models(), n=5)
            hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
            raise ConfigError(f"backbone.name={self.name!r} is no timm model: {hint}")
        if self.norm not in ("batch", "frozen_batch"):
            raise ConfigError(f"backbone.norm={self.norm!r}: choose batch or frozen_batch")


BACKBONES: dict[str, type] = {"spec": BackboneSpec, "timm": TimmBackbone}
DETECT, CLASSIFY = "detect", "classify"
_FORMER_TASKS = {"detection": DETECT}
"""What records called a task before it had its command's name."""
WEIGHTS_FILE = "weights.safetensors"
"""What a classification leaves in its folder for detectors to start from."""
_TYPES: dict[str, Mapping[str, type]] = {
    "backbone": BACKBONES,
    "detector": DETECTORS,
    "data": DATA | CLASS_DATA,
}


@dataclass(kw_only=True, slots=True)
class ProtocolConfig:
    """How long, how large and how fast: image sizes in pixels, the schedule in steps (batches).

    The learning rate rises over `warmup_steps` from `warmup_factor` of `learning_rate`. Then, by
    `schedule`, it is multiplied by `gamma` at each of `milestones` (PAPER: 0.02, 500 steps from 0.3
    of it, a tenth at 120k and 160k of 180k), or falls as half a `cosine` to zero at the end.
    `learning_rate_batch` is the number of images that `learning_rate` is for: with another
    `batch_size` the rate is scaled in proportion (arXiv 1706.02677); null takes it as it is.
    `precision` other than float32 means autocast.

    `batch_size` is of a step, however many processes share it, so the rate does not depend on them.
    `batch_norm_images` is over how many of its images a batch norm takes its statistics: null means
    all, which processes synchronize; what each has for itself needs no word between them.

    `decode` `cuda` lets the GPU decode JPEGs, with nvJPEG, whose pixels are not quite Pillow's; the
    other images, and JPEGs that are turned, progressive or no YCbCr, are decoded as ever.
    """

    name: str = field(default=MISSING, metadata=NO_RESULT)
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
    optimizer: str = "sgd"
    schedule: str = "milestones"
    learning_rate_batch: int | None = None
    batch_norm_images: int | None = None
    decode: str = "pillow"
    # Which images these leave is in the data's fingerprints
    max_train_images: int | None = field(default=None, metadata=NO_RESULT)
    max_val_images: int | None = field(default=None, metadata=NO_RESULT)

    @property
    def largest_image(self) -> tuple[int, int]:
        """The short and the long side of the largest image that the network may see, pixels."""
        return max(self.short_side), self.long_side

    @property
    def scaled_learning_rate(self) -> float:
        """The rate after warm-up, by the linear rule where the protocol has one."""
        return self.learning_rate * self.batch_size / (self.learning_rate_batch or self.batch_size)

    def check(self) -> None:
        """Raises ConfigError that names the field and the remedy."""
        for name in ("batch_size", "num_steps", "learning_rate", "long_side", "gamma"):
            require_number(self, "protocol", name, above=0)
        for name in ("momentum", "weight_decay", "warmup_steps", "warmup_factor"):
            require_number(self, "protocol", name, least=0)
        for name in ("max_train_images", "max_val_images", "clip_norm", "learning_rate_batch"):
            require_number(self, "protocol", name, above=0, or_null=True)
        sides = list(self.short_side)
        require(
            bool(sides) and min(sides) > 0 and max(sides) <= self.long_side,
            "protocol.short_side",
            sides,
            f"one or more sizes from 1 to long_side ({self.long_side})",
        )
        milestones = list(self.milestones)
        require(
            milestones == sorted(set(milestones)) and all(m > 0 for m in milestones),
            "protocol.milestones",
            milestones,
            "rising steps above 0",
        )
        for name, choices in (
            ("precision", PRECISIONS),
            ("decode", DECODERS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            require_choice(self, "protocol", name, choices)
        require(
            self.schedule == "milestones" or not milestones,
            "protocol.milestones",
            milestones,
            f"[] with protocol.schedule={self.schedule}, which has none",
        )


Protocol = ProtocolConfig | ClassificationProtocol
PROTOCOLS: dict[str, type] = {DETECT: ProtocolConfig, CLASSIFY: ClassificationProtocol}
"""The protocol's type, by task."""


@dataclass(kw_only=True, slots=True)
class TrialConfig:
    """Which trial of which study a run is, and what may stop it: `hydra/sweeper=search` says so.

    `study` null: the run is no trial.
    """

    study: str | None = None
    storage: str | None = None
    number: int = 0
    objective: str = "AP"
    pruner: str = "none"
    pruner_options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class JobConfig:
    """Where and with what means a run is done; nothing here names a run.

    `device` `auto` takes a GPU where there is one. `num_threads` null leaves torch's own choice;
    weights are equal to the bit only between runs with the same threads and processes on the same
    processor, so the record keeps the number. `checkpoint_seconds` is how much work a kill may cost
    at most. `evaluate_every` so many steps the model is evaluated during training, which changes
    nothing of the training; `trial` is a search's own. `retrain_outdated` trains runs anew that an
    older results version has done. `wait` waits for a run that another process is at work on;
    without it such a run is left to that one. `trackers` show losses and metrics elsewhere too:
    tensorboard, wandb, mlflow. `processes` so many of this machine share the run, each with its
    part of every batch and, where there are GPUs, one of its own; `num_workers` and `num_threads`
    are of each. `compile` is a mode of `torch.compile`, for the part of the network whose shapes
    are those of the images: `default`, or `reduce-overhead`, which captures CUDA graphs where it
    can; sums are then rounded in another order.
    """

    runs: str = "runs"
    device: str = "auto"
    num_workers: int = 2
    num_threads: int | None = None
    checkpoint_seconds: float = 60.0
    log_seconds: float = 10.0
    num_sample_images: int = 8
    evaluate_every: int | None = None
    trial: TrialConfig = field(default_factory=TrialConfig)
    retrain_outdated: bool = False
    wait: bool = False
    trackers: list[str] = field(default_factory=list)
    processes: int = 1
    compile: str = "off"

    def check(self) -> None:
        """Raises ConfigError that names the field and the remedy."""
        require(bool(self.runs.strip()), "job.runs", repr(self.runs), "a folder, such as runs")
        require_number(self, "job", "num_workers", least=0, most=MAX_OF_A_MACHINE)
        require_number(self, "job", "num_sample_images", least=0)
        require_number(self, "job", "checkpoint_seconds", least=0, most=MAX_SECONDS)
        require_number(self, "job", "log_seconds", above=0, most=MAX_SECONDS)
        require_number(self, "job", "processes", above=0, most=MAX_OF_A_MACHINE)
        require_number(self, "job", "num_threads", above=0, most=MAX_OF_A_MACHINE, or_null=True)
        require_number(self, "job", "evaluate_every", above=0, or_null=True)
        require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            "job.device",
            self.device,
            "auto, cpu, cuda or cuda:N",
        )
        require_choice(self, "job", "compile", COMPILE)
        require(
            self.processes == 1 or ":" not in self.device,
            "job.device",
            self.device,
            f"cuda, of which job.processes={self.processes} takes as many",
        )


@dataclass(kw_only=True, slots=True)
class TableConfig:
    """A table: variant -> the overrides that make it; `baseline` null means the first.

    `published` names the paper's table that it repeats, `table1` to `table8`.
    """

    name: str = MISSING
    variants: dict[str, list[str]] = MISSING
    baseline: str | None = None
    published: str | None = None

    def check(self) -> None:
        """Raises ConfigError that names the field and the remedy."""
        if not self.variants:
            raise ConfigError(f"table {self.name}: variants is empty: list variant: [overrides]")
        if self.baseline is not None and self.baseline not in self.variants:
            raise ConfigError(
                f"table.baseline={self.baseline}: is no variant of table {self.name}; choose one "
                f"of {', '.join(self.variants)}"
            )
        if self.published is not None and not re.fullmatch("table[1-8]", self.published):
            raise ConfigError(
                f"table.published={self.published}: the paper has table1 to table8; leave it out "
                "where a table is your own"
            )


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run: a variant, trained for a task from `weights` under a protocol with a seed.

    `weights` is `scratch`, `pretrained` (timm's published weights), a local checkpoint file, the
    folder of a run that was pretrained with `task=classify`, or a folder of such runs, of which
    the one by this backbone is taken. A classification has no detector.
    `variant` names the run in tables; null derives it from the overrides.
    """

    task: str = DETECT
    backbone: Any = MISSING
    detector: Any = MISSING
    data: Any = MISSING
    protocol: Any = MISSING
    job: JobConfig = field(default_factory=JobConfig)
    weights: str = SCRATCH
    seed: int = 0
    variant: str | None = None
    table: TableConfig | None = None

    def check(self) -> None:
        """Raises ValueError that names the field and the remedy."""
        self._check_task()
        for part in (self.backbone, self.detector, self.data, self.protocol, self.job):
            if part is not None:
                part.check()
        if self.table is not None:
            self.table.check()
        self.check_seed()
        self._check_processes()
        self._check_weights()

    def check_seed(self) -> None:
        """Raises ConfigError for a number that torch does not take."""
        require(0 <= self.seed <= MAX_SEED, "seed", self.seed, f"0 to {MAX_SEED}")

    def _check_task(self) -> None:
        """Each task has its own kinds of data, protocols and detectors."""
        if self.task not in PROTOCOLS:
            raise ConfigError(f"task={self.task}: give {' or '.join(PROTOCOLS)}")
        classifies = self.task == CLASSIFY
        kinds = CLASS_DATA if classifies else DATA
        if type(self.data) not in kinds.values():
            name = _type_name(self.data, _TYPES["data"])
            raise ConfigError(
                f"data={name}: is not for task={self.task}; give data={' or '.join(kinds)}"
            )
        if not isinstance(self.protocol, PROTOCOLS[self.task]):
            raise ConfigError(
                f"protocol={self.protocol.name}: is not for task={self.task}; name another protocol"
            )
        if classifies and self.detector is not None:
            raise ConfigError("task=classify has no detector: leave out detector=...")
        if not classifies and self.detector is None:
            raise ConfigError(f"task={self.task} needs a detector: leave out detector=none")

    def _check_processes(self) -> None:
        """Processes share the protocol's batch, so that its learning rate holds for any number."""
        processes, batch_size = self.job.processes, self.protocol.batch_size
        require(
            batch_size % processes == 0,
            "job.processes",
            processes,
            f"a number that divides protocol.batch_size={batch_size}",
        )
        together, share = self.protocol.batch_norm_images, batch_size // processes
        require(
            together is None or together == share,
            "protocol.batch_norm_images",
            together,
            f"null, which is all {batch_size} of a step, or {share}, which is what each of "
            f"job.processes={processes} has",
        )

    def _check_weights(self) -> None:
        local = self.weights not in (SCRATCH, PRETRAINED)
        if local and not Path(self.weights).expanduser().exists():
            raise ConfigError(
                f"weights={shown(self.weights)}: no such file or folder; give scratch, pretrained, "
                "a local checkpoint, or the folder of a run or of runs of task=classify"
            )
        freeze = None if self.detector is None else self.detector.freeze
        if self.weights == SCRATCH and freeze is not None:
            raise ConfigError(
                f"detector.freeze={freeze} with weights=scratch fixes random weights: give "
                "weights=..., or detector.freeze=null"
            )
        if self.weights == PRETRAINED and isinstance(self.backbone, BackboneSpec):
            raise ConfigError(
                "weights=pretrained: no weights are published for this backbone; give a local "
                "checkpoint file (a timm or torchvision ResNet-50 fills stages 1-4)"
            )


def weights_file(weights: str) -> Path:
    """The checkpoint that `weights` names: itself, or that in the folder of a run."""
    path = Path(weights).expanduser()
    return path / WEIGHTS_FILE if path.is_dir() else path


def as_plain(config: RunConfig) -> dict[str, Any]:
    """The config as JSON values; `from_plain` reads it back.

    Without the storage of a study, whose URL may hold a password.
    """
    plain = asdict(config)
    plain["job"]["trial"]["storage"] = None
    for part, types in _TYPES.items():
        if plain[part] is not None:
            plain[part] = {"type": _type_name(getattr(config, part), types), **plain[part]}
    return plain


def from_plain(plain: dict[str, Any]) -> RunConfig:
    """The config that `as_plain` wrote, as a record keeps it."""
    untyped = dict(plain)
    task = plain.get("task", DETECT)
    untyped["task"] = _FORMER_TASKS.get(task, task)
    typed = {"protocol": OmegaConf.structured(PROTOCOLS[untyped["task"]])}
    for part, types in _TYPES.items():
        if plain[part] is None:
            continue
        values = dict(plain[part])
        typed[part] = OmegaConf.structured(types[values.pop("type")])
        untyped[part] = values
    config = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(RunConfig), typed, OmegaConf.create(untyped))
    )
    assert isinstance(config, RunConfig)
    return config


def _type_name(part: Any, types: Mapping[str, type]) -> str:
    return next(name for name, each in types.items() if type(part) is each)


def run_digest(
    config: RunConfig, data_summary: Mapping[str, Any], fingerprint: str = "fingerprint"
) -> str:
    """What names the run's folder: all that decides its result, bar names and the seed.

    `data_summary` holds `train_fingerprint` and `val_fingerprint`, which stand for the data.
    """
    identity: dict[str, Any] = {
        "backbone": _identity(config.backbone, BACKBONES),
        "data": {split: data_summary[f"{split}_{fingerprint}"] for split in ("train", "val")},
        "protocol": differences(config.protocol),
    }
    if config.detector is not None:
        identity["detector"] = _identity(config.detector, DETECTORS)
    if config.task != DETECT:
        identity["task"] = config.task
    if config.weights == PRETRAINED:
        identity["weights"] = PRETRAINED
    elif config.weights != SCRATCH:
        path = weights_file(config.weights)
        identity["weights"] = _content(path, path.stat().st_mtime_ns)
    return digest(identity)


@cache
def _content(path: Path, changed: int) -> str:
    """What names a file's content, read once as long as it is not changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _identity(part: Any, types: Mapping[str, type]) -> dict[str, Any]:
    return {"type": _type_name(part, types), **differences(part)}

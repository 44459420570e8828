"""How a classifier is trained, in timm's terms: input, augmentation, optimizer, schedule, average.

Fields are called as timm calls them where it has a name; steps are batches, as in the detector's
protocol.
"""

import math
from dataclasses import dataclass, field

from omegaconf import MISSING
from timm.optim import list_optimizers

from ablations.field_checks import require, require_choice, require_number
from ablations.identity import NO_RESULT

PRECISIONS = ("float32", "bfloat16", "float16")
SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "constant")
"""timm's schedulers whose rate depends on the step alone, so that a killed run can go on."""
LOSSES = ("cross_entropy", "binary_cross_entropy")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_CROP_MODES = ("rrc", "rkrc", "rkrr")
_MIXUP_MODES = ("batch", "pair", "elem")
_ERASING_MODES = ("const", "rand", "pixel")


@dataclass(kw_only=True, slots=True)
class AugmentationConfig:
    """What timm's `create_transform`, `RandomErasing` and `Mixup` do to training images.

    `no_aug` leaves mixing and erasing only, of images that are resized and cropped at the center.
    `color_jitter`, `re_prob` (erasing), `mixup` and `cutmix` are off at 0;
    `auto_augment` takes timm's words, such as `rand-m9-mstd0.5`.
    """

    no_aug: bool = False
    train_crop_mode: str = "rrc"
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float = 0.4
    auto_augment: str | None = None
    re_prob: float = 0.0
    re_mode: str = "const"
    re_count: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = "batch"

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self, where: str) -> None:
        """Raises ValueError that names the field and the remedy."""
        for name in ("hflip", "vflip", "re_prob", "mixup_prob", "mixup_switch_prob"):
            require_number(self, where, name, least=0, most=1)
        for name in ("color_jitter", "mixup", "cutmix"):
            require_number(self, where, name, least=0)
        require_number(self, where, "re_count", least=1)
        for name, most in (("scale", 1.0), ("ratio", math.inf)):
            low_high = list(getattr(self, name))
            is_range = len(low_high) == 2 and 0 < low_high[0] <= low_high[1] <= most
            if not is_range or not math.isfinite(low_high[1]):
                raise ValueError(f"{where}.{name}={low_high}: give [least, most] above 0")
        require_choice(self, where, "train_crop_mode", _CROP_MODES)
        require_choice(self, where, "mixup_mode", _MIXUP_MODES)
        require_choice(self, where, "re_mode", _ERASING_MODES)


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """Arguments of `timm.optim.create_optimizer_v2`; `name` is one of `timm.optim.list_optimizers`.

    `filter_bias_and_bn` spares biases and norms the weight decay. `layer_decay` scales the rate
    from layer to layer. `betas` and `eps` null leave the optimizer's own.
    """

    name: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    filter_bias_and_bn: bool = True
    layer_decay: float | None = None
    betas: list[float] | None = None
    eps: float | None = None

    def check(self, where: str) -> None:
        """Raises ValueError that names the field and the remedy."""
        if self.name not in list_optimizers():
            raise ValueError(
                f"{where}.name={self.name}: is no optimizer of timm; see timm.optim."
                "list_optimizers(), such as sgd, adamw or lamb"
            )
        require_number(self, where, "learning_rate", above=0)
        for name in ("momentum", "weight_decay"):
            require_number(self, where, name, least=0)
        for name in ("layer_decay", "eps"):
            require_number(self, where, name, above=0, or_null=True)
        betas = None if self.betas is None else list(self.betas)
        require(
            betas is None or (len(betas) > 0 and all(0 <= beta < 1 for beta in betas)),
            f"{where}.betas",
            betas,
            "numbers from 0 to below 1, or null",
        )


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Arguments of `timm.scheduler.create_scheduler_v2`, its epochs counted in steps here.

    The rate rises over `warmup_steps` from `warmup_learning_rate`. `milestones` belong to
    `multistep`, `decay_steps` to `step` and `wsd`; `decay_rate` is the factor of both kinds of
    steps.
    """

    name: str = "cosine"
    warmup_steps: int = 0
    warmup_learning_rate: float = 1e-5
    min_learning_rate: float = 0.0
    milestones: list[int] = field(default_factory=list)
    decay_steps: int | None = None
    decay_rate: float = 0.1

    def check(self, where: str, num_steps: int) -> None:
        """Raises ValueError that names the field and the remedy."""
        require_choice(self, where, "name", SCHEDULES)
        require_number(self, where, "warmup_steps", least=0, most=num_steps)
        for name in ("warmup_learning_rate", "min_learning_rate", "decay_rate"):
            require_number(self, where, name, least=0)
        milestones = list(self.milestones)
        if bool(milestones) != (self.name == "multistep") or milestones != sorted(set(milestones)):
            raise ValueError(
                f"{where}.milestones={milestones}: give rising steps with {where}.name=multistep, "
                "and none with another"
            )
        needs = {"step": True, "wsd": self.decay_steps is not None}.get(self.name, False)
        if (self.decay_steps is not None) != needs:
            raise ValueError(
                f"{where}.decay_steps={self.decay_steps}: {where}.name=step needs a number, wsd "
                "may have one, the others have none"
            )


@dataclass(kw_only=True, slots=True)
class AverageConfig:
    """The moving average of the weights, `timm.utils.ModelEmaV3`; `decay` null for none.

    It is what is scored and saved. `warmup` lets it follow faster in the beginning.
    """

    decay: float | None = None
    warmup: bool = False

    def check(self, where: str) -> None:
        """Raises ValueError that names the field and the remedy."""
        require_number(self, where, "decay", least=0, most=1, or_null=True)


@dataclass(kw_only=True, slots=True)
class ClassificationProtocol:
    """How large, how long and how a classifier is trained: sizes in pixels, lengths in steps.

    Validation crops `image_size` from the center of an image whose short side is
    `image_size / crop_pct` (PAPER: 224 of 256).

    `batch_size` and `batch_norm_images` are of a step, as in the detector's protocol.
    """

    name: str = field(default=MISSING, metadata=NO_RESULT)
    image_size: int = 224
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    batch_size: int = 256
    num_steps: int = 450_000
    loss: str = "cross_entropy"
    smoothing: float = 0.0
    clip_norm: float | None = None
    precision: str = "float32"
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    batch_norm_images: int | None = None
    # Which images these leave is in the data's fingerprints
    max_train_images: int | None = field(default=None, metadata=NO_RESULT)
    max_val_images: int | None = field(default=None, metadata=NO_RESULT)

    @property
    def largest_image(self) -> tuple[int, int]:
        """The short and the long side of the images, pixels."""
        return self.image_size, self.image_size

    def check(self) -> None:
        """Raises ValueError that names the field and the remedy."""
        for name in ("image_size", "batch_size", "num_steps"):
            require_number(self, "protocol", name, least=1)
        for name in ("max_train_images", "max_val_images"):
            require_number(self, "protocol", name, least=1, or_null=True)
        require_number(self, "protocol", "clip_norm", above=0, or_null=True)
        require_number(self, "protocol", "crop_pct", above=0, most=1)
        require_number(self, "protocol", "smoothing", least=0, most=1)
        for name, choices in (
            ("interpolation", INTERPOLATIONS),
            ("loss", LOSSES),
            ("precision", PRECISIONS),
        ):
            require_choice(self, "protocol", name, choices)
        self.augmentation.check("protocol.augmentation")
        self.optimizer.check("protocol.optimizer")
        self.schedule.check("protocol.schedule", self.num_steps)
        self.average.check("protocol.average")
        if self.augmentation.mixes and self.batch_size % 2:
            raise ValueError(
                f"protocol.batch_size={self.batch_size}: mixing takes pairs: give an even number"
            )

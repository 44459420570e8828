"""A backbone as numbers: what is built, what can be ablated, and the errors of a wrong number.

Stages are keyed as the paper and the detection field write them: `c2` is the first stage after the
stem, `c6` DetNet's sixth. The dataclasses are plain and free of torch, so that they serve as Hydra
schema, as keyword arguments of `timm.create_model` and as columns of a table alike.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

STEM_STRIDE = 4  # 7x7 convolution and 3x3 max-pool, stride 2 each

STRIDE_ON = ("1x1", "3x3")
NORMS = ("batch", "frozen_batch", "group")
OUTPUT_STRIDES = (8, 16, 32)
MAX_COUNT, MAX_MULTIPLIER = 2**16, 1000  # far beyond what can be trained; torch can still count it
_COUNT = f"positive integer up to {MAX_COUNT}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockType:
    """What a spec has to know of a block; its layers stand in `detnet.blocks`.

    `expansion` is the output channels over the stage's width, `num_layers` the convolutions in a
    row, as a network's depth counts them. `opens_with_3x3` says that the first 3x3 carries the
    stride whatever `stride_on` says, as there is no 1x1 before it.
    """

    expansion: int
    num_layers: int
    opens_with_3x3: bool


BLOCKS = {  # He et al. 2016, figure 5 and table 1
    "bottleneck": BlockType(expansion=4, num_layers=3, opens_with_3x3=False),
    "basic": BlockType(expansion=1, num_layers=2, opens_with_3x3=True),
}


@dataclass(kw_only=True, slots=True)
class StageSpec:
    """One stage: `depth` blocks of width `width`, with `expansion` x `width` output channels.

    block: a name of `BLOCKS`: `bottleneck` (1x1, 3x3, 1x1; expansion 4) or `basic` (3x3, 3x3;
        expansion 1).

    `stride` belongs to the first block, `dilation` to the 3x3s of every block. `projection` puts a
    1x1 convolution and its norm on the first block's shortcut; without it the shortcut is the
    identity, which needs equal shapes on both sides. DetNet's block B is a first block with a
    projection although shapes agree, block A one without (paper, section 3.2).
    `project_every_block` puts one on the shortcuts of the later blocks too.
    """

    depth: int
    width: int
    stride: int = 1
    dilation: int = 1
    projection: bool = True
    block: str = "bottleneck"
    project_every_block: bool = False


@dataclass(kw_only=True, slots=True)
class BackboneSpec:
    """A stem, stages `c2..cN`, and what they share.

    stride_on: which convolution of a down-sampling bottleneck carries the stride: `1x1` (the paper
        and the original ResNet) or `3x3` (timm's, torchvision's and the community's checkpoints).
    norm: `batch`, `frozen_batch` (statistics and affine fixed) or `group`.
    activation: a timm activation name.
    width_multiplier: scales the stem and every width, to multiples of 8, at least 8; at 1.0 widths
        stand as written.
    depth_multiplier: scales the depth of every stage, rounded to whole blocks, at least one: 0.2
        leaves DetNet-59 and ResNet-50 one block a stage.
    output_stride: 8, 16 or 32 as timm means it, None as the stages say. Strides beyond it turn
        into dilation; where the stages stay below it, the first stages that keep their stride
        take 2 (DetNet at 32: c5), and a net with no such stage keeps its own stride.
    drop_path_rate: of the last block, growing linearly from 0 at the first.
    """

    stages: dict[str, StageSpec] = field(default_factory=dict)
    stem_width: int = 64
    stride_on: str = "1x1"
    norm: str = "batch"
    activation: str = "relu"
    width_multiplier: float = 1.0
    output_stride: int | None = None
    drop_path_rate: float = 0.0
    depth_multiplier: float = 1.0

    @property
    def depth(self) -> int:
        """Layers as ResNet counts them: the stem, those of the blocks, the classifier."""
        return 2 + sum(
            self._deepened(stage.depth) * BLOCKS[stage.block].num_layers
            for stage in self.stages.values()
        )

    @property
    def stride_convention(self) -> str | None:
        """The `stride_on` that shapes this network; None where no bottleneck strides.

        Networks of different conventions differ in more than what their names say: at 224 x 224
        the 3x3 costs ResNet-50 6 % more multiply-adds.
        """
        strided = [stage for stage in self.resolve() if stage.stride > 1]
        return self.stride_on if any(stage.block == "bottleneck" for stage in strided) else None

    @property
    def stem_channels(self) -> int:
        return self._scaled(self.stem_width)

    @property
    def channels(self) -> dict[str, int]:
        """Output channels of each stage."""
        return {stage.name: stage.channels for stage in self.resolve()}

    @property
    def strides(self) -> dict[str, int]:
        """Stride of each stage's output with respect to the image."""
        return {stage.name: stage.total_stride for stage in self.resolve()}

    @property
    def dilations(self) -> dict[str, int]:
        """Dilation of each stage's blocks after `output_stride`."""
        return {stage.name: stage.dilation for stage in self.resolve()}

    def override(self, *, stages: Mapping[str, Any] | None = None, **values: Any) -> "BackboneSpec":
        """A checked copy with `values` in place of the fields they name.

        `stages` is merged: a mapping changes the fields it names (or describes a new stage), a
        StageSpec replaces the stage, None removes it.

        Raises TypeError for a field that does not exist, ValueError for a value out of range.
        """
        if problems := list(self._type_problems()):
            raise ValueError("\n".join(problems))
        if stages is not None and not isinstance(stages, Mapping):
            raise TypeError(f"stages: give a mapping such as {{'c6': {{...}}}}, not {stages!r}")
        known = [f.name for f in fields(self)]
        for name in values:
            if name not in known:
                raise TypeError(f"unknown backbone field {name!r}; fields are {_listed(known)}")
        merged = {name: replace(stage) for name, stage in self.stages.items()}
        for name, change in (stages or {}).items():
            if change is not None:
                merged[name] = _merge(name, merged.get(name), change)
            elif merged.pop(name, None) is None:
                raise ValueError(f"stage {name} cannot be removed: the spec has {_listed(merged)}")
        spec = replace(self, stages=merged, **values)
        spec.check()
        return spec

    def check(self) -> None:
        """Raises one ValueError that lists every wrong value with its stage, field and remedy."""
        problems = [*self._own_problems(), *self._type_problems()]
        if isinstance(self.stages, Mapping):
            problems += self._stage_problems()
        if not problems:  # shapes can only be derived from sound numbers
            problems = list(self._projection_problems())
        if problems:
            raise ValueError("\n".join(problems))

    def resolve(self) -> tuple["ResolvedStage", ...]:
        """The stages in order, with the multipliers and `output_stride` worked out."""
        resolved: list[ResolvedStage] = []
        in_channels, total_stride, atrous = self.stem_channels, STEM_STRIDE, 1
        strides = self._raised_strides()
        for name, stage in self._ordered():
            block = BLOCKS[stage.block]
            stride, previous_atrous = strides[name], atrous
            if self.output_stride and total_stride * stride > self.output_stride:
                stride, atrous = 1, atrous * stride
            total_stride *= stride
            width = self._scaled(stage.width)
            channels = width * block.expansion
            # A removed stride leaves every later convolution on a grid that is finer by that
            # factor: dilating them keeps what pretrained weights compute. The convolution that
            # carried the stride itself still reads the old grid.
            reads_old_grid = self.stride_on == "3x3" or block.opens_with_3x3
            first_atrous = previous_atrous if reads_old_grid else atrous
            resolved.append(
                ResolvedStage(
                    name=name,
                    module=f"layer{int(name[1:]) - 1}",
                    block=stage.block,
                    depth=self._deepened(stage.depth),
                    width=width,
                    in_channels=in_channels,
                    channels=channels,
                    stride=stride,
                    total_stride=total_stride,
                    first_dilation=stage.dilation * first_atrous,
                    dilation=stage.dilation * atrous,
                    projection=stage.projection,
                    project_every_block=stage.project_every_block,
                )
            )
            in_channels = channels
        return tuple(resolved)

    def _scaled(self, width: int) -> int:
        if self.width_multiplier == 1:
            return width
        return max(8, 8 * math.floor(width * self.width_multiplier / 8 + 0.5))

    def _deepened(self, depth: int) -> int:
        return max(1, math.floor(depth * self.depth_multiplier + 0.5))

    def _ordered(self) -> list[tuple[str, StageSpec]]:
        return sorted(self.stages.items(), key=lambda item: int(item[0][1:]))

    def _raised_strides(self) -> dict[str, int]:
        """Each stage's own stride, raised where the stages stay below `output_stride`."""
        ordered = self._ordered()
        strides = {name: stage.stride for name, stage in ordered}
        total_stride = STEM_STRIDE * math.prod(strides.values())
        for name, stage in ordered[1:]:  # c2 follows the max-pool directly
            if total_stride >= (self.output_stride or 0):
                break
            if stage.stride == 1:
                strides[name] = 2
                total_stride *= 2
        return strides

    def _own_problems(self) -> Iterator[str]:
        if not _is_count(self.stem_width):
            yield f"stem_width: {self.stem_width!r} is no {_COUNT}; the paper has 64"
        for name, allowed in (("stride_on", STRIDE_ON), ("norm", NORMS)):
            if getattr(self, name) not in allowed:
                yield f"{name}: {getattr(self, name)!r} is unknown; use {_listed(allowed, ' or ')}"
        if not isinstance(self.activation, str) or not self.activation:
            yield f"activation: {self.activation!r} is no timm activation name; use e.g. 'relu'"
        for name, kept in (("width_multiplier", "widths"), ("depth_multiplier", "depths")):
            multiplier = getattr(self, name)
            if not _is_number(multiplier) or not 0 < multiplier <= MAX_MULTIPLIER:
                yield (
                    f"{name}: {multiplier!r} is no positive number up to {MAX_MULTIPLIER}; "
                    f"1.0 keeps the {kept}"
                )
        if self.output_stride is not None and (
            not _is_count(self.output_stride) or self.output_stride not in OUTPUT_STRIDES
        ):
            yield (
                f"output_stride: {self.output_stride!r} is not possible; use 8, 16, 32, "
                "or None for what the stages say"
            )
        if not _is_number(self.drop_path_rate) or not 0 <= self.drop_path_rate < 1:
            yield f"drop_path_rate: {self.drop_path_rate!r} is not in [0, 1); 0.0 turns it off"

    def _type_problems(self) -> Iterator[str]:
        if not isinstance(self.stages, Mapping):
            yield f"stages: {self.stages!r} is not a mapping of names such as c2 to StageSpecs"
            return
        for name, stage in self.stages.items():
            if not isinstance(stage, StageSpec):
                yield f"stage {name}: {stage!r} is no StageSpec; give StageSpec(depth=, width=)"

    def _stage_problems(self) -> Iterator[str]:
        if not self.stages:
            yield "stages: there is none; a backbone needs at least c2"
        expected = [f"c{number}" for number in range(2, 2 + len(self.stages))]
        for name in self.stages:
            if name not in expected:
                yield (
                    f"stage {name}: stages are named c2, c3, ... without gaps; "
                    f"with {len(self.stages)} stages use {_listed(expected)}"
                )
        for name, stage in self.stages.items():
            if isinstance(stage, StageSpec):
                yield from (f"stage {name}, {problem}" for problem in _value_problems(stage))

    def _projection_problems(self) -> Iterator[str]:
        for stage in self.resolve():
            if stage.projection or (stage.stride == 1 and stage.in_channels == stage.channels):
                continue
            yield (
                f"stage {stage.name}, projection: the identity shortcut needs equal shapes, but "
                f"{stage.in_channels} channels become {stage.channels} at stride {stage.stride}; "
                "set projection=True, or stride and width so that shapes agree"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedStage:
    """A stage as it is built: nothing left to derive.

    `stride` is the first block's own, `total_stride` that of the output with respect to the image.
    `first_dilation` is that of the first 3x3 of the first block, `dilation` that of all others.
    """

    name: str
    module: str
    block: str
    depth: int
    width: int
    in_channels: int
    channels: int
    stride: int
    total_stride: int
    first_dilation: int
    dilation: int
    projection: bool
    project_every_block: bool


def _merge(name: str, stage: StageSpec | None, change: Any) -> StageSpec:
    if isinstance(change, StageSpec):
        return replace(change)
    if not isinstance(change, Mapping):
        raise TypeError(f"stage {name}: give a mapping of its fields or None, not {change!r}")
    known = [f.name for f in fields(StageSpec)]
    for field_name in change:
        if field_name not in known:
            raise TypeError(
                f"stage {name}: unknown field {field_name!r}; fields are {_listed(known)}"
            )
    if stage is not None:
        return replace(stage, **change)
    missing = [required for required in ("depth", "width") if required not in change]
    if missing:
        raise ValueError(f"stage {name} is new: give its {_listed(missing, ' and ')}")
    return StageSpec(**change)


def _value_problems(stage: StageSpec) -> Iterator[str]:
    remedies = {
        "depth": "give its number of blocks, or remove the stage",
        "width": "give the width of its 3x3 convolutions",
        "dilation": "1 turns dilation off",
    }
    for name, remedy in remedies.items():
        if not _is_count(getattr(stage, name)):
            yield f"{name}: {getattr(stage, name)!r} is no {_COUNT}; {remedy}"
    if not _is_count(stage.stride) or stage.stride not in (1, 2):
        yield f"stride: {stage.stride!r} is not possible; use 1 or 2"
    for name in ("projection", "project_every_block"):
        if not isinstance(getattr(stage, name), bool):
            yield f"{name}: {getattr(stage, name)!r} is not a truth value; use True or False"
    if not isinstance(stage.block, str) or stage.block not in BLOCKS:
        yield f"block: {stage.block!r} is unknown; use {_listed(BLOCKS, ' or ')}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(names: Iterable[str], joint: str = ", ") -> str:
    return joint.join(names)

"""The name of a variant: its backbone's, and how its config differs from that name's own."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ablations.config import PRETRAINED, SCRATCH, RunConfig, TimmBackbone
from detnet.spec import StageSpec

_SHORTENED = ("backbone.stages.", "backbone.", "detector.")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{7,}(e[+-]?\d+)?")
_NAMED_BY_DIFFERENCE = ("backbone", "detector", "weights", "seed")


def variant_name(
    config: RunConfig,
    reference: RunConfig,
    choices: Mapping[str, str],
    varied: Mapping[str, str] | None = None,
) -> str:
    """The run's name in tables: the one given, or else made of what it is.

    reference: the config of the same backbone and detector with nothing else said
    choices: Hydra's choice of `backbone`, and of `detector` where it is not the default
    varied: what a sweep varies; what the difference does not tell is added
    """
    if config.variant is not None:
        return config.variant
    backbone = config.backbone
    name = backbone.name if isinstance(backbone, TimmBackbone) else choices["backbone"]
    parts = [name]
    if "detector" in choices:
        parts.append(f"detector={choices['detector']}")
    parts += changes(config.backbone, reference.backbone)
    parts += changes(config.detector, reference.detector)
    if config.weights != SCRATCH:
        parts.append(f"weights={_weights_name(config.weights)}")
    parts += [
        choice_name(key, value)
        for key, value in (varied or {}).items()
        if key.lstrip("+~").partition(".")[0] not in _NAMED_BY_DIFFERENCE
    ]
    return ",".join(map(safe, parts))


def _weights_name(weights: str) -> str:
    """`pretrained`, a file's name, or the variant and seed of a run's folder."""
    if weights == PRETRAINED:
        return weights
    path = Path(weights)
    return "-".join(path.parts[-2:]) if path.expanduser().is_dir() else path.name


def choice_name(key: str, value: str) -> str:
    """A swept choice as part of a name: `c6.dilation=1`, `protocol.batch_size=4`."""
    key, value = key.lstrip("+~"), _shortened(value)
    for prefix in _SHORTENED:
        if key.startswith(prefix):
            return f"{key.removeprefix(prefix)}={value}"
    return f"{key}={value}"


def changes(part: Any, reference: Any, path: str = "") -> Iterator[str]:
    """How a spec differs from another of its type, field by field: `c6.dilation=1`, `no-c6`."""
    if part is None or type(part) is not type(reference):
        return  # another detector, which its choice names, or none
    for each in fields(part):
        value, former = getattr(part, each.name), getattr(reference, each.name)
        if value == former or (isinstance(part, TimmBackbone) and each.name == "name"):
            continue
        if isinstance(value, dict):
            yield from _stage_changes(value, former)
        else:
            yield f"{path}{each.name}={text(value)}"


def _stage_changes(
    stages: Mapping[str, StageSpec], former: Mapping[str, StageSpec]
) -> Iterator[str]:
    for name in former:
        if name not in stages:
            yield f"no-{name}"
    for name, stage in stages.items():
        if name in former:
            yield from changes(stage, former[name], f"{name}.")
        else:
            yield f"{name}={stage.depth}x{stage.width}"
            ordinary = StageSpec(depth=stage.depth, width=stage.width)
            yield from changes(stage, ordinary, f"{name}.")


def text(value: Any) -> str:
    """A value as the command line writes it, lists joined by `+`."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return "+".join(map(text, value))
    return _shortened(str(value))


def _shortened(value: str) -> str:
    """A number that nobody wrote by hand, in four digits; the digest tells runs apart."""
    return f"{float(value):.4g}" if _LONG_NUMBER.fullmatch(value) else value


def safe(part: str) -> str:
    """A part of a name in characters that a folder may have; other letters as u and their code."""
    spelled = "".join(
        f"u{ord(each):x}" if each.isalnum() and not each.isascii() else each for each in part
    )
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", spelled)

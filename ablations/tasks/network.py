"""A run's backbone as a network, and the weights it starts from: none, timm's, a file's or a run's.

A run of `task=classify` is a start for whoever has its shapes. What strides or dilates may differ:
so is dilation put into a pretrained ResNet and learned by the detector only (the paper's Table 6).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.layers import freeze_batch_norm_2d
from torch import nn

import detnet
from ablations.config import (
    CLASSIFY,
    PRETRAINED,
    SCRATCH,
    WEIGHTS_FILE,
    RunConfig,
    TimmBackbone,
    from_plain,
    weights_file,
)
from ablations.evaluation.faults import shown
from ablations.field_checks import ConfigError
from ablations.record import RecordError, RunRecord, read_record, read_runs
from detnet.spec import BackboneSpec

Backbone = BackboneSpec | TimmBackbone


def build_network(config: RunConfig, **arguments: Any) -> nn.Module:
    """The run's backbone with its weights loaded; `arguments` are those of `timm.create_model`."""
    arguments["pretrained"] = config.weights != SCRATCH
    if config.weights not in (SCRATCH, PRETRAINED):
        arguments["pretrained_cfg_overlay"] = {"file": str(weights_file(config.weights))}
    return _create(config.backbone, **arguments)


def build_body(config: RunConfig) -> nn.Module:
    """The run's backbone as a timm feature network, with its weights loaded."""
    arguments: dict[str, Any] = {"features_only": True}
    if isinstance(config.backbone, TimmBackbone) and config.backbone.out_indices is not None:
        arguments["out_indices"] = config.backbone.out_indices
    return build_network(config, **arguments)


def build_classifier(backbone: Backbone) -> nn.Module:
    """A backbone with its classifier: the network whose cost timm and papers state."""
    return _create(backbone)


def _create(backbone: Backbone, **arguments: Any) -> nn.Module:
    if isinstance(backbone, BackboneSpec):
        return detnet.create_from_spec(backbone, **arguments)
    if backbone.output_stride is not None:
        arguments["output_stride"] = backbone.output_stride
    try:
        model = timm.create_model(backbone.name, **arguments)
    except (AssertionError, LookupError, RuntimeError, TypeError) as error:  # each network its own
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"backbone.name={backbone.name}: timm cannot build it as asked "
            f"({type(error).__name__}: {reason}): look at backbone.output_stride, "
            "backbone.out_indices and weights"
        ) from error
    return freeze_batch_norm_2d(model) if backbone.norm == "frozen_batch" else model


def with_own_weights(config: RunConfig) -> RunConfig:
    """Where `weights` names a folder of runs, the config with that run of it that fits.

    It is the finished classification by this backbone, or by one that only strides or dilates
    otherwise; of several seeds the first. Raises ConfigError where there is none, or more than one.
    """
    folder = Path(config.weights).expanduser()
    if config.weights in (SCRATCH, PRETRAINED) or not any(folder.glob("*/seed*/record.json")):
        return config
    found = [
        (run, from_plain(run.record.config).backbone)
        for run in read_runs(folder, [])
        if run.record.config.get("task") == CLASSIFY and run.record.status == "done"
    ]
    fitting = [(run, each) for run, each in found if each == config.backbone] or [
        (run, each) for run, each in found if _misfit(each, config.backbone) is None
    ]
    variants = {run.record.digest: run.record.variant for run, _ in fitting}
    asked = f"weights={shown(str(folder))}"
    if not fitting:
        there = ", ".join(sorted({run.record.variant for run, _ in found})) or "none at all"
        raise ConfigError(
            f"{asked}: no finished run of task={CLASSIFY} there has this backbone (there are: "
            f"{there}); train it with task={CLASSIFY} job.runs={folder}"
        )
    if len(variants) > 1:
        raise ConfigError(
            f"{asked}: {' and '.join(variants.values())} both fit this backbone; give the folder "
            "of one run"
        )
    run = min((run for run, _ in fitting), key=lambda run: run.record.seed)
    return replace(config, weights=str(run.folder))


def check_weights(config: RunConfig) -> None:
    """Raises ConfigError for weights that this run's network cannot start from."""
    if config.weights in (SCRATCH, PRETRAINED):
        return
    path = Path(config.weights).expanduser()
    if path.is_dir():
        _check_run(path, config)
    _check_file(weights_file(config.weights), config.weights)


def _check_file(path: Path, weights: str) -> None:
    """Raises ConfigError for a file that holds no tensors."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return
        content = torch.load(path, map_location="meta", weights_only=True)
        if not _holds_tensors(content):
            raise TypeError(type(content).__name__)
    except Exception as error:  # torch and safetensors raise a dozen types for foreign files
        raise ConfigError(
            f"weights={shown(weights)}: is no file of tensors ({type(error).__name__}): save the "
            "network's state_dict() with torch.save, or as .safetensors"
        ) from error


def _holds_tensors(content: Any) -> bool:
    """Whether it is a state_dict, or a dict that has one among other things."""
    values = list(content.values()) if isinstance(content, dict) else []
    return any(isinstance(each, torch.Tensor) or _holds_tensors(each) for each in values)


def _check_run(folder: Path, config: RunConfig) -> None:
    """Raises ConfigError where a folder holds no finished classification by such a network."""
    record = _pretraining_record(folder)
    asked = f"weights={shown(str(folder))}"
    task = record.config.get("task")
    if task != CLASSIFY:
        raise ConfigError(f"{asked}: is a run of task={task}; give one of task={CLASSIFY}")
    if record.status != "done":
        raise ConfigError(
            f"{asked}: is not done ({record.status}): the command that began it finishes it: "
            f"{record.env.get('command', 'ablations.train task=classify ...')}"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise ConfigError(
            f"{asked}: has no {WEIGHTS_FILE}, so there is nothing to start from; move the folder "
            "away and train it anew"
        )
    theirs, ours = from_plain(record.config).backbone, config.backbone
    if misfit := _misfit(theirs, ours):
        raise ConfigError(
            f"{asked}: {record.variant} is another architecture than this run's backbone "
            f"({misfit}): give a run of this backbone, or {WEIGHTS_FILE} itself, of which a DetNet "
            "takes a ResNet's c2 to c4"
        )


def _pretraining_record(folder: Path) -> RunRecord:
    try:
        return read_record(folder / "record.json")
    except RecordError as error:
        reason = "has no record.json" if not (folder / "record.json").exists() else str(error)
        raise ConfigError(
            f"weights={shown(str(folder))}: {reason}; give the folder of one run, such as "
            "runs/detnet17-0123456789abcdef/seed0"
        ) from error


def _misfit(theirs: Backbone, ours: Backbone) -> str | None:
    """The first tensor of two backbones that differs; None where all but the classifier agree."""
    shapes = [_shapes(each) for each in (theirs, ours)]
    for name in dict.fromkeys([*shapes[1], *shapes[0]]):
        there, here = (each.get(name) for each in shapes)
        if there != here:
            return f"{name}: {_shape(there)} there, {_shape(here)} here"
    return None


_known_shapes: dict[str, dict[str, tuple[int, ...]]] = {}
"""By backbone: the runs of a sweep mostly share theirs."""


def _shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    key = repr(backbone)
    if key not in _known_shapes:
        with torch.device("meta"):
            state = _create(backbone, num_classes=0).state_dict()
        _known_shapes[key] = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return _known_shapes[key]


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))

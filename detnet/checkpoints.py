"""One filter for the weights people have: ours, timm's and torchvision's ResNets, the community's.

timm applies it to whatever a model is created from, for instance a local file (`.safetensors`, or
`.pth` read with `weights_only`):

    timm.create_model("detnet59b", pretrained=True, pretrained_cfg_overlay=dict(file="r50.pth"))

A ResNet gives its stem and c2..c4 to a DetNet; later stages and the classifier stay as they were
initialized. Weights that do not fit are refused, never skipped: timm alone would skip them without
an error as soon as the number of classes differs.

A state dict does not tell which convolution strides. In the weights in the wild it is the 3x3: load
them into `detnet59b`, or into another member with `stride_on="3x3"`.
"""

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

_logger = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]

# ruoqianguo/DetNet_pytorch: the backbone inside its Faster R-CNN, then its classifier
_COMMUNITY_NAMES = (
    (re.compile(r"^RCNN_layer0\.0\."), "conv1."),
    (re.compile(r"^RCNN_layer0\.1\."), "bn1."),
    (re.compile(r"^RCNN_layer(\d+)\.0\."), r"layer\1."),
    (re.compile(r"^(layer\d+\.\d+)\.extra_conv\."), r"\1.downsample."),
)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> StateDict:
    """Rename and complete `state_dict` so that `model` loads it strictly.

    Channels of the input and rows of the classifier may differ: timm adapts those. Raises
    ValueError where anything else is missing, left over or of another shape.
    """
    weights = _unwrapped(state_dict)
    own = model.state_dict()
    if any(name.startswith("RCNN_") or ".extra_conv." in name for name in weights):
        weights = _community(weights)
        _warn_of_stride(model)
    elif _is_resnet_for_a_detnet(weights, own):
        weights = _resnet(weights, own)
        _warn_of_stride(model)
    _refuse_misfits(weights, own)
    return weights


def _unwrapped(state_dict: Mapping[str, Any]) -> StateDict:
    for wrapper in ("state_dict", "model"):
        if isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    return {
        name.removeprefix("module."): weight
        for name, weight in state_dict.items()
        if isinstance(weight, torch.Tensor)
    }


def _community(weights: StateDict) -> StateDict:
    renamed = {}
    for name, weight in weights.items():
        for pattern, replacement in _COMMUNITY_NAMES:
            name = pattern.sub(replacement, name)
        if not name.startswith("RCNN_"):  # the rest of the detector
            renamed[name] = weight
    return renamed


def _is_resnet_for_a_detnet(weights: StateDict, own: StateDict) -> bool:
    """Whether a ResNet's layer4, its c5 at stride 32, meets a model whose layer4 is another stage.

    The group decides, not the single shape: `num_batches_tracked` and `fc.bias` would fit.
    """
    theirs, ours = (_group(state, "layer4") for state in (weights, own))
    return bool(theirs) and not _group(weights, "layer5") and _shapes(theirs) != _shapes(ours)


def _resnet(weights: StateDict, own: StateDict) -> StateDict:
    """The stem and c2..c4 of `weights`; the rest as `own`, freshly initialized, has it."""
    shared = ("conv1", "bn1", "layer1", "layer2", "layer3")
    loaded = {name: weight for name, weight in weights.items() if _part(name) in shared}
    new = {name: weight for name, weight in own.items() if _part(name) not in shared}
    _logger.info(
        "ResNet weights: loaded %s (%d tensors); %s (%d tensors) stay newly initialized",
        _listed(loaded),
        len(loaded),
        _listed(new),
        len(new),
    )
    return {**loaded, **new}


def _warn_of_stride(model: nn.Module) -> None:
    stride_on = model.spec.stride_on  # type: ignore[union-attr]
    if stride_on != "3x3":
        _logger.warning(
            "These weights come from a network that strides on the 3x3 convolution, the model "
            "strides on the %s: its features will differ; build it with stride_on='3x3'",
            stride_on,
        )


def _refuse_misfits(weights: StateDict, own: StateDict) -> None:
    theirs, ours = _shapes(weights), _shapes(own)
    names = [*ours, *(name for name in theirs if name not in ours)]
    misfits = [
        f"{name}: checkpoint {_shape(theirs.get(name))}, model {_shape(ours.get(name))}"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]
    if misfits:
        shown = "\n  ".join(misfits[:4])
        raise ValueError(
            f"the checkpoint does not fit the model, {len(misfits)} tensors differ:\n  {shown}\n"
            "build the model with the checkpoint's stages, widths and norm"
        )


def _shapes(weights: StateDict) -> dict[str, tuple[int, ...]]:
    """Shapes that have to agree: without the classifier, the image's channels, and a counter."""
    shapes = {
        name: tuple(weight.shape)
        for name, weight in weights.items()
        if _part(name) != "fc" and not name.endswith(".num_batches_tracked")
    }
    if "conv1.weight" in shapes:
        out_channels, _, *kernel = shapes["conv1.weight"]
        shapes["conv1.weight"] = (out_channels, *kernel)
    return shapes


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(str(size) for size in shape)


def _group(weights: StateDict, part: str) -> StateDict:
    return {name: weight for name, weight in weights.items() if _part(name) == part}


def _part(name: str) -> str:
    return name.partition(".")[0]


def _listed(names: Collection[str]) -> str:
    """The stages that `names` belong to, in the paper's words."""
    parts = dict.fromkeys(_part(name) for name in names)
    words = {"conv1": "stem", "bn1": "stem", "fc": "classifier"}
    stages = {part: f"c{int(part[5:]) + 1}" for part in parts if part.startswith("layer")}
    return ", ".join(dict.fromkeys({**words, **stages}[part] for part in parts))

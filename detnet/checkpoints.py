"""One filter for the weights people have: ours, timm's and torchvision's ResNets, the community's.

timm applies it to whatever a model is created from, for instance a local file (`.safetensors`, or
`.pth` read with `weights_only`):

    timm.create_model("detnet59b", pretrained=True, pretrained_cfg_overlay=dict(file="r50.pth"))

A ResNet gives its stem and c2..c4 to a DetNet; later stages and the classifier stay as they were
initialized. Weights that do not fit are refused, never skipped: timm alone would skip them without
an error as soon as the number of classes differs.

Weights do not show which convolution strides. Files that `torch.save` wrote of this project's
models say it, and `.safetensors` files whose metadata hold the `stride_note`; in the weights in the
wild it is the 3x3: load them into the zoo's members of that convention, such as `detnet59b` and
`detnet_resnet50b`.
"""

import argparse
import json
import logging
import pickle
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors import safe_open
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


# Around a backbone, by what trains it: torch's parallel and compiled models, Lightning, DINO,
# torchvision's and mmdetection's detectors, and this project's own
_STRIDE_NOTE = "stride_on"
_WRAPPERS = ("state_dict", "model", "teacher")
_STEM = re.compile(
    r"((?:(?:_orig_mod|module|model|teacher|backbone|features|body)\.)*)"
    r"(?:conv1|RCNN_layer0\.0)\.weight"
)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> StateDict:
    """Rename and complete `state_dict` so that `model` loads it strictly.

    Channels of the input and rows of the classifier may differ: timm adapts those. Raises
    ValueError where anything else is missing, left over, of another shape, or not finite.
    """
    named, strides = _unwrapped(state_dict)
    own = model.state_dict()
    if any(name.startswith("RCNN_") or ".extra_conv." in name for name in named):
        named = _community(named)
    weights = _completed(named, own) if _is_resnet_for_a_detnet(named, own) else named
    _refuse_misfits(weights, own, first_keys=list(state_dict)[:4])
    loaded = {name: weight for name, weight in weights.items() if named.get(name) is weight}
    _refuse_what_is_no_weight(loaded)
    _tell_what_is_loaded(loaded, weights)
    _tell_of_stride(strides or _strides_of_file(model), _strides(own))
    return weights


def _unwrapped(state_dict: Mapping[str, Any]) -> tuple[StateDict, dict[str, str]]:
    """The backbone's weights without what is around them, and which blocks stride where."""
    for wrapper in _WRAPPERS:
        if isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    prefix = next((m[1] for name in state_dict if (m := _STEM.fullmatch(name))), "")
    weights = {
        name.removeprefix(prefix): weight
        for name, weight in state_dict.items()
        if isinstance(weight, torch.Tensor) and name.startswith(prefix)
    }
    strides = _strides(state_dict)
    return weights, {name.removeprefix(prefix): place for name, place in strides.items()}


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


def _completed(weights: StateDict, own: StateDict) -> StateDict:
    """The stem and c2..c4 of `weights`; the rest as `own`, freshly initialized, has it."""
    shared = ("conv1", "bn1", "layer1", "layer2", "layer3")
    loaded = {name: weight for name, weight in weights.items() if _part(name) in shared}
    return {**loaded, **{name: w for name, w in own.items() if _part(name) not in shared}}


def _refuse_misfits(weights: StateDict, own: StateDict, first_keys: list[str]) -> None:
    theirs, ours = _shapes(weights), _shapes(own)
    names = [*ours, *(name for name in theirs if name not in ours)]
    misfits = [
        f"{name}: checkpoint {_shape(theirs.get(name))}, model {_shape(ours.get(name))}"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]
    if misfits:
        shown = "\n  ".join(misfits[:4])
        remedy = "build the model with the checkpoint's stages, widths and norm"
        if "conv1.weight" not in theirs:
            remedy = (
                f"the checkpoint's first keys are {', '.join(first_keys)}: rename its weights to "
                "the model's, the stem's being conv1.weight"
            )
        raise ValueError(
            f"the checkpoint does not fit the model, number of misfits: {len(misfits)}\n  {shown}\n"
            + remedy
        )


def _refuse_what_is_no_weight(weights: StateDict) -> None:
    """Values that every layer would take, and give NaN or noise for."""
    unlike = [name for name, weight in weights.items() if _is_quantized(name, weight)]
    if unlike:
        raise ValueError(
            f"the checkpoint has no floating-point numbers in {', '.join(unlike[:4])}: take the "
            "weights from before they were quantized"
        )
    negative = [n for n, w in weights.items() if n.endswith("running_var") and (w < 0).any()]
    if negative:
        raise ValueError(
            f"the checkpoint has negative variances in {', '.join(negative[:4])}: it is damaged"
        )
    wrong = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if wrong:
        raise ValueError(
            f"the checkpoint has NaN or infinite values in {', '.join(wrong[:4])}"
            f"{', ...' if len(wrong) > 4 else ''}: take one from before its training diverged"
        )


def _is_quantized(name: str, weight: torch.Tensor) -> bool:
    return not weight.is_floating_point() and not name.endswith("num_batches_tracked")


def _tell_what_is_loaded(loaded: StateDict, weights: StateDict) -> None:
    new = [name for name in weights if name not in loaded]
    _logger.info(
        "loaded %s (%d tensors)%s",
        _listed(loaded),
        len(loaded),
        f"; {_listed(new)} ({len(new)} tensors) stay newly initialized" if new else "",
    )


def _tell_of_stride(theirs: dict[str, str], ours: dict[str, str]) -> None:
    """Warn where blocks stride elsewhere than those the weights come from did, or may have."""
    if differing := [name for name in ours if theirs.get(name, ours[name]) != ours[name]]:
        first = differing[0]
        _logger.warning(
            "These weights come from a network that strides on the %s convolution, the model "
            "strides on the %s (%s): its features will differ; build it with stride_on=%r",
            theirs[first],
            ours[first],
            ", ".join(differing),
            theirs[first],
        )
    elif "1x1" in ours.values() and not theirs:
        _logger.warning(
            "Weights loaded by name may come from a network that strides elsewhere: the model "
            "strides on the 1x1 convolution, timm's, torchvision's and the community's on the 3x3. "
            "If these are theirs, its features will differ; build it with stride_on='3x3'"
        )


def stride_note(model: nn.Module) -> dict[str, str]:
    """Metadata for a `.safetensors` file of the model's weights: which convolutions stride.

        safetensors.torch.save_file(model.state_dict(), file, metadata=stride_note(model))

    Empty for a model that does not say it.
    """
    strides = _strides(model.state_dict())
    return {_STRIDE_NOTE: json.dumps(strides, sort_keys=True)} if strides else {}


def _strides(state_dict: Any) -> dict[str, str]:
    """{block: "1x1" or "3x3"} of the blocks that stride, where a state dict says it."""
    metadata = getattr(state_dict, "_metadata", {})
    return {name: entry["stride_on"] for name, entry in metadata.items() if "stride_on" in entry}


def _strides_of_file(model: Any) -> dict[str, str]:
    """What the model's own weight file says, which timm's reader leaves out.

    A folder that `timm.models.save_for_hf` wrote holds the model's arguments, so that the model
    built from it strides as its weights do.
    """
    cfg = getattr(model, "pretrained_cfg", {})
    if cfg.get("source") in ("local-dir", "hf-hub"):
        return _strides(model.state_dict())
    file = cfg.get("file")
    if not file:
        return {}
    if str(file).endswith(".safetensors"):
        with safe_open(file, framework="pt") as content:
            return json.loads((content.metadata() or {}).get(_STRIDE_NOTE, "{}"))
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # as timm allows
            return _unwrapped(torch.load(file, "cpu", weights_only=True, mmap=True))[1]
    except (RuntimeError, pickle.UnpicklingError):
        return {}  # of a format that torch.save no longer writes: not this project's


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


def _listed(names: Iterable[str]) -> str:
    """The stages that `names` belong to, in the paper's words."""
    parts = dict.fromkeys(_part(name) for name in names)
    words = {"conv1": "stem", "bn1": "stem", "act1": "stem", "fc": "classifier"}
    stages = {part: f"c{int(part[5:]) + 1}" for part in parts if part.startswith("layer")}
    return ", ".join(dict.fromkeys({**words, **stages}[part] for part in parts))

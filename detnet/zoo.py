"""The family by name: `ZOO` is the table, and every row of it is a timm model.

The zoo has the paper's convention, the stride of a down-sampling bottleneck on its first 1x1
convolution, so that the rows of a comparison agree (only so does DetNet-59 cost the paper's 4.8
GFLOPs). Members with a `b` (`detnet59b`, `detnet_resnet50b`) stride on the 3x3: into these fit the
weights people have, timm's and torchvision's ResNets and the community's DetNet-59. Compare members
of one convention only: `BackboneSpec.stride_convention`.

timm does not discover packages: `import detnet` makes the names known.
"""

from dataclasses import asdict, fields
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from detnet.backbone import DetNet
from detnet.checkpoints import checkpoint_filter_fn
from detnet.spec import STEM_STRIDE, BackboneSpec, StageSpec

__all__ = ["ZOO", "create_from_spec"]

ANY_SPEC = "detnet"  # timm's name of what has no row of its own: every stage is an argument


def _resnet(*depths: int) -> BackboneSpec:
    """ResNet (He et al. 2016, table 1): widths double, strides halve the map, up to stride 32."""
    return _family(depths, widths=(64, 128, 256, 512), strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))


def _detnet(*depths: int) -> BackboneSpec:
    """ResNet up to c4, then stages of c4's width that keep stride 16 and dilate (section 3.2)."""
    return _family(
        depths,
        widths=(64, 128, 256, 256, 256),
        strides=(1, 2, 2, 1, 1),
        dilations=(1, 1, 1, 2, 2),
    )


def _family(
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> BackboneSpec:
    stages = {
        f"c{number}": StageSpec(depth=depth, width=width, stride=stride, dilation=dilation)
        for number, (depth, width, stride, dilation) in enumerate(
            zip(depths, widths, strides, dilations, strict=True), start=2
        )
    }
    return BackboneSpec(stages=stages)


_NO_PROJECTION = {"c6": {"projection": False}}
_NO_DILATION = {"c5": {"dilation": 1}, "c6": {"dilation": 1}}
_DILATED_C5 = {"c5": {"stride": 1, "dilation": 2}}

_STRIDE_ON_3X3: dict[str, Any] = {"stride_on": "3x3"}

ZOO: dict[str, BackboneSpec] = {
    # the paper's networks                c2 c3  c4 c5 c6
    "detnet59": _detnet(3, 4, 6, 3, 3),
    "detnet59_noproj": _detnet(3, 4, 6, 3, 3).override(stages=_NO_PROJECTION),
    "detnet59_nodilation": _detnet(3, 4, 6, 3, 3).override(stages=_NO_DILATION),
    "detnet110": _detnet(3, 4, 23, 3, 3),
    "detnet_resnet50": _resnet(3, 4, 6, 3),
    "detnet_resnet50_dilated": _resnet(3, 4, 6, 3).override(stages=_DILATED_C5),
    "detnet_resnet101": _resnet(3, 4, 23, 3),
    # the same for the weights in the wild
    "detnet59b": _detnet(3, 4, 6, 3, 3).override(**_STRIDE_ON_3X3),
    "detnet59b_noproj": _detnet(3, 4, 6, 3, 3).override(stages=_NO_PROJECTION, **_STRIDE_ON_3X3),
    "detnet59b_nodilation": _detnet(3, 4, 6, 3, 3).override(stages=_NO_DILATION, **_STRIDE_ON_3X3),
    "detnet110b": _detnet(3, 4, 23, 3, 3).override(**_STRIDE_ON_3X3),
    "detnet_resnet50b": _resnet(3, 4, 6, 3).override(**_STRIDE_ON_3X3),
    "detnet_resnet50b_dilated": _resnet(3, 4, 6, 3).override(stages=_DILATED_C5, **_STRIDE_ON_3X3),
    "detnet_resnet101b": _resnet(3, 4, 23, 3).override(**_STRIDE_ON_3X3),
    # one block a stage: minutes on a CPU
    "detnet17": _detnet(1, 1, 1, 1, 1),
    "detnet17_noproj": _detnet(1, 1, 1, 1, 1).override(stages=_NO_PROJECTION),
    "detnet17_nodilation": _detnet(1, 1, 1, 1, 1).override(stages=_NO_DILATION),
    "detnet_resnet14": _resnet(1, 1, 1, 1),
    "detnet_resnet14b": _resnet(1, 1, 1, 1).override(**_STRIDE_ON_3X3),
    # an eighth of the width: tests
    "detnet_atto": _detnet(1, 1, 1, 1, 1).override(width_multiplier=0.125),
}


def create_from_spec(
    spec: BackboneSpec, *, pretrained: bool = False, **timm_kwargs: Any
) -> nn.Module:
    """Build `spec` as timm builds its models, with the keyword arguments of `timm.create_model`.

    To timm it is a `detnet` with the spec's fields as arguments, and comes back as such from what
    `timm.models.save_for_hf` saved. `features_only=True` returns all maps, the stem's and then each
    stage's, unless `out_indices` says otherwise. Raises ValueError for a spec that does not
    `check()` and TypeError for an argument that neither timm nor DetNet has.
    """
    if not isinstance(spec, BackboneSpec):
        raise TypeError(f"spec: give a BackboneSpec, not {spec!r}; names go to timm.create_model")
    spec.check()
    if timm_kwargs.get("pretrained_cfg") is None:
        timm_kwargs["pretrained_cfg"] = {**_cfg(spec), "architecture": ANY_SPEC}
    return timm.create_model(ANY_SPEC, pretrained=pretrained, **asdict(spec), **timm_kwargs)


def _build(name: str, spec: BackboneSpec, /, **timm_kwargs: Any) -> nn.Module:
    all_maps = {"out_indices": tuple(range(1 + len(spec.stages)))}
    return build_model_with_cfg(
        DetNet,
        name,
        spec=spec,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={**all_maps, **(timm_kwargs.pop("feature_cfg", None) or {})},
        **timm_kwargs,
    )


def _cfg(spec: BackboneSpec) -> dict[str, Any]:
    """timm's description of a model's input and head; no weights are published for any."""
    map_size = 224 // max(spec.strides.values(), default=STEM_STRIDE)
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (map_size, map_size),
        "crop_pct": 0.875,  # the paper tests the 224 crop of the 256 short side
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
        "paper_ids": "arXiv:1804.06215",
    }


_SPEC_FIELDS = {field.name for field in fields(BackboneSpec)}

_ENTRY_POINTS = {**ZOO, ANY_SPEC: BackboneSpec()}

# register_model finds an entry point's configuration here, in the module that defines it
default_cfgs = generate_default_cfgs({name: _cfg(spec) for name, spec in _ENTRY_POINTS.items()})


def _register(name: str, spec: BackboneSpec) -> None:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        overrides = {key: kwargs.pop(key) for key in _SPEC_FIELDS & kwargs.keys()}
        return _build(name, spec.override(**overrides), pretrained=pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"`{name}` of the zoo; spec fields given as arguments override it."
    globals()[name] = register_model(entry_point)


for _name, _spec in _ENTRY_POINTS.items():
    _register(_name, _spec)

"""What a backbone costs: parameters, multiply-adds, activations, receptive field, stage by stage.

Counted while the network itself runs on the meta device, so nothing here repeats an architecture:
a layer that is added to the model is counted. Any timm name with `feature_info` is counted alike.

- **macs**: multiply-adds of convolutions and matrix products. The paper's "FLOPs" are these, at
  224 x 224; norms, activations, pooling and biases are not counted there nor here.
- **activations**: elements that convolutions and linear layers put out (Radosavovic et al. 2020).
- **receptive_field**: side, in input pixels, of the square that one output position can depend on
  through convolutions and pooling (Araujo et al. 2019). Statistics of a norm do not count. None
  stands for the whole image, or for an operation whose reach is not known here.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from detnet.spec import BackboneSpec
from detnet.zoo import create_from_spec


@dataclass(kw_only=True, slots=True)
class StageCost:
    """What runs after the stage before and up to this stage's output (B, channels, H/s, W/s)."""

    params: int
    macs: int
    activations: int
    receptive_field: int | None
    channels: int | None = None
    stride: int | None = None


@dataclass(kw_only=True, slots=True)
class Cost:
    """Totals and stages of one image's pass; `dataclasses.asdict` makes it JSON.

    Stages are `stem`, `c2`, ..., `head` for this family; of any other timm model the modules that
    its `feature_info` names, and `head` for the rest. `receptive_field` is the last stage's.
    """

    params: int
    macs: int
    activations: int
    receptive_field: int | None
    stages: dict[str, StageCost] = field(default_factory=dict)


def cost(
    backbone: nn.Module | BackboneSpec | str, input_size: tuple[int, int, int] = (3, 224, 224)
) -> Cost:
    """Count a model, a spec or a timm name for one image of `input_size` (C, H, W).

    Parameters are those of the classifier and all; a frozen norm has none.
    """
    model = _on_meta(backbone)
    if not hasattr(model, "feature_info"):
        raise TypeError(f"{type(model).__name__} has no feature_info; give a timm model")
    meter = _Meter(model)
    image = torch.empty(1, *input_size, device="meta", dtype=next(model.parameters()).dtype)
    with torch.no_grad(), meter.flops, meter.reach:
        meter.reach.start(image)
        model(image)
    stages = meter.finish()
    maps = [stage for name, stage in stages.items() if name != "head"]
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=sum(stage.macs for stage in stages.values()),
        activations=sum(stage.activations for stage in stages.values()),
        receptive_field=maps[-1].receptive_field,
        stages=stages,
    )


def _on_meta(backbone: nn.Module | BackboneSpec | str) -> nn.Module:
    with torch.device("meta"):
        if isinstance(backbone, BackboneSpec):
            return create_from_spec(backbone).eval()
        if isinstance(backbone, str):
            return timm.create_model(backbone).eval()
    return copy.deepcopy(backbone).to("meta").eval()


class _Meter:
    """Follows one forward pass with hooks and cuts it where a feature map is done."""

    def __init__(self, model: nn.Module) -> None:
        self.flops = FlopCounterMode(display=False)
        self.reach = _Reach()
        self.stages: dict[str, StageCost] = {}
        self._open = StageCost(params=0, macs=0, activations=0, receptive_field=None)
        self._macs_before = 0
        self._seen: set[int] = set()
        for module in model.modules():
            module.register_forward_hook(self._count)
        for info in _infos(model):
            name = info.get("stage_name", info["module"])
            module = model.get_submodule(info["module"])
            module.register_forward_hook(lambda _, __, out, n=name, i=info: self._cut(n, i, out))

    def finish(self) -> dict[str, StageCost]:
        """The stages, with what ran after the last map as `head`."""
        if self._macs() or self._open.params or self._open.activations:
            self._close("head")
        return self.stages

    def _count(self, module: nn.Module, _: Any, output: Any) -> None:
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in self._seen:
                self._seen.add(id(parameter))
                self._open.params += parameter.numel()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            self._open.activations += output.numel()

    def _cut(self, name: str, info: dict[str, Any], output: Any) -> None:
        self._open.receptive_field = self.reach.side(output)
        self._open.channels, self._open.stride = info["num_chs"], info["reduction"]
        self._close(name)

    def _close(self, name: str) -> None:
        self._open.macs = self._macs()
        self._macs_before += self._open.macs
        self.stages[name] = self._open
        self._open = StageCost(params=0, macs=0, activations=0, receptive_field=None)

    def _macs(self) -> int:
        return self.flops.get_total_flops() // 2 - self._macs_before


def _infos(model: nn.Module) -> list[dict[str, Any]]:
    info: Any = model.feature_info
    return info.get_dicts() if hasattr(info, "get_dicts") else list(info)


Lattice = tuple[tuple[int, int], ...] | None  # (side, step) in pixels, per axis of the image


class _Reach(TorchDispatchMode):
    """Receptive field and step of every tensor that the image reaches, operation by operation.

    Per axis: a kernel of extent e on a lattice of step s adds (e - 1) * s pixels; a stride
    multiplies the step; a sum reaches as far as its furthest operand.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lattices: Any = WeakTensorKeyDictionary()  # tensor -> Lattice

    def start(self, image: torch.Tensor) -> None:
        self._lattices[image] = ((1, 1),) * (image.ndim - 2)

    def side(self, tensor: torch.Tensor) -> int | None:
        lattice = self._lattices.get(tensor)
        return max(side for side, _ in lattice) if lattice else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        reached = [a for a in args if isinstance(a, torch.Tensor) and a in self._lattices]
        if reached:
            lattices = [self._lattices[tensor] for tensor in reached]
            lattice = _through(func, args, _furthest(lattices))
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if isinstance(tensor, torch.Tensor):
                    self._lattices[tensor] = lattice
        return output


_UNTAGGED_POINTWISE = ("hardswish", "mish", "_prelu_kernel")  # activations torch 2.15 left out


def _furthest(lattices: list[Lattice]) -> Lattice:
    known = [lattice for lattice in lattices if lattice is not None]
    if len(known) < len(lattices):
        return None
    return tuple(max(axis) for axis in zip(*known, strict=True))


def _through(func: Any, args: tuple[Any, ...], lattice: Lattice) -> Lattice:
    """The lattice after one operation; None where its reach is the whole image or not known."""
    name = func.overloadpacket.__name__
    if lattice is None:
        return None
    if name == "convolution":
        _, weight, _, stride, _, dilation, transposed, *_ = args
        return None if transposed else _window(lattice, weight.shape[2:], stride, dilation)
    if name == "max_pool2d_with_indices":
        dilation = args[4] if len(args) > 4 else [1, 1]  # trailing defaults are not passed on
        return _window(lattice, args[1], args[2], dilation)
    if name == "avg_pool2d":
        return _window(lattice, args[1], args[2], [1, 1])
    pointwise = torch.Tag.pointwise in func.tags or name.rstrip("_") in _UNTAGGED_POINTWISE
    return lattice if pointwise or "_norm" in name else None


def _window(
    lattice: tuple[tuple[int, int], ...],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Lattice:
    return tuple(
        (side + (extent - 1) * spread * step, step * jump)
        for (side, step), extent, jump, spread in zip(
            lattice, kernel, stride, dilation, strict=True
        )
    )

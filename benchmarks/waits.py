"""Counts what would make the host wait for a GPU, on any machine.

A GPU works behind the host's back until the host asks for a number: the value of a scalar, or how
many elements of a mask are true, on which the shape of the next tensor depends.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim",
         "unique_consecutive", "nonzero_numpy", "nms")  # fmt: skip
"""Operators that answer on the host, or whose answer's shape is found on the device."""
WITHOUT_TRITON = () if find_spec("triton") else ("kept_by_nms",)
"""Ours, which is torchvision's `nms` on a GPU where there is no Triton."""
ON_HOST = ("tolist", "numpy", "cpu")
FROM_HOST = ("tensor", "as_tensor", "new_tensor")
"""Copies of Python's numbers, from memory that is not pinned."""


class _Operators(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function._schema.name.split("::")[1]
        if name in READS or name in WITHOUT_TRITON:
            self.counts[name] += 1
        elif name.startswith("index") and any(map(_is_mask, _indices(args))):
            self.counts["boolean index"] += 1
        return function(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in ON_HOST + FROM_HOST:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def _indices(args: tuple) -> list[Any]:
    return list(args[1]) if len(args) > 1 and isinstance(args[1], list | tuple) else []


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """What would wait within, by name."""
    counts: Counter[str] = Counter()
    with _Calls(counts), _Operators(counts):
        yield counts


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Our detectors compute what they would on a GPU, empty slots included."""
    from detnet.detection import slots

    with mock.patch.object(slots, "COUNTED_ON", ()):
        yield

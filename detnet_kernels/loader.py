"""The compiled kernels, as functions of NumPy arrays.

A module declares the kernels it calls, with the types of their arguments:

    _stable_order = kernel("stable_order", I32, INT, INT, I64, I64)

Types and contiguity of arrays are checked at every call (ctypes.ArgumentError), lengths are not.
Other threads run meanwhile.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from detnet_kernels.build import library_path


def _array(dtype: type) -> Any:
    return np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS")


BOOL, U8 = _array(np.bool_), _array(np.uint8)
I8, I32, I64 = _array(np.int8), _array(np.int32), _array(np.int64)
F32, F64 = _array(np.float32), _array(np.float64)
INT, FLOAT = ctypes.c_int64, ctypes.c_double


def kernel(name: str, *arguments: Any, result: Any = None) -> Callable[..., Any]:
    """The kernel of that name.

    Raises ImportError where the library of these sources was not built.
    """
    function = _library()[name]
    function.argtypes, function.restype = arguments, result
    return function


@cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if not path.exists():
        raise ImportError(
            f"no {path.name} in {path.parent}: install the project again (pip install -e .), "
            "or run `python -m detnet_kernels.build`"
        )
    return ctypes.CDLL(str(path))

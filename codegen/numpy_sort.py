"""NumPy's own sorting loops, for which processors have vector code that ours would have to repeat.

The table of NumPy's C interface holds a function that gives the table of functions of a dtype; its first sorting
function takes the memory, the number of elements, and an array that it does not look at. Both tables are part of
NumPy's binary interface since 2.0. Each function is tried on some numbers first; else `sorting` has its own.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError

PREFIX = "numpy.sort."
_FUNCTIONS_OF_DTYPE = 365  # the place of _PyDataType_GetArrFuncs in the interface
_SORT = 33  # the place of the first sorting function in the table of a dtype
_KINDS = frozenset("?hHiIlLqQfd")


def name(dtype: np.dtype) -> str | None:
    """The extern that sorts this dtype, or None."""
    return PREFIX + dtype.char if dtype.char in _KINDS and _function(dtype.char) else None


def address(extern: str) -> int:
    """The address behind a name."""
    found = _function(extern.removeprefix(PREFIX))
    if not found:
        raise UnsupportedError("this program was compiled for a NumPy whose sorting functions can be called")
    return found


@functools.cache
def _function(char: str) -> int:
    """The address of a dtype's sorting function; 0 where it does not sort as it should."""
    try:
        found = _tables(np.dtype(char))[_SORT]
    except (AttributeError, ValueError):
        return 0
    return found if found and _sorts(found, char) else 0


def _tables(dtype: np.dtype) -> Any:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = np._core._multiarray_umath._ARRAY_API  # type: ignore[attr-defined]
    slots = ctypes.cast(ctypes.c_void_p(pointer(capsule, None)), ctypes.POINTER(ctypes.c_void_p))
    functions = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(slots[_FUNCTIONS_OF_DTYPE])
    return ctypes.cast(functions(dtype), ctypes.POINTER(ctypes.c_void_p))


def _sorts(function: int, char: str) -> bool:
    """Whether the function does what it should, on a line that is longer than any vector."""
    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p)(function)
    line = ((np.arange(1000) * 7919) % 1009 - 500).astype(char)
    wanted = np.sort(line)
    return call(line.ctypes.data, line.size, None) == 0 and bool((line == wanted).all())

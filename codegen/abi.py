"""What native code may know of CPython and NumPy: field offsets, C functions, and a self-test of both.

Offsets are derived from `object.__basicsize__`; `abi_ok` reads known objects through them, and calls NumPy's
C API by its table indices, before any generated code relies on either.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError
from nufunc.ir.types import HANDLE, bfloat16, dtype_from, is_bfloat16

HEAD = object.__basicsize__
TYPE, DATA, NDIM, DIMS, STRIDES, DESCR, FLAGS = (HEAD + delta for delta in (-8, 0, 8, 16, 24, 40, 48))
VALUE = HEAD  # the number of a float, complex or NumPy scalar object
C_CONTIGUOUS, ALIGNED = 0x0001, 0x0100  # NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_ALIGNED
WRITEABLE = 0x0400  # NPY_ARRAY_WRITEABLE

# Indices into NumPy's C API table: part of its ABI since 1.x, never reused.
_NUMPY_API = {
    "array_type": 2, "PyArray_Scalar": 60, "PyArray_NewCopy": 85, "PyArray_NewFromDescr": 94,
    "PyDataMem_SetHandler": 304,
}  # fmt: skip
_PYTHON_API = (
    "Py_IncRef",
    "Py_DecRef",
    "PyTuple_New",
    "PyTuple_SetItem",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
    "PyMem_RawMalloc",
    "PyMem_RawFree",
    "PyErr_NoMemory",
    "PyLong_FromLong",
    "PyObject_CallOneArg",
)
FUNCTIONS = (*_PYTHON_API, "PyArray_Scalar", "PyArray_NewCopy", "PyArray_NewFromDescr")

_NUMBER_KINDS = "biufc"


def canonical_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype object that arrays share: int64 is `long` and `long long`, but arrays have one of them."""
    given = dtype_from(dtype)
    if given == HANDLE:
        return given
    if is_bfloat16(given):
        return _bfloat16()
    if given.kind not in _NUMBER_KINDS or given.char in "gG" or not given.isnative:
        raise DTypeError(f"no native call with {given!r}: only native bool, integer, float and complex")
    canonical: np.dtype[Any] = np.dtype(given.name)
    return canonical


@functools.cache
def _bfloat16() -> np.dtype[Any]:
    """The dtype, if its scalars hold their number where others do."""
    dtype = bfloat16()
    one = dtype.type(1.5)
    if ctypes.string_at(id(one) + VALUE, 2) != one.tobytes():
        raise DTypeError("no native call with bfloat16: the scalars of this ml_dtypes have another layout")
    return dtype


@functools.cache
def python_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of CPython's C API with a prototype of its own: all share ctypes.pythonapi's attributes. Each is made
    once, since every prototype is a new class."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


def capsule_pointer(capsule: object) -> int:
    """The pointer in a PyCapsule, by whatever name it has."""
    name_of = python_function("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
    pointer_of = python_function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    return int(pointer_of(capsule, name_of(capsule)))


def tape_name(tapes: np.ndarray[Any, Any]) -> str | None:
    """The type of the tapes in an array of objects, as text: "" where none has items, None where they are no tapes."""
    name_of = python_function("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
    for item in tapes.ravel():
        if item is not None:
            name = (name_of(item) or b"").decode() if type(item).__name__ == "PyCapsule" else ""
            return name.removeprefix("nufunc ") if name.startswith("nufunc tape(") else None
    return ""


def python_address(name: str) -> int:
    """The address of a function of CPython's C API; also for a plan's table (PyErr_CheckSignals)."""
    return int(ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0)


@functools.cache
def function_addresses() -> dict[str, int]:
    """Name -> address of every function in FUNCTIONS."""
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    addresses = {name: python_address(name) for name in _PYTHON_API}
    table = capsule_pointer(_multiarray_umath._ARRAY_API)
    for name, index in _NUMPY_API.items():
        addresses[name] = _word(table + 8 * index)
    return addresses


def _word(address: int) -> int:
    return ctypes.c_size_t.from_address(address).value


def native_call_wanted() -> bool:
    """Whether the native wrapper may serve: its ABI is this one's, and NUFUNC_NO_NATIVE_CALL is not 1."""
    return os.environ.get("NUFUNC_NO_NATIVE_CALL", "") != "1" and abi_ok()


@functools.cache
def abi_ok() -> bool:
    """Whether this interpreter and NumPy have the layouts and functions that the wrapper relies on."""
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    if "t" in getattr(sys, "abiflags", ""):
        return False  # nothing would keep an array's fields still while they are checked
    if (
        np.ndarray.__basicsize__ < FLAGS + 4
        or float.__basicsize__ != HEAD + 8
        or complex.__basicsize__ != HEAD + 16
    ):
        return False
    return _arrays_ok() and _scalars_ok() and _functions_ok()


def _arrays_ok() -> bool:
    square = np.arange(12.0).reshape(3, 4)
    misaligned = np.zeros(17, np.uint8)[1:].view(np.float64)
    readonly = np.arange(6, dtype=np.int16)
    readonly.flags.writeable = False
    for array in (
        square,
        square.T,
        square[::2, ::3],
        misaligned,
        readonly,
        np.array(1j),
        np.zeros((0, 3), bool),
    ):
        at, ndim = id(array), array.ndim
        seen: tuple[object, ...] = (
            _word(at + TYPE),
            _word(at + DATA),
            ctypes.c_int.from_address(at + NDIM).value,
            _word(at + DESCR),
            ctypes.c_int.from_address(at + FLAGS).value,
        )
        if seen != (id(np.ndarray), array.ctypes.data, ndim, id(array.dtype), array.flags.num):
            return False
        if array.dtype is not canonical_dtype(array.dtype):
            return False
        for field, expected in ((DIMS, array.shape), (STRIDES, array.strides)):
            if ndim and tuple((ctypes.c_ssize_t * ndim).from_address(_word(at + field))) != expected:
                return False
    return True


def _scalars_ok() -> bool:
    numbers: list[tuple[Any, bytes]] = [
        (-1.25, struct.pack("d", -1.25)),
        (1.5 - 2j, struct.pack("dd", 1.5, -2.0)),
    ]
    numbers += [(x, x.tobytes()) for x in (np.dtype(char).type(1) for char in "?bBhHiIlLqQefdFD")]
    for number, expected in numbers:
        if _word(id(number) + TYPE) != id(type(number)):
            return False
        if ctypes.string_at(id(number) + VALUE, len(expected)) != expected:
            return False
    return True


def _functions_ok() -> bool:
    addresses = function_addresses()
    if not all(addresses.values()) or addresses["array_type"] != id(np.ndarray):
        return False
    pointer, obj, integer = ctypes.c_void_p, ctypes.py_object, ctypes.c_int
    new = ctypes.PYFUNCTYPE(obj, obj, obj, integer, pointer, pointer, pointer, integer, pointer)(
        addresses["PyArray_NewFromDescr"]
    )
    dtype = canonical_dtype(np.float32)
    python_function("Py_IncRef", None, obj)(dtype)  # NewFromDescr steals a reference
    array = new(np.ndarray, dtype, 2, (ctypes.c_ssize_t * 2)(2, 3), None, None, 0, None)
    if (
        type(array) is not np.ndarray
        or array.shape != (2, 3)
        or array.dtype is not dtype
        or not array.flags.carray
    ):
        return False
    copy = ctypes.PYFUNCTYPE(obj, obj, integer)(addresses["PyArray_NewCopy"])(array.T, 0)
    if type(copy) is not np.ndarray or copy.shape != (3, 2) or not copy.flags.carray:
        return False
    scalar = ctypes.PYFUNCTYPE(obj, pointer, obj, pointer)(addresses["PyArray_Scalar"])
    value = scalar(ctypes.byref(ctypes.c_float(2.5)), dtype, None)
    return type(value) is np.float32 and bool(value == 2.5)

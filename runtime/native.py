"""Compiled functions for other people's C: SciPy's callables and NumPy's generalised ufuncs."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import ArgumentError, UnsupportedError
from nufunc.ir.types import is_bfloat16
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.runtime.lowered import Compiled

_KEPT: list[Any] = []  # what ufuncs point to; NumPy never frees a ufunc's loops either


def low_level_callable(compiled: Compiled, signature: str | None) -> Any:
    """A scipy.LowLevelCallable of one of the function's forms."""
    from scipy import LowLevelCallable

    native = compiled.native()
    found = native.signatures
    if signature is None:
        preferred = ("double (double)", "double (int, double *)", *found)
        signature = next((s for s in preferred if s in found), "")
    wanted = " ".join(signature.split())
    if wanted not in found:
        options = "; ".join(found) or "none: it must be from numbers, or one vector, of doubles to one double or vector"
        message = f"low_level_callable: {compiled!r} has no form {wanted!r}; it has {options}"
        raise ArgumentError(message, user_location())
    name = ctypes.create_string_buffer(wanted.encode())
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    capsule = make(native.address_of(wanted), ctypes.addressof(name), None)
    _KEPT.append((native, name))  # SciPy holds the capsule alone
    return LowLevelCallable(capsule)


_Loop = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_MAKE = 31  # PyUFunc_FromFuncAndDataAndSignature in the table of NumPy's C API for ufuncs


def gufunc(compiled: Compiled) -> np.ufunc:
    """A NumPy ufunc over further axes: see `Compiled.gufunc`."""
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    native = compiled.native()
    entry = native.entry
    if any(r is None for r in entry.results):
        raise UnsupportedError(f"gufunc: {compiled!r} writes to its arguments in place, which a ufunc does not")
    parameters = entry.parameters
    if any(is_bfloat16(p.dtype) for p in parameters):
        raise UnsupportedError(f"gufunc: {compiled!r} has bfloat16, which NumPy's table of loops has not; use float32")
    loop = native.loop_address()
    codes = np.array([p.dtype.num for p in parameters], np.int8)
    functions, data = (ctypes.c_void_p * 1)(loop), (ctypes.c_void_p * 1)(None)
    shapes = ["(" + ",".join(map(str, p.shape)) + ")" for p in parameters]
    signature = ",".join(shapes[: len(entry.inputs)]) + "->" + ",".join(shapes[len(entry.inputs) :])
    texts = [ctypes.create_string_buffer(t.encode()) for t in (entry.name, f"{entry.about}, compiled", signature)]
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = ctypes.cast(get(_multiarray_umath._UFUNC_API, None), ctypes.POINTER(ctypes.c_void_p))
    kind = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 4,
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p,
    )  # fmt: skip
    make = kind(table[_MAKE])
    name, about, core = (ctypes.addressof(t) for t in texts)
    made: np.ufunc = make(
        functions, data, codes.ctypes.data, 1, len(entry.inputs), len(parameters) - len(entry.inputs), -1, name, about,
        0, core,
    )  # fmt: skip
    _KEPT.append((native, functions, data, codes, texts, made))
    return made

"""The inner loops of NumPy's Fourier transforms: where they stand in memory.

Note [Loops of NumPy's FFT]: numpy.fft computes through ufuncs (fft, ifft, rfft_n_even, rfft_n_odd, irfft), whose
objects hold a C function `void (char **args, npy_intp *dimensions, npy_intp *steps, void *data)` per type; the layout
of a ufunc object is part of NumPy's C API. Such a function loops over all rows, wants no GIL, and may run in several
threads: its plans stand in a cache with a lock. It is used if the object reads as expected (name, number and codes of
types) and a small transform comes out right. Else the plan calls numpy.fft back. Addresses are read when code is
loaded, by names: nothing of them stands in the code.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from typing import Any

import numpy as np

from nufunc.ir.errors import NufuncError

PREFIX = "numpy.fft:"
_NAMES = ("fft", "ifft", "rfft_n_even", "rfft_n_odd", "irfft")
_HEAD = object.__basicsize__
_WORD = ctypes.sizeof(ctypes.c_void_p)


class FftError(NufuncError, LookupError):
    """NumPy's Fourier transforms are not where they are looked for."""


# -- finding the loops


def _word(place: int) -> int:
    return int(ctypes.c_void_p.from_address(place).value or 0)


def _int(place: int) -> int:
    return int(ctypes.c_int32.from_address(place).value)


def _read(ufunc: Any, codes: str) -> tuple[int, int]:
    """Function and data of the loop for these types of (in, factor, out); 0 where the object is not as expected."""
    start = id(ufunc) + _HEAD  # four ints, functions, data, two ints, name, types
    functions, data, count = _word(start + 16), _word(start + 16 + _WORD), _int(start + 16 + 2 * _WORD)
    counts = (_int(start), _int(start + 4), _int(start + 8))
    if counts != (2, 1, 3) or count != len(ufunc.types) or not functions:
        return 0, 0
    name, types = _word(start + 24 + 2 * _WORD), _word(start + 24 + 3 * _WORD)
    if not name or not types or ctypes.string_at(name) != ufunc.__name__.encode():
        return 0, 0
    numbers = ctypes.string_at(types, 3 * count)
    wanted = bytes(np.dtype(c).num for c in codes)
    for k in range(count):
        if numbers[3 * k : 3 * k + 3] == wanted:
            return _word(functions + _WORD * k), _word(data + _WORD * k) if data else 0
    return 0, 0


@functools.cache
def _loops() -> dict[str, tuple[int, int]]:
    """Function and data by "name/real dtype"; empty where something is not as expected."""
    try:
        ufuncs = importlib.import_module("numpy.fft._pocketfft_umath")
    except ImportError:
        return {}
    found = {}
    for name in _NAMES:
        ufunc = getattr(ufuncs, name, None)
        if type(ufunc) is not np.ufunc:
            return {}
        for real, complex_ in (("f", "F"), ("d", "D")):
            codes = {"r": real + real + complex_, "i": complex_ + real + real}.get(name[0], complex_ + real + complex_)
            codes = complex_ + real + complex_ if name == "ifft" else codes
            loop = _read(ufunc, codes)
            if not loop[0]:
                return {}
            found[f"{name}/{real}"] = loop
    return found if all(_right(key, loop) for key, loop in found.items()) else {}


def _right(key: str, loop: tuple[int, int]) -> bool:
    """Whether a loop gives what numpy.fft gives, for two rows of a few points."""
    name, _, code = key.partition("/")
    real = np.dtype(code)
    full = np.result_type(real, np.complex64)
    n = 7 if name == "rfft_n_odd" else 6
    half = n // 2 + 1
    wanted: Any
    x = np.arange(1.0, 2 * n + 1).reshape(2, n) ** 0.5
    if name.startswith("rfft"):
        given, made, wanted = x.astype(real), np.empty((2, half), full), np.fft.rfft(x)
    elif name == "irfft":
        given, made = (x[:, :half] + 1j * x[:, -half:]).astype(full), np.empty((2, n), real)
        wanted = np.fft.irfft(given, n, norm="forward")
    else:
        given, made = (x + 1j * x[::-1]).astype(full), np.empty((2, n), full)
        wanted = np.fft.fft(given) if name == "fft" else np.fft.ifft(given, norm="forward")
    factor = np.ones((), real)
    args = (ctypes.c_void_p * 3)(*(a.__array_interface__["data"][0] for a in (given, factor, made)))
    sizes = (ctypes.c_ssize_t * 3)(2, given.shape[1], made.shape[1])
    steps = (ctypes.c_ssize_t * 5)(given.strides[0], 0, made.strides[0], given.strides[1], made.strides[1])
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(loop[0])(args, sizes, steps, loop[1])
    return bool(np.allclose(made, wanted, rtol=1e-5))


def available() -> bool:
    """Whether NumPy's loops can be called from machine code."""
    return bool(_loops())


def address(extern: str) -> int:
    """What an extern names: "numpy.fft:fft/d:function" or ":data"."""
    key, _, what = extern.removeprefix(PREFIX).rpartition(":")
    loop = _loops().get(key)
    if loop is None:
        raise FftError(f"NumPy {np.__version__} has no loop for {key} where compiled code expects it")
    return loop[0 if what == "function" else 1]

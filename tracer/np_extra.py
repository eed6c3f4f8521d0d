"""Compositions of tier 2: deleting, and convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.tracer.array import Array
from nufunc.tracer.layout import ordered
from nufunc.tracer.np_core import as_array, fail, normal_axis, result_dtype
from nufunc.tracer.np_linalg import matmul
from nufunc.tracer.np_misc import take
from nufunc.tracer.np_padding import memory_order, pad
from nufunc.tracer.trace import require


def delete(arr: Any, obj: Any, axis: int | None = None) -> Array:
    x = as_array(arr)
    if axis is None:
        x, axis = x.ravel(), 0
    index = normal_axis(axis, x.ndim)
    chosen = obj.known if type(obj) is Array else obj
    if chosen is None:
        raise fail(UnsupportedError, "np.delete with traced positions, since the result's length is not static")
    kept = np.delete(np.arange(x.shape[index]), chosen)
    result = take(x, require().constant(kept), axis=index)
    result.strides_ = ordered(result.shape, None, memory_order(x))
    return result


def convolve(a: Any, v: Any, mode: str = "full") -> Array:
    x, y = as_array(a).ravel(), as_array(v).ravel()
    if not x.size or not y.size:
        raise fail(ShapeError, "a cannot be empty" if not x.size else "v cannot be empty")
    if y.size > x.size:
        x, y = y, x
    n, k = x.size, y.size
    kind = result_dtype(x.dtype, y.dtype)
    wide = pad(x.astype(kind), k - 1)
    windows = require().constant(np.arange(n + k - 1)[:, None] + np.arange(k)[::-1])
    full = matmul(wide[windows], y.astype(kind))
    if mode == "full":
        return full
    if mode == "same":
        return full[(k - 1) // 2 : (k - 1) // 2 + n]
    if mode == "valid":
        return full[k - 1 : n]
    raise fail(ShapeError, f"mode must be 'full', 'same' or 'valid', not {mode!r}")


FUNCTIONS: tuple[Callable[..., Any], ...] = (delete, convolve)

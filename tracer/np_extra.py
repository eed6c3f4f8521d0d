"""Compositions of tier 2: deleting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError
from nufunc.tracer.array import Array
from nufunc.tracer.layout import ordered
from nufunc.tracer.np_core import as_array, fail, normal_axis
from nufunc.tracer.np_misc import take
from nufunc.tracer.np_padding import memory_order
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


FUNCTIONS: tuple[Callable[..., Any], ...] = (delete,)

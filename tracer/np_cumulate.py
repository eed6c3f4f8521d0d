"""Cumulations and differences, and the methods reduce and accumulate of the ufuncs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import BoundsError, DTypeError, ShapeError, UnsupportedError
from nufunc.ir.types import BOOL, is_complex
from nufunc.tracer import np_reduce
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.layout import result_strides
from nufunc.tracer.np_core import as_array, builder, elementwise_strides, fail, finish, normal_axis, out_of, value_of
from nufunc.tracer.np_reduce import NO_VALUE, accumulator, given

# -- cumulations


def _cumulate(prim: str, a: Any, axis: Any, dtype: Any, out: Any) -> Array:
    x = as_array(a)
    kind = accumulator(x.dtype) if dtype is None else check_dtype(dtype)
    b = builder()
    value = b.astype(value_of(x), kind)
    if axis is None:
        value, index = b.reshaped(value, (x.size,)), 0
    else:
        if x.ndim == 0:
            value = b.reshaped(value, (1,))
        index = normal_axis(axis, value.ndim)
    result = b.emit(prim, (value,), {"axis": index, "reverse": False})[0]
    strides = None if axis is None or x.strides_ is None else result_strides(x.shape, [x.strides_])
    return finish(result, out, prim, scalar=False, strides=strides)


def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Array:
    return _cumulate("cumsum", a, axis, dtype, out)


def cumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Array:
    return _cumulate("cumprod", a, axis, dtype, out)


def _cumulative(name: str, x: Any, axis: Any, dtype: Any, out: Any, include_initial: bool) -> Array:
    source = as_array(x)
    if axis is None and source.ndim > 1:
        raise fail(ShapeError, "For arrays which have more than one dimension ``axis`` argument is required.")
    result = _cumulate(name, source, 0 if axis is None else axis, dtype, None)
    if include_initial:
        from nufunc.tracer import np_namespace

        index = normal_axis(0 if axis is None else axis, result.ndim)
        first = tuple(1 if i == index else n for i, n in enumerate(result.shape))
        start = np_namespace.numpy.full(first, 0 if name == "cumsum" else 1, result.dtype)
        result = np_namespace.numpy.concatenate([start, result], index)
    return result if out_of(out) is None else finish(value_of(result), out, name)


def cumulative_sum(
    x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None, include_initial: bool = False
) -> Array:
    return _cumulative("cumsum", x, axis, dtype, out, include_initial)


def cumulative_prod(
    x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None, include_initial: bool = False
) -> Array:
    return _cumulative("cumprod", x, axis, dtype, out, include_initial)


def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = NO_VALUE, append: Any = NO_VALUE) -> Array:
    from nufunc.tracer import np_namespace

    np_ = np_namespace.numpy
    x = as_array(a)
    if x.ndim == 0:
        raise fail(ShapeError, "diff requires input that is at least one dimensional")
    if n < 0:
        raise fail(ShapeError, f"order must be non-negative but got {n!r}")
    if n == 0:
        return x
    index = normal_axis(axis, x.ndim)
    edge = tuple(1 if i == index else m for i, m in enumerate(x.shape))
    parts = [x]
    if given(prepend):
        before = as_array(prepend)
        parts.insert(0, before if before.ndim else np_.broadcast_to(before, edge))
    if given(append):
        after = as_array(append)
        parts.append(after if after.ndim else np_.broadcast_to(after, edge))
    x = np_.concatenate(parts, index) if len(parts) > 1 else x
    lead = (slice(None),) * index
    for _ in range(n):
        later, earlier = x[(*lead, slice(1, None))], x[(*lead, slice(None, -1))]
        x = np_.not_equal(later, earlier) if x.dtype == BOOL else later - earlier
    return x


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Array:
    values = as_array(y)
    index = normal_axis(axis, values.ndim)
    lead = (slice(None),) * index
    if x is None:
        width: Any = dx
    else:
        grid = as_array(x)
        width = diff(grid) if grid.ndim == 1 else diff(grid, axis=axis)
        if grid.ndim == 1:
            width = width.reshape((1,) * index + (-1,) + (1,) * (values.ndim - index - 1))
    heights = values[(*lead, slice(1, None))] + values[(*lead, slice(None, -1))]
    return np_reduce.sum(width * heights / 2.0, axis=index)


# -- methods of ufuncs


def ufunc_reduce(
    name: str,
    array: Any,
    axis: Any = 0,
    dtype: Any = None,
    out: Any = None,
    keepdims: bool = False,
    initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
) -> Array:
    """ufunc.reduce for the ufuncs that are reductions here."""
    x = as_array(array)
    if name in ("add", "multiply"):
        total = np_reduce.sum if name == "add" else np_reduce.prod
        return total(x, axis, dtype, out, keepdims, initial, where)
    if name in ("maximum", "minimum"):
        extreme = np_reduce.max if name == "maximum" else np_reduce.min
        return extreme(x, axis, out, keepdims, initial, where)
    if name in ("logical_and", "logical_or") or (name in ("bitwise_and", "bitwise_or") and x.dtype == BOOL):
        every = np_reduce.all if name.endswith("and") else np_reduce.any
        return every(x, axis, out, keepdims, where=where)
    if name == "subtract" and not given(initial) and not given(where) and x.ndim:
        index = normal_axis(axis, x.ndim)
        lead = (slice(None),) * index
        result = x[(*lead, 0)] - np_reduce.sum(x[(*lead, slice(1, None))], index, dtype)
        return result if out_of(out) is None else finish(value_of(result), out, name)
    raise fail(UnsupportedError, f"np.{name}.reduce of a traced array")


def ufunc_accumulate(name: str, array: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Array:
    prim = {"add": "cumsum", "multiply": "cumprod", "maximum": "cummax", "minimum": "cummin"}.get(name)
    if prim is None:
        raise fail(UnsupportedError, f"np.{name}.accumulate of a traced array")
    x = as_array(array)
    if x.ndim == 0:
        raise fail(DTypeError, "cannot accumulate on a scalar")
    if prim in ("cummax", "cummin"):
        if is_complex(x.dtype):
            raise fail(UnsupportedError, f"np.{name}.accumulate of complex values")
        value = builder().emit(prim, (value_of(x),), {"axis": normal_axis(axis, x.ndim), "reverse": False})[0]
        return finish(value, out, name, scalar=False, strides=elementwise_strides(x.shape, [x]))
    return _cumulate(prim, x, axis, dtype, out)


def ufunc_reduceat(name: str, array: Any, indices: Any, axis: int, dtype: Any, out: Any) -> Array:
    """Reductions from each static index to the next; the element alone where the next one is not larger."""
    from nufunc.tracer.np_join import concatenate

    x = as_array(array)
    known = as_array(indices).known
    if known is None:
        raise fail(UnsupportedError, f"np.{name}.reduceat at traced indices")
    index = normal_axis(axis, x.ndim)
    starts = known.astype(np.int64).tolist()
    outside = [i for i in starts if not 0 <= i < x.shape[index]]
    if outside:
        raise fail(BoundsError, f"index {outside[0]} out-of-bounds in {name}.reduceat [0, {x.shape[index]})")
    parts = []
    for first, last in zip(starts, [*starts[1:], x.shape[index]]):
        key = (slice(None),) * index
        part = x[(*key, slice(first, max(last, first + 1)))]
        parts.append(ufunc_reduce(name, part, axis=index, dtype=dtype, keepdims=True))
    result = concatenate(parts, index)
    return result if out_of(out) is None else finish(value_of(result), out, name)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    cumsum, cumprod, cumulative_sum, cumulative_prod, diff, trapezoid,
)  # fmt: skip

"""Cumulations and differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nufunc.ir.errors import DTypeError, ShapeError
from nufunc.ir.types import BOOL, FLOAT16
from nufunc.tracer import np_reduce
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.layout import result_strides
from nufunc.tracer.np_core import as_array, builder, fail, finish, normal_axis, out_of, value_of
from nufunc.tracer.np_reduce import NO_VALUE, accumulator, given

# -- cumulations


def cumulated(prim: str, a: Any, axis: Any, dtype: Any, out: Any) -> Array:
    """A running sum or product."""
    x = as_array(a)
    kind = accumulator(x.dtype) if dtype is None else check_dtype(dtype)
    if kind == FLOAT16:
        return _rounded_each_step(prim, x, axis, out)
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


def _rounded_each_step(prim: str, x: Array, axis: Any, out: Any) -> Array:
    """Sums and products of float16, which NumPy rounds at each step."""
    from nufunc.tracer import np_ufunc_methods
    from nufunc.tracer.np_ufuncs import UFUNCS

    if axis is None or not x.ndim:
        x, axis = x.reshape(-1), 0
    ufunc = UFUNCS["add" if prim == "cumsum" else "multiply"]
    return np_ufunc_methods.accumulated(ufunc, x, normal_axis(axis, x.ndim), FLOAT16, out)


def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Array:
    return cumulated("cumsum", a, axis, dtype, out)


def cumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Array:
    return cumulated("cumprod", a, axis, dtype, out)


def _cumulative(name: str, x: Any, axis: Any, dtype: Any, out: Any, include_initial: bool) -> Array:
    source = as_array(x)
    if axis is None and source.ndim > 1:
        raise fail(ShapeError, "For arrays which have more than one dimension ``axis`` argument is required.")
    result = cumulated(name, source, 0 if axis is None else axis, dtype, None)
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
    if n == 0:
        return x
    if x.ndim == 0:
        raise fail(ShapeError, "diff requires input that is at least one dimensional")
    if n < 0:
        raise fail(ShapeError, f"order must be non-negative but got {n!r}")
    index = normal_axis(axis, x.ndim)
    edge = tuple(1 if i == index else m for i, m in enumerate(x.shape))
    parts = [x]
    if prepend is None or append is None:
        raise fail(DTypeError, "np.diff with None to prepend or append")
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
    return np_reduce.sum(width * heights / 2.0, axis=axis)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    cumsum, cumprod, cumulative_sum, cumulative_prod, diff, trapezoid,
)  # fmt: skip

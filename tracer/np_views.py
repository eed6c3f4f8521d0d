"""Views beyond slices and axes: the parts of complex arrays, diagonals, windows, einsum's, and assigning a shape."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import INT64, is_complex
from nufunc.tracer.array import Array, DynamicView
from nufunc.tracer.layout import canonical
from nufunc.tracer.np_core import (
    as_array,
    builder,
    fail,
    normal_axis,
    normal_shape,
    static_int,
    strides_of,
    value_of,
    wrap,
)
from nufunc.tracer.np_indexing import view
from nufunc.tracer.np_shape import reshape, transpose
from nufunc.tracer.trace import Trace, require

# -- complex parts


def real(val: Any) -> Array:
    """numpy.real: a view; of a real array the array itself."""
    x = as_array(val)
    return _part(x, "real") if is_complex(x.dtype) else x


def imag(val: Any) -> Array:
    """numpy.imag: a view; of a real array zeros, which are read-only."""
    x = as_array(val)
    if is_complex(x.dtype):
        return _part(x, "imag")
    zeros = wrap(builder().zeros(x.type), scalar=x.scalar)
    zeros.readonly = "the imaginary part of a real array"
    return zeros


def _part(x: Array, name: str) -> Array:
    if x.scalar:
        return wrap(builder().emit(name, (value_of(x),), {})[0], scalar=True)
    return view(x, f"view_{name}", tuple(2 * s for s in strides_of(x)))


# -- diagonals


def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """numpy.diagonal: a read-only view."""
    x = as_array(a)
    if x.ndim < 2:
        raise fail(ShapeError, "diag requires an array of at least two dimensions")
    i, j = normal_axis(axis1, x.ndim), normal_axis(axis2, x.ndim)
    if i == j:
        raise fail(ShapeError, "axis1 and axis2 cannot be the same")
    why = "a diagonal is read-only in NumPy; assign through the matrix, or copy"
    return diagonal_view(x, i, j, static_int(offset, "offset"), why)


def diagonal_view(x: Array, i: int, j: int, offset: int, readonly: str = "") -> Array:
    """The diagonal of two axes, as the last axis."""
    perm = (*(k for k in range(x.ndim) if k not in (i, j)), i, j)
    y = x if perm == tuple(range(x.ndim)) else transpose(x, perm)
    strides = strides_of(y)
    return view(y, "view_diagonal", (*strides[:-2], strides[-2] + strides[-1]), readonly=readonly, offset=offset)


def einsum_view(x: Array, labels: Sequence[str], output: Sequence[str]) -> Array | None:
    """What einsum of one operand gives without a sum, a writable view; None where it sums."""
    if x.scalar or set(labels) != set(output):
        return None
    names = list(labels)
    for name in output:
        while names.count(name) > 1:
            i = names.index(name)
            j = names.index(name, i + 1)
            if x.shape[i] != x.shape[j]:
                return None
            x = diagonal_view(x, i, j, 0)
            names = [*(n for k, n in enumerate(names) if k not in (i, j)), name]
    return transpose(x, [names.index(name) for name in output]) if x.ndim else x[...]


# -- x.shape = ...


def set_shape(x: Array, shape: Any) -> None:
    """x.shape = shape: the same array has another shape from now on; but not one that a caller knows."""
    trace = require(x)
    instead = "use x = x.reshape(...)"
    if x.owner is not trace or any(x.value is p for p in trace.builder.params):
        raise fail(UnsupportedError, f"assigning to .shape of an array made outside of the function: {instead}")
    y = reshape(x, shape)
    if y.base is not x:
        raise fail(ShapeError, f"Incompatible shape for in-place modification: it would be a copy; {instead}")
    before: Array = object.__new__(Array)
    for name in Array.__slots__:
        setattr(before, name, getattr(x, name))
    for view_of_x in gc.get_referrers(x):  # nobody counts the views of an array for the sake of this
        if type(view_of_x) is Array and view_of_x.base is x:
            view_of_x.base = before
    for name in ("type", "value", "strides_", "base", "via", "dynamic", "_constant", "key", "affine"):
        setattr(x, name, getattr(y, name))
    trace.remember(x, x.value)
    trace.remember(before, before.value)


# -- windows


def sliding_window_view(
    x: Any, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False
) -> Array:
    """numpy.lib.stride_tricks.sliding_window_view: read-only, and read anew at each use."""
    base = as_array(x)
    sizes = normal_shape(window_shape)
    if writeable:
        raise fail(UnsupportedError, "sliding_window_view(writeable=True) of a traced array; write to the array itself")
    given = range(base.ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = [normal_axis(a, base.ndim) for a in given]
    if len(axes) != len(sizes):
        raise fail(ShapeError, "Must provide matching length window_shape and axis")
    extents = list(base.shape)
    for a, size in zip(axes, sizes):
        extents[a] -= size - 1
        if extents[a] <= 0:
            raise fail(ShapeError, "window shape cannot be larger than input array shape")

    def read(trace: Trace, source: Array) -> Value:
        b, value = trace.b, trace.lift(source)
        for a, size in zip(axes, sizes):
            count = value.shape[a] - size + 1
            shape = (count, size)
            first, step = (b.iota(shape=shape, dtype=INT64, axis=k) for k in (0, 1))
            value = b.gather(value, b.add(first, step), axes=(a,), mode="clip")
            rest = value.ndim - 2  # the axes of the gather come first: the place goes back, the window to the end
            value = b.transposed(value, (*range(2, 2 + a), 0, *range(2 + a, 2 + rest), 1))
        return value

    def store(trace: Trace, source: Array, updated: Value) -> None:
        raise fail(UnsupportedError, "a sliding window is read-only")

    trace = require(base)
    value = read(trace, base)
    own = strides_of(base)
    strides = canonical(value.shape, (*own, *(own[a] for a in axes)))
    why = "windows share their elements; write to the array itself"
    alias = Array(trace, value, base=base, via=DynamicView(read, store), strides=strides, readonly=why)
    trace.remember(alias, value)
    return alias


def as_strided(
    x: Any, shape: Any = None, strides: Any = None, subok: bool = False, writeable: bool = True, **kwargs: Any
) -> Array:
    """numpy.lib.stride_tricks.as_strided: refused, since it may show memory beyond the array."""
    raise fail(
        UnsupportedError,
        "as_strided of a traced array: it may show memory beyond the array; use slices, np.broadcast_to, index arrays "
        "or np.lib.stride_tricks.sliding_window_view",
    )


def ndenumerate(arr: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """numpy.ndenumerate: indices and the elements that stand there when they are reached."""
    x = as_array(arr)
    return ((index, x[index]) for index in np.ndindex(*x.shape))


FUNCTIONS: tuple[Callable[..., Any], ...] = (real, imag, diagonal)

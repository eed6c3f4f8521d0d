"""Views beyond slices and axes: the parts of complex arrays, diagonals, bytes as another dtype, windows, einsum's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import INT64, is_complex, real_dtype
from nufunc.tracer.array import Array, DynamicView, check_dtype
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
from nufunc.tracer.np_shape import transpose
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


def as_dtype(x: Array, dtype: Any) -> Array:
    """x.view(dtype): the same bytes as numbers of another dtype of the same size."""
    target = check_dtype(dtype)
    if target == x.dtype:
        return x[...]
    if x.dtype.kind != target.kind and "c" in (x.dtype.kind, target.kind) and real_dtype(x.dtype) == real_dtype(target):
        return _of_parts(x, target)
    if target.itemsize != x.itemsize or target.kind not in "iuf" or x.dtype.kind not in "iuf":
        raise fail(
            UnsupportedError,
            f"x.view({target}) of a traced array of {x.dtype}: only views as integers or floats of the same item size "
            "are supported; use x.astype(dtype) to convert",
        )
    if x.scalar:
        return wrap(builder().emit("bitcast", (value_of(x),), {"dtype": target})[0], scalar=True)
    return view(x, "view_bitcast", strides_of(x), dtype=target)


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


# -- windows


def _of_parts(x: Array, target: np.dtype) -> Array:
    """A complex array as real and imaginary parts side by side, or such parts as complex numbers: read anew at each
    use, written through.
    """
    if x.scalar or not x.ndim or strides_of(x)[-1] != 1:
        raise fail(
            UnsupportedError, f"x.view({target}) of a traced array of {x.dtype} whose last axis is not contiguous"
        )
    if target.kind == "c" and x.shape[-1] % 2:
        raise fail(ShapeError, "an axis of odd length cannot be read as complex numbers")

    def converted(b: Builder, value: Value) -> Value:
        if value.dtype.kind == "c":
            parts = [b.reshaped(part, (*value.shape, 1)) for part in (b.real(value), b.imag(value))]
            return b.reshaped(b.concat(*parts, axis=value.ndim), (*value.shape[:-1], 2 * value.shape[-1]))
        pairs = b.reshaped(value, (*value.shape[:-1], value.shape[-1] // 2, 2))
        at, end, step = (0,) * value.ndim, pairs.shape[:-1], (1,) * pairs.ndim
        parts = [b.slice(pairs, start=(*at, k), stop=(*end, k + 1), step=step) for k in (0, 1)]
        return b.complex(*[b.reshaped(part, end) for part in parts])

    def read(trace: Trace, source: Array) -> Value:
        return converted(trace.b, trace.lift(source))

    def store(trace: Trace, source: Array, updated: Value) -> None:
        trace.write(source, converted(trace.b, updated))

    trace = require(x)
    value = read(trace, x)
    alias = Array(trace, value, base=x, via=DynamicView(read, store))
    trace.remember(alias, value)
    return alias


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


def ndenumerate(arr: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """numpy.ndenumerate: indices and the elements that stand there when they are reached."""
    x = as_array(arr)
    return ((index, x[index]) for index in np.ndindex(*x.shape))


FUNCTIONS: tuple[Callable[..., Any], ...] = (real, imag, diagonal)

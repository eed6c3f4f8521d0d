"""Reductions: sum to var with axis, keepdims, dtype, initial and where; argmax; any and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError, ShapeError
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL, FLOAT32, FLOAT64, INT64, is_complex, is_half, is_inexact
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.layout import result_strides
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    cast_scalar,
    fail,
    finish,
    is_scalar,
    normal_axes,
    normal_axis,
    out_of,
    strides_of,
    value_of,
)
from nufunc.tracer.trace import require

_UINT64 = np.dtype(np.uint64)
# NumPy passes it through __array_function__ for "not given"
NO_VALUE = np._NoValue


def given(x: Any) -> bool:
    return x is not None and x is not NO_VALUE


def masked(where: Any) -> bool:
    """Whether `where` leaves something out; None, as in NumPy, leaves out everything."""
    return where is not True and where is not NO_VALUE


def mask_of(where: Any) -> Array:
    """The argument `where`, which must be bools."""
    mask = as_array(False if where is None else where)
    if mask.dtype != BOOL:
        raise fail(DTypeError, f"Cannot cast array data from {mask.dtype!r} to {BOOL!r} according to the rule 'safe'")
    return mask


def exact_out(value: Value, out: Any, name: str) -> None:
    """That the shape of `out` is the result's: reductions do not broadcast to it."""
    out = out_of(out)
    if out is not None and not isinstance(out, (Array, np.ndarray)):
        raise fail(DTypeError, "return arrays must be of ArrayType")
    shape = None if out is None else out.shape
    if shape is not None and shape != value.shape:
        raise fail(
            ShapeError,
            f"output parameter for reduction operation {name} has the wrong number of dimensions or extents: found "
            f"{shape} but expected {value.shape}",
        )


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype in which NumPy sums: small ints and bool become 64 bits wide."""
    if dtype.kind in "bi":
        return INT64
    return _UINT64 if dtype.kind == "u" else dtype


def reduction_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Axes counted from 0; a 0-d array may be reduced along the axis 0 or -1, which it does not have, as in NumPy."""
    if not ndim:
        only = axis[0] if isinstance(axis, (tuple, list)) and len(axis) == 1 else axis
        if isinstance(only, (int, np.integer)) and int(only) in (0, -1):
            return ()
    return normal_axes(axis, ndim)


def _kept(b: Builder, value: Value, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: Any) -> Value:
    if not keepdims or keepdims is NO_VALUE:
        return value
    return b.reshaped(value, tuple(1 if i in axes else n for i, n in enumerate(shape)))


def result_order(x: Array, axes: tuple[int, ...], keepdims: Any) -> Any:
    """Memory order of a reduction's result (order 'K' over the axes that stay)."""
    if x.strides_ is None:
        return None
    own = strides_of(x)
    kept = [i for i in range(x.ndim) if i not in axes]
    if keepdims and keepdims is not NO_VALUE:
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return result_strides(shape, [own])
    return result_strides(tuple(x.shape[i] for i in kept), [tuple(own[i] for i in kept)])


def reduce(
    name: str,
    x: Array,
    prim: str,
    axis: Any,
    keepdims: Any,
    *,
    dtype: np.dtype | None = None,
    out: Any = None,
    initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
    identity: Any = None,
    join: str = "",
) -> Array:
    """One reduction with NumPy's parameters. `identity` fills where the mask is false; `join` combines with
    `initial`.
    """
    axes = reduction_axes(axis, x.ndim)
    b = builder()
    trace = require()
    value = trace.lift(x) if dtype is None else b.astype(trace.lift(x), dtype)
    start = initial if given(initial) else identity
    if np.ndim(initial) if is_scalar(initial) else getattr(initial, "ndim", 0):
        raise fail(ShapeError, "initial: setting an array element with a sequence.")
    if initial is None and masked(where):
        start = None  # explicitly without one
    if masked(where):
        if start is None:
            raise fail(
                ShapeError,
                f"reduction operation '{name}' does not have an identity, so to use a where mask one has to "
                "specify 'initial'",
            )
        mask = mask_of(where)
        shape = broadcast_shapes(x.shape, mask.shape)
        if shape != x.shape:
            raise fail(ShapeError, f"where of shape {mask.shape} does not fit an array of shape {x.shape}")
        fill = _scalar_like(b, identity if identity is not None else start, value)
        value = b.select(b.broadcast_to(b.astype(trace.lift(mask), BOOL), shape), value, fill)
    if start is None and axes and 0 in [x.shape[i] for i in axes]:
        raise fail(ShapeError, f"zero-size array to reduction operation {name} which has no identity")
    if start is not None and identity is None and 0 in [x.shape[i] for i in axes]:
        kept = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        result = _scalar_like(b, start, b.filled(0, value.type.with_shape(kept)))
    else:
        result = b.emit(prim, (value,), {"axes": axes})[0] if axes else value
        if not axes and name == "add" and not given(initial) and is_inexact(result.dtype):
            result = b.add(result, b.like(result, 0))  # NumPy adds to zero: -0.0 becomes 0.0
        if given(initial):
            result = b.emit(join, (result, _scalar_like(b, initial, result)))[0]
    result = _kept(b, result, x.shape, axes, keepdims)
    exact_out(result, out, name)
    return finish(result, out, name, strides=result_order(x, axes, keepdims))


def _scalar_like(b: Builder, scalar: Any, like: Value) -> Value:
    if is_scalar(scalar):
        return b.filled(cast_scalar(scalar, like.dtype), like.type)
    if isinstance(scalar, str):
        raise fail(ShapeError, f"could not convert string to {like.dtype}: {scalar!r}")
    return b.broadcast_to(b.astype(value_of(scalar), like.dtype), like.shape)


def sum(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = NO_VALUE,
    initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
) -> Array:
    x = as_array(a)
    kind = accumulator(x.dtype) if dtype is None else check_dtype(dtype)
    if kind == BOOL:
        return reduce(
            "add",
            x,
            "reduce_or",
            axis,
            keepdims,
            dtype=BOOL,
            out=out,
            initial=initial,
            where=where,
            identity=False,
            join="bit_or",
        )
    return reduce(
        "add",
        x,
        "reduce_sum",
        axis,
        keepdims,
        dtype=kind,
        out=out,
        initial=initial,
        where=where,
        identity=0,
        join="add",
    )


def prod(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = NO_VALUE,
    initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
) -> Array:
    x = as_array(a)
    kind = accumulator(x.dtype) if dtype is None else check_dtype(dtype)
    return reduce(
        "multiply",
        x,
        "reduce_prod",
        axis,
        keepdims,
        dtype=kind,
        out=out,
        initial=initial,
        where=where,
        identity=1,
        join="mul",
    )


def _extreme(
    name: str, prim: str, join: str, a: Any, axis: Any, out: Any, keepdims: Any, initial: Any, where: Any
) -> Array:
    x = as_array(a)
    if is_complex(x.dtype):
        from nufunc.tracer import np_ufunc_methods
        from nufunc.tracer.np_ufuncs import UFUNCS

        kept = bool(given(keepdims) and keepdims)
        return np_ufunc_methods.reduce(UFUNCS[name], x, axis, None, out, kept, initial, where)
    return reduce(name, x, prim, axis, keepdims, out=out, initial=initial, where=where, join=join)


def max(
    a: Any,
    axis: Any = None,
    out: Any = None,
    keepdims: Any = NO_VALUE,
    initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
) -> Array:
    return _extreme("maximum", "reduce_max", "maximum", a, axis, out, keepdims, initial, where)


def min(
    a: Any,
    axis: Any = None,
    out: Any = None,
    keepdims: Any = NO_VALUE,
    initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
) -> Array:
    return _extreme("minimum", "reduce_min", "minimum", a, axis, out, keepdims, initial, where)


def any(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = NO_VALUE, *, where: Any = NO_VALUE
) -> Array:
    return reduce(
        "logical_or",
        as_array(a),
        "reduce_or",
        axis,
        keepdims,
        dtype=BOOL,
        out=out,
        where=where,
        identity=False,
        join="bit_or",
    )


def all(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = NO_VALUE, *, where: Any = NO_VALUE
) -> Array:
    return reduce(
        "logical_and",
        as_array(a),
        "reduce_and",
        axis,
        keepdims,
        dtype=BOOL,
        out=out,
        where=where,
        identity=True,
        join="bit_and",
    )


def count_nonzero(a: Any, axis: Any = None, *, keepdims: bool = False) -> Array:
    x = as_array(a)
    return sum(x != 0 if x.dtype != BOOL else x, axis=axis, keepdims=keepdims)


def ptp(a: Any, axis: Any = None, out: Any = None, keepdims: Any = NO_VALUE) -> Array:
    x = as_array(a)
    spread = max(x, axis, keepdims=keepdims) - min(x, axis, keepdims=keepdims)
    exact_out(value_of(spread), out, "maximum")
    return spread if out_of(out) is None else finish(value_of(spread), out, "ptp")


def _count(x: Array, axes: tuple[int, ...], where: Any, keepdims: Any) -> Any:
    """How many elements enter a mean: a Python int, or with a mask a traced array."""
    if masked(where):
        from nufunc.tracer.np_shape import broadcast_to

        return sum(broadcast_to(where, x.shape), axis=axes, dtype=INT64, keepdims=keepdims)
    return int(np.prod([x.shape[i] for i in axes], dtype=np.int64))


def mean(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = NO_VALUE,
    *,
    where: Any = NO_VALUE,
) -> Array:
    x = as_array(a)
    axes = reduction_axes(axis, x.ndim)
    if is_half(x.dtype) and dtype is None:
        return _halved(mean(x.astype(FLOAT32), axes, None, None, keepdims, where=where), x.dtype, out, "mean")
    kind = check_dtype(dtype) if dtype is not None else x.dtype if is_inexact(x.dtype) else FLOAT64
    total = sum(x, axes, kind, None, keepdims, where=where)
    count = _count(x, axes, where, keepdims)
    result = _divided(total, count)
    exact_out(value_of(result), out, "add")
    return result if out_of(out) is None else finish(value_of(result), out, "mean")


def _halved(result: Array, half: np.dtype, out: Any, name: str) -> Array:
    """A result of arrays of half precision, computed in float32."""
    value = builder().astype(value_of(result), half)
    return finish(value, out, name, scalar=result.scalar, strides=result.strides_)


def _divided(total: Array, count: Any) -> Array:
    """total / count in the dtype of total, as NumPy's mean and var do."""
    b = builder()
    value = value_of(total)
    if total.dtype.kind in "iub":
        return total // count if total.dtype.kind != "b" else total
    divisor = _scalar_like(b, count, value)
    return require().wrap(b.div(value, divisor), scalar=total.scalar, strides=total.strides_)


def var(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: Any = 0,
    keepdims: Any = NO_VALUE,
    *,
    where: Any = NO_VALUE,
    mean: Any = NO_VALUE,
    correction: Any = NO_VALUE,
) -> Array:
    x = as_array(a)
    axes = reduction_axes(axis, x.ndim)
    degrees = correction if given(correction) else ddof
    if is_half(x.dtype) and dtype is None:
        spread = var(x.astype(FLOAT32), axes, None, None, degrees, keepdims, where=where, mean=mean)
        return _halved(spread, x.dtype, out, "var")
    kind = check_dtype(dtype) if dtype is not None else x.dtype if is_inexact(x.dtype) else FLOAT64
    center = mean if given(mean) else _mean_of(x, axes, kind, where)
    deviation = x.astype(kind) - center
    squares = deviation * deviation if not is_complex(deviation.dtype) else _squared_modulus(deviation)
    total = sum(squares, axes, None, None, keepdims, where=where)
    count = _count(x, axes, where, keepdims)
    if isinstance(count, int) and is_scalar(degrees):
        divisor: Any = np.maximum(count - degrees, 0)
    else:
        from nufunc.tracer import np_namespace

        divisor = np_namespace.numpy.maximum(count - degrees, 0)
    result = _divided(total, divisor)
    exact_out(value_of(result), out, "add")
    return result if out_of(out) is None else finish(value_of(result), out, "var")


def _mean_of(x: Array, axes: tuple[int, ...], kind: np.dtype, where: Any) -> Array:
    return _divided(sum(x, axes, kind, None, True, where=where), _count(x, axes, where, True))


def _squared_modulus(z: Array) -> Array:
    return z.real * z.real + z.imag * z.imag


def std(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: Any = 0,
    keepdims: Any = NO_VALUE,
    *,
    where: Any = NO_VALUE,
    mean: Any = NO_VALUE,
    correction: Any = NO_VALUE,
) -> Array:
    spread = var(a, axis, dtype, None, ddof, keepdims, where=where, mean=mean, correction=correction)
    exact_out(value_of(spread), out, "add")
    return finish(builder().sqrt(value_of(spread)), out, "std", scalar=spread.scalar, strides=spread.strides_)


# -- arg reductions


def _arg(prim: str, a: Any, axis: Any, out: Any, keepdims: Any) -> Array:
    x = as_array(a)
    shape = x.shape
    if is_complex(x.dtype):
        x, prim = _extreme_places(prim, x, axis) if x.size else x.real, "argmax"
    b = builder()
    value = value_of(x)
    if axis is None or (x.ndim == 0 and axis in (0, -1)):
        value, index = b.reshaped(value, (x.size,)), 0
    else:
        index = normal_axis(axis, x.ndim)
    if value.shape[index] == 0:
        raise fail(ShapeError, f"attempt to get {prim} of an empty sequence")
    result = b.emit(prim, (value,), {"axis": index})[0]
    if keepdims and keepdims is not NO_VALUE:
        result = b.reshaped(
            result,
            (1,) * len(shape) if axis is None else tuple(1 if i == index else n for i, n in enumerate(shape)),
        )
    exact_out(result, out, prim)
    if out_of(out) is not None and out_of(out).dtype != INT64:
        raise fail(DTypeError, f"Cannot cast array data from {out_of(out).dtype!r} to {INT64!r} by the rule 'safe'")
    return finish(result, out, prim)


def _extreme_places(prim: str, x: Array, axis: Any) -> Array:
    """Where a complex array has its extreme, or NaN."""
    axis = None if not x.ndim else axis
    extreme = (max if prim == "argmax" else min)(x, axis, keepdims=True)
    return (x == extreme) | (x != x)


def argmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = NO_VALUE) -> Array:
    return _arg("argmax", a, axis, out, keepdims)


def argmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = NO_VALUE) -> Array:
    return _arg("argmin", a, axis, out, keepdims)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    sum, prod, max, min, any, all, count_nonzero, ptp, mean, var, std, argmax, argmin,
)  # fmt: skip

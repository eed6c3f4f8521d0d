"""Compositions of tier 2: padding, reductions that skip NaN, order statistics, interpolation, filters,
covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.ir.types import is_complex, is_inexact
from nufunc.tracer import np_reduce
from nufunc.tracer.array import Array
from nufunc.tracer.layout import is_f_contiguous, ordered
from nufunc.tracer.np_core import (
    as_array,
    builder,
    fail,
    finish,
    is_scalar,
    normal_axes,
    normal_axis,
    result_dtype,
    value_of,
    wrap,
)
from nufunc.tracer.np_indexing import assigned
from nufunc.tracer.np_join import concatenate
from nufunc.tracer.np_linalg import matmul
from nufunc.tracer.np_misc import take, where
from nufunc.tracer.np_shape import moveaxis
from nufunc.tracer.np_sorting import searchsorted, sort
from nufunc.tracer.np_ufuncs import UFUNCS
from nufunc.tracer.trace import require

NO_VALUE = np_reduce.NO_VALUE

# -- padding, deleting


def pad(array: Any, pad_width: Any, mode: str = "constant", **kwargs: Any) -> Array:
    """numpy.pad with a constant, or in the modes edge, reflect, symmetric and wrap."""
    x = as_array(array)
    widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()
    if mode == "constant":
        fill = kwargs.pop("constant_values", 0)
        if kwargs or not (is_scalar(fill) or as_array(fill).ndim == 0):
            raise fail(UnsupportedError, "np.pad with a constant per side")
        shape = tuple(n + low + high for n, (low, high) in zip(x.shape, widths))
        start = tuple(low for low, _ in widths)
        stop = tuple(low + n for n, (low, _) in zip(x.shape, widths))
        base = assigned(fill, x.dtype, shape)
        b = builder()
        value = b.update(base, value_of(x), start=start, stop=stop, step=(1,) * x.ndim)
        return wrap(value, scalar=False, strides=ordered(shape, None, _fortran(x)))
    if mode not in ("edge", "reflect", "symmetric", "wrap") or kwargs:
        raise fail(UnsupportedError, f"np.pad with mode {mode!r} and {sorted(kwargs)}")
    order = _fortran(x)
    for axis, width in enumerate(widths):
        index = np.pad(np.arange(x.shape[axis]), width, mode=mode)  # type: ignore[call-overload]
        x = take(x, require().constant(index), axis=axis)
    x.strides_ = ordered(x.shape, None, order)
    return x


def _fortran(x: Array) -> str:
    """The order of memory of results of functions that keep Fortran order only."""
    return "F" if x.strides_ is not None and is_f_contiguous(x.shape, x.strides_) else "C"


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
    result.strides_ = ordered(result.shape, None, _fortran(x))
    return result


# -- NaN as missing


def _without_nan(a: Any, fill: Any) -> tuple[Array, Any]:
    x = as_array(a)
    if not is_inexact(x.dtype):
        return x, NO_VALUE
    missing = UFUNCS["isnan"](x)
    return where(missing, x.dtype.type(fill), x), ~missing


def nansum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = NO_VALUE) -> Array:
    return np_reduce.sum(_without_nan(a, 0)[0], axis, dtype, out, keepdims)


def nanprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = NO_VALUE) -> Array:
    return np_reduce.prod(_without_nan(a, 1)[0], axis, dtype, out, keepdims)


def nanmean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = NO_VALUE) -> Array:
    x, present = _without_nan(a, 0)
    return np_reduce.mean(x, axis, dtype, out, keepdims, where=present)


def nanvar(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = NO_VALUE
) -> Array:
    x, present = _without_nan(a, 0)
    return np_reduce.var(x, axis, dtype, out, ddof, keepdims, where=present)


def nanstd(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = NO_VALUE
) -> Array:
    x, present = _without_nan(a, 0)
    return np_reduce.std(x, axis, dtype, out, ddof, keepdims, where=present)


def _nan_extreme(a: Any, axis: Any, keepdims: Any, sign: int) -> Array:
    reduce = np_reduce.max if sign > 0 else np_reduce.min
    x, present = _without_nan(a, -sign * np.inf)
    result = reduce(x, axis, keepdims=keepdims)
    if present is NO_VALUE:
        return result
    found = np_reduce.any(present, axis, keepdims=keepdims)
    chosen = where(found, result, x.dtype.type(np.nan))
    return chosen if chosen.ndim else chosen[()]


def nanmax(a: Any, axis: Any = None, out: Any = None, keepdims: Any = NO_VALUE) -> Array:
    return _stored(_nan_extreme(a, axis, keepdims, 1), out, "nanmax")


def nanmin(a: Any, axis: Any = None, out: Any = None, keepdims: Any = NO_VALUE) -> Array:
    return _stored(_nan_extreme(a, axis, keepdims, -1), out, "nanmin")


def _stored(result: Array, out: Any, name: str) -> Array:
    return result if out is None else finish(value_of(result), out, name)


# -- order


def median(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: bool = False) -> Array:
    """numpy.median: the mean of the middle one or two, NaN where there is one."""
    x = as_array(a)
    if is_complex(x.dtype):
        raise fail(UnsupportedError, "np.median of complex values")
    x = x if is_inexact(x.dtype) else x.astype(np.float64)
    axes = normal_axes(axis, x.ndim)
    rest = tuple(i for i in range(x.ndim) if i not in axes)
    n = math.prod(x.shape[i] for i in axes)
    if n == 0:
        result = np_reduce.mean(x, axis=axes)
    else:
        ordered = sort(x.transpose((*rest, *axes)).reshape((*(x.shape[i] for i in rest), n)))
        middle = ordered[..., n // 2] if n % 2 else (ordered[..., n // 2 - 1] + ordered[..., n // 2]) / 2
        result = where(UFUNCS["isnan"](ordered[..., -1]), x.dtype.type(np.nan), middle)
    if keepdims:
        result = result.reshape(tuple(1 if i in axes else m for i, m in enumerate(x.shape)))
    if out is not None:
        return _stored(result, out, "median")
    return result if result.ndim or keepdims else result[()]


def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Array:
    """numpy.interp: linear between increasing points, constant outside."""
    if period is not None:
        raise fail(UnsupportedError, "np.interp with a period")
    at = as_array(x) * 1.0
    points, values = as_array(xp) * 1.0, as_array(fp) * 1.0
    n = points.shape[0]
    low, high = values[0] if left is None else left, values[-1] if right is None else right
    if n == 1:
        inside: Any = at * 0 + values[0]
    else:
        last = UFUNCS["minimum"](UFUNCS["maximum"](searchsorted(points, at, "right") - 1, 0), n - 2)
        x0, x1, y0, y1 = (take(part, last + k) for part in (points, values) for k in (0, 1))
        inside = y0 + (y1 - y0) / (x1 - x0) * (at - x0)
    result = where(at < points[0], low, where(at > points[-1], high, inside))
    return result if result.ndim else result[()]


# -- polynomials, filters, differences, covariance


def polyval(p: Any, x: Any) -> Array:
    coefficients, at = as_array(p), as_array(x)
    result = at * 0
    for k in range(coefficients.shape[0]):
        result = result * at + coefficients[k]
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


def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """numpy.gradient for constant spacings and first-order edges."""
    x = as_array(f)
    x = x if is_inexact(x.dtype) else x.astype(np.float64)
    axes = normal_axes(axis, x.ndim) if not isinstance(axis, (tuple, list)) else [normal_axis(i, x.ndim) for i in axis]
    spacings = varargs * len(axes) if len(varargs) == 1 else varargs or (1.0,) * len(axes)
    if edge_order != 1 or len(spacings) != len(axes) or any(not is_scalar(s) and as_array(s).ndim for s in spacings):
        raise fail(UnsupportedError, "np.gradient with coordinates, or with edge_order 2")
    results = []
    for i, width in zip(axes, spacings):
        y = moveaxis(x, i, 0)
        if y.shape[0] < 2:
            raise fail(
                ShapeError,
                "Shape of array too small to calculate a numerical gradient, at least 2 elements are required.",
            )
        parts = [(y[1:2] - y[:1]) / width, (y[2:] - y[:-2]) / (2.0 * width), (y[-1:] - y[-2:-1]) / width]
        results.append(moveaxis(concatenate(parts), 0, i))
    return results[0] if len(results) == 1 else tuple(results)


def cov(m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: int | None = None) -> Array:
    """numpy.cov without weights."""
    rows = [as_array(part) for part in ((m,) if y is None else (m, y))]
    rows = [r.reshape(1, -1) if r.ndim < 2 else r if rowvar else r.T for r in rows]
    x = rows[0] if len(rows) == 1 else concatenate(rows)
    x = x if is_inexact(x.dtype) else x.astype(np.float64)
    degrees = ddof if ddof is not None else int(not bias)
    centered = x - np_reduce.mean(x, axis=1, keepdims=True)
    result = matmul(centered, centered.conj().T) / max(x.shape[1] - degrees, 0)
    return result.reshape(()) if result.size == 1 else result


def corrcoef(x: Any, y: Any = None, rowvar: bool = True) -> Array:
    c = cov(x, y, rowvar)
    if c.ndim == 0:
        return (c / c)[()]
    spread = UFUNCS["sqrt"](c.diagonal().real)
    ratio = c / spread[:, None] / spread[None, :]
    if is_complex(ratio.dtype):
        raise fail(UnsupportedError, "np.corrcoef of complex values")
    return UFUNCS["minimum"](UFUNCS["maximum"](ratio, -1.0), 1.0)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    pad, delete, nansum, nanprod, nanmean, nanvar, nanstd, nanmax, nanmin, median, interp,
    polyval, convolve,
    gradient, cov, corrcoef,
)  # fmt: skip

"""Functions of sampled values: interpolation, differences, gradients, unwrapped phases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import ArgumentTypeError, DomainError, DTypeError, ShapeError
from nufunc.ir.types import is_complex, is_inexact
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import as_array, fail, is_scalar, normal_axis, result_dtype
from nufunc.tracer.np_sorting import bisect, known_value, taken

# -- interpolation


def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Array:
    """numpy.interp; the points are taken to increase. Differentiable in the values, the points and the places."""
    np_ = namespace()
    at, points, values = as_array(x).astype(float), as_array(xp).astype(float), as_array(fp)
    values = values.astype(complex if is_complex(values.dtype) else float)
    if points.ndim != 1 or values.ndim != 1:
        raise fail(ShapeError, "Data points must be 1-D sequences")
    if points.shape != values.shape:
        raise fail(ShapeError, "fp and xp are not of the same length.")
    if not points.size:
        raise fail(ShapeError, "array of sample points is empty")
    if period is not None:
        known: Any = known_value(period)
        if known is not None and known == 0:
            raise fail(DomainError, "period must be a non-zero value")
        turn = abs(period)
        at, points, left, right = at % turn, points % turn, None, None
        order = np_.argsort(points)
        points, values = taken(points, order), taken(values, order)
        points = np_.concatenate([points[-1:] - turn, points, points[:1] + turn])
        values = np_.concatenate([values[-1:], values, values[:1]])
    low, high = values[0] if left is None else left, values[-1] if right is None else right
    inside = _between(at, points, values) if points.shape[0] > 1 else values[0]
    result = np_.where(at < points[0], low, np_.where(at > points[-1], high, inside)).astype(values.dtype)
    if period is None or left is None:
        result = np_.where(np_.isnan(at), at, result).astype(values.dtype)
    return result if result.ndim else result[()]


def _between(at: Array, points: Array, values: Array) -> Array:
    """On the line between the points around each place, at its ends exactly; at a point the slope is that behind it."""
    np_, n = namespace(), points.shape[0]
    place = np_.clip(bisect(points, at, "right") - 1, 0, n - 2)
    x0, x1 = taken(points, place), taken(points, place + 1)
    y0, y1 = taken(values, place), taken(values, place + 1)
    slope = (y1 - y0) / (x1 - x0)
    near, far = slope * (at - x0) + y0, slope * (at - x1) + y1
    line = np_.where(np_.isnan(near) | (at >= x1), far, near)  # infinite values: from the other end
    line = np_.where(np_.isnan(line) & (y0 == y1), y0, line)  # and equal ones are what they are
    odd = ~np_.isfinite(slope)
    return np_.where(odd & (at == points[-1]), values[-1], np_.where(odd & (at == x0), y0, line))


# -- differences


def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Array:
    """numpy.ediff1d."""
    np_, x = namespace(), as_array(ary).ravel()
    parts = [x[1:] - x[:-1]]
    for name, edge in (("to_begin", to_begin), ("to_end", to_end)):
        if edge is None:
            continue
        values = as_array(edge)
        if not (is_scalar(edge) or values.weak) and not promotion.can_cast(values.dtype, x.dtype, "same_kind"):
            raise fail(
                DTypeError, f"dtype of `{name}` must be compatible with input `ary` under the `same_kind` rule."
            )
        line = values.astype(x.dtype).reshape(-1)
        parts = [line, *parts] if name == "to_begin" else [*parts, line]
    return parts[0] if len(parts) == 1 else np_.concatenate(parts)


def _spacing(distances: Any, extent: int) -> Any:
    """The distance between samples: a number, or the differences of coordinates."""
    if is_scalar(distances):
        return distances
    x = as_array(distances)
    if x.ndim == 0:
        return x
    if x.ndim != 1:
        raise fail(ShapeError, "distances must be either scalars or 1d")
    if x.shape[0] != extent:
        raise fail(ShapeError, "when 1d, distances must match the length of the corresponding dimension")
    if x.dtype.kind in "iu":
        x = x.astype(np.float64)
    known: Any = known_value(distances)
    if known is not None:
        steps = np.diff(np.asarray(known, dtype=float))
        if (steps == steps[0]).all():
            return float(steps[0])
    return x[1:] - x[:-1]


def _weights(width: Any, order: int, ndim: int) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """Weights of the neighbours in the middle, and of the first and the last elements at the ends."""
    if is_scalar(width) or not as_array(width).ndim:
        middle = (-0.5 / width, 0.0, 0.5 / width)
        if order == 1:
            return middle, (-1.0 / width, 1.0 / width), (-1.0 / width, 1.0 / width)
        return middle, (-1.5 / width, 2.0 / width, -0.5 / width), (0.5 / width, -2.0 / width, 1.5 / width)
    place = (-1,) + (1,) * (ndim - 1)
    before, after = width[:-1].reshape(place), width[1:].reshape(place)
    both = before + after
    middle = (-after / (before * both), (after - before) / (before * after), before / (after * both))
    if order == 1:
        return middle, (-1.0 / width[0], 1.0 / width[0]), (-1.0 / width[-1], 1.0 / width[-1])
    p, q = width[0], width[1]
    first = (-(2.0 * p + q) / (p * (p + q)), (p + q) / (p * q), -p / (q * (p + q)))
    p, q = width[-2], width[-1]
    last = (q / (p * (p + q)), -(q + p) / (p * q), (2.0 * q + p) / (q * (p + q)))
    return middle, first, last


def _gradient(x: Array, axis: int, width: Any, order: int) -> Array:
    np_ = namespace()
    y = np_.moveaxis(x, axis, 0)
    if y.shape[0] < order + 1:
        raise fail(
            ShapeError,
            "Shape of array too small to calculate a numerical gradient, at least (edge_order + 1) elements are "
            "required.",
        )
    middle, first, last = _weights(width, order, x.ndim)
    if is_scalar(width) or not as_array(width).ndim:
        inner = (y[2:] - y[:-2]) / (2.0 * width)
    else:
        inner = middle[0] * y[:-2] + middle[1] * y[1:-1] + middle[2] * y[2:]
    if order == 1:
        start, end = ((y[1:2] - y[:1]) * first[1], (y[-1:] - y[-2:-1]) * last[1])
    else:
        start = first[0] * y[:1] + first[1] * y[1:2] + first[2] * y[2:3]
        end = last[0] * y[-3:-2] + last[1] * y[-2:-1] + last[2] * y[-1:]
    parts = [part.astype(x.dtype) for part in (start, inner, end)]
    return np_.moveaxis(np_.concatenate(parts), 0, axis)


def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """numpy.gradient with all forms of spacings and edges."""
    x = as_array(f)
    if x.dtype == np.bool_:
        raise fail(DTypeError, "numpy boolean subtract, the `-` operator, is not supported")
    x = x if is_inexact(x.dtype) else x.astype(np.float64)
    given = range(x.ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = [normal_axis(i, x.ndim) for i in given]
    if len(set(axes)) != len(axes):
        raise fail(ShapeError, "repeated axis")
    if not varargs:
        widths: list[Any] = [1.0] * len(axes)
    elif len(varargs) == 1 and (is_scalar(varargs[0]) or not as_array(varargs[0]).ndim):
        widths = list(varargs) * len(axes)
    elif len(varargs) == len(axes):
        widths = [_spacing(w, x.shape[i]) for w, i in zip(varargs, axes)]
    else:
        raise fail(ArgumentTypeError, "invalid number of arguments")
    if edge_order > 2:
        raise fail(ShapeError, "'edge_order' greater than 2 not supported")
    results = [_gradient(x, i, w, edge_order) for i, w in zip(axes, widths)]
    return results[0] if len(results) == 1 else tuple(results)


def unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: Any = 2 * math.pi) -> Array:
    """numpy.unwrap: jumps by more than half a period are taken back."""
    np_, x = namespace(), as_array(p)
    steps = np_.diff(x, axis=axis)
    discont = period / 2 if discont is None else discont
    kind = result_dtype(steps, period if is_scalar(period) else as_array(period))
    if kind.kind in "iu":
        high, rest = divmod(period, 2)
        ambiguous = rest == 0
    else:
        high, ambiguous = period / 2, True
    low = -high
    turned = np_.mod(steps - low, period) + low
    if ambiguous:
        turned = np_.where((turned == low) & (steps > 0), high, turned).astype(turned.dtype)
    correction = np_.where(np_.abs(steps) < discont, 0, turned - steps).astype(turned.dtype)
    index = normal_axis(axis, x.ndim)
    lead = (slice(None),) * index
    later = x[(*lead, slice(1, None))] + np_.cumsum(correction, axis=index)
    return np_.concatenate([x[(*lead, slice(None, 1))].astype(kind), later.astype(kind)], axis=index)


FUNCTIONS: tuple[Callable[..., Any], ...] = (interp, ediff1d, gradient, unwrap)


"""Counting: bincount and the histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import DomainError, DTypeError, ShapeError, UnsupportedError
from nufunc.ir.types import INT64, is_complex, kind_of
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import as_array, builder, fail, is_scalar, result_dtype, static_int, value_of, wrap
from nufunc.tracer.np_sorting import bisect, known_value, taken


def _added(index: Array, weights: Any, length: int, kind: np.dtype, mode: str) -> Array:
    """How much weight (or how many) fall to each of `length` places."""
    b = builder()
    values = namespace().ones(index.shape, kind) if weights is None else weights.astype(kind)
    base = b.filled(0, value_of(values).type.with_shape((length,)))
    return wrap(b.scatter_add(base, value_of(values), value_of(index), axes=(0,), mode=mode), scalar=False)


def bincount(x: Any, /, weights: Any = None, minlength: Any = 0, *, length: Any = None) -> Array:
    """numpy.bincount. Of traced numbers the result has `length` elements, or `minlength` where that is given; a
    number out of this range is an IndexError when the program runs.
    """
    index = as_array(x)
    if index.ndim != 1:
        problem = "of too small" if index.ndim == 0 else "too deep for desired array; a line is needed, of"
        raise fail(ShapeError, f"object {problem} depth for desired array")
    if index.dtype.kind not in "iub" or index.dtype == np.uint64:
        raise fail(DTypeError, f"Cannot cast array data from {index.dtype!r} to dtype('int64'), by the rule 'safe'")
    least = static_int(minlength, "minlength")
    if least < 0:
        raise fail(ShapeError, "'minlength' must not be negative")
    known: Any = known_value(x)
    if length is not None:
        count = static_int(length, "length")
    elif known is not None or not index.size:
        count = max(least, int(np.max(known, initial=-1)) + 1 if index.size else 0)
    elif least:
        count = least
    else:
        raise fail(
            UnsupportedError,
            "np.bincount of traced numbers: its length is their largest. Give a fixed one, np.bincount(x, length=n), "
            "or minlength=n; numbers that do not fit in raise an IndexError",
        )
    kind: np.dtype = INT64
    if weights is not None:
        weights = as_array(weights)
        if weights.shape != index.shape:
            raise fail(ShapeError, "The weights and list don't have the same length.")
        if is_complex(weights.dtype):
            raise fail(DTypeError, f"Cannot cast array data from {weights.dtype!r} to dtype('float64'), by 'safe'")
        kind = np.dtype(np.float64)
    return _added(index.astype(INT64), weights, count, kind, "error")


# -- edges


def _outer_edges(a: Array, limits: Any) -> tuple[Any, Any]:
    np_ = namespace()
    if limits is not None:
        first, last = limits
        known = [known_value(end) for end in (first, last)]
        if all(k is not None for k in known):
            low, high = (float(np.asarray(k)) for k in known)
            if low > high:
                raise fail(DomainError, "max must be larger than min in range parameter.")
            if not (math.isfinite(low) and math.isfinite(high)):
                raise fail(DomainError, f"supplied range of [{low}, {high}] is not finite")
            return (first, last) if low != high else (first - 0.5, last + 0.5)
    elif a.size == 0:
        return 0, 1
    else:
        first, last = np_.min(a), np_.max(a)
    same = np_.equal(first, last)
    return np_.where(same, first - 0.5, first)[()], np_.where(same, last + 0.5, last)[()]


_ESTIMATORS = ("auto", "doane", "fd", "rice", "scott", "sqrt", "stone", "sturges")


def _count_of(bins: Any) -> int | None:
    """A number of equal bins; None where `bins` are edges."""
    if isinstance(bins, str):
        if bins not in _ESTIMATORS:
            raise fail(DomainError, f"{bins!r} is not a valid estimator for `bins`")
        raise fail(
            UnsupportedError,
            f"bins={bins!r} for traced values: their number depends on the data. Give a number or the edges, or "
            "compute np.histogram_bin_edges outside and pass it",
        )
    if isinstance(bins, (list, tuple, np.ndarray)) or (type(bins) is Array and bins.ndim):
        if as_array(bins).ndim != 1:
            raise fail(ShapeError, "`bins` must be 1d, when an array")
        return None
    if is_scalar(bins) and not isinstance(bins, (int, np.integer)):
        raise fail(DTypeError, "`bins` must be an integer, a string, or an array")
    count = static_int(bins, "`bins`")
    if count < 1:
        raise fail(ShapeError, "`bins` must be positive, when an integer")
    return count


def _checked_edges(bins: Any, name: str = "`bins`") -> Array:
    known: Any = known_value(bins)
    if known is not None and np.any(np.diff(np.asarray(known)) < 0):
        raise fail(DomainError, f"{name} must increase monotonically, when an array")
    return as_array(bins)


def _edges(a: Array, bins: Any, limits: Any) -> tuple[Array, bool]:
    """The edges, and whether they are equally spaced."""
    count = _count_of(bins)
    if count is None:
        return _checked_edges(bins), False
    first, last = _outer_edges(a, limits)
    kind = result_dtype(*[x if is_scalar(x) else as_array(x) for x in limits or ()], a)
    if kind.kind in "iub":
        kind = result_dtype(kind, np.dtype(float))
    return namespace().linspace(first, last, count + 1, dtype=kind), True


def histogram_bin_edges(a: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> Array:
    return _edges(as_array(a).ravel(), bins, range)[0]


# -- histograms


def _equal_bins(a: Array, edges: Array) -> Array:
    """The bin of each number among equally spaced ones, corrected at the edges; outside the number of bins."""
    np_, n = namespace(), edges.shape[0] - 1
    first, last = edges[0], edges[-1]
    x = a.astype(edges.dtype)
    inside = (x >= first) & (x <= last)
    place = np_.where(inside, (x - first) / (last - first) * n, 0).astype(INT64)
    place = np_.minimum(place, n - 1)
    place = place - (x < taken(edges, place))
    place = place + ((x >= taken(edges, place + 1)) & (place != n - 1))
    return np_.where(inside, place, n)


def _bins(a: Array, edges: Array) -> Array:
    """The bin of each number; the last one includes its end. Outside the number of bins."""
    np_, n = namespace(), edges.shape[0] - 1
    place = bisect(edges, a, "right") - 1
    place = np_.where(a == edges[-1], n - 1, place)
    return np_.where((place < 0) | np_.isnan(a) if kind_of(a.dtype) in "fc" else place < 0, n, place)


def histogram(
    a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Array, Array]:
    """numpy.histogram; edges that are traced are taken to increase."""
    np_, x = namespace(), as_array(a)
    if x.dtype == np.bool_:
        x = x.astype(np.uint8)
    kind, w = INT64, None
    if weights is not None:
        w = as_array(weights)
        if w.shape != x.shape:
            raise fail(ShapeError, "weights should have the same shape as a.")
        w, kind = w.ravel(), w.dtype
    x = x.ravel()
    edges, equal = _edges(x, bins, range)
    n = edges.shape[0] - 1
    place = (_equal_bins if equal else _bins)(x, edges) if n > 0 else x.astype(INT64) * 0
    counts = _added(place, w, max(n, 0) + 1, kind, "clip")[: max(n, 0)]
    if density:
        return counts / np_.diff(edges).astype(float) / np_.sum(counts), edges
    return counts, edges


def histogramdd(
    sample: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Array, list[Array]]:
    np_ = namespace()
    table = sample if type(sample) is Array and sample.ndim == 2 else None
    points: Array = table if table is not None else np_.atleast_2d(as_array(sample)).T
    if points.ndim != 2:
        raise fail(ShapeError, "the sample must have one or two axes")
    axes = points.shape[1]
    several = isinstance(bins, (list, tuple)) or (isinstance(bins, (Array, np.ndarray)) and bins.ndim > 0)
    each = list(bins) if several else [bins] * axes
    if len(each) != axes:
        raise fail(ShapeError, "The dimension of bins must be equal to the dimension of the sample x.")
    limits = [None] * axes if range is None else list(range)
    if len(limits) != axes:
        raise fail(ShapeError, "range argument must have one entry per dimension")
    edges: list[Array] = []
    for i, part in enumerate(each):
        count = _count_of(part)
        if count is None:
            edges.append(_checked_edges(part, f"`bins[{i}]`"))
        else:
            edges.append(np_.linspace(*_outer_edges(points[:, i], limits[i]), count + 1))
    shape = [e.shape[0] - 1 for e in edges]
    flat, outside = np_.zeros(points.shape[0], np.int64), np_.zeros(points.shape[0], bool)
    for i, n in enumerate(shape):
        place = _bins(points[:, i], edges[i])
        outside, flat = outside | (place == n), flat * n + place
    total = math.prod(shape)
    w = None if weights is None else as_array(weights)
    counts = _added(np_.where(outside, total, flat), w, total + 1, np.dtype(float), "clip")[:total].reshape(shape)
    if density:
        whole = np_.sum(counts)
        for i, e in enumerate(edges):
            counts = counts / np_.diff(e).reshape([-1 if k == i else 1 for k in np.arange(axes)])
        counts = counts / whole
    return counts, edges


def histogram2d(
    x: Any, y: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Array, Array, Array]:
    first, second = as_array(x), as_array(y)
    if first.shape != second.shape:
        raise fail(ShapeError, "x and y must have the same length.")
    line = type(bins) is Array or isinstance(bins, np.ndarray)
    if isinstance(bins, (list, tuple)) and len(bins) not in (1, 2):
        line = True
    if line and as_array(bins).ndim == 1:
        bins = [bins, bins]
    elif isinstance(bins, Sequence) and not isinstance(bins, str) and len(bins) == 1:
        bins = [bins[0], bins[0]]
    counts, edges = histogramdd([first, second], bins, range, density, weights)
    return counts, edges[0], edges[1]


FUNCTIONS: tuple[Callable[..., Any], ...] = (bincount, histogram_bin_edges, histogram, histogramdd, histogram2d)

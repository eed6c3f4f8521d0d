"""Order statistics, averages and covariances, also of arrays in which NaN stands for a missing value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import DomainError, DTypeError, ShapeError
from nufunc.ir.types import FLOAT64, INT64, is_complex, is_float, is_inexact
from nufunc.tracer import np_reduce
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import (
    as_array,
    builder,
    fail,
    finish,
    normal_axes,
    normal_axis,
    result_dtype,
    value_of,
    wrap,
)
from nufunc.tracer.np_linalg import matmul
from nufunc.tracer.np_order import is_long, middle_two
from nufunc.tracer.np_reduce import NO_VALUE
from nufunc.tracer.np_sorting import known_value, sort, taken


class Lanes:
    """An array with the axes of a reduction in front, as one; the rest is one axis too."""

    def __init__(self, x: Array, axis: Any) -> None:
        self.source, self.axes = x, normal_axes(axis, x.ndim)
        self.rest = tuple(i for i in range(x.ndim) if i not in self.axes)
        self.count = math.prod(x.shape[i] for i in self.axes)
        self.width = math.prod(x.shape[i] for i in self.rest)
        self.table = self.of(x)

    def of(self, x: Array) -> Array:
        """An array of the same shape, arranged likewise."""
        return x.transpose((*self.axes, *self.rest)).reshape(self.count, self.width)

    def result(
        self, x: Array, keepdims: Any, out: Any, name: str, lead: tuple[int, ...] = (), scalar: bool | None = None
    ) -> Array:
        """A result with one value per lane (for each of `lead`), in the shape that NumPy gives it."""
        shape = self.source.shape
        if keepdims and keepdims is not NO_VALUE:
            shape = tuple(1 if i in self.axes else n for i, n in enumerate(shape))
        else:
            shape = tuple(shape[i] for i in self.rest)
        value = builder().reshaped(value_of(x), (*lead, *shape))
        # medians are means in NumPy, and lie in memory as these; quantiles are new arrays
        order = np_reduce.result_order(self.source, self.axes, keepdims) if name.endswith("median") else None
        np_reduce.exact_out(value, out, name)
        return finish(value, out, name, scalar=scalar, strides=order)


# -- medians


def _floating(a: Any) -> Array:
    x = as_array(a)
    return x if is_inexact(x.dtype) else x.astype(np.float64)


def median(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = False) -> Array:
    """numpy.median: the mean of the middle one or two, NaN where there is one."""
    np_, lanes = namespace(), Lanes(_floating(a), axis)
    n = lanes.count
    if n == 0:
        return np_reduce.mean(lanes.source, lanes.axes, out=out, keepdims=keepdims)
    if is_long(lanes.table):
        low, high = middle_two(lanes.table, (n - 1) // 2, n // 2)
        middle = high if n % 2 else (low + high) / 2
        missing = np_.any(np_.isnan(lanes.table), axis=0)
        return lanes.result(np_.where(missing, lanes.table.dtype.type(np.nan), middle), keepdims, out, "median")
    line = sort(lanes.table, 0)
    middle = line[n // 2] if n % 2 else (line[n // 2 - 1] + line[n // 2]) / 2
    result = np_.where(np_.isnan(line[-1]), line[-1], middle)
    return lanes.result(result, keepdims, out, "median")


def nanmedian(
    a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = NO_VALUE
) -> Array:
    x = as_array(a)
    if not is_inexact(x.dtype):
        return median(x, axis, out, keepdims=keepdims)
    np_, lanes = namespace(), Lanes(x, axis)
    if lanes.count == 0:
        return median(x, axis, out, keepdims=keepdims)
    if is_long(lanes.table):
        present = np_.sum(~np_.isnan(lanes.table), axis=0)
        low, high = middle_two(lanes.table, np_.maximum(present - 1, 0) // 2, present // 2)
        middle = np_.where(present % 2 == 1, low, (low + high) / 2)
        return lanes.result(np_.where(present > 0, middle, x.dtype.type(np.nan)), keepdims, out, "nanmedian")
    line = sort(lanes.table, 0)
    present = np_.sum(~np_.isnan(line), axis=0)
    low, high = (_each(line, np_.maximum(place, 0)[None])[0] for place in ((present - 1) // 2, present // 2))
    middle = np_.where(present % 2 == 1, low, (low + high) / 2)
    result = np_.where(present > 0, middle, x.dtype.type(np.nan))
    return lanes.result(result, keepdims, out, "nanmedian")


def _each(table: Array, index: Array, inside: Array | None = None) -> Array:
    """table[index[k, j], j]; with `inside`, an IndexError when the program runs where that does not hold."""
    np_, b = namespace(), builder()
    if inside is not None:
        index = np_.where(inside, index, table.shape[0])
    lanes = np_.broadcast_to(np_.arange(table.shape[1]), index.shape)
    mode = "clip" if inside is None else "error"
    return wrap(b.gather(value_of(table), value_of(index), value_of(lanes), axes=(0, 1), mode=mode), scalar=False)


# -- quantiles


def _floor_or_next(index: Array, take_floor: Callable[[Array, Array], Array]) -> Array:
    np_ = namespace()
    floor = np_.floor(index)
    found = np_.where(take_floor(index - floor, floor), floor, floor + 1)
    return np_.maximum(found, 0).astype(INT64)


def _linear_index(alpha: float, beta: float) -> Callable[..., Array]:
    return lambda n, q: n * q + (alpha + q * (1 - alpha - beta)) - 1


def _midpoint_index(n: Any, q: Array) -> Array:
    np_ = namespace()
    return 0.5 * (np_.floor((n - 1) * q) + np_.ceil((n - 1) * q))


# By method: the place in the sorted line as a float, and the weight of the next element from its fraction.
_CONTINUOUS: dict[str, tuple[Callable[..., Array], Callable[[Array, Array], Any]]] = {
    "linear": (lambda n, q: (n - 1) * q, lambda gamma, index: gamma),
    "interpolated_inverted_cdf": (_linear_index(0, 1), lambda gamma, index: gamma),
    "hazen": (_linear_index(0.5, 0.5), lambda gamma, index: gamma),
    "weibull": (_linear_index(0, 0), lambda gamma, index: gamma),
    "median_unbiased": (_linear_index(1 / 3.0, 1 / 3.0), lambda gamma, index: gamma),
    "normal_unbiased": (_linear_index(3 / 8.0, 3 / 8.0), lambda gamma, index: gamma),
    "averaged_inverted_cdf": (
        lambda n, q: n * q - 1, lambda gamma, index: namespace().where(gamma == 0, 0.5, 1.0).astype(index.dtype)
    ),
    "midpoint": (
        _midpoint_index, lambda gamma, index: namespace().where(index % 1 == 0, 0.0, 0.5).astype(index.dtype)
    ),
}  # fmt: skip
# By method: the place itself.
_DISCRETE: dict[str, Callable[..., Array]] = {
    "inverted_cdf": lambda n, q: _floor_or_next(n * q - 1, lambda gamma, floor: gamma == 0),
    "closest_observation": lambda n, q: _floor_or_next(
        n * q - 1.5, lambda gamma, floor: (gamma == 0) & (floor % 2 == 1)
    ),
    "lower": lambda n, q: namespace().floor((n - 1) * q).astype(INT64),
    "higher": lambda n, q: namespace().ceil((n - 1) * q).astype(INT64),
    "nearest": lambda n, q: namespace().round((n - 1) * q).astype(INT64),
}


class _Levels:
    """The levels of a quantile: between 0 and 1, checked now where they are known, else when the program runs."""

    def __init__(self, q: Any, percent: bool) -> None:
        what = "Percentiles must be in the range [0, 100]" if percent else "Quantiles must be in the range [0, 1]"
        levels = as_array(q)
        self.weak = type(q) in (int, float) or (type(q) is Array and q.weak)
        if levels.ndim > 2:
            raise fail(ShapeError, "q must be a scalar or 1d")
        known = known_value(q)
        if known is not None:
            line = np.asarray(known, dtype=float) / (100 if percent else 1)
            if not ((line >= 0) & (line <= 1)).all():
                raise fail(DomainError, what)
        self.known = known is not None
        self.shape = levels.shape
        strong = levels.astype(levels.dtype) if levels.weak else levels
        self.line = (namespace().true_divide(strong, 100) if percent else strong).reshape(-1)
        self.inside = None if self.known else (self.line >= 0) & (self.line <= 1)


def _lerp(low: Array, high: Array, weight: Array) -> Array:
    """Between two elements, from the nearer one; equal ones give themselves."""
    np_ = namespace()
    step = high - low
    up, down = low + step * weight, high - step * (1 - weight)
    return np_.where(weight >= 0.5, down, up)


def _unweighted(table: Array, levels: _Levels, method: str, skip_nan: bool) -> Array:
    np_, line = namespace(), sort(table, 0)
    q, n = levels.line, table.shape[0]
    count: Any = n
    inside = levels.inside
    if skip_nan and is_inexact(table.dtype):
        count = np_.sum(~np_.isnan(line), axis=0)
        count = count.astype(q.dtype) if is_float(q.dtype) else count
        q = q[:, None]
        inside = None if inside is None else inside[:, None]
    per_lane = count is not n

    def pick(place: Array) -> Array:
        if per_lane:
            return _each(line, np_.maximum(place, 0), inside)
        if inside is not None:
            place = np_.where(inside, place, n)
            return wrap(builder().gather(value_of(line), value_of(place), axes=(0,), mode="error"), scalar=False)
        return taken(line, place)

    if method in _DISCRETE:
        result = pick(_DISCRETE[method](count, q))
    else:
        index, weigh = _CONTINUOUS[method]
        place = index(count, q)
        if not is_float(place.dtype):  # whole levels, as np.quantile(x, [0, 1])
            result = pick(place)
            if method != "linear":
                raise fail(DTypeError, f"np.quantile with method {method!r} of integer levels")
        else:
            floor = np_.floor(place)
            above = (place >= count - 1) | np_.isnan(place)
            low = np_.where(above, count - 1, np_.where(place < 0, 0, floor)).astype(INT64)
            high = np_.where(above, count - 1, np_.where(place < 0, 0, floor + 1)).astype(INT64)
            weight = weigh(place - np_.where(above | (place < 0), 0, floor).astype(place.dtype), place)
            weight = np_.where(above | (place < 0), 0, weight).astype(weight.dtype)
            if levels.weak and is_float(line.dtype):
                weight = weight.astype(line.dtype)
            result = _lerp(pick(low), pick(high), weight if per_lane else weight[:, None])
    if not is_inexact(line.dtype):
        return result
    missing = count == 0 if per_lane else np_.isnan(line[-1])
    return np_.where(missing, line[-1], result)


def _weighted(table: Array, weights: Array, levels: _Levels, skip_nan: bool) -> Array:
    """The inverted distribution function with weights: the first element at which their sum reaches the level."""
    np_ = namespace()
    order = np_.argsort(table, axis=0)
    line, mass = np_.take_along_axis(table, order, 0), np_.take_along_axis(weights, order, 0)
    last: Any = table.shape[0] - 1
    if skip_nan and is_inexact(table.dtype):
        mass = np_.where(np_.isnan(line), 0, mass)
        last = np_.maximum(np_.sum(~np_.isnan(line), axis=0) - 1, 0)
    total = np_.cumsum(mass, axis=0, dtype=np.float64)
    cdf = total / total[-1]
    sound = ~np_.isnan(cdf[-1]) & ~np_.any(mass < 0, axis=0)
    q = levels.line
    if is_float(q.dtype):
        cdf = cdf.astype(q.dtype)
    cdf = np_.where(cdf == 0, -1, cdf)
    place = np_.minimum(np_.sum(cdf[None] < q[:, None, None], axis=1), last)
    inside = sound[None] if levels.inside is None else sound[None] & levels.inside[:, None]
    if skip_nan and is_inexact(table.dtype):
        inside = inside | np_.isnan(line[0])
    result = _each(line, place, np_.broadcast_to(inside, place.shape))
    if not is_inexact(line.dtype):
        return result
    return np_.where(np_.isnan(line[0] if skip_nan else line[-1]), line[-1], result)


def _weights_like(weights: Any, x: Array, axis: Any) -> Array:
    """Weights of the shape of x, from those along `axis`."""
    w = as_array(weights)
    if w.shape == x.shape:
        return w
    if axis is None:
        raise fail(DTypeError, "Axis must be specified when shapes of a and weights differ.")
    given_axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = [normal_axis(i, x.ndim) for i in given_axes]
    if w.shape != tuple(x.shape[i] for i in axes):
        raise fail(ShapeError, "Shape of weights must be consistent with shape of a along specified axis.")
    w = w.transpose(tuple(np.argsort(axes).tolist()))
    w = w.reshape(tuple(n if i in axes else 1 for i, n in enumerate(x.shape)))
    return namespace().broadcast_to(w, x.shape)


def _quantile(
    a: Any, q: Any, axis: Any, out: Any, method: str, keepdims: Any, weights: Any, percent: bool, skip_nan: bool
) -> Array:
    x = as_array(a)
    if is_complex(x.dtype):
        raise fail(DTypeError, "a must be an array of real numbers")
    if method not in _DISCRETE and method not in _CONTINUOUS:
        names = [*_DISCRETE, *_CONTINUOUS]
        raise fail(ShapeError, f"{method!r} is not a valid method. Use one of: {names}")
    levels, lanes = _Levels(q, percent), Lanes(x, axis)
    name = "percentile" if percent else "quantile"
    if weights is not None and method != "inverted_cdf":
        raise fail(ShapeError, f"Only method 'inverted_cdf' supports weights. Got: {method}.")
    if not x.size and skip_nan:
        return namespace().nanmean(x, axis, out=out, keepdims=keepdims)
    if lanes.count == 0:
        raise fail(ShapeError, f"np.{name} of an empty array")
    if weights is None:
        result = _unweighted(lanes.table, levels, method, skip_nan)
    else:
        result = _weighted(lanes.table, lanes.of(_weights_like(weights, x, axis)), levels, skip_nan)
    # weighted ones of all elements are arrays in NumPy, too
    return lanes.result(result, keepdims, out, name, levels.shape, None if weights is None else False)


def quantile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = False, *, weights: Any = None,
) -> Array:  # fmt: skip
    """numpy.quantile with every method; levels that are traced and out of range are an IndexError at run time."""
    return _quantile(a, q, axis, out, method, keepdims, weights, False, False)


def percentile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = False, *, weights: Any = None,
) -> Array:  # fmt: skip
    return _quantile(a, q, axis, out, method, keepdims, weights, True, False)


def nanquantile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = NO_VALUE, *, weights: Any = None,
) -> Array:  # fmt: skip
    return _quantile(a, q, axis, out, method, keepdims, weights, False, True)


def nanpercentile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = NO_VALUE, *, weights: Any = None,
) -> Array:  # fmt: skip
    return _quantile(a, q, axis, out, method, keepdims, weights, True, True)


# -- averages


def average(
    a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = NO_VALUE
) -> Any:
    """numpy.average; weights whose sum is zero give NaN or infinities."""
    np_, x = namespace(), as_array(a)
    axes = normal_axes(axis, x.ndim)
    if weights is None:
        result = np_reduce.mean(x, axis, keepdims=keepdims)
        if not returned:
            return result
        return result, np_.full_like(result, math.prod(x.shape[i] for i in axes))[... if result.ndim else ()]
    w = _weights_like(weights, x, axis)
    kind = result_dtype(x.dtype, as_array(weights).dtype, *(() if is_inexact(x.dtype) else (FLOAT64,)))
    total = np_reduce.sum(w, axes, kind, None, keepdims)
    result = np_reduce.sum(x.astype(kind) * w.astype(kind), axes, kind, None, keepdims) / total
    return (result, total) if returned else result


class SampleError(ShapeError, RuntimeError):
    """Weights of samples that do not fit them: NumPy's RuntimeError, and a ValueError."""


def _sample_weights(weights: Any, name: str, count: int) -> Array:
    w = as_array(weights)
    if w.ndim > 1:
        raise fail(SampleError, f"cannot handle multidimensional {name}")
    if w.shape != (count,):
        raise fail(SampleError, f"incompatible numbers of samples and {name}")
    known: Any = known_value(weights)
    if known is not None:
        if name == "fweights" and not np.all(np.asarray(known) == np.around(known)):
            raise fail(DTypeError, "fweights must be integer")
        if np.any(np.asarray(known) < 0):
            raise fail(DomainError, f"{name} cannot be negative")
    return w


def _observations(m: Any, y: Any, rowvar: bool, kind: np.dtype) -> Array:
    """Variables by rows."""
    np_ = namespace()

    def rows(a: Array, turned: bool) -> Array:
        table = a.reshape(1, -1) if a.ndim < 2 else a
        return table.T if turned and not rowvar else table

    x = as_array(m)
    table = rows(x, x.ndim != 1).astype(kind)
    if y is None:
        return table
    other = as_array(y)
    turned = (other.shape[0] if other.ndim == 2 else 1) != 1
    return np_.concatenate([table, rows(other, turned).astype(kind)])


def cov(
    m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: Any = None, fweights: Any = None,
    aweights: Any = None, *, dtype: Any = None,
) -> Array:  # fmt: skip
    """numpy.cov with every parameter."""
    np_ = namespace()
    if ddof is not None and ddof != int(ddof):
        raise fail(ShapeError, "ddof must be integer")
    samples = [as_array(part) for part in ((m,) if y is None else (m, y))]
    for what, sample in zip("my", samples):
        if sample.ndim > 2:
            raise fail(ShapeError, f"{what} has more than 2 dimensions")
    kind = check_dtype(dtype) if dtype is not None else result_dtype(*(s.dtype for s in samples), FLOAT64)
    x = _observations(m, y, rowvar, kind)
    if x.shape[0] == 0:
        return np_.zeros((0, 0))
    degrees = int(bias == 0) if ddof is None else int(ddof)
    count = x.shape[1]
    w = None if fweights is None else _sample_weights(fweights, "fweights", count)
    if aweights is not None:
        a = _sample_weights(aweights, "aweights", count)
        w = a if w is None else w * a
    if w is None:
        rest: Any = max(count - degrees, 0)
        centred = x - np_reduce.mean(x, axis=1, keepdims=True)
        weighted = centred
    else:
        total = np_reduce.sum(w, dtype=result_dtype(kind, w.dtype))
        if degrees == 0:
            rest = total
        elif aweights is None:
            rest = total - degrees
        else:
            rest = total - degrees * np_reduce.sum(w * a) / total
        rest = np_.maximum(rest, 0)
        centred = x - average(x, axis=1, weights=w, keepdims=True)
        weighted = centred * w
    with np.errstate(all="ignore"):
        factor = np.true_divide(1, rest) if isinstance(rest, int) else 1 / rest
    result = matmul(centred, weighted.T.conj()) * factor
    return np_.squeeze(result.astype(kind) if is_complex(kind) == is_complex(result.dtype) else result)


def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Array:
    np_ = namespace()
    c = cov(x, y, rowvar, dtype=dtype)
    if c.ndim == 0:
        return (c / c)[()]
    spread = np_.sqrt(c.diagonal().real)
    ratio = c / spread[:, None] / spread[None, :]
    if not is_complex(ratio.dtype):
        return np_.clip(ratio, -1, 1)
    return np_.clip(ratio.real, -1, 1) + 1j * np_.clip(ratio.imag, -1, 1)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    median, nanmedian, quantile, percentile, nanquantile, nanpercentile, average, cov, corrcoef,
)  # fmt: skip


"""numpy.pad in every mode; one axis after the other, as in NumPy, so that corners belong to the last axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, DTypeError, ShapeError
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.layout import is_f_contiguous, ordered
from nufunc.tracer.np_core import as_array, builder, fail, has_traced, is_scalar, normal_axis, value_of, wrap
from nufunc.tracer.np_indexing import assigned
from nufunc.tracer.np_sorting import known_value, taken
from nufunc.tracer.trace import require

_ALLOWED: dict[str, tuple[str, ...]] = {
    "empty": (), "edge": (), "wrap": (), "constant": ("constant_values",), "linear_ramp": ("end_values",),
    "maximum": ("stat_length",), "mean": ("stat_length",), "median": ("stat_length",), "minimum": ("stat_length",),
    "reflect": ("reflect_type",), "symmetric": ("reflect_type",),
}  # fmt: skip

Pairs = list[tuple[Any, Any]]


def memory_order(x: Array) -> str:
    """The order of memory of results of functions that keep Fortran order only."""
    return "F" if x.strides_ is not None and is_f_contiguous(x.shape, x.strides_) else "C"


def _widths(pad_width: Any, ndim: int) -> list[tuple[int, int]]:
    """How much to add before and behind, for each axis."""
    if isinstance(pad_width, dict):
        table: list[tuple[int, int]] = [(0, 0)] * ndim
        for axis, width in pad_width.items():
            table[normal_axis(axis, ndim)] = (width, width) if is_scalar(width) else tuple(width)
        pad_width = table
    known = np.asarray(known_value(pad_width) if not is_scalar(pad_width) else pad_width)
    if known.dtype.kind not in "iu":
        raise fail(ArgumentTypeError, "`pad_width` must be of integral type.")
    try:
        pairs = np.broadcast_to(known, (ndim, 2))
    except ValueError:
        raise fail(
            ShapeError, f"operands could not be broadcast together with remapped shapes: {known.shape} and {(ndim, 2)}"
        ) from None
    if (pairs < 0).any():
        raise fail(ShapeError, "index can't contain negative values")
    return [(int(low), int(high)) for low, high in pairs]


def _pairs(values: Any, ndim: int, what: str) -> Pairs:
    """Values before and behind for each axis, which may be traced."""
    if values is None or (is_scalar(values) and what != "stat_length"):
        return [(values, values)] * ndim
    if isinstance(values, dict):
        table: Pairs = [(0 if what != "stat_length" else None,) * 2] * ndim
        for axis, pair in values.items():
            table[normal_axis(axis, ndim)] = (pair, pair) if is_scalar(pair) else tuple(pair)
        return table
    if what == "stat_length" and not has_traced(values):
        lengths = np.asarray(values, dtype=object)
        if lengths.dtype == object and any(isinstance(n, str) for n in lengths.reshape(-1)):
            raise fail(DTypeError, "stat_length must be whole numbers")
        table = np.broadcast_to(lengths, (ndim, 2)).tolist()
        if any(n is not None and n < 0 for pair in table for n in pair):
            raise fail(ShapeError, "index can't contain negative values")
        return [(None if low is None else round(low), None if high is None else round(high)) for low, high in table]
    array = as_array(values)
    if array.ndim == 0:
        return [(array, array)] * ndim
    spread = namespace().broadcast_to(array, (ndim, 2))
    return [(spread[i, 0], spread[i, 1]) for i in range(ndim)]


def pad(array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Array:
    """numpy.pad. What mode "empty" leaves open is zero."""
    x = as_array(array)
    widths = _widths(pad_width, x.ndim)
    order = memory_order(x)
    if callable(mode):
        return _by_function(x, widths, mode, kwargs, order)
    if mode not in _ALLOWED:
        raise fail(ShapeError, f"mode '{mode}' is not supported")
    unknown = set(kwargs) - set(_ALLOWED[mode])
    if unknown:
        raise fail(ShapeError, f"unsupported keyword arguments for mode '{mode}': {unknown}")
    if mode in ("constant", "empty"):
        fill = kwargs.get("constant_values", 0)
        if is_scalar(fill):
            return _constant(x, widths, fill, order)
        rule: Callable[..., Any] = _constant_edges
    elif mode == "linear_ramp":
        rule = _ramp
    else:
        rule = _statistic if mode in _STATISTICS else _repeated
    (option,) = _ALLOWED[mode] or ("",)
    default = {"constant_values": 0, "end_values": 0, "reflect_type": "even"}.get(option)
    given = kwargs.get(option, default)
    options = [given] * x.ndim if option in ("", "reflect_type") else _pairs(given, x.ndim, option)
    for axis, width in enumerate(widths):
        if width == (0, 0):
            continue
        if not x.shape[axis] and mode != "constant":
            raise fail(
                ShapeError, f"can't extend empty axis {axis} using modes other than 'constant' or 'empty'"
            )
        x = namespace().moveaxis(rule(namespace().moveaxis(x, axis, 0), width, options[axis], mode), 0, axis)
    if x is array or not any(map(any, widths)):
        x = x.copy()
    x.strides_ = ordered(x.shape, None, order)
    return x


def _constant(x: Array, widths: list[tuple[int, int]], fill: Any, order: str) -> Array:
    """One update of an array that holds the constant."""
    shape = tuple(n + low + high for n, (low, high) in zip(x.shape, widths))
    start = tuple(low for low, _ in widths)
    stop = tuple(low + n for n, (low, _) in zip(x.shape, widths))
    base = assigned(fill, x.dtype, shape)
    value = builder().update(base, value_of(x), start=start, stop=stop, step=(1,) * x.ndim)
    return wrap(value, scalar=False, strides=ordered(shape, None, order))


# -- along the first axis: rule(x, (before, behind), option, mode)


def _joined(x: Array, low: Array | None, high: Array | None) -> Array:
    return namespace().concatenate([part for part in (low, x, high) if part is not None])


def _filled(x: Array, count: int, value: Any) -> Array | None:
    """`count` rows of a value, which is one row or one number."""
    if not count:
        return None
    shape = (count, *x.shape[1:])
    return wrap(assigned(value, x.dtype, shape), scalar=False)


def _constant_edges(x: Array, width: tuple[int, int], option: Any, mode: str) -> Array:
    return _joined(x, _filled(x, width[0], option[0]), _filled(x, width[1], option[1]))


def _ramp(x: Array, width: tuple[int, int], option: Any, mode: str) -> Array:
    np_ = namespace()
    parts: list[Array | None] = [None, None]
    for side, (count, end, edge) in enumerate(zip(width, option, (x[0], x[-1]))):
        if count:
            start = np_.broadcast_to(as_array(end), edge.shape)
            line = np_.linspace(start, edge, count, endpoint=False, dtype=x.dtype)
            parts[side] = line[::-1] if side else line
    return _joined(x, *parts)


_STATISTICS = {"maximum": "max", "minimum": "min", "mean": "mean", "median": "median"}


def _statistic(x: Array, width: tuple[int, int], option: Any, mode: str) -> Array:
    np_, n = namespace(), x.shape[0]
    parts: list[Array | None] = [None, None]
    lengths = [n if length is None else min(int(length), n) for length in option]
    if 0 in lengths and mode in ("maximum", "minimum"):
        raise fail(ShapeError, "stat_length of 0 yields no value for padding")
    for side, (count, length) in enumerate(zip(width, lengths)):
        if count:
            chunk = x[n - length :] if side else x[:length]
            value = getattr(np_, _STATISTICS[mode])(chunk, axis=0, keepdims=True)
            if x.dtype.kind in "iu" and mode in ("mean", "median"):
                value = np_.rint(value)
            parts[side] = _filled(x, count, value)
    return _joined(x, *parts)


def _repeated(x: Array, width: tuple[int, int], option: Any, mode: str) -> Array:
    """Elements of x again, or for reflect_type "odd" the edges twice less these."""
    n = x.shape[0]
    if option == "odd" and n > 1:
        return _odd(x, width, mode)
    if option not in (None, "even", "odd"):
        option = "even"  # NumPy takes every other word for it
    index = np.pad(np.arange(n), width, mode=mode)  # type: ignore[call-overload]
    return taken(x, require().constant(index))


def _odd(x: Array, width: tuple[int, int], mode: str) -> Array:
    """Odd reflection: each element is sign * x[k] + a * x[0] + b * x[-1], found by padding unit vectors."""
    n = x.shape[0]
    if x.dtype.kind == "b":
        raise fail(DTypeError, "np.pad with reflect_type='odd' of bools")
    units = np.pad(np.eye(n, dtype=np.int64), (width, (0, 0)), mode=mode, reflect_type="odd")  # type: ignore[call-overload]
    inner = units[:, 1:-1]
    index = np.where(inner.any(1), np.argmax(inner != 0, axis=1) + 1 if n > 2 else 0, 0)
    sign = np.where(inner.any(1), inner.sum(1), 0) if n > 2 else np.zeros(len(units), np.int64)
    place = (-1,) + (1,) * (x.ndim - 1)

    def side(rows: slice) -> Array:
        total: Any = 0
        parts = (units[rows, 0], x[:1]), (units[rows, -1], x[-1:]), (sign[rows], None)
        for factors, elements in parts:
            if not factors.any():
                continue
            values = taken(x, require().constant(index[rows])) if elements is None else elements
            product = require().constant(factors.astype(x.dtype).reshape(place)) * values
            present = require().constant((factors != 0).reshape(place))  # no factor of zero meets an infinity
            total = total + namespace().where(present, product, 0).astype(x.dtype)
        return total

    low, high = slice(0, width[0]), slice(width[0] + n, None)
    return _joined(x, side(low) if width[0] else None, side(high) if width[1] else None)


def _by_function(
    x: Array, widths: list[tuple[int, int]], function: Callable[..., Any], kwargs: dict[str, Any], order: str
) -> Array:
    """function(line, widths, axis, kwargs) on each line of the array, which it changes in place."""
    padded = _constant(x, widths, 0, order)
    for axis in range(padded.ndim):
        view = namespace().moveaxis(padded, axis, -1)
        for index in np.ndindex(view.shape[:-1]):
            function(view[index + (Ellipsis,)], widths[axis], axis, kwargs)
    return padded


FUNCTIONS: tuple[Callable[..., Any], ...] = (pad,)

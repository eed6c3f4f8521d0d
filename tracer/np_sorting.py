"""Sorting and searching: sort and argsort of any dtype, lexsort, partition, searchsorted, and the searches whose
result has as many elements as the data say, with `size=`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import DomainError, DTypeError, ShapeError, UnsupportedError
from nufunc.ir.types import INT64, is_complex, is_float
from nufunc.tracer import np_order
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.layout import ordered
from nufunc.tracer.np_core import (
    _NotStatic,
    as_array,
    builder,
    fail,
    has_traced,
    is_scalar,
    normal_axis,
    static_int,
    static_value,
    value_of,
    wrap,
)
from nufunc.tracer.trace import require

_KINDS = {"q": "quick", "h": "heap", "s": "stable", "m": "stable"}

# -- results whose length depends on the data


def needs_size(name: str) -> UnsupportedError:
    """The error of a function without `size=`, to be raised."""
    advice = "; np.where(mask, x, y) and x[mask] need none" if name in ("nonzero", "where", "flatnonzero") else ""
    error = fail(
        UnsupportedError,
        f"np.{name} of traced values has no static shape: the length of its result depends on them. Give a fixed "
        f"length, np.{name}(..., size=n), at which the result is cut off or to which it is filled up{advice}",
    )
    assert isinstance(error, UnsupportedError)
    return error


def sized(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose result is as long as the data say, for traced data: of length `size`."""

    @functools.wraps(function)
    def call(*args: Any, size: Any = None, fill_value: Any = None, **kwargs: Any) -> Any:
        if size is None:
            raise needs_size(function.__name__)
        return function(*args, size=static_int(size, "size"), fill_value=fill_value, **kwargs)

    return call


def known_value(x: Any) -> Any:
    """The concrete value of an argument that is static, an array included; None where it is traced."""
    if isinstance(x, np.ndarray) or (isinstance(x, (list, tuple)) and has_traced(x)):
        x = as_array(x)
    try:
        return static_value(x)
    except _NotStatic:
        return None


def taken(x: Array, index: Array) -> Array:
    """x[index] along the first axis, for indices that are clipped into it."""
    return wrap(builder().gather(value_of(x), value_of(index.astype(INT64)), axes=(0,), mode="clip"), scalar=False)


def positions(mask: Array, size: int) -> Array:
    """Where a line of bools is True: the first `size` places, the length of the line for those that there are not."""
    np_, n = namespace(), mask.shape[0]
    if n == 0 or size == 0:
        return np_.full(size, n)
    rank = np_.cumsum(mask)
    b = builder()
    # the k-th place is the number of places with a rank of at most k
    wanted = require().constant(np.arange(size))
    if size * n <= 4096:
        return np_.sum(rank[None, :] <= wanted[:, None], axis=1)
    slot = np_.where(mask & (rank <= size), rank - 1, size)
    base = b.filled(n, value_of(rank).type.with_shape((size + 1,)))
    places = b.iota(shape=(n,), dtype=INT64, axis=0)
    filled = b.scatter_set(base, places, value_of(slot), axes=(0,), mode="clip")
    return wrap(filled, scalar=False)[:size]


# -- order


def _checked_kind(kind: Any, order: Any, stable: Any = None) -> None:
    if order is not None:
        raise fail(ShapeError, "Cannot specify order when the array has no fields.")
    if kind is not None and stable is not None:
        raise fail(ShapeError, "kind and stable parameters can't be provided at the same time. Use only one of them.")
    if kind is not None and (not isinstance(kind, str) or kind[:1].lower() not in _KINDS):
        raise fail(ShapeError, f"sort kind must be one of 'quick', 'heap', or 'stable' (got {kind!r})")


def _line(a: Any, axis: Any) -> tuple[Array, int]:
    x = as_array(a)
    if axis is None:
        x, axis = x.ravel(), 0
    return x, normal_axis(axis, x.ndim)


def sort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Array:
    """numpy.sort; always stable. The tangents of equal elements stay in their order."""
    _checked_kind(kind, order, stable)
    x, index = _line(a, axis)
    if is_complex(x.dtype):
        result = namespace().take_along_axis(x, _argsort(x, index), index)
        result.strides_ = ordered(x.shape, x.strides_, "K")
        return result
    return wrap(builder().sort(value_of(x), axis=index), strides=ordered(x.shape, x.strides_, "K"))


def argsort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Array:
    _checked_kind(kind, order, stable)
    x = as_array(a)
    x, index = _line(x if x.ndim else x.reshape(1), axis)
    return _argsort(x, index)


def _argsort(x: Array, axis: int) -> Array:
    return _lexsort(_keys(x), axis)


def _keys(x: Array) -> list[Array]:
    """What complex numbers are sorted by, the last the first: NaN in either part goes to the end, as in NumPy."""
    if not is_complex(x.dtype):
        return [x]
    np_ = namespace()
    real, imag = x.real, x.imag
    return [imag, real, np_.isnan(real) * 2 + np_.isnan(imag)]


def _lexsort(keys: Sequence[Array], axis: int) -> Array:
    """The order by the last key, among equal ones by the one before it."""
    np_, b = namespace(), builder()
    result = wrap(b.argsort(value_of(keys[0]), axis=axis))
    for key in keys[1:]:
        key = np_.take_along_axis(key, result, axis)
        result = np_.take_along_axis(result, wrap(b.argsort(value_of(key), axis=axis)), axis)
    return result


def lexsort(keys: Any, axis: Any = -1) -> Array:
    """numpy.lexsort: the last key counts first."""
    parts = [as_array(k) for k in keys] if isinstance(keys, (list, tuple)) else list(as_array(keys))
    if not parts:
        raise fail(DTypeError, "need sequence of keys with len > 0 in lexsort")
    if any(p.shape != parts[0].shape for p in parts):
        raise fail(ShapeError, "all keys need to be the same shape")
    if not parts[0].ndim:
        return as_array(0).astype(INT64)
    index = normal_axis(axis, parts[0].ndim)
    if len(parts) > _KEYS_WRITTEN_OUT and not isinstance(keys, (list, tuple)) and not is_complex(parts[0].dtype):
        from nufunc.tracer.control import scan

        np_ = namespace()

        def refined(order: Array, key: Array) -> tuple[Array, None]:
            ranks = _argsort(np_.take_along_axis(key, order, index), index)
            return np_.take_along_axis(order, ranks, index), None

        return as_array(scan(refined, _argsort(parts[0], index), as_array(keys)[1:])[0])
    return _lexsort([key for part in parts for key in _keys(part)], index)


_KEYS_WRITTEN_OUT = 8  # more become a loop


def _checked_kth(kth: Any, extent: int) -> None:
    values = kth if isinstance(kth, (list, tuple)) else [kth]
    for k in [known_value(v) for v in values]:
        if k is None:
            continue
        for item in np.asarray(k).ravel().tolist():
            if not isinstance(item, int):
                raise fail(DTypeError, "Partition index must be integer")
            if not -extent <= item < extent:
                raise fail(ShapeError, f"kth(={item + extent if item < 0 else item}) out of bounds ({extent})")


def _checked_partition(a: Any, kth: Any, axis: Any, kind: Any, order: Any) -> tuple[Array, int]:
    if kind != "introselect":
        raise fail(ShapeError, f"select kind must be 'introselect' (got {kind!r})")
    if order is not None:
        raise fail(ShapeError, "Cannot specify order when the array has no fields.")
    x, index = _line(a, axis)
    _checked_kth(kth, x.shape[index])
    return x, index


def _one_place(x: Array, kth: Any, axis: int) -> int | None:
    """The place at which lines are to be parted, if it is known, there is one, and the lines are worth it."""
    known, n = None if is_complex(x.dtype) else known_value(kth), x.shape[axis]
    if known is None or not x.size or not _PARTED <= n < np_order.LONGEST:
        return None
    places = {k % n for k in np.asarray(known).ravel().tolist()}
    return places.pop() if len(places) == 1 else None


_PARTED = 64  # elements of a line from which on parting it is faster than sorting the numbers of its elements


def _cheaper_than_sorting(x: Array, place: int, axis: int) -> bool:
    """Whether lines are parted faster than sorted, which takes vector code, but moves them where they are apart."""
    n = x.shape[axis]
    if x.dtype == np.bool_:
        return False
    inner = math.prod(x.shape[axis + 1 :])
    return (x.size == n and np_order.is_long(x.ravel())) or (inner > 1 and place in (0, n - 1) and n >= 4 * _PARTED)


def partition(a: Any, kth: Any, axis: Any = -1, kind: Any = "introselect", order: Any = None) -> Array:
    """numpy.partition; the parts on either side come sorted or as they were, which are orders that NumPy allows."""
    x, index = _checked_partition(a, kth, axis, kind, order)
    place = _one_place(x, kth, index)
    if place is None or not _cheaper_than_sorting(x, place, index):
        return sort(x, index)
    result = np_order.parted(x, place, index, numbers=False)
    result.strides_ = ordered(x.shape, x.strides_, "K")
    return result


def argpartition(a: Any, kth: Any, axis: Any = -1, kind: Any = "introselect", order: Any = None) -> Array:
    """numpy.argpartition; see partition."""
    x, index = _checked_partition(a, kth, axis, kind, order)
    place = _one_place(x, kth, index)
    return argsort(x, index) if place is None else np_order.parted(x, place, index, numbers=True)


def sort_complex(a: Any) -> Array:
    """numpy.sort_complex: sorted along the last axis, and complex."""
    x = sort(a)
    if is_complex(x.dtype):
        return x
    small = x.dtype.kind in "iu" and x.dtype.itemsize <= 2
    return x.astype(np.complex64 if small else np.complex128)


# -- searching in a sorted line


def _before(x: Array, y: Array) -> Array:
    """x < y in the order of np.sort, where NaN comes last."""
    np_ = namespace()
    if is_complex(x.dtype) or is_complex(y.dtype):
        p, q = x.astype(complex), y.astype(complex)
        (a, b), (c, d) = (p.real, p.imag), (q.real, q.imag)
        nan_a, nan_b, nan_c, nan_d = (np_.isnan(part) for part in (a, b, c, d))
        level, other = nan_a * 2 + nan_b, nan_c * 2 + nan_d
        inside = (level == other) & ((a < c) | (((a == c) | nan_a) & (b < d)))
        return (level < other) | inside
    less = np_.less(x, y)
    if not is_float(y.dtype):
        return less
    last = np_.isnan(y)
    return less | (last & ~np_.isnan(x) if is_float(x.dtype) else last)


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Array:
    """numpy.searchsorted: by counting in short lines, by bisection in long ones."""
    if side not in ("left", "right"):
        raise fail(ShapeError, f"search side must be 'left' or 'right' (got {side!r})")
    x, y = as_array(a), as_array(v)
    if x.ndim != 1:
        problem = "small" if x.ndim == 0 else "deep"
        raise fail(ShapeError, f"object {'of too' if x.ndim == 0 else 'too'} {problem} depth for desired array")
    if sorter is not None:
        order = as_array(sorter)
        if order.dtype.kind not in "iu":
            raise fail(DTypeError, "sorter must only contain integers")
        if order.shape != x.shape:
            raise fail(ShapeError, "sorter.size must equal len(a)")
        x = namespace().take(x, order)
    return bisect(x, y, side)


_FEW = 8  # elements among which counting is no slower than bisection


def bisect(x: Array, y: Array, side: str) -> Array:
    """How many elements of the sorted line x come before each of y (or are equal, side "right")."""
    np_, n = namespace(), x.shape[0]
    if n <= _FEW:
        return np_.sum(_enough(x.dtype, y[..., None] if y.ndim else y, side)(x), axis=-1)
    enough = _enough(x.dtype, y, side)
    position = np_.zeros(y.shape, np.int64) if y.ndim else as_array(0).astype(INT64)
    while n > 1:  # it is among the n + 1 places from `position` on
        half = n // 2
        position = np_.where(enough(taken(x, position + (half - 1))), position + half, position)
        n -= half
    position = position + enough(taken(x, position))
    return position if position.ndim else position[()]


def _enough(kind: np.dtype, wanted: Array, side: str) -> Callable[[Array], Array]:
    """Whether what is found in a line of this dtype comes before the wanted (or is equal, side "right")."""
    np_ = namespace()
    if is_complex(kind) or is_complex(wanted.dtype):
        if side == "left":
            return lambda found: _before(found, wanted)
        return lambda found: np_.logical_not(_before(wanted, found))
    compare = np_.less if side == "left" else np_.less_equal
    if not is_float(wanted.dtype):
        return lambda found: compare(found, wanted)
    last = np_.isnan(wanted)
    if side == "left" and is_float(kind):
        return lambda found: compare(found, wanted) | (last & (found == found))
    return lambda found: compare(found, wanted) | last


def digitize(x: Any, bins: Any, right: bool = False) -> Array:
    """numpy.digitize; bins that are traced are taken to be monotonic."""
    np_ = namespace()
    at, edges = as_array(x), as_array(bins)
    if is_complex(at.dtype):
        raise fail(DTypeError, "x may not be complex")
    if edges.ndim != 1:
        raise fail(ShapeError, "object of too small depth for desired array")
    side = "left" if right else "right"
    known = known_value(bins)
    if known is not None:
        steps = np.diff(np.asarray(known))
        falling: Any = bool(steps.size and (steps <= 0).all() and (steps < 0).any())
        if not falling and (steps < 0).any():
            raise fail(DomainError, "bins must be monotonically increasing or decreasing")
    else:
        falling = edges[-1] < edges[0] if edges.shape[0] else False
    if falling is False:
        return bisect(edges, at, side)
    if falling is True:
        return edges.shape[0] - bisect(edges[::-1], at, side)
    place = bisect(np_.where(falling, edges[::-1], edges), at, side)
    result = np_.where(falling, edges.shape[0] - place, place)
    return result if result.ndim else result[()]


# -- where an array is not zero


def _not_zero(a: Any) -> Array:
    x = as_array(a)
    return x if x.dtype == np.bool_ else x != 0


@sized
def nonzero(a: Any, *, size: int, fill_value: Any) -> tuple[Array, ...]:
    """numpy.nonzero of the first `size` elements that are not zero; the rest is filled up, with zeros by default."""
    mask = _not_zero(a)
    if not mask.ndim:
        raise fail(
            ShapeError, "Calling nonzero on 0d arrays is not allowed. Use np.atleast_1d(scalar).nonzero() instead."
        )
    np_, shape = namespace(), mask.shape
    place = positions(mask.ravel(), size)
    there = place < mask.size
    fills = fill_value if isinstance(fill_value, (list, tuple)) else (fill_value,) * mask.ndim
    result = []
    for axis, fill in enumerate(fills):
        inner = math.prod(shape[axis + 1 :])
        index = place // max(inner, 1) % max(shape[axis], 1)
        result.append(np_.where(there, index, 0 if fill is None else fill).astype(INT64))
    return tuple(result)


@sized
def flatnonzero(a: Any, *, size: int, fill_value: Any) -> Array:
    return nonzero(as_array(a).ravel(), size=size, fill_value=fill_value)[0]


@sized
def argwhere(a: Any, *, size: int, fill_value: Any) -> Array:
    mask = _not_zero(a)
    if not mask.ndim:
        return namespace().zeros((size, 0), np.int64)
    return namespace().stack(nonzero(mask, size=size, fill_value=fill_value), axis=1)


def extract(condition: Any, arr: Any, *, size: Any = None, fill_value: Any = None) -> Any:
    """numpy.extract; without `size` a traced condition selects as arr[condition] does."""
    if size is None and known_value(condition) is None:
        return as_array(arr).ravel()[_not_zero(condition).ravel()]
    return compress(as_array(condition).ravel(), as_array(arr).ravel(), size=size, fill_value=fill_value)


def compress(
    condition: Any, a: Any, axis: Any = None, out: Any = None, *, size: Any = None, fill_value: Any = None
) -> Any:
    """numpy.compress; with a traced condition the first `size` slices, filled up with `fill_value` (zero)."""
    np_ = namespace()
    mask = known_value(condition)
    if mask is not None:
        if np.ndim(mask) != 1:
            raise fail(ShapeError, "condition must be a 1-d array")
        x, index = _line(a, axis)
        return np_.take(x, require().constant(np.flatnonzero(mask)), axis=index, out=out)
    if size is None:
        raise needs_size("compress")
    if out is not None:
        raise fail(UnsupportedError, "np.compress with size and out")
    x, index = _line(a, axis)
    return filled_up(np_.moveaxis(x, index, 0), _not_zero(condition), static_int(size, "size"), fill_value, index)


def filled_up(x: Array, mask: Array, size: int, fill: Any, axis: int = 0) -> Array:
    """The slices of x along its first axis that a mask takes, `size` of them, with `fill` (zero) behind; moved back."""
    np_ = namespace()
    place = positions(mask, size)
    there = (place < mask.shape[0]).reshape((size,) + (1,) * (x.ndim - 1))
    chosen = taken(x, place) if x.shape[0] else np_.zeros((size, *x.shape[1:]), x.dtype)
    rest = as_array(0 if fill is None else fill).astype(x.dtype) if not is_scalar(fill) else fill
    return np_.moveaxis(np_.where(there, chosen, rest).astype(x.dtype), 0, axis)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    sort, argsort, lexsort, partition, argpartition, sort_complex, searchsorted, digitize, nonzero,
    flatnonzero, argwhere, extract, compress,
)  # fmt: skip

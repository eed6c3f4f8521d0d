"""Sets: unique and its kin, unions and differences of lines of numbers, all by sorting; lengths by `size=`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError
from nufunc.ir.types import BOOL, ArrayType, is_inexact
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import as_array, builder, fail, normal_axis, result_dtype, value_of, wrap
from nufunc.tracer.np_sorting import _keys, _lexsort, bisect, positions, sized, taken


class Runs:
    """Rows (or numbers) in sorted order, and which of them is the first of equal ones."""

    def __init__(self, x: Array, equal_nan: bool) -> None:
        np_ = namespace()
        self.count = x.shape[0]
        if x.ndim == 1:
            self.order = _lexsort(_keys(x), 0)
        else:  # the first column counts first
            columns = [key for k in reversed(range(x.shape[1])) for key in _keys(x[:, k])]
            self.order = _lexsort(columns, 0) if columns else np_.arange(self.count)
        self.sorted = taken(x, self.order)
        if self.count < 2:
            self.first = np_.ones(self.count, bool)
            return
        later, earlier = self.sorted[1:], self.sorted[:-1]
        differ = later != earlier
        if equal_nan and is_inexact(x.dtype) and x.ndim == 1:
            differ = differ & ~(np_.isnan(later) & np_.isnan(earlier))
        if x.ndim > 1:
            differ = np_.any(differ, axis=1)
        self.first = np_.concatenate([np_.ones(1, bool), differ])

    def ranks(self) -> Array:
        """For each row as it was given, the number of its run."""
        np_ = namespace()
        place = _lexsort([self.order], 0)  # where each row went
        return taken(np_.cumsum(self.first) - 1, place)


def _filled(x: Array, there: Array, fill: Any) -> Array:
    """Results with what lies behind their end replaced: by `fill`, or else by the first one."""
    np_ = namespace()
    mask = there.reshape(there.shape + (1,) * (x.ndim - 1))
    if fill is None:
        fill = np_.where(there[0], x[0], 0).astype(x.dtype) if x.shape[0] else 0
    return np_.where(mask, x, fill).astype(x.dtype)


@sized
def unique(
    ar: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False, axis: Any = None,
    *, equal_nan: bool = True, sorted: bool = True, size: int, fill_value: Any,
) -> Any:  # fmt: skip
    """numpy.unique, the first `size` values in sorted order; behind the last one `fill_value`, by default the smallest
    value, with its index and a count of zero."""
    np_, x = namespace(), as_array(ar)
    shape = x.shape
    if axis is None:
        rows = x.ravel()
    else:
        index = normal_axis(axis, x.ndim)
        moved = np_.moveaxis(x, index, 0)
        rows = moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))
        if x.ndim == 1:
            rows = x
    runs = Runs(rows, equal_nan)
    start = positions(runs.first, size)
    there = start < runs.count
    values = _filled(_taken(runs.sorted, start, size), there, fill_value)
    if axis is not None and x.ndim > 1:
        values = np_.moveaxis(values.reshape((size, *moved.shape[1:])), 0, index)
    results = [values]
    if return_index:
        results.append(_filled(_taken(runs.order, start, size), there, None))
    if return_inverse:
        rank = runs.ranks()
        results.append(rank.reshape(shape) if axis is None else rank)
    if return_counts:
        ends = np_.concatenate([start[1:], positions(runs.first, size + 1)[size:]])
        results.append(ends - start)
    return results[0] if len(results) == 1 else tuple(results)


def _taken(x: Array, index: Array, size: int) -> Array:
    return taken(x, index) if x.shape[0] else namespace().zeros((size, *x.shape[1:]), x.dtype)


@functools.cache
def _result_class(name: str) -> Any:
    """NumPy's own named tuple of a function of the array API."""
    return type(getattr(np, name)(np.zeros(1)))


@sized
def unique_all(x: Any, /, *, size: int, fill_value: Any) -> Any:
    parts = unique(x, True, True, True, equal_nan=False, size=size, fill_value=fill_value)
    return _result_class("unique_all")(*parts)


@sized
def unique_counts(x: Any, /, *, size: int, fill_value: Any) -> Any:
    parts = unique(x, return_counts=True, equal_nan=False, size=size, fill_value=fill_value)
    return _result_class("unique_counts")(*parts)


@sized
def unique_inverse(x: Any, /, *, size: int, fill_value: Any) -> Any:
    parts = unique(x, return_inverse=True, equal_nan=False, size=size, fill_value=fill_value)
    return _result_class("unique_inverse")(*parts)


@sized
def unique_values(x: Any, /, *, size: int, fill_value: Any) -> Array:
    return unique(x, equal_nan=False, size=size, fill_value=fill_value)


# -- membership


_FEW = 16  # elements that are compared one by one


def isin(
    element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False, *, kind: Any = None
) -> Array:
    """numpy.isin; NaN is in no set."""
    np_ = namespace()
    x, tests = as_array(element), as_array(test_elements).ravel()
    if kind not in (None, "sort", "table"):
        raise fail(ShapeError, f"Invalid kind: '{kind}'. Please use None, 'sort' or 'table'.")
    if kind == "table" and not all(a.dtype.kind in "iub" for a in (x, tests)):
        raise fail(ShapeError, "The 'table' method is only supported for boolean or integer arrays. "
                               "Please select 'sort' or None for kind.")  # fmt: skip
    found = _member(x, tests)
    result = ~found if invert else found
    return result if result.ndim or not x.scalar else np_.asarray(result)


def _member(x: Array, tests: Array) -> Array:
    np_ = namespace()
    if not tests.size:
        return np_.zeros(x.shape, bool)
    if tests.size <= _FEW:
        return np_.any(np_.equal(x[..., None], tests), axis=-1)
    common = result_dtype(x, tests)
    numbers, flat = tests.astype(common), x.astype(common).ravel()

    def searched(numbers: Array, flat: Array) -> Array:
        line = np_.sort(numbers)
        return as_array(np_.equal(taken(line, bisect(line, flat, "left")), flat))

    if common.kind not in "iu" or tests.size < _TABLE:
        return searched(numbers, flat).reshape(x.shape)
    from nufunc.tracer.control import cond

    low, size = np_.min(numbers), _PLACES * tests.size
    near = (np_.max(numbers).astype(np.uint64) - low.astype(np.uint64)) < size

    def tabled(numbers: Array, flat: Array, low: Array) -> Array:
        return _tabled(numbers, flat, low, size)

    found: Array = cond(near, tabled, lambda numbers, flat, low: searched(numbers, flat), numbers, flat, low)
    return found.reshape(x.shape)


_TABLE = 4096  # ints from which on a table of them is tried
_PLACES = 8  # of the table, for each of them


def _tabled(numbers: Array, flat: Array, low: Array, size: int) -> Array:
    """Which numbers occur among others that lie close together: a table with a place for each."""
    np_, b = namespace(), builder()
    place, wanted = ((line.astype(np.uint64) - low.astype(np.uint64)) for line in (numbers, flat))
    empty = b.filled(False, ArrayType((size,), BOOL))
    every = b.filled(True, ArrayType(numbers.shape, BOOL))
    table = b.scatter_set(empty, every, value_of(place.astype(np.int64)), axes=(0,), mode="clip")
    inside = wanted < size
    at = value_of(as_array(np_.where(inside, wanted, np.uint64(0))).astype(np.int64))
    return as_array(inside & wrap(b.gather(table, at, axes=(0,), mode="clip"), scalar=False))


def in1d(ar1: Any, ar2: Any, assume_unique: bool = False, invert: bool = False, *, kind: Any = None) -> Array:
    return isin(as_array(ar1).ravel(), ar2, assume_unique, invert, kind=kind)


# -- unions, intersections, differences


def _common(*arrays: Any) -> list[Array]:
    lines = [as_array(a).ravel() for a in arrays]
    kind = result_dtype(*(line.dtype for line in lines))
    return [line.astype(kind) for line in lines]


def _picked(x: Array, keep: Array, size: int, fill: Any) -> tuple[Array, Array]:
    """The elements that a mask keeps, filled up, and where they stood."""
    place = positions(keep, size)
    there = place < keep.shape[0]
    return _filled(_taken(x, place, size), there, fill), place


@sized
def union1d(ar1: Any, ar2: Any, *, size: int, fill_value: Any) -> Array:
    return unique(namespace().concatenate(_common(ar1, ar2)), size=size, fill_value=fill_value)


@sized
def intersect1d(
    ar1: Any, ar2: Any, assume_unique: bool = False, return_indices: bool = False, *, size: int, fill_value: Any
) -> Any:
    x, y = _common(ar1, ar2)
    runs = Runs(x, True)
    values, place = _picked(runs.sorted, runs.first & _member(runs.sorted, y), size, fill_value)
    if not return_indices:
        return values
    there = place < runs.count
    other = Runs(y, True)
    second = bisect(other.sorted, _taken(runs.sorted, place, size), "left")
    indices = (_taken(runs.order, place, size), _taken(other.order, second, size))
    return (values, *(_filled(index, there, None) for index in indices))


@sized
def setdiff1d(ar1: Any, ar2: Any, assume_unique: bool = False, *, size: int, fill_value: Any) -> Array:
    x, y = as_array(ar1).ravel(), as_array(ar2).ravel()
    if assume_unique:
        return _picked(x, ~_member(x, y), size, fill_value)[0]
    runs = Runs(x, True)
    return _picked(runs.sorted, runs.first & ~_member(runs.sorted, y), size, fill_value)[0]


@sized
def setxor1d(ar1: Any, ar2: Any, assume_unique: bool = False, *, size: int, fill_value: Any) -> Array:
    np_ = namespace()
    x, y = _common(ar1, ar2)
    one, two = Runs(x, True), Runs(y, True)
    only = [one.first & ~_member(one.sorted, y), two.first & ~_member(two.sorted, x)]
    values, keep = np_.concatenate([one.sorted, two.sorted]), np_.concatenate(only)
    order = _lexsort(_keys(values), 0)
    return _picked(taken(values, order), taken(keep, order), size, fill_value)[0]


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    isin, *([in1d] if hasattr(np, "in1d") else ()), unique, unique_all, unique_counts, unique_inverse, unique_values,
    union1d, intersect1d, setdiff1d, setxor1d,
)  # fmt: skip

"""What stands between the brackets of x[...]: a key as one item per axis, with NumPy's rules and errors."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nufunc.ir.errors import BoundsError, TraceError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, check_bounds, fail, value_of, wrap
from nufunc.tracer.trace import require

Kind = Literal["new", "int", "slice", "dynamic", "window", "array", "mask"]


_ADVANCED = ("int", "dynamic", "array", "mask")


@dataclass
class Item:
    """One part of a key. slice: (start, stop, step, flip); window: (start, size, step); others: the index
    itself.
    """

    kind: Kind
    value: Any = None
    axis: int = -1  # the axis of x that it stands for (the first one for a mask)
    size: int = 0  # the extent that it leaves (slice, window, new)
    copies: bool = False  # a 0-d array as an int: the result is a copy, where a NumPy scalar gives a view


def parse(x: Array, key: Any) -> tuple[list[Item], bool]:
    """The items of a key, one per axis of x and new axis, and whether the key had an Ellipsis."""
    parts = [_classify(part) for part in (key if isinstance(key, tuple) else (key,))]
    if any(kind == "bool" for kind, _ in parts) and any(kind in _ADVANCED for kind, _ in parts):
        raise fail(UnsupportedError, "a single bool beside other indices than slices and None")
    without = ("new", "ellipsis", "bool")
    consumed = sum(part.ndim if kind == "mask" else kind not in without for kind, part in parts)
    if consumed > x.ndim:
        raise fail(
            BoundsError,
            f"too many indices for array: array is {x.ndim}-dimensional, but {consumed} were indexed",
        )
    ellipses = sum(kind == "ellipsis" for kind, _ in parts)
    if ellipses > 1:
        raise fail(BoundsError, "an index can only have a single ellipsis ('...')")
    if not ellipses:
        parts.append(("ellipsis", None))
    items: list[Item] = []
    axis = 0
    for kind, part in parts:
        if kind == "ellipsis":
            for _ in range(x.ndim - consumed):
                items.append(Item("slice", (0, x.shape[axis], 1, False), axis, x.shape[axis]))
                axis += 1
        elif kind == "new":
            items.append(Item("new", size=1))
        elif kind == "bool":  # an axis of extent one where it holds, else of none
            items.append(Item("new", part, size=int(part), copies=True))
        elif kind == "mask":
            items.extend(_mask_items(x, part, axis))
            axis += part.ndim
        else:
            items.append(_axis_item(x, kind, part, axis))
            axis += 1
    return items, bool(ellipses)


def _classify(part: Any) -> tuple[str, Any]:
    if part is None:
        return "new", None
    if part is Ellipsis:
        return "ellipsis", None
    if isinstance(part, slice):
        return "slice", part
    if isinstance(part, (bool, np.bool_)):
        return "bool", bool(part)
    if isinstance(part, (list, tuple, range)) or (isinstance(part, np.ndarray) and part.ndim):
        part = _index_list(part)
    if isinstance(part, (float, complex, np.inexact, str)):
        raise fail(
            BoundsError,
            "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or boolean "
            "arrays are "
            "valid indices",
        )
    if type(part) is Array:
        if part.dtype.kind == "b":
            return ("mask", part) if part.ndim or part.known is None else ("bool", bool(part.known))
        if part.dtype.kind not in "iu":
            raise fail(BoundsError, "arrays used as indices must be of integer (or boolean) type")
        if part.ndim:
            return "array", part
        if part.known is None:
            return "dynamic", part
    operator.index(part)
    return "int", part


def _index_list(part: Any) -> Array:
    if isinstance(part, np.ndarray):
        return as_array(part)
    if not len(part):
        return require().constant(np.zeros(0, np.int64))
    return as_array(part)


def _axis_item(x: Array, kind: str, part: Any, axis: int) -> Item:
    extent = x.shape[axis]
    if kind == "int":
        copies = type(part) is Array and not part.scalar
        return Item("int", check_bounds(operator.index(part), extent, axis), axis, copies=copies)
    if kind == "slice":
        return _slice_item(part, extent, axis)
    return Item("dynamic" if kind == "dynamic" else "array", part, axis, copies=not part.scalar)


def _traced_bound(bound: Any) -> bool:
    return type(bound) is Array and bound.known is None


def _slice_item(part: slice, extent: int, axis: int) -> Item:
    if _traced_bound(part.step):
        raise fail(TraceError, "the step of a slice must be static")
    if _traced_bound(part.start) or _traced_bound(part.stop):
        return _window_item(part, extent, axis)
    bounds = [b if b is None else operator.index(b) for b in (part.start, part.stop, part.step)]
    if bounds[2] == 0:
        raise ValueError("slice step cannot be zero")
    start, stop, step = slice(*bounds).indices(extent)
    size = len(range(start, stop, step))
    if size == 0:
        return Item("slice", (0, 0, 1, False), axis, 0)
    if step < 0:
        return Item("slice", (start + (size - 1) * step, start + 1, -step, True), axis, size)
    return Item("slice", (start, start + (size - 1) * step + 1, step, False), axis, size)


def _window_item(part: slice, extent: int, axis: int) -> Item:
    """x[i : i + n]: a traced start and a static size, known where both ends are the same value plus static
    ints.
    """
    ends = [_affine(bound) for bound in (part.start, part.stop)]
    step = 1 if part.step is None else operator.index(part.step)
    first, last = ends
    if step > 0 and first is not None and last is not None:
        (origin, scale, low), (other, other_scale, high) = first, last
        if origin is other and scale == other_scale:
            size = len(range(low, high, step))
            return Item("window", (part.start, size, step), axis, size)
    raise fail(
        TraceError,
        "a slice with traced bounds must have a static size: write x[i : i + n] with a static n, index with "
        "i + np.arange(n), or keep the whole array and mask it with np.where",
    )


def _affine(bound: Any) -> tuple[Array, int, int] | None:
    if type(bound) is not Array:
        return None
    return bound.affine or (bound, 1, 0)


def _mask_items(x: Array, mask: Array, axis: int) -> list[Item]:
    """A static mask as index arrays; a traced one as it is."""
    extents = x.shape[axis : axis + mask.ndim]
    if mask.shape != extents:
        wrong = next(i for i, (m, n) in enumerate(zip(mask.shape, extents)) if m != n)
        raise fail(
            BoundsError,
            f"boolean index did not match indexed array along axis {axis + wrong}; size of axis is "
            f"{extents[wrong]} but "
            f"size of corresponding boolean axis is {mask.shape[wrong]}",
        )
    known = mask.known
    if known is None:
        return [Item("mask", mask, axis)]
    trace = require()
    return [Item("array", trace.constant(where), axis + i) for i, where in enumerate(np.nonzero(known))]


class _Checks(threading.local):
    """Whether traced indices are checked when the program runs."""

    on = True


_CHECKS = _Checks()


@contextmanager
def checks(on: bool) -> Iterator[None]:
    """Whether traced indices are checked in what is traced inside; those that are not are clipped into the array."""
    before = _CHECKS.on
    _CHECKS.on = on and before
    try:
        yield
    finally:
        _CHECKS.on = before


def in_bounds(index: Array, extent: int, axis: int) -> tuple[Value, bool]:
    """An index as i64 counted from 0, and whether it is known to be inside (or not to be checked); BoundsError where
    known to be outside.
    """
    known = index.known
    trace = require()
    if known is not None:
        wide = known.astype(np.int64)
        outside = (wide < -extent) | (wide >= extent)
        if outside.any():
            check_bounds(int(wide[outside].flat[0]), extent, axis)
        return value_of(trace.constant(np.where(wide < 0, wide + extent, wide))), True
    b = trace.b
    value = b.astype(trace.lift(index), np.dtype(np.int64))
    if index.dtype.kind == "i":
        value = b.select(b.lt(value, b.like(value, 0)), b.add(value, b.like(value, extent)), value)
    return value, not _CHECKS.on


def window_index(item: Item) -> Array:
    """The positions of a window along its axis; one outside the axis raises when the program runs."""
    start, size, step = item.value
    b = require().b
    iota = b.iota(shape=(size,), dtype=np.dtype(np.int64), axis=0)
    steps = b.mul(iota, b.like(iota, step))
    first = b.broadcast_to(b.astype(value_of(start), np.dtype(np.int64)), (size,))
    return wrap(b.add(first, steps))

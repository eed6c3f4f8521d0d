"""The elements that stand at given places of long sorted lines, without sorting: pivots that close in on them; and
lines parted by such an element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nufunc.ir.types import FLOAT32, FLOAT64, INT64, is_float
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import as_array, builder, value_of, wrap

LONG = 4096  # elements of a line from which on so many passes over it are cheaper than sorting it


def is_long(table: Array) -> bool:
    """Whether the lines of a table, which stand along axis 0, are worth it."""
    return table.shape[0] >= LONG and table.dtype in (FLOAT32, FLOAT64)


def middle_two(table: Array, place: Any, other: Any) -> tuple[Array, Array]:
    """What stands at a place of each sorted line (NaN at the end), and at `other`, which is the same place or the next;
    the tangents are those of an element with this value."""
    np_, b = namespace(), builder()
    keys = _keys(table)
    first, count = _selected(keys, place)
    largest = np.iinfo(keys.dtype).max
    after = np_.min(np_.where(keys > first, keys, largest), axis=0)
    second = np_.where(count > other, first, after)
    lanes = np_.arange(table.shape[1])
    found = []
    for key in (first, second):
        at = np_.argmax(keys == key, axis=0)
        places = [value_of(at), value_of(lanes)]
        found.append(wrap(b.gather(value_of(table), *places, axes=(0, 1), mode="clip"), scalar=False))
    return found[0], found[1]


def parted(x: Array, place: int, axis: int, *, numbers: bool) -> Array:
    """Each line along an axis, or the numbers of its elements, in an order that has at `place` what stands there in the
    sorted line, what is less before and what is larger behind; within each part the elements stay in their order."""
    np_, b, n = namespace(), builder(), x.shape[axis]
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    table = x.reshape((outer, n, inner))
    less, upto = _sides(table, place)
    # two counts in one number: how many are less, and above these bits how many are no larger
    counts = np_.cumsum(less + (upto.astype(np.int64) << _HALF), axis=1)
    under, up = counts & ((1 << _HALF) - 1), counts >> _HALF
    all_under, all_up = under[:, -1:], up[:, -1:]
    line, at, lane = (wrap(b.iota(shape=table.shape, dtype=INT64, axis=k), scalar=False) for k in range(3))
    to = np_.where(less, under - 1, np_.where(upto, all_under + (up - under) - 1, all_up + (at - up)))
    flat, moved = value_of(((line * n + to) * inner + lane).ravel()), value_of((at if numbers else table).ravel())
    made = b.scatter_set(b.filled(0, moved.type), moved, flat, axes=(0,), mode="clip")
    return wrap(made, scalar=False).reshape(x.shape)


LONGEST = 1 << 31  # elements of a line that `parted` counts
_HALF = 32  # bits of a count


def _sides(table: Array, place: int) -> tuple[Array, Array]:
    """What stands before (NaN at the end) the element at a place of each line along axis 1, and what does not stand
    behind it. The first and the last are found in one pass, others in a line alone by pivots."""
    np_, n = namespace(), table.shape[1]
    floats = is_float(table.dtype)
    if place == 0:
        pivot = np_.fmin.reduce(table, axis=1, keepdims=True) if floats else np_.min(table, axis=1, keepdims=True)
    elif place == n - 1:
        pivot = np_.max(table, axis=1, keepdims=True)
    elif table.size == n and is_long(table[0]):
        table = _keys(table)
        pivot = _selected(table[0], place)[0][None, None]
        return table < pivot, table <= pivot
    else:
        pivot = np_.sort(table, axis=1)[:, place : place + 1]
    less, upto = table < pivot, table <= pivot
    if not floats:
        return less, upto
    last = np_.isnan(pivot)
    return less | (last & ~np_.isnan(table)), upto | last


def _keys(table: Array) -> Array:
    """Integers in the order of the floats: what is negative has its other bits turned around; NaN comes last."""
    np_ = namespace()
    kind = np.dtype(f"i{table.dtype.itemsize}")
    value = builder().stop_gradient(value_of(table))
    bits = wrap(builder().emit("bitcast", (value,), {"dtype": kind})[0], scalar=False)
    largest = np.iinfo(kind).max
    turned = bits ^ ((bits >> (8 * kind.itemsize - 1)) & largest)
    return as_array(np_.where(np_.isnan(table), largest, turned))


def _selected(keys: Array, place: Any) -> tuple[Array, Array]:
    """The smallest key that has more than `place` keys of its line at or below it, and how many these are.

    The ends are keys of the line, with their numbers: each pass counts what is at or below a pivot between them, and
    finds the keys on either side of it. Pivots are where the place would be, were the keys spread evenly, and every
    other time the middle: some ten passes for numbers from a smooth distribution, as few for many equal ones.
    """
    from nufunc.tracer.control import while_loop

    np_, info, n = namespace(), np.iinfo(keys.dtype), keys.shape[0]
    width = (keys.shape[1],)
    at = np_.zeros(width, np.int64) + place

    def open_(state: tuple[Array, ...]) -> Array:
        return as_array(np_.any(state[0] < state[1]))

    def narrowed(state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, under, upto, turn = state
        middle = (low & high) + ((low ^ high) >> 1)  # of numbers whose sum has no place
        share = (at - under + 0.5) / (upto - under)
        reach = share * (high.astype(np.float64) - low.astype(np.float64))
        guess = low + np_.minimum(reach, 2.0 ** (8 * keys.dtype.itemsize - 2)).astype(keys.dtype)
        guess = np_.maximum(np_.minimum(guess, high - 1), low)
        pivot = np_.where((turn % 2 == 0) & (guess >= low) & (low < high), guess, middle)
        below = keys <= pivot
        count = np_.sum(below, axis=0)
        last = np_.max(np_.where(below, keys, info.min), axis=0)
        first = np_.min(np_.where(below, info.max, keys), axis=0)
        enough = count > at
        return (
            np_.where(enough, low, first), np_.where(enough, last, high), np_.where(enough, under, count),
            np_.where(enough, count, upto), turn + 1,
        )  # fmt: skip

    none = np_.zeros(width, np.int64)
    ends = (np_.min(keys, axis=0), np_.max(keys, axis=0), none, none + n, as_array(0).astype(np.int64))
    state = while_loop(open_, narrowed, ends)
    return as_array(state[1]), as_array(state[3])

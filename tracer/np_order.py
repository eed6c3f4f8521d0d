"""The elements that stand at given places of long sorted lines, without sorting: pivots that close in on
them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.ir.types import FLOAT32, FLOAT64
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

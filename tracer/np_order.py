"""The elements that stand at given places of long sorted lines, without sorting: by bisection on the bits of floats."""

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
    first = _bisected(keys, place)
    count = np_.sum(keys <= first, axis=0)
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


def _bisected(keys: Array, place: Any) -> Array:
    """The smallest key that has more than `place` keys of its line at or below it."""
    from nufunc.tracer.control import fori_loop

    np_, info = namespace(), np.iinfo(keys.dtype)
    width = (keys.shape[1],)
    ends = (np_.full(width, info.min, keys.dtype), np_.full(width, info.max, keys.dtype))

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)  # of numbers whose sum has no place
        enough = np_.sum(keys <= middle, axis=0) > place
        return np_.where(enough, low, middle + 1), np_.where(enough, middle, high)

    return as_array(fori_loop(0, 8 * keys.dtype.itemsize, halve, ends)[0])

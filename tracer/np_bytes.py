"""x.view(dtype): the same bytes as numbers of another dtype, which may have another size."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL, is_complex, is_inexact, kind_of, real_dtype
from nufunc.tracer.array import Array, DynamicView, check_dtype
from nufunc.tracer.layout import Strides, canonical
from nufunc.tracer.np_core import builder, fail, strides_of, value_of, wrap
from nufunc.tracer.np_indexing import view
from nufunc.tracer.trace import Trace, require


def as_dtype(x: Array, dtype: Any) -> Array:
    """x.view(dtype), which writes through: by one primitive where both are integers or floats of one size, else read
    anew at each use.
    """
    target = check_dtype(dtype)
    if target == x.dtype:
        return x[...]
    if target.itemsize == x.dtype.itemsize and kind_of(target) in "iuf" and kind_of(x.dtype) in "iuf" and not x.scalar:
        return view(x, "view_bitcast", strides_of(x), dtype=target)
    strides = _checked_strides(x, target)
    if x.scalar:
        return wrap(read_as(builder(), value_of(x), target), scalar=True)

    def read(trace: Trace, source: Array) -> Value:
        return read_as(trace.b, trace.lift(source), target)

    def store(trace: Trace, source: Array, updated: Value) -> None:
        value = read_as(trace.b, updated, source.dtype)
        if is_inexact(source.dtype) and real_dtype(source.dtype) != real_dtype(target):
            before = trace.lift(source)  # what has not been written keeps its derivative
            value = trace.b.select(_same_bits(trace.b, before, value), before, value)
        trace.write(source, value)

    trace = require(x)
    value = read(trace, x)
    alias = Array(trace, value, base=x, via=DynamicView(read, store), strides=canonical(value.shape, strides))
    trace.remember(alias, value)
    return alias


def _checked_strides(x: Array, target: np.dtype) -> Strides:
    """The strides of the view, in elements of its dtype; an error where NumPy has no such view."""
    old, new, strides = x.dtype.itemsize, target.itemsize, strides_of(x)
    if old == new:
        return strides
    if not x.ndim:
        raise fail(ShapeError, "Changing the dtype of a 0d array is only supported if the itemsize is unchanged")
    if strides[-1] != 1 and x.shape[-1] != 1:
        raise fail(ShapeError, "To change to a dtype of a different size, the last axis must be contiguous")
    if x.shape[-1] * old % new:
        raise fail(
            ShapeError,
            "When changing to a larger dtype, its size must be a divisor of the total size in bytes of the last axis "
            "of the array.",
        )
    if any(s * old % new for s, n in zip(strides[:-1], x.shape) if n > 1):
        raise fail(UnsupportedError, f"x.view({target}) of a traced array whose rows begin within such a number; copy")
    return (*(s * old // new for s in strides[:-1]), 1)


def read_as(b: Builder, value: Value, target: np.dtype) -> Value:
    """The bytes of rows as other numbers. Complex ones are two floats; others are put together from smaller integers
    or taken apart.
    """
    parts = value if value.ndim else b.reshaped(value, (1,))
    if is_complex(value.dtype):
        parts = _joined(b, [b.real(parts), b.imag(parts)])
    inner = np.dtype(f"f{target.itemsize // 2}") if is_complex(target) else target
    if parts.dtype != inner:
        parts = _numbers(b, _resized(b, _bits(b, parts), inner.itemsize), inner)
    if is_complex(target):
        parts = b.complex(*_apart(b, parts, 2))
    return b.reshaped(parts, ()) if not value.ndim else parts


def _bits(b: Builder, x: Value) -> Value:
    """As integers without sign; True is 1."""
    if x.dtype == BOOL:
        return b.astype(x, np.dtype(np.uint8))
    return x if x.dtype.kind == "u" else b.bitcast(x, dtype=np.dtype(f"u{x.dtype.itemsize}"))


def _numbers(b: Builder, bits: Value, target: np.dtype) -> Value:
    if target == BOOL:
        return b.ne(bits, b.like(bits, 0))
    return bits if bits.dtype == target else b.bitcast(bits, dtype=target)


def _same_bits(b: Builder, x: Value, y: Value) -> Value:
    if is_complex(x.dtype):
        return b.bit_and(_same_bits(b, b.real(x), b.real(y)), _same_bits(b, b.imag(x), b.imag(y)))
    return b.eq(_bits(b, x), _bits(b, y))


def _resized(b: Builder, bits: Value, size: int) -> Value:
    """The same bytes as integers of `size` bytes."""
    old, wanted = bits.dtype.itemsize, np.dtype(f"u{size}")
    if old > size:
        shifted = [b.shift_right(bits, b.like(bits, 8 * size * k)) if k else bits for k in _order(old // size)]
        return _joined(b, [b.astype(s, wanted) for s in shifted])
    if old == size:
        return bits
    count = size // old
    parts = [b.astype(p, wanted) for p in _apart(b, bits, count)]
    moved = [b.shift_left(p, b.like(p, 8 * old * k)) if k else p for p, k in zip(parts, _order(count))]
    whole = moved[0]
    for part in moved[1:]:
        whole = b.bit_or(whole, part)
    return whole


def _order(count: int) -> range:
    """Which part of a number, counted from the lowest, stands at each place in memory."""
    return range(count) if sys.byteorder == "little" else range(count - 1, -1, -1)


def _joined(b: Builder, columns: list[Value]) -> Value:
    """Rows in which the columns' elements take turns."""
    *lead, n = columns[0].shape
    joined = b.concat(*(b.reshaped(c, (*lead, n, 1)) for c in columns), axis=len(lead) + 1)
    return b.reshaped(joined, (*lead, n * len(columns)))


def _apart(b: Builder, rows: Value, count: int) -> list[Value]:
    """The columns that `_joined` makes rows of."""
    *lead, n = rows.shape
    ones = (1,) * len(lead)
    return [b.slice(rows, start=(*(0 for _ in lead), k), stop=(*lead, n), step=(*ones, count)) for k in range(count)]

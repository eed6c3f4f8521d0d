"""scipy.linalg: matrices of a structure, made of vectors or of blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, broadcast_shapes, builder, fail, result_dtype, value_of, wrap
from nufunc.tracer.np_creation import array, zeros
from nufunc.tracer.np_join import concatenate
from nufunc.tracer.np_misc import take


def _vector(x: Any, name: str) -> Array:
    v = as_array(x)
    if v.ndim > 1:
        raise fail(UnsupportedError, f"scipy.linalg.{name} of arrays of more than one dimension")
    return v.reshape((v.size,))


def _picked(values: Array, index: np.ndarray) -> Array:
    return take(values, array(index))


def toeplitz(c: Any, r: Any = None) -> Array:
    first = _vector(c, "toeplitz")
    row = first.conj() if r is None else _vector(r, "toeplitz")
    m, n = first.size, row.size
    return _picked(concatenate([first[::-1], row[1:]]), m - 1 - np.arange(m)[:, None] + np.arange(n))


def hankel(c: Any, r: Any = None) -> Array:
    first = _vector(c, "hankel")
    row = zeros((first.size,), first.dtype) if r is None else _vector(r, "hankel")
    m, n = first.size, row.size
    return _picked(concatenate([first, row[1:]]), np.arange(m)[:, None] + np.arange(n))


def circulant(c: Any) -> Array:
    v = as_array(c)
    v = v if v.ndim else v.reshape((1,))
    n = v.shape[-1]
    index = (np.arange(n)[:, None] - np.arange(n)) % n if n else np.zeros((0, 0), np.int64)
    return take(v, array(index), axis=-1)


def block_diag(*arrs: Any) -> Array:
    if not arrs:
        raise fail(ShapeError, "block_diag needs an array")
    parts = [x if x.ndim > 1 else x.reshape((1, x.size)) for x in map(as_array, arrs)]
    kind = result_dtype(*parts)
    b = builder()
    lead = broadcast_shapes(*(x.shape[:-2] for x in parts))
    columns = sum(x.shape[-1] for x in parts)
    rows, at = [], 0
    for x in parts:
        v = b.broadcast_to(b.astype(value_of(x), kind), (*lead, *x.shape[-2:]))
        none = (0,) * v.ndim
        high = (*none[:-1], columns - at - v.shape[-1])
        rows.append(b.pad(v, low=(*none[:-1], at), high=high, interior=none))
        at += v.shape[-1]
    return wrap(b.concat(*rows, axis=len(lead)) if len(rows) > 1 else rows[0])


def khatri_rao(a: Any, b: Any) -> Array:
    x, y = as_array(a), as_array(b)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise fail(ShapeError, f"khatri_rao needs matrices of as many columns, got {x.shape} and {y.shape}")
    return (x[:, None, :] * y[None, :, :]).reshape((x.shape[0] * y.shape[0], x.shape[1]))


STRUCTURED: tuple[Callable[..., Any], ...] = (toeplitz, hankel, circulant, block_diag, khatri_rao)

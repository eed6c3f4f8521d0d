"""Kernels around calls of LAPACK, as graphs: rows to columns, triangles, complex vectors from pairs of real ones."""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph
from nufunc.ir.prims.matrices import along_rows, eye, part, rows_and_columns, swapped
from nufunc.ir.types import INT64, ArrayType


def columns_of(type_: ArrayType, dtype: np.dtype | None = None) -> Graph:
    """Each matrix transposed, maybe as another dtype."""
    b = Builder("columns")
    x = swapped(b, b.param(type_))
    return b.build([x if dtype is None else b.astype(x, dtype)])


def upper_rows(type_: ArrayType, rows: int, below: int = 0) -> Graph:
    """The upper triangle, with some diagonals below, of matrices given by columns, of a number of rows; `type_` is
    that by rows.
    """
    b = Builder("upper")
    x = swapped(b, b.param(type_.with_shape((*type_.shape[:-2], type_.shape[-1], type_.shape[-2]))))
    x = part(b, x, (0, rows), (0, type_.shape[-1]))
    row, column = rows_and_columns(b, x)
    return b.build([b.select(b.le(row, b.add(column, b.like(column, below))), x, b.zeros(x.type))])


def leading_rows(type_: ArrayType, rows: int | None = None) -> Graph:
    """The first rows of each matrix, and zeros where it has fewer; without a number: the number of each entry."""
    b = Builder("leading")
    if rows is None:
        return b.build([b.iota(shape=type_.shape, dtype=INT64, axis=type_.ndim - 1)])
    x, (n, m) = b.param(type_), type_.shape[-2:]
    if rows <= n:
        return b.build([part(b, x, (0, rows), (0, m))])
    none = (0,) * type_.ndim
    high = (*none[:-2], rows - n, 0)
    return b.build([b.pad(x, low=none, high=high, interior=none)])


def identity(type_: ArrayType) -> Graph:
    b = Builder("identity")
    return b.build([eye(b, type_)])


def complex_pairs(type_: ArrayType) -> Graph:
    """Complex numbers from their parts."""
    b = Builder("pairs")
    return b.build([b.complex(b.param(type_), b.param(type_))])


def complex_vectors(type_: ArrayType) -> Graph:
    """Eigenvectors of real matrices as LAPACK packs them: of a conjugate pair, one row holds the real parts and the
    next the imaginary parts of both.
    """
    b = Builder("vectors")
    v, values = b.param(type_), b.param(type_.with_shape(type_.shape[:-1]))
    n, none = type_.shape[-1], (0,) * type_.ndim
    one = (*none[:-2], 1, 0)
    after = b.pad(part(b, v, (1, n), (0, n)), low=none, high=one, interior=none)
    before = b.pad(part(b, v, (0, n - 1), (0, n)), low=one, high=none, interior=none)
    sign = along_rows(b, values, v)
    zero = b.zeros(type_)
    first, second = b.gt(sign, zero), b.lt(sign, zero)
    real = b.select(second, before, v)
    imaginary = b.select(first, after, b.select(second, b.neg(v), zero))
    return b.build([swapped(b, b.complex(real, imaginary))])

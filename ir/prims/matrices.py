"""What the rules of linear algebra share: checks of matrices, adjoints, triangles, diagonals of stacks."""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError
from nufunc.ir.graph import Value
from nufunc.ir.prims.kinds import INEXACT, axis_index, need_dtype
from nufunc.ir.types import ArrayType, is_complex


def need_matrix(prim: str, a: ArrayType) -> None:
    need_dtype(prim, a, INEXACT)
    if a.ndim < 2:
        raise ShapeError(f"{prim}: {a} is no matrix")


def need_square(prim: str, a: ArrayType) -> None:
    need_dtype(prim, a, INEXACT)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"{prim}: the last two axes of {a} are no square matrix")


def sized(a: ArrayType, *extents: int) -> ArrayType:
    """The type with other extents in the place of the last two."""
    return a.with_shape((*a.shape[:-2], *extents))


def swapped(b: Builder, a: Value) -> Value:
    """The transpose of each matrix."""
    return b.transposed(a, (*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


def adjoint(b: Builder, a: Value) -> Value:
    return b.conj(swapped(b, a)) if is_complex(a.dtype) else swapped(b, a)


def rows_and_columns(b: Builder, a: Value) -> tuple[Value, Value]:
    """The numbers of the row and of the column of each entry."""
    return axis_index(b, a.shape, a.ndim - 2), axis_index(b, a.shape, a.ndim - 1)


def where_entries(b: Builder, compare: str, a: Value) -> Value:
    """The entries whose row number is "eq", "gt", "ge", "lt" or "le" the column's; zeros elsewhere."""
    return b.select(getattr(b, compare)(*rows_and_columns(b, a)), a, b.zeros(a.type))


def eye(b: Builder, type: ArrayType) -> Value:
    """The identity (of a matrix that is not square: ones on its diagonal)."""
    return where_entries(b, "eq", b.filled(1, type))


def diagonal(b: Builder, a: Value) -> Value:
    """The diagonal of each square matrix."""
    return b.reduce_sum(where_entries(b, "eq", a), axes=(a.ndim - 1,))


def trace(b: Builder, a: Value) -> Value:
    return b.reduce_sum(where_entries(b, "eq", a), axes=(a.ndim - 2, a.ndim - 1))


def hermitian_part(b: Builder, a: Value) -> Value:
    return b.mul(b.add(a, adjoint(b, a)), b.like(a, 0.5))


def part(b: Builder, a: Value, rows: tuple[int, int], columns: tuple[int, int]) -> Value:
    """The block a[..., rows, columns], each from, to."""
    lead = a.shape[:-2]
    if rows == (0, a.shape[-2]) and columns == (0, a.shape[-1]):
        return a
    zeros, ones = (0,) * len(lead), (1,) * a.ndim
    return b.slice(a, start=(*zeros, rows[0], columns[0]), stop=(*lead, rows[1], columns[1]), step=ones)


def block(b: Builder, rows: list[list[Value]]) -> Value:
    """A matrix from blocks; those without rows or columns are allowed."""
    made = [b.concat(*row, axis=row[0].ndim - 1) if len(row) > 1 else row[0] for row in rows]
    return b.concat(*made, axis=made[0].ndim - 2) if len(made) > 1 else made[0]


def along_columns(b: Builder, v: Value, a: Value) -> Value:
    """A vector per matrix, as what stands in column j of every row."""
    return b.broadcast(v, shape=a.shape, dims=(*range(a.ndim - 2), a.ndim - 1))


def along_rows(b: Builder, v: Value, a: Value) -> Value:
    """A vector per matrix, as what stands in row i of every column."""
    return b.broadcast(v, shape=a.shape, dims=tuple(range(a.ndim - 1)))


def reciprocal_where(b: Builder, x: Value) -> Value:
    """1 / x, and 0 where x is exactly 0; derivatives stay finite there too."""
    zero = b.eq(x, b.zeros(x.type))
    one = b.like(x, 1)
    return b.select(zero, b.zeros(x.type), b.div(one, b.select(zero, one, x)))


def as_dtype(b: Builder, x: Value, dtype: np.dtype) -> Value:
    """A real value as one of a (maybe complex) dtype."""
    return b.astype(x, dtype)

"""Factorizations by elimination and reflections: qr, householder (qr as LAPACK leaves it), lu; and `require`.

Derivatives: qr after Walter and Lehmann (2010), for wide matrices of their leading square block; lu after de Hoog,
Anderssen and Lukas, "Differentiation of matrix functionals using triangular factorization" (2011).
"""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import LinAlgError, UnsupportedError, VerifyError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import (
    Arrays,
    Batched,
    Dims,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    batch_all,
    linear_transpose,
    need_count,
)
from nufunc.ir.prims.library import matmul
from nufunc.ir.prims.matrices import (
    adjoint,
    eye,
    need_matrix,
    part,
    sized,
    swapped,
    where_entries,
)
from nufunc.ir.prims.reduce import take_along
from nufunc.ir.prims.spectral import completed, outside
from nufunc.ir.types import BOOL, INT64, ArrayType, is_complex

INT32 = np.dtype(np.int32)


# -- qr


def _qr_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("qr", types, 1)
    (a,) = types
    need_matrix("qr", a)
    m, n = a.shape[-2:]
    k = m if attrs["full"] else min(m, n)
    return (sized(a, m, k), sized(a, k, n)) if attrs["vectors"] else (sized(a, k, n),)


def _qr_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    if not attrs["vectors"] and not attrs["full"]:
        return [np.ascontiguousarray(np.linalg.qr(arrays[0], "r"))]
    found = np.linalg.qr(arrays[0], "complete" if attrs["full"] else "reduced")
    return [np.ascontiguousarray(x) for x in (found if attrs["vectors"] else found[1:])]


def _qr_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """With c = q^H da r^-1: dq = q w + what leaves the space of q, dr = (c - w) r, where w is skew-Hermitian with the
    lower triangle of c; in the complex case the diagonal of r stays real.
    """
    (a,), (t,) = primals, tangents
    if t is None:
        return [None] * len(results)
    q, r = results if attrs["vectors"] else b.qr(a, full=attrs["full"], vectors=True)
    m, n = a.shape[-2:]
    k = min(m, n)
    basis, square = part(b, q, (0, m), (0, k)), part(b, r, (0, k), (0, k))
    first, rest = part(b, t, (0, m), (0, k)), part(b, t, (0, m), (k, n))
    ratio = swapped(b, b.triangular_solve(square, swapped(b, first), lower=False, trans=True, unit=False))
    c = matmul(b, adjoint(b, basis), ratio)
    low = where_entries(b, "gt", c)
    turn = b.sub(low, adjoint(b, low))
    if is_complex(a.dtype):
        on = where_entries(b, "eq", c)
        turn = b.add(turn, b.mul(b.sub(on, adjoint(b, on)), b.like(on, 0.5)))
    dq = matmul(b, basis, turn)
    if m > k:
        dq = b.add(dq, outside(b, basis, ratio))
    dr = matmul(b, where_entries(b, "le", b.sub(c, turn)), square)
    if n > k:
        right = part(b, r, (0, k), (k, n))
        dr = b.concat(
            dr, b.add(matmul(b, adjoint(b, dq), matmul(b, basis, right)), matmul(b, adjoint(b, basis), rest)),
            axis=a.ndim - 1,
        )  # fmt: skip
    if attrs["full"] and m > k:
        dq = completed(b, basis, dq, part(b, q, (0, m), (k, m)))
        dr = b.concat(dr, b.zeros(sized(a.type, m - k, n)), axis=a.ndim - 2)
    return [dq, dr] if attrs["vectors"] else [dr]


register(
    Primitive("qr", "library", _qr_infer, _qr_evaluate, _qr_jvp, None, batch_all("qr"), attrs=("full", "vectors"))
)


def _householder_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("householder", types, 1)
    (a,) = types
    need_matrix("householder", a)
    m, n = a.shape[-2:]
    return (sized(a, n, m), a.with_shape((*a.shape[:-2], min(m, n))))


def _householder_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    """NumPy's raw form computes in double precision."""
    return [np.ascontiguousarray(x).astype(arrays[0].dtype) for x in np.linalg.qr(arrays[0], "raw")]


def _householder_jvp(
    b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs
) -> list[Maybe]:
    if tangents[0] is None:
        return [None, None]
    raise UnsupportedError("qr of mode 'raw' has no derivative; modes 'reduced', 'complete' and 'r' have one", b.loc)


register(
    Primitive(
        "householder", "library", _householder_infer, _householder_evaluate, _householder_jvp, None,
        batch_all("householder"),
    )
)  # fmt: skip


# -- lu


def _lu_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("lu", types, 1)
    (a,) = types
    need_matrix("lu", a)
    lead, (m, n) = a.shape[:-2], a.shape[-2:]
    return (a, ArrayType((*lead, min(m, n)), INT32), ArrayType((*lead, m), INT64))


def _lu_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    """Elimination with the largest pivot, column by column; a column of zeros is passed over, as in LAPACK."""
    a = np.array(arrays[0], order="C")
    m, n = a.shape[-2:]
    pivots = np.tile(np.arange(min(m, n), dtype=INT32), (*a.shape[:-2], 1))
    order = np.tile(np.arange(m, dtype=INT64), (*a.shape[:-2], 1))
    for place in np.ndindex(a.shape[:-2] if a.size else (0,)):
        x, chosen, rows = a[place], pivots[place], order[place]
        for k in range(min(m, n)):
            size = np.abs(x[k:, k].real) + np.abs(x[k:, k].imag)
            p = k + int(size.argmax())
            chosen[k] = p
            x[[k, p]], rows[[k, p]] = x[[p, k]], rows[[p, k]]
            if x[k, k] != 0:
                x[k + 1 :, k] /= x[k, k]
                x[k + 1 :, k + 1 :] -= np.outer(x[k + 1 :, k], x[k, k + 1 :])
    return [a, pivots, order]


def _lu_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """With c = l^-1 (p da) u^-1: dl = l tril(c, -1), du = triu(c) u, both made square by the identity."""
    (t,), (packed, _, order) = tangents, results
    if t is None:
        return [None] * 3
    m, n = packed.shape[-2:]
    k = min(m, n)
    index = b.broadcast(order, shape=t.shape, dims=tuple(range(t.ndim - 1)))
    moved = take_along(b, t, index, t.ndim - 2)
    low = _squared(b, where_entries(b, "gt", part(b, packed, (0, m), (0, k))), m)
    high = _squared(b, where_entries(b, "le", part(b, packed, (0, k), (0, n))), n)
    first = b.triangular_solve(low, moved, lower=True, trans=False, unit=True)
    c = swapped(b, b.triangular_solve(high, swapped(b, first), lower=False, trans=True, unit=False))
    unit = b.add(low, eye(b, low.type))
    below, above = where_entries(b, "gt", c), where_entries(b, "le", c)
    return [b.add(matmul(b, unit, below), matmul(b, above, high)), None, None]


def _squared(b: Builder, triangle: Value, size: int) -> Value:
    """A triangle of an m x k or k x n matrix as a square one: unit columns, or rows, complete the upper one."""
    rows, columns = triangle.shape[-2:]
    if rows > columns:  # of l: further columns are those of the identity, whose ones `unit` adds
        rest = b.zeros(sized(triangle.type, rows, size - columns))
        return b.concat(triangle, rest, axis=triangle.ndim - 1)
    if columns > rows:
        type_ = sized(triangle.type, size - rows, size)
        row, column = (b.iota(shape=type_.shape, dtype=INT64, axis=triangle.ndim - j) for j in (2, 1))
        ones = b.select(b.eq(b.add(row, b.like(row, rows)), column), b.filled(1, type_), b.zeros(type_))
        return b.concat(triangle, ones, axis=triangle.ndim - 2)
    return triangle


register(Primitive("lu", "library", _lu_infer, _lu_evaluate, _lu_jvp, None, batch_all("lu")))


# -- require


def _require_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("require", types, 2)
    if types[1] != ArrayType((), BOOL):
        raise VerifyError(f"require: the condition must be b1[], not {types[1]}")
    return (types[0],)


def _require_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    if not arrays[1]:
        raise LinAlgError(attrs["message"])
    return [np.array(arrays[0])]


def _require_batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
    x, ok = operands
    if dims[1] is not None:
        ok = b.reduce_and(ok, axes=(0,))
    return b.emit("require", (x, ok), attrs), [dims[0]]


register(
    Primitive(
        "require", "library", _require_infer, _require_evaluate,
        lambda b, primals, tangents, results, attrs: [tangents[0]],
        linear_transpose(lambda b, ct, operands, types, attrs: [ct, None]),
        _require_batch, attrs=("message",), doc="the operand, if the condition holds; else a LinAlgError",
    )
)  # fmt: skip

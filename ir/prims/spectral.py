"""Decompositions by eigenvalues and singular values: eigh, eig, svd.

The derivatives are those of Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
differentiation" (2008), of Walter and Lehmann, "Algorithmic differentiation of linear algebra functions" (2010), and of
Townsend, "Differentiating the singular value decomposition" (2016).

Note [Degenerate spectra]: the derivative of a vector divides by differences of eigenvalues (of squares of singular
values), and by singular values. Where two are equal the derivatives of vectors are infinite or NaN, as in JAX and
torch: there is none, and even functions that do not depend on the choice of vectors get it by another formula only
(those of `matrix_functions` do). Derivatives of values alone do not divide: they are finite, and right for symmetric
functions of the values.

Note [Gauge]: vectors are known up to a phase. The derivative is that of vectors without change of phase,
diag(v^H dv) = 0; for the singular vectors the phase that the two sides share is changed on the left alone. Real vectors
have no other; complex functions must not depend on the phase. The columns that full=True adds span a space: the
derivative given is one that moves the space rightly, and does not turn within it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import (
    Arrays,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    batch_all,
    exact,
    need_count,
)
from nufunc.ir.prims.library import matmul
from nufunc.ir.prims.matrices import (
    adjoint,
    along_columns,
    along_rows,
    diagonal,
    hermitian_part,
    need_matrix,
    need_square,
    part,
    reciprocal_where,
    rows_and_columns,
    sized,
    where_entries,
)
from nufunc.ir.types import ArrayType, is_complex, real_dtype


def complex_of(dtype: np.dtype) -> np.dtype:
    """The complex dtype of the same precision."""
    return np.result_type(dtype, np.complex64)


def _differences(b: Builder, w: Value, type: ArrayType) -> Value:
    """w_j - w_i."""
    like = b.zeros(type.with_dtype(w.dtype))
    return b.sub(along_columns(b, w, like), along_rows(b, w, like))


def _reciprocals(b: Builder, x: Value) -> Value:
    """1 / x beside the diagonal, and 0 on it."""
    on = b.eq(*rows_and_columns(b, x))
    one = b.like(x, 1)
    return b.select(on, b.zeros(x.type), b.div(one, b.select(on, one, x)))


# -- eigh


def _eigh_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("eigh", types, 1)
    (a,) = types
    need_square("eigh", a)
    values = ArrayType(a.shape[:-1], real_dtype(a.dtype))
    return (values, a) if attrs["vectors"] else (values,)


def _eigh_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    half: Any = "L" if attrs["lower"] else "U"
    if not attrs["vectors"]:
        return [np.linalg.eigvalsh(arrays[0], half)]
    return [np.ascontiguousarray(x) for x in np.linalg.eigh(arrays[0], half)]


def _eigh_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """dw = diag(v^H da v), dv = v (f o v^H da v) with f_ij = 1 / (w_j - w_i).

    Along Hermitian directions, see Note [Hermitian tangents] in ir/prims/linalg.py.
    """
    (a,), (t,) = primals, tangents
    if t is None:
        return [None] * len(results)
    w, v = results if attrs["vectors"] else b.eigh(a, lower=attrs["lower"], vectors=True)
    inner = matmul(b, adjoint(b, v), matmul(b, hermitian_part(b, t), v))
    along = diagonal(b, inner)
    dw = b.real(along) if is_complex(a.dtype) else along
    if not attrs["vectors"]:
        return [dw]
    factor = b.astype(_reciprocals(b, _differences(b, w, a.type)), a.dtype)
    return [dw, matmul(b, v, b.mul(factor, inner))]


register(
    Primitive(
        "eigh", "library", _eigh_infer, _eigh_evaluate, _eigh_jvp, None, batch_all("eigh"), attrs=("lower", "vectors")
    )
)


# -- eig


def _eig_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("eig", types, 1)
    (a,) = types
    need_square("eig", a)
    vectors = a.with_dtype(complex_of(a.dtype))
    values = vectors.with_shape(a.shape[:-1])
    return (values, vectors) if attrs["vectors"] else (values,)


def _eig_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    (a,) = arrays
    found = np.linalg.eig(a) if attrs["vectors"] else [np.linalg.eigvals(a)]
    return [np.ascontiguousarray(exact(x, complex_of(a.dtype))) for x in found]


def _eig_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """dw = diag(v^-1 da v); dv = v (f o v^-1 da v) less its part along v, as vectors keep their length."""
    (a,), (t,) = primals, tangents
    if t is None:
        return [None] * len(results)
    w, v = results if attrs["vectors"] else b.eig(a, vectors=True)
    inner = b.solve(v, matmul(b, b.astype(t, v.dtype), v))
    dw = diagonal(b, inner)
    if not attrs["vectors"]:
        return [dw]
    turned = matmul(b, v, b.mul(_reciprocals(b, _differences(b, w, v.type)), inner))
    length = b.reduce_sum(b.mul(b.conj(v), turned), axes=(v.ndim - 2,))
    return [dw, b.sub(turned, b.mul(v, along_columns(b, length, v)))]


register(
    Primitive("eig", "library", _eig_infer, _eig_evaluate, _eig_jvp, None, batch_all("eig"), attrs=("vectors",))
)


# -- svd


def _svd_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("svd", types, 1)
    (a,) = types
    need_matrix("svd", a)
    m, n = a.shape[-2:]
    k = min(m, n)
    values = ArrayType((*a.shape[:-2], k), real_dtype(a.dtype))
    if not attrs["vectors"]:
        return (values,)
    left, right = (m, n) if attrs["full"] else (k, k)
    return (sized(a, m, left), values, sized(a, right, n))


def _svd_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    found = np.linalg.svd(arrays[0], full_matrices=attrs["full"], compute_uv=attrs["vectors"])
    return [np.ascontiguousarray(x) for x in (found if attrs["vectors"] else (found,))]


def _svd_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """With p = u^H da v and f_ij = 1 / (s_j^2 - s_i^2): ds = diag(p), du = u (f o (p s + s p^H)),
    dv = v (f o (s p + p^H s)), and on the longer side the part of da that leaves the space of the vectors. See Note
    [Gauge].
    """
    (a,), (t,) = primals, tangents
    if t is None:
        return [None] * len(results)
    u, s, vh = results if attrs["vectors"] else b.svd(a, full=False, vectors=True)
    m, n = a.shape[-2:]
    k = min(m, n)
    left, right = part(b, u, (0, m), (0, k)), adjoint(b, part(b, vh, (0, k), (0, n)))
    moved = matmul(b, t, right)
    p = matmul(b, adjoint(b, left), moved)
    along = diagonal(b, p)
    ds = b.real(along) if is_complex(a.dtype) else along
    if not attrs["vectors"]:
        return [ds]
    back = matmul(b, adjoint(b, t), left)
    du, dv = _turned_vectors(b, left, s, right, p)
    inverse = b.astype(b.div(b.like(s, 1), s), a.dtype)
    if m > k:
        du = b.add(du, b.mul(outside(b, left, moved), along_columns(b, inverse, moved)))
    if n > k:
        dv = b.add(dv, b.mul(outside(b, right, back), along_columns(b, inverse, back)))
    if attrs["full"]:
        du = completed(b, left, du, part(b, u, (0, m), (k, m)))
        dv = completed(b, right, dv, adjoint(b, part(b, vh, (k, n), (0, n))))
    return [du, ds, adjoint(b, dv)]


def _turned_vectors(b: Builder, left: Value, s: Value, right: Value, p: Value) -> tuple[Value, Value]:
    """The parts of du and dv within the spaces of u and v."""
    dtype = p.dtype
    real = p.type.with_dtype(s.dtype)
    like = b.zeros(real)
    rows, columns = along_rows(b, s, like), along_columns(b, s, like)
    factor = _reciprocals(b, b.mul(b.sub(columns, rows), b.add(columns, rows)))
    rows, columns, factor = (b.astype(x, dtype) for x in (rows, columns, factor))
    ps, sp = b.mul(p, columns), b.mul(rows, p)
    for_left = b.mul(factor, b.add(ps, adjoint(b, ps)))
    if is_complex(dtype):
        phases = where_entries(b, "eq", b.mul(b.sub(p, adjoint(b, p)), b.like(p, 0.5)))
        for_left = b.add(for_left, b.mul(phases, b.astype(along_columns(b, reciprocal_where(b, s), like), dtype)))
    return matmul(b, left, for_left), matmul(b, right, b.mul(factor, b.add(sp, adjoint(b, sp))))


def outside(b: Builder, basis: Value, x: Value) -> Value:
    """x without its part in the space of the columns of `basis`."""
    return b.sub(x, matmul(b, basis, matmul(b, adjoint(b, basis), x)))


def completed(b: Builder, basis: Value, tangent: Value, rest: Value) -> Value:
    """The tangent of the columns that complete a basis, behind that of the basis."""
    if not rest.shape[-1]:
        return tangent
    other = b.neg(matmul(b, basis, matmul(b, adjoint(b, tangent), rest)))
    return b.concat(tangent, other, axis=tangent.ndim - 1)


register(
    Primitive(
        "svd", "library", _svd_infer, _svd_evaluate, _svd_jvp, None, batch_all("svd"), attrs=("full", "vectors")
    )
)

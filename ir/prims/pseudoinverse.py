"""pinv and lstsq as composites: their derivatives do not pass through singular vectors."""

from __future__ import annotations

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.prims.composite import composite
from nufunc.ir.prims.kinds import Maybe, Maybes, Regions, Types, Values, need_count, need_same
from nufunc.ir.prims.library import matmul
from nufunc.ir.prims.matrices import adjoint, along_columns, along_rows, need_matrix, sized
from nufunc.ir.types import ArrayType, real_dtype


def _need_cutoff(prim: str, a: ArrayType, rcond: ArrayType) -> None:
    if rcond != ArrayType(a.shape[:-2], real_dtype(a.dtype)):
        raise ShapeError(f"{prim}: {rcond} is no cutoff per matrix of {a}")


def _pinv_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("pinv", types, 2)
    a, rcond = types
    need_matrix("pinv", a)
    _need_cutoff("pinv", a, rcond)
    return (sized(a, a.shape[-1], a.shape[-2]),)


def _kept(b: Builder, s: Value, rcond: Value) -> Value:
    """Where s is above rcond times the largest."""
    most = b.mul(b.reduce_max(s, axes=(s.ndim - 1,)), rcond)
    return b.gt(s, b.broadcast(most, shape=s.shape, dims=tuple(range(s.ndim - 1))))


def _inverted(b: Builder, s: Value, rcond: Value) -> Value:
    """1 / s, and 0 where s is cut off."""
    kept = _kept(b, s, rcond)
    return b.select(kept, b.div(b.like(s, 1), b.select(kept, s, b.like(s, 1))), b.zeros(s.type))


def _spectrum(b: Builder, a: Value, hermitian: bool) -> tuple[Value, Value, Value]:
    """Singular values with vectors u and v^H; of Hermitian matrices from eigenvalues, in their order."""
    if not hermitian:
        u, s, vh = b.svd(a, full=False, vectors=True)
        return u, s, vh
    w, v = b.eigh(a, lower=True, vectors=True)
    negative = along_columns(b, b.lt(w, b.zeros(w.type)), v)
    return v, b.abs(w), adjoint(b, b.select(negative, b.neg(v), v))


def _pinv_body(b: Builder, operands: Values, attrs: Attrs) -> list[Value]:
    a, rcond = operands
    if not a.type.size:
        return [b.zeros(sized(a.type, a.shape[-1], a.shape[-2]))]
    u, s, vh = _spectrum(b, a, attrs["hermitian"])
    v = adjoint(b, vh)
    inverse = b.astype(_inverted(b, s, rcond), a.dtype)
    return [matmul(b, b.mul(v, along_columns(b, inverse, v)), adjoint(b, u))]


def _pinv_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """-p da p + p p^H da^H (1 - a p) + (1 - p a) da^H p^H p (Golub and Pereyra, 1973).

    This is so where the singular values that are cut off are zero but for rounding. With `cut`, where they may be
    anything below a cutoff that somebody chose, what couples them to the others is added.
    """
    (a, rcond), (t, _), (p,) = primals, tangents, results
    if t is None:
        return [None]
    made = _pinv_at_constant_rank(b, a, t, p)
    return [b.add(made, _cut_off(b, a, t, rcond, attrs["hermitian"])) if attrs["cut"] else made]


def _pinv_at_constant_rank(b: Builder, a: Value, t: Value, p: Value) -> Value:
    ph, th = adjoint(b, p), adjoint(b, t)
    first = matmul(b, matmul(b, p, t), p)
    wide = matmul(b, matmul(b, p, ph), th)
    tall = matmul(b, matmul(b, th, ph), p)
    second = b.sub(wide, matmul(b, matmul(b, wide, a), p))
    third = b.sub(tall, matmul(b, p, matmul(b, a, tall)))
    return b.add(b.sub(second, first), third)


def _cut_off(b: Builder, a: Value, t: Value, rcond: Value, hermitian: bool) -> Value:
    """What the tangent of pinv has more than the formula for constant rank: between a singular value k that is kept
    and one d that is not, with e = u^H da v, the entry d (d e_ij + k conj(e_ji)) / (k^2 (k^2 - d^2)) of its adjoint.
    """
    u, s, vh = _spectrum(b, a, hermitian)
    v = adjoint(b, vh)
    e = matmul(b, adjoint(b, u), matmul(b, t, v))
    real = b.zeros(e.type.with_dtype(s.dtype))
    keeps = _kept(b, s, rcond)
    of_rows, of_columns = along_rows(b, keeps, real), along_columns(b, keeps, real)
    rows, columns = along_rows(b, s, real), along_columns(b, s, real)
    mixed, one = b.bit_xor(of_rows, of_columns), b.like(rows, 1)
    k = b.select(mixed, b.select(of_rows, rows, columns), one)
    d = b.select(mixed, b.select(of_rows, columns, rows), b.zeros(rows.type))
    weight = b.div(d, b.mul(b.mul(k, k), b.sub(b.mul(k, k), b.mul(d, d))))
    weight, k, d = (b.astype(x, a.dtype) for x in (weight, k, d))
    entries = b.mul(weight, b.add(b.mul(d, e), b.mul(k, adjoint(b, e))))
    return matmul(b, v, matmul(b, adjoint(b, entries), adjoint(b, u)))


composite("pinv", _pinv_infer, _pinv_body, _pinv_jvp, attrs=("hermitian", "cut"))


def _lstsq_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("lstsq", types, 3)
    a, side, rcond = types
    need_matrix("lstsq", a)
    _need_cutoff("lstsq", a, rcond)
    if side.ndim != a.ndim or side.shape[:-1] != a.shape[:-1]:
        raise ShapeError(f"lstsq: the right-hand side {side} does not fit the matrix {a}")
    need_same("lstsq", [a.with_shape(()), side.with_shape(())])
    return (sized(a, a.shape[-1], side.shape[-1]),)


def _lstsq_body(b: Builder, operands: Values, attrs: Attrs) -> list[Value]:
    a, side, rcond = operands
    if not a.type.size:
        return [b.zeros(sized(a.type, a.shape[-1], side.shape[-1]))]
    u, s, vh = b.svd(a, full=False, vectors=True)
    inside = matmul(b, adjoint(b, u), side)
    inverse = b.astype(_inverted(b, s, rcond), a.dtype)
    return [matmul(b, adjoint(b, vh), b.mul(inside, along_rows(b, inverse, inside)))]


def _lstsq_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """p (db - da x) + p p^H da^H (b - a x) + (1 - p a) da^H p^H x, with the pseudoinverse p of a; `cut` as in pinv."""
    (a, side, rcond), (ta, tb, _), (x,) = primals, tangents, results
    if ta is None and tb is None:
        return [None]
    p = b.pinv(a, rcond, hermitian=False, cut=attrs["cut"])
    if ta is None:
        return [None if tb is None else matmul(b, p, tb)]
    ph, th = adjoint(b, p), adjoint(b, ta)
    rest = b.sub(side, matmul(b, a, x))
    moved = matmul(b, ta, x)
    moved = b.neg(moved) if tb is None else b.sub(tb, moved)
    inside = matmul(b, p, b.add(moved, matmul(b, ph, matmul(b, th, rest))))
    outside = matmul(b, th, matmul(b, ph, x))
    made = b.add(inside, b.sub(outside, matmul(b, p, matmul(b, a, outside))))
    return [b.add(made, matmul(b, _cut_off(b, a, ta, rcond, False), side)) if attrs["cut"] else made]


composite("lstsq", _lstsq_infer, _lstsq_body, _lstsq_jvp, attrs=("cut",))

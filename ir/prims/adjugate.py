"""The adjugate as a composite: the derivative of a determinant, also where that is zero."""

from __future__ import annotations

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.prims.composite import composite
from nufunc.ir.prims.kinds import Maybe, Maybes, Regions, Types, Values, need_count
from nufunc.ir.prims.library import matmul
from nufunc.ir.prims.matrices import adjoint, along_columns, eye, need_square, rows_and_columns, trace
from nufunc.ir.types import ArrayType


def _infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("adjugate", types, 1)
    need_square("adjugate", types[0])
    return (types[0],)


def _by_inverse(b: Builder, a: Value, determinant: Value) -> Value:
    """det(a) a^-1: both come from one elimination, whose last pivot cancels."""
    return b.mul(b.solve(a, eye(b, a.type)), b.broadcast(determinant, shape=a.shape, dims=tuple(range(a.ndim - 2))))


def _by_singular_values(b: Builder, a: Value) -> Value:
    """det(u) det(v^H) v q u^H, where q_i is the product of the other singular values."""
    u, s, vh = b.svd(a, full=False, vectors=True)
    n, lead = s.shape[-1], s.shape[:-1]
    shape = (*lead, n, n)
    other = b.broadcast(s, shape=shape, dims=(*range(len(lead)), len(lead) + 1))
    others = b.select(b.eq(*rows_and_columns(b, other)), b.like(other, 1), other)
    products = b.astype(b.reduce_prod(others, axes=(len(lead) + 1,)), a.dtype)
    v = adjoint(b, vh)
    middle = matmul(b, b.mul(v, along_columns(b, products, v)), adjoint(b, u))
    return b.mul(middle, b.broadcast(b.mul(b.det(u), b.det(vh)), shape=a.shape, dims=tuple(range(a.ndim - 2))))


def _body(b: Builder, operands: Values, attrs: Attrs) -> list[Value]:
    (a,) = operands
    if not a.type.size:
        return [b.reshaped(a, a.shape)]
    determinant = b.det(a)
    zero = b.eq(determinant, b.zeros(determinant.type))
    if zero.ndim:
        zero = b.reduce_or(zero, axes=tuple(range(zero.ndim)))
    regions = []
    for by_singular_values in (False, True):
        inner = Builder("adjugate")
        params = [inner.param(a.type), inner.param(determinant.type)]
        made = _by_singular_values(inner, params[0]) if by_singular_values else _by_inverse(inner, *params)
        regions.append(inner.build([made]))
    return list(b.emit("cond", (zero, a, determinant), {}, regions))


def _jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """trace(a^-1 da) adj(a) - a^-1 da adj(a): there must be an inverse."""
    (a,), (t,), (y,) = primals, tangents, results
    if t is None:
        return [None]
    ratio = b.solve(a, t)
    share = b.broadcast(trace(b, ratio), shape=y.shape, dims=tuple(range(y.ndim - 2)))
    return [b.sub(b.mul(share, y), matmul(b, ratio, y))]


composite("adjugate", _infer, _body, _jvp)

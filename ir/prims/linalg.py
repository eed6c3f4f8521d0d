"""Dense linear algebra on stacks of matrices: cholesky, solve, triangular_solve, det, slogdet.

Note [Hermitian tangents]: cholesky reads the lower triangle of its operand, and its derivative is the one
along Hermitian directions: a tangent (or cotangent) is made Hermitian first, as JAX and torch do. Along any
Hermitian direction it is the exact derivative.
"""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Batch, Primitive, register
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
    batched,
    exact,
    linear_transpose,
    need_count,
    need_same,
)
from nufunc.ir.prims.library import matmul
from nufunc.ir.prims.matrices import adjoint, need_square, rows_and_columns, swapped, trace
from nufunc.ir.types import ArrayType, is_complex, real_dtype


def _solve_trace(b: Builder, a: Value, t: Value) -> Value:
    """trace(a^-1 t)."""
    return trace(b, b.solve(a, t))


# -- cholesky


def _cholesky_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("cholesky", types, 1)
    need_square("cholesky", types[0])
    return (types[0],)


def _cholesky_jvp(
    b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs
) -> list[Maybe]:
    """L phi(L^-1 dA L^-H), where phi keeps the lower triangle and halves the diagonal.

    See Note [Hermitian tangents].
    """
    (t,), (low,) = tangents, results
    if t is None:
        return [None]
    half = b.like(t, 0.5)
    t = b.mul(b.add(t, adjoint(b, t)), half)
    left = b.triangular_solve(low, t, lower=True, trans=False, unit=False)
    # (left L^-H)^H = L^-1 left^H
    inner = adjoint(b, b.triangular_solve(low, adjoint(b, left), lower=True, trans=False, unit=False))
    rows, columns = rows_and_columns(b, inner)
    below = b.select(b.gt(rows, columns), inner, b.zeros(inner.type))
    phi = b.select(b.eq(rows, columns), b.mul(inner, half), below)
    return [matmul(b, low, phi)]


register(
    Primitive(
        "cholesky", "library", _cholesky_infer,
        lambda arrays, attrs, regions: [np.linalg.cholesky(arrays[0])],
        _cholesky_jvp, None, batch_all("cholesky"),
    )
)  # fmt: skip


# -- solve and triangular_solve


def _solve_infer(prim: str, types: Types) -> tuple[ArrayType, ...]:
    need_count(prim, types, 2)
    a, right = types
    need_square(prim, a)
    if right.ndim != a.ndim or right.shape[:-1] != a.shape[:-1]:
        raise ShapeError(f"{prim}: the right-hand side {right} does not fit the matrix {a}")
    need_same(prim, [a.with_shape(()), right.with_shape(())])
    return (right,)


def _solve_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """solve(a, db - da x)."""
    (a, _), (ta, tb), (x,) = primals, tangents, results
    moved = None if ta is None else b.neg(matmul(b, ta, x))
    right = b.added(tb, moved)
    return [None if right is None else b.solve(a, right)]


def _solve_batch(name: str) -> Batch:
    """Right-hand sides of one matrix become its further columns; otherwise a longer stack."""

    def batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
        a, right = operands
        if dims[0] is None:
            n, k = right.shape[-2:]
            columns = b.reshaped(b.moved(right, 0, right.ndim - 2), (*a.shape[:-2], n, size * k))
            (out,) = b.emit(name, (a, columns), attrs)
            return [b.moved(b.reshaped(out, (*a.shape[:-2], n, size, k)), right.ndim - 2, 0)], [0]
        return b.emit(name, (a, batched(b, size, right, dims[1])), attrs), [0]

    return batch


register(
    Primitive(
        "solve", "library", lambda types, attrs, regions: _solve_infer("solve", types),
        lambda arrays, attrs, regions: [np.linalg.solve(*arrays)], _solve_jvp,
        linear_transpose(lambda b, ct, operands, types, attrs: [None, b.solve(swapped(b, operands[0]), ct)]),
        _solve_batch("solve"),
    )
)  # fmt: skip


def _triangular_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    """Substitution, row by row; a zero on the diagonal gives inf or NaN, as in BLAS."""
    a, right = arrays
    if attrs["trans"]:
        a = np.swapaxes(a, -1, -2)
    n = a.shape[-1]
    forward = attrs["lower"] != attrs["trans"]
    x = np.zeros_like(right, order="C")
    with np.errstate(all="ignore"):
        for i in range(n) if forward else reversed(range(n)):
            done = np.s_[:i] if forward else np.s_[i + 1 :]
            row = right[..., i, :] - np.matmul(a[..., i, None, done], x[..., done, :])[..., 0, :]
            x[..., i, :] = row if attrs["unit"] else row / a[..., i, i, None]
    return [x]


def _triangular_jvp(
    b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs
) -> list[Maybe]:
    """As for solve, with the part of da that is read."""
    (a, _), (ta, tb), (x,) = primals, tangents, results
    if ta is not None:
        rows, columns = rows_and_columns(b, ta)
        compare = ("gt" if attrs["unit"] else "ge") if attrs["lower"] else ("lt" if attrs["unit"] else "le")
        read = b.select(getattr(b, compare)(rows, columns), ta, b.zeros(ta.type))
        tb = b.added(tb, b.neg(matmul(b, swapped(b, read) if attrs["trans"] else read, x)))
    return [None if tb is None else b.triangular_solve(a, tb, **attrs)]


register(
    Primitive(
        "triangular_solve", "library", lambda types, attrs, regions: _solve_infer("triangular_solve", types),
        _triangular_evaluate, _triangular_jvp,
        linear_transpose(
            lambda b, ct, operands, types, attrs: [
                None, b.triangular_solve(operands[0], ct, **{**attrs, "trans": not attrs["trans"]})
            ]
        ),
        _solve_batch("triangular_solve"), attrs=("lower", "trans", "unit"),
    )
)  # fmt: skip


# -- det and slogdet


def _det_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("det", types, 1)
    need_square("det", types[0])
    return (types[0].with_shape(types[0].shape[:-2]),)


def _rolled(b: Builder, a: Value, axis: int, by: int) -> Value:
    """numpy.roll by -by."""
    extent = a.shape[axis]

    def part(low: int, high: int) -> Value:
        start = tuple(low if k == axis else 0 for k in range(a.ndim))
        stop = tuple(high if k == axis else n for k, n in enumerate(a.shape))
        return b.slice(a, start=start, stop=stop, step=(1,) * a.ndim)

    return b.concat(part(by, extent), part(0, by), axis=axis)


def _cofactors(b: Builder, a: Value) -> Value:
    """The cofactors of matrices of extent 1, 2 or 3: polynomials, which know no singular case."""
    n, rows, columns = a.shape[-1], a.ndim - 2, a.ndim - 1
    if n == 1:
        return b.like(a, 1)
    if n == 2:
        turned = b.flip(a, axes=(rows, columns))
        return b.select(b.eq(*rows_and_columns(b, a)), turned, b.neg(turned))

    def at(i: int, j: int) -> Value:
        return _rolled(b, _rolled(b, a, rows, i), columns, j)

    return b.sub(b.mul(at(1, 1), at(2, 2)), b.mul(at(1, 2), at(2, 1)))


def _det_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """Jacobi's formula trace(adj(a) da), where small matrices have their cofactors written out.

    Second derivatives need the inverse of matrices of extent 4 or more: an error at run time where there is none.
    """
    (a,), (t,) = primals, tangents
    if t is None:
        return [None]
    cofactors = _cofactors(b, a) if 1 <= a.shape[-1] <= 3 else swapped(b, b.adjugate(a))
    return [b.reduce_sum(b.mul(cofactors, t), axes=(a.ndim - 2, a.ndim - 1))]


def _slogdet_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("slogdet", types, 1)
    need_square("slogdet", types[0])
    sign = types[0].with_shape(types[0].shape[:-2])
    return (sign, sign.with_dtype(real_dtype(sign.dtype)))


def _slogdet_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    sign, logabsdet = np.linalg.slogdet(arrays[0])
    return [np.asarray(sign), np.asarray(logabsdet)]


def _slogdet_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """d log|det| is the real part of trace(a^-1 da); its imaginary part turns a complex sign."""
    (a,), (t,), (sign, _) = primals, tangents, results
    if t is None:
        return [None, None]
    share = _solve_trace(b, a, t)
    if not is_complex(a.dtype):
        return [None, share]
    real = b.real(share)
    return [b.mul(sign, b.complex(b.zeros(real.type), b.imag(share))), real]


register(
    Primitive(
        "det", "library", _det_infer,
        lambda arrays, attrs, regions: [exact(np.linalg.det(arrays[0]), arrays[0].dtype)],
        _det_jvp, None, batch_all("det"),
    )
)  # fmt: skip
register(
    Primitive(
        "slogdet", "library", _slogdet_infer, _slogdet_evaluate, _slogdet_jvp, None, batch_all("slogdet")
    )
)

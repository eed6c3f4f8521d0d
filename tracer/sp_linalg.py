"""scipy.linalg for traced values, on stacks of matrices too.

Matrices are not looked at for infinities (`check_finite`), and nothing is overwritten. The root and the logarithm of a
real matrix are real, or an error at run time: SciPy's result would be complex then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import DomainError, ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import FLOAT32, FLOAT64, INT64, ArrayType, is_complex, is_half, is_inexact, real_dtype
from nufunc.tracer import np_decompositions, np_norms, np_solve
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, broadcast_shapes, builder, fail, result_dtype, value_of, wrap
from nufunc.tracer.np_creation import zeros
from nufunc.tracer.np_linalg import matmul
from nufunc.tracer.np_reduce import max as max_
from nufunc.tracer.np_reduce import sum as sum_
from nufunc.tracer.np_shape import matrix_transpose
from nufunc.tracer.np_solve import matrix
from nufunc.tracer.np_ufuncs import UFUNCS
from nufunc.tracer.sp_matrices import STRUCTURED

SINGULAR = "A singular matrix detected."


def _matrix(a: Any, square: bool = True, whole: np.dtype = FLOAT32) -> Array:
    """A stack of matrices; SciPy computes half precision in single, and so, mostly, whole numbers of 8 and 16 bits."""
    x = as_array(a)
    if is_half(x.dtype) or (x.dtype.kind in "biu" and x.dtype.itemsize <= 2):
        x = x.astype(FLOAT32 if is_half(x.dtype) else whole)
    return matrix(x, square)


def _adjoint(x: Array) -> Array:
    return UFUNCS["conjugate"](matrix_transpose(x)) if is_complex(x.dtype) else matrix_transpose(x)


def _no(name: str, **given: Any) -> None:
    """Parameters of SciPy's that are not there."""
    for parameter, value in given.items():
        if value is not None and value is not False:
            raise fail(UnsupportedError, f"{parameter} of scipy.linalg.{name}")


# -- equations


def _sides(a: Array, b: Any) -> tuple[Value, Value, bool]:
    """Matrices and right-hand sides of one dtype and batch, as columns; whether these were one vector."""
    y = as_array(b)
    kind = result_dtype(a.dtype, y.dtype if is_inexact(y.dtype) else FLOAT64)
    n, vector = a.shape[-1], y.ndim == 1
    if not y.ndim or y.shape[0 if vector else -2] != n:
        raise fail(ShapeError, f"shapes of a {a.shape} and b {y.shape} are incompatible")
    bld = builder()
    left, right = bld.astype(value_of(a), kind), bld.astype(value_of(y), kind)
    right = bld.reshape(right, shape=(n, 1)) if vector else right
    lead = broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = bld.broadcast_to(left, (*lead, n, n)), bld.broadcast_to(right, (*lead, *right.shape[-2:]))
    return left, right, vector


def _solution(x: Value, vector: bool) -> Array:
    return wrap(builder().reshape(x, shape=x.shape[:-1]) if vector else x, scalar=False)


def solve_triangular(
    a: Any, b: Any, trans: Any = 0, lower: bool = False, unit_diagonal: bool = False, overwrite_b: bool = False,
    check_finite: bool = True,
) -> Array:  # fmt: skip
    left, right, vector = _sides(_matrix(a), b)
    how = {0: 0, "N": 0, 1: 1, "T": 1, 2: 2, "C": 2}.get(trans)
    if how is None:
        raise fail(ShapeError, f"trans must be 0, 1 or 2 (N, T or C), not {trans!r}")
    bld = builder()
    if how == 2 and is_complex(left.dtype):
        left = bld.conj(left)
    if not unit_diagonal:
        left = _with_pivots(left)
    return _solution(_triangular(left, right, bool(lower), how != 0, bool(unit_diagonal)), vector)


def _triangular(a: Value, b: Value, lower: bool, trans: bool = False, unit: bool = False) -> Value:
    made: Value = builder().triangular_solve(a, b, lower=lower, trans=trans, unit=unit)
    return made


def _with_pivots(a: Value) -> Value:
    """A triangle; an error at run time where its diagonal has a zero."""
    from nufunc.ir.prims.matrices import rows_and_columns

    b = builder()
    zero = b.bit_and(b.eq(*rows_and_columns(b, a)), b.eq(a, b.zeros(a.type)))
    fine = b.bit_not(b.reduce_or(zero, axes=tuple(range(a.ndim))))
    made: Value = b.require(a, fine, message=SINGULAR)
    return made


def cho_factor(a: Any, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True) -> Any:
    return cholesky(a, lower), lower


def cho_solve(c_and_lower: Any, b: Any, overwrite_b: bool = False, check_finite: bool = True) -> Array:
    c, lower = c_and_lower
    left, right, vector = _sides(_matrix(c), b)
    bld = builder()
    other = bld.conj(left) if is_complex(left.dtype) else left
    if lower:
        half = _triangular(left, right, True)
        return _solution(_triangular(other, half, True, trans=True), vector)
    half = _triangular(other, right, False, trans=True)
    return _solution(_triangular(left, half, False), vector)


def cholesky(a: Any, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True) -> Array:
    """SciPy reads the triangle that it returns."""
    x = _matrix(a)
    made = wrap(builder().cholesky(value_of(x if lower else _adjoint(x))))
    return made if lower else _adjoint(made)


def _mirrored(x: Array, lower: bool, hermitian: bool) -> Array:
    """A symmetric or Hermitian matrix from one triangle."""
    from nufunc.tracer.np_creation import tril, triu

    half, strict = (tril(x), tril(x, -1)) if lower else (triu(x), triu(x, 1))
    return half + (_adjoint(strict) if hermitian else matrix_transpose(strict))


_TRIANGLES = {"lower triangular": True, "upper triangular": False}


def solve(
    a: Any, b: Any, lower: bool = False, overwrite_a: bool = False, overwrite_b: bool = False,
    check_finite: bool = True, assume_a: Any = None, transposed: bool = False,
) -> Array:  # fmt: skip
    x = _matrix(a, whole=FLOAT64)
    if transposed:
        x = matrix_transpose(x)
        lower = not lower
    if assume_a in _TRIANGLES:
        return solve_triangular(x, b, lower=_TRIANGLES[assume_a] != bool(transposed))
    if assume_a in ("pos", "positive definite"):
        return cho_solve(cho_factor(x, lower), b)
    if assume_a in ("sym", "symmetric", "her", "hermitian"):
        x = _mirrored(x, lower, assume_a in ("her", "hermitian"))
    elif assume_a not in (None, "gen", "general", "diagonal", "tridiagonal", "banded"):
        raise fail(ShapeError, f"{assume_a} is not a recognized matrix structure")
    left, right, vector = _sides(x, b)
    return _solution(builder().solve(left, right), vector)


def inv(
    a: Any, overwrite_a: bool = False, check_finite: bool = True, *, assume_a: Any = None, lower: bool = False
) -> Array:
    if assume_a in _TRIANGLES:
        return solve_triangular(a, _identity(_matrix(a)), lower=_TRIANGLES[assume_a])
    x = _matrix(a)
    if assume_a in ("sym", "symmetric", "her", "hermitian", "pos", "positive definite"):
        x = _mirrored(x, lower, assume_a not in ("sym", "symmetric"))
    return np_solve.inv(x)


def _identity(x: Array) -> Array:
    from nufunc.tracer.np_creation import eye

    return eye(x.shape[-1], dtype=x.dtype)


def det(a: Any, overwrite_a: bool = False, check_finite: bool = True) -> Array:
    """In double precision, as SciPy does."""
    x = _matrix(a, whole=FLOAT64)
    return np_solve.det(x.astype(np.complex128 if is_complex(x.dtype) else FLOAT64))


# -- lu


def lu_factor(a: Any, overwrite_a: bool = False, check_finite: bool = True) -> Any:
    packed, pivots, _ = builder().lu(value_of(_matrix(a, square=False)))
    return wrap(packed), wrap(pivots)


def _order(pivots: Value, rows: int) -> Value:
    """The order of rows that exchanges lead to, one after the other."""
    from nufunc.ir.builder import Builder

    b, body = builder(), Builder("exchange")
    type_ = ArrayType((*pivots.shape[:-1], rows), INT64)
    order, k = body.param(type_), body.param(ArrayType((), INT64))
    pivot = body.param(type_.with_shape(type_.shape[:-1]))
    place = body.iota(shape=type_.shape, dtype=INT64, axis=type_.ndim - 1)
    here, zero = body.broadcast_to(k, type_.shape), body.zeros(type_)
    there = body.broadcast(pivot, shape=type_.shape, dims=tuple(range(type_.ndim - 1)))
    pairs = []
    for at in (here, there):
        found = body.reduce_sum(body.select(body.eq(place, at), order, zero), axes=(type_.ndim - 1,))
        pairs.append(body.broadcast(found, shape=type_.shape, dims=tuple(range(type_.ndim - 1))))
    moved = body.select(body.eq(place, there), pairs[0], order)
    region = body.build([body.select(body.eq(place, here), pairs[1], moved)])
    count = pivots.shape[-1]
    start = b.iota(shape=type_.shape, dtype=INT64, axis=type_.ndim - 1)
    items = [b.iota(shape=(count,), dtype=INT64, axis=0), b.moved(b.astype(pivots, INT64), pivots.ndim - 1, 0)]
    attrs = {"length": count, "reverse": False, "num_consts": 0, "num_carry": 1}
    return b.emit("scan", (start, *items), attrs, (region,))[0]


def lu_solve(lu_and_piv: Any, b: Any, trans: Any = 0, overwrite_b: bool = False, check_finite: bool = True) -> Array:
    packed, pivots = lu_and_piv
    left, right, vector = _sides(_matrix(packed), b)
    bld, n = builder(), left.shape[-1]
    order = bld.broadcast_to(_order(value_of(as_array(pivots)), n), (*left.shape[:-2], n))
    if trans not in (0, 1, 2):
        raise fail(ShapeError, f"trans must be 0, 1 or 2, not {trans!r}")
    if trans == 0:
        half = _triangular(left, _reordered(right, order), True, unit=True)
        return _solution(_triangular(left, half, False), vector)
    left = bld.conj(left) if trans == 2 and is_complex(left.dtype) else left
    half = _triangular(left, right, False, trans=True)
    made = _triangular(left, half, True, trans=True, unit=True)
    return _solution(_reordered(made, bld.argsort(order, axis=order.ndim - 1)), vector)


def _reordered(x: Value, order: Value) -> Value:
    """The rows of each matrix in another order."""
    from nufunc.ir.prims.reduce import take_along

    b = builder()
    return take_along(b, x, b.broadcast(order, shape=x.shape, dims=tuple(range(x.ndim - 1))), x.ndim - 2)


def lu(
    a: Any, permute_l: bool = False, overwrite_a: bool = False, check_finite: bool = True, p_indices: bool = False
) -> Any:
    from nufunc.ir.prims.matrices import eye, part, where_entries

    x = value_of(_matrix(a, square=False))
    bld, (m, n) = builder(), x.shape[-2:]
    k = min(m, n)
    packed, _, order = bld.lu(x)
    low = where_entries(bld, "gt", part(bld, packed, (0, m), (0, k)))
    low = bld.add(low, eye(bld, low.type))
    high = where_entries(bld, "le", part(bld, packed, (0, k), (0, n)))
    back = bld.argsort(order, axis=order.ndim - 1)
    if permute_l:
        return wrap(_reordered(low, back)), wrap(high)
    if p_indices:
        return wrap(bld.astype(back, np.dtype(np.int32))), wrap(low), wrap(high)
    square = ArrayType((*x.shape[:-2], m, m), real_dtype(x.dtype))
    rows = bld.iota(shape=square.shape, dtype=INT64, axis=square.ndim - 2)
    chosen = bld.eq(rows, bld.broadcast(order, shape=square.shape, dims=(*range(square.ndim - 2), square.ndim - 1)))
    return wrap(bld.select(chosen, bld.filled(1, square), bld.zeros(square))), wrap(low), wrap(high)


# -- functions of matrices


def _function(name: str) -> Callable[..., Array]:
    def call(A: Any, disp: Any = True, blocksize: Any = None) -> Array:
        _no(f"{name}m", disp=None if disp else "disp=False")
        x = _matrix(A, whole=FLOAT64)
        if name == "log":  # SciPy's computes in double precision
            x = x.astype(np.complex128 if is_complex(x.dtype) else FLOAT64)
        return wrap(builder().matfun(value_of(x), name=name))

    return call


def expm(A: Any) -> Array:
    return wrap(builder().matfun(value_of(_matrix(A, whole=FLOAT64)), name="exp"))


def _of_rotation(A: Any) -> tuple[Array, Array]:
    """(cosm, sinm)."""
    x = _matrix(A, whole=FLOAT64)
    turned = expm(x * 1j)
    if not is_complex(x.dtype):
        return turned.real.copy(), turned.imag.copy()
    other = expm(x * -1j)
    return (turned + other) * 0.5, (turned - other) * -0.5j


def cosm(A: Any) -> Array:
    return _of_rotation(A)[0]


def sinm(A: Any) -> Array:
    return _of_rotation(A)[1]


def tanm(A: Any) -> Array:
    c, s = _of_rotation(A)
    return np_solve.solve(c, s)


def coshm(A: Any) -> Array:
    x = _matrix(A, whole=FLOAT64)
    return (expm(x) + expm(-x)) * 0.5


def sinhm(A: Any) -> Array:
    x = _matrix(A, whole=FLOAT64)
    return (expm(x) - expm(-x)) * 0.5


def tanhm(A: Any) -> Array:
    return np_solve.solve(coshm(A), sinhm(A))


# -- decompositions


def qr(
    a: Any, overwrite_a: bool = False, lwork: Any = None, mode: str = "full", pivoting: bool = False,
    check_finite: bool = True,
) -> Any:  # fmt: skip
    _no("qr", pivoting=pivoting or None, mode="mode='raw'" if mode == "raw" else None)
    if mode not in ("full", "r", "economic"):
        raise fail(ShapeError, "Mode argument should be one of ['full', 'r', 'economic', 'raw']")
    q, r = builder().qr(value_of(_matrix(a, square=False)), full=mode != "economic", vectors=True)
    return (wrap(r),) if mode == "r" else (wrap(q), wrap(r))


def svd(
    a: Any, full_matrices: bool = True, compute_uv: bool = True, overwrite_a: bool = False, check_finite: bool = True,
    lapack_driver: str = "gesdd",
) -> Any:  # fmt: skip
    made = np_decompositions.svd(_matrix(a, square=False), full_matrices, compute_uv)
    return tuple(made) if compute_uv else made


def svdvals(a: Any, overwrite_a: bool = False, check_finite: bool = True) -> Array:
    return np_decompositions.singular_values(_matrix(a, square=False))


def eigh(
    a: Any, b: Any = None, *, lower: bool = True, eigvals_only: bool = False, overwrite_a: bool = False,
    overwrite_b: bool = False, type: int = 1, check_finite: bool = True, subset_by_index: Any = None,
    subset_by_value: Any = None, driver: Any = None,
) -> Any:  # fmt: skip
    _no("eigh", type=None if type == 1 else "type 2 or 3", subset_by_value=subset_by_value)
    x, bld = _matrix(a), builder()
    factor = None
    if b is not None:  # a v = w b v with b = l l^H: an ordinary problem for l^-1 a l^-H
        factor = cholesky(_mirrored(_matrix(b), lower, True), lower=True)
        inner = solve_triangular(factor, _mirrored(x, lower, True), lower=True)
        x, lower = _adjoint(solve_triangular(factor, _adjoint(inner), lower=True)), True
    w, v = (wrap(r) for r in bld.eigh(value_of(x), lower=bool(lower), vectors=True))
    if factor is not None:
        v = solve_triangular(factor, v, trans="C", lower=True)
    if subset_by_index is not None:
        first, last = (int(k) for k in subset_by_index)
        if not 0 <= first <= last < x.shape[-1]:
            raise fail(
                DomainError,
                f"Requested eigenvalue indices are not valid. Valid range is [0, {x.shape[-1] - 1}] and start <= end, "
                f"but start={first}, end={last} is given",
            )
        w, v = w[..., first : last + 1], v[..., first : last + 1]
    return w if eigvals_only else (w, v)


def eigvalsh(
    a: Any, b: Any = None, *, lower: bool = True, overwrite_a: bool = False, overwrite_b: bool = False, type: int = 1,
    check_finite: bool = True, subset_by_index: Any = None, subset_by_value: Any = None, driver: Any = None,
) -> Any:  # fmt: skip
    return eigh(
        a, b, lower=lower, eigvals_only=True, type=type, subset_by_index=subset_by_index,
        subset_by_value=subset_by_value,
    )  # fmt: skip


def eig(
    a: Any, b: Any = None, left: bool = False, right: bool = True, overwrite_a: bool = False, overwrite_b: bool = False,
    check_finite: bool = True, homogeneous_eigvals: bool = False,
) -> Any:  # fmt: skip
    _no("eig", b=b, left=left or None, homogeneous_eigvals=homogeneous_eigvals or None)
    w, v = np_decompositions._eig(_matrix(a))
    return (w, v) if right else w


def eigvals(
    a: Any, b: Any = None, overwrite_a: bool = False, check_finite: bool = True, homogeneous_eigvals: bool = False
) -> Array:
    _no("eigvals", b=b, homogeneous_eigvals=homogeneous_eigvals or None)
    return np_decompositions.eigvals(_matrix(a))


def schur(a: Any, output: str = "real", **options: Any) -> Any:
    _no("schur", **{k: v for k, v in options.items() if k not in ("overwrite_a", "check_finite")})
    x = _matrix(a, whole=FLOAT64)
    if output not in ("real", "complex", "r", "c"):
        raise fail(ShapeError, "argument must be 'real', or 'complex'")
    t, z = builder().schur(value_of(x), real=output in ("real", "r") and not is_complex(x.dtype))
    return wrap(t), wrap(z)


def hessenberg(a: Any, calc_q: bool = False, overwrite_a: bool = False, check_finite: bool = True) -> Any:
    x = _matrix(a)
    if x.shape[-1] <= 2:
        from nufunc.tracer.np_shape import broadcast_to

        return (x.copy(), broadcast_to(_identity(x), x.shape).copy()) if calc_q else x.copy()
    h, q = builder().hessenberg(value_of(x))
    return (wrap(h), wrap(q)) if calc_q else wrap(h)


def pinv(a: Any, *, atol: Any = None, rtol: Any = None, return_rank: bool = False, check_finite: bool = True) -> Any:
    """The cutoff of singular values is atol + rtol times the largest."""
    x = _matrix(a, square=False)
    ratio = rtol
    if rtol is None:
        ratio = max(x.shape[-2:]) * np.finfo(x.dtype).eps if atol is None else 0.0
    s = np_decompositions.singular_values(x)
    most = max_(s, -1) if s.shape[-1] else zeros(s.shape[:-1], s.dtype)
    if atol is not None:
        from nufunc.tracer.np_misc import where

        ratio = (where(most > 0, atol / where(most > 0, most, 1.0), 0.0) + ratio).astype(s.dtype)
    made = np_decompositions.pinv(x, rtol=None) if rtol is None and atol is None else np_decompositions.pinv(x, ratio)
    if not return_rank:
        return made
    return made, sum_((s > (most * ratio)[..., None]).astype(INT64), -1)


def lstsq(
    a: Any, b: Any, cond: Any = None, overwrite_a: bool = False, overwrite_b: bool = False, check_finite: bool = True,
    lapack_driver: Any = None,
) -> Any:  # fmt: skip
    x = _matrix(a, square=False)
    made, residuals, rank, s = np_decompositions.lstsq(x, b, cond)
    if as_array(b).ndim == 1 and residuals.shape == (1,):
        residuals = residuals[0]
    return made, residuals, rank, s


def norm(a: Any, ord: Any = None, axis: Any = None, keepdims: bool = False, check_finite: bool = True) -> Array:
    """The Euclidean norm of a vector in double precision, as SciPy gives it."""
    x = as_array(a)
    if axis is None and not keepdims and is_inexact(x.dtype) and x.ndim == 1 and ord in (None, 2):
        x = x.astype(np.complex128 if is_complex(x.dtype) else FLOAT64)
    return np_norms.norm(x, ord, axis, keepdims)


def polar(a: Any, side: str = "right") -> tuple[Array, Array]:
    if side not in ("right", "left"):
        raise fail(ShapeError, "`side` must be either 'right' or 'left'")
    w, s, vh = np_decompositions.svd(_matrix(a, square=False), full_matrices=False)
    base = _adjoint(vh) if side == "right" else w
    return matmul(w, vh), matmul(base * s[..., None, :], _adjoint(base))


_NAMED: tuple[Callable[..., Any], ...] = (
    solve_triangular, cho_factor, cho_solve, cholesky, solve, inv, det, lu_factor, lu_solve, lu, expm, cosm, sinm, tanm,
    coshm, sinhm, tanhm, qr, svd, svdvals, eigh, eigvalsh, eig, eigvals, schur, hessenberg, pinv, lstsq, norm, polar,
    *STRUCTURED,
)  # fmt: skip
LINALG = {**{f.__name__: f for f in _NAMED}, "sqrtm": _function("sqrt"), "logm": _function("log")}



"""numpy.linalg: decompositions, and what is defined by them: pinv, lstsq.

Of real matrices eig and eigvals give complex results always (NumPy: real ones where all eigenvalues happen to be real,
which nobody knows while a function is compiled); lstsq gives the residuals of systems with more rows than columns
always (NumPy: none where the rank is not full).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError
from nufunc.ir.graph import Value
from nufunc.ir.types import FLOAT64, is_complex, is_inexact, real_dtype
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, broadcast_shapes, builder, fail, result_dtype, value_of, wrap
from nufunc.tracer.np_creation import zeros
from nufunc.tracer.np_misc import take_along_axis
from nufunc.tracer.np_reduce import sum as sum_
from nufunc.tracer.np_shape import flip, matrix_transpose
from nufunc.tracer.np_solve import MatrixError, in_double, matrix
from nufunc.tracer.np_ufuncs import UFUNCS

NOT_FINITE = "Array must not contain infs or NaNs"


@functools.cache
def _result_type(name: str) -> Any:
    """NumPy's named tuple of the results of a function."""
    return type(getattr(np.linalg, name)(np.eye(1)))


def finite(x: Array) -> Array:
    """The operand of a routine that does not stand infinities: an error at run time where it has some."""
    b, a = builder(), value_of(x)
    fine = b.isfinite(a)
    return wrap(b.require(a, b.reduce_and(fine, axes=tuple(range(a.ndim))), message=NOT_FINITE), scalar=False)


# -- qr


def qr(a: Any, mode: str = "reduced") -> Any:
    x = matrix(a, square=False)
    if mode not in ("reduced", "complete", "r", "raw"):
        raise fail(ShapeError, f"Unrecognized mode {mode!r}")
    if mode == "raw":
        h, tau = builder().householder(value_of(x))
        return wrap(h), wrap(tau)
    q, r = builder().qr(value_of(x), full=mode == "complete", vectors=True)
    return wrap(r) if mode == "r" else _result_type("qr")(wrap(q), wrap(r))


# -- svd


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    if hermitian:
        return _hermitian_svd(matrix(a), compute_uv)
    x = matrix(a, square=False)
    if not compute_uv:
        return singular_values(x)
    u, s, vh = builder().svd(value_of(x), full=bool(full_matrices), vectors=True)
    return _result_type("svd")(wrap(u), wrap(s), wrap(vh))


def _hermitian_svd(x: Array, vectors: bool) -> Any:
    """From eigenvalues: their sizes, largest first; the signs go to the right side."""
    w, v = (wrap(r) for r in builder().eigh(value_of(x), lower=True, vectors=True))
    size = UFUNCS["absolute"](w)
    from nufunc.tracer.np_sorting import argsort, sort

    if not vectors:
        return flip(sort(size), -1)
    order = flip(argsort(size), -1)
    sign = take_along_axis(UFUNCS["copysign"](1.0, w).astype(w.dtype), order, axis=-1)
    u = take_along_axis(v, order[..., None, :], axis=-1)
    vh = UFUNCS["conjugate"](matrix_transpose(u * sign[..., None, :]))
    return _result_type("svd")(u, take_along_axis(size, order, axis=-1), vh)


def singular_values(x: Any) -> Array:
    """With their vectors, which are left out in the end if no derivative asks for them."""
    _, s, _ = builder().svd(value_of(matrix(x, square=False)), full=False, vectors=True)
    return wrap(s)


def svdvals(x: Any, /) -> Array:
    return singular_values(x)


# -- eigenvalues


def _lower(UPLO: Any) -> bool:
    half = UPLO.upper()
    if half not in ("L", "U"):
        raise fail(ShapeError, "UPLO argument must be 'L' or 'U'")
    return bool(half == "L")


def _eigh(a: Any, UPLO: Any) -> tuple[Array, Array]:
    lower = _lower(UPLO)
    w, v = builder().eigh(value_of(matrix(a)), lower=lower, vectors=True)
    return wrap(w), wrap(v)


def eigh(a: Any, UPLO: str = "L") -> Any:
    return _result_type("eigh")(*_eigh(a, UPLO))


def eigvalsh(a: Any, UPLO: str = "L") -> Array:
    return _eigh(a, UPLO)[0]


def _eig(a: Any) -> tuple[Array, Array]:
    w, v = builder().eig(value_of(finite(matrix(a))), vectors=True)
    return wrap(w), wrap(v)


def eig(a: Any) -> Any:
    return _result_type("eig")(*_eig(a))


def eigvals(a: Any) -> Array:
    return _eig(a)[0]


# -- pinv and lstsq


def _per_matrix(ratio: Any, shape: tuple[int, ...], dtype: np.dtype) -> Value:
    b = builder()
    return b.broadcast_to(b.astype(value_of(as_array(ratio)), dtype), shape)


def pinv(a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = np._NoValue) -> Array:
    given = as_array(a)
    if given.ndim >= 2 and 0 in given.shape[-2:]:
        return zeros((*given.shape[:-2], given.shape[-1], given.shape[-2]), given.dtype)
    x = matrix(given, square=bool(hermitian))
    default = max(x.shape[-2:]) * np.finfo(x.dtype).eps
    cut = rcond is not None or (rtol is not None and rtol is not np._NoValue)
    if rcond is None:
        rcond = 1e-15 if rtol is np._NoValue else default if rtol is None else rtol
    elif rtol is not np._NoValue:
        raise fail(ShapeError, "`rtol` and `rcond` can't be both set.")
    ratio = as_array(rcond)
    lead = broadcast_shapes(x.shape[:-2], ratio.shape)
    b = builder()
    wide = b.broadcast_to(value_of(in_double(x)), (*lead, *x.shape[-2:]))
    made = b.pinv(wide, _per_matrix(ratio, lead, FLOAT64), hermitian=bool(hermitian), cut=cut)
    return wrap(b.astype(made, x.dtype))


def lstsq(a: Any, b: Any, rcond: Any = None) -> tuple[Array, Array, Array, Array]:
    x, y = matrix(a, square=False), as_array(b)
    vector = y.ndim == 1
    if x.ndim != 2 or y.ndim not in (1, 2):
        wrong = x if x.ndim != 2 else y
        raise fail(MatrixError, f"{wrong.ndim}-dimensional array given. Array must be two-dimensional")
    m, n = x.shape
    if y.shape[0] != m:
        raise fail(MatrixError, "Incompatible dimensions")
    kind = result_dtype(x.dtype, y.dtype if is_inexact(y.dtype) else FLOAT64)
    bld = builder()
    left, right = (value_of(in_double(v.astype(kind))) for v in (x, y))
    right = bld.reshape(right, shape=(m, 1)) if vector else right
    ratio = np.finfo(np.float64).eps * max(m, n) if rcond is None else rcond
    cutoff = _per_matrix(ratio, (), FLOAT64)
    solution = bld.lstsq(left, right, cutoff, cut=rcond is not None)
    s = singular_values(wrap(left))
    rank = _rank(s, wrap(cutoff))
    residuals = _residuals(wrap(left), wrap(right), wrap(solution))
    shaped = bld.reshape(solution, shape=(n,)) if vector else solution
    real = real_dtype(kind)
    return wrap(bld.astype(shaped, kind)), residuals.astype(real), rank, s.astype(real)


def _rank(s: Array, cutoff: Array) -> Array:
    rank = np.dtype(np.int32)
    return sum_((s > s[0] * cutoff).astype(rank), -1, dtype=rank) if s.size else zeros((), dtype=rank)[()]


def _residuals(a: Array, side: Array, x: Array) -> Array:
    from nufunc.tracer.np_linalg import matmul

    if a.shape[0] <= a.shape[1]:
        return zeros((0,), dtype=real_dtype(x.dtype))
    rest = side - matmul(a, x)
    squares = rest.real * rest.real + rest.imag * rest.imag if is_complex(rest.dtype) else rest * rest
    return sum_(squares, 0)


LINALG: tuple[Callable[..., Any], ...] = (qr, svd, svdvals, eigh, eigvalsh, eig, eigvals, pinv, lstsq)

"""numpy.linalg: norms of vectors and matrices, cond, matrix_rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError
from nufunc.ir.types import FLOAT32, FLOAT64, INT64, is_bfloat16, is_complex, is_inexact, real_dtype
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, builder, fail, normal_axes, normal_axis, value_of, wrap
from nufunc.tracer.np_decompositions import singular_values, svd
from nufunc.tracer.np_reduce import any as any_
from nufunc.tracer.np_reduce import max as max_
from nufunc.tracer.np_reduce import min as min_
from nufunc.tracer.np_reduce import sum as sum_
from nufunc.tracer.np_shape import moveaxis
from nufunc.tracer.np_solve import MatrixError, in_double, matrix
from nufunc.tracer.np_ufuncs import UFUNCS


def _floats(x: Any) -> Array:
    v = as_array(x)
    return v if is_inexact(v.dtype) else v.astype(FLOAT64)


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Array:
    """numpy.linalg.norm, of every order."""
    v = _floats(x)
    if is_bfloat16(v.dtype):
        return norm(v.astype(FLOAT32), ord, axis, keepdims).astype(v.dtype)
    if axis is None:
        if ord is None or (ord in ("f", "fro") and v.ndim == 2) or (ord == 2 and v.ndim == 1):
            result = _euclidean(v, None)
            return result.reshape((1,) * v.ndim) if keepdims else result
        axes = tuple(range(v.ndim))
    else:
        given = axis if isinstance(axis, (tuple, list)) else (axis,)
        axes = tuple(normal_axis(i, v.ndim) for i in given)
    if len(axes) == 1:
        return _vector_norm(v, ord, axes[0], keepdims)
    if len(axes) == 2:
        return _matrix_norm(v, ord, axes, keepdims)
    raise fail(ShapeError, "Improper number of dimensions to norm.")


def _euclidean(v: Array, axes: Any, keepdims: bool = False) -> Array:
    squares = v.real * v.real + v.imag * v.imag if is_complex(v.dtype) else v * v
    return UFUNCS["sqrt"](sum_(squares, axes, keepdims=keepdims))


def _largest(size: Array, axis: int, keepdims: bool) -> Array:
    """The maximum, 0 of nothing."""
    return max_(size, axis, keepdims=keepdims, **({} if size.shape[axis] else {"initial": 0}))


def _vector_norm(v: Array, ord: Any, axis: int, keepdims: bool) -> Array:
    if ord is None or ord == 2:
        return _euclidean(v, axis, keepdims)
    size = UFUNCS["absolute"](v)
    if isinstance(ord, str):
        raise fail(ShapeError, f"Invalid norm order {ord!r} for vectors")
    if ord == np.inf:
        return _largest(size, axis, keepdims)
    if ord == -np.inf:
        return min_(size, axis, keepdims=keepdims)
    if ord == 0:
        return sum_((v != 0).astype(size.dtype), axis, keepdims=keepdims)
    if ord == 1:
        return sum_(size, axis, keepdims=keepdims)
    return sum_(size**ord, axis, keepdims=keepdims) ** (1.0 / ord)


def _matrix_norm(v: Array, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Array:
    if axes[0] == axes[1]:
        raise fail(ShapeError, "Duplicate axes given.")
    if ord is None or ord in ("f", "fro"):
        return _euclidean(v, axes, keepdims)
    if ord in (1, -1, np.inf, -np.inf):
        first, second = axes if ord in (1, -1) else axes[::-1]
        sums = sum_(UFUNCS["absolute"](v), first, keepdims=True)
        result = _largest(sums, second, True) if ord > 0 else min_(sums, second, keepdims=True)
    elif ord in (2, -2, "nuc"):
        s = singular_values(moveaxis(v, axes, (-2, -1)))
        if ord == "nuc":
            result = sum_(s, -1)
        else:
            result = _largest(s, s.ndim - 1, False) if ord == 2 else min_(s, -1)
    else:
        raise fail(ShapeError, "Invalid norm order for matrices.")
    extents = [1 if k in axes else n for k, n in enumerate(v.shape)]
    if keepdims:
        return result.reshape(tuple(extents))
    flat = result.reshape(tuple(n for k, n in enumerate(v.shape) if k not in axes))
    return flat if flat.ndim else flat[()]


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Array:
    v = _floats(x)
    axes = normal_axes(axis, v.ndim)
    if ord == 2:
        return _euclidean(v, axes, keepdims)
    rest = tuple(i for i in range(v.ndim) if i not in axes)
    sizes = (math.prod(v.shape[i] for i in axes), *(v.shape[i] for i in rest))
    result = _vector_norm(v.transpose((*axes, *rest)).reshape(sizes), ord, 0, False)
    return result.reshape(tuple(1 if i in axes else n for i, n in enumerate(v.shape))) if keepdims else result


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    return norm(x, ord, (-2, -1), keepdims)


# -- what depends on singular values


def _inverse_or_infinity(x: Array) -> Array:
    """The inverse by elimination; infinities and NaN where there is none."""
    b, a = builder(), value_of(x)
    packed, _, order = b.lu(a)
    columns = b.iota(shape=a.shape, dtype=INT64, axis=a.ndim - 1)
    rows = b.broadcast(order, shape=a.shape, dims=tuple(range(a.ndim - 1)))
    exchanged = b.select(b.eq(rows, columns), b.like(a, 1), b.zeros(a.type))
    half = b.triangular_solve(packed, exchanged, lower=True, trans=False, unit=True)
    return wrap(b.triangular_solve(packed, half, lower=False, trans=False, unit=False))


def cond(x: Any, p: Any = None) -> Array:
    v = matrix(x, square=False)
    if not v.shape[-1] or not v.shape[-2]:
        raise fail(MatrixError, "cond is not defined on empty arrays")
    if p is None or p in (2, -2):
        s = singular_values(in_double(v))
        result = s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    else:
        w = in_double(matrix(v))
        result = norm(w, p, (-2, -1)) * norm(_inverse_or_infinity(w), p, (-2, -1))
    result = result.astype(real_dtype(v.dtype))
    wrong = UFUNCS["logical_and"](
        UFUNCS["isnan"](result), UFUNCS["logical_not"](any_(UFUNCS["isnan"](v), axis=(-2, -1)))
    )
    from nufunc.tracer.np_misc import where

    chosen = where(wrong, np.inf, result).astype(result.dtype)
    return chosen if chosen.ndim else chosen[()]


def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Array:
    if rtol is not None and tol is not None:
        raise fail(ShapeError, "`tol` and `rtol` can't be both set.")
    v = as_array(A)
    if v.ndim < 2:
        return any_(v != 0).astype(INT64)
    x = matrix(v, square=bool(hermitian))
    s = svd(in_double(x), compute_uv=False, hermitian=hermitian).astype(real_dtype(x.dtype))
    if tol is not None:
        bound = as_array(tol)[..., None]
    else:
        ratio = max(v.shape[-2:]) * np.finfo(s.dtype).eps if rtol is None else as_array(rtol)[..., None]
        bound = _largest(s, s.ndim - 1, True) * ratio
    return sum_((s > bound).astype(INT64), -1)


LINALG: tuple[Callable[..., Any], ...] = (norm, vector_norm, matrix_norm, cond, matrix_rank)

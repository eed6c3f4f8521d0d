"""numpy.linalg: equations, inverses, determinants, powers and chains of matrices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError, LinAlgError, ShapeError
from nufunc.ir.types import FLOAT64, is_complex, is_half, is_inexact
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    fail,
    normal_axis,
    result_dtype,
    static_int,
    value_of,
    wrap,
)
from nufunc.tracer.np_einsum import einsum
from nufunc.tracer.np_linalg import dot, matmul


class MatrixError(LinAlgError, np.linalg.LinAlgError):
    """A matrix of a wrong shape: also numpy.linalg.LinAlgError."""


def matrix(a: Any, square: bool = True) -> Array:
    """An operand of LAPACK: a float or complex stack of matrices."""
    x = as_array(a)
    if is_half(x.dtype):
        raise fail(DTypeError, f"array type {x.dtype} is unsupported in linalg")
    if x.ndim < 2:
        raise fail(MatrixError, f"{x.ndim}-dimensional array given. Array must be at least two-dimensional")
    if square and x.shape[-1] != x.shape[-2]:
        raise fail(MatrixError, "Last 2 dimensions of the array must be square")
    return x if is_inexact(x.dtype) else x.astype(FLOAT64)


def in_double(x: Array) -> Array:
    """NumPy's linear algebra computes in double precision; so does ours where singular values meet a bound."""
    return x.astype(np.complex128 if is_complex(x.dtype) else FLOAT64)


def solve(a: Any, b: Any) -> Array:
    x = matrix(a)
    y = as_array(b)
    kind = result_dtype(x.dtype, y.dtype if is_inexact(y.dtype) else FLOAT64)
    vector = y.ndim == 1
    if not y.ndim:
        raise fail(MatrixError, "solve needs a right-hand side of at least one dimension")
    n = x.shape[-1]
    extent = y.shape[0] if vector else y.shape[-2]
    if extent != n:
        raise fail(
            ShapeError,
            f"solve: a matrix of shape {x.shape} does not fit a right-hand side of shape {y.shape}",
        )
    bld = builder()
    left, right = bld.astype(value_of(x), kind), bld.astype(value_of(y), kind)
    if vector:
        right = bld.reshape(right, shape=(n, 1))
    batch = broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left = bld.broadcast_to(left, (*batch, n, n))
    right = bld.broadcast_to(right, (*batch, *right.shape[-2:]))
    value = bld.solve(left, right)
    return wrap(bld.reshape(value, shape=value.shape[:-1]) if vector else value)


def inv(a: Any) -> Array:
    from nufunc.tracer.np_creation import eye
    from nufunc.tracer.np_shape import broadcast_to

    x = matrix(a)
    return solve(x, broadcast_to(eye(x.shape[-1], dtype=x.dtype), x.shape))


def det(a: Any) -> Array:
    return wrap(builder().det(value_of(matrix(a))))


def slogdet(a: Any) -> Any:
    sign, log = builder().slogdet(value_of(matrix(a)))
    return _SlogdetResult(wrap(sign), wrap(log))


_SlogdetResult = type(np.linalg.slogdet(np.eye(1)))


def cholesky(a: Any, /, *, upper: bool = False) -> Array:
    x = matrix(a)
    if not upper:
        return wrap(builder().cholesky(value_of(x)))
    from nufunc.tracer.np_shape import matrix_transpose

    lower = wrap(builder().cholesky(value_of(matrix_transpose(x).conj())))
    return matrix_transpose(lower).conj()


def matrix_power(a: Any, n: int) -> Array:
    x = as_array(a)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise fail(MatrixError, "Last 2 dimensions of the array must be square")
    exponent = static_int(n, "the exponent of matrix_power")
    if exponent < 0:
        return matrix_power(inv(x), -exponent)
    if exponent == 0:
        from nufunc.tracer.np_creation import eye
        from nufunc.tracer.np_shape import broadcast_to

        return broadcast_to(eye(x.shape[-1], dtype=x.dtype), x.shape).copy()
    result: Array | None = None
    while exponent:
        if exponent % 2:
            result = x if result is None else matmul(result, x)
        exponent //= 2
        if exponent:
            x = matmul(x, x)
    assert result is not None
    return result.copy() if result is a else result


def multi_dot(arrays: Sequence[Any], *, out: Any = None) -> Array:
    parts = [as_array(x) for x in arrays]
    if len(parts) < 2:
        raise fail(ShapeError, "Expecting at least two arrays.")
    if len(parts) == 2:
        return dot(parts[0], parts[1], out=out)
    for place, part in enumerate(parts):
        inner = 0 < place < len(parts) - 1
        if part.ndim != 2 and (inner or part.ndim != 1):
            raise fail(LinAlgError, f"{part.ndim}-dimensional array given. Array must be two-dimensional")
    for before, after in itertools.pairwise(parts):
        if before.shape[-1] != after.shape[0]:
            raise fail(ShapeError, f"shapes {before.shape} and {after.shape} not aligned")
    letters = [f"{chr(97 + i)}{chr(98 + i)}" for i in range(len(parts))]
    first, last = parts[0].ndim == 1, parts[-1].ndim == 1
    letters[0] = letters[0][1:] if first else letters[0]
    letters[-1] = letters[-1][:1] if last else letters[-1]
    output = ("" if first else letters[0][0]) + ("" if last else letters[-1][1])
    return einsum(",".join(letters) + "->" + output, *parts, out=out)


def tensorsolve(a: Any, b: Any, axes: Any = None) -> Array:
    x, y = as_array(a), as_array(b)
    if axes is not None:
        order = list(range(x.ndim))
        for k in axes:
            place = normal_axis(k, x.ndim)
            order.remove(place)
            order.append(place)
        x = x.transpose(order)
    shape = x.shape[-(x.ndim - y.ndim) :]
    size = math.prod(shape)
    if x.size != size**2:
        raise fail(
            MatrixError,
            "Input arrays must satisfy the requirement prod(a.shape[b.ndim:]) == prod(a.shape[:b.ndim])",
        )
    return solve(x.reshape((size, size)), y.ravel()).reshape(shape)


def tensorinv(a: Any, ind: int = 2) -> Array:
    x, count = as_array(a), static_int(ind, "ind")
    if count <= 0:
        raise fail(ShapeError, "Invalid ind argument.")
    size = math.prod(x.shape[count:])
    return inv(x.reshape((size, -1))).reshape(x.shape[count:] + x.shape[:count])


LINALG: tuple[Callable[..., Any], ...] = (
    solve, inv, det, slogdet, cholesky, matrix_power, multi_dot, tensorsolve, tensorinv,
)  # fmt: skip

"""Linear algebra: products of vectors and matrices, diagonals, numpy.linalg."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError, LinAlgError, ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import FLOAT32, FLOAT64, is_complex, is_inexact
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    fail,
    finish,
    normal_axes,
    normal_axis,
    out_of,
    result_dtype,
    static_int,
    value_of,
    wrap,
)
from nufunc.tracer.np_einsum import dot_values, einsum, tensordot
from nufunc.tracer.np_ufuncs import UFUNCS
from nufunc.tracer.np_views import diagonal


class MatrixError(LinAlgError, np.linalg.LinAlgError):
    """A matrix of a wrong shape: also numpy.linalg.LinAlgError."""


# -- products


def matmul(
    x1: Any, x2: Any, /, out: Any = None, *, dtype: Any = None, casting: str = "same_kind", **kwargs: Any
) -> Array:
    x, y = as_array(x1), as_array(x2)
    if not x.ndim or not y.ndim:
        raise fail(
            ShapeError,
            "matmul: Input operand does not have enough dimensions (0-d), a scalar operand needs *",
        )
    rows = x.shape[-1]
    columns = y.shape[0] if y.ndim == 1 else y.shape[-2]
    if rows != columns:
        raise fail(
            ShapeError,
            f"matmul: shapes {_shown(x.shape)} and {_shown(y.shape)} do not fit: {rows} columns against "
            f"{columns} rows",
        )
    kind = result_dtype(x, y) if dtype is None else check_dtype(dtype)
    b = builder()
    left, right = b.astype(value_of(x), kind), b.astype(value_of(y), kind)
    if (x.ndim <= 2 and y.ndim <= 2) or y.ndim <= 2:
        value = dot_values(left, right, ((x.ndim - 1,), (0,)))
    else:
        value = _batched_product(left, right)
    if out_of(out) is not None:
        from nufunc.tracer.np_core import store

        return store(out, value, "matmul", casting)
    return wrap(value)


def _shown(shape: tuple[int, ...]) -> str:
    return str(shape).replace(" ", "")


def _batched_product(x: Value, y: Value) -> Value:
    """matmul where the right operand has batch axes."""
    b = builder()
    vector = x.ndim == 1
    if vector:
        x = b.reshape(x, shape=(1, *x.shape))
    batch = broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x = b.broadcast_to(x, (*batch, *x.shape[-2:]))
    y = b.broadcast_to(y, (*batch, *y.shape[-2:]))
    n = len(batch)
    axes = tuple(range(n))
    value = dot_values(x, y, ((n + 1,), (n,)), (axes, axes))
    return b.reshape(value, shape=(*batch, value.shape[-1])) if vector else value


def dot(a: Any, b: Any, out: Any = None) -> Array:
    x, y = as_array(a), as_array(b)
    if not x.ndim or not y.ndim:
        return UFUNCS["multiply"](x, y, out=out)
    left, right = x.ndim - 1, max(y.ndim - 2, 0)
    if x.shape[left] != y.shape[right]:
        raise fail(
            ShapeError,
            f"shapes {_shown(x.shape)} and {_shown(y.shape)} not aligned: {x.shape[left]} (dim {left}) != "
            f"{y.shape[right]} (dim {right})",
        )
    kind = result_dtype(x, y)
    bld = builder()
    value = dot_values(bld.astype(value_of(x), kind), bld.astype(value_of(y), kind), ((left,), (right,)))
    return finish(value, out, "dot")


def vdot(a: Any, b: Any, /) -> Array:
    x, y = as_array(a).ravel(), as_array(b).ravel()
    if x.shape != y.shape:
        raise fail(
            ShapeError, f"cannot reshape array of size {x.size} into shape {y.shape}: vdot needs equal sizes"
        )
    return dot(x.conj() if is_complex(x.dtype) else x, y)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1, **kwargs: Any) -> Array:
    from nufunc.tracer.np_reduce import sum as sum_

    x, y = as_array(x1), as_array(x2)
    return sum_((x.conj() if is_complex(x.dtype) else x) * y, axis=axis, dtype=result_dtype(x, y), out=_out(kwargs))


def matvec(x1: Any, x2: Any, /, **kwargs: Any) -> Array:
    return _stored(matmul(x1, as_array(x2)[..., None])[..., 0], kwargs, "matvec")


def vecmat(x1: Any, x2: Any, /, **kwargs: Any) -> Array:
    x = as_array(x1)
    return _stored(matmul((x.conj() if is_complex(x.dtype) else x)[..., None, :], x2)[..., 0, :], kwargs, "vecmat")


def _out(kwargs: dict[str, Any]) -> Any:
    """The `out` among the keywords of a generalised ufunc, which takes no others here."""
    if set(kwargs) - {"out"}:
        raise fail(UnsupportedError, f"{', '.join(sorted(set(kwargs) - {'out'}))} of np.vecdot, matvec or vecmat")
    return kwargs.get("out")


def _stored(result: Array, kwargs: dict[str, Any], name: str) -> Array:
    out = _out(kwargs)
    return result if out is None else finish(value_of(result), out, name)


def inner(a: Any, b: Any, /) -> Array:
    x, y = as_array(a), as_array(b)
    if not x.ndim or not y.ndim:
        return UFUNCS["multiply"](x, y)
    if x.shape[-1] != y.shape[-1]:
        raise fail(
            ShapeError,
            f"shapes {_shown(x.shape)} and {_shown(y.shape)} not aligned: {x.shape[-1]} (dim {x.ndim - 1}) "
            "!= "
            f"{y.shape[-1]} (dim {y.ndim - 1})",
        )
    result = tensordot(x, y, (x.ndim - 1, y.ndim - 1))
    return result if result.ndim else result[()]


def outer(a: Any, b: Any, out: Any = None) -> Array:
    return UFUNCS["multiply"](as_array(a).ravel()[:, None], as_array(b).ravel()[None, :], out=out)


def kron(a: Any, b: Any) -> Array:
    x, y = as_array(a), as_array(b)
    ndim = max(x.ndim, y.ndim)
    xs, ys = ((1,) * (ndim - v.ndim) + v.shape for v in (x, y))
    left = x.reshape(tuple(n for size in xs for n in (size, 1)))
    right = y.reshape(tuple(n for size in ys for n in (1, size)))
    result = (left * right).reshape(tuple(n * m for n, m in zip(xs, ys)))
    return result if ndim else result[()]


def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Array:
    from nufunc.tracer.np_join import stack
    from nufunc.tracer.np_shape import moveaxis

    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = as_array(a), as_array(b)
    x, y = moveaxis(x, axisa, -1), moveaxis(y, axisb, -1)
    sizes = (x.shape[-1], y.shape[-1])
    if any(n not in (2, 3) for n in sizes):
        raise fail(ShapeError, "incompatible dimensions for cross product (dimension must be 2 or 3)")
    x0, x1, y0, y1 = x[..., 0], x[..., 1], y[..., 0], y[..., 1]
    third = x0 * y1 - x1 * y0
    if sizes == (2, 2):
        return third
    x2: Any = x[..., 2] if sizes[0] == 3 else None
    y2: Any = y[..., 2] if sizes[1] == 3 else None
    zero = third * 0
    first = (x1 * y2 if y2 is not None else zero) - (x2 * y1 if x2 is not None else zero)
    second = (x2 * y0 if x2 is not None else zero) - (x0 * y2 if y2 is not None else zero)
    return moveaxis(stack([first, second, third], axis=-1), -1, axisc)


# -- diagonals


def trace(
    a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None
) -> Array:
    from nufunc.tracer.np_reduce import sum as sum_

    return sum_(diagonal(a, offset, axis1, axis2), axis=-1, dtype=dtype, out=out)


# -- numpy.linalg


def _matrix(a: Any, square: bool = True) -> Array:
    """An operand of LAPACK: a float or complex stack of matrices."""
    x = as_array(a)
    if x.ndim < 2:
        raise fail(MatrixError, f"{x.ndim}-dimensional array given. Array must be at least two-dimensional")
    if square and x.shape[-1] != x.shape[-2]:
        raise fail(MatrixError, "Last 2 dimensions of the array must be square")
    return x if is_inexact(x.dtype) else x.astype(FLOAT64)


def solve(a: Any, b: Any) -> Array:
    x = _matrix(a)
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

    x = _matrix(a)
    return solve(x, broadcast_to(eye(x.shape[-1], dtype=x.dtype), x.shape))


def det(a: Any) -> Array:
    return wrap(builder().det(value_of(_matrix(a))))


def slogdet(a: Any) -> Any:
    sign, log = builder().slogdet(value_of(_matrix(a)))
    return _SlogdetResult(wrap(sign), wrap(log))


_SlogdetResult = type(np.linalg.slogdet(np.eye(1)))


def cholesky(a: Any, /, *, upper: bool = False) -> Array:
    x = _matrix(a)
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
    letters = [f"{chr(97 + i)}{chr(98 + i)}" for i in range(len(parts))]
    first, last = parts[0].ndim == 1, parts[-1].ndim == 1
    letters[0] = letters[0][1:] if first else letters[0]
    letters[-1] = letters[-1][:1] if last else letters[-1]
    output = ("" if first else letters[0][0]) + ("" if last else letters[-1][1])
    return einsum(",".join(letters) + "->" + output, *parts, out=out)


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Array:
    """numpy.linalg.norm; matrix norms: 'fro', 1, -1, inf, -inf."""
    v = as_array(x)
    if not is_inexact(v.dtype):
        v = v.astype(FLOAT64)
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
    from nufunc.tracer.np_reduce import sum as sum_

    squares = v.real * v.real + v.imag * v.imag if is_complex(v.dtype) else v * v
    return UFUNCS["sqrt"](sum_(squares, axes, keepdims=keepdims))


def _vector_norm(v: Array, ord: Any, axis: int, keepdims: bool) -> Array:
    from nufunc.tracer.np_reduce import max as max_
    from nufunc.tracer.np_reduce import min as min_
    from nufunc.tracer.np_reduce import sum as sum_

    if ord is None or ord == 2:
        return _euclidean(v, axis, keepdims)
    size = UFUNCS["absolute"](v)
    if isinstance(ord, str):
        raise fail(ShapeError, f"Invalid norm order {ord!r} for vectors")
    if ord == np.inf:
        return max_(size, axis, keepdims=keepdims)
    if ord == -np.inf:
        return min_(size, axis, keepdims=keepdims)
    if ord == 0:
        return sum_((v != 0).astype(size.dtype), axis, keepdims=keepdims)
    if ord == 1:
        return sum_(size, axis, keepdims=keepdims)
    return sum_(size**ord, axis, keepdims=keepdims) ** (1.0 / ord)


def _matrix_norm(v: Array, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Array:
    from nufunc.tracer.np_reduce import max as max_
    from nufunc.tracer.np_reduce import min as min_
    from nufunc.tracer.np_reduce import sum as sum_

    if axes[0] == axes[1]:
        raise fail(ShapeError, "Duplicate axes given.")
    if ord is None or ord in ("f", "fro"):
        return _euclidean(v, axes, keepdims)
    if ord in (1, -1, np.inf, -np.inf):
        first, second = axes if ord in (1, -1) else axes[::-1]
        sums = sum_(UFUNCS["absolute"](v), first, keepdims=True)
        result = (max_ if ord > 0 else min_)(sums, second, keepdims=True)
        if keepdims:
            return result
        from nufunc.tracer.np_shape import squeeze

        squeezed = squeeze(result, axes)
        return squeezed if squeezed.ndim else squeezed[()]
    if ord in (2, -2, "nuc"):
        raise fail(UnsupportedError, f"the matrix norm of order {ord!r}, which needs singular values")
    raise fail(ShapeError, f"Invalid norm order {ord!r} for matrices.")


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Array:
    v = as_array(x)
    axes = normal_axes(axis, v.ndim)
    if not is_inexact(v.dtype):
        v = v.astype(FLOAT64)
    if ord == 2:
        return _euclidean(v, axes, keepdims)
    rest = tuple(i for i in range(v.ndim) if i not in axes)
    flat = v.transpose((*axes, *rest)).reshape((-1, *(v.shape[i] for i in rest)))
    result = _vector_norm(flat, ord, 0, False)
    return result.reshape(tuple(1 if i in axes else n for i, n in enumerate(v.shape))) if keepdims else result


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    return norm(x, ord, (-2, -1), keepdims)


def linalg_outer(x1: Any, x2: Any, /) -> Array:
    x, y = as_array(x1), as_array(x2)
    if x.ndim != 1 or y.ndim != 1:
        raise fail(
            ShapeError,
            f"Input arrays must be one-dimensional, but they are x1.ndim={x.ndim} and x2.ndim={y.ndim}.",
        )
    return outer(x, y)


def linalg_trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Array:
    return trace(x, offset, -2, -1, dtype)


def linalg_diagonal(x: Any, /, *, offset: int = 0) -> Array:
    return diagonal(x, offset, -2, -1)


def linalg_cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Array:
    return cross(x1, x2, axis=axis)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    matmul, dot, vdot, vecdot, matvec, vecmat, inner, outer, kron, cross, diagonal, trace, einsum, tensordot,
)  # fmt: skip
LINALG: tuple[Callable[..., Any], ...] = (
    solve, inv, det, slogdet, cholesky, matrix_power, multi_dot, norm, vector_norm, matrix_norm,
)  # fmt: skip

__all__ = ["FLOAT32", "FUNCTIONS", "LINALG", "DTypeError"]

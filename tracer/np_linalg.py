"""Products of vectors and matrices, diagonals; the rest of linear algebra: np_solve, np_decompositions, np_norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nufunc.ir import promotion
from nufunc.ir.errors import DTypeError, ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import is_complex
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    fail,
    finish,
    normal_axis,
    out_of,
    result_dtype,
    value_of,
    wrap,
)
from nufunc.tracer.np_einsum import dot_values, einsum, einsum_path, tensordot
from nufunc.tracer.np_ufuncs import UFUNCS
from nufunc.tracer.np_views import diagonal

# -- products


def strong(x: Array) -> Array:
    """A Python number as the array that NumPy makes of it outside of ufuncs: in its own dtype."""
    return wrap(value_of(x), scalar=False) if x.weak else x


_MATMUL = frozenset(("order", "subok", "signature", "sig", "axes", "axis", "keepdims"))


def matmul(
    x1: Any, x2: Any, /, out: Any = None, *, dtype: Any = None, casting: str = "same_kind", **kwargs: Any
) -> Array:
    unknown = set(kwargs) - _MATMUL
    if unknown:
        raise fail(DTypeError, f"matmul() got an unexpected keyword argument {sorted(unknown)[0]!r}")
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
    for place, v in enumerate((x, y) if dtype is not None else ()):
        if not promotion.can_cast(v.dtype, kind, casting):
            raise fail(
                DTypeError,
                f"Cannot cast ufunc 'matmul' input {place} from {v.dtype!r} to {kind!r} with casting rule '{casting}'",
            )
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
    x, y = strong(as_array(a)), strong(as_array(b))
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
    x, y = strong(as_array(a)).ravel(), strong(as_array(b)).ravel()
    if x.shape != y.shape:
        raise fail(
            ShapeError, f"cannot reshape array of size {x.size} into shape {y.shape}: vdot needs equal sizes"
        )
    return dot(x.conj() if is_complex(x.dtype) else x, y)


def _vectors(name: str, x: Any, place: int, ndim: int = 1) -> Array:
    """An operand of a generalised ufunc with `ndim` axes of its own."""
    array = as_array(x)
    if array.ndim < ndim:
        raise fail(
            ShapeError,
            f"{name}: Input operand {place} does not have enough dimensions (has {array.ndim}, "
            f"gufunc core requires {ndim})",
        )
    return array


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1, **kwargs: Any) -> Array:
    from nufunc.tracer.np_reduce import sum as sum_

    x, y = _vectors("vecdot", x1, 0), _vectors("vecdot", x2, 1)
    extents = [v.shape[normal_axis(axis, v.ndim)] for v in (x, y)]
    if extents[0] != extents[1]:
        raise fail(
            ShapeError,
            "vecdot: Input operand 1 has a mismatch in its core dimension 0, with gufunc signature (n),(n)->() (size "
            f"{extents[1]} is different from {extents[0]})",
        )
    if axis != -1:
        b = builder()
        x, y = (wrap(b.moved(value_of(v), normal_axis(axis, v.ndim), v.ndim - 1), scalar=False) for v in (x, y))
        axis = -1
    return sum_((x.conj() if is_complex(x.dtype) else x) * y, axis=axis, dtype=result_dtype(x, y), out=_out(kwargs))


def matvec(x1: Any, x2: Any, /, **kwargs: Any) -> Array:
    x, y = _vectors("matvec", x1, 0, 2), _vectors("matvec", x2, 1)
    return _stored(matmul(x, y[..., None])[..., 0], kwargs, "matvec")


def vecmat(x1: Any, x2: Any, /, **kwargs: Any) -> Array:
    x, y = _vectors("vecmat", x1, 0), _vectors("vecmat", x2, 1, 2)
    return _stored(matmul((x.conj() if is_complex(x.dtype) else x)[..., None, :], y)[..., 0, :], kwargs, "vecmat")


def _out(kwargs: dict[str, Any]) -> Any:
    """The `out` among the keywords of a generalised ufunc, which takes no others here."""
    if set(kwargs) - {"out"}:
        known = set(kwargs) <= _MATMUL | {"out", "dtype", "casting"}
        kind = UnsupportedError if known else DTypeError
        raise fail(kind, f"{', '.join(sorted(set(kwargs) - {'out'}))} of np.vecdot, matvec or vecmat")
    return kwargs.get("out")


def _stored(result: Array, kwargs: dict[str, Any], name: str) -> Array:
    out = _out(kwargs)
    return result if out is None else finish(value_of(result), out, name)


def inner(a: Any, b: Any, /) -> Array:
    x, y = strong(as_array(a)), strong(as_array(b))
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
    x, y = strong(as_array(a)), strong(as_array(b))
    return UFUNCS["multiply"](x.ravel()[:, None], y.ravel()[None, :], out=out)


def kron(a: Any, b: Any) -> Array:
    x, y = strong(as_array(a)), strong(as_array(b))
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


# -- numpy.linalg's own forms of these


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
    matmul, dot, vdot, vecdot, matvec, vecmat, inner, outer, kron, cross, diagonal, trace, einsum, einsum_path,
    tensordot,
)  # fmt: skip

"""Creation: arrays from shapes, ranges, and nested lists that may hold traced values. All are fresh and
writable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import DTypeError, ShapeError, TraceError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL, FLOAT64, INT64, ArrayType, kind_of
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.layout import broadcast_strides, is_f_contiguous, ordered, result_strides
from nufunc.tracer.np_core import (
    as_array,
    builder,
    cast_scalar,
    fail,
    has_traced,
    is_scalar,
    normal_shape,
    result_dtype,
    static_int,
    value_of,
    wrap,
)
from nufunc.tracer.np_indexing import assigned
from nufunc.tracer.trace import require as current_trace

# -- from values


def array(
    object: Any,
    dtype: Any = None,
    *,
    copy: Any = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    ndmax: int = 0,
    like: Any = None,
) -> Array:
    """numpy.array: a fresh array; nested lists may hold traced values."""
    wanted = None if dtype is None else check_dtype(dtype)
    if copy is False and (type(object) is not Array or (wanted is not None and wanted != object.dtype)):
        raise fail(ShapeError, "Unable to avoid copy while creating an array as requested.")
    result = _in_order(_from_object(object, wanted, fresh=copy is not False and copy is not None), order, object)
    if result.ndim < ndmin:
        result = result.reshape((1,) * (ndmin - result.ndim) + result.shape)
    return result


def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, device: Any = None, copy: Any = None, like: Any = None
) -> Array:
    """numpy.asarray: the array itself where it has the dtype; a concrete array becomes a constant of the
    graph.
    """
    wanted = None if dtype is None else check_dtype(dtype)
    return _in_order(_from_object(a, wanted, fresh=bool(copy)), order, a)


def _in_order(x: Array, order: Any, given: Any) -> Array:
    """The array in the memory order asked for; a copy only where `x` is what the user has and lies otherwise."""
    if order in (None, "K", "A") or not x.ndim:
        return x
    if order == "F" and is_f_contiguous(x.shape, x.strides_):
        return x
    if order == "C" and x.strides_ is None:
        return x
    if x is given or x.base is not None:
        return copied(x, order)
    x.strides_ = ordered(x.shape, None, order)
    return x


def asfortranarray(a: Any, dtype: Any = None, *, like: Any = None) -> Array:
    """numpy.asfortranarray: the array itself where it is in Fortran order."""
    x = asarray(a, dtype, order="F")
    if x.strides_ is not None and x.ndim == 1:
        x = copied(x)
    return x if x.ndim else x.reshape(1)


def require(a: Any, dtype: Any = None, requirements: Any = None, *, like: Any = None) -> Array:
    """numpy.require of orders; every traced array is aligned and writeable unless a view says otherwise."""
    wanted = {str(r).upper() for r in ([requirements] if isinstance(requirements, str) else requirements or ())}
    order = "F" if wanted & {"F", "F_CONTIGUOUS", "FORTRAN"} else None
    if wanted & {"C", "C_CONTIGUOUS", "CONTIGUOUS"}:
        order = "C"
    x = asarray(a, dtype, order=order)
    owned = wanted & {"O", "OWNDATA"} and x.base is not None
    return copied(x, "A") if owned or (wanted & {"W", "WRITEABLE"} and x.readonly) else x


def asanyarray(
    a: Any, dtype: Any = None, order: Any = None, *, device: Any = None, copy: Any = None, like: Any = None
) -> Array:
    return asarray(a, dtype, order, copy=copy)


def ascontiguousarray(a: Any, dtype: Any = None, *, like: Any = None) -> Array:
    """A C-contiguous array: the array itself where it is one."""
    x = asarray(a, dtype)
    if x.strides_ is not None:
        x = copied(x, order="C")
    return x if x.ndim else x.reshape(1)


def asarray_chkfinite(a: Any, dtype: Any = None, order: Any = None) -> Array:
    raise fail(UnsupportedError, "np.asarray_chkfinite of a traced array, since its values are not known")


def _from_object(obj: Any, dtype: np.dtype | None, fresh: bool) -> Array:
    trace = current_trace()
    if type(obj) is Array:
        if dtype is not None and dtype != obj.dtype:
            return converted(obj, dtype, scalar=False)
        if obj.scalar or fresh:
            return copied(obj, order="K")
        return obj
    if is_scalar(obj):
        given = np.dtype(type(obj)) if not isinstance(obj, np.generic) else obj.dtype
        return trace.constant(np.array(obj, given if dtype is None else dtype))
    if isinstance(obj, np.ndarray):
        concrete = np.array(obj) if dtype is None else obj.astype(dtype)
        return trace.constant(concrete)
    if isinstance(obj, (list, tuple, range)):
        if not _has_arrays(obj):
            return trace.constant(_concrete_list(obj, dtype))
        return _stacked(obj, dtype)
    if hasattr(type(obj), "__nufunc_flat__"):  # x.flat
        return _from_object(obj.line(), dtype, fresh=False)
    if hasattr(obj, "__array__"):
        return trace.constant(np.array(obj, dtype))
    raise fail(DTypeError, f"np.array of a {type(obj).__name__} cannot be traced")


def _has_arrays(obj: Any) -> bool:
    if isinstance(obj, (list, tuple)):
        return any(_has_arrays(item) for item in obj)
    return type(obj) is Array or isinstance(obj, np.ndarray)


def _concrete_list(obj: Any, dtype: np.dtype | None) -> np.ndarray:
    try:
        return np.array(obj, dtype)
    except OverflowError:
        raise
    except (ValueError, TypeError) as error:
        raise fail(ShapeError if isinstance(error, ValueError) else DTypeError, str(error)) from None


def _stacked(items: Sequence[Any], dtype: np.dtype | None) -> Array:
    """Nested lists with traced leaves: converted to one dtype and stacked."""
    parts = [_from_object(item, None, fresh=False) if not _is_plain(item) else item for item in items]
    arrays = [part if type(part) is Array else current_trace().constant(np.asarray(part)) for part in parts]
    shapes = {x.shape for x in arrays}
    if len(shapes) > 1:
        raise fail(
            ShapeError,
            f"setting an array element with a sequence: the parts have the shapes {sorted(shapes)}",
        )
    common = result_dtype(*[x.dtype for x in arrays]) if dtype is None else dtype
    b = builder()
    rows = [b.reshape(b.astype(value_of(x), common), shape=(1, *x.shape)) for x in arrays]
    return wrap(b.concat(*rows, axis=0) if len(rows) > 1 else rows[0], scalar=False)


def _is_plain(item: Any) -> bool:
    return is_scalar(item)


def copied(x: Array, order: str = "C") -> Array:
    """A copy; order 'K' keeps the order of memory."""
    b = builder()
    value = b.emit("convert", (value_of(x),), {"dtype": x.dtype})[0]
    return current_trace().wrap(value, strides=ordered(x.shape, x.strides_, order), constant=x.known)


def converted(x: Array, dtype: np.dtype, scalar: bool | None = None, order: str = "K") -> Array:
    """x.astype(dtype): always a copy, by default in the order of memory of x."""
    b = builder()
    value = b.emit("convert", (value_of(x),), {"dtype": dtype})[0]
    strides = ordered(x.shape, x.strides_, order)
    known = x.known
    with np.errstate(all="ignore"):
        constant = None if known is None or (known.dtype.kind == "c" != dtype.kind) else _cast(known, dtype)
    kind = x.scalar if scalar is None else scalar
    return current_trace().wrap(value, strides=strides, scalar=kind, constant=constant)


def _cast(known: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (known.real if known.dtype.kind == "c" and dtype.kind != "c" else known).astype(dtype)


def copy(a: Any, order: str = "K", subok: bool = False) -> Array:
    """numpy.copy."""
    return copied(as_array(a), order)


def astype(
    x: Any, dtype: Any, order: str = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True
) -> Array:
    """x.astype(dtype)."""
    source, target = as_array(x), check_dtype(dtype)
    if not promotion.can_cast(source.dtype, target, casting):
        raise fail(
            DTypeError,
            f"Cannot cast array data from {source.dtype!r} to {target!r} according to the rule '{casting}'",
        )
    if not copy and source.dtype == target and _in_order(source, order, source) is source:
        return source
    if source.dtype.kind == "c" and kind_of(target) in "iuf":
        raise fail(DTypeError, f"casting {source.dtype} to {target} drops the imaginary part; take x.real first")
    return converted(source, target, order=order)


# -- from shapes


def _filled(value: Any, shape: Any, dtype: Any, order: str = "C") -> Array:
    kind = ArrayType(normal_shape(shape), check_dtype(dtype))
    trace = current_trace()
    known = np.full(kind.shape, value, kind.dtype) if kind.size <= 4096 else None
    return trace.wrap(trace.b.filled(value, kind), constant=known, strides=ordered(kind.shape, None, order))


def zeros(shape: Any, dtype: Any = float, order: str = "C", *, device: Any = None, like: Any = None) -> Array:
    return _filled(0, shape, dtype, order)


def ones(shape: Any, dtype: Any = None, order: str = "C", *, device: Any = None, like: Any = None) -> Array:
    return _filled(1, shape, float if dtype is None else dtype, order)


def empty(shape: Any, dtype: Any = float, order: str = "C", *, device: Any = None, like: Any = None) -> Array:
    """numpy.empty; its elements are zero."""
    return _filled(0, shape, dtype, order)


def full(
    shape: Any, fill_value: Any, dtype: Any = None, order: str = "C", *, device: Any = None, like: Any = None
) -> Array:
    if is_scalar(fill_value):
        kind = check_dtype(np.asarray(fill_value).dtype if dtype is None else dtype)
        return _filled(cast_scalar(fill_value, kind), shape, kind, order)
    source = as_array(fill_value)
    kind = source.dtype if dtype is None else check_dtype(dtype)
    target = normal_shape(shape)
    return wrap(assigned(source, kind, target), scalar=False, strides=ordered(target, None, order))


def _like(a: Any, fill: Any, dtype: Any, order: str, shape: Any) -> Array:
    source = as_array(a)
    kind = source.dtype if dtype is None else check_dtype(dtype)
    target = source.shape if shape is None else normal_shape(shape)
    result = full(target, fill, kind)
    result.strides_ = ordered(target, source.strides_ if len(target) == source.ndim else None, order)
    return result


def zeros_like(
    a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None, *, device: Any = None
) -> Array:
    return _like(a, 0, dtype, order, shape)


def ones_like(
    a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None, *, device: Any = None
) -> Array:
    return _like(a, 1, dtype, order, shape)


def empty_like(
    prototype: Any,
    dtype: Any = None,
    order: str = "K",
    subok: bool = True,
    shape: Any = None,
    *,
    device: Any = None,
) -> Array:
    return _like(prototype, 0, dtype, order, shape)


def full_like(
    a: Any,
    fill_value: Any,
    dtype: Any = None,
    order: str = "K",
    subok: bool = True,
    shape: Any = None,
    *,
    device: Any = None,
) -> Array:
    return _like(a, fill_value, dtype, order, shape)


# -- ranges and matrices


def _static_bound(x: Any, what: str) -> Any:
    if type(x) is not Array:
        return x
    if x.known is not None and x.size == 1:
        return x.known.reshape(()).dtype.type(x.known.item())
    raise fail(
        TraceError,
        f"np.arange with a traced {what} has no static length; use np.arange of a static length and scale "
        "it, or pass "
        "the value as a static argument",
    )


def arange(*args: Any, dtype: Any = None, device: Any = None, like: Any = None, **bounds: Any) -> Array:
    """numpy.arange of static bounds."""
    names = ("start", "stop", "step")
    fixed = [_static_bound(x, name) for x, name in zip(args, names)]
    named = {key: _static_bound(x, key) for key, x in bounds.items()}
    kind = None if dtype is None else check_dtype(dtype)
    length_one = len(fixed) == 1 and not named and isinstance(fixed[0], (int, np.integer))
    if length_one and (kind is None or kind == INT64) and fixed[0] > 4096:
        value = builder().iota(shape=(int(fixed[0]),), dtype=INT64, axis=0)
        return wrap(value)
    return current_trace().constant(np.arange(*fixed, dtype=kind, **named))


def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
    *,
    device: Any = None,
) -> Any:
    """numpy.linspace; the ends may be traced."""
    from nufunc.tracer import np_namespace

    np_ = np_namespace.numpy
    count = static_int(num, "num")
    if not has_traced((start, stop)) and not any(isinstance(x, np.ndarray) for x in (start, stop)):
        made, width = np.linspace(start, stop, count, endpoint=endpoint, retstep=True, dtype=dtype, axis=axis)
        constant = current_trace().constant(made)
        return (constant, width) if retstep else constant
    if count < 0:
        raise fail(ShapeError, f"Number of samples, {count}, must be non-negative.")
    first, last = as_array(start) * 1.0, as_array(stop) * 1.0
    kind = result_dtype(as_array(start), as_array(stop), 1.0)
    steps = count - 1 if endpoint else count
    delta = last - first
    grid = np_.arange(count, dtype=kind).reshape((-1,) + (1,) * delta.ndim)
    width = delta / steps if steps > 0 else delta * np.nan
    result = grid * (width if steps > 0 else delta) + first
    if endpoint and count > 1:
        result[-1] = last
    if axis != 0:
        result = np_.moveaxis(result, 0, axis)
    if dtype is not None:
        target = check_dtype(dtype)
        result = (np_.floor(result) if target.kind in "iu" else result).astype(target)
    return (result, width) if retstep else result


def eye(
    N: int,
    M: int | None = None,
    k: int = 0,
    dtype: Any = float,
    order: str = "C",
    *,
    device: Any = None,
    like: Any = None,
) -> Array:
    shape, kind, shift = normal_shape((N, N if M is None else M)), check_dtype(dtype), static_int(k, "k")
    value = builder().astype(_diagonal_mask(shape, shift, "eq"), kind)
    strides = ordered(shape, None, order)
    known = np.eye(shape[0], shape[1], shift, kind) if shape[0] * shape[1] <= 4096 else None
    return current_trace().wrap(value, constant=known, strides=strides)


def identity(n: int, dtype: Any = None, *, like: Any = None) -> Array:
    return eye(n, dtype=float if dtype is None else dtype)


def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = float, *, like: Any = None) -> Array:
    shape = normal_shape((N, N if M is None else M))
    return wrap(builder().astype(_diagonal_mask(shape, static_int(k, "k"), "le"), check_dtype(dtype)))


def _diagonal_mask(shape: tuple[int, ...], k: int, compare: str) -> Value:
    """column <compare> row + k on the last two axes."""
    b = builder()
    column = b.iota(shape=shape, dtype=INT64, axis=len(shape) - 1)
    row = b.iota(shape=shape, dtype=INT64, axis=len(shape) - 2)
    return b.emit(compare, (column, b.add(row, b.like(row, k)) if k else row))[0]


def _triangle(m: Any, k: int, compare: str) -> Array:
    x = as_array(m)
    if x.ndim == 1:
        x = wrap(builder().broadcast_to(value_of(x), (x.shape[0], x.shape[0])))
    if x.ndim < 1:
        raise fail(ShapeError, "tril and triu need at least one axis")
    b = builder()
    value = value_of(x)
    strides = None
    if x.strides_ is not None:
        mask = broadcast_strides(x.shape[-2:], None, x.shape)
        strides = result_strides(x.shape, [mask, x.strides_])
    kept = b.select(_diagonal_mask(x.shape, static_int(k, "k"), compare), value, b.zeros(value.type))
    return wrap(kept, strides=strides)


def tril(m: Any, k: int = 0) -> Array:
    return _triangle(m, k, "le")


def triu(m: Any, k: int = 0) -> Array:
    return _triangle(m, k, "ge")


def diag(v: Any, k: int = 0) -> Array:
    """numpy.diag: a matrix with this diagonal, or the diagonal of a matrix (a copy)."""
    from nufunc.tracer.np_views import diagonal

    x = as_array(v)
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise fail(ShapeError, "Input must be 1- or 2-d.")
    b = builder()
    n, shift = x.shape[0], static_int(k, "k")
    size = n + abs(shift)
    padded = b.pad(value_of(x), low=(max(shift, 0),), high=(max(-shift, 0),), interior=(0,))
    columns = b.broadcast(padded, shape=(size, size), dims=(1,))
    return wrap(b.select(_diagonal_mask((size, size), shift, "eq"), columns, b.zeros(columns.type)))


def diagflat(v: Any, k: int = 0) -> Array:
    return diag(as_array(v).ravel(), k)


def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> tuple[Array, ...]:
    from nufunc.tracer import np_namespace

    if indexing not in ("xy", "ij"):
        raise fail(ShapeError, "Valid values for `indexing` are 'xy' and 'ij'.")
    ndim = len(xi)
    grids = [as_array(x).reshape((1,) * i + (-1,) + (1,) * (ndim - i - 1)) for i, x in enumerate(xi)]
    if indexing == "xy" and ndim > 1:
        grids[0] = grids[0].reshape((1, -1) + (1,) * (ndim - 2))
        grids[1] = grids[1].reshape((-1, 1) + (1,) * (ndim - 2))
    if not sparse:
        grids = list(np_namespace.numpy.broadcast_arrays(*grids))
    return tuple(g.copy() for g in grids) if copy else tuple(grids)


def fromfunction(
    function: Callable[..., Any], shape: Any, *, dtype: Any = float, like: Any = None, **kwargs: Any
) -> Any:
    from nufunc.tracer import np_namespace

    return function(*np_namespace.numpy.indices(shape, dtype=dtype), **kwargs)


def indices(dimensions: Any, dtype: Any = int, sparse: bool = False) -> Any:
    shape = normal_shape(dimensions)
    kind = check_dtype(dtype)
    b = builder()
    if sparse:
        return tuple(
            wrap(
                b.iota(shape=tuple(n if i == j else 1 for j, n in enumerate(shape)), dtype=kind, axis=i),
                scalar=False,
            )
            for i in range(len(shape))
        )
    return current_trace().constant(np.indices(shape, kind))


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Array:
    source = as_array(x)
    if source.ndim != 1:
        raise fail(ShapeError, "x must be a one-dimensional array or sequence.")
    count = source.shape[0] if N is None else static_int(N, "N")
    kind = result_dtype(source, np.dtype(int))
    if not count:
        return zeros((source.shape[0], 0), kind)
    from nufunc.tracer import np_namespace

    if count > 16:  # running products, as NumPy's; a few powers are rather written out
        np_ = np_namespace.numpy
        table = np_.cumprod(np_.where(np_.arange(count) == 0, kind.type(1), source.astype(kind)[:, None]), axis=1)
        return table if increasing else table[:, ::-1].copy()
    powers = [source.astype(kind) ** p for p in range(count)]
    return np_namespace.numpy.stack(powers if increasing else powers[::-1], axis=1)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    array, asarray, asanyarray, ascontiguousarray, asfortranarray, require, asarray_chkfinite, copy, astype, zeros,
    ones, empty, full, zeros_like, ones_like, empty_like, full_like, arange, linspace, eye, identity, tri, tril, triu,
    diag, diagflat, meshgrid, fromfunction, indices, vander,
)  # fmt: skip

__all__ = ["BOOL", "FLOAT64", "FUNCTIONS"]

"""Shape functions that give views: reshape, transpose, broadcast_to, flip and their kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError
from nufunc.tracer.array import Array
from nufunc.tracer.layout import broadcast_strides, is_f_contiguous, reshape_strides, result_strides
from nufunc.tracer.np_core import (
    AxisError,
    as_array,
    builder,
    concrete,
    fail,
    normal_axes,
    normal_axis,
    normal_shape,
    static_int,
    strides_of,
    value_of,
    wrap,
)
from nufunc.tracer.np_creation import copied
from nufunc.tracer.np_indexing import reshape_view, view

# -- views


def _target_shape(x: Array, shape: Any) -> tuple[int, ...]:
    if type(shape) is Array and shape.known is not None:
        shape = shape.known.tolist()
    sizes = [static_int(n, "a shape") for n in (shape if isinstance(shape, (tuple, list)) else (shape,))]
    unknown = [i for i, n in enumerate(sizes) if n < 0]
    if len(unknown) > 1:
        raise fail(ShapeError, "can only specify one unknown dimension")
    if unknown:
        rest = int(np.prod([n for n in sizes if n >= 0], dtype=np.int64))
        if rest == 0 or x.size % rest:
            raise fail(ShapeError, f"cannot reshape array of size {x.size} into shape {tuple(sizes)}")
        sizes[unknown[0]] = x.size // rest
    if int(np.prod(sizes, dtype=object)) != x.size:
        raise fail(ShapeError, f"cannot reshape array of size {x.size} into shape {tuple(sizes)}")
    return tuple(sizes)


def reshape(
    a: Any, /, shape: Any = None, order: str = "C", *, newshape: Any = None, copy: bool | None = None
) -> Array:
    """numpy.reshape: a view where NumPy's is one, else a copy."""
    x = as_array(a)
    target = _target_shape(x, newshape if shape is None else shape)
    if order == "A":
        order = "F" if x.strides_ is not None and is_f_contiguous(x.shape, x.strides_) else "C"
    if order == "F" and x.ndim <= 1 and len(target) <= 1:
        order = "C"
    if order == "F":
        return transpose(reshape(transpose(x), target[::-1], copy=copy))
    if order != "C":
        raise fail(ShapeError, f"order must be 'C' or 'F', not {order!r}")
    strides = reshape_strides(x.shape, x.strides_, target)
    if strides is False or copy or x.scalar:
        if copy is False:
            raise fail(ShapeError, "Unable to avoid creating a copy while reshaping.")
        return wrap(builder().emit("reshape", (value_of(x),), {"shape": target})[0], scalar=False)
    return reshape_view(x, target, strides if isinstance(strides, tuple) else None)


def ravel(a: Any, order: str = "C") -> Array:
    """numpy.ravel: unlike reshape(-1) a view only of an array that is contiguous in this order."""
    x = as_array(a)
    if order not in ("C", "F", "A", "K"):
        raise fail(ShapeError, f"order must be one of 'C', 'F', 'A', or 'K' (got {order!r})")
    fortran = x.strides_ is not None and is_f_contiguous(x.shape, x.strides_)
    if order == "K" and x.strides_ is not None and not fortran:
        own = result_strides(x.shape, [x.strides_])
        x = x if own is None else transpose(x, sorted(range(x.ndim), key=lambda i: -abs(own[i])))
    elif order == "F" or (order in "AK" and fortran):
        x = transpose(x)
    return reshape(x, -1 if x.size else 0, copy=None if x.strides_ is None else True)


def _flatten(x: Array, order: str = "C") -> Array:
    flat = ravel(x, order)
    return copied(flat) if flat.base is not None else flat


def transpose(a: Any, axes: Any = None) -> Array:
    x = as_array(a)
    if axes is None:
        perm = tuple(reversed(range(x.ndim)))
    else:
        perm = tuple(normal_axis(p, x.ndim) for p in (axes if isinstance(axes, (tuple, list)) else (axes,)))
        if sorted(perm) != list(range(x.ndim)):
            raise fail(ShapeError, "axes don't match array")
    if x.scalar:
        return x
    own = strides_of(x)
    return view(x, "view_transpose", tuple(own[p] for p in perm), perm=perm)


def permute_dims(a: Any, axes: Any = None) -> Array:
    return transpose(a, axes)


def matrix_transpose(x: Any, /) -> Array:
    array = as_array(x)
    if array.ndim < 2:
        raise fail(ShapeError, "matrix transpose with ndim < 2 is undefined")
    return swapaxes(array, -1, -2)


def swapaxes(a: Any, axis1: int, axis2: int) -> Array:
    x = as_array(a)
    i, j = normal_axis(axis1, x.ndim), normal_axis(axis2, x.ndim)
    perm = list(range(x.ndim))
    perm[i], perm[j] = perm[j], perm[i]
    return transpose(x, perm)


def moveaxis(a: Any, source: Any, destination: Any) -> Array:
    x = as_array(a)
    sources = [normal_axis(s, x.ndim) for s in (source if isinstance(source, (tuple, list)) else (source,))]
    targets = [
        normal_axis(d, x.ndim)
        for d in (destination if isinstance(destination, (tuple, list)) else (destination,))
    ]
    if len(sources) != len(targets):
        raise fail(ShapeError, "`source` and `destination` arguments must have the same number of elements")
    perm = [i for i in range(x.ndim) if i not in sources]
    for target, s in sorted(zip(targets, sources)):
        perm.insert(target, s)
    return transpose(x, perm)


def rollaxis(a: Any, axis: int, start: int = 0) -> Array:
    x = as_array(a)
    i = normal_axis(axis, x.ndim)
    target = start + x.ndim if start < 0 else start
    if not 0 <= target <= x.ndim:
        raise fail(
            AxisError, f"'start' arg requires {-x.ndim} <= start < {x.ndim + 1}, but {start} was passed in"
        )
    perm = [p for p in range(x.ndim) if p != i]
    perm.insert(target - (i < target), i)
    return transpose(x, perm)


def expand_dims(a: Any, axis: Any) -> Array:
    x = as_array(a)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    places = normal_axes(tuple(axes), x.ndim + len(axes))
    shape, strides = iter(x.shape), iter(strides_of(x))
    sizes = [(1, 0) if i in places else (next(shape), next(strides)) for i in range(x.ndim + len(axes))]
    if x.scalar:
        return reshape(x, (1,) * len(axes))
    return reshape_view(x, tuple(n for n, _ in sizes), tuple(s for _, s in sizes))


def squeeze(a: Any, axis: Any = None) -> Array:
    x = as_array(a)
    axes = tuple(i for i, n in enumerate(x.shape) if n == 1) if axis is None else normal_axes(axis, x.ndim)
    if any(x.shape[i] != 1 for i in axes):
        raise fail(ShapeError, "cannot select an axis to squeeze out which has size not equal to one")
    if not axes:
        return x
    own = strides_of(x)
    kept = [i for i in range(x.ndim) if i not in axes]
    return reshape_view(x, tuple(x.shape[i] for i in kept), tuple(own[i] for i in kept))


def broadcast_to(array: Any, shape: Any, subok: bool = False) -> Array:
    x = as_array(array)
    target = normal_shape(shape)
    try:
        fits = np.broadcast_shapes(x.shape, target) == target
    except ValueError:
        fits = False
    if not fits:
        raise fail(
            ShapeError,
            "operands could not be broadcast together with remapped shapes [original->remapped]: "
            f"{x.shape} and requested shape {target}",
        )
    dims = tuple(range(len(target) - x.ndim, len(target)))
    strides = broadcast_strides(x.shape, x.strides_, target)
    why = "it is the result of np.broadcast_to, whose elements share memory; copy it first"
    return view(x, "view_broadcast", strides, readonly=why, shape=target, dims=dims)


def broadcast_arrays(*args: Any, subok: bool = False) -> tuple[Array, ...]:
    from nufunc.tracer.np_core import broadcast_shapes

    arrays = [as_array(x) for x in args]
    shape = broadcast_shapes(*[x.shape for x in arrays])
    return tuple(x if x.shape == shape and not x.scalar else broadcast_to(x, shape) for x in arrays)


def _at_least(n: int, arrays: Sequence[Any]) -> Any:
    results = []
    for item in arrays:
        x = as_array(item)
        if n == 1 or x.ndim == 0:
            shape = x.shape or (1,) * n
        elif n == 2:
            shape = (1, *x.shape) if x.ndim == 1 else x.shape
        else:
            shape = {1: (1, *x.shape, 1), 2: (*x.shape, 1)}.get(x.ndim, x.shape)
        results.append(x if shape == x.shape else reshape(x, shape))
    return results[0] if len(results) == 1 else tuple(results)


def atleast_1d(*arys: Any) -> Any:
    return _at_least(1, arys)


def atleast_2d(*arys: Any) -> Any:
    return _at_least(2, arys)


def atleast_3d(*arys: Any) -> Any:
    return _at_least(3, arys)


def flip(m: Any, axis: Any = None) -> Array:
    x = as_array(m)
    axes = normal_axes(axis, x.ndim)
    if not x.ndim:
        return x[()]
    own = strides_of(x)
    strides = tuple(-s if i in axes else s for i, s in enumerate(own))
    return view(x, "view_flip", strides, axes=axes)


def flipud(m: Any) -> Array:
    return flip(m, 0)


def fliplr(m: Any) -> Array:
    return flip(m, 1)


def rot90(m: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Array:
    x = as_array(m)
    i, j = (normal_axis(a, x.ndim) for a in axes)
    turns = static_int(k, "k") % 4
    if i == j:
        raise fail(ShapeError, "Axes must be different.")
    if turns == 0:
        return x[...]
    if turns == 2:
        return flip(flip(x, i), j)
    return swapaxes(flip(x, j), i, j) if turns == 1 else flip(swapaxes(x, i, j), j)


def ndim(a: Any) -> int:
    return np.ndim(a) if concrete(a) else as_array(a).ndim


def shape(a: Any) -> tuple[int, ...]:
    return np.shape(a) if concrete(a) else as_array(a).shape


def size(a: Any, axis: Any = None) -> int:
    if concrete(a):
        return np.size(a, axis)
    x = as_array(a)
    return (
        x.size
        if axis is None
        else int(np.prod([x.shape[i] for i in normal_axes(axis, x.ndim)], dtype=np.int64))
    )


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    reshape, ravel, transpose, permute_dims, matrix_transpose, swapaxes, moveaxis, rollaxis,
    expand_dims, squeeze, broadcast_to, broadcast_arrays, atleast_1d, atleast_2d, atleast_3d, flip,
    flipud, fliplr, rot90, ndim, shape, size,
)  # fmt: skip

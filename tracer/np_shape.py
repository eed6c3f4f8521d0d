"""Shape functions: reshape and transpose as views, joining, splitting, repeating, rolling."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.layout import broadcast_strides, reshape_strides
from nufunc.tracer.np_core import (
    as_array,
    builder,
    concrete,
    fail,
    finish,
    normal_axes,
    normal_axis,
    normal_shape,
    result_dtype,
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
    if order == "F" and x.ndim <= 1 and len(target) <= 1:
        order = "C"
    if order == "F":
        return transpose(reshape(transpose(x), target[::-1]))
    if order not in ("C", "A"):
        raise fail(ShapeError, f"order must be 'C' or 'F', not {order!r}")
    strides = reshape_strides(x.shape, x.strides_, target)
    if strides is False or copy or x.scalar:
        if copy is False:
            raise fail(ShapeError, "Unable to avoid creating a copy while reshaping.")
        return wrap(builder().emit("reshape", (value_of(x),), {"shape": target})[0], scalar=False)
    return reshape_view(x, target, strides if isinstance(strides, tuple) else None)


def ravel(a: Any, order: str = "C") -> Array:
    x = as_array(a)
    if order == "K" and x.strides_ is not None:
        raise fail(UnsupportedError, "ravel(order='K') of an array that is not C-contiguous")
    return reshape(x, -1 if x.size else 0, order="C" if order == "K" else order)


def _flatten(x: Array, order: str = "C") -> Array:
    flat = ravel(x, order)
    return copied(flat)


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
            ShapeError, f"'start' arg requires {-x.ndim} <= start < {x.ndim + 1}, but {start} was passed in"
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


# -- joining


def concatenate(
    arrays: Any, /, axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Array:
    parts = [as_array(x) for x in _sequence(arrays)]
    if not parts:
        raise fail(ShapeError, "need at least one array to concatenate")
    if axis is None:
        parts, axis = [ravel(x) for x in parts], 0
    if any(x.ndim == 0 for x in parts):
        raise fail(ShapeError, "zero-dimensional arrays cannot be concatenated")
    index = normal_axis(axis, parts[0].ndim)
    for i, x in enumerate(parts[1:], 1):
        if x.ndim != parts[0].ndim:
            raise fail(
                ShapeError,
                "all the input array dimensions except for the concatenation axis must match exactly, but "
                "the array at "
                f"index 0 has {parts[0].ndim} dimension(s) and the array at index {i} has {x.ndim} "
                "dimension(s)",
            )
        for d, (n, m) in enumerate(zip(parts[0].shape, x.shape)):
            if d != index and n != m:
                raise fail(
                    ShapeError,
                    "all the input array dimensions except for the concatenation axis must match exactly, "
                    "but along "
                    f"dimension {d}, the array at index 0 has size {n} and the array at index {i} has size "
                    f"{m}",
                )
    kind = result_dtype(*[x.dtype for x in parts]) if dtype is None else check_dtype(dtype)
    b = builder()
    values = [b.astype(value_of(x), kind) for x in parts]
    return finish(
        b.concat(*values, axis=index) if len(values) > 1 else values[0], out, "concatenate", scalar=False
    )


def _sequence(arrays: Any) -> list[Any]:
    return list(arrays)


def concat(
    arrays: Any, /, axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Array:
    return concatenate(arrays, axis, out, dtype=dtype)


def stack(
    arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Array:
    parts = [as_array(x) for x in _sequence(arrays)]
    if not parts:
        raise fail(ShapeError, "need at least one array to stack")
    if len({x.shape for x in parts}) > 1:
        shapes = ", ".join(str(x.shape) for x in parts)
        raise fail(ShapeError, f"all input arrays must have the same shape, not {shapes}")
    index = normal_axis(axis, parts[0].ndim + 1)
    return concatenate([expand_dims(x, index) for x in parts], index, out, dtype=dtype)


def vstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Array:
    return concatenate([atleast_2d(x) for x in _sequence(tup)], 0, dtype=dtype)


def hstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Array:
    parts = [atleast_1d(x) for x in _sequence(tup)]
    return concatenate(parts, 0 if parts and parts[0].ndim == 1 else 1, dtype=dtype)


def dstack(tup: Any) -> Array:
    return concatenate([atleast_3d(x) for x in _sequence(tup)], 2)


def column_stack(tup: Any) -> Array:
    parts = [as_array(x) for x in _sequence(tup)]
    return concatenate([reshape(x, (-1, 1)) if x.ndim < 2 else x for x in parts], 1)


def append(arr: Any, values: Any, axis: int | None = None) -> Array:
    if axis is None:
        return concatenate([ravel(arr), ravel(values)], 0)
    return concatenate([arr, values], axis)


def block(arrays: Any) -> Array:
    """numpy.block of nested lists."""

    def depth(item: Any) -> int:
        return 1 + max(map(depth, item)) if isinstance(item, list) else 0

    levels = depth(arrays)
    ndim = max([levels] + [as_array(x).ndim for x in _leaves(arrays)])

    def join(item: Any, level: int) -> Array:
        if not isinstance(item, list):
            x = as_array(item)
            return reshape(x, (1,) * (ndim - x.ndim) + x.shape)
        return concatenate([join(part, level + 1) for part in item], axis=ndim - levels + level)

    return join(arrays, 0)


def _leaves(item: Any) -> list[Any]:
    return [leaf for part in item for leaf in _leaves(part)] if isinstance(item, list) else [item]


# -- splitting


def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    x = as_array(ary)
    index = normal_axis(axis, x.ndim)
    extent = x.shape[index]
    if isinstance(indices_or_sections, (int, np.integer)):
        count = int(indices_or_sections)
        if count <= 0:
            raise fail(ShapeError, "number sections must be larger than 0.")
        each, extra = divmod(extent, count)
        ends = list(itertools.accumulate([each + 1] * extra + [each] * (count - extra)))[:-1]
    else:
        given = indices_or_sections
        ends = [
            static_int(i, "a place to split")
            for i in (given if isinstance(given, (list, tuple)) else list(given))
        ]
    bounds = [None, *ends, None]
    lead = (slice(None),) * index
    return [x[(*lead, slice(start, stop))] for start, stop in zip(bounds, bounds[1:])]


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    x = as_array(ary)
    if (
        isinstance(indices_or_sections, (int, np.integer))
        and x.shape[normal_axis(axis, x.ndim)] % indices_or_sections
    ):
        raise fail(ShapeError, "array split does not result in an equal division")
    return array_split(x, indices_or_sections, axis)


def vsplit(ary: Any, indices_or_sections: Any) -> list[Array]:
    if as_array(ary).ndim < 2:
        raise fail(ShapeError, "vsplit only works on arrays of 2 or more dimensions")
    return split(ary, indices_or_sections, 0)


def hsplit(ary: Any, indices_or_sections: Any) -> list[Array]:
    if as_array(ary).ndim < 1:
        raise fail(ShapeError, "hsplit only works on arrays of 1 or more dimensions")
    return split(ary, indices_or_sections, 1 if as_array(ary).ndim > 1 else 0)


def dsplit(ary: Any, indices_or_sections: Any) -> list[Array]:
    if as_array(ary).ndim < 3:
        raise fail(ShapeError, "dsplit only works on arrays of 3 or more dimensions")
    return split(ary, indices_or_sections, 2)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Array, ...]:
    return tuple(moveaxis(x, axis, 0))


# -- repeating and rolling


def tile(A: Any, reps: Any) -> Array:
    x = as_array(A)
    times = normal_shape(reps)
    ndim = max(x.ndim, len(times))
    times = (1,) * (ndim - len(times)) + times
    shape = (1,) * (ndim - x.ndim) + x.shape
    b = builder()
    value = b.reshaped(value_of(x), tuple(n for m in shape for n in (1, m)))
    wide = b.broadcast_to(value, tuple(n for t, m in zip(times, shape) for n in (t, m)))
    return wrap(b.reshaped(wide, tuple(t * m for t, m in zip(times, shape))), scalar=False)


def repeat(a: Any, repeats: Any, axis: int | None = None) -> Array:
    x = as_array(a)
    if axis is None:
        x, axis = ravel(x), 0
    index = normal_axis(axis, x.ndim)
    counts = _static_counts(repeats)
    if len(counts) == 1:
        counts = counts * x.shape[index]
    if len(counts) != x.shape[index]:
        raise fail(
            ShapeError,
            f"operands could not be broadcast together with shape ({x.shape[index]},) ({len(counts)},)",
        )
    from nufunc.tracer.np_misc import take
    from nufunc.tracer.trace import require

    chosen = np.repeat(np.arange(x.shape[index]), counts)
    return take(x, require().constant(chosen), axis=index)


def _static_counts(repeats: Any) -> list[int]:
    if type(repeats) is Array:
        if repeats.known is None:
            raise fail(
                UnsupportedError, "np.repeat with traced counts, since the result's length is not static"
            )
        repeats = repeats.known
    values = np.atleast_1d(repeats).tolist()
    if any(n < 0 for n in values):
        raise fail(ShapeError, "repeats may not contain negative values.")
    return values


def roll(a: Any, shift: Any, axis: Any = None) -> Array:
    x = as_array(a)
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), x.shape)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    shifts = shift if isinstance(shift, (tuple, list)) else (shift,)
    if len(axes) == 1 or len(shifts) == 1:
        axes, shifts = axes * len(shifts), shifts * len(axes)
    for axis_, amount in zip(axes, shifts, strict=True):
        index = normal_axis(axis_, x.ndim)
        x = _rolled(x, amount, index)
    return copied(x) if x is a or not shifts else x


def _rolled(x: Array, amount: Any, axis: int) -> Array:
    extent = x.shape[axis]
    if type(amount) is Array and amount.known is None:
        from nufunc.tracer import np_namespace
        from nufunc.tracer.np_misc import take

        return take(x, (np_namespace.numpy.arange(extent) - amount) % max(extent, 1), axis=axis)
    step = static_int(amount, "shift") % extent if extent else 0
    if step == 0:
        return copied(x)
    lead = (slice(None),) * axis
    return concatenate([x[(*lead, slice(-step, None))], x[(*lead, slice(None, -step))]], axis)


def resize(a: Any, new_shape: Any) -> Array:
    x, shape = ravel(a), normal_shape(new_shape)
    total = int(np.prod(shape, dtype=np.int64))
    if x.size == 0 or total == 0:
        from nufunc.tracer.np_creation import zeros

        return zeros(shape, x.dtype)
    return reshape(tile(x, -(-total // x.size))[:total], shape)


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
    reshape, ravel, transpose, permute_dims, matrix_transpose, swapaxes, moveaxis, rollaxis, expand_dims, squeeze,
    broadcast_to, broadcast_arrays, atleast_1d, atleast_2d, atleast_3d, flip, flipud, fliplr, rot90, concatenate, concat,
    stack, vstack, hstack, dstack, column_stack, append, block, array_split, split, vsplit, hsplit, dsplit, unstack, tile,
    repeat, roll, resize, ndim, shape, size,
)  # fmt: skip

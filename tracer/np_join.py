"""Joining and splitting, repeating and rolling."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import DTypeError, ShapeError, UnsupportedError
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.layout import joined_strides, like_strides
from nufunc.tracer.np_core import (
    as_array,
    builder,
    fail,
    finish,
    normal_axis,
    normal_shape,
    result_dtype,
    static_int,
    strides_of,
    value_of,
    wrap,
)
from nufunc.tracer.np_creation import copied
from nufunc.tracer.np_shape import (
    atleast_1d,
    atleast_2d,
    atleast_3d,
    expand_dims,
    moveaxis,
    ravel,
    reshape,
)

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
    for x in parts if dtype is not None else ():
        if not promotion.can_cast(x.dtype, kind, casting):
            raise fail(
                DTypeError, f"Cannot cast array data from {x.dtype!r} to {kind!r} according to the rule '{casting}'"
            )
    b = builder()
    values = [b.astype(value_of(x), kind) for x in parts]
    value = b.concat(*values, axis=index) if len(values) > 1 else values[0]
    strided = any(x.strides_ is not None for x in parts)
    strides = joined_strides(value.shape, [x.shape for x in parts], [strides_of(x) for x in parts]) if strided else None
    return finish(value, out, "concatenate", scalar=False, strides=strides)


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
        if isinstance(given, (float, str)):
            raise fail(DTypeError, "sections must be a whole number or the places to split at")
        ends = [
            static_int(i, "a place to split")
            for i in (given if isinstance(given, (list, tuple)) else list(given))
        ]
    bounds = [None, *ends, None]
    lead = (slice(None),) * index
    return [x[(*lead, slice(start, stop))] for start, stop in itertools.pairwise(bounds)]


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
    if axis is None or (not x.ndim and axis in (0, -1)):
        x, axis = ravel(x), 0
    index = normal_axis(axis, x.ndim)
    counts = _static_counts(repeats)
    if len(counts) == 1:
        b, shape = builder(), list(x.shape)
        wide = (*shape[: index + 1], counts[0], *shape[index + 1 :])
        dims = tuple(k for k in range(len(wide)) if k != index + 1)
        shape[index] *= counts[0]
        return wrap(b.reshaped(b.broadcast(value_of(x), shape=wide, dims=dims), tuple(shape)), scalar=False)
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
    if np.asarray(repeats).dtype.kind not in "iub":
        raise fail(DTypeError, f"Cannot cast repeats from {np.asarray(repeats).dtype!r} to int64 by the rule 'safe'")
    values = np.atleast_1d(repeats).tolist()
    if any(n < 0 for n in values):
        raise fail(ShapeError, "repeats may not contain negative values.")
    return values


def roll(a: Any, shift: Any, axis: Any = None) -> Array:
    x = as_array(a)
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), x.shape)
    source = x
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    shifts = shift if isinstance(shift, (tuple, list)) else (shift,)
    if len(axes) == 1 or len(shifts) == 1:
        axes, shifts = axes * len(shifts), shifts * len(axes)
    for axis_, amount in zip(axes, shifts, strict=True):
        index = normal_axis(axis_, x.ndim)
        x = _rolled(x, amount, index)
    result = copied(x) if x is a or not shifts else x
    result.strides_ = like_strides(source.shape, strides_of(source))
    return result


def _rolled(x: Array, amount: Any, axis: int) -> Array:
    extent = x.shape[axis]
    if type(amount) is Array and amount.known is None:
        from nufunc.tracer import np_namespace
        from nufunc.tracer.np_misc import take

        np_ = np_namespace.numpy
        place = np_.arange(extent) - amount % max(extent, 1)
        return take(x, np_.where(place < 0, place + extent, place), axis=axis, mode="clip")
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


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    concatenate, concat, stack, vstack, hstack, dstack, column_stack, append, block, array_split, split,
    vsplit, hsplit, dsplit, unstack, tile, repeat, roll, resize,
)  # fmt: skip

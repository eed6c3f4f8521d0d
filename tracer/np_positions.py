"""Positions: open meshes, triangles and diagonals as index arrays, flat positions and their coordinates; insertion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import BoundsError, DTypeError, ShapeError, TraceError, UnsupportedError
from nufunc.ir.types import BOOL, INT64
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, builder, fail, normal_axis, normal_shape, static_value, value_of, wrap
from nufunc.tracer.np_join import concatenate
from nufunc.tracer.np_misc import take, where
from nufunc.tracer.np_shape import broadcast_arrays, broadcast_to
from nufunc.tracer.np_sorting import nonzero
from nufunc.tracer.trace import require


def ix_(*args: Any) -> tuple[Array, ...]:
    """numpy.ix_: each sequence along an axis of its own; masks must be static."""
    meshes = []
    for k, item in enumerate(args):
        x = as_array(item)
        if x.ndim != 1:
            raise fail(ShapeError, "Cross index must be 1 dimensional")
        if x.dtype == BOOL:
            (x,) = nonzero(x)
        elif not x.size:
            x = x.astype(INT64)
        meshes.append(x.reshape((1,) * k + (-1,) + (1,) * (len(args) - k - 1)))
    return tuple(meshes)


def _constants(arrays: tuple[np.ndarray, ...]) -> tuple[Array, ...]:
    return tuple(require().constant(a) for a in arrays)


def _matrix(arr: Any) -> tuple[int, ...]:
    x = as_array(arr)
    if x.ndim != 2:
        raise fail(ShapeError, "input array must be 2-d")
    return x.shape


def tril_indices_from(arr: Any, k: int = 0) -> tuple[Array, ...]:
    rows, columns = _matrix(arr)
    return _constants(np.tril_indices(rows, k, columns))


def triu_indices_from(arr: Any, k: int = 0) -> tuple[Array, ...]:
    rows, columns = _matrix(arr)
    return _constants(np.triu_indices(rows, k, columns))


def diag_indices_from(arr: Any) -> tuple[Array, ...]:
    x = as_array(arr)
    if x.ndim < 2:
        raise fail(ShapeError, "input array must be at least 2-d")
    if len(set(x.shape)) > 1:
        raise fail(ShapeError, "All dimensions of input must be of equal length")
    return _constants(np.diag_indices(x.shape[0], x.ndim))


def mask_indices(n: int, mask_func: Callable[..., Any], k: Any = 0) -> tuple[Array, ...]:
    """numpy.mask_indices, where the mask is one of NumPy's or computed from static values."""
    original = getattr(mask_func, "original", None)
    if original is not None:
        return _constants(np.nonzero(original(np.ones((n, n), int), k)))
    found = as_array(mask_func(require().constant(np.ones((n, n), np.int64)), k)).known
    if found is None:
        raise fail(UnsupportedError, "np.mask_indices of a mask that is traced has no static shape")
    return _constants(np.nonzero(found))


# -- flat positions and coordinates


def _checked(index: Array, extent: int) -> Array:
    """The index; a BoundsError when the program runs if one is negative or not below the extent."""
    b = builder()
    inside = b.gather(b.iota(shape=(extent,), dtype=INT64, axis=0), value_of(index), axes=(0,), mode="error")
    return wrap(inside, scalar=index.scalar)


def _whole(index: Array) -> Array:
    if index.dtype.kind not in "iu":
        raise fail(DTypeError, "only int indices permitted")
    return index.astype(INT64)


def ravel_multi_index(multi_index: Any, dims: Any, mode: Any = "raise", order: str = "C") -> Array:
    """numpy.ravel_multi_index; coordinates outside are a BoundsError when the program runs."""
    shape = normal_shape(dims)
    parts = [_whole(as_array(part)) for part in multi_index]
    if len(parts) != len(shape):
        raise fail(ShapeError, f"parameter multi_index must be a sequence of length {len(shape)}")
    for rule in mode if isinstance(mode, (tuple, list)) else (mode,):
        if rule not in ("raise", "wrap", "clip", None):
            raise fail(ShapeError, f"clipmode must be one of 'clip', 'raise', or 'wrap' (got {rule!r})")
    modes = mode if isinstance(mode, (tuple, list)) else (mode,) * len(shape)
    steps = [math.prod(shape[k + 1 :]) if order in ("C", None) else math.prod(shape[:k]) for k in range(len(shape))]
    total: Any = None
    for part, extent, step, rule in zip(broadcast_arrays(*parts), shape, steps, modes, strict=True):
        if rule in ("raise", None):
            index = _checked(part, extent)
        elif rule == "wrap":
            index = part % extent
        else:
            index = where(part < 0, 0, where(part >= extent, extent - 1, part))
        total = index * step if total is None else total + index * step
    result = as_array(total)
    return result if result.ndim else result[()]


def unravel_index(indices: Any, shape: Any, order: str = "C") -> tuple[Array, ...]:
    """numpy.unravel_index; positions outside are a BoundsError when the program runs."""
    extents = normal_shape(shape)
    rest = _checked(_whole(as_array(indices)), math.prod(extents))
    found: list[Array] = []
    for extent in reversed(extents) if order in ("C", None) else extents:
        found.append(rest % extent)
        rest = rest // extent
    return tuple(reversed(found)) if order in ("C", None) else tuple(found)


# -- insertion


def insert(arr: Any, obj: Any, values: Any, axis: int | None = None) -> Array:
    """numpy.insert before static positions."""
    x = as_array(arr)
    if axis is None:
        x, index = x.reshape(-1), 0
    else:
        index = normal_axis(axis, x.ndim)
    count = x.shape[index]
    places, single = _places(obj, count)
    given = as_array(values).astype(x.dtype)
    if places.size == 1:
        given = given.reshape((1,) * (x.ndim - given.ndim) + given.shape)
        if single:
            given = _first_axis_to(given, index)
        places = np.repeat(places, given.shape[index])
    shape = tuple(places.size if k == index else n for k, n in enumerate(x.shape))
    order = np.insert(np.arange(count), places, np.arange(count, count + places.size))
    return take(concatenate([x, broadcast_to(given, shape)], index), require().constant(order), axis=index)


def _places(obj: Any, count: int) -> tuple[np.ndarray, bool]:
    """Where to insert, and whether that was a single int."""
    if isinstance(obj, slice):
        return np.arange(*obj.indices(count)), False
    known = static_value(obj) if type(obj) is not Array else obj.known
    if known is None:
        raise fail(TraceError, "np.insert at traced positions; make them static")
    places = np.asarray(known)
    if places.dtype.kind not in "iub" and places.size:
        if not places.ndim:
            raise fail(DTypeError, "slice indices must be integers or None or have an __index__ method")
        raise fail(BoundsError, "arrays used as indices must be of integer (or boolean) type")
    if places.dtype == bool:
        return np.flatnonzero(places), False
    if places.ndim > 1:
        raise fail(ShapeError, "index array argument obj to insert must be one dimensional or scalar")
    places = places.astype(np.int64)
    if ((places < -count) | (places > count)).any():
        raise fail(BoundsError, f"index {obj} is out of bounds for axis with size {count}")
    return places.reshape(-1), places.ndim == 0


def _first_axis_to(x: Array, index: int) -> Array:
    from nufunc.tracer.np_shape import moveaxis

    return moveaxis(x, 0, index)


def trim_zeros(filt: Any, trim: str = "fb", axis: Any = None) -> Array:
    raise fail(UnsupportedError, "np.trim_zeros of traced values has no static shape: the length depends on them")


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    ix_, tril_indices_from, triu_indices_from, diag_indices_from, ravel_multi_index, unravel_index, insert,
    trim_zeros,
)  # fmt: skip

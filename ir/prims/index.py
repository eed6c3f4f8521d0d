"""Primitives that read or write at positions: update, dynamic_slice, dynamic_update, gather and scatters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import BoundsError, DTypeError, ShapeError, VerifyError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import (
    Arrays,
    Batched,
    Dims,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    axis_index,
    batch_shifted,
    batched,
    fresh,
    linear_jvp,
    linear_transpose,
    need_axes,
    need_count,
    shifted,
    shown,
)
from nufunc.ir.prims.layout import batched_slices, numpy_slices, slice_shape
from nufunc.ir.types import INT64, ArrayType


def _need_value(prim: str, base: ArrayType, value: ArrayType, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ShapeError(f"{prim}: the value {value} does not fit the place of shape {shape} in {base}")
    if value.dtype != base.dtype:
        raise DTypeError(f"{prim}: the value {value} has another dtype than {base}")


# -- update


def _update_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("update", types, 2)
    base, value = types
    _need_value("update", base, value, slice_shape("update", base, attrs))
    return (base,)


def _update_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    out = fresh(arrays[0])
    out[numpy_slices(attrs)] = arrays[1]
    return [out]


def _update_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    base, value = operands
    return [
        None if base is not None else b.update(ct, b.zeros(types[1]), **attrs),
        None if value is not None else b.slice(ct, **attrs),
    ]


register(
    Primitive(
        "update", "index", _update_infer, _update_evaluate, linear_jvp("update"),
        linear_transpose(_update_transpose),
        batch_shifted("update", batched_slices), attrs=("start", "stop", "step"),
    )
)  # fmt: skip


# -- dynamic_slice and dynamic_update


def _need_starts(prim: str, x: ArrayType, starts: Types) -> None:
    if len(starts) != x.ndim:
        raise ShapeError(f"{prim}: {x} needs one start per axis, not {len(starts)}")
    if any(s.shape != () or s.dtype != INT64 for s in starts):
        raise DTypeError(f"{prim}: starts are scalars of i64, not {shown(starts)}")


def _need_window(prim: str, x: ArrayType, sizes: Sequence[int]) -> None:
    if len(sizes) != x.ndim or any(not 0 <= size <= extent for size, extent in zip(sizes, x.shape)):
        raise ShapeError(f"{prim}: a window of shape {tuple(sizes)} does not fit into {x}")


def _window(x: np.ndarray, starts: Arrays, sizes: Sequence[int]) -> tuple[Any, ...]:
    """The window as an index, moved inside where it would stick out."""
    lows = [min(max(int(s), 0), extent - size) for s, size, extent in zip(starts, sizes, x.shape)]
    return (*(slice(low, low + size) for low, size in zip(lows, sizes)), ...)


def _dynamic_slice_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    if not types:
        raise VerifyError("dynamic_slice takes an array and its starts")
    _need_starts("dynamic_slice", types[0], types[1:])
    _need_window("dynamic_slice", types[0], attrs["sizes"])
    return (types[0].with_shape(tuple(attrs["sizes"])),)


def _dynamic_slice_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    x, *starts = arrays
    return [fresh(x[_window(x, starts, attrs["sizes"])])]


def _dynamic_slice_transpose(
    b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs
) -> list[Maybe]:
    starts = operands[1:]
    return [b.dynamic_update(b.zeros(types[0]), ct, *starts), *(None for _ in starts)]


def _window_indices(
    b: Builder, size: int, starts: Values, dims: Dims, extents: Sequence[int], sizes: Sequence[int]
) -> list[Value]:
    """For starts that differ per lane: the index of every window element, each of shape (size, *sizes)."""
    shape = (size, *sizes)
    out = [axis_index(b, shape, 0)]
    for axis, (start, dim) in enumerate(zip(starts, dims)):
        start = batched(b, size, start, dim)
        low = b.maximum(start, b.like(start, 0))
        low = b.minimum(low, b.like(start, extents[axis] - sizes[axis]))
        out.append(b.add(b.broadcast(low, shape=shape, dims=(0,)), axis_index(b, shape, axis + 1)))
    return out


def _dynamic_slice_batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
    x, *starts = operands
    sizes = tuple(attrs["sizes"])
    if all(d is None for d in dims[1:]):
        return [b.dynamic_slice(x, b.scalar(0, INT64), *starts, sizes=(size, *sizes))], [0]
    extents = x.shape if dims[0] is None else x.shape[1:]
    indices = _window_indices(b, size, starts, dims[1:], extents, sizes)
    if dims[0] is None:
        indices = indices[1:]
    return [b.gather(x, *indices, axes=tuple(range(x.ndim)), mode="clip")], [0]


register(
    Primitive(
        "dynamic_slice", "index", _dynamic_slice_infer, _dynamic_slice_evaluate,
        linear_jvp("dynamic_slice", 1),
        linear_transpose(_dynamic_slice_transpose), _dynamic_slice_batch, attrs=("sizes",),
    )
)  # fmt: skip


def _dynamic_update_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    if len(types) < 2:
        raise VerifyError("dynamic_update takes an array, a value and the starts")
    x, value, *starts = types
    _need_starts("dynamic_update", x, starts)
    _need_window("dynamic_update", x, value.shape)
    _need_value("dynamic_update", x, value, value.shape)
    return (x,)


def _dynamic_update_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    x, value, *starts = arrays
    out = fresh(x)
    out[_window(x, starts, value.shape)] = value
    return [out]


def _dynamic_update_transpose(
    b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs
) -> list[Maybe]:
    x, value, *starts = operands
    return [
        None if x is not None else b.dynamic_update(ct, b.zeros(types[1]), *starts),
        None if value is not None else b.dynamic_slice(ct, *starts, sizes=types[1].shape),
        *(None for _ in starts),
    ]


def _dynamic_update_batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
    x, value = (batched(b, size, v, d) for v, d in zip(operands[:2], dims[:2]))
    starts = operands[2:]
    if all(d is None for d in dims[2:]):
        return [b.dynamic_update(x, value, b.scalar(0, INT64), *starts)], [0]
    indices = _window_indices(b, size, starts, dims[2:], x.shape[1:], value.shape[1:])
    return [b.scatter_set(x, value, *indices, axes=tuple(range(x.ndim)), mode="clip")], [0]


register(
    Primitive(
        "dynamic_update", "index", _dynamic_update_infer, _dynamic_update_evaluate,
        linear_jvp("dynamic_update", 2),
        linear_transpose(_dynamic_update_transpose), _dynamic_update_batch,
    )
)  # fmt: skip


# -- gather and scatters


def _gathered_shape(prim: str, x: ArrayType, indices: Types, attrs: Attrs) -> tuple[int, ...]:
    """The shape of x indexed by these arrays along `axes`, after a check of all of them."""
    axes, mode = attrs["axes"], attrs["mode"]
    need_axes(prim, axes, x)
    if mode not in ("error", "clip"):
        raise VerifyError(f'{prim}: mode is "error" or "clip", not {mode!r}')
    if len(indices) != len(axes) or not indices:
        raise ShapeError(
            f"{prim}: axes {tuple(axes)} of {x} need one index array each, at least one: {shown(indices)}"
        )
    if any(i.dtype != INT64 for i in indices):
        raise DTypeError(f"{prim}: index arrays are of i64, not {shown(indices)}")
    if any(i.shape != indices[0].shape for i in indices):
        raise ShapeError(f"{prim}: index arrays of different shapes: {shown(indices)}")
    if mode == "clip" and indices[0].size and any(x.shape[a] == 0 for a in axes):
        raise ShapeError(f"{prim}: {x} has an empty axis, nothing can be indexed there")
    return (*indices[0].shape, *(n for a, n in enumerate(x.shape) if a not in axes))


def _checked(x: np.ndarray, indices: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
    """The index arrays, clamped or checked."""
    out = []
    for axis, index in zip(attrs["axes"], indices):
        extent = x.shape[axis]
        if attrs["mode"] == "clip":
            index = np.clip(index, 0, max(extent - 1, 0))
        wrong = (index < 0) | (index >= extent)
        if wrong.any():
            raise BoundsError(
                f"index {index[wrong].flat[0]} is out of bounds for axis {axis} with size {extent}"
            )
        out.append(index)
    return tuple(out)


def _indexed_first(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    """A view of x with the indexed axes in front."""
    return np.moveaxis(x, attrs["axes"], range(len(attrs["axes"])))


def _gather_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    if not types:
        raise VerifyError("gather takes an array and its indices")
    return (types[0].with_shape(_gathered_shape("gather", types[0], types[1:], attrs)),)


def _gather_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    x, *indices = arrays
    return [fresh(_indexed_first(x, attrs)[_checked(x, indices, attrs)])]


def _gather_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    indices = operands[1:]
    return [b.scatter_add(b.zeros(types[0]), ct, *indices, **attrs), *(None for _ in indices)]


def _batched_indices(b: Builder, size: int, indices: Values, dims: Dims) -> list[Value]:
    """Index arrays that differ per lane, led by the index of the lane."""
    full = [batched(b, size, i, d) for i, d in zip(indices, dims)]
    return [axis_index(b, full[0].shape, 0), *full]


def _gather_batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
    x, *indices = operands
    axes, mode = shifted(attrs["axes"]), attrs["mode"]
    if all(d is None for d in dims[1:]):
        out = b.gather(x, *indices, axes=axes, mode=mode)
        return [b.moved(out, indices[0].ndim, 0)], [0]
    full = _batched_indices(b, size, indices, dims[1:])
    if dims[0] is None:
        return [b.gather(x, *full[1:], **attrs)], [0]
    return [b.gather(x, *full, axes=(0, *axes), mode=mode)], [0]


register(
    Primitive(
        "gather", "index", _gather_infer, _gather_evaluate, linear_jvp("gather", 1),
        linear_transpose(_gather_transpose), _gather_batch, attrs=("axes", "mode"),
    )
)  # fmt: skip


def _winners(b: Builder, x: ArrayType, indices: Values, attrs: Attrs) -> Value:
    """Which of the index positions a scatter_set leaves in place: of repeated ones the last."""
    shape = indices[0].shape
    order = b.reshaped(axis_index(b, (indices[0].type.size,), 0), shape)
    board = ArrayType(tuple(x.shape[a] for a in attrs["axes"]), INT64)
    where = {"axes": tuple(range(len(indices))), "mode": attrs["mode"]}
    last = b.scatter_set(b.zeros(board), order, *indices, **where)
    return b.eq(b.gather(last, *indices, **where), order)


def _scatter_set_transpose(
    b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs
) -> list[Maybe]:
    x, value, *indices = operands
    ct_x = None if x is not None else b.scatter_set(ct, b.zeros(types[1]), *indices, **attrs)
    if value is not None:
        return [ct_x, None, *(None for _ in indices)]
    won = _winners(b, types[0], [i for i in indices if i is not None], attrs)
    won = b.broadcast(won, shape=types[1].shape, dims=tuple(range(won.ndim)))
    ct_value = b.select(won, b.gather(ct, *indices, **attrs), b.zeros(types[1]))
    return [ct_x, ct_value, *(None for _ in indices)]


def _scatter_add_transpose(
    b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs
) -> list[Maybe]:
    _, value, *indices = operands
    return [ct, None if value is not None else b.gather(ct, *indices, **attrs), *(None for _ in indices)]


def _scatter(name: str, transpose: Any) -> None:
    def infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
        if len(types) < 2:
            raise VerifyError(f"{name} takes an array, a value and the indices")
        x, value, *indices = types
        _need_value(name, x, value, _gathered_shape(name, x, indices, attrs))
        return (x,)

    def evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
        x, value, *indices = arrays
        out = fresh(x)
        target, where = _indexed_first(out, attrs), _checked(x, indices, attrs)
        with np.errstate(all="ignore"):
            if name == "scatter_add":
                np.add.at(target, where, value)
            else:
                target[where] = value
        return [out]

    def batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
        x, value = (batched(b, size, v, d) for v, d in zip(operands[:2], dims[:2]))
        indices, axes, mode = operands[2:], shifted(attrs["axes"]), attrs["mode"]
        if all(d is None for d in dims[2:]):
            value = b.moved(value, 0, indices[0].ndim)
            return b.emit(name, (x, value, *indices), {"axes": axes, "mode": mode}), [0]
        full = _batched_indices(b, size, indices, dims[2:])
        return b.emit(name, (x, value, *full), {"axes": (0, *axes), "mode": mode}), [0]

    register(
        Primitive(
            name, "index", infer, evaluate, linear_jvp(name, 2), linear_transpose(transpose), batch,
            attrs=("axes", "mode"),
        )
    )  # fmt: skip


_scatter("scatter_set", _scatter_set_transpose)
_scatter("scatter_add", _scatter_add_transpose)

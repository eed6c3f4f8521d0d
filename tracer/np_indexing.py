"""Indexing: x[key], x[key] = value, x.flat, ufunc.at. Basic keys give views, advanced ones copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import BoundsError, DTypeError, ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import ArrayType
from nufunc.tracer.array import Array, DynamicView
from nufunc.tracer.layout import Strides, canonical, gathered_strides
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    cast_scalar,
    fail,
    is_scalar,
    strides_of,
    value_of,
    wrap,
)
from nufunc.tracer.np_index_parse import Item, in_bounds, parse, window_index
from nufunc.tracer.trace import Trace, require

# -- views


def view(x: Array, prim: str, strides: Strides | None, readonly: str = "", **attrs: Any) -> Array:
    """An Array that aliases `x` through one view primitive."""
    if x.via is not None and not x.dynamic and x.via[0] == "view_bitcast" and prim != "view_bitcast":
        # The bytes are read anew last, so that a write through the view touches what it shows and nothing else.
        assert x.base is not None
        return view(view(x.base, prim, strides, readonly, **attrs), "view_bitcast", strides, x.readonly, **x.via[1])
    trace = require(x)
    value = trace.b.emit(prim, (trace.lift(x),), attrs)[0]
    alias = Array(
        trace, value, strides=canonical(value.shape, strides), base=x, via=(prim, attrs), readonly=readonly,
        constant=_known_view(x, prim, attrs),
    )  # fmt: skip
    trace.remember(alias, value)
    return alias


def _known_view(x: Array, prim: str, attrs: dict[str, Any]) -> np.ndarray | None:
    known = x.known
    if known is None:
        return None
    if prim == "view_reshape":
        return known.reshape(attrs["shape"])
    if prim == "view_transpose":
        return known.transpose(attrs["perm"])
    if prim == "view_slice":
        return known[tuple(slice(*b) for b in zip(attrs["start"], attrs["stop"], attrs["step"]))]
    return np.flip(known, attrs["axes"]) if prim == "view_flip" else None


def reshape_view(x: Array, shape: tuple[int, ...], strides: Strides | None) -> Array:
    return view(x, "view_reshape", strides, shape=shape)


def basic_view(x: Array, items: list[Item], fresh: bool = False) -> Array:
    """The view that the slices, ints and new axes of a key make; other items leave their axis whole.

    `fresh`: another Array than x, also where the key changes nothing.
    """
    bounds: list[tuple[int, int, int]] = [(0, n, 1) for n in x.shape]
    flips = []
    strides = list(strides_of(x))
    shape: list[int] = []
    kept: list[int] = []
    for item in items:
        if item.kind == "new":
            shape.append(1)
            kept.append(0)
            continue
        axis = item.axis
        if item.kind == "int":
            bounds[axis] = (item.value, item.value + 1, 1)
            continue
        if item.kind == "slice":
            start, stop, step, flip = item.value
            bounds[axis] = (start, stop, step)
            strides[axis] *= -step if flip else step
            if flip:
                flips.append(axis)
            shape.append(item.size)
            kept.append(strides[axis])
        else:
            axes = range(axis, axis + item.value.ndim) if item.kind == "mask" else (axis,)
            shape.extend(x.shape[a] for a in axes)
            kept.extend(strides[a] for a in axes)
    y = x
    if any(b != (0, n, 1) for b, n in zip(bounds, x.shape)):
        start, stop, step = (tuple(part) for part in zip(*bounds))
        y = view(y, "view_slice", tuple(strides), start=start, stop=stop, step=step)
    if flips:
        y = view(y, "view_flip", tuple(strides), axes=tuple(flips))
    if (fresh and y is x) or y.shape != tuple(shape):
        y = reshape_view(y, tuple(shape), tuple(kept))
    if y is not x:
        y.strides_ = canonical(y.shape, tuple(kept))
    return y


def _element(x: Array, items: list[Item]) -> Array:
    """x[1, 2]: a NumPy scalar, which is a copy."""
    b = require(x).b
    value = require().lift(x)
    start = tuple(item.value for item in items)
    if start:
        value = b.slice(value, start=start, stop=tuple(i + 1 for i in start), step=(1,) * len(start))
        value = b.reshape(value, shape=())
    known = None if x.known is None else np.asarray(x.known[start])
    return require().wrap(value, scalar=True, constant=known)


# -- reading


def getitem(x: Array, key: Any) -> Any:
    """x[key]."""
    items, ellipsis = parse(x, key)
    kinds = {item.kind for item in items}
    if "mask" in kinds:
        from nufunc.tracer.np_selection import select_items

        return select_items(x, items)  # a Selection
    if "array" in kinds:
        return _advanced_get(x, items)
    if kinds & {"dynamic", "window"}:
        alias = _dynamic_get(x, key, items, ellipsis)
        if alias.base is x:
            alias.key = (x, key)
        return alias
    if kinds <= {"int"} and not ellipsis:
        return _element(x, items)
    if x.scalar:
        return wrap(value_of(x), scalar=False).reshape(tuple(item.size for item in items))
    alias = basic_view(x, items, fresh=True)
    if any(item.copies for item in items):
        if any(item.value is False for item in items if item.kind == "new"):
            nothing = [slice(None, item.size) for item in items if item.kind != "int"]
            return alias[tuple(nothing)].copy()
        return alias.copy()
    alias.key = (x, key)
    return alias


def _dynamic_value(x: Array, items: list[Item]) -> Value:
    """The elements at traced scalar indices and windows: one gather, with the windows' axes put back in
    place.
    """
    y = basic_view(x, items)
    axes, indices, positions, inside = dynamic_indices(y, items)
    b = require().b
    value = b.gather(value_of(y), *indices, axes=axes, mode="clip" if inside else "error")
    return b.transposed(value, _placed(positions, value.ndim))


def dynamic_indices(y: Array, items: list[Item]) -> tuple[tuple[int, ...], list[Value], list[int], bool]:
    """Axes of y, indices of one common shape (one axis per window), the windows' places in the result."""
    axes: list[int] = []
    parts: list[tuple[Value, int | None]] = []
    positions: list[int] = []
    sizes: list[int] = []
    all_inside = True
    axis = place = 0
    for item in items:
        if item.kind == "int":
            continue
        if item.kind == "dynamic":
            value, inside = in_bounds(item.value, y.shape[axis], item.axis)
            parts.append((value, None))
            axes.append(axis)
            all_inside &= inside
        elif item.kind == "window":
            parts.append((value_of(window_index(item)), len(sizes)))
            sizes.append(item.size)
            positions.append(place)
            axes.append(axis)
            all_inside = False
        axis += 1
        place += item.kind != "dynamic"
    b = require().b
    indices = []
    for value, dim in parts:
        dims = () if dim is None else (dim,)
        same = value.shape == tuple(sizes)
        indices.append(value if same else b.broadcast(value, shape=tuple(sizes), dims=dims))
    return tuple(axes), indices, positions, all_inside


def _placed(positions: list[int], ndim: int) -> tuple[int, ...]:
    """The permutation that puts the first len(positions) axes at these places."""
    rest = iter(range(len(positions), ndim))
    lead = {place: i for i, place in enumerate(positions)}
    return tuple(lead[place] if place in lead else next(rest) for place in range(ndim))


def _dynamic_get(x: Array, key: Any, items: list[Item], ellipsis: bool) -> Array:
    value = _dynamic_value(x, items)
    if (not value.shape and not ellipsis) or any(item.copies for item in items):
        return wrap(value, scalar=not value.shape and not ellipsis)
    trace = require()

    def read(inner: Trace, base: Array) -> Value:
        return _dynamic_value(base, items)

    def store(inner: Trace, base: Array, updated: Value) -> None:
        setitem(base, key, wrap(updated, scalar=False))

    strides = canonical(value.shape, _dynamic_strides(x, items))
    alias = Array(trace, value, base=x, via=DynamicView(read, store), strides=strides)
    trace.remember(alias, value)
    return alias


def _dynamic_strides(x: Array, items: list[Item]) -> Strides:
    """Strides of the view that x[key] is in NumPy."""
    own = strides_of(x)
    strides = []
    for item in items:
        if item.kind == "new":
            strides.append(0)
        elif item.kind == "slice":
            strides.append(own[item.axis] * item.value[2] * (-1 if item.value[3] else 1))
        elif item.kind == "window":
            strides.append(own[item.axis] * item.value[2])
    return tuple(strides)


def advanced_indices(
    y: Array, items: list[Item]
) -> tuple[tuple[int, ...], list[Value], int, bool, tuple[int, ...]]:
    """Axes of y, index values of one shape, where their axes go in the result, whether all are inside, that
    shape.
    """
    axes, parts = [], []
    axis = 0
    all_inside = True
    advanced = [i for i, item in enumerate(items) if item.kind in ("int", "dynamic", "array")]
    adjacent = advanced == list(range(advanced[0], advanced[-1] + 1))
    for item in items:
        if item.kind == "int":
            continue
        if item.kind == "window":
            raise fail(
                UnsupportedError, "a slice with traced bounds beside an index array; index in two steps"
            )
        if item.kind in ("dynamic", "array"):
            value, inside = in_bounds(item.value, y.shape[axis], item.axis)
            parts.append(value)
            axes.append(axis)
            all_inside &= inside
        axis += 1
    b = require().b
    try:
        shape = broadcast_shapes(*[v.shape for v in parts])
    except ShapeError as error:
        said = str(error).splitlines()[0]
        raise fail(BoundsError, f"shape mismatch: indexing arrays: {said}") from None
    indices = [b.broadcast_to(v, shape) for v in parts]
    place = advanced[0] if adjacent else 0
    return tuple(axes), indices, place, all_inside, shape


def _advanced_get(x: Array, items: list[Item]) -> Array:
    y = basic_view(x, items)
    axes, indices, place, inside, lead = advanced_indices(y, items)
    b = require().b
    value = b.gather(value_of(y), *indices, axes=axes, mode="clip" if inside else "error")
    own = strides_of(y)
    rest = [k for k in range(y.ndim) if k not in axes]
    strides = gathered_strides(lead, [y.shape[k] for k in rest], tuple(own[k] for k in rest))
    return _leading_axes_at(b, value, len(lead), place, strides)


def _leading_axes_at(b: Builder, value: Value, count: int, place: int, strides: Strides) -> Array:
    """A gather's result of these strides with its index axes moved to `place`."""
    if place == 0 or count == 0:
        return wrap(value, strides=canonical(value.shape, strides))
    perm = _placed(list(range(place, place + count)), value.ndim)
    strides = tuple(strides[p] for p in perm)
    moved = b.transposed(value, perm)
    return wrap(moved, strides=canonical(moved.shape, strides))


# -- writing


def assigned(value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> Value:
    """What is stored by x[...] = value: cast without asking, broadcast, leading axes of extent one
    dropped.
    """
    b = require().b
    if is_scalar(value):
        if isinstance(value, (complex, np.complexfloating)) and dtype.kind != "c":
            raise fail(DTypeError, f"a complex value cannot be stored into an array of {dtype}")
        return b.filled(cast_scalar(value, dtype), ArrayType(shape, dtype))
    array = as_array(value)
    if array.dtype.kind == "c" and dtype.kind not in "cb":
        raise fail(DTypeError, f"complex values cannot be stored into an array of {dtype}; store x.real")
    operand = require().lift(array)
    while operand.ndim > len(shape) and operand.shape[0] == 1:
        operand = b.reshape(operand, shape=operand.shape[1:])
    try:
        fits = np.broadcast_shapes(operand.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise fail(ShapeError, f"could not broadcast input array from shape {array.shape} into shape {shape}")
    return b.broadcast_to(b.astype(operand, dtype), shape)


def setitem(x: Array, key: Any, value: Any) -> None:
    """x[key] = value."""
    if x.scalar:
        raise TypeError(f"'numpy.{x.dtype}' object does not support item assignment")
    if (
        type(value) is Array
        and value.key is not None
        and value.key[0] is x
        and value.key[1] is key
        and value.root is x.root
    ):
        return  # the second half of x[key] += y: the view has been written already
    trace = require(x)
    if x.via is not None and not x.dynamic and x.via[0] == "view_bitcast":
        from nufunc.tracer.np_bytes import as_dtype

        assert x.base is not None
        setitem(x.base, key, as_dtype(as_array(value).astype(x.dtype), x.base.dtype))
        return
    items, _ = parse(x, key)
    kinds = {item.kind for item in items}
    single = kinds <= {"int", "dynamic"} and 0 < len(items) == x.ndim
    if single and isinstance(value, (Array, np.ndarray, list, tuple)) and as_array(value).ndim:
        raise fail(ShapeError, "setting an array element with a sequence.")
    if "mask" in kinds:
        from nufunc.tracer.np_selection import assign_items

        assign_items(x, items, value)
        return
    y = basic_view(x, items)
    if "array" in kinds:
        axes, indices, place, inside, lead = advanced_indices(y, items)
        positions = list(range(place, place + len(lead)))
    elif kinds & {"dynamic", "window"}:
        axes, indices, positions, inside = dynamic_indices(y, items)
        lead = tuple(i.size for i in items if i.kind == "window")
    else:
        if any(item.value is False for item in items if item.kind == "new"):
            assigned(value, x.dtype, tuple(item.size for item in items if item.kind != "int"))
            return  # x[False] names nothing
        stored = assigned(value, x.dtype, y.shape)
        trace.write(y, stored)
        return
    updated = scatter(y, axes, indices, positions, lead, inside, value, "scatter_set")
    trace.write(y, updated)


def scatter(
    y: Array,
    axes: tuple[int, ...],
    indices: list[Value],
    positions: list[int],
    lead: tuple[int, ...],
    inside: bool,
    value: Any,
    prim: str,
) -> Value:
    """The whole of y with `value` stored or added at indices; `positions` are the places of the index
    axes.
    """
    rest = [n for a, n in enumerate(y.shape) if a not in axes]
    order = _placed(positions, len(lead) + len(rest))
    gathered = (*lead, *rest)
    stored = assigned(value, y.dtype, tuple(gathered[p] for p in order))
    b = require().b
    stored = b.transposed(stored, tuple(np.argsort(order).tolist()))
    operands = (value_of(y), stored, *indices)
    return b.emit(prim, operands, {"axes": axes, "mode": "clip" if inside else "error"})[0]


def repeated(values: Array, count: int) -> Array:
    """So many values of a line, from its start again as often as needed."""
    if values.size in (1, count):
        return values
    return values[require().constant(np.arange(count) % values.size)]


class Flat:
    """x.flat: reading gives copies, writing goes to x; values are repeated as needed. It is its own iterator."""

    __nufunc_flat__ = True

    def __init__(self, array: Array) -> None:
        self.array = array
        self.index = 0  # of the element that comes next

    @property
    def base(self) -> Array:
        return self.array

    @property
    def coords(self) -> tuple[int, ...]:
        """The place of the element that comes next."""
        return tuple(int(i) for i in np.unravel_index(self.index, self.array.shape))

    def __len__(self) -> int:
        return self.array.size

    def __iter__(self) -> Iterator[Array]:
        return self

    def __next__(self) -> Array:
        if self.index >= self.array.size:
            raise StopIteration
        self.index += 1
        return self[self.index - 1]

    def copy(self) -> Array:
        return self.array.flatten()

    def line(self) -> Array:
        """All elements in C order: a view where NumPy has one, else a copy."""
        return self.array.reshape(-1) if self.array.size else self.array.reshape(0)

    def __getitem__(self, key: Any) -> Any:
        part = self.line()[key]
        if type(part) is not Array:  # what a traced mask selects
            return part
        return part if part.scalar or part.root is not self.array.root else part.copy()

    def __setitem__(self, key: Any, value: Any) -> None:
        x, line = self.array, self.line()
        if type(key) is Array and key.dtype.kind == "b" and key.known is None:
            from nufunc.tracer.np_writing import place

            place(x, key, value)
            return
        if not is_scalar(value):
            count = line[key].size
            values = as_array(value).reshape(-1)
            if not values.size or not count:
                return
            value = values[0] if count == 1 else repeated(values if values.size <= count else values[:count], count)
            if value.ndim and value.size == count:
                value = value.reshape(line[key].shape)
        line[key] = value
        if line.root is not x.root:
            x[...] = line.reshape(x.shape)

"""x[mask] with a traced mask: a selection without a static length, and assignment through it.

A selection can be computed with elementwise, reduced, and stored back through the same mask; everything else
needs its length and is refused. Elements that the mask leaves out hold the first selected one, so that what
is computed with them (and differentiated) is what is computed anyway: no NaN comes from where the user did
not look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import DTypeError, TraceError, UnsupportedError
from nufunc.ir.graph import Node, Value
from nufunc.ir.types import INT64
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, fail, is_scalar, value_of, wrap
from nufunc.tracer.np_index_parse import Item
from nufunc.tracer.np_indexing import assigned, basic_view, getitem
from nufunc.tracer.trace import require


class Selection(np.lib.mixins.NDArrayOperatorsMixin):
    """The elements of `full` where `mask` holds, which stands for its axes from `place` on."""

    __array_priority__ = 2000.0
    __nufunc_selection__ = True  # seen by np_core, which this module builds on
    __slots__ = ("full", "mask", "origin", "place")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, full: Array, mask: Array, origin: tuple[Array, int] | None = None, place: int = 0
    ) -> None:
        self.full = full
        self.mask = mask
        self.place = place
        self.origin = origin  # the user's mask, of which `mask` is a copy, and the version of its memory then

    @property
    def dtype(self) -> np.dtype:
        return self.full.dtype

    @property
    def ndim(self) -> int:
        return 1 + self.full.ndim - self.mask.ndim

    @property
    def size(self) -> Any:
        rest = self.full.size // self.mask.size if self.mask.size else 0
        return self.mask.sum() * rest

    def __repr__(self) -> str:
        return f"Selection({self.full.type} where {self.mask.type})"

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise fail(
            UnsupportedError,
            "x[mask] with a traced mask has no static shape: it can be computed with elementwise, reduced, "
            "and stored back "
            "through the same mask; for everything else use np.where(mask, x, y)",
        )

    __len__ = __iter__ = __setitem__ = __array__ = reshape = ravel = _refuse
    shape = property(_refuse)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"a selection has no attribute {name!r}")
        self._refuse()

    def __getitem__(self, key: Any) -> Selection:
        """Parts along the axes after the selected one."""
        parts = key if isinstance(key, tuple) else (key,)
        if self.place or not parts or parts[0] != slice(None) or any(not _is_basic(part) for part in parts):
            self._refuse()
        whole = (slice(None),) * self.mask.ndim
        return Selection(self.full[(*whole, *parts[1:])].copy(), self.mask, self.origin)

    def __bool__(self) -> bool:
        raise fail(
            TraceError, "the truth value of x[mask] is traced; use .any() or .all() with nf.cond or np.where"
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from nufunc.tracer import dispatch

        stand_in = dispatch.traced(ufunc)
        out = kwargs.pop("out", None)
        if stand_in is None or method != "__call__" or kwargs or out not in (None, (self,)):
            self._refuse()
        result = selected_call(stand_in, inputs)
        if out is None:
            return result
        if not promotion.can_cast(result.dtype, self.dtype, "same_kind"):
            raise fail(
                DTypeError,
                f"Cannot cast ufunc '{ufunc.__name__}' output from {result.dtype!r} to {self.dtype!r}",
            )
        self.full = result.full.astype(self.dtype)
        return self

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        name = func.__name__
        if name not in REDUCTIONS or args[0] is not self:
            self._refuse()
        return getattr(self, {"amax": "max", "amin": "min"}.get(name, name))(*args[1:], **kwargs)

    def astype(self, dtype: Any) -> Selection:
        return Selection(self.full.astype(dtype), self.mask, self.origin, self.place)

    def copy(self) -> Selection:
        return Selection(self.full.copy(), self.mask, self.origin, self.place)

    def _reduced(self, name: str, axis: Any, kwargs: dict[str, Any]) -> Any:
        from nufunc.tracer import np_namespace

        if axis is None:
            axes = tuple(range(self.full.ndim))
        elif axis in (self.place, self.place - self.ndim):
            axes = self._selected_axes()
        else:
            self._refuse()
        if kwargs.get("keepdims"):
            self._refuse()
        after = self.full.ndim - self.mask.ndim - self.place
        mask = self.mask.reshape((1,) * self.place + self.mask.shape + (1,) * after)
        return getattr(np_namespace.numpy, name)(self.full, axis=axes, where=mask, **kwargs)

    def _selected_axes(self) -> tuple[int, ...]:
        return tuple(range(self.place, self.place + self.mask.ndim))

    def sum(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._reduced("sum", axis, kwargs)

    def prod(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._reduced("prod", axis, kwargs)

    def mean(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._reduced("mean", axis, kwargs)

    def var(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._reduced("var", axis, kwargs)

    def std(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._reduced("std", axis, kwargs)

    def any(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._reduced("any", axis, kwargs)

    def all(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._reduced("all", axis, kwargs)

    def max(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._extreme("max", axis, kwargs)

    def min(self, axis: Any = None, **kwargs: Any) -> Any:
        return self._extreme("min", axis, kwargs)

    def _extreme(self, name: str, axis: Any, kwargs: dict[str, Any]) -> Any:
        """Over the elements with the rest replaced by the first selected one; without any, an IndexError at
        run time.
        """
        if kwargs or axis not in (None, self.place, self.place - self.ndim):
            self._refuse()
        filled = _with_fill(self.full, self.mask, self.place, guarded=True)
        axes = tuple(range(self.full.ndim)) if axis is None else self._selected_axes()
        return getattr(filled, name)(axis=axes)


REDUCTIONS = frozenset({"sum", "prod", "mean", "var", "std", "any", "all", "max", "min", "amax", "amin"})


def holds_selection(inputs: Sequence[Any]) -> bool:
    return any(type(x) is Selection for x in inputs)


def selected_call(ufunc: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """An elementwise function of selections through one mask, and of operands that do not vary along them."""
    selections = [x for x in inputs if type(x) is Selection]
    mask, place = selections[0].mask, selections[0].place
    rest = selections[0].full.ndim - mask.ndim - place
    operands = []
    for x in inputs:
        if type(x) is Selection:
            if (
                not (x is selections[0] or _unchanged(x, selections[0]) or same_values(x.mask, mask))
                or x.place != place
                or x.full.ndim - mask.ndim - place != rest
            ):
                raise fail(UnsupportedError, "an operation on selections through different traced masks")
            operands.append(x.full)
        elif is_scalar(x) or as_array(x).ndim <= rest:
            operands.append(x)
        else:
            selections[0]._refuse()
    results = ufunc(*operands)
    if isinstance(results, tuple):
        return tuple(Selection(part, mask, selections[0].origin, place) for part in results)
    return Selection(results, mask, selections[0].origin, place)


def _unchanged(a: Selection, b: Selection) -> bool:
    """Whether two selections were read by one mask that was not written in between."""
    return (
        a.origin is not None
        and b.origin is not None
        and a.origin[0] is b.origin[0]
        and a.origin[1] == b.origin[1]
    )


# -- reading


def _is_basic(part: Any) -> bool:
    """Whether a part of a key is an int, a slice or None."""
    return part is None or (isinstance(part, (slice, int, np.integer)) and not isinstance(part, bool))


@dataclass(frozen=True)
class _Target:
    """A view of x in which one mask stands for the axes from `place` on; `moved`: NumPy puts the selected axis
    first.
    """

    y: Array
    mask: Array
    place: int
    moved: bool


def _target(x: Array, items: list[Item]) -> _Target:
    """The view that the other items of a key make, which keeps the axes of the mask whole."""
    masks = [k for k, item in enumerate(items) if item.kind == "mask"]
    if len(masks) > 1 or any(item.kind in ("array", "window") or item.value is False for item in items):
        raise fail(UnsupportedError, "a traced mask beside other index arrays; use np.where(mask, new, x)")
    rest = [item for item in items if item.kind != "int"]
    y = basic_view(x, items)
    if any(item.kind == "dynamic" for item in rest):
        key: list[Any] = []
        for item in rest:
            scalar = item.kind == "dynamic"
            key += [item.value if item.value.scalar else item.value[()]] if scalar else [slice(None)] * _axes(item)
        y = getitem(y, (*key, ...))
    place = sum(map(_axes, items[: masks[0]]))
    fixed = [k for k, item in enumerate(items) if item.kind in ("int", "dynamic", "mask")]
    moved = bool(place) and fixed != list(range(fixed[0], fixed[-1] + 1))
    return _Target(y, items[masks[0]].value, place, moved)


def _axes(item: Item) -> int:
    """How many axes an item leaves."""
    if item.kind == "mask":
        return int(item.value.ndim)
    return 0 if item.kind in ("int", "dynamic") else 1


def select_items(x: Array, items: list[Item]) -> Any:
    """x[mask], x[:, mask, ...] with a traced mask."""
    target = _target(x, items)
    if target.moved:
        raise fail(
            UnsupportedError,
            "a traced mask and an int with a slice between them; take x[i] first, and the mask of that",
        )
    given, place = target.mask, target.place
    mask, origin = given.copy(), (given, given.root.version)
    if not mask.size:
        return Selection(target.y.copy(), mask, origin, place)
    return Selection(_with_fill(target.y, mask, place, guarded=False), mask, origin, place)


def _with_fill(full: Array, mask: Array, place: int, guarded: bool) -> Array:
    """The array with what is not selected replaced by the first selected element (or row); where there is none by ones,
    or if `guarded` an error when the program runs.
    """
    b = require().b
    value = value_of(full)
    flat_mask = b.reshaped(value_of(mask), (mask.size,))
    position = b.argmax(flat_mask, axis=0)
    found = b.reduce_or(flat_mask, axes=(0,))
    own = range(place, place + mask.ndim)
    rest = [k for k in range(full.ndim) if k not in own]
    rows = b.reshaped(b.transposed(value, (*own, *rest)), (mask.size, *(full.shape[k] for k in rest)))
    if guarded:
        position = b.select(found, position, b.like(position, mask.size))
        first = b.gather(rows, position, axes=(0,), mode="error")
    else:
        first = b.gather(rows, position, axes=(0,), mode="clip")
        first = b.select(b.broadcast_to(found, first.shape), first, b.like(first, 1))
    units = tuple(1 if k in own else n for k, n in enumerate(full.shape))
    fill = b.broadcast_to(b.reshaped(first, units), full.shape)
    return wrap(b.select(_spread(mask, full.shape, place), value, fill), scalar=False)


def _spread(mask: Array, shape: tuple[int, ...], place: int) -> Value:
    """The mask over all of `shape`, its axes at `place`."""
    value = value_of(mask)
    if value.shape == shape:
        return value
    return require().b.broadcast(value, shape=shape, dims=tuple(range(place, place + mask.ndim)))


# -- writing


def assign_items(x: Array, items: list[Item], value: Any) -> None:
    """x[..., mask, ...] = value: a selection through the same mask, values that are the same for all selected
    elements, or one value for each.
    """
    target = _target(x, items)
    y, mask, place = target.y, target.mask, target.place
    if target.moved and not is_scalar(value):
        value = _first_axis_at(value, y, mask, place)
    trace = require()
    stored = assigned(_aligned(value, y, mask, place), y.dtype, y.shape)
    trace.write(y, trace.b.select(_spread(mask, y.shape, place), stored, value_of(y)))


def _first_axis_at(value: Any, y: Array, mask: Array, place: int) -> Any:
    """The value with the axis of the selected elements, which comes first, at its place among those of y."""
    if type(value) is Selection:
        return value
    operand = as_array(value)
    ndim = y.ndim - mask.ndim + 1
    operand = operand.reshape((1,) * (ndim - operand.ndim) + operand.shape)
    return operand.transpose((*range(1, place + 1), 0, *range(place + 1, ndim)))


def _aligned(value: Any, y: Array, mask: Array, place: int) -> Any:
    """The value in the axes of y: the axis of selected elements stretched to those of the mask."""
    if type(value) is Selection:
        own = value.origin is not None and value.origin[0] is mask and value.origin[1] == mask.root.version
        if value.place != place or value.full.shape != y.shape or not (own or same_values(value.mask, mask)):
            raise fail(
                UnsupportedError, "storing a selection through another mask than the one that it was read by"
            )
        return value.full
    if is_scalar(value):
        return value
    operand = as_array(value)
    rest = y.ndim - place - mask.ndim
    if operand.ndim <= rest:
        return operand
    shape = operand.shape
    split = len(shape) - rest
    if shape[split - 1] != 1:
        return _one_each(operand, split - 1, mask)
    return operand.reshape((*shape[: split - 1], *(1,) * mask.ndim, *shape[split:]))


def _one_each(operand: Array, axis: int, mask: Array) -> Array:
    """Values that stand along `axis` in the order of the selected elements, spread to the axes of the mask.

    Where there are not as many as selected elements, an IndexError is raised when the program runs.
    """
    b = require().b
    chosen = b.reshaped(b.astype(value_of(mask), INT64), (mask.size,))
    order = b.sub(b.cumsum(chosen, axis=0, reverse=False), b.filled(1, chosen.type))
    count = b.reduce_sum(chosen, axes=(0,))
    extent = operand.shape[axis]
    value = value_of(operand)
    if not extent:  # one more, so that there is something to read
        low = tuple(int(k == axis) for k in range(value.ndim))
        value = b.pad(value, low=low, high=(0,) * value.ndim, interior=(0,) * value.ndim)
    zero, outside = b.filled(0, chosen.type), b.filled(max(extent, 1), chosen.type)
    index = b.select(b.ne(chosen, zero), order, zero)
    fits = b.broadcast_to(b.eq(count, b.filled(extent, count.type)), chosen.shape)
    index = b.reshaped(b.select(fits, index, outside), mask.shape)
    spread = b.gather(value, index, axes=(axis,), mode="error")
    lead = range(mask.ndim, mask.ndim + axis)
    return wrap(b.transposed(spread, (*lead, *range(mask.ndim), *range(mask.ndim + axis, spread.ndim))), scalar=False)


# -- whether two masks are one


def same_values(a: Array, b: Array) -> bool:
    """Whether two arrays of this trace were computed alike, from the same values, with no write in
    between.
    """
    if a is b:
        return True
    trace = require()
    nodes = trace.builder.nodes
    defined = {result: i for i, node in enumerate(nodes) for result in node.results}
    pair = (value_of(a), value_of(b))
    touched = [defined[v] for v in pair if v in defined]
    depth = _alike(pair[0], pair[1], nodes, defined, 12, touched)
    if not depth or not touched:
        return depth
    return not any(node.prim == "write" or node.regions for node in nodes[min(touched) : max(touched) + 1])


def _alike(
    x: Value, y: Value, nodes: list[Node], defined: dict[Value, int], depth: int, touched: list[int]
) -> bool:
    if x is y:
        return True
    if depth == 0 or x not in defined or y not in defined:
        return False
    one, two = nodes[defined[x]], nodes[defined[y]]
    if one.prim == "convert" and one.operands[0].dtype == x.dtype:  # a copy
        touched.append(defined[x])
        return _alike(one.operands[0], y, nodes, defined, depth - 1, touched)
    if two.prim == "convert" and two.operands[0].dtype == y.dtype:
        touched.append(defined[y])
        return _alike(x, two.operands[0], nodes, defined, depth - 1, touched)
    if (
        one.prim != two.prim
        or dict(one.attrs) != dict(two.attrs)
        or one.regions
        or len(one.operands) != len(two.operands)
    ):
        return False
    if len(one.results) != 1 or len(two.results) != 1:
        return False
    touched.extend((defined[x], defined[y]))
    return all(_alike(p, q, nodes, defined, depth - 1, touched) for p, q in zip(one.operands, two.operands))

"""x[mask] with a traced mask: a selection without a static length, and assignment through it.

A selection can be computed with elementwise, reduced, and stored back through the same mask; everything else
needs its length and is refused. Elements that the mask leaves out hold the first selected one, so that what
is computed with them (and differentiated) is what is computed anyway: no NaN comes from where the user did
not look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from nufunc.ir.errors import DTypeError, TraceError, UnsupportedError
from nufunc.ir.graph import Node, Value
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, fail, is_scalar, value_of, wrap
from nufunc.tracer.np_index_parse import Item
from nufunc.tracer.np_indexing import assigned, basic_view
from nufunc.tracer.trace import require


class Selection(np.lib.mixins.NDArrayOperatorsMixin):
    """The elements of `full` where `mask` (over its leading axes) holds."""

    __array_priority__ = 2000.0
    __nufunc_selection__ = True  # seen by np_core, which this module builds on
    __slots__ = ("full", "mask", "origin")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, full: Array, mask: Array, origin: tuple[Array, int] | None = None) -> None:
        self.full = full
        self.mask = mask
        self.origin = origin  # the user's mask, of which `mask` is a copy, and the version of its memory then

    @property
    def dtype(self) -> np.dtype:
        return self.full.dtype

    @property
    def ndim(self) -> int:
        return 1 + self.full.ndim - self.mask.ndim

    @property
    def size(self) -> Any:
        rest = int(np.prod(self.full.shape[self.mask.ndim :], dtype=np.int64))
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

    __len__ = __iter__ = __getitem__ = __setitem__ = __array__ = reshape = ravel = _refuse
    shape = property(_refuse)

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
        if not np.can_cast(result.dtype, self.dtype, "same_kind"):
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
        return Selection(self.full.astype(dtype), self.mask, self.origin)

    def copy(self) -> Selection:
        return Selection(self.full.copy(), self.mask, self.origin)

    def _reduced(self, name: str, axis: Any, kwargs: dict[str, Any]) -> Any:
        from nufunc.tracer import np_namespace

        if axis is None:
            axes = tuple(range(self.full.ndim))
        elif axis in (0, -self.ndim):
            axes = tuple(range(self.mask.ndim))
        else:
            self._refuse()
        if kwargs.get("keepdims"):
            self._refuse()
        mask = self.mask.reshape(self.mask.shape + (1,) * (self.full.ndim - self.mask.ndim))
        return getattr(np_namespace.numpy, name)(self.full, axis=axes, where=mask, **kwargs)

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
        if kwargs or axis not in (None, 0, -self.ndim):
            self._refuse()
        filled = _with_fill(self.full, self.mask, _first(self.full, self.mask, guarded=True))
        axes = tuple(range(self.full.ndim if axis is None else self.mask.ndim))
        return getattr(filled, name)(axis=axes)


REDUCTIONS = frozenset({"sum", "prod", "mean", "var", "std", "any", "all", "max", "min", "amax", "amin"})


def holds_selection(inputs: Sequence[Any]) -> bool:
    return any(type(x) is Selection for x in inputs)


def selected_call(ufunc: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """An elementwise function of selections through one mask, and of operands that do not vary along them."""
    selections = [x for x in inputs if type(x) is Selection]
    mask = selections[0].mask
    rest = selections[0].full.ndim - mask.ndim
    operands = []
    for x in inputs:
        if type(x) is Selection:
            if (
                not (x is selections[0] or _unchanged(x, selections[0]) or same_values(x.mask, mask))
                or x.full.ndim - mask.ndim != rest
            ):
                raise fail(UnsupportedError, "an operation on selections through different traced masks")
            operands.append(x.full)
        elif is_scalar(x) or as_array(x).ndim <= rest:
            operands.append(x)
        else:
            selections[0]._refuse()
    results = ufunc(*operands)
    if isinstance(results, tuple):
        return tuple(Selection(part, mask, selections[0].origin) for part in results)
    return Selection(results, mask, selections[0].origin)


def _unchanged(a: Selection, b: Selection) -> bool:
    """Whether two selections were read by one mask that was not written in between."""
    return (
        a.origin is not None
        and b.origin is not None
        and a.origin[0] is b.origin[0]
        and a.origin[1] == b.origin[1]
    )


# -- reading


def select_items(x: Array, items: list[Item]) -> Any:
    """x[mask], x[mask, ...] with a traced mask over the leading axes."""
    place = next(i for i, item in enumerate(items) if item.kind == "mask")
    if place or any(item.kind not in ("mask", "slice") for item in items):
        raise fail(
            UnsupportedError,
            "x[mask] with a traced mask has no static shape: use np.where(mask, x, y), or reduce with "
            "where=mask",
        )
    given: Array = items[0].value
    y = basic_view(x, items)
    mask, origin = given.copy(), (given, given.root.version)
    if not mask.size:
        return Selection(y.copy(), mask, origin)
    return Selection(_with_fill(y, mask, _first(y, mask, guarded=False)), mask, origin)


def _first(full: Array, mask: Array, guarded: bool) -> Value:
    """The first selected element (or row); where there is none: ones, or if `guarded` an error when the
    program runs.
    """
    b = require().b
    flat_mask = b.reshaped(value_of(mask), (mask.size,))
    position = b.argmax(flat_mask, axis=0)
    found = b.reduce_or(flat_mask, axes=(0,))
    rows = b.reshaped(value_of(full), (mask.size, *full.shape[mask.ndim :]))
    if guarded:
        position = b.select(found, position, b.like(position, mask.size))
        return b.gather(rows, position, axes=(0,), mode="error")
    first = b.gather(rows, position, axes=(0,), mode="clip")
    return b.select(b.broadcast_to(found, first.shape), first, b.like(first, 1))


def _with_fill(full: Array, mask: Array, fill: Value) -> Array:
    b = require().b
    return wrap(
        b.select(_spread(mask, full.shape, 0), value_of(full), b.broadcast_to(fill, full.shape)), scalar=False
    )


def _spread(mask: Array, shape: tuple[int, ...], place: int) -> Value:
    """The mask over all of `shape`, its axes at `place`."""
    value = value_of(mask)
    if value.shape == shape:
        return value
    return require().b.broadcast(value, shape=shape, dims=tuple(range(place, place + mask.ndim)))


# -- writing


def assign_items(x: Array, items: list[Item], value: Any) -> None:
    """x[..., mask, ...] = value: a selection through the same mask, or what does not vary along the selected
    elements.
    """
    masks = [item for item in items if item.kind == "mask"]
    if len(masks) > 1 or any(item.kind not in ("mask", "slice", "new") for item in items):
        raise fail(UnsupportedError, "a traced mask beside other indices; use np.where(mask, new, x)")
    mask: Array = masks[0].value
    y = basic_view(x, items)
    place = items.index(masks[0])
    trace = require()
    stored = assigned(_aligned(value, y, mask, place), y.dtype, y.shape)
    trace.write(y, trace.b.select(_spread(mask, y.shape, place), stored, value_of(y)))


def _aligned(value: Any, y: Array, mask: Array, place: int) -> Any:
    """The value in the axes of y: the axis of selected elements stretched to those of the mask."""
    if type(value) is Selection:
        own = value.origin is not None and value.origin[0] is mask and value.origin[1] == mask.root.version
        if place or value.full.shape != y.shape or not (own or same_values(value.mask, mask)):
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
        raise fail(
            UnsupportedError,
            "x[mask] = values with one value per selected element needs a static mask; use np.where(mask, "
            "values, x)",
        )
    return operand.reshape((*shape[: split - 1], *(1,) * mask.ndim, *shape[split:]))


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

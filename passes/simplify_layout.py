"""Layout rules of simplify: chains of index maps become one, slices reach what they show, fills stay
fills."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.graph import Node, Value

if TYPE_CHECKING:
    from nufunc.passes.simplify import Rule, Simplifier


_PARTS_TAKEN_OVER = 8
_LONG_RUN = 16  # elements, on average, from which runs of a gather are copied as slices
_WRITES_LOOKED_AT = 16  # a chain of writes may be as long as the graph


def _uniform(s: Simplifier, node: Node) -> Value | None:
    fill = s.fill_of(node.operands[0])
    return None if fill is None else s.full(fill, node.result)


def _full(s: Simplifier, node: Node) -> Value:
    """The value in the form in which the dtype holds it, so that equal fills are one."""
    return s.full(node.attrs["value"], node.result)


def _transpose(s: Simplifier, node: Node) -> Value | None:
    (x,), perm = node.operands, node.attrs["perm"]
    if perm == tuple(range(x.ndim)):
        return x
    inner = s.made_by(x, "transpose")
    if inner:
        first = inner.attrs["perm"]
        return s.again("transpose", inner.operands, {"perm": tuple(first[i] for i in perm)})
    inner = s.made_by(x, "broadcast")
    if inner:
        (source,) = inner.operands
        places = [perm.index(d) for d in inner.attrs["dims"]]
        order = tuple(sorted(range(source.ndim), key=places.__getitem__))
        small = s.again("transpose", (source,), {"perm": order})
        return s.again("broadcast", (small,), {"shape": node.result.shape, "dims": tuple(sorted(places))})
    return None


def _reshape(s: Simplifier, node: Node) -> Value | None:
    (x,), shape = node.operands, node.result.shape
    if x.shape == shape:
        return x
    inner = s.made_by(x, "reshape")
    if inner:
        return s.again("reshape", inner.operands, dict(node.attrs))
    inner = s.made_by(x, "broadcast")
    if inner and _long(x.shape) == _long(shape):
        # axes of extent 1 come and go: the broadcast can make the new ones itself
        (source,) = inner.operands
        places = dict(zip(_long_axes(x.shape), _long_axes(shape), strict=True))
        kept = [a for a, d in enumerate(inner.attrs["dims"]) if d in places]
        small = s.again("reshape", (source,), {"shape": tuple(source.shape[a] for a in kept)})
        dims = tuple(places[inner.attrs["dims"][a]] for a in kept)
        return s.again("broadcast", (small,), {"shape": shape, "dims": dims})
    return None


def _long_axes(shape: Sequence[int]) -> list[int]:
    return [a for a, n in enumerate(shape) if n != 1]


def _long(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]


def _broadcast(s: Simplifier, node: Node) -> Value | None:
    (x,), shape, dims = node.operands, node.attrs["shape"], node.attrs["dims"]
    if x.shape == node.result.shape:
        return x
    inner = s.made_by(x, "broadcast")
    if inner:
        through = tuple(dims[d] for d in inner.attrs["dims"])
        return s.again("broadcast", inner.operands, {"shape": shape, "dims": through})
    inner = s.made_by(x, "reshape")
    if inner and 1 not in inner.operands[0].shape and _long(x.shape) == list(inner.operands[0].shape):
        through = tuple(dims[a] for a in _long_axes(x.shape))
        return s.again("broadcast", inner.operands, {"shape": shape, "dims": through})
    return None


# -- slices


def _slice(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    if x.shape == node.result.shape and all(step == 1 for step in node.attrs["step"]):
        return x
    for prim, rule in _SLICES.items():
        inner = s.made_by(x, prim)
        if inner and node.result.type.size:
            return rule(s, node, inner)
    return None


def _slice_of_slice(s: Simplifier, node: Node, inner: Node) -> Value | None:
    a, i = node.attrs, inner.attrs
    start = tuple(p + q * t for p, q, t in zip(i["start"], a["start"], i["step"], strict=True))
    step = tuple(p * q for p, q in zip(i["step"], a["step"], strict=True))
    stop = tuple(f + (n - 1) * t + 1 for f, n, t in zip(start, node.result.shape, step, strict=True))
    return s.again("slice", inner.operands, {"start": start, "stop": stop, "step": step})


def _slice_of_update(s: Simplifier, node: Node, inner: Node) -> Value | None:
    """What was written, if the slice shows nothing else; past writes beside it, if below them is a fill.

    A slice of what was there before the write is no gain: the old array would have to be kept for it.
    """
    a = node.attrs
    for _ in range(_WRITES_LOOKED_AT):
        w, (base, value) = inner.attrs, inner.operands
        if dict(a) == dict(w):
            return value
        spans = list(zip(a["start"], a["stop"], w["start"], w["stop"], strict=True))
        if all(low <= start and stop <= high for start, stop, low, high in spans):
            whole = all(step == 1 for step in w["step"])
            return s.again("slice", (value,), _moved(a, [-low for low in w["start"]])) if whole else None
        if not any(stop <= low or high <= start for start, stop, low, high in spans):
            return None
        fill, before = s.fill_of(base), s.made_by(base, "update")
        if fill is not None:
            return s.full(fill, node.result)
        if before is None:
            return None
        inner = before
    return None


def _moved(attrs: Any, by: Sequence[int]) -> dict[str, Any]:
    """A slice moved by so much along each axis."""
    return {
        "start": tuple(x + d for x, d in zip(attrs["start"], by, strict=True)),
        "stop": tuple(x + d for x, d in zip(attrs["stop"], by, strict=True)),
        "step": attrs["step"],
    }


def _slice_of_concat(s: Simplifier, node: Node, inner: Node) -> Value | None:
    """A slice within one of the parts."""
    axis, offset = inner.attrs["axis"], 0
    start, stop = node.attrs["start"][axis], node.attrs["stop"][axis]
    for part in inner.operands:
        end = offset + part.shape[axis]
        if offset <= start and stop <= end:
            return s.again("slice", (part,), _moved(node.attrs, [-offset * (a == axis) for a in range(part.ndim)]))
        offset = end
    return None


def _slice_of_pad(s: Simplifier, node: Node, inner: Node) -> Value | None:
    """A slice within the operand, or within the zeros around it."""
    (x,), p = inner.operands, inner.attrs
    if any(p["interior"]):
        return None
    spans = list(zip(node.attrs["start"], node.attrs["stop"], p["low"], x.shape, strict=True))
    if all(low <= start and stop <= low + n for start, stop, low, n in spans):
        return s.again("slice", (x,), _moved(node.attrs, [-low for low in p["low"]]))
    if any(stop <= low or low + n <= start for start, stop, low, n in spans):
        return s.full(0, node.result)
    return None


def _slice_of_broadcast(s: Simplifier, node: Node, inner: Node) -> Value:
    """The slice of what is repeated, repeated less often."""
    (x,), a = inner.operands, node.attrs
    dims = inner.attrs["dims"]
    real = [x.shape[k] == inner.attrs["shape"][d] for k, d in enumerate(dims)]
    attrs = {
        "start": tuple(a["start"][d] if r else 0 for d, r in zip(dims, real, strict=True)),
        "stop": tuple(a["stop"][d] if r else n for d, r, n in zip(dims, real, x.shape, strict=True)),
        "step": tuple(a["step"][d] if r else 1 for d, r in zip(dims, real, strict=True)),
    }
    return s.again("broadcast", (s.again("slice", (x,), attrs),), {"shape": node.result.shape, "dims": dims})


_SLICES = {
    "slice": _slice_of_slice,
    "update": _slice_of_update,
    "concat": _slice_of_concat,
    "pad": _slice_of_pad,
    "broadcast": _slice_of_broadcast,
}


def _flip(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    axes = tuple(a for a in node.attrs["axes"] if x.shape[a] > 1)
    if not axes:
        return x
    if axes != node.attrs["axes"]:
        return s.again("flip", (x,), {"axes": axes})
    inner = s.made_by(x, "flip")
    if inner:
        return s.again("flip", inner.operands, {"axes": tuple(sorted(set(axes) ^ set(inner.attrs["axes"])))})
    return None


def _pad(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    if x.shape == node.result.shape:
        return x
    if x.type.size == 0:
        return s.full(0, node.result)
    fill = s.fill_of(x)
    zero = fill is not None and not fill and not any(map(np.signbit, (np.real(fill), np.imag(fill))))
    return s.full(0, node.result) if zero else None


def _concat(s: Simplifier, node: Node) -> Value | None:
    axis = node.attrs["axis"]
    parts: list[Value] = []
    for operand in node.operands:
        inner = s.made_by(operand, "concat")
        # a concat that grows by one part at a time would be flattened over and over
        nested = inner is not None and inner.attrs["axis"] == axis and len(inner.operands) <= _PARTS_TAKEN_OVER
        parts += inner.operands if inner is not None and nested else (operand,)
    parts = [p for p in parts if p.shape[axis]] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    return None if tuple(parts) == node.operands else s.again("concat", parts, {"axis": axis})


def _update(s: Simplifier, node: Node) -> Value | None:
    base, value = node.operands
    if base.type == value.type:
        return value
    if value.type.size == 0:
        return base
    attrs = dict(node.attrs)
    shown = s.made_by(value, "slice")
    if shown and shown.operands[0] is base and dict(shown.attrs) == attrs:
        return base
    before = s.made_by(base, "update")
    if before and dict(before.attrs) == attrs:
        return s.again("update", (before.operands[0], value), attrs)
    fills = s.fill_of(base), s.fill_of(value)
    same = None not in fills and primitive.attr_tuple({"v": fills[0]}) == primitive.attr_tuple({"v": fills[1]})
    return base if same else None


def _gather(s: Simplifier, node: Node) -> Value | None:
    """At known places that are few long runs, as np.insert and np.delete choose them: the runs, side by side."""
    x, axes = node.operands[0], node.attrs["axes"]
    places = s.arrays.get(node.operands[1])
    if places is None or len(axes) != 1 or places.ndim != 1 or places.size < _LONG_RUN:
        return None
    (axis,), breaks = axes, np.flatnonzero(np.diff(places) != 1) + 1
    if places.size < _LONG_RUN * (breaks.size + 1) or places.min() < 0 or places.max() >= x.shape[axis]:
        return None
    parts = []
    for low, high in itertools.pairwise((0, *breaks.tolist(), places.size)):
        first = int(places[low])
        stop = tuple(first + high - low if a == axis else n for a, n in enumerate(x.shape))
        start = tuple(first if a == axis else 0 for a in range(x.ndim))
        parts.append(s.again("slice", (x,), {"start": start, "stop": stop, "step": (1,) * x.ndim}))
    made = parts[0] if len(parts) == 1 else s.again("concat", parts, {"axis": axis})
    return s.again("transpose", (made,), {"perm": (axis, *(a for a in range(x.ndim) if a != axis))})


RULES: dict[str, tuple[Rule, ...]] = {
    "gather": (_gather,),
    "transpose": (_transpose, _uniform),
    "reshape": (_reshape, _uniform),
    "broadcast": (_broadcast, _uniform),
    "slice": (_slice, _uniform),
    "flip": (_flip, _uniform),
    "pad": (_pad,),
    "concat": (_concat,),
    "update": (_update,),
    "full": (_full,),
}

"""Maxima over windows before code is generated: loops over the elements of a window, which fuse with what is around."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs, Graph, Node, Value
from nufunc.ir.prims.window import number_dtype
from nufunc.ir.types import BOOL, ArrayType, kind_of
from nufunc.passes.convolutions import cut, padded
from nufunc.passes.rewrite import rewritten

_RULES = ("window_argmax", "window_take", "window_put")


def written_out(graph: Graph) -> Graph:
    """The graph without window primitives; regions are left to whoever visits them."""
    if not any(n.prim in _RULES for n in graph.nodes):
        return graph
    used = {*graph.outputs, *(o for n in graph.nodes for o in n.operands)}

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        if node.prim not in _RULES:
            return None
        if 0 in (*(r.type.size for r in node.results), *(o.type.size for o in operands)):
            return [b.zeros(r.type) for r in node.results]
        if node.prim == "window_argmax":
            return _argmax(b, operands[0], node.attrs, node.results[1] in used)
        x, number = operands
        return [(_take if node.prim == "window_take" else _put)(b, x, number, node.attrs)]

    return rewritten(graph, rule)


def _elements(attrs: Attrs) -> list[tuple[int, tuple[int, ...]]]:
    """The elements of a window, by number, and where they stand in the first window."""
    ranges = zip(attrs["kernel"], attrs["dilation"], attrs["offset"], strict=True)
    places = itertools.product(*([k * d - o for k in range(n)] for n, d, o in ranges))
    return list(enumerate(places))


def _lowest(dtype: np.dtype) -> float | int:
    return -np.inf if kind_of(dtype) == "f" else int(np.iinfo(dtype).min)


def _seen(b: Builder, x: Value, first: Sequence[int], attrs: Attrs) -> tuple[Value, Value | None]:
    """What all windows see as one of their elements, and where that exists (None: everywhere)."""
    lead, inside = x.ndim - len(first), b.filled(True, ArrayType(x.shape[x.ndim - len(first) :], BOOL))
    outside = False
    for axis, (start, stride, extent) in enumerate(zip(first, attrs["stride"], attrs["extent"], strict=True)):
        stop = start + (extent - 1) * stride + 1
        low, high = max(-start, 0), max(stop - x.shape[lead + axis], 0)
        outside = outside or low > 0 or high > 0
        x = cut(b, padded(b, x, lead + axis, low, high), lead + axis, start + low, stop + low, stride)
        inside = cut(b, padded(b, inside, axis, low, high), axis, start + low, stop + low, stride)
    if not outside:
        return x, None
    return x, b.broadcast_to(inside, x.shape)


def _argmax(b: Builder, x: Value, attrs: Attrs, numbered: bool) -> list[Value]:
    best: Value | None = None
    number: Value | None = None
    dtype = number_dtype(attrs)
    for k, first in _elements(attrs):
        here, inside = _seen(b, x, first, attrs)
        if inside is not None:
            here = b.select(inside, here, b.like(here, _lowest(x.dtype)))
        if best is None:
            best, number = here, b.filled(0, here.type.with_dtype(dtype))
            continue
        better = b.gt(here, best)
        if kind_of(x.dtype) == "f":
            better = b.bit_or(better, b.isnan(here))
        best = b.select(better, here, best)
        number = b.select(better, b.filled(k, here.type.with_dtype(dtype)), number)
    assert best is not None
    assert number is not None
    return [best, number if numbered else b.zeros(number.type)]


def _take(b: Builder, x: Value, number: Value, attrs: Attrs) -> Value:
    total: Value | None = None
    for k, first in _elements(attrs):
        here = _seen(b, x, first, attrs)[0]
        total = here if total is None else b.select(b.eq(number, b.like(number, k)), here, total)
    assert total is not None
    return total


def _put(b: Builder, value: Value, number: Value, attrs: Attrs) -> Value:
    total: Value | None = None
    shape, lead = attrs["shape"], value.ndim - len(attrs["kernel"])
    for k, first in _elements(attrs):
        part = b.select(b.eq(number, b.like(number, k)), value, b.zeros(value.type))
        for axis, (start, stride) in enumerate(zip(first, attrs["stride"], strict=True), start=lead):
            # windows whose element exists, put where it stands
            begin = max(0, -(start // stride))
            end = max(begin, min(part.shape[axis], -(-(shape[axis] - start) // stride)))
            part = cut(b, part, axis, begin, end, 1)
            if end == begin:
                part = b.zeros(part.type.with_shape((*part.shape[:axis], shape[axis], *part.shape[axis + 1 :])))
                continue
            low = start + begin * stride
            high = shape[axis] - low - ((end - begin - 1) * stride + 1)
            part = padded(b, part, axis, low, high, stride - 1)
        total = part if total is None else b.add(total, part)
    assert total is not None
    return total


"""Inputs that are read where they lie: a strided input becomes a block of memory and index maps of it.

Note [Placed inputs]
Code is generated for blocks of memory in C order. An input whose strides are those of transposed, reversed or repeated
axes, or of a part of a larger array, is such a block behind a slice, a flip, a transposition and a broadcast; these are
index maps, which cost nothing. So the graph gets the block as its parameter, and computes the input from it. Blocks may
reach beyond the memory that there is: nothing but the slice is ever read. Inputs without neighbouring elements side by
side (every second one, a column) are not placed, since they may be read many times: calls copy them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Value


@dataclass(frozen=True)
class Placement:
    """A block of shape `block`, of whose axes the input has the first `kept` elements, backwards along `flipped`. They
    are its axes `axes`; along the others it has one element or repeats itself.
    """

    block: tuple[int, ...]
    kept: tuple[int, ...]
    flipped: tuple[int, ...]
    axes: tuple[int, ...]


def placement(shape: Sequence[int], strides: Sequence[int]) -> Placement | None:
    """Where an array of these strides, in elements, lies; None where no block of memory can say it."""
    moving = [k for k, (n, s) in enumerate(zip(shape, strides, strict=True)) if n > 1 and s]
    axes = sorted(moving, key=lambda k: -abs(strides[k]))
    if 0 in shape or (axes and abs(strides[axes[-1]]) != 1):
        return None
    block = [shape[k] for k in axes[:1]]
    for outer, inner in itertools.pairwise(axes):
        extent, rest = divmod(abs(strides[outer]), abs(strides[inner]))
        if rest or extent < shape[inner]:
            return None
        block.append(extent)
    kept = tuple(shape[k] for k in axes)
    flipped = tuple(place for place, k in enumerate(axes) if strides[k] < 0)
    return Placement(tuple(block), kept, flipped, tuple(axes))


def placed(graph: Graph, placements: Mapping[int, Placement]) -> Graph:
    """The graph with blocks as parameters, by number."""
    if not placements:
        return graph
    b = Builder(graph.name, graph.stage)
    params = [
        _placed(b, param, placements[k]) if k in placements else param for k, param in enumerate(graph.params)
    ]
    return graph.replace(params=params, nodes=(*b.nodes, *graph.nodes), consts=(*graph.consts, *b.consts))


def _placed(b: Builder, param: Value, where: Placement) -> Value:
    """The block of a parameter, which becomes what is computed from it."""
    block = Value(param.type.with_shape(where.block), param.hint)
    value = block
    if where.kept != where.block:
        ones = (1,) * len(where.kept)
        value = b.slice(value, start=(0,) * len(ones), stop=where.kept, step=ones)
    if where.flipped:
        value = b.flip(value, axes=where.flipped)
    order = sorted(range(len(where.axes)), key=where.axes.__getitem__)
    value = b.transposed(value, order)
    shape = tuple(n if k in where.axes else 1 for k, n in enumerate(param.shape))
    value = b.reshaped(value, shape)
    if shape != param.shape:
        value = b.broadcast_to(value, param.shape)
    if value is block:  # memory in order, of axes of one element with strides of their own
        return param
    last = b.nodes.pop()
    last.results = (param,)
    b.nodes.append(last)
    return block

"""Decomposition: rewrites library and scatter nodes that are better computed by a loop nest.

A dot of integers or bools, one without contraction, one of small matrices, and inner products of complex vectors
become a broadcasted product and a sum, which fuse with their surroundings. Adding one element per row to zeros (the
transpose of taking one, as in the gradient of a cross entropy) becomes a comparison with the column's number, so that
no array of zeros is written and read again. A product that is only read with an axis of its first operand innermost is
computed with its operands exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import FLOAT32, is_half
from nufunc.passes.rewrite import rewritten

SMALL_DOT = 2048  # multiplications per matrix up to which a call of BLAS costs more than the loop


def decompose(graph: Graph) -> Graph:
    """The same graph with such dots rewritten; regions are left to whoever visits them."""
    rows = _one_per_row(graph)
    turned, transposes = _turned(graph)
    if not rows and not turned and not any(_applies(n) for n in graph.nodes):
        return graph

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        if _applies(node):
            return [dot_as_product(b, node, *operands)]
        if node in turned:
            return b.emit("dot", operands[::-1], {name: pair[::-1] for name, pair in node.attrs.items()})
        if node in transposes:
            return [b.transposed(operands[0], transposes[node])]
        if node in rows:
            return [one_per_row(b, node, operands[1], operands[2 + rows[node][0]], *rows[node])]
        return None

    return rewritten(graph, rule)


def _turned(graph: Graph) -> tuple[set[Node], dict[Node, list[int]]]:
    """Products of which only transposes are read, with a free axis of the first operand innermost; and these
    transposes, with their permutation of the product with exchanged operands."""
    users: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for operand in node.operands:
            users.setdefault(operand, []).append(node)
    outputs = set(graph.outputs)
    turned: set[Node] = set()
    transposes: dict[Node, list[int]] = {}
    for node in graph.nodes:
        readers = users.get(node.result, []) if node.prim == "dot" and not _applies(node) else []
        if not readers or any(r.prim != "transpose" for r in readers) or node.result in outputs:
            continue
        batch = len(node.attrs["batch"][0])
        first = node.operands[0].ndim - len(node.attrs["contract"][0])  # where the second operand's free axes begin
        if all(batch <= r.attrs["perm"][-1] < first for r in readers):
            turned.add(node)
            order = [*range(batch), *range(first, node.result.ndim), *range(batch, first)]
            transposes.update({r: [order.index(axis) for axis in r.attrs["perm"]] for r in readers})
    return turned, transposes


def _applies(node: Node) -> bool:
    if node.prim != "dot":
        return False
    x = node.operands[0]
    contract = node.attrs["contract"]
    steps = math.prod(x.shape[a] for a in contract[0])
    if x.dtype.kind in "biu" or steps == 1:
        return True
    batch = math.prod(x.shape[a] for a in node.attrs["batch"][0])
    if x.dtype.kind == "c" and node.result.type.size == batch:
        return True  # inner products, whose conjugations and conversions become part of the loop
    work = math.prod(node.result.shape) // max(batch, 1) * steps
    return work <= SMALL_DOT or node.result.type.size == 0


def dot_as_product(b: Builder, node: Node, x: Value, y: Value) -> Value:
    """dot as sum(x * y) over a space of batch, x's free, y's free and the contracted axes, in this order. Halves, which
    only devices still have here, are multiplied and added up in float32."""
    if is_half(x.dtype):
        x, y = b.astype(x, FLOAT32), b.astype(y, FLOAT32)
    (xc, yc), (xb, yb) = node.attrs["contract"], node.attrs["batch"]
    xf = [a for a in range(x.ndim) if a not in xc and a not in xb]
    yf = [a for a in range(y.ndim) if a not in yc and a not in yb]
    nb, nx, ny, nc = len(xb), len(xf), len(yf), len(xc)
    shape = (*node.result.shape, *(x.shape[a] for a in xc))
    space_x = [*range(nb + nx), *range(nb + nx + ny, nb + nx + ny + nc)]
    space_y = [*range(nb), *range(nb + nx, nb + nx + ny + nc)]
    product = b.mul(_spread(b, x, (*xb, *xf, *xc), space_x, shape), _spread(b, y, (*yb, *yf, *yc), space_y, shape))
    if math.prod(shape[nb + nx + ny :]) == 1:
        total = b.reshaped(product, node.result.shape)
    else:
        total = b.summed(product, range(nb + nx + ny, nb + nx + ny + nc))
    return b.astype(total, node.result.dtype)


def _spread(b: Builder, x: Value, perm: tuple[int, ...], dims: list[int], shape: tuple[int, ...]) -> Value:
    x = b.transposed(x, perm)
    return x if x.shape == shape else b.emit("broadcast", (x,), {"shape": shape, "dims": tuple(dims)})[0]


Rows = tuple[int, list[int]]


def _one_per_row(graph: Graph) -> dict[Node, Rows]:
    """The scatter_adds into zeros where all index arrays but one just count the rows: the number of that one, and for
    each axis of the index arrays (without those of one element) the axis of the result that it goes through."""
    scatters = [n for n in graph.nodes if n.prim == "scatter_add"]
    if not scatters:
        return {}
    producers = {r: n for n in graph.nodes for r in n.results}
    consts = dict(graph.consts)
    gathers: dict[tuple[Value, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.prim == "gather" and node.attrs["mode"] == "error":
            gathers.setdefault(tuple(node.operands[1:]), []).append(node)
    found = {}
    for node in scatters:
        base = producers.get(node.operands[0])
        zero = base is not None and base.prim == "full" and base.attrs["value"] == 0 and node.result.type.size > 0
        indices = tuple(node.operands[2:])
        if not zero or (node.attrs["mode"] == "error" and not _checked(node, gathers.get(indices, []))):
            continue
        rows = _rows(node, indices, producers, consts)
        if rows is not None:
            found[node] = rows
    return found


def _rows(
    node: Node, indices: tuple[Value, ...], producers: dict[Value, Node], consts: dict[Value, np.ndarray]
) -> Rows | None:
    axes = node.attrs["axes"]
    extents = [n for n in indices[0].shape if n != 1] if indices else []
    through: dict[int, int] = {}
    free = []
    for k, index in enumerate(indices):
        axis = _counts(index, producers, consts, extents)
        if axis is None or axis in through or extents[axis] != node.result.shape[axes[k]]:
            free.append(k)
        else:
            through[axis] = axes[k]
    if len(free) != 1 or len(through) != len(extents) or not through:
        return None
    return free[0], [through[a] for a in range(len(extents))]


def _checked(node: Node, gathers: list[Node]) -> bool:
    """Whether one of the gathers at the same indices checks them as the scatter would."""
    shape, axes = node.result.shape, node.attrs["axes"]
    return any(g.attrs["axes"] == axes and all(g.operands[0].shape[a] == shape[a] for a in axes) for g in gathers)


def _counts(
    index: Value, producers: dict[Value, Node], consts: dict[Value, np.ndarray], extents: list[int]
) -> int | None:
    """The axis (without those of one element) along which an index array counts from 0."""
    if index in consts:
        array = consts[index].reshape(extents)
        for axis, n in enumerate(extents):
            if np.array_equal(array, np.arange(n).reshape([n if a == axis else 1 for a in range(len(extents))])
                              + np.zeros(extents, np.int64)):  # fmt: skip
                return axis
        return None
    node = producers.get(index)
    chain = []
    while node is not None and node.prim in ("broadcast", "reshape"):
        chain.append(node)
        node = producers.get(node.operands[0])
    if node is None or node.prim != "iota":
        return None
    axis = node.attrs["axis"]
    for step in reversed(chain):
        x, shape = step.operands[0].shape, step.result.shape
        if step.prim == "broadcast":
            axis = step.attrs["dims"][axis]
            continue
        if [n for n in x if n != 1] != [n for n in shape if n != 1] or x[axis] == 1:
            return None
        place = sum(n != 1 for n in x[:axis])
        axis = [k for k, n in enumerate(shape) if n != 1][place]
    return sum(n != 1 for n in index.shape[:axis]) if index.shape[axis] != 1 else None


def one_per_row(b: Builder, node: Node, value: Value, index: Value, number: int, through: list[int]) -> Value:
    """scatter_add into zeros as select(index == column, 0 + value, 0)."""
    axes, result = node.attrs["axes"], node.result
    shape, column = result.shape, axes[number]
    rest = [d for d in range(len(shape)) if d not in axes]
    extents = [shape[d] for d in through]
    if node.attrs["mode"] == "clip":
        index = b.minimum(b.maximum(index, b.like(index, 0)), b.like(index, shape[column] - 1))
    where = _placed(b, b.reshaped(index, extents), through, shape)
    added = _placed(b, b.reshaped(value, [*extents, *(shape[d] for d in rest)]), [*through, *rest], shape)
    columns = b.emit("iota", (), {"shape": shape, "dtype": index.dtype, "axis": column})[0]
    zero = b.zeros(result.type)
    return b.select(b.eq(where, columns), b.add(zero, added), zero)


def _placed(b: Builder, x: Value, dims: list[int], shape: tuple[int, ...]) -> Value:
    """Broadcast to `shape`, with axis i of x as axis dims[i]."""
    order = sorted(range(len(dims)), key=dims.__getitem__)
    x = b.transposed(x, order)
    return b.emit("broadcast", (x,), {"shape": shape, "dims": tuple(sorted(dims))})[0]

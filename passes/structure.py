"""Rewrites that follow from the structure of matrices: solves whose matrix is a Cholesky factor substitute, and vectors
that are laid out along a diagonal are a comparison of the column's number with the row's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.passes.rewrite import rewritten


def structured(graph: Graph) -> Graph:
    """The same graph with such nodes rewritten; regions are left to whoever visits them."""
    producers = {r: n for n in graph.nodes for r in n.results}
    solves = {n: found for n in graph.nodes if n.prim == "solve" and (found := _factor(n.operands[0], producers))}
    diagonals = {n: place for n in graph.nodes if n.prim == "reshape" and (place := _diagonal(n, producers))}
    if not solves and not diagonals:
        return graph
    made: dict[Value, Value] = {}  # what was read below the nodes that go

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        made.update(zip(node.operands, operands, strict=True))
        if node in solves:
            factor, trans = solves[node]
            return [b.triangular_solve(made[factor], operands[1], lower=True, trans=trans, unit=False)]
        if node in diagonals:
            source, first = diagonals[node]
            return [_placed(b, made[source], first, node)]
        return None

    return rewritten(graph, rule)


def _factor(matrix: Value, producers: Mapping[Value, Node]) -> tuple[Value, bool] | None:
    """The Cholesky factor that a matrix is, and whether transposed."""
    node = producers.get(matrix)
    if node is not None and node.prim == "cholesky":
        return matrix, False
    if node is None or node.prim != "transpose":
        return None
    (source,), perm = node.operands, node.attrs["perm"]
    swapped = (*range(source.ndim - 2), source.ndim - 1, source.ndim - 2)
    below = producers.get(source)
    return (source, True) if tuple(perm) == swapped and below is not None and below.prim == "cholesky" else None


def _diagonal(node: Node, producers: Mapping[Value, Node]) -> tuple[Value, tuple[int, int]] | None:
    """Rows of elements a row and one apart in the last axis, which is reshaped into such rows: the elements, and the
    row and column of the first."""
    pad = producers.get(node.operands[0])
    if pad is None or pad.prim != "pad" or node.result.ndim < 2 or node.result.type.size == 0:
        return None
    (source,), p = pad.operands, pad.attrs
    *outer, _, width = node.result.shape
    only_last = not any(any(p[k][:-1]) for k in ("low", "high", "interior"))
    if not only_last or tuple(outer) != source.shape[:-1] or p["interior"][-1] != width or source.shape[-1] < 2:
        return None
    row, column = divmod(p["low"][-1], width)
    inside = p["low"][-1] >= 0 and p["high"][-1] >= 0 and column + source.shape[-1] <= width
    return (source, (row, column)) if inside else None


def _placed(b: Builder, x: Value, first: tuple[int, int], node: Node) -> Value:
    """The last axis of x along a diagonal of the result, from a row and column on; zeros elsewhere."""
    type_ = node.result.type
    *outer, rows, _ = type_.shape
    row, column = first
    flat, rest = (0,) * len(outer), rows - row - x.shape[-1]
    if row or rest:
        low, high = (*flat, row), (*flat, rest)
        (x,) = b.emit("pad", (x,), {"low": low, "high": high, "interior": (*flat, 0)})
    spread = b.emit("broadcast", (x,), {"shape": type_.shape, "dims": tuple(range(len(outer) + 1))})[0]
    count, axes = np.dtype(np.int64), (len(outer), len(outer) + 1)
    down, across = (b.emit("iota", (), {"shape": type_.shape, "dtype": count, "axis": a})[0] for a in axes)
    if row != column:
        down = b.add(down, b.like(down, column - row))
    return b.select(b.eq(down, across), spread, b.zeros(type_))

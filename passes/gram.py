"""Products of a matrix with its own transpose, before code is generated for the processor: one triangle is computed, in
blocks of rows, and mirrored."""

from __future__ import annotations

import itertools

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import INT64
from nufunc.passes.dead_code import eliminate_dead_code

_BLOCKS = 4  # 5/8 of the work; each has a kernel of its own, which takes 50 ms to compile
_WORTH = 5 * 10**8  # products of numbers, from which on that pays


def halved(graph: Graph) -> Graph:
    """The graph with such products in parts; regions are left as they are."""
    if not any(n.prim == "dot" for n in graph.nodes):
        return graph
    made_by = {r: n for n in graph.nodes for r in n.results}
    b = Builder(graph.name, graph.stage)
    env: dict[Value, Value] = {v: v for v in (*graph.params, *(v for v, _ in graph.consts))}
    found = False
    for node in graph.nodes:
        own = _own_transpose(node, made_by)
        with b.at(node.loc):
            if own is None:
                results = b.copy_node(node, [env[o] for o in node.operands])
            else:
                results, found = (_mirrored(b, env[own[0]], own[1]),), True
        env.update(zip(node.results, results, strict=True))
    if not found:
        return graph
    return eliminate_dead_code(graph.replace(nodes=b.nodes, outputs=[env[o] for o in graph.outputs]))


def _own_transpose(node: Node, made_by: dict[Value, Node]) -> tuple[Value, int] | None:
    """The matrix, and the axis that is summed over."""
    if node.prim != "dot" or any(o.ndim != 2 for o in node.operands) or node.result.dtype.kind != "f":
        return None
    if node.attrs["contract"] == ((), ()) or node.attrs["batch"] != ((), ()):
        return None
    sources = [_source(o, axes[0], made_by) for o, axes in zip(node.operands, node.attrs["contract"], strict=True)]
    matrix, axis = sources[0]
    free, summed = matrix.shape[1 - axis], matrix.shape[axis]
    return (matrix, axis) if sources[0] == sources[1] and free * free * summed >= _WORTH else None


def _source(value: Value, axis: int, made_by: dict[Value, Node]) -> tuple[Value, int]:
    """What a transposition reads, and where one of its axes stands there."""
    while (node := made_by.get(value)) is not None and node.prim == "transpose":
        value, axis = node.operands[0], node.attrs["perm"][axis]
    return value, axis


def _mirrored(b: Builder, matrix: Value, axis: int) -> Value:
    free = 1 - axis
    extent = matrix.shape[free]
    ends = [extent * k // _BLOCKS for k in range(_BLOCKS + 1)]

    def part(value: Value, along: int, start: int, stop: int) -> Value:
        bounds = [(0, n) for n in value.shape]
        bounds[along] = (start, stop)
        return b.slice(value, start=tuple(s for s, _ in bounds), stop=tuple(e for _, e in bounds), step=(1, 1))

    spans = [span for span in itertools.pairwise(ends) if span[0] < span[1]]
    below = [
        b.dot(part(matrix, free, *span), part(matrix, free, 0, span[1]), contract=((axis,), (axis,)), batch=((), ()))
        for span in spans
    ]
    rows = []
    for k, span in enumerate(spans):
        left = [part(below[k], 1, 0, span[0])] if k else []
        above = [b.transpose(part(other, 1, *span), perm=(1, 0)) for other in below[k + 1 :]]
        rows.append(b.concat(*left, _symmetric(b, part(below[k], 1, *span)), *above, axis=1))
    return b.concat(*rows, axis=0)


def _symmetric(b: Builder, square: Value) -> Value:
    """The lower triangle and its mirror image: at the edges of tiles sums are rounded otherwise than their mirrors."""
    row, column = (b.iota(shape=square.shape, dtype=INT64, axis=axis) for axis in (0, 1))
    return b.select(b.ge(row, column), square, b.transpose(square, perm=(1, 0)))

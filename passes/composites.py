"""The last steps of linear algebra: bodies in the place of composite nodes, and decompositions without the vectors that
nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.prims.composite import body_of
from nufunc.passes.dead_code import eliminate_dead_code
from nufunc.passes.rewrite import rewritten

_VECTORS = {"eigh": (0,), "eig": (0,), "svd": (1,), "qr": (1,)}  # the results that stay without vectors


def opened(graph: Graph, native: bool = False) -> Graph:
    """The graph with the body of each composite node in its place; with `native` also of those that the processor has
    code of its own for."""
    if not any(body_of(node.prim, native) for node in graph.walk()):
        return graph

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        body = body_of(node.prim, native)
        if body is None:
            return None
        inner = Builder(node.prim)
        inner.loc = node.loc
        params = [inner.param(o.type) for o in operands]
        made = opened(inner.build(body(inner, params, node.attrs)), native)
        return b.inline(made, operands)

    return rewritten(graph, rule, lambda region: opened(region, native))


def slimmed(graph: Graph) -> Graph:
    """Decompositions of which only the values are read, computed without their vectors."""
    if not any(node.prim in _VECTORS for node in graph.walk()):
        return graph
    read = {operand for node in graph.nodes for operand in node.operands} | set(graph.outputs)

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        if node.prim not in _VECTORS or not node.attrs["vectors"]:
            return None
        kept = _VECTORS[node.prim]
        if any(r in read for k, r in enumerate(node.results) if k not in kept):
            return None
        values = list(b.emit(node.prim, operands, {**node.attrs, "vectors": False}))
        return [values.pop(0) if k in kept else b.zeros(r.type) for k, r in enumerate(node.results)]

    made = rewritten(graph, rule, slimmed)
    return made if len(made.nodes) == len(graph.nodes) else eliminate_dead_code(made)  # of zeros that nobody reads

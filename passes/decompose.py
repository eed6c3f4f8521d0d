"""Decomposition: rewrites library nodes that are better computed by a loop nest than by a library call.

A dot of integers or bools, one without contraction, and one of small matrices become a broadcasted product
and a sum, which fuse with their surroundings.
"""

from __future__ import annotations

import math

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value

SMALL_DOT = 2048  # multiplications per matrix up to which a call of BLAS costs more than the loop


def decompose(graph: Graph) -> Graph:
    """The same graph with such dots rewritten; regions are left to whoever visits them."""
    if not any(_applies(n) for n in graph.nodes):
        return graph
    b = Builder(graph.name, graph.stage)
    env: dict[Value, Value] = {p: p for p in graph.params}
    env.update({v: v for v, _ in graph.consts})
    for node in graph.nodes:
        operands = [env[o] for o in node.operands]
        if _applies(node):
            with b.at(node.loc):
                env[node.result] = dot_as_product(b, node, *operands)
        else:
            env.update(zip(node.results, b.copy_node(node, operands), strict=True))
    return graph.replace(nodes=b.nodes, outputs=[env[o] for o in graph.outputs])


def _applies(node: Node) -> bool:
    if node.prim != "dot":
        return False
    x = node.operands[0]
    contract = node.attrs["contract"]
    if x.dtype.kind in "biu" or not contract[0]:
        return True
    batch = math.prod(x.shape[a] for a in node.attrs["batch"][0])
    work = math.prod(node.result.shape) // max(batch, 1) * math.prod(x.shape[a] for a in contract[0])
    return work <= SMALL_DOT or node.result.type.size == 0


def dot_as_product(b: Builder, node: Node, x: Value, y: Value) -> Value:
    """dot as sum(x * y) over a space of batch, x's free, y's free and the contracted axes, in this order."""
    (xc, yc), (xb, yb) = node.attrs["contract"], node.attrs["batch"]
    xf = [a for a in range(x.ndim) if a not in xc and a not in xb]
    yf = [a for a in range(y.ndim) if a not in yc and a not in yb]
    nb, nx, ny, nc = len(xb), len(xf), len(yf), len(xc)
    shape = (*node.result.shape, *(x.shape[a] for a in xc))
    space_x = [*range(nb + nx), *range(nb + nx + ny, nb + nx + ny + nc)]
    space_y = [*range(nb), *range(nb + nx, nb + nx + ny + nc)]
    product = b.mul(
        _spread(b, x, (*xb, *xf, *xc), space_x, shape), _spread(b, y, (*yb, *yf, *yc), space_y, shape)
    )
    return b.summed(product, range(nb + nx + ny, nb + nx + ny + nc))


def _spread(b: Builder, x: Value, perm: tuple[int, ...], dims: list[int], shape: tuple[int, ...]) -> Value:
    x = b.transposed(x, perm)
    return x if x.shape == shape else b.emit("broadcast", (x,), {"shape": shape, "dims": tuple(dims)})[0]

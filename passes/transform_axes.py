"""Fourier transforms along other axes than the last, before code is generated for the processor, whose loops take
strides: a transform between a transposition and its inverse becomes `fft_along` that axis."""

from __future__ import annotations

from collections import Counter

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.prims.fft import along
from nufunc.passes.dead_code import eliminate_dead_code

_TRANSFORMS = ("fft", "rfft", "irfft")


def along_their_axes(graph: Graph) -> Graph:
    """The graph with transforms where their points lie; regions are left as they are."""
    if not any(n.prim in _TRANSFORMS for n in graph.nodes):
        return graph
    made_by = {r: n for n in graph.nodes for r in n.results}
    uses = Counter([*(o for n in graph.nodes for o in n.operands), *graph.outputs])
    b = Builder(graph.name, graph.stage)
    env: dict[Value, Value] = {v: v for v in (*graph.params, *(v for v, _ in graph.consts))}
    for node in graph.nodes:
        found = _moved_axis(node, made_by, uses)
        with b.at(node.loc):
            if found is None:
                results = b.copy_node(node, [env[o] for o in node.operands])
            else:
                transform, source, axis = found
                results = b.emit("fft_along", (env[source],), along(transform.prim, transform.attrs, axis))
        env.update(zip(node.results, results, strict=True))
    return eliminate_dead_code(graph.replace(nodes=b.nodes, outputs=[env[o] for o in graph.outputs]))


def _moved_axis(node: Node, made_by: dict[Value, Node], uses: Counter[Value]) -> tuple[Node, Value, int] | None:
    """Of the second transposition: the transform, what the first one reads, and the axis that it moves to the end."""
    if node.prim != "transpose":
        return None
    transform = made_by.get(node.operands[0])
    if transform is None or transform.prim not in _TRANSFORMS or uses[node.operands[0]] != 1:
        return None
    first = made_by.get(transform.operands[0])
    if first is None or first.prim != "transpose":
        return None
    perm, axis = first.attrs["perm"], first.attrs["perm"][-1]
    kept = tuple(k for k in range(len(perm)) if k != axis)
    back = tuple(perm.index(k) for k in range(len(perm)))
    return (transform, first.operands[0], axis) if perm[:-1] == kept and node.attrs["perm"] == back else None

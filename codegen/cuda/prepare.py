"""A grouped graph as a device wants it: products alone, and operands of library nodes contiguous.

Fusion leaves to the readers of some layouts to go by strides, which on the CPU only products do. Here a transposed
operand of a product becomes a product along other axes, where the order of the result's axes allows it, and so does a
product of which the transpose alone is read. What is left of such layouts are copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nufunc.codegen.buffers import is_view
from nufunc.codegen.cuda import control_choice
from nufunc.codegen.cuda.hoist import hoisted
from nufunc.codegen.cuda.lacking import taken_apart
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.product_group import Halves, halves, is_product


def prepared(graph: Graph, modes: dict[Node, str]) -> Graph:
    """The graph with its regions, rewritten for a device. `modes` gets the control nodes that run inside a kernel, and
    whether that is of threads or blocks; in these, products are sums."""
    nodes: list[Node] = []
    views: dict[Value, Node] = {}
    for node in graph.nodes:
        for made in _apart(node) if is_product(node) else taken_apart(node):
            behind: list[Node] = []
            if made.prim == "dot":
                made = _along_other_axes(made, views)
            elif is_view(made) and any(n.prim != "reshape" for n in made.regions[0].nodes):
                made = Node("fused", made.operands, {"kind": "copy"}, made.regions, made.results, made.loc)
                views[made.result] = made
            elif made.prim != "fused" and made.regions:
                regions = [prepared(r, modes) for r in made.regions]
                made = Node(made.prim, made.operands, made.attrs, regions, made.results, made.loc)
                mode = control_choice.mode(made)
                if mode in (None, "block"):
                    *before, less = _leaving(made, behind)
                    other = control_choice.mode(less) if before or behind else mode
                    if mode is None or other in ("lanes", "rows"):
                        nodes += before
                        made, mode = less, other
                    else:
                        behind.clear()
                if mode is not None:
                    regions = [control_choice.with_sums(r) for r in made.regions]
                    made = Node(made.prim, made.operands, made.attrs, regions, made.results, made.loc)
                    modes[made] = mode
            nodes += [made, *behind]
    return graph.replace(nodes=_read(nodes, graph.outputs, set(views)))


def _leaving(node: Node, behind: list[Node]) -> list[Node]:
    """A loop with what is done before it; `behind` gets what is done later."""
    made = hoisted(node)
    at = next(k for k, n in enumerate(made) if n.prim == node.prim and n.regions)
    behind += made[at + 1 :]
    return made[: at + 1]


def _read(nodes: Sequence[Node], outputs: Sequence[Value], copies: set[Value]) -> list[Node]:
    """The nodes without copies that nothing reads any more."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if copies.isdisjoint(node.results) or not read.isdisjoint(node.results):
            kept.append(node)
            read.update(node.operands)
    return kept[::-1]


def _apart(node: Node) -> list[Node]:
    """A product group as a dot, its layout, and what follows."""
    made = halves(node)
    dot, result = _turned(made)
    nodes = [dot]
    if result is not made.product:
        b = Builder("fused", "pure")
        value = b.param(result.type)
        kind = "view"
        if made.turned is not None and dot is made.dot:
            kind, (value,) = "copy", b.emit("transpose", (value,), {"perm": made.turned})
        region = b.build([b.reshaped(value, made.product.shape)])
        nodes.append(Node("fused", [result], {"kind": kind}, (region,), (made.product,), node.loc))
    return nodes if made.follow is None else [*nodes, made.follow]


def _turned(made: Halves) -> tuple[Node, Value]:
    """The dot of a product group and what it computes; with its operands exchanged where that turns the result."""
    dot, turned = made.dot, made.turned
    if turned is None:
        if made.follow is None or dot.result.type != made.product.type:
            return dot, dot.result
        return Node("dot", dot.operands, dot.attrs, (), (made.product,), dot.loc), made.product
    batch = len(dot.attrs["batch"][0])
    first = dot.operands[0].ndim - batch - len(dot.attrs["contract"][0])
    order = range(dot.result.ndim)
    if tuple(turned) != (*order[:batch], *order[batch + first :], *order[batch : batch + first]):
        return dot, dot.result
    x, y = dot.operands
    attrs: dict[str, Any] = {key: dot.attrs[key][::-1] for key in ("contract", "batch")}
    type_ = dot.result.type.with_shape(tuple(dot.result.shape[a] for a in turned))
    result = made.product if type_ == made.product.type else Value(type_)
    return Node("dot", (y, x), attrs, (), (result,), dot.loc), result


def _along_other_axes(dot: Node, views: dict[Value, Node]) -> Node:
    """A dot that reads what its operands are transpositions of."""
    operands = list(dot.operands)
    contract, batch = list(dot.attrs["contract"]), list(dot.attrs["batch"])
    for k, operand in enumerate(operands):
        perm = _permutation(views.get(operand))
        if perm is None:
            continue
        free = [perm[a] for a in range(operand.ndim) if a not in contract[k] and a not in batch[k]]
        if free == sorted(free):
            operands[k] = views[operand].operands[0]
            contract[k], batch[k] = (tuple(perm[a] for a in axes) for axes in (contract[k], batch[k]))
    if operands == list(dot.operands):
        return dot
    return Node("dot", operands, {"contract": tuple(contract), "batch": tuple(batch)}, (), dot.results, dot.loc)


def _permutation(view: Node | None) -> Sequence[int] | None:
    if view is None or [n.prim for n in view.regions[0].nodes] != ["transpose"]:
        return None
    return tuple(view.regions[0].nodes[0].attrs["perm"])

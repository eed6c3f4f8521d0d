"""Product groups: `fused` nodes whose region begins with a dot, their form and what they are made of.

See Note [Product groups] in `nufunc.passes.fuse_products`, which makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value

PRODUCT = "product"  # the kind of such a node


def is_product(node: Node) -> bool:
    return node.prim == "fused" and node.attrs["kind"] == PRODUCT


def turning(param: Value, reading: Sequence[Node], region: Graph) -> Node | None:
    """The one transposition through which a region reads a parameter."""
    if len(reading) == 1 and reading[0].prim == "transpose" and param not in region.outputs:
        return reading[0]
    return None


def only_reshapes(value: Value, region: Graph) -> bool:
    """Whether a region's only output is `value` in another shape."""
    if len(region.outputs) != 1:
        return False
    producers = {n.result: n for n in region.nodes if len(n.results) == 1}
    at = region.outputs[0]
    while at is not value:
        node = producers.get(at)
        if node is None or node.prim != "reshape":
            return False
        at = node.operands[0]
    return True


@dataclass(frozen=True)
class Halves:
    """A product group as a dot and what follows. `dot` has the group's operands; its result, or that `turned` by a
    permutation of axes, is `product`. `follow` is the group that reads `product`; without one `product` is the
    group's only result. `stored` says that `product` is the last result of the group as well."""

    dot: Node
    turned: tuple[int, ...] | None
    product: Value
    follow: Node | None
    stored: bool


def halves(node: Node) -> Halves:
    region = node.regions[0]
    given = dict(zip(region.params, node.operands, strict=True))
    dot, *rest = region.nodes
    stored = dot.result in region.outputs
    reading = [n for n in rest if dot.result in n.operands]
    turned = None if stored else turning(dot.result, reading, region)
    seen = turned.result if turned is not None else dot.result
    rest = [n for n in rest if n is not turned]
    own = Node("dot", [given[o] for o in dot.operands], dot.attrs, (), (Value(dot.result.type),), dot.loc)
    perm = turned.attrs["perm"] if turned is not None else None
    if only_reshapes(seen, region):
        return Halves(own, perm, node.result, None, False)
    product = node.results[-1] if stored else Value(seen.type)
    outputs = region.outputs[:-1] if stored else region.outputs
    used = dict.fromkeys(o for n in rest for o in n.operands if o in given)
    inner = Graph([seen, *used], rest, outputs, consts=region.consts, stage="pure", name="fused")
    kind = "reduce" if any(primitive.get(n.prim).kind == "reduce" for n in rest) else "loop"
    operands = [product, *(given[p] for p in used)]
    results = node.results[:-1] if stored else node.results
    follow = Node("fused", operands, {"kind": kind}, (inner,), results, node.loc)
    return Halves(own, perm, product, follow, stored)


def expanded(graph: Graph) -> Graph:
    """The grouped graph with product groups taken apart again, for whoever runs dots and loops one by one."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if not is_product(node):
            regions = [r if node.prim == "fused" else expanded(r) for r in node.regions]
            same = all(new is old for new, old in zip(regions, node.regions, strict=True))
            nodes.append(node if same else Node(node.prim, node.operands, node.attrs, regions, node.results, node.loc))
            continue
        nodes += _apart(node)
    if len(nodes) == len(graph.nodes) and all(new is old for new, old in zip(nodes, graph.nodes, strict=True)):
        return graph
    return graph.replace(nodes=nodes)


def _apart(node: Node) -> list[Node]:
    made = halves(node)
    whole = made.turned is None and made.follow is not None
    result = made.product if whole else made.dot.result
    nodes = [Node("dot", made.dot.operands, made.dot.attrs, (), (result,), made.dot.loc)]
    if not whole:
        b = Builder("fused", "pure")
        value = b.param(result.type)
        if made.turned is not None:
            (value,) = b.emit("transpose", (value,), {"perm": made.turned})
        value = b.reshaped(value, made.product.shape)
        region = b.build([value])
        nodes.append(Node("fused", [result], {"kind": "copy"}, (region,), (made.product,), node.loc))
    return nodes if made.follow is None else [*nodes, made.follow]

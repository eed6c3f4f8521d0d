"""Products with what follows them: joins a dot and the group that reads its result, in the grouped stage.

Note [Product groups]
A `fused` node of kind "product" has a dot as the first node of its region; what follows are the nodes of the group that
read its result: a bias and an activation, the update of a weight by its gradient, an addition to a sum, a softmax over
rows, or a transposition alone, which then costs nothing, since the product is computed where the transposed array
stands. Code generation runs a part of the product and then what follows on this part, while it is in the cache, in one
parallel region. A group joins a dot where it reads the result at its own indices or through one transposition, reduces
only trailing axes of it, and is the first of the dot's readers, so that no cycle can arise.
"""

from __future__ import annotations

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.product_group import PRODUCT, only_reshapes, turning
from nufunc.ir.types import kind_of

LEAST_BYTES = 32 << 10  # of a result; a smaller one is in the cache anyway
_JOINED = ("loop", "reduce", "copy")


def join_products(graph: Graph, reasons: list[str]) -> Graph:
    """The grouped graph with such groups. `reasons` collects why a dot and its first reader were not joined."""
    users: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for operand in dict.fromkeys(node.operands):
            users.setdefault(operand, []).append(node)
    outputs = set(graph.outputs)
    joined: dict[Node, Node] = {}  # the group -> its dot
    for node in graph.nodes:
        if node.prim != "dot" or kind_of(node.result.dtype) != "f" or node.result.dtype.itemsize < 4:
            continue
        readers = users.get(node.result, [])
        if not readers or readers[0].prim != "fused" or readers[0].attrs["kind"] == "view":
            continue
        reader, shared = readers[0], len(readers) > 1 or node.result in outputs
        why = "it follows another product" if reader in joined else _refusal(node, reader, shared)
        if why:
            at = f" ({node.loc})" if node.loc is not None else ""
            reasons.append(f"dot{at} is not joined with the group that follows it: {why}")
        else:
            joined[reader] = node
    if not joined:
        return graph
    dots = set(joined.values())
    nodes: list[Node] = []
    for node in graph.nodes:
        if node in joined:
            dot = joined[node]
            shared = len(users[dot.result]) > 1 or dot.result in outputs
            nodes.append(_joint(dot, node, shared))
        elif node not in dots:
            nodes.append(node)
    return graph.replace(nodes=nodes)


def _refusal(dot: Node, reader: Node, shared: bool) -> str:
    """Why a group cannot run on parts of a product; empty if it can."""
    kind, region = reader.attrs["kind"], reader.regions[0]
    if kind not in _JOINED:
        return f"a group of kind {kind} does not go through it in parts"
    if reader.operands.count(dot.result) != 1:
        return "it is read under two names"
    param = region.params[reader.operands.index(dot.result)]
    reading = [n for n in region.nodes if param in n.operands]
    turned = turning(param, reading, region)
    if turned is not None and shared:
        return "others read it in its own order"
    if turned is not None and not _lies_in_columns(dot, turned):
        return "its columns would lie apart"
    seen = turned.result if turned is not None else param
    if only_reshapes(seen, region):
        return "" if turned is not None else "it is only copied"
    if kind == "copy":
        return "its elements are read in another order"
    if dot.result.type.nbytes < LEAST_BYTES:
        return "the result is small"
    for node in region.nodes:
        record = primitive.get(node.prim).kind
        if record == "reduce" and not _is_trailing(node, seen.shape):
            return f"{node.prim} goes across its rows"
        if record not in ("elementwise", "layout", "create", "reduce"):
            return f"{node.prim} follows"
        if seen in node.operands and record == "layout":
            return f"{node.prim} reads it at other indices"
    if any(o.shape[: seen.ndim - 1] != seen.shape[:-1] for o in region.outputs):
        return "the group goes through another space"
    return ""


def _lies_in_columns(dot: Node, turned: Node) -> bool:
    """Whether what lies innermost in a transposed product are columns of its second operand. (Operands are exchanged
    before where it is the first one's alone.)"""
    last = turned.attrs["perm"][-1]
    return last >= dot.operands[0].ndim - len(dot.attrs["contract"][0]) and dot.result.shape[last] > 1


def _is_trailing(node: Node, shape: tuple[int, ...]) -> bool:
    """Whether a reduction over all of `shape` keeps its leading axes, and one at least."""
    axes = sorted((node.attrs["axis"],) if "axis" in node.attrs else node.attrs["axes"])
    rank = len(shape)
    return node.operands[0].shape == shape and 0 < len(axes) < rank and axes == list(range(rank - len(axes), rank))


def _joint(dot: Node, group: Node, shared: bool) -> Node:
    """The product group of a dot and its reader; with `shared` the dot's result is a result too."""
    region = group.regions[0]
    others = [(o, p) for o, p in zip(group.operands, region.params, strict=True) if o is not dot.result]
    b = Builder("fused", "pure")
    operands = list(dict.fromkeys([*dot.operands, *(o for o, _ in others)]))
    params = {o: b.param(o.type, o.hint) for o in operands}
    env = {p: params[o] for o, p in others}
    (product,) = b.copy_node(dot, [params[o] for o in dot.operands])
    env[region.params[group.operands.index(dot.result)]] = product
    env.update({v: b.const(array) for v, array in region.consts})
    for node in region.nodes:
        env.update(zip(node.results, b.copy_node(node, [env[o] for o in node.operands]), strict=True))
    outputs = [env[o] for o in region.outputs] + ([product] if shared else [])
    results = (*group.results, *([dot.result] if shared else []))
    return Node("fused", operands, {"kind": PRODUCT}, (b.build(outputs),), results, group.loc or dot.loc)

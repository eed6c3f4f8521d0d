"""Maps over the same lanes in one, where tapes would go from the one to the other.

The derivative of a loop that every lane ends by itself is a map that records and a map that replays. In one map a
lane's tape is read while it is in the cache and freed before the next lane; only elementwise work between the two is
taken along, lane by lane.
"""

from __future__ import annotations

from collections.abc import Sequence

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node
from nufunc.ir.types import ArrayType, TapeType
from nufunc.passes.dead_code import eliminate_dead_code


def merge_maps(graph: Graph) -> Graph:
    """The graph (pure) with such maps merged, also in regions."""
    if not any(n.prim == "map" and _gives_tapes(n) for n in graph.walk()):
        return graph
    nodes = [
        Node(n.prim, n.operands, n.attrs, [merge_maps(r) for r in n.regions], n.results, n.loc) if n.regions else n
        for n in graph.nodes
    ]
    graph = graph.replace(nodes=nodes)
    while (merged := _merged_once(graph)) is not None:
        graph = merged
    return graph


def _gives_tapes(node: Node) -> bool:
    return any(isinstance(r.type, TapeType) for r in node.results)


def _merged_once(graph: Graph) -> Graph | None:
    producers = {r: n for n in graph.nodes for r in n.results}
    for reader in graph.nodes:
        if reader.prim != "map":
            continue
        for operand in reader.operands[reader.attrs["num_consts"] :]:
            writer = producers.get(operand)
            if writer is None or writer.prim != "map" or not isinstance(operand.type, TapeType):
                continue
            between = _between(graph, writer, reader)
            if between is not None:
                return _replaced(graph, writer, between, reader)
    return None


def _between(graph: Graph, writer: Node, reader: Node) -> list[Node] | None:
    """The nodes that the reader needs and that need the writer; None where one of them is no work on single lanes."""
    length = writer.attrs["length"]
    reached = set(writer.results)
    for node in graph.nodes:
        if not reached.isdisjoint(node.operands):
            reached.update(node.results)
    needed, found = set(reader.operands), []
    for node in reversed(graph.nodes):
        if node is not writer and not needed.isdisjoint(node.results) and not reached.isdisjoint(node.results):
            values = (*node.operands, *node.results)
            if primitive.get(node.prim).kind != "elementwise" or any(v.shape[:1] != (length,) for v in values):
                return None
            needed.update(node.operands)
            found.append(node)
    consts = reader.operands[: reader.attrs["num_consts"]]
    if reader.attrs["length"] != length or not reached.isdisjoint(consts):
        return None
    return found[::-1]


def _replaced(graph: Graph, writer: Node, between: Sequence[Node], reader: Node) -> Graph:
    length = writer.attrs["length"]
    made = {*writer.results, *(r for n in between for r in n.results)}
    split = lambda node: (node.operands[: node.attrs["num_consts"]], node.operands[node.attrs["num_consts"] :])
    (consts, xs), (more_consts, more_xs) = split(writer), split(reader)
    all_consts = list(dict.fromkeys([*consts, *more_consts]))
    outside = [o for n in between for o in n.operands if o not in made] + [x for x in more_xs if x not in made]
    all_xs = list(dict.fromkeys([*xs, *outside]))
    b = Builder(reader.regions[0].name)
    shared = {c: b.param(c.type, c.hint) for c in all_consts}
    lane = {x: b.param(_lane(x.type), x.hint) for x in all_xs}
    out = b.inline(writer.regions[0], [*(shared[c] for c in consts), *(lane[x] for x in xs)])
    lane.update(zip(writer.results, out, strict=True))
    for node in between:
        with b.at(node.loc):
            results = b.emit(node.prim, [lane[o] for o in node.operands], node.attrs)
        lane.update(zip(node.results, results, strict=True))
    last = b.inline(reader.regions[0], [*(shared[c] for c in more_consts), *(lane[x] for x in more_xs)])
    body = b.build([*out, *last])
    attrs = {"length": length, "num_consts": len(all_consts)}
    results = (*writer.results, *reader.results)
    one = Node("map", (*all_consts, *all_xs), attrs, (body,), results, reader.loc)
    nodes = [n for n in graph.nodes if n is not writer and n is not reader]
    return eliminate_dead_code(graph.replace(nodes=_ordered(graph, [*nodes, one])))


def _lane(type: ArrayType) -> ArrayType:
    return type.with_shape(type.shape[1:])


def _ordered(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with producers first, otherwise as they stood; the last one comes as early as it can."""
    producers = {r: n for n in nodes for r in n.results}
    done: dict[Node, None] = {}
    for root in nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            waiting = [producers[o] for o in node.operands if o in producers and producers[o] not in done]
            if waiting and node not in done:
                stack.extend(waiting)
            else:
                done[node] = None
                stack.pop()
    return list(done)

"""Dead code: drops nodes whose results are not used, and unused results, carries and operands of control
nodes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import is_not
from typing import TypeVar

from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.prims.host import has_effect
from nufunc.passes.control_parts import remembered

_T = TypeVar("_T")


def eliminate_dead_code(graph: Graph) -> Graph:
    """The graph (pure) without what its outputs do not depend on, apart from calls made for their effect; its
    parameters stay.
    """
    if "no dead code" in graph.facts:
        return graph
    live: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if live.isdisjoint(node.results) and not has_effect(node):
            continue
        if node.regions:
            node = _trimmed(node, [r in live for r in node.results])
        kept.append(node)
        live.update(node.operands)
    kept.reverse()
    consts = [(v, a) for v, a in graph.consts if v in live]
    if len(consts) != len(graph.consts) or len(kept) != len(graph.nodes) or any(map(is_not, kept, graph.nodes)):
        graph = graph.replace(nodes=kept, consts=consts)
    graph.facts["no dead code"] = True
    return graph


def _trimmed(node: Node, used: list[bool]) -> Node:
    """The control node with what it needs for the used ones of its results; itself if that is all it has."""
    trimmed = _trim(node, used)
    same = len(trimmed.operands) == len(node.operands) and len(trimmed.results) == len(node.results)
    whole = trimmed.prim == node.prim and same
    return node if whole and trimmed.regions == node.regions else trimmed


def _trim(node: Node, used: list[bool]) -> Node:
    match node.prim:
        case "cond":
            return _trim_cond(node, used)
        case "scan":
            return _trim_scan(node, used)
        case "while" | "record":
            return _trim_while(node, used)
        case "replay":
            return _trim_replay(node, used)
        case "checkpoint":
            return _trim_checkpoint(node, used)
        case "map":
            return _trim_map(node, used)
        case _:
            return node


def _pick(items: Sequence[_T], keep: Sequence[bool]) -> list[_T]:
    return [x for x, k in zip(items, keep, strict=True) if k]


def _with_outputs(region: Graph, used: Sequence[bool]) -> Graph:
    if all(used):
        return eliminate_dead_code(region)
    return remembered(
        region,
        ("live", *used),
        lambda: eliminate_dead_code(region.replace(outputs=tuple(_pick(region.outputs, used)))),
    )


def _uses(region: Graph) -> frozenset[Value]:
    """The values that nodes or outputs of a region read."""
    return remembered(
        region,
        ("uses",),
        lambda: frozenset(chain(region.outputs, *(node.operands for node in region.nodes))),
    )


def _with_params(region: Graph, keep: Sequence[bool]) -> Graph:
    """The region, free of dead code, with only some of its parameters."""
    if all(keep):
        return region
    region = region.replace(params=tuple(_pick(region.params, keep)))
    region.facts["no dead code"] = True
    return region


def _trim_cond(node: Node, used: list[bool]) -> Node:
    regions = [_with_outputs(r, used) for r in node.regions]
    reads = [_uses(r) for r in regions]
    needed = [
        any(r.params[k] in read for r, read in zip(regions, reads, strict=True))
        for k in range(len(node.operands) - 1)
    ]
    regions = [_with_params(r, needed) for r in regions]
    operands = [node.operands[0], *_pick(node.operands[1:], needed)]
    return Node("cond", operands, node.attrs, regions, _pick(node.results, used), node.loc)


def _live_carries(body: Graph, first_carry: int, num_carry: int, live: list[bool]) -> list[bool]:
    """Which carries the live results of a loop depend on: a carry feeds the next iteration's live ones."""
    carries = body.params[first_carry : first_carry + num_carry]
    while True:
        reads = _uses(_with_outputs(body, live))
        grown = [k or (i < num_carry and carries[i] in reads) for i, k in enumerate(live)]
        if grown == live:
            return live
        live = grown


def _trim_scan(node: Node, used: list[bool]) -> Node:
    (body,) = node.regions
    ncon, ncar = node.attrs["num_consts"], node.attrs["num_carry"]
    live = _live_carries(body, ncon, ncar, used)
    body = _with_outputs(body, live)
    reads = _uses(body)
    read = [p in reads for p in body.params]
    keep = [*read[:ncon], *live[:ncar], *read[ncon + ncar :]]
    attrs = {**node.attrs, "num_consts": sum(keep[:ncon]), "num_carry": sum(live[:ncar])}
    body = _with_params(body, keep)
    return Node("scan", _pick(node.operands, keep), attrs, (body,), _pick(node.results, live), node.loc)


def _trim_replay(node: Node, used: list[bool]) -> Node:
    attrs = {**node.attrs, "length": None}
    trimmed = _trim_scan(Node("scan", node.operands[1:], attrs, node.regions, node.results, node.loc), used)
    attrs = {k: v for k, v in trimmed.attrs.items() if k != "length"}
    return Node(
        "replay", (node.operands[0], *trimmed.operands), attrs, trimmed.regions, trimmed.results, node.loc
    )


def _trim_checkpoint(node: Node, used: list[bool]) -> Node:
    region = _with_outputs(node.regions[0], used)
    reads = _uses(region)
    keep = [p in reads for p in region.params]
    regions = (_with_params(region, keep),)
    return Node("checkpoint", _pick(node.operands, keep), node.attrs, regions, _pick(node.results, used), node.loc)


def _trim_while(node: Node, used: list[bool]) -> Node:
    """A record that nobody needs the tapes of is a while."""
    cond, body = node.regions
    nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
    num_carry, num_outputs = len(node.operands) - nc - nb, len(body.outputs)
    cond = eliminate_dead_code(cond)
    cond_reads = _uses(cond)
    tested = [p in cond_reads for p in cond.params[nc:]] + [False] * (num_outputs - num_carry)
    live = _live_carries(body, nb, num_carry, [u or t for u, t in zip(used[:num_outputs], tested, strict=True)])
    body = _with_outputs(body, live)
    reads = _uses(body)
    keep_cond = [p in cond_reads for p in cond.params[:nc]]
    keep_body = [p in reads for p in body.params[:nb]]
    cond = _with_params(cond, keep_cond + live[:num_carry])
    body = _with_params(body, keep_body + live[:num_carry])
    attrs = {"num_cond": sum(keep_cond), "num_body": sum(keep_body)}
    operands = _pick(node.operands, keep_cond + keep_body + live[:num_carry])
    results = _pick(node.results[:num_outputs], live)
    records = node.prim == "record" and (used[-1] or any(live[num_carry:]))
    results += node.results[num_outputs:] if records else []
    return Node("record" if records else "while", operands, attrs, (cond, body), results, node.loc)


def _trim_map(node: Node, used: list[bool]) -> Node:
    body = _with_outputs(node.regions[0], used)
    reads = _uses(body)
    keep = [p in reads for p in body.params]
    attrs = {**node.attrs, "num_consts": sum(keep[: node.attrs["num_consts"]])}
    body = _with_params(body, keep)
    return Node("map", _pick(node.operands, keep), attrs, (body,), _pick(node.results, used), node.loc)

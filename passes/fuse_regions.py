"""The grouped graph of a finished fusion: units in order, a region for each group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value

if TYPE_CHECKING:
    from nufunc.passes.fuse import Fusion, Unit

STRIDED = ("reshape", "transpose", "slice", "broadcast")


def rebuild(fusion: Fusion) -> Graph:
    position = {n: k for k, n in enumerate(fusion.graph.nodes)}
    for unit in fusion.units:
        unit.members.sort(key=lambda n: position[n])
    stored = set(fusion.needed)
    regions: dict[Unit, tuple[list[Node], list[Value], list[Value]]] = {}
    ordered = _ordered(fusion)
    for unit in reversed(ordered):
        if unit.kind == "alone":
            continue
        outputs = [r for n in unit.members for r in n.results if r in stored]
        if outputs:
            nodes, params = _region(fusion, unit, outputs, position)
            stored.update(params)
            regions[unit] = (nodes, params, outputs)
    b = Builder(fusion.graph.name, "grouped")
    env: dict[Value, Value] = {p: p for p in fusion.graph.params}
    env.update({v: v for v, _ in fusion.graph.consts})
    for unit in ordered:
        if unit.kind == "alone":
            _copy_alone(fusion, b, unit.members[0], env)
        elif unit in regions:
            _emit(fusion, b, unit, *regions[unit], env)
    outputs = [env[o] for o in fusion.graph.outputs]
    return fusion.graph.replace(nodes=b.nodes, outputs=outputs, stage="grouped")


def _ordered(fusion: Fusion) -> list[Unit]:
    """Units so that producers come first, otherwise as the nodes stood."""
    done: dict[Unit, None] = {}
    for root in sorted(fusion.units, key=lambda u: u.order):
        stack: list[tuple[Unit, Iterator[Unit]]] = [(root, iter(sorted(root.sources, key=lambda u: u.order)))]
        while stack:
            unit, rest = stack[-1]
            following = next((s for s in rest if s not in done), None)
            if unit in done or following is None:
                done[unit] = None
                stack.pop()
            else:
                stack.append((following, iter(sorted(following.sources, key=lambda u: u.order))))
    return list(done)


def _region(
    fusion: Fusion, unit: Unit, outputs: list[Value], position: dict[Node, int]
) -> tuple[list[Node], list[Value]]:
    """The nodes that compute `outputs` inside a group, and the stored values that they read."""
    members = set(unit.members)
    nodes: dict[Node, None] = {}
    params: dict[Value, None] = {}
    stack = [fusion.producers[v] for v in outputs]
    while stack:
        node = stack.pop()
        if node in nodes:
            continue
        nodes[node] = None
        for operand in node.operands:
            producer = fusion.producers.get(operand)
            if producer is not None and (producer in members or _copied(fusion, producer, operand)):
                stack.append(producer)
            else:
                params[operand] = None
    ordered = sorted(nodes, key=lambda n: position[n])
    used = dict.fromkeys(o for n in ordered for o in n.operands if o in params)
    return ordered, list(used)


def _copied(fusion: Fusion, producer: Node, value: Value) -> bool:
    """Whether a reader in another group computes `value` again."""
    if fusion.alone(producer) or fusion.kind(producer) == "reduce":
        return False
    if producer.prim == "full":
        return True
    if value in fusion.needed:
        # a reshape of what stands in memory costs nothing; other stored values are read where they are
        return producer.prim == "iota"
    return fusion.is_inline(producer) or fusion.is_trivial(value)


def _copy_alone(fusion: Fusion, b: Builder, node: Node, env: dict[Value, Value]) -> None:
    regions = [fusion.again(r) for r in node.regions]
    results = tuple(Value(r.type, r.hint) for r in node.results)
    b.nodes.append(Node(node.prim, [env[o] for o in node.operands], node.attrs, regions, results, node.loc))
    env.update(zip(node.results, results, strict=True))


def _emit(
    fusion: Fusion, b: Builder, unit: Unit, nodes: list[Node], params: list[Value],
    outputs: list[Value], env: dict[Value, Value],
) -> None:  # fmt: skip
    inner = Builder("fused", "pure")
    local: dict[Value, Value] = {p: inner.param(p.type, p.hint) for p in params}
    for node in nodes:
        local.update(zip(node.results, inner.copy_node(node, [local[o] for o in node.operands]), strict=True))
    region = inner.build([local[o] for o in outputs])
    kind = _view_kind(fusion, unit, nodes, params, outputs) if unit.kind == "copy" else unit.kind
    results = tuple(Value(o.type, o.hint) for o in outputs)
    operands = [env[p] for p in params]
    b.nodes.append(Node("fused", operands, {"kind": kind}, (region,), results, unit.members[-1].loc))
    env.update(zip(outputs, results, strict=True))


def _view_kind(
    fusion: Fusion, unit: Unit, nodes: list[Node], params: list[Value], outputs: list[Value]
) -> str:
    if len(params) != 1:
        return "copy"
    if all(n.prim == "reshape" for n in nodes):
        return "view"
    only_dots = (
        all(u.prim == "dot" for u in fusion.users.get(outputs[0], [])) and outputs[0] not in fusion.outputs
    )
    return "view" if only_dots and all(n.prim in STRIDED for n in nodes) else "copy"

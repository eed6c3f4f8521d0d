"""Recomputation: splits in which the unknown side computes again what it needs of the known one.

A loop of unknown length keeps residuals of each iteration on tapes; the carry alone is kept where that is less
memory than what the derivative reads, and the body is computed again going backwards. A checkpoint keeps its
arguments, and the values that its policy names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import ArrayType, TapeType
from nufunc.passes.control_parts import chosen, dependent
from nufunc.passes.dead_code import eliminate_dead_code
from nufunc.passes.rewrite import rewritten

if TYPE_CHECKING:
    from nufunc.passes.linearize import Split

_ITERATIONS = 32  # of a loop on a tape, whose number nobody knows


def recomputing(split: Split, save: Sequence[str] = ()) -> Split:
    """The split whose residuals are known parameters, and the known values that carry a name in `save`."""
    known = split.known
    first = len(known.outputs) - split.num_residuals
    saved = {n.result: n for n in known.nodes if n.prim == "named" and n.attrs["name"] in save}
    b = Builder(split.unknown.name)
    params = [Value(p.type, p.hint) for p in known.params]
    copies = [Value(v.type, v.hint) for v in saved]
    again = _silent(known)
    nodes = [n for n in again.nodes if n.results[0] not in saved]
    again = again.replace(params=(*known.params, *saved), nodes=nodes, outputs=known.outputs[first:])
    residuals = b.inline(eliminate_dead_code(again), [*params, *copies])
    unknown_params = [Value(p.type, p.hint) for p in split.unknown.params[split.num_residuals :]]
    outputs = b.inline(split.unknown, [*residuals, *unknown_params])
    b.params = [*params, *copies, *unknown_params]
    unknown = eliminate_dead_code(b.build(outputs))
    read = {o for node in unknown.nodes for o in node.operands} | set(unknown.outputs)
    used = [p in read for p in (*params, *copies)]
    unknown = unknown.replace(params=(*chosen([*params, *copies], used), *unknown_params))
    kept = chosen([*known.params, *saved], used)
    known = eliminate_dead_code(known.replace(outputs=(*known.outputs[:first], *kept)))
    return type(split)(known, unknown, split.unknown_outputs, len(kept))


def _silent(graph: Graph) -> Graph:
    """The graph without what is there for its effect alone, which happens once, when the values are first computed."""
    nodes = [
        Node(n.prim, n.operands, n.attrs, [_silent(r) for r in n.regions], n.results, n.loc) if n.regions else n
        for n in graph.nodes
        if n.results
    ]
    return graph.replace(nodes=nodes)


def smaller(split: Split, num_consts: int, num_carry: int) -> Split:
    """For the body of a loop of unknown length: the split itself, or one that recomputes where that stores less."""
    again = recomputing(split)
    return again if _stored(again, num_consts, num_carry) < _stored(split, num_consts, num_carry) else split


def _stored(split: Split, num_consts: int, num_carry: int) -> int:
    """Bytes per iteration of residuals that neither stay nor are on tapes in any case."""
    params = split.known.params
    varying = dependent(split.known, [k >= num_consts for k in range(len(params))])
    outputs = split.known.outputs[: len(split.known.outputs) - split.num_residuals]
    at_hand = {*params[num_consts + num_carry :], *outputs} - set(params[num_consts : num_consts + num_carry])
    return sum(_bytes(r.type) for r in set(split.residuals) if r in varying and r not in at_hand)


def _bytes(type: ArrayType) -> int:
    return type.size * _ITERATIONS * _bytes(type.item) if isinstance(type, TapeType) else type.nbytes


def inlined(graph: Graph) -> Graph:
    """The graph without names, and without checkpoints that compute nothing a second time."""
    if not any(map(_dissolves, graph.walk())):
        return graph

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        if node.prim == "named":
            return operands
        return b.inline(node.regions[0], operands) if _dissolves(node) else None

    return rewritten(graph, rule, inlined)


def _dissolves(node: Node) -> bool:
    return node.prim == "named" or (node.prim == "checkpoint" and not node.attrs["again"])

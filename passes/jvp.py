"""Forward-mode differentiation: a graph that computes tangents beside the primals."""

from __future__ import annotations

from collections.abc import Sequence

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentError, DTypeError, UnsupportedError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import is_inexact
from nufunc.passes import control_jvp
from nufunc.passes.control_parts import OpenRegion, derived_name, need_pure, present
from nufunc.passes.custom import jvp_custom
from nufunc.passes.shifts import shifts

_RULES = {**control_jvp.RULES, "custom": jvp_custom}


def jvp(graph: Graph, which: Sequence[bool]) -> Graph:
    """The graph and its derivative in one.

    Parameters: those of `graph` and a tangent for each with a True in `which` (their dtypes are floating or
    complex). Outputs: those of `graph` and a tangent for each of floating or complex dtype. Like all
    derivatives it carries no `updates`: the first outputs are the graph's, in its order, so `graph.updates`
    still says which are written back.
    """
    check_which(graph, which)
    region = differentiate(graph, which)
    flags = [is_inexact(o.dtype) for o in graph.outputs]
    tangents = region.extras(flags, region.outputs)
    return region.close([*region.params, *present(region.extra_params)], [*region.outputs, *tangents])


def check_which(graph: Graph, which: Sequence[bool]) -> None:
    """Errors for a graph that is not pure, a `which` of the wrong length, or one that names a parameter
    without derivative."""
    need_pure(graph)
    if len(which) != len(graph.params):
        raise ArgumentError(
            f"`which` has {len(which)} entries, but @{graph.name} takes {len(graph.params)} arrays"
        )
    for i, (param, wanted) in enumerate(zip(graph.params, which, strict=True)):
        if wanted and not is_inexact(param.dtype):
            name = param.hint or f"number {i}"
            raise DTypeError(
                f"cannot differentiate with respect to parameter {name} of @{graph.name}: its dtype is "
                f"{param.dtype}, and only floating-point and complex arrays have tangents"
            )


def differentiate(graph: Graph, active: Sequence[bool]) -> OpenRegion:
    """The derivative of a graph as an open region: zero tangents are still None."""
    b = Builder(derived_name(graph.name, "jvp"))
    primals = [b.param(p.type, p.hint) for p in graph.params]
    tangents = [
        b.param(p.type, f"{p.hint}_dot" if p.hint else "") if a else None
        for p, a in zip(graph.params, active, strict=True)
    ]
    outputs, out_tangents = jvp_into(b, graph, primals, tangents)
    return OpenRegion(b, primals, outputs, tangents, out_tangents)


def jvp_into(
    b: Builder, graph: Graph, primals: Sequence[Value], tangents: Sequence[Value | None]
) -> tuple[list[Value], list[Value | None]]:
    """Emit a graph and its derivative; gives its outputs and their tangents (None is zero)."""
    env: dict[Value, Value] = dict(zip(graph.params, primals, strict=True))
    dots: dict[Value, Value] = {p: t for p, t in zip(graph.params, tangents, strict=True) if t is not None}
    for value, array in graph.consts:
        env[value] = b.const(array, value.hint)
    still = shifts(graph) if dots else frozenset()
    for node in graph.nodes:
        node_tangents = [dots.get(o) if still.isdisjoint(node.results) else None for o in node.operands]
        operands = [env[o] for o in node.operands]
        with b.at(node.loc):
            results, out = _jvp_node(b, node, operands, node_tangents)
        env.update(zip(node.results, results, strict=True))
        dots.update((r, t) for r, t in zip(node.results, out, strict=True) if t is not None)
    return [env[o] for o in graph.outputs], [dots.get(o) for o in graph.outputs]


def _jvp_node(
    b: Builder, node: Node, operands: Sequence[Value], tangents: Sequence[Value | None]
) -> tuple[Sequence[Value], Sequence[Value | None]]:
    """The one place that chooses the rule of a node."""
    record = primitive.get(node.prim)
    active = any(t is not None for t in tangents) and any(r.type.inexact for r in node.results)
    if active and node.prim in _RULES:
        return _RULES[node.prim](b, node, operands, tangents, differentiate)
    results = b.copy_node(node, operands)
    if not active or not record.differentiable:
        return results, [None] * len(results)
    if record.jvp is None:
        raise UnsupportedError(f"{node.prim} cannot be differentiated", node.loc)
    return results, record.jvp(b, operands, tangents, results, node.attrs)

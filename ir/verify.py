"""The verifier: scope, types, attributes, regions and the legality table of each stage."""

from __future__ import annotations

from collections.abc import Sequence

from nufunc.ir import primitive
from nufunc.ir.errors import NufuncError, VerifyError
from nufunc.ir.graph import STAGES, Graph, Node, Value
from nufunc.ir.types import ArrayType, type_of

_ALL_PURE = ("elementwise", "reduce", "layout", "index", "library", "create", "control")

# The kinds of primitives that a stage allows. Below the top level of a grouped graph, fused regions are pure.
LEGAL_KINDS: dict[str, tuple[str, ...]] = {
    "traced": (*_ALL_PURE, "view", "write"),
    "pure": _ALL_PURE,
    "grouped": ("fused", "library", "control", "index", "layout"),
}


def verify(graph: Graph, after: str = "") -> Graph:
    """The graph itself, if it is legal; else VerifyError showing the node, its neighbours and the last pass (`after`)."""
    if graph.stage not in STAGES:
        raise VerifyError(f"unknown stage {graph.stage!r}")
    defined: set[Value] = set()
    for value in graph.params:
        _define(value, defined, graph, "a parameter")
    for value, array in graph.consts:
        _define(value, defined, graph, "a constant")
        if type_of(array) != value.type:
            raise VerifyError(f"constant of type {value.type} holds an array of type {type_of(array)}")
    for index, node in enumerate(graph.nodes):
        problem = _problem(node, defined, graph.stage)
        if problem:
            raise VerifyError(_report(graph, index, problem, after), node.loc)
        for region in node.regions:
            verify(region, after)
        for value in node.results:
            _define(value, defined, graph, node.prim)
    for k, value in enumerate(graph.outputs):
        if value not in defined:
            raise VerifyError(f"output {k} of @{graph.name} is not defined in it{_after(after)}")
    _check_updates(graph)
    return graph


def _check_updates(graph: Graph) -> None:
    if len(graph.updates) > len(graph.outputs):
        raise VerifyError(f"@{graph.name} lists more updates than outputs")
    first = len(graph.outputs) - len(graph.updates)
    for k, index in enumerate(graph.updates):
        if not 0 <= index < len(graph.params) or graph.params[index].type != graph.outputs[first + k].type:
            raise VerifyError(f"update {k} of @{graph.name} does not fit parameter {index}")


def _define(value: Value, defined: set[Value], graph: Graph, what: str) -> None:
    if value in defined:
        raise VerifyError(f"{value} ({what}) is defined twice in @{graph.name}")
    defined.add(value)


def _problem(node: Node, defined: set[Value], stage: str) -> str | None:
    record = primitive.get(node.prim)
    if record.kind not in LEGAL_KINDS[stage]:
        return f"{node.prim} ({record.kind}) is not allowed in stage {stage}"
    for k, operand in enumerate(node.operands):
        if operand not in defined:
            return f"operand {k} is used before it is defined"
    if record.attrs and set(node.attrs) != set(record.attrs):
        return f"attributes are {sorted(node.attrs)}, not {sorted(record.attrs)}"
    bad = next((k for k, v in node.attrs.items() if not _is_attr(v)), None)
    if bad is not None:
        return f"attribute {bad} is {node.attrs[bad]!r}, which cannot be printed"
    try:
        types: Sequence[ArrayType] = record.infer([o.type for o in node.operands], node.attrs, node.regions)
    except NufuncError as error:
        return str(error)
    if tuple(types) != tuple(r.type for r in node.results):
        return f"results have types {[str(r.type) for r in node.results]}, but inference gives {[str(t) for t in types]}"
    # what a transform makes inside a traced function is pure already
    allowed = {"traced": ("traced", "pure"), "grouped": ("pure",) if record.kind == "fused" else ("grouped",)}
    for region in node.regions:
        if region.stage not in allowed.get(stage, (stage,)):
            return f"region @{region.name} is in stage {region.stage}, which a {node.prim} in stage {stage} cannot have"
        if region.updates and stage != "traced":
            return f"region @{region.name} has updates"
    return None


def _is_attr(value: object) -> bool:
    import numpy as np

    if isinstance(value, tuple):
        return all(_is_attr(v) for v in value)
    return value is None or type(value) in (bool, int, float, complex, str) or isinstance(value, np.dtype)


def _after(after: str) -> str:
    return f" (after pass {after})" if after else ""


def _report(graph: Graph, index: int, problem: str, after: str) -> str:
    from nufunc.ir.text import Printer

    printer = Printer(graph)
    lines = [f"@{graph.name}: {problem}{_after(after)}"]
    for i in range(max(0, index - 3), min(len(graph.nodes), index + 3)):
        lines.append(("  -> " if i == index else "     ") + printer.node_line(graph.nodes[i]))
    return "\n".join(lines)

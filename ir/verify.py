"""The verifier: scope, types, attributes, regions and the legality table of each stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.errors import Location, NufuncError, VerifyError
from nufunc.ir.graph import STAGES, Graph, Node, Value
from nufunc.ir.prims.custom import Rule
from nufunc.ir.prims.host import Host
from nufunc.ir.text import Printer
from nufunc.ir.types import ArrayType, TapeType, is_supported, type_of

_ALL_PURE = ("elementwise", "reduce", "layout", "index", "library", "create", "control", "custom", "host", "derived")
_WITH_REGIONS = ("control", "derived", "fused")
_SHOWN = 3  # neighbours on each side of a node in a message

# The kinds of primitives that a stage allows. Below the top level of a grouped graph, fused regions are pure.
LEGAL_KINDS: dict[str, tuple[str, ...]] = {
    "traced": (*_ALL_PURE, "view", "write"),
    "pure": _ALL_PURE,
    "grouped": ("fused", "library", "control", "host", "derived", "index", "layout"),
}

# The stages of a region in a graph of each stage: what a transform makes inside a traced function is pure
# already.
LEGAL_REGIONS: dict[str, tuple[str, ...]] = {
    "traced": ("traced", "pure"),
    "pure": ("pure",),
    "grouped": ("grouped",),
}


def verify(graph: Graph, after: str = "") -> Graph:
    """The graph itself, if it is legal; else VerifyError showing the node, its neighbours and the pass
    (`after`)."""
    if graph.stage not in STAGES:
        raise VerifyError(f"unknown stage {graph.stage!r}{_after(after)}")
    defined: set[Value] = set()
    for k, value in enumerate(graph.params):
        _check_definition(graph, value, defined, f"parameter {k}", after)
    for k, (value, array) in enumerate(graph.consts):
        _check_definition(graph, value, defined, f"constant {k}", after)
        if type_of(array) != value.type:
            _fail(graph, f"constant {k} of type {value.type} holds an array of type {type_of(array)}", after)
    for index, node in enumerate(graph.nodes):
        problem = _problem(node, defined, graph.stage)
        if problem:
            _fail(graph, problem, after, index)
        for region in node.regions:
            verify(region, after)
        for k, value in enumerate(node.results):
            _check_definition(graph, value, defined, f"result {k} of {node.prim}", after, index)
    for k, value in enumerate(graph.outputs):
        if value not in defined:
            _fail(graph, f"output {k} is not defined in the graph", after, len(graph.nodes))
    problem = _updates_problem(graph)
    if problem:
        _fail(graph, problem, after, len(graph.nodes))
    return graph


def _updates_problem(graph: Graph) -> str | None:
    if graph.updates and graph.stage == "traced":
        return "a traced graph has writes, not updates"
    if len(graph.updates) > len(graph.outputs):
        return f"{len(graph.updates)} updates, but {len(graph.outputs)} outputs"
    if len(set(graph.updates)) != len(graph.updates):
        return f"updates {graph.updates} name a parameter twice"
    first = len(graph.outputs) - len(graph.updates)
    for k, index in enumerate(graph.updates):
        if not 0 <= index < len(graph.params):
            return f"update {k} is of parameter {index}, which does not exist"
        param, output = graph.params[index].type, graph.outputs[first + k].type
        if param != output:
            return f"update {k} gives {output} to parameter {index} of type {param}"
    return None


def _check_definition(
    graph: Graph, value: Value, defined: set[Value], what: str, after: str, index: int | None = None
) -> None:
    if value in defined:
        _fail(graph, f"{what} is defined a second time", after, index)
    type = value.type
    known = isinstance(type, TapeType) or is_supported(type.dtype)
    if not known or any(extent < 0 for extent in type.shape):
        _fail(graph, f"{what} has an impossible type: {type.dtype} of shape {type.shape}", after, index)
    defined.add(value)


def _problem(node: Node, defined: set[Value], stage: str) -> str | None:
    """What is wrong with a node in a graph of this stage, apart from the insides of its regions."""
    record = primitive.all_primitives().get(node.prim)
    if record is None:
        return f"there is no primitive {node.prim!r}"
    if record.kind not in LEGAL_KINDS[stage]:
        return f"{node.prim} ({record.kind}) is not allowed in stage {stage}"
    for k, operand in enumerate(node.operands):
        if operand not in defined:
            return f"operand {k} is used before it is defined"
    if set(node.attrs) != set(record.attrs):
        return f"attributes are {sorted(node.attrs)}, not {sorted(record.attrs)}"
    bad = next((k for k, v in node.attrs.items() if not _is_attr(v)), None)
    if bad is not None:
        return f"attribute {bad} is {node.attrs[bad]!r}, which cannot be printed"
    if node.regions and record.kind not in _WITH_REGIONS:
        return f"{node.prim} takes no regions"
    legal = ("pure",) if record.kind == "fused" else LEGAL_REGIONS[stage]
    for region in node.regions:
        if region.stage not in legal:
            return f"region @{region.name} is {region.stage}, which a {node.prim} in stage {stage} cannot have"
        if region.updates:
            return f"region @{region.name} has updates"
    return _type_problem(node, record)


def _type_problem(node: Node, record: primitive.Primitive) -> str | None:
    try:
        types: Sequence[ArrayType] = record.infer([o.type for o in node.operands], node.attrs, node.regions)
    except NufuncError as error:
        return str(error)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        # inference takes the number of operands and the kinds of attributes as given
        return f"attributes or operands that {node.prim} does not take ({type(error).__name__}: {error})"
    if tuple(types) != tuple(r.type for r in node.results):
        found, wanted = ", ".join(str(r.type) for r in node.results), ", ".join(map(str, types))
        return f"results have types ({found}), but inference gives ({wanted})"
    return None


def _is_attr(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_attr(v) for v in value)
    return value is None or type(value) in (bool, int, float, complex, str) or isinstance(value, np.dtype | Rule | Host)


def _after(after: str) -> str:
    return f" (after pass {after})" if after else ""


def _fail(graph: Graph, problem: str, after: str, index: int | None = None) -> None:
    """Raise, with the node of this index among its neighbours (the number of nodes: the return)."""
    printer = Printer(graph, lenient=True)
    lines = [f"@{graph.name}: {problem}{_after(after)}"]
    loc: Location | None = None
    if index is not None:
        for i in range(max(0, index - _SHOWN), min(index + _SHOWN, len(graph.nodes)) + 1):
            if i < len(graph.nodes):
                line = printer.node_head(graph.nodes[i])
            else:
                line = f"return {', '.join(map(printer.name_of, graph.outputs))}".rstrip()
            lines.append(("  -> " if i == index else "     ") + line)
        loc = graph.nodes[index].loc if index < len(graph.nodes) else None
    raise VerifyError("\n".join(lines), loc)

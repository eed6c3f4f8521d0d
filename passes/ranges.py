"""Indices that are known to be inside: what the counter of a loop can be decides comparisons and tests of bounds.

The index of a loop of known length runs through an iota. Intervals of integers are followed from there through
arithmetic, into the bodies of loops and branches. A comparison that they decide becomes a constant, and a gather or a
scatter whose indices cannot be outside loses its test. Without tests a plan cannot fail, so that it may write its
arguments while it runs, instead of a copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import TapeType

Range = tuple[int, int]  # the smallest and the largest that any element may be
Ranges = Mapping[Value, Range]

_INDEXED = {"gather": 1, "scatter_set": 2, "scatter_add": 2}  # -> the number of operands before the indices
_SAME = frozenset(("reshape", "transpose", "broadcast", "slice", "flip", "gather", "dynamic_slice", "stop_gradient"))


def without_tests(graph: Graph) -> Graph:
    """The graph (pure) without the tests of bounds and the comparisons that cannot but have one result."""
    if not any(_tests(n) for n in graph.walk()):
        return graph
    return _followed(graph, {})


def _tests(node: Node) -> bool:
    return node.prim in _INDEXED and node.attrs["mode"] == "error"


def _followed(graph: Graph, params: Ranges) -> Graph:
    """The graph, given what its parameters can be."""
    ranges = {**params, **{v: _extent(array) for v, array in graph.consts if _is_integer(v) and array.size}}
    b = Builder(graph.name, graph.stage)
    env: dict[Value, Value] = {v: v for v in (*graph.params, *(v for v, _ in graph.consts))}
    for node in graph.nodes:
        known = [ranges.get(o) for o in node.operands]
        found = _range_of(node, known) if len(node.results) == 1 and _is_integer(node.result) else None
        if found is not None:
            ranges[node.results[0]] = found
        operands = [env[o] for o in node.operands]
        with b.at(node.loc):
            if found is not None and found[0] == found[1] and node.result.dtype.kind == "b":
                results: Sequence[Value] = (b.filled(bool(found[0]), node.result.type),)
            elif node.regions:
                regions = [_followed(r, _given(node, r, known)) for r in node.regions]
                results = b.emit(node.prim, operands, node.attrs, regions)
            elif _tests(node) and _is_inside(node, known):
                results = b.emit(node.prim, operands, {**node.attrs, "mode": "clip"})
            else:
                results = b.copy_node(node, operands)
        env.update(zip(node.results, results, strict=True))
    return graph.replace(nodes=b.nodes, outputs=[env[o] for o in graph.outputs], consts=[*graph.consts, *b.consts])


def _is_integer(value: Value) -> bool:
    return not isinstance(value.type, TapeType) and value.dtype.kind in "iub"


def _extent(array: np.ndarray) -> Range:
    return int(array.min()), int(array.max())


def _given(node: Node, region: Graph, known: Sequence[Range | None]) -> Ranges:
    """What the parameters of a region can be: those that stand for operands, or for their rows."""
    match node.prim:
        case "scan":
            first, count = node.attrs["num_consts"], node.attrs["num_carry"]
            known = [*known[:first], *([None] * count), *known[first + count :]]
        case "map" | "checkpoint":
            pass
        case "cond":
            known = known[1:]
        case _:
            return {}
    pairs = zip(region.params, known, strict=True)
    return {p: r for p, r in pairs if r is not None}


def _is_inside(node: Node, known: Sequence[Range | None]) -> bool:
    shape, indices = node.operands[0].shape, known[_INDEXED[node.prim] :]
    extents = (shape[a] for a in node.attrs["axes"])
    return all(r is not None and r[0] >= 0 and r[1] < n for r, n in zip(indices, extents, strict=True))


def _range_of(node: Node, known: Sequence[Range | None]) -> Range | None:
    """What the result of a node can be, where that is known and its type holds it."""
    if not node.result.type.size:
        return None
    found: Range | None = None
    if node.prim == "iota":
        found = 0, node.attrs["shape"][node.attrs["axis"]] - 1
    elif node.prim == "full":
        found = (int(node.attrs["value"]),) * 2
    elif node.prim in _SAME:
        found = known[0]
    elif node.prim == "convert" and _is_integer(node.operands[0]):
        found = known[0] if node.result.dtype.kind != "b" else None
    elif node.prim == "select":
        found = _selected(known)
    elif node.prim == "mod" and _is_integer(node.operands[0]):
        found = _mod(*known)
    elif node.prim in _RULES and all(r is not None for r in known) and _is_integer(node.operands[0]):
        found = _RULES[node.prim](*known)
    if found is None or node.result.dtype.kind == "b":
        return found
    limits = np.iinfo(node.result.dtype)
    return found if limits.min <= found[0] and found[1] <= limits.max else None


def _selected(known: Sequence[Range | None]) -> Range | None:
    condition, yes, no = known
    if condition is not None and condition[0] == condition[1]:
        return yes if condition[0] else no
    return None if yes is None or no is None else (min(yes[0], no[0]), max(yes[1], no[1]))


def _product(a: Range, b: Range) -> Range:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _floor_div(a: Range, b: Range) -> Range | None:
    if b[0] <= 0:
        return None
    corners = [x // y for x in a for y in b]
    return min(corners), max(corners)


def _mod(a: Range | None, b: Range | None) -> Range | None:
    if b is None or b[0] <= 0:
        return None
    return a if a is not None and a[0] >= 0 and a[1] < b[0] else (0, b[1] - 1)


def _truth(yes: bool, no: bool) -> Range:
    """What a comparison gives that always holds, or never, or neither."""
    return int(yes), int(not no)


_RULES: dict[str, Callable[..., Range | None]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _product,
    "neg": lambda a: (-a[1], -a[0]),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "floor_div": _floor_div,
    "lt": lambda a, b: _truth(a[1] < b[0], a[0] >= b[1]),
    "le": lambda a, b: _truth(a[1] <= b[0], a[0] > b[1]),
    "gt": lambda a, b: _truth(a[0] > b[1], a[1] <= b[0]),
    "ge": lambda a, b: _truth(a[0] >= b[1], a[1] < b[0]),
    "eq": lambda a, b: _truth(a[0] == a[1] == b[0] == b[1], a[1] < b[0] or b[1] < a[0]),
    "ne": lambda a, b: _truth(a[1] < b[0] or b[1] < a[0], a[0] == a[1] == b[0] == b[1]),
}

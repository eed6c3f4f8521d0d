"""Maxima that a function does not depend on: the shifts of log-sum-exp and softmax, whose derivatives cancel.

Note [Shifts]
log(sum(exp(x - m))) + m is the same for every m; m = max(x) only keeps exp in range. Its derivative is a sum of terms
that cancel, after passes over memory that find where the maximum is attained and how often. So each maximum of a graph
that is to be differentiated is followed forward. A value that depends on m is v + a m, with a number a, or v exp(a m),
where v does not; with a = 0 it does not depend on m. Where nothing but such values is left, m has no derivative.
This is algebra for any v and any m, and says nothing about rounding: the result of a function is computed as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import kind_of

_EXTREMES = ("reduce_max", "reduce_min")


@dataclass(frozen=True)
class _Moves:
    """v + factor m, or with `grows` v exp(factor m). `axes`: where the axes of m with more than one element lie."""

    grows: bool
    factor: float
    axes: tuple[int, ...]


class _Lost(Exception):
    """The dependence on m has another form."""


def shifts(graph: Graph) -> frozenset[Value]:
    """The maxima and minima of a graph that its outputs do not depend on."""
    if "shifts" not in graph.facts:
        places = [k for k, n in enumerate(graph.nodes) if n.prim in _EXTREMES and kind_of(n.result.dtype) == "f"]
        graph.facts["shifts"] = frozenset(graph.nodes[k].result for k in places if _cancels(graph, k))
    found: frozenset[Value] = graph.facts["shifts"]
    return found


def _cancels(graph: Graph, place: int) -> bool:
    m = graph.nodes[place].result
    moves = {m: _Moves(False, 1.0, tuple(k for k, n in enumerate(m.shape) if n > 1))}
    numbers: dict[Value, float] = {}
    try:
        for node in graph.nodes:
            if node.prim == "full" and isinstance(node.attrs["value"], int | float):
                numbers[node.result] = node.attrs["value"]
            elif node.prim == "broadcast" and node.operands[0] in numbers:
                numbers[node.result] = numbers[node.operands[0]]
            elif any(o in moves for o in node.operands):
                found = _through(node, moves, numbers)
                if found.factor:
                    moves[node.result] = found
    except _Lost:
        return False
    return not any(o in moves for o in graph.outputs)


def _through(node: Node, moves: Mapping[Value, _Moves], numbers: Mapping[Value, float]) -> _Moves:
    if node.prim in _PLACES:
        return _PLACES[node.prim](node, moves[node.operands[0]])
    rule = _RULES.get(node.prim)
    seen = {moves[o].axes for o in node.operands if o in moves}
    if rule is None or len(seen) != 1:
        raise _Lost
    still = _Moves(False, 0.0, seen.pop())
    return rule([moves.get(o, still) for o in node.operands], [numbers.get(o) for o in node.operands])


# -- where m lies


def _broadcast(node: Node, x: _Moves) -> _Moves:
    return replace(x, axes=tuple(node.attrs["dims"][a] for a in x.axes))


def _transpose(node: Node, x: _Moves) -> _Moves:
    return replace(x, axes=tuple(node.attrs["perm"].index(a) for a in x.axes))


def _reshape(node: Node, x: _Moves) -> _Moves:
    """Axes of one element come and go."""
    before, after = ([k for k, n in enumerate(v.shape) if n > 1] for v in (node.operands[0], node.result))
    if [node.operands[0].shape[k] for k in before] != [node.result.shape[k] for k in after]:
        raise _Lost
    return replace(x, axes=tuple(after[before.index(a)] for a in x.axes))


def _reduce(node: Node, x: _Moves) -> _Moves:
    axes, shape = node.attrs["axes"], node.operands[0].shape
    if any(a in axes for a in x.axes):
        raise _Lost
    kept = [k for k in range(len(shape)) if k not in axes]
    factor = x.factor
    if node.prim == "reduce_sum" and not x.grows:
        for axis in axes:
            factor *= shape[axis]
    return _Moves(x.grows, factor, tuple(kept.index(a) for a in x.axes))


# -- what becomes of v


def _add(x: Sequence[_Moves], sign: int) -> _Moves:
    a, b = x
    if not a.grows and not b.grows:
        return replace(a, factor=a.factor + sign * b.factor)
    if a == b:
        return a
    raise _Lost


def _product(x: Sequence[_Moves], numbers: Sequence[float | None], sign: int) -> _Moves:
    """A product, or with sign -1 a quotient."""
    a, b = x
    growing = [y.grows or not y.factor for y in x]
    if all(growing):
        return _Moves(True, a.factor + sign * b.factor, a.axes)
    if not b.factor and numbers[1]:
        return replace(a, factor=a.factor * float(numbers[1]) ** sign)
    if not a.factor and numbers[0] is not None and sign == 1:
        return replace(b, factor=b.factor * float(numbers[0]))
    raise _Lost


def _exp(x: Sequence[_Moves], numbers: Sequence[float | None]) -> _Moves:
    if x[0].grows:
        raise _Lost
    return replace(x[0], grows=True)


def _log(x: Sequence[_Moves], numbers: Sequence[float | None]) -> _Moves:
    if not x[0].grows:
        raise _Lost
    return replace(x[0], grows=False)


_PLACES: dict[str, Callable[[Node, _Moves], _Moves]] = {
    "broadcast": _broadcast, "transpose": _transpose, "reshape": _reshape,
    "reduce_sum": _reduce, "reduce_max": _reduce, "reduce_min": _reduce,
}  # fmt: skip
_RULES: dict[str, Callable[[Sequence[_Moves], Sequence[float | None]], _Moves]] = {
    "add": lambda x, numbers: _add(x, 1),
    "sub": lambda x, numbers: _add(x, -1),
    "mul": lambda x, numbers: _product(x, numbers, 1),
    "div": lambda x, numbers: _product(x, numbers, -1),
    "neg": lambda x, numbers: x[0] if x[0].grows else replace(x[0], factor=-x[0].factor),
    "exp": _exp,
    "log": _log,
}  # fmt: skip

"""Pairs: arrays over all pairs (i, j) of one set of things that are the same, or the negative, for (j, i); their sums.

Distances, kernels and forces are such arrays, and a gradient sums them over i and over j. A sum over i is then that
over j, up to its sign, and needs no pass of its own. Whether an array is one is read off the nodes that make it: every
value has a number, equal for values that compute the same, and another for what it is with the two axes exchanged.
Signs are kept beside the numbers, so that x[i] - x[j] is the negative of its own exchange.

Where rows are summed anyway, a sum over everything is the sum of row sums, so that one kernel makes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import kind_of

Signed = tuple[int, int]  # sign and number

_ODD = frozenset("sin tan tanh sinh asin atan asinh atanh erf cbrt sign convert stop_gradient real imag conj".split())
_EVEN = frozenset(("abs", "cos", "cosh"))


def sums_of_pairs(graph: Graph) -> Graph:
    """The same graph with sums over the first axis of such pairs taken over the second, and sums over everything by
    rows where rows are summed; regions are left to whoever visits them."""
    sums = [n for n in graph.nodes if n.prim == "reduce_sum"]
    if len({n.attrs["axes"] for n in sums}) < 2:
        return graph
    signs = _signs(graph, sums)
    rows = {n.operands[0].shape for n in sums if n.attrs["axes"] == (n.operands[0].ndim - 1,) or n in signs}
    whole = {n for n in sums if _is_whole(n) and n.operands[0].shape in rows}
    if not signs and not whole:
        return graph
    b = Builder(graph.name, graph.stage)
    env: dict[Value, Value] = {v: v for v in (*graph.params, *(v for v, _ in graph.consts))}
    by_rows: dict[Value, Value] = {}

    def row_sums(x: Value) -> Value:
        if x not in by_rows:
            by_rows[x] = b.summed(x, (x.ndim - 1,))
        return by_rows[x]

    for node in graph.nodes:
        operands = [env[o] for o in node.operands]
        with b.at(node.loc):
            if node in signs:
                made = row_sums(operands[0])
                env[node.result] = b.neg(made) if signs[node] < 0 else made
            elif node in whole:
                env[node.result] = b.summed(row_sums(operands[0]), range(operands[0].ndim - 1))
            elif node.prim == "reduce_sum" and node.attrs["axes"] == (operands[0].ndim - 1,):
                env[node.result] = row_sums(operands[0])
            else:
                env.update(zip(node.results, b.copy_node(node, operands), strict=True))
    return graph.replace(nodes=b.nodes, outputs=[env[o] for o in graph.outputs])


def _is_whole(node: Node) -> bool:
    x = node.operands[0]
    return x.ndim > 1 and kind_of(x.dtype) == "f" and len(node.attrs["axes"]) == x.ndim


def _signs(graph: Graph, sums: Sequence[Node]) -> dict[Node, int]:
    """The sums over the last axis but one of pairs, each with the sign that an exchange has."""
    candidates = [n for n in sums if _is_square(n.operands[0]) and n.attrs["axes"] == (n.operands[0].ndim - 2,)]
    if not candidates:
        return {}
    numbers = _Numbers(graph)
    found = {n: numbers.exchanged(n.operands[0]) for n in candidates}
    return {n: sign for n, sign in found.items() if sign}


def _is_square(value: Value) -> bool:
    return value.ndim > 1 and value.shape[-1] == value.shape[-2] > 1 and kind_of(value.dtype) == "f"


class _Numbers:
    """Numbers of the square values of a graph, as they are and with their last two axes exchanged."""

    def __init__(self, graph: Graph) -> None:
        self.known: dict[Any, int] = {}
        self.of: dict[Value, tuple[Signed, Signed]] = {}
        for node in graph.nodes:
            if len(node.results) == 1 and node.result.ndim > 1 and node.result.shape[-1] == node.result.shape[-2]:
                self.of[node.result] = self._node(node)

    def exchanged(self, value: Value) -> int:
        """1 or -1 where the value is that times its own exchange, else 0."""
        if value not in self.of:
            return 0
        (sign, number), (other_sign, other) = self.of[value]
        return sign * other_sign if number == other else 0

    def _number(self, *key: Any) -> int:
        return self.known.setdefault(key, len(self.known))

    def _node(self, node: Node) -> tuple[Signed, Signed]:
        last = node.result.ndim - 1
        swap = {last: last - 1, last - 1: last}
        if node.prim == "full":
            same = (1, self._number("full", node.result.type, repr(node.attrs["value"])))
            return same, same
        if node.prim == "iota":
            axis = node.attrs["axis"]
            one, other = (self._number("iota", node.result.type, k) for k in (axis, swap.get(axis, axis)))
            return (1, one), (1, other)
        if node.prim in ("broadcast", "transpose"):
            x = node.operands[0]
            perm = node.attrs.get("perm", ())
            places = node.attrs["dims"] if node.prim == "broadcast" else tuple(perm.index(k) for k in range(x.ndim))
            return self._placed(x, places, swap)
        if primitive.get(node.prim).kind == "elementwise":
            pairs = [self._operand(o, swap) for o in node.operands]
            return self._elementwise(node, [p[0] for p in pairs]), self._elementwise(node, [p[1] for p in pairs])
        return self._placed(node.result, tuple(range(last + 1)), swap)

    def _operand(self, value: Value, swap: dict[int, int]) -> tuple[Signed, Signed]:
        if value not in self.of:  # a parameter or a constant
            self.of[value] = self._placed(value, tuple(range(value.ndim)), swap)
        return self.of[value]

    def _placed(self, source: Value, places: tuple[int, ...], swap: dict[int, int]) -> tuple[Signed, Signed]:
        """What has the axes of `source` at these places."""
        exchanged = tuple(swap.get(k, k) for k in places)
        return (1, self._number("at", source, places)), (1, self._number("at", source, exchanged))

    def _elementwise(self, node: Node, operands: Sequence[Signed]) -> Signed:
        prim, attrs = node.prim, primitive.attr_tuple(node.attrs)
        signs, numbers = [s for s, _ in operands], [n for _, n in operands]
        if prim == "neg":
            return -signs[0], numbers[0]
        power = node.attrs["y"] if prim == "integer_pow" else None
        if prim in _EVEN or (power is not None and power % 2 == 0):
            return 1, self._number(prim, attrs, numbers[0])
        if prim in _ODD or power is not None:
            return signs[0], self._number(prim, attrs, numbers[0])
        if prim in ("mul", "div"):
            return signs[0] * signs[1], self._number(prim, *(sorted(numbers) if prim == "mul" else numbers))
        if prim in ("add", "sub"):
            second = signs[1] if prim == "add" else -signs[1]
            terms = sorted([(numbers[0], signs[0]), (numbers[1], second)])
            first = terms[0][1]
            return first, self._number("add", *((n, s * first) for n, s in terms))
        terms = list(operands)
        return 1, self._number(prim, attrs, *(sorted(terms) if primitive.get(prim).commutative else terms))

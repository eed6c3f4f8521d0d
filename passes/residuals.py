"""Residuals: which of the known values that a linear graph reads are stored, and which are computed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.graph import Graph, Node, Value

_DEPTH = 3  # of an expression that is computed again


@dataclass
class Residuals:
    """What crosses from the known graph to the unknown one.

    `stored[i]` of the known graph is handed over as the parameter `params[i]` of the unknown one, which
    begins with `consts` and `nodes`.
    """

    stored: list[Value] = field(default_factory=list)
    params: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    consts: list[tuple[Value, np.ndarray]] = field(default_factory=list)


def choose_residuals(known: Graph, wanted: Mapping[Value, Value], free: Iterable[Value]) -> Residuals:
    """Decide on each wanted value of the known graph; `wanted` gives the name that the unknown graph calls it
    by.

    Constants are shared. Values without operands (`full`, `iota`), cheap functions of values that cost
    nothing, and layout operations on a smaller or equal operand are computed again; `free` are the values
    whose storing costs nothing.
    """
    return _Chooser(known, wanted, free).run()


class _Chooser:
    def __init__(self, known: Graph, wanted: Mapping[Value, Value], free: Iterable[Value]) -> None:
        self.arrays = dict(known.consts)
        self.producers = {r: node for node in known.nodes for r in node.results}
        self.order = {r: i for i, node in enumerate(known.nodes) for r in node.results}
        self.wanted = wanted
        self.at_hand = {*free, *wanted, *self.arrays}
        self.copies: dict[Value, Value] = {}
        self.out = Residuals()

    def run(self) -> Residuals:
        # In the order of the known graph a wanted value can be computed from the wanted ones before it.
        for value in sorted(self.wanted, key=lambda v: self.order.get(v, -1)):
            self.copy(value)
        return self.out

    def copy(self, value: Value) -> Value:
        """The value in the unknown graph."""
        if value in self.copies:
            return self.copies[value]
        copy = self.copies[value] = self.wanted.get(value) or Value(value.type, value.hint)
        if value in self.arrays:
            self.out.consts.append((copy, self.arrays[value]))
        elif self.is_recomputed(value, _DEPTH):
            node = self.producers[value]
            operands = [self.copy(o) for o in node.operands]
            self.out.nodes.append(Node(node.prim, operands, node.attrs, (), (copy,), node.loc))
        else:
            self.out.stored.append(value)
            self.out.params.append(copy)
        return copy

    def is_recomputed(self, value: Value, depth: int) -> bool:
        node = self.producers.get(value)
        if node is None or node.regions or len(node.results) != 1 or not depth:
            return False
        record = primitive.get(node.prim)
        if record.kind == "layout" and len(node.operands) == 1:
            (operand,) = node.operands
            return operand.type.nbytes <= value.type.nbytes or self.is_free(operand, depth - 1)
        return record.cheap and all(self.is_free(o, depth - 1) for o in node.operands)

    def is_free(self, value: Value, depth: int) -> bool:
        """Whether the unknown graph can have this value at no cost of memory."""
        node = self.producers.get(value)
        if node is not None and not node.operands:
            return True
        return value in self.at_hand or self.is_recomputed(value, depth)

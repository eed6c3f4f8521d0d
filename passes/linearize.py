"""Linearisation: the derivative graph split into what depends on primals alone and what is linear in the
tangents.

The split is a partial evaluation in which values are known (computed from the primal parameters) or unknown
(they depend on tangents). A known value that an unknown node reads is a residual; it crosses from the one
graph to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import is_inexact
from nufunc.passes import control_split
from nufunc.passes.control_parts import chosen, dependent_results, derived_name, present, rejected
from nufunc.passes.dead_code import eliminate_dead_code
from nufunc.passes.jvp import check_which, differentiate
from nufunc.passes.residuals import choose_residuals
from nufunc.passes.simplify import simplify


class Linearized(NamedTuple):
    """A function and its derivative at a point, as two graphs that share residuals.

    `primal`: the parameters -> outputs, then residuals. `linear`: residuals, then tangents of the chosen
    parameters -> tangents of the outputs of floating or complex dtype.
    """

    primal: Graph
    linear: Graph
    num_residuals: int


class Split(NamedTuple):
    """A graph in two: `known` (known parameters -> known outputs, residuals), `unknown` (residuals, unknown
    parameters -> unknown outputs); `unknown_outputs` tells which outputs of the graph the latter gives."""

    known: Graph
    unknown: Graph
    unknown_outputs: tuple[bool, ...]
    num_residuals: int

    @property
    def residuals(self) -> tuple[Value, ...]:
        """The outputs of `known` that are residuals."""
        return self.known.outputs[len(self.known.outputs) - self.num_residuals :]


def linearize(graph: Graph, which: Sequence[bool]) -> Linearized:
    """Linearise with respect to the parameters with a True in `which`."""
    check_which(graph, which)
    region = differentiate(graph, which)
    inexact = [is_inexact(o.dtype) for o in graph.outputs]
    tangents = region.extras(inexact, region.outputs)
    tangent_params = present(region.extra_params)
    joint = region.close([*region.params, *tangent_params], [*region.outputs, *tangents])
    split = split_graph(
        simplify(joint),  # equal values become one residual
        [False] * len(region.params) + [True] * len(tangent_params),
        [False] * len(graph.outputs) + [True] * len(tangents),
        [True] * (len(joint.params) + len(joint.outputs)),
    )
    return Linearized(
        split.known.replace(name=derived_name(graph.name, "primal")),
        split.unknown.replace(name=derived_name(graph.name, "linear")),
        split.num_residuals,
    )


def split_graph(
    graph: Graph, unknown: Sequence[bool], forced: Sequence[bool] = (), free: Sequence[bool] = (), whole: bool = False
) -> Split:
    """Split a graph whose flagged parameters are unknown.

    Outputs flagged in `forced` count as unknown in any case. `free` says of the parameters and then the
    outputs which cost nothing as residuals; by default all parameters. `whole`: control nodes all of whose results
    are unknown stay as they are, with what is computed in them from known values, as transposition takes them.
    """
    graph = eliminate_dead_code(graph)
    splitter = Splitter(graph, unknown, whole)
    for node in graph.nodes:
        with splitter.kb.at(node.loc), splitter.ub.at(node.loc):
            _split_node(splitter, node)
    none = [False] * len(graph.outputs)
    return splitter.finish(graph, forced or none, free or [*[True] * len(graph.params), *none])


def _split_node(s: Splitter, node: Node) -> None:
    """The one place that decides on which side a node goes."""
    flags = [s.is_unknown(o) for o in node.operands]
    if not any(flags):
        s.set_known(node.results, s.kb.copy_node(node, [s.known(o) for o in node.operands]))
    elif node.prim in control_split.RULES:
        control_split.RULES[node.prim](s, node, flags)
    else:
        s.keep_unknown(node)


class Splitter:
    """The two graphs under construction; `kb` builds the known one, `ub` the unknown one."""

    def __init__(self, graph: Graph, unknown: Sequence[bool], whole: bool = False) -> None:
        self.whole = whole
        self.kb = Builder(derived_name(graph.name, "known"))
        self.ub = Builder(derived_name(graph.name, "unknown"))
        self._known: dict[Value, Value] = {}  # value of the graph -> value of kb
        self._unknown: dict[Value, Value] = {}  # value of the graph -> value of ub
        self._carried: dict[Value, Value] = {}  # value of kb -> its copy in ub
        for param, u in zip(graph.params, unknown, strict=True):
            (self._unknown if u else self._known)[param] = (self.ub if u else self.kb).param(
                param.type, param.hint
            )
        self._unknown_params = list(self.ub.params)
        for value, array in graph.consts:
            self._known[value] = Value(value.type, value.hint)
            self.kb.consts.append((self._known[value], array))

    def split(
        self, graph: Graph, unknown: Sequence[bool], forced: Sequence[bool] = (), free: Sequence[bool] = ()
    ) -> Split:
        """Split a region."""
        return split_graph(graph, unknown, forced, free, self.whole)

    def stays_whole(self, node: Node, flags: Sequence[bool]) -> bool:
        """Whether a control node with these unknown operands goes to the unknown side with all of its regions."""
        return self.whole and all(dependent_results(node, flags))

    # -- reading and setting values of the graph that is split

    def is_unknown(self, value: Value) -> bool:
        return value in self._unknown

    def known(self, value: Value) -> Value:
        """The value in the known graph."""
        return self._known[value]

    def unknown(self, value: Value) -> Value:
        """The value in the unknown graph; a known one becomes a residual."""
        return self._unknown[value] if value in self._unknown else self.residual(self._known[value])

    def set_known(self, values: Sequence[Value], new: Sequence[Value]) -> None:
        self._known.update(zip(values, new, strict=True))

    def set_unknown(self, values: Sequence[Value], new: Sequence[Value]) -> None:
        self._unknown.update(zip(values, new, strict=True))

    def residual(self, value: Value) -> Value:
        """The copy in the unknown graph of a value of the known one."""
        if value not in self._carried:
            self._carried[value] = Value(value.type, value.hint)
        return self._carried[value]

    def keep_unknown(self, node: Node) -> None:
        """Put the whole node into the unknown graph."""
        self.set_unknown(node.results, self.ub.copy_node(node, [self.unknown(o) for o in node.operands]))

    # -- the end

    def finish(self, graph: Graph, forced: Sequence[bool], free: Sequence[bool]) -> Split:
        flags = [f or self.is_unknown(o) for o, f in zip(graph.outputs, forced, strict=True)]
        unknown_outputs = [self.unknown(o) for o in chosen(graph.outputs, flags)]
        known_outputs = [self.known(o) for o in rejected(graph.outputs, flags)]
        candidates = [*graph.params, *graph.outputs]
        at_hand = [
            self.known(v) for v, f in zip(candidates, free, strict=True) if f and not self.is_unknown(v)
        ]
        linear = eliminate_dead_code(self.ub.build(unknown_outputs))
        read = {o for node in linear.nodes for o in node.operands} | set(unknown_outputs)
        wanted = {value: copy for value, copy in self._carried.items() if copy in read}
        chosen_residuals = choose_residuals(self.kb.build(known_outputs), wanted, at_hand)
        linear = linear.replace(
            params=(*chosen_residuals.params, *self._unknown_params),
            consts=tuple(chosen_residuals.consts),
            nodes=(*chosen_residuals.nodes, *linear.nodes),
        )
        known = eliminate_dead_code(self.kb.build([*known_outputs, *chosen_residuals.stored]))
        return Split(known, linear, tuple(flags), len(chosen_residuals.stored))

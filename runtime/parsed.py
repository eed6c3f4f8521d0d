"""ParsedFunction: the text of a graph as a function again; what `nf.parse` returns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentTypeError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.text import parse_graph
from nufunc.ir.types import TapeType
from nufunc.ir.verify import verify
from nufunc.passes.functionalize import functionalize
from nufunc.passes.rewrite import rewritten
from nufunc.runtime.residuals import GraphFunction, register
from nufunc.runtime.selection import matching
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.trace import require
from nufunc.tracer.usercode import user_location

_HEADLINE = re.compile(r"\A\s*#.*\n")


def parse(text: str) -> ParsedFunction:
    """The function of one graph of any stage, with or without the headline of `nf.dump`."""
    traced = verify(parse_graph(_HEADLINE.sub("", text)), "parse")
    graph = ungrouped(functionalize(traced) if traced.stage == "traced" else traced)
    for k, param in enumerate(graph.params):
        if isinstance(param.type, TapeType):
            raise ArgumentTypeError(f"parse: parameter {k} of @{graph.name} is a {param.type}, which nobody can pass")
    leaf = tree.structure(0)
    count = len(graph.outputs) - len(graph.updates)
    return ParsedFunction(
        name=graph.name,
        graph=graph,
        residuals=(),
        argument=tree.structure((0,) * len(graph.params)),
        results=(leaf,) * count,
        scalars=(True,) * count,
        variadic=True,
        bare=count == 1,
    )


def ungrouped(graph: Graph) -> Graph:
    """The graph with what kernels hold in their place, so that passes may start with it."""
    if graph.stage != "grouped":
        return graph

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        return b.inline(node.regions[0], operands) if node.prim == "fused" else None

    return rewritten(graph.replace(stage="pure"), rule, ungrouped)


class ParsedFunction(GraphFunction):
    """A graph as a function of its parameters, which gives an array, or a tuple of them. Parameters that the graph
    writes in place are written to."""

    def _checked(self, args: tuple[Any, ...]) -> list[Array]:
        params = self.graph.params
        if len(args) != len(params):
            raise ArgumentTypeError(
                f"{self.name} takes {len(params)} arguments ({', '.join(str(p.type) for p in params)}), but got "
                f"{len(args)}",
                user_location(),
            )
        names = [f"argument {k}" for k in range(len(args))]
        return matching(args, [p.type for p in params], names, self.name)

    def _inlined(self, arrays: Sequence[Array]) -> list[Value]:
        trace = require()
        out = super()._inlined(arrays)
        count = len(out) - len(self.graph.updates)
        for k, value in zip(self.graph.updates, out[count:], strict=True):
            arrays[k][...] = trace.wrap(value)
        return out[:count]


register(ParsedFunction)

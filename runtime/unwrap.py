"""debug_unwrap: what a traced value is, and without compilation the array that it stands for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Value
from nufunc.ir.interpret import run
from nufunc.passes.functionalize import functionalize
from nufunc.passes.vmap import vmap
from nufunc.tracer.array import Array
from nufunc.tracer.levels import described
from nufunc.tracer.trace import Trace, require


def debug_unwrap(array: Any, *, recurse: bool = True) -> Any:
    """An array itself; of a traced value a read-only description: its type, the transforms around it, the user's line.

    With NUFUNC_NOJIT=1, where nothing is compiled, the array that it stands for: under vmap the whole batch. Without
    `recurse` the description names the innermost transform only.
    """
    if not isinstance(array, Array):
        return array
    trace = require(array)
    if recurse and os.environ.get("NUFUNC_NOJIT", "") not in ("", "0"):
        shown = _concrete(trace, trace.lift(array))
        if shown is not None:
            return shown
    return described(array, recurse)


def _concrete(trace: Trace, value: Value) -> np.ndarray | None:
    """What a value of a trace stands for, by running what has been traced so far; a batch of lanes under vmap. None
    within control flow, where there is no one value.
    """
    graph = _so_far(trace, [value])
    while trace.parent is not None:
        level, outer = trace.level, trace.parent
        captured = [array for array, _ in trace.captured.values()]
        if level is None or len(level.arrays) + len(captured) != len(graph.params):
            return None
        if level.size is not None:
            graph = vmap(graph, level.size, [*level.dims, *(None for _ in captured)], [0])
        around = _so_far(outer, [outer.lift(a) for a in (*level.arrays, *captured)])
        b = Builder("unwrapped")
        params = [b.param(p.type) for p in around.params]
        graph, trace = b.build(b.inline(graph, b.inline(around, params))), outer
    if any(p not in trace.concrete for p in trace.builder.params):
        return None
    (found,) = run(graph, [np.array(trace.concrete[p], p.dtype) for p in trace.builder.params])
    found.flags.writeable = False
    return found


def _so_far(trace: Trace, values: Sequence[Value]) -> Graph:
    """The pure graph of some values of a trace that is under way."""
    b = trace.builder
    pure = functionalize(Graph(b.params, b.nodes, values, consts=b.consts, stage="traced", name="unwrapped"))
    return pure.replace(outputs=pure.outputs[: len(values)], updates=())

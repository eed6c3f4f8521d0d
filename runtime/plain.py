"""What stands in for machine code when NUFUNC_NOJIT is set: readable loops (1), or NumPy node by node (graph)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.codegen.callspec import ArgSpec, CallSpec, ResultSpec
from nufunc.codegen.emit_text import run_grouped
from nufunc.ir.graph import Graph
from nufunc.ir.interpret import run
from nufunc.ir.types import is_half


class _Entry:
    """Has the methods of a native entry that calls need; every call takes the long way."""

    graph: Graph
    spec: CallSpec

    def fast(self, *args: Any) -> Any:
        return NotImplemented

    into = fast

    def slow(self, *args: Any) -> list[Any]:
        """The results for these inputs, in any memory layout."""
        arrays = [np.array(a, p.dtype, order="C") for a, p in zip(args, self.spec.args, strict=True)]
        out = self.run(arrays)
        return [o[()] if r.scalar else np.array(o) for o, r in zip(out, self.spec.results, strict=True)]

    def run(self, arrays: list[np.ndarray]) -> Sequence[np.ndarray]:
        raise NotImplementedError


class PlainEntry(_Entry):
    """A grouped graph run as readable Python loops, for debugging."""

    def __init__(self, grouped: Graph, spec: CallSpec) -> None:
        self.graph, self.spec = grouped, spec

    def run(self, arrays: list[np.ndarray]) -> Sequence[np.ndarray]:
        bits = [a.view(p.dtype) if is_half(a.dtype) else a for a, p in zip(arrays, self.graph.params, strict=True)]
        results = zip(run_grouped(self.graph, bits), self.spec.results, strict=True)
        return [np.asarray(o).view(r.dtype) if is_half(r.dtype) else o for o, r in results]


class GraphEntry(_Entry):
    """A simplified graph run by the interpreter of the IR: no code is generated, so that wrong numbers which are right
    here come from code generation.
    """

    def __init__(self, graph: Graph, args: Sequence[ArgSpec], results: Sequence[ResultSpec]) -> None:
        self.graph, self.spec = graph, CallSpec(tuple(args), tuple(results))

    def run(self, arrays: list[np.ndarray]) -> Sequence[np.ndarray]:
        return run(self.graph, arrays)

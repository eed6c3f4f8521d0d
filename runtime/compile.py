"""From a simplified graph to a native entry: grouping, code generation and the exceptions of its error sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nufunc.codegen.callspec import ArgSpec, ResultSpec
from nufunc.codegen.compile import compile_graph as generate
from nufunc.ir.graph import Graph
from nufunc.passes.fuse import fuse
from nufunc.runtime import pipeline
from nufunc.runtime.signatures import Input


def compile_graph(graph: Graph, inputs: Sequence[Input], scalars: Sequence[bool], name: str) -> Any:
    """The entry of a pure graph; `scalars` tells which outputs are handed back as NumPy scalars."""
    grouped = pipeline.checked("grouped", fuse(graph))
    args = [ArgSpec(s.type.shape, s.type.dtype, s.kind) for s in inputs]  # type: ignore[arg-type]
    results = [
        ResultSpec(o.shape, o.dtype, scalar and o.shape == ()) for o, scalar in zip(graph.outputs, scalars, strict=True)
    ]
    entry = generate(grouped, args, results, name)
    for stage, text in (("loops", "loops"), ("llvm", "llvm"), ("asm", "assembly")):
        pipeline.note(stage, getattr(entry, text))
    return entry

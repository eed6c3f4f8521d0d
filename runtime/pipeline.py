"""The one ordered list of steps from a traced function to an executable, with verification and recording of each.

A call passes through, in order:

    traced          the user's function, or the function inside a transform, as it was traced
    functionalized  views and writes removed
    tangents        a function with its derivative in a direction beside it
    linearized      the primal graph of a differentiated function, with its residuals as further outputs
    linear          its linear graph, from residuals and tangents to tangents
    transposed      the linear graph run backwards
    vmapped         a graph with a batch axis
    whole           everything inlined into the outermost graph, still traced
    pure            the outermost graph functionalized
    simplified      constants folded, equal and dead code removed, maps merged over which tapes go
    grouped         nodes gathered into fused groups
    loops           the loop nests of each group, as readable text; for a device its kernels
    device          for a device, the program: kernels, copies and calls of libraries over places in memory
    llvm            the LLVM module after optimisation
    asm             the machine code
    ptx             for a device, the kernels as PTX

The steps from `functionalized` to `vmapped` happen once for every transform of the chain, innermost first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from nufunc.ir.graph import Graph
from nufunc.ir.types import kind_of
from nufunc.passes import basis
from nufunc.passes.composites import opened, slimmed
from nufunc.passes.custom import expand
from nufunc.passes.functionalize import functionalize
from nufunc.passes.half import widened_halves, without_halves
from nufunc.passes.jvp import jvp
from nufunc.passes.linearize import linearize
from nufunc.passes.merge_maps import merge_maps
from nufunc.passes.ranges import without_tests
from nufunc.passes.recompute import inlined
from nufunc.passes.simplify import simplify
from nufunc.passes.transpose import transpose
from nufunc.passes.vmap import vmap
from nufunc.runtime import oracle

STAGES = (
    "traced", "functionalized", "tangents", "linearized", "linear", "transposed", "vmapped", "jacobian", "whole",
    "pure", "simplified", "grouped", "fusion", "loops", "device", "llvm", "asm", "ptx",
)  # fmt: skip


# Each pass with what it promises, see Note [What passes promise].
expand = oracle.tested(expand, oracle.same)
functionalize = oracle.tested(functionalize, oracle.functionalized)
inlined = oracle.tested(inlined, oracle.same)
jacobians = oracle.tested(basis.jacobian, oracle.jacobians)
jvp = oracle.tested(jvp, oracle.tangents)
linearize = oracle.tested(linearize, oracle.linearized)
merge_maps = oracle.tested(merge_maps, oracle.same)
opened = oracle.tested(opened, oracle.same)
simplify = oracle.tested(simplify, oracle.same)
slimmed = oracle.tested(slimmed, oracle.same)
transpose = oracle.tested(transpose, oracle.transposed)
vmap = oracle.tested(vmap, oracle.vmapped)
without_tests = oracle.tested(without_tests, oracle.same)


class Record:
    """The texts of the steps of one compilation, in order, as (stage, text)."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def add(self, stage: str, text: str) -> None:
        self.entries.append((stage, text))

    def write(self, folder: str) -> None:
        """One numbered file per step, so that two compilations can be compared file by file."""
        os.makedirs(folder, exist_ok=True)
        for i, (stage, text) in enumerate(self.entries):
            with open(os.path.join(folder, f"{i:02d}-{stage}.txt"), "w", encoding="utf-8") as file:
                file.write(text + "\n")


class _Recording(threading.local):
    record: Record | None = None


_RECORDING = _Recording()


@contextmanager
def recording(record: Record | None) -> Iterator[None]:
    """Steps that run inside, in this thread, are added to `record`."""
    before, _RECORDING.record = _RECORDING.record, record
    try:
        yield
    finally:
        _RECORDING.record = before


def records() -> bool:
    """Whether somebody records."""
    return _RECORDING.record is not None


@contextmanager
def undone_on(kind: type[BaseException]) -> Iterator[None]:
    """What is recorded inside is forgotten if this exception leaves."""
    record = _RECORDING.record
    before = len(record.entries) if record is not None else 0
    try:
        yield
    except kind:
        if record is not None:
            del record.entries[before:]
        raise


def note(stage: str, text: Callable[[], str]) -> None:
    """Add a step's text, made only if somebody records."""
    if _RECORDING.record is not None:
        _RECORDING.record.add(stage, text())


def checked(stage: str, graph: Graph) -> Graph:
    """The graph, verified if NUFUNC_VERIFY is set and recorded if somebody records."""
    if os.environ.get("NUFUNC_VERIFY", "") not in ("", "0"):
        from nufunc.ir.verify import verify

        verify(graph, stage)
    note(stage, lambda: str(graph))
    return graph


def pure(traced: Graph) -> Graph:
    """The simplified pure graph of a function that was traced inside a transform."""
    return simplify(checked("functionalized", functionalize(checked("traced", traced))))


def pulled_back(graph: Graph, which: Sequence[bool], outputs: Sequence[bool]) -> tuple[Graph, Graph, int]:
    """(primal graph with residuals, pullback graph, number of residuals) of a pure graph.

    `which` selects parameters, `outputs` the outputs that receive a cotangent. The pullback takes the residuals and a
    cotangent per selected output (all of inexact dtype), and gives a cotangent per selected parameter.
    """
    lin = linearize(graph, which)
    inexact = [k for k, o in enumerate(graph.outputs) if kind_of(o.dtype) in "fc"]
    kept = [lin.linear.outputs[j] for j, k in enumerate(inexact) if outputs[k]]
    linear = simplify(checked("linear", lin.linear.replace(outputs=tuple(kept))))
    return checked("linearized", lin.primal), transposed(linear, lin.num_residuals), lin.num_residuals


def derivative(graph: Graph, which: Sequence[bool]) -> Graph:
    """A pure graph with the tangents of its outputs behind them, from parameters and tangents of the selected ones."""
    return simplify(checked("tangents", jvp(graph, which)))


def pushed_forward(graph: Graph, which: Sequence[bool]) -> tuple[Graph, Graph, int]:
    """(primal graph with residuals, linear graph, number of residuals) of a pure graph."""
    lin = linearize(graph, which)
    return checked("linearized", lin.primal), simplify(checked("linear", lin.linear)), lin.num_residuals


def jacobian(linear: Graph, num_residuals: int, *, last: bool) -> Graph:
    """The Jacobians of a linear graph, per output and linear parameter, as a graph of its residuals."""
    return simplify(checked("jacobian", jacobians(linear, num_residuals, last)))


def transposed(linear: Graph, num_residuals: int) -> Graph:
    """A linear graph run backwards."""
    return simplify(checked("transposed", transpose(linear, num_residuals)))


def vmapped(graph: Graph, size: int, in_dims: Sequence[int | None], out_dims: Sequence[int | None]) -> Graph:
    """A graph over `size` lanes."""
    return simplify(checked("vmapped", vmap(graph, size, in_dims, out_dims)))


def grouped(graph: Graph, refusals: list[str], processor: bool = False) -> Graph:
    """The nodes of a graph gathered into kernels; `refusals` gets the reasons why neighbours do not share one. For the
    `processor` with the nodes that only it has code for."""
    from nufunc.passes.fuse import fuse  # of what is loaded from disk nothing is grouped

    graph = graph if processor else opened(graph, native=True)
    stored = without_halves(graph) if processor else widened_halves(graph)
    return checked("grouped", oracle.tested(fuse, oracle.same)(stored, refusals))


def whole(traced: Graph) -> Graph:
    """The graph that code is generated for, from the outermost trace."""
    graph = checked("pure", functionalize(checked("whole", traced)))
    return checked("simplified", slimmed(simplify(without_tests(merge_maps(simplify(inlined(opened(expand(graph)))))))))

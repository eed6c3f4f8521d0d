"""One compilation: the outermost trace of a chain of transforms over a function, down to an executable."""

from __future__ import annotations

import enum
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nufunc.ir.errors import UnguardedCaptureError
from nufunc.ir.graph import Graph
from nufunc.passes.fuse import fuse
from nufunc.runtime import pipeline
from nufunc.runtime.executable import Executable
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.results import lasting
from nufunc.runtime.signatures import Input, Static, signature
from nufunc.runtime.subgraph import Slot, collect
from nufunc.runtime.transform import Callee, Transform
from nufunc.tracer import dispatch, tree
from nufunc.tracer.array import Array
from nufunc.tracer.captures import Path, source
from nufunc.tracer.trace import Trace
from nufunc.tracer.usercode import user_location
from nufunc.tracer.view import Session, instrument, session_of


class Hooks:
    """What the globals view asks of the outermost trace: captured arrays and numbers become further parameters."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.inputs: list[Input] = []
        self.sources: list[str] = []

    def swap(self, obj: object) -> object:
        return dispatch.swap(obj)

    def array(self, value: Any, path: Path) -> Array:
        return self._param(value, path)

    def number(self, value: float | complex, path: Path) -> Array:
        return self._param(value, path)

    def _param(self, value: Any, path: Path) -> Array:
        sig = signature(value, lambda: source(path))
        if not isinstance(sig, Input):
            raise UnguardedCaptureError(
                f"{source(path)} of type {type(value).__name__} cannot be an input", user_location()
            )
        self.inputs.append(sig)
        self.sources.append(source(path))
        return param(self.trace, sig)


def param(trace: Trace, sig: Input) -> Array:
    """A parameter of the outermost trace for an input."""
    return trace.param(sig.type, weak=sig.kind in ("float", "complex"), scalar=sig.kind != "array", strides=sig.strides)


@contextmanager
def _collection_paused() -> Iterator[None]:
    """No cyclic garbage collection inside: what a compilation makes stays alive until its end, and to walk over all
    of it again and again would take time that is quadratic in the size of the graph.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collection_paused()
def compile_call(
    transforms: tuple[Transform, ...],
    func: Callable[..., Any],
    leaves: Sequence[Any],
    spec: tree.TreeDef,
    signatures: Sequence[Input | Static],
    names: Sequence[str],
    anchors: tuple[Any, ...],
) -> Executable:
    """Trace the chain over `func` on the given leaves, whose tree is (func if it is a GraphFunction, args, kwargs),
    and compile.

    `names` are what errors call the leaves; `anchors` are objects that the key of the compilation knows by id.
    """
    trace = Trace(getattr(func, "__name__", type(func).__name__))
    hooks = Hooks(trace)
    positions = tuple(k for k, s in enumerate(signatures) if isinstance(s, Input))
    with trace:
        new = [param(trace, s) if isinstance(s, Input) else leaf for leaf, s in zip(leaves, signatures, strict=True)]
        call: Callable[..., Any]
        if isinstance(func, GraphFunction):
            captures = None
            call, args, kwargs = tree.unflatten(spec, new)
        else:
            call, captures = instrument(func, hooks)
            session = _session(call)
            new = [_stand_in(session, x, name) for x, name in zip(new, names, strict=True)]
            with session:
                _, args, kwargs = tree.unflatten(spec, new)
        callee = Callee(transforms, call, func, copies=True)
        template, structure, outputs = collect(callee(*args, **kwargs), numbers=False)
        template = lasting(template, leaves, new, callee.location())
        traced = trace.finish(outputs)
    graph = pipeline.whole(traced)
    inputs = [s for s in signatures if isinstance(s, Input)] + hooks.inputs
    first = len(graph.outputs) - len(graph.updates)
    scalars = [s.scalar for s in template if isinstance(s, Slot)] + [False] * len(graph.updates)
    return Executable(
        name=trace.builder.name,
        graph=graph,
        entry=native_entry(graph, inputs, scalars, trace.builder.name),
        positions=positions,
        inputs=tuple(inputs),
        sources=(*(f"argument {names[k]}" for k in positions), *hooks.sources),
        read=_nothing if captures is None else captures.compile(),
        leaves=template,
        structure=structure,
        updates=tuple((source, first + k) for k, source in enumerate(graph.updates)),
        anchors=anchors,
    )


# Static arguments that are nothing but their value, which is part of the key.
_VALUES = (Array, enum.Enum, int, float, complex, str, bytes, np.generic, np.ndarray)


def _stand_in(session: Session, leaf: Any, name: str) -> Any:
    """What the function gets for a leaf. A static object may hold what traced code reaches: that is read by path at
    each call, or refused, as a random generator is, whose draws would be made once.
    """
    if isinstance(leaf, _VALUES):
        return leaf
    return session.hand_out(leaf, Path.constant(leaf, "" if callable(leaf) else f"argument {name}"))


def _session(call: Callable[..., Any]) -> Session:
    session = session_of(call)
    if session is None:
        raise UnguardedCaptureError(
            f"{getattr(call, '__name__', 'the function')} was made inside a traced function and is called "
            f"outside of it",
            user_location(),
        )
    return session


def _nothing(func: Any) -> tuple[Any, ...]:
    """A GraphFunction captures nothing: its residuals are among the arguments."""
    return ()


def native_entry(graph: Graph, inputs: Sequence[Input], scalars: Sequence[bool], name: str) -> Any:
    """The entry of a pure graph; `scalars` tells which outputs are handed back as NumPy scalars."""
    # these bring Numba's code generator, which `import nufunc` must not
    from nufunc.codegen.callspec import ArgSpec, ResultSpec
    from nufunc.codegen.compile import compile_graph
    from nufunc.codegen.emit_text import loops_text
    from nufunc.runtime.plain import PlainEntry

    grouped = pipeline.checked("grouped", fuse(graph))
    pipeline.note("loops", lambda: loops_text(grouped))
    if os.environ.get("NUFUNC_NOJIT", "") not in ("", "0"):
        return PlainEntry(grouped, scalars)
    args = [ArgSpec(s.type.shape, s.type.dtype, s.kind) for s in inputs]  # type: ignore[arg-type]
    results = [
        ResultSpec(o.shape, o.dtype, scalar and o.shape == ()) for o, scalar in zip(graph.outputs, scalars, strict=True)
    ]
    entry = compile_graph(grouped, args, results, name)
    pipeline.note("llvm", entry.llvm)
    pipeline.note("asm", entry.assembly)
    return entry

"""One compilation: the outermost trace of a chain of transforms over a function, then code for the program."""

from __future__ import annotations

import enum
import functools
import gc
import os
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from nufunc.ir.errors import MutationError, UnguardedCaptureError, UnsupportedError
from nufunc.runtime import pipeline, placing
from nufunc.runtime.executable import Executable, Program
from nufunc.runtime.overlap import Pattern, Stretches
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.results import lasting
from nufunc.runtime.signatures import Input, Static, signature
from nufunc.runtime.stored import Origin, entry_from, entry_of
from nufunc.runtime.subgraph import Slot, collect
from nufunc.runtime.transform import Callee, Jit, Transform
from nufunc.tracer import dispatch, tree
from nufunc.tracer.array import Array
from nufunc.tracer.captures import Path, source
from nufunc.tracer.np_random import DrawLog, is_generator
from nufunc.tracer.staging import Restage, requests
from nufunc.tracer.trace import Trace
from nufunc.tracer.usercode import user_location
from nufunc.tracer.view import Session, instrument, session_of

if TYPE_CHECKING:
    from nufunc.codegen.callspec import ArgSpec, ResultSpec
    from nufunc.codegen.compile import Lowered as CodegenLowered
    from nufunc.passes.placement import Placement

P = ParamSpec("P")
R = TypeVar("R")


class Hooks:
    """What the globals view asks of the outermost trace: captured arrays and numbers become further parameters."""

    def __init__(self, trace: Trace, stretches: Stretches, first: int) -> None:
        self.trace = trace
        self.stretches, self.first = stretches, first  # `first`: the number of inputs before what is captured
        self.inputs: list[Input] = []
        self.sources: list[str] = []
        self.drawn: list[tuple[Input, Array]] = []
        self.log = trace.draws = DrawLog(self._draw)

    def swap(self, obj: object) -> object:
        return dispatch.swap(obj)

    def array(self, value: Any, path: Path) -> Array:
        return self._param(value, path)

    def number(self, value: float | complex, path: Path) -> Array:
        return self._param(value, path)

    def generator(self, path: Path) -> Any:
        return self.log.generator(path)

    def _draw(self, value: Any) -> Array:
        sig = signature(value, lambda: "of a draw")
        assert isinstance(sig, Input)
        self.drawn.append((sig, param(self.trace, sig)))
        return self.drawn[-1][1]

    def _param(self, value: Any, path: Path) -> Array:
        sig = signature(value, lambda: source(path))
        if not isinstance(sig, Input):
            raise UnguardedCaptureError(
                f"{source(path)} of type {type(value).__name__} cannot be an input", user_location()
            )
        self.inputs.append(sig)
        self.sources.append(source(path))
        return self.stretches.stand_in(self.first + len(self.inputs) - 1, param(self.trace, sig, value))


def param(trace: Trace, sig: Input, value: Any = None) -> Array:
    """A parameter of the outermost trace for an input, of which `value` is an example that `debug_unwrap` shows."""
    array = trace.param(
        sig.type, weak=sig.kind in ("float", "complex"), scalar=sig.kind != "array", strides=sig.strides
    )
    if isinstance(value, np.ndarray | np.generic | float | complex):
        trace.concrete[array.value] = np.asarray(value)
    return array


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


def _restarted(function: Callable[P, R]) -> Callable[P, R]:
    """A function that traces, such that it starts again when a function that it traces is to be staged."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            before = requests()
            try:
                with pipeline.undone_on(Restage):
                    result = function(*args, **kwargs)
                    if requests() == before:
                        return result
                    raise Restage  # a bare `except` of the user's code has swallowed it
            except Restage:
                continue

    return call


@_collection_paused()
@_restarted
def trace_call(
    transforms: tuple[Transform, ...],
    func: Callable[..., Any],
    leaves: Sequence[Any],
    spec: tree.TreeDef,
    signatures: Sequence[Input | Static],
    names: Sequence[str],
    anchors: tuple[Any, ...],
    donated: Set[int] = frozenset(),
    overlaps: Pattern = (),
    device: int | None = None,
) -> Program:
    """Trace the chain over `func` on the given leaves, whose tree is (func if it is a GraphFunction, args, kwargs).

    `names` are what errors call the leaves; `anchors` are objects that the key of the compilation knows by id;
    `donated` are leaves whose memory results may take; `overlaps` says which inputs lie over each other. The program is
    for the device of its inputs, or if these are all of the host for `device`.
    """
    trace = Trace(getattr(func, "__name__", type(func).__name__))
    stretches = Stretches(trace, overlaps)
    positions = tuple(k for k, s in enumerate(signatures) if isinstance(s, Input))
    hooks = Hooks(trace, stretches, len(positions))
    with trace, ExitStack() as around:
        own = [s for s in signatures if isinstance(s, Input)]
        arrays = {k: stretches.stand_in(i, param(trace, own[i], leaves[k])) for i, k in enumerate(positions)}
        new = [arrays.get(k, leaf) for k, leaf in enumerate(leaves)]
        call: Callable[..., Any]
        if isinstance(func, GraphFunction):
            captures = None
            call, args, kwargs = tree.unflatten(spec, new)
        else:
            call, captures = instrument(func, hooks)
            session = _session(call)
            new = [
                hooks.log.generator(k) if is_generator(x) else _stand_in(session, x, name)
                for k, (x, name) in enumerate(zip(new, names, strict=True))
            ]
            around.enter_context(session)  # transforms rebuild objects among the arguments as the session does
            _, args, kwargs = tree.unflatten(spec, new)
        callee = Callee(transforms, call, func, copies=True)
        template, structure, outputs = collect(callee(*args, **kwargs), numbers=False)
        given = [leaf if is_generator(leaf) else x for leaf, x in zip(leaves, new, strict=True)]
        template = lasting(template, leaves, given, callee.location())
        traced = trace.finish(outputs)
    draws = [array.value for _, array in hooks.drawn]  # the last inputs, in the order of the draws
    late = [*draws, *(line.value for line in stretches.lines)]
    params = (*(p for p in traced.params if p not in late), *late)
    graph = pipeline.whole(traced.replace(params=params))
    inputs = [s for s in signatures if isinstance(s, Input)] + hooks.inputs + [s for s, _ in hooks.drawn]
    inputs += stretches.inputs
    sources = (*(f"argument {names[k]}" for k in positions), *hooks.sources, *("a draw" for _ in draws))
    sources += tuple("overlapping arrays" for _ in overlaps)
    for k in graph.updates:
        if inputs[k].kind != "array":
            raise MutationError(f"{trace.builder.name} writes in place to {sources[k]}, which is no array")
    return Program(
        name=trace.builder.name,
        graph=graph,
        positions=positions,
        inputs=tuple(inputs),
        sources=sources,
        scalars=tuple(s.scalar and not graph.outputs[s.index].shape for s in template if isinstance(s, Slot)),
        donated=tuple(k for k, leaf in enumerate(positions) if leaf in donated and k not in graph.updates),
        read=_nothing if captures is None else captures.compile(),
        failure=_no_failure if captures is None else captures.failure,
        leaves=template,
        structure=structure,
        anchors=anchors,
        generators=hooks.log.positions,
        draws=hooks.log.plan(),
        stored=frozenset(stretches.written),
        fastmath=any(isinstance(t, Jit) and t.fastmath for t in transforms),
        device=placing.device_of_inputs(trace.builder.name, inputs, sources, transforms, device),
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


def _no_failure(func: Any) -> str | None:
    return None


@_collection_paused()
def lower_program(program: Program, timed: bool = False, standalone: bool = False) -> CodegenLowered:
    """The module of a program: its groups, loop nests and LLVM text; with `timed` one that measures itself, with
    `standalone` one without Python. For a program of a device its steps and kernels, which are measured from outside.
    """
    if program.device is not None:
        return _device_lowered(program, standalone)
    # these bring Numba's code generator, which `import nufunc` must not
    from nufunc.codegen.compile import lower
    from nufunc.codegen.emit_text import loops_text
    from nufunc.passes.gram import halved
    from nufunc.passes.placement import placed
    from nufunc.passes.transform_axes import along_their_axes

    placements = _placements(program)
    refusals: list[str] = []
    grouped = pipeline.grouped(halved(along_their_axes(placed(program.graph, placements))), refusals, processor=True)
    pipeline.note("fusion", lambda: "\n".join(dict.fromkeys(refusals)) or "nothing was refused")
    pipeline.note("loops", lambda: loops_text(grouped))
    args, results = _specs(program)
    args = [
        arg if strides is None else replace(arg, strides=strides, copied=k not in placements)
        for k, (arg, strides) in enumerate(zip(args, _read_strides(program), strict=True))
    ]
    donated = [k for k in program.donated if args[k].strides is None]
    return lower(grouped, program.name, args, results, donated, program.fastmath, timed, standalone)


def _device_lowered(program: Program, standalone: bool) -> Any:
    from nufunc.runtime.cuda import compiled

    if standalone:
        raise UnsupportedError(f"{program.name} is compiled for a device, and no C function", user_location())
    return compiled.lowered_for(program)


def _read_strides(program: Program) -> list[tuple[int, ...] | None]:
    """The strides of the inputs that a call only reads, where they are not those of C order."""
    written = {*program.graph.updates, *program.stored}
    return [None if k in written else s.strides for k, s in enumerate(program.inputs)]


def _placements(program: Program) -> dict[int, Placement]:
    """The strided inputs that are read where they lie."""
    from nufunc.passes.placement import placement

    if os.environ.get("NUFUNC_NOJIT", "") not in ("", "0"):
        return {}
    found = {
        k: placement(program.graph.params[k].shape, strides)
        for k, strides in enumerate(_read_strides(program))
        if strides is not None
    }
    return {k: p for k, p in found.items() if p is not None}


def _specs(program: Program) -> tuple[list[ArgSpec], list[ResultSpec]]:
    """How the inputs and the results of a program are passed."""
    from nufunc.codegen.callspec import ArgSpec, ResultSpec

    graph = program.graph
    args = [ArgSpec(s.type.shape, s.type.dtype, s.kind) for s in program.inputs]  # type: ignore[arg-type]
    given = zip(graph.outputs, program.scalars)
    results = [ResultSpec(value.shape, value.dtype, scalar) for value, scalar in given]
    written = zip(graph.outputs[program.num_results :], graph.updates, strict=True)
    results += [ResultSpec(value.shape, value.dtype, source=k, returned=False) for value, k in written]
    return args, results


@_collection_paused()
def compile_program(program: Program, lowered: CodegenLowered | None = None) -> Executable:
    """Machine code for a program as it was lowered, or with NUFUNC_NOJIT=1 readable loops, with NUFUNC_NOJIT=graph
    NumPy, node by node."""
    from nufunc.runtime.plain import GraphEntry, PlainEntry

    if program.device is not None:
        return _device_executable(program, lowered)
    plain = os.environ.get("NUFUNC_NOJIT", "")
    interpreted = Origin("interpreted", None, "NUFUNC_NOJIT is set")
    if plain == "graph":
        return Executable(**vars(program), entry=GraphEntry(program.graph, *_specs(program)), origin=interpreted)
    lowered = lower_program(program) if lowered is None else lowered
    if plain not in ("", "0"):
        return Executable(**vars(program), entry=PlainEntry(lowered.grouped, lowered.spec), origin=interpreted)
    from nufunc.codegen.compile import compile_lowered

    entry = compile_lowered(lowered)
    return Executable(**vars(program), entry=entry, origin=Origin("compiled", None, "it was not asked for"))


def _device_executable(program: Program, lowered: Any = None, lower: Callable[[], Any] | None = None) -> Executable:
    """As it was `lowered`, or from the cache on disk, or by way of `lower`."""
    from nufunc.runtime.cuda import compiled, stored

    try:
        if lowered is not None:
            return compiled.executable_for(program, lowered)
        fresh = pipeline.records()
        return stored.executable_of(program, lower or functools.partial(lower_program, program), fresh)
    except UnsupportedError as error:
        if os.environ.get("NUFUNC_CUDA_FALLBACK") == "0":
            raise
        from nufunc.runtime.cuda import hosted

        return hosted.hosted(program, str(error), executable_of)


@_collection_paused()
def executable_of(program: Program, lower: Callable[[], CodegenLowered] | None = None) -> Executable:
    """A program with its code: from the cache on disk, or compiled, by way of `lower`, and stored there."""
    lower = lower or functools.partial(lower_program, program)
    if program.device is not None:
        return _device_executable(program, None, lower)
    plain = os.environ.get("NUFUNC_NOJIT", "")
    if plain not in ("", "0"):
        return compile_program(program, None if plain == "graph" else lower())
    entry, origin = entry_of(program, lower, fresh=pipeline.records())
    pipeline.note("llvm", entry.llvm)
    pipeline.note("asm", entry.assembly)
    return Executable(**vars(program), entry=entry, origin=origin)


def executable_given(
    program: Program, lower: Callable[[], CodegenLowered], code: tuple[str, bytes] | None
) -> Executable:
    """A program with code that came from elsewhere, under its key, if it has that key here; else `executable_of`."""
    plain = os.environ.get("NUFUNC_NOJIT", "") not in ("", "0") or program.device is not None
    found = None if code is None or plain else entry_from(program, lower, *code)
    if found is None:
        return executable_of(program, lower)
    return Executable(**vars(program), entry=found[0], origin=found[1])

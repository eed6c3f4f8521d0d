"""Transformed: a chain of transforms over a function, compiled at each new signature of its arguments."""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, UnguardedCaptureError, UnsupportedError
from nufunc.runtime import pipeline
from nufunc.runtime.executable import Executable
from nufunc.runtime.front import Front, make_front
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.signatures import Input, Static, base_key, signature
from nufunc.runtime.subgraph import Slot, as_array
from nufunc.runtime.transform import Callee, Jit, Transform, leaf_names, parameter_names
from nufunc.tracer import dispatch, tree
from nufunc.tracer.array import Array
from nufunc.tracer.captures import Path, source
from nufunc.tracer.trace import Trace, current
from nufunc.tracer.usercode import user_location
from nufunc.tracer.view import instrument, session_of

MAX_KEYS = 1024  # signatures kept, over all functions
MAX_VARIANTS = 16  # compilations kept per signature, for different captured static values
MAX_FRONTS = 4  # short ways kept per transformed function


class CacheInfo(NamedTuple):
    """How often something was compiled, how often a compilation was found again by the long way, and how many are held."""

    compiles: int
    hits: int
    entries: int


class _Cache:
    """The executables of this process by key, the least recently used dropped first."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.entries: OrderedDict[Any, list[Executable]] = OrderedDict()
        self.compiles = 0
        self.hits = 0

    def find(self, key: Any, func: Any) -> tuple[Executable, tuple[Any, ...]] | None:
        """The compilation that fits what the function captures now, and what it captures."""
        variants = self.entries.get(key)
        for executable in variants or ():
            captured = executable.captured(func)
            if captured is not None:
                with self.lock:
                    self.hits += 1
                    if key in self.entries:
                        self.entries.move_to_end(key)
                return executable, captured
        return None

    def add(self, key: Any, executable: Executable) -> None:
        with self.lock:
            self.compiles += 1
            variants = self.entries.get(key, [])
            self.entries[key] = [executable, *variants][:MAX_VARIANTS]
            self.entries.move_to_end(key)
            while len(self.entries) > MAX_KEYS:
                self.entries.popitem(last=False)


_CACHE = _Cache()


def cache_info() -> CacheInfo:
    """Counters of the cache of compilations of this process.

    >>> import nufunc as nf
    >>> nf.cache_info().compiles >= 0
    True
    """
    return CacheInfo(_CACHE.compiles, _CACHE.hits, sum(map(len, _CACHE.entries.values())))


def clear_cache() -> None:
    """Forget all compilations; functions compile again at their next call."""
    with _CACHE.lock:
        _CACHE.entries.clear()


class _Hooks:
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
            raise UnguardedCaptureError(f"{source(path)} of type {type(value).__name__} cannot be an input", user_location())
        self.inputs.append(sig)
        self.sources.append(source(path))
        return param(self.trace, sig)


def param(trace: Trace, sig: Input) -> Array:
    """A parameter of the outermost trace for an input."""
    return trace.param(
        sig.type, weak=sig.kind in ("float", "complex"), scalar=sig.kind != "array", strides=sig.strides
    )


class Transformed:
    """A function under a chain of transforms, outermost first. Calling it compiles for new signatures and runs."""

    def __init__(self, transforms: tuple[Transform, ...], func: Callable[..., Any]) -> None:
        if isinstance(func, Transformed):
            transforms, func = (*transforms, *func.transforms), func.func
        if not callable(func):
            label = transforms[0].label if transforms else "jit"
            raise ArgumentTypeError(f"{label} takes a function, got {type(func).__name__}", user_location())
        self.transforms = transforms
        self.func = func
        self._fronts: tuple[Front, ...] = ()
        functools.update_wrapper(self, func, updated=())

    def __repr__(self) -> str:
        name = getattr(self.func, "__qualname__", repr(self.func))
        for transform in reversed(self.transforms):
            name = f"{transform.label}({name})"
        return f"<nufunc {name}>"

    def __get__(self, obj: Any, cls: type | None = None) -> Any:
        """Bind as a function does, so that methods can be decorated."""
        if obj is None or not hasattr(self.func, "__get__"):
            return self
        return Transformed(self.transforms, self.func.__get__(obj, cls))

    # -- what the globals view needs to rebuild a transformed function over an instrumented one

    @property
    def __nufunc_parts__(self) -> tuple[Any, ...]:
        return (self.func,)

    @property
    def __nufunc_key__(self) -> Any:
        return self.transforms

    def __nufunc_rebind__(self, parts: tuple[Any, ...]) -> Transformed:
        return Transformed(self.transforms, parts[0])

    # -- calls

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            for front in self._fronts:
                result = front(args)
                if result is not _MISS:
                    return result
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The long way: look at every argument, find or make the compilation, run it."""
        if current() is not None:
            return Callee(self.transforms, self.func, self.func)(*args, **kwargs)
        executable, captured, signatures, leaves = self._executable(args, kwargs)
        result = executable.run([*(leaves[k] for k in executable.positions), *captured])
        if not kwargs and not executable.updates:
            self._install(executable, args, signatures)
        return result

    def _install(self, executable: Executable, args: tuple[Any, ...], signatures: list[Input | Static]) -> None:
        held = list(self.func.residuals) if isinstance(self.func, GraphFunction) else []
        front = make_front(executable, self.func, held, args, signatures, _miss())
        if front is not None:
            self._fronts = (front, *self._fronts)[:MAX_FRONTS]

    def _executable(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], record: pipeline.Record | None = None
    ) -> tuple[Executable, tuple[Any, ...], list[Input | Static], list[Any]]:
        """(compilation, captured values, signatures, leaves) for these arguments."""
        held = self.func if isinstance(self.func, GraphFunction) else None
        leaves, spec = tree.flatten((held, args, kwargs))
        static = self._static_leaves(args, kwargs, held)
        signatures: list[Input | Static] = []
        for k, leaf in enumerate(leaves):
            if k in static:
                signatures.append(self._static(leaf))
            else:
                signatures.append(signature(leaf, lambda k=k: self._leaf_name(held, args, kwargs, k)))  # type: ignore[misc]
        base, anchors = (None, ()) if held is not None else base_key(self.func)
        key = (self.transforms, base, spec, tuple(signatures))
        found = None if record is not None else _CACHE.find(key, self.func)
        if found is None:
            with _CACHE.lock:
                found = None if record is not None else _CACHE.find(key, self.func)
                if found is None:
                    executable = self._compile(leaves, spec, signatures, anchors, record)
                    captured = executable.captured(self.func)
                    if captured is None:
                        raise UnguardedCaptureError(
                            f"what {self._name} reaches changed while it was traced; it must not change what it captures"
                        )
                    if record is None:
                        _CACHE.add(key, executable)
                    found = executable, captured
        return found[0], found[1], signatures, leaves

    @property
    def _name(self) -> str:
        return getattr(self.func, "__name__", type(self.func).__name__)

    def _leaf_name(self, held: Any, args: tuple[Any, ...], kwargs: dict[str, Any], k: int) -> str:
        callee = Callee(self.transforms, self.func, self.func)
        names = [f"residual {i}" for i in range(len(tree.leaves(held)))]
        for i, arg in enumerate(args):
            names += leaf_names(callee, i, arg)
        for key in sorted(kwargs):
            names += [repr(key) + path for path in tree.paths(kwargs[key])]
        return names[k]

    def _static_leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any], held: Any) -> set[int]:
        """The leaves of arguments that a jit at the head of the chain declares static."""
        jit = self.transforms[0] if self.transforms else None
        if not isinstance(jit, Jit) or not (jit.static_argnums or jit.static_argnames):
            return set()
        names = parameter_names(self.func)
        nums = {i % len(args) for i in jit.static_argnums if -len(args) <= i < len(args)}
        nums |= {names.index(n) for n in jit.static_argnames if n in names and names.index(n) < len(args)}
        static: set[int] = set()
        at = len(tree.leaves(held))
        for i, arg in enumerate(args):
            count = len(tree.leaves(arg))
            static |= set(range(at, at + count)) if i in nums else set()
            at += count
        for key in sorted(kwargs):
            count = len(tree.leaves(kwargs[key]))
            static |= set(range(at, at + count)) if key in jit.static_argnames else set()
            at += count
        return static

    def _static(self, leaf: Any) -> Static:
        try:
            hash(leaf)
        except TypeError:
            raise ArgumentTypeError(
                f"jit: a static argument must be hashable, got {type(leaf).__name__}", user_location()
            ) from None
        return Static(type(leaf), leaf)

    def stages(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, str]]:
        """(stage, text) for each step of a compilation for these arguments; nothing is run or cached."""
        record = pipeline.Record()
        self._executable(args, kwargs, record)
        return record.entries

    # -- compiling

    def _compile(
        self, leaves: list[Any], spec: tree.TreeDef, signatures: list[Input | Static], anchors: tuple[Any, ...],
        record: pipeline.Record | None,
    ) -> Executable:
        folder = os.environ.get("NUFUNC_DUMP")
        if folder and record is None:
            record = pipeline.Record()
        for transform in self.transforms:
            if isinstance(transform, Jit) and transform.target not in (None, "cpu"):
                raise UnsupportedError("target 'cuda' is not supported yet; use target='cpu'", user_location())
        with pipeline.recording(record):
            executable = self._traced_and_compiled(leaves, spec, signatures, anchors)
        executable.record = record
        if folder and record is not None:
            record.write(FilePath(folder) / f"{_CACHE.compiles:04d}-{self._name}")
        return executable

    def _traced_and_compiled(
        self, leaves: list[Any], spec: tree.TreeDef, signatures: list[Input | Static], anchors: tuple[Any, ...]
    ) -> Executable:
        from nufunc.runtime.compile import compile_graph

        trace = Trace(self._name)
        hooks = _Hooks(trace)
        positions = tuple(k for k, s in enumerate(signatures) if isinstance(s, Input))
        inputs = [s for s in signatures if isinstance(s, Input)]
        with trace:
            new = [param(trace, s) if isinstance(s, Input) else leaf for leaf, s in zip(leaves, signatures, strict=True)]
            if isinstance(self.func, GraphFunction):
                call, read = None, _nothing
                held, args, kwargs = tree.unflatten(spec, new)
            else:
                call, captures = instrument(self.func, hooks)
                session = session_of(call)
                if session is None:
                    raise UnguardedCaptureError(f"{self._name} was made inside a traced function and is called outside of it")
                new = [session.hand_out_static(x) if callable(x) and not isinstance(x, Array) else x for x in new]
                with session:
                    held, args, kwargs = tree.unflatten(spec, new)
            result = Callee(self.transforms, call if held is None else held, self.func)(*args, **kwargs)
            out_leaves, structure = tree.flatten(result)
            outputs: list[Array] = []
            template: list[Any] = []
            for leaf in out_leaves:
                if isinstance(leaf, Array | np.ndarray):
                    array = as_array(leaf)
                    template.append(Slot(len(outputs), array.scalar, array.weak))
                    outputs.append(array)
                else:
                    template.append(leaf)
            traced = trace.finish(outputs)
        graph = pipeline.whole(traced)
        if call is not None:
            read = captures.compile()
        inputs += hooks.inputs
        first = len(graph.outputs) - len(graph.updates)
        scalars = [s.scalar for s in template if isinstance(s, Slot)] + [False] * len(graph.updates)
        names = [f"argument leaf {k}" for k in positions] + hooks.sources
        return Executable(
            name=self._name,
            graph=graph,
            entry=compile_graph(graph, inputs, scalars, self._name),
            positions=positions,
            inputs=tuple(inputs),
            sources=tuple(names),
            read=read,
            leaves=tuple(template),
            structure=structure,
            updates=tuple((source, first + k) for k, source in enumerate(graph.updates)),
            anchors=anchors,
        )


def _nothing(func: Any) -> tuple[Any, ...]:
    """A GraphFunction captures nothing: its residuals are among the arguments."""
    return ()


@functools.cache
def _miss() -> Any:
    """What native entries return when an argument does not fit; imported late, since it brings Numba's code generator."""
    from nufunc.codegen.wrapper import MISS

    globals()["_MISS"] = MISS
    return MISS


_MISS: Any = None  # replaced by `_miss` before the first front is made

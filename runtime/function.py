"""Transformed: a chain of transforms over a function, compiled at each new signature of its arguments."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Set
from types import MethodType
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, UnguardedCaptureError, UnsupportedError
from nufunc.runtime import pipeline
from nufunc.runtime.cache import CACHE
from nufunc.runtime.compilation import compile_call
from nufunc.runtime.executable import Executable
from nufunc.runtime.front import Front, make_front
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.signatures import Input, Static, base_key, exact, signature
from nufunc.runtime.transform import Callee, Jit, Transform, leaf_names, parameter_names
from nufunc.tracer import tree
from nufunc.tracer.trace import current
from nufunc.tracer.usercode import user_location

_NONE: frozenset[int] = frozenset()
MAX_FRONTS = 4  # short ways kept per transformed function


class Transformed:
    """A function under a chain of transforms, outermost first. Calling it compiles for new signatures and runs."""

    def __init__(self, transforms: tuple[Transform, ...], func: Callable[..., Any]) -> None:
        if isinstance(func, Transformed):
            transforms, func = (*transforms, *func.transforms), func.func
        if not callable(func):
            label = transforms[0].label if transforms else "jit"
            raise ArgumentTypeError(f"{label} takes a function, got {type(func).__name__}", user_location())
        self.transforms: tuple[Transform, ...] = transforms
        self.func: Callable[..., Any] = func
        self._fronts: list[Front] = []
        self._bound: dict[type, list[Front]] = {}  # the fronts of this function as a method, by the object's class
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
        bound = Transformed(self.transforms, self.func.__get__(obj, cls))
        if isinstance(bound.func, MethodType) and bound.func.__func__ is self.func:
            bound._fronts = self._bound.setdefault(type(obj), [])
        return bound

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
                result = front(self.func, args)
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
        """Take the short way next time. A front that is here already has missed, as it does for strided arrays."""
        front = executable.front
        if front is None:
            held = len(self.func.residuals) if isinstance(self.func, GraphFunction) else 0
            front = executable.front = make_front(executable, held, args, signatures, _miss()) or _no_front
        if front is not _no_front and front not in self._fronts:
            self._fronts[:] = [front, *self._fronts][:MAX_FRONTS]

    def _executable(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], record: pipeline.Record | None = None
    ) -> tuple[Executable, tuple[Any, ...], list[Input | Static], list[Any]]:
        """(compilation, captured values, signatures, leaves) for these arguments."""
        held = self.func if isinstance(self.func, GraphFunction) else None
        leaves, spec = _flatten_call(held, args, kwargs)
        static = self._static_leaves(args, kwargs, held)
        signatures: list[Input | Static] = []
        name = lambda: self._leaf_names(held, args, kwargs)[len(signatures)]
        for k, leaf in enumerate(leaves):
            signatures.append(self._static(leaf) if k in static else signature(leaf, name))
        base, anchors = (None, ()) if held is not None else base_key(self.func)
        key = (self.transforms, base, spec, tuple(signatures))
        found = None if record is not None else CACHE.find(key, self.func)
        if found is None:
            with CACHE.compiling(key):
                found = None if record is not None else CACHE.find(key, self.func)
                if found is None:
                    names = self._leaf_names(held, args, kwargs)
                    executable = self._compile(leaves, spec, signatures, names, anchors, record)
                    captured = executable.captured(self.func)
                    if captured is None:
                        raise UnguardedCaptureError(
                            f"what {self._name} reaches changed while it was traced; it must not change what it "
                            f"captures"
                        )
                    if record is None:
                        CACHE.add(key, executable)
                    found = executable, captured
        return found[0], found[1], signatures, leaves

    @property
    def _name(self) -> str:
        return getattr(self.func, "__name__", type(self.func).__name__)

    def _leaf_names(self, held: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
        callee = Callee(self.transforms, self.func, self.func)
        names = [f"residual {i}" for i in range(len(tree.leaves(held)))]
        for i, arg in enumerate(args):
            names += leaf_names(callee, i, arg)
        for key in sorted(kwargs):
            names += [repr(key) + path for path in tree.paths(kwargs[key])]
        return names

    def _static_leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any], held: Any) -> Set[int]:
        """The leaves of arguments that a jit at the head of the chain declares static."""
        jit = self.transforms[0] if self.transforms else None
        if not isinstance(jit, Jit) or not (jit.static_argnums or jit.static_argnames):
            return _NONE
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
        return Static(type(leaf), exact(leaf))

    def stages(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, str]]:
        """(stage, text) for each step of a compilation for these arguments; nothing is run or cached."""
        record = pipeline.Record()
        self._executable(args, kwargs, record)
        return record.entries

    # -- compiling

    def _compile(
        self, leaves: list[Any], spec: tree.TreeDef, signatures: list[Input | Static], names: list[str],
        anchors: tuple[Any, ...], record: pipeline.Record | None,
    ) -> Executable:  # fmt: skip
        folder = os.environ.get("NUFUNC_DUMP")
        if folder and record is None:
            record = pipeline.Record()
        if any(isinstance(t, Jit) and t.target == "cuda" for t in self.transforms):
            raise UnsupportedError("target 'cuda' is not supported yet; use target='cpu'", user_location())
        with pipeline.recording(record):
            executable = compile_call(self.transforms, self.func, leaves, spec, signatures, names, anchors)
        executable.record = record
        if folder and record is not None:
            record.write(f"{folder}/{CACHE.compiles:04d}-{self._name}")
        return executable


_LEAVES = frozenset((np.ndarray, bool, int, float, complex, np.float32, np.float64, np.int32, np.int64))


def _flatten_call(held: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], tree.TreeDef]:
    """The leaves of a call and its structure; plain arrays and numbers need no walk over trees."""
    if held is None and _LEAVES.issuperset(map(type, args)):
        if not kwargs:
            return list(args), _flat_structure(len(args))
        if _LEAVES.issuperset(map(type, kwargs.values())):
            return [*args, *(kwargs[key] for key in sorted(kwargs))], _flat_structure(len(args), *kwargs)
    return tree.flatten((held, args, kwargs))


@functools.lru_cache(maxsize=256)
def _flat_structure(count: int, *names: str) -> tree.TreeDef:
    return tree.structure((None, (0,) * count, dict.fromkeys(names, 0)))


def _no_front(fn: Any, args: tuple[Any, ...]) -> Any:
    """In place of a front where there can be none."""
    return _MISS


@functools.cache
def _miss() -> Any:
    """What native entries return when an argument does not fit; imported late, since it brings Numba's code
    generator.
    """
    from nufunc.codegen.wrapper import MISS

    globals()["_MISS"] = MISS
    return MISS


_MISS: Any = None  # replaced by `_miss` before the first front is made

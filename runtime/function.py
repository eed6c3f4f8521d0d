"""Transformed: a chain of transforms over a function, compiled at each new signature of its arguments."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Set
from types import MethodType
from typing import Any, NamedTuple

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, TraceError, UnguardedCaptureError
from nufunc.runtime import pipeline
from nufunc.runtime.bound import Bound
from nufunc.runtime.cache import CACHE
from nufunc.runtime.chunks import fitting
from nufunc.runtime.compilation import executable_of, trace_call
from nufunc.runtime.executable import Executable, Program
from nufunc.runtime.front import Front, make_front
from nufunc.runtime.lowered import Lowered
from nufunc.runtime.outs import has_own_out, matching_outs, write_traced
from nufunc.runtime.overlap import Pattern, overlap_of, run_overlapping
from nufunc.runtime.pickling import reduced
from nufunc.runtime.placing import asks_for_devices, device_of_call
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.signatures import Input, Spec, Static, base_key, exact, signature
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
        func = self.func.__get__(obj, cls)
        bound = object.__new__(type(self))  # at each access of a method: names and the like are taken as they are
        bound.__dict__.update(self.__dict__, func=func, __wrapped__=func, _fronts=[], _bound={})
        if isinstance(func, MethodType) and func.__func__ is self.func:
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

    # -- copies: code and what was compiled stay with the process

    def __reduce__(self) -> Any:
        def make(base: Any) -> Any:
            rest = base.transforms if isinstance(base, Transformed) else ()
            outer = self.transforms[: len(self.transforms) - len(rest)]
            fits = (*outer, *rest) == self.transforms
            return Transformed, ((outer, base) if fits else (self.transforms, self.func))

        return reduced(self, self.func, make)

    def __copy__(self) -> Transformed:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Transformed:
        func = copy.deepcopy(self.func, memo)
        return self if func is self.func else Transformed(self.transforms, func)

    @property
    def _numba_type_(self) -> Any:
        from nufunc.runtime.njit import numba_type

        return numba_type(self)

    # -- calls

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        for front in self._fronts:
            result = front(self.func, args, kwargs)
            if result is not NotImplemented:
                return result
        return self._call(args, kwargs)

    _call_outside = __call__

    def _call_in_context(self, /, *args: Any, **kwargs: Any) -> Any:
        """`__call__` while some thread is inside of a device's context; see `look_at_contexts`."""
        from nufunc.runtime.cuda.devices import CURRENT

        inside = bool(CURRENT.entered)
        for front in self._fronts:
            if inside and getattr(front, "device", None) is None:
                continue
            result = front(self.func, args, kwargs)
            if result is not NotImplemented:
                return result
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The long way: look at every argument, find or make the compilation, run it."""
        out, kwargs = self._split_out(kwargs)
        if current() is not None:
            result = Callee(self.transforms, self.func, self.func)(*args, **kwargs)
            return result if out is None else write_traced(result, out)
        return self._finish(self._found(self._described(args, kwargs)), args, kwargs, out)

    def _run(self, executable: Executable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The long way with a compilation that is known to be for arguments like these."""
        out, kwargs = self._split_out(kwargs)
        call, captured = self._described(args, kwargs), executable.captured(self.func)
        if captured is None:
            raise UnguardedCaptureError(f"what {self._name} captures is not what it was compiled for; lower it again")
        return self._finish(with_inputs(executable, call, captured), args, kwargs, out)

    def _finish(self, found: Found, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        executable = found.executable
        outs = () if out is None else matching_outs(executable, out)
        values = found.drawn(self.func)
        pattern = overlap_of(executable, executable.graph.updates, values) if executable.graph.updates else ()
        if pattern:
            found = self._found(self._described(args, kwargs), pattern)
            results = run_overlapping(found.executable, pattern, found.drawn(self.func), outs)
            return found.executable.unflatten(results) if out is None else out
        results = executable.run(values, outs)
        self._install(executable, args, kwargs, found.signatures, out)
        return executable.unflatten(results) if out is None else out

    def _split_out(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What `out=` gives, and the function's own keyword arguments; one that it calls `out` is its own."""
        if "out" not in kwargs or has_own_out(self.func):
            return None, kwargs
        return kwargs["out"], {key: value for key, value in kwargs.items() if key != "out"}

    def _install(
        self, executable: Executable, args: tuple[Any, ...], kwargs: dict[str, Any], signatures: list[Input | Static],
        out: Any,
    ) -> None:  # fmt: skip
        """Take the short way next time. A front that is here already has missed, as it does for strided arrays."""
        front = executable.fronts.get(out is not None)
        if front is None:
            held = 0 if self._held is None else len(self._held.residuals)
            front = make_front(executable, held, args, kwargs, signatures, out) or _no_front
            executable.fronts[out is not None] = front
            if executable.device is not None and front is not _no_front:
                front.device = executable.device  # type: ignore[attr-defined]
        if front is not _no_front and front not in self._fronts:
            self._fronts[:] = [front, *self._fronts][:MAX_FRONTS]

    def bind(self, /, *args: Any, **kwargs: Any) -> Bound:
        """A callable without arguments that runs on these very arrays, with what they hold at each call.

        `out=` takes arrays for the results, as in a call. Containers, numbers and static arguments are those of today;
        what the function captures is read at each call. Arrays that change their shape or dtype cannot be used any
        more: the call says so.

        >>> import numpy as np, nufunc as nf
        >>> x, y = np.ones(2), np.empty(2)
        >>> step = nf.jit(lambda x: x * 2).bind(x, out=y)
        >>> x[0] = 5.0
        >>> step() is y, y
        (True, array([10.,  2.]))
        """
        if current() is not None:
            raise TraceError("bind: inside a traced function there are no arrays to bind; call it", user_location())
        out, kwargs = self._split_out(kwargs)
        return Bound(self, args, kwargs, out)

    def lower(self, /, *args: Any, **kwargs: Any) -> Lowered:
        """The program for these arguments, not yet compiled: its text at each stage, and what it will cost.

        `nf.spec(shape, dtype)` may stand for an array.

        >>> import numpy as np, nufunc as nf
        >>> lowered = nf.jit(lambda a, b: a @ b).lower(nf.spec((64, 48)), nf.spec((48, 80)))
        >>> lowered.cost().flops
        491520
        >>> lowered.compile()(np.ones((64, 48)), np.ones((48, 80)))[0, :3]
        array([48., 48., 48.])
        """
        call = self._described(args, kwargs)
        record = pipeline.Record()
        with pipeline.recording(record):
            program = self._traced(call)
        return Lowered(self, call, program, record)

    def stages(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, str]]:
        """(stage, text) for each step of a compilation for these arguments; nothing is run or cached."""
        record = pipeline.Record()
        with pipeline.recording(record):
            executable_of(self._traced(self._described(args, kwargs)))
        return record.entries

    def program_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, list[Any]]:
        """The program for these arguments, traced anew, and its inputs."""
        call = self._described(args, kwargs)
        program = self._traced(call)
        captured = program.captured(self.func)
        assert captured is not None  # it was traced with these
        values = [*(call.leaves[k] for k in program.positions), *captured]
        if program.draws is not None:
            values += program.draws(self.func, [call.leaves[k] for k in program.generators])
        return program, values

    # -- finding and making compilations

    def _described(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        leaves, spec = _flatten_call(self._held, args, kwargs)
        static = self._declared_leaves("static", args, kwargs)
        call = Call(args, kwargs, leaves, spec, [])
        name = lambda: self._leaf_names(call)[len(call.signatures)]
        for k, leaf in enumerate(leaves):
            call.signatures.append(self._static(leaf) if k in static else signature(leaf, name))
        return self._placed(call) if asks_for_devices(self.transforms) else call

    def _placed(self, call: Call) -> Call:
        """The call with the device that it runs on; arrays of devices are ours from here on."""
        for k, sig in enumerate(call.signatures):
            if type(sig) is Input and sig.device is not None:
                call.leaves[k] = adopted(call.leaves[k])
        device = device_of_call(self._name, call.signatures, lambda: self._leaf_names(call), self.transforms)
        return call if device is None else call._replace(device=device)

    @property
    def _held(self) -> GraphFunction | None:
        """The function itself where it is a tree whose leaves, residuals, come before those of the arguments."""
        return self.func if isinstance(self.func, GraphFunction) else None

    def _found(self, call: Call, overlaps: Pattern = ()) -> Found:
        """The compilation for a call, made now if there is none, with its inputs."""
        key = (self._key(call), overlaps) if overlaps else self._key(call)
        found = CACHE.find(key, self.func)
        if found is None:
            with CACHE.compiling(key):
                found = CACHE.find(key, self.func) or self._compiled(key, call, overlaps)
        return with_inputs(found[0], call, found[1])

    def _key(self, call: Call) -> Any:
        base = None if isinstance(self.func, GraphFunction) else base_key(self.func)[0]
        key = (self.transforms, base, call.spec, tuple(call.signatures))
        return key if call.device is None else (*key, call.device)

    def _adopted(self, call: Call, program: Program, lower: Callable[[], Any]) -> Executable:
        """The compilation of a lowered program, which calls find from now on."""
        key = self._key(call)
        with CACHE.compiling(key):
            found = CACHE.find(key, self.func)
            if found is not None:
                return found[0]
            executable = executable_of(program, lower)
            CACHE.add(key, executable)
            return executable

    def _compiled(self, key: Any, call: Call, overlaps: Pattern = ()) -> tuple[Executable, tuple[Any, ...]]:
        folder = os.environ.get("NUFUNC_DUMP")
        record = pipeline.Record() if folder else None
        with pipeline.recording(record):
            executable = executable_of(self._traced(call, overlaps))
        captured = executable.captured(self.func)
        if captured is None:
            raise UnguardedCaptureError(
                f"what {self._name} reaches changed while it was traced; it must not change what it captures"
            )
        CACHE.add(key, executable)
        if record is not None:
            record.write(f"{folder}/{CACHE.compiles - 1:04d}-{self._name}")
        return executable, captured

    def _traced(self, call: Call, overlaps: Pattern = ()) -> Program:
        anchors = () if isinstance(self.func, GraphFunction) else base_key(self.func)[1]
        donated = self._declared_leaves("donate", call.args, call.kwargs)
        names = self._leaf_names(call)

        def trace(transforms: tuple[Transform, ...]) -> Program:
            return trace_call(
                transforms, self.func, call.leaves, call.spec, call.signatures, names, anchors, donated, overlaps,
                call.device,
            )

        jit = self.transforms[0] if self.transforms else None
        if isinstance(jit, Jit) and jit.max_bytes is not None:
            return trace(fitting(self.transforms, jit.max_bytes, trace))
        return trace(self.transforms)

    @property
    def _name(self) -> str:
        return getattr(self.func, "__name__", type(self.func).__name__)

    def _leaf_names(self, call: Call) -> list[str]:
        """What errors call the leaves."""
        callee = Callee(self.transforms, self.func, self.func)
        names = [f"residual {i}" for i in range(len(tree.leaves(self._held)))]
        for i, arg in enumerate(call.args):
            names += leaf_names(callee, i, arg)
        for key in sorted(call.kwargs):
            names += [repr(key) + path for path in tree.paths(call.kwargs[key])]
        return names

    def _declared_leaves(self, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Set[int]:
        """The leaves of arguments that a jit at the head of the chain declares static, or donates."""
        jit = self.transforms[0] if self.transforms else None
        if not isinstance(jit, Jit):
            return _NONE
        argnums, argnames = (
            (jit.static_argnums, jit.static_argnames) if what == "static" else (jit.donate_argnums, ())
        )
        if not (argnums or argnames):
            return _NONE
        names = parameter_names(self.func)
        nums = {i % len(args) for i in argnums if -len(args) <= i < len(args)}
        nums |= {names.index(n) for n in argnames if n in names and names.index(n) < len(args)}
        chosen: set[int] = set()
        at = len(tree.leaves(self._held))
        marked = [(i in nums, arg) for i, arg in enumerate(args)]
        marked += [(key in argnames, kwargs[key]) for key in sorted(kwargs)]
        for mark, arg in marked:
            count = len(tree.leaves(arg))
            chosen |= set(range(at, at + count)) if mark else set()
            at += count
        return chosen

    def _static(self, leaf: Any) -> Static:
        try:
            hash(leaf)
        except TypeError:
            raise ArgumentTypeError(
                f"jit: a static argument must be hashable, got {type(leaf).__name__}", user_location()
            ) from None
        return Static(type(leaf), exact(leaf))


def look_at_contexts(there: bool) -> None:
    """Whether calls have to look for a device's context around them.

    Note [Device contexts]
    The short way of a call does not, since that would cost every call of every function; and it would compute on the
    host what a context sends to a device. So the class has another `__call__` while some thread is inside of one.
    """
    kind: Any = Transformed
    kind.__call__ = kind._call_in_context if there else kind._call_outside


def adopted(leaf: Any) -> Any:
    """An array of a device, of whichever library, as one of ours; specs as they are."""
    from nufunc.runtime.cuda import interop

    return leaf if isinstance(leaf, Spec) else interop.adopted(leaf)


class Call(NamedTuple):
    """The arguments of a call, taken apart, and the number of the device that it runs on, None for the host."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[Any]
    spec: tree.TreeDef
    signatures: list[Input | Static]
    device: int | None = None


class Found(NamedTuple):
    """A compilation with its inputs, captured ones included, the signatures of the leaves of the arguments, and the
    random generators among these leaves that it draws from.
    """

    executable: Executable
    values: list[Any]
    signatures: list[Input | Static]
    generators: list[Any]

    def drawn(self, func: Any) -> list[Any]:
        """The inputs and, drawn now, the random numbers of a call."""
        draws = self.executable.draws
        return self.values if draws is None else [*self.values, *draws(func, self.generators)]


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


def with_inputs(executable: Executable, call: Call, captured: tuple[Any, ...]) -> Found:
    """A compilation with the inputs of a call."""
    values = [*(call.leaves[k] for k in executable.positions), *captured]
    return Found(executable, values, call.signatures, [call.leaves[k] for k in executable.generators])


def _no_front(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In place of a front where there can be none."""
    return NotImplemented

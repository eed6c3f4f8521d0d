"""Trace: one graph under construction, the stack of active traces, and how values enter a graph."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError, EscapedTracerError, Location, ReadOnlyError, TraceError, UnguardedCaptureError
from nufunc.ir.graph import Graph, Value
from nufunc.ir.types import ArrayType, TapeType, dtype_name, kind_of, native, type_of
from nufunc.tracer.array import Array, DynamicView
from nufunc.tracer.layout import canonical
from nufunc.tracer.usercode import user_location


class _Stack(threading.local):
    def __init__(self) -> None:
        self.traces: list[Trace] = []


_ACTIVE = _Stack()


def current() -> Trace | None:
    """The innermost trace of this thread, or None outside tracing."""
    traces = _ACTIVE.traces
    return traces[-1] if traces else None


def require(what: Any = None) -> Trace:
    """The innermost trace; an error where there is none, since then a traced value has escaped."""
    trace = current()
    if trace is None:
        raise _escaped(what)
    return trace


def _escaped(array: Any) -> EscapedTracerError:
    made = f" It was made at {array.location}." if isinstance(array, Array) and array.location else ""
    return EscapedTracerError(
        "a traced value is used after, or outside, the call that traced it: return it from the function "
        "instead "
        f"of keeping it in an outer variable or attribute.{made} It is used at:",
        user_location(),
    )


def refuse_ndarray(array: np.ndarray) -> Array:
    """The default policy for a raw array that reaches an operation: never a silent snapshot."""
    raise UnguardedCaptureError(
        f"an array of shape {array.shape} and dtype {array.dtype} reached traced code in a way that cannot "
        "be looked "
        "up again at the next call; pass it as an argument, or make it a constant with "
        "nf.numpy.asarray(array)",
        user_location(),
    )


_WEAK = frozenset((int, float, complex))


class Trace:
    """A graph of stage *traced* under construction; `with trace:` makes it the one that operations append to.

    `captured` lists the Arrays of enclosing traces that were used, with the parameters that stand for them
    here, in the order of their first use. `on_ndarray` decides what becomes of a raw ndarray that meets an
    operation.
    """

    def __init__(
        self,
        name: str = "f",
        on_ndarray: Callable[[np.ndarray], Array] | None = None,
        parent: Trace | None = None,
    ) -> None:
        self.builder = Builder(name, stage="traced")
        self.level: Any = None  # the transform whose function this is the trace of, see `levels`
        self.concrete: dict[Value, np.ndarray] = {}  # the inputs of an outermost trace that is not to be compiled
        self.parent = parent if parent is not None else current()
        inherited = self.parent.on_ndarray if self.parent is not None else refuse_ndarray
        self.on_ndarray: Callable[[np.ndarray], Array] = on_ndarray if on_ndarray is not None else inherited
        self.captured: dict[int, tuple[Array, Value]] = {}
        self._seen: dict[
            int, tuple[Array, int, Value]
        ] = {}  # Arrays of outer traces and dynamic views, by identity
        self.once = self.parent is None  # whether what is traced runs once in each run of what is around it
        self.lanes: Any = None  # of the lanes of a vmap: what becomes of draws (np_random.Lanes)
        self.draws: Any = None  # of an outermost trace: the draws made at each call (np_random.DrawLog)
        self._wrapped: set[int] = set()  # values that an Array stands for: a second one would be an alias

    # -- the stack

    def __enter__(self) -> Trace:
        _ACTIVE.traces.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _ACTIVE.traces.remove(self)

    def encloses(self, inner: Trace) -> bool:
        """Whether this trace is `inner` or one of those around it."""
        trace: Trace | None = inner
        while trace is not None:
            if trace is self:
                return True
            trace = trace.parent
        return False

    @staticmethod
    def location() -> Location | None:
        """The user's line that is being traced."""
        return user_location()

    @property
    def b(self) -> Builder:
        """The builder, set to the user's current line."""
        self.builder.loc = user_location()
        return self.builder

    # -- parameters and results

    def param(
        self,
        type: ArrayType,
        weak: bool = False,
        strides: tuple[int, ...] | None = None,
        scalar: bool = False,
        hint: str = "",
    ) -> Array:
        """A new parameter. `weak`: a Python scalar; `scalar`: a NumPy scalar rather than a 0-d array."""
        if not isinstance(type, TapeType):
            dtype_name(type.dtype)
        value = self.builder.param(type, hint)
        return self.wrap(value, weak=weak, strides=strides, scalar=scalar or weak)

    def wrap(
        self,
        value: Value,
        *,
        weak: bool = False,
        strides: tuple[int, ...] | None = None,
        scalar: bool = False,
        constant: np.ndarray | None = None,
    ) -> Array:
        """A new Array for a value; a value that another Array stands for is copied first, so that no two
        alias.
        """
        if id(value) in self._wrapped and not isinstance(value.type, TapeType):
            value = self.b.emit("convert", (value,), {"dtype": value.dtype})[0]
        self._wrapped.add(id(value))
        return Array(
            self,
            value,
            weak=weak,
            strides=strides,
            scalar=scalar,
            constant=constant,
            location=self.builder.loc,
        )

    def constant(self, array: np.ndarray) -> Array:
        """A fresh, writable buffer that holds a concrete array."""
        b = self.b
        array = np.asarray(array)
        if array.dtype.hasobject or kind_of(array.dtype) not in "biufc":
            raise DTypeError(f"arrays of dtype {array.dtype} cannot be traced", user_location())
        if array.size and array.ndim <= 1 and array.dtype.kind != "c" and _uniform(array):
            value = b.filled(array.flat[0].item(), type_of(array))
        else:
            value = b.const(array)
        known = np.array(array) if array.size <= 65536 else None
        return self.wrap(value, constant=known, strides=_strides(array))

    def finish(self, outputs: Sequence[Any]) -> Graph:
        """The finished graph; outputs may be anything that `lift` takes."""
        with self:
            return self.builder.build([self.lift(x) for x in outputs])

    # -- how values enter

    def lift(self, x: Any) -> Value:
        """The value of `x` in this graph: of this trace, captured from an enclosing one, or a constant."""
        if type(x) is Array:
            if x.owner is self and not x.dynamic:
                return x.value
            return self._lift_array(x)
        if isinstance(x, Value):
            return x
        if isinstance(x, (bool, int, float, complex, np.generic)):
            return self.scalar(x).value
        if isinstance(x, np.ndarray):
            return self.lift(self.on_ndarray(x))
        raise TraceError(f"{type(x).__name__} cannot be a value of a traced function", user_location())

    def scalar(self, x: Any) -> Array:
        """A Python scalar (weak) or NumPy scalar (strong) as an Array."""
        if isinstance(x, np.generic):
            dtype, weak = native(x.dtype), False
        else:
            weak = type(x) in _WEAK  # as in NumPy, members of an IntEnum are not
            dtype = np.dtype(type(x)) if weak else np.asarray(x).dtype
        dtype_name(dtype)
        known = np.array(x, dtype)  # an int beyond 64 bits raises OverflowError here, as in NumPy
        value = self.b.filled(known.item(), ArrayType((), dtype))
        return self.wrap(value, weak=weak, scalar=True, constant=known)

    def capture(self, x: Array) -> Value:
        """A new parameter that stands for an array of an enclosing trace."""
        value = self.builder.param(x.type)
        self._wrapped.add(id(value))
        self.captured[id(x)] = (x, value)
        self._seen[id(x)] = (x, x.root.version if x.dynamic else 0, value)
        return value

    def _lift_array(self, x: Array) -> Value:
        version = x.root.version if x.dynamic else 0
        seen = self._seen.get(id(x))
        if seen is not None and seen[1] == version:
            return seen[2]
        if not x.owner.encloses(self):
            raise _escaped(x)
        if isinstance(x.via, DynamicView):
            value = x.via.read(self, x.base)
        elif x.via is not None:
            prim, attrs = x.via
            value = self.b.emit(prim, (self.lift(x.base),), attrs)[0]
        else:
            if self.parent is None:
                raise _escaped(x)
            self.parent.lift(x)  # a trace in between captures it first
            return self.capture(x)
        self._seen[id(x)] = (x, version, value)
        return value

    def remember(self, x: Array, value: Value) -> None:
        """Note the value that a new view has as long as nothing is written to its memory."""
        self._wrapped.add(id(value))
        if x.dynamic:
            self._seen[id(x)] = (x, x.root.version, value)

    def write(self, x: Array, value: Value) -> None:
        """Store into the memory of `x`; types are equal. Writes to x[i] with a traced i go through to x's
        base.
        """
        if x.readonly:
            raise ReadOnlyError(f"assignment destination is read-only: {x.readonly}", user_location())
        if x.dynamic:
            holder = x
            while not isinstance(holder.via, DynamicView):
                holder = holder.base  # type: ignore[assignment]
            self.b.emit("write", (self.lift(x), value))
            updated = self.lift(holder)
            holder.via.store(self, holder.base, updated)
        else:
            self.b.emit("write", (self.lift(x), value))
        x.root.version += 1


def _strides(array: np.ndarray) -> tuple[int, ...] | None:
    """Strides of a copy of the array in its order of memory, in elements; None for C order."""
    if array.ndim < 2 or array.flags.c_contiguous:
        return None
    return canonical(array.shape, tuple(s // array.itemsize for s in np.empty_like(array).strides))


def _uniform(array: np.ndarray) -> bool:
    """Whether all elements have the same bits, so that one scalar describes them."""
    first = array.reshape(-1)[:1]
    return array.size <= 65536 and array.tobytes() == first.tobytes() * array.size

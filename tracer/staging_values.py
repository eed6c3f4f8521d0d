"""The values of variables where paths of staged control flow meet: what they have in common, and what they alias."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from nufunc.ir import types
from nufunc.ir.errors import Location, TraceError
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL, ArrayType
from nufunc.tracer.array import Array, DynamicView, Root
from nufunc.tracer.trace import Trace, require
from nufunc.tracer.usercode import user_location


class Undefined:
    """What a variable holds that has no value, or none that can be traced; reading it raises the reason."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def refuse(self, name: str) -> NoReturn:
        what = "the function's result" if name == "@value" else f"the variable {name!r}"
        raise TraceError(f"{what} {self.reason}", user_location())


UNBOUND = Undefined("is not assigned yet")  # stands for a cell without content
NEVER = object()  # stands for a value that is never read


def place(location: Location | None) -> str:
    """How reasons name a statement of the user's."""
    return f"at line {location.line}" if location is not None else "here"


# -- leaves


def is_number(x: Any) -> bool:
    """Whether a leaf of a variable's value can be traced."""
    return isinstance(x, Array | np.ndarray | np.generic | bool | int | float | complex)


@dataclass(frozen=True)
class Kind:
    """What is known of a numeric leaf: its type, and whether it is a Python or NumPy scalar."""

    type: ArrayType
    weak: bool
    scalar: bool

    def __str__(self) -> str:
        python = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}
        return f"a Python {python[self.type.dtype.kind]}" if self.weak else str(self.type)


def as_array(x: Any) -> Array:
    """A numeric leaf as an Array of the current trace, or of one around it."""
    if isinstance(x, Array):
        return x
    trace = require()
    return trace.on_ndarray(x) if isinstance(x, np.ndarray) else trace.scalar(x)


def kind_of(x: Any) -> Kind:
    array = as_array(x)
    return Kind(array.type, array.weak, array.scalar)


_ORDER = "iufc"


def common(kinds: Sequence[Kind]) -> Kind | None:
    """The kind that values of all these kinds have after a meeting of paths; None where there is none.

    Python numbers adapt to each other (int to float) and to NumPy's types of their own category or above.
    """
    first = kinds[0]
    if all(k == first for k in kinds):
        return first
    if len({k.type.shape for k in kinds}) > 1:
        return None
    scalar = all(k.scalar for k in kinds) or not first.type.shape
    strong = {k.type.dtype for k in kinds if not k.weak}
    weak = {k.type.dtype.kind for k in kinds if k.weak}
    if len(strong) > 1 or ("b" in weak and len(weak) > 1):
        return None
    if not strong:
        dtype = max((k.type.dtype for k in kinds), key=lambda d: _ORDER.find(types.kind_of(d)))
        return Kind(ArrayType(first.type.shape, dtype), True, scalar)
    (dtype,) = strong
    if "b" in weak or dtype == BOOL:
        fits = not weak or (weak == {"b"} and dtype == BOOL)
    else:
        fits = all(_ORDER.find(k) <= max(_ORDER.find(types.kind_of(dtype)), 1) for k in weak)
    return Kind(ArrayType(first.type.shape, dtype), False, scalar) if fits else None


def converted(x: Any, kind: Kind) -> Value:
    """The value of a numeric leaf in the current trace, with the dtype of `kind`."""
    trace = require()
    if x is NEVER:
        return trace.b.filled(0, kind.type)
    return trace.b.astype(trace.lift(as_array(x)), kind.type.dtype)


def wrapped(value: Value, kind: Kind) -> Array:
    return require().wrap(value, weak=kind.weak, scalar=kind.scalar)


def same_static(x: Any, y: Any) -> bool:
    """Whether two leaves that are not traced are one and the same constant."""
    if x is y:
        return True
    if type(x) is not type(y):
        return False
    if type(x) in (int, bool, str, bytes, float, complex):
        return repr(x) == repr(y)
    return isinstance(x, np.dtype | range | slice) and x == y


def changeable(value: Any) -> list[Any]:
    """The containers in a value that could be changed in place."""
    parameters = getattr(type(value), "__dataclass_params__", None)
    own = isinstance(value, list | dict | deque) or (parameters is not None and not parameters.frozen)
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, list | tuple | deque):
        items = value
    elif parameters is not None:
        items = vars(value).values()
    return [*([value] if own else []), *(x for item in items for x in changeable(item))]


def perhaps_same(name: str, old: Iterable[Any], new: Any, location: Location | None) -> None:
    """Note that the variable `name` holds copies, where Python's would hold one of the old containers or another."""
    from nufunc.tracer.view import active_session

    session = active_session()
    what = "the value of an expression" if name.startswith("@") else repr(name)
    if session is not None:
        for container in (*old, *changeable(new)):
            session.unseen.may_be_same(container, what, location)


# -- memory


def roots(x: Array) -> set[Root]:
    """The memories that an array may show."""
    return {r for m in x.root.members for r in roots(m)} if isinstance(x.root, _JoinedRoot) else {x.root}


def made_in(x: Array, trace: Trace) -> bool:
    """Whether all the memory that an array may show was allocated in a trace (or is a parameter of it)."""
    if isinstance(x.root, _JoinedRoot):
        return all(made_in(member, trace) for member in x.root.members)
    while x.base is not None:
        x = x.base
    return x.owner is trace


def shows_memory(x: Any) -> bool:
    """Whether a value can be written to in place, so that it matters what else shows its memory."""
    return isinstance(x, Array) and not x.scalar


class _JoinedRoot(Root):
    """The memory of an array that may be that of others; its version counts the writes to all of them."""

    __slots__ = ("members",)

    def __init__(self, members: Iterable[Array]) -> None:
        self.members = tuple(members)

    @property
    def version(self) -> int:
        return sum(member.root.version for member in self.members)

    @version.setter
    def version(self, value: int) -> None:
        """Each write is one to a member, which counts it."""


@dataclass(frozen=True)
class Alias:
    """That an array shows the memory of `array` where `pred` (a traced bool; None: nobody knows where)."""

    pred: Array | None
    array: Array


def joined(result: Array, aliases: Sequence[Alias], name: str, where: str) -> Array:
    """`result`, a copy of values that in Python would be one of several arrays, such that writes to it reach the array
    that it is, and writes to that array reach it. Where it is not known which one it is, such writes are refused.
    """
    if result.scalar or not aliases:
        return result
    members = list(dict.fromkeys(r for a in aliases for r in roots(a.array)))
    versions = [r.version for r in members]
    known = [(a.pred, a.array) for a in aliases if a.pred is not None]
    opaque = list(dict.fromkeys(r for a in aliases if a.pred is None for r in roots(a.array)))
    before = [r.version for r in opaque]

    def refuse(what: str) -> NoReturn:
        raise TraceError(
            f"{name!r} may share its memory with another array, depending on how the statement {where} went, and "
            f"{what}; make it an array of its own first: {name} = {name}.copy()",
            user_location(),
        )

    def read(trace: Trace, base: Array) -> Value:
        value = trace.lift(base)
        if [r.version for r in opaque] != before:
            refuse("that array has been written to since")
        if [r.version for r in members] != versions:
            for pred, array in known:
                value = _select(trace, pred, trace.lift(array), value)
        return value

    def store(trace: Trace, base: Array, updated: Value) -> None:
        if opaque:
            refuse("is written to")
        if trace.lift(base) is not updated:
            trace.write(base, updated)
        for pred, array in known:
            trace.write(array, _select(trace, pred, updated, trace.lift(array)))

    trace = require()
    value = trace.lift(result)
    alias = Array(trace, value, base=result, via=DynamicView(read, store), strides=result.strides_)
    alias.root = _JoinedRoot((result, *(a.array for a in aliases)))
    trace.remember(alias, value)
    return alias


def _select(trace: Trace, pred: Array, x: Value, y: Value) -> Value:
    b = trace.b
    return b.select(b.broadcast_to(trace.lift(pred), x.shape), x, y)


def choose(pred: Array, x: Any, y: Any, kind: Kind) -> Array:
    """x where pred, else y, for values that exist already."""
    trace = require()
    if kind.type == ArrayType((), BOOL) and x is True and y is False:
        return wrapped(trace.b.astype(trace.lift(pred), BOOL), kind)
    return wrapped(_select(trace, pred, converted(x, kind), converted(y, kind)), kind)


def negated(pred: Array) -> Array:
    trace = require()
    return trace.wrap(trace.b.bit_not(trace.lift(pred)), weak=True, scalar=True)

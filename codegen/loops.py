"""Loop nests: what a fused region becomes before any target is chosen, as plain data that prints readably.

Note [LoopNest]
A nest has outer axes and, inside them, phases that run one after the other for each point of the outer axes.
A phase has axes of its own, a body of scalar instructions in SSA form and accumulators. An elementwise
kernel is one phase without axes; a sum over rows is a phase that accumulates along its axis and a second
one, without axes, that stores; a softmax over rows is three phases. All accesses are flat: a buffer is
C-contiguous and an address is an affine form in axes and in i64 values (of loads, of index arithmetic), in
elements.

Instructions stand in the body in an order in which they can run at the innermost level. An emitter places
each at the level of the loop that it depends on (`levels`); instructions that depend on outer axes alone run
once per point of these. The ids of instructions, accumulators included, are unique in the nest; a phase may
use ids of outer level and accumulators of the phases before it, and nothing else of them.

Instructions, by `op`:
    load   buffer[index] -> dtype; where `guard` (an id of a b1) is false the value is arbitrary and nothing
    is read store  buffer[index] = args[0] (mode "set"), or += (mode "add"), where `guard` holds
    index  the i64 value of the affine form `index`
    const  the scalar attrs["value"] of dtype
    check  the index args[0] must be in 0 <= i < attrs["extent"]: otherwise error site `attrs["site"]` is
    recorded;
           the result is the index, or 0 where it is outside
    running    the updated value of accumulator attrs["accumulator"] (cumulative sums)
    index_div, index_mod   of a non-negative i64 by the positive constant attrs["by"]
    any other name is an elementwise primitive on args with its attrs

A nest's `vector` names the outer axis whose points are computed `lanes` at a time; a phase's `vector` an
axis of its own. The last block of a parallel axis overlaps the one before (it starts at extent - lanes),
that of a reduced one masks the lanes already seen; so no remainder loop is needed. A nest with `exact`
writes what it reads: its lanes divide the extent.

An axis with `part` goes through the part of its extent that belongs to the value of another axis: a task of a divided
reduction, a tile of a transposition. A nest that is `split` is given, at each call, a range of one of its outer axes.
Buffers in `past` are stored past the caches (Note [Streams]).
Where lanes lie far apart in memory but neighbours along another axis side by side (a transposition), this axis is
`turned`: it too goes in steps of `lanes`, whose points are written out, and squares are loaded and stored by rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nufunc.ir.types import dtype_name

Key = str | int  # an axis by name or an instruction by id
AxisKind = Literal["parallel", "reduce", "serial"]


@dataclass(frozen=True)
class Axis:
    """One loop: 0 <= name < extent. "serial" must run in order, "reduce" may be split over lanes. `part` is (axis,
    n, unit): only the part of it that belongs to the value of that axis, of n parts that begin at multiples of unit.
    """

    name: str
    extent: int
    kind: AxisKind = "parallel"
    part: tuple[str, int, int] | None = None

    @property
    def trips(self) -> int:
        """Points that the loop goes through each time."""
        return self.extent if self.part is None else -(-self.extent // self.part[1])


@dataclass(frozen=True)
class Affine:
    """const + the sum of coefficient * key."""

    const: int = 0
    terms: tuple[tuple[Key, int], ...] = ()

    @staticmethod
    def of(key: Key, coefficient: int = 1) -> Affine:
        return Affine(0, ((key, coefficient),))

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.const + other, self.terms)
        if not other.terms:
            return Affine(self.const + other.const, self.terms)
        if not self.terms:
            return Affine(self.const + other.const, other.terms)
        sums = dict(self.terms)
        for key, coefficient in other.terms:
            sums[key] = sums.get(key, 0) + coefficient
        return Affine(self.const + other.const, _sorted(sums))

    def __mul__(self, factor: int) -> Affine:
        if factor == 1:
            return self
        if factor == 0:
            return Affine()
        return Affine(self.const * factor, tuple((k, c * factor) for k, c in self.terms))

    def coefficient(self, key: Key) -> int:
        return next((c for k, c in self.terms if k == key), 0)

    def merged(self, outer: str, inner: str, name: str) -> Affine:
        """With two axes replaced by one that runs over both, `inner` fastest."""
        sums = {(name if k == inner else k): c for k, c in self.terms if k != outer}
        return Affine(self.const, _sorted(sums))

    def __str__(self) -> str:
        parts = [(f"{c}*" if c != 1 else "") + (k if isinstance(k, str) else f"%{k}") for k, c in self.terms]
        if self.const or not parts:
            parts.append(str(self.const))
        return " + ".join(parts).replace("+ -", "- ")


def _sorted(sums: Mapping[Key, int]) -> tuple[tuple[Key, int], ...]:
    return tuple(sorted(((k, c) for k, c in sums.items() if c), key=lambda t: (isinstance(t[0], int), t[0])))


@dataclass(frozen=True)
class Inst:
    """One instruction; see Note [LoopNest]."""

    id: int
    op: str
    args: tuple[int, ...]
    dtype: np.dtype
    attrs: Mapping[str, Any] = field(default_factory=dict)
    buffer: int = -1
    index: Affine = Affine()
    guard: int | None = None

    def uses(self) -> Iterator[int]:
        """Ids that it reads."""
        yield from self.args
        for key, _ in self.index.terms:
            if isinstance(key, int):
                yield key
        if self.guard is not None:
            yield self.guard

    def __str__(self) -> str:
        guard = f" if %{self.guard}" if self.guard is not None else ""
        args = ", ".join(f"%{a}" for a in self.args)
        if self.op == "load":
            return f"%{self.id} = b{self.buffer}[{self.index}]{guard}"
        if self.op == "store":
            sign = "+=" if self.attrs.get("mode") == "add" else "="
            return f"b{self.buffer}[{self.index}] {sign} {args}{guard}"
        if self.op == "index":
            return f"%{self.id} = {self.index}"
        if self.op == "const":
            return f"%{self.id} = {self.attrs['value']!r}"
        extra = "".join(f", {k}={v}" for k, v in self.attrs.items())
        return f"%{self.id} = {self.op}({args}{extra}): {dtype_name(self.dtype)}"


@dataclass(frozen=True)
class Accumulator:
    """`op` combines (an elementwise primitive, or "argmax", "argmin") from `init` on the values `value` of a
    phase.

    `id` is the result after the phase. For argmax and argmin `index` is the id of the i64 position and the
    result is it.
    """

    id: int
    op: str
    value: int
    init: Any
    dtype: np.dtype
    index: int | None = None


@dataclass(frozen=True)
class Phase:
    """Loops inside the outer ones, their body and accumulators."""

    axes: tuple[Axis, ...]
    body: tuple[Inst, ...]
    accumulators: tuple[Accumulator, ...] = ()
    vector: str | None = None
    lanes: int = 1


@dataclass(frozen=True)
class Buffer:
    """One array that a nest reads or writes, as a flat sequence. A `scratch` one holds a row between two
    phases: whoever runs the nest provides the memory, whose contents nobody reads afterwards."""

    name: str
    dtype: np.dtype
    size: int
    written: bool = False
    scratch: bool = False


@dataclass(frozen=True)
class LoopNest:
    """See Note [LoopNest]. `copies` is the number of the buffer that the nest only copies to the output, or
    None. `split` is an outer axis of which `tasks` tasks take parts. `turned`: see Note [LoopNest]."""

    name: str
    buffers: tuple[Buffer, ...]
    axes: tuple[Axis, ...]
    phases: tuple[Phase, ...]
    vector: str | None = None
    lanes: int = 1
    exact: bool = False
    copies: int | None = None
    split: str | None = None
    tasks: int = 1
    turned: str | None = None
    past: frozenset[int] = frozenset()

    def step(self, axis: Axis) -> int:
        """Points of an outer axis that one iteration does."""
        return self.lanes if axis.name in (self.vector, self.turned) else 1

    def all_axes(self) -> Iterator[Axis]:
        yield from self.axes
        for phase in self.phases:
            yield from phase.axes

    def __str__(self) -> str:
        buffers = ", ".join(f"b{k} {b.name}: {dtype_name(b.dtype)}[{b.size}]" for k, b in enumerate(self.buffers))
        past = f" past {', '.join(f'b{k}' for k in sorted(self.past))}" if self.past else ""
        lines = [f"nest {self.name}({buffers}){past}"]
        pad = ""
        for axis in self.axes:
            pad += "  "
            split = f", split into {self.tasks} tasks" if axis.name == self.split else ""
            turned = f" by {self.lanes}, turned" if axis.name == self.turned else ""
            lines.append(pad + _loop_line(axis, self.vector, self.lanes) + turned + split)
        for phase in self.phases:
            inner = pad + "  "
            lines.extend(f"{inner}%{acc.id} = {acc.init!r}" for acc in phase.accumulators)
            for axis in phase.axes:
                lines.append(inner + _loop_line(axis, phase.vector, phase.lanes))
                inner += "  "
            lines.extend(inner + str(inst) for inst in phase.body)
            for acc in phase.accumulators:
                at = f" at %{acc.index}" if acc.index is not None else ""
                lines.append(f"{inner}%{acc.id} <- {acc.op}(%{acc.id}, %{acc.value}{at})")
        return "\n".join(lines)


def _loop_line(axis: Axis, vector: str | None, lanes: int) -> str:
    by = f" by {lanes} lanes" if axis.name == vector else ""
    part = "" if axis.part is None else f", part {axis.part[0]} of {axis.part[1]} by {axis.part[2]}"
    return f"for {axis.name} in 0..{axis.extent}{by}: {axis.kind}{part}"


def levels(nest: LoopNest, phase: Phase, known: dict[int, int]) -> dict[int, int]:
    """For each instruction of a phase the number of loops that enclose it: 0 is before all, len(nest.axes)
    the phase's start, len(nest.axes) + len(phase.axes) its innermost level. `known` holds the levels of the
    phases before and is extended. Stores and running values have the level of their address and operands."""
    position = {axis.name: k + 1 for k, axis in enumerate((*nest.axes, *phase.axes))}
    innermost = len(nest.axes) + len(phase.axes)
    if nest.turned is not None:  # its points are written out in the innermost loop
        position[nest.turned] = innermost
    for inst in phase.body:
        level = 0
        if inst.op == "running":
            level = innermost
        for key, _ in inst.index.terms:
            if isinstance(key, str):
                level = max(level, position[key])
        for arg in inst.uses():
            level = max(level, known[arg])
        if inst.op == "store" and inst.attrs.get("mode") == "add":
            level = innermost
        known[inst.id] = level
    for acc in phase.accumulators:
        known[acc.id] = len(nest.axes)
    return known


def varying(nest: LoopNest, phase: Phase, vector: str | None, known: set[int]) -> set[int]:
    """Ids of a phase whose value differs from lane to lane of axis `vector`; `known` holds those of earlier
    phases."""
    for inst in phase.body:
        own = any(k == vector for k, _ in inst.index.terms) or inst.op == "running"
        if own or any(a in known for a in inst.uses()):
            known.add(inst.id)
    return known


SHORT_STEP = 4  # distance of elements up to which a vector load also loads all between them


def lies_across(inst: Inst, vector: str, along: str) -> bool:
    """Whether an access is far apart from lane to lane and side by side along another axis."""
    return abs(inst.index.coefficient(vector)) > SHORT_STEP and inst.index.coefficient(along) == 1

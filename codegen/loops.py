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
Where lanes lie far apart in memory but neighbours along another axis side by side (a transposition), this axis is
`turned`: it too goes in steps of `lanes`, whose points are written out, and squares are loaded and stored by rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

    def step(self, axis: Axis) -> int:
        """Points of an outer axis that one iteration does."""
        return self.lanes if axis.name in (self.vector, self.turned) else 1

    def all_axes(self) -> Iterator[Axis]:
        yield from self.axes
        for phase in self.phases:
            yield from phase.axes

    def __str__(self) -> str:
        buffers = ", ".join(f"b{k} {b.name}: {dtype_name(b.dtype)}[{b.size}]" for k, b in enumerate(self.buffers))
        lines = [f"nest {self.name}({buffers})"]
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


def _accesses(insts: Sequence[Inst]) -> list[Affine]:
    return [i.index for i in insts if i.op in ("load", "store", "index")]


def collapse(nest: LoopNest) -> LoopNest:
    """Merge neighbouring axes that every address passes through in step, so that loops are few and long."""
    axes = list(nest.axes)
    phases = list(nest.phases)
    merged: list[Axis] = []
    for axis in axes:
        if merged and _in_step(merged[-1], axis, [i for p in phases for i in p.body]):
            joint, outer = _joined(merged.pop(), axis)
            phases = [_renamed(p, outer, axis.name, joint.name) for p in phases]
            axis = joint
        merged.append(axis)
    done = []
    for phase in phases:
        inner: list[Axis] = []
        for axis in phase.axes:
            if inner and _in_step(inner[-1], axis, phase.body):
                joint, outer = _joined(inner.pop(), axis)
                phase = _renamed(phase, outer, axis.name, joint.name)
                axis = joint
            inner.append(axis)
        done.append(Phase(tuple(inner), phase.body, phase.accumulators))
    return _with(nest, axes=tuple(merged), phases=tuple(done))


def _joined(outer: Axis, inner: Axis) -> tuple[Axis, str]:
    return Axis(inner.name, outer.extent * inner.extent, inner.kind), outer.name


def _in_step(outer: Axis, inner: Axis, insts: Sequence[Inst]) -> bool:
    if outer.kind != inner.kind:
        return False
    return all(a.coefficient(outer.name) == a.coefficient(inner.name) * inner.extent for a in _accesses(insts))


def _renamed(phase: Phase, outer: str, inner: str, name: str) -> Phase:
    body = tuple(
        Inst(i.id, i.op, i.args, i.dtype, i.attrs, i.buffer, i.index.merged(outer, inner, name), i.guard)
        for i in phase.body
    )
    return Phase(phase.axes, body, phase.accumulators)


def _with(nest: LoopNest, **changes: Any) -> LoopNest:
    fields = {name: getattr(nest, name) for name in LoopNest.__dataclass_fields__}
    return LoopNest(**{**fields, **changes})


# -- which axis runs over the lanes of vectors

SHORT_STEP = 4  # distance of elements up to which a vector load also loads all between them
_LITTLE = 16384  # points of a nest below which one register per vector is enough

_DEAR = {
    "div": 4, "sqrt": 5, "exp": 12, "log": 12, "expm1": 16, "log1p": 16, "sin": 16, "cos": 16,
    "tan": 24, "tanh": 16, "pow": 40, "erf": 20, "erfc": 24, "erfinv": 24, "erfcinv": 30, "logistic": 16, "exp2": 12, "log2": 12,
    "log10": 12, "sinh": 20, "cosh": 20, "asin": 20, "acos": 20, "atan": 16, "atan2": 24,
    "asinh": 24, "acosh": 24, "atanh": 20, "cbrt": 20, "hypot": 8, "lgamma": 40, "digamma": 40,
}  # fmt: skip


def op_cost(op: str) -> int:
    """Roughly the cycles of an elementwise primitive on one vector."""
    return _DEAR.get(op, 1)


def schedule(nest: LoopNest, vector_bytes: int) -> LoopNest:
    """Collapse axes, choose the vectorised ones and the lanes, and put these loops innermost."""
    nest = collapse(nest)
    insts = [i for p in nest.phases for i in p.body]
    if any(i.dtype.kind == "c" for i in insts) or not any(a.extent > 1 for a in nest.all_axes()):
        return nest
    item = max([i.dtype.itemsize for i in insts if i.dtype.kind == "f"] or [0])
    item = item or max([i.dtype.itemsize for i in insts if i.op in ("load", "store")] or [8])
    width = max(1, vector_bytes // item)
    outer = [(_outer_cost(nest, a, width), k, a) for k, a in enumerate(nest.axes) if a.kind == "parallel"]
    if any(b.scratch for b in nest.buffers):  # it holds one row, not one per lane
        outer = []
    inner = [(_inner_choice(nest, p, width)) for p in nest.phases]
    inner_cost = sum(cost for cost, _ in inner)
    best = min(outer, key=lambda t: (t[0], -t[1]), default=None)
    if best is not None and best[0] < 0.98 * inner_cost:
        axis = best[2]
        lanes = _lanes(axis.extent, width, _unroll(nest, nest.phases, axis.name), nest.exact)
        axes = _last(nest.axes, axis)
        along = _along_lines(nest, axis) if lanes > 1 else None
        turned = None
        if along is not None:
            square = min(lanes, _SQUARE)
            if along.extent >= square and not nest.exact:
                lanes, turned = square, along.name
            axes = _tiled(axes, axis, along, lanes if turned else 1)
        return _with(nest, axes=axes, vector=axis.name if lanes > 1 else None, lanes=lanes, turned=turned)
    phases = []
    for phase, (_, chosen) in zip(nest.phases, inner, strict=True):
        if chosen is None:
            phases.append(phase)
            continue
        lanes = _lanes(chosen.extent, width, _unroll(nest, (phase,), chosen.name), nest.exact)
        vector = chosen.name if lanes > 1 else None
        phases.append(Phase(_last(phase.axes, chosen), phase.body, phase.accumulators, vector, lanes))
    return _with(nest, phases=tuple(phases))


_TILE = 64  # rows of a transposition that are written side by side: as many pages as the processor knows well
_SQUARE = 16  # lanes of a turned axis at most, since its points are written out


def _tiled(axes: tuple[Axis, ...], vector: Axis, along: Axis, unit: int) -> tuple[Axis, ...]:
    """With the loop over `along` innermost, in parts whose number is a loop outside the vectors' one."""
    rest = tuple(a for a in axes if a not in (vector, along))
    parts = -(-along.extent // _TILE)
    if parts == 1:
        return (*rest, vector, along)
    return (*rest, Axis("tile", parts), vector, Axis(along.name, along.extent, along.kind, ("tile", parts, unit)))


def _along_lines(nest: LoopNest, vector: Axis) -> Axis | None:
    """Where lanes lie far apart in memory, as in a transposition: the axis along which the next elements of the same
    cache lines come. Its loop is the innermost, so that each line is fetched once."""
    if any(p.axes for p in nest.phases):
        return None
    for inst in (i for p in nest.phases for i in p.body if i.op in ("load", "store")):
        for axis in nest.axes:
            if axis.kind == "parallel" and axis != vector and lies_across(inst, vector.name, axis.name):
                return axis
    return None


def lies_across(inst: Inst, vector: str, along: str) -> bool:
    """Whether an access is far apart from lane to lane and side by side along another axis."""
    return abs(inst.index.coefficient(vector)) > SHORT_STEP and inst.index.coefficient(along) == 1


def _unroll(nest: LoopNest, phases: Sequence[Phase], axis: str) -> int:
    """How many registers wide vectors are. Short accumulations want many independent sums; long bodies,
    gathers and little work are not worth the code."""
    points = max(_points((*nest.axes, *p.axes)) for p in phases)
    insts = [i for p in phases for i in p.body]
    cost = sum(op_cost(i.op) for i in insts if i.op not in ("load", "store", "const", "index"))
    gathers = any(
        abs(i.index.coefficient(axis)) > 1 or any(isinstance(k, int) for k, _ in i.index.terms) for i in insts
    )
    if gathers or points < _LITTLE or cost > 60:
        return 1
    return 4 if any(p.accumulators for p in phases) and cost <= 8 else 2


def _last(axes: tuple[Axis, ...], axis: Axis) -> tuple[Axis, ...]:
    return (*(a for a in axes if a != axis), axis)


def _lanes(extent: int, width: int, unroll: int, exact: bool) -> int:
    """Lanes of a power of two with the least work, the most of equals; beyond the register's width they
    interleave."""
    best, work = 1, extent * width
    lanes = 2
    while lanes <= min(width * unroll, extent):
        if not exact or extent % lanes == 0:
            blocks = -(-extent // lanes)
            cost = blocks * max(lanes, width)
            if cost <= work:
                best, work = lanes, cost
        lanes *= 2
    return best


def _outer_cost(nest: LoopNest, axis: Axis, width: int) -> float:
    total, lanes = 0.0, _effective(axis.extent, width)
    known: set[int] = set()
    for phase in nest.phases:
        known = varying(nest, phase, axis.name, known)
        known.update(a.id for a in phase.accumulators if a.value in known)
        points = _points((*nest.axes, *phase.axes))
        total += points * sum(inst_cost(i, axis.name, known, lanes) for i in phase.body)
    return total


def _inner_choice(nest: LoopNest, phase: Phase, width: int) -> tuple[float, Axis | None]:
    """The cheapest axis of a phase to vectorise (None: none), and the cost."""
    points = _points((*nest.axes, *phase.axes))
    scalar = points * sum(inst_cost(i, "", set(), 1) for i in phase.body)
    best: tuple[float, Axis | None] = (float(scalar), None)
    if any(i.op == "running" for i in phase.body):
        return best
    for axis in phase.axes:
        if axis.kind == "serial" or axis.extent == 1:
            continue
        known = varying(nest, phase, axis.name, set())
        lanes = _effective(axis.extent, width)
        cost = points * sum(inst_cost(i, axis.name, known, lanes) for i in phase.body)
        cost += 8 * points / axis.extent * len(phase.accumulators)  # combining the lanes
        if cost < best[0]:
            best = (cost, axis)
    return best


def points(nest: LoopNest) -> int:
    """Executions of the innermost bodies."""
    return sum(_points((*nest.axes, *p.axes)) for p in nest.phases)


def _points(axes: Sequence[Axis]) -> int:
    total = 1
    for axis in axes:
        total *= axis.trips
    return total


def _effective(extent: int, width: int) -> float:
    lanes = _lanes(extent, width, 1, False)
    return extent / -(-extent // lanes)


def inst_cost(inst: Inst, axis: str, known: set[int], lanes: float) -> float:
    """Cycles per point of an instruction that runs on `lanes` points of an axis at a time."""
    if inst.op == "const":
        return 0.0
    if lanes == 1:
        return 1.0 if inst.op in ("load", "store", "index") else float(op_cost(inst.op))
    if inst.id not in known:
        return 0.1  # hoisted, or one scalar for all lanes
    if inst.op in ("load", "store"):
        step = inst.index.coefficient(axis)
        if any(k in known for k, _ in inst.index.terms if isinstance(k, int)):
            return 1.2
        if step == 1 or step == -1:
            return (1.0 if step == 1 else 1.5) / lanes
        return step / lanes if inst.op == "load" and 1 < step <= SHORT_STEP else 1.2
    if inst.op in ("floor_div", "mod", "index_div", "index_mod") and inst.dtype.kind in "iu":
        return 6.0
    return op_cost(inst.op) / lanes

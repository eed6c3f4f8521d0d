"""Which loop nests are worth several threads, and how they are divided among tasks.

Note [Divided nests]
A nest whose outer axes are long enough is `split` along one of them: its function takes a range of that axis. One
that reduces nearly everything becomes two: the first has a task axis outermost and goes, for each task, through a
part of the reduced axis, and stores what its accumulators come to; the second combines these partial results in
order and goes on. Tasks and parts follow from the nest alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nufunc.codegen.loops import (
    Accumulator,
    Affine,
    Axis,
    Buffer,
    Inst,
    LoopNest,
    Phase,
    varying,
)
from nufunc.codegen.schedule import inst_cost, schedule
from nufunc.codegen.threads import tasks_for
from nufunc.ir.types import INT64

CYCLES_PER_NS, NEAR_BYTES_PER_NS, FAR_BYTES_PER_NS = 3, 60, 10
PER_CYCLE = 3  # simple instructions that run at a time
CACHE = 4 << 20  # bytes that a nest may touch and find in the caches
MOST_SUMS = 4096  # partial results of a task at most


@dataclass(frozen=True)
class Divided:
    """Nests to run in order, and the sizes in bytes of buffers that they share, behind the nest's own."""

    nests: tuple[LoopNest, ...]
    shared: tuple[int, ...] = ()


def nest_work(nest: LoopNest, vector_bytes: int) -> float:
    """Nanoseconds of one thread, roughly, of a scheduled nest."""
    cycles, known = 0.0, set[int]()
    for phase in nest.phases:
        vector, lanes = (phase.vector, phase.lanes) if phase.vector else (nest.vector, nest.lanes)
        known = varying(nest, phase, vector, known)
        lanes = min(lanes, vector_bytes // 8)  # wider vectors are several registers
        points = 1
        for axis in (*nest.axes, *phase.axes):
            points *= axis.trips
        costs = [inst_cost(i, vector or "", known, lanes) for i in phase.body]
        cycles += points * sum(c if c * lanes > 1 else c / PER_CYCLE for c in costs)
    used = {i.buffer for p in nest.phases for i in p.body if i.buffer >= 0}
    touched = sum(nest.buffers[k].size * nest.buffers[k].dtype.itemsize for k in used)
    return max(cycles / CYCLES_PER_NS, touched / (FAR_BYTES_PER_NS if touched > CACHE else NEAR_BYTES_PER_NS))


def divide(nest: LoopNest, vector_bytes: int, repeated: bool = False) -> Divided:
    """A scheduled nest as one or two, of which tasks can take parts; `repeated`: it stands in a loop of many steps."""
    tasks = tasks_for(nest_work(nest, vector_bytes), repeated)
    if tasks < 2:
        return Divided((nest,))
    units = [-(-a.extent // nest.step(a)) if a.kind == "parallel" and a.part is None else 1 for a in nest.axes]
    enough = [k for k, n in enumerate(units) if n >= tasks]
    best = enough[0] if enough else max(range(len(units)), key=units.__getitem__, default=0)
    if units and units[best] >= min(tasks, 8):
        return Divided((replace(nest, split=nest.axes[best].name, tasks=min(tasks, units[best])),))
    return _by_reduction(nest, tasks, vector_bytes) or Divided((nest,))


def _units(axis: Axis, vector: str | None, lanes: int) -> int:
    return -(-axis.extent // (lanes if axis.name == vector else 1))


def _by_reduction(nest: LoopNest, tasks: int, vector_bytes: int) -> Divided | None:
    """Partial results of tasks, then their combination; None where the nest has another form."""
    first, *rest = nest.phases
    if not first.accumulators or not first.axes or any(p.axes or p.accumulators for p in rest):
        return None
    if any(b.scratch for b in nest.buffers) or any(
        i.op == "running" or i.attrs.get("mode") == "add" for i in first.body
    ):
        return None
    units = [_units(a, first.vector, first.lanes) for a in first.axes]
    chosen = max(range(len(units)), key=lambda k: (units[k] >= tasks, -k if units[k] >= tasks else units[k]))
    tasks = min(tasks, units[chosen])
    sums = 1
    for axis in nest.axes:
        sums *= axis.extent
    if tasks < 2 or sums > MOST_SUMS:
        return None
    return _Halves(nest, tasks, first.axes[chosen].name, sums).build(vector_bytes)


class _Halves:
    """The two nests of a divided reduction."""

    def __init__(self, nest: LoopNest, tasks: int, axis: str, sums: int) -> None:
        self.nest, self.tasks, self.axis, self.sums = nest, tasks, axis, sums
        ids = [i.id for p in nest.phases for i in p.body] + [a.id for p in nest.phases for a in p.accumulators]
        self.next_id = max(ids) + 1
        place = Affine.of("task", sums)
        step = 1
        for outer in reversed(nest.axes):
            place = place + Affine.of(outer.name, step)
            step *= outer.extent
        self.place = place
        self.buffers = list(nest.buffers)

    def build(self, vector_bytes: int) -> Divided:
        nest, (first, *rest) = self.nest, self.nest.phases
        stores: list[Inst] = []
        loads: list[Inst] = []
        combined: list[Accumulator] = []
        more: list[Accumulator] = []
        for acc in first.accumulators:
            if acc.index is None:
                combined.append(replace(acc, value=self._kept(acc.id, acc.dtype, stores, loads)))
                continue
            extreme = "maximum" if acc.op == "argmax" else "minimum"
            more.append(Accumulator(self.next_id, extreme, acc.value, acc.init, acc.dtype))
            self.next_id += 1
            position = self._kept(acc.id, INT64, stores, loads)
            combined.append(replace(acc, value=self._kept(more[-1].id, acc.dtype, stores, loads), index=position))
        unit = first.lanes if first.vector == self.axis else 1
        axes = tuple(replace(a, part=("task", self.tasks, unit)) if a.name == self.axis else a for a in first.axes)
        loops = replace(first, axes=axes, accumulators=(*first.accumulators, *more))
        parts = replace(
            nest,
            name=f"{nest.name}.parts",
            buffers=tuple(self.buffers),
            axes=(Axis("task", self.tasks), *nest.axes),
            phases=(loops, Phase((), tuple(stores))),
            split="task",
            tasks=self.tasks,
        )
        joining = Phase((Axis("task", self.tasks, "reduce"),), tuple(loads), tuple(combined))
        again = self._again(first, rest)
        if rest:
            rest[0] = replace(rest[0], body=(*again, *rest[0].body))
        joint = replace(
            nest, buffers=tuple(self.buffers), axes=nest.axes, phases=(joining, *rest), vector=None, lanes=1
        )
        shared = self.buffers[len(nest.buffers) :]
        return Divided((parts, schedule(joint, vector_bytes)), tuple(b.size * b.dtype.itemsize for b in shared))

    def _kept(self, value: int, dtype: np.dtype, stores: list[Inst], loads: list[Inst]) -> int:
        """Store an accumulator's partial result; the id of its load."""
        buffer = len(self.buffers)
        self.buffers.append(Buffer(f"part{buffer}", dtype, self.tasks * self.sums, written=True))
        stores.append(Inst(self.next_id, "store", (value,), dtype, {"mode": "set"}, buffer, self.place))
        loads.append(Inst(self.next_id + 1, "load", (), dtype, {}, buffer, self.place))
        self.next_id += 2
        return self.next_id - 1

    def _again(self, first: Phase, rest: list[Phase]) -> list[Inst]:
        """What later phases use of the first one's instructions, which depend on outer axes alone."""
        wanted = {a for p in rest for i in p.body for a in i.uses()}
        found = []
        for inst in reversed(first.body):
            if inst.id in wanted and inst.op != "store":
                found.append(inst)
                wanted.update(inst.uses())
        return found[::-1]

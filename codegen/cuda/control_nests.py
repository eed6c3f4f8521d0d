"""Loop nests inside kernels that hold control flow: run by one thread, or by all threads of a block.

A value of one element stands in a register of every thread, others in memory (`Home`). A block's threads stride over
the points of a nest; where these are few and each reduces something, several lanes of a warp share a point and combine
what they have by shuffles. A nest that leaves numbers is run by every warp, or by the whole block, which meets in
shared memory, where it is long or where a phase reads what another has stored. All threads end with the same number,
bit by bit, since they decide by it where they go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nufunc.codegen.cuda.groups import keeps, shuffled
from nufunc.codegen.emit_text import NestWriter
from nufunc.codegen.loops import Accumulator, Affine, Axis, Inst, LoopNest, Phase
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.text_scalars import type_text
from nufunc.ir.types import INT64

WARP = 32
_WHOLE = 256  # points of a reduction to one number from which all threads of a block take part


@dataclass(frozen=True)
class Home:
    """Where a value stands in a kernel: in the register `name`, or in the buffer `name` from element `offset` on.
    `area` are the bytes that it may touch, (memory, start, stop)."""

    name: str
    dtype: np.dtype
    register: bool = False
    offset: str = ""
    area: tuple[str, int, int] | None = None
    row: bool = False  # one that threads of a warp share between phases
    lane: int = 0  # elements of the array of which the thread has those of its lane

    def element(self, index: str) -> str:
        if self.register:
            return self.name
        return f"{self.name}[{self.offset} + {index}]" if self.offset else f"{self.name}[{index}]"

    def read(self, index: str) -> str:
        text = self.element(index)
        return f"{text} != 0" if self.dtype.kind == "b" and not self.register else text

    def stored(self, value: str) -> str:
        return f"uint8({value})" if self.dtype.kind == "b" and not self.register else value

    def at(self, offset: str) -> Home:
        """The same memory from a later element on."""
        return replace(self, offset=f"{self.offset} + {offset}" if self.offset else offset)


def renumbered(nest: LoopNest, first: int) -> tuple[LoopNest, int]:
    """The nest with numbers from `first` on, so that names are unique in a kernel; and the next free one."""
    index = lambda a: Affine(a.const, tuple((k if isinstance(k, str) else k + first, c) for k, c in a.terms))
    highest = first

    def moved(inst: Inst) -> Inst:
        nonlocal highest
        highest = max(highest, inst.id + first + 1)
        attrs = inst.attrs
        if inst.op == "running":
            attrs = {**attrs, "accumulator": attrs["accumulator"] + first}
        guard = None if inst.guard is None else inst.guard + first
        return replace(
            inst, id=inst.id + first, args=tuple(a + first for a in inst.args), attrs=attrs, index=index(inst.index),
            guard=guard,
        )  # fmt: skip

    def combined(acc: Accumulator) -> Accumulator:
        nonlocal highest
        highest = max(highest, acc.id + first + 1)
        place = None if acc.index is None else acc.index + first
        return replace(acc, id=acc.id + first, value=acc.value + first, index=place)

    phases = tuple(
        replace(p, body=tuple(map(moved, p.body)), accumulators=tuple(map(combined, p.accumulators)))
        for p in nest.phases
    )
    return replace(nest, phases=phases), highest


def count(axes: Sequence[Axis]) -> int:
    points = 1
    for axis in axes:
        points *= axis.extent
    return points


def outer_points(nest: LoopNest) -> int:
    """Points that threads may share."""
    return count([a for a in nest.axes if a.kind == "parallel"])


def reduced_points(nest: LoopNest) -> int:
    return max((count(p.axes) for p in nest.phases), default=1)


def in_order(nest: LoopNest) -> bool:
    return any(a.kind == "serial" for a in nest.all_axes())


class ThreadNest(NestWriter):
    """A nest run by one thread, over homes."""

    def __init__(self, nest: LoopNest, homes: Sequence[Home], sites: Sites, depth: int) -> None:
        super().__init__(nest, [h.name for h in homes], sites)
        self.homes, self.depth = homes, depth

    def place(self, inst: Inst) -> str:
        """The index of a load or store in its home."""
        return self.affine(inst.index)

    def element(self, inst: Inst) -> str:
        return self.homes[inst.buffer].element(self.place(inst))

    def computed(self, inst: Inst) -> str:
        home = self.homes[inst.buffer] if inst.op == "load" else None
        if home is None or home.register or home.dtype.kind != "b":
            return super().computed(inst)
        text = home.read(self.place(inst))
        return text if inst.guard is None else f"{text} if {self.value(inst.guard)} else bool_(False)"

    def store(self, inst: Inst) -> None:
        home = self.homes[inst.buffer]
        if home.register or home.dtype.kind != "b":
            super().store(inst)
            return
        index = self.place(inst)
        value = self.value(inst.args[0])
        if inst.attrs["mode"] == "add":
            value = f"{home.read(index)} | {value}"
        guard = "" if inst.guard is None else f"if {self.value(inst.guard)}: "
        self.line(f"{guard}{home.element(index)} = uint8({value})")


class BlockNest(ThreadNest):
    """A nest run by the `threads` threads of a block."""

    def __init__(self, nest: LoopNest, homes: Sequence[Home], sites: Sites, depth: int, threads: int) -> None:
        serial = tuple(a for a in nest.axes if a.kind != "parallel")
        axes = (*(a for a in nest.axes if a.kind == "parallel"), *serial)
        super().__init__(replace(nest, axes=axes), homes, sites, depth)
        self.threads, self.shared = threads, dict[str, tuple[int, str]]()
        self.width = lanes(nest, homes, threads)
        self.whole = self.width == threads > WARP
        self.single = leaves_registers(nest, homes)
        self.guard = ""

    def outer_loops(self) -> None:
        parallel = [a for a in self.nest.axes if a.kind == "parallel"]
        points = count(parallel)
        if self.nest.axes:
            self.early(0)
        if self.single:
            if self.width == WARP < self.threads:
                self.guard = f"thread < {WARP}"
        elif self.width == 1:
            self.line(f"for point in range(thread, {points}, {self.threads}):")
            self.depth += 1
        else:
            groups = self.threads // self.width
            self.line(f"for first in range(0, {points}, {groups}):")
            self.depth += 1
            self.line(f"point = first + thread // {self.width}")
            if points % groups:
                self.line(f"alive = point < {points}")
                self.line(f"point = min(point, {points - 1})")
                self.guard = "alive"
        self.split(parallel, "point")
        for k in range(1, len(parallel)):
            self.early(k)
        for k, axis in enumerate(self.nest.axes[len(parallel) :], len(parallel)):
            if k:
                self.early(k)
            self.loop(axis)

    def split(self, axes: Sequence[Axis], name: str) -> None:
        """Define axes from a number that counts their points, the last axis fastest."""
        stride = 1
        for k, axis in reversed(list(enumerate(axes))):
            text = name if stride == 1 else f"{name} // {stride}"
            self.line(f"{axis.name} = {text}" + (f" % {axis.extent}" if k else ""))
            stride *= axis.extent

    def holds(self, inst: Inst) -> str:
        text = super().holds(inst)
        return f"{text} and alive" if self.guard == "alive" and keeps(self.nest) else text

    @property
    def lane(self) -> str:
        return "thread" if self.width == self.threads else f"thread % {self.width}"

    def phase(self, phase: Phase) -> None:
        if self.width == 1 or not phase.axes:
            super().phase(phase)
            return
        outer, depth = len(self.nest.axes), self.depth
        self.body(phase, outer)
        self.begin(phase)
        self.line(f"for item in range({self.lane}, {count(phase.axes)}, {self.width}):")
        self.depth += 1
        self.split(phase.axes, "item")
        for level in range(outer + 1, outer + len(phase.axes) + 1):
            self.body(phase, level)
        self.combine_values(phase)
        self.close()
        self.depth = depth
        for acc in phase.accumulators:
            self.together(acc)
        if any(h.row for h in self.homes):
            self.line("cuda.syncwarp()" if self.width <= WARP else "cuda.syncthreads()")

    def store(self, inst: Inst) -> None:
        if self.homes[inst.buffer].register:
            super().store(inst)
            return
        tests = [self.guard] if self.guard else []
        if self.width > 1 and self.level[inst.id] <= len(self.nest.axes):
            tests = ["thread == 0"] if self.single else [*tests, f"thread % {self.width} == 0"]
        elif self.single and self.width == 1:
            tests = ["thread == 0"]
        if tests:
            self.line(f"if {' and '.join(tests)}:")
        self.depth += bool(tests)
        super().store(inst)
        self.depth -= bool(tests)

    def together(self, acc: Accumulator) -> None:
        """Combine what lanes have accumulated; all get the result."""
        names = self.names_of(acc)
        step = min(self.width, WARP) // 2
        while step:
            for name, dtype in names:
                self.line(f"{name}_far = {shuffled(name, step, dtype)}")
            self.combine_far(acc, [f"{name}_far" for name, _ in names])
            step //= 2
        if self.whole:
            self.across_warps(acc)
        elif self.single and acc.op in ("maximum", "minimum") and acc.dtype.kind not in "iub":
            own = f"a{acc.id}"  # of both zeros, and of all NaN, lanes may have found another
            self.line(f"{own} = {shuffled(own, 0, acc.dtype, 'shfl_sync')}")

    def names_of(self, acc: Accumulator) -> list[tuple[str, np.dtype]]:
        """An accumulator's variables."""
        if acc.index is None:
            return [(f"a{acc.id}", acc.dtype)]
        return [(f"a{acc.id}_best", acc.dtype), (f"a{acc.id}", INT64)]

    def combine_far(self, acc: Accumulator, texts: Sequence[str]) -> None:
        self.combine(acc, texts[0], texts[1] if len(texts) > 1 else None)

    def across_warps(self, acc: Accumulator) -> None:
        """Every warp has a result in all of its lanes; every thread combines those of all warps."""
        warps, arrays = self.threads // WARP, []
        for k, (_, dtype) in enumerate(self.names_of(acc)):
            kind = "uint8" if dtype.kind == "b" else type_text(dtype)
            arrays.append((f"meet{k}_{kind}", dtype.kind == "b"))
            self.shared[arrays[-1][0]] = (warps, kind)
        names = [name for name, _ in self.names_of(acc)]
        self.line(f"if thread % {WARP} == 0:")
        for name, (array, is_bool) in zip(names, arrays, strict=True):
            self.line(f"    {array}[thread // {WARP}] = " + (f"uint8({name})" if is_bool else name))
        self.line("cuda.syncthreads()")
        for name, (array, is_bool) in zip(names, arrays, strict=True):
            self.line(f"{name} = {array}[0]" + (" != 0" if is_bool else ""))
        self.line(f"for other in range(1, {warps}):")
        self.depth += 1
        self.combine_far(acc, [f"({a}[other] != 0)" if is_bool else f"{a}[other]" for a, is_bool in arrays])
        self.depth -= 1
        self.line("cuda.syncthreads()")


def leaves_registers(nest: LoopNest, homes: Sequence[Home]) -> bool:
    stores = [i for p in nest.phases for i in p.body if i.op == "store"]
    return any(homes[i.buffer].register for i in stores)


def lanes(nest: LoopNest, homes: Sequence[Home], threads: int) -> int:
    """Threads that share a point."""
    reduced, kept = reduced_points(nest), keeps(nest)
    if in_order(nest) or (reduced <= 4 and not kept):
        return 1
    if leaves_registers(nest, homes):
        return threads if kept or reduced >= _WHOLE else WARP
    if any(b.scratch for b in nest.buffers):
        return WARP
    width, points = 1, outer_points(nest)
    while width < WARP and 2 * width * points <= threads and 2 * width <= reduced:
        width *= 2
    return width

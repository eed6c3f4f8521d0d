"""Kernels of nests with loops inside their points: several threads share a point, and combine what they accumulate.

Note [Groups of threads]
The threads of a block are divided among `points` points, `lanes` for each. Lanes of a point stand side by side where
its loop goes along memory: up to a warp they combine by shuffles, beyond it by shuffles and one step in shared memory.
Where neighbouring points are neighbours in memory the points of a block stand side by side instead, and lanes combine
through shared memory. A long loop of few points is cut into chunks, each for a block: one kernel leaves what each chunk
adds up to, and the next begins by combining these. Everything that decides about the order of a sum is an extent.

A lane goes through the same elements of a point in every phase, so that what one phase keeps for another, in a row or
in a result, is read by whoever has written it. Blocks whose points are not all there repeat the last one and store
nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nufunc.codegen.cuda.writer import BLOCKS, CudaWriter, Kernel, count, named
from nufunc.codegen.loops import Accumulator, Buffer, Inst, LoopNest, Phase, varying
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.text_scalars import type_text
from nufunc.ir.types import INT64, is_half

WARP = 32
_SHARED = 16384  # bytes of rows that a block keeps in shared memory
_MEMORY = 1 << 26  # bytes of rows in the device's memory from which there are fewer blocks
_KEPT = 128  # bytes of rows that a lane keeps in registers
_SIDE = 32  # points that stand side by side
_FEW = 4  # elements of a short loop for each lane
_LONG = 2048  # elements of a loop from which a block does it
_LEAST = 132  # blocks, whatever they need
_FULL = 2048  # blocks that keep a device busy
_CHUNK = 4096  # elements of a chunk at least
_LOADS = 8  # of a lane that are under way together


@dataclass(frozen=True)
class Shape:
    """How a block's threads are divided; see Note [Groups of threads]. `side`: points stand side by side."""

    points: int
    lanes: int
    side: bool
    chunks: int = 1
    chunk: int = 0

    @property
    def threads(self) -> int:
        return self.points * self.lanes


def shape_of(nest: LoopNest, threads: int) -> Shape | None:
    """The division for a nest; None where a thread for each point is best."""
    phases = [p for p in nest.phases if p.axes]
    if not phases or any(a.kind == "serial" for a in nest.all_axes()):
        return None
    length, points = max(count(p.axes) for p in phases), count(nest.axes)
    if _along_points(nest, phases):
        return _side_by_side(nest, points, length, threads)
    if length <= _FEW or (length <= 2 * _FEW and points >= 1 << 16):
        return None
    lanes = _power(min(-(-length // _FEW), WARP, threads))
    few = points < _FULL and length >= 8 * WARP
    kept = -(-length * sum(b.dtype.itemsize for b in nest.buffers if b.scratch) // _KEPT)
    if 1 < kept <= 2 * threads:  # so many that they keep a row
        lanes = max(lanes, _power(kept)) if length < _LONG and not few else max(_power(kept), threads)
        return Shape(_together(points, lanes, threads), lanes, False)
    if length < _LONG and not few:
        return Shape(_together(points, lanes, threads), lanes, False)
    chunks, chunk = 1, 0
    if points < _FULL // 4 and length >= 4 * _CHUNK and _can_chunk(nest):
        chunk = max(_CHUNK, -(-length * points // _FULL // threads) * threads)
        chunks = -(-length // chunk)
    return Shape(1, min(threads, _power(length)), False, chunks, chunk if chunks > 1 else 0)


def _side_by_side(nest: LoopNest, points: int, length: int, threads: int) -> Shape | None:
    """Neighbouring points read neighbouring elements."""
    if points >= 1 << 17 or length <= 2 * _FEW:
        return None
    side = min(_SIDE, _power(points), threads)
    lanes = min(threads // side, _power(-(-length // _FEW)))
    if lanes <= 1:
        return None
    chunks, chunk, blocks = 1, 0, -(-points // side)
    if blocks < _FULL // 2 and length >= 32 * lanes and _can_chunk(nest):
        step = _LOADS * lanes
        chunk = max(2 * step, -(-length * blocks // _FULL // step) * step)
        chunks = -(-length // chunk)
    return Shape(side, lanes, True, chunks, chunk if chunks > 1 else 0)


def _together(points: int, lanes: int, threads: int) -> int:
    """Points of a block where lanes combine by shuffles, in which whole warps take part."""
    return max(1, min(threads // lanes, max(_power(points), WARP // lanes)))


def _power(n: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(n - 1, 0).bit_length()


def _along_points(nest: LoopNest, phases: Sequence[Phase]) -> bool:
    if not nest.axes:
        return False
    loads = [(p, i) for p in phases for i in p.body if i.op == "load"]
    inner = sum(i.index.coefficient(p.axes[-1].name) == 1 for p, i in loads)
    outer = sum(i.index.coefficient(nest.axes[-1].name) == 1 for _, i in loads)
    return outer > inner


def _can_chunk(nest: LoopNest) -> bool:
    """Whether each phase with a loop can be a kernel of its own."""
    looped = [k for k, p in enumerate(nest.phases) if p.axes]
    between = [p for k, p in enumerate(nest.phases) if k not in looped]
    return not any(p.accumulators for p in between) and bool(nest.phases[looped[0]].accumulators)


class GroupWriter(CudaWriter):
    """One kernel for a whole nest."""

    most = BLOCKS
    rows: tuple[Buffer, ...] = ()
    steps = 0  # of a lane, where it goes through its loops step by step and keeps rows in registers

    def __init__(self, nest: LoopNest, sites: Sites | None, shape: Shape) -> None:
        super().__init__(nest, named(nest), sites, shape.threads)
        self.shape, self.points = shape, count(nest.axes)
        self.scratch: tuple[Buffer, ...] = ()
        rows = [b for b in nest.buffers if b.scratch]
        looped = [p for p in nest.phases if p.axes]
        widths = [1 if shape.side else self.vector_width([p], p.axes[-1]) for p in looped]
        self.widths = dict(zip(map(id, looped), widths, strict=True))
        if keeps(nest) and len(set(widths)) > 1:  # a lane would not have the same elements in each phase
            self.widths = dict.fromkeys(self.widths, 1)
        self.place_rows(rows)

    def place_rows(self, rows: Sequence[Buffer]) -> None:
        """Rows that are kept for later phases stand in registers, or shared memory, or memory of the device."""
        lane_size = sum(b.dtype.itemsize for b in rows)
        if rows:
            width = max(self.widths.values())
            steps = -(-max(b.size for b in rows) // (self.shape.lanes * width))
            self.steps = steps if steps * width * lane_size <= _KEPT else 0
        size = sum(b.size * b.dtype.itemsize for b in rows) * self.shape.points
        self.shared_rows = size <= _SHARED and not self.steps
        if rows and not self.shared_rows and not self.steps:
            self.most = max(_LEAST, min(BLOCKS, _MEMORY // size))
            self.rows = tuple(replace(b, size=b.size * self.workers) for b in rows)

    @property
    def workers(self) -> int:
        """Points that are at work at the same time."""
        return min(self.groups, self.most) * self.shape.points

    @property
    def groups(self) -> int:
        """Blocks that there would be with one for each of its sets of points."""
        return -(-self.points // self.shape.points)

    def kernel(self, name: str) -> Kernel:
        lines = self.write()
        own = [n for n, b in zip(self.names, self.nest.buffers, strict=True) if not b.scratch]
        rows = [n for n, b in zip(self.names, self.nest.buffers, strict=True) if b.scratch and self.rows]
        arguments = ", ".join((*own, *rows, *(b.name for b in self.scratch), "error"))
        source = "\n".join((f"def {name}({arguments}):", *lines)) + "\n"
        scratch = (*self.rows, *self.scratch)
        buffers = (*(b for b in self.nest.buffers if not b.scratch), *scratch)
        return Kernel(name, source, buffers, len(scratch), min(self.blocks, self.most), self.threads)

    @property
    def blocks(self) -> int:
        return self.groups

    # -- structure

    def contiguous(self, inst: Inst, axis: str, width: int) -> bool:
        kept = self.steps and self.nest.buffers[inst.buffer].scratch
        return not kept and super().contiguous(inst, axis, width)

    def row_place(self, buffer: Buffer, address: str) -> str:
        if self.steps:
            width = max(self.widths.values())
            return "step" if width == 1 else f"step * {width} + {self.lane or 0}"
        points = self.shape.points
        if self.shape.side:
            slot = "slot" if points > 1 else "0"
            if self.shared_rows:
                return f"({address}) * {points} + {slot}"
            return f"({address}) * ({points} * cuda.gridDim.x) + cuda.blockIdx.x * {points} + {slot}"
        if points == 1:
            return address if self.shared_rows else f"cuda.blockIdx.x * {buffer.size} + {address}"
        worker = "slot" if self.shared_rows else f"(cuda.blockIdx.x * {points} + slot)"
        return f"{worker} * {buffer.size} + {address}"

    def outer_loops(self) -> None:
        self.prologue()
        if self.nest.axes:
            self.early(0)
        self.over_groups()

    def prologue(self) -> None:
        """Who a thread is, and the memory of the block."""
        points, lanes = self.shape.points, self.shape.lanes
        self.line("thread = cuda.threadIdx.x")
        if points > 1 and self.shape.side:
            self.line(f"slot = thread % {points}")
            self.line(f"lane = thread // {points}")
        elif points > 1:
            self.line(f"slot = thread // {lanes}")
            self.line(f"lane = thread % {lanes}")
        else:
            self.line("lane = thread")
        for text in self.trees():
            self.line(text)
        for name, buffer in zip(self.names, self.nest.buffers, strict=True):
            if buffer.scratch and self.steps:
                size = self.steps * max(self.widths.values())
                self.line(f"{name} = cuda.local.array({size}, {_memory_type(buffer.dtype)})")
            elif buffer.scratch and self.shared_rows:
                size = buffer.size * self.shape.points
                self.line(f"{name} = cuda.shared.array({size}, {_memory_type(buffer.dtype)})")

    def trees(self) -> list[str]:
        """The shared memory that lanes combine through, one for each type."""
        size = self.shape.threads if self.shape.side else self.shape.threads // WARP
        if size <= 1 or (not self.shape.side and self.shape.lanes <= WARP):
            return []
        accumulators = [acc for p in self.nest.phases if p.axes for acc in p.accumulators]
        made = {f"tree_{acc.dtype.name}": acc.dtype for acc in accumulators}
        if any(acc.index is not None for acc in accumulators):
            made["tree_place"] = INT64
        return [f"{name} = cuda.shared.array({size}, {_memory_type(dtype)})" for name, dtype in sorted(made.items())]

    def over_groups(self) -> None:
        self.line(f"for block in range(cuda.blockIdx.x, {self.groups}, cuda.gridDim.x):")
        self.depth += 1
        self.group("block")

    def group(self, block: str) -> None:
        """Define the point of a thread from the number of its block's points."""
        points = self.shape.points
        if points == 1:
            self.line(f"point = {self.first(block)}")
        else:
            self.line(f"number = {self.first(block)} * {points} + slot")
            if self.points % points:
                self.line(f"point = min(number, {self.points - 1})")
            else:
                self.line("point = number")
        if self.nest.axes:
            self.inside(self.nest.axes)

    @property
    def present(self) -> str | None:
        """The test that a thread's point is there, or None."""
        return f"number < {self.points}" if self.points % self.shape.points else None

    def holds(self, inst: Inst) -> str:
        """Also whether the point is there: what a result holds that is read again may not be stored yet."""
        text = super().holds(inst)
        return text if self.present is None or not keeps(self.nest) else f"{text} and {self.present}"

    # -- phases

    def phase(self, phase: Phase) -> None:
        if not phase.axes:
            super().phase(phase)
            return
        self.body(phase, len(self.nest.axes))
        self.begin(phase)
        self.items(phase)
        for acc in phase.accumulators:
            self.meet(acc)

    def items(self, phase: Phase) -> None:
        """The lanes' loop over the points of a phase's axes."""
        self.over_items(phase, "0", count(phase.axes), None)

    def over_items(self, phase: Phase, start: str, stop: int, end: str | None) -> None:
        """From `start` to `stop`, or to the lesser number `end`."""
        width = self.widths[id(phase)]
        if width == 1:
            self.scalar_items(phase, start, end or str(stop))
            return
        buffers = {
            self.names[i.buffer]: None
            for i in phase.body
            if i.op in ("load", "store") and self.contiguous(i, phase.axes[-1].name, width)
            and not self.nest.buffers[i.buffer].scratch
        }  # fmt: skip
        for acc in phase.accumulators:
            for k in range(width):
                self.lane = k
                self.initial(acc)
            self.lane = None
        first = "lane" if start == "0" else f"{start} // {width} + lane"
        last = f"{end} // {width}" if end else str(stop // width)
        for vectors in (True, False):
            self.line(f"if aligned(16, {', '.join(buffers)}):" if vectors else "else:")
            self.depth += 1
            before = self.depth
            self.item_loop(first, last)
            self.vector_items(phase, width, vectors)
            self.depth = before - 1
        for acc in phase.accumulators:
            for k in range(width):
                a = f"a{acc.id}_{k}"
                self.combine(acc, *((a, None) if acc.index is None else (f"{a}_best", a)))

    def scalar_items(self, phase: Phase, start: str, stop: str) -> None:
        first = "lane" if start == "0" else f"{start} + lane"
        before = self.depth
        self.item_loop(first, stop)
        self.split(phase.axes, "item")
        outer = len(self.nest.axes)
        for level in range(outer + 1, outer + len(phase.axes) + 1):
            self.body(phase, level)
        self.combine_values(phase)
        self.close()
        self.depth = before

    def item_loop(self, first: str, stop: str) -> None:
        """A lane's loop; step by step where what it keeps is numbered by its steps."""
        lanes = self.shape.lanes
        if not self.steps:
            self.line(f"for item in range({self.first(first)}, {stop}, {lanes}):")
            self.depth += 1
            return
        self.line(f"for step in range({-(-int(stop) // lanes)}):")
        self.depth += 1
        self.line(f"item = step * {lanes} + lane")
        if int(stop) % lanes:
            self.line(f"if item < {stop}:")
            self.depth += 1

    def vector_items(self, phase: Phase, width: int, vectors: bool) -> None:
        """One vector of a phase's points; each lane of it has accumulators of its own."""
        axis, outer = phase.axes[-1].name, len(self.nest.axes)
        self.line(f"place = item * {width}")
        self.split(phase.axes, "place")
        self.moving = axis
        self.varying = varying(self.nest, phase, axis, set())
        for inst in phase.body:
            if self.level[inst.id] > outer:
                self.vector_inst(phase, inst, axis, width, vectors)
        for acc in phase.accumulators:
            for k in range(width):
                self.lane = k
                self.combine(acc, self.value(acc.value), None if acc.index is None else self.value(acc.index))
        self.lane = self.moving = None
        self.varying = set()

    def accumulator(self, acc: Accumulator) -> str:
        return super().accumulator(acc) + ("" if self.lane is None else f"_{self.lane}")

    def store(self, inst: Inst) -> None:
        tests = [] if self.present is None or self.is_own(inst) else [self.present]
        if self.level[inst.id] <= len(self.nest.axes):
            tests.append("lane == 0")
        if tests:
            self.line(f"if {' and '.join(tests)}:")
        self.depth += bool(tests)
        super().store(inst)
        self.depth -= bool(tests)

    def is_own(self, inst: Inst) -> bool:
        """Whether a place in memory belongs to its thread alone."""
        return self.nest.buffers[inst.buffer].scratch

    def vector_access(self, inst: Inst, width: int) -> None:
        guarded = inst.op == "store" and self.present and not self.is_own(inst)
        if guarded:
            self.line(f"if {self.present}:")
        self.depth += bool(guarded)
        super().vector_access(inst, width)
        self.depth -= bool(guarded)

    # -- lanes meet

    def meet(self, acc: Accumulator) -> None:
        """Combine the lanes' parts of an accumulator in a fixed order; all of them get the result."""
        if self.shape.side:
            self.meet_in_memory(acc)
            return
        lanes = self.shape.lanes
        self.meet_in_warp(acc, min(lanes, WARP))
        if lanes > WARP:
            names = self.names_of(acc)
            warps = lanes // WARP
            self.line(f"if lane % {WARP} == 0:")
            for own, tree in names:
                self.line(f"    {tree}[thread // {WARP}] = {self.stored(own, self.dtype_of(acc, own))}")
            self.line("cuda.syncthreads()")
            place = f"lane % {warps}" if self.shape.points == 1 else f"slot * {warps} + lane % {warps}"
            for own, tree in names:
                self.line(f"{own} = {self.loaded(acc, own, f'{tree}[{place}]')}")
            self.meet_in_warp(acc, warps)
            self.line("cuda.syncthreads()")

    def names_of(self, acc: Accumulator) -> list[tuple[str, str]]:
        """An accumulator's variables, and the shared memory that they meet in."""
        if acc.index is None:
            return [(f"a{acc.id}", f"tree_{acc.dtype.name}")]
        return [(f"a{acc.id}_best", f"tree_{acc.dtype.name}"), (f"a{acc.id}", "tree_place")]

    def dtype_of(self, acc: Accumulator, own: str) -> np.dtype:
        return INT64 if acc.index is not None and not own.endswith("_best") else acc.dtype

    def loaded(self, acc: Accumulator, own: str, place: str) -> str:
        return f"{place} != 0" if self.dtype_of(acc, own).kind == "b" else place

    def meet_in_warp(self, acc: Accumulator, lanes: int) -> None:
        """Lanes exchange theirs crosswise, so that all end with the same."""
        step = lanes // 2
        while step:
            others = []
            for own, _ in self.names_of(acc):
                other = f"{own}_other"
                self.line(f"{other} = {shuffled(own, step, self.dtype_of(acc, own))}")
                others.append(other)
            self.combine(acc, others[0], others[1] if len(others) > 1 else None)
            step //= 2

    def meet_in_memory(self, acc: Accumulator) -> None:
        points, lanes = self.shape.points, self.shape.lanes
        names = self.names_of(acc)
        for own, tree in names:
            self.line(f"{tree}[thread] = {self.stored(own, self.dtype_of(acc, own))}")
        self.line("cuda.syncthreads()")
        for own, tree in names:
            self.line(f"{own} = {self.loaded(acc, own, f'{tree}[slot]' if points > 1 else f'{tree}[0]')}")
        slot = "slot + " if points > 1 else ""
        for k in range(1, lanes):
            others = [f"{tree}[{slot}{k * points}]" for _, tree in names]
            texts = [self.loaded(acc, own, o) for (own, _), o in zip(names, others, strict=True)]
            texts = [f"({t})" if t.endswith("!= 0") else t for t in texts]
            self.combine(acc, texts[0], texts[1] if len(texts) > 1 else None)
        self.line("cuda.syncthreads()")


def keeps(nest: LoopNest) -> bool:
    """Whether a phase reads what one before it has stored: in a row, or in a result."""
    stored: set[int] = set()
    for phase in nest.phases:
        if any(i.op == "load" and i.buffer in stored for i in phase.body):
            return True
        stored.update(i.buffer for i in phase.body if i.op == "store")
    return False


def _memory_type(dtype: np.dtype) -> str:
    return "uint8" if dtype.kind == "b" else type_text(dtype)


def shuffled(own: str, step: int, dtype: np.dtype, how: str = "shfl_xor_sync") -> str:
    """What the lane `step` away has, or another."""
    call = lambda text: f"cuda.{how}(-1, {text}, {step})"
    if dtype.kind == "b":
        return f"{call(f'int32({own})')} != 0"
    if dtype.kind == "c":
        return f"{dtype.name}(complex({call(f'{own}.real')}, {call(f'{own}.imag')}))"
    if dtype.itemsize < 4:
        wide = "float32" if is_half(dtype) else "int32"
        return f"{dtype.name}({call(f'{wide}({own})')})"
    return call(own)

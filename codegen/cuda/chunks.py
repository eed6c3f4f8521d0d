"""Kernels of long loops of few points: one for each loop, cut into chunks (Note [Groups of threads])."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nufunc.codegen.cuda.groups import GroupWriter, Shape
from nufunc.codegen.cuda.writer import Kernel, count
from nufunc.codegen.loops import Accumulator, Buffer, Inst, LoopNest, Phase
from nufunc.codegen.nest_builder import Sites
from nufunc.ir.types import INT64


def group_kernels(nest: LoopNest, name: str, sites: Sites | None, shape: Shape) -> list[Kernel]:
    """The kernels of a nest, divided as `shape` says."""
    if shape.chunks == 1:
        return [GroupWriter(nest, sites, shape).kernel(name)]
    points = count(nest.axes)
    last = max(k for k, p in enumerate(nest.phases) if p.axes)
    stages = [k for k, p in enumerate(nest.phases) if p.accumulators]
    accumulators = [acc for k in stages for acc in nest.phases[k].accumulators]
    scratch = tuple(b for acc in accumulators for b in parts_of(acc, points * shape.chunks))
    made = [ChunkWriter(nest, sites, shape, k, scratch).kernel(f"{name}_parts") for k in stages]
    if last in stages:  # nothing is left but to finish
        return [*made, ChunkWriter(nest, sites, shape, None, scratch).kernel(name)]
    return [*made, ChunkWriter(nest, sites, shape, last, scratch).kernel(name)]


def parts_of(acc: Accumulator, size: int) -> list[Buffer]:
    """The workspace for partial results of an accumulator."""
    if acc.index is None:
        return [Buffer(f"part{acc.id}", acc.dtype, size, written=True)]
    best = Buffer(f"part{acc.id}_best", acc.dtype, size, written=True)
    return [best, Buffer(f"part{acc.id}", INT64, size, written=True)]


class ChunkWriter(GroupWriter):
    """One kernel of several: the loop of phase `stage`, cut into chunks, behind what the stages before it have left in
    `scratch`. With no stage it only finishes."""

    def __init__(
        self, nest: LoopNest, sites: Sites | None, shape: Shape, stage: int | None, scratch: tuple[Buffer, ...]
    ) -> None:
        super().__init__(nest, sites, shape)
        self.stage, self.scratch = stage, scratch
        self.last = max(k for k, p in enumerate(nest.phases) if p.axes)

    def place_rows(self, rows: Sequence[Buffer]) -> None:
        """Rows go from kernel to kernel."""
        self.shared_rows = False
        self.rows = tuple(replace(b, size=b.size * self.points) for b in rows)

    def row_place(self, buffer: Buffer, address: str) -> str:
        return address if self.points == 1 else f"point * {buffer.size} + {address}"

    def is_own(self, inst: Inst) -> bool:
        return False

    @property
    def finishes(self) -> bool:
        """Whether results of points are stored here: by the blocks of the first chunk."""
        return self.stage is None or not self.nest.phases[self.stage].accumulators

    @property
    def blocks(self) -> int:
        return self.groups * (1 if self.stage is None else self.shape.chunks)

    def over_groups(self) -> None:
        if self.stage is None:
            super().over_groups()
            return
        self.line(f"for block in range(cuda.blockIdx.x, {self.blocks}, cuda.gridDim.x):")
        self.depth += 1
        self.line(f"first = {self.first(self.chunk_number)} * {self.shape.chunk}")
        groups = self.groups if self.shape.side else self.shape.chunks
        self.group(f"block {'%' if self.shape.side else '//'} {groups}")

    @property
    def chunk_number(self) -> str:
        """Neighbouring blocks do what lies side by side: chunks of a point, or points of a chunk."""
        return f"(block // {self.groups})" if self.shape.side else f"(block % {self.shape.chunks})"

    def phase(self, phase: Phase) -> None:
        number = self.nest.phases.index(phase)
        if self.stage is None or number < self.stage:
            if phase.axes:
                self.body(phase, len(self.nest.axes))
                self.begin(phase)
                self.gather(phase)
                for acc in phase.accumulators:
                    self.meet(acc)
            else:
                super().phase(phase)
        elif number == self.stage:
            super().phase(phase)
            if phase.accumulators:
                self.leave(phase)
        elif self.finishes:
            super().phase(phase)

    def items(self, phase: Phase) -> None:
        length, end = count(phase.axes), f"first + {self.shape.chunk}"
        self.over_items(phase, "first", length, f"min({end}, {length})" if length % self.shape.chunk else f"({end})")

    def chunk_place(self, chunk: str) -> str:
        """Where a chunk's part of a point stands: where those who read it are side by side."""
        if self.shape.side:
            return f"{chunk} * {self.points} + point"
        return f"point * {self.shape.chunks} + {chunk}"

    def gather(self, phase: Phase) -> None:
        """Combine the parts of a phase's accumulators."""
        self.line(f"for item in range(lane, {self.shape.chunks}, {self.shape.lanes}):")
        self.depth += 1
        place = self.chunk_place("item")
        for acc in phase.accumulators:
            texts = [f"{p.name}[{place}]" for p in parts_of(acc, 0)]
            if acc.dtype.kind == "b":
                texts[0] = f"({texts[0]} != 0)"
            self.combine(acc, texts[0], texts[1] if len(texts) > 1 else None)
        self.depth -= 1

    def leave(self, phase: Phase) -> None:
        """Store the parts."""
        tests = ["lane == 0"] if self.present is None else ["lane == 0", self.present]
        self.line(f"if {' and '.join(tests)}:")
        place = self.chunk_place(self.chunk_number)
        for acc in phase.accumulators:
            for part in parts_of(acc, 0):
                own = f"a{part.name.removeprefix('part')}"
                self.line(f"    {part.name}[{place}] = {self.stored(own, part.dtype)}")

    def store(self, inst: Inst) -> None:
        """What belongs to a point is stored by the last kernel, once."""
        of_point = self.level[inst.id] <= len(self.nest.axes)
        if of_point and not self.finishes:
            return
        once = of_point and self.stage is not None
        if once:
            self.line("if first == 0:")
        self.depth += once
        super().store(inst)
        self.depth -= once

"""Kernels of transpositions: squares are read along one axis and written along another, through shared memory.

Elementwise nests store along their last axis. Where a load lies far apart along it, but side by side along another
axis, a block does a square of these two axes: first it reads its part of such operands as they lie in memory, then it
goes on point by point. Lines of a square have one element more, so that neither way meets a bank of memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nufunc.codegen.cuda.writer import BLOCKS, CudaWriter, Kernel, count, has_rows, named
from nufunc.codegen.loops import Axis, Inst, LoopNest, lies_across
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.text_scalars import type_text

_SIDE = 32
_LEAST = 8  # extents of axes from which there are squares


def tile_kernel(nest: LoopNest, name: str, sites: Sites | None, threads: int) -> Kernel | None:
    """The kernel of a transposition, or None where the nest is none."""
    found = _turned(nest)
    if found is None:
        return None
    along, across = found
    writer = TileWriter(nest, sites, threads, along, across)
    lines = writer.write()
    source = "\n".join((f"def {name}({', '.join((*writer.names, 'error'))}):", *lines)) + "\n"
    return Kernel(name, source, nest.buffers, 0, min(writer.blocks, BLOCKS), threads)


def _turned(nest: LoopNest) -> tuple[Axis, list[Inst]] | None:
    """The axis along which loads lie side by side that lie far apart along the last one, and these loads."""
    if len(nest.axes) < 2 or len(nest.phases) != 1 or has_rows(nest) or nest.phases[0].axes:
        return None
    if nest.phases[0].accumulators or any(a.kind != "parallel" for a in nest.axes):
        return None
    *others, last = nest.axes
    loads = [i for i in nest.phases[0].body if i.op == "load" and i.guard is None]
    loads = [i for i in loads if all(isinstance(key, str) for key, _ in i.index.terms)]
    best: tuple[Axis, list[Inst]] | None = None
    room = 4 * 8  # bytes of elements, of which a square fits into shared memory
    for axis in others:
        across = [i for i in loads if lies_across(i, last.name, axis.name)]
        if min(axis.extent, last.extent) >= _LEAST and len(across) > (0 if best is None else len(best[1])):
            best = axis, across[: room // max(i.dtype.itemsize for i in across)]
    return best


class TileWriter(CudaWriter):
    """A block for each square of the last axis and `along`; `across` are the loads that go through shared memory."""

    def __init__(
        self, nest: LoopNest, sites: Sites | None, threads: int, along: Axis, across: Sequence[Inst]
    ) -> None:  # fmt: skip
        super().__init__(nest, named(nest), sites, threads)
        self.along, self.last, self.across = along, nest.axes[-1], {i.id: i for i in across}
        self.side = min(_SIDE, max(2, threads // 2))
        self.others = [a for a in nest.axes if a not in (along, self.last)]
        self.over, self.down = (-(-a.extent // self.side) for a in (self.last, along))
        self.blocks = count(self.others) * self.over * self.down

    def write(self) -> list[str]:
        side, lines = self.side, self.threads // self.side
        self.line("thread = cuda.threadIdx.x")
        self.line(f"slot = thread % {side}")
        self.line(f"lane = thread // {side}")
        for inst in self.across.values():
            kind = "uint8" if inst.dtype.kind == "b" else type_text(inst.dtype)
            self.line(f"tile_{inst.id} = cuda.shared.array({side * (side + 1)}, {kind})")
        self.early(0)
        self.line(f"for block in range({self.first('cuda.blockIdx.x')}, {self.blocks}, cuda.gridDim.x):")
        self.depth += 1
        self.line(f"first = block % {self.over} * {side}")
        self.line(f"rest = block // {self.over}")
        self.line(f"number = rest % {self.down} * {side}")
        self.line(f"point = rest // {self.down}")
        self.split(self.others, "point")
        self.go_through(self.along, "number", self.last, "first", lines, self.read_square)
        self.line("cuda.syncthreads()")
        self.go_through(self.last, "first", self.along, "number", lines, self.write_square)
        self.line("cuda.syncthreads()")
        return self.lines

    def go_through(
        self, side_by_side: Axis, start: str, other: Axis, other_start: str, lines: int, each: Callable[[], None]
    ) -> None:  # fmt: skip
        """Neighbouring threads at neighbouring points of one axis, each of them at several points of the other."""
        self.line(f"{side_by_side.name} = {start} + slot")
        self.line(f"for item in range({self.side // lines}):")
        self.depth += 1
        self.line(f"place = item * {lines} + lane")
        self.line(f"{other.name} = {other_start} + place")
        tests = [f"{a.name} < {a.extent}" for a in (side_by_side, other) if a.extent % self.side]
        if tests:
            self.line(f"if {' and '.join(tests)}:")
        self.depth += bool(tests)
        each()
        self.depth -= 1 + bool(tests)

    def read_square(self) -> None:
        for inst in self.across.values():
            self.line(f"tile_{inst.id}[place * {self.side + 1} + slot] = {self.element(inst)}")

    def write_square(self) -> None:
        (phase,) = self.nest.phases
        for inst in phase.body:
            if inst.id in self.across:
                text = f"tile_{inst.id}[slot * {self.side + 1} + place]"
                self.line(f"v{inst.id} = {text}" + (" != 0" if inst.dtype.kind == "b" else ""))
            elif self.level[inst.id] > 0:
                self.inst(phase, inst)

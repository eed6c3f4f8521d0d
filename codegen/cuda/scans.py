"""Kernels of cumulative nests: running sums and their like along one axis, by trees in place of NumPy's sequence.

A block goes through a line in tiles of one element, or one vector, per thread. Lanes combine theirs by shuffles, warps
by shared memory, and what a tile adds up to is carried to the next. Few long lines are cut into chunks: one kernel
leaves what each chunk adds up to, one accumulates these, and one does the chunks with what stands before them. Many or
short lines are left to one thread each. The order of operations depends on extents alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from nufunc.codegen.cuda.writer import BLOCKS, CudaWriter, Kernel, named
from nufunc.codegen.loops import Accumulator, Affine, Axis, Buffer, Inst, LoopNest, Phase, varying
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.text_scalars import expression, number, type_text

_WARP = 32
_SHORT = 32  # elements of a line that one thread goes through
_MANY = 1 << 15  # lines that lie side by side, from which a thread each is enough
_LEAST, _MOST = 2, 64  # tiles of a chunk
_BUSY = 1024  # chunks from which they grow
_FEW = 128  # lines that are too few for the blocks of a device
_CHUNKS = 4  # from which lines are cut


class _Form(NamedTuple):
    """How a line is gone through: neighbours of a thread, tiles of a chunk, whether from its last element on."""

    width: int
    tiles: int
    backwards: bool


def scan_kernels(nest: LoopNest, name: str, sites: Sites | None, threads: int) -> list[Kernel] | None:
    """The kernels of a cumulative nest, which have the same buffers; None where each line is to be done by a thread, or
    where the nest is no such."""
    phase = _cumulative(nest)
    if phase is None:
        return None
    lines, length = math.prod(a.extent for a in nest.axes), phase.axes[0].extent
    if length <= _SHORT or (lines >= _MANY and _side_by_side(nest, phase)):
        return None
    nest, width, backwards = _by_vectors(nest, threads)
    (phase,) = nest.phases
    threads = min(threads, max(_WARP, 1 << (-(-length // width) - 1).bit_length()))
    tiles = min(max(lines * length // (threads * width * _BUSY), _LEAST), _MOST)
    chunks = -(-length // (tiles * threads * width))
    form = _Form(width, tiles, backwards)
    if lines > _FEW or chunks < _CHUNKS or not _independent(phase):
        return [_kernel(_LineWriter(nest, sites, threads, form, ()), name, lines)]
    parts = tuple(Buffer(f"part{a.id}", a.dtype, lines * chunks, written=True) for a in phase.accumulators)
    writers = (_TotalWriter, _CarryWriter, _ChunkWriter)
    names, blocks = (f"{name}_totals", f"{name}_carries", name), (lines * chunks, lines, lines * chunks)
    made = zip(writers, names, blocks, strict=True)
    return [_kernel(writer(nest, sites, threads, form, parts), own, count) for writer, own, count in made]


def _cumulative(nest: LoopNest) -> Phase | None:
    """The only phase of a nest whose one loop runs in order, if every accumulator is one that runs along."""
    if len(nest.phases) != 1 or any(b.scratch for b in nest.buffers) or any(a.kind != "parallel" for a in nest.axes):
        return None
    (phase,) = nest.phases
    running = [i.attrs["accumulator"] for i in phase.body if i.op == "running"]
    stores = [i for i in phase.body if i.op == "store" and i.attrs["mode"] != "set"]
    along = len(phase.axes) == 1 and phase.axes[0].kind == "serial"
    whole = running and sorted(running) == sorted(a.id for a in phase.accumulators)
    return phase if along and whole and not stores else None


def _by_vectors(nest: LoopNest, threads: int) -> tuple[LoopNest, int, bool]:
    """The nest, or if only this has vectors the one whose axis counts from the end of a line; the length of vectors;
    and whether it is this."""
    turned = _mirrored(nest)
    widths = [
        CudaWriter(n, named(n), None, threads).vector_width(n.phases, n.phases[0].axes[0]) for n in (nest, turned)
    ]
    return (turned, widths[1], True) if widths[1] > widths[0] else (nest, widths[0], False)


def _mirrored(nest: LoopNest) -> LoopNest:
    """With an axis that counts from the end of a line."""
    (phase,) = nest.phases
    (axis,) = phase.axes

    def moved(inst: Inst) -> Inst:
        c = inst.index.coefficient(axis.name)
        terms = tuple((k, -n if k == axis.name else n) for k, n in inst.index.terms)
        return replace(inst, index=Affine(inst.index.const + c * (axis.extent - 1), terms))

    return replace(nest, phases=(replace(phase, body=tuple(map(moved, phase.body))),))


def _side_by_side(nest: LoopNest, phase: Phase) -> bool:
    """Whether neighbouring lines are neighbours in memory."""
    moved = [i for i in phase.body if i.op in ("load", "store") and i.index.coefficient(phase.axes[0].name)]
    return all(abs(i.index.coefficient(nest.axes[-1].name)) == 1 for i in moved)


def _independent(phase: Phase) -> bool:
    """Whether no running value goes into another."""
    after: set[int] = set()
    for inst in phase.body:
        if any(u in after for u in inst.uses()):
            if inst.op == "running":
                return False
            after.add(inst.id)
        elif inst.op == "running":
            after.add(inst.id)
    return True


def _kernel(writer: _LineWriter, name: str, blocks: int) -> Kernel:
    buffers = (*writer.nest.buffers, *writer.parts)
    arguments = ", ".join((*writer.names, *(p.name for p in writer.parts), "error"))
    source = "\n".join((f"def {name}({arguments}):", *writer.write())) + "\n"
    return Kernel(name, source, buffers, len(writer.parts), min(blocks, BLOCKS), writer.threads)


class _LineWriter(CudaWriter):
    """A block goes through whole lines. Each thread has `width` neighbours of a tile, which lie in one vector."""

    def __init__(
        self, nest: LoopNest, sites: Sites | None, threads: int, form: _Form, parts: tuple[Buffer, ...]
    ) -> None:
        super().__init__(nest, named(nest), sites, threads)
        self.parts, self.scan, self.width, self.backwards = parts, nest.phases[0], form.width, form.backwards
        self.axis: Axis = self.scan.axes[0]
        self.length, self.tile = self.axis.extent, threads * form.width
        self.chunk = form.tiles * self.tile
        self.chunks = -(-self.length // self.chunk)
        self.lines_count = math.prod(a.extent for a in nest.axes)
        self.lane_count = min(_WARP, threads)

    def outer_loops(self) -> None:
        self.line("thread = cuda.threadIdx.x")
        if self.threads > _WARP:
            for acc in self.scan.accumulators:
                self.line(f"tree{acc.id} = cuda.shared.array({self.threads // _WARP}, {type_text(acc.dtype)})")
        self.over_lines()

    def over_lines(self) -> None:
        self.over_points("cuda.blockIdx.x", "cuda.gridDim.x")

    def over_chunks(self) -> None:
        """A block for each chunk of each line."""
        if self.nest.axes:
            self.early(0)
        start, stop = self.first("cuda.blockIdx.x"), self.lines_count * self.chunks
        self.line(f"for block in range({start}, {stop}, cuda.gridDim.x):")
        self.depth += 1
        self.line(f"point = block // {self.chunks}")
        self.line(f"first = block % {self.chunks} * {self.chunk}")
        self.inside(self.nest.axes)

    def phase(self, phase: Phase) -> None:
        self.body(phase, len(self.nest.axes))
        self.begin(phase)
        self.over_tiles(phase, *self.span())

    def span(self) -> tuple[str, str]:
        """From where to where a block goes."""
        return "0", str(self.length)

    def over_tiles(self, phase: Phase, start: str, stop: str) -> None:
        """The loop over tiles; where neighbours are vectors, once for aligned memory and once for the other case."""
        if self.width == 1:
            self.tiles(phase, start, stop, False)
            return
        moved = [i for i in phase.body if i.op in ("load", "store")]
        buffers = {self.names[i.buffer]: None for i in moved if self.contiguous(i, self.axis.name, self.width)}
        for vectors in (True, False):
            self.line(f"if aligned(16, {', '.join(buffers)}):" if vectors else "else:")
            self.depth += 1
            self.tiles(phase, start, stop, vectors)
            self.depth -= 1

    def tiles(self, phase: Phase, start: str, stop: str, vectors: bool) -> None:
        """One loop. Threads beyond the end of a line repeat its last elements, and store nothing."""
        own = "thread" if self.width == 1 else f"thread * {self.width}"
        self.line(f"for item in range({self.first(start)}, {stop}, {self.tile}):")
        self.depth += 1
        self.line(f"inside = item + {own} < {self.length}")
        last = self.length - self.width
        place = f"min(item + {own}, {last})"
        self.line(f"{self.axis.name} = {f'{last} - ' if self.backwards else ''}{place}")
        self.insts_of_tile(phase, [i for i in phase.body if self.level[i.id] > len(self.nest.axes)], vectors)
        self.depth -= 1

    def insts_of_tile(self, phase: Phase, insts: Sequence[Inst], vectors: bool) -> None:
        if self.width > 1:
            self.moving, self.varying = self.axis.name, varying(self.nest, phase, self.axis.name, set())
        for inst in insts:
            if inst.op == "running":
                acc = next(a for a in phase.accumulators if a.id == inst.attrs["accumulator"])
                self.run_along(acc, inst)
            elif self.width > 1:
                self.vector_inst(phase, inst, self.axis.name, self.width, vectors)
            else:
                self.inst(phase, inst)

    def store(self, inst: Inst) -> None:
        self.line("if inside:" if self.level[inst.id] > len(self.nest.axes) else "if thread == 0:")
        self.depth += 1
        super().store(inst)
        self.depth -= 1

    def vector_access(self, inst: Inst, width: int) -> None:
        stores = inst.op == "store"
        if stores:
            self.line("if inside:")
        self.depth += stores
        super().vector_access(inst, width)
        self.depth -= stores

    # -- running values

    def lanes_of(self, value: int) -> list[str]:
        """A value at each of a thread's neighbours, in the order of the line."""
        texts = []
        for lane in range(self.width):
            self.lane = lane if self.width > 1 else None
            texts.append(self.value(value))
        self.lane = None
        return texts[::-1] if self.backwards else texts

    def run_along(self, acc: Accumulator, inst: Inst) -> None:
        own = f"a{acc.id}_own"
        first, *others = self.lanes_of(inst.args[0])
        if not others:
            self.line(f"{own} = {first} if inside else {self.identity(acc)}")
            self.running(acc, f"v{inst.id}")
            return
        self.line(f"{own}_0 = {first}")
        for k, value in enumerate(others, 1):
            self.line(f"{own}_{k} = {self.combined(acc, f'{own}_{k - 1}', value)}")
        self.line(f"{own} = {own}_{self.width - 1} if inside else {self.identity(acc)}")
        self.running(acc, f"a{acc.id}_start", before=True)
        for k, name in enumerate(self.lanes_of(inst.id)):
            self.line(f"{name} = {self.combined(acc, f'a{acc.id}_start', f'{own}_{k}')}")

    def identity(self, acc: Accumulator) -> str:
        return number(acc.init, acc.dtype)

    def combined(self, acc: Accumulator, before: str, behind: str) -> str:
        return expression(acc.op, (before, behind), (acc.dtype, acc.dtype), acc.dtype, {})

    def within_warps(self, acc: Accumulator) -> None:
        """Each lane's `a_own` becomes what the lanes up to it add up to."""
        own, other = f"a{acc.id}_own", f"a{acc.id}_other"
        for k in itertools.takewhile(lambda k: k < self.lane_count, (1, 2, 4, 8, 16)):
            self.line(f"{other} = cuda.shfl_up_sync(-1, {own}, {k})")
            self.line(f"if thread % {_WARP} >= {k}:")
            self.line(f"    {own} = {self.combined(acc, other, own)}")

    def running(self, acc: Accumulator, name: str | None, before: bool = False) -> None:
        """Define `name` as what all elements up to a thread's own (`before` these) add up to, and carry the sum of the
        tile on."""
        a, tree, own = f"a{acc.id}", f"tree{acc.id}", f"a{acc.id}_own"
        self.within_warps(acc)
        if before:
            own = f"a{acc.id}_others"
            self.line(f"{own} = cuda.shfl_up_sync(-1, a{acc.id}_own, 1)")
            self.line(f"if thread % {_WARP} == 0:")
            self.line(f"    {own} = {self.identity(acc)}")
        if self.threads <= _WARP:
            if name is not None:
                self.line(f"{name} = {self.combined(acc, a, own)}")
            self.line(f"{a}_other = cuda.shfl_sync(-1, {a}_own, {self.threads - 1})")
            self.line(f"{a} = {self.combined(acc, a, f'{a}_other')}")
            return
        warps = self.threads // _WARP
        self.line(f"if thread % {_WARP} == {_WARP - 1}:")
        self.line(f"    {tree}[thread // {_WARP}] = {a}_own")
        self.line("cuda.syncthreads()")
        if name is not None:
            self.line(f"{a}_before = {a}")
            self.line(f"for width in range(thread // {_WARP}):")
            self.line(f"    {a}_before = {self.combined(acc, f'{a}_before', f'{tree}[width]')}")
            self.line(f"{name} = {self.combined(acc, f'{a}_before', own)}")
        self.line(f"for width in range({warps}):")
        self.line(f"    {a} = {self.combined(acc, a, f'{tree}[width]')}")
        self.line("cuda.syncthreads()")

    def part(self, acc: Accumulator, at: str) -> str:
        text = f"part{acc.id}[{at}]"
        return f"({text} != 0)" if acc.dtype.kind == "b" else text


class _TotalWriter(_LineWriter):
    """The first of three kernels: what each chunk adds up to."""

    def over_lines(self) -> None:
        self.over_chunks()

    def phase(self, phase: Phase) -> None:
        self.body(phase, len(self.nest.axes))
        self.begin(phase)
        self.over_tiles(phase, *self.span())
        for acc in phase.accumulators:
            self.line(f"a{acc.id}_own = a{acc.id}")
            self.line(f"a{acc.id} = {self.identity(acc)}")
            self.running(acc, None)
        self.line("if thread == 0:")
        for acc in phase.accumulators:
            self.line(f"    part{acc.id}[block] = {self.stored(f'a{acc.id}', acc.dtype)}")

    def tiles(self, phase: Phase, start: str, stop: str, vectors: bool) -> None:
        values = {i.attrs["accumulator"]: i.args[0] for i in phase.body if i.op == "running"}
        needed = set(values.values())
        for inst in reversed(phase.body):
            if inst.id in needed:
                needed.update(inst.uses())
        inner = [i for i in phase.body if self.level[i.id] > len(self.nest.axes) and i.id in needed]
        own = "thread" if self.width == 1 else f"thread * {self.width}"
        counter = "item" if self.backwards else self.axis.name
        self.line(f"for {counter} in range({start} + {own}, {stop}, {self.tile}):")
        self.depth += 1
        if self.backwards:
            self.line(f"{self.axis.name} = {self.length - self.width} - item")
        self.insts_of_tile(phase, inner, vectors)
        for acc in phase.accumulators:
            for value in self.lanes_of(values[acc.id]):
                self.line(f"a{acc.id} = {self.combined(acc, f'a{acc.id}', value)}")
        self.depth -= 1

    def span(self) -> tuple[str, str]:
        return "first", f"min(first + {self.chunk}, {self.length})"

    def store(self, inst: Inst) -> None:
        """The third kernel stores."""


class _CarryWriter(_LineWriter):
    """The second: the chunks of a line accumulated."""

    def write(self) -> list[str]:
        self.line("thread = cuda.threadIdx.x")
        if self.threads > _WARP:
            for acc in self.scan.accumulators:
                self.line(f"tree{acc.id} = cuda.shared.array({self.threads // _WARP}, {type_text(acc.dtype)})")
        self.line(f"for point in range(cuda.blockIdx.x, {self.lines_count}, cuda.gridDim.x):")
        self.depth += 1
        for acc in self.scan.accumulators:
            self.initial(acc)
            self.line(f"for item in range(thread, thread + {self.chunks}, {self.threads}):")
            self.depth += 1
            self.line(f"inside = item < {self.chunks}")
            own = self.part(acc, f"point * {self.chunks} + item")
            self.line(f"a{acc.id}_own = {own} if inside else {self.identity(acc)}")
            self.running(acc, f"a{acc.id}_sum")
            self.line("if inside:")
            stored = self.stored(f"a{acc.id}_sum", acc.dtype)
            self.line(f"    part{acc.id}[point * {self.chunks} + item] = {stored}")
            self.depth -= 1
        return self.lines


class _ChunkWriter(_LineWriter):
    """The third: each chunk, from what stands before it."""

    def over_lines(self) -> None:
        self.over_chunks()

    def begin(self, phase: Phase) -> None:
        super().begin(phase)
        self.line("if first > 0:")
        for acc in phase.accumulators:
            self.line(f"    a{acc.id} = {self.part(acc, 'block - 1')}")

    def span(self) -> tuple[str, str]:
        return "first", f"min(first + {self.chunk}, {self.length})"

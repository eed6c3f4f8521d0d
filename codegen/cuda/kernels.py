"""CUDA kernels from loop nests: the text emitter's statements inside CUDA's loops.

Three shapes of kernel: one thread per point of the outer axes, in a grid-stride loop; one block per point,
whose threads stride through the phases' axes and combine accumulators by a tree in shared memory; and for
long reductions of few points two kernels, of which the first leaves one partial result per chunk. Trees,
chunks and their order depend on extents alone, so results are the same in every run. No multiplication is
contracted with an addition, so that elementwise results agree with the CPU's.

Note [Kernel texts]
A kernel is a Python function of flat buffers, of which each is one 64-bit address on the device, and of `error`, an i32
array of one. A buffer of bools is one of bytes: `x[i] != 0` reads, `x[i] = uint8(v)` writes. Indices are never negative
and never checked. Numbers are typed as NumPy's scalars are, a literal takes the type of what it meets. Statements are
assignments (also of tuples), `if`, `while`, `for ... in range`, `pass`. Beside the names of `text_scalars` a text
may use
    cuda.grid(1), cuda.gridsize(1), cuda.threadIdx.x, cuda.blockIdx.x, cuda.gridDim.x, cuda.blockDim.x: i32
    cuda.syncthreads(), cuda.syncwarp()
    cuda.shared.array(n, type), cuda.local.array(n, type): n and type are literals, at the function's start
    cuda.shfl_sync(-1, v, lane), cuda.shfl_up_sync(-1, v, n), cuda.shfl_down_sync(-1, v, n),
    cuda.shfl_xor_sync(-1, v, n): of integers and floats of 4 or 8 bytes; all 32 lanes take part
    cuda.ballot_sync(-1, v), cuda.any_sync(-1, v), cuda.all_sync(-1, v), cuda.popc(v)
    cuda.fma(x, y, z): x * y + z of one type, rounded once
    cuda.atomic.add(x, i, v), .max, .min, .and_, .or_, .xor, .exch(x, i, v), .cas(x, i, old, v): on buffers and shared
    arrays; the value before
    load_vec(x, i, n): a tuple of x[i] to x[i + n - 1]; store_vec(x, i, (v, ...)): where `aligned(16, x)`, i is a
    multiple of n, and the elements take at most 16 bytes
    aligned(n, x, ...): whether the addresses of buffers are multiples of n
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nufunc.codegen.emit_text import NestWriter, buffer_names
from nufunc.codegen.loops import Accumulator, Axis, Buffer, Inst, LoopNest, Phase
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.schedule import collapse
from nufunc.codegen.text_scalars import type_text
from nufunc.ir.types import INT64

THREADS = 256  # per block, a power of two
_BLOCKS = 4096  # at most; the loops stride over the grid
_SHORT = 32  # points of a reduction up to which one thread does it
_CHUNK = 4096  # points per chunk of a reduction in two passes
_FEW = 32  # outer points up to which a long reduction is done in two passes


@dataclass(frozen=True)
class Kernel:
    """A kernel's text and launch; see Note [Kernel texts].

    Its arguments are the addresses of `buffers` and of the error word, an i32. The last `scratch` buffers are workspace
    that the kernels of one nest share, and of no particular content. `blocks` is how many there are at most: kernels
    that stride over the grid may be launched with fewer.
    """

    name: str
    source: str
    buffers: tuple[Buffer, ...]
    scratch: int
    blocks: int
    threads: int


def kernels(nest: LoopNest, name: str, sites: Sites | None = None, threads: int = THREADS) -> list[Kernel]:
    """The kernels of a nest, to be launched in order."""
    from nufunc.codegen.cuda.scans import scan_kernels
    from nufunc.codegen.cuda.scatter import scatter_kernels

    nest = _parallel_first(collapse(nest))
    for special in (scan_kernels, scatter_kernels):
        made = special(nest, name, sites, threads)
        if made is not None:
            return made
    points = _points(nest.axes)
    if not _by_block(nest):
        blocks = min(-(-_points(_parallel(nest.axes)) // threads), _BLOCKS)
        return [_kernel(_ThreadWriter, nest, name, sites, _rows(nest, blocks * threads), blocks, threads)]
    chunks = -(-_points(nest.phases[0].axes) // _CHUNK)
    if points > _FEW or chunks < 2 or not _two_passes(nest):
        return [_kernel(_BlockWriter, nest, name, sites, _rows(nest, min(points, _BLOCKS)), points, threads)]
    scratch = tuple(b for acc in nest.phases[0].accumulators for b in _parts(acc, points * chunks))
    first = _kernel(_PartialWriter, nest, f"{name}_parts", sites, scratch, points * chunks, threads)
    return [first, _kernel(_FinishWriter, nest, name, sites, scratch, points, threads)]


def _kernel(
    writer: type[_CudaWriter], nest: LoopNest, name: str, sites: Sites | None, scratch: tuple[Buffer, ...],
    blocks: int, threads: int,
) -> Kernel:  # fmt: skip
    names = buffer_names([b.name for b in nest.buffers])
    lines = writer(nest, names, sites, threads).write()
    parts = [b.name for b in scratch if not b.scratch]
    arguments = ", ".join((*names, *parts, "error"))
    source = "\n".join((f"def {name}({arguments}):", *lines)) + "\n"
    buffers = (*(b for b in nest.buffers if not b.scratch), *scratch)
    return Kernel(name, source, buffers, len(scratch), min(blocks, _BLOCKS), threads)


def _points(axes: Sequence[Axis]) -> int:
    return math.prod(a.extent for a in axes)


def _parallel(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a.kind == "parallel")


def _parallel_first(nest: LoopNest) -> LoopNest:
    """Outer axes that run in order become loops of a thread, inside the axes that the grid spans."""
    serial = tuple(a for a in nest.axes if a.kind != "parallel")
    return replace(nest, axes=(*_parallel(nest.axes), *serial))


def _by_block(nest: LoopNest) -> bool:
    """Whether a block, not a thread, computes a point: phases are long, and neighbours read neighbours."""
    phases = [p for p in nest.phases if p.axes]
    ordered = any(a.kind == "serial" for a in nest.all_axes())
    if ordered or not phases or max(_points(p.axes) for p in phases) <= _SHORT:
        return False
    if _points(nest.axes) < 1024:
        return True
    inner = sum(i.index.coefficient(p.axes[-1].name) == 1 for p in phases for i in p.body if i.op == "load")
    outer = sum(i.index.coefficient(nest.axes[-1].name) == 1 for p in phases for i in p.body if i.op == "load")
    return inner >= outer


def _two_passes(nest: LoopNest) -> bool:
    """Whether the only loops inside a point are those of one phase of accumulators."""
    first, *rest = nest.phases
    return bool(first.accumulators) and not _has_rows(nest) and not any(p.axes or p.accumulators for p in rest)


def _has_rows(nest: LoopNest) -> bool:
    return any(b.scratch for b in nest.buffers)


def _rows(nest: LoopNest, workers: int) -> tuple[Buffer, ...]:
    """The nest's scratch rows, one for each block or thread at work."""
    return tuple(replace(b, size=b.size * workers) for b in nest.buffers if b.scratch)


def _parts(acc: Accumulator, size: int) -> list[Buffer]:
    """The workspace for partial results of an accumulator."""
    if acc.index is None:
        return [Buffer(f"part{acc.id}", acc.dtype, size, written=True)]
    best = Buffer(f"part{acc.id}_best", acc.dtype, size, written=True)
    return [best, Buffer(f"part{acc.id}", INT64, size, written=True)]


# -- text


class _CudaWriter(NestWriter):
    worker = ""  # the number of whatever has a scratch row to itself

    def __init__(self, nest: LoopNest, names: Sequence[str], sites: Sites | None, threads: int) -> None:
        super().__init__(nest, names, sites)
        self.threads = threads

    def element(self, inst: Inst) -> str:
        buffer = self.nest.buffers[inst.buffer]
        if not buffer.scratch:
            return super().element(inst)
        return f"{self.names[inst.buffer]}[{self.worker} * {buffer.size} + {self.affine(inst.index)}]"

    def read(self, inst: Inst) -> str:
        return f"({self.element(inst)} != 0)" if inst.dtype.kind == "b" else self.element(inst)

    def stored(self, value: str, dtype: np.dtype) -> str:
        """A value as it lies in memory."""
        return f"uint8({value})" if dtype.kind == "b" else value

    def split(self, axes: Sequence[Axis], name: str) -> None:
        """Define axes from a number that counts their points, the last axis fastest."""
        stride = 1
        for k, axis in reversed(list(enumerate(axes))):
            text = name if stride == 1 else f"{name} // {stride}"
            self.line(f"{axis.name} = {text}" + (f" % {axis.extent}" if k else ""))
            stride *= axis.extent

    def over_points(self, start: str, step: str) -> None:
        """The grid's loop over the parallel outer axes, then a thread's loops over serial ones."""
        axes = _parallel(self.nest.axes)
        if self.nest.axes:
            self.early(0)
        self.line(f"for point in range({start}, {_points(axes)}, {step}):")
        self.depth += 1
        self.inside(axes)

    def inside(self, axes: Sequence[Axis]) -> None:
        self.split(axes, "point")
        for k in range(1, len(axes)):
            self.early(k)
        for k, axis in enumerate(self.nest.axes[len(axes) :], len(axes)):
            if k:
                self.early(k)
            self.loop(axis)


class _ThreadWriter(_CudaWriter):
    """One thread per point."""

    worker = "cuda.grid(1)"

    def outer_loops(self) -> None:
        self.over_points("cuda.grid(1)", "cuda.gridsize(1)")


class _BlockWriter(_CudaWriter):
    """One block per point; every thread knows all values of the outer level, the first one stores them."""

    worker = "cuda.blockIdx.x"

    def outer_loops(self) -> None:
        self.line("thread = cuda.threadIdx.x")
        for phase in self.nest.phases:
            if phase.axes:
                for acc in phase.accumulators:
                    self.shared(acc)
        self.over_block_points()

    def over_block_points(self) -> None:
        self.over_points("cuda.blockIdx.x", "cuda.gridDim.x")

    def shared(self, acc: Accumulator) -> None:
        if acc.index is not None:
            self.line(f"tree{acc.id}_best = cuda.shared.array({self.threads}, {type_text(acc.dtype)})")
        dtype = self.dtypes[acc.id]
        self.line(f"tree{acc.id} = cuda.shared.array({self.threads}, {type_text(dtype)})")

    def phase(self, phase: Phase) -> None:
        if phase.axes:
            self.body(phase, len(self.nest.axes))
            self.begin(phase)
            self.items(phase)
            for acc in phase.accumulators:
                self.tree(acc)
        else:
            super().phase(phase)
        if _has_rows(self.nest) and not (phase.axes and phase.accumulators):  # trees end with a barrier
            self.line("cuda.syncthreads()")  # before another thread reads or overwrites the row

    def items(self, phase: Phase) -> None:
        """The block's loop over the points of a phase's axes."""
        self.over_items(phase, "thread", str(_points(phase.axes)))

    def over_items(self, phase: Phase, start: str, stop: str) -> None:
        self.line(f"for item in range({start}, {stop}, {self.threads}):")
        self.depth += 1
        self.split(phase.axes, "item")
        outer = len(self.nest.axes)
        for level in range(outer + 1, outer + len(phase.axes) + 1):
            self.body(phase, level)
        self.combine_values(phase)
        self.depth -= 1

    def store(self, inst: Inst) -> None:
        alone = self.level[inst.id] <= len(self.nest.axes)
        if alone:
            self.line("if thread == 0:")
        self.depth += alone
        super().store(inst)
        self.depth -= alone

    def tree(self, acc: Accumulator) -> None:
        """Combine the threads' parts of an accumulator pairwise, in a fixed order; all get the result."""
        a, t = f"a{acc.id}", f"tree{acc.id}"
        names = [(a, t)] if acc.index is None else [(f"{a}_best", f"{t}_best"), (a, t)]
        share = [f"{tree}[thread] = {own}" for own, tree in names]
        for text in (*share, "cuda.syncthreads()", f"width = {self.threads // 2}", "while width > 0:"):
            self.line(text)
        self.depth += 1
        self.line("if thread < width:")
        self.depth += 1
        other = [f"{tree}[thread + width]" for _, tree in names]
        self.combine(acc, other[0], None if acc.index is None else other[1])
        for text in share:
            self.line(text)
        self.depth -= 1
        for text in ("cuda.syncthreads()", "width = width // 2"):
            self.line(text)
        self.depth -= 1
        for own, tree in names:
            self.line(f"{own} = {tree}[0]")
        self.line("cuda.syncthreads()")


class _PartialWriter(_BlockWriter):
    """The first of two passes: a block reduces one chunk of a point and leaves the part."""

    def over_block_points(self) -> None:
        phase = self.nest.phases[0]
        self.chunks = -(-_points(phase.axes) // _CHUNK)
        axes = self.nest.axes
        if axes:
            self.early(0)
        self.line(f"for block in range(cuda.blockIdx.x, {_points(axes) * self.chunks}, cuda.gridDim.x):")
        self.depth += 1
        self.line(f"point = block // {self.chunks}")
        self.line(f"first = block % {self.chunks} * {_CHUNK}")
        self.inside(axes)

    def phase(self, phase: Phase) -> None:
        if phase is not self.nest.phases[0]:
            return
        super().phase(phase)
        self.line("if thread == 0:")
        for acc in phase.accumulators:
            for part in _parts(acc, 0):
                self.line(f"    {part.name}[block] = a{part.name.removeprefix('part')}")

    def items(self, phase: Phase) -> None:
        self.over_items(phase, "first + thread", f"min(first + {_CHUNK}, {_points(phase.axes)})")

    def store(self, inst: Inst) -> None:
        if self.level[inst.id] > len(self.nest.axes):  # the second pass stores what belongs to the point
            super().store(inst)


class _FinishWriter(_BlockWriter):
    """The second pass: a block combines a point's parts and runs the phases that follow."""

    def items(self, phase: Phase) -> None:
        chunks = -(-_points(phase.axes) // _CHUNK)
        self.line(f"for item in range(thread, {chunks}, {self.threads}):")
        self.depth += 1
        for acc in phase.accumulators:
            parts = [f"{part.name}[point * {chunks} + item]" for part in _parts(acc, 0)]
            self.combine(acc, parts[0], parts[1] if len(parts) > 1 else None)
        self.depth -= 1

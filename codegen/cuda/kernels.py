"""CUDA kernels from loop nests: the text emitter's statements inside CUDA's loops, compiled by numba.cuda.

Three shapes of kernel: one thread per point of the outer axes, in a grid-stride loop; one block per point,
whose threads stride through the phases' axes and combine accumulators by a tree in shared memory; and for
long reductions of few points two kernels, of which the first leaves one partial result per chunk. Trees,
chunks and their order depend on extents alone, so results are the same in every run. No multiplication is
contracted with an addition, so that elementwise results agree with the CPU's.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import numpy as np

from nufunc.codegen.emit_text import (
    Arrays,
    NestWriter,
    buffer_names,
    compile_text,
    group_arrays,
    group_nests,
    raise_site,
)
from nufunc.codegen.loops import Accumulator, Axis, Buffer, Inst, LoopNest, Phase
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.text_scalars import (
    BITS,
    CONSTANTS,
    FUNCTIONS,
    HELPERS,
    LACKING,
    PLAIN,
    ROUNDED,
    TYPES,
    WIDE,
    type_text,
)
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Node
from nufunc.ir.types import INT64

THREADS = 256  # per block, a power of two
_BLOCKS = 4096  # at most; the loops stride over the grid
_SHORT = 32  # points of a reduction up to which one thread does it
_CHUNK = 4096  # points per chunk of a reduction in two passes
_FEW = 32  # outer points up to which a long reduction is done in two passes


@dataclass(frozen=True)
class Kernel:
    """A kernel's text and launch.

    Its arguments are flat arrays for `buffers`, then `error`, an i32 array of one. The last `scratch` buffers
    are workspace that the kernels of one nest share.
    """

    name: str
    source: str
    buffers: tuple[Buffer, ...]
    scratch: int
    blocks: int
    threads: int


def kernels(nest: LoopNest, name: str, sites: Sites | None = None, threads: int = THREADS) -> list[Kernel]:
    """The kernels of a nest, to be launched in order."""
    nest = _parallel_first(nest)
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


# -- numba.cuda


def _module(name: str) -> Any:
    """A module of numba or numba-cuda, imported when it is needed; both are untyped."""
    return importlib.import_module(name)


@functools.cache
def _device_names() -> Mapping[str, Any]:
    """What emitted text may name on a device."""
    cuda, libdevice = _module("numba.cuda"), _module("numba.cuda.libdevice")
    names: dict[str, Any] = {**TYPES, **CONSTANTS, "cuda": cuda}
    wide = (*ROUNDED, *WIDE)  # in double precision only; math's floor and its like would give integers
    known = [name for name in (*FUNCTIONS, *ROUNDED) if name not in LACKING]
    names.update((name, getattr(libdevice if name in wide else math, name)) for name in known)
    names.update((name, getattr(libdevice, name)) for name in BITS.values())
    plain = dict(names)
    for helper in HELPERS:
        # Inlined, since numba.cuda asks a device for its architecture when it compiles a device function.
        function = FunctionType(helper.__code__, plain, helper.__name__)
        names[helper.__name__] = cuda.jit(function, device=True, inline="always")
    return names


def ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    """PTX of a kernel for a compute capability; needs libNVVM and libdevice, but no device and no driver."""
    compiler, types = _module("numba.cuda.compiler"), _module("numba.cuda.types")
    from_dtype = _module("numba.cuda.np.numpy_support").from_dtype
    names = _device_names()
    missing = [n for n in PLAIN if n not in names and re.search(rf"\b{n}\b", kernel.source)]
    if missing:
        raise UnsupportedError(f"CUDA kernels have no {', '.join(missing)}")
    function = compile_text(kernel.source, kernel.name, names)
    arrays = [types.Array(from_dtype(b.dtype), 1, "C") for b in kernel.buffers]
    signature = (*arrays, types.Array(types.int32, 1, "C"))
    # cuda.compile_ptx has no way to turn contraction off; this is what it does, with one option more.
    options = {"opt": 3, "fma": False}
    compiled = compiler.compile_cuda(function, types.void, signature, nvvm_options=options, cc=capability)
    library, symbol = compiled.library, compiled.fndesc.llvm_func_name
    compiler.kernel_fixup(library.get_function(symbol), False)
    library._entry_name = symbol
    return library.get_asm_str(cc=capability)


class SimulatedGroups:
    """Runs fused nodes through their CUDA kernels in numba.cuda's simulator; a `run_group` for `run_grouped`.

    The simulator is chosen by NUMBA_ENABLE_CUDASIM=1 before numba is imported. It starts a Python thread per
    CUDA thread, so blocks should be small.
    """

    def __init__(self, threads: int = 8) -> None:
        self.threads = threads
        self.launched: list[str] = []

    def __call__(self, node: Node, operands: Arrays) -> list[np.ndarray]:
        sites = Sites()
        name, nests = group_nests(node, sites)
        arrays, results = group_arrays(node, operands)
        error = np.zeros(1, np.int32)
        for nest in nests:
            scratch: list[np.ndarray] = []
            for kernel in kernels(nest, name, sites, self.threads):
                if not scratch and kernel.scratch:
                    scratch = [np.zeros(b.size, b.dtype) for b in kernel.buffers[-kernel.scratch :]]
                simulate(kernel, [*arrays, *scratch, error])
                self.launched.append(kernel.name)
            raise_site(sites, int(error[0]))
        return results


def simulate(kernel: Kernel, arguments: Arrays) -> None:
    """Run a kernel on NumPy arrays in numba.cuda's simulator."""
    cuda = _module("numba.cuda")
    if not _module("numba").config.ENABLE_CUDASIM:
        raise UnsupportedError("the CUDA simulator needs NUMBA_ENABLE_CUDASIM=1 set before numba is imported")
    function: Callable[..., Any] = compile_text(kernel.source, kernel.name, {**PLAIN, "cuda": cuda})
    cuda.jit(function)[kernel.blocks, kernel.threads](*arguments)

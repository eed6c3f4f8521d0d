"""What all writers of kernel texts share: buffers as memory, points of a grid, and the kernel of one thread per point.

Note [Kernel texts]
A kernel is a Python function of flat buffers, of which each is one 64-bit address on the device, and of `error`, an i32
array of one. A buffer of bools is one of bytes: `x[i] != 0` reads, `x[i] = uint8(v)` writes. Indices are never negative
and never checked. Numbers are typed as NumPy's scalars are, a literal takes the type of what it meets. Statements are
assignments (also of tuples), `if`, `while`, `for ... in range`, `pass`, `break`, `continue`, `return`. Beside the names
of `text_scalars` a text may use
    cuda.grid(1), cuda.gridsize(1), cuda.threadIdx.x, cuda.blockIdx.x, cuda.gridDim.x, cuda.blockDim.x: i32
    cuda.syncthreads(), cuda.syncwarp()
    cuda.shared.array(n, type), cuda.local.array(n, type): n and type are literals
    cuda.shfl_sync(-1, v, lane), cuda.shfl_up_sync(-1, v, n), cuda.shfl_down_sync(-1, v, n),
    cuda.shfl_xor_sync(-1, v, n): of integers and floats of 4 or 8 bytes; all 32 lanes take part
    cuda.ballot_sync(-1, v), cuda.any_sync(-1, v), cuda.all_sync(-1, v), cuda.popc(v), cuda.fma(x, y, z)
    cuda.atomic.add(x, i, v), .max, .min, .and_, .or_, .xor, .exch(x, i, v), .cas(x, i, old, v): on buffers and shared
    arrays; the value before
    load_vec(x, i, n): a tuple of x[i] to x[i + n - 1]; store_vec(x, i, (v, ...)): where `aligned(16, x)`, i is a
    multiple of n, and the elements take at most 16 bytes
    aligned(n, x, ...): whether the addresses of buffers are multiples of n
A buffer that a kernel does not write is read as constant memory. It may stand in the memory of one that is written
where each point reads of it the element that it stores afterwards, and no other; `program.launched` then makes it one
that is written, too, so that no load is moved behind a store.

Note [Vectors of memory]
Elementwise kernels load and store 16 bytes at a time where neighbouring points have neighbouring elements. Buffers may
begin anywhere (views of user's arrays do), so that kernels look at the addresses and have a loop for the other case,
which also does what is left at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nufunc.codegen.cuda.program import Kernel as Kernel  # which is described here
from nufunc.codegen.emit_text import NestWriter, buffer_names
from nufunc.codegen.loops import Affine, Axis, Buffer, Inst, LoopNest, Phase, varying
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.schedule import op_cost
from nufunc.ir.types import is_half

THREADS = 256  # per block, a power of two
BLOCKS = 4096  # at most; the loops stride over the grid
NARROW = 1 << 30  # points and elements up to which indices have 32 bits
_WIDEST = 8  # points of a vector at most
_DEAR = 48  # cycles of a body from which there are no vectors: it is not memory that it waits for
_COSTS = dict.fromkeys(("floor_div", "mod", "fmod", "gcd", "pow", "check"), 16)


def count(axes: Sequence[Axis]) -> int:
    """Points of axes."""
    return math.prod(a.extent for a in axes)


def parallel(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a.kind == "parallel")


def has_rows(nest: LoopNest) -> bool:
    return any(b.scratch for b in nest.buffers)


def _most(nest: LoopNest) -> int:
    """The points of loops and the elements of buffers, whichever are most; scratch rows are those of all points."""
    points = count(nest.axes)
    rows = (b.size * (points + THREADS) for b in nest.buffers if b.scratch)
    sizes = (b.size for b in nest.buffers if not b.scratch)
    return max([points, *(count(p.axes) for p in nest.phases), *rows, *sizes])


class CudaWriter(NestWriter):
    """A nest for a device; see Note [Kernel texts]."""

    def __init__(self, nest: LoopNest, names: Sequence[str], sites: Sites | None, threads: int) -> None:
        super().__init__(nest, names, sites)
        self.threads = threads
        self.insts = {i.id: i for p in nest.phases for i in p.body}
        self.extents = {a.name: a.extent for a in nest.all_axes()}
        self.wide = _most(nest) + threads >= NARROW
        self.lane: int | None = None  # of a vector, while its instructions are written
        self.varying: set[int] = set()
        self._moved: dict[str, set[int]] = {}

    # -- memory

    def element(self, inst: Inst) -> str:
        buffer = self.nest.buffers[inst.buffer]
        if not buffer.scratch:
            return super().element(inst)
        return f"{self.names[inst.buffer]}[{self.row_place(buffer, self.affine(inst.index))}]"

    def row_place(self, buffer: Buffer, address: str) -> str:
        """Where an element of a scratch row stands."""
        raise NotImplementedError

    def read(self, inst: Inst) -> str:
        return f"({self.element(inst)} != 0)" if inst.dtype.kind == "b" else self.element(inst)

    def stored(self, value: str, dtype: np.dtype) -> str:
        """A value as it lies in memory."""
        return f"uint8({value})" if dtype.kind == "b" else value

    # -- points

    def first(self, text: str) -> str:
        """A number that points are counted from: of 64 bits where there are many."""
        return f"int64({text})" if self.wide else text

    def split(self, axes: Sequence[Axis], name: str) -> None:
        """Define axes from a number that counts their points, the last axis fastest."""
        for k, axis in reversed(list(enumerate(axes))):
            self.line(f"{axis.name} = {name}" + (f" % {axis.extent}" if k else ""))
            if k > 1:
                self.line(f"rest = {name} // {axis.extent}")
                name = "rest"
            elif k:
                name = f"{name} // {axis.extent}"

    def over_points(self, start: str, step: str) -> None:
        """The grid's loop over the parallel outer axes, then a thread's loops over serial ones."""
        axes = parallel(self.nest.axes)
        if self.nest.axes:
            self.early(0)
        self.line(f"for point in range({self.first(start)}, {count(axes)}, {step}):")
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

    # -- instructions

    def computed(self, inst: Inst) -> str:
        if inst.op in ("index_div", "index_mod"):
            index = self.insts.get(inst.args[0])
            if index is not None and index.op == "index" and self._is_small(index.index):
                sign = "//" if inst.op == "index_div" else "%"
                return f"int64(({self.affine(index.index)}) {sign} {inst.attrs['by']})"
        return super().computed(inst)

    def _is_small(self, index: Affine) -> bool:
        """Whether an address of axes alone is computed in 32 bits."""
        if self.wide or any(isinstance(key, int) for key, _ in index.terms):
            return False
        span = sum(abs(c) * self.extents[str(key)] for key, c in index.terms)
        return abs(index.const) + span < NARROW

    # -- vectors: `lane` is the point that is written

    def value(self, number: int) -> str:
        text = super().value(number)
        return f"{text}_{self.lane}" if self.lane is not None and number in self.varying else text

    def affine(self, index: Affine) -> str:
        if self.lane and self.moving:
            index = index + self.lane * index.coefficient(self.moving)
        return super().affine(index)

    moving: str | None = None  # the axis that lanes go along

    def contiguous(self, inst: Inst, axis: str, width: int) -> bool:
        """Whether `width` neighbouring points of an axis have an aligned piece of memory."""
        if inst.guard is not None or inst.index.coefficient(axis) != 1 or inst.attrs.get("mode") == "add":
            return False
        if width * inst.dtype.itemsize > 16:
            return False
        rest = [(k, c) for k, c in inst.index.terms if k != axis]
        return inst.index.const % width == 0 and all(c % width == 0 and k not in self.moved(axis) for k, c in rest)

    def moved(self, axis: str) -> set[int]:
        """Values that differ from point to point of an axis."""
        if axis not in self._moved:
            self._moved[axis] = set()
            for phase in self.nest.phases:
                varying(self.nest, phase, axis, self._moved[axis])
        return self._moved[axis]

    def cost(self, phase: Phase) -> int:
        """Roughly the cycles of a phase's innermost body; halves on their way to and from float32 are none."""
        inner = len(self.nest.axes) if phase.axes else 0
        insts = [i for i in phase.body if self.level[i.id] > inner and i.op not in ("load", "store", "const", "index")]
        insts = [i for i in insts if i.op != "convert" or not self.of_half(i)]
        return sum(_COSTS.get(i.op) or op_cost(i.op) for i in insts)

    def of_half(self, inst: Inst) -> bool:
        """Whether a half is made, or read."""
        source = self.insts.get(inst.args[0])
        return is_half(inst.dtype) or (source is not None and is_half(source.dtype))

    def vector_width(self, phases: Sequence[Phase], axis: Axis) -> int:
        """How many points along an axis are worth being done together, and 1 where none are."""
        if sum(map(self.cost, phases)) > _DEAR:
            return 1
        accesses = [i for p in phases for i in p.body if i.op in ("load", "store")]
        moving = [i for i in accesses if i.index.coefficient(axis.name) and not self.nest.buffers[i.buffer].scratch]
        near = [i for i in moving if i.index.coefficient(axis.name) == 1 and i.guard is None]
        if not near or 2 * len(near) < len(moving):
            return 1
        width = min(_WIDEST, 16 // max(i.dtype.itemsize for i in near))
        while width > 1 and axis.extent % width:
            width //= 2
        fits = [i for i in near if self.contiguous(i, axis.name, width)]
        stores = [i for i in near if i.op == "store"]
        return width if len(fits) == len(near) or (fits and all(i in fits for i in stores)) else 1

    def vector_inst(self, phase: Phase, inst: Inst, axis: str, width: int, vectors: bool = True) -> None:
        """An instruction of a body for all lanes."""
        if inst.id not in self.varying:
            if inst.op == "store":
                self.lane = None
            self.inst(phase, inst)
            return
        if vectors and inst.op in ("load", "store") and self.contiguous(inst, axis, width):
            self.vector_access(inst, width)
            return
        for self.lane in range(width):
            self.inst(phase, inst)
        self.lane = None

    def inst(self, phase: Phase, inst: Inst) -> None:
        if self.lane is None or inst.op in ("const", "store", "running"):
            super().inst(phase, inst)
        else:
            self.line(f"v{inst.id}_{self.lane} = {self.computed(inst)}{self.comment(inst)}")

    def vector_access(self, inst: Inst, width: int) -> None:
        place = self.element(inst)
        name, address = place[: place.index("[")], place[place.index("[") + 1 : -1]
        if inst.op == "load":
            lanes = [f"v{inst.id}_{k}" for k in range(width)]
            self.line(f"{', '.join(lanes)} = load_vec({name}, {address}, {width})")
            if inst.dtype.kind == "b":
                self.line(f"{', '.join(lanes)} = {', '.join(f'{v} != 0' for v in lanes)}")
            return
        values = []
        for self.lane in range(width):
            values.append(self.stored(self.value(inst.args[0]), inst.dtype))
        self.lane = None
        self.line(f"store_vec({name}, {address}, ({', '.join(values)}))")


class ThreadWriter(CudaWriter):
    """One thread per point, or per vector of points: see Note [Vectors of memory]."""

    def row_place(self, buffer: Buffer, address: str) -> str:
        return f"({address}) * cuda.gridsize(1) + cuda.grid(1)"

    def __init__(self, nest: LoopNest, names: Sequence[str], sites: Sites | None, threads: int) -> None:
        super().__init__(nest, names, sites, threads)
        self.width = 1
        plain = all(a.kind == "parallel" for a in nest.axes) and not any(p.axes or p.accumulators for p in nest.phases)
        if plain and nest.axes and not has_rows(nest):
            self.width = self.width_of_points()
        self.points = count(parallel(nest.axes))

    def width_of_points(self) -> int:
        """Points of the last axis for a thread; where it is the only axis, what is left over is done one by one."""
        axis = self.nest.axes[-1]
        if len(self.nest.axes) > 1:
            return self.vector_width(self.nest.phases, axis)
        whole = axis.extent // _WIDEST * _WIDEST
        return self.vector_width(self.nest.phases, replace(axis, extent=whole or axis.extent))

    @property
    def items(self) -> int:
        """How many threads have something to do."""
        return -(-self.points // self.width)

    def write(self) -> list[str]:
        if self.width == 1:
            return super().write()
        axis = self.nest.axes[-1]
        moved = (i for i in self.insts.values() if i.op in ("load", "store"))
        buffers = {self.names[i.buffer]: None for i in moved if self.contiguous(i, axis.name, self.width)}
        if self.nest.axes:
            self.early(0)
        self.line("first = 0")
        self.line(f"if aligned(16, {', '.join(buffers)}):")
        self.depth += 1
        whole = self.points // self.width
        self.line(f"for item in range({self.first('cuda.grid(1)')}, {whole}, cuda.gridsize(1)):")
        self.depth += 1
        self.line(f"point = item * {self.width}")
        self.split(self.nest.axes, "point")
        self.lanes(axis)
        self.depth -= 1
        self.line(f"first = {whole * self.width}")
        self.depth -= 1
        self.line(f"for point in range({self.first('first + cuda.grid(1)')}, {self.points}, cuda.gridsize(1)):")
        self.depth += 1
        self.inside(self.nest.axes)
        for phase in self.nest.phases:
            self.phase(phase)
        self.close()
        return self.lines

    def lanes(self, axis: Axis) -> None:
        self.moving = axis.name
        for phase in self.nest.phases:
            self.varying = varying(self.nest, phase, axis.name, self.varying)
            for inst in phase.body:
                if self.level[inst.id] > 0:
                    self.vector_inst(phase, inst, axis.name, self.width)
        self.moving, self.varying = None, set()

    def outer_loops(self) -> None:
        self.over_points("cuda.grid(1)", "cuda.gridsize(1)")


def named(nest: LoopNest) -> list[str]:
    """The names of a nest's buffers in a text."""
    return buffer_names([b.name for b in nest.buffers])

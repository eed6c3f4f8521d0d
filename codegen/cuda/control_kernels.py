"""Kernels that hold control flow: loops, branches and the nests inside them as one text.

Note [Control in kernels]
In a "thread" kernel each thread is a lane of a map, or there is one thread: numbers are registers, small arrays lie
on the thread's stack. In a "block" kernel a block is a lane, or there is a single block: every thread computes numbers
for itself, and so takes the branches that all others take; arrays lie in workspace (one arena per block, planned like
that of any other graph) and belong to all threads, which meet at a barrier between what one wrote and another reads or
overwrites. Carries that the body does not update in place have two halves, which change places after each iteration.
Where something may fail in a loop that stops when its data say so, threads look at the error word before an iteration.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nufunc.codegen.buffers import ALIGNMENT, Frame, aligned, is_view
from nufunc.codegen.cuda import control_choice, control_lanes, control_loops
from nufunc.codegen.cuda.control_loops import Area, second_sizes
from nufunc.codegen.cuda.control_nests import WARP, Home
from nufunc.codegen.cuda.control_regions import Region
from nufunc.codegen.cuda.control_tapes import THREADS, recording
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.program import Branch, Copy, Launch, Operand, Place, Step, launched
from nufunc.codegen.cuda.writer import NARROW
from nufunc.codegen.loops import Buffer
from nufunc.codegen.text_scalars import type_text
from nufunc.ir.graph import Graph, Node
from nufunc.ir.types import INT64, ArrayType

if TYPE_CHECKING:
    from nufunc.codegen.cuda.plan import Planner, Scope

BLOCKS = 1024  # at most, of a kernel with a block per lane: each has an arena


def blocks_of(node: Node) -> int:
    """Blocks of a block kernel."""
    return min(node.attrs["length"], BLOCKS) if node.prim == "map" else 1


def scratch(node: Node, frames: Sequence[Frame]) -> int:
    """Bytes of the arena of one block or thread of a control node inside a kernel, given its regions' frames."""
    return sum(second_sizes(node, frames)) + max((aligned(f.size) for f in frames), default=0)


def rows_bytes(node: Node) -> int:
    """Scratch memory of a fused node inside a kernel, for the rows of all warps that go through them."""
    nests = control_choice.nests_of(node)
    each = (sum(aligned(b.size * b.dtype.itemsize * WARP) for b in n.buffers if b.scratch) for n in nests)
    return max(each, default=0)


def steps(planner: Planner, scope: Scope, node: Node, mode: str) -> list[Step]:
    """The kernel of a control node, and what runs instead where its tapes had too little room."""
    made = launch(planner, scope, node, mode)
    if recording(node) is None:
        return [made]
    from nufunc.codegen.cuda import control

    flag = Operand(scope.scratch(node), ArrayType((), INT64))
    with planner.into() as longer:
        control.STEPS[node.prim](planner, scope, node)
    return [Copy(flag.place, planner.zeros(1), flag.type.nbytes), made, Branch(flag, ((), tuple(longer)))]


def launch(planner: Planner, scope: Scope, node: Node, mode: str) -> Launch:
    """The kernel of a control node and where its buffers stand."""
    writer = Writer(planner, node, mode, scope.frame.frames[node])
    writer.run(scope)
    used = tuple(Buffer(k, h.dtype, size, k in writer.written) for k, (_, h, size) in writer.places.items())
    body = [*writer.head(), *writer.lines]
    key = "\n".join((*body, *map(str, used)))
    if key not in planner.known:
        name = f"{node.prim}_{len(planner.known)}"
        source = "\n".join((f"def {name}({', '.join((*writer.places, 'error'))}):", *body)) + "\n"
        planner.known[key] = [Kernel(name, source, used, 0, writer.blocks, writer.threads)]
    (kernel,) = planner.known[key]
    return launched(kernel, [place for place, _, _ in writer.places.values()])


class Writer:
    """Writes one kernel."""

    def __init__(self, planner: Planner, node: Node, mode: str, frames: Sequence[Frame]) -> None:
        self.planner, self.node, self.by_thread, self.frames = planner, node, mode in ("thread", "lanes"), frames
        self.split = control_lanes.split(node, control_choice.nests_of) if mode == "lanes" else None
        self.rows = control_choice.rows_of(node) if mode == "rows" else None
        self.spent = 0  # bytes of the memory that rows have taken
        self.lines: list[str] = []
        self.depth = 1
        self.places: dict[str, tuple[Place, Home, int]] = {}
        self.names: dict[tuple[Place, np.dtype], str] = {}
        self.written: set[str] = set()
        self.arrays: list[str] = []  # declarations of the stack and of shared memory
        self.shared: dict[str, tuple[int, str]] = {}
        self.numbers = itertools.count()
        self.first_id = 0
        self.touched: list[tuple[Area, bool]] = []  # since the last barrier: what, and whether it was written
        self.inside = [n for r in node.regions for n in r.walk() if n.prim == "fused"]
        lanes = self.split.lanes if self.split is not None else node.attrs["length"] if node.prim == "map" else 1
        self.recording, self.pool = recording(node), ALIGNMENT
        if self.recording is not None:
            self.threads, self.blocks = THREADS, self.recording.threads // THREADS
        elif self.by_thread:
            self.threads = min(THREADS, max(WARP, 1 << (lanes - 1).bit_length())) if lanes > 1 else 1
            self.blocks = -(-lanes // self.threads)
        else:
            lanes = 1 if self.rows is None else self.rows.lanes
            self.threads = control_choice.threads_of(self.inside, lanes)
            self.blocks = blocks_of(node) if self.rows is None else min(lanes, BLOCKS)

    @property
    def worker(self) -> tuple[str, str]:
        """The first lane of a thread or block, and how far it is to its next one."""
        first, step = ("grid(1)", "gridsize(1)") if self.by_thread else ("blockIdx.x", "gridDim.x")
        return self.counted(f"cuda.{first}"), f"cuda.{step}"

    def counted(self, first: str) -> str:
        """A number that rows of stacked arrays are counted from: of 64 bits where arrays are large."""
        wide = any(v.type.size >= NARROW for v in (*self.node.operands, *self.node.results))
        return f"int64({first})" if wide else first

    def head(self) -> list[str]:
        declared = [f"{name} = cuda.shared.array({n}, {kind})" for name, (n, kind) in self.shared.items()]
        thread = [] if self.by_thread else ["thread = cuda.threadIdx.x"]
        return ["    " + line for line in (*declared, *self.arrays, *thread)]

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def indented(self, head: str) -> Iterator[None]:
        self.line(head)
        before = len(self.lines)
        self.depth += 1
        yield
        if len(self.lines) == before:
            self.line("pass")
        self.depth -= 1

    def fresh(self, letter: str) -> str:
        return f"{letter}{next(self.numbers)}"

    # -- homes

    def memory(self, place: Place, type_: ArrayType, elements: int | None = None) -> Home:
        """A buffer of the kernel at a place."""
        key = (place, type_.dtype)
        if key not in self.names:
            self.names[key] = self.fresh("m")
        name = self.names[key]
        area = (f"{place.space}{place.number}", place.offset, place.offset + type_.nbytes)
        home = Home(name, type_.dtype, area=area)
        size = max(type_.size if elements is None else elements, self.places[name][2] if name in self.places else 0)
        self.places[name] = (place, home, size)
        return home

    def arena(self, place: Place, type_: ArrayType) -> Home:
        """A value in the arena of a block, or on the stack of a thread."""
        if self.by_thread:
            return self.stacked(type_)
        if self.rows is not None:
            place = self.own_arena.moved(self.spent)
            self.spent += aligned(max(type_.nbytes, 1))
            return replace(self.memory(place, type_), lane=type_.size)
        if self.blocks == 1:
            return self.memory(place, type_)
        each = self.each // type_.dtype.itemsize
        home = self.memory(place, type_, (self.blocks - 1) * each + type_.size)
        return home.at(f"int64(cuda.blockIdx.x) * {each}")

    def stacked(self, type_: ArrayType) -> Home:
        """An array on the stack of a thread; of one that is split its part."""
        name = self.fresh("own")
        kind = "uint8" if type_.dtype.kind == "b" else type_text(type_.dtype)
        size = type_.size if self.split is None else self.split.elements(type_.size)
        self.arrays.append(f"{name} = cuda.local.array({max(size, 1)}, {kind})")
        return Home(name, type_.dtype, lane=0 if self.split is None else type_.size)

    def loaded(self, home: Home) -> Home:
        """A number in a register."""
        if home.register:
            return home
        self.before([home], [])
        name = self.fresh("reg")
        self.line(f"{name} = {home.read('0')}")
        return Home(name, home.dtype, register=True)

    # -- barriers

    def before(self, reads: Sequence[Home], writes: Sequence[Home]) -> None:
        """Meet first where others may still read what is written now, or have written what is read."""
        if self.by_thread:
            return
        now = [(h.area, False) for h in reads if h.area] + [(h.area, True) for h in writes if h.area]
        if any((w or w0) and _overlap(a, b) for a, w in now for b, w0 in self.touched):
            self.meet()
        self.touched += [n for n in now if n not in self.touched]
        self.written.update(h.name for h in writes if not h.register)

    def meet(self) -> None:
        if not self.by_thread:
            self.line("cuda.syncthreads()")
            self.touched.clear()

    def settle(self) -> None:
        """Meet if anything has been written or read since."""
        if self.touched:
            self.meet()

    # -- the kernel

    def run(self, scope: Scope) -> None:
        node = self.node
        each = scope.frame.scratch_bytes.get(node, 0) // blocks_of(node)
        self.each, arena = each, scope.scratch(node)
        self.own_arena = arena
        operands = [self.memory(scope.place(o), o.type) for o in node.operands]
        results = [self.memory(scope.place(r), r.type) for r in node.results]
        self.written.update(h.name for h in results)
        if node.prim == "map":
            control_loops.lanes(self, node, self.frames, operands, results, arena)
            return
        homes: list[Home | None] = [None if r.type.size == 1 else h for r, h in zip(node.results, results, strict=True)]
        lanes = self.split or self.rows
        if lanes is not None:
            self.line(f"for lane in range({self.worker[0]}, {lanes.lanes}, {self.worker[1]}):")
            self.depth += 1
            sizes = [r.type.size for r in node.results]
            homes = [None if h is None else replace(h, lane=n) for h, n in zip(homes, sizes, strict=True)]
        made = control_loops.control(self, node, self.frames, operands, homes, arena)
        for home, result in zip(made, results, strict=True):
            if home.register:
                self.before([], [result])
                self.single(f"{result.element('0')} = {result.stored(home.name)}")
        if self.rows is not None:
            self.settle()

    def single(self, text: str) -> None:
        """A statement for one thread of those that compute the same."""
        tests = [] if self.by_thread else ["thread == 0"]
        if self.split is not None or self.rows is not None:
            tests.append("lane == 0")
        self.line(f"if {' and '.join(tests)}: {text}" if tests else text)

    # -- regions

    def region(
        self, graph: Graph, frame: Frame, params: Sequence[Home], outputs: Sequence[Home | None], arena: Place
    ) -> list[Home]:
        """Write a region: the homes of its outputs, which for arrays are `outputs`."""
        inside = Region(self, graph, frame, params, outputs, arena)
        for node in graph.nodes:
            if not is_view(node):
                inside.node(node)
        return inside.finish()

    def copied(self, target: Home, source: Home, type_: ArrayType) -> None:
        """An array from one place to another."""
        if (target.name, target.offset) == (source.name, source.offset) or not type_.size:
            return
        if self.split is not None:
            split = self.split
            at = lambda home, k: str(k) if home.area is None else split.flat(k, type_.size)
            for k in range(split.elements(type_.size)):
                self.line(f"{target.element(at(target, k))} = {source.element(at(source, k))}")
            self.written.update(h.name for h in (target,) if h.area)
            return
        self.before([source], [target])
        if self.rows is not None:
            size = self.rows.elements(type_.size)
            name = self.fresh("at")
            place = f"{size} * lane + {name}" if self.rows.major else f"{self.rows.lanes} * {name} + lane"
            with self.indented(f"for {name} in range(thread, {size}, {self.threads}):"):
                self.line(f"{target.element(place)} = {source.element(place)}")
            return
        worker = f"range({type_.size})" if self.by_thread else f"range(thread, {type_.size}, {self.threads})"
        name = self.fresh("at")
        with self.indented(f"for {name} in {worker}:"):
            self.line(f"{target.element(name)} = {source.element(name)}")


def _overlap(a: Area, b: Area) -> bool:
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]

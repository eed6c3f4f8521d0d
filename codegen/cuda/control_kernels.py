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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nufunc.codegen import buffers
from nufunc.codegen.buffers import ALIGNMENT, Frame, aligned, is_view
from nufunc.codegen.cuda import control_choice, control_lanes
from nufunc.codegen.cuda.control_lanes import LaneNest, RowNest
from nufunc.codegen.cuda.control_nests import WARP, BlockNest, Home, ThreadNest, renumbered
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.program import Branch, Copy, Launch, Operand, Place, Step
from nufunc.codegen.loops import Buffer
from nufunc.codegen.schedule import collapse
from nufunc.codegen.text_scalars import number, type_text
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import INT64, ArrayType, TapeType

if TYPE_CHECKING:
    from nufunc.codegen.cuda.plan import Planner, Scope

BLOCKS = 1024  # at most, of a kernel with a block per lane: each has an arena
_TAPE_BYTES, _MOST_ITEMS, _FEWEST_ITEMS = 1 << 28, 4096, 16  # of the tapes of all threads; of one
_TAPE_BLOCKS = 512
_THREADS = 64  # of a block whose threads are lanes
Area = tuple[str, int, int]


def blocks_of(node: Node) -> int:
    """Blocks of a block kernel."""
    return min(node.attrs["length"], BLOCKS) if node.prim == "map" else 1


def scratch(node: Node, frames: Sequence[Frame]) -> int:
    """Bytes of the arena of one block or thread of a control node inside a kernel, given its regions' frames."""
    return sum(second_sizes(node, frames)) + max((aligned(f.size) for f in frames), default=0)


def second_sizes(node: Node, frames: Sequence[Frame]) -> list[int]:
    """Bytes for both halves of each carry that is an array and not updated in place."""
    if node.prim not in buffers.LOOPS:
        return []
    body, frame = node.regions[-1], frames[-1]
    sizes = []
    for p, o in buffers.carry_pairs(node):
        in_place = frame.of(body.outputs[o]) is body.params[p] or frame.lent.get(o) is body.params[p]
        sizes.append(0 if in_place or body.outputs[o].type.size <= 1 else 2 * aligned(body.outputs[o].type.nbytes))
    return sizes


def rows_bytes(node: Node) -> int:
    """Scratch memory of a fused node inside a kernel, for the rows of all warps that go through them."""
    nests = control_choice.nests_of(node)
    each = (sum(aligned(b.size * b.dtype.itemsize * WARP) for b in n.buffers if b.scratch) for n in nests)
    return max(each, default=0)


@dataclass(frozen=True)
class Recording:
    """The tapes of a map in threads: room for `most` items each, for every one of `threads`. `nbytes` are those of all,
    behind a flag that tells that this was not enough."""

    most: int
    threads: int
    nbytes: int


def recording(node: Node) -> Recording | None:
    """Where the tapes of a map in a kernel lie; None where there are none."""
    if node.prim != "map" or not control_choice.records(node):
        return None
    items = [v.type.item for r in node.regions for n in r.walk() for v in n.results if isinstance(v.type, TapeType)]
    each = sum(aligned(max(t.nbytes, 1)) for t in items)
    threads = min(-(-node.attrs["length"] // _THREADS), _TAPE_BLOCKS) * _THREADS
    most = max(_FEWEST_ITEMS, min(_MOST_ITEMS, _TAPE_BYTES // max(each * threads, 1)))
    return Recording(most, threads, ALIGNMENT + sum(aligned(t.nbytes * most * threads) for t in items))


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
    writer = _Writer(planner, node, mode, scope.frame.frames[node])
    writer.run(scope)
    used = tuple(Buffer(k, h.dtype, size, k in writer.written) for k, (_, h, size) in writer.places.items())
    body = [*writer.head(), *writer.lines]
    key = "\n".join((*body, *map(str, used)))
    if key not in planner.known:
        name = f"{node.prim}_{len(planner.known)}"
        source = "\n".join((f"def {name}({', '.join((*writer.places, 'error'))}):", *body)) + "\n"
        planner.known[key] = [Kernel(name, source, used, 0, writer.blocks, writer.threads)]
    (kernel,) = planner.known[key]
    return Launch(kernel, tuple(place for place, _, _ in writer.places.values()))


class _Writer:
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
            self.threads, self.blocks = _THREADS, self.recording.threads // _THREADS
        elif self.by_thread:
            self.threads = min(_THREADS, max(WARP, 1 << (lanes - 1).bit_length())) if lanes > 1 else 1
            self.blocks = -(-lanes // self.threads)
        else:
            lanes = 1 if self.rows is None else self.rows.lanes
            self.threads = control_choice.threads_of(self.inside, lanes)
            self.blocks = blocks_of(node) if self.rows is None else min(lanes, BLOCKS)

    @property
    def worker(self) -> tuple[str, str]:
        """The first lane of a thread or block, and how far it is to its next one."""
        return ("cuda.grid(1)", "cuda.gridsize(1)") if self.by_thread else ("cuda.blockIdx.x", "cuda.gridDim.x")

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
        return home.at(f"cuda.blockIdx.x * {each}")

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
            self.lanes(node, self.frames, operands, results, arena)
            return
        homes: list[Home | None] = [None if r.type.size == 1 else h for r, h in zip(node.results, results, strict=True)]
        lanes = self.split or self.rows
        if lanes is not None:
            self.line(f"for lane in range({self.worker[0]}, {lanes.lanes}, {self.worker[1]}):")
            self.depth += 1
            sizes = [r.type.size for r in node.results]
            homes = [None if h is None else replace(h, lane=n) for h, n in zip(homes, sizes, strict=True)]
        made = self.control(node, self.frames, operands, homes, arena)
        for home, result in zip(made, results, strict=True):
            if home.register:
                self.before([], [result])
                self.single(f"{result.element('0')} = {result.stored(home.name)}")
        if self.rows is not None:
            self.settle()

    def lanes(
        self, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Sequence[Home], arena: Place
    ) -> None:
        """The map around a kernel: a lane per thread or block."""
        with self.indented(f"for lane in range({self.worker[0]}, {node.attrs['length']}, {self.worker[1]}):"):
            self.row(node, frames[0], operands, results, arena, 0, "lane")
            if not self.by_thread:
                self.settle()

    def row(
        self, node: Node, frame: Frame, operands: Sequence[Home], results: Sequence[Home], arena: Place, carries: int,
        index: str, carried: Sequence[Home] = (), following: Sequence[Home | None] = (),
    ) -> list[Home]:  # fmt: skip
        """One run of the body of a scan or map, whose stacked results are stored; the homes of new carries."""
        body, consts = node.regions[0], node.attrs["num_consts"]
        stacked = zip(operands[consts + carries :], body.params[consts + carries :], strict=True)
        xs = [home.at(f"{index} * {p.type.size}") if p.type.size != 1 else home.at(index) for home, p in stacked]
        ys: list[Home | None] = []
        outs = list(zip(results[carries:], body.outputs[carries:], strict=True))
        for home, out in outs:
            ys.append(None if out.type.size == 1 else home.at(f"{index} * {out.type.size}"))
        made = self.region(body, frame, [*operands[:consts], *carried, *xs], [*following, *ys], arena)
        for (home, _), value in zip(outs, made[carries:], strict=True):
            if home.register:
                self.line(f"{home.name} = {value.name}")
            elif value.register:
                target = home.at(index)
                self.before([], [target])
                self.single(f"{target.element('0')} = {target.stored(value.name)}")
        return made[:carries]

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
        inside = _Region(self, graph, frame, params, outputs, arena)
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

    def control(
        self, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Sequence[Home | None],
        arena: Place,
    ) -> list[Home]:  # fmt: skip
        """Write a control node; the homes of its results."""
        writers = {
            "scan": self.scan, "while": self.while_, "cond": self.cond, "map": self.map, "checkpoint": self.plain,
        }  # fmt: skip
        return writers[node.prim](node, frames, operands, results, arena)

    def plain(self, node, frames, operands, results, arena):  # type: ignore[no-untyped-def]
        return self.region(node.regions[0], frames[0], operands, results, arena)

    def map(self, node, frames, operands, results, arena):  # type: ignore[no-untyped-def]
        stacks = [self.boxed(h, r) for h, r in zip(results, node.results, strict=True)]
        index = self.fresh("turn")
        self.settle()
        with self.indented(f"for {index} in range({node.attrs['length']}):"):
            self.row(node, frames[0], operands, stacks, arena, 0, index)
            self.settle()
        return stacks

    def boxed(self, home: Home | None, value: Value) -> Home:
        """Where a stacked result stands; a single number in a register."""
        return Home(self.fresh("reg"), value.dtype, register=True) if home is None else home

    def scan(self, node, frames, operands, results, arena):  # type: ignore[no-untyped-def]
        attrs = node.attrs
        length, consts, count = attrs["length"], attrs["num_consts"], attrs["num_carry"]
        stacks = [self.boxed(h, r) for h, r in zip(results[count:], node.results[count:], strict=True)]
        carry = _Carries(self, node, frames, operands[consts : consts + count], results[:count], arena)
        if length:
            self.settle()
            index = self.fresh("turn")
            with self.indented(f"for {index} in range({length}):"):
                row = f"({length - 1} - {index})" if attrs["reverse"] else index
                made = self.row(
                    node, frames[0], operands, [*carry.current, *stacks], carry.arena, count, row, carry.current,
                    carry.following,
                )  # fmt: skip
                carry.step(made)
                self.settle()
        return [*carry.finish(), *stacks]

    def while_(self, node, frames, operands, results, arena):  # type: ignore[no-untyped-def]
        cond, body = node.regions
        nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
        carry = _Carries(self, node, frames, operands[nc + nb :], results, arena)
        self.settle()
        with self.indented("while True:"):
            if any(self.may_fail(n) for r in node.regions for n in r.walk()):
                self.look()
            (flag,) = self.region(cond, frames[0], [*operands[:nc], *carry.current], [None], carry.arena)
            self.line(f"if not {flag.name}: break")
            touched = list(self.touched)
            made = self.region(body, frames[1], [*operands[nc : nc + nb], *carry.current], carry.following, carry.arena)
            carry.step(made)
            self.settle()
        self.touched = touched
        return carry.finish()

    def may_fail(self, node: Node) -> bool:
        if node.prim != "fused" or is_view(node):
            return False
        return any(i.op == "check" for n in control_choice.nests_of(node) for p in n.phases for i in p.body)

    # -- tapes, which lie apart in memory, item by item of all threads

    def tape(self, item: ArrayType) -> Home:
        made = self.recording
        assert made is not None
        type_ = ArrayType((item.size * made.most * made.threads,), item.dtype)
        home = self.memory(self.own_arena.moved(self.pool), type_)
        self.pool += aligned(type_.nbytes)
        self.written.add(home.name)
        return home

    def kept(self, tape: Home, row: str, element: int, size: int) -> str:
        """The place of an element of an item."""
        assert self.recording is not None
        return tape.element(f"({row} * {size} + {element}) * {self.recording.threads} + cuda.grid(1)")

    def append(self, tape: Home, row: str, value: Home, item: ArrayType) -> None:
        for k in range(item.size):
            text = value.stored(value.name) if value.register else value.element(str(k))
            self.line(f"{self.kept(tape, row, k, item.size)} = {text}")

    def item(self, tape: Home | None, row: str, item: ArrayType) -> Home:
        """An item that is read, of zeros where the tape has none."""
        if item.size == 1:
            home = Home(self.fresh("reg"), item.dtype, register=True)
            test = " != 0" if item.dtype.kind == "b" else ""
            text = number(0, item.dtype) if tape is None else self.kept(tape, row, 0, 1) + test
            self.line(f"{home.name} = {text}")
            return home
        home = self.stacked(item)
        for k in range(item.size):
            kind = "uint8(0)" if item.dtype.kind == "b" else number(0, item.dtype)
            self.line(f"{home.element(str(k))} = {kind if tape is None else self.kept(tape, row, k, item.size)}")
        return home

    def record(self, node, frames, operands, results, arena):  # type: ignore[no-untyped-def]
        """The homes of carries, of tapes, and the number of iterations."""
        cond, body = node.regions
        nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
        carry = _Carries(self, node, frames, operands[nc + nb :], results, arena)
        types = [o.type for o in body.outputs[len(carry.types) :]]
        tapes = [self.tape(t) for t in types]
        length, most = self.fresh("reg"), self.recording.most
        self.line(f"{length} = int64(0)")
        with self.indented("while True:"):
            if any(self.may_fail(n) for r in node.regions for n in r.walk()):
                self.look()
            (flag,) = self.region(cond, frames[0], [*operands[:nc], *carry.current], [None], carry.arena)
            self.line(f"if not {flag.name}: break")
            with self.indented(f"if {length} >= {most}:"):
                self.line(f"{self.memory(self.own_arena, ArrayType((), INT64)).name}[0] = int64(1)")
                self.line("break")
            own = [None if t.size == 1 else self.stacked(t) for t in types]
            made = self.region(
                body, frames[1], [*operands[nc : nc + nb], *carry.current], [*carry.following, *own], carry.arena
            )
            for tape, value, type_ in zip(tapes, made[len(carry.types) :], types, strict=True):
                self.append(tape, length, value, type_)
            carry.step(made[: len(carry.types)])
            self.line(f"{length} = {length} + 1")
        self.written.add(self.memory(self.own_arena, ArrayType((), INT64)).name)
        return [*carry.finish(), *tapes, Home(length, INT64, register=True)]

    def replay(self, node, frames, operands, results, arena, read):  # type: ignore[no-untyped-def]
        """The homes of carries and tapes. `read` are the homes of the tapes that are read; None: of zeros."""
        body, consts, count = node.regions[0], node.attrs["num_consts"], node.attrs["num_carry"]
        length = self.loaded(operands[0]).name
        carry = _Carries(self, node, frames, operands[1 + consts :], results, arena)
        types = [o.type for o in body.outputs[count:]]
        tapes = [self.tape(t) for t in types]
        index = self.fresh("turn")
        with self.indented(f"for {index} in range({length}):"):
            row = f"({length} - 1 - {index})" if node.attrs["reverse"] else index
            xs = [self.item(t, row, p.type) for t, p in zip(read, body.params[consts + count :], strict=True)]
            own = [None if t.size == 1 else self.stacked(t) for t in types]
            arguments = [*operands[1 : 1 + consts], *carry.current, *xs]
            made = self.region(body, frames[0], arguments, [*carry.following, *own], carry.arena)
            for tape, value, type_ in zip(tapes, made[count:], types, strict=True):
                self.append(tape, row, value, type_)
            carry.step(made[:count])
        return [*carry.finish(), *tapes]

    def look(self) -> None:
        """Leave a loop where a check has failed; all threads of a block do."""
        if self.by_thread:
            self.line("if error[0] != 0: break")
            return
        self.shared["failed"] = (1, "int32")
        self.line("cuda.syncthreads()")
        self.line("if thread == 0: failed[0] = error[0]")
        self.line("cuda.syncthreads()")
        self.touched.clear()
        self.line("if failed[0] != 0: break")

    def cond(self, node, frames, operands, results, arena):  # type: ignore[no-untyped-def]
        index, *args = operands
        index = self.loaded(index)
        numbers = [Home(self.fresh("reg"), r.dtype, register=True) for r in node.results]
        made = [n if h is None else h for n, h in zip(numbers, results, strict=True)]
        last = len(node.regions) - 1
        before, after = list(self.touched), list[tuple[Area, bool]]()
        for k, (region, frame) in enumerate(zip(node.regions, frames, strict=True)):
            if index.dtype.kind == "b":
                test = index.name if k else f"not {index.name}"
            else:
                test = f"{index.name} <= 0" if k == 0 else f"{index.name} == {k}"
            head = "else:" if k and k == last else f"{'elif' if k else 'if'} {test}:"
            if not last:
                head = "if True:"
            self.touched = list(before)
            with self.indented(head):
                for target, home in zip(made, self.region(region, frame, args, results, arena), strict=True):
                    if target.register:
                        self.line(f"{target.name} = {home.name}")
            after += self.touched
        self.touched = list(dict.fromkeys(after))
        return made


def _overlap(a: Area, b: Area) -> bool:
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]


class _Carries:
    """The carries of a loop: registers, memory that the body updates, or two halves of memory that change places."""

    def __init__(
        self, writer: _Writer, node: Node, frames: Sequence[Frame], initial: Sequence[Home],
        results: Sequence[Home | None], arena: Place,
    ) -> None:  # fmt: skip
        self.writer, self.results = writer, results
        sizes = second_sizes(node, frames)
        self.types = [r.type for r in node.results[: len(sizes)]]
        self.current: list[Home] = []
        self.following: list[Home | None] = []
        self.halves: dict[int, tuple[str, int]] = {}
        self.back: list[int] = []  # those that are copied back after an iteration
        offset = 0
        for k, (size, home, result, type_) in enumerate(zip(sizes, initial, results, self.types, strict=True)):
            if type_.size == 1:
                register = Home(writer.fresh("reg"), type_.dtype, register=True)
                writer.line(f"{register.name} = {writer.loaded(home).name}")
                self.current.append(register)
                self.following.append(None)
                continue
            if writer.by_thread:  # at places known when code is made, both can be registers
                self.current.append(writer.stacked(type_))
                self.following.append(writer.stacked(type_) if size else self.current[-1])
                self.back.append(k)
            elif not size:
                assert result is not None
                self.current.append(result)
                self.following.append(result)
            else:
                half = size // 2 // type_.dtype.itemsize
                pair = ArrayType((2 * half,), type_.dtype)
                both, turn = writer.arena(arena.moved(offset), pair), writer.fresh("half")
                both = replace(both, lane=type_.size if both.lane else 0)
                writer.line(f"{turn} = int64(0)")
                self.current.append(both.at(turn))
                self.following.append(both.at(f"({half} - {turn})"))
                self.halves[k] = (turn, half)
            writer.copied(self.current[-1], home, type_)
            offset += size
        self.arena = arena.moved(offset)

    def step(self, made: Sequence[Home]) -> None:
        """After an iteration, whose outputs stand at `made`."""
        pairs = [(c.name, m.name) for c, m in zip(self.current, made, strict=True) if c.register and c.name != m.name]
        if pairs:
            targets, values = zip(*pairs, strict=True)
            self.writer.line(f"{', '.join(targets)} = {', '.join(values)}")
        for k in self.back:
            following = self.following[k]
            assert following is not None
            if following is self.current[k]:
                continue
            size, split = self.types[k].size, self.writer.split
            for at in map(str, range(size if split is None else split.elements(size))):
                self.writer.line(f"{self.current[k].element(at)} = {following.element(at)}")
        for turn, half in self.halves.values():
            self.writer.line(f"{turn} = {half} - {turn}")

    def finish(self) -> list[Home]:
        made = []
        for k, (home, result, type_) in enumerate(zip(self.current, self.results, self.types, strict=True)):
            if k in self.halves or k in self.back:
                assert result is not None
                self.writer.copied(result, home, type_)
                home = result
            made.append(home)
        return made


class _Region:
    """One region while it is written: where its values are."""

    def __init__(
        self, writer: _Writer, graph: Graph, frame: Frame, params: Sequence[Home], outputs: Sequence[Home | None],
        arena: Place,
    ) -> None:  # fmt: skip
        self.writer, self.graph, self.frame, self.outputs, self.place = writer, graph, frame, outputs, arena
        self.homes: dict[Value, Home] = {}
        self.kept: dict[Value, Home | None] = {}  # tapes; None: of zeros
        for param, home in zip(graph.params, params, strict=True):
            self.homes[param] = writer.loaded(home) if param.type.size == 1 else home
        for value, array in graph.consts:
            self.homes[value] = self.constant(array)

    def constant(self, array: np.ndarray) -> Home:
        if array.size == 1:
            return Home(number(array.item(), array.dtype), array.dtype, register=True)
        return self.writer.memory(self.writer.planner.constant(array), ArrayType(array.shape, array.dtype))

    def home(self, value: Value) -> Home:
        root = self.frame.of(value)
        if root not in self.homes:
            self.homes[root] = self.made(root)
        return self.homes[root]

    def made(self, root: Value) -> Home:
        frame, writer = self.frame, self.writer
        if root.type.size == 1:
            return Home(writer.fresh("reg"), root.dtype, register=True)
        alone = writer.split is not None or writer.rows is not None  # other lanes may be elsewhere in the loop
        k = frame.destination.get(root, None if alone else frame.borrowed.get(root))
        if k is not None and self.outputs[k] is not None:
            home = self.outputs[k]
            assert home is not None
            return replace(home, lane=root.type.size) if alone else home
        return writer.arena(self.place.moved(frame.offset.get(root, 0)), root.type)

    def node(self, node: Node) -> None:
        if node.prim == "fused":
            self.fused(node)
            return
        if node.prim == "named":
            self.named(node)
            return
        writer = self.writer
        if node.prim in control_choice.TAPES:
            self.tapes(node)
            return
        operands = [self.home(o) for o in node.operands]
        results = [None if r.type.size == 1 else self.home(r) for r in node.results]
        arena = self.place.moved(self.frame.scratch.get(node, 0))
        made = writer.control(node, self.frame.frames[node], operands, results, arena)
        for result, home in zip(node.results, made, strict=True):
            if home.register:
                self.homes[self.frame.of(result)] = home

    def tapes(self, node: Node) -> None:
        """record, replay and tape_zeros."""
        writer, frames = self.writer, self.frame.frames[node]
        if node.prim == "tape_zeros":
            self.kept[node.result] = None
            return
        plain = [self.home(o) for o in node.operands if not isinstance(o.type, TapeType)]
        read = [self.kept[o] for o in node.operands if isinstance(o.type, TapeType)]
        carried = [r for r in node.results if not isinstance(r.type, TapeType)]
        if node.prim == "record":
            carried.pop()
        homes = [None if r.type.size == 1 else self.home(r) for r in carried]
        arena = self.place.moved(self.frame.scratch.get(node, 0))
        if node.prim == "record":
            made = writer.record(node, frames, plain, homes, arena)
        else:
            made = writer.replay(node, frames, plain, homes, arena, read)
        for result, home in zip(node.results, made, strict=True):
            if isinstance(result.type, TapeType):
                self.kept[result] = home
            elif home.register:
                self.homes[self.frame.of(result)] = home

    def named(self, node: Node) -> None:
        source, target = self.home(node.operands[0]), self.home(node.result)
        if target.register:
            self.writer.line(f"{target.name} = {source.name}")
        else:
            self.writer.copied(target, source, node.result.type)

    def fused(self, node: Node) -> None:
        writer, region = self.writer, node.regions[0]
        homes = [self.home(o) for o in node.operands]
        homes += [self.constant(array) for _, array in region.consts]
        homes += [self.home(r) for r in node.results]
        place = self.place.moved(self.frame.scratch.get(node, 0))
        in_place = node in self.frame.in_place
        for nest in writer.planner.nests(node):
            if in_place and nest.copies is not None:
                continue
            whole = writer.split is not None or writer.rows is not None
            nest, writer.first_id = renumbered(nest if whole else collapse(nest), writer.first_id)
            rows = self.rows([b for b in nest.buffers if b.scratch], place)
            all_homes = [*homes, *rows]
            used = {i.buffer: False for p in nest.phases for i in p.body if i.op == "load"}
            used.update((i.buffer, True) for p in nest.phases for i in p.body if i.op == "store")
            stores = [all_homes[k] for k, w in used.items() if w]
            loads = [
                all_homes[i.buffer] for p in nest.phases for i in p.body
                if i.op == "load" or (i.op == "store" and i.attrs["mode"] == "add")
            ]  # fmt: skip
            writer.before(loads, stores)
            written: ThreadNest
            if writer.split is not None:
                written = LaneNest(nest, all_homes, writer.planner.sites, writer.depth, writer.split)
            elif writer.rows is not None:
                written = RowNest(
                    nest, all_homes, writer.planner.sites, writer.depth, writer.threads, writer.rows
                )  # fmt: skip
            elif writer.by_thread:
                written = ThreadNest(nest, all_homes, writer.planner.sites, writer.depth)
            else:
                written = BlockNest(nest, all_homes, writer.planner.sites, writer.depth, writer.threads)
            writer.lines += written.write()
            if isinstance(written, BlockNest):
                writer.shared.update(written.shared)

    def rows(self, scratch: Sequence[Buffer], place: Place) -> list[Home]:
        """Memory for rows: one on the stack of a thread, one for each warp of a block."""
        found, offset = [], 0
        for buffer in scratch:
            type_ = ArrayType((buffer.size * (1 if self.writer.by_thread else WARP),), buffer.dtype)
            home = self.writer.arena(place.moved(offset), type_)
            if not self.writer.by_thread:
                home = home.at(f"thread // {WARP} * {buffer.size}")
                self.writer.written.add(home.name)
            found.append(replace(home, row=True))
            offset += aligned(type_.nbytes)
        return found

    def finish(self) -> list[Home]:
        """Copy what was made elsewhere, in the order of `Planner.run`."""
        graph, frame, writer = self.graph, self.frame, self.writer
        sources = {k: self.home(v) for k, v in enumerate(graph.outputs)}
        arrays = [k for k, v in enumerate(graph.outputs) if v.type.size != 1]
        copied = [k for k in arrays if buffers.is_copied(graph, frame, k)]
        for k in copied:
            if k not in frame.lent:
                self.to_output(k, sources[k])
        for k, offset in frame.late.items():
            if k in copied:
                late = writer.arena(self.place.moved(offset), graph.outputs[k].type)
                writer.copied(late, sources[k], graph.outputs[k].type)
                sources[k] = late
        for k in copied:
            if k in frame.lent:
                self.to_output(k, sources[k])
        made = []
        for k, value in enumerate(graph.outputs):
            out = self.outputs[k]
            made.append(sources[k] if value.type.size == 1 or out is None else out)
        return made

    def to_output(self, k: int, source: Home) -> None:
        target = self.outputs[k]
        assert target is not None
        self.writer.copied(target, source, self.graph.outputs[k].type)


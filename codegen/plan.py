"""The plan: one LLVM function that runs a grouped graph, with its control flow, library calls and loop nests."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import buffers, checks, control, library, product_groups, tapes, threads
from nufunc.codegen.backend import target
from nufunc.codegen.buffers import Frame, aligned, is_view
from nufunc.codegen.callback import HostCall
from nufunc.codegen.clock import Clock
from nufunc.codegen.divide import Divided, divide
from nufunc.codegen.emit_cpu import emit_nest
from nufunc.codegen.emit_streams import fence
from nufunc.codegen.llvm import I1, I8, I32, I64, POINTER, declare
from nufunc.codegen.loops import LoopNest
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.nests import build_nests, narrowed
from nufunc.codegen.overwrite import buffer_numbers, overwriting
from nufunc.codegen.regions import emit_region
from nufunc.codegen.schedule import points, schedule
from nufunc.codegen.streams import LINE, streaming
from nufunc.ir.errors import Location
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.product_group import is_product

INLINE_POINTS = 64  # points up to which a nest becomes part of the plan, so that small values stay in registers
APART = 32  # nests between two fences that cost nothing to run: LLVM's time is quadratic in the accesses between them


class Plan:
    """Emits the plan of a graph into `function` (i32 (ptr inputs, ptr outputs, ptr workspace, ptr table))."""

    def __init__(
        self, graph: Graph, function: ir.Function, vector_bytes: int, has_fma: bool,
        lent: Mapping[int, int] | None = None, early: Sequence[int] = (), clock: Clock | None = None,
    ) -> None:  # fmt: skip
        """`lent` and `early`: outputs in the memory of parameters, see Note [Lent parameters] of `buffers`."""
        self.graph, self.function, self.module, self.clock = graph, function, function.module, clock
        self.prefix, self.regions, self.in_task = function.name, 0, False
        self.repeated = False  # inside a loop of many steps
        self.signals = True  # whether long loops let Python look at them
        self.tapes: ir.Value | None = None  # the list of tapes made here
        self.outer_tapes: ir.Value | None = None  # in a task, the list of the plan around it
        self.budget: ir.Value | None = None  # nanoseconds until signals are looked at; None: no loop is long
        self.vector_bytes, self.has_fma = vector_bytes, has_fma
        self.sites = Sites()
        self.nests: list[LoopNest] = []
        self.externs: list[str | np.ndarray | HostCall] = []
        self.extern_slots: dict[str, int] = {}
        self.calls = 0
        self.functions: dict[str, ir.Function] = {}
        self.small: set[str] = set()  # symbols of nests that may become part of the plan
        self.view_of = {n.result: n for n in graph.walk() if is_view(n)}
        places = {k: graph.params[p] for k, p in (lent or {}).items()}
        self.frame = buffers.plan_frame(graph, self._scratch_of, (), places, early)
        if clock is not None:
            clock.frame = self.frame
        self.workspace = aligned(self.frame.size) + tapes.workspace(graph) if tapes.outside(graph) else self.frame.size
        self.copied = tuple(k for k in range(len(graph.outputs)) if buffers.is_copied(graph, self.frame, k))

    # -- the function

    def emit(self) -> None:
        inputs, outputs, workspace, self.table = self.function.args
        self.open(self.function)
        with self.b.goto_block(self.entry):
            pointers = [self._item(inputs, k) for k in range(len(self.graph.params))]
            results = [self._item(outputs, k) for k in range(len(self.graph.outputs))]
        if tapes.makes_tapes(self.graph):
            tapes.begin(self)
        pointers = tapes.take(self, pointers, workspace)
        self.run(self.graph, self.frame, pointers, results, workspace)
        tapes.give(self, results)
        self.b.ret(I32(0))
        self.b.position_at_end(self.failed)
        tapes.drop(self, results)
        checks.emit_report(self)
        self.b.ret(self.b.load(self.error, typ=I32))
        self.seal()

    def open(self, function: ir.Function) -> None:
        """Emit into an empty function from now on: into `start`, what it needs once into `entry`."""
        self.function = function
        self.entry = function.append_basic_block("entry")
        self.start = function.append_basic_block("start")
        self.failed = function.append_basic_block("failed")
        self.b = ir.IRBuilder(self.entry)
        self.error = self.alloca(checks.ERROR_SIZE, 8)  # Note [Offending index] in checks.py
        self.b.store(I32(0), self.error)
        self.b.store(I64(0), self.at(self.error, checks.INDEX_AT))
        self.b.position_at_end(self.start)

    def seal(self) -> None:
        """Behind the last instruction of a function."""
        with self.b.goto_block(self.entry):
            self.b.branch(self.start)

    def _item(self, pointer: ir.Value, index: int) -> ir.Value:
        address = self.b.gep(pointer, [I64(index)], source_etype=POINTER)
        return self.b.load(address, typ=POINTER, align=8)

    def alloca(self, size: int, align: int = 16) -> ir.Value:
        """Memory of the function's stack, made once at its entry."""
        with self.b.goto_block(self.entry):
            slot = self.b.alloca(ir.ArrayType(I8, max(size, 1)))
        slot.align = align
        slot.type = POINTER  # llvmlite gives memory that it defines a typed pointer
        return slot

    def extern(self, name: str) -> ir.Value:
        """The address of a BLAS or LAPACK routine, read from the table."""
        if name not in self.extern_slots:
            self.extern_slots[name] = len(self.externs)
            self.externs.append(name)
        return self._table(self.extern_slots[name])

    def _table(self, slot: int) -> ir.Value:
        with self.b.goto_block(self.entry):
            return self._item(self.table, slot)

    def constant(self, array: np.ndarray) -> ir.Value:
        return self.held(np.ascontiguousarray(array))

    def held(self, extern: np.ndarray | HostCall) -> ir.Value:
        """The address of something that lives as long as the plan."""
        self.externs.append(extern)
        return self._table(len(self.externs) - 1)

    def at(self, pointer: ir.Value, offset: int | ir.Value) -> ir.Value:
        """A pointer moved by bytes."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = I64(offset)
        return self.b.gep(pointer, [offset], inbounds=True, source_etype=I8)

    def copy(self, target: ir.Value, source: ir.Value, size: int) -> None:
        """memcpy; the two may be the same memory."""
        if size and target is not source:
            memmove = declare(self.module, "llvm.memmove.p0.p0.i64", ir.VoidType(), [POINTER, POINTER, I64, I1])
            self.b.call(memmove, [target, source, I64(size), I1(0)])

    def check_error(self) -> None:
        """Leave the plan if an error site has been recorded."""
        good = self.function.append_basic_block("good")
        code = self.b.load(self.error, typ=I32)
        self.b.cbranch(self.b.icmp_signed("==", code, I32(0)), good, self.failed)
        self.b.position_at_end(good)

    # -- graphs

    def run(
        self,
        graph: Graph,
        frame: Frame,
        params: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        arena: ir.Value,
    ) -> None:
        """Emit a graph: its parameters stand at `params`, its results go to `outputs`, its frame is at
        `arena`."""
        scope = Scope(self, graph, frame, params, outputs, arena)
        ends = tapes.last_readers(graph)
        for node in graph.nodes:
            self.node(scope, node)
            for value in ends.get(node, ()):
                tapes.empty(self, scope, value)
        copied = [k for k in range(len(graph.outputs)) if buffers.is_copied(graph, frame, k)]
        sources = {k: scope.pointer(graph.outputs[k]) for k in copied}
        for k in copied:
            if k not in frame.lent:
                self.copy(outputs[k], sources[k], graph.outputs[k].type.nbytes)
        for k, offset in frame.late.items():
            source, sources[k] = sources[k], self.at(arena, offset)
            self.copy(sources[k], source, graph.outputs[k].type.nbytes)
        for k in copied:
            if k in frame.lent:
                self.copy(outputs[k], sources[k], graph.outputs[k].type.nbytes)

    def node(self, scope: Scope, node: Node) -> None:
        if is_view(node):
            return
        with nullcontext() if self.clock is None or self.in_task else self.clock.around(self, node):
            self._node(scope, node)

    def _node(self, scope: Scope, node: Node) -> None:
        if is_product(node):
            product_groups.emit(self, scope, node)
        elif node.prim == "fused":
            self.fused(scope, node)
        elif node.prim in control.EMITTERS:
            control.EMITTERS[node.prim](self, scope, node)
        else:
            library.emit(self, scope, node)

    def fused(self, scope: Scope, node: Node) -> None:
        region = node.regions[0]
        pointers = [scope.pointer(o) for o in node.operands]
        results = [scope.pointer(r) for r in node.results]
        in_place = node in scope.frame.in_place
        overwritten = scope.frame.overwritten.get(node, [])
        nests = build_nests(region, node.attrs["kind"], self.sites, boxed=not in_place and not overwritten)
        if in_place:
            nests = [n for n in nests if n.copies is None]
        if overwritten:
            nests = overwriting(nests, [buffer_numbers(node, *pair) for pair in overwritten], self.vector_bytes)
        consts = [self.constant(array) for _, array in region.consts]
        arrays = [*pointers, *consts, *results]
        for nest in nests:
            small, used = narrowed(nest)
            self.nest(small, [arrays[k] for k in used if not nest.buffers[k].scratch])

    def nest(self, nest: LoopNest, pointers: Sequence[ir.Value]) -> None:
        """Run a nest, in parallel where that is worth it."""
        past = streaming(nest, self.vector_bytes) if target().triple.startswith("x86_64") else ()
        nest = schedule(nest, self.vector_bytes)
        if not past:
            self._divided(nest, pointers)
            return
        b, places = self.b, [self.b.ptrtoint(pointers[k], I64) for k in sorted(past[0].past)]
        low = b.and_(functools.reduce(b.or_, places), I64(LINE - 1))
        with b.if_else(b.icmp_unsigned("==", low, I64(0)), likely=True) as (aligned, other):
            with aligned:
                for part in past:
                    self._divided(part, pointers)
            with other:
                self._divided(nest, pointers)

    def _divided(self, nest: LoopNest, pointers: Sequence[ir.Value]) -> None:
        divided = Divided((nest,)) if self.in_task else divide(nest, self.vector_bytes, self.repeated)
        shared = [self.alloca(size, 64) for size in divided.shared]
        for piece in divided.nests:
            self._scheduled(piece, [*pointers, *shared])

    def _scheduled(self, nest: LoopNest, pointers: Sequence[ir.Value]) -> None:
        """Run a scheduled nest, the tasks of one that is split as a region."""
        if nest.split is None:
            self.nest_range(nest, pointers)
            return
        axis = next(a for a in nest.axes if a.name == nest.split)
        unit, tasks = nest.step(axis), nest.tasks

        def part(inside: list[ir.Value], task: ir.Value) -> None:
            self.nest_range(nest, inside, *threads.chunk(self.b, task, I64(tasks), axis.extent, unit))

        emit_region(self, tasks, pointers, part)

    def nest_range(self, nest: LoopNest, pointers: Sequence[ir.Value], *bounds: ir.Value) -> None:
        """Call the function of a nest, emitted once for equal nests; of a split one for a range of its axis."""
        self.calls += 1
        if self.calls % APART == 0:
            self.b.fence("acq_rel", "singlethread")
        key = str(nest)
        if key not in self.functions:
            if not nest.past:  # the same is there for other memory
                self.nests.append(nest)
            symbol = f"{self.prefix}.{nest.name}.{len(self.functions)}"
            self.functions[key] = emit_nest(self.module, nest, self.has_fma, symbol)
            if points(nest) <= INLINE_POINTS:
                self.small.add(symbol)
        rows = [self.alloca(b.size * b.dtype.itemsize, 64) for b in nest.buffers if b.scratch]
        self.b.call(self.functions[key], [*pointers, *rows, self.error, *bounds])
        if nest.past:
            fence(self.b)
        if any(i.op == "check" for p in nest.phases for i in p.body):
            self.check_error()

    def kernel(self, region: Graph, pointers: Sequence[ir.Value], name: str) -> None:
        """Run a pure graph as loop nests: parameters, then outputs."""
        for nest in build_nests(region, name, self.sites):
            self.nest(nest, pointers)

    def site(self, kind: str | HostCall, loc: Location | None) -> int:
        return self.sites.add(kind, loc)

    def _scratch_of(self, node: Node, frames: list[Frame]) -> int:
        if is_product(node):
            return product_groups.scratch(self, node)
        if node.prim == "fused":
            return 0
        if node.prim in control.EMITTERS:
            return control.scratch(self, node, frames)
        return library.scratch(self, node)

    # -- loops

    def poll(self, work: float) -> None:
        """In a loop whose iteration takes `work` nanoseconds: now and then let Python handle signals, so that Ctrl-C
        ends the call. A task does not: only Python's main thread handles them."""
        if self.in_task or not self.signals:
            return
        if self.budget is None:
            self.budget = self.alloca(8, 8)
            with self.b.goto_block(self.entry):
                self.b.store(I64(control.POLL), self.budget)
        b = self.b
        left = b.sub(b.load(self.budget, typ=I64), I64(int(work) + 1))
        b.store(left, self.budget)
        asks, goes_on = (self.function.append_basic_block(n) for n in ("poll", "polled"))
        b.cbranch(b.icmp_signed("<", left, I64(0)), asks, goes_on)
        b.position_at_end(asks)
        state = library.call_extern(self, "PyGILState_Ensure", I32, [])
        raised = library.call_extern(self, "PyErr_CheckSignals", I32, [])
        library.call_extern(self, "PyGILState_Release", ir.VoidType(), [state])
        b.store(I64(control.POLL), self.budget)
        b.store(raised, self.error)
        b.cbranch(b.icmp_signed("==", raised, I32(0)), goes_on, self.failed)
        b.position_at_end(goes_on)

    def loop(self, length: int | ir.Value, start: ir.Value | None = None, step: int = 1) -> CountedLoop:
        """A loop up to `length`, from 0 or from `start`."""
        stop = I64(length) if isinstance(length, int) else length
        return CountedLoop(self, I64(0) if start is None else start, stop, step)


class Scope:
    """Where the values of one graph stand while it is emitted."""

    def __init__(
        self, plan: Plan, graph: Graph, frame: Frame, params: Sequence[ir.Value], outputs: Sequence[ir.Value],
        arena: ir.Value,
    ) -> None:  # fmt: skip
        self.plan, self.frame, self.arena, self.outputs = plan, frame, arena, outputs
        self.pointers: dict[Value, ir.Value] = dict(zip(graph.params, params, strict=True))
        self.consts = dict(graph.consts)

    def pointer(self, value: Value) -> ir.Value:
        """The address of a value. A view by strides has none of its own: readers go through
        `Plan.view_of`."""
        root = self.frame.of(value)
        if root in self.pointers:
            return self.pointers[root]
        plan = self.plan
        if root in self.consts:
            made = plan.constant(self.consts[root])
        elif root in self.frame.destination:
            made = self.outputs[self.frame.destination[root]]
        elif root in self.frame.borrowed:
            made = self.outputs[self.frame.borrowed[root]]
        elif root in self.frame.on_stack:
            made = plan.alloca(root.type.nbytes)
        else:  # addresses are cheap to make again where they are used
            return plan.at(self.arena, self.frame.offset[root])
        self.pointers[root] = made
        return made

    def scratch(self, node: Node) -> ir.Value:
        return self.plan.at(self.arena, self.frame.scratch[node]) if node in self.frame.scratch else self.arena


class CountedLoop:
    """for i in start..stop by step, as a context: `with loop as i`. Only for start < stop."""

    def __init__(self, plan: Plan, start: ir.Value, stop: ir.Value, step: int) -> None:
        self.plan, self.start, self.stop, self.step = plan, start, stop, step

    def __enter__(self) -> ir.Value:
        b = self.plan.b
        self.before = b.block
        self.block = self.plan.function.append_basic_block("iterate")
        b.branch(self.block)
        b.position_at_end(self.block)
        self.counter = b.phi(I64)
        self.counter.add_incoming(self.start, self.before)
        return self.counter

    def carry(self, value: ir.Value) -> Any:
        """A phi that is `value` in the first iteration."""
        phi = self.plan.b.phi(value.type)
        phi.add_incoming(value, self.before)
        return phi

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.finish([])

    def finish(self, carried: Sequence[tuple[Any, ir.Value]]) -> None:
        b = self.plan.b
        following = b.add(self.counter, I64(self.step), flags=["nsw"])
        self.counter.add_incoming(following, b.block)
        for phi, value in carried:
            phi.add_incoming(value, b.block)
        after = self.plan.function.append_basic_block("after")
        b.cbranch(b.icmp_signed("<", following, self.stop), self.block, after)
        b.position_at_end(after)

"""Control nodes of a plan: loops with their carries, maps over lanes, branches.

The carries of a loop stand in the node's results, and in second buffers where the body does not work in place;
scratch memory of a node begins with these, followed by the frames of its regions (`scratch`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from nufunc.codegen import buffers, tapes, threads
from nufunc.codegen.buffers import Frame, aligned
from nufunc.codegen.cost import ITERATIONS, node_work
from nufunc.codegen.lanes import Lanes
from nufunc.codegen.lanes import width as map_width
from nufunc.codegen.llvm import I8, I64
from nufunc.codegen.regions import emit_region
from nufunc.ir.graph import Node, Value
from nufunc.ir.prims.host import calls_host

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

POLL = 20_000_000  # nanoseconds of a scan from which signals are looked at meanwhile
COPY_LIMIT = 64  # bytes of a carry up to which it is copied back after an iteration; larger ones swap two buffers


def scratch(plan: Plan, node: Node, frames: list[Frame]) -> int:
    """Bytes of scratch memory that a control node needs, given its regions' frames."""
    if node.prim == "map":
        return map_tasks(node, plan.vector_bytes) * aligned(frames[0].size)
    return sum(buffers.second_sizes(node, frames)) + max((aligned(f.size) for f in frames), default=0)


class _Carries:
    """The carry buffers of a loop: `current` is read by the body, `following` written; small ones are copied
    back. Those that fit into a register stand on the stack until the loop ends, wherever their results do."""

    def __init__(self, plan: Plan, scope: Scope, node: Node, initial: Sequence[Value]) -> None:
        self.plan, self.node = plan, node
        frames = scope.frame.frames[node]
        sizes = buffers.second_sizes(node, frames)
        self.results = [scope.pointer(r) for r in node.results[: len(sizes)]]
        self.bytes = [r.type.nbytes for r in node.results[: len(sizes)]]
        offset = 0
        self.second: list[ir.Value | None] = []
        for size, count in zip(sizes, self.bytes, strict=True):
            on_stack = count <= buffers.SMALL
            place = plan.alloca(count) if on_stack else plan.at(scope.scratch(node), offset)
            self.second.append(place if size else None)
            offset += size
        self.arena = plan.at(scope.scratch(node), offset)
        pairs = zip(self.results, self.bytes, strict=True)
        places = [plan.alloca(count) if count <= buffers.SMALL else result for result, count in pairs]
        for target, value, count in zip(places, initial, self.bytes, strict=True):
            plan.copy(target, scope.pointer(value), count)
        self.places = list(places)
        self.swapped = [k for k, s in enumerate(self.second) if s is not None and self.bytes[k] > COPY_LIMIT]
        self.current: list[ir.Value] = list(places)
        self.following = [s if s is not None else p for s, p in zip(self.second, places, strict=True)]
        self.phis: list[tuple[Any, Any]] = []

    def enter(self, phi: Any) -> None:
        """In the loop's head: `phi` makes a phi of a first value."""
        for k in self.swapped:
            pair = (phi(self.current[k]), phi(self.following[k]))
            self.phis.append(pair)
            self.current[k], self.following[k] = pair

    def step(self) -> list[tuple[Any, ir.Value]]:
        """After an iteration: copy small carries back; what the phis become."""
        for k, second in enumerate(self.second):
            if second is not None and k not in self.swapped:
                self.plan.copy(self.current[k], second, self.bytes[k])
        return [pair for a, b in self.phis for pair in ((a, b), (b, a))]

    def leave(self, last: Sequence[ir.Value]) -> None:
        """After the loop: small carries, and swapped ones, which stand at `last`, go to the node's results."""
        for result, place, count in zip(self.results, self.places, self.bytes, strict=True):
            self.plan.copy(result, place, count)
        for k, pointer in zip(self.swapped, last, strict=True):
            self.plan.copy(self.results[k], pointer, self.bytes[k])


def _scan(plan: Plan, scope: Scope, node: Node) -> None:
    body, frame = node.regions[0], scope.frame.frames[node][0]
    length, consts, carries = node.attrs["length"], node.attrs["num_consts"], node.attrs["num_carry"]
    carry = _Carries(plan, scope, node, node.operands[consts : consts + carries])
    if length == 0:
        carry.leave([carry.current[k] for k in carry.swapped])
        return
    rows = _Rows(plan, scope, node, consts, carries)
    loop = plan.loop(length)
    counter = loop.__enter__()
    carry.enter(loop.carry)
    if node_work(node) > POLL:
        plan.poll(node_work(node) / length)
    i = plan.b.sub(I64(length - 1), counter) if node.attrs["reverse"] else counter
    xs, ys = rows.at(i)
    with tapes.scoped(plan, body):
        repeated, plan.repeated = plan.repeated, plan.repeated or length >= threads.REPEATS
        plan.run(body, frame, [*rows.fixed, *carry.current, *xs], [*carry.following, *ys], carry.arena)
        plan.repeated = repeated
    loop.finish(carry.step())
    carry.leave([carry.following[k] for k in carry.swapped])


class _Head:
    """The head of a loop that asks before each iteration whether there is another."""

    def __init__(self, plan: Plan) -> None:
        self.b, self.before = plan.b, plan.b.block
        self.head, self.inside, self.after = (
            plan.function.append_basic_block(name) for name in ("head", "inside", "after")
        )
        self.b.branch(self.head)
        self.b.position_at_end(self.head)

    def phi(self, first: ir.Value) -> Any:
        """A value that differs between iterations."""
        made = self.b.phi(first.type)
        made.add_incoming(first, self.before)
        return made

    def ask(self, another: ir.Value) -> None:
        """On with the body, where there is another iteration."""
        self.b.cbranch(another, self.inside, self.after)
        self.b.position_at_end(self.inside)

    def close(self, steps: Sequence[tuple[Any, ir.Value]]) -> None:
        """Behind the body: what its values are in the next iteration. On behind the loop."""
        for made, value in steps:
            made.add_incoming(value, self.b.block)
        self.b.branch(self.head)
        self.b.position_at_end(self.after)


def _replay(plan: Plan, scope: Scope, node: Node) -> None:
    body, frame, b = node.regions[0], scope.frame.frames[node][0], plan.b
    consts, carries = node.attrs["num_consts"], node.attrs["num_carry"]
    length = b.load(scope.pointer(node.operands[0]), typ=I64)
    fixed = [scope.pointer(o) for o in node.operands[1 : 1 + consts]]
    carry = _Carries(plan, scope, node, node.operands[1 + consts : 1 + consts + carries])
    rows = tapes.Rows(plan, scope, node, length)
    head = _Head(plan)
    counter = head.phi(I64(0))
    carry.enter(head.phi)
    head.ask(b.icmp_signed("<", counter, length))
    plan.poll(node_work(node) / ITERATIONS)
    i = b.sub(b.sub(length, I64(1)), counter) if node.attrs["reverse"] else counter
    xs, ys = rows.at(i)
    with tapes.scoped(plan, body):
        plan.run(body, frame, [*fixed, *carry.current, *xs], [*carry.following, *ys], carry.arena)
    head.close([*carry.step(), (counter, b.add(counter, I64(1)))])
    carry.leave([carry.current[k] for k in carry.swapped])


class _Rows:
    """The operands and results of a scan or map that are stacked, and the constant operands."""

    def __init__(self, plan: Plan, scope: Scope, node: Node, consts: int, carries: int) -> None:
        self.plan, body = plan, node.regions[0]
        self.fixed = [scope.pointer(o) for o in node.operands[:consts]]
        self.xs = [scope.pointer(o) for o in node.operands[consts + carries :]]
        self.ys = [scope.pointer(r) for r in node.results[carries:]]
        self.x_bytes = [t.type.nbytes for t in body.params[consts + carries :]]
        self.y_bytes = [o.type.nbytes for o in body.outputs[carries:]]

    def at(self, i: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        """The addresses of row i."""
        here = lambda p, size: self.plan.at(p, self.plan.b.mul(i, I64(size)))
        pairs = ((self.xs, self.x_bytes), (self.ys, self.y_bytes))
        xs, ys = ([here(p, n) for p, n in zip(*pair, strict=True)] for pair in pairs)
        return xs, ys

    def everything(self) -> list[ir.Value]:
        return [*self.fixed, *self.xs, *self.ys]

    def elsewhere(self, pointers: Sequence[ir.Value]) -> _Rows:
        """The same by other names, as a task calls them."""
        made = copy.copy(self)
        a, b = len(self.fixed), len(self.fixed) + len(self.xs)
        made.fixed, made.xs, made.ys = (list(p) for p in (pointers[:a], pointers[a:b], pointers[b:]))
        return made


def map_tasks(node: Node, vector_bytes: int) -> int:
    """Tasks that share the lanes of a map: one where Python is called back, which happens in order."""
    if calls_host(node):
        return 1
    width = map_width(node, vector_bytes)
    return max(1, min(threads.tasks_for(node_work(node) / width), node.attrs["length"] // width))


def _map(plan: Plan, scope: Scope, node: Node) -> None:
    body, frame, length = node.regions[0], scope.frame.frames[node][0], node.attrs["length"]
    if length == 0:
        return
    rows, arena = _Rows(plan, scope, node, node.attrs["num_consts"], 0), scope.scratch(node)

    width = map_width(node, plan.vector_bytes)

    def lanes(rows: _Rows, arena: ir.Value, first: ir.Value, last: ir.Value) -> None:
        loop = plan.loop(last, first, width)
        i = loop.__enter__()
        if width > 1:
            final = I64(length - width)
            row = plan.b.select(plan.b.icmp_signed("<", i, final), i, final)
            Lanes(plan, width).block(node, rows.fixed, rows.xs, rows.ys, row)
        else:
            xs, ys = rows.at(i)
            with tapes.scoped(plan, body):
                plan.run(body, frame, [*rows.fixed, *xs], ys, arena)
        loop.finish([])

    tasks = map_tasks(node, plan.vector_bytes)
    if tasks == 1 or plan.in_task:
        lanes(rows, arena, I64(0), I64(length))
        return

    outer = plan.tapes if tapes.makes_tapes(body) else None

    def some(inside: list[ir.Value], task: ir.Value) -> None:
        if outer is not None:
            plan.outer_tapes = inside.pop()
            tapes.begin(plan)
        *pointers, base = inside
        own = plan.at(base, plan.b.mul(task, I64(aligned(frame.size))))
        lanes(rows.elsewhere(pointers), own, *threads.chunk(plan.b, task, I64(tasks), length, width))

    emit_region(plan, tasks, [*rows.everything(), arena, *([] if outer is None else [outer])], some)


def _while(plan: Plan, scope: Scope, node: Node) -> None:
    """while and record."""
    (cond, body), (cond_frame, body_frame) = node.regions, scope.frame.frames[node]
    nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
    cond_consts = [scope.pointer(o) for o in node.operands[:nc]]
    body_consts = [scope.pointer(o) for o in node.operands[nc : nc + nb]]
    carry = _Carries(plan, scope, node, node.operands[nc + nb :])
    recorder = tapes.Recorder(plan, scope, node) if node.prim == "record" else None
    flag = plan.alloca(1)
    b = plan.b
    head = _Head(plan)
    carry.enter(head.phi)
    plan.run(cond, cond_frame, [*cond_consts, *carry.current], [flag], carry.arena)
    head.ask(b.icmp_unsigned("!=", b.load(flag, typ=I8), I8(0)))
    plan.poll(node_work(node) / ITERATIONS)
    ys = recorder.room() if recorder else []
    with tapes.scoped(plan, body):
        plan.run(body, body_frame, [*body_consts, *carry.current], [*carry.following, *ys], carry.arena)
    if recorder:
        recorder.step()
    head.close(carry.step())
    carry.leave([carry.current[k] for k in carry.swapped])
    if recorder:
        recorder.finish()


def _checkpoint(plan: Plan, scope: Scope, node: Node) -> None:
    (region,), (frame,) = node.regions, scope.frame.frames[node]
    arguments, results = ([scope.pointer(v) for v in values] for values in (node.operands, node.results))
    plan.run(region, frame, arguments, results, scope.scratch(node))


def _named(plan: Plan, scope: Scope, node: Node) -> None:
    plan.copy(scope.pointer(node.result), scope.pointer(node.operands[0]), node.result.type.nbytes)


def _cond(plan: Plan, scope: Scope, node: Node) -> None:
    b = plan.b
    index, *args = (scope.pointer(o) for o in node.operands)
    results = [scope.pointer(r) for r in node.results]
    arena = scope.scratch(node)  # before the branch, which ends the block
    blocks = [plan.function.append_basic_block("branch") for _ in node.regions]
    after = plan.function.append_basic_block("after")
    if node.operands[0].dtype.kind == "b":
        b.cbranch(b.icmp_unsigned("!=", b.load(index, typ=I8), I8(0)), blocks[1], blocks[0])
    else:
        value = b.load(index, typ=I64)
        value = b.select(b.icmp_signed("<", value, I64(0)), I64(0), value)
        chosen = b.switch(value, blocks[-1])
        for k, block in enumerate(blocks[:-1]):
            chosen.add_case(I64(k), block)
    for block, region, frame in zip(blocks, node.regions, scope.frame.frames[node], strict=True):
        b.position_at_end(block)
        plan.run(region, frame, args, results, arena)
        b.branch(after)
    b.position_at_end(after)


EMITTERS: dict[str, Callable[[Plan, Scope, Node], None]] = {
    "scan": _scan, "map": _map, "while": _while, "cond": _cond, "record": _while, "replay": _replay,
    "checkpoint": _checkpoint, "tape_zeros": tapes.zeros, "tape_add": tapes.add, "tape_join": tapes.join,
    "tape_split": tapes.split, "named": _named,
}  # fmt: skip

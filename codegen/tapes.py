"""Tapes in compiled code: loops of unknown length that write and read them, and who owns their memory.

Note [Tapes in memory]
A tape is a pointer to a block (`_TAPE`) that knows its items, which lie one after the other in memory that grows by
doubling; a null pointer is a tape of zeros. What a plan makes is chained in a list, whose head is a word of the plan's
stack, and freed when the plan ends, however it does; a loop whose body gives no tapes away frees those of each
iteration. A task of a map over lanes has a list of its own, which becomes part of the plan's when the task ends.

Outside of plans a tape is a PyCapsule in an array of objects, with the type of the tape as its name. Capsules, and
tapes whose items are tapes, count their references, and the last one frees the memory. Counts change with the GIL held
alone. What a plan handles inside refers to nothing by count: its list or its caller keeps everything alive.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from nufunc.codegen.buffers import aligned
from nufunc.codegen.library import call_extern
from nufunc.codegen.llvm import I1, I8, I32, I64, POINTER
from nufunc.codegen.tape_library import PREFIX
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import ArrayType, TapeType

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

MAKERS = ("record", "replay", "tape_add", "tape_join", "tape_split")
_LENGTH = 8  # where the length stands in a tape
_FIRST = 512  # bytes of a tape that is begun
NULL = ir.Constant(POINTER, None)


def _call(plan: Plan, name: str, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
    return call_extern(plan, PREFIX + name, result, args)


def makes_tapes(graph: Graph) -> bool:
    """Whether running a graph may make tapes."""
    return any(node.prim in MAKERS for node in graph.walk())


def handles(type: ArrayType) -> int:
    """How many tapes an item of this type holds."""
    return type.size if isinstance(type, TapeType) else 0


@functools.cache
def name_of(type: TapeType) -> np.ndarray:
    """The name of capsules of one tape each, as C wants it; never freed, since capsules only point to it."""
    return np.frombuffer(f"nufunc {type.with_shape(())}".encode() + b"\0", np.uint8)


# -- the plan's list


def begin(plan: Plan) -> None:
    """An empty list, in a plan or a task."""
    plan.tapes = plan.alloca(8, 8)
    with plan.b.goto_block(plan.entry):
        plan.b.store(NULL, plan.tapes)


def end_task(plan: Plan) -> None:
    """Hand the list of a task over to the plan's."""
    if plan.tapes is not None and plan.outer_tapes is not None:
        _call(plan, "splice", ir.VoidType(), [plan.outer_tapes, plan.b.load(plan.tapes, typ=POINTER)])


@contextmanager
def scoped(plan: Plan, body: Graph) -> Iterator[None]:
    """Around one run of a body: the tapes that it makes for itself are freed after it."""
    if not makes_tapes(body) or any(isinstance(o.type, TapeType) for o in body.outputs):
        yield
        return
    mark = plan.b.load(plan.tapes, typ=POINTER)
    yield
    _call(plan, "release", ir.VoidType(), [plan.tapes, mark])


def outside(graph: Graph) -> list[ArrayType]:
    """The types of the tapes that cross the boundary of a plan."""
    return [v.type for v in (*graph.params, *graph.outputs) if isinstance(v.type, TapeType)]


def workspace(graph: Graph) -> int:
    """Bytes for the tapes among the parameters."""
    return sum(aligned(p.type.nbytes) for p in graph.params if isinstance(p.type, TapeType))


def take(plan: Plan, pointers: list[ir.Value], arena: ir.Value) -> list[ir.Value]:
    """The parameters' addresses, with arrays of tapes in the place of those of capsules."""
    offset, taken = aligned(plan.frame.size), list(pointers)
    for k, param in enumerate(plan.graph.params):
        if isinstance(param.type, TapeType):
            taken[k] = plan.at(arena, offset)
            offset += aligned(param.type.nbytes)
            name = plan.constant(name_of(param.type))
            code = _call(plan, "unwrap", I32, [pointers[k], taken[k], I64(param.type.size), name])
            plan.b.store(code, plan.error)
            plan.check_error()
    return taken


def give(plan: Plan, results: list[ir.Value]) -> None:
    """At the end of a plan: capsules in the place of the tapes among its results; the others are freed."""
    for value, pointer in zip(plan.graph.outputs, results, strict=True):
        if isinstance(value.type, TapeType):
            name = plan.constant(name_of(value.type))
            plan.b.store(_call(plan, "wrap", I32, [pointer, I64(value.type.size), name]), plan.error)
            plan.check_error()
    _release(plan)


def drop(plan: Plan, results: list[ir.Value]) -> None:
    """Where a plan fails: no tapes."""
    for value, pointer in zip(plan.graph.outputs, results, strict=True):
        if isinstance(value.type, TapeType):
            _call(plan, "unset", ir.VoidType(), [pointer, I64(value.type.size)])
    _release(plan)


def _release(plan: Plan) -> None:
    if plan.tapes is not None:
        _call(plan, "release", ir.VoidType(), [plan.tapes, NULL])


# -- writing


def _need(plan: Plan, node: Node, good: ir.Value) -> None:
    """A MemoryError unless `good`."""
    failed, goes_on = (plan.function.append_basic_block(n) for n in ("no_memory", "memory"))
    plan.b.cbranch(good, goes_on, failed)
    plan.b.position_at_end(failed)
    plan.b.store(I32(plan.site("memory", node.loc)), plan.error)
    plan.b.branch(plan.failed)
    plan.b.position_at_end(goes_on)


def _new(plan: Plan, node: Node, item: ArrayType, length: ir.Value) -> ir.Value:
    """A tape with room for so many items."""
    size = plan.b.mul(length, I64(item.nbytes))
    made = _call(plan, "new", POINTER, [plan.tapes, size, I64(handles(item))])
    _need(plan, node, plan.b.icmp_unsigned("!=", made, NULL))
    return made


class Recorder:
    """The tapes that a `record` writes."""

    def __init__(self, plan: Plan, scope: Scope, node: Node) -> None:
        self.plan, self.node = plan, node
        body = node.regions[1]
        self.items = [o.type for o in body.outputs[_carries(node) :]]
        self.results = [scope.pointer(r) for r in node.results[_carries(node) :]]
        first = max(1, min([16, *(_FIRST // max(t.nbytes, 1) for t in self.items)]))
        self.count, self.room_for = plan.alloca(8, 8), plan.alloca(8, 8)
        plan.b.store(I64(0), self.count)
        plan.b.store(I64(first), self.room_for)
        self.tapes = [_new(plan, node, t, I64(first)) for t in self.items]

    def room(self) -> list[ir.Value]:
        """The addresses of the next items."""
        plan, b = self.plan, self.plan.b
        count = b.load(self.count, typ=I64)
        if self.tapes:
            full, ready = (plan.function.append_basic_block(n) for n in ("full", "ready"))
            b.cbranch(b.icmp_signed("==", count, b.load(self.room_for, typ=I64)), full, ready)
            b.position_at_end(full)
            more = b.shl(count, I64(1))
            b.store(more, self.room_for)
            for tape, item in zip(self.tapes, self.items, strict=True):
                _need(plan, self.node, _call(plan, "grow", I1, [tape, b.mul(more, I64(item.nbytes))]))
            b.branch(ready)
            b.position_at_end(ready)
        return [
            plan.at(b.load(tape, typ=POINTER), b.mul(count, I64(item.nbytes)))
            for tape, item in zip(self.tapes, self.items, strict=True)
        ]

    def step(self) -> None:
        self.plan.b.store(self.plan.b.add(self.plan.b.load(self.count, typ=I64), I64(1)), self.count)

    def finish(self) -> None:
        b = self.plan.b
        count = b.load(self.count, typ=I64)
        for tape, result in zip(self.tapes, self.results, strict=False):
            b.store(count, self.plan.at(tape, _LENGTH))
            b.store(tape, result)
        b.store(count, self.results[-1])


def _carries(node: Node) -> int:
    return len(node.operands) - node.attrs["num_cond"] - node.attrs["num_body"]


# -- reading


def last_readers(graph: Graph) -> dict[Node, list[Value]]:
    """For each node the tapes made in this graph whose items nothing reads after it, and that go nowhere else."""
    last: dict[Value, Node | None] = {
        r: None for n in graph.nodes if n.prim in ("record", "replay") for r in n.results
        if isinstance(r.type, TapeType) and not isinstance(r.type.item, TapeType)
    }  # fmt: skip
    elsewhere = set(graph.outputs) if last else set()
    for node in graph.nodes if last else ():
        first = 1 + node.attrs["num_consts"] + node.attrs["num_carry"] if node.prim == "replay" else len(node.operands)
        elsewhere.update(node.operands[:first])
        last.update((o, node) for o in node.operands[first:] if o in last)
    ends: dict[Node, list[Value]] = {}
    for value, reader in last.items():
        if reader is not None and value not in elsewhere:
            ends.setdefault(reader, []).append(value)
    return ends


def empty(plan: Plan, scope: Scope, value: Value) -> None:
    """Free the items of a tape that nothing reads any more."""
    _call(plan, "empty", ir.VoidType(), [plan.b.load(scope.pointer(value), typ=POINTER)])


class Rows:
    """The tapes that a `replay` reads and writes, as rows of `length` items."""

    def __init__(self, plan: Plan, scope: Scope, node: Node, length: ir.Value) -> None:
        self.plan, body = plan, node.regions[0]
        before = node.attrs["num_consts"] + node.attrs["num_carry"]
        self.xs = [self._source(scope, o) for o in node.operands[1 + before :]]
        carries = node.attrs["num_carry"]
        self.ys = []
        for result, value in zip(node.results[carries:], body.outputs[carries:], strict=True):
            tape = _new(plan, node, value.type, length)
            plan.b.store(length, plan.at(tape, _LENGTH))
            plan.b.store(tape, scope.pointer(result))
            self.ys.append((plan.b.load(tape, typ=POINTER), I64(value.type.nbytes)))

    def _source(self, scope: Scope, value: Value) -> tuple[ir.Value, ir.Value]:
        """Address and stride of a tape's items; those of no tape are one item of zeros."""
        plan, b = self.plan, self.plan.b
        assert isinstance(value.type, TapeType)
        size = value.type.item.nbytes
        zeros = plan.constant(np.zeros(aligned(max(size, 8)) // 8))
        tape = b.load(scope.pointer(value), typ=POINTER)
        none = b.icmp_unsigned("==", tape, NULL)
        items = b.load(b.select(none, plan.constant(np.zeros(8, np.int64)), tape), typ=POINTER)
        return b.select(none, zeros, items), b.select(none, I64(0), I64(size))

    def at(self, i: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        """The addresses of row i."""
        xs, ys = ([self.plan.at(p, self.plan.b.mul(i, n)) for p, n in pairs] for pairs in (self.xs, self.ys))
        return xs, ys


# -- single tapes


def zeros(plan: Plan, scope: Scope, node: Node) -> None:
    plan.b.call(_memset(plan), [scope.pointer(node.result), I8(0), I64(node.result.type.nbytes), I1(0)])


def _memset(plan: Plan) -> ir.Function:
    from nufunc.codegen.llvm import declare

    return declare(plan.module, "llvm.memset.p0.i64", ir.VoidType(), [POINTER, I8, I64, I1])


def add(plan: Plan, scope: Scope, node: Node) -> None:
    """The item's type goes as a table: per level of nesting 1 and the tapes of an item, then 0 and its numbers."""
    table: list[int] = []
    type: ArrayType = node.result.type
    while isinstance(type, TapeType):
        table += [int(isinstance(type.item, TapeType)), type.item.size]
        type = type.item
    if type.dtype.kind == "c":
        table[-1] *= 2
    single = type.dtype in (np.dtype(np.float32), np.dtype(np.complex64))
    levels = plan.constant(np.array(table, np.int64))
    pointers = [scope.pointer(v) for v in (*node.operands, node.result)]

    def one(i: ir.Value) -> None:
        x, y, out = (plan.at(p, plan.b.mul(i, I64(8))) for p in pointers)
        both = [plan.b.load(p, typ=POINTER) for p in (x, y)]
        _need(plan, node, _call(plan, "add", I1, [plan.tapes, *both, levels, I64(int(single)), out]))

    if node.result.type.size == 1:
        one(I64(0))
    elif node.result.type.size:
        with plan.loop(node.result.type.size) as i:
            one(i)


def join(plan: Plan, scope: Scope, node: Node) -> None:
    (operand,) = node.operands
    assert isinstance(operand.type, TapeType)
    item, lanes = operand.type.item, operand.shape[0]
    sizes = [I64(lanes), I64(item.nbytes), I64(handles(item) * lanes)]
    _need(plan, node, _call(plan, "join", I1, [plan.tapes, scope.pointer(operand), *sizes, scope.pointer(node.result)]))


def split(plan: Plan, scope: Scope, node: Node) -> None:
    assert isinstance(node.result.type, TapeType)
    item, lanes = node.result.type.item, node.result.shape[0]
    tape = plan.b.load(scope.pointer(node.operands[0]), typ=POINTER)
    sizes = [I64(lanes), I64(item.nbytes), I64(handles(item))]
    _need(plan, node, _call(plan, "split", I1, [plan.tapes, tape, *sizes, scope.pointer(node.result)]))

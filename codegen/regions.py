"""Parallel regions in a plan: part of its code becomes a function of its own that threads call, once per task.

Note [Tasks]
What is split, and into how many tasks, follows from shapes alone (`threads.tasks_for`); so do results, since a
reduction that is split keeps one partial result per task. Work inside a task is never split again. Each task records
errors in a word of its own; the region's error is that of the lowest task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llvmlite import ir

from nufunc.codegen import tapes, threads
from nufunc.codegen.checks import INDEX_AT
from nufunc.codegen.llvm import I32, I64

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan

Part = Callable[[list[ir.Value], ir.Value], None]


def emit_region(plan: Plan, tasks: int, captured: Sequence[ir.Value], part: Part) -> None:
    """Run `part(captured, task)` for every task; it is emitted once, in a function of its own, and given the
    captured pointers there. Leaves the plan where a task fails."""
    b = plan.b
    body = threads.declare_body(plan.module, f"{plan.prefix}.region.{plan.regions}")
    plan.regions += 1
    word = plan.alloca(8 + 8 * tasks, 8)  # and the indices that tasks found outside
    b.store(I64(threads.NO_ERROR), word)
    values = [plan.table, word, *captured]
    block = plan.alloca(threads.captures_size(values), 8)
    threads.pack(b, block, values)
    threads.emit_region(b, plan.extern(threads.LAUNCH), body, block, tasks)
    with _inside(plan, body, [v.type for v in values]) as inside:
        part(inside, body.args[1])
    code = threads.first_error(b, word)
    b.store(code, plan.error)
    good, bad = (plan.function.append_basic_block(n) for n in ("good", "bad"))
    b.cbranch(b.icmp_signed("==", code, I32(0)), good, bad)
    b.position_at_end(bad)
    index = b.load(_slot(plan, word, b.lshr(b.load(word, typ=I64), I64(32))), typ=I64)
    b.store(index, plan.at(plan.error, INDEX_AT))
    b.branch(plan.failed)
    b.position_at_end(good)


def _slot(plan: Plan, word: ir.Value, task: ir.Value) -> ir.Value:
    """Where a task leaves an index."""
    return plan.at(word, plan.b.add(plan.b.shl(task, I64(3)), I64(8)))


@contextmanager
def _inside(plan: Plan, body: ir.Function, types: Sequence[ir.Type]) -> Iterator[list[ir.Value]]:
    """Emit into the body of a region; yields what was captured, as it is called there."""
    before = {name: getattr(plan, name) for name in _STATE}
    plan.open(body)
    plan.in_task, plan.tapes = True, None
    with plan.b.goto_block(plan.entry):
        plan.table, word, *captured = threads.unpack(plan.b, body.args[0], types)
    yield captured
    tapes.end_task(plan)
    plan.b.ret_void()
    plan.b.position_at_end(plan.failed)
    tapes.end_task(plan)
    plan.b.store(plan.b.load(plan.at(plan.error, INDEX_AT), typ=I64), _slot(plan, word, body.args[1]))
    threads.record_error(plan.b, word, body.args[1], plan.b.load(plan.error, typ=I32))
    plan.b.ret_void()
    plan.seal()
    for name, value in before.items():
        setattr(plan, name, value)


_STATE = ("function", "entry", "start", "b", "error", "failed", "table", "in_task", "tapes", "outer_tapes")

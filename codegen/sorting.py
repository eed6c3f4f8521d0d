"""sort and argsort of a plan: a bottom-up merge sort (stable, NaN last) in one internal function per dtype
and kind.

Lines along the axis are gathered into scratch memory, sorted there, and written back; argsort sorts pairs of
value and position held in two arrays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from nufunc.codegen.buffers import aligned
from nufunc.codegen.emit_memory import Memory
from nufunc.codegen.llvm import I1, I64, POINTER
from nufunc.codegen.scalars import Scalars
from nufunc.ir.graph import Node

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

INT64 = np.dtype(np.int64)


def scratch(node: Node) -> int:
    """Two lines of values and two of positions."""
    n = node.operands[0].shape[node.attrs["axis"]]
    return 2 * aligned(n * node.operands[0].dtype.itemsize) + 2 * aligned(8 * n)


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    x, axis = node.operands[0], node.attrs["axis"]
    n, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    outer = math.prod(x.shape[:axis])
    if 0 in x.shape:
        return
    function = _sorter(plan, x.dtype)
    work = scope.scratch(node)
    line, places = aligned(n * x.dtype.itemsize), aligned(8 * n)
    values = work, plan.at(work, line)
    positions = plan.at(work, 2 * line), plan.at(work, 2 * line + places)
    source, target = scope.pointer(x), scope.pointer(node.result)
    memory, b = Memory(plan.b), plan.b
    first = plan.loop(outer)
    i = first.__enter__()
    second = plan.loop(inner)
    j = second.__enter__()
    start = b.add(b.mul(i, I64(n * inner)), j)
    where = lambda k: b.add(start, b.mul(k, I64(inner)))
    fill = plan.loop(n)
    k = fill.__enter__()
    memory.store(values[0], k, x.dtype, memory.load(source, where(k), x.dtype))
    memory.store(positions[0], k, INT64, k)
    fill.finish([])
    flipped = b.call(function, [*values, *positions, I64(n)])
    done = positions if node.prim == "argsort" else values
    sorted_ = b.select(flipped, done[1], done[0])
    dtype = node.result.dtype
    write = plan.loop(n)
    k = write.__enter__()
    memory.store(target, where(k), dtype, memory.load(sorted_, k, dtype))
    write.finish([])
    second.finish([])
    first.finish([])


def _sorter(plan: Plan, dtype: np.dtype) -> ir.Function:
    """i1 sort(values, values', positions, positions', n): the result stands in the second pair where it
    returns true."""
    symbol = f"nf.sort.{dtype.name}"
    if symbol in plan.module.globals:
        return plan.module.globals[symbol]
    function = ir.Function(plan.module, ir.FunctionType(I1, [POINTER] * 4 + [I64]), symbol)
    function.linkage = "internal"
    _Sorter(function, dtype, plan.has_fma).emit()
    return function


class _Sorter:
    def __init__(self, function: ir.Function, dtype: np.dtype, has_fma: bool) -> None:
        self.function, self.dtype = function, dtype
        self.entry = function.append_basic_block("entry")
        self.b = ir.IRBuilder(self.entry)
        self.memory, self.scalars = Memory(self.b), Scalars(self.b, has_fma)

    def block(self, name: str) -> ir.Block:
        return self.function.append_basic_block(name)

    def phi(self, first: ir.Value, before: ir.Block) -> Any:
        made = self.b.phi(first.type)
        made.add_incoming(first, before)
        return made

    def emit(self) -> None:
        """for width in 1, 2, 4, ...: merge neighbouring runs of `width` from one pair of arrays into the
        other."""
        b, (v0, v1, p0, p1, n) = self.b, self.function.args
        passes, runs, after, done = (self.block(x) for x in ("passes", "runs", "after", "done"))
        b.branch(passes)
        b.position_at_end(passes)
        width = self.phi(I64(1), self.entry)
        arrays = [self.phi(a, self.entry) for a in (v0, v1, p0, p1)]
        flipped = self.phi(I1(0), self.entry)
        b.cbranch(b.icmp_signed("<", width, n), runs, done)
        b.position_at_end(runs)
        low = self.phi(I64(0), passes)
        middle, high = (self.least(b.add(low, b.mul(width, I64(k))), n) for k in (1, 2))
        self.merge(arrays, low, middle, high)
        low.add_incoming(high, b.block)
        b.cbranch(b.icmp_signed("<", high, n), runs, after)
        b.position_at_end(after)
        width.add_incoming(b.mul(width, I64(2)), after)
        for k, phi in enumerate(arrays):
            phi.add_incoming(arrays[k ^ 1], after)
        flipped.add_incoming(b.not_(flipped), after)
        b.branch(passes)
        b.position_at_end(done)
        b.ret(flipped)

    def least(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def merge(self, arrays: list[Any], low: ir.Value, middle: ir.Value, high: ir.Value) -> None:
        b, memory = self.b, self.memory
        source, target, places, new_places = arrays
        before, loop, after = b.block, self.block("merge"), self.block("merged")
        b.branch(loop)
        b.position_at_end(loop)
        out, left, right = self.phi(low, before), self.phi(low, before), self.phi(middle, before)
        more_left, more_right = b.icmp_signed("<", left, middle), b.icmp_signed("<", right, high)
        # a run that is used up still has a safe element to look at
        at_left, at_right = b.select(more_left, left, low), b.select(more_right, right, low)
        x, y = memory.load(source, at_left, self.dtype), memory.load(source, at_right, self.dtype)
        take_right = b.and_(more_right, b.or_(b.not_(more_left), self.before(y, x)))
        at = b.select(take_right, at_right, at_left)
        memory.store(target, out, self.dtype, memory.load(source, at, self.dtype))
        memory.store(new_places, out, INT64, memory.load(places, at, INT64))
        step = b.zext(take_right, I64)
        following = b.add(out, I64(1))
        out.add_incoming(following, loop)
        left.add_incoming(b.add(left, b.sub(I64(1), step)), loop)
        right.add_incoming(b.add(right, step), loop)
        b.cbranch(b.icmp_signed("<", following, high), loop, after)
        b.position_at_end(after)

    def before(self, x: Any, y: Any) -> ir.Value:
        """Whether x sorts before y: less, or a number where y is NaN (complex: NaN in either part)."""
        less = self.scalars.emit("lt", (x, y), [self.dtype] * 2, np.dtype(bool), {})
        if self.dtype.kind not in "fc":
            return less
        nan = lambda v: self.scalars.emit("isnan", (v,), [self.dtype], np.dtype(bool), {})
        return self.b.or_(less, self.b.and_(nan(y), self.b.not_(nan(x))))

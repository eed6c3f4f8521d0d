"""Convolutions of a plan: panels of w, blocks of x, tiles; units of work in parallel.

See Note [Convolutions as tiles] in `conv_shape`. What a task computes changes no bit of it: sums over blocks of
channels are added in their order, and blocks follow from the shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llvmlite import ir

from nufunc.codegen import threads
from nufunc.codegen.backend import target
from nufunc.codegen.buffers import aligned
from nufunc.codegen.conv_shape import Conv, box, conv_shape, taps
from nufunc.codegen.conv_tile import Tile, tile_function
from nufunc.codegen.gemm_tile import loop, registers
from nufunc.codegen.llvm import I1, I64
from nufunc.codegen.products import give_slot, take_slot
from nufunc.codegen.regions import emit_region
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node
from nufunc.ir.types import ArrayType

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope


@dataclass(frozen=True)
class Work:
    """A convolution in tasks: each does some units, or where these are few, some panels of one."""

    shape: Conv
    tasks: int
    parts: int  # of the panels of a unit


def plan_conv(node: Node) -> Work:
    host = target()
    shape = conv_shape(node, host.vector_bits // 8, registers(host))
    tasks = threads.tasks_for(shape.work)
    if shape.units >= tasks:
        return Work(shape, tasks, 1)
    parts = min(shape.panels, -(-tasks // shape.units))
    return Work(shape, shape.units * parts, parts)


def scratch(node: Node) -> int:
    """Bytes for packed w, and for a block of x of each task."""
    work = plan_conv(node)
    return aligned(work.shape.w_bytes) + work.tasks * aligned(work.shape.x_bytes)


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    work, (x, w) = plan_conv(node), node.operands
    shape = work.shape
    panels = scope.scratch(node)
    blocks = plan.at(panels, aligned(shape.w_bytes))
    plan.kernel(_panels(node, shape), [scope.pointer(w), panels], "panels")
    job = _Job(plan, shape)
    arrays = [scope.pointer(x), panels, scope.pointer(node.result)]
    if work.tasks == 1 or plan.in_task:
        with plan.loop(shape.units) as unit:
            job.unit(arrays, blocks, unit, I64(0), I64(shape.panels))
        return
    taken = plan.alloca(8, 8)
    plan.b.store(I64(0), taken)

    def part(inside: list[ir.Value], task: ir.Value) -> None:
        slot, memory, *arrays = inside
        b = plan.b
        number = take_slot(plan, slot)
        memory = plan.at(memory, b.mul(number, I64(aligned(shape.x_bytes))))
        if work.parts == 1:
            first, last = threads.chunk(b, task, I64(work.tasks), shape.units)
            with plan.loop(last, first) as unit:
                job.unit(arrays, memory, unit, I64(0), I64(shape.panels))
        else:
            bounds = threads.chunk(b, b.urem(task, I64(work.parts)), I64(work.parts), shape.panels)
            job.unit(arrays, memory, b.udiv(task, I64(work.parts)), *bounds)
        give_slot(plan, slot, number)

    emit_region(plan, work.tasks, [taken, blocks, *arrays], part)


def _panels(node: Node, shape: Conv) -> Graph:
    """w as panels: groups, panel, channels summed over, kernel, lane."""
    names, w = node.attrs["w"], node.operands[1]
    outside = "".join(a.letters for a in shape.outer if a.w)
    summed, window = "".join(a.letters for a in shape.summed), node.attrs["window"]
    single = [n for n in names if n not in outside + shape.o.letters + summed + window]  # of one element
    order = [*single, *outside, *shape.o.letters, *summed, *window]
    b = Builder("panels")
    value = b.transposed(b.param(w.type), [names.index(n) for n in order])
    groups, full = value.type.size // (shape.o.extent * shape.steps), shape.panels * shape.width
    value = b.reshaped(value, (groups, shape.o.extent, shape.steps))
    if full > shape.o.extent:
        value = b.pad(value, low=(0, 0, 0), high=(0, full - shape.o.extent, 0), interior=(0, 0, 0))
    value = b.reshaped(value, (groups, shape.panels, shape.width, shape.steps))
    return b.build([b.transposed(value, (0, 1, 3, 2))])


def _block(shape: Conv) -> Graph:
    """What is copied of x, beginning at the first element of a block: with padding, in the order that tiles read."""
    b = Builder("block")
    names = [letters for letters, _ in shape.x_shape]
    value = b.param(ArrayType(tuple(n for _, n in shape.x_shape), shape.dtype))
    stops, low, high = [1] * len(names), [0] * len(names), [0] * len(names)
    starts = [0] * len(names)
    if shape.m.letters in names:
        stops[names.index(shape.m.letters)] = shape.block
    for k, axis in enumerate(shape.summed):
        stops[names.index(axis.letters)] = shape.chunk if k == 0 else axis.extent
    for window in shape.windows:
        k, (start, stop) = names.index(window.letter), window.reach
        inside = min(max(start, 0), window.n), max(min(stop, window.n), 0)
        starts[k], stops[k] = inside[0], max(inside)
        low[k] = min(max(-start, 0), stop - start)
        high[k] = stop - start - low[k] - (stops[k] - starts[k])
    value = b.slice(value, start=tuple(starts), stop=tuple(stops), step=(1,) * len(names))
    value = b.pad(value, low=tuple(low), high=tuple(high), interior=(0,) * len(names))
    inner = [shape.m.letters, *(a.letters for a in shape.summed), *(w.letter for w in shape.windows)]
    order = [*(n for n in names if n not in inner), *(n for n in inner if n in names)]
    return b.build([b.reshaped(b.transposed(value, [names.index(n) for n in order]), shape.packed_x)])


class _Job:
    """Emits the loops of a convolution."""

    def __init__(self, plan: Plan, shape: Conv) -> None:
        self.plan, self.shape, self.size = plan, shape, shape.dtype.itemsize
        self.block = _block(shape) if shape.packs else None

    def at(self, pointer: ir.Value, elements: int | ir.Value) -> ir.Value:
        if isinstance(elements, int):
            return self.plan.at(pointer, elements * self.size)
        return self.plan.at(pointer, self.plan.b.mul(elements, I64(self.size)))

    def unit(
        self, arrays: Sequence[ir.Value], memory: ir.Value, number: ir.Value, first: ir.Value, last: ir.Value
    ) -> None:
        """A block of examples, and the panels `first` to `last` of w; `memory` is for a copy of x."""
        b, shape = self.plan.b, self.shape
        x, w, out = arrays
        blocks = replace(shape.m, extent=shape.m.extent // shape.block, x=shape.m.x * shape.block)
        for axis in (replace(blocks, out=shape.m.out * shape.block), *reversed(shape.outer)):
            here = b.urem(number, I64(axis.extent))
            number = b.udiv(number, I64(axis.extent))
            steps = (axis.x, axis.w, axis.out)
            x, w, out = (self.at(p, b.mul(here, I64(s))) if s else p for p, s in zip((x, w, out), steps, strict=True))
        if shape.chunks == 1:
            self._chunk(x, w, out, memory, first, last, I1(0))
            return
        with self.plan.loop(shape.chunks) as chunk:
            b = self.plan.b
            begin = self.at(x, b.mul(chunk, I64(shape.chunk * shape.summed[0].x)))
            panel = shape.steps // shape.chunks * shape.width
            add = b.icmp_signed(">", chunk, I64(0))
            self._chunk(begin, self.at(w, b.mul(chunk, I64(panel))), out, memory, first, last, add)

    def _chunk(
        self, x: ir.Value, w: ir.Value, out: ir.Value, memory: ir.Value, first: ir.Value, last: ir.Value, add: ir.Value
    ) -> None:
        """The sums over some of the channels."""
        shape = self.shape
        if self.block is not None:
            self.plan.kernel(self.block, [x, memory], "block")
            x = memory
        x = self.at(x, shape.origin)
        rest = shape.o.extent % shape.width
        b = self.plan.b

        def panel(number: ir.Value, valid: int) -> None:
            b = self.plan.b
            begin = self.at(w, b.mul(number, I64(shape.steps * shape.width)))
            self._rows(x, begin, self.at(out, b.mul(number, I64(shape.width * shape.o.out))), valid, add)

        whole = shape.panels - (rest > 0)
        stop = b.select(b.icmp_signed("<", last, I64(whole)), last, I64(whole)) if rest else last
        if whole:
            with loop(b, first, stop) as number:
                panel(number, shape.width)
        if rest:
            with loop(b, b.select(b.icmp_signed("<", first, I64(whole)), I64(whole), first), last) as number:
                panel(number, rest)

    def _rows(self, x: ir.Value, w: ir.Value, out: ir.Value, valid: int, add: ir.Value) -> None:
        """All tiles of a block and a panel."""
        shape, b = self.shape, self.plan.b
        axes, rows = shape.row_axes, shape.rows

        def nested(k: int, x: ir.Value, out: ir.Value, residues: tuple[int, ...]) -> None:
            axis = axes[k]
            spread = shape.windows[k - 1].spread if k else 1
            if k < rows.axis:
                for residue in range(min(spread, axis.extent)):
                    begin = self.at(out, residue * axis.out)
                    inner = (*residues, residue) if k else ()
                    with loop(b, 0, -(-(axis.extent - residue) // spread)) as i:
                        nested(k + 1, self._moved(x, i, axis.x), self._moved(begin, i, axis.out * spread), inner)
                return
            whole = axis.extent - rows.rest
            if whole:
                with loop(b, 0, whole // rows.step) as i:
                    begin = self._moved(x, i, rows.step // spread * axis.x)
                    self._tile(begin, w, self._moved(out, i, rows.step * axis.out), rows.step, residues, valid, add)
            if rows.rest:
                places = self.at(x, whole // spread * axis.x), w, self.at(out, whole * axis.out)
                self._tile(*places, rows.rest, residues, valid, add)

        nested(0, x, out, ())

    def _moved(self, pointer: ir.Value, index: int | ir.Value, step: int) -> ir.Value:
        if isinstance(index, int):
            return self.at(pointer, index * step)
        return self.at(pointer, self.plan.b.mul(index, I64(step))) if step else pointer

    def _tile(
        self, x: ir.Value, w: ir.Value, out: ir.Value, step: int, residues: tuple[int, ...], valid: int, add: ir.Value
    ) -> None:
        shape, plan = self.shape, self.plan
        met, apart = (taps(shape, residues), shape.windows[-1].spread) if shape.spread else (None, 1)
        tile = Tile(
            shape.dtype, shape.lanes, box(shape, step), -(-valid // shape.lanes), valid, shape.width, shape.loops,
            shape.o.out, met, apart, math.prod(v.kernel for v in shape.windows), shape.chunks > 1, plan.has_fma,
        )  # fmt: skip
        plan.b.call(tile_function(plan.module, tile), [x, w, out, add])

"""The CPU emitter: one internal LLVM function per loop nest, with explicit vectors as the nest's schedule
says.

An instruction goes into the block of the loop level that it depends on, so invariant loads and arithmetic
run once. A vector wider than the machine's registers is how iterations are interleaved: LLVM splits it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nufunc.codegen import loops
from nufunc.codegen.emit_accumulators import Accumulators
from nufunc.codegen.joint import partners, quotients
from nufunc.codegen.llvm import I64, POINTER
from nufunc.codegen.loops import Axis, Inst, LoopNest, Phase
from nufunc.codegen.threads import chunk

# A float sum of more blocks than this is summed in blocks of _BLOCK, whose sums are added: errors stay near
# NumPy's.
_LONG, _BLOCK = 256, 64
_UNROLLED, _UNROLLED_BODY = 4, 16  # iterations and instructions up to which a loop is written out


def emit_nest(module: ir.Module, nest: LoopNest, has_fma: bool, symbol: str) -> ir.Function:
    """Emit `void symbol(ptr buffer..., ptr error)` for a scheduled nest; `error` points to an i32 that error
    sites go to. That of a split nest has two more arguments, from where to where it runs: [i64 start, i64 stop)."""
    pointers = [POINTER] * (len(nest.buffers) + 1)
    type_ = ir.FunctionType(ir.VoidType(), pointers + [I64, I64] * (nest.split is not None))
    function = ir.Function(module, type_, symbol)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    for argument in function.args[: len(pointers)]:
        argument.add_attribute("noalias")
    _Emitter(function, nest, has_fma).emit()
    return function


class _Loop:
    """An open loop: its phi, its block, and the phis of accumulators that it carries."""

    def __init__(self, block: ir.Block, counter: Any, start: ir.Value, stop: ir.Value, step: int) -> None:
        self.block, self.counter, self.start, self.stop, self.step = block, counter, start, stop, step
        self.phis: list[Any] = []


class _Emitter(Accumulators):
    # -- structure

    def emit(self) -> None:
        nest = self.nest
        opened = [self.open(axis, nest.step(axis)) for axis in nest.axes]
        for phase in nest.phases:
            self.phase(phase)
        for loop in reversed(opened):
            self.close(loop)
        self.b.ret_void()

    def open(self, axis: Axis, lanes: int) -> _Loop | None:
        """Enter the loop over an axis; None where it has one block only."""
        start, stop = self.bounds(axis)
        if isinstance(stop, ir.Constant) and axis.extent <= lanes:
            self.axis_level[axis.name] = len(self.blocks)
            self.axis_value[axis.name] = I64(0)
            self.blocks.append(self.blocks[-1])
            return None
        loop = self.begin(start, stop, lanes)
        self.blocks.append(loop.block)
        self.axis_level[axis.name] = len(self.blocks) - 1
        self.axis_value[axis.name] = self.overlapped(loop.counter, axis.extent, lanes)
        return loop

    def bounds(self, axis: Axis) -> tuple[ir.Value, ir.Value]:
        """From where to where the loop over an axis runs."""
        if axis.name == self.nest.split:
            return self.range[0], self.range[1]
        if axis.part is not None:
            of, parts, unit = axis.part
            return chunk(self.b, self.axis_value[of], I64(parts), axis.extent, unit)
        return I64(0), I64(axis.extent)

    def overlapped(self, counter: ir.Value, extent: int, lanes: int) -> ir.Value:
        """The start of a block; the last one is moved back so that it ends at the extent."""
        if extent % lanes == 0:
            return counter
        last = I64(extent - lanes)
        return self.b.select(self.b.icmp_signed("<", counter, last), counter, last)

    def begin(self, start: ir.Value, stop: ir.Value, step: int) -> _Loop:
        before = self.b.block
        block = self.function.append_basic_block("loop")
        self.b.branch(block)
        self.b.position_at_end(block)
        counter = self.b.phi(I64)
        counter.add_incoming(start, before)
        return _Loop(block, counter, start, stop, step)

    def end(self, loop: _Loop, carried: list[ir.Value]) -> None:
        """Finish a loop whose accumulators have reached `carried`; code goes on behind it."""
        following = self.b.add(loop.counter, I64(loop.step), flags=["nsw"])
        loop.counter.add_incoming(following, self.b.block)
        for phi, value in zip(loop.phis, carried, strict=True):
            phi.add_incoming(value, self.b.block)
        after = self.function.append_basic_block("after")
        self.b.cbranch(self.b.icmp_signed("<", following, loop.stop), loop.block, after)
        self.b.position_at_end(after)

    def close(self, loop: _Loop | None) -> None:
        self.blocks.pop()
        if loop is not None:
            self.end(loop, [])
        self.blocks[-1] = self.b.block

    def phase(self, phase: Phase) -> None:
        nest = self.nest
        self.vector, self.lanes = (phase.vector, phase.lanes) if phase.vector else (nest.vector, nest.lanes)
        loops.levels(nest, phase, self.level)
        if self.vector is not None:
            loops.varying(nest, phase, self.vector, self.varies)
        self.joint = self.joint_stores(phase)
        self.partners = partners(phase)
        self.inverses = quotients(nest, phase, lambda i: (self.level[i.id], i.id in self.varies))
        depth = len(self.blocks)
        state = [r for acc in phase.accumulators for r in self.initial(acc)]
        *outer, inner = phase.axes or (None,)
        opened = []
        for axis in outer:
            loop = self.open(axis, 1)
            opened.append(loop)
            state = self.carry(loop, state)
        if nest.turned is not None:
            self.square(phase, nest.turned)
        else:
            state = self.innermost(phase, inner, state)
        for loop in reversed(opened):
            self.blocks.pop()
            if loop is not None:
                self.end(loop, state)
            self.blocks[-1] = self.b.block
        assert len(self.blocks) == depth
        self.finish(phase, state)

    def joint_stores(self, phase: Phase) -> dict[int, list[Inst]]:
        """Stores with a short step that together fill all elements: the last one in the body stands for all, the
        others for nothing."""
        groups: dict[Any, list[Inst]] = {}
        for inst in phase.body if self.lanes > 1 else ():
            if inst.op == "store" and inst.attrs["mode"] == "set" and inst.guard is None and inst.dtype.kind != "c":
                step = self.step_of(inst)
                if step is not None and 2 <= step <= loops.SHORT_STEP:
                    groups.setdefault((inst.buffer, inst.index.terms, step), []).append(inst)
        joint: dict[int, list[Inst]] = {}
        for (_, _, step), stores in groups.items():
            ordered = sorted(stores, key=lambda s: s.index.const)
            first = ordered[0].index.const
            if [s.index.const for s in ordered] == list(range(first, first + step)):
                joint.update({s.id: [] for s in stores})
                joint[stores[-1].id] = ordered
        return joint

    def carry(self, loop: _Loop | None, state: list[ir.Value]) -> list[ir.Value]:
        """Phis of a loop for values that are `state` before it."""
        if loop is None:
            return state
        before = loop.counter.incomings[0][1]
        for value in state:
            phi = self.b.phi(value.type)
            phi.add_incoming(value, before)
            loop.phis.append(phi)
        self._phis_first(loop)
        return list(loop.phis)

    def _phis_first(self, loop: _Loop) -> None:
        """LLVM wants phis at the head of their block; the overlapped start may have come before them."""
        block = loop.block
        phis = [loop.counter, *loop.phis]
        block.instructions[:] = phis + [i for i in block.instructions if i not in phis]

    def innermost(self, phase: Phase, axis: Axis | None, state: list[ir.Value]) -> list[ir.Value]:
        if axis is None:
            return self.body(phase, None, state)
        lanes = phase.lanes if axis.name == phase.vector else 1
        parts = 1 if axis.part is None else axis.part[1]
        blocks = -(-axis.extent // lanes) // parts
        sums = any(a.op == "add" and a.dtype.kind in "fc" for a in phase.accumulators)
        if blocks > _LONG and sums and not any(i.op == "running" for i in phase.body):
            return self.blocked(phase, axis, lanes, state)
        if lanes == 1 and parts == 1 and 1 < axis.extent <= _UNROLLED and len(phase.body) <= _UNROLLED_BODY:
            return self.unrolled(phase, axis, state)
        loop = self.open(axis, lanes)
        state = self.carry(loop, state)
        nominal = loop.counter if loop is not None else I64(0)
        state = self.body(phase, (axis, lanes, nominal), state)
        self.blocks.pop()
        if loop is not None:
            self.end(loop, state)
        self.blocks[-1] = self.b.block
        return state

    def square(self, phase: Phase, along: str) -> None:
        """The body for as many points of the turned axis as there are lanes; what lies across is loaded before by rows,
        and stored behind."""
        first, self.axis_level[along] = self.axis_value[along], len(self.blocks) - 1
        across = [i for i in phase.body if self.is_across(i, along)]
        self.turned = {i.id: self.load_square(i) for i in across if i.op == "load"}
        self.turned.update((i.id, []) for i in across if i.op == "store")
        for k in range(self.lanes):
            self.point = k
            self.axis_value[along] = self.b.add(first, I64(k), flags=["nsw"]) if k else first
            self.kept.append(self.axis_value[along])
            self.body(phase, None, [], again=k > 0)
        self.axis_value[along] = first
        for inst in across:
            if inst.op == "store":
                self.store_square(inst, self.turned[inst.id])
        self.turned = {}

    def unrolled(self, phase: Phase, axis: Axis, state: list[ir.Value]) -> list[ir.Value]:
        """A short loop written out."""
        self.axis_level[axis.name] = len(self.blocks)
        self.blocks.append(self.blocks[-1])
        for k in range(axis.extent):
            self.axis_value[axis.name] = I64(k)
            self.kept.append(self.axis_value[axis.name])
            state = self.body(phase, None, state, again=k > 0)
        self.blocks.pop()
        return state

    def blocked(self, phase: Phase, axis: Axis, lanes: int, state: list[ir.Value]) -> list[ir.Value]:
        """A long reduction in blocks, whose results are combined one after the other."""
        step = lanes * _BLOCK
        first, last = self.bounds(axis)
        outer = self.begin(first, last, step)
        total = self.carry(outer, state)
        fresh = [r for acc in phase.accumulators for r in self.initial(acc)]
        end = self.b.add(outer.counter, I64(step), flags=["nsw"])
        stop = self.b.select(self.b.icmp_signed("<", end, last), end, last)
        inner = self.begin(outer.counter, stop, lanes)
        part = self.carry(inner, fresh)
        self.blocks.append(inner.block)
        self.axis_level[axis.name] = len(self.blocks) - 1
        self.axis_value[axis.name] = self.overlapped(inner.counter, axis.extent, lanes)
        part = self.body(phase, (axis, lanes, inner.counter), part)
        self.blocks.pop()
        self.end(inner, part)
        total = self.combined(phase, total, part)
        self.end(outer, total)
        self.blocks[-1] = self.b.block
        return total

    # -- bodies

    def body(
        self, phase: Phase, innermost: tuple[Axis, int, ir.Value] | None, state: list[ir.Value], again: bool = False
    ) -> list[ir.Value]:
        """Emit a phase's body; `again`: what stands outside its innermost loop has been emitted already."""
        parts = self.parts(phase, state)
        innermost_level = len(self.nest.axes) + len(phase.axes)
        self.running = {acc.id: part for acc, part in zip(phase.accumulators, parts, strict=True)}
        accs = {acc.id: acc for acc in phase.accumulators}
        ran = set()
        for inst in phase.body:
            if inst.op == "running":
                number = inst.attrs["accumulator"]
                ran.add(number)
                value = self.pair(self.operand(inst.args[0], self.lanes))
                self.running[number] = self.combine(accs[number], self.running[number], value)
                self.define(inst, self.unpaired(self.running[number]))
                continue
            if again and self.level[inst.id] < innermost_level:
                continue
            block = self.blocks[self.level[inst.id]]
            if block is self.b.block:
                self.inst(inst)
            else:
                with self.hoisting(block):
                    self.inst(inst)
        lanes = self.lanes if phase.vector or self.nest.vector else 1
        done: list[ir.Value] = []
        for acc in phase.accumulators:
            if acc.id in ran:
                done += self.running[acc.id]
                continue
            new = self.pair(self.operand(acc.value, lanes))
            if acc.index is not None:
                new = [*new, self.operand(acc.index, lanes)]
            done += self.combine(acc, self.running[acc.id], self.masked(acc, new, innermost), later=True)
        return done

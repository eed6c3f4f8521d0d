"""The CPU emitter: one internal LLVM function per loop nest, with explicit vectors as the nest's schedule
says.

An instruction goes into the block of the loop level that it depends on, so invariant loads and arithmetic
run once. A vector wider than the machine's registers is how iterations are interleaved: LLVM splits it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import loops
from nufunc.codegen.emit_memory import Memory
from nufunc.codegen.llvm import (
    I32,
    I64,
    POINTER,
    Poison,
    constant,
    lane_numbers,
    lanes_of,
    register_type,
    splat,
)
from nufunc.codegen.loops import Accumulator, Affine, Axis, Inst, LoopNest, Phase
from nufunc.codegen.scalars import Scalars
from nufunc.codegen.threads import chunk

# A float sum of more blocks than this is summed in blocks of _BLOCK, whose sums are added: errors stay near
# NumPy's.
_LONG, _BLOCK = 256, 64
_UNROLLED, _UNROLLED_BODY = 4, 16  # iterations and instructions up to which a loop is written out
_FAR = 2**63 - 1  # the index of "none yet" in argmax


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


class _Emitter:
    def __init__(self, function: ir.Function, nest: LoopNest, has_fma: bool) -> None:
        self.function, self.nest = function, nest
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.scalars = Scalars(self.b, has_fma)
        self.memory = Memory(self.b)
        count = len(nest.buffers)
        self.pointers, self.error, self.range = function.args[:count], function.args[count], function.args[count + 1 :]
        self.blocks: list[ir.Block] = [self.b.block]
        self.values: dict[int, Any] = {}
        self.dtypes: dict[int, np.dtype] = {}
        self.splats: dict[tuple[int, int], Any] = {}
        self.kept: list[ir.Value] = []  # keys of `sums` name values by identity
        self.sums: dict[Any, ir.Value] = {}
        self.level: dict[int, int] = {}
        self.varies: set[int] = set()
        self.axis_value: dict[str, ir.Value] = {}
        self.axis_level: dict[str, int] = {}
        self.vector: str | None = None
        self.lanes = 1

    # -- structure

    def emit(self) -> None:
        nest, opened = self.nest, []
        for axis in nest.axes:
            lanes = nest.lanes if axis.name == nest.vector else 1
            opened.append(self.open(axis, lanes))
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
        depth = len(self.blocks)
        state = [r for acc in phase.accumulators for r in self.initial(acc)]
        *outer, inner = phase.axes or (None,)
        opened = []
        for axis in outer:
            loop = self.open(axis, 1)
            opened.append(loop)
            state = self.carry(loop, state)
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
            if inst.op == "store" and inst.attrs["mode"] == "set" and inst.guard is None:
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
            done += self.combine(acc, self.running[acc.id], self.masked(acc, new, innermost))
        return done

    def masked(
        self, acc: Accumulator, new: list[ir.Value], innermost: tuple[Axis, int, ir.Value] | None
    ) -> list[ir.Value]:
        """Lanes that the block before has counted already, replaced by what changes nothing."""
        if innermost is None:
            return new
        axis, lanes, nominal = innermost
        if lanes == 1 or axis.extent % lanes == 0:
            return new
        seen = self.b.sub(nominal, self.axis_value[axis.name])
        fresh = self.b.icmp_signed(">=", lane_numbers(lanes), splat(self.b, seen, lanes))
        neutral = self.initial(acc)
        return [self.b.select(fresh, value, other) for value, other in zip(new, neutral, strict=True)]

    def finish(self, phase: Phase, state: list[ir.Value]) -> None:
        """Combine the lanes of accumulators and define their results."""
        for acc, part in zip(phase.accumulators, self.parts(phase, state), strict=True):
            if phase.vector is not None:
                part = self.horizontal(acc, part)
            elif self.lanes > 1 and self.nest.vector is not None:
                self.varies.add(acc.id)
            result = part[-1] if acc.index is not None else self.unpaired(part)
            self.values[acc.id] = result
            self.dtypes[acc.id] = np.dtype(np.int64) if acc.index is not None else acc.dtype
            self.level[acc.id] = len(self.nest.axes)

    def horizontal(self, acc: Accumulator, part: list[ir.Value]) -> list[ir.Value]:
        lanes = lanes_of(part[0].type)
        while lanes > 1:
            half = lanes // 2
            low, high = ([self._half(v, start, half) for v in part] for start in (0, half))
            part, lanes = self.combine(acc, low, high), half
        return part

    def _half(self, value: ir.Value, start: int, count: int) -> ir.Value:
        if count == 1:
            return self.b.extract_element(value, I32(start))
        mask = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
        return self.b.shuffle_vector(value, Poison(value.type), mask)

    # -- accumulators are lists of registers: one, two of a complex number, or a value and its position

    def pair(self, value: Any) -> list[ir.Value]:
        return list(value) if isinstance(value, tuple) else [value]

    def unpaired(self, part: list[ir.Value]) -> Any:
        return part[0] if len(part) == 1 else tuple(part)

    def parts(self, phase: Phase, state: list[ir.Value]) -> list[list[ir.Value]]:
        rest = list(state)
        made = []
        for acc in phase.accumulators:
            count = 2 if acc.index is not None or acc.dtype.kind == "c" else 1
            made.append([rest.pop(0) for _ in range(count)])
        return made

    def initial(self, acc: Accumulator) -> list[ir.Value]:
        type_ = register_type(acc.dtype, self.lanes)
        if acc.dtype.kind == "c":
            return [constant(type_, acc.init.real), constant(type_, acc.init.imag)]
        if acc.index is not None:
            return [constant(type_, acc.init), constant(register_type(np.dtype(np.int64), self.lanes), _FAR)]
        return [constant(type_, acc.init)]

    def combined(self, phase: Phase, state: list[ir.Value], more: list[ir.Value]) -> list[ir.Value]:
        pairs = zip(phase.accumulators, self.parts(phase, state), self.parts(phase, more), strict=True)
        return [r for acc, x, y in pairs for r in self.combine(acc, x, y)]

    def combine(self, acc: Accumulator, x: list[ir.Value], y: list[ir.Value]) -> list[ir.Value]:
        if acc.index is None:
            dtypes = (acc.dtype, acc.dtype)
            done = self.scalars.emit(acc.op, (self.unpaired(x), self.unpaired(y)), dtypes, acc.dtype, {})
            return self.pair(done)
        b, (best, at), (new, place) = self.b, x, y
        compare = lambda sign, p, q: self.scalars.compare(sign, p, q, acc.dtype)
        better = compare(">" if acc.op == "argmax" else "<", new, best)
        same = compare("==", new, best)
        if acc.dtype.kind == "f":
            nan_new, nan_best = compare("!=", new, new), compare("!=", best, best)
            better = b.or_(better, b.and_(nan_new, b.not_(nan_best)))
            same = b.or_(same, b.and_(nan_new, nan_best))
        take = b.or_(better, b.and_(same, b.icmp_signed("<", place, at)))
        return [b.select(take, new, best), b.select(take, place, at)]

    # -- instructions

    @contextmanager
    def hoisting(self, block: ir.Block) -> Iterator[None]:
        """Emit into an outer block; llvmlite comes back to the end of the block before, behind its branch if
        it has one."""
        before = self.b.block
        with self.b.goto_block(block):
            yield
        if before.is_terminated:
            self.b.position_before(before.terminator)

    def define(self, inst: Inst, value: Any) -> None:
        self.values[inst.id] = value
        self.splats.pop((inst.id, self.lanes), None)
        self.dtypes[inst.id] = inst.dtype

    def operand(self, number: int, lanes: int | None = None) -> Any:
        """A value; with `lanes` as a vector of so many."""
        value = self.values[number]
        if lanes is None or lanes == 1 or isinstance(value, tuple) or lanes_of(value.type) == lanes:
            return value
        if isinstance(value, ir.Constant):
            return splat(self.b, value, lanes)
        key = (number, lanes)
        if key not in self.splats:
            block = self.blocks[self.level[number]]
            if block is self.b.block:
                self.splats[key] = splat(self.b, value, lanes)
            else:
                with self.hoisting(block):
                    self.splats[key] = splat(self.b, value, lanes)
        return self.splats[key]

    def inst(self, inst: Inst) -> None:
        if inst.op == "const":
            self.define(inst, self.constant(inst))
        elif inst.op == "load":
            self.define(inst, self.load(inst))
        elif inst.op == "store":
            self.store(inst)
        elif inst.op == "index":
            self.define(inst, self.affine(inst))
        elif inst.op == "check":
            self.define(inst, self.check(inst))
        else:
            lanes = self.lanes if inst.id in self.varies else 1
            args = [self.operand(a, lanes) for a in inst.args]
            if inst.op in ("index_div", "index_mod"):
                by = constant(args[0].type, inst.attrs["by"])
                divide = self.b.udiv if inst.op == "index_div" else self.b.urem
                self.define(inst, divide(args[0], by))
                return
            dtypes = [self.dtypes[a] for a in inst.args]
            self.define(inst, self.scalars.emit(inst.op, args, dtypes, inst.dtype, inst.attrs))

    def constant(self, inst: Inst) -> Any:
        value, type_ = inst.attrs["value"], register_type(inst.dtype)
        if inst.dtype.kind == "c":
            return constant(type_, complex(value).real), constant(type_, complex(value).imag)
        return constant(type_, value)

    def check(self, inst: Inst) -> ir.Value:
        b = self.b
        lanes = self.lanes if inst.id in self.varies else 1
        value = self.operand(inst.args[0], lanes)
        inside = b.icmp_unsigned("<", value, constant(value.type, inst.attrs["extent"]))
        bad = b.not_(inside)
        if inst.guard is not None:
            bad = b.and_(bad, self.operand(inst.guard, lanes))
        if lanes > 1:
            bad = self.memory.any(bad)
        site = b.select(bad, I32(inst.attrs["site"]), b.load(self.error, typ=I32))
        b.store(site, self.error)
        return b.select(inside, value, constant(value.type, 0))

    # -- addresses

    def offset(self, index: Affine, skip: set[int]) -> ir.Value:
        """The scalar part of an affine form: all terms but those of the values in `skip`, summed from the
        outer level in."""
        terms = [(k, c) for k, c in index.terms if k not in skip]
        terms.sort(key=lambda t: self.axis_level[t[0]] if isinstance(t[0], str) else self.level[t[0]])
        total: ir.Value | None = None
        done: list[Any] = []
        for key, c in terms:
            level = self.axis_level[key] if isinstance(key, str) else self.level[key]
            value = self.axis_value[key] if isinstance(key, str) else self.values[key]
            done.append((key, c, id(value)))
            if tuple(done) not in self.sums:
                block = self.blocks[level]
                if block is self.b.block:
                    self.sums[tuple(done)] = self._sum(total, value, c)
                else:
                    with self.hoisting(block):
                        self.sums[tuple(done)] = self._sum(total, value, c)
            total = self.sums[tuple(done)]
        if total is None:
            return I64(index.const)
        return self.b.add(total, I64(index.const)) if index.const else total

    def _sum(self, total: ir.Value | None, value: ir.Value, c: int) -> ir.Value:
        if isinstance(value, ir.Constant):
            value, c = I64(value.constant * c), 1
        product = value if c == 1 else self.b.mul(value, I64(c))
        return product if total is None else self.b.add(total, product)

    def affine(self, inst: Inst) -> ir.Value:
        """The value of an affine form, a vector where it varies over the lanes."""
        if inst.id not in self.varies:
            return self.offset(inst.index, set())
        return self.lane_offsets(inst.index)

    def lane_offsets(self, index: Affine) -> ir.Value:
        moving = {k for k, _ in index.terms if isinstance(k, int) and k in self.varies}
        total = splat(self.b, self.offset(index, moving), self.lanes)
        step = index.coefficient(self.vector) if self.vector else 0
        if step:
            steps = [step * k for k in range(self.lanes)]
            total = self.b.add(total, ir.Constant(ir.VectorType(I64, self.lanes), steps))
        for key, c in index.terms:
            if key in moving:
                value = self.values[key]
                total = self.b.add(total, self.b.mul(value, constant(value.type, c)))
        return total

    def step_of(self, inst: Inst) -> int | None:
        """By how much the address grows from lane to lane; None where by no constant."""
        if any(k in self.varies for k, _ in inst.index.terms if isinstance(k, int)):
            return None
        return inst.index.coefficient(self.vector) if self.vector else 0

    def load(self, inst: Inst) -> Any:
        base, size = self.pointers[inst.buffer], self.nest.buffers[inst.buffer].size
        if size == 0:  # only ever read where no guard holds
            return self.constant(Inst(inst.id, "const", (), inst.dtype, {"value": 0}))
        step = self.step_of(inst)
        if step == 0:
            offset = self.offset(inst.index, set())
            if inst.guard is not None:
                guard = self.operand(inst.guard)
                guard = self.memory.any(guard) if lanes_of(guard.type) > 1 else guard
                offset = self.b.select(guard, offset, I64(0))
            if inst.id in self.varies:  # only its guard varies
                self.varies.discard(inst.id)
            return self.memory.load(base, offset, inst.dtype)
        guard = None if inst.guard is None else self.operand(inst.guard, self.lanes)
        if step == 1 or step == -1:
            offset = self.offset(inst.index, set())
            return self.memory.load_vector(base, offset, inst.dtype, self.lanes, guard, step < 0)
        if step is not None and 2 <= step <= loops.SHORT_STEP and guard is None:
            offset = self.offset(inst.index, set())
            return self.memory.load_strided(base, offset, inst.dtype, self.lanes, step)
        return self.memory.gather(base, self.lane_offsets(inst.index), inst.dtype, guard)

    def store(self, inst: Inst) -> None:
        base, dtype = self.pointers[inst.buffer], inst.dtype
        step = self.step_of(inst)
        if inst.id in self.joint:
            stores = self.joint[inst.id]
            if stores:
                values = [self.operand(s.args[0], self.lanes) for s in stores]
                self.memory.store_interleaved(base, self.offset(stores[0].index, set()), dtype, values)
            return
        lanes = 1 if step == 0 else self.lanes
        value = self.operand(inst.args[0], lanes)
        guard = None if inst.guard is None else self.operand(inst.guard, lanes)
        add = inst.attrs["mode"] == "add"
        more = lambda old: self.scalars.emit("add", (old, value), (dtype, dtype), dtype, {})
        if step == 0:
            offset = self.offset(inst.index, set())
            if add:
                value = more(self.memory.load(base, offset, dtype))
            self.memory.store(base, offset, dtype, value)
        elif step == 1:
            offset = self.offset(inst.index, set())
            if add:
                value = more(self.memory.load_vector(base, offset, dtype, lanes, guard, False))
            self.memory.store_vector(base, offset, dtype, value, guard)
        else:
            offsets = self.lane_offsets(inst.index)
            if add:
                value = more(self.memory.gather(base, offsets, dtype, guard))
            self.memory.scatter(base, offsets, dtype, value, guard)

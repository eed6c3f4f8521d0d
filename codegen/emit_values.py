"""Values of the CPU emitter: instructions at the loop level that they depend on, addresses, loads and stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import checks, loops
from nufunc.codegen.emit_memory import Memory
from nufunc.codegen.llvm import I64, constant, lanes_of, register_type, splat
from nufunc.codegen.loops import Affine, Inst, LoopNest
from nufunc.codegen.scalars import Scalars


class Values:
    """The values of a nest that is emitted: registers by instruction, and the blocks of its open loops."""

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
        self.turned: dict[int, list[Any]] = {}  # by accesses that lie across, their values along the turned axis
        self.joint: dict[int, list[Inst]] = {}  # stores that others stand for, or that stand for others
        self.point = 0  # number of the point of the turned axis
        self.partners: dict[int, tuple[str, Inst, Inst]] = {}  # by the first of two functions with a joint name, both
        self.inverses: dict[int, tuple[Inst, bool]] = {}  # by quotients, the reciprocal that they multiply with
        self.ahead: dict[int, Any] = {}  # values that others have made, until their turn comes

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
        first = value[0] if isinstance(value, tuple) else value
        if lanes is None or lanes == 1 or lanes_of(first.type) == lanes:
            return value
        if isinstance(first, ir.Constant):
            return self._splatted(value, lanes)
        key = (number, lanes)
        if key not in self.splats:
            block = self.blocks[self.level[number]]
            if block is self.b.block:
                self.splats[key] = self._splatted(value, lanes)
            else:
                with self.hoisting(block):
                    self.splats[key] = self._splatted(value, lanes)
        return self.splats[key]

    def _splatted(self, value: Any, lanes: int) -> Any:
        if isinstance(value, tuple):
            return tuple(splat(self.b, part, lanes) for part in value)
        return splat(self.b, value, lanes)

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
        elif inst.id in self.ahead:
            self.define(inst, self.ahead.pop(inst.id))
        else:
            lanes = self.lanes if inst.id in self.varies else 1
            args = [self.operand(a, lanes) for a in inst.args]
            if inst.op in ("index_div", "index_mod"):
                by = constant(args[0].type, inst.attrs["by"])
                divide = self.b.udiv if inst.op == "index_div" else self.b.urem
                self.define(inst, divide(args[0], by))
                return
            if inst.id in self.inverses:
                self.define(inst, self.quotient(inst, *args))
                return
            if inst.id in self.partners:
                name, *pair = self.partners[inst.id]
                for part, value in zip(pair, self.scalars.joint(name, args[0]), strict=True):
                    self.ahead[part.id] = value
                self.define(inst, self.ahead.pop(inst.id))
                return
            dtypes = [self.dtypes[a] for a in inst.args]
            self.define(inst, self.scalars.emit(inst.op, args, dtypes, inst.dtype, inst.attrs))

    def quotient(self, inst: Inst, x: ir.Value, y: ir.Value) -> ir.Value:
        """x / y by the reciprocal of y, which is made here if the body has it further down."""
        reciprocal, first = self.inverses[inst.id]
        if first:
            self.ahead[reciprocal.id] = self.b.fdiv(constant(y.type, 1), y)
        inverse = self.ahead.get(reciprocal.id)
        return self.b.fmul(x, self.operand(reciprocal.id) if inverse is None else inverse)

    def constant(self, inst: Inst) -> Any:
        value, type_ = inst.attrs["value"], register_type(inst.dtype)
        if inst.dtype.kind == "c":
            return constant(type_, complex(value).real), constant(type_, complex(value).imag)
        return constant(type_, value)

    def check(self, inst: Inst) -> ir.Value:
        lanes = self.lanes if inst.id in self.varies else 1
        value = self.operand(inst.args[0], lanes)
        guard = None if inst.guard is None else self.operand(inst.guard, lanes)
        return checks.emit_check(self.b, value, inst.attrs["extent"], guard, inst.attrs["site"], self.error)

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

    # -- squares: as many rows as lanes, far apart, of as many elements side by side

    def is_across(self, inst: Inst, along: str) -> bool:
        """Whether an access is one of squares."""
        if inst.op not in ("load", "store") or inst.guard is not None or self.vector is None:
            return False
        if inst.op == "store" and inst.attrs["mode"] != "set":
            return False
        computed = any(isinstance(k, int) for k, _ in inst.index.terms)
        return not computed and loops.lies_across(inst, self.vector, along)

    def _rows(self, inst: Inst) -> list[ir.Value]:
        first, step = self.offset(inst.index, set()), self.step_of(inst) or 0
        return [self.b.add(first, I64(k * step), flags=["nsw"]) if k else first for k in range(self.lanes)]

    def load_square(self, inst: Inst) -> list[ir.Value]:
        """The lanes at each point of the turned axis."""
        base = self.pointers[inst.buffer]
        rows = [self.memory.load_vector(base, o, inst.dtype, self.lanes, None, False) for o in self._rows(inst)]
        return self.memory.transposed(rows)

    def store_square(self, inst: Inst, points: list[ir.Value]) -> None:
        for offset, row in zip(self._rows(inst), self.memory.transposed(points), strict=True):
            self.memory.store_vector(self.pointers[inst.buffer], offset, inst.dtype, row, None)

    def load(self, inst: Inst) -> Any:
        if inst.id in self.turned:
            return self.turned[inst.id][self.point]
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
        if inst.id in self.turned:
            self.turned[inst.id].append(self.operand(inst.args[0], self.lanes))
            return
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

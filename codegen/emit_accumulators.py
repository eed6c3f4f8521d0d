"""Accumulators of the CPU emitter: lists of registers, one, two of a complex number, or a value and its position.

A largest or smallest float is a number and whether a NaN has been met: the processor's own instruction, which forgets
NaN, is all that one step waits for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from nufunc.codegen.emit_streams import Streams
from nufunc.codegen.llvm import I32, Poison, constant, lane_numbers, lanes_of, register_type, splat
from nufunc.codegen.loops import Accumulator, Axis, Phase


def _far(type_: ir.Type) -> int:
    """The index of "none yet" in argmax."""
    return 2 ** ((type_.element if isinstance(type_, ir.VectorType) else type_).width - 1) - 1


class Accumulators(Streams):
    """What becomes of accumulators: from their start over the combination of values to that of lanes."""

    def notes_nan(self, acc: Accumulator) -> bool:
        """Whether it keeps NaN apart; one whose values on the way are needed does not."""
        running = any(i.op == "running" and i.attrs["accumulator"] == acc.id for p in self.nest.phases for i in p.body)
        return acc.op in ("maximum", "minimum") and acc.dtype.kind == "f" and not running

    def with_note(self, acc: Accumulator, new: list[ir.Value]) -> list[ir.Value]:
        """A value that is to be combined, as an accumulator of its own."""
        return [*new, self.b.fcmp_unordered("uno", new[0], new[0])] if len(new) == 1 and self.notes_nan(acc) else new

    def masked(
        self, acc: Accumulator, new: list[ir.Value], innermost: tuple[Axis, int, ir.Value] | None
    ) -> list[ir.Value]:
        """Lanes that the block before has counted already, replaced by what changes nothing; places as wide as the
        accumulator's."""
        if acc.index is not None and new[1].type != self._place_type(acc):
            new = [new[0], self.b.trunc(new[1], self._place_type(acc))]
        if innermost is None:
            return new
        axis, lanes, nominal = innermost
        if lanes == 1 or axis.extent % lanes == 0:
            return new
        seen = self.b.sub(nominal, self.axis_value[axis.name])
        # compared in numbers as wide as the elements, so that the mask takes no more registers than these
        width = 8 * acc.dtype.itemsize // (2 if acc.dtype.kind == "c" else 1)
        counts = ir.IntType(width if lanes <= 1 << width else 64)
        seen = seen if counts.width == 64 else self.b.trunc(seen, counts)
        fresh = self.b.icmp_unsigned(">=", lane_numbers(lanes, counts), splat(self.b, seen, lanes))
        new, neutral = self.with_note(acc, new), self.initial(acc)
        return [self.b.select(fresh, value, other) for value, other in zip(new, neutral, strict=True)]

    def finish(self, phase: Phase, state: list[ir.Value]) -> None:
        """Combine the lanes of accumulators and define their results."""
        for acc, part in zip(phase.accumulators, self.parts(phase, state), strict=True):
            if phase.vector is not None:
                part = self.horizontal(acc, part)
            elif self.lanes > 1 and self.nest.vector is not None:
                self.varies.add(acc.id)
            if self.notes_nan(acc):
                part = [self.b.select(part[1], constant(part[0].type, np.nan), part[0])]
            if acc.index is not None:
                found = self.b.icmp_signed("!=", part[-1], constant(part[-1].type, _far(part[-1].type)))
                place = self.b.select(found, part[-1], constant(part[-1].type, 0))
                wide = register_type(np.dtype(np.int64), lanes_of(place.type))
                part = [place if place.type == wide else self.b.sext(place, wide)]
            result = self.unpaired(part)
            self.values[acc.id] = result
            self.dtypes[acc.id] = np.dtype(np.int64) if acc.index is not None else acc.dtype
            self.level[acc.id] = len(self.nest.axes)

    def horizontal(self, acc: Accumulator, part: list[ir.Value]) -> list[ir.Value]:
        lanes = lanes_of(part[0].type)
        if self.notes_nan(acc) and lanes > 1:
            value, note = part[0], self.memory.any(part[1])
            while lanes > 1:
                lanes //= 2
                value = self._extreme(acc, *(self._half(value, start, lanes) for start in (0, lanes)))
            return [value, note]
        if acc.index is not None and lanes > 1:
            return self._first_place(acc, part)
        while lanes > 1:
            half = lanes // 2
            low, high = ([self._half(v, start, half) for v in part] for start in (0, half))
            part, lanes = self.combine(acc, low, high), half
        return part

    def _first_place(self, acc: Accumulator, part: list[ir.Value]) -> list[ir.Value]:
        """The extreme of all lanes, and the first place of those where it is; NaN, where there is one."""
        b, (values, at) = self.b, part
        lanes, value, sign = lanes_of(values.type), values, ">" if acc.op == "argmax" else "<"
        while lanes > 1:
            lanes //= 2
            low, high = (self._half(value, start, lanes) for start in (0, lanes))
            value = b.select(self.scalars.compare(sign, high, low, acc.dtype), high, low)
        chosen = self.scalars.compare("==", values, splat(b, value, lanes_of(values.type)), acc.dtype)
        if acc.dtype.kind == "f":
            nan = b.fcmp_unordered("uno", values, values)
            known = self.memory.any(nan)
            chosen = b.select(known, nan, chosen)
            value = b.select(known, constant(value.type, np.nan), value)
        place, lanes = b.select(chosen, at, constant(at.type, _far(at.type))), lanes_of(at.type)
        while lanes > 1:
            lanes //= 2
            low, high = (self._half(place, start, lanes) for start in (0, lanes))
            place = b.select(b.icmp_signed("<", high, low), high, low)
        return [value, place]

    def _place_type(self, acc: Accumulator) -> ir.Type:
        """Positions among fewer than 2**31 take 32 bits, beside values of no more: as many registers as those."""
        extents = {a.name: a.extent for p in self.nest.phases for a in (*self.nest.axes, *p.axes)}
        for inst in (i for p in self.nest.phases for i in p.body if i.id == acc.index and i.op == "index"):
            last = inst.index.const + sum(c * extents.get(str(k), 2**31) for k, c in inst.index.terms)
            if acc.dtype.itemsize <= 4 and last < 2**31:
                return register_type(np.dtype(np.int32), self.lanes)
        return register_type(np.dtype(np.int64), self.lanes)

    def _half(self, value: ir.Value, start: int, count: int) -> ir.Value:
        if count == 1:
            return self.b.extract_element(value, I32(start))
        mask = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
        return self.b.shuffle_vector(value, Poison(value.type), mask)

    def pair(self, value: Any) -> list[ir.Value]:
        return list(value) if isinstance(value, tuple) else [value]

    def unpaired(self, part: list[ir.Value]) -> Any:
        return part[0] if len(part) == 1 else tuple(part)

    def parts(self, phase: Phase, state: list[ir.Value]) -> list[list[ir.Value]]:
        rest = list(state)
        made = []
        for acc in phase.accumulators:
            count = 2 if acc.index is not None or acc.dtype.kind == "c" or self.notes_nan(acc) else 1
            made.append([rest.pop(0) for _ in range(count)])
        return made

    def initial(self, acc: Accumulator) -> list[ir.Value]:
        type_ = register_type(acc.dtype, self.lanes)
        if acc.dtype.kind == "c":
            return [constant(type_, acc.init.real), constant(type_, acc.init.imag)]
        if acc.index is not None:
            places = self._place_type(acc)
            return [constant(type_, acc.init), constant(places, _far(places))]
        start = [constant(type_, acc.init)]
        return [*start, constant(register_type(np.dtype(bool), self.lanes), 0)] if self.notes_nan(acc) else start

    def _extreme(self, acc: Accumulator, x: ir.Value, y: ir.Value) -> ir.Value:
        """The larger or smaller of two; one of them where there is NaN."""
        return self.b.select(self.b.fcmp_ordered(">" if acc.op == "maximum" else "<", y, x), y, x)

    def combined(self, phase: Phase, state: list[ir.Value], more: list[ir.Value]) -> list[ir.Value]:
        pairs = zip(phase.accumulators, self.parts(phase, state), self.parts(phase, more), strict=True)
        return [r for acc, x, y in pairs for r in self.combine(acc, x, y)]

    def combine(
        self, acc: Accumulator, x: list[ir.Value], y: list[ir.Value], later: bool = False
    ) -> list[ir.Value]:
        """Two parts in one; `later`: all that y knows stands behind what x knows."""
        if self.notes_nan(acc):
            (value, note), (new, more) = x, self.with_note(acc, y)
            return [self._extreme(acc, value, new), self.b.or_(note, more)]
        if acc.index is None:
            dtypes = (acc.dtype, acc.dtype)
            done = self.scalars.emit(acc.op, (self.unpaired(x), self.unpaired(y)), dtypes, acc.dtype, {})
            return self.pair(done)
        b, (best, at), (new, place) = self.b, x, y
        compare = lambda sign, p, q: self.scalars.compare(sign, p, q, acc.dtype)
        sign = ">" if acc.op == "argmax" else "<"
        if later:  # an equal one is not the first; where only the neutral value was met, `finish` says 0
            if acc.dtype.kind == "f":
                better = b.and_(b.fcmp_unordered(sign, new, best), b.fcmp_ordered("ord", best, best))
            else:
                better = compare(sign, new, best)
            return [b.select(better, new, best), b.select(better, place, at)]
        better = compare(sign, new, best)
        same = compare("==", new, best)
        if acc.dtype.kind == "f":
            nan_new, nan_best = compare("!=", new, new), compare("!=", best, best)
            better = b.or_(better, b.and_(nan_new, b.not_(nan_best)))
            same = b.or_(same, b.and_(nan_new, nan_best))
        take = b.or_(better, b.and_(same, b.icmp_signed("<", place, at)))
        return [b.select(take, new, best), b.select(take, place, at)]

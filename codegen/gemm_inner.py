"""Skinny matrix products whose rows of both operands lie along k: dot products, matrix times vector, a few rows of
either.

Vectors run along k here. A tile takes some rows of the long operand and all of the short one (at most four rows),
keeps a vector of partial sums for each pair, and adds the lanes of several sums at a time in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from nufunc.codegen.gemm_blocks import Index, Ranges, tiles_of, times, value
from nufunc.codegen.gemm_shape import Part
from nufunc.codegen.gemm_tile import Vectors, first_lanes, loop, repeated
from nufunc.codegen.llvm import I32, I64, POINTER

SHORT = 4  # rows of the short operand at most


@dataclass(frozen=True)
class Inner:
    """`long` x `short` dot products of length k. Strides are between rows; c_strides along long and short. The long
    operand is A, or else B; the short one is copied first where `source` tells its strides along its rows and k."""

    dtype: np.dtype
    long: int
    short: int
    k: int
    long_stride: int
    short_stride: int
    c_strides: tuple[int, int]
    lanes: int
    registers: int
    has_fma: bool
    a_long: bool
    source: tuple[int, int] | None

    @property
    def scratch(self) -> int:
        return self.short * self.k * self.dtype.itemsize if self.source is not None else 0

    @property
    def units(self) -> Part:
        """Ranges of rows and columns of C begin at multiples of these: those of the short operand are never split."""
        return (self.rows, self.short) if self.a_long else (self.short, self.rows)

    @property
    def rows(self) -> int:
        """Rows of the long operand per tile: a power of two."""
        most = self.registers // 4 if self.short == 1 else self.registers // 2 // self.short
        return min(1 << (max(most, 1).bit_length() - 1), self.lanes)

    def emit(self, function: ir.Function, ranges: Ranges, b: ir.IRBuilder, accumulate: bool) -> None:
        """The product, or its addition to C, at the builder's position; function(A, B, C, scratch, ...)."""
        a, other, c, scratch = function.args[:4]
        long, short = (a, other) if self.a_long else (other, a)
        if self.source is not None:
            _copy_turned(Vectors(b, self.dtype, self.has_fma), short, scratch, self.short, self.k, self.source)
            short = scratch
        _emit_tiles(b, self, (long, short, c), tiles_of(b, ranges[0 if self.a_long else 1], self.rows), accumulate)


def _reduced(b: ir.IRBuilder, sums: list[ir.Value]) -> ir.Value:
    """The sums of the lanes of 2^j vectors, as one vector of 2^j lanes."""
    count, width = len(sums), sums[0].type.count
    segment = width

    def halves(x: ir.Value, y: ir.Value, lanes: int) -> ir.Value:
        starts = range(0, lanes, segment)
        first, second = (
            ir.Constant(
                ir.VectorType(I32, len(starts) * segment // 2),
                [s + part * segment // 2 + e for s in starts for e in range(segment // 2)],
            )
            for part in (0, 1)
        )
        return b.fadd(b.shuffle_vector(x, y, first), b.shuffle_vector(x, y, second))

    while len(sums) > 1:
        sums = [halves(x, y, 2 * width) for x, y in zip(sums[::2], sums[1::2], strict=True)]
        segment //= 2
    (last,) = sums
    while segment > 1:
        last = halves(last, ir.Constant(last.type, ir.Undefined), last.type.count)
        segment //= 2
    assert last.type.count == count
    return last


def _tile(module: ir.Module, spec: Inner, rows: int, accumulate: bool) -> ir.Function:
    """void (ptr long, ptr short, ptr c) for `rows` rows of the long operand."""
    fields = (
        spec.short,
        spec.k,
        spec.long_stride,
        spec.short_stride,
        *spec.c_strides,
        spec.lanes,
        int(spec.has_fma),
    )
    name = f"nf.inner.{spec.dtype.str[1:]}.{rows}.{'_'.join(map(str, fields))}{'.add' * accumulate}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 3), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(b, spec.dtype, spec.has_fma)
    long, short, c = function.args
    sums = _sums(v, spec, rows, long, short)
    padded = 1 << (rows - 1).bit_length()
    for j in range(spec.short):
        of_row = sums[j :: spec.short] + [v.zero(spec.lanes)] * (padded - rows)
        _stored(v, spec, rows, _reduced(b, of_row), v.at(c, j * spec.c_strides[1]), accumulate)
    b.ret_void()
    return function


def _stored(v: Vectors, spec: Inner, rows: int, values: ir.Value, c: ir.Value, accumulate: bool) -> None:
    b, step, width = v.b, spec.c_strides[0], values.type.count
    if step == 1 and width > 1:
        mask = first_lanes(width, rows)
        v.store(b.fadd(v.load(c, 0, width, mask), values) if accumulate else values, c, 0, mask)
        return
    for i in range(rows):
        value, place = b.extract_element(values, I32(i)), v.at(c, i * step)
        b.store(b.fadd(v.scalar(place), value) if accumulate else value, place, align=v.size)


def _sums(v: Vectors, spec: Inner, rows: int, long: ir.Value, short: ir.Value) -> list[ir.Value]:
    """A vector of partial sums for each pair of rows."""
    b, lanes, per = v.b, spec.lanes, rows * spec.short
    whole, rest = divmod(spec.k, lanes)
    chains = 1
    while chains * per < 8 and 2 * chains <= whole and (2 * chains + 1) * per < spec.registers:
        chains *= 2

    def step(x: ir.Value, y: ir.Value, at: int, sums: Sequence[ir.Value], mask: ir.Constant | None) -> list[ir.Value]:
        others = [v.load(y, at + j * spec.short_stride, lanes, mask) for j in range(spec.short)]
        made = []
        for i in range(rows):
            row = v.load(x, at + i * spec.long_stride, lanes, mask)
            made += [v.fma(row, other, sums[i * spec.short + j]) for j, other in enumerate(others)]
        return made

    def chained(x: ir.Value, y: ir.Value, count: int, sums: Sequence[ir.Value]) -> list[ir.Value]:
        made = list(sums)
        for at in range(count):
            chain = slice(at % chains * per, at % chains * per + per)
            made[chain] = step(x, y, at * lanes, made[chain], None)
        return made

    def body(state: Sequence[ir.Value]) -> list[ir.Value]:
        x, y, *sums = state
        return [v.at(x, chains * lanes), v.at(y, chains * lanes), *chained(x, y, chains, sums)]

    sums: list[ir.Value] = [v.zero(lanes)] * (per * chains)
    trips, left = divmod(whole, chains)
    if whole * per > 48 and trips > 1:
        long, short, *sums = repeated(b, I64(trips), [long, short, *sums], body)
    else:
        left = whole
    sums = chained(long, short, left, sums)
    if rest:
        sums[:per] = step(long, short, left * lanes, sums[:per], first_lanes(lanes, rest))
    while len(sums) > per:
        half = len(sums) // 2
        sums = [b.fadd(p, q) for p, q in zip(sums[:half], sums[half:], strict=True)]
    return sums


def _emit_tiles(
    b: ir.IRBuilder, spec: Inner, pointers: tuple[ir.Value, ...], tiles: tuple[Index, Index], accumulate: bool
) -> None:
    v = Vectors(b, spec.dtype, spec.has_fma)
    long, short, c = pointers
    whole, rest = divmod(spec.long, spec.rows)

    def call(t: Index, rows: int) -> None:
        x, z = (
            v.at(p, times(b, t, spec.rows * s))
            for p, s in ((long, spec.long_stride), (c, spec.c_strides[0]))
        )
        b.call(_tile(b.module, spec, rows, accumulate), [x, short, z])

    with loop(b, *tiles) as t:
        if not rest or not whole:
            call(t, spec.rows if whole else rest)
        else:
            with b.if_else(b.icmp_signed("<", value(t), I64(whole))) as (then, otherwise):
                with then:
                    call(t, spec.rows)
                with otherwise:
                    call(t, rest)


def _copy_turned(
    v: Vectors, source: ir.Value, target: ir.Value, rows: int, k: int, strides: tuple[int, int]
) -> None:
    """target[j * k + p] = source at j * strides[0] + p * strides[1], for j < rows and p < k."""
    b = v.b
    with loop(b, I64(0), I64(k)) as p:
        place, into = v.at(source, b.mul(p, I64(strides[1]))), v.at(target, p)
        for j in range(rows):
            b.store(v.scalar(place, j * strides[0]), v.at(into, j * k), align=v.size)

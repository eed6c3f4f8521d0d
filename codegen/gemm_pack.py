"""Packing of matrix panels: W lanes side by side for every step of k, so that register tiles read memory in order.

A packed panel holds `src(lane, p)` at `dst[p * W + lane]`. Three ways to fill one: lanes adjacent in memory are
copied, steps adjacent in memory are transposed in registers, anything else is copied by element. Lanes past the
matrix's edge hold anything finite or not: register tiles do not store what comes of them.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from nufunc.codegen.gemm_tile import Vectors, loop
from nufunc.codegen.llvm import I32, I64, POINTER, lane_numbers, splat


def _columns(v: Vectors, rows: list[ir.Value]) -> list[ir.Value]:
    """The steps of L lanes, from L vectors of the few steps that 128 bits hold: rows are put side by side so that
    the transposition stays inside 128-bit pieces, where shuffles cost least."""
    b, lanes, steps = v.b, len(rows), 16 // v.size
    pieces = lanes // steps

    def shuffle(x: ir.Value, y: ir.Value, picks: list[int]) -> ir.Value:
        return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(picks)), picks))

    block = []
    for first in range(steps):
        parts = rows[first::steps]
        while len(parts) > 1:
            width = 2 * parts[0].type.count
            parts = [shuffle(x, y, list(range(width))) for x, y in zip(parts[::2], parts[1::2], strict=True)]
        block.append(parts[0])
    low, high = (
        [piece * steps + part + e // 2 + e % 2 * lanes for piece in range(pieces) for e in range(steps)]
        for part in (0, steps // 2)
    )
    for _ in range(steps.bit_length() - 1):
        halves = zip(block[: steps // 2], block[steps // 2 :], strict=True)
        block = [shuffle(x, y, picks) for x, y in halves for picks in (low, high)]
    return block


def pack_function(
    module: ir.Module, dtype: np.dtype, width: int, lane_stride: int, step_stride: int, vector: int
) -> ir.Function:
    """void (ptr dst, ptr src, i64 lanes, i64 steps): fill one panel from `lanes` (1 to width) lanes of the source."""
    vector = min(vector, width & -width)  # the widest that divides a panel's step
    name = f"nf.pack.{dtype.str[1:]}.{width}.{lane_stride}_{step_stride}.v{vector}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64, I64]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    for pointer in function.args[:2]:
        pointer.add_attribute("noalias")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(b, dtype, False)
    if lane_stride == 1:
        _copied(v, function, width, step_stride, vector)
    elif step_stride == 1:
        _transposed(v, function, width, lane_stride, vector)
    else:
        _elements(v, function, width, lane_stride, step_stride, I64(0))
    b.ret_void()
    return function


def _copied(v: Vectors, function: ir.Function, width: int, step_stride: int, vector: int) -> None:
    dst, src, lanes, steps = function.args
    b = v.b
    full = b.icmp_signed(">=", lanes, I64(width))
    with b.if_else(full) as (whole, edge):
        with whole, loop(b, I64(0), steps) as p:
            source, target = v.at(src, b.mul(p, I64(step_stride))), v.at(dst, b.mul(p, I64(width)))
            for at in range(0, width, vector):
                v.store(v.load(source, at, vector), target, at)
        with edge:
            numbers = lane_numbers(vector)
            masks = [
                b.icmp_signed("<", numbers, splat(b, b.sub(lanes, I64(at)), vector)) for at in range(0, width, vector)
            ]
            with loop(b, I64(0), steps) as p:
                source, target = v.at(src, b.mul(p, I64(step_stride))), v.at(dst, b.mul(p, I64(width)))
                for at, mask in zip(range(0, width, vector), masks, strict=True):
                    v.store(v.load(source, at, vector, mask), target, at)


def _transposed(v: Vectors, function: ir.Function, width: int, lane_stride: int, vector: int) -> None:
    dst, src, lanes, steps = function.args
    b, piece = v.b, 16 // v.size
    last = b.sub(lanes, I64(1))
    whole = b.and_(steps, I64(-piece))
    with loop(b, I64(0), I64(width), vector) as group:
        rows = []
        for lane in range(vector):
            number = b.add(group, I64(lane))
            row = b.select(b.icmp_signed("<", number, lanes), number, last)  # any row does for lanes past the edge
            rows.append(v.at(src, b.mul(row, I64(lane_stride))))
        target = v.at(dst, group)
        with loop(b, I64(0), whole, piece) as p:
            place = v.at(target, b.mul(p, I64(width)))
            for step, column in enumerate(_columns(v, [v.load(row, p, piece) for row in rows])):
                v.store(column, place, step * width)
    _elements(v, function, width, lane_stride, 1, whole)


def _elements(
    v: Vectors, function: ir.Function, width: int, lane_stride: int, step_stride: int, first: ir.Value
) -> None:
    """Copy the steps from `first` on one by one."""
    dst, src, lanes, steps = function.args
    b = v.b
    with loop(b, first, steps) as p:
        source, target = v.at(src, b.mul(p, I64(step_stride))), v.at(dst, b.mul(p, I64(width)))
        with loop(b, I64(0), lanes) as lane:
            b.store(v.scalar(source, b.mul(lane, I64(lane_stride))), v.at(target, lane), align=v.size)

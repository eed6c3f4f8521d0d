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


def transposed(b: ir.IRBuilder, rows: list[ir.Value], itemsize: int) -> list[ir.Value]:
    """The transpose of L vectors of L lanes: inside 128-bit pieces first, where shuffles cost least, then of pieces."""
    lanes = len(rows)
    inner = min(lanes, 16 // itemsize)
    pieces = lanes // inner

    def pair(x: ir.Value, y: ir.Value, picks: list[int]) -> ir.Value:
        return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, lanes), picks))

    low, high = (
        [piece * inner + part + e // 2 + e % 2 * lanes for piece in range(pieces) for e in range(inner)]
        for part in (0, inner // 2)
    )
    made = []  # made[group * inner + j]: piece q holds column q * inner + j of the group's rows
    for group in range(0, lanes, inner):
        block = rows[group : group + inner]
        for _ in range(inner.bit_length() - 1):
            halves = zip(block[: inner // 2], block[inner // 2 :], strict=True)
            block = [pair(x, y, picks) for x, y in halves for picks in (low, high)]
        made += block
    even, odd = (
        [(2 * q + part) * inner + e for q in range(pieces) for e in range(inner)] for part in (0, 1)
    )  # of the 2 * pieces pieces of two vectors
    result: list[ir.Value] = [None] * lanes
    for j in range(inner):
        block = made[j::inner]
        for _ in range(pieces.bit_length() - 1):
            pairs = list(zip(block[::2], block[1::2], strict=True))
            block = [pair(x, y, even) for x, y in pairs] + [pair(x, y, odd) for x, y in pairs]
        for q, column in enumerate(block):
            result[q * inner + j] = column
    return result


def pack_function(
    module: ir.Module, dtype: np.dtype, width: int, lane_stride: int, step_stride: int, vector: int
) -> ir.Function:
    """void (ptr dst, ptr src, i64 lanes, i64 steps): fill one panel from `lanes` (1 to width) lanes of the source.

    Where it transposes it writes up to `vector` steps more than asked: fill panels in the order of their
    addresses, and leave room after the last.
    """
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
        _by_element(v, function, width, lane_stride, step_stride)
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
    b = v.b
    last = b.sub(lanes, I64(1))
    whole = b.and_(steps, I64(-vector))
    rest = b.icmp_signed("<", lane_numbers(vector), splat(b, b.sub(steps, whole), vector))
    for group in range(0, width, vector):
        rows = []
        for lane in range(group, group + vector):
            inside = b.icmp_signed("<", I64(lane), lanes)
            row = b.select(inside, I64(lane), last)  # any row does for lanes past the edge
            rows.append(v.at(src, b.mul(row, I64(lane_stride))))

        def block(p: ir.Value, mask: ir.Value | None, rows: list[ir.Value] = rows, group: int = group) -> None:
            loaded = [v.load(row, p, vector, mask) for row in rows]
            target = v.at(dst, b.add(b.mul(p, I64(width)), I64(group)))
            for step, column in enumerate(transposed(b, loaded, v.size)):
                v.store(column, target, step * width)

        with loop(b, I64(0), whole, vector) as p:
            block(p, None)
        with b.if_then(b.icmp_signed("<", whole, steps)):
            block(whole, rest)


def _by_element(v: Vectors, function: ir.Function, width: int, lane_stride: int, step_stride: int) -> None:
    dst, src, lanes, steps = function.args
    b = v.b
    with loop(b, I64(0), steps) as p:
        source, target = v.at(src, b.mul(p, I64(step_stride))), v.at(dst, b.mul(p, I64(width)))
        with loop(b, I64(0), lanes) as lane:
            b.store(v.scalar(source, b.mul(lane, I64(lane_stride))), v.at(target, lane), align=v.size)

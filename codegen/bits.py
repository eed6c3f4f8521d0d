"""Bits of bytes in a plan: pack_bits and unpack_bits, 64 bits at a time, as masks of vectors of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from nufunc.codegen.llvm import I1, I8, I32, I64, Poison, constant
from nufunc.ir.graph import Node

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

PRIMITIVES = ("pack_bits", "unpack_bits")
_STEP = 8  # bytes of bits at a time


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    """A loop over whole words, then one over what is left."""
    source, result = scope.pointer(node.operands[0]), scope.pointer(node.results[0])
    count = min(node.operands[0].type.size, node.results[0].type.size)  # bytes of bits
    whole = count // _STEP * _STEP
    for first, last, step in ((0, whole, _STEP), (whole, count, 1)):
        if first == last:
            continue
        loop = plan.loop(last, I64(first), step)
        at = loop.__enter__()
        spread, bits = (source, result) if node.prim == "pack_bits" else (result, source)
        _moved(plan.b, node, plan.at(spread, plan.b.mul(at, I64(8))), plan.at(bits, at), step)
        loop.finish([])


def _moved(b: ir.IRBuilder, node: Node, spread: ir.Value, bits: ir.Value, count: int) -> None:
    """So many bytes of bits from, or to, eight times as many bytes."""
    lanes, word = 8 * count, ir.IntType(8 * count)
    vector, mask = ir.VectorType(I8, lanes), ir.VectorType(I1, lanes)
    if node.prim == "pack_bits":
        given = _turned(b, b.load(spread, typ=vector, align=1), node)
        held = b.icmp_unsigned("!=", given, constant(vector, 0))
        b.store(b.bitcast(held, word), bits, align=1)
    else:
        held = b.bitcast(b.load(bits, typ=word, align=1), mask)
        b.store(_turned(b, b.zext(held, vector), node), spread, align=1)


def _turned(b: ir.IRBuilder, x: ir.Value, node: Node) -> ir.Value:
    """Bytes so that the first is the lowest bit: in groups of eight backwards, unless they are `little`."""
    if node.attrs["little"]:
        return x
    lanes = x.type.count
    order = ir.Constant(ir.VectorType(I32, lanes), [k ^ 7 for k in range(lanes)])
    return b.shuffle_vector(x, Poison(x.type), order)

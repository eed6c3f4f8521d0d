"""Threefry-2x32 as code: on registers of two packed words for LLVM, and as a helper function of emitted text."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numpy import uint64

from nufunc.codegen.llvm import constant, intrinsic, like
from nufunc.ir.prims.random import PARITY, ROTATIONS


def emit_threefry2x32(b: ir.IRBuilder, key: ir.Value, counter: ir.Value) -> ir.Value:
    """The primitive of this name on scalars or vectors; see `ir.prims.random`."""
    wide = key.type
    word = like(wide, ir.IntType(32))
    number = lambda n: constant(word, n)
    half = constant(wide, 32)
    high = lambda v: b.trunc(b.lshr(v, half), word)
    k0, k1 = high(key), b.trunc(key, word)
    schedule = (k0, k1, b.xor(b.xor(k0, k1), number(PARITY)))
    x, y = b.add(high(counter), k0), b.add(b.trunc(counter, word), k1)
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            x = b.add(x, y)
            y = b.xor(x, intrinsic(b, "fshl", (y, y, number(turn))))
        x = b.add(x, schedule[(group + 1) % 3])
        y = b.add(y, b.add(schedule[(group + 2) % 3], number(group + 1)))
    return b.or_(b.shl(b.zext(x, wide), half), b.zext(y, wide))


def threefry2x32(key: Any, counter: Any) -> Any:
    """The helper of emitted text: words of 32 bits in u64, whose upper half is masked away after each step."""
    mask, half = uint64(0xFFFFFFFF), uint64(32)
    first, second = key >> half, key & mask
    third = first ^ second ^ uint64(0x1BD11BDA)
    x, y = ((counter >> half) + first) & mask, ((counter & mask) + second) & mask
    for group in range(5):
        turns = uint64(0x061A0F0D) if group % 2 == 0 else uint64(0x18101D11)  # one rotation in each byte
        for _ in range(4):
            turn = turns & uint64(0xFF)
            turns = turns >> uint64(8)
            x = (x + y) & mask
            y = x ^ (((y << turn) | (y >> (half - turn))) & mask)
        first, second, third = second, third, first
        x = (x + first) & mask
        y = (y + second + uint64(group + 1)) & mask
    return (x << half) | y

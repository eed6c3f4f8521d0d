"""Stores past the caches and requests for rows to come; see Note [Streams] of `nufunc.codegen.streams`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nufunc.codegen import streams
from nufunc.codegen.emit_values import Values
from nufunc.codegen.llvm import I8, I32, I64, POINTER, declare
from nufunc.codegen.loops import Inst, LoopNest

_ONCE = 0  # LLVM's word for what is read once: it takes no place from others


class Streams(Values):
    """Values whose stores and loads know about main memory."""

    def __init__(self, function: ir.Function, nest: LoopNest, has_fma: bool) -> None:
        super().__init__(function, nest, has_fma)
        self.memory.past = frozenset(id(self.pointers[k]) for k in nest.past)
        self.ahead_of = {i: d for phase in nest.phases for i, d in streams.ahead(nest, phase).items()}

    def load(self, inst: Inst) -> Any:
        if inst.id in self.ahead_of and inst.id not in self.turned:
            self._request(inst, self.offset(inst.index, set()))
        return super().load(inst)

    def load_square(self, inst: Inst) -> list[ir.Value]:
        if inst.id in self.ahead_of:
            for offset in self._rows(inst):
                self._request(inst, offset)
        return super().load_square(inst)

    def _request(self, inst: Inst, offset: ir.Value) -> None:
        """Ask for the lines of a vector some elements ahead of the one at `offset`; they may lie behind the end."""
        b, size = self.b, inst.dtype.itemsize
        name = "llvm.prefetch.p0"
        function = declare(b.module, name, ir.VoidType(), [POINTER, I32, I32, I32])
        first = b.mul(b.add(offset, I64(self.ahead_of[inst.id])), I64(size))
        for line in range(0, self.lanes * size, streams.LINE):
            place = b.gep(self.pointers[inst.buffer], [b.add(first, I64(line))], source_etype=I8)
            b.call(function, [place, I32(0), I32(_ONCE), I32(1)])


def fence(b: ir.IRBuilder) -> None:
    """After stores past the caches: others see them as if they were plain."""
    function = declare(b.module, "llvm.x86.sse.sfence", ir.VoidType(), [])
    b.call(function, [])

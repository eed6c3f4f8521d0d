"""Loads and stores of scalars and vectors for the CPU emitter: bools are bytes in memory, complex numbers
two reals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from nufunc.codegen.llvm import (
    I1,
    I8,
    I32,
    I64,
    POINTER,
    Poison,
    constant,
    declare,
    element_type,
    lanes_of,
    type_name,
)
from nufunc.ir.types import real_dtype


def memory_type(dtype: np.dtype) -> ir.Type:
    return I8 if dtype.kind == "b" else element_type(dtype)


class Memory:
    """Memory operations at a builder's position. Offsets are in elements of the dtype."""

    def __init__(self, b: ir.IRBuilder) -> None:
        self.b = b
        self.past: frozenset[int] = frozenset()  # ids of pointers to what is stored past the caches, in whole lines

    def address(self, base: ir.Value, offset: ir.Value, dtype: np.dtype) -> ir.Value:
        if isinstance(offset, ir.Constant) and not isinstance(offset.type, ir.VectorType) and offset.constant == 0:
            return base
        return self.b.gep(base, [offset], inbounds=True, source_etype=memory_type(dtype))

    def _loaded(self, value: ir.Value, dtype: np.dtype) -> ir.Value:
        """Memory to register: a byte is true where it is not zero."""
        return self.b.icmp_unsigned("!=", value, constant(value.type, 0)) if dtype.kind == "b" else value

    def _stored(self, value: ir.Value, dtype: np.dtype) -> ir.Value:
        if dtype.kind != "b":
            return value
        type_ = value.type
        return self.b.zext(value, ir.VectorType(I8, type_.count) if isinstance(type_, ir.VectorType) else I8)

    def load(self, base: ir.Value, offset: ir.Value, dtype: np.dtype) -> Any:
        type_ = memory_type(dtype)
        if dtype.kind == "c":
            first = self.b.mul(offset, I64(2))
            size = dtype.itemsize // 2
            address = self.b.gep(base, [first], inbounds=True, source_etype=type_)
            second = self.b.gep(address, [I64(1)], inbounds=True, source_etype=type_)
            return self.b.load(address, typ=type_, align=size), self.b.load(second, typ=type_, align=size)
        return self._loaded(self.b.load(self.address(base, offset, dtype), typ=type_, align=dtype.itemsize), dtype)

    def store(self, base: ir.Value, offset: ir.Value, dtype: np.dtype, value: Any) -> None:
        if dtype.kind == "c":
            type_, size = memory_type(dtype), dtype.itemsize // 2
            address = self.b.gep(base, [self.b.mul(offset, I64(2))], inbounds=True, source_etype=type_)
            second = self.b.gep(address, [I64(1)], inbounds=True, source_etype=type_)
            self.b.store(value[0], address, align=size)
            self.b.store(value[1], second, align=size)
            return
        self.b.store(self._stored(value, dtype), self.address(base, offset, dtype), align=dtype.itemsize)

    def load_vector(
        self,
        base: ir.Value,
        offset: ir.Value,
        dtype: np.dtype,
        lanes: int,
        guard: ir.Value | None,
        backwards: bool,
    ) -> Any:
        """Elements offset, offset + 1, ... (backwards: offset, offset - 1, ...)."""
        if backwards:
            offset = self.b.add(offset, I64(1 - lanes))
            guard = None if guard is None else self._reversed(guard)
        if dtype.kind == "c":
            guard = None if guard is None else self._twice(guard)
            parts = self.load_vector(base, self._first(offset), real_dtype(dtype), 2 * lanes, guard, False)
            pair = tuple(self._picked(parts, range(k, 2 * lanes, 2)) for k in (0, 1))
            return tuple(map(self._reversed, pair)) if backwards else pair
        address = self.address(base, offset, dtype)
        type_ = ir.VectorType(memory_type(dtype), lanes)
        if guard is None:
            value = self.b.load(address, typ=type_, align=dtype.itemsize)
        else:
            name = f"llvm.masked.load.{type_name(type_)}.p0"
            mask = ir.VectorType(I1, lanes)
            function = declare(self.b.module, name, type_, [POINTER, I32, mask, type_])
            zero = constant(type_, 0)
            value = self.b.call(function, [address, I32(dtype.itemsize), guard, zero])
        value = self._loaded(value, dtype)
        return self._reversed(value) if backwards else value

    # -- complex numbers: two reals side by side in memory, two vectors in registers

    def _first(self, offset: ir.Value) -> ir.Value:
        """The offset of the real part, in reals."""
        return self.b.mul(offset, constant(offset.type, 2))

    def _picked(self, value: ir.Value, lanes: Sequence[int]) -> ir.Value:
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return self.b.shuffle_vector(value, Poison(value.type), mask)

    def _both(self, offsets: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The offsets of real and imaginary parts."""
        first = self._first(offsets)
        return first, self.b.add(first, constant(offsets.type, 1))

    def _twice(self, guard: ir.Value) -> ir.Value:
        return self._picked(guard, [k // 2 for k in range(2 * lanes_of(guard.type))])

    def load_strided(self, base: ir.Value, offset: ir.Value, dtype: np.dtype, lanes: int, step: int) -> Any:
        """Elements offset, offset + step, ... for a small step: all that lie between are loaded and shuffled
        away, which takes a fraction of a gather's time. Nothing behind the last element is read."""
        if dtype.kind == "c":
            first = self._first(offset)
            parts = (first, self.b.add(first, I64(1)))
            return tuple(self.load_strided(base, p, real_dtype(dtype), lanes, 2 * step) for p in parts)
        type_ = ir.VectorType(memory_type(dtype), (lanes - 1) * step + 1)
        value = self.b.load(self.address(base, offset, dtype), typ=type_, align=dtype.itemsize)
        mask = ir.Constant(ir.VectorType(I32, lanes), [k * step for k in range(lanes)])
        return self._loaded(self.b.shuffle_vector(value, Poison(type_), mask), dtype)

    def store_vector(
        self, base: ir.Value, offset: ir.Value, dtype: np.dtype, value: Any, guard: ir.Value | None
    ) -> None:
        if dtype.kind == "c":
            lanes = lanes_of(value[0].type)
            mask = ir.Constant(ir.VectorType(I32, 2 * lanes), [k // 2 + lanes * (k % 2) for k in range(2 * lanes)])
            value, dtype, offset = self.b.shuffle_vector(*value, mask), real_dtype(dtype), self._first(offset)
            guard = None if guard is None else self._twice(guard)
        value = self._stored(value, dtype)
        address = self.address(base, offset, dtype)
        if guard is None:
            if id(base) in self.past:
                stored = self.b.store(value, address, align=64)
                stored.set_metadata("nontemporal", self.b.module.add_metadata([I32(1)]))
            else:
                self.b.store(value, address, align=dtype.itemsize)
            return
        name = f"llvm.masked.store.{type_name(value.type)}.p0"
        function = declare(self.b.module, name, ir.VoidType(), [value.type, POINTER, I32, guard.type])
        self.b.call(function, [value, address, I32(dtype.itemsize), guard])

    def store_interleaved(self, base: ir.Value, offset: ir.Value, dtype: np.dtype, values: Sequence[ir.Value]) -> None:
        """Lane 0 of each of two to four vectors, then lane 1 of each, and so on."""
        lanes, count = lanes_of(values[0].type), len(values)
        stored = [self._stored(v, dtype) for v in values]
        if count > 2:
            whole = ir.Constant(ir.VectorType(I32, 2 * lanes), list(range(2 * lanes)))
            stored += [Poison(stored[0].type)] * (4 - count)
            stored = [self.b.shuffle_vector(stored[k], stored[k + 1], whole) for k in (0, 2)]
        order = [k * lanes + lane for lane in range(lanes) for k in range(count)]
        mask = ir.Constant(ir.VectorType(I32, len(order)), order)
        value = self.b.shuffle_vector(*stored, mask)
        self.b.store(value, self.address(base, offset, dtype), align=dtype.itemsize)

    def transposed(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """Of as many vectors as each has lanes the first lanes, the second lanes, and so on: squares of 2, 4, 8 ...
        lanes change their corners."""
        rows, lanes, side = list(rows), len(rows), 1
        while side < lanes:
            low = [k if not k & side else lanes + k - side for k in range(lanes)]
            high = [k + side if not k & side else lanes + k for k in range(lanes)]
            for k in range(lanes):
                if not k & side:
                    pair = rows[k], rows[k + side]
                    for place, order in ((k, low), (k + side, high)):
                        mask = ir.Constant(ir.VectorType(I32, lanes), order)
                        rows[place] = self.b.shuffle_vector(*pair, mask)
            side *= 2
        return rows

    def _reversed(self, value: ir.Value) -> ir.Value:
        lanes = value.type.count
        mask = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes - 1, -1, -1)))
        return self.b.shuffle_vector(value, Poison(value.type), mask)

    def _pointers(self, base: ir.Value, offsets: ir.Value, dtype: np.dtype) -> ir.Value:
        """A vector of addresses. llvmlite cannot type a gep over a vector of offsets, so the type is set
        here."""
        made = self.b.gep(base, [offsets], source_etype=memory_type(dtype))
        made.type = ir.VectorType(POINTER, lanes_of(offsets.type))
        return made

    def gather(self, base: ir.Value, offsets: ir.Value, dtype: np.dtype, guard: ir.Value | None) -> Any:
        if dtype.kind == "c":
            return tuple(self.gather(base, o, real_dtype(dtype), guard) for o in self._both(offsets))
        pointers = self._pointers(base, offsets, dtype)
        lanes = lanes_of(offsets.type)
        type_, mask = ir.VectorType(memory_type(dtype), lanes), ir.VectorType(I1, lanes)
        name = f"llvm.masked.gather.{type_name(type_)}.v{lanes}p0"
        function = declare(self.b.module, name, type_, [pointers.type, I32, mask, type_])
        chosen = constant(mask, 1) if guard is None else guard
        value = self.b.call(function, [pointers, I32(dtype.itemsize), chosen, constant(type_, 0)])
        return self._loaded(value, dtype)

    def scatter(
        self, base: ir.Value, offsets: ir.Value, dtype: np.dtype, value: Any, guard: ir.Value | None
    ) -> None:
        if dtype.kind == "c":
            for o, part in zip(self._both(offsets), value, strict=True):
                self.scatter(base, o, real_dtype(dtype), part, guard)
            return
        value = self._stored(value, dtype)
        pointers = self._pointers(base, offsets, dtype)
        lanes = lanes_of(offsets.type)
        mask = ir.VectorType(I1, lanes)
        name = f"llvm.masked.scatter.{type_name(value.type)}.v{lanes}p0"
        function = declare(self.b.module, name, ir.VoidType(), [value.type, pointers.type, I32, mask])
        chosen = constant(mask, 1) if guard is None else guard
        self.b.call(function, [value, pointers, I32(dtype.itemsize), chosen])

    def any(self, mask: ir.Value) -> ir.Value:
        """Whether any lane holds."""
        function = declare(self.b.module, f"llvm.vector.reduce.or.{type_name(mask.type)}", I1, [mask.type])
        return self.b.call(function, [mask])

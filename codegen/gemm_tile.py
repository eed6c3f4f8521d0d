"""Register tiles of matrix products: the innermost function, which keeps a block of C in registers.

A tile is `rows` x (sum of `widths`) elements of C. Per step of k it loads one row of B as vectors and one element of A
per row, and adds their products, one fma each. Every element of C is one chain of fma in the order of k (or
`chains` of them, where one tile has too few to hide the latency), whatever tile it falls into.

Note [Static strides]
The strides of A and B are numbers in the tile's key, the extent of k and C's stride are arguments. With numbers
every address is one register plus a displacement, also for fourteen rows of A; with strides in registers the
compiler runs out of them. Packed panels have equal strides in all products, so large products share their tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from llvmlite import ir

from nufunc.codegen.llvm import I1, I32, I64, POINTER, constant, declare, element_type, type_name


class Machine(Protocol):
    """What kernels need of `nufunc.codegen.backend.Target`."""

    @property
    def triple(self) -> str: ...
    @property
    def vector_bits(self) -> int: ...
    @property
    def has_fma(self) -> bool: ...


def registers(target: Machine) -> int:
    """Vector registers of the processor."""
    arm = target.triple.startswith(("aarch64", "arm64"))
    return 32 if arm or target.vector_bits >= 512 else 16


@dataclass(frozen=True)
class Tile:
    """One kind of register tile. Strides are in elements; B's along its columns is 1."""

    dtype: np.dtype
    rows: int
    widths: tuple[int, ...]
    last: int  # columns of the last vector that are inside the matrix
    a_strides: tuple[int, int]
    b_stride: int
    chains: int
    has_fma: bool
    steps: int | None = None  # k, where it is so small that the loop is unrolled
    prefetch: bool = False  # fetch C before the loop: worth it where C has left the caches since

    @property
    def name(self) -> str:
        widths = "_".join(map(str, self.widths))
        strides = f"a{self.a_strides[0]}_{self.a_strides[1]}.b{self.b_stride}"
        rest = f".k{self.steps}" if self.steps is not None else ""
        rest += ".prefetch" if self.prefetch else ""
        fma = "" if self.has_fma else ".nofma"
        return f"nf.tile.{self.dtype.str[1:]}.{self.rows}x{widths}.{self.last}.{strides}.c{self.chains}{rest}{fma}"


class Vectors:
    """Loads, stores and products of vectors at a builder's position; offsets in elements."""

    def __init__(self, b: ir.IRBuilder, dtype: np.dtype, has_fma: bool) -> None:
        self.b, self.dtype, self.has_fma = b, dtype, has_fma
        self.element, self.size = element_type(dtype), dtype.itemsize
        self.products: dict[int, ir.Function] = {}

    def at(self, pointer: ir.Value, offset: int | ir.Value) -> ir.Value:
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = I64(offset)
        return self.b.gep(pointer, [offset], inbounds=True, source_etype=self.element)

    def scalar(self, pointer: ir.Value, offset: int | ir.Value = 0) -> ir.Value:
        return self.b.load(self.at(pointer, offset), typ=self.element, align=self.size)

    def splat(self, value: ir.Value, width: int) -> ir.Value:
        type_ = ir.VectorType(self.element, width)
        undefined = ir.Constant(type_, ir.Undefined)
        one = self.b.insert_element(undefined, value, I32(0))
        return self.b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, width), None))

    def zero(self, width: int) -> ir.Constant:
        return constant(ir.VectorType(self.element, width), 0)

    def load(self, pointer: ir.Value, offset: int | ir.Value, width: int, mask: ir.Value | None = None) -> ir.Value:
        """A vector; lanes outside the mask are zero and not read."""
        type_ = ir.VectorType(self.element, width)
        address = self.at(pointer, offset)
        if mask is None:
            return self.b.load(address, typ=type_, align=self.size)
        name = f"llvm.masked.load.{type_name(type_)}.p0"
        function = declare(self.b.module, name, type_, [POINTER, I32, mask.type, type_])
        return self.b.call(function, [address, I32(self.size), mask, self.zero(width)])

    def store(self, value: ir.Value, pointer: ir.Value, offset: int | ir.Value, mask: ir.Value | None = None) -> None:
        address = self.at(pointer, offset)
        if mask is None:
            self.b.store(value, address, align=self.size)
            return
        name = f"llvm.masked.store.{type_name(value.type)}.p0"
        function = declare(self.b.module, name, ir.VoidType(), [value.type, POINTER, I32, mask.type])
        self.b.call(function, [value, address, I32(self.size), mask])

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        if not self.has_fma:
            return self.b.fadd(z, self.b.fmul(x, y))
        type_ = x.type
        function = self.products.get(type_.count)
        if function is None:
            function = declare(self.b.module, f"llvm.fma.{type_name(type_)}", type_, [type_] * 3)
            self.products[type_.count] = function
        return self.b.call(function, [x, y, z])


def first_lanes(width: int, valid: int) -> ir.Constant | None:
    """The mask of the first `valid` lanes; None for all."""
    return None if valid == width else ir.Constant(ir.VectorType(I1, width), [int(k < valid) for k in range(width)])


def repeated(
    b: ir.IRBuilder,
    count: ir.Value,
    state: Sequence[ir.Value],
    body: Callable[[Sequence[ir.Value]], Sequence[ir.Value]],
) -> list[Any]:
    """Run `body` on the state `count` times (at least once); returns the last state."""
    before = b.block
    again, after = b.append_basic_block("again"), b.append_basic_block("after")
    b.branch(again)
    b.position_at_end(again)
    left = b.phi(I64)
    phis = [b.phi(s.type) for s in state]
    following = list(body(phis))
    end = b.block  # the body may have loops of its own
    less = b.sub(left, I64(1))
    b.cbranch(b.icmp_signed(">", less, I64(0)), again, after)
    for phi, first, next_ in zip((left, *phis), (count, *state), (less, *following), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(next_, end)
    b.position_at_end(after)
    return following


@contextmanager
def loop(b: ir.IRBuilder, begin: int | ir.Value, end: int | ir.Value, step: int = 1) -> Iterator[Any]:
    """for i in range(begin, end, step); one step of static extent gives the number itself."""
    if isinstance(begin, int) and isinstance(end, int) and begin < end <= begin + step:
        yield begin
        return
    begin, end = (I64(v) if isinstance(v, int) else v for v in (begin, end))
    before = b.block
    body, after = b.append_basic_block("body"), b.append_basic_block("after")
    b.cbranch(b.icmp_signed("<", begin, end), body, after)
    b.position_at_end(body)
    index = b.phi(I64)
    yield index
    following = b.add(index, I64(step))
    index.add_incoming(begin, before)
    index.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, end), body, after)
    b.position_at_end(after)


def tile_function(module: ir.Module, tile: Tile) -> ir.Function:
    """void (ptr a, ptr b, ptr c, i64 c_stride, i64 k, i1 add): store the product, or add it; k is at least 1 (at
    least `chains`)."""
    if tile.name in module.globals:
        return module.globals[tile.name]
    types = [POINTER, POINTER, POINTER, I64, I64, I1]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), tile.name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    for pointer in function.args[:2]:
        pointer.add_attribute("noalias")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    _Emitter(b, tile, function).emit()
    return function


class _Emitter:
    def __init__(self, b: ir.IRBuilder, tile: Tile, function: ir.Function) -> None:
        self.b, self.tile = b, tile
        self.v = Vectors(b, tile.dtype, tile.has_fma)
        self.a, self.base, self.c, self.c_stride, self.k, self.add = function.args[:6]
        self.starts = [sum(tile.widths[:i]) for i in range(len(tile.widths))]
        self.masks: list[ir.Constant | None] = [None] * len(tile.widths)
        self.masks[-1] = first_lanes(tile.widths[-1], tile.last)

    def _step(self, a: ir.Value, b: ir.Value, at: int, sums: list[ir.Value]) -> list[ir.Value]:
        """Add the products of step `at` after the pointers."""
        tile, v = self.tile, self.v
        row = [
            v.load(b, at * tile.b_stride + start, width, mask)
            for start, width, mask in zip(self.starts, tile.widths, self.masks, strict=True)
        ]
        made = []
        for i in range(tile.rows):
            x = v.scalar(a, i * tile.a_strides[0] + at * tile.a_strides[1])
            spread = {width: v.splat(x, width) for width in dict.fromkeys(tile.widths)}
            for j, width in enumerate(tile.widths):
                made.append(v.fma(spread[width], row[j], sums[i * len(tile.widths) + j]))
        return made

    def _chain(self, a: ir.Value, b: ir.Value, count: int, sums: Sequence[ir.Value]) -> list[ir.Value]:
        """`count` steps, in turn into the chains of sums."""
        per = self.tile.rows * len(self.tile.widths)
        made = list(sums)
        for at in range(count):
            chain = slice(at % self.tile.chains * per, at % self.tile.chains * per + per)
            made[chain] = self._step(a, b, at, made[chain])
        return made

    def _steps(self, count: int) -> Callable[[Sequence[ir.Value]], Sequence[ir.Value]]:
        def steps(state: Sequence[ir.Value]) -> Sequence[ir.Value]:
            a, b, *sums = state
            following = self._chain(a, b, count, sums)
            return [
                self.v.at(a, count * self.tile.a_strides[1]),
                self.v.at(b, count * self.tile.b_stride),
                *following,
            ]

        return steps

    def _products(self) -> list[ir.Value]:
        tile, b = self.tile, self.b
        per = tile.rows * len(tile.widths)
        sums: list[Any] = [self.v.zero(w) for _ in range(tile.chains * tile.rows) for w in tile.widths]
        if tile.steps is not None:
            sums = self._chain(self.a, self.base, tile.steps, sums)
        elif tile.chains == 1:
            sums = repeated(b, self.k, [self.a, self.base, *sums], self._steps(1))[2:]
        else:
            sums = self._chained(sums, per)
        while len(sums) > per:
            half = len(sums) // 2
            sums = [b.fadd(p, q) for p, q in zip(sums[:half], sums[half:], strict=True)]
        return sums

    def _chained(self, sums: list[ir.Value], per: int) -> list[ir.Value]:
        """`chains` steps at a time; the remaining ones, if any, into the first chain."""
        b, chains = self.b, self.tile.chains
        trips = b.lshr(self.k, I64(chains.bit_length() - 1))
        x, y, *sums = repeated(b, trips, [self.a, self.base, *sums], self._steps(chains))
        before, more, done = b.block, b.append_basic_block("more"), b.append_basic_block("done")
        rest = b.and_(self.k, I64(chains - 1))
        b.cbranch(b.icmp_signed(">", rest, I64(0)), more, done)
        b.position_at_end(more)
        longer = repeated(b, rest, [x, y, *sums[:per]], self._steps(1))[2:]
        end = b.block
        b.branch(done)
        b.position_at_end(done)
        merged = []
        for short, long_ in zip(sums[:per], longer, strict=True):
            phi = b.phi(short.type)
            phi.add_incoming(short, before)
            phi.add_incoming(long_, end)
            merged.append(phi)
        return [*merged, *sums[per:]]

    def _prefetch(self, address: ir.Value) -> None:
        """To the first-level cache, to be written."""
        function = declare(self.b.module, "llvm.prefetch.p0", ir.VoidType(), [POINTER, I32, I32, I32])
        self.b.call(function, [address, I32(1), I32(3), I32(1)])

    def emit(self) -> None:
        b, v, tile = self.b, self.v, self.tile
        rows = [b.mul(self.c_stride, I64(i)) if i else I64(0) for i in range(tile.rows)]
        places = [
            (v.at(self.c, row), start, width, mask)
            for row in rows
            for start, width, mask in zip(self.starts, tile.widths, self.masks, strict=True)
        ]
        if tile.prefetch:
            for pointer, at, _, _ in places:
                self._prefetch(v.at(pointer, at))
        sums = self._products()
        before = b.block
        adding, storing = b.append_basic_block("adding"), b.append_basic_block("storing")
        b.cbranch(self.add, adding, storing)
        b.position_at_end(adding)
        added = [b.fadd(v.load(p, at, w, mask), s) for (p, at, w, mask), s in zip(places, sums, strict=True)]
        b.branch(storing)
        b.position_at_end(storing)
        results = []
        for plain, more in zip(sums, added, strict=True):
            phi = b.phi(plain.type)
            phi.add_incoming(plain, before)
            phi.add_incoming(more, adding)
            results.append(phi)
        for (pointer, at, _, mask), value in zip(places, results, strict=True):
            v.store(value, pointer, at, mask)
        b.ret_void()

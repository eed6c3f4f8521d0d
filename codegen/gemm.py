"""Own matrix products: C[m, n] = A[m, k] B[k, n] in f32 and f64 as LLVM with explicit vectors, on the calling thread.

Note [Matrix products]
Sums over k are one chain of fma per element of C inside a block of `kc` steps, and one addition per block: the error
of |C - exact| is below (k / blocks + blocks) eps (|A| |B|). Which rows a call computes changes no bit of them: rows are
split at multiples of `row_tile` only, and every choice below depends on the shape alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import numpy as np
from llvmlite import ir

from nufunc.codegen.gemm_inner import SHORT, Inner, emit_inner, emit_transposed_copy
from nufunc.codegen.gemm_pack import pack_function
from nufunc.codegen.gemm_tile import Epilogue, Machine, Tile, Vectors, loop, registers, tile_function
from nufunc.codegen.llvm import I1, I64, POINTER

KC = 512  # steps of k per block; C is read and written once per block
MC_BYTES = 256 << 10  # of A packed at a time: a share of the second-level cache
NC_BYTES = 3 << 20  # of B packed at a time: a share of the third-level cache
IN_PLACE_BYTES = 512 << 10  # matrices up to this size are read where they are,
CROWDED_BYTES = 32 << 10  # or this size where their rows fall into the same few sets of a cache
ROWS_FIRST_BYTES = 24 << 10  # size of B up to which C is written row by row: all of B stays in the first-level cache
PREFETCH_BYTES = 512 << 10  # size of C from which its tiles are fetched before they are needed
LARGE = 32768  # products of vectors from which the processor's register tile is preferred, shared by all products
PREFERENCE = 0.94  # of its time another tile has to take at most
PLAIN_LOOPS = 32  # steps of k from which the loops around tiles are not optimised: LLVM takes longer than for the tiles
MOST_ROWS = 16  # of a register tile: more take longer to compile and are no faster
UNROLL = 32  # products of vectors up to which a tile's loop over k is unrolled
EDGE_COST = 0.02  # share of a product's time at which an edge is worth the tile, to be compiled, that it needs
Index: TypeAlias = int | ir.Value  # a number known when the code is emitted, or when it runs
SUPPORTED = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class Spec:
    """One kind of product. Strides are in elements; C's columns are adjacent."""

    dtype: np.dtype
    m: int
    n: int
    k: int
    a_strides: tuple[int, int]
    b_strides: tuple[int, int]
    c_stride: int
    vector_bytes: int
    registers: int
    has_fma: bool

    @property
    def lanes(self) -> int:
        return self.vector_bytes // self.dtype.itemsize


@dataclass(frozen=True)
class Blocking:
    """How a product is cut. `rows` and `columns` are the register tile's; b_width the stride of packed panels of B."""

    rows: int
    vectors: int
    kc: int
    mc: int  # row tiles per block
    nc: int  # column tiles per block
    pack_a: bool
    pack_b: bool
    a_width: int
    b_width: int
    a_bytes: int
    b_bytes: int


def _spec(
    target: Machine,
    dtype: np.dtype,
    m: int,
    n: int,
    k: int,
    a: tuple[int, int],
    b: tuple[int, int],
    c_stride: int,
) -> Spec:
    """Strides of axes of extent 1 do not matter: they become those of a packed row-major matrix."""
    dtype = np.dtype(dtype)
    if dtype not in SUPPORTED:
        raise ValueError(f"matrix products are emitted for float32 and float64, not {dtype}")
    a = (a[0] if m > 1 else k, a[1] if k > 1 else 1)
    b = (b[0] if k > 1 else n, b[1] if n > 1 else 1)
    return Spec(dtype, m, n, k, a, b, c_stride, target.vector_bits // 8, registers(target), target.has_fma)


def _edge_widths(spec: Spec, columns: int) -> tuple[tuple[int, ...], int]:
    """Vectors that cover `columns`: full ones and a narrower last one, and how many lanes of the last are used."""
    full, rest = divmod(columns, spec.lanes)
    if not rest:
        return (spec.lanes,) * full, spec.lanes
    least = min(spec.lanes, 16 // spec.dtype.itemsize)
    narrow = max(least, 1 << (rest - 1).bit_length())
    return (spec.lanes,) * full + (narrow,), rest


def _tile_cost(spec: Spec, rows: int, columns: int) -> float:
    """Cycles of one register tile, for two fma and two loads per cycle and four cycles of latency."""
    vectors = len(_edge_widths(spec, columns)[0])
    step = max(rows * vectors / 2, (rows + vectors) / 2, 2.0) + 0.02 * (rows + vectors)
    return spec.k * step + rows * vectors + rows + 12


def _cost(spec: Spec, rows: int, vectors: int) -> float:
    """Cycles of a product cut into tiles of so many rows and vectors."""
    columns = vectors * spec.lanes
    row_tiles, row_rest = divmod(spec.m, rows)
    column_tiles, column_rest = divmod(spec.n, columns)
    cost = row_tiles * column_tiles * _tile_cost(spec, rows, columns)
    if row_rest:
        cost += column_tiles * _tile_cost(spec, row_rest, columns)
    if column_rest:
        cost += row_tiles * _tile_cost(spec, rows, column_rest)
    if row_rest and column_rest:
        cost += _tile_cost(spec, row_rest, column_rest)
    return cost * (1 + EDGE_COST * (bool(row_rest) + bool(column_rest)))


@cache
def _register_tile(spec: Spec) -> tuple[int, int]:
    """Rows and vectors of the register tile that leaves the least of the matrix to edges."""
    candidates = [
        (rows, vectors)
        for vectors in range(1, min(8, -(-spec.n // spec.lanes)) + 1)
        for rows in range(1, min(spec.m, MOST_ROWS, max(1, (spec.registers - vectors - 1) // vectors)) + 1)
    ]  # besides the sums, registers hold a row of B and one element of A
    best = min(candidates, key=lambda tile: (_cost(spec, *tile), -tile[0]), default=(1, 1))
    usual = (8, 3) if spec.registers > 16 else (6, 2)
    large = spec.m * spec.n * spec.k >= LARGE * spec.lanes
    if large and usual in candidates and _cost(spec, *best) > PREFERENCE * _cost(spec, *usual):
        return usual
    return best


def _in_place(extent: int, stride: int, other: int, size: int) -> bool:
    """Whether tiles read a matrix where it is: `extent` rows of `other` adjacent elements."""
    crowded = stride * size % 2048 == 0 and extent > 1
    return extent * other * size <= (CROWDED_BYTES if crowded else IN_PLACE_BYTES)


@cache
def _blocking(spec: Spec) -> Blocking:
    rows, vectors = _register_tile(spec)
    size, lanes = spec.dtype.itemsize, spec.lanes
    columns = vectors * lanes
    row_tiles, column_tiles = -(-spec.m // rows), -(-spec.n // columns)
    blocks = max(1, -(-spec.k // KC))
    kc = 8 * math.ceil(spec.k / blocks / 8) if blocks > 1 else spec.k
    pack_b = spec.b_strides[1] != 1
    if row_tiles > 2:
        pack_b = pack_b or not _in_place(spec.k, spec.b_strides[0], spec.n, size)
    along_k = spec.a_strides[1] == 1
    lines = (spec.m, spec.a_strides[0], spec.k) if along_k else (spec.k, spec.a_strides[1], spec.m)
    pack_a = column_tiles > 2 and not _in_place(*lines, size)
    piece = 16 // size
    a_width = -(-rows // piece) * piece
    mc = min(row_tiles, max(1, MC_BYTES // (kc * a_width * size))) if pack_a else row_tiles
    nc = min(column_tiles, max(1, NC_BYTES // (kc * columns * size))) if pack_b else column_tiles
    a_bytes = mc * kc * a_width * size if pack_a else 0
    b_bytes = nc * kc * columns * size if pack_b else 0
    a_bytes, b_bytes = (-(-v // 64) * 64 for v in (a_bytes, b_bytes))
    return Blocking(rows, vectors, kc, mc, nc, pack_a, pack_b, a_width, columns, a_bytes, b_bytes)


class _Gemm:
    """Emits the loops around register tiles into one function."""

    def __init__(
        self,
        function: ir.Function,
        spec: Spec,
        epilogue: Epilogue | None,
        tag: str,
        accumulate: bool,
        ranged: bool,
        swapped: bool = False,
    ) -> None:
        self.spec, self.cut = spec, _blocking(spec)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.v = Vectors(self.b, spec.dtype, spec.has_fma)
        self.module = function.module
        self.a, self.base, self.c, scratch = function.args[:4]
        self.swapped = swapped  # the caller's rows are the columns here
        if swapped:
            self.a, self.base = self.base, self.a
        self.context = function.args[4] if epilogue else None
        self.range = function.args[-2:] if ranged else None
        self.epilogue, self.tag, self.accumulate = epilogue, tag, accumulate
        self.a_packed, self.b_packed = self._bytes(scratch, self.cut.b_bytes), scratch

    def _bytes(self, pointer: ir.Value, offset: int) -> ir.Value:
        return self.v.at(pointer, offset // self.spec.dtype.itemsize)

    def _far(self) -> bool:
        """Whether C is so large that its tiles come from afar."""
        return self.spec.m * self.spec.c_stride * self.spec.dtype.itemsize > PREFETCH_BYTES

    def _tile(self, rows: int, columns: int, last: bool) -> tuple[ir.Function, bool]:
        spec, cut = self.spec, self.cut
        widths, valid = _edge_widths(spec, columns)
        a = (1, cut.a_width) if cut.pack_a else spec.a_strides
        stride = cut.b_width if cut.pack_b else spec.b_strides[0]
        per = rows * len(widths)
        steps = spec.k if spec.k * per <= UNROLL else None
        chains = 1
        while chains * per < 8 and chains < 4 and 2 * chains <= spec.k and (2 * chains + 1) * per < spec.registers:
            chains *= 2
        with_epilogue = self.epilogue is not None and last
        tile = Tile(spec.dtype, rows, widths, valid, a, stride, chains, spec.has_fma, steps, prefetch=self._far())
        if with_epilogue:
            tile = replace(tile, epilogue=self.tag)
        return tile_function(self.module, tile, self.epilogue if with_epilogue else None), with_epilogue

    def emit(self) -> None:
        spec, cut, b = self.spec, self.cut, self.b
        row_tiles, column_tiles = -(-spec.m // cut.rows), -(-spec.n // cut.b_width)
        rows: tuple[Index, Index] = (0, row_tiles)
        columns: tuple[Index, Index] = (0, column_tiles)
        if self.range is not None:
            size = cut.b_width if self.swapped else cut.rows
            first, last = self.range
            tiles = b.sdiv(first, I64(size)), b.sdiv(b.add(last, I64(size - 1)), I64(size))
            rows, columns = (rows, tiles) if self.swapped else (tiles, columns)
        if spec.m and spec.n:
            with loop(b, *columns, cut.nc) as j0:
                stop_j = self._least(j0, cut.nc, columns[1])
                with loop(b, 0, max(spec.k, 1), max(cut.kc, 1)) as p0:
                    self._block(*rows, j0, stop_j, p0)
        b.ret_void()

    def _least(self, start: Index, count: int, stop: Index) -> Index:
        """min(start + count, stop)"""
        if isinstance(start, int) and isinstance(stop, int):
            return min(start + count, stop)
        b = self.b
        end = b.add(I64(start) if isinstance(start, int) else start, I64(count))
        stop = I64(stop) if isinstance(stop, int) else stop
        return b.select(b.icmp_signed("<", end, stop), end, stop)

    def _times(self, index: Index, factor: int) -> Index:
        return index * factor if isinstance(index, int) else self.b.mul(index, I64(factor))

    def _minus(self, x: Index, y: Index) -> Index:
        if isinstance(x, int) and isinstance(y, int):
            return x - y
        return self.b.sub(*(I64(v) if isinstance(v, int) else v for v in (x, y)))

    def _value(self, x: Index) -> ir.Value:
        return I64(x) if isinstance(x, int) else x

    def _block(
        self,
        begin: Index,
        end: Index,
        j0: Index,
        stop_j: Index,
        p0: Index,
    ) -> None:
        """One block of k and of columns: pack its part of B, then go through the rows."""
        spec, cut, b, v = self.spec, self.cut, self.b, self.v
        steps = self._minus(self._least(p0, cut.kc, spec.k), p0)
        if cut.pack_b:
            pack = pack_function(self.module, spec.dtype, cut.b_width, spec.b_strides[1], spec.b_strides[0], spec.lanes)
            source = v.at(self.base, self._times(p0, spec.b_strides[0]))
            with loop(b, j0, stop_j) as j:
                first = self._times(j, cut.b_width)
                place = v.at(self.b_packed, self._times(self._minus(j, j0), cut.kc * cut.b_width))
                lanes = self._value(self._minus(self._least(first, cut.b_width, spec.n), first))
                b.call(
                    pack,
                    [place, v.at(source, self._times(first, spec.b_strides[1])), lanes, self._value(steps)],
                )
        with loop(b, begin, end, cut.mc) as t0:
            stop_t = self._least(t0, cut.mc, end)
            if cut.pack_a:
                self._pack_a(t0, stop_t, p0, steps)
            if spec.k * spec.n * spec.dtype.itemsize <= ROWS_FIRST_BYTES:
                with loop(b, t0, stop_t) as t, loop(b, j0, stop_j) as j:
                    self._tiles(t, t0, j, j0, p0, steps)
            else:
                with loop(b, j0, stop_j) as j, loop(b, t0, stop_t) as t:
                    self._tiles(t, t0, j, j0, p0, steps)

    def _pack_a(self, t0: Index, stop: Index, p0: Index, steps: Index) -> None:
        spec, cut, b, v = self.spec, self.cut, self.b, self.v
        pack = pack_function(self.module, spec.dtype, cut.a_width, spec.a_strides[0], spec.a_strides[1], spec.lanes)
        source = v.at(self.a, self._times(p0, spec.a_strides[1]))
        with loop(b, t0, stop) as t:
            first = self._times(t, cut.rows)
            place = v.at(self.a_packed, self._times(self._minus(t, t0), cut.kc * cut.a_width))
            lanes = self._value(self._minus(self._least(first, cut.a_width, spec.m), first))
            b.call(pack, [place, v.at(source, self._times(first, spec.a_strides[0])), lanes, self._value(steps)])

    def _tiles(self, t: Index, t0: Index, j: Index, j0: Index, p0: Index, steps: Index) -> None:
        """Call the tile of row tile t and column tile j: a full one, or that of the edge."""
        spec, cut, b, v = self.spec, self.cut, self.b, self.v
        i, column = self._times(t, cut.rows), self._times(j, cut.b_width)
        if cut.pack_a:
            a = v.at(self.a_packed, self._times(self._minus(t, t0), cut.kc * cut.a_width))
        else:
            a = v.at(v.at(self.a, self._times(i, spec.a_strides[0])), self._times(p0, spec.a_strides[1]))
        if cut.pack_b:
            base = v.at(self.b_packed, self._times(self._minus(j, j0), cut.kc * cut.b_width))
        else:
            base = v.at(v.at(self.base, self._times(p0, spec.b_strides[0])), column)
        c = v.at(v.at(self.c, self._times(i, spec.c_stride)), column)
        if self.accumulate or isinstance(p0, int):
            add = I1(int(self.accumulate))
        else:
            add = b.icmp_signed(">", p0, I64(0))
        args = [a, base, c, I64(spec.c_stride), self._value(steps), add]
        place = [self._value(i), self._value(column), self.context]

        def call(rows: int, columns: int) -> None:
            if self.epilogue is None or isinstance(p0, int):
                function, extended = self._tile(rows, columns, True)
                b.call(function, args + (place if extended else []))
                return
            final = b.icmp_signed(">=", b.add(p0, I64(cut.kc)), I64(spec.k))
            with b.if_else(final) as (then, otherwise):
                with then:
                    b.call(self._tile(rows, columns, True)[0], args + place)
                with otherwise:
                    b.call(self._tile(rows, columns, False)[0], args)

        def by_column(rows: int) -> None:
            rest = spec.n % cut.b_width
            self._either(j, spec.n // cut.b_width, rest, lambda c: call(rows, c), cut.b_width)

        self._either(t, spec.m // cut.rows, spec.m % cut.rows, by_column, cut.rows)

    def _either(self, index: Index, whole: int, rest: int, emit: Callable[[int], None], size: int) -> None:
        """emit(size) for the first `whole` indices, emit(rest) for the one after them."""
        if not rest:
            emit(size)
        elif not whole:
            emit(rest)
        else:
            with self.b.if_else(self.b.icmp_signed("<", self._value(index), I64(whole))) as (then, otherwise):
                with then:
                    emit(size)
                with otherwise:
                    emit(rest)


def _inner(spec: Spec) -> tuple[Inner, bool, bool] | None:
    """The product as dot products along k; whether A is the long operand, and whether the short one is copied first."""
    a_unit, b_unit = spec.a_strides[1] == 1, spec.b_strides[0] == 1
    if min(spec.m, spec.n) > SHORT or spec.k < 2 * spec.lanes or not min(spec.m, spec.n):
        return None
    a_long = spec.m >= spec.n if a_unit and b_unit else a_unit
    copies = not (a_unit and b_unit)
    long, short = (spec.m, spec.n) if a_long else (spec.n, spec.m)
    if not (a_unit or b_unit) or short > SHORT or (copies and (short > 1 or long < 16) and long < 32):
        return None
    strides = (spec.a_strides[0], spec.b_strides[1]) if a_long else (spec.b_strides[1], spec.a_strides[0])
    if copies:
        strides = (strides[0], spec.k)
    c_strides = (spec.c_stride, 1) if a_long else (1, spec.c_stride)
    made = Inner(spec.dtype, long, short, spec.k, *strides, c_strides, spec.lanes, spec.registers, spec.has_fma)
    return made, a_long, copies


def _swapped(spec: Spec) -> Spec | None:
    """A product with one column as its transpose, one row, where that lets vectors run along A's columns."""
    if spec.n != 1 or spec.m == 1 or spec.c_stride != 1 or spec.a_strides[0] != 1:
        return None
    b = (spec.b_strides[1], spec.b_strides[0])
    return replace(spec, m=1, n=spec.m, a_strides=b, b_strides=(spec.a_strides[1], 1), c_stride=spec.m)


def _emit_inner(function: ir.Function, spec: Spec, accumulate: bool, ranged: bool) -> None:
    found = _inner(spec)
    assert found is not None
    inner, a_long, copies = found
    b = ir.IRBuilder(function.append_basic_block("entry"))
    a, other, c, scratch = function.args[:4]
    long, short = (a, other) if a_long else (other, a)
    begin: Index = 0
    end: Index = inner.tiles
    if ranged:
        first, last = function.args[-2:]
        if a_long:
            begin = b.sdiv(first, I64(inner.rows))
            end = b.sdiv(b.add(last, I64(inner.rows - 1)), I64(inner.rows))
        else:
            end = b.select(b.icmp_signed("<", first, last), I64(inner.tiles), I64(0))
    if copies:
        strides = (spec.b_strides[1], spec.b_strides[0]) if a_long else spec.a_strides
        emit_transposed_copy(Vectors(b, spec.dtype, spec.has_fma), short, scratch, inner.short, spec.k, strides)
        short = scratch
    emit_inner(b, inner, (long, short, c), begin, end, accumulate)
    b.ret_void()


def product_function(
    module: ir.Module,
    target: Machine,
    dtype: np.dtype,
    m: int,
    n: int,
    k: int,
    a_strides: tuple[int, int],
    b_strides: tuple[int, int],
    c_stride: int,
    *,
    accumulate: bool = False,
    epilogue: Epilogue | None = None,
    epilogue_name: str = "",
    row_range: bool = False,
) -> ir.Function:
    """void (ptr A, ptr B, ptr C, ptr scratch [, ptr context] [, i64 row_begin, i64 row_end]), once per module and spec.

    C = A B, or C += A B. C may overlap neither operand. The epilogue is applied to every element as it is stored
    the last time; it finds arrays of its own through the context pointer, and `epilogue_name` tells it from others.
    """
    spec = _spec(target, dtype, m, n, k, a_strides, b_strides, c_stride)
    if (epilogue is None) != (not epilogue_name):
        raise ValueError("an epilogue needs a name of its own in the module")
    tag = "".join([".add" if accumulate else "", ".rows" if row_range else "", f".{epilogue_name}" if epilogue else ""])
    strides = "_".join(map(str, (*spec.a_strides, *spec.b_strides, c_stride)))
    name = f"nf.gemm.{spec.dtype.str[1:]}.{m}x{n}x{k}.{strides}{tag}"
    if name in module.globals:
        return module.globals[name]
    types = [POINTER] * (5 if epilogue else 4) + [I64, I64] * row_range
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    function.attributes.add("noinline")
    if k >= PLAIN_LOOPS:
        function.attributes.add("optnone")
    swapped = None if epilogue else _swapped(spec)
    if not epilogue and _inner(spec) is not None:
        _emit_inner(function, spec, accumulate, row_range)
    elif swapped is not None:
        _Gemm(function, swapped, None, "", accumulate, row_range, swapped=True).emit()
    else:
        _Gemm(function, spec, epilogue, epilogue_name, accumulate, row_range).emit()
    return function


def scratch_bytes(
    target: Machine,
    dtype: np.dtype,
    m: int,
    n: int,
    k: int,
    a_strides: tuple[int, int],
    b_strides: tuple[int, int],
    c_stride: int,
    *,
    epilogue: bool = False,
) -> int:
    """Bytes of scratch (aligned to 64) that a call needs; each thread its own."""
    spec = _spec(target, dtype, m, n, k, a_strides, b_strides, c_stride)
    inner = None if epilogue else _inner(spec)
    if inner is not None:
        return inner[0].short * spec.k * spec.dtype.itemsize if inner[2] else 0
    cut = _blocking((None if epilogue else _swapped(spec)) or spec)
    return cut.a_bytes + cut.b_bytes


def row_tile(
    target: Machine,
    dtype: np.dtype,
    m: int,
    n: int,
    k: int,
    a_strides: tuple[int, int],
    b_strides: tuple[int, int],
    c_stride: int,
    *,
    epilogue: bool = False,
) -> int:
    """Row ranges begin at multiples of this, and end at one or at m."""
    spec = _spec(target, dtype, m, n, k, a_strides, b_strides, c_stride)
    inner = None if epilogue else _inner(spec)
    if inner is not None:
        return inner[0].rows if inner[1] else max(m, 1)
    swapped = None if epilogue else _swapped(spec)
    return _blocking(spec).rows if swapped is None else _blocking(swapped).b_width

"""The loops around register tiles: blocks of k and of columns, packing, blocks of rows, tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from llvmlite import ir

from nufunc.codegen.gemm_pack import pack_function
from nufunc.codegen.gemm_shape import Blocking, Part, Spec, blocking, edge_widths
from nufunc.codegen.gemm_tile import Tile, Vectors, loop, tile_function
from nufunc.codegen.llvm import I1, I64

ROWS_FIRST_BYTES = 24 << 10  # size of B up to which C is written row by row: all of B stays in the first-level cache
PREFETCH_BYTES = 512 << 10  # size of C from which its tiles are fetched before they are needed
UNROLL = 32  # products of vectors up to which a tile's loop over k is unrolled
Index: TypeAlias = int | ir.Value  # a number known when the code is emitted, or when it runs
Ranges: TypeAlias = tuple[tuple[Index, Index], tuple[Index, Index]]  # of rows and of columns


def value(x: Index) -> ir.Value:
    return I64(x) if isinstance(x, int) else x


def times(b: ir.IRBuilder, x: Index, factor: int) -> Index:
    return x * factor if isinstance(x, int) else b.mul(x, I64(factor))


def minus(b: ir.IRBuilder, x: Index, y: Index) -> Index:
    return x - y if isinstance(x, int) and isinstance(y, int) else b.sub(value(x), value(y))


def least(b: ir.IRBuilder, x: Index, y: Index) -> Index:
    if isinstance(x, int) and isinstance(y, int):
        return min(x, y)
    return b.select(b.icmp_signed("<", value(x), value(y)), value(x), value(y))


def after(b: ir.IRBuilder, x: Index, count: int) -> Index:
    return x + count if isinstance(x, int) else b.add(x, I64(count))


def tiles_of(b: ir.IRBuilder, bounds: tuple[Index, Index], size: int) -> tuple[Index, Index]:
    """The tiles that begin in a range; ranges begin at tiles."""
    first, last = bounds
    if isinstance(first, int) and isinstance(last, int):
        return first // size, -(-last // size)
    return b.sdiv(value(first), I64(size)), b.sdiv(value(after(b, last, size - 1)), I64(size))


@dataclass(frozen=True)
class Blocks:
    """A product by register tiles, in calls of at most `part`. Swapped: the caller's rows are the columns here."""

    spec: Spec
    part: Part
    swapped: bool = False

    @property
    def cut(self) -> Blocking:
        return blocking(self.spec, self.part)

    @property
    def scratch(self) -> int:
        return self.cut.a_bytes + self.cut.b_bytes

    @property
    def units(self) -> Part:
        """Ranges of rows and columns begin at multiples of these."""
        units = self.cut.rows, self.cut.columns
        return units[::-1] if self.swapped else units

    def emit(self, function: ir.Function, ranges: Ranges, b: ir.IRBuilder, accumulate: bool) -> None:
        """The product, or its addition to C, at the builder's position; function(A, B, C, scratch, ...)."""
        a, base, c, scratch = function.args[:4]
        if self.swapped:
            a, base, ranges = base, a, ranges[::-1]
        if self.spec.m and self.spec.n:
            _Emitter(self.spec, self.cut, b, (a, base, c, scratch), accumulate).emit(ranges)


class _Emitter:
    def __init__(
        self, spec: Spec, cut: Blocking, b: ir.IRBuilder, arrays: tuple[ir.Value, ...], accumulate: bool
    ) -> None:
        self.spec, self.cut, self.b, self.accumulate = spec, cut, b, accumulate
        self.v = Vectors(b, spec.dtype, spec.has_fma)
        self.a, self.base, self.c, self.b_packed = arrays
        self.a_packed = self.v.at(self.b_packed, cut.b_bytes // spec.dtype.itemsize)

    def emit(self, ranges: Ranges) -> None:
        spec, cut, b = self.spec, self.cut, self.b
        rows, columns = (tiles_of(b, r, size) for r, size in zip(ranges, (cut.rows, cut.columns), strict=True))
        with loop(b, *columns, cut.nc) as j0:
            stop_j = least(b, after(b, j0, cut.nc), columns[1])
            with loop(b, 0, max(spec.k, 1), max(cut.kc, 1)) as p0:
                steps = minus(b, least(b, after(b, p0, cut.kc), spec.k), p0)
                if cut.pack_b:
                    self._pack_b(j0, stop_j, p0, steps)
                with loop(b, *rows, cut.mc) as t0:
                    stop_t = least(b, after(b, t0, cut.mc), rows[1])
                    if cut.pack_a:
                        self._pack_a(t0, stop_t, p0, steps)
                    self._block((t0, stop_t), (j0, stop_j), p0, steps)

    def _block(self, rows: tuple[Index, Index], columns: tuple[Index, Index], p0: Index, steps: Index) -> None:
        b, spec = self.b, self.spec
        if spec.k * spec.n * spec.dtype.itemsize <= ROWS_FIRST_BYTES:
            with loop(b, *rows) as t, loop(b, *columns) as j:
                self._tiles(t, rows[0], j, columns[0], p0, steps)
        else:
            with loop(b, *columns) as j, loop(b, *rows) as t:
                self._tiles(t, rows[0], j, columns[0], p0, steps)

    def _pack_b(self, j0: Index, stop: Index, p0: Index, steps: Index) -> None:
        (along_k, along_n), width = self.spec.b_strides, self.cut.columns
        source = self.v.at(self.base, times(self.b, p0, along_k))
        self._pack((j0, stop), source, self.b_packed, (width, width, self.spec.n), (along_n, along_k), steps)

    def _pack_a(self, t0: Index, stop: Index, p0: Index, steps: Index) -> None:
        (along_m, along_k), cut = self.spec.a_strides, self.cut
        source = self.v.at(self.a, times(self.b, p0, along_k))
        self._pack((t0, stop), source, self.a_packed, (cut.rows, cut.a_width, self.spec.m), (along_m, along_k), steps)

    def _pack(
        self, tiles: tuple[Index, Index], source: ir.Value, target: ir.Value, sizes: tuple[int, int, int],
        strides: tuple[int, int], steps: Index,
    ) -> None:  # fmt: skip
        """Panels of some tiles; sizes are those of a tile, of a panel and of the whole."""
        b, v, (tile, width, extent) = self.b, self.v, sizes
        pack = pack_function(b.module, self.spec.dtype, width, *strides, self.spec.lanes)
        with loop(b, *tiles) as t:
            first = times(b, t, tile)
            place = v.at(target, times(b, minus(b, t, tiles[0]), self.cut.kc * width))
            lanes = minus(b, least(b, after(b, first, width), extent), first)
            b.call(pack, [place, v.at(source, times(b, first, strides[0])), value(lanes), value(steps)])

    def _tiles(self, t: Index, t0: Index, j: Index, j0: Index, p0: Index, steps: Index) -> None:
        """Call the tile of row tile t and column tile j: a full one, or that of the edge."""
        spec, cut, b, v = self.spec, self.cut, self.b, self.v
        i, column = times(b, t, cut.rows), times(b, j, cut.columns)
        if cut.pack_a:
            a = v.at(self.a_packed, times(b, minus(b, t, t0), cut.kc * cut.a_width))
        else:
            a = v.at(v.at(self.a, times(b, i, spec.a_strides[0])), times(b, p0, spec.a_strides[1]))
        if cut.pack_b:
            base = v.at(self.b_packed, times(b, minus(b, j, j0), cut.kc * cut.columns))
        else:
            base = v.at(v.at(self.base, times(b, p0, spec.b_strides[0])), column)
        c = v.at(v.at(self.c, times(b, i, spec.c_stride)), column)
        known = self.accumulate or isinstance(p0, int)
        add = I1(int(self.accumulate)) if known else b.icmp_signed(">", p0, I64(0))
        args = [a, base, c, I64(spec.c_stride), value(steps), add]

        def by_column(rows: int) -> None:
            rest = spec.n % cut.columns
            emit = lambda columns: b.call(self._tile(rows, columns), args)
            self._either(j, spec.n // cut.columns, rest, emit, cut.columns)

        self._either(t, spec.m // cut.rows, spec.m % cut.rows, by_column, cut.rows)

    def _either(self, index: Index, whole: int, rest: int, emit: Callable[[int], object], size: int) -> None:
        """emit(size) for the first `whole` indices, emit(rest) for the one after them."""
        if not rest or not whole:
            emit(size if whole else rest)
            return
        with self.b.if_else(self.b.icmp_signed("<", value(index), I64(whole))) as (then, otherwise):
            with then:
                emit(size)
            with otherwise:
                emit(rest)

    def _tile(self, rows: int, columns: int) -> ir.Function:
        spec, cut = self.spec, self.cut
        widths, valid = edge_widths(spec, columns)
        a = (1, cut.a_width) if cut.pack_a else spec.a_strides
        stride = cut.columns if cut.pack_b else spec.b_strides[0]
        per = rows * len(widths)
        steps = spec.k if spec.k * per <= UNROLL else None
        chains = 1
        while chains * per < 8 and chains < 4 and 2 * chains <= spec.k and (2 * chains + 1) * per < spec.registers:
            chains *= 2
        far = spec.m * spec.c_stride * spec.dtype.itemsize > PREFETCH_BYTES
        tile = Tile(spec.dtype, rows, widths, valid, a, stride, chains, spec.has_fma, steps, prefetch=far)
        return tile_function(self.b.module, tile)

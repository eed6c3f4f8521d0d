"""Own factorisations and triangular solves of matrices in f32 and f64 as LLVM with explicit vectors, on the calling
thread; extents and strides are arguments.

Note [Factorisations]
Vectors run along rows, whose elements are adjacent. Cholesky factors A = U' U, with the upper triangle by rows; LU
does P A = L U by rows, its narrow panels transposed, so that the search for a pivot is one of adjacent elements.
Everything above a few columns is recursion over halves: two smaller problems and one product, which runs at the
speed of the register tile. Work matrices have rows of whole vectors, so that only operands and results want masks.
A triangular solve from the last row to the first is one from the first to the last with negative strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir

from nufunc.codegen.factor_tile import Tiles, define, least, transpose
from nufunc.codegen.gemm_tile import Machine, Vectors, loop, registers
from nufunc.codegen.llvm import I1, I8, I32, I64, POINTER, constant, declare, intrinsic, lane_numbers, splat, type_name

SUPPORTED = (np.dtype(np.float32), np.dtype(np.float64))
BLOCK = 16  # order up to which a Cholesky factor is found row by row; halves are multiples of it
TRIANGLE = 64  # order up to which a triangular solve goes through its row tiles one by one
STEPS = 128  # of a product between two visits of the updated matrix, and rows of its packed operand
LINE = 64  # bytes


def leading(n: int, dtype: np.dtype) -> int:
    """Elements from row to row of a work matrix: whole cache lines, an odd number of them, so that columns do not fall
    into few sets of a cache."""
    per_line = LINE // dtype.itemsize
    lines = -(-n // per_line)
    return (lines + 1 - lines % 2 if lines > 1 else lines) * per_line


class Factor:
    """The kernels of one dtype in a module; each is defined when it is first asked for, or, where `defines` is false,
    only declared: `factor_library` says where it is then."""

    def __init__(self, module: ir.Module, dtype: np.dtype, target: Machine, defines: bool = True) -> None:
        self.module, self.dtype, self.defines = module, dtype, defines
        self.lanes = target.vector_bits // 8 // dtype.itemsize
        self.rows = 8 if registers(target) > 16 else 4
        self.width = 2 * self.lanes  # of a register tile
        self.panel = max(8, self.lanes)  # columns of LU that are eliminated one by one
        self.has_fma = target.has_fma
        self.tiles = Tiles(module, dtype, self.rows, self.lanes, target.has_fma)

    # -- memory of a call, in bytes

    def packed_bytes(self, n: int) -> int:
        """Rows of B for one tile, and strips of up to n rows of A."""
        return STEPS * (self.width + n) * self.dtype.itemsize

    def work_bytes(self, n: int) -> int:
        return n * leading(n, self.dtype) * self.dtype.itemsize

    def lu_scratch_bytes(self, n: int) -> int:
        """A transposed panel, then what products pack."""
        return self._panel_bytes(n) + self.packed_bytes(0)

    def _panel_bytes(self, n: int) -> int:
        per_line = LINE // self.dtype.itemsize
        return -(-n // per_line) * LINE * self.panel

    # -- functions

    def _function(
        self, kind: str, types: Sequence[ir.Type], result: ir.Type, emit: Callable[..., None], plain: bool = False
    ) -> ir.Function:
        name = f"nf.factor.{self.dtype.str[1:]}.{kind}"
        if not self.defines:
            return declare(self.module, name, result, types)
        return define(self.module, name, types, result, emit, self.dtype, self.has_fma, plain)

    def transpose(self) -> ir.Function:
        """void (ptr dst, i64 ldd, ptr src, i64 lds, i64 rows, i64 columns): dst[j, i] = src[i, j]."""
        return self._function("transpose", [POINTER, I64, POINTER, I64, I64, I64], ir.VoidType(), transpose)

    def update(self) -> ir.Function:
        """void (ptr a, i64 s, i64 t, ptr b, i64 ldb, ptr c, i64 ldc, i64 m, i64 n, i64 k, i1 upper, ptr packed):
        C[m, n] -= A[m, k] B[k, n], where s and t are A's strides; `upper`: only where tiles meet the upper triangle."""
        types = [POINTER, I64, I64, POINTER, I64, POINTER, I64, I64, I64, I64, I1, POINTER]
        return self._function("update", types, ir.VoidType(), self._update)

    def forward(self, most: int | None = None) -> ir.Function:
        """void (ptr a, i64 s, i64 t, ptr b, i64 ldb, i64 n, i64 columns, i1 unit, ptr packed): B becomes L^-1 B, where
        L is the lower triangle of the matrix with strides s and t; `unit`: with ones for its diagonal. n is `most` at
        most, where that is known: small triangles need less code."""
        types = [POINTER, I64, I64, POINTER, I64, I64, I64, I1, POINTER]
        if most is None or most > TRIANGLE:
            return self._function("forward", types, ir.VoidType(), self._forward, plain=True)
        single = most <= self.rows
        emit = lambda v, *args: self._forward_tiles(v, single, *args)
        return self._function("forward.single" if single else "forward.tiles", types, ir.VoidType(), emit)

    def cholesky(self, most: int) -> ir.Function:
        """i32 (ptr dst, ptr src, ptr work, i64 n, i64 ld, ptr packed): the lower factor of the matrix whose lower
        triangle is src's; 1 where a pivot is not positive. n is `most` at most."""
        small = most <= BLOCK
        types = [POINTER, POINTER, POINTER, I64, I64, POINTER]
        emit = lambda v, *args: self._cholesky(v, small, *args)
        return self._function("cholesky.small" if small else "cholesky", types, I32, emit, plain=True)

    def lu(self, most: int) -> ir.Function:
        """i32 (ptr work, ptr src, i64 n, i64 ld, ptr pivots, ptr scratch): work becomes the unit lower and the upper
        factor of the matrix at src, pivots (of i32) say which row, from 1 on, each was exchanged with; 1 where a
        pivot is zero. n is `most` at most."""
        small, types = most <= self.panel, [POINTER, POINTER, I64, I64, POINTER, POINTER]
        emit = lambda v, *args: self._lu(v, small, *args)
        return self._function("lu.small" if small else "lu", types, I32, emit, plain=True)

    def exchange(self) -> ir.Function:
        """void (ptr a, i64 ld, ptr pivots, i64 count, i64 columns): exchange rows as `count` pivots say."""
        return self._function("exchange", [POINTER, I64, POINTER, I64, I64], ir.VoidType(), self._exchange)

    # -- products and triangular solves

    def _update(self, v: Vectors, *args: ir.Value) -> None:
        a, s, t, base, ldb, c, ldc, m, n, k, upper, packed = args
        b, block = v.b, self.tiles.block()
        strips = v.at(packed, STEPS * self.width)
        narrow = b.icmp_signed("<=", n, I64(4 * self.width))
        apart = b.icmp_unsigned(">", b.add(s, I64(1)), I64(2))  # neither 1 nor -1
        whole = b.select(b.or_(narrow, apart), I64(0), b.and_(m, I64(-self.rows)))
        low = b.select(b.icmp_signed("<", s, I64(0)), I64(self.rows - 1), I64(0))
        with loop(b, I64(0), k, STEPS) as p:
            steps, left = least(b, b.sub(k, p), I64(STEPS)), v.at(a, b.mul(p, t))
            self._pack_strips(v, strips, v.at(left, b.neg(low)), s, t, whole, steps)
            with loop(b, I64(0), n, self.width) as j:
                columns = least(b, b.sub(n, j), I64(self.width))
                rows, stride = self._pack_rows(v, packed, v.at(v.at(base, b.mul(p, ldb)), j), ldb, m, columns, steps)
                end = b.select(upper, least(b, m, b.add(j, I64(self.width))), m)
                above = v.at(c, j)
                with loop(b, I64(0), end, self.rows) as i:
                    there = b.icmp_signed("<", i, whole)
                    strip = v.at(strips, b.add(b.mul(i, I64(STEPS)), low))
                    place = b.select(there, strip, v.at(left, b.mul(i, s)))
                    along = b.select(there, I64(self.rows), t)
                    count, here = least(b, b.sub(m, i), I64(self.rows)), v.at(above, b.mul(i, ldc))
                    b.call(block, [place, s, along, rows, stride, here, ldc, steps, count, columns])
        b.ret_void()

    def _pack_strips(
        self, v: Vectors, strips: ir.Value, source: ir.Value, s: ir.Value, t: ir.Value, whole: ir.Value,
        steps: ir.Value,
    ) -> None:  # fmt: skip
        """Row tiles of an A whose columns are adjacent, step after step: tiles read them many times, and from row to
        row of the matrix each step would be another line, and another page, of memory."""
        b = v.b
        with loop(b, I64(0), whole, self.rows) as i:
            here, strip = v.at(source, b.mul(i, s)), v.at(strips, b.mul(i, I64(STEPS)))
            with loop(b, I64(0), steps) as q:
                v.store(v.load(here, b.mul(q, t), self.rows), strip, b.mul(q, I64(self.rows)))

    def _pack_rows(
        self, v: Vectors, packed: ir.Value, rows: ir.Value, ldb: ir.Value, m: ir.Value, columns: ir.Value,
        steps: ir.Value,
    ) -> tuple[ir.Value, ir.Value]:  # fmt: skip
        """Where a tile finds its columns of B, and their stride: copied where enough row tiles read them."""
        b = v.b
        worth = b.and_(b.icmp_signed(">", m, I64(2 * self.rows)), b.icmp_signed("==", columns, I64(self.width)))
        with b.if_then(worth), loop(b, I64(0), steps) as q:
            source, target = v.at(rows, b.mul(q, ldb)), v.at(packed, b.mul(q, I64(self.width)))
            for at in range(0, self.width, self.lanes):
                v.store(v.load(source, at, self.lanes), target, at)
        return b.select(worth, packed, rows), b.select(worth, I64(self.width), ldb)

    def _forward(self, v: Vectors, *args: ir.Value) -> None:
        a, s, t, base, ldb, n, columns, unit, packed = args
        b = v.b
        with b.if_then(b.icmp_signed("<=", n, I64(TRIANGLE))):
            b.call(self.forward(TRIANGLE), args)
            b.ret_void()
        half, rest = self._halves(b, n, BLOCK)
        below, other = v.at(a, b.mul(half, s)), v.at(base, b.mul(half, ldb))
        b.call(self.forward(), [a, s, t, base, ldb, half, columns, unit, packed])
        b.call(self.update(), [below, s, t, base, ldb, other, ldb, rest, columns, half, I1(0), packed])
        b.call(self.forward(), [v.at(below, b.mul(half, t)), s, t, other, ldb, rest, columns, unit, packed])
        b.ret_void()

    def _forward_tiles(self, v: Vectors, single: bool, *args: ir.Value) -> None:
        """Row tiles one after the other (`single`: there is one), for as many columns at a time as one has."""
        a, s, t, base, ldb, n, columns, unit, _ = args
        b = v.b
        with loop(b, I64(0), columns, self.width) as j, loop(b, I64(0), n, self.rows) as i:
            wide, count = least(b, b.sub(columns, j), I64(self.width)), least(b, b.sub(n, i), I64(self.rows))
            top, left = v.at(base, j), v.at(a, b.mul(i, s))
            here, diagonal = v.at(top, b.mul(i, ldb)), v.at(left, b.mul(i, t))
            if not single:
                with b.if_then(b.icmp_signed(">", i, I64(0))):
                    b.call(self.tiles.block(), [left, s, t, top, ldb, here, ldb, i, count, wide])
            with loop(b, I64(0), wide, self.lanes) as at:
                more = [v.at(here, at), ldb, count, b.sub(wide, at), unit]
                b.call(self.tiles.triangle(), [diagonal, s, t, *more])
        b.ret_void()

    def _halves(self, b: ir.IRBuilder, n: ir.Value, unit: int) -> tuple[ir.Value, ir.Value]:
        """Half of n, rounded up to a multiple of `unit`, and the rest; n is greater than unit."""
        half = b.and_(b.add(b.lshr(n, I64(1)), I64(unit - 1)), I64(-unit))
        return half, b.sub(n, half)

    # -- Cholesky

    def _cholesky(self, v: Vectors, small: bool, *args: ir.Value) -> None:
        dst, src, work, n, ld, packed = args
        b, transpose, size = v.b, self.transpose(), v.size
        with loop(b, I64(0), n, BLOCK) as i:
            wide, rest = least(b, b.sub(n, i), I64(BLOCK)), b.sub(n, i)
            corner = v.at(src, b.mul(i, b.add(n, I64(1))))
            b.call(transpose, [v.at(work, b.mul(i, b.add(ld, I64(1)))), ld, corner, n, rest, wide])
        self._clear_ends(v, work, n, ld)
        if small:
            code = b.call(self._root_rows(), [work, n, ld])
        else:
            code = b.call(self._root(), [work, n, ld, packed])
        with b.if_then(b.icmp_signed("!=", code, I32(0))):
            b.ret(I32(1))
        with loop(b, I64(0), n, BLOCK) as i:
            wide = least(b, b.sub(n, i), I64(BLOCK))
            b.call(transpose, [v.at(dst, b.mul(i, n)), n, v.at(work, i), ld, b.add(i, wide), wide])
        memset = declare(self.module, "llvm.memset.p0.i64", ir.VoidType(), [POINTER, I8, I64, I1])
        with loop(b, I64(0), b.sub(n, I64(1))) as i:
            place = v.at(dst, b.add(b.mul(i, b.add(n, I64(1))), I64(1)))
            b.call(memset, [place, I8(0), b.mul(b.sub(b.sub(n, I64(1)), i), I64(size)), I1(0)])
        b.ret(I32(0))

    def _clear_ends(self, v: Vectors, work: ir.Value, n: ir.Value, ld: ir.Value) -> None:
        """Zeros behind each row, up to whole vectors."""
        b = v.b
        last = b.and_(b.sub(n, I64(1)), I64(-self.lanes))
        inside = b.icmp_signed("<", lane_numbers(self.lanes), splat(b, b.sub(n, last), self.lanes))
        with loop(b, I64(0), n) as i:
            row = v.at(v.at(work, b.mul(i, ld)), last)
            v.store(b.select(inside, v.load(row, 0, self.lanes), v.zero(self.lanes)), row, 0)

    def _root_rows(self) -> ir.Function:
        """i32 (ptr a, i64 n, i64 ld): the upper factor in place, row by row."""

        def emit(v: Vectors, a: ir.Value, n: ir.Value, ld: ir.Value) -> None:
            b, lanes = v.b, self.lanes
            with loop(b, I64(0), n) as k:
                row = v.at(a, b.mul(k, ld))
                pivot = v.scalar(row, k)
                with b.if_then(b.fcmp_ordered("<=", pivot, constant(v.element, 0))):
                    b.ret(I32(1))
                root = intrinsic(b, "sqrt", [pivot])
                roots = v.splat(root, lanes)
                with loop(b, b.and_(k, I64(-lanes)), n, lanes) as j:
                    v.store(b.fdiv(v.load(row, j, lanes), roots), row, j)
                b.store(root, v.at(row, k), align=v.size)
                with loop(b, b.add(k, I64(1)), n) as i:
                    factor = v.splat(b.fneg(v.scalar(row, i)), lanes)
                    other = v.at(a, b.mul(i, ld))
                    with loop(b, b.and_(i, I64(-lanes)), n, lanes) as j:
                        v.store(v.fma(factor, v.load(row, j, lanes), v.load(other, j, lanes)), other, j)
            b.ret(I32(0))

        return self._function("root_rows", [POINTER, I64, I64], I32, emit)

    def _root(self) -> ir.Function:
        """i32 (ptr a, i64 n, i64 ld, ptr packed): the upper factor in place, by halves."""

        def emit(v: Vectors, a: ir.Value, n: ir.Value, ld: ir.Value, packed: ir.Value) -> None:
            b = v.b
            with b.if_then(b.icmp_signed("<=", n, I64(BLOCK))):
                b.ret(b.call(self._root_rows(), [a, n, ld]))
            half, rest = self._halves(b, n, BLOCK)
            right = v.at(a, half)
            below = v.at(right, b.mul(half, ld))
            with b.if_then(b.icmp_signed("!=", b.call(self._root(), [a, half, ld, packed]), I32(0))):
                b.ret(I32(1))
            b.call(self.forward(), [a, I64(1), ld, right, ld, half, rest, I1(0), packed])
            b.call(
                self.update(),
                [right, I64(1), ld, right, ld, below, ld, rest, rest, half, I1(1), packed],
            )
            b.ret(b.call(self._root(), [below, rest, ld, packed]))

        return self._function("root", [POINTER, I64, I64, POINTER], I32, emit, plain=True)

    # -- LU

    def _lu(self, v: Vectors, small: bool, *args: ir.Value) -> None:
        work, src, n, ld, pivots, scratch = args
        b = v.b
        memcpy = declare(self.module, "llvm.memcpy.p0.p0.i64", ir.VoidType(), [POINTER, POINTER, I64, I1])
        with loop(b, I64(0), n) as i:
            target, source = v.at(work, b.mul(i, ld)), v.at(src, b.mul(i, n))
            b.call(memcpy, [target, source, b.mul(n, I64(v.size)), I1(0)])
        self._clear_ends(v, work, n, ld)
        if small:
            b.ret(b.call(self._eliminated_panel(), [work, ld, n, n, pivots, scratch]))
            return
        packed = v.at(scratch, self._panel_length(b, n))
        b.ret(b.call(self._eliminated(), [work, ld, n, n, pivots, scratch, packed]))

    def _panel_length(self, b: ir.IRBuilder, n: ir.Value) -> ir.Value:
        """Elements of a transposed panel of n rows."""
        per_line = LINE // self.dtype.itemsize
        return b.mul(b.and_(b.add(n, I64(per_line - 1)), I64(-per_line)), I64(self.panel))

    def _eliminated(self) -> ir.Function:
        """i32 (ptr a, i64 ld, i64 m, i64 w, ptr pivots, ptr panel, ptr packed): LU of m rows and w columns in place,
        by halves of the columns."""

        def emit(v: Vectors, *args: ir.Value) -> None:
            a, ld, m, w, pivots, panel, packed = args
            b = v.b
            with b.if_then(b.icmp_signed("<=", w, I64(self.panel))):
                b.ret(b.call(self._eliminated_panel(), [a, ld, m, w, pivots, panel]))
            half, rest = self._halves(b, w, self.panel)
            below = v.at(a, b.mul(half, ld))
            right, corner = v.at(a, half), v.at(below, half)
            lower = b.sub(m, half)
            more = b.gep(pivots, [half], source_etype=I32)
            first = b.call(self._eliminated(), [a, ld, m, half, pivots, panel, packed])
            b.call(self.exchange(), [right, ld, pivots, half, rest])
            b.call(self.forward(), [a, ld, I64(1), right, ld, half, rest, I1(1), packed])
            b.call(self.update(), [below, ld, I64(1), right, ld, corner, ld, lower, rest, half, I1(0), packed])
            second = b.call(self._eliminated(), [corner, ld, lower, rest, more, panel, packed])
            b.call(self.exchange(), [below, ld, more, rest, half])
            with loop(b, I64(0), rest) as i:
                place = b.gep(more, [i], source_etype=I32)
                number = b.load(place, typ=I32, align=4)
                b.store(b.add(number, b.trunc(half, I32)), place, align=4)
            b.ret(b.or_(first, second))

        types = [POINTER, I64, I64, I64, POINTER, POINTER, POINTER]
        return self._function("eliminated", types, I32, emit, plain=True)

    def _eliminated_panel(self) -> ir.Function:
        """i32 (ptr a, i64 ld, i64 m, i64 w, ptr pivots, ptr panel): the same for few columns, transposed meanwhile."""

        def emit(v: Vectors, *args: ir.Value) -> None:
            a, ld, m, w, pivots, panel = args
            b, lanes = v.b, self.lanes
            length = b.and_(b.add(m, I64(lanes - 1)), I64(-lanes))
            b.call(self.transpose(), [panel, length, a, ld, m, w])
            zero = b.alloca(I32)
            b.store(I32(0), zero)
            with loop(b, I64(0), w) as k:
                column = v.at(panel, b.mul(k, length))
                with loop(b, m, length) as i:
                    b.store(constant(v.element, 0), v.at(column, i), align=v.size)
            with loop(b, I64(0), w) as k:
                column = v.at(panel, b.mul(k, length))
                place = self._largest(v, column, k, length)
                b.store(b.trunc(b.add(place, I64(1)), I32), b.gep(pivots, [k], source_etype=I32), align=4)
                with loop(b, I64(0), w) as c:
                    other = v.at(panel, b.mul(c, length))
                    upper, lower = v.at(other, k), v.at(other, place)
                    x, y = v.scalar(upper), v.scalar(lower)
                    b.store(y, upper, align=v.size)
                    b.store(x, lower, align=v.size)
                pivot = v.scalar(column, k)
                nothing = b.fcmp_ordered("==", pivot, constant(v.element, 0))
                with b.if_else(nothing) as (then, otherwise):
                    with then:
                        b.store(I32(1), zero)
                    with otherwise:
                        self._eliminate(v, panel, length, column, k, w, pivot)
            b.call(self.transpose(), [a, ld, panel, length, w, m])
            b.ret(b.load(zero, typ=I32))

        return self._function("eliminated_panel", [POINTER, I64, I64, I64, POINTER, POINTER], I32, emit)

    def _eliminate(self, v: Vectors, panel: ir.Value, length: ir.Value, *rest: ir.Value) -> None:
        """Divide what is below the pivot of column k by it, and take its multiples from the columns after it."""
        column, k, w, pivot = rest
        b, lanes = v.b, self.lanes
        pivots, after = v.splat(pivot, lanes), b.add(k, I64(1))
        bound = splat(b, k, lanes)
        with loop(b, b.and_(k, I64(-lanes)), length, lanes) as i:
            below = b.icmp_signed(">", b.add(lane_numbers(lanes), splat(b, i, lanes)), bound)
            old = v.load(column, i, lanes)
            factor = b.fdiv(old, pivots)
            v.store(b.select(below, factor, old), column, i)
            with loop(b, after, w) as c:
                other = v.at(panel, b.mul(c, length))
                top = v.splat(b.fneg(v.scalar(other, k)), lanes)
                value = v.load(other, i, lanes)
                v.store(b.select(below, v.fma(top, factor, value), value), other, i)

    def _largest(self, v: Vectors, column: ir.Value, k: ir.Value, length: ir.Value) -> ir.Value:
        """The first place from k on of the largest magnitude; NaN counts as nothing, as in LAPACK."""
        b, lanes = v.b, self.lanes
        numbers = ir.VectorType(I64, lanes)
        start, low = splat(b, k, lanes), b.and_(k, I64(-lanes))
        before = b.block
        again, after = b.append_basic_block("again"), b.append_basic_block("after")
        b.branch(again)
        b.position_at_end(again)
        i, most, where = b.phi(I64), b.phi(ir.VectorType(v.element, lanes)), b.phi(numbers)
        here = b.add(lane_numbers(lanes), splat(b, i, lanes))
        size = intrinsic(b, "fabs", [v.load(column, i, lanes)])
        better = b.and_(b.icmp_signed(">=", here, start), b.fcmp_ordered(">", size, most))
        larger, found = b.select(better, size, most), b.select(better, here, where)
        following = b.add(i, I64(lanes))
        for phi, first, next_ in ((i, low, following), (most, v.zero(lanes), larger), (where, start, found)):
            phi.add_incoming(first, before)
            phi.add_incoming(next_, again)
        b.cbranch(b.icmp_signed("<", following, length), again, after)
        b.position_at_end(after)
        top = self._reduced(v, "fmax", larger, v.element)
        best = b.fcmp_ordered("==", larger, splat(b, top, lanes))
        candidates = b.select(best, found, constant(numbers, (1 << 62)))
        return self._reduced(v, "smin", candidates, I64)

    def _reduced(self, v: Vectors, op: str, value: ir.Value, result: ir.Type) -> ir.Value:
        name = f"llvm.vector.reduce.{op}.{type_name(value.type)}"
        return v.b.call(declare(self.module, name, result, [value.type]), [value])

    def _exchange(self, v: Vectors, *args: ir.Value) -> None:
        a, ld, pivots, count, columns = args
        b, lanes = v.b, self.lanes
        with loop(b, I64(0), count) as k:
            number = b.load(b.gep(pivots, [k], source_etype=I32), typ=I32, align=4)
            other = b.sub(b.sext(number, I64), I64(1))
            with b.if_then(b.icmp_signed("!=", other, k)):
                upper, lower = v.at(a, b.mul(k, ld)), v.at(a, b.mul(other, ld))
                with loop(b, I64(0), columns, lanes) as j:
                    mask = b.icmp_signed("<", lane_numbers(lanes), splat(b, b.sub(columns, j), lanes))
                    x, y = v.load(upper, j, lanes, mask), v.load(lower, j, lanes, mask)
                    v.store(y, upper, j, mask)
                    v.store(x, lower, j, mask)
        b.ret_void()

"""Innermost functions of factorisations: register tiles of C -= A B and of triangular solves, with extents and strides
as arguments, and the transposition of a block.

A tile reads A where it is: a row's address is a register, and the offset along a row another one that all share, so
that A may have any two strides, also negative ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir

from nufunc.codegen.gemm_tile import Vectors, loop, repeated
from nufunc.codegen.llvm import I1, I32, I64, POINTER, lane_numbers, splat


def least(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(b.icmp_signed("<", x, y), x, y)


def define(
    module: ir.Module, name: str, types: Sequence[ir.Type], result: ir.Type, emit: Callable[..., None],
    dtype: np.dtype, has_fma: bool, plain: bool = False,
) -> ir.Function:  # fmt: skip
    """An internal function, emitted when it is first asked for: emit(vectors, *arguments). `plain` ones, which only
    call others, are not optimised: that takes longer to compile than it ever saves."""
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(result, list(types)), name)
    function.linkage = "internal"
    for attribute in ("noinline", "nounwind", "optnone")[: 3 if plain else 2]:
        function.attributes.add(attribute)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    emit(Vectors(b, dtype, has_fma), *function.args)
    return function


class Tiles:
    """Tiles of `rows` rows and two vectors of `lanes`."""

    def __init__(self, module: ir.Module, dtype: np.dtype, rows: int, lanes: int, has_fma: bool) -> None:
        self.module, self.dtype, self.has_fma = module, dtype, has_fma
        self.rows, self.lanes = rows, lanes

    def _function(self, kind: str, types: Sequence[ir.Type], emit: Callable[..., None]) -> ir.Function:
        name = f"nf.factor.{self.dtype.str[1:]}.{kind}"
        return define(self.module, name, types, ir.VoidType(), emit, self.dtype, self.has_fma)

    def block(self) -> ir.Function:
        """void (ptr a, i64 s, i64 t, ptr b, i64 ldb, ptr c, i64 ldc, i64 k, i64 rows, i64 columns): C -= A B for up
        to one tile; k is at least 1."""

        def emit(v: Vectors, *args: ir.Value) -> None:
            *shared, rows, columns = args
            a, s, t, base, ldb, c, ldc, k = shared
            b = v.b
            whole = b.and_(b.icmp_signed("==", rows, I64(self.rows)), b.icmp_signed("==", columns, I64(2 * self.lanes)))
            with b.if_else(whole) as (full, edge):
                with full:
                    b.call(self._full(), shared)
                with edge, loop(b, I64(0), columns, self.lanes) as j:
                    rest = [k, rows, b.sub(columns, j)]
                    b.call(self._edge(), [a, s, t, v.at(base, j), ldb, v.at(c, j), ldc, *rest])
            b.ret_void()

        return self._function("block", [POINTER, I64, I64, POINTER, I64, POINTER, *[I64] * 4], emit)

    def _full(self) -> ir.Function:
        def emit(v: Vectors, a: ir.Value, s: ir.Value, t: ir.Value, base: ir.Value, *rest: ir.Value) -> None:
            ldb, c, ldc, k = rest
            places = [v.b.mul(I64(i), s) for i in range(self.rows)]
            sums = self._sums(v, [v.at(a, p) for p in places], t, base, ldb, k, 2, None)
            for i in range(self.rows):
                row = v.at(c, v.b.mul(I64(i), ldc))
                for j in range(2):
                    old = v.load(row, j * self.lanes, self.lanes)
                    v.store(v.b.fsub(old, sums[2 * i + j]), row, j * self.lanes)
            v.b.ret_void()

        return self._function("full", [POINTER, I64, I64, POINTER, I64, POINTER, I64, I64], emit)

    def _edge(self) -> ir.Function:
        """One vector wide, of which `columns` lanes count; rows from `rows` on are the last one again."""

        def emit(v: Vectors, a: ir.Value, s: ir.Value, t: ir.Value, base: ir.Value, *rest: ir.Value) -> None:
            ldb, c, ldc, k, rows, columns = rest
            b = v.b
            mask, numbers = self._mask(v, columns), self._clamped(v, rows)
            sums = self._sums(v, [v.at(a, b.mul(n, s)) for n in numbers], t, base, ldb, k, 1, mask)
            places = [v.at(c, b.mul(n, ldc)) for n in numbers]
            found = [b.fsub(v.load(p, 0, self.lanes, mask), x) for p, x in zip(places, sums, strict=True)]
            for place, value in zip(places, found, strict=True):
                v.store(value, place, 0, mask)
            b.ret_void()

        return self._function("edge", [POINTER, I64, I64, POINTER, I64, POINTER, *[I64] * 4], emit)

    def _mask(self, v: Vectors, columns: ir.Value) -> ir.Value:
        return v.b.icmp_signed("<", lane_numbers(self.lanes), splat(v.b, columns, self.lanes))

    def _clamped(self, v: Vectors, rows: ir.Value) -> list[ir.Value]:
        last = v.b.sub(rows, I64(1))
        return [least(v.b, I64(i), last) for i in range(self.rows)]

    def _sums(
        self, v: Vectors, rows: list[ir.Value], t: ir.Value, base: ir.Value, ldb: ir.Value, k: ir.Value,
        vectors: int, mask: ir.Value | None,
    ) -> list[ir.Value]:  # fmt: skip
        """The products of the rows of A, at these addresses, with `vectors` vectors of B."""
        b = v.b

        def step(state: Sequence[ir.Value]) -> Sequence[ir.Value]:
            offset, place, *sums = state
            right = [v.load(place, j * self.lanes, self.lanes, mask) for j in range(vectors)]
            made = []
            for i, row in enumerate(rows):
                x = v.splat(v.scalar(row, offset), self.lanes)
                made += [v.fma(x, r, sums[i * vectors + j]) for j, r in enumerate(right)]
            return [b.add(offset, t), v.at(place, ldb), *made]

        zeros = [v.zero(self.lanes)] * (len(rows) * vectors)
        return repeated(b, k, [I64(0), base, *zeros], step)[2:]

    def triangle(self) -> ir.Function:
        """void (ptr a, i64 s, i64 t, ptr b, i64 ldb, i64 rows, i64 columns, i1 unit): B becomes L^-1 B for up to
        `rows` rows and one vector. A division per element, not a product with the inverse, so that exact quotients
        come out exact."""

        def emit(v: Vectors, *args: ir.Value) -> None:
            a, s, t, base, ldb, rows, columns, unit = args
            b = v.b
            mask, numbers = self._mask(v, columns), self._clamped(v, rows)
            across = [b.mul(n, t) for n in numbers]
            left = [v.at(a, b.mul(n, s)) for n in numbers]
            places = [v.at(base, b.mul(n, ldb)) for n in numbers]
            done: list[ir.Value] = []
            for i in range(self.rows):
                value = v.load(places[i], 0, self.lanes, mask)
                for j, x in enumerate(done):
                    factor = b.fneg(v.scalar(left[i], across[j]))
                    value = v.fma(v.splat(factor, self.lanes), x, value)
                done.append(self._quotient(v, value, left[i], across[i], unit))
            for place, value in reversed(list(zip(places, done, strict=True))):
                v.store(value, place, 0, mask)  # that of the last row comes after those of the rows behind it
            b.ret_void()

        types = [POINTER, I64, I64, POINTER, I64, I64, I64, I1]
        return self._function("triangle", types, emit)

    def _quotient(self, v: Vectors, value: ir.Value, row: ir.Value, place: ir.Value, unit: ir.Value) -> ir.Value:
        """The value over the diagonal's element, or itself."""
        b, before = v.b, v.b.block
        divides, after = b.append_basic_block("divides"), b.append_basic_block("divided")
        b.cbranch(unit, after, divides)
        b.position_at_end(divides)
        quotient = b.fdiv(value, v.splat(v.scalar(row, place), self.lanes))
        b.branch(after)
        b.position_at_end(after)
        phi = b.phi(value.type)
        phi.add_incoming(value, before)
        phi.add_incoming(quotient, divides)
        return phi


def transpose(
    v: Vectors, dst: ir.Value, ldd: ir.Value, src: ir.Value, lds: ir.Value, rows: ir.Value, columns: ir.Value
) -> None:
    """The body of a function: dst[j, i] = src[i, j], four by four, the last ones over again where four do not divide
    an extent; fewer than four one by one."""
    b = v.b
    last_row, last_column = b.sub(rows, I64(4)), b.sub(columns, I64(4))
    few = b.icmp_signed("<", least(b, rows, columns), I64(4))
    with b.if_then(few):
        with loop(b, I64(0), rows) as i, loop(b, I64(0), columns) as j:
            value = v.scalar(v.at(src, b.mul(i, lds)), j)
            b.store(value, v.at(v.at(dst, b.mul(j, ldd)), i), align=v.size)
        b.ret_void()
    with loop(b, I64(0), rows, 4) as above, loop(b, I64(0), columns, 4) as before:
        i, j = least(b, above, last_row), least(b, before, last_column)
        source = v.at(v.at(src, b.mul(i, lds)), j)
        target = v.at(v.at(dst, b.mul(j, ldd)), i)
        block = [v.load(v.at(source, b.mul(I64(k), lds)), 0, 4) for k in range(4)]
        for k, column in enumerate(_turned(b, block)):
            v.store(column, v.at(target, b.mul(I64(k), ldd)), 0)
    b.ret_void()


def _turned(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The columns of four vectors of four."""

    def shuffle(x: ir.Value, y: ir.Value, picks: list[int]) -> ir.Value:
        return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, 4), picks))

    low, high, first, second = [0, 4, 1, 5], [2, 6, 3, 7], [0, 1, 4, 5], [2, 3, 6, 7]
    p, q, r, u = rows
    left, right = (shuffle(p, q, low), shuffle(r, u, low)), (shuffle(p, q, high), shuffle(r, u, high))
    return [shuffle(*pair, picks) for pair in (left, right) for picks in (first, second)]

"""sort and argsort of a plan, in internal functions: one for each size of element, with or without positions.

Lines along the axis are gathered into scratch memory as unsigned keys whose order is that of np.sort, sorted there,
and written back. Short runs are sorted by insertion, longer ones merged, and long lines sorted by their bytes, the
least one first, which takes no comparisons. All of it is stable.

Note [Keys]
    A float's bits become an unsigned number of the same order: all are flipped below zero, the sign alone above. NaN is
    the largest, whatever its sign. For `sort` the map can be undone, so that no values are carried along; it puts -0.0
    before 0.0. For `argsort`, where equal elements must have equal keys, zeros have one key and NaN has one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import numpy_sort
from nufunc.codegen.buffers import aligned
from nufunc.codegen.library import call_extern
from nufunc.codegen.llvm import I1, I64, POINTER
from nufunc.ir.graph import Node

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

_RUN = 16  # elements that are sorted by insertion
_DIGITS = 256  # values of a byte
_INFINITY = {2: 0x7C00, 4: 0x7F800000, 8: 0x7FF0000000000000}


def _bytewise(n: int, size: int) -> bool:
    """Whether a line is long enough that a pass per byte beats one per doubling of runs."""
    return n >= 64 * size and n > 4 * _RUN


def scratch(node: Node) -> int:
    """Two lines of keys, for argsort two of positions, and the places of the digits of each byte."""
    size = node.operands[0].dtype.itemsize
    n = node.operands[0].shape[node.attrs["axis"]]
    table = 8 * _DIGITS * size if _bytewise(n, size) else 0
    return 2 * aligned(n * size) + (2 * aligned(8 * n) if node.prim == "argsort" else 0) + table


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    x, axis = node.operands[0], node.attrs["axis"]
    n, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    outer = math.prod(x.shape[:axis])
    if 0 in x.shape:
        return
    b, size, places = plan.b, x.dtype.itemsize, node.prim == "argsort"
    theirs = numpy_sort.name(x.dtype) if not places and plan.signals else None  # without Python there is no NumPy
    if theirs is not None:
        _by_numpy(plan, scope, node, theirs)
        return
    key = ir.IntType(8 * size)
    work = scope.scratch(node)
    line = aligned(n * size)
    lines = [work, plan.at(work, line)]
    offset = 2 * line
    if places:
        lines += [plan.at(work, offset), plan.at(work, offset + aligned(8 * n))]
        offset += 2 * aligned(8 * n)
    bytewise = _bytewise(n, size)
    table = [plan.at(work, offset)] if bytewise else []
    function = _sorter(plan.module, size, places, bytewise)
    source, target = scope.pointer(x), scope.pointer(node.result)
    first = plan.loop(outer)
    i = first.__enter__()
    second = plan.loop(inner)
    j = second.__enter__()
    start = b.add(b.mul(i, I64(n * inner)), j)
    where = lambda k: b.add(start, b.mul(k, I64(inner)))
    fill = plan.loop(n)
    k = fill.__enter__()
    bits = b.load(b.gep(source, [where(k)], source_etype=key), typ=key, align=size)
    b.store(_key(b, bits, x.dtype, places), b.gep(lines[0], [k], source_etype=key), align=size)
    if places:
        b.store(k, b.gep(lines[2], [k], source_etype=I64), align=8)
    fill.finish([])
    flipped = b.call(function, [*lines, *table, I64(n)])
    done = b.select(flipped, lines[-1], lines[-2])
    type_ = I64 if places else key
    write = plan.loop(n)
    k = write.__enter__()
    value = b.load(b.gep(done, [k], source_etype=type_), typ=type_, align=type_.width // 8)
    value = value if places else _bits(b, value, x.dtype)
    b.store(value, b.gep(target, [where(k)], source_etype=type_), align=type_.width // 8)
    write.finish([])
    second.finish([])
    first.finish([])


def _by_numpy(plan: Plan, scope: Scope, node: Node, name: str) -> None:
    """Lines sorted by NumPy: in the result where they are contiguous, else in scratch memory."""
    x, axis = node.operands[0], node.attrs["axis"]
    n, inner, outer = x.shape[axis], math.prod(x.shape[axis + 1 :]), math.prod(x.shape[:axis])
    b, size = plan.b, x.dtype.itemsize
    element = ir.IntType(8 * size)
    source, target, work = scope.pointer(x), scope.pointer(node.result), scope.scratch(node)

    def moved(k: ir.Value, to: Any, at: ir.Value, origin: Any, place: ir.Value) -> None:
        value = b.load(b.gep(origin, [place], source_etype=element), typ=element, align=size)
        b.store(value, b.gep(to, [at], source_etype=element), align=size)

    first = plan.loop(outer)
    i = first.__enter__()
    second = plan.loop(inner)
    start = b.add(b.mul(i, I64(n * inner)), second.__enter__())
    where = lambda k: b.add(start, b.mul(k, I64(inner)))
    line = b.gep(target, [start], source_etype=element) if inner == 1 else work
    fill = plan.loop(n)
    k = fill.__enter__()
    moved(k, line, k, source, where(k))
    fill.finish([])
    call_extern(plan, name, ir.IntType(32), [line, I64(n), ir.Constant(POINTER, None)])
    if inner > 1:
        write = plan.loop(n)
        k = write.__enter__()
        moved(k, target, where(k), line, k)
        write.finish([])
    second.finish([])
    first.finish([])


# -- keys, see Note [Keys]


def _key(b: ir.IRBuilder, bits: ir.Value, dtype: np.dtype, places: bool) -> ir.Value:
    type_ = bits.type
    top = type_(-1 << (type_.width - 1))
    if dtype.kind == "b":
        return b.zext(b.icmp_unsigned("!=", bits, type_(0)), type_)
    if dtype.kind == "i":
        return b.xor(bits, top)
    if dtype.kind == "u":
        return bits
    negative = b.ashr(bits, type_(type_.width - 1))
    key = b.xor(bits, b.or_(negative, top))
    size = b.and_(bits, b.not_(top))
    nan = b.icmp_unsigned(">", size, type_(_INFINITY[dtype.itemsize]))
    if not places:
        return b.select(nan, b.or_(bits, top), key)
    key = b.select(b.icmp_unsigned("==", size, type_(0)), top, key)
    return b.select(nan, type_(-1), key)


def _bits(b: ir.IRBuilder, key: ir.Value, dtype: np.dtype) -> ir.Value:
    """The element of a key."""
    type_ = key.type
    top = type_(-1 << (type_.width - 1))
    if dtype.kind == "i":
        return b.xor(key, top)
    if dtype.kind != "f":
        return key
    positive = b.icmp_signed("<", key, type_(0))
    return b.xor(key, b.select(positive, top, type_(-1)))


# -- the functions


def _sorter(module: ir.Module, size: int, places: bool, bytewise: bool) -> ir.Function:
    """i1 sort(keys, keys'[, positions, positions'][, table], n): the result stands in the second ones where it returns
    true."""
    symbol = f"nf.sort.i{8 * size}{'.places' if places else ''}{'.bytes' if bytewise else ''}"
    if symbol in module.globals:
        return module.globals[symbol]
    pointers = (4 if places else 2) + bytewise
    function = ir.Function(module, ir.FunctionType(I1, [POINTER] * pointers + [I64]), symbol)
    function.linkage = "internal"
    function.attributes.add("noinline")
    for argument in function.args[:-1]:
        argument.add_attribute("noalias")
    made = _Sorter(function, size, places)
    made.by_bytes() if bytewise else made.by_merging()
    return function


class _Sorter:
    """Emits the body of a sorting function. A `line` is the pointers of keys and, for argsort, of positions."""

    def __init__(self, function: ir.Function, size: int, places: bool) -> None:
        self.function, self.key = function, ir.IntType(8 * size)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        args = function.args
        self.n = args[-1]
        self.types = [self.key, I64] if places else [self.key]
        self.lines = [[args[0], args[2]], [args[1], args[3]]] if places else [[args[0]], [args[1]]]
        self.table = args[-2]

    def block(self, name: str) -> ir.Block:
        return self.function.append_basic_block(name)

    def phi(self, type_: ir.Type, first: ir.Value, before: ir.Block) -> Any:
        made = self.b.phi(type_)
        made.add_incoming(first, before)
        return made

    @contextmanager
    def loop(self, start: ir.Value, stop: ir.Value, step: ir.Value | None = None) -> Iterator[ir.Value]:
        """for i in start, start + step, ... below stop; not at all where start is no less."""
        b, before = self.b, self.b.block
        body, after = self.block("loop"), self.block("after")
        b.cbranch(b.icmp_signed("<", start, stop), body, after)
        b.position_at_end(body)
        counter = self.phi(I64, start, before)
        yield counter
        following = b.add(counter, I64(1) if step is None else step)
        counter.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, stop), body, after)
        b.position_at_end(after)

    def load(self, line: list[Any], at: ir.Value) -> list[ir.Value]:
        return [self._load(p, at, t) for p, t in zip(line, self.types)]

    def _load(self, pointer: Any, at: ir.Value, type_: ir.IntType) -> ir.Value:
        return self.b.load(self.b.gep(pointer, [at], source_etype=type_), typ=type_, align=type_.width // 8)

    def store(self, line: list[Any], at: ir.Value, values: list[ir.Value]) -> None:
        for p, t, value in zip(line, self.types, values):
            self.b.store(value, self.b.gep(p, [at], source_etype=t), align=t.width // 8)

    def least(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    # -- by insertion and merging

    def by_merging(self) -> None:
        """Runs of _RUN by insertion; for width in _RUN, 2 _RUN, ...: merge neighbouring runs into the other line."""
        b, n = self.b, self.n
        with self.loop(I64(0), n, I64(_RUN)) as low, self.loop(
            b.add(low, I64(1)), self.least(b.add(low, I64(_RUN)), n)
        ) as i:
            self.insert(self.lines[0], low, i)
        before, passes, runs, after, done = b.block, *(self.block(x) for x in ("passes", "runs", "merged", "done"))
        b.branch(passes)
        b.position_at_end(passes)
        width = self.phi(I64, I64(_RUN), before)
        sides = [[self.phi(POINTER, p, before) for p in line] for line in self.lines]
        flipped = self.phi(I1, I1(0), before)
        b.cbranch(b.icmp_signed("<", width, n), runs, done)
        b.position_at_end(runs)
        low = self.phi(I64, I64(0), passes)
        middle, high = (self.least(b.add(low, b.mul(width, I64(k))), n) for k in (1, 2))
        self.merge(sides, low, middle, high)
        low.add_incoming(high, b.block)
        b.cbranch(b.icmp_signed("<", high, n), runs, after)
        b.position_at_end(after)
        width.add_incoming(b.shl(width, I64(1)), after)
        for mine, others in zip(sides, reversed(sides)):
            for phi, other in zip(mine, others):
                phi.add_incoming(other, after)
        flipped.add_incoming(b.not_(flipped), after)
        b.branch(passes)
        b.position_at_end(done)
        b.ret(flipped)

    def insert(self, line: list[Any], low: ir.Value, i: ir.Value) -> None:
        """Put element i where it belongs among those from `low` on."""
        b, before = self.b, self.b.block
        values = self.load(line, i)
        search, move, put = (self.block(x) for x in ("search", "move", "put"))
        b.branch(search)
        b.position_at_end(search)
        place = self.phi(I64, i, before)
        previous = b.sub(place, I64(1))
        inside = b.icmp_signed(">", place, low)
        found = self.load(line, b.select(inside, previous, low))
        b.cbranch(b.and_(inside, b.icmp_unsigned(">", found[0], values[0])), move, put)
        b.position_at_end(move)
        self.store(line, place, found)
        place.add_incoming(previous, move)
        b.branch(search)
        b.position_at_end(put)
        self.store(line, place, values)

    def merge(self, sides: list[list[Any]], low: ir.Value, middle: ir.Value, high: ir.Value) -> None:
        """Two neighbouring runs of the first side into the second, without a branch on what is compared."""
        b, before = self.b, self.b.block
        loop, after = self.block("merge"), self.block("over")
        b.branch(loop)
        b.position_at_end(loop)
        out, left, right = (self.phi(I64, start, before) for start in (low, low, middle))
        more_left, more_right = b.icmp_signed("<", left, middle), b.icmp_signed("<", right, high)
        # a run that is used up still has a safe element to look at
        at_left, at_right = b.select(more_left, left, low), b.select(more_right, right, low)
        x, y = (self._load(sides[0][0], at, self.key) for at in (at_left, at_right))
        take_right = b.and_(more_right, b.or_(b.not_(more_left), b.icmp_unsigned("<", y, x)))
        self.store(sides[1], out, self.load(sides[0], b.select(take_right, at_right, at_left)))
        step, following = b.zext(take_right, I64), b.add(out, I64(1))
        out.add_incoming(following, loop)
        left.add_incoming(b.add(left, b.sub(I64(1), step)), loop)
        right.add_incoming(b.add(right, step), loop)
        b.cbranch(b.icmp_signed("<", following, high), loop, after)
        b.position_at_end(after)

    # -- by bytes

    def by_bytes(self) -> None:
        """How often each byte has each value; then a pass per byte, but for those that are the same everywhere."""
        b, n, count = self.b, self.n, self.key.width // 8
        with self.loop(I64(0), I64(count * _DIGITS)) as i:
            b.store(I64(0), b.gep(self.table, [i], source_etype=I64), align=8)
        with self.loop(I64(0), n) as i:
            key = self._load(self.lines[0][0], i, self.key)
            for d in range(count):
                slot = self.slot(key, I64(d))
                b.store(b.add(b.load(slot, typ=I64, align=8), I64(1)), slot, align=8)
        before, passes, place, after, done = b.block, *(self.block(x) for x in ("bytes", "place", "placed", "done"))
        b.branch(passes)
        b.position_at_end(passes)
        digit = self.phi(I64, I64(0), before)
        sides = [[self.phi(POINTER, p, before) for p in line] for line in self.lines]
        flipped = self.phi(I1, I1(0), before)
        first = self.slot(self._load(sides[0][0], I64(0), self.key), digit)
        same = b.icmp_signed("==", b.load(first, typ=I64, align=8), n)
        b.cbranch(same, after, place)
        b.position_at_end(place)
        self.distribute(sides, digit)
        other_way, end = b.not_(flipped), b.block
        b.branch(after)
        b.position_at_end(after)
        next_sides = []
        for mine, others in zip(sides, reversed(sides)):
            chosen = []
            for own, other in zip(mine, others):
                phi = self.phi(POINTER, own, passes)
                phi.add_incoming(other, end)
                chosen.append(phi)
            next_sides.append(chosen)
        turned = self.phi(I1, flipped, passes)
        turned.add_incoming(other_way, end)
        following = b.add(digit, I64(1))
        digit.add_incoming(following, after)
        flipped.add_incoming(turned, after)
        for side, chosen in zip(sides, next_sides):
            for phi, value in zip(side, chosen):
                phi.add_incoming(value, after)
        b.cbranch(b.icmp_signed("<", following, I64(count)), passes, done)
        b.position_at_end(done)
        b.ret(turned)

    def slot(self, key: ir.Value, digit: ir.Value) -> ir.Value:
        """The entry of the table for byte number `digit` of a key."""
        b = self.b
        shift = b.shl(digit, I64(3))
        shift = shift if self.key.width == 64 else b.trunc(shift, self.key)
        value = b.and_(b.lshr(key, shift), self.key(_DIGITS - 1)) if self.key.width > 8 else key
        wide = value if self.key.width == 64 else b.zext(value, I64)
        return b.gep(self.table, [b.add(b.mul(digit, I64(_DIGITS)), wide)], source_etype=I64)

    def distribute(self, sides: list[list[Any]], digit: ir.Value) -> None:
        """Counts to first places; then every element to the next place of its byte."""
        b, before = self.b, self.b.block
        base = b.gep(self.table, [b.mul(digit, I64(_DIGITS))], source_etype=I64)
        sums, after = self.block("sums"), self.block("summed")
        b.branch(sums)
        b.position_at_end(sums)
        i, total = self.phi(I64, I64(0), before), self.phi(I64, I64(0), before)
        slot = b.gep(base, [i], source_etype=I64)
        found = b.load(slot, typ=I64, align=8)
        b.store(total, slot, align=8)
        following = b.add(i, I64(1))
        i.add_incoming(following, sums)
        total.add_incoming(b.add(total, found), sums)
        b.cbranch(b.icmp_signed("<", following, I64(_DIGITS)), sums, after)
        b.position_at_end(after)
        with self.loop(I64(0), self.n) as k:
            values = self.load(sides[0], k)
            slot = self.slot(values[0], digit)
            place = b.load(slot, typ=I64, align=8)
            b.store(b.add(place, I64(1)), slot, align=8)
            self.store(sides[1], place, values)

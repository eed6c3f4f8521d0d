"""Factorizations of small matrices and of stacks of them by our own kernels: a block, or one thread, for each matrix.

Note [Teams]
A team of threads works on one matrix at a time: a block, or where there are many tiny ones a thread. The matrix lies in
shared memory (of one thread: in its own) if it fits, else in global memory. A step ends with a barrier of the team.
Which thread computes an element depends on extents alone, and each element is computed by one, in order, so results are
the same in every run. Pivots are the first largest ones, complex numbers measured as LAPACK does; a pivot of zero is
passed over, and what fails is written to the error word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.library_steps import Lower, Lowered, count_of, not_empty
from nufunc.codegen.cuda.program import Launch, Place
from nufunc.codegen.loops import Buffer
from nufunc.codegen.text_scalars import type_text
from nufunc.ir.types import real_dtype

INT32 = np.dtype(np.int32)
TINY, MANY = 5, 256  # the order of matrices up to which, and how many from which on, a thread does one
SHARED = 40 << 10  # bytes of a block's matrices
LOCAL = 1 << 10  # and of a thread's
BLOCKS = 4096


@dataclass(frozen=True)
class Team:
    """`threads` of a block for each matrix; 1: a thread of its own."""

    threads: int
    across: int  # neighbouring threads that go along a row

    @property
    def alone(self) -> bool:
        return self.threads == 1

    @property
    def down(self) -> int:
        return self.threads // self.across


def team_for(count: int, rows: int, columns: int) -> Team:
    if max(rows, columns) <= TINY and count >= MANY:
        return Team(1, 1)
    threads = 32 if max(rows, columns) <= 16 else 64 if max(rows, columns) <= 32 else 256
    across = 1
    while across < min(columns, 32) and across < threads:
        across *= 2
    return Team(threads, across)


class Matrices:
    """An array of a kernel's: stacks of row-major matrices in global memory, or one in shared or local memory."""

    def __init__(self, name: str, rows: int, columns: int, base: str = "") -> None:
        self.name, self.rows, self.columns, self.base = name, rows, columns, base

    def __call__(self, i: str | int, j: str | int) -> str:
        place = f"{i} * {self.columns} + {j}" if self.columns != 1 else f"{i}"
        return f"{self.name}[{self.base}{place}]"


class Writer:
    """The text of a kernel over a stack of `count` matrices."""

    def __init__(self, made: Lowered, team: Team) -> None:
        self.made, self.team = made, team
        self.lines: list[str] = []
        self.arrays: list[str] = []
        self.depth = 2
        self.dtype = made.operands[0].dtype
        self.real = real_dtype(self.dtype)
        self.type, self.real_type = type_text(self.dtype), type_text(self.real)
        self.memory = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def inside(self, head: str) -> Iterator[None]:
        self.line(head)
        self.depth += 1
        yield
        self.depth -= 1

    def barrier(self) -> None:
        if not self.team.alone:
            self.line("cuda.syncthreads()")

    def one(self, *lines: str) -> None:
        """What one thread of the team does."""
        if self.team.alone:
            for text in lines:
                self.line(text)
            return
        with self.inside("if thread == 0:"):
            for text in lines:
                self.line(text)

    def each(self, name: str, start: str, stop: str) -> str:
        """The head of a loop that the team divides."""
        if self.team.alone:
            return f"for {name} in range({start}, {stop}):"
        return f"for {name} in range({start} + thread, {stop}, {self.team.threads}):"

    @contextmanager
    def pairs(
        self, rows: tuple[str, str], columns: tuple[str, str], names: tuple[str, str] = ("i", "j")
    ) -> Iterator[None]:
        """Loops over rows and columns that the team divides."""
        team = self.team
        down, across = ("", "") if team.alone else (" + down", " + across")
        with (
            self.inside(f"for {names[0]} in range({rows[0]}{down}, {rows[1]}, {team.down}):"),
            self.inside(f"for {names[1]} in range({columns[0]}{across}, {columns[1]}, {team.across}):"),
        ):
            yield

    def array(self, name: str, size: int, type_: str) -> None:
        """Memory of the team's."""
        where = "local" if self.team.alone else "shared"
        self.arrays.append(f"    {name} = cuda.{where}.array({size}, {type_})")

    def fits(self, elements: int) -> bool:
        """Whether so many elements more have a place in fast memory; it is theirs then."""
        limit = LOCAL if self.team.alone else SHARED
        if self.memory + elements * self.dtype.itemsize > limit:
            return False
        self.memory += elements * self.dtype.itemsize
        return True

    def brought(self, name: str, source: str, rows: int, columns: int, work: str) -> Matrices:
        """A matrix of the stack `source` to work on: in fast memory, or in the stack `work` of global memory."""
        size = rows * columns
        if self.fits(size):
            self.array(name, max(size, 1), self.type)
            found = Matrices(name, rows, columns)
        else:
            found = Matrices(work, rows, columns, f"item * {size} + ")
        with self.inside(self.each("e", "0", str(size))):
            self.line(f"{found.name}[{found.base}e] = {source}[item * {size} + e]")
        return found

    def conj(self, text: str) -> str:
        return f"{self.type}(complex({text}.real, -{text}.imag))" if self.dtype.kind == "c" else text

    def fail(self) -> list[str]:
        return ["if error[0] == 0:", f"    error[0] = int32({self.made.site})"]

    def kernel(self, name: str, buffers: Sequence[Buffer]) -> Kernel:
        team, count = self.team, count_of(self.made.operands[0].shape)
        head = f"def {name}({', '.join(b.name for b in buffers)}, error):"
        wide = max(b.size for b in buffers) >= 2**31
        cast = (lambda text: f"int64({text})") if wide else (lambda text: text)
        if team.alone:
            start = [f"    for item in range({cast('cuda.grid(1)')}, {count}, cuda.gridsize(1)):"]
            blocks, threads = -(-count // 64), 64
        else:
            start = [
                f"    thread = {cast('cuda.threadIdx.x')}", f"    across = thread % {team.across}",
                f"    down = thread // {team.across}",
                f"    for item in range({cast('cuda.blockIdx.x')}, {count}, {cast('cuda.gridDim.x')}):",
            ]  # fmt: skip
            blocks, threads = count, team.threads
        self.barrier()  # before the next matrix takes the place of this one
        source = "\n".join((head, *self.arrays, *start, *self.lines)) + "\n"
        return Kernel(name, source, tuple(buffers), 0, min(blocks, BLOCKS), threads)


# -- steps


def cholesky(w: Writer, x: Matrices) -> None:
    """The lower triangle becomes the factor."""
    n = x.rows
    with w.inside(f"for k in range({n}):"):
        w.barrier()
        w.line(f"pivot = {x('k', 'k')}" + (".real" if w.dtype.kind == "c" else ""))
        w.line(f"root = {w.real_type}(sqrt(pivot if pivot > 0 else {w.real_type}(0)))")
        w.line("root = root if pivot == pivot else pivot")
        w.barrier()
        w.one("if not (pivot > 0 or pivot != pivot):", *("    " + text for text in w.fail()))
        w.one(f"{x('k', 'k')} = {w.type}(root)")
        with w.inside(w.each("i", "k + 1", str(n))):
            w.line(f"{x('i', 'k')} = {x('i', 'k')} / root")
        w.barrier()
        with w.pairs(("k + 1", str(n)), ("k + 1", str(n))), w.inside("if j <= i:"):
            w.line(f"{x('i', 'j')} = {x('i', 'j')} - {x('i', 'k')} * {w.conj(x('j', 'k'))}")
    w.barrier()


def measure(w: Writer, text: str) -> str:
    return f"abs({text}.real) + abs({text}.imag)" if w.dtype.kind == "c" else f"abs({text})"


def eliminate(w: Writer, x: Matrices, exchanges: Callable[[str], str]) -> None:
    """LU with row exchanges, which are stored from 0; `singular` is whether a pivot was 0."""
    m, n = x.rows, x.columns
    if not w.team.alone:
        w.array("best", w.team.threads, w.real_type)
        w.array("where", w.team.threads, "int32")
    w.line("singular = False")
    with w.inside(f"for k in range({min(m, n)}):"):
        w.barrier()
        _pivot(w, x)
        with w.inside("if p != k:"), w.inside(w.each("j", "0", str(n))):
            w.line(f"held = {x('k', 'j')}")
            w.line(f"{x('k', 'j')} = {x('p', 'j')}")
            w.line(f"{x('p', 'j')} = held")
        w.one(f"{exchanges('k')} = int32(p)")
        w.barrier()
        w.line(f"pivot = {x('k', 'k')}")
        w.line("singular = singular or pivot == 0")
        with w.inside("if pivot != 0:"), w.inside(w.each("i", "k + 1", str(m))):
            w.line(f"{x('i', 'k')} = {x('i', 'k')} / pivot")
        w.barrier()
        with w.inside("if pivot != 0:"), w.pairs(("k + 1", str(m)), ("k + 1", str(n))):
            w.line(f"{x('i', 'j')} = {x('i', 'j')} - {x('i', 'k')} * {x('k', 'j')}")
    w.barrier()


def _pivot(w: Writer, x: Matrices) -> None:
    """p: the row of the first largest entry of column k, from row k on."""
    step = w.team.threads
    w.line(f"p = int32(k{'' if w.team.alone else ' + thread'})")
    w.line(f"size = {w.real_type}(-1)")
    with w.inside(w.each("i", "k", str(x.rows))):
        w.line(f"own = {w.real_type}({measure(w, x('i', 'k'))})")
        with w.inside("if own > size:"):
            w.line("size = own")
            w.line("p = int32(i)")
    if w.team.alone:
        return
    w.line("best[thread] = size")
    w.line("where[thread] = p")
    w.barrier()
    while step > 1:
        step //= 2
        with w.inside(f"if thread < {step}:"):
            better = f"best[thread + {step}] > best[thread]"
            equal = f"best[thread + {step}] == best[thread] and where[thread + {step}] < where[thread]"
            with w.inside(f"if {better} or ({equal}):"):
                w.line(f"best[thread] = best[thread + {step}]")
                w.line(f"where[thread] = where[thread + {step}]")
        w.barrier()
    w.line("p = where[0] if best[0] >= 0 else int32(k)")


def exchange(w: Writer, b: Matrices, exchanges: Callable[[str], str], n: int) -> None:
    """The rows of right-hand sides as elimination exchanged them, a column by a thread."""
    with w.inside(w.each("c", "0", str(b.columns))), w.inside(f"for k in range({n}):"):
        w.line(f"p = {exchanges('k')}")
        w.line(f"held = {b('k', 'c')}")
        w.line(f"{b('k', 'c')} = {b('p', 'c')}")
        w.line(f"{b('p', 'c')} = held")
    w.barrier()


def substitute(w: Writer, a: Callable[[str, str], str], b: Matrices, *, forward: bool, unit: bool) -> None:
    """Solve with a triangle, from the first row on or from the last."""
    n, columns = b.rows, str(b.columns)
    with w.inside(f"for step in range({n}):"):
        w.line("k = step" if forward else f"k = {n - 1} - step")
        w.barrier()
        if not unit:
            with w.inside(w.each("c", "0", columns)):
                w.line(f"{b('k', 'c')} = {b('k', 'c')} / {a('k', 'k')}")
            w.barrier()
        with w.pairs(("k + 1", str(n)) if forward else ("0", "k"), ("0", columns), ("i", "c")):
            w.line(f"{b('i', 'c')} = {b('i', 'c')} - {a('i', 'k')} * {b('k', 'c')}")
    w.barrier()


# -- primitives


def _buffers(made: Lowered) -> list[Buffer]:
    operands = [Buffer(name, t.dtype, t.size) for name, t in zip(("a", "b"), made.operands, strict=False)]
    names = ("x", "y", "z")
    return [*operands, *(Buffer(n, t.dtype, t.size, written=True) for n, t in zip(names, made.results, strict=False))]


def _places(made: Lowered) -> list[Place]:
    return [*(made.operand(k) for k in range(len(made.operands))), *(made.result(k) for k in range(len(made.results)))]


def launch(made: Lowered, w: Writer, *more: tuple[Buffer, Place]) -> None:
    kernel = w.kernel(made.prim, [*_buffers(made), *(buffer for buffer, _ in more)])
    made.steps.append(Launch(kernel, (*_places(made), *(place for _, place in more))))


def started(made: Lowered) -> tuple[Writer, int, int, int]:
    *_, m, n = made.operands[0].shape
    count = count_of(made.operands[0].shape)
    return Writer(made, team_for(count, m, n)), count, m, n


def _cholesky(made: Lowered) -> None:
    w, _, n, _ = started(made)
    x = w.brought("s", "a", n, n, "x")
    cholesky(w, x)
    with w.pairs(("0", str(n)), ("0", str(n))):
        w.line(f"x[item * {n * n} + i * {n} + j] = {x('i', 'j')} if j <= i else {w.type}(0)")
    launch(made, w)


def _lu(made: Lowered) -> None:
    w, _, m, n = started(made)
    x = w.brought("s", "a", m, n, "x")
    k = min(m, n)
    exchanges = lambda i: f"y[item * {k} + {i}]"
    eliminate(w, x, exchanges)
    if not x.base:
        with w.inside(w.each("e", "0", str(m * n))):
            w.line(f"x[item * {m * n} + e] = s[e]")
    with w.inside(w.each("i", "0", str(m))):
        w.line(f"z[item * {m} + i] = int64(i)")
    w.barrier()
    rows = Matrices("z", m, 1, f"item * {m} + ")
    exchange(w, rows, exchanges, k)
    launch(made, w)


def _worked(
    made: Lowered, w: Writer, m: int, n: int
) -> tuple[Matrices, Callable[[str], str], list[tuple[Buffer, Place]]]:
    """The first operand's LU in memory that nobody else reads, its exchanges, and the workspaces of both."""
    type_ = made.operands[0]
    count = count_of(type_.shape)
    x = w.brought("s", "a", m, n, "work")
    more = [(Buffer("work", type_.dtype, type_.size, written=True), made.area(type_.nbytes))] if x.base else []
    if w.team.alone:
        w.array("moved", n, "int32")
        exchanges: Callable[[str], str] = lambda i: f"moved[{i}]"
    else:
        more.append((Buffer("moved", INT32, count * n, written=True), made.area(4 * count * n)))
        exchanges = lambda i: f"moved[item * {n} + {i}]"
    eliminate(w, x, exchanges)
    return x, exchanges, more


def _solve(made: Lowered) -> None:
    w, _, n, _ = started(made)
    columns = made.operands[1].shape[-1]
    x, exchanges, more = _worked(made, w, n, n)
    w.one("if singular:", *("    " + text for text in w.fail()))
    b = w.brought("r", "b", n, columns, "x")
    w.barrier()
    exchange(w, b, exchanges, n)
    substitute(w, x, b, forward=True, unit=True)
    substitute(w, x, b, forward=False, unit=False)
    _handed(w, b)
    launch(made, w, *more)


def _handed(w: Writer, b: Matrices) -> None:
    """What was solved in fast memory to the result."""
    size = b.rows * b.columns
    if not b.base:
        with w.inside(w.each("e", "0", str(size))):
            w.line(f"x[item * {size} + e] = {b.name}[e]")


def _triangular_solve(made: Lowered) -> None:
    w, _, n, _ = started(made)
    columns = made.operands[1].shape[-1]
    a = Matrices("a", n, n, f"item * {n * n} + ")
    if w.fits(n * n):
        w.memory -= n * n * w.dtype.itemsize
        a = w.brought("s", "a", n, n, "a")
    b = w.brought("r", "b", n, columns, "x")
    lower, trans, unit = (made.attrs[name] for name in ("lower", "trans", "unit"))
    substitute(w, (lambda i, j: a(j, i)) if trans else a, b, forward=lower != trans, unit=unit)
    _handed(w, b)
    launch(made, w)


def _determinant(made: Lowered) -> None:
    """det is the product of the pivots; slogdet the product of their signs, and the sum of their logarithms."""
    w, _, n, _ = started(made)
    logs = made.prim == "slogdet"
    x, exchanges, more = _worked(made, w, n, n)
    one = f"{w.type}(1)"
    text = [f"product = {one}", f"total = {w.real_type}(0)", f"for k in range({n}):", f"    pivot = {x('k', 'k')}"]
    if logs:
        size = "hypot(pivot.real, pivot.imag)" if w.dtype.kind == "c" else "abs(pivot)"
        sign = f"{w.type}(pivot / size)" if w.dtype.kind == "c" else f"({one} if pivot > 0 else {w.type}(-1))"
        text += [f"    size = {w.real_type}({size})", f"    total = total + {w.real_type}(log(size))"]
        text += [f"    pivot = {sign} if pivot == pivot else pivot"]
    text += [
        f"    product = product * (-pivot if {exchanges('k')} != k else pivot)", "if singular:",
        f"    product = {w.type}(0)", f"    total = {w.real_type}(-inf)", "x[item] = product",
    ]  # fmt: skip
    w.one(*text, *(["y[item] = total"] if logs else []))
    launch(made, w, *more)


LOWER: dict[str, Lower] = {
    name: not_empty(lower)
    for name, lower in {
        "cholesky": _cholesky, "lu": _lu, "solve": _solve, "triangular_solve": _triangular_solve,
        "det": _determinant, "slogdet": _determinant,
    }.items()
}  # fmt: skip


def is_small(made: Lowered) -> bool:
    """Whether our own kernels are as good as a library that takes the matrices of a stack one by one."""
    shape = made.operands[0].shape
    count, n = count_of(shape), max(shape[-2:])
    return n <= 32 or (n <= 128 and count >= 8) or (n <= 256 and count >= 64)

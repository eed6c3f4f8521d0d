"""Own matrix products: C[m, n] = A[m, k] B[k, n] in f32 and f64 as LLVM with explicit vectors, on the calling thread.

Note [Matrix products]
Sums over k are one chain of fma per element of C inside a block of `KC` steps, and one addition per block: the error
of |C - exact| is below (k / blocks + blocks) eps (|A| |B|). Which rows and columns a call computes changes no bit of
them: parts begin at multiples of the kernel's units, and what decides about sums depends on the product alone.

Three kernels: register tiles inside blocks (`gemm_blocks`), the same on the transposed product where a matrix that is
adjacent along its rows meets a vector, and dot products along k (`gemm_inner`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from llvmlite import ir

from nufunc.codegen.gemm_blocks import Blocks
from nufunc.codegen.gemm_inner import SHORT, Inner
from nufunc.codegen.gemm_shape import SUPPORTED, Part, Spec, product_spec
from nufunc.codegen.llvm import I64, POINTER

__all__ = ["SUPPORTED", "Part", "Spec", "grid", "judged", "kernel", "product_function", "product_spec"]

PLAIN_LOOPS = 32  # steps of k from which the loops around tiles are not optimised: LLVM takes longer than for the tiles
A_BYTES_PER_NS, B_BYTES_PER_NS = (200, 60), (60, 22)  # of operands of a part: read where they are, packed; measured
PAGE = 4096
TEAMS = (1, 2, 3, 4, 8)  # numbers of threads for which a division is judged


@cache
def kernel(spec: Spec, part: Part | None = None) -> Blocks | Inner:
    """What computes a product; in calls of at most `part` rows and columns, or at once."""
    part = part or (spec.m, spec.n)
    inner = _inner(spec)
    if inner is not None:
        return inner
    if spec.n == 1 and spec.m > 1 and spec.c_stride == 1 == spec.a_strides[0]:
        return Blocks(spec.transposed(), part[::-1], swapped=True)
    return Blocks(spec, part)


def _inner(spec: Spec) -> Inner | None:
    """The product as dot products along k, where few rows meet a matrix whose steps of k are adjacent."""
    a_unit, b_unit = spec.a_strides[1] == 1, spec.b_strides[0] == 1
    if min(spec.m, spec.n) > SHORT or spec.k < 2 * spec.lanes or not min(spec.m, spec.n):
        return None
    a_long = spec.m >= spec.n if a_unit and b_unit else a_unit
    copies = not (a_unit and b_unit)
    long, short = (spec.m, spec.n) if a_long else (spec.n, spec.m)
    if not (a_unit or b_unit) or short > SHORT or (copies and (short > 1 or long < 16) and long < 32):
        return None
    strides = (spec.a_strides[0], spec.b_strides[1]) if a_long else (spec.b_strides[1], spec.a_strides[0])
    c_strides = (spec.c_stride, 1) if a_long else (1, spec.c_stride)
    source = (spec.b_strides[::-1] if a_long else spec.a_strides) if copies else None
    if copies:
        strides = (strides[0], spec.k)
    sizes = (spec.dtype, long, short, spec.k, *strides, c_strides)
    return Inner(*sizes, spec.lanes, spec.registers, spec.has_fma, a_long, source)


def product_function(
    module: ir.Module, spec: Spec, part: Part | None = None, *, accumulate: bool = False
) -> ir.Function:
    """void (ptr A, ptr B, ptr C, ptr scratch [, i64 row, i64 row_end, i64 column, i64 column_end]), once per module
    and spec: C = A B, or C += A B. C may overlap neither operand; scratch is aligned to 64, `kernel(...).scratch`
    bytes, each thread its own. With `part` a call computes a range of rows and columns, at most so many; ranges begin
    at multiples of `kernel(...).units`, and end there or where C ends.
    """
    tag = ".add" * accumulate + (f".{part[0]}x{part[1]}" if part else "")
    name = f"nf.gemm.{spec.name}{tag}"
    if name in module.globals:
        return module.globals[name]
    types = [POINTER] * 4 + [I64] * (4 if part else 0)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    function.attributes.add("noinline")
    if spec.k >= PLAIN_LOOPS:
        function.attributes.add("optnone")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    ranges = (tuple(function.args[4:6]), tuple(function.args[6:8])) if part else ((0, spec.m), (0, spec.n))
    kernel(spec, part).emit(function, ranges, b, accumulate)
    b.ret_void()
    return function


@cache
def grid(spec: Spec, tasks: int, work: float, along: int | None = None) -> tuple[tuple[int, int], Part]:
    """How a product of `work` nanoseconds is divided among at most so many tasks: into how many ranges of rows and
    of columns, and how many rows and columns these have at most. Tasks that share rows read the same of A, those that
    share columns the same of B. With `along` only rows (0) or columns (1) are divided."""
    whole = (spec.m, spec.n)
    units = kernel(spec).units
    counts = [max(1, -(-n // unit)) for n, unit in zip(whole, units, strict=True)]
    if along is not None:
        counts[1 - along] = 1
    best: tuple[float, tuple[int, int], Part] = (float("inf"), (1, 1), whole)
    for rows in range(1, min(counts[0], tasks) + 1):
        for columns in range(1, min(counts[1], tasks // rows) + 1):
            divided = (rows, columns)
            part = tuple(
                min(n, -(-count // d) * unit) if d > 1 else n
                for n, count, d, unit in zip(whole, counts, divided, units, strict=True)
            )
            made = judged(spec, rows * columns, (part[0], part[1]), work)
            if made < best[0] * 0.999:
                best = (made, divided, (part[0], part[1]))
    return best[1:]


def judged(spec: Spec, tasks: int, part: Part, work: float) -> float:
    """Nanoseconds of all threads, over teams of several sizes, for a product in so many tasks of at most `part`: a
    team does equal numbers of tasks, or its last task, at worst, has begun just before the others were done."""
    reading = _reading(kernel(spec, part), part, spec.k * spec.dtype.itemsize)
    longest = work * part[0] * part[1] / (spec.m * spec.n) + reading
    total = work + tasks * reading
    return sum(min(-(-tasks // team) * team * longest, total + (team - 1) * longest) for team in TEAMS)


def _reading(made: Blocks | Inner, part: Sequence[int], line: int) -> float:
    """Nanoseconds in which a part's operands, of so many bytes a row or column, are read and packed."""
    if isinstance(made, Inner):
        return sum(part) * line / A_BYTES_PER_NS[0]
    rows, columns = part[::-1] if made.swapped else part
    crowded = made.spec.b_strides[0] * made.spec.dtype.itemsize % PAGE == 0  # rows of B share few sets of the caches
    across = B_BYTES_PER_NS[made.cut.pack_b or crowded]
    return line * (rows / A_BYTES_PER_NS[made.cut.pack_a] + columns / across)

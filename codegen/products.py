"""Matrix products of a plan: own kernels for f32 and f64, BLAS for complex numbers; batches and parts in parallel.

Note [Products]
OpenBLAS is not asked for real products: its threads are a pool of their own, which fights with ours (and with other
processes) over the cores, and setting its number of threads changes the whole process. Own products run on the calling
thread; a large one is cut into ranges of rows and columns, a batch into ranges of products, as tasks of a parallel
region. Which part a task computes changes no bit of it. What a task packs lies in a slot of memory that it shares
with no other running task, the lowest free one, so that a thread finds the same memory in its cache again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llvmlite import ir

from nufunc.codegen import gemm, threads
from nufunc.codegen.backend import target
from nufunc.codegen.buffers import aligned
from nufunc.codegen.library import Caller, letter
from nufunc.codegen.llvm import I1, I64, declare
from nufunc.codegen.product_shape import Shape, blas_lines, dot_shape
from nufunc.codegen.regions import emit_region
from nufunc.codegen.strided import materialised, row_major
from nufunc.ir.graph import Node, Value

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

SCRATCH = 32 << 20  # bytes for the packing of all tasks of a batch at most
BYTES_PER_NS = 10
MANY = 8  # products of a batch from which each is done by one task

@dataclass(frozen=True)
class Work:
    """How a dot is done: products by `spec` (None: BLAS) in so many `tasks`. Where there are few products each is
    divided into `parts` ranges of rows and columns, of at most `part`; else each task does several."""

    shape: Shape
    spec: gemm.Spec | None
    tasks: int
    parts: tuple[int, int]
    part: gemm.Part | None
    units: gemm.Part  # ranges begin at multiples of these
    scratch: int  # bytes of each running task
    copies: int  # bytes of operands that are copied first
    work: float = 0.0  # nanoseconds of one product

    @property
    def cost(self) -> float:
        """How good the division is, see `gemm.judged`."""
        if self.spec is None or self.part is None:
            return 0.0
        return gemm.judged(self.spec, self.parts[0] * self.parts[1], self.part, self.work)

    @property
    def memory(self) -> int:
        return self.copies + self.tasks * self.scratch

    def coarser(self, units: gemm.Part) -> Work | None:
        """The same with ranges that begin at multiples of multiples of the units; None where these need more memory."""
        assert self.spec is not None
        counts = -(-self.spec.m // units[0]), -(-self.spec.n // units[1])
        rows, columns = (min(p, count) for p, count in zip(self.parts, counts, strict=True))
        part = (
            min(self.spec.m, -(-counts[0] // rows) * units[0]),
            min(self.spec.n, -(-counts[1] // columns) * units[1]),
        )
        tasks = self.shape.count * rows * columns
        if tasks == 1 or aligned(gemm.kernel(self.spec, part).scratch) > self.scratch:
            return None
        return replace(self, parts=(rows, columns), part=part, units=units, tasks=tasks)


def plan_dot(
    plan: Plan, node: Node, operands: Sequence[Value], strides: Sequence[int] | None = None, along: int | None = None
) -> Work:
    """The dot `node` of these operands, into a result with these strides (left out: row-major). A product that is
    divided among tasks is divided only into rows (`along` is 0) or columns (1), where that is said."""
    shape = dot_shape(node, operands, plan.view_of, strides or row_major(node.result.shape))
    copies = sum(aligned(o.value.type.nbytes) for o in shape.operands if o.packed is not None)
    dtype, count = node.result.dtype, shape.count
    if dtype not in gemm.SUPPORTED:
        return Work(shape, None, 1, (1, 1), None, (1, 1), 0, copies)
    host = target()
    m, n, k = shape.m.extent, shape.n.extent, shape.k[0]
    spec = gemm.product_spec(host, dtype, (m, n, k), *shape.strides)
    lanes, item = host.vector_bits // 8 // dtype.itemsize, dtype.itemsize
    work = max(m * n * k / lanes / 4, (m * k + k * n + m * n) * item / BYTES_PER_NS)
    tasks = threads.tasks_for(count * work)
    parts, part = (1, 1), None
    if count >= min(tasks, MANY):
        tasks = min(tasks, count)
    else:
        parts, part = gemm.grid(spec, max(1, tasks // count), work, along)
        tasks, part = count * parts[0] * parts[1], part if parts != (1, 1) else None
    kernel = gemm.kernel(spec, part)
    need = aligned(kernel.scratch)
    if need and part is None:
        tasks = min(tasks, max(1, SCRATCH // need))
    return Work(shape, spec, tasks, parts, part, kernel.units, need, copies, work)


def scratch(plan: Plan, node: Node) -> int:
    """Bytes for operands that must be copied, and for what running tasks pack."""
    return plan_dot(plan, node, node.operands).memory


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    work = plan_dot(plan, node, node.operands)
    emit_work(plan, scope, work, scope.scratch(node), scope.pointer(node.result))


def emit_work(
    plan: Plan, scope: Scope, work: Work, memory: ir.Value, result: ir.Value, follow: Follow | None = None
) -> None:
    """Run a dot, with `work.memory` bytes of scratch; `follow` does something with each part of the result."""
    pointers = [*_operands(plan, scope, work, memory), result, plan.at(memory, work.copies)]
    captured = follow.pointers if follow is not None else []
    job = _Job(plan, work, follow)
    if work.tasks == 1 or plan.in_task:
        job.products([*pointers, *captured], I64(0), I64(work.shape.count))
        return
    taken = plan.alloca(8, 8)
    plan.b.store(I64(0), taken)

    def part(inside: list[ir.Value], task: ir.Value) -> None:
        slot, *arrays = inside
        number = take_slot(plan, slot)
        arrays[3] = plan.at(arrays[3], plan.b.mul(number, I64(work.scratch)))
        if work.part is None:
            job.products(arrays, *threads.chunk(plan.b, task, I64(work.tasks), work.shape.count))
        else:
            job.part(arrays, task)
        give_slot(plan, slot, number)

    emit_region(plan, work.tasks, [taken, *pointers, *captured], part)


def _operands(plan: Plan, scope: Scope, work: Work, memory: ir.Value) -> list[ir.Value]:
    """Pointers to x and y, copies made."""
    size, offset, pointers = work.shape.operands[0].value.dtype.itemsize, 0, []
    for operand in work.shape.operands:
        if operand.packed is None:
            assert operand.source is not None
            pointers.append(plan.at(scope.pointer(operand.source.base), operand.source.offset * size))
            continue
        place = plan.at(memory, offset)
        offset += aligned(operand.value.type.nbytes)
        base, region = materialised(operand.value, plan.view_of, operand.packed)
        plan.kernel(region, [scope.pointer(base), place], "packed")
        pointers.append(place)
    return pointers


@dataclass(frozen=True)
class Follow:
    """What is done with each part of a product as soon as it is there, while it is in the cache: `emit` is given
    `pointers`, as they are called in the task, from which element of the result on the product lies, and the ranges of
    rows and columns that are there."""

    pointers: list[ir.Value]
    emit: Callable[[Sequence[ir.Value], ir.Value, Sequence[ir.Value]], None]


def take_slot(plan: Plan, taken: ir.Value) -> ir.Value:
    """The lowest slot that no running task has; `taken` points to a word with a bit for each."""
    b = plan.b
    before, again, after = b.block, *(plan.function.append_basic_block(n) for n in ("take", "took"))
    first = b.load_atomic(taken, "monotonic", 8, typ=I64)
    b.branch(again)
    b.position_at_end(again)
    held = b.phi(I64)
    find = declare(plan.module, "llvm.cttz.i64", I64, [I64, I1])
    slot = b.call(find, [b.not_(held), I1(0)])
    pair = b.cmpxchg(taken, held, b.or_(held, b.shl(I64(1), slot)), "acquire", "monotonic")
    held.add_incoming(first, before)
    held.add_incoming(b.extract_value(pair, 0), again)
    b.cbranch(b.extract_value(pair, 1), after, again)
    b.position_at_end(after)
    return slot


def give_slot(plan: Plan, taken: ir.Value, slot: ir.Value) -> None:
    plan.b.atomic_rmw("and", taken, plan.b.not_(plan.b.shl(I64(1), slot)), "release")


@dataclass(frozen=True)
class _Job:
    """Emits a dot's loops and calls."""

    plan: Plan
    work: Work
    follow: Follow | None

    def part(self, pointers: Sequence[ir.Value], task: ir.Value) -> None:
        """The ranges of rows and columns of one product that a task has."""
        assert self.work.spec is not None
        b, (rows, columns) = self.plan.b, self.work.parts
        units = self.work.units
        row = b.urem(task, I64(rows))  # neighbouring tasks, which one thread does, share columns
        column = b.urem(b.udiv(task, I64(rows)), I64(columns))
        ranges = (
            *threads.chunk(b, row, I64(rows), self.work.spec.m, units[0]),
            *threads.chunk(b, column, I64(columns), self.work.spec.n, units[1]),
        )
        self.one(pointers, b.udiv(task, I64(rows * columns)), ranges)

    def products(self, pointers: Sequence[ir.Value], first: ir.Value, last: ir.Value) -> None:
        """The products `first` to `last`."""
        if not self.work.shape.loops:
            self.one(pointers, I64(0), None)
            return
        with self.plan.loop(last, first) as number:
            self.one(pointers, number, None)

    def one(self, pointers: Sequence[ir.Value], number: ir.Value, ranges: tuple[ir.Value, ...] | None) -> None:
        """One product, whole or ranges of its rows and columns, and what follows."""
        plan, work, b = self.plan, self.work, self.plan.b
        *arrays, scratch = pointers[:4]
        size, rest = work.shape.operands[0].value.dtype.itemsize, number
        offset = I64(0)
        for k, axis in enumerate(reversed(work.shape.loops)):
            here = rest if k == len(work.shape.loops) - 1 else b.urem(rest, I64(axis.extent))
            arrays = [plan.at(p, b.mul(here, I64(s * size))) for p, s in zip(arrays, axis.strides, strict=True)]
            offset = b.add(offset, b.mul(here, I64(axis.strides[2])))
            rest = b.udiv(rest, I64(axis.extent))
        if work.spec is None:
            _blas(plan, work.shape, arrays)
            return
        if work.shape.exchanged:
            arrays[0], arrays[1] = arrays[1], arrays[0]
        function = gemm.product_function(plan.module, work.spec, work.part if ranges is not None else None)
        b.call(function, [*arrays, scratch, *(ranges or ())])
        if self.follow is not None:
            everything = (I64(0), I64(work.spec.m), I64(0), I64(work.spec.n))
            self.follow.emit(pointers[4:], offset, ranges or everything)


def _orient(rows: tuple[int, int], columns: tuple[int, int]) -> tuple[str, int]:
    """How BLAS reads the transposed matrix (columns by rows) in column-major storage: flag and leading dimension."""
    (n, s), (k, t) = rows, columns
    if blas_lines(rows, columns):
        return "N", max(s if n > 1 else 1, k, 1)
    return "T", max(t if k > 1 else 1, n, 1)


def _blas(plan: Plan, shape: Shape, arrays: Sequence[ir.Value]) -> None:
    """result[m, n] = x[m, k] y[n, k]: in column-major terms result' = y x'."""
    dtype = shape.operands[0].value.dtype
    caller, (k, *steps) = Caller(plan), shape.k
    lines = [((axis.extent, axis.strides[side]), (k, steps[side])) for side, axis in enumerate((shape.m, shape.n))]
    m, n = shape.m.extent, shape.n.extent
    one, zero = caller.value(1, dtype), caller.value(0, dtype)
    flip = {"N": "T", "T": "N"}
    if n == 1 or m == 1:
        side = 0 if n == 1 else 1
        flag, lead = _orient(*lines[side])
        extent = lines[side][0][0]
        rows, columns = (k, extent) if flag == "N" else (extent, k)
        step = steps[1 - side] if k > 1 else 1
        args = [caller.value(v) for v in (flip[flag], rows, columns)]
        args += [one, arrays[side], caller.value(lead), arrays[1 - side], caller.value(step), zero, arrays[2]]
        caller.call(letter(dtype) + "gemv", [*args, caller.value(1)])
        return
    (flag_x, lead_x), (flag_y, lead_y) = (_orient(*line) for line in lines)
    args = [caller.value(v) for v in (flip[flag_y], flag_x, n, m, k)]
    args += [one, arrays[1], caller.value(lead_y), arrays[0], caller.value(lead_x), zero, arrays[2], caller.value(n)]
    caller.call(letter(dtype) + "gemm", args)

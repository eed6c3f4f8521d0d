"""Matrix products of a plan: own kernels for f32 and f64, BLAS for complex numbers; batches and rows in parallel.

Note [Products]
OpenBLAS is not asked for real products: its threads are a pool of their own, which fights with ours (and with other
processes) over the cores, and setting its number of threads changes the whole process. Own products run on the calling
thread; a large one is cut into ranges of rows, a batch into ranges of products, as tasks of a parallel region. Which
rows a task computes changes no bit of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import gemm, threads
from nufunc.codegen.backend import target
from nufunc.codegen.buffers import aligned
from nufunc.codegen.library import Caller, letter
from nufunc.codegen.llvm import I64
from nufunc.codegen.regions import emit_region
from nufunc.codegen.strided import Strided, materialised, resolve, row_major
from nufunc.ir.graph import Node, Value

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

ROWS = 64  # rows of a task at least: each packs the other matrix again
ROWS_OF_A_LOOP = 8  # rows at least for a loop of products to be better than one product of a copy
SCRATCH = 32 << 20  # bytes for the packing of all tasks at most
BYTES_PER_NS = 10


@dataclass(frozen=True)
class _Matrix:
    """An operand as rows (free axes) by columns (contracted), with strides in elements; packed: must be
    copied first. `outer` are leading free axes that do not lie in step with the others: the products of a loop over
    them, in which the other operand stays."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    batch: tuple[int, ...]
    source: Strided | None
    packed: tuple[int, ...] | None
    outer: tuple[int, ...] = ()


def _groups(node: Node) -> list[tuple[list[int], list[int], list[int]]]:
    """Batch, free and contracted axes of both operands, the contracted in an order that the first one has in
    memory."""
    contract, batch = node.attrs["contract"], node.attrs["batch"]
    order = sorted(range(len(contract[0])), key=lambda k: contract[0][k])
    made = []
    for side, operand in enumerate(node.operands):
        inner, outer = [contract[side][k] for k in order], list(batch[side])
        made.append((outer, [a for a in range(operand.ndim) if a not in inner and a not in outer], inner))
    return made


def _matrices(plan: Plan, node: Node) -> list[_Matrix]:
    any_strides = node.result.dtype in gemm.SUPPORTED
    return [
        _matrix(resolve(o, plan.view_of), o, g, any_strides) for o, g in zip(node.operands, _groups(node), strict=True)
    ]


def _matrix(
    source: Strided | None, value: Value, groups: tuple[list[int], list[int], list[int]], any_strides: bool
) -> _Matrix:
    batch, free, inner = groups
    columns = None if source is None else source.merged(inner)
    if source is not None and columns is not None:
        steps = tuple(source.strides[a] for a in batch)
        rows = source.merged(free)
        if rows is not None and (any_strides or _fits(rows, columns)):
            return _Matrix(rows, columns, steps, source, None)
        for cut in range(1, len(free)) if any_strides else ():
            rows = source.merged(free[cut:])
            if rows is not None and rows[0] >= ROWS_OF_A_LOOP:
                return _Matrix(rows, columns, steps, source, None, tuple(free[:cut]))
    shape = [value.shape[a] for a in (*batch, *free, *inner)]
    n, k = math.prod(value.shape[a] for a in free), math.prod(value.shape[a] for a in inner)
    return _Matrix((n, k), (k, 1), row_major(shape)[: len(batch)], None, (*batch, *free, *inner))


def _fits(rows: tuple[int, int], columns: tuple[int, int]) -> bool:
    """Whether BLAS can read a matrix of (extent, stride) rows and columns: one unit stride, the other no
    overlap."""
    for (n, s), (m, t) in ((rows, columns), (columns, rows)):
        if (t == 1 or m == 1) and (s >= max(m, 1) or n == 1):
            return True
    return False


@dataclass(frozen=True)
class _Product:
    """How a dot is done: `batch` are (extent, strides of x, y and result); `tasks` share the batch or the rows."""

    matrices: list[_Matrix]
    batch: list[tuple[int, tuple[int, int, int]]]
    spec: tuple[Any, ...] | None  # of an own product; None: BLAS
    tasks: int
    by_rows: bool
    scratch: int  # bytes of each task

    @property
    def count(self) -> int:
        return math.prod(extent for extent, _ in self.batch)


def _product(plan: Plan, node: Node) -> _Product:
    x, y = matrices = _matrices(plan, node)
    dtype, batch = node.result.dtype, _batch(node, matrices)
    m, n, k = x.rows[0], y.rows[0], x.columns[0]
    if dtype not in gemm.SUPPORTED:
        return _Product(matrices, batch, None, 1, False, 0)
    host = target()
    stride = math.prod(node.operands[1].shape[a] for a in _groups(node)[1][1])  # from row to row of the result
    spec = (host, dtype, m, n, k, (x.rows[1], x.columns[1]), (y.columns[1], y.rows[1]), stride)
    count = math.prod(extent for extent, _ in batch)
    lanes, item = host.vector_bits // 8 // dtype.itemsize, dtype.itemsize
    work = threads.tasks_for(count * max(m * n * k / lanes / 4, (m * k + k * n + m * n) * item / BYTES_PER_NS))
    unit = gemm.row_tile(*spec)
    by_rows = count < min(work, 8)
    share = max(1, -(-m // max(unit, ROWS))) if by_rows else count
    need = aligned(gemm.scratch_bytes(*spec))
    if need:
        share = min(share, max(1, SCRATCH // need))
    return _Product(matrices, batch, spec, min(work, share), by_rows, need)


def _batch(node: Node, matrices: Sequence[_Matrix]) -> list[tuple[int, tuple[int, int, int]]]:
    """The batch axes, neighbours that all three arrays pass through in step as one."""
    axes = node.attrs["batch"][0]
    steps = row_major(node.result.shape)
    merged: list[tuple[int, tuple[int, int, int]]] = []
    for k, axis in enumerate(axes):
        extent, strides = node.operands[0].shape[axis], (matrices[0].batch[k], matrices[1].batch[k], steps[k])
        if extent == 1:
            continue
        if merged and merged[-1][1] == tuple(s * extent for s in strides):
            extent *= merged.pop()[0]
        merged.append((extent, strides))
    place = len(axes)
    for side, (_, free, _) in enumerate(_groups(node)):
        matrix = matrices[side]
        for axis in matrix.outer:
            assert matrix.source is not None
            own, result = matrix.source.strides[axis], steps[place + free.index(axis)]
            merged.append((node.operands[side].shape[axis], (own, 0, result) if side == 0 else (0, own, result)))
        place += len(free)
    return merged


def scratch(plan: Plan, node: Node) -> int:
    """Bytes for operands that must be copied, and for what each task packs."""
    product = _product(plan, node)
    copies = sum(
        aligned(o.type.nbytes) for o, m in zip(node.operands, product.matrices, strict=True) if m.packed is not None
    )
    return copies + product.tasks * product.scratch


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    product, size = _product(plan, node), node.result.dtype.itemsize
    pointers, offset = [], 0
    for operand, matrix in zip(node.operands, product.matrices, strict=True):
        if matrix.packed is None:
            assert matrix.source is not None
            pointers.append(plan.at(scope.pointer(matrix.source.base), matrix.source.offset * size))
            continue
        place = plan.at(scope.scratch(node), offset)
        offset += aligned(operand.type.nbytes)
        base, region = materialised(operand, plan.view_of, matrix.packed)
        plan.kernel(region, [scope.pointer(base), place], "packed")
        pointers.append(place)
    pointers += [scope.pointer(node.result), plan.at(scope.scratch(node), offset)]
    if product.tasks == 1 or plan.in_task:
        _each(plan, node, product, pointers, I64(0), I64(product.count))
    elif product.by_rows and product.spec is not None:
        rows = product.matrices[0].rows[0]
        unit = gemm.row_tile(*product.spec)

        def some_rows(inside: list[ir.Value], task: ir.Value) -> None:
            first, last = threads.chunk(plan.b, task, I64(product.tasks), rows, unit)
            inside[3] = _own_scratch(plan, product, inside[3], task)
            _each(plan, node, product, inside, I64(0), I64(product.count), (first, last))

        emit_region(plan, product.tasks, pointers, some_rows)
    else:

        def some_products(inside: list[ir.Value], task: ir.Value) -> None:
            first, last = threads.chunk(plan.b, task, I64(product.tasks), product.count)
            inside[3] = _own_scratch(plan, product, inside[3], task)
            _each(plan, node, product, inside, first, last)

        emit_region(plan, product.tasks, pointers, some_products)


def _own_scratch(plan: Plan, product: _Product, scratch: ir.Value, task: ir.Value) -> ir.Value:
    return plan.at(scratch, plan.b.mul(task, I64(product.scratch))) if product.scratch else scratch


def _each(
    plan: Plan, node: Node, product: _Product, pointers: Sequence[ir.Value], first: ir.Value, last: ir.Value,
    rows: tuple[ir.Value, ir.Value] | None = None,
) -> None:  # fmt: skip
    """The products `first` to `last` of the batch; of each all rows or some."""
    *arrays, scratch = pointers
    size, b = node.result.dtype.itemsize, plan.b
    if not product.batch:
        _one(plan, node, product, arrays, scratch, rows)
        return
    loop = plan.loop(last, first)
    rest = loop.__enter__()
    for extent, strides in reversed(product.batch):
        here = rest if extent == product.count else b.urem(rest, I64(extent))
        arrays = [plan.at(p, b.mul(here, I64(s * size))) for p, s in zip(arrays, strides, strict=True)]
        rest = b.udiv(rest, I64(extent))
    _one(plan, node, product, arrays, scratch, rows)
    loop.finish([])


def _one(
    plan: Plan, node: Node, product: _Product, arrays: Sequence[ir.Value], scratch: ir.Value,
    rows: tuple[ir.Value, ir.Value] | None,
) -> None:  # fmt: skip
    if product.spec is None:
        _blas(plan, node.result.dtype, product.matrices, arrays[:2], arrays[2])
        return
    function = gemm.product_function(plan.module, *product.spec, row_range=rows is not None)
    plan.b.call(function, [*arrays, scratch, *(rows or ())])


def _orient(matrix: _Matrix) -> tuple[str, int]:
    """How BLAS reads the transposed matrix (columns by rows) in column-major storage: flag and leading
    dimension."""
    (n, s), (k, t) = matrix.rows, matrix.columns
    if (t == 1 or k == 1) and (s >= max(k, 1) or n == 1):
        return "N", max(s if n > 1 else 1, k, 1)
    return "T", max(t if k > 1 else 1, n, 1)


def _blas(
    plan: Plan, dtype: np.dtype, matrices: Sequence[_Matrix], pointers: Sequence[ir.Value], result: ir.Value
) -> None:
    """result[m, n] = x[m, k] y[n, k]: in column-major terms result' = y x'."""
    caller, (x, y) = Caller(plan), matrices
    m, n, k = x.rows[0], y.rows[0], x.columns[0]
    one, zero = caller.value(1, dtype), caller.value(0, dtype)
    flip = {"N": "T", "T": "N"}
    if n == 1 or m == 1:
        matrix, vector = (x, y) if n == 1 else (y, x)
        place, other = (pointers[0], pointers[1]) if n == 1 else (pointers[1], pointers[0])
        flag, lead = _orient(matrix)
        rows, columns = (k, matrix.rows[0]) if flag == "N" else (matrix.rows[0], k)
        step = vector.columns[1] if k > 1 else 1
        args = [caller.value(v) for v in (flip[flag], rows, columns)]
        args += [one, place, caller.value(lead), other, caller.value(step), zero, result, caller.value(1)]
        caller.call(letter(dtype) + "gemv", args)
        return
    (flag_x, lead_x), (flag_y, lead_y) = _orient(x), _orient(y)
    args = [caller.value(v) for v in (flip[flag_y], flag_x, n, m, k)]
    args += [
        one,
        pointers[1],
        caller.value(lead_y),
        pointers[0],
        caller.value(lead_x),
        zero,
        result,
        caller.value(n),
    ]
    caller.call(letter(dtype) + "gemm", args)

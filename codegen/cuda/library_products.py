"""Matrix products on a device: how the operands of a dot lie, which BLAS routine that is, what must be copied first.

A row-major matrix is the column-major transpose of it. So result = x y becomes result' = y' x', and each operand, whose
axes are merged to batch, free and contracted ones, is read as it stands or transposed where one of the latter two is
contiguous; else it is put in order first. A vector may have any stride. Inner products are reductions of our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nufunc.codegen.cuda.contraction import Contraction, Side, kernel, parts_of, tile_for
from nufunc.codegen.cuda.library_steps import Lowered
from nufunc.codegen.cuda.program import Launch, Place
from nufunc.codegen.strided import row_major
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs, Graph
from nufunc.ir.prims.library import dot_free_axes
from nufunc.ir.types import FLOAT32, ArrayType, is_half


def workspace_for(work: int) -> int:
    """Bytes that cuBLAS may use for so many multiplications: it needs 16 KiB, and has better ways with what NVIDIA
    recommends, 4 MiB or on large devices 32."""
    return 1 << 16 if work < 1 << 24 else 4 << 20 if work < 1 << 32 else 32 << 20


@dataclass(frozen=True)
class Line:
    """Axes that count as one."""

    extent: int
    stride: int


@dataclass(frozen=True)
class Matrix:
    """An operand in memory: its lines of batch, free and contracted axes."""

    place: Place
    batch: Line
    free: Line
    inner: Line

    @property
    def is_matrix(self) -> bool:
        """Whether BLAS can read it: columns or rows are contiguous."""
        return 1 in (self.free.extent, self.inner.extent, self.free.stride, self.inner.stride)

    def flag(self) -> tuple[bool, int]:
        """Whether the free axis is the contiguous one, and the distance between lines along the other."""
        if (self.free.stride == 1 or self.free.extent == 1) and not (self.inner.stride == 1 and self.free.extent == 1):
            lead = self.inner.stride if self.inner.extent > 1 else 1
            return True, max(lead, self.free.extent, 1)
        lead = self.free.stride if self.free.extent > 1 else 1
        return False, max(lead, self.inner.extent, 1)


def merged(shape: Sequence[int], strides: Sequence[int], axes: Sequence[int]) -> Line | None:
    """Some axes, in this order, as one; None where their strides do not allow it."""
    extent, stride = 1, 1
    for axis in reversed([a for a in axes if shape[a] != 1]):
        if extent != 1 and strides[axis] != stride * extent:
            return None
        stride = strides[axis] if extent == 1 else stride
        extent *= shape[axis]
    return Line(extent, stride)


def _matrix(place: Place, type_: ArrayType, groups: Sequence[Sequence[int]]) -> Matrix | None:
    strides = row_major(type_.shape)
    lines = [merged(type_.shape, strides, group) for group in groups]
    if any(line is None for line in lines):
        return None
    batch, free, inner = (line for line in lines if line is not None)
    return Matrix(place, batch, free, inner)


def _groups(type_: ArrayType, attrs: Attrs, which: int, order: Sequence[int]) -> list[list[int]]:
    """Batch, free and contracted axes of an operand; `order` permutes the contracted ones."""
    contract = attrs["contract"][which]
    return [list(attrs["batch"][which]), list(dot_free_axes(attrs, which, type_.ndim)), [contract[k] for k in order]]


def _needs_copy(matrix: Matrix | None) -> bool:
    return matrix is None or not (matrix.is_matrix)


def matrices(made: Lowered) -> list[Matrix]:
    """Both operands, those that BLAS cannot read copied."""
    attrs = made.attrs
    count = len(attrs["contract"][0])
    orders = [sorted(range(count), key=axes.__getitem__) for axes in attrs["contract"]]
    found: list[tuple[int, list[Matrix | None], list[int]]] = []
    for order in ([*range(count)], *orders):
        pair = [
            _matrix(made.operand(k), type_, _groups(type_, attrs, k, order)) for k, type_ in enumerate(made.operands)
        ]
        copied = sum(t.size for m, t in zip(pair, made.operands, strict=True) if _needs_copy(m))
        found.append((copied, pair, order))
    _, pair, order = min(found, key=lambda entry: entry[0])
    return [m if m is not None and not _needs_copy(m) else _copied(made, k, order) for k, m in enumerate(pair)]


def _copied(made: Lowered, which: int, order: Sequence[int]) -> Matrix:
    """An operand put in order: batch, free, contracted."""
    type_ = made.operands[which]
    groups = _groups(type_, made.attrs, which, order)
    perm = tuple(axis for group in groups for axis in group)
    place = made.area(type_.nbytes)
    made.glue(transposition(type_, perm), made.operand(which), place)
    batch, free, inner = (math.prod(type_.shape[a] for a in group) for group in groups)
    return Matrix(place, Line(batch, free * inner), Line(free, inner), Line(inner, 1))


def transposition(type_: ArrayType, perm: Sequence[int]) -> Graph:
    b = Builder("ordered")
    x = b.param(type_)
    return b.build([b.transposed(x, perm)])


def lower_dot(made: Lowered) -> None:
    """By cuBLAS: gemm, or gemv, of which there is none for halves, where one operand is a vector."""
    x, y = matrices(made)
    if x.free.extent == 1 and y.free.extent == 1:
        _as_sums(made)
    elif 1 in (x.free.extent, y.free.extent) and not is_half(made.results[0].dtype):
        _vector(made, *((x, y) if y.free.extent == 1 else (y, x)))
    else:
        _gemm(made, x, y)


def lower_own_dot(made: Lowered) -> None:
    """By a kernel of our own, or where one operand is a vector as a reduction. Halves are summed in float32."""
    x, y = matrices(made)
    if 1 in (x.free.extent, y.free.extent):
        _as_sums(made)
        return
    names = {"batch": x.batch.extent, "rows": x.free.extent, "columns": y.free.extent, "summed": x.inner.extent}
    batch, rows, columns, summed = (((f"v_{name}", extent),) for name, extent in names.items())
    m, n = x.free.extent, y.free.extent
    stored = made.results[0].dtype
    form = Contraction(
        summed_in(stored), batch, rows, columns, summed,
        Side({"v_batch": x.batch.stride, "v_rows": x.free.stride, "v_summed": x.inner.stride}),
        Side({"v_batch": y.batch.stride, "v_columns": y.free.stride, "v_summed": y.inner.stride}),
        {"v_batch": m * n, "v_rows": n, "v_columns": 1},
        (made.operands[0].size, made.operands[1].size, made.results[0].size), stored,
    )  # fmt: skip
    contract(made, form, x.place, y.place, made.result(0), "product")


def summed_in(dtype: np.dtype) -> np.dtype:
    """What products of a dtype are added up in."""
    return FLOAT32 if is_half(dtype) else dtype


def contract(made: Lowered, form: Contraction, left: Place, right: Place, target: Place, name: str) -> None:
    """Run a contraction."""
    tile = tile_for(form)
    parts = parts_of(form, tile)
    if parts == 1:
        made.steps.append(Launch(kernel(form, name, tile), (left, right, target)))
        return
    result = ArrayType((parts, made.results[0].size), form.dtype)
    apart = made.area(result.nbytes)
    made.steps.append(Launch(kernel(form, name, tile, parts), (left, right, apart)))
    b = Builder("parts")
    made.glue(b.build([b.astype(b.summed(b.param(result), (0,)), form.stored)]), apart, target)


def _gemm(made: Lowered, x: Matrix, y: Matrix) -> None:
    (x_free, x_lead), (y_free, y_lead) = x.flag(), y.flag()
    m, n, k = x.free.extent, y.free.extent, x.inner.extent
    workspace = workspace_for(m * n * k * x.batch.extent)
    made.routine(
        "gemm", made.results[0].dtype,
        {"a": y.place, "b": x.place, "c": made.result(0), "workspace": made.area(workspace)},
        transa=not y_free, transb=x_free, m=n, n=m, k=k, lda=y_lead, ldb=x_lead, ldc=n,
        stride_a=y.batch.stride, stride_b=x.batch.stride, stride_c=m * n, batch=x.batch.extent,
        workspace_bytes=workspace,
    )  # fmt: skip


def _vector(made: Lowered, matrix: Matrix, vector: Matrix) -> None:
    """result = matrix vector, for each of the batch."""
    free, lead = matrix.flag()
    m, k = matrix.free.extent, matrix.inner.extent
    rows, columns = (m, k) if free else (k, m)
    step = vector.inner.stride if k > 1 else 1
    workspace = workspace_for(0)
    made.routine(
        "gemv", made.results[0].dtype,
        {"a": matrix.place, "x": vector.place, "y": made.result(0), "workspace": made.area(workspace)},
        trans=not free, m=rows, n=columns, lda=lead, incx=step, incy=1,
        stride_a=matrix.batch.stride, stride_x=vector.batch.stride, stride_y=m, batch=matrix.batch.extent,
        workspace_bytes=workspace,
    )  # fmt: skip


def _as_sums(made: Lowered) -> None:
    """As a sum of products over batch, free and contracted axes, whose order depends on extents alone."""
    b = Builder("sums")
    spread, shape = [], (*made.results[0].shape, *(made.operands[0].shape[a] for a in made.attrs["contract"][0]))
    rank, inner = made.results[0].ndim, len(made.attrs["contract"][0])
    batch = len(made.attrs["batch"][0])
    free = [len(dot_free_axes(made.attrs, k, t.ndim)) for k, t in enumerate(made.operands)]
    firsts = (batch, batch + free[0])
    dtype = made.results[0].dtype
    for which, type_ in enumerate(made.operands):
        x = b.astype(b.param(type_), summed_in(dtype))
        perm = [a for group in _groups(type_, made.attrs, which, range(inner)) for a in group]
        own = range(firsts[which], firsts[which] + free[which])
        dims = (*range(batch), *own, *range(rank, rank + inner))
        spread.append(b.emit("broadcast", (b.transposed(x, perm),), {"shape": shape, "dims": dims})[0])
    total = b.astype(b.summed(b.mul(*spread), range(rank, rank + inner)), dtype)
    made.glue(b.build([total]), made.operand(0), made.operand(1), made.result(0))

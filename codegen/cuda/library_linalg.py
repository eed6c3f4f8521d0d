"""Linear algebra on a device by cuSOLVER and cuBLAS: how matrices are laid out for them, and what is made of theirs.

A row-major matrix is the column-major transpose of it. Factorizations that know of a transpose are given the matrix as
it stands; for the others it is turned first, and results are turned back. Stacks are given whole: a routine does all
matrices of one.
"""

from __future__ import annotations

import numpy as np

from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.library_products import WORKSPACE
from nufunc.codegen.cuda.library_steps import Hosted, Lower, Lowered, count_of
from nufunc.codegen.cuda.program import Launch, Place
from nufunc.codegen.loops import Buffer
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Value
from nufunc.ir.types import BOOL, INT64, ArrayType, real_dtype

INT32 = np.dtype(np.int32)


# -- small graphs


def swapped(type_: ArrayType) -> Graph:
    """Transposed matrices."""
    b = Builder("turned")
    return b.build([_swap(b, b.param(type_))])


def _swap(b: Builder, x: Value) -> Value:
    return b.transposed(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _triangle(b: Builder, x: Value, compare: str) -> Value:
    """The entries where row and column compare so, zeros elsewhere."""
    row, column = (b.iota(shape=x.shape, dtype=INT64, axis=x.ndim - k) for k in (2, 1))
    return b.select(getattr(b, compare)(row, column), x, b.zeros(x.type))


def lower_triangle(type_: ArrayType) -> Graph:
    b = Builder("lower")
    return b.build([_triangle(b, b.param(type_), "ge")])


def _head(b: Builder, x: Value, extent: int) -> Value:
    """The first rows."""
    start, stop = (0,) * x.ndim, (*x.shape[:-2], extent, x.shape[-1])
    return b.slice(x, start=start, stop=stop, step=(1,) * x.ndim)


def _upper_of_columns(type_: ArrayType, rows: int) -> Graph:
    """The first rows of the upper triangle of matrices that stand by columns."""
    b = Builder("upper")
    return b.build([_triangle(b, _head(b, _swap(b, b.param(type_)), rows), "le")])


def _columns(type_: ArrayType, extent: int) -> Graph:
    """Some columns of matrices that stand by columns, with zeros for those that are not there."""
    b = Builder("columns")
    x = _head(b, b.param(type_), min(extent, type_.shape[-2]))
    more = extent - x.shape[-2]
    if more:
        zeros, high = (0,) * x.ndim, tuple(more if k == x.ndim - 2 else 0 for k in range(x.ndim))
        x = b.pad(x, low=zeros, high=high, interior=zeros)
    return b.build([x])


def _determinants(type_: ArrayType, logs: bool) -> Graph:
    """From lu [count, n, n], exchanges from 1 and the info words: det, or slogdet's sign and logarithm."""
    count, n, _ = type_.shape
    b = Builder("determinants")
    lu, exchanges, info = b.param(type_), b.param(ArrayType((count, n), INT32)), b.param(ArrayType((count,), INT32))
    flat = b.reshaped(lu, (count, n * n))
    pivots = b.slice(flat, start=(0, 0), stop=(count, n * n), step=(1, n + 1))
    own = b.iota(shape=(count, n), dtype=INT32, axis=1)
    moved = b.ne(exchanges, b.add(own, b.like(own, 1)))
    factors = b.sign(pivots) if logs else pivots
    product = b.reduce_prod(b.select(moved, b.neg(factors), factors), axes=(1,))
    singular = b.gt(info, b.like(info, 0))
    outputs = [b.select(singular, b.zeros(product.type), product)]
    if logs:
        total = b.reduce_sum(b.log(b.abs(pivots)), axes=(1,))
        outputs.append(b.select(singular, b.like(total, -np.inf), total))
    return b.build(outputs)


def _from_zero(type_: ArrayType) -> Graph:
    b = Builder("from_zero")
    x = b.param(type_)
    return b.build([b.sub(x, b.like(x, 1))])


# -- kernels


def failed(made: Lowered, info: Place, count: int) -> None:
    """The error word becomes the call's site where an info word is not 0, unless something has failed before."""
    lines = (
        "def failed(info, error):",
        f"    for i in range(cuda.grid(1), {count}, cuda.gridsize(1)):",
        "        if info[i] != 0:",
        "            if error[0] == 0:",
        f"                error[0] = int32({made.site})",
    )
    kernel = Kernel(
        "failed", "\n".join(lines) + "\n", (Buffer("info", INT32, count),), 0, min(-(-count // 64), 1024), 64
    )
    made.steps.append(Launch(kernel, (info,)))


def row_order(made: Lowered, exchanges: Place, rows: Place, count: int, m: int, k: int) -> None:
    """The order of the rows after the exchanges, which count from 1."""
    lines = (
        "def row_order(exchanges, rows, error):",
        f"    for i in range(cuda.grid(1), {count}, cuda.gridsize(1)):",
        f"        for j in range({m}):",
        f"            rows[i * {m} + j] = int64(j)",
        f"        for j in range({k}):",
        f"            p = int64(exchanges[i * {k} + j]) - 1",
        f"            here = rows[i * {m} + j]",
        f"            rows[i * {m} + j] = rows[i * {m} + p]",
        f"            rows[i * {m} + p] = here",
    )
    buffers = Buffer("exchanges", INT32, count * k), Buffer("rows", INT64, count * m, written=True)
    kernel = Kernel("row_order", "\n".join(lines) + "\n", buffers, 0, min(-(-count // 64), 1024), 64)
    made.steps.append(Launch(kernel, (exchanges, rows)))


def lower_require(made: Lowered) -> None:
    """The operand, and the call's site in the error word where the condition does not hold."""
    lines = (
        "def require(holds, error):",
        "    if cuda.grid(1) == 0:",
        "        if holds[0] == 0:",
        "            if error[0] == 0:",
        f"                error[0] = int32({made.site})",
    )
    kernel = Kernel("require", "\n".join(lines) + "\n", (Buffer("holds", BOOL, 1),), 0, 1, 32)
    made.steps.append(Launch(kernel, (made.operand(1),)))
    made.copy(made.result(0), made.operand(0), made.operands[0].nbytes)


# -- primitives


def _stack(made: Lowered) -> tuple[int, int, int, np.dtype]:
    """Number of matrices, rows, columns, dtype."""
    type_ = made.operands[0]
    return (count_of(type_.shape), *type_.shape[-2:], type_.dtype)  # type: ignore[return-value]


def _flat(type_: ArrayType) -> ArrayType:
    return type_.with_shape((count_of(type_.shape), *type_.shape[-2:]))


def _turned(made: Lowered, type_: ArrayType, source: Place, target: Place | None = None) -> Place:
    """Transposed matrices, in fresh memory unless said."""
    target = made.area(type_.nbytes) if target is None else target
    made.glue(swapped(_flat(type_)), source, target)
    return target


def _copied(made: Lowered) -> Place:
    place = made.area(made.operands[0].nbytes)
    made.copy(place, made.operand(0), made.operands[0].nbytes)
    return place


def _cholesky(made: Lowered) -> None:
    """potrf of the upper triangle by columns, which is the lower one by rows; then zeros above the diagonal."""
    count, n, _, dtype = _stack(made)
    work, info = _copied(made), made.area(4 * count)
    made.routine("potrf", dtype, {"a": work, "info": info}, upper=True, n=n, lda=n, stride_a=n * n, batch=count)
    made.glue(lower_triangle(_flat(made.operands[0])), work, made.result(0))
    failed(made, info, count)


def _getrf(made: Lowered, a: Place, m: int, n: int) -> tuple[Place, Place]:
    """In place; exchanges and info words."""
    count, *_, dtype = _stack(made)
    k = min(m, n)
    exchanges, info = made.area(4 * count * k), made.area(4 * count)
    made.routine(
        "getrf", dtype, {"a": a, "exchanges": exchanges, "info": info}, m=m, n=n, lda=m, stride_a=m * n,
        stride_exchanges=k, batch=count,
    )  # fmt: skip
    return exchanges, info


def _solve(made: Lowered) -> None:
    """getrf of the transposed matrix, then getrs with the transpose of that."""
    count, n, _, dtype = _stack(made)
    right = made.operands[1]
    columns = right.shape[-1]
    work = _copied(made)
    exchanges, info = _getrf(made, work, n, n)
    failed(made, info, count)
    if columns == 1:
        sides = made.result(0)
        made.copy(sides, made.operand(1), right.nbytes)
    else:
        sides = _turned(made, right, made.operand(1))
    made.routine(
        "getrs", dtype, {"a": work, "exchanges": exchanges, "b": sides, "info": made.area(4)}, trans=True, n=n,
        nrhs=columns, lda=n, ldb=n, stride_a=n * n, stride_exchanges=n, stride_b=n * columns, batch=count,
    )  # fmt: skip
    if columns != 1:
        _turned(made, right.with_shape((*right.shape[:-2], columns, n)), sides, made.result(0))


def _triangular_solve(made: Lowered) -> None:
    """a x = b by rows is x' a' = b' by columns: from the right, in place."""
    count, n, _, dtype = _stack(made)
    columns = made.operands[1].shape[-1]
    made.copy(made.result(0), made.operand(1), made.operands[1].nbytes)
    made.routine(
        "trsm", dtype, {"a": made.operand(0), "b": made.result(0), "workspace": made.area(WORKSPACE)}, right=True,
        upper=made.attrs["lower"], trans=made.attrs["trans"], unit=made.attrs["unit"], m=columns, n=n, lda=n,
        ldb=columns, stride_a=n * n, stride_b=n * columns, batch=count, workspace_bytes=WORKSPACE,
    )  # fmt: skip


def _determinant(made: Lowered) -> None:
    count, n, _, _ = _stack(made)
    work = _copied(made)
    exchanges, info = _getrf(made, work, n, n)
    graph = _determinants(made.operands[0].with_shape((count, n, n)), made.prim == "slogdet")
    made.glue(graph, work, exchanges, info, *(made.result(k) for k in range(len(made.results))))


def _lu(made: Lowered) -> None:
    count, m, n, _ = _stack(made)
    a, k = made.operands[0], min(m, n)
    work = _turned(made, a, made.operand(0))
    exchanges, _ = _getrf(made, work, m, n)
    _turned(made, a.with_shape((*a.shape[:-2], n, m)), work, made.result(0))
    made.glue(_from_zero(ArrayType((count * k,), INT32)), exchanges, made.result(1))
    row_order(made, exchanges, made.result(2), count, m, k)


def _geqrf(made: Lowered, work: Place, tau: Place) -> None:
    count, m, n, dtype = _stack(made)
    made.routine(
        "geqrf", dtype, {"a": work, "tau": tau, "info": made.area(4)}, m=m, n=n, lda=m, stride_a=m * n,
        stride_tau=min(m, n), batch=count,
    )  # fmt: skip


def _qr(made: Lowered) -> None:
    count, m, n, dtype = _stack(made)
    a, k = made.operands[0], min(m, n)
    work, tau = _turned(made, a, made.operand(0)), made.area(count * k * dtype.itemsize)
    _geqrf(made, work, tau)
    by_columns = ArrayType((count, n, m), dtype)
    made.glue(_upper_of_columns(by_columns, made.results[-1].shape[-2]), work, made.result(len(made.results) - 1))
    if not made.attrs["vectors"]:
        return
    columns = made.results[0].shape[-1]
    q = made.area(count * columns * m * dtype.itemsize)
    made.glue(_columns(by_columns, columns), work, q)
    made.routine(
        "orgqr", dtype, {"a": q, "tau": tau, "info": made.area(4)}, m=m, n=columns, k=k, lda=m,
        stride_a=m * columns, stride_tau=k, batch=count,
    )  # fmt: skip
    _turned(made, ArrayType((count, columns, m), dtype), q, made.result(0))


def _householder(made: Lowered) -> None:
    _turned(made, made.operands[0], made.operand(0), made.result(0))
    _geqrf(made, made.result(0), made.result(1))


def _eigh(made: Lowered) -> None:
    count, n, _, dtype = _stack(made)
    work, info = _turned(made, made.operands[0], made.operand(0)), made.area(4 * count)
    made.routine(
        "syevd", dtype, {"a": work, "w": made.result(0), "info": info}, vectors=made.attrs["vectors"],
        upper=not made.attrs["lower"], n=n, lda=n, stride_a=n * n, stride_w=n, batch=count,
    )  # fmt: skip
    if made.attrs["vectors"]:
        _turned(made, made.operands[0], work, made.result(1))
    failed(made, info, count)


def _svd(made: Lowered) -> None:
    """Of matrices that are not higher than wide as they stand: their transpose's u and v' are v' and u of theirs, and
    lie as these must. Of high ones turned, and turned back."""
    count, m, n, dtype = _stack(made)
    k, vectors, full = min(m, n), made.attrs["vectors"], made.attrs["full"]
    wide = m <= n
    rows, item = max(m, n), dtype.itemsize
    work = _copied(made) if wide else _turned(made, made.operands[0], made.operand(0))
    info, rest = made.area(4 * count), made.area(count * k * real_dtype(dtype).itemsize)
    columns = rows if full else k
    values = made.result(1 if vectors else 0)
    places = {"a": work, "s": values, "rwork": rest, "info": info}
    if vectors and wide:
        places |= {"u": made.result(2), "vt": made.result(0)}
    elif vectors:
        places |= {"u": made.area(count * rows * columns * item), "vt": made.area(count * k * k * item)}
    made.routine(
        "gesvd", dtype, places, job=("A" if full else "S") if vectors else "N", m=rows, n=k, lda=rows, ldu=rows,
        ldvt=k, stride_a=rows * k, stride_s=k, stride_u=rows * columns, stride_vt=k * k, batch=count,
    )  # fmt: skip
    if vectors and not wide:
        _turned(made, ArrayType((count, columns, rows), dtype), places["u"], made.result(0))
        _turned(made, ArrayType((count, k, k), dtype), places["vt"], made.result(2))
    failed(made, info, count)


def _not_empty(lower: Lower) -> Lower:
    """What is made of matrices without elements is left to the primitive's own rule."""

    def lowered(made: Lowered) -> None:
        if made.operands[0].size:
            lower(made)
        else:
            made.steps.append(Hosted())

    return lowered


LOWER: dict[str, Lower] = {
    name: _not_empty(lower)
    for name, lower in {
        "cholesky": _cholesky, "solve": _solve, "triangular_solve": _triangular_solve, "det": _determinant,
        "slogdet": _determinant, "lu": _lu, "qr": _qr, "householder": _householder, "eigh": _eigh, "svd": _svd,
    }.items()
}  # fmt: skip

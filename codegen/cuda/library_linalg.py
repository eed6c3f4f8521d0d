"""Linear algebra on a device by cuSOLVER and cuBLAS: how matrices are laid out for them, and what is made of theirs.

A row-major matrix is the column-major transpose of it. Factorizations that know of a transpose are given the matrix as
it stands; for the others it is turned first, and results are turned back. Stacks are given whole: a routine does all
matrices of one.
"""

from __future__ import annotations

import numpy as np

from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.library_products import workspace_for
from nufunc.codegen.cuda.library_steps import Lower, Lowered, count_of, not_empty
from nufunc.codegen.cuda.program import Launch, Place
from nufunc.codegen.lapack_layouts import columns_of, complex_vectors, leading_rows, upper_rows
from nufunc.codegen.loops import Buffer
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph
from nufunc.ir.prims.matrices import part, rows_and_columns, swapped
from nufunc.ir.types import BOOL, INT64, ArrayType, real_dtype

INT32 = np.dtype(np.int32)


# -- small graphs


def lower_triangle(type_: ArrayType) -> Graph:
    b = Builder("lower")
    x = b.param(type_)
    row, column = rows_and_columns(b, x)
    return b.build([b.select(b.ge(row, column), x, b.zeros(type_))])


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
    made.glue(columns_of(_flat(type_)), source, target)
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
    workspace = workspace_for(n * n * columns)
    made.routine(
        "trsm", dtype, {"a": made.operand(0), "b": made.result(0), "workspace": made.area(workspace)}, right=True,
        upper=made.attrs["lower"], trans=made.attrs["trans"], unit=made.attrs["unit"], m=columns, n=n, lda=n,
        ldb=columns, stride_a=n * n, stride_b=n * columns, batch=count, workspace_bytes=workspace,
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
    made.glue(upper_rows(_flat(a), made.results[-1].shape[-2]), work, made.result(len(made.results) - 1))
    if not made.attrs["vectors"]:
        return
    columns = made.results[0].shape[-1]
    q = made.area(count * columns * m * dtype.itemsize)
    made.glue(leading_rows(ArrayType((count, n, m), dtype), columns), work, q)
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


def _halves(type_: ArrayType) -> Graph:
    """From the real parts and behind them the imaginary ones: complex numbers, and the latter."""
    b = Builder("halves")
    x = b.param(type_)
    count, n = type_.shape[0], type_.shape[1] // 2
    real, imag = (b.slice(x, start=(0, k), stop=(count, k + n), step=(1, 1)) for k in (0, n))
    return b.build([b.complex(real, imag), imag])


def _told(type_: ArrayType) -> Graph:
    """Info words, and 1 where a matrix is not finite."""
    b = Builder("told")
    x, info = b.param(type_), b.param(ArrayType(type_.shape[:1], INT32))
    finite = b.reduce_and(b.isfinite(x), axes=(1, 2))
    return b.build([b.select(finite, info, b.like(info, 1))])


def _eig(made: Lowered) -> None:
    """Of real matrices LAPACK's pairs, made complex."""
    count, n, _, dtype = _stack(made)
    a, vectors = made.operands[0], made.attrs["vectors"]
    real = dtype.kind != "c"
    work, info, told = _turned(made, a, made.operand(0)), made.area(4 * count), made.area(4 * count)
    w = made.area(2 * count * n * dtype.itemsize) if real else made.result(0)
    places = {"a": work, "w": w, "info": info}
    if vectors:
        places["vr"] = made.area(a.nbytes)
    made.routine(
        "geev", dtype, places, n=n, lda=n, ldvr=n, stride_a=n * n, stride_w=2 * n if real else n, stride_vr=n * n,
        batch=count,
    )  # fmt: skip
    made.glue(_told(_flat(a)), made.operand(0), info, told)
    failed(made, told, count)
    if real:
        imag = made.area(count * n * dtype.itemsize)
        made.glue(_halves(ArrayType((count, 2 * n), dtype)), w, made.result(0), imag)
        if vectors:
            made.glue(complex_vectors(_flat(a)), places["vr"], imag, made.result(1))
    elif vectors:
        _turned(made, a, places["vr"], made.result(1))


SMALL_SVD = 32  # rows and columns up to which cuSOLVER has stacks at once


def _small_svds(made: Lowered) -> None:
    """A stack of small matrices: by rotations, which give all vectors, and those on the right not conjugated."""
    count, m, n, dtype = _stack(made)
    k, vectors, item = min(m, n), made.attrs["vectors"], dtype.itemsize
    work, info = _turned(made, made.operands[0], made.operand(0)), made.area(4 * count)
    u, v = made.area(count * m * m * item), made.area(count * n * n * item)
    made.routine(
        "gesvdj_batched", dtype,
        {"a": work, "s": made.result(1 if vectors else 0), "u": u, "v": v, "info": info}, vectors=vectors, m=m, n=n,
        lda=m, ldu=m, ldv=n, stride_a=m * n, stride_s=k, stride_u=m * m, stride_v=n * n, batch=count,
    )  # fmt: skip
    if vectors:
        made.glue(_chosen(ArrayType((count, m, m), dtype), made.results[0].shape[-1], True), u, made.result(0))
        made.glue(_chosen(ArrayType((count, n, n), dtype), made.results[2].shape[-2], False), v, made.result(2))
    failed(made, info, count)


def _chosen(type_: ArrayType, extent: int, columns: bool) -> Graph:
    """The first of vectors that stand as rows: as columns, or as rows conjugated."""
    b = Builder("vectors")
    x = part(b, b.param(type_), (0, extent), (0, type_.shape[-1]))
    if columns:
        return b.build([swapped(b, x)])
    return b.build([b.conj(x) if type_.dtype.kind == "c" else x])


def _svd(made: Lowered) -> None:
    """Of matrices that are not higher than wide as they stand: their transpose's u and v' are v' and u of theirs, and
    lie as these must. Of high ones turned, and turned back."""
    count, m, n, dtype = _stack(made)
    if count > 1 and max(m, n) <= SMALL_SVD:
        _small_svds(made)
        return
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


LOWER: dict[str, Lower] = {
    name: not_empty(lower)
    for name, lower in {
        "cholesky": _cholesky, "solve": _solve, "triangular_solve": _triangular_solve, "det": _determinant,
        "slogdet": _determinant, "lu": _lu, "qr": _qr, "householder": _householder, "eigh": _eigh, "svd": _svd,
        "eig": _eig,
    }.items()
}  # fmt: skip

"""Decompositions in a plan, by LAPACK. Matrices are turned to columns first and the
results back to rows, so that LAPACK sees what it sees from NumPy and gives the same signs.

Note [Areas]: what a node needs of scratch memory is a list of named areas, sized by one table per primitive. "aa" holds
the matrices by columns, and so the whole stack; LAPACK's workspaces serve one matrix after the other, and are there
once for each task. Their sizes are asked of LAPACK when code is generated.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from nufunc.codegen import blas, threads
from nufunc.codegen.buffers import aligned
from nufunc.codegen.lapack_layouts import (
    columns_of,
    complex_pairs,
    complex_vectors,
    identity,
    leading_rows,
    upper_rows,
)
from nufunc.codegen.library import Caller, letter
from nufunc.codegen.llvm import I32, I64, POINTER
from nufunc.codegen.regions import emit_region
from nufunc.ir.graph import Graph, Node
from nufunc.ir.prims.matrices import sized
from nufunc.ir.types import real_dtype

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

NO_EIGENVALUES = "Eigenvalues did not converge"
NO_SVD = "SVD did not converge"
NO_SCHUR = "Schur form did not converge"

# An argument of a routine: a character, a number, the name of an area (by matrix), or "#name": the size of a workspace.
Item = str | int


def _shape(node: Node) -> tuple[int, int, int]:
    """Number of matrices, rows and columns."""
    *lead, m, n = node.operands[0].shape
    return math.prod(lead), m, n


# -- sizes


class Call:
    """A call of LAPACK: the routine and its arguments. Areas are named by strings of more than one letter."""

    def __init__(self, routine: str, dtype: np.dtype, *items: Item) -> None:
        self.name, self.dtype, self.items = letter(dtype) + routine, dtype, items

    def workspaces(self) -> dict[str, int]:
        """Elements of each workspace whose size LAPACK tells."""
        asked = [item[1:] for item in self.items if isinstance(item, str) and item.startswith("#")]
        return dict(zip(asked, _asked(self.name, self.dtype, self.items), strict=True)) if asked else {}


@functools.cache
def _asked(name: str, dtype: np.dtype, items: tuple[Item, ...]) -> tuple[int, ...]:
    """The answers to a query, sizes of -1: each stands in the first element of its workspace."""
    kept: dict[str, ctypes.Array[ctypes.c_double]] = {}
    given: list[object] = []
    for item in items:
        if isinstance(item, int):
            given.append(ctypes.byref(ctypes.c_int32(item)))
        elif item.startswith("#"):
            given.append(ctypes.byref(ctypes.c_int32(-1)))
        elif len(item) == 1:
            given.append(ctypes.c_char_p(item.encode()))
        else:
            given.append(ctypes.byref(kept.setdefault(item, (ctypes.c_double * 2)())))
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(items))(blas.address(name))
    function(*[ctypes.cast(g, ctypes.c_void_p) for g in given])  # type: ignore[arg-type]
    sizes = []
    for item in items:
        if isinstance(item, str) and item.startswith("#"):
            kind = np.dtype(np.int32) if item == "#iwork" else real_dtype(dtype) if item == "#rwork" else dtype
            sizes.append(int(np.frombuffer(bytes(kept[item[1:]]), kind)[0].real))
    return tuple(max(1, s) for s in sizes)


def _svd_call(node: Node) -> Call:
    _, m, n = _shape(node)
    k = min(m, n)
    full, vectors, dtype = node.attrs["full"], node.attrs["vectors"], node.operands[0].dtype
    job = ("A" if full else "S") if vectors else "N"
    right = n if full else k
    rwork = ["rwork"] if dtype.kind == "c" else []
    return Call(
        "gesdd", dtype, job, m, n, "aa", m, "ss", "uu", m, "vt", max(1, right), "work", "#work", *rwork, "iwork", "info"
    )


def _svd_areas(node: Node) -> dict[str, int]:
    count, m, n = _shape(node)
    k, dtype = min(m, n), node.operands[0].dtype
    item, real = dtype.itemsize, real_dtype(dtype).itemsize
    areas = {"aa": count * m * n * item, "iwork": 8 * k * 4}
    areas["work"] = _svd_call(node).workspaces()["work"] * item
    if node.attrs["vectors"]:
        left, right = (m, n) if node.attrs["full"] else (k, k)
        areas |= {"uu": count * m * left * item, "vt": count * right * n * item}
    if dtype.kind == "c":
        longer = max(m, n)
        areas["rwork"] = max(7 * k, 5 * k * k + 5 * k, 2 * longer * k + 2 * k * k + k) * real
    return areas


def _eigh_call(node: Node) -> Call:
    n, dtype = node.operands[0].shape[-1], node.operands[0].dtype
    head: list[Item] = ["V" if node.attrs["vectors"] else "N", "L" if node.attrs["lower"] else "U", n, "aa", n, "ww"]
    real = [] if dtype.kind != "c" else ["rwork", "#rwork"]
    return Call(
        "syevd" if dtype.kind != "c" else "heevd", dtype, *head, "work", "#work", *real, "iwork", "#iwork", "info"
    )


def _eigh_areas(node: Node) -> dict[str, int]:
    a = node.operands[0]
    sizes = _eigh_call(node).workspaces()
    items = {"work": a.dtype.itemsize, "rwork": real_dtype(a.dtype).itemsize, "iwork": 4}
    return {"aa": a.type.nbytes, **{name: size * items[name] for name, size in sizes.items()}}


def _eig_call(node: Node) -> Call:
    n, dtype = node.operands[0].shape[-1], node.operands[0].dtype
    job = "V" if node.attrs["vectors"] else "N"
    values: list[Item] = ["ww"] if dtype.kind == "c" else ["wr", "wi"]
    last = ["rwork"] if dtype.kind == "c" else []
    return Call(
        "geev", dtype, "N", job, n, "aa", n, *values, "none", 1, "vr", n, "work", "#work", *last, "info"
    )  # fmt: skip


def _eig_areas(node: Node) -> dict[str, int]:
    count, n, _ = _shape(node)
    dtype = node.operands[0].dtype
    areas = {"aa": node.operands[0].type.nbytes, "none": 16}
    areas["work"] = _eig_call(node).workspaces()["work"] * dtype.itemsize
    if node.attrs["vectors"]:
        areas["vr"] = node.operands[0].type.nbytes
    if dtype.kind == "c":
        areas["rwork"] = 2 * n * real_dtype(dtype).itemsize
    else:
        areas |= {"wr": count * n * dtype.itemsize, "wi": count * n * dtype.itemsize}
    return areas


def _schur_call(node: Node) -> Call:
    n, dtype = node.operands[0].shape[-1], node.results[0].type.dtype
    values: list[Item] = ["wr", "wi"] if node.attrs["real"] else ["ww"]
    rwork = [] if node.attrs["real"] else ["rwork"]
    return Call(
        "gees", dtype, "V", "N", "select", n, "aa", n, "sdim", *values, "vs", n, "work", "#work", *rwork, "bwork",
        "info",
    )  # fmt: skip


def _schur_areas(node: Node) -> dict[str, int]:
    type_ = node.results[0].type
    n, item = type_.shape[-1], type_.dtype.itemsize
    rest = dict.fromkeys(("wr", "wi") if node.attrs["real"] else ("ww", "rwork"), n * item)
    return {
        "aa": type_.nbytes, "vs": type_.nbytes, "bwork": 4 * n, "sdim": 4, "select": 8,
        "work": _schur_call(node).workspaces()["work"] * item, **rest,
    }  # fmt: skip


def _hessenberg_calls(node: Node) -> tuple[Call, Call]:
    """The reduction, and the making of q."""
    n, dtype = node.operands[0].shape[-1], node.operands[0].dtype
    rest: list[Item] = ["tau", "work", "#work", "info"]
    name = "orghr" if dtype.kind != "c" else "unghr"
    return Call("gehrd", dtype, n, 1, n, "aa", n, *rest), Call(name, dtype, n, 1, n, "aa", n, *rest)


def _hessenberg_areas(node: Node) -> dict[str, int]:
    a = node.operands[0].type
    work = max(call.workspaces()["work"] for call in _hessenberg_calls(node))
    return {"aa": a.nbytes, "tau": a.nbytes // a.shape[-1], "work": work * a.dtype.itemsize}


def _qr_calls(node: Node) -> tuple[Call, Call | None]:
    """The factorization, and the making of q."""
    _, m, n = _shape(node)
    k, dtype = min(m, n), node.operands[0].dtype
    first = Call("geqrf", dtype, m, n, "aa", m, "tau", "work", "#work", "info")
    if node.prim != "qr" or not node.attrs["vectors"]:
        return first, None
    columns = m if node.attrs["full"] else k
    name = "orgqr" if dtype.kind != "c" else "ungqr"
    return first, Call(name, dtype, m, columns, k, "qq", m, "tau", "work", "#work", "info")


def _qr_areas(node: Node) -> dict[str, int]:
    count, m, n = _shape(node)
    item, calls = node.operands[0].dtype.itemsize, _qr_calls(node)
    areas = {"work": max(c.workspaces()["work"] for c in calls if c is not None) * item}
    if node.prim == "qr":
        areas |= {"aa": count * m * n * item, "tau": count * min(m, n) * item}
        if node.attrs["vectors"]:
            areas["qq"] = count * m * (m if node.attrs["full"] else min(m, n)) * item
    return areas


def _lu_areas(node: Node) -> dict[str, int]:
    return {"aa": node.operands[0].type.nbytes}


_AREAS: dict[str, Callable[[Node], dict[str, int]]] = {
    "svd": _svd_areas, "eigh": _eigh_areas, "eig": _eig_areas, "schur": _schur_areas, "qr": _qr_areas,
    "hessenberg": _hessenberg_areas, "householder": _qr_areas, "lu": _lu_areas,
}  # fmt: skip


def _nothing(node: Node) -> bool:
    """Whether LAPACK has nothing to do."""
    return node.operands[0].type.size == 0


# Areas of one matrix at a time: each task has its own.
_PRIVATE = ("work", "rwork", "iwork", "none", "bwork", "sdim", "select")
_LARGE = 64  # rows or columns from which OpenBLAS may take threads of its own


def _tasks(node: Node) -> int:
    """Tasks that share the matrices of a stack; small ones only, whose calls stay on their thread."""
    count, m, n = _shape(node)
    if max(m, n) > _LARGE:
        return 1
    return max(1, min(count, threads.tasks_for(count * (1000.0 + 5.0 * max(m, n) * min(m, n) ** 2))))


def _copies(node: Node, name: str) -> int:
    own = name in _PRIVATE or (node.prim == "schur" and name in ("ww", "wr", "wi"))
    return _tasks(node) if own else 1


def scratch(node: Node) -> int:
    if _nothing(node):
        return 0
    return sum(aligned(size) * _copies(node, name) for name, size in _AREAS[node.prim](node).items())


# -- code


class _Job:
    """The areas of a node in memory, and calls for one matrix after the other."""

    def __init__(self, plan: Plan, scope: Scope, node: Node, **others: ir.Value) -> None:
        self.plan, self.scope, self.node, self.caller = plan, scope, node, Caller(plan)
        self.count, self.m, self.n = _shape(node)
        self.places: dict[str, ir.Value] = dict(others)
        at, offset = scope.scratch(node), 0
        self.own: dict[str, int] = {}  # the areas that each task has for itself, with their sizes
        for name, size in _AREAS[node.prim](node).items():
            self.places[name] = plan.at(at, offset)
            offset += aligned(size) * _copies(node, name)
            if _copies(node, name) > 1:
                self.own[name] = aligned(size)
        self.info = plan.alloca(4, 4)
        self.source = scope.pointer(node.operands[0])
        self.results = [scope.pointer(r) for r in node.results]

    def kernel(self, region: Graph, *pointers: ir.Value | str) -> None:
        """Run a graph on whole stacks."""
        self.plan.kernel(region, [self.places[p] if isinstance(p, str) else p for p in pointers], region.name)

    def each(self, body: Callable[[ir.Value], None]) -> None:
        """body(i) for each matrix, ranges of them in parallel where that is worth it."""
        plan, tasks = self.plan, 1 if self.plan.in_task else _tasks(self.node)
        if tasks == 1:
            loop = plan.loop(self.count)
            body(loop.__enter__())
            loop.finish([])
            return
        names = list(self.places)

        def part(inside: list[ir.Value], task: ir.Value) -> None:
            before = self.places, self.info
            self.places, self.info = dict(zip(names, inside, strict=True)), plan.alloca(4, 4)
            for name, size in self.own.items():
                self.places[name] = plan.at(self.places[name], plan.b.mul(task, I64(size)))
            first, last = threads.chunk(plan.b, task, I64(tasks), self.count)
            loop = plan.loop(last, first)
            body(loop.__enter__())
            loop.finish([])
            self.places, self.info = before

        emit_region(plan, tasks, list(self.places.values()), part)

    def call(self, i: ir.Value, call: Call, steps: Mapping[str, int], message: str | None) -> None:
        """One call for matrix i; `steps`: bytes from one matrix to the next in the areas that hold a stack."""
        plan, sizes = self.plan, call.workspaces()
        plan.b.store(I32(0), self.info)
        arguments = [self._argument(i, item, steps, sizes) for item in call.items]
        self.caller.call(call.name, arguments)
        if message is not None:
            b = plan.b
            bad = b.icmp_signed("!=", b.load(self.info, typ=I32), I32(0))
            b.store(b.select(bad, I32(plan.site(message, self.node.loc)), b.load(plan.error, typ=I32)), plan.error)
            plan.check_error()

    def _argument(self, i: ir.Value, item: Item, steps: Mapping[str, int], sizes: Mapping[str, int]) -> ir.Value:
        if isinstance(item, int):
            return self.caller.value(max(1, item) if item == 0 else item)
        if item.startswith("#"):
            return self.caller.value(sizes[item[1:]])
        if len(item) == 1:
            return self.caller.value(item)
        if item == "info":
            return self.info
        place = self.places.get(item)
        if place is None:  # not read: vectors that nobody asked for
            return ir.Constant(POINTER, None)
        return self.plan.at(place, self.plan.b.mul(i, I64(steps[item]))) if item in steps else place


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    if all(r.type.size == 0 for r in node.results):
        return
    if _nothing(node):
        _emit_empty(plan, scope, node)
    else:
        EMITTERS[node.prim](plan, scope, node)


def _emit_empty(plan: Plan, scope: Scope, node: Node) -> None:
    """Of a matrix without rows or without columns: unit vectors, and the numbers of the rows."""
    for result in node.results:
        if result.type.size and result.dtype.kind in "fc":
            plan.kernel(identity(result.type), [scope.pointer(result)], "identity")
        elif result.type.size:
            plan.kernel(leading_rows(result.type), [scope.pointer(result)], "rows")


def _svd(plan: Plan, scope: Scope, node: Node) -> None:
    vectors = node.attrs["vectors"]
    job = _Job(plan, scope, node, ss=scope.pointer(node.results[1 if vectors else 0]))
    a, dtype = node.operands[0].type, node.operands[0].dtype
    m, n, item = job.m, job.n, dtype.itemsize
    k = min(m, n)
    left, right = (m, n) if node.attrs["full"] else (k, k)
    steps = {"aa": m * n * item, "ss": k * real_dtype(dtype).itemsize, "uu": m * left * item, "vt": right * n * item}
    job.kernel(columns_of(a), job.source, "aa")
    job.each(lambda i: job.call(i, _svd_call(node), steps, NO_SVD))
    if vectors:
        job.kernel(columns_of(sized(a, left, m)), "uu", job.results[0])
        job.kernel(columns_of(sized(a, n, right)), "vt", job.results[2])


def _eigh(plan: Plan, scope: Scope, node: Node) -> None:
    job = _Job(plan, scope, node, ww=scope.pointer(node.results[0]))
    a, n = node.operands[0].type, node.operands[0].shape[-1]
    steps = {"aa": n * n * a.dtype.itemsize, "ww": n * real_dtype(a.dtype).itemsize}
    job.kernel(columns_of(a), job.source, "aa")
    job.each(lambda i: job.call(i, _eigh_call(node), steps, NO_EIGENVALUES))
    if node.attrs["vectors"]:
        job.kernel(columns_of(a), "aa", job.results[1])


def _eig(plan: Plan, scope: Scope, node: Node) -> None:
    job = _Job(plan, scope, node, ww=scope.pointer(node.results[0]))
    a, n = node.operands[0].type, node.operands[0].shape[-1]
    item = a.dtype.itemsize
    steps = {"aa": n * n * item, "vr": n * n * item, "ww": n * item, "wr": n * item, "wi": n * item}
    job.kernel(columns_of(a), job.source, "aa")
    job.each(lambda i: job.call(i, _eig_call(node), steps, NO_EIGENVALUES))
    if a.dtype.kind == "c":
        if node.attrs["vectors"]:
            job.kernel(columns_of(a), "vr", job.results[1])
        return
    job.kernel(complex_pairs(a.with_shape(a.shape[:-1])), "wr", "wi", job.results[0])
    if node.attrs["vectors"]:
        job.kernel(complex_vectors(a), "vr", "wi", job.results[1])


def _schur(plan: Plan, scope: Scope, node: Node) -> None:
    job = _Job(plan, scope, node)
    a, made = node.operands[0].type, node.results[0].type
    step = a.shape[-1] ** 2 * made.dtype.itemsize
    job.kernel(columns_of(a, made.dtype), job.source, "aa")
    job.each(lambda i: job.call(i, _schur_call(node), {"aa": step, "vs": step}, NO_SCHUR))
    job.kernel(columns_of(made), "aa", job.results[0])
    job.kernel(columns_of(made), "vs", job.results[1])


def _hessenberg(plan: Plan, scope: Scope, node: Node) -> None:
    job = _Job(plan, scope, node)
    a, n, item = node.operands[0].type, job.n, node.operands[0].dtype.itemsize
    steps = {"aa": n * n * item, "tau": n * item}
    first, second = _hessenberg_calls(node)
    job.kernel(columns_of(a), job.source, "aa")
    job.each(lambda i: job.call(i, first, steps, None))
    job.kernel(upper_rows(a, n, 1), "aa", job.results[0])
    job.each(lambda i: job.call(i, second, steps, None))
    job.kernel(columns_of(a), "aa", job.results[1])


def _qr(plan: Plan, scope: Scope, node: Node) -> None:
    job = _Job(plan, scope, node)
    a, (first, second) = node.operands[0].type, _qr_calls(node)
    m, n, item = job.m, job.n, a.dtype.itemsize
    k = min(m, n)
    columns = m if node.attrs["full"] else k
    steps = {"aa": m * n * item, "tau": k * item, "qq": m * columns * item}
    job.kernel(columns_of(a), job.source, "aa")
    job.each(lambda i: job.call(i, first, steps, None))
    job.kernel(upper_rows(a, columns), "aa", job.results[-1])
    if second is not None:
        made = second
        job.kernel(leading_rows(sized(a, n, m), columns), "aa", "qq")
        job.each(lambda i: job.call(i, made, steps, None))
        job.kernel(columns_of(sized(a, columns, m)), "qq", job.results[0])


def _householder(plan: Plan, scope: Scope, node: Node) -> None:
    """The result by rows is LAPACK's by columns, as numpy.linalg.qr gives it."""
    first, second = (scope.pointer(r) for r in node.results)
    job = _Job(plan, scope, node, aa=first, tau=second)
    item = node.operands[0].dtype.itemsize
    steps = {"aa": job.m * job.n * item, "tau": min(job.m, job.n) * item}
    job.kernel(columns_of(node.operands[0].type), job.source, "aa")
    job.each(lambda i: job.call(i, _qr_calls(node)[0], steps, None))


def _lu(plan: Plan, scope: Scope, node: Node) -> None:
    job = _Job(plan, scope, node, pp=scope.pointer(node.results[1]), order=scope.pointer(node.results[2]))
    a = node.operands[0].type
    m, n, item = job.m, job.n, a.dtype.itemsize
    k = min(m, n)
    call = Call("getrf", a.dtype, m, n, "aa", m, "pp", "info")
    job.kernel(columns_of(a), job.source, "aa")
    job.kernel(leading_rows(node.results[2].type), "order")

    def one(i: ir.Value) -> None:
        job.call(i, call, {"aa": m * n * item, "pp": 4 * k}, None)
        pivots = plan.at(job.places["pp"], plan.b.mul(i, I64(4 * k)))
        rows = plan.at(job.places["order"], plan.b.mul(i, I64(8 * m)))
        _exchange(plan, pivots, rows, k)

    job.each(one)
    job.kernel(columns_of(sized(a, n, m)), "aa", job.results[0])


def _exchange(plan: Plan, pivots: ir.Value, rows: ir.Value, k: int) -> None:
    """Count pivots from zero, and carry out their exchanges on the numbers of the rows."""
    b, loop = plan.b, plan.loop(k)
    j = loop.__enter__()
    place = b.gep(pivots, [j], source_etype=I32)
    pivot = b.sub(b.load(place, typ=I32), I32(1))
    b.store(pivot, place)
    here, there = (b.gep(rows, [x], source_etype=I64) for x in (j, b.sext(pivot, I64)))
    first, second = (b.load(x, typ=I64) for x in (here, there))
    b.store(second, here)
    b.store(first, there)
    loop.finish([])


EMITTERS: dict[str, Callable[[Plan, Scope, Node], None]] = {
    "svd": _svd, "eigh": _eigh, "eig": _eig, "schur": _schur, "hessenberg": _hessenberg, "qr": _qr,
    "householder": _householder, "lu": _lu,
}  # fmt: skip

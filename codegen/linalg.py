"""Linear algebra nodes of a plan: own kernels for real matrices, LAPACK for complex ones. A row-major matrix is
LAPACK's transpose of it, which every call here takes into account."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import factor, factor_library
from nufunc.codegen.backend import target
from nufunc.codegen.buffers import aligned
from nufunc.codegen.emit_memory import Memory
from nufunc.codegen.library import Caller, letter
from nufunc.codegen.llvm import I1, I8, I32, I64, constant, register_type
from nufunc.codegen.scalars import Scalars
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node
from nufunc.ir.types import ArrayType, real_dtype

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

SINGULAR = "Singular matrix"
NOT_POSITIVE = "Matrix is not positive definite"


def _sizes(node: Node) -> tuple[int, int, int]:
    """Number of matrices, their order, and the bytes of one."""
    type_ = node.operands[0].type
    n = type_.shape[-1]
    return math.prod(type_.shape[:-2]), n, n * n * type_.dtype.itemsize


def scratch(node: Node) -> int:
    """Copies of the matrices, the pivots, and for solve the right-hand sides by columns."""
    if _own(node):
        return _own_scratch(node)
    matrices = aligned(node.operands[0].type.nbytes)
    if node.prim in ("cholesky", "triangular_solve"):
        return matrices if node.prim == "cholesky" else 0
    pivots = aligned(4 * node.operands[0].shape[-1])
    return matrices + pivots + (aligned(node.operands[1].type.nbytes) if node.prim == "solve" else 0)


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    if node.prim != "require" and all(r.type.size == 0 for r in node.results):
        return
    (OWN if _own(node) else EMITTERS)[node.prim](plan, scope, node)


def _each(plan: Plan, count: int, body: Callable[[ir.Value], None]) -> None:
    """body(i) for each matrix."""
    loop = plan.loop(count)
    body(loop.__enter__())
    loop.finish([])


def _part(plan: Plan, pointer: ir.Value, i: ir.Value, size: int) -> ir.Value:
    return plan.at(pointer, plan.b.mul(i, I64(size)))


def _info(plan: Plan) -> ir.Value:
    slot = plan.alloca(4, 4)
    plan.b.store(I32(0), slot)
    return slot


def _require(plan: Plan, info: ir.Value, node: Node, kind: str) -> None:
    """Record an error site where LAPACK's info is not zero, and leave the plan."""
    _require_zero(plan, plan.b.load(info, typ=I32), node, kind)


def _require_zero(plan: Plan, code: ir.Value, node: Node, kind: str) -> None:
    b = plan.b
    bad = b.icmp_signed("!=", code, I32(0))
    b.store(b.select(bad, I32(plan.site(kind, node.loc)), b.load(plan.error, typ=I32)), plan.error)
    plan.check_error()


def _cholesky(plan: Plan, scope: Scope, node: Node) -> None:
    """potrf of the upper triangle by columns, which is the lower one by rows; then zeros above the
    diagonal."""
    x, dtype = node.operands[0], node.result.dtype
    count, n, size = _sizes(node)
    work = scope.scratch(node)
    plan.copy(work, scope.pointer(x), x.type.nbytes)
    caller, info = Caller(plan), _info(plan)

    def one(i: ir.Value) -> None:
        order = caller.value(n)
        caller.call(
            letter(dtype) + "potrf", [caller.value("U"), order, _part(plan, work, i, size), order, info]
        )
        _require(plan, info, node, NOT_POSITIVE)

    _each(plan, count, one)
    plan.kernel(_lower_triangle(x.type), [work, scope.pointer(node.result)], "lower")


def _lower_triangle(type_: ArrayType) -> Graph:
    b = Builder("lower")
    x = b.param(type_)
    row, column = (b.iota(shape=type_.shape, dtype=np.dtype(np.int64), axis=type_.ndim - k) for k in (2, 1))
    return b.build([b.select(b.ge(row, column), x, b.zeros(type_))])


def _swapped(type_: ArrayType) -> Graph:
    b = Builder("swapped")
    x = b.param(type_)
    return b.build([b.transpose(x, perm=(*range(type_.ndim - 2), type_.ndim - 1, type_.ndim - 2))])


def _factor(
    plan: Plan, scope: Scope, node: Node, caller: Caller, info: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Copies of the matrices for getrf, and memory for the pivots of one."""
    x = node.operands[0]
    work = scope.scratch(node)
    plan.copy(work, scope.pointer(x), x.type.nbytes)
    return work, plan.at(work, aligned(x.type.nbytes))


def _getrf(
    caller: Caller, dtype: np.dtype, n: int, matrix: ir.Value, pivots: ir.Value, info: ir.Value
) -> None:
    order = caller.value(n)
    caller.call(letter(dtype) + "getrf", [order, order, matrix, order, pivots, info])


def _solve(plan: Plan, scope: Scope, node: Node) -> None:
    """getrf of the transposed matrix by columns, then getrs with its transpose."""
    rhs, dtype = node.operands[1], node.result.dtype
    count, n, size = _sizes(node)
    caller, info = Caller(plan), _info(plan)
    work, pivots = _factor(plan, scope, node, caller, info)
    result, columns = scope.pointer(node.result), rhs.shape[-1]
    sides = result
    if columns == 1:
        plan.copy(result, scope.pointer(rhs), rhs.type.nbytes)
    else:
        sides = plan.at(pivots, aligned(4 * n))
        plan.kernel(_swapped(rhs.type), [scope.pointer(rhs), sides], "columns")

    def one(i: ir.Value) -> None:
        matrix, order = _part(plan, work, i, size), caller.value(n)
        _getrf(caller, dtype, n, matrix, pivots, info)
        _require(plan, info, node, SINGULAR)
        side = _part(plan, sides, i, n * columns * dtype.itemsize)
        args = [caller.value("T"), order, caller.value(columns), matrix, order, pivots, side, order, info]
        caller.call(letter(dtype) + "getrs", args)

    _each(plan, count, one)
    if columns != 1:
        swapped = ArrayType((*rhs.shape[:-2], columns, n), dtype)
        plan.kernel(_swapped(swapped), [sides, result], "rows")


def _triangular_solve(plan: Plan, scope: Scope, node: Node) -> None:
    """a x = b by rows is x' a' = b' by columns: trsm from the right, in place."""
    a, rhs = node.operands
    count, n, size = _sizes(node)
    dtype, columns, caller = node.result.dtype, rhs.shape[-1], Caller(plan)
    result = scope.pointer(node.result)
    plan.copy(result, scope.pointer(rhs), rhs.type.nbytes)
    lower, trans, unit = (node.attrs[k] for k in ("lower", "trans", "unit"))
    flags = ["R", "U" if lower else "L", "T" if trans else "N", "U" if unit else "N"]
    matrices = scope.pointer(a)

    def one(i: ir.Value) -> None:
        side = _part(plan, result, i, n * columns * dtype.itemsize)
        args = [
            *(caller.value(f) for f in flags),
            caller.value(columns),
            caller.value(n),
            caller.value(1, dtype),
        ]
        args += [_part(plan, matrices, i, size), caller.value(n), side, caller.value(columns)]
        caller.call(letter(dtype) + "trsm", args)

    _each(plan, count, one)


def _determinant(plan: Plan, scope: Scope, node: Node) -> None:
    """det as the product of the pivots; slogdet as the product of their signs and the sum of their
    logarithms."""
    dtype = node.operands[0].dtype
    count, n, size = _sizes(node)
    caller, info = Caller(plan), _info(plan)
    work, pivots = _factor(plan, scope, node, caller, info)
    results = [scope.pointer(r) for r in node.results]
    b = plan.b
    scalars, memory = Scalars(b, plan.has_fma), Memory(b)

    def one(i: ir.Value) -> None:
        matrix = _part(plan, work, i, size)
        if n:
            _getrf(caller, dtype, n, matrix, pivots, info)
        product, total = _pivots(plan, scalars, memory, dtype, n, n, matrix, pivots, node.prim == "slogdet")
        memory.store(results[0], i, dtype, product)
        if node.prim == "slogdet":
            memory.store(results[1], i, real_dtype(dtype), total)

    _each(plan, count, one)


def _pivots(
    plan: Plan, scalars: Scalars, memory: Memory, dtype: np.dtype, n: int, lead: int, matrix: ir.Value,
    pivots: ir.Value, logs: bool,
) -> tuple[Any, Any]:  # fmt: skip
    b, real = plan.b, real_dtype(dtype)
    type_ = register_type(dtype)
    one: Any = (constant(type_, 1), constant(type_, 0)) if dtype.kind == "c" else constant(type_, 1)
    zero = constant(register_type(real), 0)
    if n == 0:
        return one, zero
    loop = plan.loop(n)
    k = loop.__enter__()
    product = tuple(loop.carry(p) for p in one) if dtype.kind == "c" else loop.carry(one)
    total = loop.carry(zero)
    do = lambda op, args, kind, out: scalars.emit(op, args, [kind] * len(args), out, {})
    pivot = memory.load(matrix, b.mul(k, I64(lead + 1)), dtype)
    size = do("abs", (pivot,), dtype, real)
    factor = do("sign", (pivot,), dtype, dtype) if logs else pivot
    place = b.load(b.gep(pivots, [k], source_etype=I32), typ=I32)
    moved = b.icmp_signed("!=", b.sext(place, I64), b.add(k, I64(1)))
    factor = do_select(scalars, moved, do("neg", (factor,), dtype, dtype), factor, dtype)
    new = do("mul", (product, factor), dtype, dtype)
    more = do("add", (total, do("log", (size,), real, real)), real, real) if logs else total
    pairs = list(zip(product, new)) if dtype.kind == "c" else [(product, new)]
    loop.finish([*pairs, (total, more)])
    return new, more


def do_select(scalars: Scalars, test: ir.Value, x: Any, y: Any, dtype: np.dtype) -> Any:
    return scalars.emit("select", (test, x, y), [np.dtype(bool), dtype, dtype], dtype, {})


def _require_condition(plan: Plan, scope: Scope, node: Node) -> None:
    x, condition = node.operands
    holds = plan.b.load(scope.pointer(condition), typ=I8)
    wrong = plan.b.zext(plan.b.icmp_unsigned("==", holds, I8(0)), I32)
    _require_zero(plan, wrong, node, node.attrs["message"])
    plan.copy(scope.pointer(node.result), scope.pointer(x), x.type.nbytes)


EMITTERS = {
    "require": _require_condition, "cholesky": _cholesky, "solve": _solve, "triangular_solve": _triangular_solve,
    "det": _determinant, "slogdet": _determinant,
}  # fmt: skip


# -- own kernels


def _own(node: Node) -> bool:
    return node.prim != "require" and node.operands[0].dtype in factor.SUPPORTED


def _factor_of(plan: Plan, node: Node) -> factor.Factor:
    return factor.Factor(ir.Module(), node.operands[0].dtype, target(), defines=False)


def _own_scratch(node: Node) -> int:
    """A work matrix, the pivots, and what the kernels pack: for one matrix of the stack at a time."""
    _, n, _ = _sizes(node)
    kernels = factor.Factor(ir.Module(), node.operands[0].dtype, target())
    if node.prim == "triangular_solve":
        return kernels.packed_bytes(n)
    if node.prim == "cholesky":
        return kernels.work_bytes(n) + kernels.packed_bytes(n)
    return kernels.work_bytes(n) + aligned(4 * n) + kernels.lu_scratch_bytes(n)


def _own_cholesky(plan: Plan, scope: Scope, node: Node) -> None:
    count, n, size = _sizes(node)
    kernels, work = _factor_of(plan, node), scope.scratch(node)
    packed = plan.at(work, kernels.work_bytes(n))
    source, result = scope.pointer(node.operands[0]), scope.pointer(node.result)
    function, lead = kernels.cholesky(n), I64(factor.leading(n, node.result.dtype))

    def one(i: ir.Value) -> None:
        places = [_part(plan, result, i, size), _part(plan, source, i, size), work]
        code = factor_library.call(plan, kernels, function, [*places, I64(n), lead, packed])
        _require_zero(plan, code, node, NOT_POSITIVE)

    _each(plan, count, one)


class _Eliminated:
    """LU of the matrices of a node, one at a time: the work matrix, its row length and its pivots."""

    def __init__(self, plan: Plan, scope: Scope, node: Node) -> None:
        self.plan, self.source = plan, scope.pointer(node.operands[0])
        _, self.n, self.size = _sizes(node)
        self.kernels, self.work = _factor_of(plan, node), scope.scratch(node)
        self.pivots = plan.at(self.work, self.kernels.work_bytes(self.n))
        self.scratch = plan.at(self.pivots, aligned(4 * self.n))
        self.lead = factor.leading(self.n, node.operands[0].dtype)

    def factor(self, i: ir.Value) -> ir.Value:
        """Not zero where matrix i is singular."""
        source = _part(self.plan, self.source, i, self.size)
        args = [self.work, source, I64(self.n), I64(self.lead), self.pivots, self.scratch]
        return factor_library.call(self.plan, self.kernels, self.kernels.lu(self.n), args)


def _own_solve(plan: Plan, scope: Scope, node: Node) -> None:
    rhs = node.operands[1]
    count, n, _ = _sizes(node)
    lu, columns, item = _Eliminated(plan, scope, node), rhs.shape[-1], rhs.dtype.itemsize
    result = scope.pointer(node.result)
    plan.copy(result, scope.pointer(rhs), rhs.type.nbytes)

    def one(i: ir.Value) -> None:
        _require_zero(plan, lu.factor(i), node, SINGULAR)
        side = _part(plan, result, i, n * columns * item)
        args = [side, I64(columns), lu.pivots, I64(n), I64(columns)]
        factor_library.call(plan, lu.kernels, lu.kernels.exchange(), args)
        strides = (lu.lead, 1)
        _substitute(plan, lu.kernels, lu.work, strides, side, (n, columns), lu.scratch, unit=True, forward=True)
        _substitute(plan, lu.kernels, lu.work, strides, side, (n, columns), lu.scratch, unit=False, forward=False)

    _each(plan, count, one)


def _substitute(
    plan: Plan, kernels: factor.Factor, matrix: ir.Value, strides: tuple[int, int], side: ir.Value,
    shape: tuple[int, int], packed: ir.Value, *, unit: bool, forward: bool,
) -> None:  # fmt: skip
    """Solve with the lower triangle from the first row on, or the upper one from the last."""
    (s, t), (n, columns), step = strides, shape, shape[1]
    if not forward:
        item = kernels.dtype.itemsize
        matrix, side = plan.at(matrix, (n - 1) * (s + t) * item), plan.at(side, (n - 1) * columns * item)
        s, t, step = -s, -t, -step
    numbers = [I64(v) for v in (s, t, step, n, columns)]
    args = [matrix, *numbers[:2], side, *numbers[2:], I1(unit), packed]
    factor_library.call(plan, kernels, kernels.forward(n), args)


def _own_triangular_solve(plan: Plan, scope: Scope, node: Node) -> None:
    a, rhs = node.operands
    count, n, size = _sizes(node)
    columns, item = rhs.shape[-1], rhs.dtype.itemsize
    kernels, packed = _factor_of(plan, node), scope.scratch(node)
    matrices, result = scope.pointer(a), scope.pointer(node.result)
    plan.copy(result, scope.pointer(rhs), rhs.type.nbytes)
    lower, trans, unit = (node.attrs[k] for k in ("lower", "trans", "unit"))

    def one(i: ir.Value) -> None:
        side = _part(plan, result, i, n * columns * item)
        matrix, strides = _part(plan, matrices, i, size), ((1, n) if trans else (n, 1))
        _substitute(
            plan, kernels, matrix, strides, side, (n, columns), packed, unit=unit, forward=lower != trans
        )

    _each(plan, count, one)


def _own_determinant(plan: Plan, scope: Scope, node: Node) -> None:
    """As with LAPACK: a zero among the pivots makes det zero, and slogdet 0 and -inf."""
    count, n, _ = _sizes(node)
    dtype, lu, logs = node.operands[0].dtype, _Eliminated(plan, scope, node), node.prim == "slogdet"
    results = [scope.pointer(r) for r in node.results]
    scalars, memory = Scalars(plan.b, plan.has_fma), Memory(plan.b)

    def one(i: ir.Value) -> None:
        if n:
            lu.factor(i)
        found = _pivots(plan, scalars, memory, dtype, n, lu.lead, lu.work, lu.pivots, logs)
        for place, value in zip(results, found[: len(results)], strict=True):
            memory.store(place, i, dtype, value)

    _each(plan, count, one)


OWN = {
    "cholesky": _own_cholesky, "solve": _own_solve, "triangular_solve": _own_triangular_solve,
    "det": _own_determinant, "slogdet": _own_determinant,
}  # fmt: skip

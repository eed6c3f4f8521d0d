"""Library nodes of a plan: dot through BLAS here; LAPACK in `linalg`, sorting in `sorting`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from nufunc.codegen.buffers import aligned
from nufunc.codegen.llvm import F32, F64, I8, I32, I64, POINTER
from nufunc.codegen.strided import Strided, materialised, resolve, row_major
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Node, Value

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

LETTER = {"f4": "s", "f8": "d", "c8": "c", "c16": "z"}


def letter(dtype: np.dtype) -> str:
    """BLAS's letter of a dtype."""
    return LETTER[dtype.kind + str(dtype.itemsize)]


def scratch(plan: Plan, node: Node) -> int:
    """Bytes of scratch memory that a library node needs."""
    if node.prim == "dot":
        return sum(
            aligned(o.type.nbytes)
            for o, m in zip(node.operands, _matrices(plan, node))
            if m.packed is not None
        )
    from nufunc.codegen import linalg, sorting

    return sorting.scratch(node) if node.prim in ("sort", "argsort") else linalg.scratch(node)


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    if node.prim == "dot":
        _dot(plan, scope, node)
        return
    from nufunc.codegen import linalg, sorting

    if node.prim in ("sort", "argsort"):
        sorting.emit(plan, scope, node)
    elif node.prim in linalg.EMITTERS:
        linalg.emit(plan, scope, node)
    else:
        raise UnsupportedError(f"compiled code has no {node.prim}", node.loc)


class Caller:
    """Calls of Fortran routines: every argument by pointer, integers of 32 bits."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def value(self, number: int | float | str | complex, type_: ir.Type | np.dtype = I32) -> ir.Value:
        """A pointer to a constant."""
        stored: list[float]
        if isinstance(number, str):
            type_, stored = I8, [ord(number)]
        elif isinstance(type_, np.dtype):
            parts = [complex(number).real, complex(number).imag]
            stored = parts if type_.kind == "c" else parts[:1]
            type_ = F32 if type_ in (np.dtype(np.float32), np.dtype(np.complex64)) else F64
        else:
            stored = [int(number.real)]
        name = f"nf.const.{type_}.{'_'.join(map(str, stored))}"
        module = self.plan.module
        if name not in module.globals:
            array = ir.ArrayType(type_, len(stored))
            made = ir.GlobalVariable(module, array, name)
            made.linkage, made.global_constant = "internal", True
            made.initializer = ir.Constant(array, [ir.Constant(type_, s) for s in stored])
        return _opaque(module.globals[name])

    def call(self, name: str, args: Sequence[ir.Value]) -> None:
        type_ = ir.FunctionType(ir.VoidType(), [POINTER] * len(args))
        function = self.plan.b.bitcast(self.plan.extern(name), ir.PointerType())
        call = self.plan.b.call(_Callee(function, type_), list(args))
        del call


def _opaque(value: Any) -> Any:
    value.type = POINTER
    return value


class _Callee:
    """A function pointer with its type, as llvmlite's call wants it (its own pointers know no type any
    more)."""

    def __init__(self, pointer: ir.Value, type_: ir.FunctionType) -> None:
        self.pointer, self.function_type, self.type = pointer, type_, type_.as_pointer()

    def get_reference(self) -> str:
        return str(self.pointer.get_reference())


# -- dot


@dataclass(frozen=True)
class _Matrix:
    """An operand as rows (free axes) by columns (contracted), with strides in elements; packed: must be
    copied first."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    batch: tuple[int, ...]
    source: Strided | None
    packed: tuple[int, ...] | None


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
    return [
        _matrix(resolve(o, plan.view_of), o, g) for o, g in zip(node.operands, _groups(node), strict=True)
    ]


def _matrix(source: Strided | None, value: Value, groups: tuple[list[int], list[int], list[int]]) -> _Matrix:
    batch, free, inner = groups
    if source is not None:
        rows, columns = source.merged(free), source.merged(inner)
        if rows is not None and columns is not None and _fits(rows, columns):
            return _Matrix(rows, columns, tuple(source.strides[a] for a in batch), source, None)
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


def _dot(plan: Plan, scope: Scope, node: Node) -> None:
    dtype, size = node.result.dtype, node.result.dtype.itemsize
    matrices = _matrices(plan, node)
    pointers, offset = [], 0
    for operand, matrix in zip(node.operands, matrices, strict=True):
        if matrix.packed is None:
            assert matrix.source is not None
            pointers.append(plan.at(scope.pointer(matrix.source.base), matrix.source.offset * size))
            continue
        place = plan.at(scope.scratch(node), offset)
        offset += aligned(operand.type.nbytes)
        base, region = materialised(operand, plan.view_of, matrix.packed)
        plan.kernel(region, [scope.pointer(base), place], "packed")
        pointers.append(place)
    batch = [node.operands[0].shape[a] for a in node.attrs["batch"][0]]
    result = scope.pointer(node.result)
    steps = row_major(node.result.shape)[: len(batch)]
    loops = []
    for k, extent in enumerate(batch):
        if extent == 1:
            continue
        loop = plan.loop(extent)
        i = loop.__enter__()
        loops.append(loop)
        strides = [matrices[0].batch[k], matrices[1].batch[k], steps[k]]
        moved = [
            plan.at(p, plan.b.mul(i, I64(s * size)))
            for p, s in zip((*pointers, result), strides, strict=True)
        ]
        pointers, result = moved[:2], moved[2]
    _gemm(plan, dtype, matrices, pointers, result)
    for loop in reversed(loops):
        loop.finish([])


def _orient(matrix: _Matrix) -> tuple[str, int]:
    """How BLAS reads the transposed matrix (columns by rows) in column-major storage: flag and leading
    dimension."""
    (n, s), (k, t) = matrix.rows, matrix.columns
    if (t == 1 or k == 1) and (s >= max(k, 1) or n == 1):
        return "N", max(s if n > 1 else 1, k, 1)
    return "T", max(t if k > 1 else 1, n, 1)


def _gemm(
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

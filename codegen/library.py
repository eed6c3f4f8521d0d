"""Library nodes of a plan: which file emits them, and how Fortran routines are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from nufunc.codegen.llvm import F32, F64, I8, I32, POINTER
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Node

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

LETTER = {"f4": "s", "f8": "d", "c8": "c", "c16": "z"}


def letter(dtype: np.dtype) -> str:
    """BLAS's letter of a dtype."""
    return LETTER[dtype.kind + str(dtype.itemsize)]


def scratch(plan: Plan, node: Node) -> int:
    """Bytes of scratch memory that a library node needs."""
    from nufunc.codegen import bits, conv, fft, lapack, linalg, products, sorting

    if node.prim == "dot":
        return products.scratch(plan, node)
    if node.prim == "conv":
        return conv.scratch(node)
    if node.prim in ("callback", "require", *fft.PRIMITIVES, *bits.PRIMITIVES):
        return 0
    if node.prim in lapack.EMITTERS:
        return lapack.scratch(node)
    return sorting.scratch(node) if node.prim in ("sort", "argsort") else linalg.scratch(node)


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    from nufunc.codegen import bits, callback, conv, fft, lapack, linalg, products, sorting

    if node.prim == "dot":
        products.emit(plan, scope, node)
    elif node.prim == "conv":
        conv.emit(plan, scope, node)
    elif node.prim in ("sort", "argsort"):
        sorting.emit(plan, scope, node)
    elif node.prim == "callback":
        callback.emit(plan, scope, node)
    elif node.prim in fft.PRIMITIVES:
        fft.emit(plan, scope, node)
    elif node.prim in bits.PRIMITIVES:
        bits.emit(plan, scope, node)
    elif node.prim in lapack.EMITTERS:
        lapack.emit(plan, scope, node)
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
        call_extern(self.plan, name, ir.VoidType(), args)


def call_extern(plan: Plan, name: str, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
    """Call a C function whose address stands in the plan's table."""
    return call_address(plan, plan.extern(name), result, args)


def call_address(plan: Plan, address: ir.Value, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
    """Call a C function at an address."""
    type_ = ir.FunctionType(result, [a.type for a in args])
    return plan.b.call(_Callee(address, type_), list(args))


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

"""Small helpers over llvmlite: types of dtypes, splatted constants, intrinsics, and calls of libm lane by
lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

I1, I8, I32, I64 = (ir.IntType(n) for n in (1, 8, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
POINTER = ir.PointerType()


class Splat(ir.Constant):
    """A vector constant of equal lanes, printed as LLVM's `splat (double 1.0)`, which parses much faster
    than a list."""

    def __init__(self, type_: ir.VectorType, element: ir.Constant) -> None:
        self.type = type_
        self.constant = element

    def _get_reference(self) -> str:
        return f"splat ({self.constant.type} {self.constant.get_reference()})"


class Poison(ir.Constant):
    """A value that nobody reads: the start of a vector built lane by lane, the second operand of a shuffle."""

    def __init__(self, type_: ir.Type) -> None:
        self.type = type_
        self.constant = "poison"

    def _get_reference(self) -> str:
        return "poison"


def element_type(dtype: np.dtype) -> ir.Type:
    """The register type of a real dtype: i1 for bool."""
    if dtype.kind == "b":
        return I1
    if dtype.kind in "iuO":  # O: an element of an array of tapes, moved like a number
        return ir.IntType(8 * dtype.itemsize)
    return F32 if dtype.itemsize == (4 if dtype.kind == "f" else 8) else F64


def register_type(dtype: np.dtype, lanes: int = 1) -> ir.Type:
    element = element_type(dtype)
    return element if lanes == 1 else ir.VectorType(element, lanes)


def lanes_of(type_: ir.Type) -> int:
    return type_.count if isinstance(type_, ir.VectorType) else 1


def scalar_of(type_: ir.Type) -> ir.Type:
    return type_.element if isinstance(type_, ir.VectorType) else type_


def like(type_: ir.Type, element: ir.Type) -> ir.Type:
    """`type_` with other elements."""
    return ir.VectorType(element, type_.count) if isinstance(type_, ir.VectorType) else element


def constant(type_: ir.Type, value: Any) -> ir.Constant:
    """A number of a scalar type or of all lanes of a vector type."""
    element = scalar_of(type_)
    if isinstance(element, ir.IntType):
        value = int(value)
        if element.width > 1 and value >= 1 << (element.width - 1):
            value -= 1 << element.width
    else:
        value = float(value)
    made = ir.Constant(element, value)
    return Splat(type_, made) if isinstance(type_, ir.VectorType) else made


def lane_numbers(lanes: int, type_: ir.IntType = I64) -> ir.Constant:
    """<0, 1, 2, ...> of i64, or of another type that holds them as unsigned numbers."""
    return ir.Constant(ir.VectorType(type_, lanes), list(range(lanes)))


def type_name(type_: ir.Type) -> str:
    """LLVM's suffix of overloaded intrinsics: f64, v8f64, v4i32."""
    element = scalar_of(type_)
    name = f"i{element.width}" if isinstance(element, ir.IntType) else "f32" if element == F32 else "f64"
    return f"v{type_.count}{name}" if isinstance(type_, ir.VectorType) else name


def declare(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """A function of this name, declared once."""
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, list(arguments)), name)


def intrinsic(b: ir.IRBuilder, name: str, args: Sequence[ir.Value], *rest: ir.Value) -> ir.Value:
    """Call `llvm.<name>.<type>` overloaded on the first argument's type, which is also the result's."""
    type_ = args[0].type
    function = declare(b.module, f"llvm.{name}.{type_name(type_)}", type_, [a.type for a in (*args, *rest)])
    return b.call(function, [*args, *rest])


def splat(b: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector with every lane `value`."""
    vector = ir.VectorType(value.type, lanes)
    if isinstance(value, ir.Constant):
        return Splat(vector, value)
    one = b.insert_element(Poison(vector), value, I32(0))
    mask = ir.Constant(ir.VectorType(I32, lanes), None)
    return b.shuffle_vector(one, Poison(vector), mask)


def per_lane(b: ir.IRBuilder, symbol: str, function: ir.Function, args: Sequence[ir.Value]) -> ir.Value:
    """Call a scalar function on each lane, through one internal function per vector type; of several results a struct
    of vectors."""
    lanes = lanes_of(args[0].type)
    if lanes == 1:
        return b.call(function, list(args))
    single = function.function_type.return_type
    several = single.elements if isinstance(single, ir.LiteralStructType) else None
    vectors = [ir.VectorType(e, lanes) for e in several or [single]]
    result = ir.LiteralStructType(vectors) if several else vectors[0]
    name = f"{symbol}.v{lanes}"
    module = b.module
    if name not in module.globals:
        outer = ir.Function(module, ir.FunctionType(result, [a.type for a in args]), name)
        outer.linkage = "internal"
        outer.attributes.add("noinline")
        inner = ir.IRBuilder(outer.append_basic_block())
        done = [Poison(type_) for type_ in vectors]
        for lane in range(lanes):
            values = [inner.extract_element(a, I32(lane)) for a in outer.args]
            answer = inner.call(function, values)
            parts = [inner.extract_value(answer, k) for k in range(len(several))] if several else [answer]
            done = [inner.insert_element(d, part, I32(lane)) for d, part in zip(done, parts, strict=True)]
        whole = done[0] if not several else Poison(result)
        for k, part in enumerate(done if several else ()):
            whole = inner.insert_value(whole, part, k)
        inner.ret(whole)
    return b.call(module.globals[name], list(args))


def libm(b: ir.IRBuilder, name: str, args: Sequence[ir.Value]) -> ir.Value:
    """Call the C library's function, lane by lane; `name` is that for double."""
    element = scalar_of(args[0].type)
    symbol = name + ("f" if element == F32 else "")
    function = declare(b.module, symbol, element, [element] * len(args))
    function.attributes.add("nounwind")
    return per_lane(b, f"nf.libm.{symbol}", function, args)

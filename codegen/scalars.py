"""Scalar recipes: each elementwise primitive on real registers (scalars or vectors), as LLVM instructions.

NumPy's arithmetic throughout: integer division, remainders, shifts and conversions are guarded and never
undefined, no fast-math flag is set. Complex numbers stand in `scalars_complex`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import scipy_calls, vmath
from nufunc.codegen.emit_memory import Memory
from nufunc.codegen.llvm import (
    F64,
    I1,
    constant,
    element_type,
    intrinsic,
    lanes_of,
    libm,
    like,
    per_lane,
    scalar_of,
    type_name,
)  # fmt: skip
from nufunc.codegen.scalars_division import Division
from nufunc.ir.errors import UnsupportedError

LIBM = frozenset(("nextafter",))  # of the functions without a recipe here or in vmath
_ROUND = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "rint"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


class Scalars(Division):
    """Emits elementwise primitives at a builder's position."""

    def __init__(self, b: ir.IRBuilder, has_fma: bool) -> None:
        self.b, self.has_fma = b, has_fma

    def emit(
        self,
        op: str,
        args: Sequence[Any],
        dtypes: Sequence[np.dtype],
        dtype: np.dtype,
        attrs: Mapping[str, Any],
    ) -> Any:
        """`op` of `args` of `dtypes`; `dtype` is the result's. Complex values are pairs of registers."""
        if dtype.kind == "c" or any(d.kind == "c" for d in dtypes):
            from nufunc.codegen.scalars_complex import ComplexScalars

            return ComplexScalars(self).emit(op, args, dtypes, dtype, attrs)
        if op == "convert":
            return self.convert(args[0], dtypes[0], dtype)
        if op == "bitcast":
            return self.b.bitcast(args[0], like(args[0].type, element_type(dtype)))
        if op == "select":
            return self.b.select(*args)
        if op == "integer_pow":
            return self.integer_pow(args[0], dtype, attrs["y"])
        if op == "scipy":
            return scipy_calls.emit(self.b, attrs["function"], args)
        if op in _COMPARE:
            return self.compare(_COMPARE[op], args[0], args[1], dtypes[0])
        kind = dtypes[0].kind
        rule = getattr(self, f"{'float' if kind == 'f' else 'int'}_{op}", None) or getattr(
            self, f"any_{op}", None
        )
        if rule is not None:
            return rule(*args, dtypes[0])
        if kind == "f":
            return self.function(op, args)
        raise UnsupportedError(f"compiled code has no {op} of {dtypes[0]}")

    def function(self, name: str, args: Sequence[ir.Value]) -> ir.Value:
        """An elementary function: a polynomial of vmath, or the C library's."""
        if name in vmath.known():
            return vmath.emit(name, self.b, args, has_fma=self.has_fma)
        if name in LIBM:
            return libm(self.b, name, args)
        raise UnsupportedError(f"compiled code has no function {name}")

    def joint(self, name: str, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Both results of a function of `vmath.JOINT` or `scipy_calls.JOINT`."""
        if name in scipy_calls.JOINT.values():
            return scipy_calls.emit_joint(self.b, name, x)
        return vmath.emit_joint(name, self.b, x, has_fma=self.has_fma)

    def c(self, x: ir.Value, number: Any) -> ir.Constant:
        return constant(x.type, number)

    def compare(self, sign: str, x: ir.Value, y: ir.Value, dtype: np.dtype) -> ir.Value:
        if dtype.kind == "f":
            return self.b.fcmp_unordered(sign, x, y) if sign == "!=" else self.b.fcmp_ordered(sign, x, y)
        signed = dtype.kind == "i"
        return self.b.icmp_signed(sign, x, y) if signed else self.b.icmp_unsigned(sign, x, y)

    def int_threefry2x32(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        from nufunc.codegen.random import emit_threefry2x32

        return emit_threefry2x32(self.b, x, y)

    def float_gamma_sample(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return y

    def either(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.or_(x, y)

    # -- arithmetic

    def int_add(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.or_(x, y) if d.kind == "b" else self.b.add(x, y)

    def int_sub(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.sub(x, y)

    def int_mul(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.and_(x, y) if d.kind == "b" else self.b.mul(x, y)

    def float_add(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.fadd(x, y)

    def float_sub(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.fsub(x, y)

    def float_mul(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.fmul(x, y)

    def float_div(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.fdiv(x, y)

    def float_neg(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.fneg(x)

    def int_neg(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.sub(self.c(x, 0), x)

    def float_abs(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return intrinsic(self.b, "fabs", [x])

    def int_abs(self, x: ir.Value, d: np.dtype) -> ir.Value:
        if d.kind != "i":
            return x
        return self.b.select(self.b.icmp_signed("<", x, self.c(x, 0)), self.int_neg(x, d), x)

    def float_sign(self, x: ir.Value, d: np.dtype) -> ir.Value:
        b, zero = self.b, self.c(x, 0)
        rest = b.select(b.fcmp_ordered("==", x, zero), zero, x)
        low = b.select(b.fcmp_ordered("<", x, zero), self.c(x, -1), rest)
        return b.select(b.fcmp_ordered(">", x, zero), self.c(x, 1), low)

    def int_sign(self, x: ir.Value, d: np.dtype) -> ir.Value:
        b, zero = self.b, self.c(x, 0)
        if d.kind != "i":
            return b.zext(b.icmp_unsigned("!=", x, zero), x.type) if d.kind == "u" else x
        low = b.select(b.icmp_signed("<", x, zero), self.c(x, -1), zero)
        return b.select(b.icmp_signed(">", x, zero), self.c(x, 1), low)

    # -- powers and divisors of ints

    def int_pow(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        """x**y by squaring; y is not negative (the bits of a negative one are taken as unsigned)."""
        symbol, module = f"nf.ipow.{type_name(x.type)}", self.b.module
        if symbol not in module.globals:
            _emit_int_pow(module, symbol, x.type)
        return self.b.call(module.globals[symbol], [x, y])

    def int_gcd(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        scalar = element_type(d)
        symbol = f"nf.gcd.i{scalar.width}"
        module = self.b.module
        if symbol not in module.globals:
            _emit_gcd(module, symbol, scalar)
        return per_lane(self.b, symbol, module.globals[symbol], [self.int_abs(x, d), self.int_abs(y, d)])


    def integer_pow(self, x: ir.Value, dtype: np.dtype, y: int) -> ir.Value:
        """x**y: products up to the eighth power (at most 4 ulp), beyond it pow for floats."""
        multiply = lambda a, b: self.emit("mul", (a, b), (dtype, dtype), dtype, {})
        if dtype.kind == "f" and abs(y) > 8:
            return self.function("pow", [x, self.c(x, y)])
        power = power_chain(multiply, x, abs(y)) if y else self.c(x, 1)
        return self.b.fdiv(self.c(x, 1), power) if y < 0 else power

    # -- order

    def float_maximum(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self._extreme(">=", x, y)

    def float_minimum(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self._extreme("<=", x, y)

    def _extreme(self, sign: str, x: ir.Value, y: ir.Value) -> ir.Value:
        b = self.b
        first = b.or_(b.fcmp_ordered(sign, x, y), b.fcmp_unordered("uno", x, x))
        return b.select(first, x, y)

    def float_fmax(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        first = self.b.or_(self.b.fcmp_ordered(">=", x, y), self.b.fcmp_unordered("uno", y, y))
        return self.b.select(first, x, y)

    def float_fmin(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        first = self.b.or_(self.b.fcmp_ordered("<=", x, y), self.b.fcmp_unordered("uno", y, y))
        return self.b.select(first, x, y)

    def int_maximum(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.select(self.compare(">=", x, y, d), x, y)

    def int_minimum(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.select(self.compare("<=", x, y, d), x, y)

    int_fmax, int_fmin = int_maximum, int_minimum

    # -- bits

    def int_bit_and(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.and_(x, y)

    def int_bit_or(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.or_(x, y)

    def int_bit_xor(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.xor(x, y)

    def int_bit_not(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.xor(x, self.c(x, 1 if d.kind == "b" else -1))

    def int_shift_left(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        inside = self.b.icmp_unsigned("<", y, self.c(y, 8 * d.itemsize))
        shifted = self.b.shl(x, self.b.select(inside, y, self.c(y, 0)))
        return self.b.select(inside, shifted, self.c(x, 0))

    def int_shift_right(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        bits = 8 * d.itemsize
        inside = self.b.icmp_unsigned("<", y, self.c(y, bits))
        if d.kind == "i":
            return self.b.ashr(x, self.b.select(inside, y, self.c(y, bits - 1)))
        shifted = self.b.lshr(x, self.b.select(inside, y, self.c(y, 0)))
        return self.b.select(inside, shifted, self.c(x, 0))

    # -- functions of floats

    def float_sqrt(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return intrinsic(self.b, "sqrt", [x])

    def float_copysign(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        return intrinsic(self.b, "copysign", [x, y])

    def float_floor(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return intrinsic(self.b, "floor", [x])

    def float_ceil(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return intrinsic(self.b, "ceil", [x])

    def float_trunc(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return intrinsic(self.b, "trunc", [x])

    def float_rint(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return intrinsic(self.b, "rint", [x])

    def float_logistic(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return self.function("expit", [x])

    def float_isnan(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.fcmp_unordered("uno", x, x)

    def float_isinf(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.fcmp_ordered("==", intrinsic(self.b, "fabs", [x]), self.c(x, float("inf")))

    def float_isfinite(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.fcmp_ordered("<", intrinsic(self.b, "fabs", [x]), self.c(x, float("inf")))

    def float_signbit(self, x: ir.Value, d: np.dtype) -> ir.Value:
        bits = self.b.bitcast(x, like(x.type, ir.IntType(8 * d.itemsize)))
        return self.b.icmp_signed("<", bits, self.c(bits, 0))

    # integers and bools have no NaN and no infinity

    def int_isnan(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return constant(like(x.type, I1), 0)

    int_isinf = int_isnan

    def int_isfinite(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return constant(like(x.type, I1), 1)

    def int_signbit(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return self.b.icmp_signed("<", x, self.c(x, 0)) if d.kind == "i" else constant(like(x.type, I1), 0)

    def int_conj(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return x

    def float_conj(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return x

    def any_stop_gradient(self, x: ir.Value, d: np.dtype) -> ir.Value:
        return x

    float_real = float_stop_gradient = int_stop_gradient = int_real = any_stop_gradient

    # -- conversion

    def convert(self, x: ir.Value, source: np.dtype, target: np.dtype) -> ir.Value:
        """astype between real dtypes; floats out of range convert as the processor's instructions do."""
        b, type_ = self.b, like(x.type, element_type(target))
        if source == target:
            return x
        if target.kind == "b":
            zero = self.c(x, 0)
            return b.fcmp_unordered("!=", x, zero) if source.kind == "f" else b.icmp_unsigned("!=", x, zero)
        if target.kind == "f":
            if source.kind == "f":
                return b.fpext(x, type_) if target.itemsize > source.itemsize else b.fptrunc(x, type_)
            return b.sitofp(x, type_) if source.kind == "i" else b.uitofp(x, type_)
        if source.kind == "f":
            return self.float_to_int(x, target)
        if target.itemsize < source.itemsize:
            return b.trunc(x, type_)
        if target.itemsize == source.itemsize and source.kind != "b":
            return x
        return b.sext(x, type_) if source.kind == "i" else b.zext(x, type_)

    def float_to_int(self, x: ir.Value, target: np.dtype) -> ir.Value:
        """Truncate. Out of range and NaN: the least integer of the 32 or 64 bits that x86 converts
        through."""
        b = self.b
        if target == np.dtype(np.uint64):
            middle = self.c(x, 2.0**63)
            low = b.fcmp_ordered("<", x, middle)
            small = self._to_signed(x, 64)
            large = b.xor(self._to_signed(b.fsub(x, middle), 64), constant(small.type, -(2**63)))
            return b.select(low, small, large)
        wide = 64 if target.itemsize == 8 or target == np.dtype(np.uint32) else 32
        whole = self._to_signed(x, wide)
        return whole if wide == 8 * target.itemsize else b.trunc(whole, like(x.type, element_type(target)))

    def _to_signed(self, x: ir.Value, bits: int) -> ir.Value:
        b, type_ = self.b, like(x.type, ir.IntType(bits))
        least = self.c(x, -(2.0 ** (bits - 1)))
        # -2**31 - 0.5 truncates into range, but only doubles can say it
        above = self.c(x, -(2.0**31) - 1) if bits == 32 and scalar_of(x.type) == F64 else least
        enough = b.fcmp_ordered(">" if above is not least else ">=", x, above)
        inside = b.and_(enough, b.fcmp_ordered("<", x, self.c(x, 2.0 ** (bits - 1))))
        whole = b.fptosi(b.select(inside, x, self.c(x, 0)), type_)
        return b.select(inside, whole, constant(type_, -(2 ** (bits - 1))))


def power_chain(multiply: Callable[[Any, Any], Any], x: Any, y: int) -> Any:
    """x**y for y >= 1 by squaring."""
    power = None
    while True:
        if y & 1:
            power = x if power is None else multiply(power, x)
        y >>= 1
        if not y:
            return power
        x = multiply(x, x)


def _emit_int_pow(module: ir.Module, symbol: str, type_: ir.Type) -> None:
    """Squares and products until no lane has bits of its exponent left."""
    one, zero = constant(type_, 1), constant(type_, 0)
    function = ir.Function(module, ir.FunctionType(type_, [type_, type_]), symbol)
    function.linkage = "internal"
    start, loop, done = (function.append_basic_block(n) for n in ("start", "loop", "done"))
    b = ir.IRBuilder(start)
    b.branch(loop)
    b.position_at_end(loop)
    power, x, y = (b.phi(type_) for _ in range(3))
    odd = b.icmp_unsigned("!=", b.and_(y, one), zero)
    next_power = b.select(odd, b.mul(power, x), power)
    next_x, next_y = b.mul(x, x), b.lshr(y, one)
    for phi, first, later in (
        (power, one, next_power),
        (x, function.args[0], next_x),
        (y, function.args[1], next_y),
    ):
        phi.add_incoming(first, start)
        phi.add_incoming(later, loop)
    more = b.icmp_unsigned("!=", next_y, zero)
    b.cbranch(more if lanes_of(type_) == 1 else Memory(b).any(more), loop, done)
    b.position_at_end(done)
    b.ret(next_power)


def _emit_gcd(module: ir.Module, symbol: str, type_: ir.IntType) -> None:
    """The greatest common divisor of two unsigned numbers: one division, for numbers of different sizes, then
    subtraction and shifts."""
    function = ir.Function(module, ir.FunctionType(type_, [type_, type_]), symbol)
    function.linkage = "internal"
    names = ("start", "divided", "first", "loop", "done", "zero", "multiple")
    start, divided, first, loop, done, trivial, multiple = (function.append_basic_block(name) for name in names)
    x, y = function.args
    b = ir.IRBuilder(start)
    nothing, no = type_(0), ir.Constant(ir.IntType(1), 0)
    wide = b.icmp_unsigned(">", x, y)
    x, large = b.select(wide, y, x), b.select(wide, x, y)
    b.cbranch(b.icmp_unsigned("<=", x, type_(1)), trivial, divided)
    b.position_at_end(trivial)
    b.ret(b.select(b.icmp_unsigned("==", x, nothing), large, x))  # what a fold soon comes to, and stays at
    b.position_at_end(divided)
    y = b.urem(large, x)
    b.cbranch(b.icmp_unsigned("==", y, nothing), multiple, first)
    b.position_at_end(multiple)
    b.ret(x)
    b.position_at_end(first)
    twos = b.cttz(b.or_(x, y), no)
    odd = b.lshr(x, b.cttz(x, no))
    b.branch(loop)
    b.position_at_end(loop)
    u, v = b.phi(type_), b.phi(type_)
    w = b.lshr(v, b.cttz(v, no))
    above = b.icmp_unsigned(">", u, w)
    less, rest = b.select(above, w, u), b.select(above, b.sub(u, w), b.sub(w, u))
    for phi, one, later in ((u, odd, less), (v, y, rest)):
        phi.add_incoming(one, first)
        phi.add_incoming(later, loop)
    b.cbranch(b.icmp_unsigned("!=", rest, nothing), loop, done)
    b.position_at_end(done)
    b.ret(b.shl(less, twos))

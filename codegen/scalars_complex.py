"""Scalar recipes for complex numbers, as pairs of real registers (scalars or vectors)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from nufunc.codegen import vmath_complex
from nufunc.codegen.llvm import F32, constant, intrinsic
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.types import real_dtype

if TYPE_CHECKING:
    from nufunc.codegen.scalars import Scalars

Pair = tuple[Any, Any]
_LIBM = {
    "exp": "cexp", "log": "clog", "sqrt": "csqrt", "sin": "csin", "cos": "ccos", "tan": "ctan",
    "asin": "casin", "acos": "cacos", "atan": "catan", "sinh": "csinh", "cosh": "ccosh",
    "tanh": "ctanh", "asinh": "casinh", "acosh": "cacosh", "atanh": "catanh",
}  # fmt: skip


class ComplexScalars:
    """Emits elementwise primitives that read or give complex numbers. Real operands are plain registers."""

    def __init__(self, real: Scalars) -> None:
        self.real, self.b = real, real.b

    def emit(
        self,
        op: str,
        args: Sequence[Any],
        dtypes: Sequence[np.dtype],
        dtype: np.dtype,
        attrs: Mapping[str, Any],
    ) -> Any:
        if op == "convert":
            return self.convert(args[0], dtypes[0], dtype)
        if op == "select":
            test, x, y = args
            return self.b.select(test, x[0], y[0]), self.b.select(test, x[1], y[1])
        if op == "complex":
            return args[0], args[1]
        if op == "integer_pow":
            return self.integer_pow(args[0], attrs["y"])
        rule = getattr(self, f"op_{op}", None)
        if rule is not None:
            return rule(*args)
        if op in _LIBM:
            return self.function(_LIBM[op], args[0])
        raise UnsupportedError(f"compiled code has no {op} of {dtypes[0]}")

    def zero(self, x: ir.Value) -> ir.Constant:
        return constant(x.type, 0)

    def function(self, name: str, x: Pair) -> Pair:
        """What the C library calls `name`."""
        return vmath_complex.emit(name, self.b, x, self.real.has_fma)

    def convert(self, x: Any, source: np.dtype, target: np.dtype) -> Any:
        if source.kind == "c":
            if target.kind == "b":
                return self.b.or_(*(self.real.convert(p, real_dtype(source), target) for p in x))
            if target.kind != "c":
                return self.real.convert(x[0], real_dtype(source), target)
            return tuple(self.real.convert(p, real_dtype(source), real_dtype(target)) for p in x)
        whole = self.real.convert(x, source, real_dtype(target))
        return whole, self.zero(whole)

    # -- arithmetic

    def op_add(self, x: Pair, y: Pair) -> Pair:
        return self.b.fadd(x[0], y[0]), self.b.fadd(x[1], y[1])

    def op_sub(self, x: Pair, y: Pair) -> Pair:
        return self.b.fsub(x[0], y[0]), self.b.fsub(x[1], y[1])

    def op_mul(self, x: Pair, y: Pair) -> Pair:
        b, (p, q), (r, s) = self.b, x, y
        return b.fsub(b.fmul(p, r), b.fmul(q, s)), b.fadd(b.fmul(p, s), b.fmul(q, r))

    def op_div(self, x: Pair, y: Pair) -> Pair:
        """Smith's method: scaled by the larger part of the divisor; by zero both parts are divided by it, as
        in NumPy."""
        b = self.b
        size_re, size_im = (intrinsic(b, "fabs", [p]) for p in y)
        wide = b.fcmp_ordered(">=", size_re, size_im)
        large, small = b.select(wide, y[0], y[1]), b.select(wide, y[1], y[0])
        ratio = b.fdiv(small, large)
        scale = b.fdiv(constant(large.type, 1), b.fadd(large, b.fmul(small, ratio)))
        first, second = b.select(wide, x[0], x[1]), b.select(wide, x[1], x[0])
        re = b.fmul(b.fadd(first, b.fmul(second, ratio)), scale)
        im = b.fmul(b.fsub(second, b.fmul(first, ratio)), scale)
        im = b.select(wide, im, b.fneg(im))
        nothing = b.and_(*(b.fcmp_ordered("==", size, self.zero(size)) for size in (size_re, size_im)))
        by_zero = [b.fdiv(p, size_re) for p in x]
        return b.select(nothing, by_zero[0], re), b.select(nothing, by_zero[1], im)

    def op_neg(self, x: Pair) -> Pair:
        return self.b.fneg(x[0]), self.b.fneg(x[1])

    def op_conj(self, x: Pair) -> Pair:
        return x[0], self.b.fneg(x[1])

    def op_real(self, x: Any) -> ir.Value:
        return x[0] if isinstance(x, tuple) else x

    def op_imag(self, x: Pair) -> ir.Value:
        return x[1]

    def op_stop_gradient(self, x: Pair) -> Pair:
        return x

    def op_abs(self, x: Pair) -> ir.Value:
        return self.real.function("hypot", x)

    def op_sign(self, x: Pair) -> Pair:
        """x / |x|; zero for zero."""
        size = self.op_abs(x)
        nothing = self.b.fcmp_ordered("==", size, self.zero(size))
        return tuple(self.b.select(nothing, self.zero(p), self.b.fdiv(p, size)) for p in x)

    def integer_pow(self, x: Pair, y: int) -> Pair:
        from nufunc.codegen.scalars import power_chain

        one = constant(x[0].type, 1), self.zero(x[0])
        power = power_chain(self.op_mul, x, abs(y)) if y else one
        return self.op_div(one, power) if y < 0 else power

    def op_pow(self, x: Pair, y: Pair) -> Pair:
        """exp(y log x), but exact where NumPy is: y = 0 gives 1, and zero to a power with positive real part 0."""
        b, result = self.b, self.function("cexp", self.op_mul(y, self.function("clog", x)))
        is_zero = lambda p: b.and_(*(b.fcmp_ordered("==", part, self.zero(part)) for part in p))
        zero_power = is_zero(y)
        vanishes = b.and_(is_zero(x), b.fcmp_ordered(">", y[0], self.zero(y[0])))
        re, im = (b.select(vanishes, self.zero(p), p) for p in result)
        return b.select(zero_power, constant(re.type, 1), re), b.select(zero_power, self.zero(im), im)

    # -- order (by real part, then imaginary) and tests

    def op_eq(self, x: Pair, y: Pair) -> ir.Value:
        return self.b.and_(*(self.b.fcmp_ordered("==", p, q) for p, q in zip(x, y)))

    def op_ne(self, x: Pair, y: Pair) -> ir.Value:
        return self.b.or_(*(self.b.fcmp_unordered("!=", p, q) for p, q in zip(x, y)))

    def _ordered(self, sign: str, last: str, x: Pair, y: Pair) -> ir.Value:
        b = self.b
        orders = lambda p: b.fcmp_ordered("ord", p, p)
        clear = b.and_(b.fcmp_ordered(sign, x[0], y[0]), b.and_(orders(x[1]), orders(y[1])))
        return b.or_(clear, b.and_(b.fcmp_ordered("==", x[0], y[0]), b.fcmp_ordered(last, x[1], y[1])))

    def op_lt(self, x: Pair, y: Pair) -> ir.Value:
        return self._ordered("<", "<", x, y)

    def op_le(self, x: Pair, y: Pair) -> ir.Value:
        return self._ordered("<", "<=", x, y)

    def op_gt(self, x: Pair, y: Pair) -> ir.Value:
        return self._ordered(">", ">", x, y)

    def op_ge(self, x: Pair, y: Pair) -> ir.Value:
        return self._ordered(">", ">=", x, y)

    def _parts(self, test: str, x: Pair) -> list[ir.Value]:
        dtype = np.dtype(np.float32 if x[0].type == F32 else np.float64)
        return [self.real.emit(test, (p,), (dtype,), np.dtype(bool), {}) for p in x]

    def op_isnan(self, x: Pair) -> ir.Value:
        return self.b.or_(*self._parts("isnan", x))

    def op_isinf(self, x: Pair) -> ir.Value:
        return self.b.or_(*self._parts("isinf", x))

    def op_isfinite(self, x: Pair) -> ir.Value:
        return self.b.and_(*self._parts("isfinite", x))

    # -- functions that C's complex library lacks

    def _scaled(self, x: Pair, factor: float) -> Pair:
        return self.b.fmul(x[0], constant(x[0].type, factor)), self.b.fmul(x[1], constant(x[1].type, factor))

    def op_exp2(self, x: Pair) -> Pair:
        return self.function("cexp", self._scaled(x, math.log(2)))

    def op_log2(self, x: Pair) -> Pair:
        return self._scaled(self.function("clog", x), 1 / math.log(2))

    def op_log10(self, x: Pair) -> Pair:
        return self._scaled(self.function("clog", x), 1 / math.log(10))

    def op_expm1(self, x: Pair) -> Pair:
        """(expm1(a) cos(b) - 2 sin(b/2)^2, exp(a) sin(b))."""
        b, call = self.b, self.real.function
        half = call("sin", [b.fmul(x[1], constant(x[1].type, 0.5))])
        re = b.fmul(call("expm1", [x[0]]), call("cos", [x[1]]))
        re = b.fsub(re, b.fmul(constant(half.type, 2), b.fmul(half, half)))
        return re, b.fmul(call("exp", [x[0]]), call("sin", [x[1]]))

    def op_log1p(self, x: Pair) -> Pair:
        """log |1 + z| as log1p(2 a + a**2 + b**2) / 2 where that is small."""
        b, call = self.b, self.real.function
        shifted = b.fadd(x[0], constant(x[0].type, 1))
        a, c = (intrinsic(b, "fabs", [p]) for p in x)
        half = constant(a.type, 0.5)
        near = b.and_(b.fcmp_ordered("<", a, half), b.fcmp_ordered("<", c, half))
        square = b.fadd(b.fmul(x[0], b.fadd(shifted, constant(a.type, 1))), b.fmul(x[1], x[1]))
        small = b.fmul(half, call("log1p", [b.select(near, square, self.zero(square))]))
        far = call("log", [call("hypot", [shifted, x[1]])])
        return b.select(near, small, far), call("atan2", [x[1], shifted])

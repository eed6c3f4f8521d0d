"""Division that rounds, on real registers: quotients and remainders of ints and floats as NumPy defines them.

Of ints, by zero gives 0 and the least number by -1 wraps. Vectors of fewer than 64 bits are divided as floats of twice
their digits: no quotient of two such ints lies so closely below a whole number that it is rounded up to it. Floats go
through the remainder, which is exact (`vmath_more.fmod`).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from nufunc.codegen import vmath
from nufunc.codegen.llvm import F32, F64, I32, Splat, constant, intrinsic, lanes_of, libm, like


class Division:
    """What `Scalars` does with floor_div, mod and fmod."""

    b: ir.IRBuilder
    has_fma: bool

    def c(self, x: ir.Value, number: float) -> ir.Constant:
        return constant(x.type, number)

    # -- ints

    def int_floor_div(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        b = self.b
        if _positive(y, d):
            return self._by_positive(x, y, d)
        quotient, remainder, by, zero = self._divided(x, y, d)
        if d.kind == "i":
            quotient = b.select(self._uneven(remainder, by), b.sub(quotient, self.c(x, 1)), quotient)
        return b.select(zero, self.c(x, 0), quotient)

    def int_mod(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        b = self.b
        if _positive(y, d):
            return b.sub(x, b.mul(self._by_positive(x, y, d), y))
        _, remainder, by, zero = self._divided(x, y, d)
        if d.kind == "i":
            remainder = b.select(self._uneven(remainder, by), b.add(remainder, by), remainder)
        return b.select(zero, self.c(x, 0), remainder)

    def int_fmod(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        _, remainder, _, zero = self._divided(x, y, d)
        return self.b.select(zero, self.c(x, 0), remainder)

    def _by_positive(self, x: ir.Value, y: ir.Constant, d: np.dtype) -> ir.Value:
        """The floor of x / y for a known y > 0: of a negative x that of -1 - x, turned back; LLVM multiplies."""
        b = self.b
        if d.kind != "i":
            return b.udiv(x, y)
        sign = b.ashr(x, self.c(x, 8 * d.itemsize - 1))
        return b.xor(sign, b.udiv(b.xor(sign, x), y))

    def _divided(
        self, x: ir.Value, y: ir.Value, d: np.dtype
    ) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
        """Quotient and remainder towards zero, the divisor used, and whether the given one was zero."""
        b = self.b
        zero = b.icmp_unsigned("==", y, self.c(y, 0))
        bad = zero
        if d.kind == "i":
            least = b.icmp_signed("==", x, self.c(x, int(np.iinfo(d).min)))
            bad = b.or_(bad, b.and_(least, b.icmp_signed("==", y, self.c(y, -1))))
        by = b.select(bad, self.c(y, 1), y)
        if d.itemsize < 8 and lanes_of(x.type) > 1 and not isinstance(y, ir.Constant):
            quotient = self._float_quotient(x, by, d)
            return quotient, b.sub(x, b.mul(quotient, by)), by, zero
        if d.kind == "i":
            return b.sdiv(x, by), b.srem(x, by), by, zero
        return b.udiv(x, by), b.urem(x, by), by, zero

    def _float_quotient(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        """x / y towards zero."""
        b, wide = self.b, like(x.type, F32 if d.itemsize < 4 else F64)
        if d.itemsize < 4:  # by 32 bits, for which processors have conversions
            extend = b.sext if d.kind == "i" else b.zext
            x32, y32 = (b.sitofp(extend(v, like(v.type, I32)), wide) for v in (x, y))
            return b.trunc(b.fptosi(b.fdiv(x32, y32), like(x.type, I32)), x.type)
        if d.kind == "i":
            return b.fptosi(b.fdiv(b.sitofp(x, wide), b.sitofp(y, wide)), x.type)
        return b.fptoui(b.fdiv(b.uitofp(x, wide), b.uitofp(y, wide)), x.type)

    def _uneven(self, remainder: ir.Value, by: ir.Value) -> ir.Value:
        """Whether a remainder is not zero and of the other sign than the divisor."""
        b = self.b
        differ = b.icmp_signed("<", b.xor(remainder, by), self.c(by, 0))
        return b.and_(b.icmp_signed("!=", remainder, self.c(by, 0)), differ)

    # -- floats

    def float_fmod(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        if self.has_fma:
            return vmath.emit("fmod", self.b, [x, y])
        return libm(self.b, "fmod", [x, y])

    def _float_divmod(self, x: ir.Value, y: ir.Value, d: np.dtype) -> tuple[ir.Value, ir.Value]:
        """NumPy's divmod of floats for a divisor that is not zero."""
        b, zero, one = self.b, self.c(x, 0), self.c(x, 1)
        rest = self.float_fmod(x, y, d)
        quotient = b.fdiv(b.fsub(x, rest), y)
        some = b.fcmp_unordered("!=", rest, zero)
        differ = b.xor(b.fcmp_ordered("<", y, zero), b.fcmp_ordered("<", rest, zero))
        shift = b.and_(some, differ)
        modulus = b.select(shift, b.fadd(rest, y), b.select(some, rest, intrinsic(b, "copysign", [zero], y)))
        quotient = b.select(shift, b.fsub(quotient, one), quotient)
        low = intrinsic(b, "floor", [quotient])
        low = b.select(b.fcmp_ordered(">", b.fsub(quotient, low), self.c(x, 0.5)), b.fadd(low, one), low)
        nothing = intrinsic(b, "copysign", [zero], b.fdiv(x, y))
        return b.select(b.fcmp_unordered("!=", quotient, zero), low, nothing), modulus

    def float_floor_div(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        by_zero = self.b.fcmp_ordered("==", y, self.c(y, 0))
        return self.b.select(by_zero, self.b.fdiv(x, y), self._float_divmod(x, y, d)[0])

    def float_mod(self, x: ir.Value, y: ir.Value, d: np.dtype) -> ir.Value:
        by_zero = self.b.fcmp_ordered("==", y, self.c(y, 0))
        return self.b.select(by_zero, self.c(x, float("nan")), self._float_divmod(x, y, d)[1])


def _positive(y: ir.Value, d: np.dtype) -> bool:
    """Whether a divisor is one known number above zero."""
    number = y.constant if isinstance(y, Splat) else y
    if not isinstance(number, ir.Constant) or not isinstance(number.constant, int):
        return False
    return number.constant > 0 or (d.kind == "u" and number.constant != 0)

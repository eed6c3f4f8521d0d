"""Owns the logarithms of vector mathematics and pow, whose logarithm is a sum of two doubles."""

from __future__ import annotations

import math
import struct

from nufunc.codegen import x86
from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import LN2_HI, LN2_LO, POLY
from nufunc.codegen.vmath_exp import exp_finite, exp_sum

_SQRT_HALF_BITS = {
    "f64": struct.unpack("<q", struct.pack("<d", math.sqrt(0.5)))[0],
    "f32": struct.unpack("<i", struct.pack("<f", math.sqrt(0.5)))[0],
}
_SQRT_TWO = {
    "f64": math.sqrt(2.0),
    "f32": struct.unpack("<f", struct.pack("<f", math.sqrt(2.0)))[0],
}
_INF = float("inf")
_NAN = float("nan")
_LOG_LIMITS = {
    "quiet NaN": x86.SOURCE, "signaling NaN": x86.SOURCE, "zero": x86.MINUS_INF,
    "-inf": x86.NAN, "inf": x86.INF, "negative": x86.NAN,
}  # fmt: skip


def split_log(m: Math, x: V) -> tuple[V, V]:
    """x = 2**k * t with t in [sqrt(1/2), sqrt(2)): (k as a float, t), for positive normal x."""
    f = x.format
    shifted = x.bits() + (f.one_bits - _SQRT_HALF_BITS[f.name])
    # the biased exponent becomes a float by standing in the low bits of 2**mantissa
    anchor = (f.bias + f.mantissa) << f.mantissa
    k = ((shifted >> f.mantissa) | anchor).as_float() - (2.0**f.mantissa + f.bias)
    t = ((shifted & ((1 << f.mantissa) - 1)) + _SQRT_HALF_BITS[f.name]).as_float()
    return k, t


def split_log_any(m: Math, x: V) -> tuple[V, V]:
    """split_log for positive x that may be subnormal."""
    f = x.format
    if m.has_avx512:
        k, t = V(m, x86.exponent(m.builder, x.value)), V(m, x86.significand(m.builder, x.value))
        upper = t >= _SQRT_TWO[f.name]
        return m.select(upper, k + 1.0, k), m.select(upper, t * 0.5, t)
    subnormal = x < f.tiny
    k, t = split_log(m, m.select(subnormal, x * 2.0 ** (f.mantissa + 2), x))
    return k - m.select(subnormal, m.like(x, float(f.mantissa + 2)), 0.0), t


def log_sum(m: Math, k: V, f: V, c: V | None, coefficients: str) -> V:
    """k*log(2) + log(1 + f) + c for f in [sqrt(1/2) - 1, sqrt(2) - 1]; order of terms as in fdlibm."""
    name = f.format.name
    s = f / (f + 2.0)
    z = s * s
    half_square = f * f * 0.5
    low = k * LN2_LO[name] if c is None else m.fma(k, LN2_LO[name], c)
    inner = m.fma(s, m.fma(z, m.poly(z, POLY[coefficients]), half_square), low)
    return m.fma(k, LN2_HI[name], -((half_square - inner) - f))


def log_pair(m: Math, k: V, f: V) -> tuple[V, V]:
    """k*log(2) + log(1 + f) as (rounded, rest), good to about a quarter of an ulp; f as in `log_sum`."""
    name = f.format.name
    s = f / (f + 2.0)
    z = s * s
    half_square = f * f * 0.5
    inner = m.fma(s, m.fma(z, m.poly(z, POLY[f"log_{name}"]), half_square), k * LN2_LO[name])
    rest = half_square - inner
    near = f - rest
    high, low = m.two_sum(k * LN2_HI[name], near)
    return high, low + ((f - near) - rest)


def log_limits(m: Math, x: V, shifted: V, result: V) -> V:
    """The values of log(x) outside (0, inf), with x = shifted (log) or x = shifted - 1 (log1p)."""
    if m.has_avx512:
        return V(m, x86.replaced(m.builder, result.value, shifted.value, _LOG_LIMITS))
    result = m.select(shifted < _INF, result, x + x)  # inf and NaN
    return m.select(shifted > 0.0, result, m.select(shifted.eq(0.0), m.like(x, -_INF), x + _NAN))


def log(m: Math, x: V) -> V:
    k, t = split_log_any(m, x)
    return log_limits(m, x, x, log_sum(m, k, t - 1.0, None, f"log_{x.format.name}"))


def log1p(m: Math, x: V) -> V:
    """log(u) + e/u, where u + e = 1 + x exactly; for k = 0 the polynomial takes x itself. Of e/u, which is below an ulp
    of the result, a few bits do."""
    u, e = m.two_sum(m.like(x, 1.0), x)
    k, t = split_log(m, u)
    near = k.eq(0.0)
    f = m.select(near, x, t - 1.0)
    c = m.select(near, 0.0, e * m.reciprocal(u))
    return m.copysign(log_limits(m, x, u, log_sum(m, k, f, c, f"log_{x.format.name}")), x)


def log_two(m: Math, x: V) -> tuple[V, V]:
    """log(x) as a sum of two doubles, to about 2**-64 of it, for positive finite x.

    log(t) = 2 s (1 + z/3 + z**2 P(z)), z = s**2; s, z and the first three terms are carried in two doubles.
    """
    k, t = split_log_any(m, x)
    f = t - 1.0
    d, d_low = m.quick_two_sum(m.like(t, 1.0), t)
    inverse = 1.0 / d
    s = f * inverse
    p, p_low = m.two_prod(s, d)
    s_low = (((f - p) - p_low) - s * d_low) * inverse
    z, z_low = m.two_prod(s, s)
    z_low = m.fma(s + s, s_low, z_low)
    third = 1.0 / 3.0
    w, w_low = m.quick_two_sum(m.like(z, third), z * m.poly(z, POLY["log_pow_f64"]))
    w_low = w_low + 1.850371707708594e-17  # 1/3 - third
    u, u_low = m.two_prod(z, w)
    u_low = u_low + m.fma(z, w_low, z_low * w)
    v, v_low = m.two_prod(s, u)
    v_low = v_low + m.fma(s, u_low, s_low * u)
    high, low = m.quick_two_sum(s, v)
    low = low + (s_low + v_low)
    high, low = high + high, low + low
    total, rest = m.quick_two_sum(k * LN2_HI["f64"], high)
    return m.quick_two_sum(total, rest + m.fma(k, LN2_LO["f64"], low))


def pow(m: Math, x: V, y: V) -> V:
    """exp(y log |x|), then C99's special cases."""
    if x.format.name == "f32":
        wide_x, wide_y = m.widen(x), m.widen(y)
        return m.narrow(_pow_cases(m, wide_x, wide_y, _pow_f32_wide(m, m.abs(wide_x), _clamped(m, wide_y))))
    return _pow_cases(m, x, y, _pow_f64(m, m.abs(x), _clamped(m, y)))


def _clamped(m: Math, y: V) -> V:
    """Beyond 2**64 pow is 0, 1 or inf for every x; clamped, no product with a logarithm overflows."""
    return m.at_least(m.at_most(y, 2.0**64), -(2.0**64))


def _pow_f64(m: Math, a: V, y: V) -> V:
    log_high, log_low = log_two(m, a)
    high, low = m.two_prod(y, log_high)
    return exp_sum(m, high, m.fma(y, log_low, low), "exp_f64")


_LN2 = 0.6931471805599453


def _pow_f32_wide(m: Math, a: V, y: V) -> V:
    """f64 arithmetic has 29 bits to spare, so one double of log and shorter polynomials will do."""
    k, t = split_log(m, a)
    f = t - 1.0
    s = f / (f + 2.0)
    z = s * s
    e = y * m.fma(s, m.fma(z, m.poly(z, POLY["log_f32_wide"]), m.like(z, 2.0)), k * _LN2)
    return exp_finite(m, m.at_least(m.at_most(e, 200.0), -200.0), "exp_f32_wide")


def _pow_cases(m: Math, x: V, y: V, power: V) -> V:
    """pow(x, y) from power = |x|**y: other than it only if x is not positive and finite, or y is NaN."""
    unusual = ~((x > 0.0) & (x < _INF) & y.eq(y))
    return m.rarely(unusual, [power], lambda: [_pow_limits(m, x, y, power)])[0]


def _pow_limits(m: Math, x: V, y: V, power: V) -> V:
    """The table of C99 for x of either sign, zeros, infinities and NaN."""
    a, b = m.abs(x), m.abs(y)
    whole = m.is_whole(b)
    odd = whole & ~m.is_whole(b * 0.5)
    grows = (a > 1.0) ^ (y < 0.0)
    power = m.select(a.eq(0.0) | a.eq(_INF), m.select(grows, m.like(x, _INF), 0.0), power)
    sign = m.select(odd, x.bits() & x.format.sign_bit, 0)
    power = (power.bits() | sign).as_float()
    power = m.select((x < 0.0) & (x > -_INF) & ~whole, _NAN, power)
    power = m.select(x.ne(x) | y.ne(y), x + y, power)
    return m.select(x.eq(1.0) | y.eq(0.0), 1.0, power)

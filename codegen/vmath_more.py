"""Owns what vector mathematics builds on the logarithm, the exponential and the square root.

exp2, log2, log10, expit, erfc, hyperbolic functions and their inverses, cbrt, hypot.
"""

from __future__ import annotations

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import POLY
from nufunc.codegen.vmath_exp import (
    EXP_RANGE,
    Reduced,
    exp_sum,
    expm1_small,
    split_exp,
)
from nufunc.codegen.vmath_log import log1p, log_limits, split_log_any

_LN2 = {
    "f64": (0.6931471805599453, 2.3190468138462996e-17),
    "f32": (0.693147182464599609375, -1.904654323148236e-09),
}
# log10(2) in 42 bits (16 for f32) and the rest; 1/log(2) and 1/log(10) rounded and the rest
_LOG10_2 = {
    "f64": (0.30102999566395283, 2.8363394551044964e-14),
    "f32": (0.301025390625, 4.605039066518657e-06),
}
_INV_LN2 = {
    "f64": (1.4426950408889634, 2.0355273740931033e-17),
    "f32": (1.4426950216293335, 1.925963033500011e-08),
}
_INV_LN10 = {
    "f64": (0.4342944819032518, 1.098319650216765e-17),
    "f32": (0.4342944920063019, -1.0103049952192578e-08),
}
_INF = float("inf")
_NAN = float("nan")


def exp2(m: Math, x: V) -> V:
    """exp(r log 2) * 2**n with x = n + r exactly, r log 2 in two pieces."""
    f = x.format
    ln2, rest = _LN2[f.name]
    x = m.at_least(m.at_most(x, f.bias + 2.0), -f.bias - f.mantissa - 3.0)
    n, k = m.round_to_int(x, 1.0)
    r = x - n
    high, low = m.two_prod(r, ln2)
    reduced = Reduced(high, high, m.fma(r, -rest, -low), k)
    return m.scale(expm1_small(m, reduced, f"exp_{f.name}") + 1.0, k)


def _log_base(m: Math, x: V, per_binade: tuple[float, float], inverse: tuple[float, float]) -> V:
    """k * log_b(2) + log(t) / log(b), log(t) as a rounded f - f**2/2 and the rest."""
    f = x.format
    k, t = split_log_any(m, x)
    t = t - 1.0
    s = t / (t + 2.0)
    z = s * s
    square, square_low = m.two_prod(t, t)
    half, half_low = square * 0.5, square_low * 0.5
    rest = s * (half + z * m.poly(z, POLY[f"log_{f.name}"]))
    high, low = m.two_sum(t, -half)
    high, low = m.quick_two_sum(high, (low - half_low) + rest)
    scaled, scaled_low = m.two_prod(high, inverse[0])
    scaled_low = scaled_low + m.fma(high, inverse[1], low * inverse[0])
    total, error = m.two_sum(k * per_binade[0], scaled)
    return log_limits(m, x, x, total + (error + m.fma(k, per_binade[1], scaled_low)))


def log2(m: Math, x: V) -> V:
    return _log_base(m, x, (1.0, 0.0), _INV_LN2[x.format.name])


def log10(m: Math, x: V) -> V:
    return _log_base(m, x, _LOG10_2[x.format.name], _INV_LN10[x.format.name])


def expit(m: Math, x: V) -> V:
    """1 / (1 + exp(-x)); for negative x as exp(x) / (1 + exp(x)), which does not overflow."""
    bottom, _ = EXP_RANGE[x.format.name]
    reduced = split_exp(m, m.at_least(-m.abs(x), bottom))
    e = m.scale(expm1_small(m, reduced, f"exp_{x.format.name}") + 1.0, reduced.k)
    return m.select(x < 0.0, e, m.select(x.ne(x), x, 1.0)) / (e + 1.0)


def _expm1_quarter(m: Math, a: V) -> V:
    """(exp(a) - 1) / 4 for 0 <= a, without overflow where sinh(a) has none."""
    name = a.format.name
    # clamped where sinh is already inf but 2**(k - 2) is not
    reduced = split_exp(m, m.at_most(a, EXP_RANGE[name][1] + 0.6))
    quarter = m.pow2(reduced.k - 2)
    return m.fma(expm1_small(m, reduced, f"expm1_{name}"), quarter, quarter - 0.25)


def sinh(m: Math, x: V) -> V:
    """(e + e / (e + 1)) / 2 with e = exp(|x|) - 1."""
    f = x.format
    a = m.abs(x)
    quarter = _expm1_quarter(m, a)
    y = quarter + quarter / m.fma(quarter, 4.0, 1.0)
    return m.copysign(m.select(a < 0.5 ** (f.mantissa // 2 + 2), a, y + y), x)


def cosh(m: Math, x: V) -> V:
    """h + 1 / (4 h) with h = exp(|x|) / 2."""
    name = x.format.name
    reduced = split_exp(m, m.at_most(m.abs(x), EXP_RANGE[name][1] + 2.0))
    half = m.scale(expm1_small(m, reduced, f"exp_{name}") + 1.0, reduced.k - 1)
    return half + 0.25 / half


def asinh(m: Math, x: V) -> V:
    """log1p(a + a**2 / (1 + sqrt(1 + a**2))); log(a) + log(2) for large a."""
    f = x.format
    a = m.abs(x)
    large = a > 2.0 ** (f.mantissa + 2)
    square = m.select(large, 0.0, a * a)
    y = log1p(m, m.select(large, a, a + square / (1.0 + m.sqrt(1.0 + square))))
    y = m.select(large, y + _LN2[f.name][0], y)
    return m.copysign(m.select(a < f.tiny, a, y), x)


def acosh(m: Math, x: V) -> V:
    """log1p(t + sqrt(2 t + t**2)), t = x - 1; log(x) + log(2) for large x."""
    f = x.format
    large = x > 2.0 ** (f.mantissa // 2 + 2)
    t = m.select(x < 1.0, _NAN, x - 1.0)
    root = m.sqrt(m.fma(t, m.select(large, 0.0, t), t + t))
    y = log1p(m, m.select(large, t, t + root))
    return m.select(large, y + _LN2[f.name][0], y)


def atanh(m: Math, x: V) -> V:
    """log1p(2 a / (1 - a)) / 2."""
    a = m.abs(x)
    y = log1p(m, (a + a) / (1.0 - a)) * 0.5
    return m.copysign(m.select(a < 0.5 ** (x.format.mantissa // 2 + 2), a, y), x)


def hypot(m: Math, x: V, y: V) -> V:
    """sqrt(x**2 + y**2) with both scaled by the power of two of the larger."""
    f = x.format
    a, b = m.abs(x), m.abs(y)
    large, small = m.select(a > b, a, b), m.select(a > b, b, a)
    exponent = (large.bits() >> f.mantissa) << f.mantissa
    # 2**-e, kept a normal number at both ends
    inverse = ((2 * f.bias << f.mantissa) - exponent).as_float()
    tiny, huge = exponent.eq(0), exponent >= ((2 * f.bias - 1) << f.mantissa)
    down, up = m.like(x, 2.0 ** (1 - f.bias)), m.like(x, 2.0 ** (f.bias - 1))
    inverse = m.select(tiny, up, m.select(huge, down, inverse))
    back = m.select(tiny, down, m.select(huge, up, exponent.as_float()))
    large, small = large * inverse, small * inverse
    p, p_low = m.two_prod(large, large)
    q, q_low = m.two_prod(small, small)
    total, error = m.quick_two_sum(p, q)
    root = m.sqrt(total)
    # one Newton step takes back what rounding the sum lost
    r, r_low = m.two_prod(root, root)
    root = root + (((total - r) - r_low) + (error + p_low + q_low)) / (root + root)
    value = m.select(large.eq(0.0), 0.0, root * back)
    value = m.select(x.ne(x) | y.ne(y), x + y, value)
    return m.select(a.eq(_INF) | b.eq(_INF), _INF, value)


def cbrt(m: Math, x: V) -> V:
    """2**q * c(t): a guess through the exponent, Halley's steps, for f64 one of Newton's in two doubles."""
    if x.format.name == "f32":
        return m.narrow(_cbrt(m, m.widen(x), corrected=False))
    return _cbrt(m, x, corrected=True)


def _cbrt(m: Math, x: V, corrected: bool) -> V:
    a = m.abs(x)
    tiny, huge = a < 2.0**-1000, a > 2.0**1000
    scaled = a * m.select(tiny, m.like(a, 2.0**162), m.select(huge, m.like(a, 2.0**-162), 1.0))
    # a third of the upper word, in float arithmetic as vectors do not divide integers; the constant restores
    # two thirds of the exponent's bias and centres the error, as in FreeBSD's s_cbrt.c
    high = ((scaled.bits() >> 32) | ((1023 + 52) << 52)).as_float() - 2.0**52
    third = m.fma(high, 1.0 / 3.0, 715094163.0 + 2.0**52).bits() & ((1 << 32) - 1)
    c = (third << 32).as_float()
    for _ in range(2):  # relative error 2**-5, then 2**-14, 2**-42
        cube = c * c * c
        c = c * ((cube + (scaled + scaled)) / (cube + cube + scaled))
    if corrected:
        s, s_low = m.two_prod(c, c)
        p, p_low = m.two_prod(s, c)
        residual = ((scaled - p) - p_low) - s_low * c
        c = c + residual / (s * 3.0)
    c = c * m.select(tiny, m.like(a, 2.0**-54), m.select(huge, m.like(a, 2.0**54), 1.0))
    return m.copysign(m.select(a.eq(0.0) | ~(a < _INF), a, c), x)


def erfc(m: Math, x: V) -> V:
    """1 - erf(x) below 15/32; above it exp(-x**2) * R(x), R fitted to erfcx."""
    if x.format.name == "f32":
        return m.narrow(_erfc(m, m.widen(x), "f32_wide", 4.0, 10.5))
    return _erfc(m, x, "f64", 6.0, 28.0)


def _erfc(m: Math, x: V, fit: str, saturated: float, vanished: float) -> V:
    a = m.abs(x)
    z = m.at_most(a * a, 1.0)
    small = m.fma(x, m.poly(z, POLY[f"erf_{fit}"]), x)  # erf(x)
    b = m.at_most(a, vanished)
    inverse = 1.0 / (b + 3.0)
    scaled = m.poly((b - 3.0) * inverse, POLY[f"erfcx_{fit}"]) * inverse
    square, square_low = m.two_prod(b, b)
    large = exp_sum(m, -square, -square_low, f"exp_{fit}") * scaled
    return m.select(a < 0.46875, 1.0 - small, m.select(x < 0.0, 2.0 - large, large))

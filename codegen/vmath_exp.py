"""Owns the exponential family of vector mathematics: exp, expm1, tanh, erf and what is built on exp(r + c)."""

from __future__ import annotations

from nufunc.codegen.vmath_builder import Math, Operand, V
from nufunc.codegen.vmath_coefficients import LN2_HI, LN2_LO, LOG2E, POLY

# Beyond these, exp overflows (its result stays inf) and underflows to zero.
EXP_RANGE = {"f64": (-746.0, 710.0), "f32": (-104.0, 89.0)}


def split_exp(m: Math, x: V) -> tuple[V, V, V]:
    """x = k*log(2) + r + c: (r, c, k) with |r| below 0.3467, c the rounding error of r, k an integer."""
    name = x.format.name
    n, k = m.round_to_int(x, LOG2E)
    high = m.fma(n, -LN2_HI[name], x)  # exact
    low = n * LN2_LO[name]
    r = high - low
    return r, (high - r) - low, k


def exp_small(m: Math, r: V, c: Operand, coefficients: str) -> V:
    """exp(r + c) for |r| below 0.3467 and c tiny (0.0: left out)."""
    tail = r * r * m.poly(r, POLY[coefficients])
    if isinstance(c, V):
        tail = tail + m.fma(c, tail + r, c)
    return (tail + r) + 1.0


def exp_finite(m: Math, x: V, coefficients: str) -> V:
    """exp(x) where neither overflow nor a subnormal result can occur."""
    r, _, k = split_exp(m, x)
    return exp_small(m, r, 0.0, coefficients) * m.pow2(k)


def exp_sum(m: Math, high: V, low: V, coefficients: str) -> V:
    """exp(high + low) with low a small correction of high; the whole range.

    (Where high is out of range, low may be anything; it must not outweigh the clamp.)
    """
    bottom, top = -747.0, 711.0
    low = m.at_least(m.at_most(low, 0.5), -0.5)
    r, c, k = split_exp(m, m.at_least(m.at_most(high, top), bottom))
    return m.scale(exp_small(m, r, c + low, coefficients), k)


def exp(m: Math, x: V) -> V:
    bottom, top = EXP_RANGE[x.format.name]
    r, _, k = split_exp(m, m.at_least(m.at_most(x, top), bottom))
    return m.scale(exp_small(m, r, 0.0, f"exp_{x.format.name}"), k)


def expm1(m: Math, x: V) -> V:
    """2**k * (exp(r) - 1) + (2**k - 1), evaluated at half size so that k = 1024 does not overflow early."""
    f = x.format
    top = EXP_RANGE[f.name][1]
    r, c, k = split_exp(m, m.at_least(m.at_most(x, top), -2.0 * f.mantissa / 2 - 2.0))
    p = (r * r * m.poly(r, POLY[f"expm1_{f.name}"]) + c) + r
    half = m.pow2(k - 1)
    y = m.fma(p, half, half - 0.5)
    # tiny x (and -0.0, and subnormal x, which would lose a bit when halved) are their own result
    return m.select(m.abs(x) < 0.5 ** (f.mantissa + 2), x, y + y)


def tanh(m: Math, x: V) -> V:
    """An odd polynomial below 0.9; above it 1 - 2 / (exp(2 |x|) + 1), where the subtrahend is small."""
    name = x.format.name
    a = m.abs(x)
    z = m.at_most(x * x, 1.0)
    first, *rest = POLY[f"tanh_{name}"]
    small = m.fma(a * z, m.fma(z, m.poly(z, rest), first), a)  # one rounding at the end of the polynomial
    r, c, k = split_exp(m, m.at_most(a + a, 40.0))
    e = exp_small(m, r, c, f"exp_{name}") * m.pow2(k)
    large = 1.0 - 2.0 / (e + 1.0)
    return m.copysign(m.select(a < 0.9, small, large), x)


def erf(m: Math, x: V) -> V:
    """x + x*P(x**2) below 1; above it 1 - exp(-Q(|x|)) with Q fitted to -log(erfc): no division."""
    if x.format.name == "f32":
        return m.narrow(_erf(m, m.widen(x), "f32_wide", 4.0))
    return _erf(m, x, "f64", 6.0)


def _erf(m: Math, x: V, fit: str, saturated: float) -> V:
    a = m.at_most(m.abs(x), saturated)
    z = a * a
    small = m.fma(a, m.poly(z, POLY[f"erf_{fit}"]), a)
    large = 1.0 - exp_finite(m, -m.poly(a, POLY[f"log_erfc_{fit}"]), f"exp_{fit}")
    return m.copysign(m.select(a < 1.0, small, large), x)

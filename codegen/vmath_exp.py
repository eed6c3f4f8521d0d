"""Owns the exponential family of vector mathematics: exp, expm1, tanh, erf and what they share."""

from __future__ import annotations

from typing import NamedTuple

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import LN2_HI, LN2_LO, LOG2E, POLY
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY

# Beyond these, exp overflows (its result stays inf) and underflows to zero.
EXP_RANGE = {"f64": (-746.0, 710.0), "f32": (-104.0, 89.0)}


class Reduced(NamedTuple):
    """x = k*log(2) + high - low with `high` exact and `low` tiny; r = high - low rounded, below 0.3467."""

    r: V
    high: V
    low: V
    k: V


def split_exp(m: Math, x: V) -> Reduced:
    name = x.format.name
    n, k = m.round_to_int(x, LOG2E)
    high = m.fma(n, -LN2_HI[name], x)
    low = n * LN2_LO[name]
    return Reduced(high - low, high, low, k)


def expm1_small(m: Math, x: Reduced, coefficients: str, extra: V | None = None) -> V:
    """exp(high - low + extra) - 1 for a tiny `extra`; it starts from `high`, which has no rounding error."""
    tail = x.r * x.r * m.poly(x.r, POLY[coefficients])
    if extra is not None:
        tail = tail + m.fma(extra, tail + x.r, extra)
    return (tail - x.low) + x.high


def exp_finite(m: Math, x: V, coefficients: str) -> V:
    """exp(x) where neither overflow nor a subnormal result can occur."""
    reduced = split_exp(m, x)
    return (expm1_small(m, reduced, coefficients) + 1.0) * m.pow2(reduced.k)


def exp_sum(m: Math, high: V, low: V, coefficients: str) -> V:
    """exp(high + low) with low a small correction of high; the whole range.

    (Where high is out of range, low may be anything; it must not outweigh the clamp.)
    """
    reduced = split_exp(m, m.at_least(m.at_most(high, 711.0), -747.0))
    low = m.at_least(m.at_most(low, 0.5), -0.5)
    return m.scale(expm1_small(m, reduced, coefficients, low) + 1.0, reduced.k)


def exp(m: Math, x: V) -> V:
    bottom, top = EXP_RANGE[x.format.name]
    reduced = split_exp(m, m.at_least(m.at_most(x, top), bottom))
    return m.scale(expm1_small(m, reduced, f"exp_{x.format.name}") + 1.0, reduced.k)


def expm1(m: Math, x: V) -> V:
    """2**k * (exp(r) - 1) + (2**k - 1), evaluated at half size so that k = 1024 does not overflow early."""
    f = x.format
    top = EXP_RANGE[f.name][1]
    reduced = split_exp(m, m.at_least(m.at_most(x, top), -f.mantissa - 2.0))
    p = expm1_small(m, reduced, f"expm1_{f.name}")
    half = m.pow2(reduced.k - 1)
    y = m.fma(p, half, half - 0.5)
    # tiny x (and -0.0, and subnormal x, which would lose a bit when halved) are their own result
    return m.select(m.abs(x) < 0.5 ** (f.mantissa + 2), x, y + y)


def tanh(m: Math, x: V) -> V:
    """An odd polynomial below 0.9; above it 1 - 2 / (exp(2 |x|) + 1), where the subtrahend is small."""
    name = x.format.name
    a = m.abs(x)
    z = m.at_most(a * a, 1.0)
    first, *rest = POLY[f"tanh_{name}"]
    ratio = m.fma(z, m.poly(z, rest), first)  # one rounding at the end of the polynomial
    if m.has_fma:
        small = m.fma(a * z, ratio, a)
    else:  # the roundings of a**3 * ratio would take the error past one ulp
        z, z_low = m.two_prod(a, a)
        cube, cube_low = m.two_prod(a, z)
        product, low = m.two_prod(cube, ratio)
        small = a + (product + (low + ratio * (cube_low + a * z_low)))
    reduced = split_exp(m, m.at_most(a + a, 40.0))
    power = m.pow2(reduced.k)
    large = 1.0 - 2.0 / m.fma(power, expm1_small(m, reduced, f"exp_{name}"), power + 1.0)
    return m.copysign(m.select(a < 0.9, small, large), x)


def erf(m: Math, x: V) -> V:
    """x + x*P(x**2) below 1; above it 1 - exp(-Q(|x|)) with Q fitted to -log(erfc): no division."""
    name = x.format.name
    fits = POLY if name == "f64" else SPECIAL_POLY
    a = m.at_most(m.abs(x), 6.0 if name == "f64" else 4.0)
    z = a * a
    small = m.fma(a, m.poly(z, fits[f"erf_{name}"]), a)
    large = 1.0 - exp_finite(m, -m.poly(a, fits[f"log_erfc_{name}"]), f"exp_{name}")
    return m.copysign(m.select(a < 1.0, small, large), x)

"""Owns the exponential family of vector mathematics: exp, expm1, tanh, erf and what they share."""

from __future__ import annotations

from typing import NamedTuple

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import LN2_HI, LN2_LO, LOG2E, POLY
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY

# Beyond these, exp overflows (its result stays inf) and underflows to zero.
EXP_RANGE = {"f64": (-746.0, 710.0), "f32": (-104.0, 89.0)}


class Reduced(NamedTuple):
    """x = k*log(2) + high - low with `high` exact and `low` tiny; r = high - low rounded, below 0.3467. `whole` is
    k as a float."""

    r: V
    high: V
    low: V
    k: V
    whole: V

    def scaled(self, x: V) -> V:
        """x * 2**k rounded once."""
        return x.math.scale(x, self.k, self.whole)


def split_exp(m: Math, x: V) -> Reduced:
    name = x.format.name
    n, k = m.round_to_int(x, LOG2E)
    high = m.fma(n, -LN2_HI[name], x)
    low = n * LN2_LO[name]
    return Reduced(high - low, high, low, k, n)


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
    return reduced.scaled(expm1_small(m, reduced, coefficients, low) + 1.0)


def exp(m: Math, x: V) -> V:
    bottom, top = EXP_RANGE[x.format.name]
    reduced = split_exp(m, m.at_least(m.at_most(x, top), bottom))
    return reduced.scaled(expm1_small(m, reduced, f"exp_{x.format.name}") + 1.0)


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
    """For f64 and with fma x + x**3 P(x**2) / Q(x**2) below 0.65; above it (3 + (e - 7) / (e + 1)) / 4 with e =
    exp(2 |x|), where the quotient is small beside the 3. One division serves both."""
    if x.format.name == "f32" or not m.has_fma:
        return _tanh_polynomial(m, x)
    a = m.abs(x)
    z = a * a
    near = a < 0.65
    reduced = split_exp(m, m.at_most(a + a, 40.0))
    power, p = m.pow2(reduced.k), expm1_small(m, reduced, "exp_f64")
    above = m.select(near, z * m.poly(z, POLY["tanh_above_f64"]), m.fma(power, p, power - 7.0))
    below = m.select(near, m.poly(z, POLY["tanh_below_f64"]), m.fma(power, p, power + 1.0))
    return m.copysign(m.fma(m.select(near, a, 0.25), above / below, m.select(near, a, 0.75)), x)


def _tanh_polynomial(m: Math, x: V) -> V:
    """An odd polynomial below 0.9; above it as in `tanh`."""
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

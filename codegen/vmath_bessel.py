"""Owns the modified Bessel functions of vector mathematics: i0e and i1e, which is exp(-|x|) times i0 and i1."""

from __future__ import annotations

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY
from nufunc.codegen.vmath_exp import expm1_small, split_exp

_SPLIT = 7.75
_SHIFT = (51 / 128, 25 / 64)  # most of the far polynomials' constant terms


def i0e(m: Math, x: V) -> V:
    return _of_order(m, x, 0)


def i1e(m: Math, x: V) -> V:
    return m.copysign(_of_order(m, x, 1), x)


def _of_order(m: Math, x: V, order: int) -> V:
    if x.format.name == "f32":
        return m.narrow(_scaled(m, m.abs(m.widen(x)), order, "f32_wide"))
    return _scaled(m, m.abs(x), order, "f64")


def _scaled(m: Math, a: V, order: int, fit: str) -> V:
    """The power series times exp(-a) up to _SPLIT, a polynomial in 1/a over sqrt(a) beyond."""
    near = _series(m, m.at_most(a, _SPLIT), order, fit)
    c = m.at_least(a, _SPLIT)
    u = 2.0 * _SPLIT / c - 1.0
    far = (m.poly(u, SPECIAL_POLY[f"i{order}e_far_{fit}"]) + _SHIFT[order]) / m.sqrt(c)
    return m.select(a < _SPLIT, near, far)


def _series(m: Math, b: V, order: int, fit: str) -> V:
    """1 + t P(t), for order 1 times b/2, with t = (b/2)**2; what rounding t took off is put back by the slope."""
    half = b * 0.5
    t = half * half
    if fit == "f64":
        t, t_low = m.two_prod(half, half)
        rest = t * m.poly(t, SPECIAL_POLY[f"i{order}e_near_{fit}"], chain=13)
    else:
        rest = t * m.poly(t, SPECIAL_POLY[f"i{order}e_near_{fit}"])
    one = m.like(b, 1.0)
    if order == 0:
        value, low = m.two_sum(one, rest)
    else:
        value = m.fma(half, rest, half)
        low = m.fma(half, rest, half - value)
    if fit == "f64":
        low = m.fma(value * t_low, m.poly(t, SPECIAL_POLY[f"i{order}e_slope_f64"]), low)
    reduced = split_exp(m, -b)
    power = expm1_small(m, reduced, f"exp_{fit}")
    return (value + m.fma(value, power, low)) * m.pow2(reduced.k)

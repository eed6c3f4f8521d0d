"""Incomplete gamma and beta functions; parameters come first, as in SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.prims.beta_slopes import beta_slopes
from nufunc.ir.prims.kinds import FLOATS, Maybes, Values, elementwise, summed_terms
from nufunc.ir.prims.random import log_gamma_slope
from nufunc.ir.prims.special import lgamma_array

_EPS, _TINY, _MOST = 2.0**-53, 1e-290, 20_000


def _gamma_pair(a: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(gammainc, gammaincc): the power series up to x = a + 1, beyond it the continued fraction."""
    a, x = a.astype(np.float64), x.astype(np.float64)
    inside = (a > 0) & (x > 0) & np.isfinite(a) & np.isfinite(x)
    p, y = np.where(inside, a, 1.0), np.where(inside, x, 1.0)
    mu = (y - p) / p
    near = p * np.log(y) - y - lgamma_array(p + 1)
    far = -p * (mu - np.log1p(mu)) - (lgamma_array(p) - ((p - 0.5) * np.log(p) - p + 0.5 * np.log(2 * np.pi)))
    weight = np.exp(np.where(p < 50, near, far - 0.5 * np.log(2 * np.pi * p)))
    term = total = np.ones_like(p)
    for k in range(1, _MOST):
        term = term * y / (p + k)
        total = total + term
        if not (term > total * _EPS)[y < p + 1].any():
            break
    c, d = np.full_like(p, 1 / _TINY), 1 / _away(y + 1 - p)
    h = d
    for k in range(1, _MOST):
        a_n, b_n = k * (p - k), y + 1 - p + 2 * k
        d = 1 / _away(a_n * d + b_n)
        c = _away(b_n + a_n / c)
        h = h * c * d
        if not (np.abs(c * d - 1) > 2 * _EPS)[y >= p + 1].any():
            break
    series, tail = total * weight, h * weight * p
    lower, upper = np.where(y < p + 1, series, 1 - tail), np.where(y < p + 1, 1 - series, tail)
    bad = ~((a >= 0) & (x >= 0)) | ((a == 0) & (x == 0)) | (np.isinf(a) & np.isinf(x))
    full = ((a == 0) | np.isinf(x)) & ~np.isinf(a)
    edge = np.where(bad, np.nan, full.astype(np.float64))
    return np.where(inside, lower, edge), np.where(inside, upper, 1 - edge)


def _away(x: np.ndarray) -> np.ndarray:
    """x, but not zero."""
    return np.where(np.abs(x) < _TINY, _TINY, x)


def _betainc(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The continued fraction in x, or beyond the mean that in 1 - x of the exchanged parameters."""
    a, b, x = (v.astype(np.float64) for v in (a, b, x))
    inside = (a > 0) & (b > 0) & (x > 0) & (x < 1) & np.isfinite(a) & np.isfinite(b)
    p, q, y = np.where(inside, a, 1.0), np.where(inside, b, 1.0), np.where(inside, x, 0.5)
    whole = p + q
    beta = lgamma_array(p) + lgamma_array(q) - lgamma_array(whole)
    weight = np.exp(p * np.log(y) + q * np.log1p(-y) - beta)
    turned = y > (p + 1) / (whole + 2)
    p, q, y = np.where(turned, q, p), np.where(turned, p, q), np.where(turned, 1 - y, y)
    c, d = np.ones_like(p), 1 / _away(1 - whole * y / (p + 1))
    h = d
    for k in range(1, _MOST):
        twice = p + 2 * k
        even = k * (q - k) * y / ((twice - 1) * twice)
        for factor in (even, -(p + k) * (whole + k) * y / (twice * (twice + 1))):
            d = 1 / _away(1 + factor * d)
            c = _away(1 + factor / c)
            h = h * c * d
        if not (np.abs(c * d - 1) > 2 * _EPS).any():
            break
    value = h * weight / p
    value = np.where(turned, 1 - value, value)
    known = (a >= 0) & (b >= 0) & (a + b > 0) & (np.isfinite(a) | np.isfinite(b)) & (x >= 0) & (x <= 1)
    point = np.where((x == 0) | (x == 1), x, np.where((a == 0) | np.isinf(b), 1.0, 0.0))  # all weight at one end
    return np.where(inside, value, np.where(known, point, np.nan))


def _betainc_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> Maybes:
    slopes: list[Value | None] = [None, None, None]
    if any(t is not None for t in tangents[:-1]):
        slopes[:2] = beta_slopes(b, *primals)
    if tangents[-1] is not None:
        slopes[2] = _beta_slope(b, *primals)
    terms = [None if t is None or s is None else b.mul(t, s) for t, s in zip(tangents, slopes, strict=True)]
    return [summed_terms(b, terms)]


def _gamma_jvp(sign: float) -> Callable[..., Any]:
    """The jvp of gammainc (1) or gammaincc (-1)."""

    def jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> Maybes:
        shape, t = tangents
        slopes = (shape, _gamma_shape_slope), (t, _gamma_slope)
        total = summed_terms(b, [None if v is None else b.mul(v, slope(b, *primals)) for v, slope in slopes])
        return [total if total is None or sign > 0 else b.neg(total)]

    return jvp


def _gamma_shape_slope(b: Builder, a: Value, x: Value) -> Value:
    """The derivative of gammainc in a: what holds its level moves x, see Note [Implicit derivative]."""
    inside = b.bit_and(b.gt(x, b.like(x, 0)), b.isfinite(x))
    safe = b.select(inside, x, b.like(x, 1))
    moved = b.mul(safe, log_gamma_slope(b, a, b.log(safe)))
    return b.select(inside, b.neg(b.mul(_gamma_slope(b, a, safe), moved)), b.like(x, 0))


def _gamma_slope(b: Builder, a: Value, x: Value) -> Value:
    """x**(a - 1) exp(-x) / gamma(a)."""
    power = b.mul(b.sub(a, b.like(a, 1)), b.log(x))
    return b.exp(b.sub(b.sub(power, x), b.lgamma(a)))


def _beta_slope(b: Builder, p: Value, q: Value, x: Value) -> Value:
    one = b.like(x, 1)
    powers = b.add(b.mul(b.sub(p, one), b.log(x)), b.mul(b.sub(q, one), b.log1p(b.neg(x))))
    beta = b.sub(b.add(b.lgamma(p), b.lgamma(q)), b.lgamma(b.add(p, q)))
    return b.exp(b.sub(powers, beta))


elementwise("gammainc", lambda a, x: _gamma_pair(a, x)[0], FLOATS, 2, jvp=_gamma_jvp(1.0))
elementwise("gammaincc", lambda a, x: _gamma_pair(a, x)[1], FLOATS, 2, jvp=_gamma_jvp(-1.0))
elementwise("betainc", _betainc, FLOATS, 3, jvp=_betainc_jvp)

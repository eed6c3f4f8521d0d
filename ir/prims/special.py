"""Special functions that NumPy lacks: error function, gamma functions, logistic; all on floats."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Value
from nufunc.ir.prims.kinds import FLOATS, unary

# Coefficients B_2k / (2k) of digamma's asymptotic series: log(x) - 1/(2x) - sum B_2k / (2k x^2k).
_DIGAMMA_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
# Bernoulli numbers B_2k of trigamma's: 1/x + 1/(2x^2) + sum B_2k / x^(2k+1).
_TRIGAMMA_SERIES = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
_SHIFT = 10  # the series are used at x + 10 and larger, where their error is below the rounding of float64


def _by_math(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    """A function of Python's math module on arrays; where it raises (pole, overflow) it is inf."""

    def guarded(value: float) -> float:
        try:
            return function(value)
        except (ValueError, OverflowError):
            return math.inf

    mapped = np.frompyfunc(guarded, 1, 1)
    return lambda x: np.asarray(mapped(x.astype(np.float64)), dtype=object).astype(np.float64)


def _digamma_positive(x: np.ndarray) -> np.ndarray:
    """digamma for x >= 0.5: the recurrence psi(x) = psi(x + 1) - 1/x, then the asymptotic series."""
    steps = sum((1 / (x + k) for k in range(_SHIFT)), start=np.zeros_like(x))
    z = x + _SHIFT
    power, series = 1 / (z * z), np.zeros_like(z)
    for coefficient in reversed(_DIGAMMA_SERIES):
        series = (series + coefficient) * power
    return np.log(z) - 0.5 / z - series - steps


def digamma(x: np.ndarray) -> np.ndarray:
    """The logarithmic derivative of gamma; poles: -inf at 0, inf at -0, NaN at -1, -2, ... (as SciPy)."""
    x = x.astype(np.float64)
    low = x < 0.5
    positive = _digamma_positive(np.where(low, 1 - x, x))
    turn = x - np.rint(x)  # tan has the period 1 in x: reduce first, so that large negative x stay exact
    reflected = positive - np.pi / np.tan(np.pi * turn)
    pole = np.where(x == 0, np.copysign(np.inf, -x), np.nan)
    out = np.where(low, np.where((turn == 0) | np.isinf(x), pole, reflected), positive)
    return np.where(x == np.inf, np.inf, out)


_SLOPE = math.sqrt(math.pi) / 2  # 1 / erf'(0)


def _erfcinv_tail(x: float) -> float:
    """y with erfc(y) = x for 0 < x <= 1/2: Newton's method on the logarithm, its slope to a few percent."""
    w = math.log(x)
    y = math.sqrt(-w) - 0.2
    for _ in range(14):
        y += (math.log(math.erfc(y)) - w) / (y + math.sqrt(y * y + 1.5))
    return y


def _erfinv(x: float) -> float:
    if abs(x) > 0.5:
        return math.copysign(_erfcinv(1 - abs(x)), x)
    y = x * _SLOPE
    for _ in range(8 if abs(x) > 1e-8 else 0):
        y -= (math.erf(y) - x) * _SLOPE * math.exp(y * y)
    return y


def _erfcinv(x: float) -> float:
    if not 0 < x < 2:
        return math.inf if x == 0 else -math.inf if x == 2 else math.nan
    if x <= 0.5:
        return _erfcinv_tail(x)
    return _erfinv(1 - x) if x < 1.5 else -_erfcinv_tail(2 - x)


def trigamma(b: Builder, x: Value) -> Value:
    """The derivative of digamma as a composition of primitives, so that it can be differentiated again.

    Recurrence up to x + 10, then the asymptotic series; below 0.5 by the reflection
    trigamma(x) = (pi / sin(pi x))^2 - trigamma(1 - x).
    """

    def number(value: float) -> Value:
        return b.like(x, value)

    low = b.lt(x, number(0.5))
    u = b.select(low, b.sub(number(1), x), x)
    total = b.integer_pow(u, y=-2)
    for k in range(1, _SHIFT):
        total = b.add(total, b.integer_pow(b.add(u, number(k)), y=-2))
    z = b.add(u, number(_SHIFT))
    power = b.integer_pow(z, y=-2)
    series = number(0)
    for coefficient in reversed(_TRIGAMMA_SERIES):
        series = b.mul(b.add(series, number(coefficient)), power)
    inverse = b.div(number(1), z)
    tail = b.add(b.mul(inverse, b.add(number(1), series)), b.mul(number(0.5), power))
    upper = b.add(total, tail)
    # The unused side is computed at 1/2, away from the poles of 1/sin, so that no NaN comes back from it.
    turn = b.select(low, b.sub(x, b.rint(x)), number(0.5))
    reflected = b.integer_pow(b.div(number(math.pi), b.sin(b.mul(number(math.pi), turn))), y=2)
    return b.select(low, b.sub(reflected, upper), upper)


def _gauss(b: Builder, t: Value, x: Value, scale: float) -> Value:
    return b.mul(t, b.mul(b.like(x, scale), b.exp(b.neg(b.mul(x, x)))))


def _inverse_gauss(b: Builder, t: Value, y: Value, scale: float) -> Value:
    return b.mul(t, b.mul(b.like(y, scale), b.exp(b.mul(y, y))))


unary("erf", _by_math(math.erf), FLOATS, jvp=lambda b, t, x, y: _gauss(b, t, x, 2 / math.sqrt(math.pi)))
unary("erfc", _by_math(math.erfc), FLOATS, jvp=lambda b, t, x, y: _gauss(b, t, x, -2 / math.sqrt(math.pi)))
def _gamma(x: float) -> float:
    """C's, with NaN at the poles (which math.gamma raises at)."""
    if x == 0:
        return math.copysign(math.inf, x)
    return math.nan if x < 0 and (x == -math.inf or x == math.floor(x)) else math.gamma(x)


def _scaled_bessel(order: int, x: np.ndarray) -> np.ndarray:
    """exp(-|x|) i0(x) or i1(x): the power series up to 30, Hankel's asymptotic series beyond."""
    a = np.abs(x.astype(np.float64))
    small, large = np.minimum(a, 30.0), np.maximum(a, 30.0)
    term = np.exp(-small) * (small / 2) ** order
    series = np.zeros_like(a)
    for k in range(1, 80):
        series, term = series + term, term * (small / 2) ** 2 / (k * (k + order))
    tail = one = np.ones_like(a)
    for k in range(1, 20):
        one = -one * (4 * order * order - (2 * k - 1) ** 2) / (8 * k * large)
        tail = tail + one
    value = np.where(a > 30, tail / np.sqrt(2 * np.pi * large), series)
    return np.copysign(value, x) if order else value


def _i1e_jvp(b: Builder, t: Value, x: Value, y: Value) -> Value:
    """i0e(x) - y (sign(x) + 1/x), and 1/2 at zero."""
    zero = b.eq(x, b.like(x, 0))
    inverse = b.div(b.like(x, 1), b.select(zero, b.like(x, 1), x))
    slope = b.sub(b.i0e(x), b.mul(y, b.add(b.sign(x), inverse)))
    return b.mul(t, b.select(zero, b.like(x, 0.5), slope))


def _erfcx(x: float) -> float:
    if x < 25:
        return math.erfc(x) * math.exp(x * x)
    z = 0.5 / (x * x)  # the terms of the asymptotic series
    return (1 - z * (1 - z * (3 - z * (15 - z * 105)))) / (x * math.sqrt(math.pi))


def _erfcx_jvp(b: Builder, t: Value, x: Value, y: Value) -> Value:
    slope = b.sub(b.mul(b.mul(b.like(x, 2), x), y), b.like(x, 2 / math.sqrt(math.pi)))
    return b.mul(t, slope)


unary("erfcx", _by_math(_erfcx), FLOATS, jvp=_erfcx_jvp)
unary(
    "i0e",
    functools.partial(_scaled_bessel, 0),
    FLOATS,
    jvp=lambda b, t, x, y: b.mul(t, b.sub(b.i1e(x), b.mul(b.sign(x), y))),
)
unary("i1e", functools.partial(_scaled_bessel, 1), FLOATS, jvp=_i1e_jvp)
unary("erfinv", _by_math(_erfinv), FLOATS, jvp=lambda b, t, x, y: _inverse_gauss(b, t, y, _SLOPE))
unary("erfcinv", _by_math(_erfcinv), FLOATS, jvp=lambda b, t, x, y: _inverse_gauss(b, t, y, -_SLOPE))
unary("gamma", _by_math(_gamma), FLOATS, jvp=lambda b, t, x, y: b.mul(t, b.mul(y, b.digamma(x))))
lgamma_array = _by_math(math.lgamma)
unary("lgamma", lgamma_array, FLOATS, jvp=lambda b, t, x, y: b.mul(t, b.digamma(x)))
unary("digamma", digamma, FLOATS, jvp=lambda b, t, x, y: b.mul(t, trigamma(b, x)))
# y * (1 - y), with 1 - logistic(x) as logistic(-x): the difference would lose all digits for large x.
unary(
    "logistic",
    lambda x: 1 / (1 + np.exp(-x)),
    FLOATS,
    jvp=lambda b, t, x, y: b.mul(t, b.mul(y, b.logistic(b.neg(x)))),
)

"""Owns gamma, log gamma and digamma of vector mathematics; f32 through f64."""

from __future__ import annotations

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY
from nufunc.codegen.vmath_exp import exp_sum
from nufunc.codegen.vmath_log import log, log_pair, log_two, split_log, split_log_any
from nufunc.codegen.vmath_trig import sin, tan

_INF = float("inf")
_NAN = float("nan")
_LOG_PI = 1.1447298858494002
_STIRLING, _STIRLING_LOW = 0.4189385332046727, 1.6728209650585413e-17  # (log(2 pi) - 1) / 2
_ROOT = (-0.038367855031637754, 9.549995429965697e-17)  # of digamma, less 3/2


def _from_whole(m: Math, x: V) -> V:
    """x less the nearest whole number; NaN for infinite x."""
    magic = x.format.magic
    large = m.abs(x) > 2.0 ** (x.format.mantissa - 1)
    return x - m.select(large, x, (x + magic) - magic)


def lgamma(m: Math, x: V) -> V:
    """log |gamma(x)|; for negative x by reflection, its error then relative to the larger of the two terms."""
    if x.format.name == "f32":
        return m.narrow(_lgamma(m, m.widen(x)))
    return _lgamma(m, x)


def _near(m: Math, a: V) -> tuple[V, V]:
    """(y, P) with y P = lgamma(a) for 1/2 <= a < 5/2, lgamma(a + 1) for 0 <= a < 1/2."""
    one = a < 1.5
    y = m.select(a < 0.5, a, m.select(one, a - 1.0, m.at_most(a - 2.0, 0.5)))
    around = [m.poly(y, SPECIAL_POLY[f"lgamma_{fit}_f64"], chain=4) for fit in ("one", "near")]
    return y, m.select(one, *around)


def stirling(m: Math, a: V) -> V:
    """lgamma(a) - (a - 1/2) (log(a) - 1) - _STIRLING for a >= 5/2."""
    inverse = 1.0 / m.at_least(a, 2.5)
    return inverse * m.poly(inverse * inverse, SPECIAL_POLY["stirling_f64"])


def _lgamma(m: Math, x: V) -> V:
    """From 5/2 on Stirling's formula, polynomials around 1 and 2, and below 1/2 lgamma(x + 1) - log(x)."""
    below = x < 0.0
    a = m.select(below, 1.0 - x, x)
    y, slope = _near(m, a)
    k, t = split_log_any(m, a)
    high, low = log_pair(m, k, t - 1.0)
    near = m.select(a < 0.5, m.fma(y, slope, -low) - high, y * slope + 0.0)
    shifted = a - 0.5
    large = m.fma(shifted, high - 1.0, m.fma(shifted, low, stirling(m, a) + _STIRLING))
    value = m.select(a >= 2.5, large, m.select(a.eq(0.0), m.like(x, _INF), near))
    value = m.select(a < _INF, value, a)

    def reflected() -> list[V]:
        turn = _from_whole(m, x)
        small = m.abs(turn) < 2.0**-40  # there log(sin(pi r)) = log(pi) + log(r), also for subnormal r
        sine = m.abs(m.select(small, turn, sin(m, turn * 3.141592653589793)))
        left = (m.select(small, m.like(x, 0.0), _LOG_PI) - log(m, sine)) - value
        left = m.select(turn.eq(0.0) | x.eq(-_INF), m.like(x, _INF), left)
        return [m.select(below, left, value)]

    return m.rarely(below, [value], reflected)[0]


def digamma(m: Math, x: V) -> V:
    """The derivative of log gamma; poles as SciPy has them: -inf at 0, inf at -0, NaN at -1, -2, ..."""
    if x.format.name == "f32":
        return m.narrow(_digamma(m, m.widen(x)))
    return _digamma(m, x)


def _digamma(m: Math, x: V) -> V:
    """From 2 on log(x) and a series in 1/x; from 1 to 2 a polynomial times the distance from the root; below by
    digamma(x + 1) - 1/x, for negative x by digamma(1 - x) - pi / tan(pi x)."""
    below = x < 0.0
    a = m.select(below, 1.0 - x, x)
    low_half = a < 1.0
    y = m.at_most(m.select(low_half, a - 0.5, a - 1.5), 0.5)
    near = ((y - _ROOT[0]) - _ROOT[1]) * m.poly(y, SPECIAL_POLY["digamma_near_f64"], chain=5)
    inverse = 1.0 / a
    near = near - m.select(low_half, inverse, 0.0)
    z = m.at_most(inverse * inverse, 0.25)
    k, t = split_log(m, a)
    high, low = log_pair(m, k, t - 1.0)
    far = high + (low - m.fma(z, m.poly(z, SPECIAL_POLY["digamma_far_f64"]), inverse * 0.5))
    value = m.select(a < 2.0, near, m.select(a < _INF, far, a))

    def reflected() -> list[V]:
        turn = _from_whole(m, x)
        left = value - 3.141592653589793 / tan(m, turn * 3.141592653589793)
        left = m.select(turn.eq(0.0) | x.eq(-_INF), _NAN, left)
        return [m.select(below, left, value)]

    return m.rarely(below, [value], reflected)[0]


def gamma(m: Math, x: V) -> V:
    """gamma(x); inf of the zero's sign at zeros, NaN at -1, -2, ... and -inf; subnormal results may be zero."""
    if x.format.name == "f32":
        return m.narrow(_gamma(m, m.widen(x)))
    return _gamma(m, x)


def _gamma(m: Math, x: V) -> V:
    """The exponential of log gamma, which beyond 5/2 is carried in two doubles."""
    below = x < 0.0
    a = m.select(below, 1.0 - x, x)
    y, slope = _near(m, a)
    c = m.at_least(m.at_most(a, 200.0), 2.5)
    high, low = log_two(m, c)
    shifted = c - 0.5
    p, p_low = m.two_prod(shifted, high - 1.0)
    total, rest = m.two_sum(p, m.like(p, _STIRLING))
    rest = rest + (m.fma(shifted, low, p_low) + (stirling(m, c) + _STIRLING_LOW))
    total, rest = m.quick_two_sum(total, rest)
    far = a >= 2.5
    e = exp_sum(m, m.select(far, total, y * slope), m.select(far, rest, 0.0), "exp_f64")
    value = m.select(a < 0.5, e / a, e)
    value = m.select(a < _INF, value, a)

    def reflected() -> list[V]:
        turn = _from_whole(m, x)
        left = 3.141592653589793 / (sin(m, turn * 3.141592653589793) * value)
        odd = _from_whole(m, (x - turn) * 0.5).ne(0.0)
        left = m.select(odd, -left, left)
        return [m.select(below, m.select(turn.eq(0.0) | x.eq(-_INF), _NAN, left), value)]

    return m.rarely(below, [value], reflected)[0]

"""Owns the special functions of vector mathematics around erf and gamma.

erfc, erfcx, the inverses of erf and erfc; lgamma, digamma.
"""

from __future__ import annotations

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import LN2_HI, LN2_LO, POLY
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY
from nufunc.codegen.vmath_exp import exp_sum, expm1_small, split_exp
from nufunc.codegen.vmath_log import log, split_log, split_log_any
from nufunc.codegen.vmath_trig import sin, tan

_INF = float("inf")
_NAN = float("nan")


def log_pair(m: Math, k: V, f: V) -> tuple[V, V]:
    """k*log(2) + log(1 + f) as (rounded, rest), good to about a quarter of an ulp; f as in `vmath_log.log_sum`."""
    name = f.format.name
    s = f / (f + 2.0)
    z = s * s
    half_square = f * f * 0.5
    inner = m.fma(s, m.fma(z, m.poly(z, POLY[f"log_{name}"]), half_square), k * LN2_LO[name])
    rest = half_square - inner
    near = f - rest
    high, low = m.two_sum(k * LN2_HI[name], near)
    return high, low + ((f - near) - rest)


# erfc(y) = exp(-s**2), y = s - shift - P((s - c) / (s + c)): the centres c of two pieces, the second from `far` on
_TAIL_CENTRE = {"f64": (2.25, 12.9), "f32": (1.85, 6.4)}
_TAIL_FAR = {"f64": 6.15, "f32": 4.05}
_TAIL_SHIFT = {"f64": 327 / 1024, "f32": 347 / 1024}  # most of P's constant term; s loses nothing when it goes off


def _erfinv_centre(m: Math, x: V) -> V:
    """erfinv for |x| <= 1/2."""
    z = m.at_most(x * x, 0.25)
    first, *rest = SPECIAL_POLY[f"erfinv_{x.format.name}"]
    return x * m.fma(z, m.poly(z, rest), first)


def _erfinv_tail(m: Math, q: V, whole: bool) -> V:
    """y with erfc(y) = q for 0 < q <= 1/2; not `whole`: for q = 1 - |x| of the format, which is not that small.

    -log(q) and its square root are carried with what their rounding lost, since y is below the root.
    """
    name = q.format.name
    k, t = split_log_any(m, q) if whole else split_log(m, q)
    high, low = log_pair(m, k, t - 1.0)
    w = -high
    s = m.sqrt(w)
    p, p_low = m.two_prod(s, s)
    s_low = (((w - p) - p_low) - low) * (0.5 / s)
    near, far = _TAIL_CENTRE[name]
    y = m.poly((s - near) / (s + near), SPECIAL_POLY[f"erfinv_tail_{name}"])
    if whole:
        beyond = s > _TAIL_FAR[name]
        other = lambda: [m.poly((s - far) / (s + far), SPECIAL_POLY[f"erfinv_far_{name}"])]
        y = m.rarely(beyond, [y], lambda: [m.select(beyond, other()[0], y)])[0]
    return (s - _TAIL_SHIFT[name]) + (s_low - y)


def erfinv(m: Math, x: V) -> V:
    """Odd; a polynomial up to 1/2, beyond it one in the root of -log(1 - |x|), where 1 - |x| is exact."""
    a = m.abs(x)
    tail = _erfinv_tail(m, 1.0 - a, whole=False)
    tail = m.select(a < 1.0, tail, m.select(a.eq(1.0), m.like(x, _INF), _NAN))
    return m.select(a < 0.5, _erfinv_centre(m, x), m.copysign(tail, x))


def erfcinv(m: Math, x: V) -> V:
    """erfinv(1 - x), without the loss of 1 - x for small x."""
    upper = x > 1.0
    q = m.select(upper, 2.0 - x, x)
    tail = _erfinv_tail(m, q, whole=True)
    tail = m.select(q > 0.0, tail, m.select(q.eq(0.0), m.like(x, _INF), _NAN))
    from_one = 1.0 - x
    return m.select(m.abs(from_one) < 0.5, _erfinv_centre(m, from_one), m.select(upper, -tail, tail))


# -- erfc and erfcx

_NEAR = 15 / 32  # below it erfc is 1 - erf


def _erfcx_tail(m: Math, b: V) -> tuple[V, V]:
    """erfcx(b) as (rounded, rest) for _NEAR <= b < 2**60: (1 + P(t)) / (b + 3), t = (b - 3) / (b + 3)."""
    d, d_low = m.two_sum(b, m.like(b, 3.0))
    inverse = 1.0 / d
    c = b - 3.0
    t = c * inverse
    p, p_low = m.two_prod(t, d)
    t = t + (((c - p) - p_low) - t * d_low) * inverse
    h, h_low = m.two_sum(m.like(b, 1.0), m.poly(t, SPECIAL_POLY["erfcx_f64"], chain=5))
    q = h * inverse
    p, p_low = m.two_prod(q, d)
    return q, (((h - p) - p_low) + (h_low - q * d_low)) * inverse


def erfc(m: Math, x: V) -> V:
    """1 - erf(x) below 15/32; above it exp(-x**2) erfcx(x)."""
    if x.format.name == "f32":
        return m.narrow(_erfc_f32_wide(m, m.widen(x)))
    a = m.abs(x)
    b = m.at_least(m.at_most(a, 28.0), _NEAR)
    square, square_low = m.two_prod(b, b)
    reduced = split_exp(m, -square)
    p = expm1_small(m, reduced, "exp_f64", -square_low)
    q, q_low = _erfcx_tail(m, b)
    large = m.scale(q + m.fma(p, q, q_low), reduced.k)
    return m.select(a < _NEAR, 1.0 - _erf_near(m, x, "f64"), m.select(x < 0.0, 2.0 - large, large))


def _erf_near(m: Math, x: V, fit: str) -> V:
    z = m.at_most(x * x, 1.0)
    return m.fma(x, m.poly(z, POLY[f"erf_{fit}"]), x)


def _erfc_f32_wide(m: Math, x: V) -> V:
    a = m.abs(x)
    b = m.at_most(a, 10.5)
    inverse = 1.0 / (b + 3.0)
    scaled = m.poly((b - 3.0) * inverse, POLY["erfcx_f32_wide"]) * inverse
    large = exp_sum(m, -(b * b), m.like(b, 0.0), "exp_f32_wide") * scaled
    near = 1.0 - _erf_near(m, x, "f32_wide")
    return m.select(a < _NEAR, near, m.select(x < 0.0, 2.0 - large, large))


def erfcx(m: Math, x: V) -> V:
    """exp(x**2) erfc(x): for x < 0 as 2 exp(x**2) - erfcx(-x), for huge x as 1 / (sqrt(pi) x)."""
    if x.format.name == "f32":
        return m.narrow(_erfcx(m, m.widen(x)))
    return _erfcx(m, x)


def _erfcx(m: Math, x: V) -> V:
    a = m.abs(x)
    c = m.at_most(a, 27.0)
    square, square_low = m.two_prod(c, c)
    reduced = split_exp(m, square)
    p = expm1_small(m, reduced, "exp_f64", square_low)
    q, q_low = _erfcx_tail(m, m.at_least(m.at_most(a, 2.0**50), _NEAR))
    near = 1.0 - _erf_near(m, x, "f64")
    left = m.scale(m.fma(p, 2.0, m.like(x, 2.0)), reduced.k) - q
    near = m.fma(p, near, near) * m.pow2(m.select(a < _NEAR, reduced.k, 0))
    tail = m.select(a < 2.0**40, q + q_low, 0.5641895835477563 / a)
    return m.select(a < _NEAR, near, m.select(x < 0.0, left, tail))


# -- log gamma and its derivative; f32 through f64

_LOG_PI = 1.1447298858494002
_STIRLING = 0.4189385332046727  # (log(2 pi) - 1) / 2
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


def _lgamma(m: Math, x: V) -> V:
    """From 2.5 on Stirling's formula, y P(y) at 1 + y and 2 + y, and below 1/2 lgamma(x + 1) - log(x)."""
    below = x < 0.0
    a = m.select(below, 1.0 - x, x)
    zero, one, far = a < 0.5, a < 1.5, a >= 2.5
    y = m.select(zero, a, m.select(one, a - 1.0, m.at_most(a - 2.0, 0.5)))
    k, t = split_log_any(m, a)
    high, low = log_pair(m, k, t - 1.0)
    slope = m.select(one, m.poly(y, SPECIAL_POLY["lgamma_one_f64"], chain=4), m.poly(y, SPECIAL_POLY["lgamma_near_f64"], chain=4))
    near = m.select(zero, m.fma(y, slope, -low) - high, y * slope + 0.0)
    inverse = 1.0 / m.at_least(a, 2.5)
    w = inverse * m.poly(inverse * inverse, SPECIAL_POLY["stirling_f64"])
    shifted = a - 0.5
    large = m.fma(shifted, high - 1.0, m.fma(shifted, low, w + _STIRLING))
    value = m.select(far, large, m.select(a.eq(0.0), m.like(x, _INF), near))
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

"""Owns the special functions of vector mathematics around erf: erfc, erfcx, the inverses of erf and erfc."""

from __future__ import annotations

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import POLY
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY
from nufunc.codegen.vmath_exp import exp_sum, expm1_small, split_exp
from nufunc.codegen.vmath_log import log_pair, split_log, split_log_any

_INF = float("inf")
_NAN = float("nan")


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
    large = reduced.scaled(q + m.fma(p, q, q_low))
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
    left = reduced.scaled(m.fma(p, 2.0, m.like(x, 2.0))) - q
    near = m.fma(p, near, near) * m.pow2(m.select(a < _NEAR, reduced.k, 0))
    tail = m.select(a < 2.0**40, q + q_low, 0.5641895835477563 / a)
    return m.select(a < _NEAR, near, m.select(x < 0.0, left, tail))

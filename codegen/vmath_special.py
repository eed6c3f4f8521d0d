"""Owns the special functions of vector mathematics: the inverses of erf and erfc."""

from __future__ import annotations

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import LN2_HI, LN2_LO, POLY
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY
from nufunc.codegen.vmath_log import split_log, split_log_any

_INF = float("inf")
_NAN = float("nan")


def log_pair(m: Math, k: V, f: V) -> tuple[V, V]:
    """k*log(2) + log(1 + f) as (rounded, rest), good to about a quarter of an ulp; f as in `vmath_log.log_sum`."""
    name = f.format.name
    s = f / (f + 2.0)
    z = s * s
    half_square = f * f * 0.5
    inner = m.fma(s, m.fma(z, m.poly(z, POLY[f"log_{name}"]), half_square), k * LN2_LO[name])
    return m.two_sum(k * LN2_HI[name], f - (half_square - inner))


# Where the tail's polynomials lie: erfc(y) = exp(-s**2), y = s - shift - P((s - c) / (s + c)); the second piece from `far` on
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

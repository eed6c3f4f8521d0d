"""Owns the inverse trigonometric functions of vector mathematics: asin, acos, atan, atan2."""

from __future__ import annotations

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import PIO2, POLY

_INF = float("inf")
_NAN = float("nan")
# pi/2 in two pieces of each format
_PIO2 = {"f64": PIO2[:2], "f32": (1.57079637050628662109375, -4.371139000186241e-08)}


def _atan_ratio(m: Math, a: V, b: V) -> tuple[V, V, V]:
    """atan(a / b) = offset + offset_low + result for a, b >= 0, not both zero or infinite; one division.

    The ratio is brought to at most 1/2 by a turn of 0, pi/4 or pi/2.
    """
    name = a.format.name
    high, low = _PIO2[name]
    near = a < b * 0.5
    middle = a * 0.5 < b
    t = m.select(near, a, m.select(middle, a - b, -b)) / m.select(near, b, m.select(middle, a + b, a))
    z = t * t
    result = m.fma(t * z, m.poly(z, POLY[f"atan_{name}"]), t)
    offset = m.select(near, m.like(a, 0.0), m.select(middle, m.like(a, high / 2), high))
    offset_low = m.select(near, m.like(a, 0.0), m.select(middle, m.like(a, low / 2), low))
    return offset, offset_low, result


def atan(m: Math, x: V) -> V:
    offset, low, result = _atan_ratio(m, m.abs(x), m.like(x, 1.0))
    return m.copysign(offset + (low + result), x)


def atan2(m: Math, y: V, x: V) -> V:
    """The angle of (x, y); zeros, infinities, NaN and what must be scaled stand apart."""
    f = x.format
    a, b = m.abs(y), m.abs(x)
    high, low = 2.0 ** (f.bias - 2), 2.0 ** -(f.bias // 2)
    usual = (a < high) & (b < high) & ((a > low) | (b > low))
    angle = _angle(m, a, b, y, x)
    return m.rarely(~usual, [angle], lambda: [m.select(usual, angle, _special_angle(m, y, x))])[0]


def _angle(m: Math, a: V, b: V, y: V, x: V) -> V:
    """The angle of (x, y) by that of (b, a) in the first quadrant."""
    offset, low, result = _atan_ratio(m, a, b)
    high, rest = _PIO2[x.format.name]
    behind = m.copysign(m.like(x, 1.0), x) < 0.0
    # pi - (offset + result): the offsets are multiples of pi/4, so their difference is exact
    offset = m.select(behind, 2 * high - offset, offset)
    low = m.select(behind, 2 * rest - low, low)
    result = m.select(behind, -result, result)
    return m.copysign(offset + (low + result), y)


def _special_angle(m: Math, y: V, x: V) -> V:
    f = x.format
    a, b = m.abs(y), m.abs(x)
    # two zeros stand at the angle of (0, 1), two infinities at that of (1, 1)
    b = m.select(a.eq(0.0) & b.eq(0.0), 1.0, b)
    both = a.eq(_INF) & b.eq(_INF)
    a, b = m.select(both, 1.0, a), m.select(both, 1.0, b)
    # a + b must not overflow, b / 2 must not lose a bit
    larger = m.select(a > b, a, b)
    up = m.select(larger < 2.0 ** -(f.bias // 2), m.like(a, 2.0 ** (f.bias // 2)), 1.0)
    factor = m.select(larger > 2.0 ** (f.bias - 2), m.like(a, 0.25), up)
    angle = _angle(m, a * factor, b * factor, y, x)
    return m.select(x.ne(x) | y.ne(y), x + y, angle)


def _asin_core(m: Math, x: V) -> tuple[V, V, V]:
    """(mask of |x| < 1/2, t, asin(t) - t) with t = x there and t = sqrt((1 - |x|) / 2) elsewhere."""
    a = m.abs(x)
    small = a < 0.5
    half = (1.0 - a) * 0.5
    z = m.select(small, x * x, half)
    t = m.select(small, a, m.sqrt(half))
    return small, t, t * z * m.poly(z, POLY[f"asin_{x.format.name}"])


def asin(m: Math, x: V) -> V:
    """The polynomial below 1/2; above it pi/2 - 2 asin(sqrt((1 - |x|) / 2)), as in fdlibm."""
    high, low = _PIO2[x.format.name]
    small, t, tail = _asin_core(m, x)
    # pi/4 twice, so that the subtraction of t loses nothing
    large = high / 2 - ((tail + tail) - low + ((t - high / 2) + t))
    return m.copysign(m.select(small, t + tail, large), x)


def acos(m: Math, x: V) -> V:
    high, low = _PIO2[x.format.name]
    small, t, tail = _asin_core(m, x)
    signed, signed_tail = m.copysign(t, x), m.copysign(tail, x)
    middle = high - (signed - (low - signed_tail))
    right = 2.0 * (t + tail)
    left = 2.0 * (high - (t - (low - tail)))
    return m.select(small, middle, m.select(x < 0.0, left, right))

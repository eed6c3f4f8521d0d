"""Owns what vector mathematics builds on the logarithm, the exponential and the square root.

exp2, log2, log10, expit, hyperbolic functions and their inverses, cbrt, hypot.
"""

from __future__ import annotations

from nufunc.codegen.llvm import libm
from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_coefficients import POLY
from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY
from nufunc.codegen.vmath_exp import EXP_RANGE, Reduced, expm1_small, split_exp
from nufunc.codegen.vmath_log import log_limits, log_sum, split_log, split_log_any

_LN2 = {
    "f64": (0.6931471805599453, 2.3190468138462996e-17),
    "f32": (0.693147182464599609375, -1.904654323148236e-09),
}
# log10(2) in 42 bits (16 for f32) and the rest; 1/log(2) and 1/log(10) rounded and the rest
_LOG10_2 = {
    "f64": (0.30102999566395283, 2.8363394551044964e-14),
    "f32": (0.301025390625, 4.605039066518657e-06),
}
_INV_LN2 = {
    "f64": (1.4426950408889634, 2.0355273740931033e-17),
    "f32": (1.4426950216293335, 1.925963033500011e-08),
}
_INV_LN10 = {
    "f64": (0.4342944819032518, 1.098319650216765e-17),
    "f32": (0.4342944920063019, -1.0103049952192578e-08),
}
_INF = float("inf")
_NAN = float("nan")


def exp2(m: Math, x: V) -> V:
    """exp(r log 2) * 2**n with x = n + r exactly, r log 2 in two pieces."""
    f = x.format
    ln2, rest = _LN2[f.name]
    x = m.at_least(m.at_most(x, f.bias + 2.0), -f.bias - f.mantissa - 3.0)
    n, k = m.round_to_int(x, 1.0)
    r = x - n
    high, low = m.two_prod(r, ln2)
    reduced = Reduced(high, high, m.fma(r, -rest, -low), k, n)
    return reduced.scaled(expm1_small(m, reduced, f"exp_{f.name}") + 1.0)


def _log_base(m: Math, x: V, per_binade: tuple[float, float], inverse: tuple[float, float]) -> V:
    """k * log_b(2) + log(t) / log(b); of t = 1 + f the largest term, f / log(b), is added with its rounding error."""
    k, t = split_log_any(m, x)
    f = t - 1.0
    s = f / (f + 2.0)
    z = s * s
    half = f * f * 0.5
    rest = m.fma(s, m.fma(z, m.poly(z, POLY[f"log_{x.format.name}"]), half), -half)
    whole = k * per_binade[0]
    total = m.fma(f, inverse[0], whole)
    error = m.fma(f, inverse[0], whole - total)
    small = m.fma(f, inverse[1], k * per_binade[1]) if per_binade[1] else f * inverse[1]
    return log_limits(m, x, x, total + (error + m.fma(rest, inverse[0], small)))


def log2(m: Math, x: V) -> V:
    return _log_base(m, x, (1.0, 0.0), _INV_LN2[x.format.name])


def log10(m: Math, x: V) -> V:
    return _log_base(m, x, _LOG10_2[x.format.name], _INV_LN10[x.format.name])


def expit(m: Math, x: V) -> V:
    """1 / (1 + exp(-x)); for negative x as exp(x) / (1 + exp(x)), which does not overflow.

    With exp(-|x|) = (1 + p) 2**k the quotient is of 1, or of 1 + p, by 1 + exp(-|x|), and corrected for the
    roundings of both.
    """
    bottom, _ = EXP_RANGE[x.format.name]
    reduced = split_exp(m, m.at_least(-m.abs(x), bottom))
    p = expm1_small(m, reduced, f"exp_{x.format.name}")
    one = m.like(x, 1.0)
    power, power_low = m.quick_two_sum(one, p)
    tiny = reduced.k < -(x.format.bias - 1)
    size = m.select(tiny, 0.0, m.pow2(m.select(tiny, 0, reduced.k)))
    below, below_low = m.quick_two_sum(one, power * size)
    below_low = m.fma(power_low, size, below_low)
    negative = x < 0.0
    above, above_low = m.select(negative, power, one), m.select(negative, power_low, 0.0)
    inverse = 1.0 / below
    y = above * inverse
    q, q_low = m.two_prod(y, below)
    y = m.fma(((above - q) - q_low) + (above_low - y * below_low), inverse, y)
    return m.scale(y, m.select(negative, reduced.k, 0), m.select(negative, reduced.whole, 0.0))


def sinh(m: Math, x: V) -> V:
    return sinh_cosh(m, x)[0]


def cosh(m: Math, x: V) -> V:
    return sinh_cosh(m, x)[1]


def sinh_cosh(m: Math, x: V) -> tuple[V, V]:
    """2 (e - 1 / (16 e)) and 2 (e + 1 / (16 e)) with e = exp(|x|) / 4; sinh is an odd polynomial below 1."""
    name = x.format.name
    a = m.abs(x)
    z = m.at_most(a * a, 1.0)
    small = m.fma(a * z, m.poly(z, SPECIAL_POLY[f"sinh_{name}"]), a)
    # in quarters, without overflow where the results have none; clamped where they are already inf
    reduced = split_exp(m, m.at_most(a, EXP_RANGE[name][1] + 0.6))
    quarter = m.pow2(reduced.k - 2)
    p = expm1_small(m, reduced, f"exp_{name}")
    e = m.fma(p, quarter, quarter)
    inverse = 0.0625 / e
    large, even = m.fma(p, quarter, quarter - inverse), e + inverse
    return m.copysign(m.select(a < 1.0, small, large + large), x), even + even


def asinh(m: Math, x: V) -> V:
    """An odd polynomial below 1; above it log(a + sqrt(a**2 + 1)), and log(a) + log(2) for large a."""
    f = x.format
    a = m.abs(x)
    z = m.at_most(a * a, 1.0)
    small = m.fma(a * z, m.poly(z, SPECIAL_POLY[f"asinh_{f.name}"]), a)
    return m.copysign(m.select(a < 1.0, small, _log_with_root(m, a, m.fma(a, a, m.like(a, 1.0)))), x)


def acosh(m: Math, x: V) -> V:
    """sqrt(2 t) P(t), t = x - 1, below 3/2; above it log(x + sqrt(x**2 - 1)), and log(x) + log(2) for large x."""
    t = x - 1.0
    root, c = m.sqrt(t + t), m.at_most(t, 0.5)
    small = m.fma(root * c, m.poly(c, SPECIAL_POLY[f"acosh_{x.format.name}"]), root)
    return m.select(x < 1.5, small, _log_with_root(m, x, m.fma(t, t, t + t)))


def _log_with_root(m: Math, a: V, square: V) -> V:
    """log(a + sqrt(square)) for a >= 1 where square = a**2 +- 1; a may be inf or NaN."""
    name = a.format.name
    large = a > 2.0 ** (a.format.mantissa // 2 + 2)
    root = m.sqrt(square)
    both, low = m.quick_two_sum(a, root)
    low = low * m.abs(root - a)  # which is 1 / (a + root)
    k, t = split_log(m, m.select(large, a, both))
    y = log_sum(m, k + m.select(large, m.like(a, 1.0), 0.0), t - 1.0, m.select(large, 0.0, low), f"log_{name}")
    return m.select(a < _INF, y, a)


def atanh(m: Math, x: V) -> V:
    """An odd polynomial below 1/2; above it log((1 + a) / (1 - a)) / 2."""
    name = x.format.name
    a = m.abs(x)
    z = m.at_most(a * a, 0.25)
    small = m.fma(a * z, m.poly(z, SPECIAL_POLY[f"atanh_{name}"]), a)
    k, t = split_log(m, (1.0 + a) / (1.0 - a))
    large = log_sum(m, k, t - 1.0, None, f"log_{name}") * 0.5
    large = m.select(a < 1.0, large, m.select(a.eq(1.0), m.like(x, _INF), _NAN))
    return m.copysign(m.select(a < 0.5, small, large), x)


def hypot(m: Math, x: V, y: V) -> V:
    """sqrt(x**2 + y**2), where a square overflows or vanishes with both scaled."""
    a, b = m.abs(x), m.abs(y)
    large, small = m.select(a > b, a, b), m.select(a > b, b, a)
    end = 2.0 ** (x.format.bias // 2)
    usual = (large < end) & ((large > 1024.0 * x.format.mantissa / end) | large.eq(0.0))
    value = m.sqrt(m.fma(large, large, small * small))
    return m.rarely(~usual, [value], lambda: [m.select(usual, value, _scaled_hypot(m, x, y, large, small))])[0]


def _scaled_hypot(m: Math, x: V, y: V, large: V, small: V) -> V:
    f = x.format
    a, b = m.abs(x), m.abs(y)
    exponent = (large.bits() >> f.mantissa) << f.mantissa
    # 2**-e, kept a normal number at both ends
    inverse = ((2 * f.bias << f.mantissa) - exponent).as_float()
    tiny, huge = exponent.eq(0), exponent >= ((2 * f.bias - 1) << f.mantissa)
    down, up = m.like(x, 2.0 ** (1 - f.bias)), m.like(x, 2.0 ** (f.bias - 1))
    inverse = m.select(tiny, up, m.select(huge, down, inverse))
    back = m.select(tiny, down, m.select(huge, up, exponent.as_float()))
    large, small = large * inverse, small * inverse
    p, p_low = m.two_prod(large, large)
    q, q_low = m.two_prod(small, small)
    total, error = m.quick_two_sum(p, q)
    root = m.sqrt(total)
    # one Newton step takes back what rounding the sum lost
    r, r_low = m.two_prod(root, root)
    root = root + (((total - r) - r_low) + (error + p_low + q_low)) / (root + root)
    value = m.select(large.eq(0.0), 0.0, root * back)
    value = m.select(x.ne(x) | y.ne(y), x + y, value)
    return m.select(a.eq(_INF) | b.eq(_INF), _INF, value)


# of x**(-1/3): what a third of x's upper word is taken from, so that the guess is good to a tenth
_CUBE_ROOT = {"f64": 1430186414.0, "f32": 1419900954.0}


def cbrt(m: Math, x: V) -> V:
    """x r**2 for r = x**(-1/3): a guess through the exponent, two steps of (1 - e)**(-1/3), e = 1 - x r**3, and one for
    the rounding of x r**2. No division."""
    f = x.format
    double = f.name == "f64"
    a = m.abs(x)
    tiny, huge = a < f.tiny * 2.0**f.mantissa, a > 2.0 ** (f.bias - 3)
    step = 60 if double else 27  # a multiple of 3
    up, down = m.like(x, 2.0**step), m.like(x, 2.0**-step)
    scaled = a * m.select(tiny, up, m.select(huge, down, 1.0))
    if double:  # in float arithmetic, as vectors do not divide integers
        high = ((scaled.bits() >> 32) | ((1023 + 52) << 52)).as_float() - 2.0**52
        third = m.fma(high, -1.0 / 3.0, _CUBE_ROOT["f64"] + 2.0**52).bits() & ((1 << 32) - 1)
        r = (third << 32).as_float()
    else:
        r = m.from_float(_CUBE_ROOT["f32"] - m.to_float(scaled.bits()) * (1.0 / 3.0)).as_float()
    first = SPECIAL_POLY[f"cube_root_{f.name}"]
    for coefficients in (first, (1.0 / 3.0, 2.0 / 9.0) if double else (1.0 / 3.0,)):
        e = m.fma(r * r * scaled, -r, m.like(x, 1.0))
        r = m.fma(r * e, m.poly(e, coefficients), r)
    c = r * r * scaled
    c = m.fma(c * m.fma(c, -r, m.like(x, 1.0)), 2.0 / 3.0, c)
    third_up, third_down = m.like(x, 2.0 ** (step // 3)), m.like(x, 2.0 ** -(step // 3))
    c = c * m.select(tiny, third_down, m.select(huge, third_up, 1.0))
    return m.copysign(m.select(a.eq(0.0) | ~(a < _INF), a, c), x)


def fmod(m: Math, x: V, y: V) -> V:
    """The remainder towards zero, which is exact: of a quotient below 2**mantissa the product with the divisor is taken
    off in one step, and where the division had rounded up to a whole number the divisor is given back, which is exact
    too. Lanes with larger quotients, zeros to divide by, infinities and NaN are the C library's. Needs fma.
    """
    a, b = m.abs(x), m.abs(y)
    ratio = a / b
    whole = m.intrinsic("llvm.trunc", ratio)
    rest = m.fma(-whole, b, a)
    rest = m.select(rest < 0.0, rest + b, rest)
    usual = ratio < 2.0**x.format.mantissa
    value = m.copysign(m.select(whole.eq(0.0), a, rest), x)  # 0 * inf is NaN
    whole_vector = lambda: [V(m, libm(m.builder, "fmod", [x.value, y.value]))]
    return m.rarely(~usual, [value], whole_vector)[0]

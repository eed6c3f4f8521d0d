"""Functions that libdevice lacks, in plain Python that kernels are lowered from: complex, scaled, incomplete ones.

Everything is computed in double precision, complex64 too. Special values are those of C's annex G, which NumPy's are.
The inverse functions are Kahan's ("Branch cuts for complex elementary functions", 1987).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import copysign, cos, cosh, exp, expm1, float64, hypot, log, log1p, sin, sinh, sqrt, tan

from nufunc.codegen.vmath_coefficients_special import SPECIAL_POLY

atan2, asinh, pow = np.arctan2, np.arcsinh, np.power
math_inf, math_nan, math_pi = float("inf"), float("nan"), 3.141592653589793


def horner(x: Any, name: str) -> Any:
    """A polynomial of `vmath_coefficients_special`, whose first coefficient is the constant one."""
    total = 0.0
    for c in reversed(SPECIAL_POLY[name]):
        total = total * x + c
    return total


# -- exponentials and circular functions


def complex_exp(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if y == 0.0:
        return complex(exp(x), y)
    if not abs(y) < math_inf:
        if x == math_inf:
            return complex(x, math_nan)
        if x == -math_inf:
            return complex(0.0, 0.0)
        return complex(math_nan, math_nan)
    if abs(x) > 700.0:  # in two steps, of which the first is finite
        half = exp(x * 0.5)
        return complex(half * cos(y) * half, half * sin(y) * half)
    size = exp(x)
    return complex(size * cos(y), size * sin(y))


def complex_exp2(z: Any) -> Any:
    return complex_exp(complex(float64(z.real) * 0.6931471805599453, float64(z.imag) * 0.6931471805599453))


def complex_expm1(z: Any) -> Any:
    """(expm1(a) cos(b) - 2 sin(b/2)**2, exp(a) sin(b))."""
    x, y = float64(z.real), float64(z.imag)
    half = sin(y * 0.5)
    return complex(expm1(x) * cos(y) - 2.0 * half * half, exp(x) * sin(y))


def complex_sinh(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if y == 0.0:
        return complex(sinh(x), y)
    if not abs(y) < math_inf:
        if x == 0.0:
            return complex(x, math_nan)
        if abs(x) == math_inf:
            return complex(x, math_nan)
        return complex(math_nan, math_nan)
    if x != x:
        return complex(x, x)
    if x == 0.0:
        return complex(copysign(0.0, x * cos(y)), sin(y))
    if abs(x) > 700.0:
        half = exp(abs(x) * 0.5)
        return complex(copysign(0.5, x) * half * cos(y) * half, 0.5 * half * sin(y) * half)
    return complex(sinh(x) * cos(y), cosh(x) * sin(y))


def complex_cosh(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if y == 0.0:
        return complex(cosh(x), copysign(0.0, x) * y if x != x or abs(x) == math_inf else x * y)
    if not abs(y) < math_inf:
        if x == 0.0:
            return complex(math_nan, copysign(0.0, x))
        if abs(x) == math_inf:
            return complex(math_inf, math_nan)
        return complex(math_nan, math_nan)
    if x != x:
        return complex(x, x)
    if x == 0.0:
        return complex(cos(y), x * sin(y))
    if abs(x) > 700.0:
        half = exp(abs(x) * 0.5)
        return complex(0.5 * half * cos(y) * half, copysign(0.5, x) * half * sin(y) * half)
    return complex(cosh(x) * cos(y), sinh(x) * sin(y))


def complex_tanh(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if x != x:
        return complex(x, y if y == 0.0 else x)
    if abs(x) == math_inf:
        return complex(copysign(1.0, x), copysign(0.0, sin(y) * cos(y) if abs(y) < math_inf else y))
    if not abs(y) < math_inf:
        return complex(x if x == 0.0 else math_nan, math_nan)
    if abs(x) >= 22.0:
        small = exp(-abs(x))
        return complex(copysign(1.0, x), 4.0 * sin(y) * cos(y) * small * small)
    t, s = tan(y), sinh(x)
    beta = 1.0 + t * t
    below = 1.0 + beta * s * s
    return complex(beta * sqrt(1.0 + s * s) * s / below, t / below)


def complex_sin(z: Any) -> Any:
    w = complex_sinh(complex(-float64(z.imag), float64(z.real)))
    return complex(w.imag, -w.real)


def complex_cos(z: Any) -> Any:
    return complex_cosh(complex(-float64(z.imag), float64(z.real)))


def complex_tan(z: Any) -> Any:
    w = complex_tanh(complex(-float64(z.imag), float64(z.real)))
    return complex(w.imag, -w.real)


# -- logarithms and powers


def log_of_size(x: Any, y: Any) -> Any:
    """log |x + iy|; near the unit circle, where it vanishes, from |z|**2 - 1 in two pieces."""
    if x != x or y != y:
        return math_nan
    a, b = max(abs(x), abs(y)), min(abs(x), abs(y))
    if a > 0.5 and a < 1.5:
        c = 134217729.0 * a
        high = c - (c - a)
        low = a - high
        p = a * a
        p_low = ((high * high - p) + 2.0 * high * low) + low * low
        c = 134217729.0 * b
        high = c - (c - b)
        low = b - high
        q = b * b
        q_low = ((high * high - q) + 2.0 * high * low) + low * low
        less = p - 1.0
        total = less + q
        part = total - less
        rest = (less - (total - part)) + (q - part)
        return 0.5 * log1p(total + (rest + (p_low + q_low)))
    if a > 1e300:
        return log(hypot(x * 0.5, y * 0.5)) + 0.6931471805599453
    return log(hypot(x, y))


def complex_log(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if abs(x) == math_inf or abs(y) == math_inf:
        return complex(math_inf, atan2(y, x))
    return complex(log_of_size(x, y), atan2(y, x))


def complex_log2(z: Any) -> Any:
    w = complex_log(z)
    return complex(w.real * 1.4426950408889634, w.imag * 1.4426950408889634)


def complex_log10(z: Any) -> Any:
    w = complex_log(z)
    return complex(w.real * 0.4342944819032518, w.imag * 0.4342944819032518)


def complex_log1p(z: Any) -> Any:
    """log |1 + z| as log1p(2 a + a**2 + b**2) / 2 where that is small."""
    x, y = float64(z.real), float64(z.imag)
    one = x + 1.0
    if abs(x) < 0.5 and abs(y) < 0.5:
        return complex(0.5 * log1p(x * (one + 1.0) + y * y), atan2(y, one))
    return complex(log(hypot(one, y)), atan2(y, one))


def complex_pow(z: Any, w: Any) -> Any:
    """exp(w log z); zero to a power of positive real part is 0, and any number to the power 0 is 1."""
    u = complex(float64(w.real), float64(w.imag))
    if u.real == 0.0 and u.imag == 0.0:
        return complex(1.0, 0.0)
    if z.real == 0.0 and z.imag == 0.0 and u.real > 0.0:
        return complex(0.0, 0.0)
    return complex_exp(u * complex_log(z))


def complex_sqrt(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if abs(y) == math_inf:
        return complex(math_inf, y)
    if x == 0.0 and y == 0.0:
        return complex(0.0, y)
    if x != x:
        return complex(x, x)
    if x == math_inf:
        return complex(x, copysign(0.0, y) if y == y else y)
    if x == -math_inf:
        return complex(0.0 if y == y else y, copysign(math_inf, y))
    scale = 1.0
    if abs(x) > 1e300 or abs(y) > 1e300:
        x, y, scale = x * 0.0625, y * 0.0625, 4.0
    elif abs(x) < 1e-280 and abs(y) < 1e-280:
        x, y, scale = x * 1.2676506002282294e30, y * 1.2676506002282294e30, 8.881784197001252e-16
    root = sqrt((abs(x) + hypot(x, y)) * 0.5)
    other = y / (2.0 * root)
    if x >= 0.0:
        return complex(root * scale, other * scale)
    return complex(abs(other) * scale, copysign(root, y) * scale)


# -- inverse circular and hyperbolic functions


def complex_acos(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if abs(x) == math_inf or abs(y) == math_inf:
        return complex(atan2(abs(y), x), -copysign(math_inf, y))
    if x != x or y != y:
        return complex(0.5 * math_pi if x == 0.0 else math_nan, math_nan)
    a, b = complex_sqrt(complex(1.0 - x, -y)), complex_sqrt(complex(1.0 + x, y))
    return complex(2.0 * atan2(a.real, b.real), asinh(b.real * a.imag - b.imag * a.real))


def complex_asin(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if abs(x) == math_inf or abs(y) == math_inf:
        return complex(atan2(x, abs(y)), copysign(math_inf, y))
    if x != x or y != y:
        return complex(x if x == 0.0 else math_nan, math_nan)
    a, b = complex_sqrt(complex(1.0 - x, -y)), complex_sqrt(complex(1.0 + x, y))
    return complex(atan2(x, a.real * b.real - a.imag * b.imag), asinh(a.real * b.imag - a.imag * b.real))


def complex_acosh(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if abs(x) == math_inf or abs(y) == math_inf:
        return complex(math_inf, atan2(y, x))
    if x != x or y != y:
        return complex(math_nan, 0.5 * math_pi if x == 0.0 else math_nan)
    a, b = complex_sqrt(complex(x - 1.0, y)), complex_sqrt(complex(x + 1.0, y))
    return complex(asinh(a.real * b.real + a.imag * b.imag), 2.0 * atan2(a.imag, b.real))


def complex_asinh(z: Any) -> Any:
    w = complex_asin(complex(float64(z.imag), -float64(z.real)))
    return complex(-w.imag, w.real)


def complex_atanh(z: Any) -> Any:
    x, y = float64(z.real), float64(z.imag)
    if abs(x) == math_inf or abs(y) == math_inf:
        return complex(copysign(0.0, x), copysign(0.5 * math_pi, y) if y == y else y)
    if x != x or y != y:
        return complex(x if x == 0.0 else math_nan, math_nan)
    a, size = abs(x), hypot(x, y)
    if size > 1e150:
        return complex(copysign(a / size / size, x), copysign(0.5 * math_pi, y))
    if size < 1e-300:
        return complex(x, y)
    gap = 1.0 - a
    below = gap * gap + y * y
    if below < 1e-290:
        re = 0.34657359027997264 - 0.5 * log(hypot(gap, y))
    else:
        re = 0.25 * log1p(4.0 * a / below)
    return complex(copysign(re, x), 0.5 * atan2(2.0 * y, gap * (1.0 + a) - y * y))


def complex_atan(z: Any) -> Any:
    w = complex_atanh(complex(-float64(z.imag), float64(z.real)))
    return complex(w.imag, -w.real)


# -- modified Bessel functions times exp(-|x|)


def i0e(x: Any) -> Any:
    a = abs(float64(x))
    if a < 7.75:
        t = 0.25 * a * a
        return (1.0 + t * horner(t, "i0e_near_f64")) * exp(-a)
    return (horner(15.5 / a - 1.0, "i0e_far_f64") + 0.3984375) / sqrt(a)


def i1e(x: Any) -> Any:
    y = float64(x)
    a = abs(y)
    if a < 7.75:
        t = 0.25 * a * a
        return 0.5 * y * (1.0 + t * horner(t, "i1e_near_f64")) * exp(-a)
    return copysign((horner(15.5 / a - 1.0, "i1e_far_f64") + 0.390625) / sqrt(a), y)


# -- incomplete functions: series and continued fractions (Lentz) until nothing changes


def gamma(x: Any) -> Any:
    """Where these functions run as Python; kernels have libdevice's. SciPy's take long to import."""
    from scipy import special

    return special.gamma(x)


def lgamma(x: Any) -> Any:
    """As `gamma`."""
    from scipy import special

    return special.gammaln(x)


def gamma_weight(a: Any, x: Any) -> Any:
    """x**a exp(-x) / gamma(a + 1); for larger a as in Stirling's formula, around x = a."""
    if a < 10.0:
        return 0.0 if x > 800.0 else pow(x, a) * exp(-x) / gamma(a + 1.0)
    mu = (x - a) / a
    z = 1.0 / (a * a)
    series = z * (-1 / 1680 + z * (1 / 1188 + z * (-691 / 360360 + z * (1 / 156 - z * (3617 / 122400)))))
    rest = (1 / 12 + z * (-1 / 360 + z * (1 / 1260 + series))) / a
    return exp(-(a * (mu - log1p(mu)) + rest)) / sqrt(a * 6.283185307179586)


def gamma_series(a: Any, x: Any) -> Any:
    last, total, number = 1.0, 1.0, 1.0
    while number < 20000.0:
        last = last * x / (a + number)
        total = total + last
        if not last > total * 1.1102230246251565e-16:
            return total
        number = number + 1.0
    return total


def away(x: Any) -> Any:
    """x, but not zero."""
    return 1e-290 if abs(x) < 1e-290 else x


def gamma_fraction(a: Any, x: Any) -> Any:
    c, number = 1e290, 1.0
    d = 1.0 / away(x + 1.0 - a)
    h = d
    while number < 20000.0:
        up, down = number * (a - number), x + 1.0 - a + 2.0 * number
        d = 1.0 / away(up * d + down)
        c = away(down + up / c)
        h = h * (c * d)
        if not abs(c * d - 1.0) > 2.220446049250313e-16:
            return h
        number = number + 1.0
    return h


def gammainc(a: Any, x: Any) -> Any:
    p, y = float64(a), float64(x)
    if p > 0.0 and y > 0.0 and p < math_inf and y < math_inf:
        if y < p + 1.0:
            return gamma_series(p, y) * gamma_weight(p, y)
        return 1.0 - gamma_fraction(p, y) * gamma_weight(p, y) * p
    if not (p >= 0.0 and y >= 0.0) or (p == 0.0 and y == 0.0) or (p == math_inf and y == math_inf):
        return math_nan
    return 1.0 if (p == 0.0 or y == math_inf) and p != math_inf else 0.0


def gammaincc(a: Any, x: Any) -> Any:
    p, y = float64(a), float64(x)
    if p > 0.0 and y > 0.0 and p < math_inf and y < math_inf:
        if y < p + 1.0:
            return 1.0 - gamma_series(p, y) * gamma_weight(p, y)
        return gamma_fraction(p, y) * gamma_weight(p, y) * p
    if not (p >= 0.0 and y >= 0.0) or (p == 0.0 and y == 0.0) or (p == math_inf and y == math_inf):
        return math_nan
    return 0.0 if (p == 0.0 or y == math_inf) and p != math_inf else 1.0


def beta_fraction(a: Any, b: Any, x: Any) -> Any:
    c, number, whole = 1.0, 1.0, a + b
    d = 1.0 / away(1.0 - whole * x / (a + 1.0))
    h = d
    while number < 20000.0:
        twice = a + 2.0 * number
        even = number * (b - number) * x / ((twice - 1.0) * twice)
        d = 1.0 / away(even * d + 1.0)
        c = away(1.0 + even / c)
        h = h * (c * d)
        odd = -((a + number) * (whole + number) * x / (twice * (twice + 1.0)))
        d = 1.0 / away(odd * d + 1.0)
        c = away(1.0 + odd / c)
        h = h * (c * d)
        if not abs(c * d - 1.0) > 2.220446049250313e-16:
            return h
        number = number + 1.0
    return h


def betainc(a: Any, b: Any, x: Any) -> Any:
    """The fraction in x, or beyond the mean that in 1 - x of the exchanged parameters."""
    p, q, y = float64(a), float64(b), float64(x)
    if p > 0.0 and q > 0.0 and y > 0.0 and y < 1.0 and p < math_inf and q < math_inf:
        size = (lgamma(p) + lgamma(q)) - lgamma(p + q)
        weight = exp((p * log(y) + q * log1p(-y)) - size)
        if y > (p + 1.0) / (p + q + 2.0):
            return 1.0 - beta_fraction(q, p, 1.0 - y) * weight / q
        return beta_fraction(p, q, y) * weight / p
    known = p >= 0.0 and q >= 0.0 and p + q > 0.0 and (p < math_inf or q < math_inf) and y >= 0.0 and y <= 1.0
    if not known:
        return math_nan
    if y == 0.0 or y == 1.0:
        return y
    return 1.0 if p == 0.0 or q == math_inf else 0.0


FUNCTIONS = (
    complex_exp, complex_exp2, complex_expm1, complex_sinh, complex_cosh, complex_tanh, complex_sin, complex_cos,
    complex_tan, log_of_size, complex_log, complex_log2, complex_log10, complex_log1p, complex_pow, complex_sqrt,
    complex_acos, complex_asin, complex_acosh, complex_asinh, complex_atanh, complex_atan, i0e, i1e, gamma_weight,
    gamma_series, away, gamma_fraction, gammainc, gammaincc, beta_fraction, betainc,
)  # fmt: skip

"""scipy.special for traced values: beta, polygamma and zeta, as compositions of gamma's primitives and powers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, fail
from nufunc.tracer.np_misc import where
from nufunc.tracer.np_special_core import elementwise, elementwise_of, float_array, loop_dtype, scalar_like
from nufunc.tracer.np_ufuncs import UFUNCS

gamma, digamma = elementwise("gamma"), elementwise("digamma")


def gammaln(x: Any) -> Any:
    """log(abs(gamma(x))), with SciPy's -inf at -inf."""
    result = elementwise("lgamma")(x)
    return scalar_like(where(as_array(x) == -math.inf, -math.inf, result).astype(result.dtype))


# B_2k / (2k)! for k = 1, 2, ...: the tail of Euler and Maclaurin's sum, used from _SHIFT terms on
_BERNOULLI = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600)
_SHIFT = 10


def _tail(s: Any, z: Array, power: Array) -> Array:
    """sum over k >= 0 of (z + k)**-s for large z, where power = z**-s."""
    total = power * (z / (s - 1.0) + 0.5)
    term = power * s / z
    square = 1.0 / (z * z)
    for k, factor in enumerate(_BERNOULLI):
        total = total + factor * term
        term = term * ((s + (2 * k + 1)) * (s + (2 * k + 2))) * square
    return total


def _hurwitz(x: Any, q: Array, power: Callable[[Array], Array]) -> Array:
    total = power(q)
    for k in range(1, _SHIFT):
        total = total + power(q + float(k))
    z = q + float(_SHIFT)
    return total + _tail(x, z, power(z))


def zeta(x: Any, q: Any = None) -> Any:
    """Hurwitz' zeta for x > 1 and q > 0; without q Riemann's, by the reflection formula below 0."""
    if q is None:
        return _riemann(float_array(x, "zeta"))
    kind = loop_dtype("zeta", [as_array(x), as_array(q)])
    s, start = float_array(x).astype(kind), float_array(q).astype(kind)
    inside = (s > 1.0) & (start > 0.0)
    power, base = where(inside, s, 2.0), where(inside, start, 1.0)
    value = _hurwitz(power, base, lambda z: UFUNCS["power"](z, -power))
    outside = where((s < 1.0) | (start < 0.0), math.nan, math.inf)
    return scalar_like(where(inside, value, outside).astype(kind))


def _riemann(s: Array) -> Any:
    """zeta(s) = 2 (2 pi)**(s - 1) sin(pi s / 2) gamma(1 - s) zeta(1 - s) for s < 0."""
    below = s < 0.0
    upper = where(below, 1.0 - s, s)
    one = UFUNCS["abs"](upper - 1.0) == 0.0
    power = where(one, 2.0, upper)
    value = _hurwitz(power, s * 0.0 + 1.0, lambda z: UFUNCS["power"](z, -power))
    value = where(one, math.inf, value)
    turn = s - 4.0 * UFUNCS["rint"](s / 4.0)
    scale = 2.0 * UFUNCS["power"](2 * math.pi, where(below, s, 0.0) - 1.0) * UFUNCS["sin"](turn * (math.pi / 2))
    return scalar_like(where(below, scale * gamma(where(below, upper, 1.0)) * value, value).astype(s.dtype))


def polygamma(n: Any, x: Any) -> Any:
    """The n-th derivative of digamma for a static whole n >= 0; below zero by the derivatives of the cotangent."""
    if isinstance(n, Array) or int(n) != n or n < 0:
        raise fail(UnsupportedError, "scipy.special.polygamma of an order that is no static whole number")
    order, p = int(n), float_array(x).astype(np.float64)
    if order == 0:
        return digamma(p)
    below, pole = p < 0.5, (p <= 0.0) & (p == UFUNCS["floor"](p))
    far = p == math.inf
    base = where(pole | far, 1.0, where(below, 1.0 - p, p)).astype(p.dtype)
    sign = 1.0 if order % 2 else -1.0
    value = sign * math.factorial(order) * _hurwitz(order + 1.0, base, lambda z: z ** -(order + 1))
    turn = where(below & ~pole, p - UFUNCS["rint"](p), 0.25).astype(p.dtype)
    turned = -sign * value - math.pi ** (order + 1) * _cotangent(turn * math.pi, order)
    value = where(pole, sign * math.inf, where(far, sign * 0.0, where(below, turned, value)))
    return scalar_like(where(p == -math.inf, math.nan, value).astype(p.dtype))


def _cotangent(x: Array, order: int) -> Array:
    """A derivative of the cotangent: a polynomial in it, since its first one is -(1 + cot**2)."""
    coefficients = [0, 1]
    for _ in range(order):
        slope = [k * c for k, c in enumerate(coefficients)][1:]
        coefficients = [0] * (len(slope) + 2)
        for k, c in enumerate(slope):
            coefficients[k] -= c
            coefficients[k + 2] -= c
    cot = UFUNCS["cos"](x) / UFUNCS["sin"](x)
    total = cot * 0.0 + float(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * cot + float(c)
    return total


GAMMA: dict[str, Callable[..., Any]] = {
    "gamma": gamma, "gammaln": gammaln, "digamma": digamma, "psi": digamma, "polygamma": polygamma, "zeta": zeta,

    **{name: elementwise_of(name) for name in ("gammainc", "gammaincc", "betainc")},
}  # fmt: skip

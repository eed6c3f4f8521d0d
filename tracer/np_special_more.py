"""scipy.special for traced values: what SciPy's own scalar code computes, and compositions in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import DomainError, UnsupportedError
from nufunc.ir.prims.scipy_special import RULES
from nufunc.ir.types import is_complex, kind_of
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import as_array, fail, is_scalar, static_int
from nufunc.tracer.np_linalg import strong
from nufunc.tracer.np_special_core import elementwise_of, float_array, loop_dtype, operands, scalar_like


def scipy(name: str) -> Callable[..., Any]:
    """A function that SciPy computes, element by element."""
    return elementwise_of("scipy", function=name)


def _pair(name: str) -> Callable[..., Any]:
    first, second = scipy(f"{name}.0"), scipy(f"{name}.1")
    return lambda x: (first(x), second(x))


# -- exponentials and logarithms


def cosm1(x: Any) -> Any:
    """cos(x) - 1 by the sine of half the angle, which keeps what is small."""
    half = namespace().sin(float_array(x, "cosm1") * 0.5)
    return -2.0 * half * half


def _log_exprel(log: Array, power: Array, kind: np.dtype) -> Array:
    """(exp(power log) - 1) / power, smooth where the power is zero."""
    np_ = namespace()
    product = power * log
    finite = np_.isfinite(product)
    inner = log * scipy("exprel")(np_.where(finite, product, 0.0).astype(kind))
    safe = np_.where(power == 0, 1.0, power).astype(kind)
    return np_.where(finite, inner, np_.expm1(product) / safe).astype(kind)


def boxcox(x: Any, lmbda: Any) -> Any:
    (p, power), kind = operands("boxcox", x, lmbda)
    return scalar_like(_log_exprel(namespace().log(p), power, kind))


def boxcox1p(x: Any, lmbda: Any) -> Any:
    (p, power), kind = operands("boxcox", x, lmbda)
    return scalar_like(_log_exprel(namespace().log1p(p), power, kind))


def _inverse_log(y: Array, power: Array, kind: np.dtype) -> Array:
    """log(1 + power y) / power; y where the power is zero."""
    np_ = namespace()
    zero = power == 0
    return np_.where(zero, y, np_.log1p(power * y) / np_.where(zero, 1.0, power)).astype(kind)


def inv_boxcox(y: Any, lmbda: Any) -> Any:
    (p, power), kind = operands("inv_boxcox", y, lmbda)
    return scalar_like(namespace().exp(_inverse_log(p, power, kind)))


def inv_boxcox1p(y: Any, lmbda: Any) -> Any:
    (p, power), kind = operands("inv_boxcox", y, lmbda)
    return scalar_like(namespace().expm1(_inverse_log(p, power, kind)))


def exp10(x: Any) -> Any:
    return namespace().power(10.0, float_array(x, "exp10"))


def huber(delta: Any, r: Any) -> Any:
    np_ = namespace()
    (d, x), kind = operands("huber", delta, r)
    size = np_.abs(x)
    value = np_.where(size <= d, 0.5 * x * x, d * (size - 0.5 * d))
    return scalar_like(np_.where(d < 0, math.inf, value).astype(kind))


def pseudo_huber(delta: Any, r: Any) -> Any:
    """delta**2 (sqrt(1 + (r / delta)**2) - 1), without the difference."""
    np_ = namespace()
    (d, x), kind = operands("pseudo_huber", delta, r)
    zero = d == 0
    ratio = x / np_.where(zero, 1.0, d).astype(kind)
    value = x * x / (1.0 + np_.sqrt(1.0 + ratio * ratio))
    return scalar_like(np_.where(d < 0, math.inf, np_.where(zero, 0.0, value)).astype(kind))


# -- factorials


def factorial(n: Any, exact: bool = False, extend: str = "zero") -> Any:
    if exact or extend != "zero":
        raise fail(UnsupportedError, "scipy.special.factorial of traced values with exact=True or extend='complex'")
    np_, x = namespace(), as_array(n)
    p = x if kind_of(x.dtype) == "f" else x.astype(np.float64)
    value = elementwise_of("gamma")(np_.where(p < 0, 0.0, p).astype(p.dtype) + 1.0)
    return scalar_like(np_.where(p < 0, 0.0, value).astype(p.dtype))


def comb(N: Any, k: Any, *, exact: bool = False, repetition: bool = False) -> Any:
    if exact:
        raise fail(UnsupportedError, "scipy.special.comb of traced values with exact=True")
    np_ = namespace()
    n, chosen = strong(as_array(N)), strong(as_array(k))
    if repetition:
        return comb(np_.where(chosen > 0, n + chosen - 1, 1), np_.where(chosen > 0, chosen, 0))
    n, chosen = (a if kind_of(a.dtype) == "f" else a.astype(np.float64) for a in (n, chosen))
    inside = (chosen <= n) & (n >= 0) & (chosen >= 0)
    value = scipy("binom")(n, chosen)
    return scalar_like(np_.where(inside, value, 0.0).astype(value.dtype))


def perm(N: Any, k: Any, exact: bool = False) -> Any:
    if exact:
        raise fail(UnsupportedError, "scipy.special.perm of traced values with exact=True")
    np_ = namespace()
    given = strong(as_array(N)), strong(as_array(k))
    n, chosen = (a if kind_of(a.dtype) == "f" else a.astype(np.float64) for a in given)
    inside = (chosen <= n) & (n >= 0) & (chosen >= 0)
    value = scipy("poch")(n - chosen + 1.0, chosen)
    return scalar_like(np_.where(inside, value, 0.0).astype(value.dtype))


def multigammaln(a: Any, d: Any) -> Any:
    order = static_int(d, "d")
    if order < 1:
        raise fail(DomainError, "d should be a positive integer (dimension)")
    p = float_array(a).astype(np.float64)
    total = order * (order - 1) * 0.25 * math.log(math.pi)
    lgamma = elementwise_of("lgamma")
    result = lgamma(p) + total
    for j in range(1, order):
        result = result + lgamma(p - j / 2.0)
    return result


# -- means, waves, the inverse of w exp(w)


def agm(a: Any, b: Any) -> Any:
    """The arithmetic-geometric mean; of operands of unlike signs NaN."""
    np_ = namespace()
    (p, q), kind = operands("agm", a, b)
    proper = (p * q > 0) & np_.isfinite(p) & np_.isfinite(q) | ((p > 0) & (q > 0)) | ((p < 0) & (q < 0))
    proper = proper & np_.isfinite(p) & np_.isfinite(q)
    x, y = (np_.where(proper, np_.abs(v), 1.0).astype(kind) for v in (p, q))
    for _ in range(15):
        x, y = 0.5 * x + 0.5 * y, np_.sqrt(x) * np_.sqrt(y)
    value = np_.copysign(x, p)
    zero = ((p == 0) & ~np_.isnan(q) & np_.isfinite(q)) | ((q == 0) & np_.isfinite(p))
    grown = (np_.isinf(p) & (q > 0) & (p > 0)) | (np_.isinf(q) & (p > 0) & (q > 0))
    sunk = (np_.isinf(p) & (q < 0) & (p < 0)) | (np_.isinf(q) & (p < 0) & (q < 0))
    rest = np_.where(zero, 0.0, np_.where(grown, math.inf, np_.where(sunk, -math.inf, math.nan)))
    return scalar_like(np_.where(proper, value, rest).astype(kind))


def diric(x: Any, n: Any) -> Any:
    np_, p = namespace(), float_array(x).astype(np.float64)
    if not is_scalar(n):
        raise fail(UnsupportedError, "scipy.special.diric of a traced n")
    if n <= 0 or n != math.floor(n):
        return np_.full_like(p, math.nan)
    bottom = np_.sin(0.5 * p)
    small = np_.abs(bottom) < 1e-15
    safe = np_.where(small, 1.0, bottom)
    turns = np_.rint(p / (2 * math.pi))
    limit = np_.where(np_.mod(turns * (n - 1), 2) == 0, 1.0, -1.0)
    return scalar_like(np_.where(small, limit, np_.sin(0.5 * n * p) / (n * safe)).astype(p.dtype))


_HALLEY = 10  # iterations, of which the last change nothing any more but derivatives


def lambertw(z: Any, k: Any = 0, tol: Any = 1e-8) -> Any:
    """The inverse of w exp(w), by Halley's iteration; complex, as SciPy's is."""
    np_, branch = namespace(), static_int(k, "k")
    x = as_array(z).astype(np.complex128)
    special = ~np_.isfinite(x) if branch == 0 else (x == 0) | ~np_.isfinite(x)
    u = np_.where(special, 1.0, x)
    log = np_.log(np_.where(u == 0, 1.0, u)) + 2j * math.pi * branch
    w = log - np_.log(np_.where(log == 0, 1.0, log))
    if branch == 0:
        near = np_.abs(u + math.exp(-1)) < 0.3
        p = np_.sqrt(2.0 * (math.e * np_.where(near, u, 0.0) + 1.0))
        middle = (u.real > -1.0) & (u.real < 1.5) & (np_.abs(u.imag) < 1.0) & (-2.5 * np_.abs(u.imag) - 0.2 < u.real)
        w = np_.where(near, -1.0 + p - p * p / 3.0, np_.where(middle, np_.log1p(np_.where(middle, u, 0.0)), w))
    elif branch == -1:
        near = (u.imag == 0) & (u.real < 0) & (np_.abs(u) <= math.exp(-1))
        s = np_.log(np_.where(near, -u.real, 0.5))
        w = np_.where(near, s - np_.log(-s), w)
    for _ in range(_HALLEY):
        w = _halley(w, u)
    zero = np_.full_like(x, complex(-math.inf, 0))
    turned = np_.where(x.real < 0, -x + (2 * branch + 1) * math.pi * 1j, x + 2 * branch * math.pi * 1j)
    rest = np_.where(x == 0, zero, np_.where(np_.isinf(x), turned, x))
    return scalar_like(np_.where(special, rest, w))


def _halley(w: Array, z: Array) -> Array:
    """One step for w exp(w) = z, with exp(-w) where exp(w) is large."""
    np_ = namespace()
    large = w.real >= 0
    e = np_.exp(np_.where(large, -w, w))
    missed = np_.where(large, w - z * e, w * e - z)
    slope = np_.where(large, w + 1.0, w * e + e)
    bent = 2.0 * w + 2.0
    bent = np_.where(bent == 0, 1.0, bent)
    bottom = slope - (w + 2.0) * missed / bent
    return w - missed / np_.where(bottom == 0, 1.0, bottom)


def _of_moved(name: str, base: str, scale: float, shift: float, factor: float = 1.0) -> Callable[..., Any]:
    """A polynomial as another one of scale * x + shift."""

    def call(n: Any, x: Any) -> Any:
        kind = loop_dtype(name, [as_array(n), as_array(x)])
        value = scipy(base)(n, float_array(x).astype(np.float64) * scale + shift)
        return (value if factor == 1 else value * factor).astype(kind)

    return call


def eval_sh_jacobi(n: Any, p: Any, q: Any, x: Any) -> Any:
    """A Jacobi polynomial of 2 x - 1 whose first coefficient is one."""
    kind = loop_dtype("eval_sh_jacobi", [as_array(operand) for operand in (n, p, q, x)])
    first, second, own = (float_array(operand).astype(np.float64) for operand in (p, q, x))
    value = scipy("eval_jacobi")(n, first - second, second - 1.0, own * 2.0 - 1.0)
    return (value / scipy("binom")(2.0 * n + first - 1.0, n)).astype(kind)


def complex_refused(name: str) -> Callable[..., Any]:
    def call(x: Any) -> Any:
        if is_complex(as_array(x).dtype):
            raise fail(UnsupportedError, f"scipy.special.{name} of complex values")
        return namespace().rint(float_array(x))

    return call


MORE: dict[str, Callable[..., Any]] = {
    **{name: scipy(name) for name in RULES if "." not in name},
    "betaincc": lambda a, b, x: elementwise_of("betainc")(b, a, 1.0 - float_array(x)),
    "kn": scipy("kv"), "yn": scipy("yv"), "jn": scipy("jv"),
    "sici": _pair("sici"), "shichi": _pair("shichi"), "fresnel": _pair("fresnel"),
    "cosm1": cosm1, "boxcox": boxcox, "boxcox1p": boxcox1p, "inv_boxcox": inv_boxcox, "inv_boxcox1p": inv_boxcox1p,
    "exp10": exp10, "huber": huber, "pseudo_huber": pseudo_huber, "factorial": factorial, "comb": comb, "perm": perm,
    "multigammaln": multigammaln, "agm": agm, "diric": diric, "lambertw": lambertw, "round": complex_refused("round"),
    "eval_sh_legendre": _of_moved("eval_sh_legendre", "eval_legendre", 2.0, -1.0),
    "eval_sh_chebyt": _of_moved("eval_sh_chebyt", "eval_chebyt", 2.0, -1.0),
    "eval_sh_chebyu": _of_moved("eval_sh_chebyu", "eval_chebyu", 2.0, -1.0),
    "eval_chebyc": _of_moved("eval_chebyc", "eval_chebyt", 0.5, 0.0, 2.0),
    "eval_chebys": _of_moved("eval_chebys", "eval_chebyu", 0.5, 0.0), "eval_sh_jacobi": eval_sh_jacobi,
}  # fmt: skip

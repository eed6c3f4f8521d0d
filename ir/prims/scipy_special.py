"""Functions that scipy.special computes, one primitive for all: Bessel functions, integrals, orthogonal polynomials.

`scipy{function="jv"}(v, x)` calls SciPy's scalar code, on floats, in double precision. The name of a function with
two results ends with the number of one of them ("sici.0"). Derivatives stand in `RULES`, one entry per operand; None
where a function is not differentiable in it. "eval_laguerre.whole" is SciPy's loop for whole degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import UnsupportedError, VerifyError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.beta_slopes import beta_slopes
from nufunc.ir.prims.kinds import (
    FLOATS,
    Arrays,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    batch_all,
    exact,
    need_count,
    need_dtype,
    need_same,
    summed_terms,
)
from nufunc.ir.prims.random import log_gamma_slope
from nufunc.ir.types import ArrayType

WHOLE = ".whole"
Slope = Callable[..., Value]  # (b, operands, result) -> the derivative


class Function(NamedTuple):
    """How many operands, and the derivative in each."""

    slopes: tuple[Slope | None, ...]

    @property
    def arity(self) -> int:
        return len(self.slopes)


def _call(b: Builder, function: str, *operands: Value) -> Value:
    return b.scipy(*operands, function=function)


def _shifted(b: Builder, x: Value, by: float) -> Value:
    return b.add(x, b.like(x, by))


def _scaled(b: Builder, x: Value, by: float) -> Value:
    return b.mul(x, b.like(x, by))


def _inverse(b: Builder, x: Value) -> Value:
    return b.div(b.like(x, 1), x)


# -- Bessel functions, by their recurrences


def _order(down: float, up: float, name: str, more: Slope | None = None) -> Slope:
    """d/dx as a combination of the functions of the orders v - 1 and v + 1."""

    def slope(b: Builder, xs: Values, y: Value) -> Value:
        v, x = xs
        lower, upper = _call(b, name, _shifted(b, v, -1), x), _call(b, name, _shifted(b, v, 1), x)
        total = b.add(_scaled(b, lower, down), _scaled(b, upper, up))
        return total if more is None else b.add(total, more(b, xs, y))

    return slope


def _of_order_one(zeroth: str, sign: float, limit: float | None = None) -> Slope:
    """d/dx of a function of order one: sign * (that of order zero) - f(x) / x; `limit` at zero."""

    def slope(b: Builder, xs: Values, y: Value) -> Value:
        (x,) = xs
        first = _scaled(b, _call(b, zeroth, x), sign)
        if limit is None:
            return b.sub(first, b.div(y, x))
        zero = b.eq(x, b.like(x, 0))
        rest = b.sub(first, b.div(y, b.select(zero, b.like(x, 1), x)))
        return b.select(zero, b.like(x, limit), rest)

    return slope


def _named(name: str, factor: float) -> Slope:
    return lambda b, xs, y: _scaled(b, _call(b, name, *xs), factor)


# -- integrals


def _exponential(b: Builder, xs: Values, y: Value, sign: float) -> Value:
    (x,) = xs
    return b.div(b.exp(_scaled(b, x, sign)), _scaled(b, x, sign))


def _expn(b: Builder, xs: Values, y: Value) -> Value:
    """-expn(n - 1, x); expn(0, x) is exp(-x) / x."""
    n, x = xs
    zeroth = b.eq(n, b.like(n, 0))
    lower = _call(b, "expn", b.select(zeroth, n, _shifted(b, n, -1)), x)
    own = b.mul(y, b.add(b.like(x, 1), _inverse(b, x)))
    return b.neg(b.select(zeroth, own, lower))


def _spence(b: Builder, xs: Values, y: Value) -> Value:
    (x,) = xs
    one = b.eq(x, b.like(x, 1))
    safe = b.select(one, b.like(x, 2), x)
    return b.select(one, b.like(x, -1), b.div(b.log(safe), b.sub(b.like(x, 1), safe)))


def _quotient(top: str) -> Slope:
    """top(x) / x, one at zero (for sine integrals)."""

    def slope(b: Builder, xs: Values, y: Value) -> Value:
        (x,) = xs
        zero = b.eq(x, b.like(x, 0))
        safe = b.select(zero, b.like(x, 1), x)
        return b.select(zero, b.like(x, 1), b.div(b.emit(top, (safe,))[0], safe))

    return slope


def _fresnel(part: str) -> Slope:
    def slope(b: Builder, xs: Values, y: Value) -> Value:
        (x,) = xs
        return b.emit(part, (_scaled(b, b.mul(x, x), math.pi / 2),))[0]

    return slope


def _legendre_k(b: Builder, xs: Values, y: Value) -> Value:
    """d/dm of ellipk: (E - (1 - m) K) / (2 m (1 - m)); pi / 8 at zero."""
    (m,) = xs
    zero = b.eq(m, b.like(m, 0))
    safe = b.select(zero, b.like(m, 0.5), m)
    rest = b.sub(b.like(m, 1), safe)
    top = b.sub(_call(b, "ellipe", safe), b.mul(rest, _call(b, "ellipk", safe)))
    return b.select(zero, b.like(m, math.pi / 8), b.div(top, _scaled(b, b.mul(safe, rest), 2)))


def _legendre_e(b: Builder, xs: Values, y: Value) -> Value:
    (m,) = xs
    zero = b.eq(m, b.like(m, 0))
    safe = b.select(zero, b.like(m, 0.5), m)
    top = b.sub(_call(b, "ellipe", safe), _call(b, "ellipk", safe))
    return b.select(zero, b.like(m, -math.pi / 8), b.div(top, _scaled(b, safe, 2)))


def _root(b: Builder, phi: Value, m: Value) -> Value:
    s = b.sin(phi)
    return b.sqrt(b.sub(b.like(m, 1), b.mul(m, b.mul(s, s))))


def _incomplete(b: Builder, xs: Values, sign: float) -> tuple[Value, Value, Value]:
    """Whether m is zero, m or 1/2 there, and the derivative at zero."""
    phi, m = xs
    zero = b.eq(m, b.like(m, 0))
    limit = _scaled(b, b.sub(_scaled(b, phi, 2), b.sin(_scaled(b, phi, 2))), sign / 8)
    return zero, b.select(zero, b.like(m, 0.5), m), limit


def _incomplete_k(b: Builder, xs: Values, y: Value) -> Value:
    """d/dm of ellipkinc: E / (2 m (1 - m)) - F / (2 m) - sin(2 phi) / (4 (1 - m) root)."""
    phi = xs[0]
    zero, m, limit = _incomplete(b, xs, 1)
    rest = b.sub(b.like(m, 1), m)
    first = b.div(_call(b, "ellipeinc", phi, m), _scaled(b, b.mul(m, rest), 2))
    second = b.div(_call(b, "ellipkinc", phi, m), _scaled(b, m, 2))
    third = b.div(b.sin(_scaled(b, phi, 2)), _scaled(b, b.mul(rest, _root(b, phi, m)), 4))
    return b.select(zero, limit, b.sub(b.sub(first, second), third))


def _incomplete_e(b: Builder, xs: Values, y: Value) -> Value:
    """d/dm of ellipeinc: (E - F) / (2 m)."""
    zero, m, limit = _incomplete(b, xs, -1)
    gap = b.sub(_call(b, "ellipeinc", xs[0], m), _call(b, "ellipkinc", xs[0], m))
    return b.select(zero, limit, b.div(gap, _scaled(b, m, 2)))


def _owens_h(b: Builder, xs: Values, y: Value) -> Value:
    h, a = xs
    bell = _scaled(b, b.exp(_scaled(b, b.mul(h, h), -0.5)), -0.5 / math.sqrt(2 * math.pi))
    return b.mul(bell, b.erf(_scaled(b, b.mul(a, h), math.sqrt(0.5))))


def _owens_a(b: Builder, xs: Values, y: Value) -> Value:
    h, a = xs
    wide = _shifted(b, b.mul(a, a), 1)
    return b.div(b.exp(_scaled(b, b.mul(b.mul(h, h), wide), -0.5)), _scaled(b, wide, 2 * math.pi))


# -- gamma and beta


def _gap(plus: int, minus: int | None) -> Slope:
    """y (digamma of the sum of two operands, or of one, less that of another)."""

    def slope(b: Builder, xs: Values, y: Value) -> Value:
        total = b.digamma(b.add(*xs)) if plus < 0 else b.digamma(xs[plus])
        return b.mul(y, total if minus is None else b.sub(total, b.digamma(xs[minus])))

    return slope


def _betaln(k: int) -> Slope:
    return lambda b, xs, y: b.sub(b.digamma(xs[k]), b.digamma(b.add(*xs)))


def _binom(k: int) -> Slope:
    def slope(b: Builder, xs: Values, y: Value) -> Value:
        n, chosen = xs
        rest = b.digamma(_shifted(b, b.sub(n, chosen), 1))
        whole = b.digamma(_shifted(b, n, 1)) if k == 0 else b.digamma(_shifted(b, chosen, 1))
        return b.mul(y, b.sub(whole, rest) if k == 0 else b.sub(rest, whole))

    return slope


def _rgamma(b: Builder, xs: Values, y: Value) -> Value:
    """-digamma(x) / gamma(x); at the poles -n of gamma it is (-1)**n n!."""
    (x,) = xs
    pole = b.bit_and(b.le(x, b.like(x, 0)), b.eq(x, b.floor(x)))
    safe = b.select(pole, b.like(x, 1), x)
    away = b.neg(b.mul(b.digamma(safe), b.select(pole, b.like(x, 1), y)))
    n = b.select(pole, b.neg(x), b.like(x, 0))
    odd = b.ne(b.mod(n, b.like(n, 2)), b.like(n, 0))
    whole = b.gamma(_shifted(b, n, 1))
    return b.select(pole, b.select(odd, b.neg(whole), whole), away)


_EXPREL = tuple((k + 1) / math.factorial(k + 2) for k in range(13))


def _exprel(b: Builder, xs: Values, y: Value) -> Value:
    """(x exp(x) - expm1(x)) / x**2, near zero by its series."""
    (x,) = xs
    near = b.lt(b.abs(x), b.like(x, 0.25))
    small, large = b.select(near, x, b.like(x, 0)), b.select(near, b.like(x, 1), x)
    series = b.like(x, _EXPREL[-1])
    for c in reversed(_EXPREL[:-1]):
        series = _shifted(b, b.mul(series, small), c)
    away = b.div(b.sub(b.exp(large), _call(b, "exprel", large)), large)
    return b.select(near, series, away)


def _inverse_gamma(sign: float) -> Slope:
    def slope(b: Builder, xs: Values, y: Value) -> Value:
        a, _ = xs
        log = b.add(b.add(y, b.lgamma(a)), b.mul(b.sub(b.like(a, 1), a), b.log(y)))
        return _scaled(b, b.exp(log), sign)

    return slope


def _same_level(b: Builder, xs: Values, y: Value) -> Value:
    """How a quantile of Gamma(a) moves with a."""
    return b.mul(y, log_gamma_slope(b, xs[0], b.log(y)))


def _inverse_beta(sign: float) -> Slope:
    def slope(b: Builder, xs: Values, y: Value) -> Value:
        p, q, _ = xs
        one = b.like(p, 1)
        powers = b.add(b.mul(b.sub(one, p), b.log(y)), b.mul(b.sub(one, q), b.log1p(b.neg(y))))
        return _scaled(b, b.exp(b.add(_call(b, "betaln", p, q), powers)), sign)

    return slope


def _same_beta_level(k: int) -> Slope:
    """How a quantile of Beta(p, q) moves with p (0) or q (1)."""

    def slope(b: Builder, xs: Values, y: Value) -> Value:
        p, q, _ = xs
        return b.neg(b.mul(beta_slopes(b, p, q, y)[k], _inverse_beta(1)(b, xs, y)))

    return slope


# -- hypergeometric functions and orthogonal polynomials


def _hypergeometric(name: str, upper: int, lower: int) -> Slope:
    """Product of the upper parameters by that of the lower ones, times the function with all of them one larger."""

    def slope(b: Builder, xs: Values, y: Value) -> Value:
        raised = [_shifted(b, p, 1) for p in xs[:-1]]
        value = _call(b, name, *raised, xs[-1])
        for k, p in enumerate(xs[: upper + lower]):
            value = b.mul(value, p) if k < upper else b.div(value, p)
        return value

    return slope


def _hyperu(b: Builder, xs: Values, y: Value) -> Value:
    a, c, x = xs
    return b.neg(b.mul(a, _call(b, "hyperu", _shifted(b, a, 1), _shifted(b, c, 1), x)))


def _lower_degree(
    name: str, factor: Callable[..., Value], raised: Sequence[float] = (), mirror: tuple[int, int] | None = None
) -> Slope:
    """factor times a polynomial of the degree n - 1; zero for n = 0.

    mirror: (s, k) where the polynomial of a degree n < 0 is s times that of -n - k.
    """

    def slope(b: Builder, xs: Values, y: Value) -> Value:
        n, *parameters, x = xs
        flipped = None
        if mirror is not None:
            flipped = b.lt(n, b.like(n, 0))
            n = b.select(flipped, b.neg(_shifted(b, n, mirror[1])), n)
        none = b.eq(n, b.like(n, 0))
        if mirror is not None and mirror[0] < 0:  # the polynomial that is its own opposite
            none = b.bit_or(none, b.eq(n, b.like(n, -mirror[1] / 2)))
        degree = b.select(none, b.like(n, 0), _shifted(b, n, -1))
        more = [_shifted(b, p, 1) for p in parameters] or [b.like(x, r) for r in raised]
        value = b.mul(factor(b, (n, *parameters, x)), _call(b, name, degree, *more, x))
        if flipped is not None and mirror is not None and mirror[0] < 0:
            value = b.select(flipped, b.neg(value), value)
        return b.select(none, b.like(x, 0), value)

    return slope


def _polynomials(form: str = "") -> dict[str, tuple[Slope | None, ...]]:
    """The polynomials that SciPy has in two forms, of any degree, and of whole ones, by recurrence (`WHOLE`)."""
    lower, doubled = _lower_degree, lambda b, xs: _scaled(b, xs[1], 2)
    two, minus = (lambda b, xs: b.like(xs[0], 2)), (lambda b, xs: b.like(xs[0], -1))
    half = lambda b, xs: _scaled(b, _shifted(b, xs[0], 1), 0.5)
    sum_half = lambda b, xs: _scaled(b, _shifted(b, b.add(xs[0], b.add(xs[1], xs[2])), 1), 0.5)
    slopes: dict[str, tuple[Slope | None, ...]] = {
        "chebyt": (None, lower(f"eval_chebyu{form}", lambda b, xs: xs[0])),
        "chebyu": (None, lower(f"eval_gegenbauer{form}", two, (2.0,), (-1, 2))),
        "laguerre": (None, lower(f"eval_genlaguerre{form}", minus, (1.0,))),
        "genlaguerre": (None, None, lower(f"eval_genlaguerre{form}", minus)),
        "legendre": (None, lower(f"eval_jacobi{form}", half, (1.0, 1.0), (1, 1))),
        "gegenbauer": (None, None, lower(f"eval_gegenbauer{form}", doubled)),
        "jacobi": (None, None, None, lower(f"eval_jacobi{form}", sum_half)),
    }
    return {f"eval_{name}{form}": slope for name, slope in slopes.items()}


def _trigonometric(name: str, factor: float) -> Slope:
    """A function of an angle in degrees."""
    return lambda b, xs, y: _scaled(b, _call(b, name, *xs), factor * math.pi / 180)


def _squared(sign: float) -> Slope:
    return lambda b, xs, y: _scaled(b, _shifted(b, b.mul(y, y), 1), sign * math.pi / 180)


def _one_less(b: Builder, x: Value, y: Value) -> Value:
    return b.sub(b.like(x, 1), _scaled(b, b.mul(x, y), 2))


def _struve(b: Builder, xs: Values, y: Value) -> Value:
    """H_(v-1) - v H_v / x."""
    v, x = xs
    return b.sub(_call(b, "struve", _shifted(b, v, -1), x), b.div(b.mul(v, y), x))


_MINUS: Slope = lambda b, xs, y: b.neg(b.mul(b.sign(xs[1]), y))

RULES: dict[str, Function] = {
    name: Function(slopes)
    for name, slopes in {
        "j0": (_named("j1", -1),), "j1": (_of_order_one("j0", 1, 0.5),),
        "y0": (_named("y1", -1),), "y1": (_of_order_one("y0", 1),),
        "k0": (_named("k1", -1),), "k1": (_of_order_one("k0", -1),),
        "k0e": (lambda b, xs, y: b.sub(y, _call(b, "k1e", *xs)),),
        "k1e": (lambda b, xs, y: b.add(y, _of_order_one("k0e", -1)(b, xs, y)),),
        "jv": (None, _order(0.5, -0.5, "jv")), "yv": (None, _order(0.5, -0.5, "yv")),
        "iv": (None, _order(0.5, 0.5, "iv")), "ive": (None, _order(0.5, 0.5, "ive", _MINUS)),
        "kv": (None, _order(-0.5, -0.5, "kv")), "kve": (None, _order(-0.5, -0.5, "kve", lambda b, xs, y: y)),
        "struve": (None, _struve),
        "expn": (None, _expn), "exp1": (lambda b, xs, y: _exponential(b, xs, y, -1.0),),
        "expi": (lambda b, xs, y: _exponential(b, xs, y, 1.0),),
        "spence": (_spence,), "dawsn": (lambda b, xs, y: _one_less(b, xs[0], y),),
        "erfi": (lambda b, xs, y: _scaled(b, b.exp(b.mul(xs[0], xs[0])), 2 / math.sqrt(math.pi)),),
        "owens_t": (_owens_h, _owens_a),
        "sici.0": (_quotient("sin"),), "sici.1": (lambda b, xs, y: b.div(b.cos(xs[0]), xs[0]),),
        "shichi.0": (_quotient("sinh"),), "shichi.1": (lambda b, xs, y: b.div(b.cosh(xs[0]), xs[0]),),
        "fresnel.0": (_fresnel("sin"),), "fresnel.1": (_fresnel("cos"),),
        "ellipk": (_legendre_k,), "ellipe": (_legendre_e,),
        "ellipkm1": (lambda b, xs, y: b.neg(_legendre_k(b, [b.sub(b.like(y, 1), xs[0])], y)),),
        "ellipkinc": (lambda b, xs, y: _inverse(b, _root(b, *xs)), _incomplete_k),
        "ellipeinc": (lambda b, xs, y: _root(b, *xs), _incomplete_e),
        "beta": (lambda b, xs, y: b.mul(y, _betaln(0)(b, xs, y)), lambda b, xs, y: b.mul(y, _betaln(1)(b, xs, y))),
        "betaln": (_betaln(0), _betaln(1)), "binom": (_binom(0), _binom(1)), "poch": (_gap(-1, 0), _gap(-1, None)),
        "rgamma": (_rgamma,), "gammasgn": (lambda b, xs, y: b.like(y, 0),), "exprel": (_exprel,),
        "loggamma": (lambda b, xs, y: b.digamma(xs[0]),),
        "gammaincinv": (_same_level, _inverse_gamma(1)), "gammainccinv": (_same_level, _inverse_gamma(-1)),
        "betaincinv": (_same_beta_level(0), _same_beta_level(1), _inverse_beta(1)),
        "betainccinv": (_same_beta_level(0), _same_beta_level(1), _inverse_beta(-1)),
        "hyp2f1": (None, None, None, _hypergeometric("hyp2f1", 2, 1)),
        "hyp1f1": (None, None, _hypergeometric("hyp1f1", 1, 1)), "hyp0f1": (None, _hypergeometric("hyp0f1", 0, 1)),
        "hyperu": (None, None, _hyperu),
        **_polynomials(), **_polynomials(WHOLE),
        "eval_hermite": (None, _lower_degree("eval_hermite", lambda b, xs: _scaled(b, xs[0], 2))),
        "eval_hermitenorm": (None, _lower_degree("eval_hermitenorm", lambda b, xs: xs[0])),
        "sindg": (_trigonometric("cosdg", 1),), "cosdg": (_trigonometric("sindg", -1),),
        "tandg": (_squared(1),), "cotdg": (_squared(-1),),
    }.items()
}  # fmt: skip


# -- the primitive


def _infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    if attrs["function"] not in RULES:
        raise VerifyError(f"scipy: there is no function {attrs['function']!r}")
    need_count("scipy", types, RULES[attrs["function"]].arity)
    need_dtype("scipy", types[0], FLOATS)
    need_same("scipy", types)
    return (types[0],)


def _evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    import scipy.special

    name, _, part = attrs["function"].partition(".")
    wide = [a.astype(np.float64) for a in arrays]
    if part == WHOLE[1:] or name in ("eval_hermite", "eval_hermitenorm"):
        wide[0] = wide[0].astype(np.int64)
    with np.errstate(all="ignore"):
        result: Any = getattr(scipy.special, name)(*wide)
        own = result[int(part)] if isinstance(result, tuple) else result
        return [exact(np.asarray(own).astype(arrays[0].dtype), arrays[0].dtype)]


def _jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    name = attrs["function"]
    terms: list[Maybe] = []
    for k, (t, slope) in enumerate(zip(tangents, RULES[name].slopes, strict=True)):
        if t is None:
            continue
        if slope is None:
            raise UnsupportedError(f"scipy.special.{name.partition('.')[0]} is not differentiable in its argument {k}")
        terms.append(b.mul(t, slope(b, primals, results[0])))
    return [summed_terms(b, terms)]


register(
    Primitive("scipy", "elementwise", _infer, _evaluate, _jvp, None, batch_all("scipy"), attrs=("function",))
)

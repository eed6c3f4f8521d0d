"""Owns the incomplete gamma and beta functions of vector mathematics: loops that go on until every lane has converged.

Errors are a few ulp for parameters up to some hundreds and grow with them, as those of a power do; the smaller of
gammainc and gammaincc may lose relative digits where it is taken as one less the other. f32 goes through f64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nufunc.codegen.vmath_builder import Math, V
from nufunc.codegen.vmath_exp import exp
from nufunc.codegen.vmath_gamma import gamma, lgamma, stirling
from nufunc.codegen.vmath_log import log, log1p, pow

_INF, _NAN = float("inf"), float("nan")
_EPS, _TINY, _MOST = 2.0**-53, 1e-290, 20_000.0
Step = Callable[[V, Sequence[V]], tuple[list[V], V]]


def _repeated(m: Math, active: V, state: Sequence[V], step: Step) -> list[V]:
    """`step(number, state)` gives the next state and which lanes go on; lanes that have stopped keep their values."""
    b = m.builder
    before = b.block
    head, after = b.append_basic_block("head"), b.append_basic_block("after")
    b.branch(head)
    b.position_at_end(head)
    carried = [active.value, m.like(state[0], 1.0).value, *(s.value for s in state)]
    phis = [b.phi(v.type) for v in carried]
    going, number, *old = (V(m, p) for p in phis)
    new, more = step(number, old)
    kept = [m.select(going, n, o) for n, o in zip(new, old, strict=True)]
    rest = going & more & (number < _MOST)
    following = [rest.value, (number + 1.0).value, *(k.value for k in kept)]
    for phi, first, later in zip(phis, carried, following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, b.block)
    b.cbranch(m.any(rest).value, head, after)
    b.position_at_end(after)
    return kept


def _away(m: Math, x: V) -> V:
    """x, but not zero."""
    return m.select(m.abs(x) < _TINY, _TINY, x)


def _gamma_weight(m: Math, a: V, x: V) -> V:
    """x**a exp(-x) / gamma(a + 1); for larger a as in Stirling's formula, around x = a."""
    small = pow(m, x, a) * exp(m, -x) / gamma(m, m.at_most(a, 3.0) + 1.0)
    mu = (x - a) / a
    far = exp(m, -(a * (mu - log1p(m, mu)) + stirling(m, a))) / m.sqrt(a * 6.283185307179586)
    return m.select(a < 2.5, small, far)


def _gamma_pair(m: Math, a: V, x: V) -> tuple[V, V]:
    """(gammainc, gammaincc): the power series up to x = a + 1, beyond it the continued fraction (Lentz)."""
    inside = (a > 0.0) & (x > 0.0) & (a < _INF) & (x < _INF)
    p, y = m.select(inside, a, 1.0), m.select(inside, x, 1.0)
    weight = _gamma_weight(m, p, y)
    by_series = y < p + 1.0

    def term(number: V, state: Sequence[V]) -> tuple[list[V], V]:
        last, total = state
        last = last * y / (p + number)
        return [last, total + last], last > total * _EPS

    one = m.like(p, 1.0)
    series = _repeated(m, by_series & inside, [one, one], term)[1] * weight

    def fraction(number: V, state: Sequence[V]) -> tuple[list[V], V]:
        c, d, h = state
        a_n = number * (p - number)
        b_n = y + 1.0 - p + 2.0 * number
        d = 1.0 / _away(m, m.fma(a_n, d, b_n))
        c = _away(m, b_n + a_n / c)
        ratio = c * d
        return [c, d, h * ratio], m.abs(ratio - 1.0) > 2 * _EPS

    first = 1.0 / _away(m, y + 1.0 - p)
    started = [m.like(p, 1.0 / _TINY), first, first]
    tail = _repeated(m, ~by_series & inside, started, fraction)[2] * weight * p
    lower, upper = m.select(by_series, series, 1.0 - tail), m.select(by_series, 1.0 - series, tail)
    bad = ~((a >= 0.0) & (x >= 0.0)) | (a.eq(0.0) & x.eq(0.0)) | (a.eq(_INF) & x.eq(_INF))
    full = (a.eq(0.0) | x.eq(_INF)) & ~a.eq(_INF)  # all of the distribution lies below x
    lower = m.select(inside, lower, m.select(bad, m.like(x, _NAN), m.select(full, one, 0.0)))
    upper = m.select(inside, upper, m.select(bad, m.like(x, _NAN), m.select(full, m.like(x, 0.0), 1.0)))
    return lower, upper


def gammainc(m: Math, a: V, x: V) -> V:
    return _wide(m, lambda a, x: _gamma_pair(m, a, x)[0], a, x)


def gammaincc(m: Math, a: V, x: V) -> V:
    return _wide(m, lambda a, x: _gamma_pair(m, a, x)[1], a, x)


def betainc(m: Math, a: V, b: V, x: V) -> V:
    return _wide(m, lambda a, b, x: _betainc(m, a, b, x), a, b, x)


def _wide(m: Math, function: Callable[..., V], *args: V) -> V:
    if args[0].format.name == "f64":
        return function(*args)
    return m.narrow(function(*(m.widen(a) for a in args)))


def _betainc(m: Math, a: V, b: V, x: V) -> V:
    """The continued fraction (Lentz) in x, or beyond the mean that in 1 - x of the exchanged parameters."""
    inside = (a > 0.0) & (b > 0.0) & (x > 0.0) & (x < 1.0) & (a < _INF) & (b < _INF)
    half = m.like(x, 0.5)
    p, q, y = m.select(inside, a, 1.0), m.select(inside, b, 1.0), m.select(inside, x, half)
    whole = p + q
    beta = (lgamma(m, p) + lgamma(m, q)) - lgamma(m, whole)
    weight = exp(m, (p * log(m, y) + q * log1p(m, -y)) - beta)
    turned = y > (p + 1.0) / (whole + 2.0)
    p, q = m.select(turned, q, p), m.select(turned, p, q)
    y = m.select(turned, 1.0 - y, y)

    def step(number: V, state: Sequence[V]) -> tuple[list[V], V]:
        c, d, h = state
        twice = p + 2.0 * number
        even = number * (q - number) * y / ((twice - 1.0) * twice)
        odd = -((p + number) * (whole + number) * y / (twice * (twice + 1.0)))
        for factor in (even, odd):
            d = 1.0 / _away(m, m.fma(factor, d, m.like(d, 1.0)))
            c = _away(m, 1.0 + factor / c)
            ratio = c * d
            h = h * ratio
        return [c, d, h], m.abs(ratio - 1.0) > 2 * _EPS

    first = 1.0 / _away(m, 1.0 - whole * y / (p + 1.0))
    value = _repeated(m, inside, [m.like(p, 1.0), first, first], step)[2] * weight / p
    value = m.select(turned, 1.0 - value, value)
    point = m.select(a.eq(0.0) | b.eq(_INF), m.like(x, 1.0), m.like(x, 0.0))  # all weight at one end
    edge = m.select(x.eq(0.0), m.like(x, 0.0), m.select(x.eq(1.0), m.like(x, 1.0), point))
    known = (a >= 0.0) & (b >= 0.0) & (a + b > 0.0) & ((a < _INF) | (b < _INF)) & (x >= 0.0) & (x <= 1.0)
    return m.select(inside, value, m.select(known, edge, _NAN))

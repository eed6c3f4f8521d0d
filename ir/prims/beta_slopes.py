"""Derivatives of the incomplete beta function in its parameters, by quadrature of the tail that is the smaller one.

Of I = I_x(a, b), the probability that t of Beta(a, b) is below x, the derivatives are

    dI/da = I (E[log t | t < x] - E[log t]),    dI/db = I (E[log(1 - t) | t < x] - E[log(1 - t)])

where E[log t] = digamma(a) - digamma(a + b). Above the mean the other tail serves, 1 - x with the parameters exchanged,
so that nothing is a small difference of large numbers. The conditional means are integrals over y = log(x / t) > 0,
whose density exp(-a y) (1 - x exp(-y))**(b - 1) falls from its largest value at y = 0; y is measured in the length over
which it falls by e (Newton's method, which converges from above as the exponent is convex), and the double exponential
rule of Takahasi and Mori for half-lines takes what integrable singularity b < 1 leaves near x = 1.
"""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Value

_STEPS = np.arange(-4.0, 4.2, 0.0625)
_NODES = np.exp(_STEPS - np.exp(-_STEPS))  # from 1e-25 to 60
_LOG_WEIGHTS = _STEPS - np.exp(-_STEPS) + np.log1p(np.exp(-_STEPS))
_NEWTON = 14


def beta_slopes(b: Builder, p: Value, q: Value, x: Value) -> tuple[Value, Value]:
    """dI/dp and dI/dq of betainc(p, q, x); zero at the ends of the interval, NaN outside."""
    wide, dtype = np.dtype(np.float64), x.dtype
    p, q, x = (b.astype(v, wide) for v in (p, q, x))
    one, half, zero = b.like(x, 1.0), b.like(x, 0.5), b.like(x, 0.0)
    inside = b.bit_and(b.bit_and(b.gt(x, zero), b.lt(x, one)), b.bit_and(b.gt(p, zero), b.gt(q, zero)))
    p, q, x_ = b.select(inside, p, one), b.select(inside, q, one), b.select(inside, x, half)
    turned = b.gt(b.mul(x_, b.add(p, q)), p)  # above the mean
    first, second = b.select(turned, q, p), b.select(turned, p, q)
    y = b.select(turned, b.sub(one, x_), x_)
    own, other = _tail(b, first, second, y)
    found = b.select(turned, b.neg(other), own), b.select(turned, b.neg(own), other)
    edge = b.select(b.bit_and(b.ge(x, zero), b.le(x, one)), zero, b.like(x, np.nan))
    slopes = [b.astype(b.select(inside, slope, edge), dtype) for slope in found]
    return slopes[0], slopes[1]


def _tail(b: Builder, p: Value, q: Value, x: Value) -> tuple[Value, Value]:
    """The derivatives of betainc(p, q, x) in p and q, for x not above the mean."""
    shape, count = x.shape, len(_NODES)
    log_x, log_rest = b.log(x), b.log1p(b.neg(x))
    length = _length(b, *(b.stop_gradient(v) for v in (p, q, x)))

    def spread(v: Value) -> Value:
        return b.broadcast(v, shape=(*shape, count), dims=tuple(range(len(shape))))

    def nodes(numbers: np.ndarray) -> Value:
        return b.broadcast(b.const(numbers), shape=(*shape, count), dims=(len(shape),))

    y = b.mul(spread(length), nodes(_NODES))
    rest = _log_rest(b, spread(x), y)  # log(1 - t)
    exponent = b.sub(b.mul(b.sub(spread(q), b.like(y, 1.0)), b.sub(rest, spread(log_rest))), b.mul(spread(p), y))
    weight = b.exp(b.add(exponent, nodes(_LOG_WEIGHTS)))
    axes = (len(shape),)
    total = b.reduce_sum(weight, axes=axes)
    mean_y = b.div(b.reduce_sum(b.mul(weight, y), axes=axes), total)
    mean_rest = b.div(b.reduce_sum(b.mul(weight, rest), axes=axes), total)
    both = b.digamma(b.add(p, q))
    tail = b.betainc(p, q, x)
    own = b.sub(b.sub(log_x, mean_y), b.sub(b.digamma(p), both))
    other = b.sub(mean_rest, b.sub(b.digamma(q), both))
    return b.mul(tail, own), b.mul(tail, other)


def _log_rest(b: Builder, x: Value, y: Value) -> Value:
    """log(1 - x exp(-y)), where x is near one too: 1 - x exp(-y) is (1 - x) - x expm1(-y)."""
    gap = b.sub(b.sub(b.like(x, 1.0), x), b.mul(x, b.expm1(b.neg(y))))
    small = b.lt(x, b.like(x, 0.5))
    near = b.log1p(b.neg(b.mul(b.select(small, x, b.like(x, 0.25)), b.exp(b.neg(y)))))
    return b.select(small, near, b.log(b.select(small, b.like(x, 1.0), gap)))


def _length(b: Builder, p: Value, q: Value, x: Value) -> Value:
    """Where p y - (q - 1) (log(1 - x exp(-y)) - log(1 - x)) is one, with q - 1 not below zero."""
    one = b.like(x, 1.0)
    more = b.maximum(b.sub(q, one), b.like(x, 0.0))
    rest = b.sub(one, x)
    y = b.div(one, b.maximum(b.sub(p, b.mul(more, b.div(x, rest))), b.mul(p, b.like(x, 1e-9))))
    for _ in range(_NEWTON):
        shrunk = b.mul(x, b.exp(b.neg(y)))
        gap = b.sub(b.sub(one, x), b.mul(x, b.expm1(b.neg(y))))  # 1 - x exp(-y)
        value = b.sub(b.mul(p, y), b.mul(more, b.log(b.div(gap, rest))))
        slope = b.sub(p, b.mul(more, b.div(shrunk, gap)))
        y = b.sub(y, b.div(b.sub(value, one), slope))
    return y

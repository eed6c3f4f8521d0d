"""Random bits and what differentiates samples: Threefry-2x32 on packed words, and the implicit derivative of gamma
variates.

threefry2x32(key, counter) holds each pair of 32-bit words as one u64, the first word in the upper half, so that it is
an ordinary elementwise primitive of one result. Its rounds and constants are those of Salmon, Moraes, Dror, Shaw:
Parallel random numbers: as easy as 1, 2, 3 (SC 2011), with 20 rounds.
"""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import (
    FLOATS,
    Arrays,
    Maybes,
    Regions,
    Types,
    Values,
    batch_all,
    need_count,
    need_dtype,
    need_same,
)
from nufunc.ir.types import ArrayType

WORD = np.dtype(np.uint64)
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA  # of the key schedule


def threefry2x32(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """20 rounds of Threefry-2x32 on u64 arrays that hold two words each."""
    half = np.uint64(32)
    high = lambda x: (x >> half).astype(np.uint32)
    low = lambda x: x.astype(np.uint32)
    k0, k1 = high(key), low(key)
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(PARITY))
    x, y = high(counter) + k0, low(counter) + k1
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            x = x + y
            y = x ^ (y << np.uint32(turn) | y >> np.uint32(32 - turn))
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x.astype(np.uint64) << half | y.astype(np.uint64)


def _threefry_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("threefry2x32", types, 2)
    need_same("threefry2x32", types)
    if types[0].dtype != WORD:
        raise DTypeError(f"threefry2x32 works on u64, not on {types[0]}")
    return (types[0],)


def _threefry_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    with np.errstate(over="ignore"):  # 0-d arrays warn of what arrays wrap silently
        return [np.asarray(threefry2x32(*arrays), WORD)]


register(
    Primitive(
        "threefry2x32", "elementwise", _threefry_infer, _threefry_evaluate, batch=batch_all("threefry2x32"),
        differentiable=False,
    )
)  # fmt: skip


# -- gamma variates
#
# Note [Implicit derivative]: a sample x of Gamma(a) moves with a so that its level P(a, x) of the distribution stays:
# dx/da = -(dP/da) / p(x). With p(t) ~ t**(a-1) exp(-t), and t = x exp(-s y), the integral over the side of the
# distribution on which x is a tail (s = 1 below the mean, -1 above) becomes
#     d log x / da = integral over y > 0 of (y + s (digamma(a) - log x)) exp(-s a y - x expm1(-s y)),
# whose integrand has its maximum or its only decay at y = 0. It is summed by the trapezoidal rule after the
# substitution y = length * exp(v - exp(-v)), in which the rule converges exponentially.

_STEP = 1 / 16
_PLACES = np.arange(-3.5, 4.5, _STEP)
_NODES = np.exp(_PLACES - np.exp(-_PLACES))
_WEIGHTS = _STEP * _NODES * (1 + np.exp(-_PLACES))


def log_gamma_slope(b: Builder, a: Value, log_x: Value) -> Value:
    """d log x / da of a sample x of Gamma(a); in double precision for both dtypes."""
    wide = np.dtype(np.float64)
    dtype, a, log_x = a.dtype, b.astype(a, wide), b.astype(log_x, wide)
    one, x = b.like(a, 1.0), b.exp(log_x)
    below = b.le(x, a)
    sign = b.select(below, one, b.neg(one))
    rate = b.add(b.abs(b.sub(a, x)), b.sqrt(x))
    # below, the integrand decays like exp(-a y) at least in the end; above, all is over where x exp(y) is large
    other = b.select(below, a, b.div(one, b.add(one, b.log1p(b.exp(b.neg(log_x))))))
    fastest = b.select(below, b.minimum(rate, other), b.maximum(rate, other))
    length = b.div(one, fastest)
    shift = b.mul(sign, b.sub(b.digamma(a), log_x))
    shape, count = a.shape, len(_NODES)

    def spread(v: Value) -> Value:
        return b.broadcast(v, shape=(*shape, count), dims=tuple(range(len(shape))))

    def nodes(numbers: np.ndarray) -> Value:
        return b.broadcast(b.const(numbers), shape=(*shape, count), dims=(len(shape),))

    side, far = spread(sign), spread(length)
    turned = b.mul(side, b.mul(far, nodes(_NODES)))
    exponent = b.neg(b.add(b.mul(spread(a), turned), b.mul(spread(x), b.expm1(b.neg(turned)))))
    term = b.mul(b.add(b.mul(far, nodes(_NODES)), spread(shift)), b.exp(exponent))
    total = b.reduce_sum(b.mul(term, nodes(_WEIGHTS)), axes=(len(shape),))
    return b.astype(b.mul(length, total), dtype)


def _sample_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("gamma_sample", types, 2)
    need_dtype("gamma_sample", types[0], FLOATS)
    need_same("gamma_sample", types)
    return (types[1],)


def _sample_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    return [np.array(arrays[1])]


def _sample_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> Maybes:
    (a, _), (t, _) = primals, tangents
    if t is None:
        return [None]
    (sample,) = results  # not the operand: this one moves with a, in derivatives of the derivative
    if attrs["log"]:
        return [b.mul(t, log_gamma_slope(b, a, sample))]
    return [b.mul(t, b.mul(sample, log_gamma_slope(b, a, b.log(sample))))]


register(
    Primitive(
        "gamma_sample", "elementwise", _sample_infer, _sample_evaluate, _sample_jvp, batch=batch_all("gamma_sample"),
        attrs=("log",), cheap=True,
    )
)  # fmt: skip

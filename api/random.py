"""nf.random: random numbers from explicit keys, the same bits in every way of running them.

A key is an array uint32[2]; it can be mapped, stacked, carried through loops and saved like any other. The generator
is Threefry-2x32 in counter mode: element i of a draw depends on the key and on i alone, so that a loop, a vmap, chunks
of it, threads and devices give the same numbers. Keys, bits and what is computed from them without logarithms equal
those of `jax.random` (with 64-bit types, partitionable keys) bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentTypeError
from nufunc.ir.types import DTYPE_NAMES, kind_of
from nufunc.runtime.function import Transformed
from nufunc.tracer import random_core as core
from nufunc.tracer import random_rejection as rejection
from nufunc.tracer.np_core import normal_shape
from nufunc.tracer.trace import current
from nufunc.tracer.usercode import user_location

__all__ = [
    "bernoulli", "beta", "bits", "categorical", "cauchy", "choice", "dirichlet", "exponential", "fold_in", "gamma",
    "gumbel", "key", "laplace", "loggamma", "logistic", "normal", "permutation", "poisson", "rademacher", "randint",
    "split", "truncated_normal", "uniform",
]  # fmt: skip

Shape = int | Sequence[int]


def _run(function: Callable[..., Any], *args: Any) -> Any:
    """Inside a traced function, append to its graph; outside, compile for these shapes and run."""
    return function(*args) if current() is not None else _compiled(function)(*args)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Transformed:
    return Transformed((), function)


def _dtype(dtype: Any, kinds: str, what: str) -> np.dtype:
    found = np.dtype(dtype)
    if found.kind not in kinds or (kind_of(found) in "fc" and (found not in DTYPE_NAMES or found.itemsize < 4)):
        raise ArgumentTypeError(f"random.{what}: dtype {found} cannot be drawn", user_location())
    return found


def _integer(x: Any) -> Any:
    """A Python int as a run-time number, so that other ints need no other compilation."""
    if isinstance(x, int) and not isinstance(x, bool):
        return np.int64(x) if x < 2**63 else np.uint64(x)
    return x


def _shape(shape: Shape | None) -> tuple[int, ...] | None:
    return None if shape is None else normal_shape(shape)


# -- keys


def key(seed: Any) -> Any:
    """A key from an integer seed: its upper and lower 32 bits, uint32[2].

    >>> import nufunc as nf
    >>> nf.random.key(7)
    array([0, 7], dtype=uint32)
    """
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        number = int(seed)
        if not -(2**63) <= number < 2**64:
            raise OverflowError(f"random.key: the seed {number} does not fit 64 bits")
        words = np.array([number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF], np.uint32)
        trace = current()
        return words if trace is None else trace.constant(words)
    return _run(core.key, seed)


def split(key: Any, num: Shape = 2) -> Any:
    """`num` new keys from one, uint32[num, 2] (or of a shape, uint32[*num, 2]).

    >>> import nufunc as nf
    >>> nf.random.split(nf.random.key(0), 3).shape
    (3, 2)
    """
    return _run(core.split, key, normal_shape(num))


def fold_in(key: Any, data: Any) -> Any:
    """A new key from a key and an integer (its low 32 bits): one per step, layer or lane."""
    if isinstance(data, int) and not isinstance(data, bool):
        data = np.uint32(data)
    return _run(core.fold_in, key, data)


# -- bits and uniform numbers


def bits(key: Any, shape: Shape = (), dtype: Any = np.uint64) -> Any:
    """Uniform bits as unsigned integers."""
    return _run(core.bits, key, normal_shape(shape), _dtype(dtype, "u", "bits"))


def uniform(key: Any, shape: Shape = (), dtype: Any = np.float64, minval: Any = 0.0, maxval: Any = 1.0) -> Any:
    """Uniform numbers minval <= u < maxval, with 52 (float64) or 23 (float32) random bits. Differentiable in both.

    >>> import nufunc as nf
    >>> nf.random.uniform(nf.random.key(0))
    np.float64(0.41845711171638644)
    """
    return _run(core.uniform, key, normal_shape(shape), _dtype(dtype, "f", "uniform"), minval, maxval)


def bernoulli(key: Any, p: Any = 0.5, shape: Shape | None = None) -> Any:
    """True with probability p, as bools of `shape` (default: p's)."""
    return _run(core.bernoulli, key, p, _shape(shape))


def randint(key: Any, shape: Shape, minval: Any, maxval: Any, dtype: Any = np.int64) -> Any:
    """Integers minval <= n < maxval."""
    found = _dtype(dtype, "iu", "randint")
    return _run(core.randint, key, normal_shape(shape), _integer(minval), _integer(maxval), found)


def rademacher(key: Any, shape: Shape = (), dtype: Any = np.int64) -> Any:
    """-1 or 1, equally likely."""
    return _run(core.rademacher, key, normal_shape(shape), _dtype(dtype, "if", "rademacher"))


def permutation(key: Any, x: Any, axis: int = 0, independent: bool = False) -> Any:
    """x (or arange(x) for an int) in random order along an axis; `independent`: each row in an order of its own."""
    return _run(core.permutation, key, x, axis, independent)


def choice(key: Any, a: Any, shape: Shape = (), replace: bool = True, p: Any = None, axis: int = 0) -> Any:
    """Items of a along an axis (or of arange(a)), with or without replacement, with probabilities p where given."""
    return _run(core.choice, key, a, normal_shape(shape), replace, p, axis)


# -- continuous distributions


def normal(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Standard normal numbers; of a complex dtype with variance 1 in all.

    >>> import nufunc as nf
    >>> nf.random.normal(nf.random.key(0), (2,)).shape
    (2,)
    """
    return _run(core.normal, key, normal_shape(shape), _dtype(dtype, "fc", "normal"))


def truncated_normal(
    key: Any, lower: Any, upper: Any, shape: Shape | None = None, dtype: Any = np.float64
) -> Any:
    """Standard normal numbers on the condition lower < x < upper."""
    return _run(core.truncated_normal, key, lower, upper, _shape(shape), _dtype(dtype, "f", "truncated_normal"))


def exponential(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Exponential numbers of mean 1."""
    return _run(core.exponential, key, normal_shape(shape), _dtype(dtype, "f", "exponential"))


def gumbel(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Gumbel numbers: -log(-log(u))."""
    return _run(core.gumbel, key, normal_shape(shape), _dtype(dtype, "f", "gumbel"))


def laplace(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Laplace (two-sided exponential) numbers."""
    return _run(core.laplace, key, normal_shape(shape), _dtype(dtype, "f", "laplace"))


def logistic(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Logistic numbers: log(u / (1 - u))."""
    return _run(core.logistic, key, normal_shape(shape), _dtype(dtype, "f", "logistic"))


def cauchy(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Cauchy numbers."""
    return _run(core.cauchy, key, normal_shape(shape), _dtype(dtype, "f", "cauchy"))


def categorical(key: Any, logits: Any, axis: int = -1, shape: Shape | None = None, replace: bool = True) -> Any:
    """Indices along an axis, with probabilities softmax(logits). `shape` ends with that of logits without the axis."""
    return _run(core.categorical, key, logits, axis, _shape(shape), replace)


def gamma(key: Any, a: Any, shape: Shape | None = None, dtype: Any = np.float64) -> Any:
    """Gamma(a) numbers of scale 1. The derivative in a is that of a sample at a fixed level of the distribution."""
    return _run(rejection.gamma, key, a, _shape(shape), _dtype(dtype, "f", "gamma"), False)


def loggamma(key: Any, a: Any, shape: Shape | None = None, dtype: Any = np.float64) -> Any:
    """Logarithms of Gamma(a) numbers, which do not underflow where a is small."""
    return _run(rejection.gamma, key, a, _shape(shape), _dtype(dtype, "f", "loggamma"), True)


def beta(key: Any, a: Any, b: Any, shape: Shape | None = None, dtype: Any = np.float64) -> Any:
    """Beta(a, b) numbers, differentiable in a and b."""
    return _run(rejection.beta, key, a, b, _shape(shape), _dtype(dtype, "f", "beta"))


def dirichlet(key: Any, alpha: Any, shape: Shape | None = None, dtype: Any = np.float64) -> Any:
    """Points of a simplex, of shape (*shape, n) for alpha[..., n]; differentiable in alpha."""
    return _run(rejection.dirichlet, key, alpha, _shape(shape), _dtype(dtype, "f", "dirichlet"))


def poisson(key: Any, lam: Any, shape: Shape | None = None, dtype: Any = np.int64) -> Any:
    """Poisson numbers of mean lam; -1 where lam is negative, NaN or too large for the dtype."""
    return _run(rejection.poisson, key, lam, _shape(shape), _dtype(dtype, "i", "poisson"))

"""Random numbers by rejection: gamma and what comes from it, and Poisson. Each element runs loops of its own, with a
key of its own, so that how many rounds one takes changes no other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as onp

from nufunc.ir.errors import ShapeError
from nufunc.tracer import control
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, builder, fail, value_of, wrap
from nufunc.tracer.np_namespace import numpy as np
from nufunc.tracer.random_core import Shape, exponential_of, floats, halves, normal_of, packed, shape_of, words


def _each(one: Any, key: Array, parameter: Array) -> Array:
    """one(key, parameter) for each element of `parameter`."""
    shape = parameter.shape
    flat = parameter.reshape(-1)
    drawn: Array = control.map(lambda pair: one(*pair), (words(key, flat.shape), flat))
    return drawn.reshape(shape) if shape else drawn[0]


# -- gamma


def _log_gamma(key: Array, a: Array, log: bool) -> Array:
    """Marsaglia and Tsang: A simple method for generating gamma variables (2000); below a = 1 by a power of a uniform
    number times a sample for a + 1."""
    number = a.dtype.type
    large = a >= number(1)
    d = np.where(large, a, a + number(1)) - number(1 / 3)
    c = number(1 / 3) / np.sqrt(d)

    def rejected(state: tuple[Array, ...]) -> Array:
        _, square, v, u = state
        sure = u < 1 - number(0.0331) * square * square
        return ~sure & (np.log(u) >= square / 2 + d * (1 - v + np.log(v)))

    def attempt(state: tuple[Array, ...]) -> tuple[Array, ...]:
        key, part, of_u = halves(state[0], 3)

        def normal(inner: tuple[Array, ...]) -> tuple[Array, ...]:
            key, use = halves(inner[0], 2)
            x = normal_of(use, (), a.dtype)
            return key, x, 1 + x * c

        _, x, v = control.while_loop(lambda s: s[2] <= 0, normal, (part, number(0), number(-1)))
        return key, x * x, v * v * v, floats(of_u, (), a.dtype)

    key, part = halves(key, 2)
    v = control.while_loop(rejected, attempt, (key, number(0), number(1), number(2)))[2]
    if log:
        power = np.where(large, 0, -exponential_of(part, (), a.dtype) / a)
        return np.log(d) + np.log(v) + power
    power = np.where(large, 1, (1 - floats(part, (), a.dtype)) ** (1 / a))
    return d * v * power


def gamma(key: Any, a: Any, shape: Shape | None, dtype: onp.dtype, log: bool) -> Array:
    return _gamma(packed(key), a, shape_of(shape, a), dtype, log)


def _gamma(key: Array, a: Any, shape: Shape, dtype: onp.dtype, log: bool) -> Array:
    wide = np.broadcast_to(as_array(a).astype(dtype), shape)
    b = builder()
    held = wrap(b.stop_gradient(value_of(wide)), scalar=not shape)
    drawn = _each(lambda k, x: _log_gamma(k, x, log), key, held)
    b = builder()
    return wrap(b.emit("gamma_sample", (value_of(wide), value_of(drawn)), {"log": log})[0], scalar=not shape)


def beta(key: Any, a: Any, b: Any, shape: Shape | None, dtype: onp.dtype) -> Array:
    shape = shape_of(shape, a, b)
    first, second = halves(packed(key), 2)
    x, y = _gamma(first, a, shape, dtype, True), _gamma(second, b, shape, dtype, True)
    greatest = np.maximum(x, y)
    x, y = np.exp(x - greatest), np.exp(y - greatest)
    return x / (x + y)


def dirichlet(key: Any, alpha: Any, shape: Shape | None, dtype: onp.dtype) -> Array:
    array = as_array(alpha)
    if not array.ndim:
        raise fail(ShapeError, "random.dirichlet: alpha needs an axis")
    rest = array[..., 0]
    logs = _gamma(packed(key), array, (*shape_of(shape, rest), array.shape[-1]), dtype, True)
    weights = np.exp(logs - np.max(logs, axis=-1, keepdims=True))
    return weights / np.sum(weights, axis=-1, keepdims=True)


# -- Poisson


def _product(key: Array, lam: Array) -> Array:
    """Knuth: as many uniform numbers as their product stays above exp(-lam)."""

    def more(state: tuple[Array, ...]) -> tuple[Array, ...]:
        key, part = halves(state[0], 2)
        return key, state[1] + 1, state[2] + np.log1p(-floats(part, (), lam.dtype))

    count = control.while_loop(lambda s: s[2] > -lam, more, (key, onp.float64(0), onp.float64(0)))[1]
    return np.maximum(count - 1, 0)


def _transformed(key: Array, lam: Array) -> Array:
    """Hormann: The transformed rejection method for generating Poisson random variables (1993), PTRS; lam >= 10."""
    log_lam = np.log(lam)
    b = 0.931 + 2.53 * np.sqrt(lam)
    a = -0.059 + 0.02483 * b
    inverse = 1.1239 + 1.1328 / (b - 3.4)
    bound = 0.9277 - 3.6224 / (b - 2)

    def attempt(state: tuple[Array, ...]) -> tuple[Array, ...]:
        key, of_u, of_v = halves(state[0], 3)
        u, v = floats(of_u, (), lam.dtype) - 0.5, 1 - floats(of_v, (), lam.dtype)
        us = 0.5 - np.abs(u)
        k = np.floor((2 * a / us + b) * u + lam + 0.43)
        left = np.log(v * inverse / (a / (us * us) + b))
        w = builder()
        log_factorial = wrap(w.lgamma(value_of(k + 1)), scalar=True)
        sure = (us >= 0.07) & (v <= bound)
        refused = (k < 0) | ((us < 0.013) & (v > us))
        return key, k, sure | (~refused & (left <= k * log_lam - lam - log_factorial))

    return control.while_loop(lambda s: ~s[2], attempt, (key, onp.float64(0), onp.bool_(False)))[1]


def _poisson(key: Array, lam: Array, most: float) -> Array:
    valid = (lam >= 0) & (lam <= most)
    mean = np.where(valid, lam, 0)
    drawn = control.cond(
        mean < 10, lambda: _product(key, np.minimum(mean, 10)), lambda: _transformed(key, np.maximum(mean, 10))
    )
    return np.where(valid, drawn, -1)


def poisson(key: Any, lam: Any, shape: Shape | None, dtype: onp.dtype) -> Array:
    shape = shape_of(shape, lam)
    mean = np.broadcast_to(as_array(lam).astype(onp.dtype(onp.float64)), shape)
    greatest = onp.iinfo(dtype).max
    most = float(greatest - 10 * math.sqrt(greatest))  # ten standard deviations below what the dtype holds
    return _each(lambda k, x: _poisson(k, x, most), packed(key), mean).astype(dtype)

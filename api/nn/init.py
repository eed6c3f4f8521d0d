"""Initial values of parameters, with torch's schemes and defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.types import dtype_from

_STATE: dict[str, Any] = {"generator": np.random.default_rng(), "dtype": np.dtype(np.float32)}


def manual_seed(seed: int) -> None:
    """Make the initial values of the layers that follow reproducible.

    >>> import numpy as np, nufunc as nf
    >>> nf.nn.init.manual_seed(0)
    >>> first = nf.nn.Linear(2, 2).weight
    >>> nf.nn.init.manual_seed(0)
    >>> bool((nf.nn.Linear(2, 2).weight == first).all())
    True
    """
    _STATE["generator"] = np.random.default_rng(seed)


def set_default_dtype(dtype: Any) -> None:
    """The dtype of parameters of layers that are given none: float32 at first, as in torch."""
    _STATE["dtype"] = dtype_from(dtype)


def default_dtype(dtype: Any = None) -> np.dtype:
    """A dtype, or the default."""
    return dtype_from(_STATE["dtype"] if dtype is None else dtype)


def uniform(shape: Sequence[int], low: float = 0.0, high: float = 1.0, dtype: Any = None) -> np.ndarray:
    """Uniform in [low, high)."""
    values: np.ndarray = _STATE["generator"].uniform(low, high, tuple(shape))
    return values.astype(default_dtype(dtype))


def normal(shape: Sequence[int], mean: float = 0.0, std: float = 1.0, dtype: Any = None) -> np.ndarray:
    """Normally distributed."""
    values: np.ndarray = _STATE["generator"].normal(mean, std, tuple(shape))
    return values.astype(default_dtype(dtype))


def constant(shape: Sequence[int], value: float, dtype: Any = None) -> np.ndarray:
    """One value everywhere."""
    return np.full(tuple(shape), value, default_dtype(dtype))


def zeros(shape: Sequence[int], dtype: Any = None) -> np.ndarray:
    """Zeros."""
    return constant(shape, 0.0, dtype)


def ones(shape: Sequence[int], dtype: Any = None) -> np.ndarray:
    """Ones."""
    return constant(shape, 1.0, dtype)


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of shape (out, in, ...): the numbers of connections of an output and of an input.
    """
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def fan_in_uniform(shape: Sequence[int], fan_in: int, dtype: Any = None) -> np.ndarray:
    """Uniform in +-1 / sqrt(fan_in): torch's biases."""
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
    return uniform(shape, -bound, bound, dtype)


def gain(nonlinearity: str, a: float = 0.0) -> float:
    """The factor by which a nonlinearity's weights are larger than a linear layer's (He et al. 2015); `a` is the slope
    of leaky_relu.
    """
    table = {
        "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3,
        "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + a**2)), "selu": 0.75,
    }  # fmt: skip
    return table[nonlinearity]


def kaiming_uniform(
    shape: Sequence[int], a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", dtype: Any = None
) -> np.ndarray:
    """Uniform with the variance of He et al. 2015."""
    bound = gain(nonlinearity, a) * math.sqrt(3 / max(fans(shape)[mode == "fan_out"], 1))
    return uniform(shape, -bound, bound, dtype)


def kaiming_normal(
    shape: Sequence[int], a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", dtype: Any = None
) -> np.ndarray:
    """Normal with the variance of He et al. 2015."""
    return normal(shape, 0.0, gain(nonlinearity, a) / math.sqrt(max(fans(shape)[mode == "fan_out"], 1)), dtype)


def xavier_uniform(shape: Sequence[int], gain: float = 1.0, dtype: Any = None) -> np.ndarray:
    """Uniform with the variance of Glorot and Bengio 2010."""
    bound = gain * math.sqrt(6 / sum(fans(shape)))
    return uniform(shape, -bound, bound, dtype)


def xavier_normal(shape: Sequence[int], gain: float = 1.0, dtype: Any = None) -> np.ndarray:
    """Normal with the variance of Glorot and Bengio 2010."""
    return normal(shape, 0.0, gain * math.sqrt(2 / sum(fans(shape))), dtype)


def orthogonal(shape: Sequence[int], gain: float = 1.0, dtype: Any = None) -> np.ndarray:
    """Rows (or columns, where there are more rows) orthonormal times `gain` (Saxe et al. 2013)."""
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(_STATE["generator"].normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diagonal(r))
    return (gain * (q.T if rows < columns else q)).reshape(tuple(shape)).astype(default_dtype(dtype))

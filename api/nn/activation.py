"""Activation functions, and the layers that apply them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from nufunc.nn import init
from nufunc.nn.module import Module, Parameter
from nufunc.nn.single import in_single

__nufunc_traceable__ = True

# -- functions of arrays of any shape, elementwise unless said


def relu(x: Any) -> Any:
    """max(x, 0); the derivative at 0 is 0."""
    return np.where(x > 0, x, np.zeros_like(x))


def relu6(x: Any) -> Any:
    """min(max(x, 0), 6)."""
    return hardtanh(x, 0.0, 6.0)


def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """x between min_val and max_val; the derivative is 0 outside and at the bounds."""
    inside = np.where(x > min_val, x, np.full_like(x, min_val))
    return np.where(inside < max_val, inside, np.full_like(x, max_val))


def tanh(x: Any) -> Any:
    """tanh(x)."""
    return np.tanh(x)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """x where x > 0, else negative_slope * x."""
    return np.where(x > 0, x, x * negative_slope)


def prelu(x: Any, weight: Any) -> Any:
    """leaky_relu with a slope for all channels, or one for each channel on axis 1 (the last one of a vector)."""
    if np.size(weight) > 1 and np.ndim(x) > 1:
        weight = np.reshape(weight, (np.size(weight), *(1,) * (np.ndim(x) - 2)))
    return np.where(x > 0, x, weight * x)


@in_single
def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, np.expm1(np.where(x > 0, np.zeros_like(x), x)) * alpha)


@in_single
def selu(x: Any) -> Any:
    """The self-normalising exponential unit (Klambauer et al. 2017)."""
    return elu(x, 1.6732632423543772) * 1.0507009873554805


@in_single
def celu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else alpha * (exp(x / alpha) - 1)."""
    return np.where(x > 0, x, np.expm1(np.where(x > 0, np.zeros_like(x), x) / alpha) * alpha)


@in_single
def gelu(x: Any, approximate: str = "none") -> Any:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016), or its form with "tanh"."""
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + special.erf(x * math.sqrt(0.5)))


@in_single
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return special.expit(x)


def logsigmoid(x: Any) -> Any:
    """log(sigmoid(x)), accurate for large |x|."""
    return -softplus(-x)


@in_single
def silu(x: Any) -> Any:
    """x * sigmoid(x)."""
    return x * special.expit(x)


@in_single
def mish(x: Any) -> Any:
    """x * tanh(log(1 + exp(x)))."""
    return x * np.tanh(softplus(x))


@in_single
def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""
    scaled = x * beta
    return np.where(scaled > threshold, x, np.logaddexp(scaled, np.zeros_like(scaled)) / beta)


@in_single
def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    return x / (1 + np.abs(x))


@in_single
def tanhshrink(x: Any) -> Any:
    """x - tanh(x)."""
    return x - np.tanh(x)


def hardshrink(x: Any, lambd: float = 0.5) -> Any:
    """x where |x| > lambd, else 0."""
    return np.where(np.abs(x) > lambd, x, np.zeros_like(x))


def softshrink(x: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by lambd, and 0 between."""
    return np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, np.zeros_like(x)))


def hardsigmoid(x: Any) -> Any:
    """relu6(x + 3) / 6."""
    return relu6(x + 3) / 6


def hardswish(x: Any) -> Any:
    """x * relu6(x + 3) / 6."""
    return x * relu6(x + 3) / 6


def threshold(x: Any, threshold: float, value: float) -> Any:
    """x where x > threshold, else value."""
    return np.where(x > threshold, x, np.full_like(x, value))


@in_single
def softmax(x: Any, dim: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along an axis."""
    e = np.exp(x - np.max(x, axis=dim, keepdims=True))
    return e / np.sum(e, axis=dim, keepdims=True)


def softmin(x: Any, dim: int = -1) -> Any:
    """softmax(-x)."""
    return softmax(-x, dim)


@in_single
def log_softmax(x: Any, dim: int = -1) -> Any:
    """log(softmax(x)) along an axis."""
    shifted = x - np.max(x, axis=dim, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=dim, keepdims=True))


@in_single
def glu(x: Any, dim: int = -1) -> Any:
    """The first half of an axis times the sigmoid of the second."""
    first, second = np.split(x, 2, axis=dim)
    return first * special.expit(second)


# -- layers


class ReLU(Module):
    """See `functional.relu`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return relu(x)


class ReLU6(Module):
    """See `functional.relu6`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return relu6(x)


class Hardtanh(Module):
    """See `functional.hardtanh`."""

    __constants__ = ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Any) -> Any:
        return hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class LeakyReLU(Module):
    """See `functional.leaky_relu`."""

    __constants__ = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        return leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """`functional.prelu` with a slope that is learned: weight of shape (num_parameters,)."""

    def __init__(self, num_parameters: int = 1, init_value: float = 0.25, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(init.constant((num_parameters,), init_value, dtype))

    def forward(self, x: Any) -> Any:
        return prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """See `functional.elu`."""

    __constants__ = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        return elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class SELU(Module):
    """See `functional.selu`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return selu(x)


class CELU(Module):
    """See `functional.celu`."""

    __constants__ = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        return celu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class GELU(Module):
    """See `functional.gelu`."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        return gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Sigmoid(Module):
    """See `functional.sigmoid`."""

    def forward(self, x: Any) -> Any:
        return sigmoid(x)


class LogSigmoid(Module):
    """See `functional.logsigmoid`."""

    def forward(self, x: Any) -> Any:
        return logsigmoid(x)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, x: Any) -> Any:
        return np.tanh(x)


class SiLU(Module):
    """See `functional.silu`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return silu(x)


class Mish(Module):
    """See `functional.mish`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return mish(x)


class Softplus(Module):
    """See `functional.softplus`."""

    __constants__ = ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Any) -> Any:
        return softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softsign(Module):
    """See `functional.softsign`."""

    def forward(self, x: Any) -> Any:
        return softsign(x)


class Tanhshrink(Module):
    """See `functional.tanhshrink`."""

    def forward(self, x: Any) -> Any:
        return tanhshrink(x)


class Hardshrink(Module):
    """See `functional.hardshrink`."""

    __constants__ = ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, x: Any) -> Any:
        return hardshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Softshrink(Module):
    """See `functional.softshrink`."""

    __constants__ = ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, x: Any) -> Any:
        return softshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Hardsigmoid(Module):
    """See `functional.hardsigmoid`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return hardsigmoid(x)


class Hardswish(Module):
    """See `functional.hardswish`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return hardswish(x)


class Threshold(Module):
    """See `functional.threshold`."""

    __constants__ = ("threshold", "value")

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold, self.value = threshold, value

    def forward(self, x: Any) -> Any:
        return threshold(x, self.threshold, self.value)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"


class Softmax(Module):
    """See `functional.softmax`."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmin(Softmax):
    """See `functional.softmin`."""

    def forward(self, x: Any) -> Any:
        return softmin(x, self.dim)


class LogSoftmax(Softmax):
    """See `functional.log_softmax`."""

    def forward(self, x: Any) -> Any:
        return log_softmax(x, self.dim)


class GLU(Softmax):
    """See `functional.glu`."""

    def forward(self, x: Any) -> Any:
        return glu(x, self.dim)

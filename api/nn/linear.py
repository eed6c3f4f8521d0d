"""Linear and Bilinear layers, and the identity."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.nn import init
from nufunc.nn.module import Module, Parameter

__nufunc_traceable__ = True


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x @ weight.T + bias over the last axis."""
    y = x @ weight.T
    return y if bias is None else y + bias


def bilinear(x1: Any, x2: Any, weight: Any, bias: Any = None) -> Any:
    """y[k] = x1 @ weight[k] @ x2 + bias[k] over the last axes."""
    y = np.einsum("...i,kij,...j->...k", x1, weight, x2)
    return y if bias is None else y + bias


class Identity(Module):
    """The argument itself, whatever the layer is made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Linear(Module):
    """y = x @ weight.T + bias over the last axis: (..., in_features) -> (..., out_features).

    weight : (out_features, in_features), bias : (out_features,), both uniform in +-1 / sqrt(in_features) as in torch.

    >>> import numpy as np, nufunc as nf
    >>> nf.nn.Linear(3, 2)(np.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(init.kaiming_uniform((out_features, in_features), a=5**0.5, dtype=dtype))
        made = Parameter(init.fan_in_uniform((out_features,), in_features, dtype)) if bias else None
        self.register_parameter("bias", made)

    def forward(self, x: Any) -> Any:
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """y[k] = x1 @ weight[k] @ x2 + bias[k] over the last axes.

    weight : (out_features, in1_features, in2_features), bias : (out_features,).
    """

    def __init__(
        self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        shape = (out_features, in1_features, in2_features)
        self.weight = Parameter(init.fan_in_uniform(shape, in1_features, dtype))
        made = Parameter(init.fan_in_uniform((out_features,), in1_features, dtype)) if bias else None
        self.register_parameter("bias", made)

    def forward(self, x1: Any, x2: Any) -> Any:
        return bilinear(x1, x2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )

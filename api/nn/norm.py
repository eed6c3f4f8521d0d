"""Normalisation: batch, layer, root-mean-square, group and instance norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import ShapeError
from nufunc.nn import init
from nufunc.nn.module import Module, Parameter
from nufunc.nn.single import in_single
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True

# -- functions


def _channels(x: Any, value: Any) -> Any:
    """A value per channel, to be combined with x, whose channels stand on axis 1."""
    return np.reshape(value, (-1, *(1,) * (np.ndim(x) - 2)))


@in_single
def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """x (N, C, ...) less its mean over all axes but the channels', over its standard deviation, then scaled and
    shifted.

    Where `training`, or without running statistics, the batch's own statistics are used; where `training`, the running
    ones are moved in place towards them by `momentum` (the variance without bias, as in torch).
    """
    if np.ndim(x) < 2:
        raise ShapeError(f"batch_norm: expected (N, C, ...), got shape {np.shape(x)}", user_location())
    if training or running_mean is None:
        axes = (0, *range(2, np.ndim(x)))
        count = math.prod(np.shape(x)[k] for k in axes)
        if training and count == 1:
            raise ShapeError(
                f"batch_norm: expected more than 1 value per channel when training, got shape {np.shape(x)}",
                user_location(),
            )
        mean = np.mean(x, axis=axes, keepdims=True)
        centred = x - mean
        var = np.mean(centred * centred, axis=axes, keepdims=True)
        if training and running_mean is not None:
            running_mean *= 1 - momentum
            running_mean += momentum * np.reshape(mean, -1).astype(running_mean.dtype)
            running_var *= 1 - momentum
            running_var += (momentum * count / (count - 1)) * np.reshape(var, -1).astype(running_var.dtype)
    else:
        centred, var = x - _channels(x, running_mean), _channels(x, running_var)
    y = centred / np.sqrt(var + eps)
    if weight is not None:
        y = y * _channels(x, weight)
    return y if bias is None else y + _channels(x, bias)


@in_single
def layer_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    """x less its mean over the last axes, which have the shape normalized_shape, over its standard deviation."""
    shape = tuple(normalized_shape)
    _check_last(x, shape, "layer_norm")
    axes = tuple(range(-len(shape), 0))
    centred = x - np.mean(x, axis=axes, keepdims=True)
    y = centred / np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True) + eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def rms_norm(x: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Any:
    """x over the root of its mean square over the last axes; eps is the dtype's smallest step unless given."""
    shape = tuple(normalized_shape)
    _check_last(x, shape, "rms_norm")
    axes = tuple(range(-len(shape), 0))
    small = float(promotion.finfo(x.dtype).eps) if eps is None else eps
    return _scaled_by_root(x, axes, small, weight)


@in_single
def _scaled_by_root(x: Any, axes: tuple[int, ...], small: float, weight: Any) -> Any:
    y = x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + small)
    return y if weight is None else y * weight


def _check_last(x: Any, shape: tuple[int, ...], what: str) -> None:
    if np.shape(x)[np.ndim(x) - len(shape) :] != shape or np.ndim(x) < len(shape):
        raise ShapeError(f"{what}: expected an array whose last axes are {shape}, got {np.shape(x)}", user_location())


@in_single
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """x (N, C, ...) normalised over each of num_groups groups of channels and all that follows."""
    n, c, *rest = np.shape(x)
    if c % num_groups:
        raise ShapeError(f"group_norm: {c} channels are no {num_groups} groups", user_location())
    groups = np.reshape(x, (n, num_groups, -1))
    centred = groups - np.mean(groups, axis=2, keepdims=True)
    y = np.reshape(centred / np.sqrt(np.mean(centred * centred, axis=2, keepdims=True) + eps), (n, c, *rest))
    if weight is not None:
        y = y * _channels(x, weight)
    return y if bias is None else y + _channels(x, bias)


@in_single
def instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """x (N, C, ...) normalised over the axes behind the channels, each example by itself."""
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = tuple(range(2, np.ndim(x)))
    count = math.prod(np.shape(x)[2:])
    mean = np.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    var = np.mean(centred * centred, axis=axes, keepdims=True)
    if running_mean is not None:
        running_mean *= 1 - momentum
        running_mean += momentum * np.reshape(np.mean(mean, axis=0), -1).astype(running_mean.dtype)
        running_var *= 1 - momentum
        unbiased = momentum * count / (count - 1)
        running_var += unbiased * np.reshape(np.mean(var, axis=0), -1).astype(running_var.dtype)
    y = centred / np.sqrt(var + eps)
    if weight is not None:
        y = y * _channels(x, weight)
    return y if bias is None else y + _channels(x, bias)


# -- layers


class BatchNorm(Module):
    """Batch norm over (N, C, ...): see `functional.batch_norm`; C = num_features.

    In training mode running_mean, running_var and num_batches_tracked are updated in place. momentum=None keeps a plain
    average. track_running_stats=False has neither, and always uses the batch.
    """

    _dims: tuple[int, ...] = ()

    __constants__ = ("eps", "momentum")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        for name, value, wanted in (("weight", 1.0, affine), ("bias", 0.0, affine and bias)):
            made = Parameter(init.constant((num_features,), value, dtype)) if wanted else None
            self.register_parameter(name, made)
        for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, init.constant((num_features,), value, dtype) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if track_running_stats else None)

    def forward(self, x: Any) -> Any:
        if self._dims and np.ndim(x) not in self._dims:
            expected = " or ".join(f"{d}D" for d in self._dims)
            raise ShapeError(f"{type(self).__name__}: expected {expected} input, got {np.ndim(x)}D", user_location())
        if np.shape(x)[1] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__}: expected {self.num_features} channels on axis 1, got shape {np.shape(x)}",
                user_location(),
            )
        momentum: Any = self.momentum
        if self.training and self.track_running_stats:
            self.num_batches_tracked += 1
            if momentum is None:
                momentum = 1.0 / self.num_batches_tracked
        return batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
            0.0 if momentum is None else momentum, self.eps,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(BatchNorm):
    """Batch norm over (N, C) or (N, C, L)."""

    _dims = (2, 3)


class BatchNorm2d(BatchNorm):
    """Batch norm over (N, C, H, W)."""

    _dims = (4,)


class BatchNorm3d(BatchNorm):
    """Batch norm over (N, C, D, H, W)."""

    _dims = (5,)


class InstanceNorm(BatchNorm):
    """Instance norm over (N, C, ...), each example by itself; without parameters and statistics unless asked for."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, True, dtype)

    def forward(self, x: Any) -> Any:
        alone = np.ndim(x) == self._dims[0]
        if np.ndim(x) not in self._dims:
            raise ShapeError(
                f"{type(self).__name__}: expected {self._dims[0]}D or {self._dims[1]}D input, got {np.ndim(x)}D",
                user_location(),
            )
        batch = x[None] if alone else x
        own = self.training or not self.track_running_stats
        y = instance_norm(
            batch, self.running_mean, self.running_var, self.weight, self.bias, own, self.momentum or 0.0, self.eps
        )
        return y[0] if alone else y


class InstanceNorm1d(InstanceNorm):
    """Instance norm over (C, L) or (N, C, L)."""

    _dims = (2, 3)


class InstanceNorm2d(InstanceNorm):
    """Instance norm over (C, H, W) or (N, C, H, W)."""

    _dims = (3, 4)


class InstanceNorm3d(InstanceNorm):
    """Instance norm over (C, D, H, W) or (N, C, D, H, W)."""

    _dims = (4, 5)


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


class LayerNorm(Module):
    """See `functional.layer_norm`; weight and bias have the shape normalized_shape."""

    __constants__ = ("eps",)

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _shape(normalized_shape), eps, elementwise_affine
        shape = self.normalized_shape
        self.register_parameter("weight", Parameter(init.ones(shape, dtype)) if elementwise_affine else None)
        self.register_parameter("bias", Parameter(init.zeros(shape, dtype)) if elementwise_affine and bias else None)

    def forward(self, x: Any) -> Any:
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """See `functional.rms_norm`; weight has the shape normalized_shape."""

    __constants__ = ("eps",)

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _shape(normalized_shape), eps, elementwise_affine
        made = Parameter(init.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.register_parameter("weight", made)

    def forward(self, x: Any) -> Any:
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """See `functional.group_norm`; weight and bias : (num_channels,)."""

    __constants__ = ("eps",)

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, bias: bool = True,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_channels % num_groups:
            raise ShapeError(f"GroupNorm: {num_channels} channels are no {num_groups} groups", user_location())
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.register_parameter("weight", Parameter(init.ones((num_channels,), dtype)) if affine else None)
        self.register_parameter("bias", Parameter(init.zeros((num_channels,), dtype)) if affine and bias else None)

    def forward(self, x: Any) -> Any:
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )

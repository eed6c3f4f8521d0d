"""Pooling over windows, and to a given size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError
from nufunc.nn.conv import Size, padded, sizes, windows
from nufunc.nn.module import Module
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


def _batched(x: Any, dims: int, what: str) -> tuple[Any, bool]:
    if np.ndim(x) not in (dims + 1, dims + 2):
        raise ShapeError(f"{what}: expected {dims + 1} or {dims + 2} axes, got shape {np.shape(x)}", user_location())
    alone = np.ndim(x) == dims + 1
    return (x[None] if alone else x), alone


def _pairs(
    spatial: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], ceil_mode: bool,
) -> list[tuple[int, int]]:  # fmt: skip
    """The padding in front and behind; with ceil_mode more behind, for windows that begin inside."""
    pairs = []
    for n, k, s, p, d in zip(spatial, kernel, stride, padding, dilation, strict=True):
        extra = 0
        if ceil_mode:
            rest = n + 2 * p - d * (k - 1) - 1
            count = -(-rest // s) + 1
            if (count - 1) * s >= n + p:  # a window has to begin inside the input or in front of it
                count -= 1
            extra = max((count - 1) * s + d * (k - 1) + 1 - n - 2 * p, 0)
        pairs.append((p, p + extra))
    return pairs


def _max_pool(
    x: Any, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool, dims: int
) -> Any:
    what = f"max_pool{dims}d"
    batch, alone = _batched(x, dims, what)
    kernel = sizes(kernel_size, dims, what)
    strides = kernel if stride is None else sizes(stride, dims, what)
    dilations = sizes(dilation, dims, what)
    pairs = _pairs(np.shape(batch)[2:], kernel, strides, sizes(padding, dims, what), dilations, ceil_mode)
    if any(low or high for low, high in pairs):
        lowest = -np.inf if batch.dtype.kind == "f" else np.iinfo(batch.dtype).min
        batch = np.pad(batch, ((0, 0), (0, 0), *pairs), constant_values=lowest)
    y = np.max(windows(batch, kernel, strides, dilations)[0], axis=2)
    return y[0] if alone else y


def max_pool1d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """The maxima of windows of x (N, C, L); the stride is the kernel's size unless given."""
    return _max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, 1)


def max_pool2d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """The maxima of windows of x (N, C, H, W); the stride is the kernel's size unless given."""
    return _max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, 2)


def max_pool3d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """The maxima of windows of x (N, C, D, H, W); the stride is the kernel's size unless given."""
    return _max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, 3)


def _avg_pool(
    x: Any, kernel_size: Size, stride: Size | None, padding: Size, ceil_mode: bool, count_include_pad: bool, dims: int
) -> Any:
    what = f"avg_pool{dims}d"
    batch, alone = _batched(x, dims, what)
    kernel = sizes(kernel_size, dims, what)
    strides = kernel if stride is None else sizes(stride, dims, what)
    ones = (1,) * dims
    spatial, paddings = np.shape(batch)[2:], sizes(padding, dims, what)
    pairs = _pairs(spatial, kernel, strides, paddings, ones, ceil_mode)
    total = np.sum(windows(padded(batch, pairs), kernel, strides, ones)[0], axis=2)
    # what counts: the input, its padding if asked for, never what ceil_mode adds behind
    inside = [p if count_include_pad else 0 for p in paddings]
    counted = np.zeros((1, 1, *(n + low + high for n, (low, high) in zip(spatial, pairs, strict=True))), batch.dtype)
    cut = tuple(slice(p - i, p + n + i) for n, p, i in zip(spatial, paddings, inside, strict=True))
    counted[(slice(None), slice(None), *cut)] = 1
    y = total / np.sum(windows(counted, kernel, strides, ones)[0], axis=2)
    return y[0] if alone else y


def avg_pool1d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    """The means of windows of x (N, C, L)."""
    return _avg_pool(x, kernel_size, stride, padding, ceil_mode, count_include_pad, 1)


def avg_pool2d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    """The means of windows of x (N, C, H, W)."""
    return _avg_pool(x, kernel_size, stride, padding, ceil_mode, count_include_pad, 2)


def avg_pool3d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    """The means of windows of x (N, C, D, H, W)."""
    return _avg_pool(x, kernel_size, stride, padding, ceil_mode, count_include_pad, 3)


def _adaptive(x: Any, output_size: Any, dims: int, reduce: Any, what: str) -> Any:
    batch, alone = _batched(x, dims, what)
    given = (output_size,) * dims if isinstance(output_size, int) or output_size is None else tuple(output_size)
    for axis, wanted in enumerate(given, start=2):
        n = np.shape(batch)[axis]
        m = n if wanted is None else wanted
        if n % m == 0:
            shape = np.shape(batch)
            batch = reduce(np.reshape(batch, (*shape[:axis], m, n // m, *shape[axis + 1 :])), axis + 1)
        else:
            before = (slice(None),) * axis
            parts = [
                reduce(batch[(*before, slice(i * n // m, -(-(i + 1) * n // m)))], axis) for i in range(m)
            ]
            batch = np.stack(parts, axis=axis)
    return batch[0] if alone else batch


def _mean(x: Any, axis: int) -> Any:
    return np.mean(x, axis=axis)


def _maximum(x: Any, axis: int) -> Any:
    return np.max(x, axis=axis)


def adaptive_avg_pool1d(x: Any, output_size: Any) -> Any:
    """The means of output_size windows that cover x (N, C, L)."""
    return _adaptive(x, output_size, 1, _mean, "adaptive_avg_pool1d")


def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """The means of output_size windows that cover x (N, C, H, W); None keeps an axis."""
    return _adaptive(x, output_size, 2, _mean, "adaptive_avg_pool2d")


def adaptive_avg_pool3d(x: Any, output_size: Any) -> Any:
    """The means of output_size windows that cover x (N, C, D, H, W); None keeps an axis."""
    return _adaptive(x, output_size, 3, _mean, "adaptive_avg_pool3d")


def adaptive_max_pool1d(x: Any, output_size: Any) -> Any:
    """The maxima of output_size windows that cover x (N, C, L)."""
    return _adaptive(x, output_size, 1, _maximum, "adaptive_max_pool1d")


def adaptive_max_pool2d(x: Any, output_size: Any) -> Any:
    """The maxima of output_size windows that cover x (N, C, H, W); None keeps an axis."""
    return _adaptive(x, output_size, 2, _maximum, "adaptive_max_pool2d")


def adaptive_max_pool3d(x: Any, output_size: Any) -> Any:
    """The maxima of output_size windows that cover x (N, C, D, H, W); None keeps an axis."""
    return _adaptive(x, output_size, 3, _maximum, "adaptive_max_pool3d")


# -- layers


class _MaxPool(Module):
    dims = 0

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def forward(self, x: Any) -> Any:
        return _max_pool(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.dims
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """See `functional.max_pool1d`."""

    dims = 1


class MaxPool2d(_MaxPool):
    """See `functional.max_pool2d`."""

    dims = 2


class MaxPool3d(_MaxPool):
    """See `functional.max_pool3d`."""

    dims = 3


class _AvgPool(Module):
    dims = 0

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad

    def forward(self, x: Any) -> Any:
        return _avg_pool(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.dims
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """See `functional.avg_pool1d`."""

    dims = 1

    def extra_repr(self) -> str:
        shown = (sizes(x, 1, "AvgPool1d") for x in (self.kernel_size, self.stride, self.padding))
        return "kernel_size={}, stride={}, padding={}".format(*shown)


class AvgPool2d(_AvgPool):
    """See `functional.avg_pool2d`."""

    dims = 2


class AvgPool3d(_AvgPool):
    """See `functional.avg_pool3d`."""

    dims = 3


class _AdaptivePool(Module):
    dims = 0
    average = True

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        reduce = _mean if self.average else _maximum
        return _adaptive(x, self.output_size, self.dims, reduce, type(self).__name__)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptivePool):
    """See `functional.adaptive_avg_pool1d`."""

    dims = 1


class AdaptiveAvgPool2d(_AdaptivePool):
    """See `functional.adaptive_avg_pool2d`."""

    dims = 2


class AdaptiveAvgPool3d(_AdaptivePool):
    """See `functional.adaptive_avg_pool3d`."""

    dims = 3


class AdaptiveMaxPool1d(_AdaptivePool):
    """See `functional.adaptive_max_pool1d`."""

    dims, average = 1, False


class AdaptiveMaxPool2d(_AdaptivePool):
    """See `functional.adaptive_max_pool2d`."""

    dims, average = 2, False


class AdaptiveMaxPool3d(_AdaptivePool):
    """See `functional.adaptive_max_pool3d`."""

    dims, average = 3, False

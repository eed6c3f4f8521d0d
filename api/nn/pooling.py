"""Pooling over windows, and to a given size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError, ShapeError
from nufunc.nn.conv import Size, batched, named, sizes
from nufunc.nn.module import Module
from nufunc.nn.windows import window_max, window_sum
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


class _Windows:
    """Windows over the spatial axes of x: numbers for each axis, from what users give."""

    def __init__(
        self, x: Any, what: str, dims: int, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size,
        ceil_mode: bool,
    ) -> None:  # fmt: skip
        self.spatial = np.shape(x)[2:]
        self.kernel = sizes(kernel_size, dims, what)
        self.stride = self.kernel if stride is None else sizes(stride, dims, what)
        self.padding, self.dilation = sizes(padding, dims, what), sizes(dilation, dims, what)
        if any(2 * p > d * (k - 1) + 1 for p, d, k in zip(self.padding, self.dilation, self.kernel, strict=True)):
            raise ArgumentError(
                f"{what}: padding {self.padding} is more than half of the kernel {self.kernel}", user_location()
            )
        numbers = zip(self.spatial, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        self.extent = [_count(*n, ceil_mode) for n in numbers]
        if min(self.extent) <= 0:
            raise ShapeError(
                f"{what}: a kernel {self.kernel} with padding {self.padding} is larger than the input {self.spatial}",
                user_location(),
            )


def _count(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows there are along an axis."""
    rest = n + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return rest // stride + 1
    count = -(-rest // stride) + 1
    return count - ((count - 1) * stride >= n + padding)  # a window has to begin inside the input or in front of it


def _max_pool(
    x: Any, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool, dims: int
) -> Any:
    batch, alone = batched(x, dims, f"max_pool{dims}d")
    over = _Windows(batch, f"max_pool{dims}d", dims, kernel_size, stride, padding, dilation, ceil_mode)
    y = window_max(batch, over.kernel, over.stride, over.dilation, over.padding, over.extent)
    return y[0] if alone else y


def _avg_pool(
    x: Any, kernel_size: Size, stride: Size | None, padding: Size, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None, dims: int,
) -> Any:  # fmt: skip
    batch, alone = batched(x, dims, f"avg_pool{dims}d")
    over = _Windows(batch, f"avg_pool{dims}d", dims, kernel_size, stride, padding, 1, ceil_mode)
    y = window_sum(batch, over.kernel, over.stride, over.padding, over.extent)
    y = y / (_counts(over, count_include_pad, batch.dtype) if divisor_override is None else divisor_override)
    return y[0] if alone else y


def _counts(over: _Windows, padding_too: bool, dtype: Any) -> Any:
    """How many elements each window holds: of the input, of its padding if asked for, never of what ceil_mode adds."""
    counts = []
    for n, kernel, stride, padding, extent in zip(
        over.spatial, over.kernel, over.stride, over.padding, over.extent, strict=True
    ):
        starts = [i * stride - padding for i in range(extent)]
        edges = (-padding, n + padding) if padding_too else (0, n)
        counts.append([min(start + kernel, edges[1]) - max(start, edges[0]) for start in starts])
    if all(len(set(along)) == 1 for along in counts):
        return math.prod(along[0] for along in counts)
    total = np.ones((), dtype)
    for axis, along in enumerate(counts):
        shape = [1] * len(counts)
        shape[axis] = len(along)
        total = total * np.reshape(np.array(along, dtype), shape)
    return total


def _lp_pool(x: Any, norm_type: float, kernel_size: Size, stride: Size | None, ceil_mode: bool, dims: int) -> Any:
    mean = _avg_pool(np.power(x, norm_type), kernel_size, stride, 0, ceil_mode, True, None, dims)
    total = np.sign(mean) * np.maximum(np.abs(mean), 0) * math.prod(sizes(kernel_size, dims, f"lp_pool{dims}d"))
    return np.power(total, 1.0 / norm_type)


def adaptive_pool(x: Any, output_size: Any, dims: int, maximum: bool) -> Any:
    """Means or maxima of output_size windows that cover x along its last `dims` axes."""
    batch, alone = batched(x, dims, f"adaptive_{'max' if maximum else 'avg'}_pool{dims}d")
    given = (output_size,) * dims if isinstance(output_size, int) or output_size is None else tuple(output_size)
    for axis in reversed(range(2, dims + 2)):  # the last one first, so that of equal maxima the first one stays
        n, wanted = np.shape(batch)[axis], given[axis - 2]
        m = n if wanted is None else wanted
        pieces = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        if n % m == 0:
            batch = _along(batch, axis, n // m, m, maximum)
        else:
            before = (slice(None),) * axis
            parts = [_along(batch[(*before, slice(*p))], axis, p[1] - p[0], 1, maximum) for p in pieces]
            batch = np.concatenate(parts, axis=axis)
    return batch[0] if alone else batch


def _along(x: Any, axis: int, kernel: int, count: int, maximum: bool) -> Any:
    """Means or maxima of `count` neighbouring pieces of `kernel` elements."""
    if not maximum:
        shape = np.shape(x)
        return np.mean(np.reshape(x, (*shape[:axis], count, kernel, *shape[axis + 1 :])), axis=axis + 1)
    last = np.moveaxis(x, axis, -1)
    return np.moveaxis(window_max(last, (kernel,), (kernel,), (1,), (0,), (count,)), -1, axis)


def _max_pool_nd(dims: int) -> Callable[..., Any]:
    def max_pool(
        x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> Any:  # fmt: skip
        return _max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, dims)

    text = "The maxima of windows of x (N, C, *in); the stride is the kernel's size unless given."
    return named(max_pool, "max_pool", dims, text)


def _avg_pool_nd(dims: int) -> Callable[..., Any]:
    def avg_pool(
        x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Any:  # fmt: skip
        return _avg_pool(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dims)

    return named(avg_pool, "avg_pool", dims, "The means of windows of x (N, C, *in).")


def _lp_pool_nd(dims: int) -> Callable[..., Any]:
    def lp_pool(
        x: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> Any:
        return _lp_pool(x, norm_type, kernel_size, stride, ceil_mode, dims)

    return named(lp_pool, "lp_pool", dims, "(sum(x ** norm_type)) ** (1 / norm_type) of windows of x (N, C, *in).")


def _adaptive_nd(dims: int, maximum: bool) -> Callable[..., Any]:
    def adaptive(x: Any, output_size: Any) -> Any:
        return adaptive_pool(x, output_size, dims, maximum)

    name, what = ("adaptive_max_pool", "maxima") if maximum else ("adaptive_avg_pool", "means")
    text = f"The {what} of output_size windows that cover x (N, C, *in); None keeps an axis."
    return named(adaptive, name, dims, text)


max_pool1d, max_pool2d, max_pool3d = map(_max_pool_nd, (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = map(_avg_pool_nd, (1, 2, 3))
lp_pool1d, lp_pool2d, lp_pool3d = map(_lp_pool_nd, (1, 2, 3))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (_adaptive_nd(dims, False) for dims in (1, 2, 3))
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (_adaptive_nd(dims, True) for dims in (1, 2, 3))


# -- layers


def _shown(layer: Module, *names: str) -> str:
    return ", ".join(f"{name}={getattr(layer, name)}" for name in names)


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
        return _shown(self, "kernel_size", "stride", "padding", "dilation", "ceil_mode")


class _AvgPool(Module):
    dims = 0

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Any) -> Any:
        return _avg_pool(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override, self.dims,
        )  # fmt: skip

    def extra_repr(self) -> str:
        shown: tuple[Any, ...] = (self.kernel_size, self.stride, self.padding)
        if self.dims == 1:
            shown = tuple(sizes(x, 1, type(self).__name__) for x in shown)
        return "kernel_size={}, stride={}, padding={}".format(*shown)


class _LPPool(Module):
    dims = 0

    def __init__(
        self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, x: Any) -> Any:
        return _lp_pool(x, self.norm_type, self.kernel_size, self.stride, self.ceil_mode, self.dims)

    def extra_repr(self) -> str:
        return _shown(self, "norm_type", "kernel_size", "stride", "ceil_mode")


class _AdaptivePool(Module):
    dims = 0
    maximum = False

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        return adaptive_pool(x, self.output_size, self.dims, self.maximum)

    def extra_repr(self) -> str:
        return _shown(self, "output_size")


class MaxPool1d(_MaxPool):
    """See `functional.max_pool1d`."""

    dims = 1


class MaxPool2d(_MaxPool):
    """See `functional.max_pool2d`."""

    dims = 2


class MaxPool3d(_MaxPool):
    """See `functional.max_pool3d`."""

    dims = 3


class AvgPool1d(_AvgPool):
    """See `functional.avg_pool1d`."""

    dims = 1


class AvgPool2d(_AvgPool):
    """See `functional.avg_pool2d`."""

    dims = 2


class AvgPool3d(_AvgPool):
    """See `functional.avg_pool3d`."""

    dims = 3


class LPPool1d(_LPPool):
    """See `functional.lp_pool1d`."""

    dims = 1


class LPPool2d(_LPPool):
    """See `functional.lp_pool2d`."""

    dims = 2


class LPPool3d(_LPPool):
    """See `functional.lp_pool3d`."""

    dims = 3


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

    dims, maximum = 1, True


class AdaptiveMaxPool2d(_AdaptivePool):
    """See `functional.adaptive_max_pool2d`."""

    dims, maximum = 2, True


class AdaptiveMaxPool3d(_AdaptivePool):
    """See `functional.adaptive_max_pool3d`."""

    dims, maximum = 3, True

"""Convolutions and transposed convolutions over one, two and three axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError, ShapeError
from nufunc.nn import init
from nufunc.nn.module import Module, Parameter
from nufunc.nn.windows import convolution
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True

Size = int | Sequence[int]


def sizes(value: Size, count: int, what: str) -> tuple[int, ...]:
    """A number for each spatial axis, from one for all or one for each."""
    found = (value,) * count if isinstance(value, int) else tuple(value)
    if len(found) != count:
        raise ArgumentError(f"{what}: expected an int or {count} of them, got {value}", user_location())
    return found


def batched(x: Any, dims: int, what: str) -> tuple[Any, bool]:
    """x with a batch axis, and whether it had none."""
    if np.ndim(x) not in (dims + 1, dims + 2):
        raise ShapeError(f"{what}: expected {dims + 1} or {dims + 2} axes, got shape {np.shape(x)}", user_location())
    alone = np.ndim(x) == dims + 1
    return (x[None] if alone else x), alone


def padded(x: Any, padding: Sequence[tuple[int, int]], mode: str = "zeros") -> Any:
    """x (N, C, ...) with its spatial axes padded."""
    if not any(low or high for low, high in padding):
        return x
    names: dict[str, Any] = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return np.pad(x, ((0, 0), (0, 0), *padding), mode=names[mode])


def _convolve(
    x: Any, weight: Any, stride: Sequence[int], padding: Sequence[tuple[int, int]], dilation: Sequence[int],
    groups: int,
) -> Any:  # fmt: skip
    """x (N, C, *in) with weight (O, C / groups, *kernel): (N, O, *out)."""
    c = np.shape(x)[1]
    o, per_group, *kernel = np.shape(weight)
    if c != per_group * groups or o % groups:
        raise ShapeError(
            f"a weight of shape {np.shape(weight)} in {groups} groups takes {per_group * groups} channels, got {c}",
            user_location(),
        )
    spatial = np.shape(x)[2:]
    sides = zip(spatial, padding, kernel, stride, dilation, strict=True)
    extent = [(size + low + high - d * (k - 1) - 1) // s + 1 for size, (low, high), k, s, d in sides]
    if min(extent) <= 0:
        raise ShapeError(
            f"the kernel {tuple(kernel)} with dilation {tuple(dilation)} is larger than the padded input "
            f"{tuple(m + low + high for m, (low, high) in zip(spatial, padding, strict=True))}",
            user_location(),
        )
    ones = (1,) * len(kernel)
    return convolution(x, weight, stride, dilation, ones, [low for low, _ in padding], extent, groups, False)


def _checked(x: Any, weight: Any, what: str, dims: int) -> tuple[Any, bool]:
    """x with a batch axis, and whether it had none."""
    if np.ndim(x) not in (dims + 1, dims + 2) or np.ndim(weight) != dims + 2:
        raise ShapeError(
            f"{what}: expected input of {dims + 1} or {dims + 2} axes and a weight of {dims + 2}, got shapes "
            f"{np.shape(x)} and {np.shape(weight)}",
            user_location(),
        )
    return batched(x, dims, what)


def _finished(y: Any, bias: Any, alone: bool, dims: int) -> Any:
    if bias is not None:
        y = y + np.reshape(bias, (-1, *(1,) * dims))
    return y[0] if alone else y


def _conv(
    x: Any, weight: Any, bias: Any, stride: Size, padding: Size | str, dilation: Size, groups: int, dims: int
) -> Any:
    what = f"conv{dims}d"
    batch, alone = _checked(x, weight, what, dims)
    strides, dilations = sizes(stride, dims, what), sizes(dilation, dims, what)
    pairs = _padding(padding, np.shape(weight)[2:], strides, dilations, what)
    return _finished(_convolve(batch, weight, strides, pairs, dilations, groups), bias, alone, dims)


def _padding(
    padding: Size | str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], what: str
) -> list[tuple[int, int]]:
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ArgumentError(f"{what}: padding='same' is not supported for strided convolutions", user_location())
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    if isinstance(padding, str):
        raise ArgumentError(f"{what}: padding must be ints, 'valid' or 'same', got {padding!r}", user_location())
    return [(p, p) for p in sizes(padding, len(kernel), what)]


def _conv_transpose(
    x: Any, weight: Any, bias: Any, stride: Size, padding: Size, output_padding: Size, groups: int, dilation: Size,
    dims: int,
) -> Any:  # fmt: skip
    """The transpose of the convolution with this weight (C, O / groups, *kernel) in its input."""
    what = f"conv_transpose{dims}d"
    batch, alone = _checked(x, weight, what, dims)
    strides, dilations = sizes(stride, dims, what), sizes(dilation, dims, what)
    paddings, extra = sizes(padding, dims, what), sizes(output_padding, dims, what)
    c, *spatial = np.shape(batch)[1:]
    if c != np.shape(weight)[0] or c % groups:
        raise ShapeError(
            f"{what}: a weight of shape {np.shape(weight)} takes {np.shape(weight)[0]} channels, got {c} in {groups} "
            "groups",
            user_location(),
        )
    sides = zip(spatial, np.shape(weight)[2:], strides, dilations, paddings, extra, strict=True)
    extent = [(m - 1) * s - 2 * p + d * (k - 1) + 1 + e for m, k, s, d, p, e in sides]
    if min(extent) <= 0:
        raise ShapeError(f"{what}: padding {paddings} leaves nothing of the result", user_location())
    turned, before = [-d for d in dilations], [-p for p in paddings]
    y = convolution(batch, weight, (1,) * dims, turned, strides, before, extent, groups, True)
    return _finished(y, bias, alone, dims)


def named(function: Any, name: str, dims: int, text: str) -> Any:
    """A function for so many spatial axes, with the name `name` + `1d`, ...; in the text x stands for x's shape."""
    function.__name__ = function.__qualname__ = f"{name}{dims}d"
    function.__doc__ = text.replace("*in", {1: "L", 2: "H, W", 3: "D, H, W"}[dims])
    return function


def _conv_nd(dims: int) -> Callable[..., Any]:
    def conv(
        x: Any, weight: Any, bias: Any = None, stride: Size = 1, padding: Size | str = 0, dilation: Size = 1,
        groups: int = 1,
    ) -> Any:  # fmt: skip
        return _conv(x, weight, bias, stride, padding, dilation, groups, dims)

    text = "x (N, C, *in) or (C, *in), weight (O, C / groups, *kernel), bias (O,): (N, O, *out)."
    return named(conv, "conv", dims, text)


def _conv_transpose_nd(dims: int) -> Callable[..., Any]:
    def conv_transpose(
        x: Any, weight: Any, bias: Any = None, stride: Size = 1, padding: Size = 0, output_padding: Size = 0,
        groups: int = 1, dilation: Size = 1,
    ) -> Any:  # fmt: skip
        return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, dims)

    text = "x (N, C, *in) or (C, *in), weight (C, O / groups, *kernel), bias (O,): (N, O, *out)."
    return named(conv_transpose, "conv_transpose", dims, text)


conv1d, conv2d, conv3d = map(_conv_nd, (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = map(_conv_transpose_nd, (1, 2, 3))


# -- layers


class _ConvBase(Module):
    """What the convolution layers share: the weight's shape, its initial values, and the text."""

    dims = 0

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size, padding: Size | str,
        dilation: Size, groups: int, bias: bool, padding_mode: str, dtype: Any, transposed: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        what = type(self).__name__
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{what}: in_channels and out_channels must be divisible by groups, got {in_channels}, {out_channels} "
                f"and {groups}",
                user_location(),
            )
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ArgumentError(f"{what}: padding_mode {padding_mode!r} is not known", user_location())
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = sizes(kernel_size, self.dims, what)
        self.stride, self.dilation = sizes(stride, self.dims, what), sizes(dilation, self.dims, what)
        self.padding: Any = padding if isinstance(padding, str) else sizes(padding, self.dims, what)
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        self.weight = Parameter(init.kaiming_uniform(shape, a=5**0.5, dtype=dtype))
        made = Parameter(init.fan_in_uniform((out_channels,), init.fans(shape)[0], dtype)) if bias else None
        self.register_parameter("bias", made)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self.dims:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self.dims:
            text += f", dilation={self.dilation}"
        output_padding = getattr(self, "output_padding", (0,) * self.dims)
        if output_padding != (0,) * self.dims:
            text += f", output_padding={output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if getattr(self, "bias", None) is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Conv(_ConvBase):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size | str = 0,
        dilation: Size = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, False
        )

    def forward(self, x: Any) -> Any:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            pairs = _padding(padding, self.kernel_size, self.stride, self.dilation, type(self).__name__)
            alone = np.ndim(x) == self.dims + 1
            x = padded(x[None] if alone else x, pairs, self.padding_mode)
            x, padding = (x[0] if alone else x), 0
        return _conv(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, self.dims)


class Conv1d(_Conv):
    """See `functional.conv1d`; weight : (out_channels, in_channels / groups, kernel_size)."""

    dims = 1


class Conv2d(_Conv):
    """See `functional.conv2d`; weight : (out_channels, in_channels / groups, *kernel_size).

    >>> import numpy as np, nufunc as nf
    >>> nf.nn.Conv2d(3, 8, 3, padding=1)(np.ones((2, 3, 16, 16))).shape
    (2, 8, 16, 16)
    """

    dims = 2


class Conv3d(_Conv):
    """See `functional.conv3d`; weight : (out_channels, in_channels / groups, *kernel_size)."""

    dims = 3


class _ConvTranspose(_ConvBase):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size = 0,
        output_padding: Size = 0, groups: int = 1, bias: bool = True, dilation: Size = 1,
        padding_mode: str = "zeros", dtype: Any = None,
    ) -> None:  # fmt: skip
        if padding_mode != "zeros":
            raise ArgumentError(f"{type(self).__name__}: padding_mode must be 'zeros'", user_location())
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, True
        )
        self.output_padding = sizes(output_padding, self.dims, type(self).__name__)

    def forward(self, x: Any) -> Any:
        return _conv_transpose(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation,
            self.dims,
        )  # fmt: skip


class ConvTranspose1d(_ConvTranspose):
    """See `functional.conv_transpose1d`."""

    dims = 1


class ConvTranspose2d(_ConvTranspose):
    """See `functional.conv_transpose2d`."""

    dims = 2


class ConvTranspose3d(_ConvTranspose):
    """See `functional.conv_transpose3d`."""

    dims = 3

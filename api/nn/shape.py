"""Layers that change shapes: Flatten, Unflatten, Upsample, PixelShuffle, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError, ShapeError
from nufunc.nn.module import Module
from nufunc.nn.pooling import adaptive_pool
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """x with the axes from start_dim to end_dim (inclusive) merged."""
    shape = np.shape(x)
    first, last = start_dim % len(shape), end_dim % len(shape)
    return np.reshape(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    """(..., C r r, H, W) to (..., C, H r, W r)."""
    *lead, c, h, w = np.shape(x)
    r = upscale_factor
    if c % (r * r):
        raise ShapeError(f"pixel_shuffle: {c} channels are no multiple of {r * r}", user_location())
    n = len(lead)
    parts = np.reshape(x, (*lead, c // (r * r), r, r, h, w))
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return np.reshape(np.transpose(parts, order), (*lead, c // (r * r), h * r, w * r))


def pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Any:
    """x padded by (low, high) pairs, the last axis' first, as torch's pad."""
    if len(pad) % 2 or len(pad) // 2 > np.ndim(x):
        raise ArgumentError(f"pad: expected a pair for each of up to {np.ndim(x)} axes, got {pad}", user_location())
    pairs = [(pad[k], pad[k + 1]) for k in range(0, len(pad), 2)][::-1]
    cuts = tuple(slice(max(-low, 0), n + min(high, 0)) for (low, high), n in zip(pairs, np.shape(x)[-len(pairs) :]))
    if any(low < 0 or high < 0 for low, high in pairs):
        x = x[(..., *cuts)]
    pairs = [(max(low, 0), max(high, 0)) for low, high in pairs]
    widths = [(0, 0)] * (np.ndim(x) - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, widths, constant_values=value)
    names: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if mode not in names:
        raise ArgumentError(f"pad: mode must be constant, {', '.join(names)}, got {mode!r}", user_location())
    return np.pad(x, widths, mode=names[mode])


# mode: the number of spatial axes, None for any, and whether it takes align_corners
_MODES: dict[str, tuple[int | None, bool]] = {
    "nearest": (None, False), "nearest-exact": (None, False), "area": (None, False), "linear": (1, True),
    "bilinear": (2, True), "bicubic": (2, True), "trilinear": (3, True),
}  # fmt: skip
_CUBIC = -0.75  # the slope that makes a cubic convolution, as torch has it


def interpolate(
    x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Any:  # fmt: skip
    """x (N, C, ...) resized along the axes behind the channels to `size`, or by `scale_factor`.

    mode : "nearest", "nearest-exact", "area", "linear" (one axis), "bilinear" or "bicubic" (two), "trilinear" (three).
    align_corners : corners keep their values. recompute_scale_factor : places follow from the sizes, not from the
    factor. There is no antialias.
    """
    spatial = np.shape(x)[2:]
    if (size is None) == (scale_factor is None):
        raise ArgumentError("interpolate: give size or scale_factor", user_location())
    if mode not in _MODES or antialias:
        what = "antialias" if antialias else f"mode {mode!r}"
        raise ArgumentError(f"interpolate: {what} is not supported", user_location())
    dims, aligns = _MODES[mode]
    if dims is not None and dims != len(spatial):
        raise ShapeError(f"interpolate: mode {mode!r} takes {dims + 2} axes, got shape {np.shape(x)}", user_location())
    if align_corners is not None and not aligns:
        raise ArgumentError(f"interpolate: mode {mode!r} takes no align_corners", user_location())
    factors: list[float | None] = [None] * len(spatial)
    if size is not None:
        wanted = [size] * len(spatial) if isinstance(size, int) else list(size)
    else:
        given = [scale_factor] * len(spatial) if isinstance(scale_factor, int | float) else list(scale_factor)
        wanted = [math.floor(n * f) for n, f in zip(spatial, given, strict=True)]
        if not recompute_scale_factor:
            factors = [float(f) for f in given]
    if len(wanted) != len(spatial):
        raise ArgumentError(
            f"interpolate: expected a number for each of {len(spatial)} axes, got {wanted}", user_location()
        )
    if mode == "area":
        return adaptive_pool(x, wanted, len(spatial), maximum=False)
    for axis, (n, m, factor) in enumerate(zip(spatial, wanted, factors, strict=True), start=2):
        scale = n / m if factor is None else 1 / factor
        if mode in ("nearest", "nearest-exact"):
            x = _nearest(x, axis, m, scale, 0.5 if mode == "nearest-exact" else 0.0)
        elif mode == "bicubic":
            x = _cubic(x, axis, _places(n, m, scale, align_corners))
        else:
            x = _linear(x, axis, np.maximum(_places(n, m, scale, align_corners), 0.0))
    return x


def _places(n: int, m: int, scale: float, align_corners: bool | None) -> Any:
    """Where the m elements of a result stand along an axis of n."""
    if align_corners:
        return np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0.0)
    return (np.arange(m) + 0.5) * scale - 0.5


def _nearest(x: Any, axis: int, m: int, scale: float, shift: float) -> Any:
    n = np.shape(x)[axis]
    if m % n == 0 and scale == n / m:
        return np.repeat(x, m // n, axis=axis)
    index = np.minimum(np.floor((np.arange(m) + shift) * scale).astype(np.int64), n - 1)
    return np.take(x, index, axis=axis)


def _along(values: Any, x: Any, axis: int) -> Any:
    """Numbers for the elements along an axis, in the dtype of x."""
    return np.reshape(values, (-1, *(1,) * (np.ndim(x) - 1 - axis))).astype(x.dtype)


def _linear(x: Any, axis: int, place: Any) -> Any:
    n = np.shape(x)[axis]
    low = np.minimum(np.floor(place).astype(np.int64), n - 1)
    high = np.minimum(low + 1, n - 1)
    part = _along(place - low, x, axis)
    return np.take(x, low, axis=axis) * (1 - part) + np.take(x, high, axis=axis) * part


def _cubic(x: Any, axis: int, place: Any) -> Any:
    n = np.shape(x)[axis]
    low = np.floor(place)
    part = place - low
    total: Any = None
    for k, distance in ((-1, part + 1), (0, part), (1, 1 - part), (2, 2 - part)):
        index = np.minimum(np.maximum(low.astype(np.int64) + k, 0), n - 1)
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
        far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
        here = np.take(x, index, axis=axis) * _along(near if k in (0, 1) else far, x, axis)
        total = here if total is None else total + here
    return total


class Flatten(Module):
    """See `functional.flatten`; keeps the batch's axis."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        return flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """An axis split into several."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Any) -> Any:
        shape, axis = np.shape(x), self.dim % np.ndim(x)
        return np.reshape(x, (*shape[:axis], *self.unflattened_size, *shape[axis + 1 :]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Upsample(Module):
    """See `functional.interpolate`."""

    __constants__ = ("scale_factor",)

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale_factor = float(scale_factor) if isinstance(scale_factor, int) else scale_factor
        self.size, self.mode, self.align_corners = size, mode, align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Any) -> Any:
        return interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        what = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}"


class PixelShuffle(Module):
    """See `functional.pixel_shuffle`."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, x: Any) -> Any:
        return pixel_shuffle(x, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"

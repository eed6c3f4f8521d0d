"""What nufunc.nn computes over windows of traced arrays that NumPy has no function for: convolutions, maxima, sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Value
from nufunc.ir.prims.reduce import take_along
from nufunc.ir.types import ArrayType
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, builder, result_dtype, value_of, wrap

WINDOW = "abdefhijklmpqrstuvwxyz"  # letters for axes of a window: all but those below
WHOLE = 16  # elements up to which a window is summed at once; larger ones axis by axis


def convolution(
    x: Any, w: Any, stride: Sequence[int], dilation: Sequence[int], spread: Sequence[int], offset: Sequence[int],
    extent: Sequence[int], groups: int, transposed: bool,
) -> Array:  # fmt: skip
    """x (N, C, *in) and w (O, C / groups, *kernel), or transposed (C, O / groups, *kernel): (N, O, *extent), where
    element q of x meets k of w and p of the result if q * spread == p * stride + k * dilation - offset."""
    b, dtype = builder(), result_dtype(as_array(x), as_array(w))
    left, right = b.astype(value_of(x), dtype), b.astype(value_of(w), dtype)
    n, window = left.shape[0], WINDOW[: len(extent)]
    given, chosen = right.shape[1] * groups, right.shape[0]  # channels
    if transposed:
        given, chosen = chosen, given
    g, c, o = "", "c", "o"
    if groups > 1:  # axes of one element are left out
        g, c, o = "g", "c" if given > groups else "", "o" if chosen > groups else ""
        inner = [m // groups for m, letter in ((given, c), (chosen, o)) if letter]
        left = b.reshaped(left, (n, groups, *inner[: len(c)], *left.shape[2:]))
        order = inner if transposed else inner[::-1]
        right = b.reshaped(right, (groups, *order, *right.shape[2:]))
    value = b.conv(
        left, right, x=f"n{g}{c}{window}", w=f"{g}{c + o if transposed else o + c}{window}", out=f"n{g}{o}{window}",
        window=window, stride=tuple(stride), dilation=tuple(dilation), spread=tuple(spread), offset=tuple(offset),
        extent=tuple(extent),
    )  # fmt: skip
    return wrap(b.reshaped(value, (n, chosen, *extent)))


def window_max(
    x: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], offset: Sequence[int],
    extent: Sequence[int],
) -> Array:  # fmt: skip
    """The maxima of windows over the last axes of x, `offset` elements of padding in front: (..., *extent). Of equal
    maxima the first in C order gets the derivative."""
    b, value = builder(), value_of(x)
    numbers = list(zip(kernel, stride, dilation, offset, extent, strict=True))
    if math.prod(kernel) <= WHOLE:
        return wrap(_maxima(b, value, numbers))
    for k in reversed(range(len(numbers))):  # the last axis first, so that the first maximum stays the first
        axis = value.ndim - len(numbers) + k
        value = b.moved(_maxima(b, b.moved(value, axis, value.ndim - 1), [numbers[k]]), value.ndim - 1, axis)
    return wrap(value)


def _maxima(b: Builder, x: Value, numbers: Sequence[tuple[int, ...]]) -> Value:
    (kernel, stride, dilation, offset, extent), *others = numbers
    apart = not others and dilation == 1 and offset == 0 and extent * stride <= x.shape[-1] and kernel == stride
    if apart and kernel > WHOLE:
        lead = x.shape[:-1]
        cut = b.slice(x, start=(0,) * x.ndim, stop=(*lead, extent * stride), step=(1,) * x.ndim)
        rows = b.reshaped(cut, (*lead, extent, kernel))
        places = b.reshaped(b.argmax(rows, axis=x.ndim), (*lead, extent, 1))
        return b.reshaped(take_along(b, rows, places, x.ndim), (*lead, extent))
    names = ("kernel", "stride", "dilation", "offset", "extent")
    return b.window_argmax(x, **dict(zip(names, zip(*numbers, strict=True), strict=True)))[0]


def window_sum(
    x: Any, kernel: Sequence[int], stride: Sequence[int], offset: Sequence[int], extent: Sequence[int]
) -> Array:
    """The sums of windows over the last axes of x, `offset` zeros in front: (..., *extent)."""
    b, value = builder(), value_of(x)
    groups = [range(len(kernel))] if math.prod(kernel) <= WHOLE else [range(k, k + 1) for k in range(len(kernel))]
    letters, first = WINDOW[: value.ndim], value.ndim - len(kernel)
    for axes in groups:
        window = "".join(letters[first + k] for k in axes)
        ones = b.filled(1, ArrayType(tuple(kernel[k] for k in axes), value.dtype))
        one = (1,) * len(axes)
        value = b.conv(
            value, ones, x=letters, w=window, out=letters, window=window, stride=tuple(stride[k] for k in axes),
            dilation=one, spread=one, offset=tuple(offset[k] for k in axes), extent=tuple(extent[k] for k in axes),
        )  # fmt: skip
    return wrap(value)

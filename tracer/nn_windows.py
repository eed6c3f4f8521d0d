"""What nufunc.nn computes over windows of traced arrays that NumPy has no function for: convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, builder, result_dtype, value_of, wrap

WINDOW = "abdefhijklmpqrstuvwxyz"  # letters for axes of a window: all but those below


def convolution(
    x: Any, w: Any, stride: Sequence[int], dilation: Sequence[int], spread: Sequence[int], offset: Sequence[int],
    extent: Sequence[int], groups: int, transposed: bool,
) -> Array:  # fmt: skip
    """x (N, C, *in) and w (O, C / groups, *kernel), or transposed (C, O / groups, *kernel): (N, O, *extent), where
    element q of x meets k of w and p of the result if q * spread == p * stride + k * dilation - offset."""
    b, dtype = builder(), result_dtype(as_array(x), as_array(w))
    left, right = b.astype(value_of(x), dtype), b.astype(value_of(w), dtype)
    (n, c, *_), dims = left.shape, len(extent)
    window = WINDOW[:dims]
    g = "g" if groups > 1 else ""
    if groups > 1:
        left = b.reshaped(left, (n, groups, c // groups, *left.shape[2:]))
        right = b.reshaped(right, (groups, right.shape[0] // groups, *right.shape[1:]))
    value = b.conv(
        left, right, x=f"n{g}c{window}", w=f"{g}{'co' if transposed else 'oc'}{window}", out=f"n{g}o{window}",
        window=window, stride=tuple(stride), dilation=tuple(dilation), spread=tuple(spread), offset=tuple(offset),
        extent=tuple(extent),
    )  # fmt: skip
    return wrap(b.reshaped(value, (n, value.shape[1] * value.shape[2], *extent)) if g else value)

"""Maxima over windows, where they stand, and the linear reading and adding at these places.

Windows lie over the last axes, one number of `kernel`, `stride`, `dilation`, `offset` and `extent` for each: window p
holds the elements p * stride + k * dilation - offset of x that exist, for 0 <= k < kernel. Elements of a window are
numbered in C order. Of equal maxima the first counts, for the derivative too (of NaNs the last). Sums over windows are
convolutions with a kernel of ones.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError, VerifyError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import (
    REALS,
    Arrays,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    batch_all,
    batch_shifted,
    linear_jvp,
    linear_transpose,
    need_count,
    need_dtype,
    shown,
)
from nufunc.ir.types import ArrayType

NUMBERS_OF_WINDOW = ("kernel", "stride", "dilation", "offset", "extent")
_BYTE, _WORD = np.dtype(np.uint8), np.dtype(np.int32)


def number_dtype(attrs: Attrs) -> np.dtype:
    """The dtype of elements' numbers in a window."""
    return _BYTE if math.prod(attrs["kernel"]) <= 256 else _WORD


def _windows(prim: str, x: ArrayType, attrs: Attrs) -> tuple[int, ...]:
    """The shape of one number per window."""
    rank = len(attrs["kernel"])
    if any(len(attrs[name]) != rank for name in NUMBERS_OF_WINDOW):
        raise VerifyError(f"{prim}: as many numbers for each of {', '.join(NUMBERS_OF_WINDOW)} are needed: {attrs}")
    if not 0 < rank <= x.ndim:
        raise ShapeError(f"{prim}: {x} has no {rank} axes for windows")
    if any(n < 1 for name in ("kernel", "stride", "dilation") for n in attrs[name]):
        raise VerifyError(f"{prim}: kernel, stride and dilation are positive: {attrs}")
    for n, numbers in zip(x.shape[x.ndim - rank :], zip(*(attrs[name] for name in NUMBERS_OF_WINDOW)), strict=True):
        kernel, stride, dilation, offset, extent = numbers
        begin = (extent - 1) * stride - offset  # of the last window
        if extent < 0 or (extent and (begin >= n or offset > (kernel - 1) * dilation)):
            raise ShapeError(f"{prim}: a window of {attrs} lies outside of {x}")
    return (*x.shape[: x.ndim - rank], *attrs["extent"])


def _argmax_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("window_argmax", types, 1)
    need_dtype("window_argmax", types[0], REALS)
    shape = _windows("window_argmax", types[0], attrs)
    return types[0].with_shape(shape), ArrayType(shape, number_dtype(attrs))


def _take_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("window_take", types, 2)
    _need_numbers("window_take", types, _windows("window_take", types[0], attrs), attrs)
    return (types[0].with_shape(types[1].shape),)


def _put_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("window_put", types, 2)
    result = types[0].with_shape(attrs["shape"])
    if types[0].shape != types[1].shape:
        raise ShapeError(f"window_put: operands of different shapes: {shown(types)}")
    _need_numbers("window_put", types, _windows("window_put", result, attrs), attrs)
    return (result,)


def _need_numbers(prim: str, types: Types, shape: tuple[int, ...], attrs: Attrs) -> None:
    if types[1] != ArrayType(shape, number_dtype(attrs)):
        raise ShapeError(f"{prim}: expected numbers {ArrayType(shape, number_dtype(attrs))}, got {types[1]}")


def _places(x: tuple[int, ...], attrs: Attrs) -> list[tuple[Any, Any]]:
    """For each element of a window, which windows have it, and where it stands for these in an array of shape x."""
    found = []
    spatial = x[len(x) - len(attrs["kernel"]) :]
    for element in itertools.product(*map(range, attrs["kernel"])):
        windows: list[slice] = []
        places: list[slice] = []
        for k, n, stride, dilation, offset, extent in zip(
            element, spatial, *(attrs[name] for name in NUMBERS_OF_WINDOW[1:]), strict=True
        ):
            start = k * dilation - offset
            first, stop = max(0, -(start // stride)), min(extent, -(-(n - start) // stride))
            stop = max(first, stop)
            windows.append(slice(first, stop))
            places.append(slice(start + first * stride, max(start + (stop - 1) * stride + 1, 0), stride))
            if first == stop:
                places[-1] = slice(0, 0)
        found.append(((..., *windows), (..., *places)))
    return found


def _argmax_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    (x,) = arrays
    shape = _windows("window_argmax", ArrayType(x.shape, x.dtype), attrs)
    best, number = np.zeros(shape, x.dtype), np.zeros(shape, number_dtype(attrs))
    known = np.zeros(shape, bool)
    for k, (windows, places) in enumerate(_places(x.shape, attrs)):
        here = x[places]
        better = ~known[windows] | (here > best[windows]) | (here != here)
        best[windows] = np.where(better, here, best[windows])
        number[windows] = np.where(better, k, number[windows])
        known[windows] = True
    return [best, number]


def _take_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    x, number = arrays
    result = np.zeros(number.shape, x.dtype)
    for k, (windows, places) in enumerate(_places(x.shape, attrs)):
        result[windows] = np.where(number[windows] == k, x[places], result[windows])
    return [result]


def _put_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    value, number = arrays
    result = np.zeros(attrs["shape"], value.dtype)
    for k, (windows, places) in enumerate(_places(result.shape, attrs)):
        result[places] += np.where(number[windows] == k, value[windows], np.zeros((), value.dtype))
    return [result]


def _window(attrs: Attrs) -> Attrs:
    return {name: attrs[name] for name in NUMBERS_OF_WINDOW}


def _argmax_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    (t,) = tangents
    return [None if t is None else b.window_take(t, results[1], **attrs), None]


def _take_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    return [b.window_put(ct, operands[1], shape=types[0].shape, **attrs), None]


def _put_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    return [b.window_take(ct, operands[1], **_window(attrs)), None]


register(
    Primitive(
        "window_argmax", "library", _argmax_infer, _argmax_evaluate, _argmax_jvp, None, batch_all("window_argmax"),
        attrs=NUMBERS_OF_WINDOW,
    )
)  # fmt: skip
register(
    Primitive(
        "window_take", "library", _take_infer, _take_evaluate, linear_jvp("window_take", 1),
        linear_transpose(_take_transpose), batch_all("window_take"), attrs=NUMBERS_OF_WINDOW,
    )
)  # fmt: skip
register(
    Primitive(
        "window_put", "library", _put_infer, _put_evaluate, linear_jvp("window_put", 1),
        linear_transpose(_put_transpose),
        batch_shifted("window_put", lambda size, attrs: {"shape": (size, *attrs["shape"])}),
        attrs=("shape", *NUMBERS_OF_WINDOW),
    )
)  # fmt: skip

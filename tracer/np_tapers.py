"""Windows, logarithmic grids, bits in bytes, and the real part of what is nearly real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError, TraceError, UnsupportedError
from nufunc.ir.types import is_complex
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import (
    as_array,
    builder,
    fail,
    is_scalar,
    normal_axis,
    result_dtype,
    static_int,
    value_of,
    wrap,
)
from nufunc.tracer.np_special_core import i0
from nufunc.tracer.trace import require

# -- windows: of a static number of points they are constants


def _window(name: str) -> Callable[..., Any]:
    def window(M: Any) -> Any:
        raise fail(TraceError, f"np.{name} of a traced number of points has no static shape; make it a static argument")

    window.__name__ = window.__qualname__ = name
    return window


bartlett, blackman, hamming, hanning = (_window(name) for name in ("bartlett", "blackman", "hamming", "hanning"))


def kaiser(M: Any, beta: Any) -> Array:
    """numpy.kaiser; its shape parameter may be traced."""
    np_, count = namespace(), static_int(M, "M")
    shape = as_array(beta) * 1.0
    if count < 1:
        return np_.zeros(0)
    if count == 1:
        return np_.ones(1)
    half = (count - 1) / 2.0
    arch = require().constant(np.sqrt(np.maximum(1 - ((np.arange(count) - half) / half) ** 2.0, 0.0)))
    return i0(shape * arch) / i0(shape)


# -- grids


def logspace(
    start: Any, stop: Any, num: Any = 50, endpoint: bool = True, base: Any = 10.0, dtype: Any = None, axis: int = 0
) -> Array:
    """numpy.logspace; ends and base may be traced."""
    np_ = namespace()
    powers: Any = base
    if not is_scalar(base) and as_array(base).ndim:
        first, last, root = np_.broadcast_arrays(start, stop, base)
        y = np_.linspace(first, last, num, endpoint=endpoint, axis=axis)
        powers = np_.expand_dims(root, axis)
    else:
        y = np_.linspace(start, stop, num, endpoint=endpoint, axis=axis)
    result = np_.power(powers, y)
    return result if dtype is None else result.astype(check_dtype(dtype))


def geomspace(
    start: Any, stop: Any, num: Any = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0
) -> Array:
    """numpy.geomspace, by logarithms of the ends turned to the positive axis."""
    np_, count = namespace(), static_int(num, "num")
    first, last = as_array(start), as_array(stop)
    kind = result_dtype(*[x if is_scalar(x) else as_array(x) for x in (start, stop)], np.dtype(float))
    kind = kind if dtype is None else result_dtype(kind, check_dtype(dtype))
    first, last = np_.broadcast_arrays(first.astype(kind), last.astype(kind))
    turn = np_.sign(first)
    low, high = first / turn, last / turn
    middle = logspace(np_.log10(low), np_.log10(high), count, endpoint, 10.0)
    parts = [middle.astype(kind)]
    if count:
        parts = [low[None], parts[0][1:]]
        if count > 1 and endpoint:
            parts = [parts[0], parts[1][:-1], high[None]]
    result = (np_.concatenate(parts) if len(parts) > 1 else parts[0]) * turn
    if axis:
        result = np_.moveaxis(result, 0, axis)
    return result if dtype is None else result.astype(check_dtype(dtype))


# -- bits


def _is_little(bitorder: Any) -> bool:
    if bitorder not in ("big", "little"):
        raise fail(ShapeError, "'order' must be either 'little' or 'big'")
    return bool(bitorder == "little")


def _last(a: Array, axis: Any) -> tuple[Array, int]:
    if axis is None:
        return a.ravel(), 0
    index = normal_axis(axis, a.ndim)
    return namespace().moveaxis(a, index, -1), index


def packbits(a: Any, /, axis: Any = None, bitorder: str = "big") -> Array:
    """numpy.packbits: eight numbers a byte, a bit for each that is not zero."""
    np_, x = namespace(), as_array(a)
    if x.dtype.kind not in "iub":
        raise fail(DTypeError, "Expected an input array of integer or boolean data type")
    little = _is_little(bitorder)
    line, index = _last(x, axis)
    bits = line != 0
    rest = -bits.shape[-1] % 8
    if rest:
        bits = np_.concatenate([bits, np_.zeros((*bits.shape[:-1], rest), bool)], axis=-1)
    packed = builder().emit("pack_bits", (value_of(bits),), {"little": little})[0]
    return np_.moveaxis(wrap(packed, scalar=False), -1, index)


def unpackbits(a: Any, /, axis: Any = None, count: Any = None, bitorder: str = "big") -> Array:
    np_, x = namespace(), as_array(a)
    if x.dtype != np.uint8:
        raise fail(DTypeError, "Expected an input array of unsigned byte data type")
    little = _is_little(bitorder)
    line, index = _last(x, axis)
    bits = wrap(builder().emit("unpack_bits", (value_of(line),), {"little": little})[0], scalar=False)
    n = bits.shape[-1]
    if count is not None:
        wanted = static_int(count, "count")
        if wanted < -n:
            raise fail(ShapeError, f"-count larger than number of elements {n}")
        wanted = wanted if wanted >= 0 else n + wanted
        if wanted > n:
            bits = np_.concatenate([bits, np_.zeros((*bits.shape[:-1], wanted - n), np.uint8)], axis=-1)
        bits = bits[..., :wanted]
    return np_.moveaxis(bits, -1, index)


def real_if_close(a: Any, tol: float = 100) -> Array:
    """numpy.real_if_close: of complex values the dtype of its result depends on the data, so that it is refused."""
    x = as_array(a)
    if is_complex(x.dtype):
        raise fail(
            UnsupportedError,
            "np.real_if_close of traced complex values: whether the result is real depends on them; take x.real",
        )
    return x


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    bartlett, blackman, hamming, hanning, kaiser, logspace, geomspace, packbits, unpackbits, real_if_close,
)  # fmt: skip


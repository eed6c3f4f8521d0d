"""Rules of ufuncs that look at the bits of numbers: frexp, ldexp, spacing, bitwise_count, gcd, lcm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Value
from nufunc.ir.types import FLOAT16, FLOAT32, FLOAT64, INT64

_INT32, _UINT8 = np.dtype(np.int32), np.dtype(np.uint8)


def _as_bits(b: Builder, x: Value) -> Value:
    return b.emit("bitcast", (x,), {"dtype": np.dtype(f"i{x.dtype.itemsize}")})[0]


def _as_float(b: Builder, bits: Value, dtype: np.dtype | None = None) -> Value:
    return b.emit("bitcast", (bits,), {"dtype": dtype or np.dtype(f"f{bits.dtype.itemsize}")})[0]


def _format(dtype: np.dtype) -> tuple[int, int]:
    """The bias of the exponent, and where it stands among the bits."""
    return (127, 23) if dtype.itemsize == 4 else (1023, 52)


def _power_of_two(b: Builder, n: Value) -> Value:
    """2.0 ** n, a normal number, as wide as n."""
    bias, digits = _format(n.dtype)
    return _as_float(b, b.shift_left(b.add(n, b.like(n, bias)), b.like(n, digits)))


def _frexp(b: Builder, x: Value) -> tuple[Value, Value]:
    """x = m * 2 ** e with 0.5 <= |m| < 1; what is zero or not finite stays. m has the derivative 2 ** -e."""
    wide = x if x.dtype == FLOAT32 else b.astype(x, FLOAT64)
    bias, digits = _format(wide.dtype)
    up = digits + 8  # binary places that make any number a normal one
    size = b.abs(b.stop_gradient(wide))
    small = b.lt(size, b.like(size, 2.0 ** (up - bias)))
    bits = _as_bits(b, b.select(small, b.mul(size, b.like(size, 2.0**up)), size))
    exponent = b.sub(b.shift_right(bits, b.like(bits, digits)), b.like(bits, bias - 1))
    exponent = b.select(small, b.sub(exponent, b.like(exponent, up)), exponent)
    usual = b.bit_and(b.isfinite(size), b.ne(size, b.like(size, 0)))
    exponent = b.select(usual, exponent, b.like(exponent, 0))
    half = b.shift_right(exponent, b.like(exponent, 1))
    parts = [_power_of_two(b, b.neg(part)) for part in (half, b.sub(exponent, half))]
    mantissa = b.astype(b.mul(b.mul(wide, parts[0]), parts[1]), x.dtype)
    return b.select(usual, mantissa, x), b.astype(exponent, _INT32)


def _ldexp(b: Builder, x: Value, n: Value) -> Value:
    """x * 2 ** n, rounded once: the powers that take a result below the normal numbers stand last."""
    if x.dtype.itemsize < 8:  # in double precision nothing overflows or is rounded
        limit = b.like(n, 500)
        power = _power_of_two(b, b.astype(b.maximum(b.minimum(n, limit), b.neg(limit)), INT64))
        return b.astype(b.mul(b.astype(x, FLOAT64), power), x.dtype)
    wide, rest = b.astype(x, FLOAT64), b.astype(n, INT64)
    limit = b.like(rest, 3300)
    rest = b.maximum(b.minimum(rest, limit), b.neg(limit))
    for _ in range(2):
        high, low = b.gt(rest, b.like(rest, 1023)), b.lt(rest, b.like(rest, -1022))
        factor = b.select(high, b.like(wide, 2.0**1023), b.select(low, b.like(wide, 2.0**-969), b.like(wide, 1.0)))
        step = b.select(high, b.like(rest, 1023), b.select(low, b.like(rest, -969), b.like(rest, 0)))
        wide, rest = b.mul(wide, factor), b.sub(rest, step)
    rest = b.maximum(b.minimum(rest, b.like(rest, 1023)), b.like(rest, -1022))
    return b.astype(b.mul(wide, _power_of_two(b, rest)), x.dtype)


def _spacing(b: Builder, x: Value) -> Value:
    """The distance to the next number away from zero, with the sign of x; of float16 to the next larger one."""
    if x.dtype == FLOAT16:
        x = b.stop_gradient(x)
        return b.select(b.isfinite(x), b.sub(b.nextafter(x, b.like(x, np.inf)), x), b.like(x, np.nan))
    x = b.add(b.stop_gradient(x), b.like(x, 0.0))  # -0.0 becomes 0.0
    bits = _as_bits(b, x)
    after = _as_float(b, b.add(bits, b.like(bits, 1)), x.dtype)
    return b.select(b.isfinite(x), b.sub(after, x), b.like(x, np.nan))


def _bitwise_count(b: Builder, x: Value) -> Value:
    """The ones among the bits of |x|, added up in ever wider fields."""
    if x.dtype.kind == "i":
        x = b.abs(x)
    width = 8 * x.dtype.itemsize
    bits = b.astype(x, np.dtype(f"u{x.dtype.itemsize}"))

    def field(pattern: int) -> Value:
        return b.like(bits, int(f"{pattern:02x}" * (width // 8), 16))

    def moved(value: Value, count: int) -> Value:
        return b.shift_right(value, b.like(value, count))

    bits = b.sub(bits, b.bit_and(moved(bits, 1), field(0x55)))
    bits = b.add(b.bit_and(bits, field(0x33)), b.bit_and(moved(bits, 2), field(0x33)))
    bits = b.bit_and(b.add(bits, moved(bits, 4)), field(0x0F))
    return b.astype(moved(b.mul(bits, field(0x01)), width - 8), _UINT8)


def _lcm(b: Builder, x: Value, y: Value) -> Value:
    common = b.gcd(x, y)
    none = b.eq(common, b.like(common, 0))
    x, y = (b.abs(v) if v.dtype.kind == "i" else v for v in (x, y))
    return b.mul(b.floor_div(x, b.select(none, b.like(common, 1), common)), y)


def rules() -> dict[str, Callable[..., Any]]:
    """The rules by NumPy's names."""
    return {
        "frexp": _frexp, "ldexp": _ldexp, "spacing": _spacing, "bitwise_count": _bitwise_count,
        "gcd": lambda b, x, y: b.gcd(x, y), "lcm": _lcm,
    }  # fmt: skip

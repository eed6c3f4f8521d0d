"""Quotients and remainders of ints and floats against NumPy, bit by bit: ends of ranges, zeros, quotients just below
whole numbers, known divisors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf

OPERATIONS: dict[str, Callable[..., Any]] = {"//": np.floor_divide, "%": np.remainder, "fmod": np.fmod}
INTS = "i1 i2 i4 i8 u1 u2 u4 u8".split()


def _ints(dtype: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Operands anywhere in the range, small divisors, and dividends at multiples of 7 and one below."""
    rng, info = np.random.default_rng(1), np.iinfo(dtype)
    x, y = (rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True) for _ in range(2))
    kind = rng.integers(0, 6, n)
    y = np.where(kind < 3, rng.integers(max(info.min, -5), 6, n), y).astype(dtype)
    x = np.where(kind == 1, info.min, np.where(kind == 2, info.max, x)).astype(dtype)
    multiples = 7 * rng.integers(1, min(int(info.max), 2**62) // 7 + 1, n) - rng.integers(0, 2, n)
    x, y = np.where(kind == 5, multiples.astype(dtype), x), np.where(kind == 5, np.array(7, dtype), y)
    return x.astype(dtype), y.astype(dtype)


def _same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Bit for bit, but for which NaN it is."""
    if wanted.dtype.kind != "f":
        return found.dtype == wanted.dtype and bool((found == wanted).all())
    nan = np.isnan(found) & np.isnan(wanted)
    return bool(((found.view(f"i{found.itemsize}") == wanted.view(f"i{wanted.itemsize}")) | nan).all())


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", INTS)
def test_ints(name: str, dtype: str) -> None:
    call = OPERATIONS[name]
    compiled = nf.jit(lambda x, y: call(x, y))
    for n in (7, 1003):
        x, y = _ints(dtype, n)
        with np.errstate(all="ignore"):
            assert _same(compiled(x, y), call(x, y))


@pytest.mark.parametrize("dtype", INTS)
def test_known_divisors(dtype: str) -> None:
    x, info = _ints(dtype, 1003)[0], np.iinfo(dtype)
    numbers = sorted({int(c) for c in (0, 1, 2, 3, 7, info.max, info.max // 2 + 1, -1, -3, info.min) if c >= info.min})
    all_of_them = lambda x: [call(x, dtype_(c)) for call in OPERATIONS.values() for c in numbers]
    dtype_ = np.dtype(dtype).type
    with np.errstate(all="ignore"):
        for found, wanted in zip(nf.jit(all_of_them)(x), all_of_them(x), strict=True):
            assert _same(found, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats(dtype: Any) -> None:
    rng, info, n = np.random.default_rng(2), np.finfo(dtype), 20003
    x, y = (rng.normal(size=n) * 2.0 ** rng.uniform(-40, 40, n) for _ in range(2))
    kind = rng.integers(0, 6, n)
    x, y = (np.where(kind == 0, rng.integers(-99, 99, n), v).astype(dtype) for v in (x, y))
    products = y * rng.integers(1, 2**20, n).astype(dtype)
    x = np.where(kind == 1, np.nextafter(products, dtype(0)), np.where(kind == 2, products, x))
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, info.tiny / 4, info.max, -info.max, 1, -3.5], dtype)
    x[:100], y[:100] = np.repeat(special, 10), np.tile(special, 10)
    x[100:200] = rng.normal(size=100) * info.tiny
    y[150:250] = rng.normal(size=100) * info.tiny / 3
    with np.errstate(all="ignore"):
        for call in OPERATIONS.values():
            assert _same(nf.jit(lambda x, y, call=call: call(x, y))(x, y), call(x, y))

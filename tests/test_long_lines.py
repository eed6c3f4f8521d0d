"""What takes other ways for long lines than for the few elements of the table of forms, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nufunc as nf

RNG = np.random.default_rng(4)
N = 5001  # lines beyond 4096 elements count as long


def _lines() -> dict[str, np.ndarray]:
    normal = RNG.normal(size=N)
    return {
        "normal": normal, "few": np.round(normal), "zeros": np.where(normal > 0, 0.0, -0.0),
        "steep": RNG.exponential(size=N) ** 20, "tiny": normal * 1e-310, "huge": np.where(normal > 0.2, -1e304, 1e304),
        "ends": np.where(normal > 0, np.inf, -np.inf), "sorted": np.sort(normal),
        "some nan": np.where(normal > 2, np.nan, normal), "most nan": np.where(normal > -3, np.nan, normal),
        "nan": np.full(N, np.nan),
    }  # fmt: skip


LINES = _lines()


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("name", LINES)
def test_medians(name: str) -> None:
    medians = nf.jit(lambda x: (np.median(x), np.nanmedian(x)))
    for x in (LINES[name], LINES[name][1:]):
        for found, wanted in zip(medians(x), (np.median(x), np.nanmedian(x)), strict=True):
            assert np.array_equal(found, wanted, equal_nan=True)


def test_medians_of_columns() -> None:
    table = np.stack([LINES[name] for name in ("normal", "few", "some nan", "steep")], axis=1)
    found = nf.jit(lambda x: np.nanmedian(x, axis=0))(table)
    assert np.array_equal(found, np.nanmedian(table, axis=0))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_isin(dtype: Any) -> None:
    """Close together a table is used, else a search; the ends of the range are asked for in both."""
    info = np.iinfo(dtype)
    for low, high in ((0, 100), (info.min, info.max), (info.max - 60, info.max)):
        x, among = (RNG.integers(low, high, shape, dtype=dtype, endpoint=True) for shape in ((40, 50), N))
        x[0, :2] = info.min, info.max
        among = np.where(among % 3 == 0, among, among[0])
        assert np.array_equal(nf.jit(np.isin)(x, among), np.isin(x, among))


@pytest.mark.parametrize("side", ["left", "right"])
def test_searches(side: Any) -> None:
    edges = np.sort(np.concatenate([RNG.normal(size=777), [np.nan, np.inf, -np.inf, 0.0, -0.0]]))
    wanted = np.concatenate([LINES["normal"], edges, [np.nan]])
    found = nf.jit(lambda e, x: np.searchsorted(e, x, side))(edges, wanted)
    assert np.array_equal(found, np.searchsorted(edges, wanted, side))
    steps = edges[np.isfinite(edges)]
    for bins in (steps, steps[::-1].copy()):
        right = side == "left"
        places = nf.jit(lambda x, b: np.digitize(x, b, right))(wanted, bins)
        assert np.array_equal(places, np.digitize(wanted, bins, right))


def test_lines_of_many_keys() -> None:
    keys = RNG.integers(0, 2, (12, 5, 90))
    for axis in (0, -1):
        assert np.array_equal(nf.jit(lambda k: np.lexsort(k, axis=axis))(keys), np.lexsort(keys, axis=axis))
    x = RNG.normal(size=6)
    for increasing in (False, True):
        found = nf.jit(lambda x: np.vander(x, 20, increasing))(x)
        assert np.allclose(found, np.vander(x, 20, increasing), rtol=1e-13)


@pytest.mark.parametrize("order", ["big", "little"])
def test_bits(order: Any) -> None:
    x = RNG.integers(0, 3, (7, 205)).astype(np.uint8)
    for axis in (None, 0, 1):
        packed = nf.jit(lambda x: np.packbits(x, axis, order))(x)
        assert np.array_equal(packed, np.packbits(x, axis, order))
        spread = nf.jit(lambda x: np.unpackbits(x, axis, bitorder=order))(x)
        assert np.array_equal(spread, np.unpackbits(x, axis, bitorder=order))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_transforms_along_axes(axis: int) -> None:
    z = RNG.normal(size=(3, 8, 5)) + 1j * RNG.normal(size=(3, 8, 5))
    for call, x in ((np.fft.fft, z), (np.fft.ifft, z), (np.fft.irfft, z), (np.fft.rfft, z.real), (np.fft.hfft, z)):
        assert np.allclose(nf.jit(lambda x, f=call: f(x, axis=axis))(x), call(x, axis=axis), rtol=1e-12)
    assert np.allclose(nf.jit(np.fft.fftn)(z), np.fft.fftn(z), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", "u1", "u8"])
def test_powers_of_ints(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = RNG.integers(info.min, info.max, N, dtype=dtype, endpoint=True)
    y = np.where(RNG.random(N) < 0.5, RNG.integers(0, 5, N), RNG.integers(0, min(int(info.max), 2**62), N))
    assert np.array_equal(nf.jit(np.power)(x, y.astype(dtype)), np.power(x, y.astype(dtype)))


def test_runs_of_known_places() -> None:
    x = RNG.normal(size=(40, 70))
    for call in (lambda x: np.insert(x, 30, 1.5, axis=1), lambda x: np.delete(x, 3, axis=1), lambda x: np.delete(x, 3)):
        assert np.array_equal(nf.jit(call)(x), call(x))
        assert np.allclose(nf.grad(lambda x, f=call: np.sum(f(x) ** 2))(x), 2 * _kept(call, x) * x)


def _kept(call: Any, x: np.ndarray) -> np.ndarray:
    """1 where an element of x is still there."""
    return np.isin(x, call(x)).astype(float)

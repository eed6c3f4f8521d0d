"""Compiled sorts against NumPy's stable one: every dtype, at the lengths where the method changes, with odd floats."""

from __future__ import annotations

import numpy as np
import pytest

import nufunc as nf

LENGTHS = (0, 1, 2, 15, 16, 17, 33, 100, 127, 513, 1500)
ODD = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1.0, -1.0, 1e-310, -2.5])
DTYPES = ["f8", "f4", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def lines(dtype: np.dtype, n: int) -> list[np.ndarray]:
    """Values all over the range, and few different ones."""
    rng = np.random.default_rng(n)
    if dtype.kind == "b":
        return [rng.random(n) < 0.5]
    if dtype.kind == "f":
        return [rng.normal(size=n).astype(dtype), rng.choice(ODD, n).astype(dtype)]
    info = np.iinfo(dtype)
    wide = rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
    return [wide, rng.integers(0, 3, n).astype(dtype)]


@pytest.mark.parametrize("name", [*DTYPES[:3], *(pytest.param(d, marks=pytest.mark.slow) for d in DTYPES[3:])])
def test_sort_and_argsort(name: str) -> None:
    dtype = np.dtype(name)
    both = nf.jit(lambda x: (np.argsort(x, kind="stable"), np.sort(x)))
    for n in LENGTHS:
        for x in lines(dtype, n):
            order, values = both(x)
            np.testing.assert_array_equal(order, np.argsort(x, kind="stable"))
            np.testing.assert_array_equal(values, np.sort(x, kind="stable"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lines_along_any_axis(axis: int) -> None:
    x = np.random.default_rng(2).normal(size=(3, 70, 2))
    np.testing.assert_array_equal(nf.jit(lambda x: np.sort(x, axis=axis))(x), np.sort(x, axis=axis))
    ties = np.round(x)
    wanted = np.argsort(ties, axis=axis, kind="stable")
    np.testing.assert_array_equal(nf.jit(lambda x: np.argsort(x, axis=axis))(ties), wanted)


def test_under_vmap_and_in_loops() -> None:
    x = np.random.default_rng(3).normal(size=(5, 600))
    np.testing.assert_array_equal(nf.vmap(np.sort)(x), np.sort(x, axis=1))
    total = nf.jit(lambda x: nf.fori_loop(0, 3, lambda i, s: s + np.sort(x[i])[0], 0.0))(x)
    np.testing.assert_allclose(total, np.sort(x, axis=1)[:3, 0].sum())

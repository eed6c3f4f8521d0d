"""Largest and smallest elements with NaN and infinities at every place where accumulators change their form."""

from __future__ import annotations

import numpy as np
import pytest

import nufunc as nf


def placed(shape: tuple[int, ...], dtype: str, where: str) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    flat = x.reshape(-1)
    if where == "infinite":
        flat[:] = -np.inf
        flat[::3] = np.inf
    elif where == "everywhere":
        flat[:] = np.nan
    elif where:
        flat[{"first": 0, "middle": flat.size // 2, "last": -1}[where]] = np.nan
    return x


@pytest.mark.parametrize("where", ["", "first", "middle", "last", "everywhere", "infinite"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(7,), (100,), (40_000,), (3, 100), (300, 700), (1000, 3), (5, 6, 70)])
def test_extremes(shape: tuple[int, ...], dtype: str, where: str) -> None:
    x = placed(shape, dtype, where)
    axes = [None, *range(len(shape))]
    found = nf.jit(lambda x: [(x.max(axis=a), x.min(axis=a)) for a in axes])(x)
    for (largest, smallest), axis in zip(found, axes, strict=True):
        np.testing.assert_array_equal(largest, x.max(axis=axis))
        np.testing.assert_array_equal(smallest, x.min(axis=axis))


@pytest.mark.parametrize("where", ["", "first", "middle", "infinite"])
def test_extremes_on_the_way(where: str) -> None:
    x = placed((9, 33), "float64", where)
    found = nf.jit(lambda x: (np.maximum.accumulate(x, axis=1), np.minimum.accumulate(x, axis=0)))(x)
    np.testing.assert_array_equal(found[0], np.maximum.accumulate(x, axis=1))
    np.testing.assert_array_equal(found[1], np.minimum.accumulate(x, axis=0))

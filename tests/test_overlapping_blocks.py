"""Reductions of lines whose last block of lanes overlaps the one before: no element counts twice."""

from __future__ import annotations

import numpy as np
import pytest

import nufunc as nf

RNG = np.random.default_rng(8)
EXTREMES = ("max", "min", "ptp", "argmax", "argmin", "any", "all")


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_reductions(dtype: str) -> None:
    names = EXTREMES[:2] + EXTREMES[3:] if dtype == "?" else EXTREMES
    for n in (257, 1027):
        x = (RNG.normal(size=n) * 40).astype(dtype)
        for a in (x, np.where(np.arange(n) == n - 1, x, x[:1] * 0)):
            wanted = [getattr(np, name)(a) for name in names]
            found = nf.jit(lambda a: [getattr(np, name)(a) for name in names])(a)
            assert all(f == w for f, w in zip(found, wanted, strict=True))
        ones = np.ones(n, dtype)
        total, product = nf.jit(lambda a: (np.sum(a), np.prod(a)))(ones)
        assert total == np.sum(ones)
        assert product == 1

"""numpy.convolve and numpy.correlate of long lines: modes, dtypes, gradients, and that code stays short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf


def _operands(n: int, k: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + k)
    lines = [9 * rng.normal(size=m) + (1j * rng.normal(size=m) if np.dtype(dtype).kind == "c" else 0) for m in (n, k)]
    return tuple((np.abs(v) if np.dtype(dtype).kind == "u" else v).astype(dtype) for v in lines)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128, np.complex64, np.int64, np.uint8])
@pytest.mark.parametrize("call", [np.convolve, np.correlate])
@pytest.mark.parametrize(("n", "k"), [(200, 100), (65, 65), (70, 500)])
def test_values(call: Callable[..., np.ndarray], dtype: Any, n: int, k: int) -> None:
    x, w = _operands(n, k, dtype)
    modes = ("full", "same", "valid")
    for found, mode in zip(nf.jit(lambda x, w: [call(x, w, m) for m in modes])(x, w), modes, strict=True):
        wanted = call(x, w, mode)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        exact = wanted.dtype.kind in "iu"
        size = 0.0 if exact else np.abs(wanted).max() * 10 * np.finfo(wanted.dtype).eps
        assert np.array_equal(found, wanted) if exact else np.abs(found - wanted).max() <= size


def test_gradients() -> None:
    x, w = _operands(200, 90, np.float64)
    loss = lambda x, w: np.sum(np.sin(np.convolve(x, w) / 99))
    for k, gradient in enumerate(nf.grad(loss, argnums=(0, 1))(x, w)):
        d = np.random.default_rng(k).normal(size=gradient.shape)
        ends = [loss(*(v + s * d if j == k else v for j, v in enumerate((x, w)))) for s in (1e-5, -1e-5)]
        assert np.isclose((ends[0] - ends[1]) / 2e-5, gradient @ d, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.complex128, np.int64])
def test_short_code(dtype: Any) -> None:
    """Thousands of elements are no thousands of steps."""
    x, w = _operands(3000, 2000, dtype)
    assert nf.dump(np.convolve, x, w, stage="grouped").count("\n") < 100

"""Large results that are stored past the caches, and rows that are asked for beforehand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen import streams
from nufunc.codegen.backend import target

pytestmark = pytest.mark.skipif(not target().triple.startswith("x86_64"), reason="plain stores serve")

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PAST", 1 << 10)
    monkeypatch.setattr(streams, "FAR", 1 << 10)


def memory(shape: tuple[int, ...], dtype: Any, shift: int) -> np.ndarray:
    """An array that begins `shift` bytes behind a line of the cache, with numbers that nobody computes."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = np.zeros(count + 128, np.uint8)
    start = -block.__array_interface__["data"][0] % 64 + shift
    array = block[start : start + count].view(dtype).reshape(shape)
    array[...] = 77
    return array


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def stencil(x: Any) -> Any:
    return x[1:-1, 1:-1] * 4.0 - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]


CASES: list[tuple[Callable[..., Any], tuple[int, ...], bool]] = [
    (lambda x: x * 2.0, (64, 128), True),
    (lambda x: x * 2.0 + 1.0, (64, 131), True),
    (lambda x: x * 2.0, (8191,), True),
    (lambda x: x * np.arange(x.size), (8195,), True),
    (lambda x: x[:, None] * np.ones(3), (5001,), False),
    (lambda x: x[:, :1] + x[:1], (64, 128), True),
    (lambda x: x.T.copy(), (64, 128), True),
    (lambda x: x.T.copy(), (208, 192), True),
    (lambda x: x.T + 1.0, (67, 129), False),
    (lambda x: np.concatenate([x, x], axis=1), (64, 128), True),
    (lambda x: np.pad(x, 1), (64, 50), False),
    (softmax, (64, 128), True),
    (stencil, (66, 130), True),
    (lambda x: x.sum(axis=0), (300, 1024), True),
    (lambda x: x.sum(axis=0, keepdims=True) * x, (300, 1024), True),
    (lambda x: x > 0.5, (64, 1024), False),
    (lambda x: np.stack([x, -x], axis=-1), (64, 128), False),
    (lambda x: x * 1j, (64, 128), False),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_values_in_any_memory(number: int, dtype: str) -> None:
    func, shape, passes = CASES[number]
    x = RNG.standard_normal(shape).astype(dtype)
    expected = func(x)
    f = nf.jit(func)
    found = f(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for shift in (0, expected.itemsize, 32):
        out = memory(expected.shape, expected.dtype, shift)
        f(x, out=out)
        np.testing.assert_array_equal(out, found)
    if sys.platform.startswith("linux"):
        assert ("vmovnt" in nf.dump(func, x, stage="asm")) == passes


def test_in_place_and_donated() -> None:
    x = memory((64, 128), np.float64, 0)
    x[...] = RNG.standard_normal(x.shape)
    expected = x * 3.0

    def triple(x: np.ndarray) -> None:
        x *= 3.0

    nf.jit(triple)(x)
    np.testing.assert_array_equal(x, expected)
    y = nf.jit(lambda x: x + 1.0, donate_argnums=0)(x)
    np.testing.assert_array_equal(y, expected + 1.0)
    assert y is x


def test_temporaries_and_loops() -> None:
    a = RNG.standard_normal((64, 128))

    def func(a: np.ndarray) -> np.ndarray:
        t = a.T.copy()
        for _ in range(3):
            t = (t @ a) @ t * 1e-3
        return np.sort(t, axis=1) + a.T

    np.testing.assert_allclose(nf.jit(func)(a), func(a), rtol=1e-10)


@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_threads(count: int) -> None:
    x = RNG.standard_normal((512, 1024))
    before = nf.get_num_threads()
    nf.set_num_threads(min(count, before))
    try:
        out = memory(x.T.shape, x.dtype, 0)
        nf.jit(lambda x: x.T * 2.0)(x, out=out)
        np.testing.assert_array_equal(out, x.T * 2.0)
        np.testing.assert_allclose(nf.jit(lambda x: x.sum(axis=0))(x), x.sum(axis=0), rtol=1e-12, atol=1e-12)
    finally:
        nf.set_num_threads(before)

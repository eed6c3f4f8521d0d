"""The samples of NumPy calls on a device: jit with NumPy's arrays over and back, gradients and lanes of device arrays.

A part of the samples runs by default, all of them with `-m slow`; on hardware with NUFUNC_TEST_DEVICE=hardware.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_device import device
from numpy_harness import assert_same
from test_numpy_compiled import CHOSEN, DIFFERENTIATED, flat, some, wanted

import nufunc as nf

__all__ = ["device"]
pytestmark = pytest.mark.cudasim


def tolerance(sample: Any, result: Any) -> float:
    single = np.asarray(result).dtype in (np.float32, np.complex64, np.float16)
    return max(sample.rtol, 1e-5 if single else 1e-10)


@pytest.mark.parametrize("sample", some(CHOSEN, 4), ids=repr)
def test_like_numpy(sample: Any) -> None:
    """And the same bits each time."""
    function = nf.jit(flat(sample), target="cuda")
    actual, again = (function(*[np.array(a, copy=True, order="K") for a in sample.args]) for _ in range(2))
    for a, b, w in zip(actual, again, wanted(sample, *sample.args), strict=True):
        assert isinstance(a, np.ndarray | np.generic)
        assert a.tobytes() == b.tobytes()
        assert_same(a, w, tolerance(sample, w))


@pytest.mark.parametrize("sample", some(CHOSEN, 11), ids=repr)
def test_lanes(sample: Any) -> None:
    lanes = [[a.copy() for a in sample.args] for _ in range(2)]
    for a in lanes[1]:
        if a.dtype.kind in "fc" and a.ndim == 2 and a.shape[0] != a.shape[1]:
            a[:-1] = a[:-1] * 0.75
    slices = [wanted(sample, *lane) for lane in lanes]
    stacks = [nf.to_device(np.stack(parts)) for parts in zip(*lanes, strict=True)]
    for k, a in enumerate(nf.vmap(flat(sample, copies=True))(*stacks)):
        assert isinstance(a, nf.DeviceArray)
        single = np.asarray(slices[0][k]).dtype in (np.float32, np.complex64)
        assert_same(np.asarray(a), np.stack([lane[k] for lane in slices]), 1e-5 if single else 1e-9)


@pytest.mark.parametrize("sample", some(DIFFERENTIATED, 7), ids=repr)
def test_gradients_are_those_of_the_cpu(sample: Any) -> None:
    """Which are compared with finite differences elsewhere."""
    rng = np.random.default_rng(3)
    results = wanted(sample, *sample.args)
    weights = [rng.normal(size=np.shape(r)) if np.asarray(r).dtype == np.float64 else None for r in results]
    at = tuple(k for k, a in enumerate(sample.args) if a.dtype == np.float64 and a.size)

    def loss(*arrays: Any) -> Any:
        weighted = zip(flat(sample, copies=True)(*arrays), weights, strict=True)
        return sum((np.sum(r * w) for r, w in weighted if w is not None), 0.0 * arrays[at[0]].sum())

    expected = nf.grad(loss, argnums=at)(*sample.args)
    actual = nf.grad(loss, argnums=at)(*[nf.to_device(a) for a in sample.args])
    for a, w in zip(actual, expected, strict=True):
        assert_same(np.asarray(a), w, 1e-8)

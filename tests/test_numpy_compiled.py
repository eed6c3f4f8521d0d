"""The samples of NumPy calls under nf.jit, nf.vmap and nf.grad: NumPy's values, stacks of slices, finite differences.

A part of the samples runs by default, all of them with `-m slow`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy_harness import assert_same, expected
from numpy_samples import SAMPLES

import nufunc as nf

# The order of a norm is a captured float in these, and so traced; and the strides are those of a copied argument.
UNSUITED = ("inf", "attributes")
CHOSEN = [s for s in SAMPLES if not any(part in s.name for part in UNSUITED)]

# Steps and kinks within reach of the differences; std at a spread of zero; functions that read one triangle.
ROUGH = ("floor_divide", "remainder(float64[3, 1]", "fmod(float64[3, 1]", "axis=())", "std(float64[])", "cholesky",
         "float64[3, 5]", "unique", "interp(float64[5]", "histogram(float64[5]", "axis weights", "eigh", "eigvalsh",
         "hermitian", "cond(float64[2, 2]", " rough")  # fmt: skip
DIFFERENTIATED = [
    s
    for s in CHOSEN
    if not any(part in s.name for part in ROUGH)
    and any(a.dtype == np.float64 and a.size and np.isfinite(a).all() for a in s.args)
]


def some(samples: list[Any], step: int) -> list[Any]:
    """Every step-th sample; the others are marked slow."""
    return [s if i % step == 0 else pytest.param(s, marks=pytest.mark.slow) for i, s in enumerate(samples)]


def flat(sample: Any, copies: bool = False) -> Callable[..., tuple[Any, ...]]:
    """The sample as a function of its arrays with a tuple of results."""

    def call(*arrays: Any) -> tuple[Any, ...]:
        results = sample.call(np, *[a.copy() for a in arrays] if copies else arrays)
        return tuple(results) if isinstance(results, (tuple, list)) else (results,)

    return call


def wanted(sample: Any, *arrays: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's warnings of means of nothing and of overflow
        return expected(sample.call, *arrays)


@pytest.mark.parametrize("sample", some(CHOSEN, 5), ids=repr)
def test_compiled_like_numpy(sample: Any) -> None:
    actual = nf.jit(flat(sample))(*[np.array(a, copy=True, order="K") for a in sample.args])
    for a, w in zip(actual, wanted(sample, *sample.args), strict=True):
        assert_same(a, w, max(sample.rtol, 1e-11))


@pytest.mark.parametrize("sample", some(CHOSEN, 11), ids=repr)
def test_vmap_is_a_stack_of_slices(sample: Any) -> None:
    lanes = [[a.copy() for a in sample.args] for _ in range(2)]
    for a in lanes[1]:
        if a.dtype.kind in "fc" and a.ndim == 2 and a.shape[0] != a.shape[1]:
            a[:-1] = a[:-1] * 0.75
    slices = [wanted(sample, *lane) for lane in lanes]
    actual = nf.vmap(flat(sample, copies=True))(*[np.stack(parts) for parts in zip(*lanes, strict=True)])
    for k, a in enumerate(actual):
        single = np.asarray(slices[0][k]).dtype in (np.float32, np.complex64)
        assert_same(a, np.stack([lane[k] for lane in slices]), 2e-6 if single else 1e-9)


@pytest.mark.parametrize("sample", some(DIFFERENTIATED, 7), ids=repr)
def test_gradient_against_finite_differences(sample: Any) -> None:
    rng = np.random.default_rng(3)
    results = wanted(sample, *sample.args)
    weights = [rng.normal(size=np.shape(r)) if np.asarray(r).dtype == np.float64 else None for r in results]
    if all(w is None for w in weights):
        pytest.skip("no result of float64")
    call = flat(sample, copies=True)

    def weighted(*arrays: Any) -> Any:
        return sum((r * w).sum() for r, w in zip(call(*arrays), weights, strict=True) if w is not None)

    numbers = [i for i, a in enumerate(sample.args) if a.dtype == np.float64 and np.isfinite(a).all()]
    gradients = nf.grad(weighted, argnums=tuple(numbers))(*[a.copy() for a in sample.args])
    for i, gradient in zip(numbers, gradients, strict=True):
        direction = rng.normal(size=sample.args[i].shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = [a.copy() for a in sample.args]
            moved[i] = moved[i] + step * direction
            with np.errstate(all="ignore"):
                ends.append(weighted(*moved))
        slope = (ends[0] - ends[1]) / 2e-6
        assert abs((gradient * direction).sum() - slope) <= 1e-5 * max(1.0, abs(slope))

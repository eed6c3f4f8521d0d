"""Programs as users write them: compiled, differentiated in both modes and twice, and mapped; against NumPy and central
differences. A part by default, all with `-m slow`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy_programs
import numpy_programs_science
import pytest
from numpy_program_tools import PROGRAMS, Program

import nufunc as nf

assert numpy_programs.PROGRAMS is numpy_programs_science.PROGRAMS is PROGRAMS
LIST = [p if k % 8 == 0 else pytest.param(p, marks=pytest.mark.slow, id=repr(p)) for k, p in enumerate(PROGRAMS)]
STEP = 1e-6


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def copied(args: list[Any]) -> list[Any]:
    return [a.copy() if isinstance(a, np.ndarray) else a for a in args]


def leaves(results: Any) -> list[Any]:
    return [leaf for part in results for leaf in leaves(part)] if isinstance(results, (list, tuple)) else [results]


class Weighted:
    """A program as a function of its floats alone, with a number as result; and a direction in its floats."""

    def __init__(self, program: Program) -> None:
        rng = np.random.default_rng(4)
        self.args = program.args()
        self.places = [k for k, a in enumerate(self.args) if isinstance(a, np.ndarray) and a.dtype.kind in "fc"]
        self.floats = [self.args[k] for k in self.places]
        self.directions = [rng.normal(size=a.shape) for a in self.floats]
        for k, a in enumerate(self.floats):
            if a.ndim == 2 and a.shape[0] == a.shape[1] and np.array_equal(a, a.T):
                self.directions[k] = self.directions[k] + self.directions[k].T
        base = leaves(program.function(*copied(self.args)))
        weights = [rng.normal(size=np.shape(r)) if np.asarray(r).dtype.kind in "fc" else None for r in base]
        args, places = self.args, self.places

        def call(*floats: Any) -> Any:
            whole = list(args)
            for place, x in zip(places, floats):
                whole[place] = x
            results = leaves(program.function(*whole))
            return sum((np.real(r) * w).sum() for r, w in zip(results, weights) if w is not None)

        self.call = call

    def moved(self, step: float) -> list[np.ndarray]:
        return [a + step * d for a, d in zip(self.floats, self.directions)]

    def slope(self, call: Callable[..., Any], step: float) -> Any:
        return (call(*self.moved(step)) - call(*self.moved(-step))) / (2 * step)

    def along(self, gradients: Any) -> Any:
        return sum((g * d).sum() for g, d in zip(gradients, self.directions))


@pytest.mark.parametrize("program", LIST, ids=repr)
def test_compiled(program: Program) -> None:
    wanted = leaves(program.function(*copied(program.args())))
    actual = leaves(nf.jit(program.function)(*copied(program.args())))
    for a, w in zip(actual, map(np.asarray, wanted), strict=True):
        assert np.shape(a) == w.shape
        assert np.asarray(a).dtype == w.dtype
        np.testing.assert_allclose(a, w, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("program", LIST, ids=repr)
def test_derivatives(program: Program) -> None:
    weighted = Weighted(program)
    slope = weighted.slope(weighted.call, STEP)
    gradient = nf.grad(weighted.call, argnums=tuple(range(len(weighted.floats))))
    assert np.isclose(weighted.along(gradient(*weighted.floats)), slope, rtol=2e-4, atol=1e-4)
    tangent = nf.jvp(weighted.call, tuple(weighted.floats), tuple(weighted.directions))[1]
    assert np.isclose(tangent, slope, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("program", LIST[1:], ids=repr)
def test_second_derivatives(program: Program) -> None:
    weighted = Weighted(program)
    gradient = nf.grad(weighted.call, argnums=tuple(range(len(weighted.floats))))
    once = nf.jit(lambda *floats: weighted.along(gradient(*floats)))
    twice = nf.jvp(once, tuple(weighted.floats), tuple(weighted.directions))[1]
    assert np.isclose(twice, weighted.slope(once, 1e-5), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("program", LIST[1:], ids=repr)
def test_mapped(program: Program) -> None:
    args = program.args()
    floats = [isinstance(a, np.ndarray) and a.dtype.kind in "fc" for a in args]
    others = [a * 0.9 if on else a for a, on in zip(args, floats)]
    loop = [leaves(program.function(*copied(lane))) for lane in (args, others)]
    stacked = [np.stack([a, o]) if on else a for a, o, on in zip(args, others, floats)]
    actual = nf.vmap(program.function, in_dims=tuple(0 if on else None for on in floats))(*stacked)
    for a, one, two in zip(leaves(actual), *loop, strict=True):
        np.testing.assert_allclose(a, np.stack([one, two]), rtol=1e-8, atol=1e-8)

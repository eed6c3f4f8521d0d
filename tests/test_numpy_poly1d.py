"""numpy.poly1d in traced code: captured ones, those of traced coefficients, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf

X = np.linspace(-1, 1, 5)
C = np.array([1.0, -3.0, 2.0])
P = np.poly1d([1.0, 2.0, 3.0])

PROGRAMS: dict[str, Callable[..., Any]] = {
    "captured": lambda c, x: P(x) + len(P) + P[1] + P.order,
    "fitted": lambda c, x: np.poly1d(np.polyfit(x, x**3 + c[0], 2))(x * 0.5),
    "arithmetic": lambda c, x: ((np.poly1d(c) + P) * np.poly1d(c) - 2.0)(x),
    "of both sides": lambda c, x: (3 - np.poly1d(c) / 2)(x) + (-np.poly1d(c))(x) + (2 * np.poly1d(c))(x),
    "power": lambda c, x: (np.poly1d(c) ** 3)(x),
    "quotient": lambda c, x: [q(x) for q in np.poly1d(c) / np.poly1d([1.0, 2.0])],
    "derivative": lambda c, x: np.poly1d(c).deriv()(x) + P.deriv(2)(x) + P.integ(k=1.0)(x),
    "composed": lambda c, x: np.poly1d(c)(P)(x),
    "roots": lambda c, x: (np.sort(np.poly1d(c).r), np.poly1d(c, True).coeffs),
    "items": lambda c, x: [*np.poly1d(c), np.poly1d(c)[0], np.poly1d(c)[7]],
    "functions": lambda c, x: np.polyval(np.polymul(np.poly1d(c), P), x) + np.polyder(P)(x) + np.polyadd(P, c)(x),
    "equality": lambda c, x: [np.poly1d(c) == np.poly1d(C), np.poly1d(c) != P, np.poly1d(c) == P.deriv()],
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_numpy(name: str) -> None:
    call = PROGRAMS[name]
    for actual, wanted in zip(nf.tree.leaves(nf.jit(call)(C, X)), nf.tree.leaves(call(C, X)), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12)


def test_transforms() -> None:
    gradient = nf.grad(lambda c: np.poly1d(c)(X).sum())(C)
    np.testing.assert_allclose(gradient, [np.sum(X**2), np.sum(X), len(X)], atol=1e-15)
    lanes = nf.vmap(lambda c: np.poly1d(c).deriv()(0.5))(np.stack([C, C + 1]))
    np.testing.assert_allclose(lanes, [-2.0, 0.0])


def test_a_captured_one_is_read_at_each_call() -> None:
    held = {"p": np.poly1d([1.0, 0.0])}
    call = nf.jit(lambda x: held["p"](x))
    np.testing.assert_allclose(call(X), X)
    held["p"] = np.poly1d([2.0, 1.0])
    np.testing.assert_allclose(call(X), 2 * X + 1)
    held["p"] = np.poly1d([2.0, 1.0, 0.0])
    np.testing.assert_allclose(call(X), 2 * X**2 + X)
    held["p"].coeffs[:] = 1.0
    np.testing.assert_allclose(call(X), X**2 + X + 1)


def test_what_cannot_be() -> None:
    with pytest.raises(nf.UnsupportedError, match="new power"):
        nf.jit(lambda c: np.poly1d(c).__setitem__(9, 1.0))(C)
    with pytest.raises(ValueError, match="non-negative"):
        nf.jit(lambda c: (np.poly1d(c) ** -1)(0.5))(C)

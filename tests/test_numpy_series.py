"""The classes of numpy.polynomial in traced code: of traced coefficients, fitted, converted, captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.polynomial import Chebyshev, Hermite, HermiteE, Laguerre, Legendre, Polynomial

import nufunc as nf

X = np.linspace(-1, 2, 7)
Y = np.sin(X)
C = np.array([1.0, -3.0, 2.0])
P = Polynomial([1.0, 2.0, 3.0])
WIDE = Chebyshev([1.0, 0.5, 0.25], domain=[-2, 3])

PROGRAMS: dict[str, Callable[..., Any]] = {
    "all kinds": lambda c, x, y: [k(c)(x) for k in (Polynomial, Chebyshev, Legendre, Hermite, HermiteE, Laguerre)],
    "by module": lambda c, x, y: np.polynomial.Polynomial(c)(x) + np.polynomial.chebyshev.Chebyshev(c)(x),
    "domain": lambda c, x, y: Chebyshev(c, domain=[0, 2])(x) + Legendre(c, window=[0, 1]).deriv(2)(x),
    "fit": lambda c, x, y: [Polynomial.fit(x, y, 3)(x), Chebyshev.fit(x, y, 2, domain=[-1, 2]).coef],
    "fit and convert": lambda c, x, y: Polynomial.fit(x, y, 2, w=x + 2).convert().coef,
    "arithmetic": lambda c, x, y: ((Polynomial(c) + Polynomial([1.0, 2.0])) * Polynomial(c) - 2.0)(x),
    "of both sides": lambda c, x, y: (2 * Polynomial(c) ** 2 / 3.0)(x) + (1 - Polynomial(c))(x) + (-Polynomial(c))(x),
    "calculus": lambda c, x, y: Polynomial(c).integ(1, k=[1.0])(x) + Chebyshev(c).deriv()(x),
    "quotients": lambda c, x, y: [q(x) for q in divmod(Polynomial(c), Polynomial([1.0, 1.0]))],
    "roots": lambda c, x, y: [np.sort(Polynomial(c).roots()), Polynomial.fromroots(c).coef, Polynomial(c).degree()],
    "other kind": lambda c, x, y: Polynomial(c).convert(kind=Chebyshev).coef,
    "basis": lambda c, x, y: Chebyshev.basis(3)(x) + Polynomial(c).linspace(7)[1],
    "captured": lambda c, x, y: P(x) + WIDE.deriv()(x) + P.coef[1],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_numpy(name: str) -> None:
    call = PROGRAMS[name]
    for actual, wanted in zip(nf.tree.leaves(nf.jit(call)(C, X, Y)), nf.tree.leaves(call(C, X, Y)), strict=True):
        assert np.shape(actual) == np.shape(wanted)
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-12)


def test_transforms() -> None:
    gradient = nf.grad(lambda c: Chebyshev(c)(X).sum())(C)
    np.testing.assert_allclose(gradient, [len(X), X.sum(), (2 * X**2 - 1).sum()], atol=1e-12)
    np.testing.assert_allclose(nf.vmap(lambda c: Polynomial(c)(0.5))(np.stack([C, C + 1])), [0.0, 1.75])


def test_a_captured_one_is_read_at_each_call() -> None:
    held = {"p": Polynomial([0.0, 1.0])}
    call = nf.jit(lambda x: held["p"](x))
    np.testing.assert_allclose(call(X), X)
    held["p"] = Polynomial([1.0, 2.0])
    np.testing.assert_allclose(call(X), 2 * X + 1)
    held["p"] = Legendre([0.0, 0.0, 1.0])
    np.testing.assert_allclose(call(X), 1.5 * X**2 - 0.5)

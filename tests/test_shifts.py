"""Maxima whose derivative cancels: which ones are found, and that derivatives are right where none is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf

X = np.random.default_rng(0).standard_normal((3, 5))


def central(func: Callable[[np.ndarray], Any], x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a function of one number."""
    found = np.empty_like(x)
    for index in np.ndindex(x.shape):
        move = np.zeros_like(x)
        move[index] = step
        found[index] = (func(x + move) - func(x - move)) / (2 * step)
    return found


def logsumexp(x: Any) -> Any:
    m = x.max(axis=-1, keepdims=True)
    return (np.log(np.exp(x - m).sum(axis=-1, keepdims=True)) + m)[..., 0]


def log_softmax(x: Any) -> Any:
    s = x - x.max(axis=-1, keepdims=True)
    return s - np.log(np.exp(s).sum(axis=-1, keepdims=True))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def by_columns(x: Any) -> Any:
    m = x.max(axis=0)
    return np.log(np.exp(x - m).sum(axis=0)) + m


def of_all(x: Any) -> Any:
    m = x.max()
    return np.log(np.exp(2.0 * (x - m)).sum()) / 2.0 + m


def weighted(x: Any) -> Any:
    e = np.exp(-(x - x.min(axis=1)[:, None]))
    return (e * x).sum(axis=1) / e.sum(axis=1)


def centred(x: Any) -> Any:
    s = x - x.max(axis=1, keepdims=True)
    return s - s.mean(axis=1, keepdims=True)


def squared(x: Any) -> Any:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e * e / (e * e).sum(axis=1, keepdims=True)


CANCELLING = [logsumexp, log_softmax, softmax, by_columns, of_all, weighted, squared, centred]

OTHERS: list[Callable[[Any], Any]] = [
    lambda x: x - x.max(axis=1, keepdims=True),
    lambda x: np.exp(x - x.max(axis=1, keepdims=True)),
    lambda x: np.exp(x - x.max(axis=1, keepdims=True)) * x.max(axis=1, keepdims=True),
    lambda x: x / np.abs(x).max(axis=1, keepdims=True),
    lambda x: np.log(np.exp(x - x.max()).sum(axis=1)) + 2.0 * x.max(),
    lambda x: np.log(np.exp(x - x.max(axis=1, keepdims=True)).sum()),
    lambda x: (x - x.max(axis=1, keepdims=True)).sum(axis=1) + 4.0 * x.max(axis=1),
    lambda x: np.log(np.exp(x - x.max(axis=1, keepdims=True)).sum(axis=1)[::-1]) + x.max(axis=1),
    lambda x: np.where(x > 0, x - x.max(), x.max()),
    lambda x: np.exp(x.T - x.max(axis=1)) / np.exp(x - x.max(axis=1, keepdims=True)).sum(axis=0)[:, None],
    lambda x: np.sqrt(np.exp(x - x.max())) * np.exp(x.max()),
]


def weighted_sum(func: Callable[[Any], Any]) -> Callable[[Any], Any]:
    weights = np.random.default_rng(1).standard_normal(np.shape(func(X)))
    return lambda x: (np.sin(func(x)) * weights).sum()


def looks_for_ties(func: Callable[[Any], Any]) -> bool:
    return " eq(" in nf.dump(nf.grad(weighted_sum(func)), X, stage="simplified")


@pytest.mark.parametrize("func", CANCELLING)
def test_shifts_have_no_derivative(func: Callable[[Any], Any]) -> None:
    loss = weighted_sum(func)
    assert not looks_for_ties(func)
    np.testing.assert_allclose(nf.grad(loss)(X), central(loss, X), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(nf.jvp(loss, (X,), (X,))[1], (central(loss, X) * X).sum(), rtol=1e-5, atol=1e-7)
    second = nf.hessian(loss)(X)
    np.testing.assert_allclose(second[1, 2], central(lambda x: nf.grad(loss)(x)[1, 2], X), rtol=1e-4, atol=1e-6)
    stack = np.stack([X, X[::-1]])
    mapped = nf.vmap(nf.grad(loss))(stack)
    np.testing.assert_allclose(mapped, [nf.grad(loss)(x) for x in stack], rtol=1e-12)
    assert " eq(" not in nf.dump(nf.vmap(nf.grad(loss)), stack, stage="simplified")


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_other_maxima_keep_theirs(number: int) -> None:
    loss = weighted_sum(OTHERS[number])
    assert looks_for_ties(OTHERS[number])
    np.testing.assert_allclose(nf.grad(loss)(X), central(loss, X), rtol=1e-5, atol=1e-7)


def test_a_shift_that_cancels_by_its_number() -> None:
    func = lambda x: (x - x.max(axis=1, keepdims=True)).sum(axis=1) + 5.0 * x.max(axis=1)
    assert not looks_for_ties(func)
    np.testing.assert_allclose(nf.grad(weighted_sum(func))(X), central(weighted_sum(func), X), rtol=1e-5, atol=1e-7)


def test_ties_and_large_numbers() -> None:
    x = np.array([[1000.0, 1000.0, 999.0], [-1000.0, -1000.0, -1000.0]])
    expected = np.exp(x - x.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(nf.grad(lambda x: logsumexp(x).sum())(x), expected, rtol=1e-14)
    assert np.isnan(nf.grad(lambda x: logsumexp(x).sum())(np.array([[np.nan, 1.0]]))).all()


def test_in_loops() -> None:
    def func(x: Any) -> Any:
        return nf.fori_loop(0, 3, lambda _, c: log_softmax(c * x), x).sum()

    np.testing.assert_allclose(nf.grad(func)(X), central(func, X), rtol=1e-5, atol=1e-6)

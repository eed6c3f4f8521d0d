"""Adding one element per row to zeros becomes a comparison, with the scatter's results and errors."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.errors import BoundsError

rng = np.random.default_rng(0)
X = rng.normal(size=(50, 7))
Y = rng.integers(-7, 7, 50)
X3 = rng.normal(size=(5, 7, 3))


def along_rows(x, y):
    return np.sum(np.take_along_axis(x, y[:, None], axis=1) ** 2 * np.arange(50)[:, None])


def counted(x, y):
    return np.sum(np.sin(x[np.arange(50), y]))


def with_what_follows(x, y):
    return np.sum(np.sin(x[np.arange(5), y]) * np.arange(3))


def between(x, y):
    return np.sum(np.sin(np.take_along_axis(x, y, axis=1)))


def clipped(x, y):
    return np.sum(np.sin(np.take_along_axis(x, np.clip(y, 0, 6)[:, None], axis=1)))


CASES = [
    (along_rows, X, Y),
    (counted, X, Y),
    (with_what_follows, X3, Y[:5]),
    (between, X3, np.abs(Y[:15] % 7).reshape(5, 1, 3)),
    (clipped, X, Y * 2),
]


@pytest.mark.parametrize(("function", "x", "y"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_gradients_have_no_scatter(function, x, y):
    gradient = nf.grad(function)
    d = rng.normal(size=x.shape)
    slope = (function(x + 1e-6 * d, y) - function(x - 1e-6 * d, y)) / 2e-6
    np.testing.assert_allclose(np.sum(gradient(x, y) * d), slope, rtol=1e-6, atol=1e-6)
    assert "scatter" not in nf.dump(gradient, x, y, stage="grouped")


def test_batched_and_out_of_bounds():
    gradient = nf.vmap(nf.grad(lambda row, i: np.sin(row[i])))
    y = Y % 7
    expected = np.where(np.arange(7) == y[:, None], np.cos(X), 0)
    np.testing.assert_allclose(gradient(X, y), expected, rtol=1e-14)
    with pytest.raises(BoundsError):
        gradient(X, y + 5)


def test_repeated_rows_still_accumulate():
    rows = np.array([0, 0, 3])
    gradient = nf.grad(lambda x: np.sum(x[rows, np.array([1, 1, 2])] * np.array([1.0, 2.0, 4.0])))(X)
    assert gradient[0, 1] == 3.0
    assert gradient[3, 2] == 4.0
    assert np.count_nonzero(gradient) == 2


def test_a_product_that_is_read_transposed_is_computed_so():
    w = rng.normal(size=(30, 20))
    x = rng.normal(size=(12, 10, 20))
    turned = nf.jit(lambda w, x: np.cos(np.transpose(np.tensordot(w, x, axes=((1,), (2,))), (1, 2, 0))))
    np.testing.assert_allclose(turned(w, x), np.cos(np.einsum("ij,abj->abi", w, x)), atol=1e-12)
    assert "transpose{" not in nf.dump(turned, w, x, stage="grouped")
    both = nf.jit(lambda w, x: (lambda r: (r, r.T))(w @ x[0].T))
    np.testing.assert_allclose(both(w, x)[1], x[0] @ w.T, atol=1e-12)
    a, c = rng.normal(size=(4, 30, 20)), rng.normal(size=(4, 20, 25))
    batched = nf.jit(lambda a, c: np.swapaxes(a @ c, 1, 2))
    np.testing.assert_allclose(batched(a, c), np.swapaxes(a @ c, 1, 2), atol=1e-12)
    assert "transpose{" not in nf.dump(batched, a, c, stage="grouped")

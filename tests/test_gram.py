"""Products of a matrix with its own transpose, of which one triangle is computed."""

from collections.abc import Callable

import numpy as np
import pytest

import nufunc as nf
from nufunc.passes import gram

RNG = np.random.default_rng(5)
PROGRAMS: dict[str, Callable[..., np.ndarray]] = {
    "rows": lambda x: x @ x.T,
    "columns": lambda x: x.T @ x,
    "inner": lambda x: np.inner(x, x),
    "einsum": lambda x: np.einsum("ki,kj->ij", x, x),
    "read by others": lambda x: np.exp(-0.01 * (x @ x.T)) + np.eye(len(x)),
    "covariance": np.cov,
    "view": lambda x: x[::2, 1:] @ x[::2, 1:].T,
}


def _dots(f: Callable[..., np.ndarray], *args: np.ndarray) -> int:
    return nf.dump(f, *args, stage="grouped").count(" = dot{")


@pytest.mark.parametrize("shape", [(130, 7), (4, 300), (257, 64), (1, 3)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_are_numpys_and_symmetric(name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "_WORTH", 0)
    f, x = PROGRAMS[name], RNG.normal(size=shape)
    if name == "covariance" and shape[0] < 2:
        pytest.skip("a number")
    got = nf.jit(f)(x)
    np.testing.assert_allclose(got, f(x), rtol=1e-11, atol=1e-12 * shape[1])
    np.testing.assert_array_equal(got, got.T)


def test_large_ones_are_computed_by_halves() -> None:
    x = np.zeros((1000, 600), np.float32)
    assert _dots(lambda x: x @ x.T, x) == 4
    assert _dots(lambda x: x[:100] @ x[:100].T, x) == 1
    assert _dots(lambda x: x @ (2 * x).T, x) == 1
    square = np.zeros((900, 900))
    assert _dots(lambda x: x @ x, square) == 1
    assert _dots(lambda x: x.T @ x.T, square) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives_pass_through(dtype: type) -> None:
    x = RNG.normal(size=(1030, 500)).astype(dtype)
    tolerance = 1e-3 if dtype is np.float32 else 1e-10
    value, slope = nf.value_and_grad(lambda x: np.sum((x @ x.T) ** 2))(x)
    product = x @ x.T
    np.testing.assert_allclose(value, np.sum(product**2), rtol=tolerance)
    np.testing.assert_allclose(slope, 4 * product @ x, rtol=tolerance, atol=tolerance * np.abs(slope).max())

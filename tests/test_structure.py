"""Rewrites by the structure of matrices: solves with Cholesky factors substitute, diagonals are comparisons."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir import Builder
from nufunc.ir.interpret import run as interpret
from nufunc.ir.types import ArrayType
from nufunc.ir.verify import verify
from nufunc.passes.fuse import fuse
from nufunc.passes.structure import structured

rng = np.random.default_rng(5)


def positive(*shape, dtype=float):
    a = rng.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        a = a + 1j * rng.normal(size=shape)
    return a @ np.conj(np.swapaxes(a, -1, -2)) + shape[-1] * np.eye(shape[-1])


def prims(func, *args):
    text = nf.dump(func, *args, stage="grouped")
    return {name: text.count(f"= {name}") for name in ("solve", "triangular_solve", "cholesky")}


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (3, 20, 20), (70, 70)])
def test_solves_with_a_factor_substitute(shape, dtype):
    a, y = positive(*shape, dtype=dtype), rng.normal(size=(*shape[:-1], 2))

    def whitened(a, y):
        low = np.linalg.cholesky(a)
        return np.linalg.solve(np.swapaxes(low, -1, -2), np.linalg.solve(low, y))

    func = nf.jit(whitened)
    np.testing.assert_allclose(func(a, y), whitened(a, y), rtol=1e-9, atol=1e-12)
    assert prims(func, a, y) == {"solve": 0, "triangular_solve": 2, "cholesky": 1}


def test_other_matrices_are_eliminated():
    a, y = positive(6, 6), rng.normal(size=(6, 1))
    func = nf.jit(lambda a, y: np.linalg.solve(np.linalg.cholesky(a) + a, y))
    np.testing.assert_allclose(func(a, y), np.linalg.solve(np.linalg.cholesky(a) + a, y), rtol=1e-10)
    assert prims(func, a, y)["solve"] == 1


def test_a_singular_matrix_is_still_an_error():
    func = nf.jit(lambda a, y: np.linalg.solve(np.linalg.cholesky(a), y))
    with pytest.raises(np.linalg.LinAlgError):
        func(np.zeros((3, 3)), np.ones((3, 1)))


def test_slope_of_a_likelihood():
    x, y = rng.normal(size=(12, 2)), rng.normal(size=12)

    def likelihood(t):
        d = x[:, None] - x[None]
        low = np.linalg.cholesky(np.exp(-t * np.sum(d * d, axis=-1)) + 0.1 * np.eye(12))
        a = np.linalg.solve(low, y)
        return 0.5 * a @ a + np.sum(np.log(np.diag(low)))

    step = 1e-6
    expected = (likelihood(0.7 + step) - likelihood(0.7 - step)) / (2 * step)
    np.testing.assert_allclose(nf.grad(likelihood)(0.7), expected, rtol=1e-7)


def laid_out(outer, rows, width, count, low):
    """The pad and reshape that lay `count` elements along a diagonal."""
    b = Builder("diagonal")
    x = b.param(ArrayType((*outer, count), np.dtype(float)))
    flat = (0,) * len(outer)
    high = rows * width - low - count - (count - 1) * width
    (padded,) = b.emit("pad", (x,), {"low": (*flat, low), "high": (*flat, high), "interior": (*flat, width)})
    return b.build([b.reshaped(padded, (*outer, rows, width))])


@pytest.mark.parametrize("outer", [(), (3,)])
@pytest.mark.parametrize(
    ("rows", "width", "count", "low"), [(5, 5, 5, 0), (5, 5, 4, 1), (5, 5, 3, 10), (6, 4, 4, 0), (4, 6, 3, 8)]
)
def test_diagonals_are_comparisons(outer, rows, width, count, low):
    graph = laid_out(outer, rows, width, count, low)
    x = rng.normal(size=(*outer, count))
    x.flat[0] = np.nan
    found = structured(graph)
    verify(found)
    assert any(n.prim == "select" for n in found.nodes)
    (expected,) = interpret(graph, [x])
    for other in (found, fuse(graph)):
        (got,) = interpret(other, [x])
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("rows", "width", "count", "low"), [(5, 5, 3, 3), (2, 3, 2, 1)])
def test_steps_beyond_the_end_of_a_row_stay(rows, width, count, low):
    graph = laid_out((), rows, width, count, low)
    if low % width + count > width:
        assert structured(graph) is graph
    x = rng.normal(size=count)
    np.testing.assert_array_equal(interpret(structured(graph), [x])[0], interpret(graph, [x])[0])

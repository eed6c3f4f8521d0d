"""Arrays over pairs: what is known of an exchange, and sums that follow from it, against NumPy."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.builder import Builder
from nufunc.ir.types import ArrayType
from nufunc.passes.fuse import fuse
from nufunc.passes.pairs import sums_of_pairs

rng = np.random.default_rng(6)
X, M = rng.normal(size=(40, 3)), rng.uniform(0.5, 1.5, 40)


def gravity(x, m):
    d = x[:, None] - x[None]
    return -0.5 * np.sum(m[:, None] * m / np.sqrt(np.sum(d * d, axis=-1) + 0.01))


def kernel_sums(x, m):
    d = x[:, 0][:, None] - x[:, 0]
    k = np.exp(-np.abs(d)) * np.maximum(m[:, None], m)
    odd = np.tanh(d) ** 3 / (1 + d * d)
    lopsided = d * m[:, None]
    eye = np.where(np.eye(len(m)) > 0, 2.0, k)
    return [a.sum(axis=k) for a in (k, odd, lopsided, eye, k @ k) for k in (0, 1)] + [k.sum(), odd.sum()]


def test_values():
    got, expected = nf.jit(kernel_sums)(X, M), kernel_sums(X, M)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_forces():
    value, force = nf.value_and_grad(gravity)(X, M)
    d = X[:, None] - X[None]
    cubed = (np.sum(d * d, axis=-1) + 0.01) ** 1.5
    np.testing.assert_allclose(value, gravity(X, M), rtol=1e-13)
    np.testing.assert_allclose(force, np.sum((M[:, None] * M / cubed)[..., None] * d, axis=1), rtol=1e-11)
    batch = np.stack([X, X[::-1] * 2])
    np.testing.assert_allclose(nf.vmap(nf.grad(gravity), (0, None))(batch, M)[0], force, rtol=1e-12)


def test_one_kernel_goes_through_all_pairs():
    text = nf.dump(nf.value_and_grad(gravity), X, M, stage="loops")
    assert text.count("\n        for ") == 1  # loops inside loops
    assert "40 * " not in text  # nothing of all pairs is stored


@pytest.mark.parametrize(("name", "sign"), [("symmetric", 1), ("antisymmetric", -1), ("neither", 0)])
def test_signs(name, sign):
    b = Builder()
    x = b.param(ArrayType((6,), np.dtype(np.float64)))
    rows, columns = (b.emit("broadcast", (x,), {"shape": (6, 6), "dims": (k,)})[0] for k in (0, 1))
    d = b.sub(rows, columns)
    value = {"symmetric": b.mul(d, b.tanh(d)), "antisymmetric": b.mul(d, b.exp(b.abs(d))), "neither": b.exp(d)}[name]
    graph = b.build([b.summed(value, (0,)), b.summed(value, (1,))])
    made = sums_of_pairs(graph)
    axes = [n.attrs["axes"] for n in made.nodes if n.prim == "reduce_sum"]
    assert axes == ([(1,)] if sign else [(0,), (1,)])
    assert [n.prim for n in made.nodes].count("neg") == (sign < 0)
    assert fuse(graph).stage == "grouped"

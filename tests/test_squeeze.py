"""Axes of one are no border between groups: programs with keepdims against NumPy, and their kernels."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir import interpret
from nufunc.ir.text import parse_graph
from nufunc.passes.squeeze import squeezed

rng = np.random.default_rng(12)
X, G = rng.normal(size=(24, 40)), rng.normal(size=40)


def layer_norm(x, g):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + 1


def unit_rows(x, g):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def softmax(x, g):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / (e.sum(axis=-1, keepdims=True) + g[:1])


def shifted(x, g):
    y = x[:, :1] * 2 + np.sin(x[:, 1:2])
    return np.concatenate([y, y**2, y[::-1]], axis=1)[:, None, :] * g[:3]


def columns(x, g):
    centre = x.mean(0, keepdims=True)
    return (x - centre) ** 2 + np.maximum(centre, 0.0) + g[None]


FUNCTIONS = {
    "layer_norm": (layer_norm, 1), "unit_rows": (unit_rows, 1), "softmax": (softmax, 1), "shifted": (shifted, 3),
    "columns": (columns, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_gradients_and_kernels(name):
    f, kernels = FUNCTIONS[name]
    np.testing.assert_allclose(nf.jit(f)(X, G), f(X, G), rtol=1e-12, atol=1e-12)
    total = lambda x: np.sum(np.sin(f(x, G)))
    direction = rng.normal(size=X.shape)
    slope = (total(X + 1e-6 * direction) - total(X - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(nf.grad(total)(X) * direction), slope, rtol=1e-6, atol=1e-7)
    text = nf.dump(f, X, G, stage="loops")
    assert text.count("def ") - text.count("def view") == kernels


def test_the_gradient_of_a_layer_norm_is_two_passes():
    loss = lambda x, g: np.sum(np.sin(layer_norm(x, g)))
    assert nf.dump(nf.grad(loss, (0, 1)), X, G, stage="loops").count("def ") == 2  # rows, and the columns of g


def test_graphs_keep_their_results():
    text = """graph @f(%x: f64[4,1,3]) stage=pure {
      %s: f64[4,3] = reduce_sum{axes=(1,)}(%x)
      %e: f64[4,1,3] = exp(%x)
      return %s, %e
    }"""
    graph = parse_graph(text)
    x = rng.normal(size=(4, 1, 3))
    for got, expected in zip(interpret.run(squeezed(graph), [x]), (x.sum(1), np.exp(x)), strict=True):
        np.testing.assert_array_equal(got, expected)
    (node,) = [n for n in squeezed(graph).nodes if n.prim == "exp"]
    assert node.result.shape == (4, 3)

"""Jacobians of linear graphs by structure: diagonals, blocks and whole arrays against central differences."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.text import parse_graph
from nufunc.passes.basis import jacobian
from nufunc.passes.simplify import simplify

rng = np.random.default_rng(4)
W, V = rng.normal(size=(5, 4)), rng.normal(size=(4, 3))
PLACES = np.array([3, 0, 2, 2, 1])


def written(x):
    y = np.zeros(10)
    y[1:9] = x * x
    y[::3] += 1.5
    y[2] = x[0] * y[4]
    return y


FUNCTIONS = {
    "elementwise": (lambda x: np.sin(x) * x, (3, 5)),
    "scalar": (lambda x: np.sin(x), ()),
    "raveled": (lambda x: np.sin(x).reshape(-1) * 2, (3, 5)),
    "reshaped": (lambda x: np.sin(x).reshape(5, 3) * 2, (3, 5)),
    "split and cut": (lambda x: np.sin(x).reshape(2, 3, 4)[:, 1:] * 2, (6, 4)),
    "cut and raveled": (lambda x: (x[1:] * x[:-1]).reshape(-1)[::2], (4, 6)),
    "vector product": (lambda x: W.T @ x, (5,)),
    "products": (lambda x: np.tanh(x @ W) @ V, (2, 5)),
    "products from the left": (lambda x: V.T @ np.tanh(W.T @ x), (5, 2)),
    "batched product": (lambda x: x @ np.swapaxes(x, -1, -2), (2, 3, 4)),
    "quadratic": (lambda x: x @ (W @ W.T) @ x, (5,)),
    "reversed": (lambda x: x[::-1] * x**2, (6,)),
    "padded": (lambda x: np.pad(x, ((1, 2), (0, 1))) * 2 + 1, (3, 4)),
    "stencil": (lambda x: x[1:-1, 1:-1] ** 2 - x[2:, 1:-1] * x[:-2, 1:-1] - x[1:-1, 2:] * 3, (5, 6)),
    "row sums": (lambda x: np.sum(x**2, axis=1), (3, 4)),
    "column sums": (lambda x: np.sum(np.sin(x), axis=0), (3, 4)),
    "softmax": (lambda x: np.exp(x) / np.sum(np.exp(x), axis=-1, keepdims=True), (3, 4)),
    "centred": (lambda x: x - x.mean(), (6,)),
    "outer": (lambda x: x[:, None] * x[None, :] + x, (4,)),
    "repeated": (lambda x: np.broadcast_to(x * x, (3, 4)) * np.arange(12.0).reshape(3, 4), (1, 4)),
    "concatenated": (lambda x: np.concatenate([x * 2, x[::-1] ** 2, np.ones(2)]), (4,)),
    "stacked": (lambda x: np.stack([x[0] * x[1], x[1] * x[2] - x[0], x[2]]), (3,)),
    "selected": (lambda x: np.where(x > 0, x * x, np.sin(x[::-1])), (6,)),
    "steps": (lambda x: x[::2] * x[1::2], (8,)),
    "written": (written, (8,)),
    "gathered": (lambda x: x[PLACES] * x, (5,)),
    "running sums": (lambda x: np.cumsum(x * x), (5,)),
    "diagonal": (lambda x: np.diag(x) * 2, (4, 4)),
    "solved": (lambda x: np.linalg.solve(np.eye(4) * 5 + np.outer(x, x), x), (4,)),
    "many diagonals": (lambda x: sum(np.roll(x, k) * x for k in range(8)), (9,)),
    "constant": (lambda x: np.ones(3) + 0 * x[0], (3,)),
}


def differences(f, x, step=1e-6):
    made = np.zeros((*np.shape(f(x)), *x.shape))
    for i in np.ndindex(*x.shape):
        d = np.zeros(x.shape)
        d[i] = step
        made[(..., *i)] = (np.asarray(f(x + d)) - np.asarray(f(x - d))) / (2 * step)
    return made


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobians(name):
    f, shape = FUNCTIONS[name]
    x = rng.normal(size=shape)
    expected = differences(f, x)
    for transform in (nf.jacrev, nf.jacfwd):
        made = transform(f)(x)
        assert made.shape == expected.shape
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["reshaped", "products", "stencil", "softmax", "outer", "written", "solved"])
def test_hessians(name):
    f, shape = FUNCTIONS[name]
    x = rng.normal(size=shape)
    g = lambda x: np.sum(np.sin(f(x)))
    np.testing.assert_allclose(nf.hessian(g)(x), differences(nf.grad(g), x), rtol=1e-5, atol=1e-6)


def test_several_arguments_and_outputs():
    f = lambda w, x: {"y": np.tanh(w @ x), "n": np.sum(x * x), "w": w[0] * 2}
    w, x = rng.normal(size=(3, 4)), rng.normal(size=4)
    for transform in (nf.jacrev, nf.jacfwd):
        made = transform(f, (0, 1))(w, x)
        for key, row in made.items():
            np.testing.assert_allclose(row[0], differences(lambda w: f(w, x)[key], w), rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(row[1], differences(lambda x: f(w, x)[key], x), rtol=1e-6, atol=1e-8)


def test_what_is_off_the_diagonal_multiplies_nothing():
    x = np.array([0.0, 1.0, 4.0])
    made = nf.jacfwd(np.sqrt)(x)
    np.testing.assert_array_equal(made, np.diag([np.inf, 0.5, 0.25]))


def pushed(text, last=False):
    return simplify(jacobian(parse_graph(text), 1, last))


def test_the_jacobian_of_a_product_is_the_matrix():
    text = """graph @f(%a: f64[50,30], %t: f64[30]) stage=pure {
      %y: f64[50] = dot{batch=((), ()), contract=((1,), (0,))}(%a, %t)
      return %y
    }"""
    graph = pushed(text, last=True)
    assert graph.outputs == graph.params
    assert not graph.nodes


def test_an_elementwise_function_costs_a_vector_and_a_matrix_of_zeros():
    text = """graph @f(%a: f64[300], %t: f64[300]) stage=pure {
      %y: f64[300] = mul(%a, %t)
      %z: f64[300] = mul(%y, %a)
      return %z
    }"""
    graph = pushed(text)
    large = [n.prim for n in graph.nodes if n.results[0].type.size > 300]
    assert large == ["full", "update", "reshape"]


def test_a_stencil_is_as_many_diagonals():
    text = """graph @f(%a: f64[98], %t: f64[100]) stage=pure {
      %l: f64[98] = slice{start=(0), step=(1), stop=(98)}(%t)
      %r: f64[98] = slice{start=(2), step=(1), stop=(100)}(%t)
      %s: f64[98] = add(%l, %r)
      %z: f64[98] = mul(%s, %a)
      return %z
    }"""
    graph = pushed(text)
    assert [n.prim for n in graph.nodes if n.results[0].type.size > 100] == ["full", "update", "update", "reshape"]


def test_a_network_is_a_chain_of_products():
    text = """graph @f(%a: f64[20,30], %t: f64[30]) stage=pure {
      %x: f64[20] = dot{batch=((), ()), contract=((1,), (0,))}(%a, %t)
      %y: f64[30] = dot{batch=((), ()), contract=((0,), (0,))}(%a, %x)
      return %y
    }"""
    assert [n.prim for n in pushed(text).nodes].count("dot") == 1


def test_large_arrays_between_are_cut():
    f = lambda x, c: np.tanh(c @ np.sin(x)).reshape(20, -1).sum(axis=1)
    text = nf.dump(nf.jacfwd(f), nf.spec(320), nf.spec((60000, 320)), stage="simplified")
    assert "map{length=" in text
    assert "f64[320,60000]" not in text
    assert "f64[60000,320] = " not in text
    x, c = rng.normal(size=4), rng.normal(size=(40, 4))
    np.testing.assert_allclose(nf.jacfwd(f)(x, c), nf.jacfwd(f, chunk_size=3)(x, c), rtol=1e-12)

"""grad, grad_and_value and value_and_grad from outside, against formulas worked out by hand."""

import functools
import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from api_results import same

import nufunc as nf

RNG = np.random.default_rng(11)
X, Y = RNG.standard_normal(4), RNG.standard_normal(4)
P = RNG.uniform(0.5, 2.0, 4)
A, B = RNG.standard_normal((4, 4)), RNG.standard_normal((4, 4))
SPD = A @ A.T + 4 * np.eye(4)
INV = np.linalg.inv(SPD)
Pair = namedtuple("Pair", "left right")


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def unit(i):
    return np.eye(4)[i]


def buffer(x):
    b = np.zeros(4)
    b[0] = x[0] ** 2
    b[1:] = x[1:] * x[:-1]
    return b.sum()


def updated_in_place(x):
    y = x.copy()
    y *= 2.0
    y[1] = 5.0
    y += x
    return (y * y).sum()


def through_view(x):
    y = x * 1.0
    row = y.reshape(2, 2)[1]
    row *= x[:2]
    return y.sum()


def python_sum(x):
    total = 0.0
    for i, element in enumerate(x):
        total += i * element**2
    return total


# name: function of the first argument, arguments, gradient
FORMULAS = {
    "sum of squares": (lambda x: np.sum(x**2), (X,), 2 * X),
    "method sum": (lambda x: (x * x).sum(), (X,), 2 * X),
    "sin": (lambda x: np.sin(x).sum(), (X,), np.cos(X)),
    "exp": (lambda x: np.exp(x).sum(), (X,), np.exp(X)),
    "log": (lambda x: np.log(x).sum(), (P,), 1 / P),
    "tanh": (lambda x: np.tanh(x).sum(), (X,), 1 - np.tanh(X) ** 2),
    "sqrt": (lambda x: np.sqrt(x).sum(), (P,), 0.5 / np.sqrt(P)),
    "power": (lambda x: (x**1.5).sum(), (P,), 1.5 * P**0.5),
    "power of both": (lambda x: (x**x).sum(), (P,), P**P * (np.log(P) + 1)),
    "quotient": (lambda x, y: (y / x).sum(), (P, Y), -Y / P**2),
    "arctan2": (lambda x, y: np.arctan2(x, y).sum(), (P, Y), Y / (P**2 + Y**2)),
    "absolute value": (lambda x: np.abs(x).sum(), (X,), np.sign(X)),
    "maximum with a number": (lambda x: np.maximum(x, 0.0).sum(), (X,), (X > 0).astype(float)),
    "where": (lambda x: np.where(x > 0, x * x, -x).sum(), (X,), np.where(X > 0, 2 * X, -1.0)),
    "clip": (lambda x: np.clip(x, -0.5, 0.5).sum(), (X,), (np.abs(X) < 0.5).astype(float)),
    "dot": (lambda x, y: np.dot(x, y), (X, Y), Y),
    "quadratic form": (lambda x: x @ A @ x, (X,), (A + A.T) @ X),
    "trace of a product": (lambda m: np.trace(m @ B), (A,), B.T),
    "einsum": (lambda m: np.einsum("ij,ji->", m, B), (A,), B.T),
    "outer": (lambda x: (np.outer(x, Y) * A).sum(), (X,), A @ Y),
    "mean": (lambda x: x.mean(), (X,), np.full(4, 0.25)),
    "variance": (lambda x: x.var(), (X,), (X - X.mean()) / 2),
    "norm": (lambda x: np.linalg.norm(x), (X,), X / np.linalg.norm(X)),
    "product": (lambda x: np.prod(x), (X,), np.prod(X) / X),
    "max": (lambda x: x.max(), (X,), unit(X.argmax())),
    "min": (lambda x: np.min(x), (X,), unit(X.argmin())),
    "log of a sum of exp": (lambda x: np.log(np.sum(np.exp(x - x.max()))) + x.max(), (X,), softmax(X)),
    "element": (lambda x: x[2], (X,), unit(2)),
    "negative element": (lambda x: x[-1] ** 2, (X,), 2 * X[-1] * unit(3)),
    "slices": (lambda x: (x[1:] * x[:-1]).sum(), (X,), np.append(X[1:], 0) + np.append(0, X[:-1])),
    "steps": (lambda x: x[::2].sum() - x[::-2].sum(), (X,), np.array([1.0, -1.0, 1.0, -1.0])),
    "index array with repeats": (lambda x: x[np.array([0, 0, 3])].sum(), (X,), np.array([2.0, 0, 0, 1])),
    "cumulative sum": (lambda x: np.cumsum(x).sum(), (X,), np.array([4.0, 3, 2, 1])),
    "transpose and reshape": (lambda m: m.T.reshape(2, 8)[0].sum(), (A,), np.tile([1.0, 1, 0, 0], (4, 1))),
    "concatenate": (lambda x: (np.concatenate([x, x * x]) * np.arange(8)).sum(), (X,),
                    np.arange(4.0) + 2 * X * np.arange(4, 8)),
    "stack": (lambda x: (np.stack([x, 2 * x]) * A[:2]).sum(), (X,), A[0] + 2 * A[1]),
    "broadcast": (lambda x: (x[:, None] * A).sum(), (X,), A.sum(1)),
    "sort": (lambda x: (np.sort(x) * np.arange(4)).sum(), (X,), np.argsort(np.argsort(X)).astype(float)),
    "solve": (lambda x: Y @ np.linalg.solve(SPD, x), (X,), INV.T @ Y),
    "solve, matrix": (lambda m: Y @ np.linalg.solve(m, X), (SPD,), -np.outer(INV.T @ Y, INV @ X)),
    "inverse": (lambda m: np.trace(np.linalg.inv(m)), (SPD,), -(INV @ INV).T),
    "determinant": (lambda m: np.linalg.det(m), (SPD,), np.linalg.det(SPD) * INV.T),
    "log determinant": (lambda m: np.linalg.slogdet(m)[1], (SPD,), INV.T),
    "numpy.zeros buffer": (buffer, (X,), 2 * X * unit(0) + np.append(X[1:], 0) + np.append(0, X[:-1])),
    "updated in place": (updated_in_place, (X,), np.where(np.arange(4) == 1, 2 * (5 + X), 18 * X)),
    "through a view": (through_view, (X,), np.concatenate([1 + X[2:], X[:2]])),
    "python loop": (python_sum, (X,), 2 * np.arange(4) * X),
    "python sum": (lambda x: sum(x * x), (X,), 2 * X),
    "python max": (lambda x: max(x[0], x[1]) * 2, (np.array([1.0, 3.0]),), np.array([0.0, 2.0])),
    "math module": (lambda x: math.sin(x[0]) + math.pi * x[1], (X[:2],), np.array([np.cos(X[0]), np.pi])),
    "integer factor": (lambda x: (3 * x * np.arange(4)).sum(), (X,), 3.0 * np.arange(4)),
    "unused argument": (lambda x, y: y.sum(), (X, Y), np.zeros(4)),
    "constant": (lambda x: np.float64(3.0), (X,), np.zeros(4)),
    "empty": (lambda x: x.sum(), (np.zeros(0),), np.zeros(0)),
    "0-d array": (lambda x: x**3, (np.array(2.0),), np.array(12.0)),
    "numpy scalar": (lambda x: x**3, (np.float64(2.0),), np.array(12.0)),
    "python float": (lambda x: x**3, (2.0,), np.array(12.0)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient(name):
    func, args, expected = FORMULAS[name]
    same(nf.grad(func)(*args), expected)
    gradient, value = nf.grad_and_value(func)(*args)
    same(gradient, expected)
    np.testing.assert_allclose(value, func(*args), rtol=1e-12)
    value, gradient = nf.value_and_grad(func)(*args)
    same(gradient, expected)
    np.testing.assert_allclose(value, func(*args), rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["sin", "quadratic form", "log of a sum of exp", "numpy.zeros buffer", "norm"]
)
def test_gradient_of_float32_is_float32(name):
    func, (x, *_), expected = FORMULAS[name]
    gradient = nf.grad(lambda v: func(v).astype(np.float32))(x.astype(np.float32))
    same(gradient, expected.astype(np.float32), rtol=2e-5)


@pytest.mark.parametrize(("argnums", "expected"), [
    (0, Y), (1, X), (-1, X), (-2, Y), ((0,), (Y,)), ((1,), (X,)), ((0, 1), (Y, X)), ((1, 0), (X, Y)),
    ((-1, 0), (X, Y)),
])
def test_argnums(argnums, expected):
    same(nf.grad(lambda x, y: x @ y, argnums)(X, Y), expected)
    same(nf.grad_and_value(lambda x, y: x @ y, argnums=argnums)(X, Y)[0], expected)
    same(nf.value_and_grad(lambda x, y: x @ y, argnums=argnums)(X, Y)[1], expected)


def test_argnums_of_variadic_functions():
    same(nf.grad(lambda *xs: xs[0] @ xs[1] + xs[2].sum(), argnums=(2, -3))(X, Y, X), (np.ones(4), Y))


AUX = {
    "array": (lambda x: 2 * x, 2 * X),
    "tree": (lambda x: {"a": (x, -x), "b": [x.sum()]}, {"a": (X, -X), "b": [X.sum()]}),
    "None": (lambda x: None, None),
    "text beside an array": (lambda x: {"name": "loss", "x": x}, {"name": "loss", "x": X}),
    "integers": (lambda x: np.arange(3), np.arange(3)),
}


@pytest.mark.parametrize("name", AUX)
def test_aux(name):
    aux, expected = AUX[name]

    def loss(x):
        return (x * x).sum(), aux(x)

    gradient, got = nf.grad(loss, has_aux=True)(X)
    same(gradient, 2 * X)
    same(got, expected)
    gradient, (value, got) = nf.grad_and_value(loss, has_aux=True)(X)
    same(gradient, 2 * X)
    same(value, (X * X).sum())
    same(got, expected)
    (value, got), gradient = nf.value_and_grad(loss, has_aux=True)(X)
    same(gradient, 2 * X)
    same(value, (X * X).sum())
    same(got, expected)


@dataclass
class Weights:
    matrix: np.ndarray
    bias: np.ndarray


def test_trees():
    def loss(p):
        return (p["w"] @ p["b"][0]).sum() + p["b"][1].sum()

    got = nf.grad(loss)({"w": A, "b": [X, Y], "none": None})
    same(got, {"w": np.tile(X, (4, 1)), "b": [A.sum(0), np.ones(4)], "none": None})
    same(nf.grad(lambda p: (p.left * p.right).sum())(Pair(X, Y)), Pair(Y, X))
    same(nf.grad(lambda p: (p[0] * p[1][0]).sum())((X, (Y,))), (Y, (X,)))
    same(nf.grad(lambda p: (p["z"] * p["a"]).sum())(OrderedDict(z=X, a=Y)), OrderedDict(z=Y, a=X))
    got = nf.grad(lambda w: (w.matrix @ w.bias).sum())(Weights(A, X))
    assert type(got) is Weights
    same((got.matrix, got.bias), (np.tile(X, (4, 1)), A.sum(0)))
    both = nf.grad(lambda p, q: (p["x"] * q["y"]).sum(), argnums=(0, 1))
    same(both({"x": X}, {"y": Y}), ({"x": Y}, {"y": X}))


def test_dict_keeps_its_order():
    assert list(nf.grad(lambda p: p["z"].sum() + p["a"].sum())({"z": X, "a": Y})) == ["z", "a"]


def test_other_arguments():
    """Integers, flags, text and keyword arguments go through; only argnums are differentiated."""
    def loss(x, labels, n, *, kind="sum", scale=1.0):
        y = x[labels] ** n
        return scale * (y.sum() if kind == "sum" else y.mean())

    labels = np.array([1, 3])
    expected = np.zeros(4)
    expected[labels] = 3 * X[labels] ** 2
    same(nf.grad(loss)(X, labels, 3), expected)
    same(nf.grad(loss)(X, labels, 3, kind="mean"), expected / 2)
    same(nf.grad(loss)(X, labels, 3, scale=2.5), expected * 2.5)
    same(nf.grad(loss)(X, labels=labels, n=3, scale=np.float64(2.0)), expected * 2)


def test_higher_orders():
    x = 0.7
    for order, expected in enumerate([np.sin(x), np.cos(x), -np.sin(x), -np.cos(x), np.sin(x)]):
        derivative = functools.reduce(lambda f, _: nf.grad(f), range(order), np.sin)
        if order:
            np.testing.assert_allclose(derivative(np.array(x)), expected, rtol=1e-12)
    third = nf.grad(nf.grad(nf.grad(lambda x: x**5)))
    np.testing.assert_allclose(third(2.0), 60 * 4.0)


def test_no_perturbation_confusion():
    np.testing.assert_allclose(nf.grad(lambda x: x * nf.grad(lambda y: x + y)(1.0))(1.0), 1.0)
    np.testing.assert_allclose(nf.grad(lambda x: x * nf.grad(lambda y: x * y)(2.0))(3.0), 6.0)
    np.testing.assert_allclose(nf.grad(lambda x: nf.grad(lambda y: x * x * y**3)(x))(2.0), 12 * 8.0)


def test_gradient_inside_a_function():
    def step(x):
        return x - 0.1 * nf.grad(lambda v: (v**2).sum())(x)

    same(nf.jit(step)(X), 0.8 * X)
    same(nf.grad(lambda x: (step(x) ** 2).sum())(X), 2 * 0.64 * X)


def test_composed_with_vmap():
    same(nf.vmap(nf.grad(lambda x: np.sin(x).sum()))(A), np.cos(A))
    same(nf.grad(lambda x: nf.vmap(lambda r: (r * r).sum())(x).sum())(A), 2 * A)
    same(nf.vmap(nf.grad(lambda w, x: (w @ x) ** 2), in_dims=(None, 0))(X, A), 2 * (A @ X)[:, None] * A)


def test_per_sample_gradients_of_a_classifier():
    """Lanes that gather at an index of their own, through a hidden layer and a kink."""
    def loss(p, x, label):
        z = np.maximum(x @ p["w"], 0.0) @ p["v"]
        top = z.max()
        return np.log(np.exp(z - top).sum()) + top - z[label]

    p, labels = {"w": A[:, :3], "v": B[:3]}, np.array([3, 0, 0, 1])
    hidden = np.maximum(B @ p["w"], 0.0)
    error = np.stack([softmax(h @ p["v"]) - unit(label) for h, label in zip(hidden, labels)])
    back = (error @ p["v"].T) * (hidden > 0)
    expected = {"w": np.einsum("ni,nj->nij", B, back), "v": np.einsum("ni,nj->nij", hidden, error)}
    same(nf.vmap(nf.grad(loss), in_dims=(None, 0, 0))(p, B, labels), expected)


def test_complex_argument_of_a_real_function():
    """torch's convention: the direction of steepest ascent, twice z for |z| squared."""
    z = X + 1j * Y
    same(nf.grad(lambda z: (z.real**2 + z.imag**2).sum())(z), 2 * z)
    same(nf.grad(lambda z: (np.abs(z) ** 2).sum())(z), 2 * z)
    same(nf.grad(lambda z: z.imag.sum())(z), np.full(4, 1j))


def test_where_hides_the_branch_not_taken():
    """The gradient of the branch not taken never leaks in as 0 * inf."""
    x = np.array([-1.0, 0.0, 4.0])
    same(nf.grad(lambda x: np.where(x > 0, np.sqrt(x), 0.0).sum())(x), np.array([0.0, 0.0, 0.25]))
    same(nf.grad(lambda x: np.where(x > 0, np.log(x), x).sum())(x), np.array([1.0, 1.0, 0.25]))


def test_name_docstring_and_decorators():
    @nf.grad
    def bare(x):
        """What it computes."""
        return (x**2).sum()

    @nf.grad(argnums=1)
    def configured(x, y):
        return (x * y * y).sum()

    @nf.value_and_grad(has_aux=True)
    def with_aux(x):
        return x.sum(), x

    assert (bare.__name__, bare.__doc__) == ("bare", "What it computes.")
    same(bare(X), 2 * X)
    same(configured(X, Y), 2 * X * Y)
    same(with_aux(X), ((X.sum(), X), np.ones(4)))


class Model:
    scale = 2.0

    def __init__(self, weights):
        self.weights = weights

    def loss(self, x):
        return self.scale * (self.weights * x * x).sum()

    def __call__(self, x):
        return self.loss(x)

    @staticmethod
    def energy(x):
        return (x**2).sum()

    @classmethod
    def scaled(cls, x):
        return cls.scale * x.sum()


def test_methods_and_callables():
    model = Model(Y)
    for func in (model.loss, model, functools.partial(Model.loss, model)):
        same(nf.grad(func)(X), 4 * X * Y)
    same(nf.grad(Model.energy)(X), 2 * X)
    same(nf.grad(Model.scaled)(X), np.full(4, 2.0))
    model.weights = 2 * Y
    same(nf.grad(model.loss)(X), 8 * X * Y)


@pytest.mark.parametrize("view", [
    lambda a: a[:, ::2], lambda a: a[::-1, ::-1], np.asfortranarray, lambda a: a.T,
    lambda a: np.broadcast_to(a[0], (3, 4)),
])
def test_any_memory_layout(view):
    x = view(A)
    same(nf.grad(lambda x: (x**3).sum())(x), 3 * x**2)


def test_inputs_are_not_changed_and_results_are_new():
    x, before = X.copy(), X.copy()
    gradient = nf.grad(updated_in_place)(x)
    np.testing.assert_array_equal(x, before)
    identity = nf.grad(lambda x, y: (x * y).sum())
    first = identity(x, Y)
    kept = first.copy()
    second = identity(x, 2 * Y)
    np.testing.assert_array_equal(first, kept)
    assert not any(np.shares_memory(first, other) for other in (x, Y, second, gradient))


def test_training_loop():
    """Least squares by gradient descent reaches the solution of the normal equations."""
    loss = nf.value_and_grad(lambda w, X, y: ((X @ w - y) ** 2).mean())
    features = RNG.standard_normal((50, 4))
    targets = features @ X + 0.1 * RNG.standard_normal(50)
    w = np.zeros(4)
    for _ in range(400):
        _, gradient = loss(w, features, targets)
        w -= 0.2 * gradient
    np.testing.assert_allclose(w, np.linalg.lstsq(features, targets)[0], rtol=1e-8)

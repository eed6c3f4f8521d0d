"""vjp, jvp, linearize, linear_transpose and hvp from outside, against Jacobians worked out by hand."""

import threading
from collections import namedtuple

import numpy as np
import pytest
from api_results import same

import nufunc as nf

RNG = np.random.default_rng(13)
X, Y, CT, DX, DY = RNG.standard_normal((5, 4))
A = RNG.standard_normal((3, 4))
M = RNG.standard_normal((4, 4))
CT3 = RNG.standard_normal(3)
Pair = namedtuple("Pair", "left right")


def running_update(x):
    y = np.zeros(4)
    y[0] = x[0]
    for i in range(1, 4):
        y[i] = y[i - 1] * x[i]
    return y


def running_jacobian(x):
    jacobian = np.zeros((4, 4))
    for i in range(4):
        for j in range(i + 1):
            jacobian[i, j] = np.prod(np.delete(x[: i + 1], j))
    return jacobian


# name: function of one vector, its Jacobian at X
FUNCTIONS = {
    "sin": (np.sin, np.diag(np.cos(X))),
    "matrix product": (lambda x: A @ x, A),
    "tanh of a product": (lambda x: np.tanh(A @ x), (1 - np.tanh(A @ X) ** 2)[:, None] * A),
    "square of a sum": (lambda x: x.sum() ** 2, 2 * X.sum() * np.ones(4)),
    "reversed cumulative sum": (lambda x: np.cumsum(x[::-1]), np.tril(np.ones((4, 4)))[:, ::-1]),
    "outer": (lambda x: np.outer(x, Y), np.einsum("ik,j->ijk", np.eye(4), Y)),
    "gather": (lambda x: x[np.array([3, 3, 0])], np.eye(4)[[3, 3, 0]]),
    "buffer": (running_update, running_jacobian(X)),
    "identity": (lambda x: x, np.eye(4)),
    "constant": (lambda x: np.arange(3.0), np.zeros((3, 4))),
    "sort": (np.sort, np.eye(4)[np.argsort(X)]),
    "softmax": (lambda x: np.exp(x) / np.exp(x).sum(),
                np.diag(np.exp(X) / np.exp(X).sum()) - np.outer(np.exp(X), np.exp(X)) / np.exp(X).sum() ** 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_with_the_jacobian(name):
    func, jacobian = FUNCTIONS[name]
    value = func(X)
    cotangent = RNG.standard_normal(jacobian.shape[:-1])

    output, pull = nf.vjp(func, X)
    same(output, value)
    same(pull(cotangent), (np.tensordot(cotangent, jacobian, jacobian.ndim - 1),))

    output, tangent = nf.jvp(func, (X,), (DX,))
    same(output, value)
    same(tangent, jacobian @ DX)

    output, push = nf.linearize(func, X)
    same(output, value)
    same(push(DX), jacobian @ DX)
    same(push(DY), jacobian @ DY)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_batched_products(name):
    """Inside vmap: one product for every row of a matrix of tangents or cotangents."""
    func, jacobian = FUNCTIONS[name]
    tangents = RNG.standard_normal((5, 4))
    same(nf.vmap(lambda t: nf.jvp(func, (X,), (t,))[1])(tangents), np.moveaxis(jacobian @ tangents.T, -1, 0))
    cotangents = RNG.standard_normal((5, *jacobian.shape[:-1]))
    _, pull = nf.vjp(func, X)
    expected = np.tensordot(cotangents, jacobian, jacobian.ndim - 1)
    same(nf.vmap(pull)(cotangents), (expected,))
    same(nf.vmap(lambda c: nf.vjp(func, X)[1](c)[0])(cotangents), expected)


def test_several_primals():
    output, pull = nf.vjp(lambda x, y: x * y, X, Y)
    same(output, X * Y)
    same(pull(CT), (CT * Y, CT * X))
    output, tangent = nf.jvp(lambda x, y: x * y, (X, Y), (DX, DY))
    same(tangent, DX * Y + X * DY)
    _, push = nf.linearize(lambda x, y: x * y, X, Y)
    same(push(DX, DY), DX * Y + X * DY)


def test_several_outputs():
    output, pull = nf.vjp(lambda x: (x**2, A @ x), X)
    same(output, (X**2, A @ X))
    same(pull((CT, CT3)), (2 * X * CT + A.T @ CT3,))
    _, pull = nf.vjp(lambda x: {"a": x**2, "b": [x.sum()]}, X)
    same(pull({"a": CT, "b": [np.array(2.0)]}), (2 * X * CT + 2.0,))
    _, tangent = nf.jvp(lambda x: {"a": x**2, "b": [x.sum()]}, (X,), (DX,))
    same(tangent, {"a": 2 * X * DX, "b": [DX.sum()]})


def test_trees_of_primals():
    primal = {"w": M, "rest": Pair(X, None)}

    def func(p):
        return p["w"] @ p["rest"].left

    _, pull = nf.vjp(func, primal)
    same(pull(CT), ({"w": np.outer(CT, X), "rest": Pair(M.T @ CT, None)},))
    _, tangent = nf.jvp(func, (primal,), ({"w": np.eye(4), "rest": Pair(DX, None)},))
    same(tangent, X + M @ DX)
    _, push = nf.linearize(func, primal)
    same(push({"w": np.eye(4), "rest": Pair(DX, None)}), X + M @ DX)


def test_aux():
    def func(x):
        return x**2, {"note": "text", "x": x}

    output, pull, aux = nf.vjp(func, X, has_aux=True)
    same((output, aux), (X**2, {"note": "text", "x": X}))
    same(pull(CT), (2 * X * CT,))
    output, tangent, aux = nf.jvp(func, (X,), (DX,), has_aux=True)
    same((output, tangent, aux), (X**2, 2 * X * DX, {"note": "text", "x": X}))


def test_pull_back_many_times():
    _, pull = nf.vjp(np.sin, X)
    for factor in (1.0, 2.0, -3.0):
        same(pull(factor * CT), (factor * CT * np.cos(X),))


def test_later_changes_of_the_arguments_do_not_matter():
    x, captured = X.copy(), Y.copy()

    def func(v):
        return captured * v**2

    _, pull = nf.vjp(func, x)
    _, push = nf.linearize(func, x)
    x[:] = 0.0
    captured[:] = 0.0
    same(pull(CT), (2 * X * Y * CT,))
    same(push(DX), 2 * X * Y * DX)


def test_two_pull_backs_of_one_function_are_independent():
    _, first = nf.vjp(np.sin, X)
    _, second = nf.vjp(np.sin, Y)
    same(first(CT), (CT * np.cos(X),))
    same(second(CT), (CT * np.cos(Y),))


def test_pull_back_from_several_threads():
    _, pull = nf.vjp(lambda x: np.exp(x) * x, X)
    jacobian = np.exp(X) * (1 + X)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            ct = rng.standard_normal(4)
            if not np.allclose(pull(ct)[0], ct * jacobian, rtol=1e-12):
                wrong.append(ct)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_inputs_that_do_not_matter_get_zeros():
    _, pull = nf.vjp(lambda x, y: x * 2, X, Y)
    same(pull(CT), (2 * CT, np.zeros(4)))
    _, tangent = nf.jvp(lambda x: np.arange(3.0), (X,), (DX,))
    same(tangent, np.zeros(3))


def test_strict_accepts_outputs_that_depend_on_the_input():
    same(nf.jvp(np.sin, (X,), (DX,), strict=True), (np.sin(X), np.cos(X) * DX))


def test_float32_stays_float32():
    x, t = X.astype(np.float32), DX.astype(np.float32)
    for got in (nf.jvp(np.sin, (x,), (t,))[1], nf.linearize(np.sin, x)[1](t)):
        same(got, np.cos(x) * t, rtol=1e-5)
    same(nf.vjp(np.sin, x)[1](t), (np.cos(x) * t,), rtol=1e-5)


def test_scalars():
    same(nf.jvp(lambda x: x**3, (np.array(2.0),), (np.array(1.0),)), (np.array(8.0), np.array(12.0)))
    output, pull = nf.vjp(lambda x: x**3, np.array(2.0))
    same(pull(np.array(1.0)), (np.array(12.0),))
    same(pull(np.ones_like(output)), (np.array(12.0),))


def test_complex_products():
    z = X + 1j * Y
    ct, t = CT + 1j * DY, DX + 1j * DY
    same(nf.jvp(lambda z: z**2, (z,), (t,))[1], 2 * z * t)
    _, pull = nf.vjp(lambda z: z**2, z)
    same(pull(ct), (np.conj(2 * z) * ct,))


def test_nested():
    """Forward over reverse and reverse over forward give the Hessian times a vector."""
    def f(x):
        return (np.sin(x) * x**2).sum()

    second = np.diag((2 - X**2) * np.sin(X) + 4 * X * np.cos(X))
    same(nf.jvp(nf.grad(f), (X,), (DX,))[1], second @ DX, rtol=1e-9)
    same(nf.grad(lambda x: nf.jvp(f, (x,), (DX,))[1])(X), second @ DX, rtol=1e-9)
    same(nf.vjp(nf.grad(f), X)[1](CT), (second @ CT,), rtol=1e-9)
    same(nf.linearize(nf.grad(f), X)[1](DX), second @ DX, rtol=1e-9)


def test_inside_traced_functions():
    @nf.jit
    def both(x, t):
        _, tangent = nf.jvp(np.sin, (x,), (t,))
        _, pull = nf.vjp(np.cos, x)
        _, push = nf.linearize(np.exp, x)
        return tangent, pull(t)[0], push(t)

    same(both(X, DX), (np.cos(X) * DX, -np.sin(X) * DX, np.exp(X) * DX))


def test_hvp():
    def f(x):
        return (x @ M @ x) ** 2

    s, q = M + M.T, X @ M @ X
    hessian = 2 * np.outer(s @ X, s @ X) + 2 * q * s
    same(nf.hvp(f, (X,), (DX,)), (np.float64(q**2), (hessian @ DX,)))
    batch = RNG.standard_normal((3, 4))
    same(nf.vmap(lambda v: nf.hvp(f, (X,), (v,))[1])(batch), (batch @ hessian,))
    value, (first, second) = nf.hvp(lambda x, y: (x * y * y).sum(), (X, Y), (DX, DY))
    same(value, (X * Y * Y).sum())
    same((first, second), (2 * Y * DY, 2 * Y * DX + 2 * X * DY))


def test_linear_transpose():
    (got,) = nf.linear_transpose(lambda x: A @ x, X)(CT3)
    same(got, A.T @ CT3)
    (got,) = nf.linear_transpose(lambda x: np.cumsum(x)[::-1], X)(CT)
    same(got, np.tril(np.ones((4, 4)))[::-1].T @ CT)


def test_results_share_no_memory():
    cotangent = CT.copy()
    output, pull = nf.vjp(lambda x: x, X)
    (got,) = pull(cotangent)
    assert not np.shares_memory(got, cotangent)
    assert not np.shares_memory(output, X)

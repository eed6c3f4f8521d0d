"""jacrev, jacfwd and hessian from outside: values, shapes and trees, against matrices worked out by hand."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from api_results import same

import nufunc as nf

RNG = np.random.default_rng(17)
X, Y = RNG.standard_normal((2, 4))
A, M = RNG.standard_normal((3, 4)), RNG.standard_normal((4, 4))
BATCH = RNG.standard_normal((5, 4))
Pair = namedtuple("Pair", "left right")
MODES = {"rev": nf.jacrev, "fwd": nf.jacfwd}
both = pytest.mark.parametrize("jac", MODES.values(), ids=MODES)
EYE = np.eye(4)


def central_differences(func, x, step=1e-6):
    """The Jacobian of func at x, with the axes of x last."""
    columns = [
        (func(x + step * unit) - func(x - step * unit)) / (2 * step)
        for unit in np.eye(x.size).reshape(x.size, *x.shape)
    ]
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)


def in_place(x):
    y = np.zeros((2, 4))
    y[0] = x**2
    y[1, ::2] = x[:2]
    y[1] *= 3.0
    return y


def unrolled(x):
    state = x
    for _ in range(5):
        state = np.tanh(M @ state)
    return state


# name: function of one array, argument, Jacobian
FUNCTIONS = {
    "sin": (np.sin, X, np.diag(np.cos(X))),
    "linear": (lambda x: A @ x, X, A),
    "scalar output": (lambda x: (x**2).sum(), X, 2 * X),
    "scalar input": (lambda t: t * Y, np.array(0.5), Y),
    "scalar both": (lambda t: t**3, np.array(0.5), np.array(0.75)),
    "matrix input": (lambda m: m @ X, M, np.einsum("ij,k->ijk", EYE, X)),
    "matrix output": (lambda x: np.outer(x, Y), X, np.einsum("ik,j->ijk", EYE, Y)),
    "transpose": (lambda m: m.T, M, np.einsum("jk,il->ijkl", EYE, EYE)),
    "constant": (lambda x: np.ones(3), X, np.zeros((3, 4))),
    "cumulative product": (np.cumprod, X, None),
    "inverse": (np.linalg.inv, M + 4 * EYE, None),
    "solve": (lambda m: np.linalg.solve(m, X), M + 4 * EYE, None),
    "cholesky": (lambda x: np.linalg.cholesky(x @ x.T + 4 * EYE), M, None),
    "written in place": (in_place, X, None),
    "unrolled loop": (unrolled, X, None),
    "where": (lambda x: np.where(x > 0, x**2, np.exp(x)), X, np.diag(np.where(X > 0, 2 * X, np.exp(X)))),
    "empty input": (lambda x: np.sin(x), np.zeros(0), np.zeros((0, 0))),
}


@both
@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobian(name, jac):
    func, x, expected = FUNCTIONS[name]
    if expected is None:
        same(jac(func)(x), central_differences(func, x), rtol=2e-6)
    else:
        same(jac(func)(x), expected)


@both
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 4, 50])
def test_chunks_change_nothing(jac, chunk_size):
    same(jac(lambda x: np.tanh(A @ x), chunk_size=chunk_size)(X), (1 - np.tanh(A @ X) ** 2)[:, None] * A)
    same(jac(lambda m: m @ X, chunk_size=chunk_size)(M), np.einsum("ij,k->ijk", EYE, X))


@both
@pytest.mark.parametrize(("argnums", "expected"), [
    (0, np.diag(Y)), (1, np.diag(X)), (-1, np.diag(X)), ((0,), (np.diag(Y),)),
    ((1, 0), (np.diag(X), np.diag(Y))), ((-2, -1), (np.diag(Y), np.diag(X))),
])
def test_argnums(jac, argnums, expected):
    same(jac(lambda x, y: x * y, argnums)(X, Y), expected)
    same(jac(lambda x, y: x * y, argnums=argnums)(X, Y), expected)


@both
def test_trees_of_outputs_hold_trees_of_inputs(jac):
    def func(p, y):
        return {"product": p["a"] * y, "rest": (p["b"].sum(), None)}

    got = jac(func)({"a": X, "b": A}, Y)
    same(got, {
        "product": {"a": np.diag(Y), "b": np.zeros((4, 3, 4))},
        "rest": ({"a": np.zeros(4), "b": np.ones((3, 4))}, None),
    })
    got = jac(lambda p: [p.left * p.right], argnums=(0,))(Pair(X, Y))
    same(got, [(Pair(np.diag(Y), np.diag(X)),)])


@dataclass
class State:
    position: np.ndarray
    speed: np.ndarray


@both
def test_dataclass(jac):
    got = jac(lambda s: State(s.position + s.speed, 2 * s.speed))(State(X, Y))
    assert type(got) is State
    assert type(got.position) is State
    same((got.position.position, got.position.speed), (EYE, EYE))
    same((got.speed.position, got.speed.speed), (0 * EYE, 2 * EYE))


@both
def test_aux(jac):
    got, aux = jac(lambda x: (A @ x, {"x": 2 * x, "note": "text"}), has_aux=True)(X)
    same(got, A)
    same(aux, {"x": 2 * X, "note": "text"})


@both
def test_other_arguments(jac):
    def func(x, n, *, how, scale=1.0):
        return scale * getattr(np, how)(x) ** n

    same(jac(func)(X, 2, how="sin", scale=0.5), np.diag(np.sin(X) * np.cos(X)))


@both
def test_batched(jac):
    got = nf.vmap(jac(lambda x: np.tanh(A @ x)))(BATCH)
    same(got, (1 - np.tanh(BATCH @ A.T) ** 2)[:, :, None] * A)


@both
def test_float32(jac):
    same(jac(np.sin)(X.astype(np.float32)), np.diag(np.cos(X.astype(np.float32))), rtol=1e-5)


@both
def test_decorator_and_name(jac):
    @jac
    def bare(x):
        """What it computes."""
        return A @ x

    @jac(argnums=1)
    def configured(x, y):
        return x * y

    assert (bare.__name__, bare.__doc__) == ("bare", "What it computes.")
    same(bare(X), A)
    same(configured(X, Y), np.diag(X))


@both
def test_captures_are_seen_as_they_are(jac):
    w = A.copy()
    jacobian = jac(lambda x: w @ x)
    same(jacobian(X), A)
    w *= 2.0
    same(jacobian(X), 2 * A)


def quartic(x):
    return (x @ M @ x) ** 2


S = M + M.T
QUARTIC = 2 * np.outer(S @ X, S @ X) + 2 * (X @ M @ X) * S


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def rosenbrock_hessian(x):
    diagonal, beside = np.zeros(4), -400 * x[:-1]
    diagonal[:-1] = 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
    diagonal[1:] += 200
    return np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)


SECOND = {
    "hessian": nf.hessian,
    "rev rev": lambda f: nf.jacrev(nf.jacrev(f)),
    "fwd fwd": lambda f: nf.jacfwd(nf.jacfwd(f)),
    "rev fwd": lambda f: nf.jacrev(nf.jacfwd(f)),
    "jacobian of grad": lambda f: nf.jacfwd(nf.grad(f)),
}


@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
def test_second_derivatives(second):
    same(second(quartic)(X), QUARTIC)
    same(second(rosenbrock)(X), rosenbrock_hessian(X))
    same(second(lambda t: t**4)(np.array(0.5)), np.array(3.0))


def test_hessian_of_several_arguments():
    def f(x, y):
        return (x * x * y).sum()

    got = nf.hessian(f, argnums=(0, 1))(X, Y)
    same(got, ((2 * np.diag(Y), 2 * np.diag(X)), (2 * np.diag(X), np.zeros((4, 4)))))
    same(nf.hessian(f, argnums=1)(X, Y), np.zeros((4, 4)))


def test_hessian_of_a_tree():
    got = nf.hessian(lambda p: (p["a"] * p["b"] ** 2).sum())({"a": X, "b": Y})
    cross = 2 * np.diag(Y)
    same(got, {"a": {"a": np.zeros((4, 4)), "b": cross}, "b": {"a": cross, "b": 2 * np.diag(X)}})


def test_hessian_of_a_vector_function():
    got = nf.hessian(lambda x: x**3)(X)
    same(got, np.einsum("ij,ik,i->ijk", EYE, EYE, 6 * X))


def test_hessian_batched_and_inside_a_function():
    same(nf.vmap(nf.hessian(rosenbrock))(BATCH), np.stack([rosenbrock_hessian(x) for x in BATCH]))
    newton = nf.jit(lambda x: np.linalg.solve(nf.hessian(rosenbrock)(x), nf.grad(rosenbrock)(x)))
    slope = nf.grad(rosenbrock)(X)
    same(newton(X), np.linalg.solve(rosenbrock_hessian(X), slope), rtol=1e-8)


def test_gauss_newton():
    """J'J by forward and by reverse mode in one compiled function."""
    product = nf.jit(lambda x: nf.jacrev(unrolled)(x).T @ nf.jacfwd(unrolled)(x))
    jacobian = central_differences(unrolled, X)
    same(product(X), jacobian.T @ jacobian, rtol=1e-5)

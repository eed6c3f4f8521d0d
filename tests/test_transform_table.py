"""A table of plain NumPy functions closed under {jit, grad, jvp, vmap, functionalize}, to depth 3.

Every row maps a vector of three numbers to an array, and so does every transform of it as it is set up here. The
references never run nufunc: the functions themselves, on extended precision, with derivatives by central differences
of the sixth order (nested, they lose some four digits a level of the nineteen there are) and lanes by a Python loop.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

import nufunc as nf

Function = Callable[[np.ndarray], np.ndarray]
LONG = np.longdouble
POINT = np.array([0.7, 0.4, 1.3])
DIRECTION = np.array([0.5, -1.0, 0.25])
LANES = np.array([1.0, 0.8, 1.1])
MATRIX = np.array([[0.3, -0.5, 1.0], [0.2, 0.9, -0.4], [-0.7, 0.1, 0.6]])


# -- rows: a function as a user writes it, and its plain NumPy form where it calls nufunc's control flow

ROWS: dict[str, tuple[Function, Function]] = {}


def row(plain: Function | None = None) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        ROWS[function.__name__] = (function, plain or function)
        return function

    return add


@row()
def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@row()
def log_sum_exp(x):
    m = np.max(x)
    return np.log(np.sum(np.exp(x - m))) + m


@row()
def norm_and_angle(x):
    return np.sqrt(np.sum(x * x) + 1) * np.arctan2(x[0], x[1])


@row()
def outer_product(x):
    return np.outer(x, np.sin(x)) @ x


@row()
def writes_into_a_copy(x):
    y = x.copy()
    y[1:] += y[:-1] * x[1:]
    y[0] *= y[2]
    return y * x


@row()
def writes_through_views(x):
    table = np.zeros_like(np.outer(x, x))
    diagonal = table.T
    diagonal[0] = x
    table[1:, 1] = np.exp(x[:2])
    table[...] = table + diagonal * x
    return table


@row()
def running_sums(x):
    return np.cumsum(np.sin(x)) * np.cumprod(x)


@row()
def selection(x):
    return np.where(x > 0.5, np.exp(-x), x**3) + np.maximum(x, 0.6) * np.minimum(x[0], x)


@row()
def rearranged(x):
    return np.concatenate([x, np.flip(x) ** 2]).reshape(2, 3).T * np.stack([x, 1 / x], axis=1)


@row()
def contraction(x):
    return np.einsum("i,j,ij->i", x, np.cos(x), MATRIX) + MATRIX @ x


@row()
def recurrence(x):
    s = x[0]
    for i in range(3):
        s = s * x[i] + np.tanh(s)
    return s


@row()
def gathered(x):
    return x[[2, 0, 0, 1]] * np.log(x[np.array([0, 1, 2, 1])]) + x[-1]


@row()
def standardized(x):
    return (x - np.mean(x)) / np.sqrt(np.var(x) + 0.1)


@row()
def powers(x):
    return x ** x[::-1] + np.power(x, 3) - np.expm1(x) / np.log1p(x) + np.hypot(x, 2 * x[0])


def loop_plain(x):
    s = x
    for i in range(4):
        s = np.sin(s) * x + i
    return s


@row(loop_plain)
def loop(x):
    return nf.fori_loop(0, 4, lambda i, s: np.sin(s) * x + i, x)


def branches_plain(x):
    return x * np.exp(x[0]) if np.sum(x) > 1 else -x


@row(branches_plain)
def branches(x):
    return nf.cond(np.sum(x) > 1, lambda v: v * np.exp(v[0]), lambda v: -v, x)


def scanned_plain(x):
    carry, out = x[0] * 0, []
    for item in x:
        carry = np.tanh(carry + item * x[1])
        out.append(carry * item)
    return np.stack(out) + carry


@row(scanned_plain)
def scanned(x):
    def body(carry, item):
        carry = np.tanh(carry + item * x[1])
        return carry, carry * item

    carry, out = nf.scan(body, x[0] * 0, x)
    return out + carry


# -- transforms: what nufunc does to a function, and the same for the reference


def weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.linspace(1.0, 2.0, int(np.prod(shape))).reshape(shape)


def scalar(function: Function) -> Function:
    def weighted(x):
        y = function(x)
        return np.sum(weights(y.shape) * y)

    return weighted


STEP = LONG(2e-3)
STENCIL = ((1, LONG(3) / 4), (2, -LONG(3) / 20), (3, LONG(1) / 60))


def derivative(function: Function, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
    ahead = sum(c * np.asarray(function(x + k * STEP * direction)) for k, c in STENCIL)
    behind = sum(c * np.asarray(function(x - k * STEP * direction)) for k, c in STENCIL)
    return (ahead - behind) / STEP


TRANSFORMS: dict[str, tuple[Callable[[Function], Function], Callable[[Function], Function]]] = {
    "jit": (nf.jit, lambda f: f),
    "functionalize": (nf.functionalize, lambda f: f),
    "grad": (
        lambda f: nf.grad(scalar(f)),
        lambda f: lambda x: np.stack([derivative(scalar(f), x, e) for e in np.eye(3, dtype=LONG)]),
    ),
    "jvp": (
        lambda f: lambda x: nf.jvp(f, (x,), (DIRECTION,))[1],
        lambda f: lambda x: derivative(f, x, DIRECTION.astype(LONG)),
    ),
    "vmap": (
        lambda f: lambda x: nf.vmap(f)(x * LANES[:, None]),
        lambda f: lambda x: np.stack([np.asarray(f(x * lane)) for lane in LANES.astype(LONG)]),
    ),
}
CHAINS = [chain for depth in (1, 2, 3) for chain in itertools.product(TRANSFORMS, repeat=depth)]


def check(name: str, chain: tuple[str, ...]) -> None:
    """`chain` is innermost first."""
    function, reference = ROWS[name]
    for step in chain:
        ours, theirs = TRANSFORMS[step]
        function, reference = ours(function), theirs(reference)
    expected = np.asarray(reference(POINT.astype(LONG)))
    found = np.asarray(function(POINT.copy()))
    assert found.shape == expected.shape
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.astype(float), rtol=2e-7, atol=2e-7 * max(1, float(abs(expected).max())))


@pytest.mark.parametrize("name", ROWS)
def test_function(name: str) -> None:
    check(name, ("jit",))


def shared_out(depth: int, share: int) -> list[tuple[str, tuple[str, ...]]]:
    """Chains of this depth dealt out to the rows, each to `share` of them."""
    names = itertools.cycle(ROWS)
    chains = [chain for chain in CHAINS if len(chain) == depth]
    return [(next(names), chain) for _ in range(share) for chain in chains]


DEALT = [*shared_out(1, 6), *shared_out(2, 5), *shared_out(3, 1)]


@pytest.mark.parametrize(("name", "chain"), DEALT, ids=lambda v: v if isinstance(v, str) else ".".join(v))
def test_chain(name: str, chain: tuple[str, ...]) -> None:
    check(name, chain)


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS, ids=".".join)
@pytest.mark.parametrize("name", ROWS)
def test_whole_table(name: str, chain: tuple[str, ...]) -> None:
    check(name, chain)

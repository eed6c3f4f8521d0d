"""np.random.Generator in traced functions: NumPy's own stream, one advance per call, never a frozen number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator, default_rng

import nufunc as nf

X = np.arange(6.0)
M = np.arange(12.0).reshape(4, 3)
SHARED = default_rng(0)
same = np.testing.assert_array_equal


def check(f: Callable[..., Any], *args: Any, calls: int = 3) -> None:
    """jit(f) gives what f gives, call after call, and leaves the generator where f leaves it."""
    mine, theirs, compiled = default_rng(11), default_rng(11), nf.jit(f)
    for _ in range(calls):
        result, expected = compiled(*args, mine), f(*args, theirs)
        for a, b in zip(nf.tree.leaves(result), nf.tree.leaves(expected), strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype
            assert np.shape(a) == np.shape(b)
            same(a, b)
    assert mine.bit_generator.state == theirs.bit_generator.state


STATIC = {
    "random": lambda r: r.random(3), "random scalar": lambda r: r.random(),
    "random f4": lambda r: r.random(3, np.float32),
    "standard_normal": lambda r: r.standard_normal((2, 3)), "normal": lambda r: r.normal(1.0, 2.0, 4),
    "normal lists": lambda r: r.normal([0.0, 1.0], [1.0, 2.0]), "0-d": lambda r: r.normal(size=()),
    "uniform": lambda r: r.uniform(-1, 1, (2,)), "integers": lambda r: r.integers(10, size=5),
    "integers scalar": lambda r: r.integers(3, 9), "integers i4": lambda r: r.integers(0, 5, size=3, dtype=np.int32),
    "exponential": lambda r: r.exponential(2.0, 3), "gamma": lambda r: r.gamma(2.0, 3.0, 4),
    "poisson scalar": lambda r: r.poisson(4.0), "binomial": lambda r: r.binomial(5, 0.5, 3),
    "dirichlet": lambda r: r.dirichlet([1.0, 2.0, 3.0], 2), "multinomial": lambda r: r.multinomial(5, [0.2, 0.3, 0.5]),
    "multivariate_normal": lambda r: r.multivariate_normal(np.zeros(2), np.eye(2), 3),
    "choice": lambda r: r.choice(5, 3),
    "choice p": lambda r: r.choice(3, 4, p=[0.2, 0.3, 0.5]), "choice list": lambda r: r.choice([1.5, 2.5], 3),
    "choice once each": lambda r: r.choice(5, 3, replace=False), "permutation": lambda r: r.permutation(6),
    "lognormal": lambda r: r.lognormal(0.0, 1.0, 2), "rayleigh": lambda r: r.rayleigh(2.0, 3),
    "weibull": lambda r: r.weibull(2.0, 3), "triangular": lambda r: r.triangular(0, 0.5, 1, 3),
}  # fmt: skip
TRACED = {
    "normal": lambda x, r: r.normal(x, 2 * x + 1), "normal size": lambda x, r: r.normal(x[0], x[1], (3, 2)),
    "uniform": lambda x, r: r.uniform(x, x + 1), "exponential": lambda x, r: r.exponential(x, (2, 6)),
    "laplace": lambda x, r: r.laplace(x, 1.5), "logistic": lambda x, r: r.logistic(x, x + 1),
    "gumbel": lambda x, r: r.gumbel(x), "gamma scale": lambda x, r: r.gamma(2.0, x),
    "rayleigh": lambda x, r: r.rayleigh(x),
    "permutation": lambda x, r: r.permutation(x), "permuted": lambda x, r: r.permuted(x),
    "choice": lambda x, r: r.choice(x, 4), "choice once each": lambda x, r: r.choice(x, 4, replace=False),
    "choice one": lambda x, r: r.choice(x), "choice shape": lambda x, r: r.choice(x, (2, 2)),
    "dropout": lambda x, r: np.where(r.random(x.shape) < 0.5, x / 0.5, 0.0),
}  # fmt: skip


def _shuffled(x: Any, r: Any) -> Any:
    y = x.copy()
    r.shuffle(y)
    return y


def _written(x: Any, r: Any) -> Any:
    noise = r.normal(size=6)
    noise[0] = 0.0
    noise += x
    return noise, noise * 2


@pytest.mark.parametrize("name", STATIC)
def test_static_draws_are_numpys(name: str) -> None:
    check(lambda scale, r: STATIC[name](r) * scale, 1)


@pytest.mark.parametrize("name", TRACED)
def test_draws_with_traced_parameters_are_numpys(name: str) -> None:
    check(TRACED[name], X)


@pytest.mark.parametrize("f", [_shuffled, _written, lambda x, r: (r.normal(size=2), r.integers(5), r.random() * x)])
def test_more_draws_are_numpys(f: Any) -> None:
    check(f, X)


@pytest.mark.parametrize("f", [_shuffled, lambda m, r: r.permutation(m, axis=1), lambda m, r: r.choice(m, 2, axis=1)])
def test_draws_of_rows_and_columns_are_numpys(f: Any) -> None:
    check(f, M)


# -- where the generator comes from


def test_each_call_draws_from_the_generator_that_is_given() -> None:
    f = nf.jit(lambda x, rng: x + rng.normal(size=3))
    for seed in range(3):
        same(f(1.0, default_rng(seed)), 1.0 + default_rng(seed).normal(size=3))
    before = nf.cache_info().compiles
    f(2.0, default_rng(9))
    assert nf.cache_info().compiles == before


def test_a_captured_generator_is_the_one_that_is_there_now() -> None:
    def made(rng: Any) -> Any:
        return lambda x: x + rng.random()

    for seed in (3, 4, 3):
        rng, twin = default_rng(seed), default_rng(seed)
        f = nf.jit(made(rng))
        for _ in range(3):
            assert f(1.0) == 1.0 + twin.random()

    class Noise:
        def __init__(self, seed: int) -> None:
            self.rng = default_rng(seed)

        def __call__(self, x: Any) -> Any:
            return x * self.rng.standard_normal(2)

    noise, twin = Noise(1), Noise(1)
    f = nf.jit(noise)
    for _ in range(3):
        same(f(X[:2]), twin(X[:2]))
    noise.rng, twin.rng = default_rng(7), default_rng(7)
    same(f(X[:2]), twin(X[:2]))


def test_generators_in_trees_and_keywords() -> None:
    f = nf.jit(lambda state, scale=1.0: state["rng"].random(2) * scale + state["w"])
    for _ in range(2):
        same(f({"rng": default_rng(5), "w": X[:2]}, scale=2.0), default_rng(5).random(2) * 2.0 + X[:2])


def test_two_generators_draw_in_the_order_of_the_program() -> None:
    def f(x: Any, a: Any, b: Any) -> Any:
        return x + a.random() + 10 * b.random() + 100 * a.random()

    mine, theirs = default_rng(1), default_rng(1)
    compiled = nf.jit(f)
    for _ in range(3):
        assert compiled(0.0, mine, mine) == f(0.0, theirs, theirs)
    assert compiled(0.0, default_rng(1), default_rng(2)) == f(0.0, default_rng(1), default_rng(2))


def test_a_call_that_takes_the_long_way_draws_once() -> None:
    """Strided arrays and other shapes miss the short way that the first calls install."""
    f = lambda x, rng: x + rng.random()
    compiled, mine, theirs = nf.jit(f), default_rng(2), default_rng(2)
    for x in (X, X, X[::2], X[::-1], X.astype(np.float32), X, M.T, 1.0):
        same(compiled(x, mine), f(x, theirs))
    assert mine.bit_generator.state == theirs.bit_generator.state


def test_failed_calls_and_compilations_draw_nothing() -> None:
    rng = default_rng(2)
    state = rng.bit_generator.state
    with pytest.raises(nf.NufuncError):
        nf.jit(lambda x, rng: x + rng.random(4))(X, rng)
    nf.dump(lambda x, rng: x + rng.random(), X, rng)
    nf.jit(lambda x, rng: x + rng.random()).lower(X, rng).compile()
    assert rng.bit_generator.state == state


def test_a_seed_gives_numpys_numbers() -> None:
    f = nf.jit(lambda x: x + default_rng(7).random(3))
    for _ in range(2):
        same(f(1.0), 1.0 + default_rng(7).random(3))

    def several(x: Any) -> Any:
        rng = np.random.default_rng([1, 2])
        other = np.random.Generator(np.random.Philox(3))
        return x * rng.normal(size=2), rng.integers(100), other.random()

    for mine, theirs in zip(nf.jit(several)(2.0), several(2.0), strict=True):
        same(mine, theirs)


def test_without_a_seed_every_call_has_fresh_entropy() -> None:
    f = nf.jit(lambda x: x + default_rng().random())
    assert len({float(f(0.0)) for _ in range(20)}) == 20
    g = nf.grad(lambda x: (x * np.random.default_rng(None).random(2)).sum())
    assert len({float(g(1.0)) for _ in range(20)}) == 20


def test_isinstance_knows_generators() -> None:
    f = nf.jit(lambda x, rng: x + rng.random() if isinstance(rng, Generator) else x)
    assert f(1.0, default_rng(3)) == 1.0 + default_rng(3).random()


def test_bound_calls_and_outputs() -> None:
    f, mine, theirs = nf.jit(lambda x, rng: x + rng.random(6)), default_rng(4), default_rng(4)
    out = np.empty(6)
    bound = f.bind(X, mine, out=out)
    for _ in range(3):
        assert bound() is out
        same(out, X + theirs.random(6))
    for _ in range(3):
        f(X, mine, out=out)
        same(out, X + theirs.random(6))


# -- transforms


def test_derivatives() -> None:
    loss = lambda m, s, rng: rng.normal(m, s, 4).sum()
    z = default_rng(5).standard_normal(4)
    for _ in range(2):
        m, s = nf.grad(loss, argnums=(0, 1))(1.0, 2.0, default_rng(5))
        np.testing.assert_allclose([m, s], [4.0, z.sum()], rtol=1e-14)
    y, pullback = nf.vjp(lambda x: x * SHARED.random(2), X[:2] + 1)
    for _ in range(2):  # the pullback keeps the numbers of the forward pass
        np.testing.assert_allclose(pullback(np.ones(2))[0] * (X[:2] + 1), y, rtol=1e-15)
    y, tangent = nf.jvp(lambda x: x * SHARED.random(2), (X[:2] + 1,), (np.ones(2),))
    np.testing.assert_allclose(tangent * (X[:2] + 1), y, rtol=1e-15)
    noise, jacobian = default_rng(1).random(2), nf.jacfwd(lambda x, r: x * r.random(2), randomness="same")
    same(jacobian(X[:2], default_rng(1)), np.diag(noise))
    with pytest.raises(RuntimeError, match="randomness error mode"):
        nf.jacfwd(lambda x: x * SHARED.random(2))(X[:2])


LANES = {
    "same": lambda n: default_rng(3).normal(size=2) + np.zeros((n, 2)),
    "different": lambda n: default_rng(3).normal(size=(n, 2)),
}


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("randomness", LANES)
def test_vmap_shares_a_draw_or_gives_each_lane_its_own(randomness: str, chunk_size: int | None) -> None:
    f = nf.vmap(lambda x, r: x + r.normal(size=2), (0, None), randomness=randomness, chunk_size=chunk_size)
    for _ in range(2):
        same(f(np.zeros(5), default_rng(3)), LANES[randomness](5))


def test_vmap_refuses_draws_unless_told() -> None:
    for f in (
        lambda x: x + SHARED.normal(),
        lambda x: x + default_rng().normal(),
        lambda x: nf.grad(lambda y: y * SHARED.random())(x),
    ):
        with pytest.raises(nf.RandomnessError, match="called random operation while in randomness error mode"):
            nf.vmap(f)(X)
        with pytest.raises(RuntimeError):
            nf.vmap(nf.vmap(f), randomness="different")(M)
    with pytest.raises(nf.RandomnessError, match="same randomness with a batched"):
        nf.vmap(lambda x, r: r.normal(x * 2), (0, None), randomness="same")(X, default_rng(0))
    with pytest.raises(nf.RandomnessError, match="randomness error mode"):
        nf.jit(lambda xs: (lambda rng: nf.vmap(lambda x: x + rng.random())(xs))(default_rng(5)))(X)


def test_vmap_with_different_draws() -> None:
    different = lambda f, *args: nf.vmap(f, (0, None), randomness="different")(*args, default_rng(3))
    one = default_rng(3)
    same(different(lambda x, r: r.normal(x, 2.0), X), one.normal(X, 2.0))
    one = default_rng(3)
    same(different(lambda x, r: r.permutation(4), X), [one.permutation(4) for _ in X])
    one = default_rng(3)
    same(different(lambda x, r: r.choice(4, 2, replace=False), X), [one.choice(4, 2, replace=False) for _ in X])
    same(different(lambda x, r: r.dirichlet([1.0, 2.0]), X), default_rng(3).dirichlet([1.0, 2.0], 6))
    same(different(lambda x, r: r.integers(5) + np.zeros(2, int), X)[:, 0], default_rng(3).integers(5, size=6))
    inner = nf.vmap(lambda x, r: x + r.random(2), (0, None), randomness="different")
    rows = nf.vmap(inner, (0, None), randomness="different")
    same(rows(M, default_rng(3)), M[..., None] + default_rng(3).random((4, 3, 2)))
    inner = nf.vmap(lambda x, r: x + r.random(), (0, None), randomness="same")
    mixed = nf.vmap(inner, (0, None), randomness="different")
    same(mixed(M, default_rng(3)), M + default_rng(3).random(4)[:, None])
    slopes = nf.vmap(nf.grad(lambda x, r: x * r.random()), (0, None), randomness="different")
    same(slopes(X, default_rng(3)), default_rng(3).random(6))
    columns = nf.vmap(lambda x, r: x + r.random(2), (1, None), out_dims=1, randomness="different")
    same(columns(M[:, :2].T @ np.eye(4), default_rng(3)).shape, (2, 4))


def test_a_seeded_generator_of_each_lane_is_as_in_a_loop() -> None:
    f = lambda x: x + default_rng(8).random(2)
    same(nf.vmap(f)(X), np.stack([f(x) for x in X]))
    same(nf.vmap(f, randomness="different")(X), X[:, None] + default_rng(8).random((6, 2)))


def test_draws_before_a_vmap_are_shared() -> None:
    f = nf.jit(lambda x, r: (lambda noise: nf.vmap(lambda row: row + noise)(x))(r.random(3)))
    same(f(M, default_rng(1)), M + default_rng(1).random(3))


# -- what is refused


@pytest.mark.parametrize(
    "f",
    [
        lambda x: nf.fori_loop(0, 3, lambda i, c: c + SHARED.random(), x),
        lambda x: nf.cond(x > 0, lambda: x + SHARED.random(), lambda: x),
        lambda x: nf.scan(lambda c, _: (c + default_rng().random(), None), x, None, length=3)[0],
        lambda x: (lambda rng: nf.scan(lambda c, _: (c + rng.random(), None), x, None, length=3)[0])(default_rng(2)),
    ],
)
def test_draws_in_bodies_of_control_flow_are_refused(f: Any) -> None:
    state = SHARED.bit_generator.state
    with pytest.raises(nf.TraceError, match=r"control flow.*nf\.random") as caught:
        nf.jit(f)(1.0)
    assert caught.value.location is not None
    assert caught.value.location.file == __file__
    assert SHARED.bit_generator.state == state


def test_a_generator_made_with_a_seed_in_a_body_is_as_in_python() -> None:
    f = lambda x: nf.fori_loop(0, 3, lambda i, c: c + np.random.default_rng(4).random(), x)
    np.testing.assert_allclose(nf.jit(f)(1.0), 1.0 + 3 * default_rng(4).random(), rtol=1e-15)


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda x: x + np.random.normal(size=3), r"np\.random\.normal .*hidden global state"),
        (lambda x: x + np.random.rand(), "hidden global state"),
        (lambda x: np.random.shuffle(x), "hidden global state"),
        (lambda x: np.random.seed(0), "hidden global state"),
        (lambda x: x + np.random.RandomState(0).rand(), "RandomState"),
        (lambda x: x + np.random.Generator(np.random.PCG64()).random(), "PCG64 without a static seed"),
        (lambda x: x + np.random.default_rng(x.astype(int)).random(), r"nf\.random\.key"),
        (lambda x: SHARED.poisson(x), "lam is a traced value"),
        (lambda x: SHARED.integers(x.astype(int)), "low is a traced value"),
    ],
)
def test_what_would_be_frozen_is_refused(f: Any, words: str) -> None:
    with pytest.raises(nf.TraceError, match=words):
        nf.jit(f)(X)


def test_what_a_generator_cannot_do_here() -> None:
    for f in (
        lambda x: SHARED.spawn(2), lambda x: SHARED.bit_generator, lambda x: SHARED.bytes(3),
        lambda x: SHARED.random(out=x), lambda x: SHARED.shuffle([1, 2]), lambda x: SHARED.choice(["a", "b"]),
    ):  # fmt: skip
        with pytest.raises(nf.UnsupportedError):
            nf.jit(f)(X)
    with pytest.raises(nf.ArgumentTypeError, match="returns"):
        nf.jit(lambda x, r: (x, r))(X, default_rng(0))
    with pytest.raises(TypeError, match="at most"):
        nf.jit(lambda x, r: r.random(1, "f8", None, 3))(X, default_rng(0))
    with pytest.raises(ValueError, match="scale < 0"):
        nf.jit(lambda x, r: x + r.normal(0.0, -1.0))(X, default_rng(0))

"""nf.random: the bits of jax.random, the same in every way of running them; distributions; derivatives; errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from random_cases import CASES, SEEDS, Case, compare

import nufunc as nf

ROWS = json.loads(Path(__file__).with_name("random_vectors.json").read_text())
KEY = nf.random.key(2024)
same = np.testing.assert_array_equal


def stored(seed: int, case: str) -> np.ndarray:
    row = next(r for r in ROWS if r["seed"] == seed and r["case"] == case)
    decode = float.fromhex if row["dtype"].startswith("float") else lambda v: v
    return np.array([decode(v) for v in row["values"]], row["dtype"]).reshape(row["shape"])


# -- what JAX gives


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_draws_are_those_stored_from_jax(case: Case) -> None:
    for seed in SEEDS:
        compare(case, case.draw(nf.random, nf.random.key(seed)), stored(seed, case.name))


def test_keys_are_those_of_jax() -> None:
    for seed in SEEDS:
        same(nf.random.key(seed), stored(seed, "key"))
        same(nf.jit(lambda s: nf.random.key(s))(np.int64(seed)), stored(seed, "key"))


@pytest.mark.parametrize("name", ["uniform", "randint", "normal", "exponential", "laplace"])
def test_draws_are_those_of_jax(name: str) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    draws = {
        "uniform": lambda r, k: r.uniform(k, (50, 401)), "normal": lambda r, k: r.normal(k, (50, 401)),
        "randint": lambda r, k: r.randint(k, (50, 401), -5, 77), "laplace": lambda r, k: r.laplace(k, (50, 401)),
        "exponential": lambda r, k: r.exponential(k, (50, 401)),
    }  # fmt: skip
    draw, case = draws[name], next(c for c in CASES if c.name == name)
    compare(case, draw(nf.random, nf.random.key(99)), draw(jax.random, jax.random.key(99)))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_all_draws_are_those_of_jax(case: Case) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    for seed in range(50, 60):
        theirs = case.draw(jax.random, jax.random.key(seed))
        compare(case, case.draw(nf.random, nf.random.key(seed)), jax.random.key_data(theirs) if case.keys else theirs)


# -- ways of running

DRAWS = {
    "bits": lambda k: nf.random.bits(k, (5,), np.uint32),
    "uniform": lambda k: nf.random.uniform(k, (2, 3)),
    "scalar": lambda k: nf.random.uniform(k),
    "normal": lambda k: nf.random.normal(k, (7,)),
    "split": lambda k: nf.random.split(k, 3),
    "randint": lambda k: nf.random.randint(k, (4,), 0, 100),
    "permutation": lambda k: nf.random.permutation(k, 9),
    "choice": lambda k: nf.random.choice(k, 9, (3,), replace=False),
    "categorical": lambda k: nf.random.categorical(k, np.zeros((2, 5))),
    "gamma": lambda k: nf.random.gamma(k, np.array([0.2, 1.0, 7.0])),
    "poisson": lambda k: nf.random.poisson(k, np.array([0.5, 5.0, 50.0])),
}


@pytest.mark.parametrize("name", DRAWS)
def test_every_way_of_running_gives_the_same_bits(name: str) -> None:
    draw = DRAWS[name]
    keys = nf.random.split(KEY, 4)
    loop = np.stack([draw(k) for k in keys])
    same(nf.vmap(draw)(keys), loop)
    same(nf.vmap(draw, chunk_size=3)(keys), loop)
    same(nf.map(draw, keys), loop)
    if name in ("uniform", "normal"):
        same(nf.scan(lambda c, k: (c, draw(k)), 0, keys)[1], loop)
        same(nf.jit(lambda keys: np.stack([draw(k) for k in keys]))(keys), loop)
        same(nf.vmap(draw, in_dims=1)(np.ascontiguousarray(keys.T)), loop)


def test_threads_give_the_same_bits() -> None:
    draw = nf.jit(lambda k: (nf.random.normal(k, (300, 1000)), nf.random.gamma(k, 2.5, (20000,))))
    before = nf.get_num_threads()
    try:
        nf.set_num_threads(1)
        one = draw(KEY)
        nf.set_num_threads(2)
        two = draw(KEY)
    finally:
        nf.set_num_threads(before)
    for a, b in zip(one, two, strict=True):
        same(a, b)


def test_loops_as_text_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = lambda k: (nf.random.bits(k, (4,)), nf.random.uniform(k, (3,), np.float32), nf.random.randint(k, (3,), 0, 9))
    machine_code = nf.jit(lambda k: draw(k))(KEY)
    monkeypatch.setenv("NUFUNC_NOJIT", "1")
    for a, b in zip(nf.jit(lambda k: draw(k))(KEY), machine_code, strict=True):
        same(a, b)


def test_keys_pass_through_loops_and_trees() -> None:
    def step(carry: tuple[Any, Any], _: Any) -> tuple[Any, Any]:
        key, total = carry
        key, part = nf.random.split(key)
        u = nf.random.uniform(part)
        return (key, total + u), u

    (key, total), drawn = nf.scan(step, (KEY, 0.0), None, length=5)
    expected, k = [], KEY
    for _ in range(5):
        k, part = nf.random.split(k)
        expected.append(nf.random.uniform(part))
    same(drawn, np.array(expected))
    same(key, k)
    np.testing.assert_allclose(total, sum(expected), rtol=1e-15)


def test_an_unbatched_key_gives_all_lanes_the_same_draw_whatever_randomness_says() -> None:
    x = np.zeros((4, 3))
    for randomness in ("error", "same", "different"):
        drawn = nf.vmap(lambda row: row + nf.random.normal(KEY, (3,)), randomness=randomness)(x)
        same(drawn, np.broadcast_to(nf.random.normal(KEY, (3,)), (4, 3)))


def test_numbers_and_shapes_given_in_other_ways() -> None:
    same(nf.random.uniform(KEY, 3), nf.random.uniform(KEY, (3,)))
    same(nf.random.uniform(KEY, [2, 2], "f4"), nf.random.uniform(KEY, (2, 2), np.float32))
    same(nf.random.fold_in(KEY, 7), nf.random.fold_in(KEY, np.array(7)))
    assert nf.random.uniform(KEY, (0, 3)).shape == (0, 3)
    assert type(nf.random.normal(KEY)) is np.float64
    assert nf.random.normal(KEY, (3,), np.complex128).dtype == np.complex128
    before = nf.cache_info().compiles
    nf.random.randint(KEY, (3,), 0, 1000)
    after = nf.cache_info().compiles
    for high in range(1001, 1010):
        nf.random.randint(KEY, (3,), 0, high)
    assert after <= before + 1
    assert nf.cache_info().compiles == after


# -- distributions

N = 20_000
DISTRIBUTIONS = {
    "uniform": (lambda k: nf.random.uniform(k, (N,), np.float64, -1.0, 3.0), scipy.stats.uniform(-1, 4)),
    "normal": (lambda k: nf.random.normal(k, (N,)), scipy.stats.norm()),
    "normal f32": (lambda k: nf.random.normal(k, (N,), np.float32), scipy.stats.norm()),
    "complex": (lambda k: nf.random.normal(k, (N,), np.complex128).imag, scipy.stats.norm(0, np.sqrt(0.5))),
    "truncated": (lambda k: nf.random.truncated_normal(k, -0.5, 2.0, (N,)), scipy.stats.truncnorm(-0.5, 2.0)),
    "exponential": (lambda k: nf.random.exponential(k, (N,)), scipy.stats.expon()),
    "gumbel": (lambda k: nf.random.gumbel(k, (N,)), scipy.stats.gumbel_r()),
    "laplace": (lambda k: nf.random.laplace(k, (N,)), scipy.stats.laplace()),
    "logistic": (lambda k: nf.random.logistic(k, (N,)), scipy.stats.logistic()),
    "cauchy": (lambda k: nf.random.cauchy(k, (N,)), scipy.stats.cauchy()),
    **{
        f"gamma {a}": (lambda k, a=a: nf.random.gamma(k, a, (N,)), scipy.stats.gamma(a))
        for a in (0.05, 3.0, 200.0)
    },
    "gamma f32": (lambda k: nf.random.gamma(k, 2.5, (N,), np.float32), scipy.stats.gamma(2.5)),
    "loggamma": (lambda k: np.exp(nf.random.loggamma(k, 0.3, (N,))), scipy.stats.gamma(0.3)),
    "beta": (lambda k: nf.random.beta(k, 0.5, 2.0, (N,)), scipy.stats.beta(0.5, 2.0)),
    "dirichlet": (
        lambda k: nf.random.dirichlet(k, np.array([0.5, 1.0, 2.0]), (N,))[:, 1], scipy.stats.beta(1.0, 2.5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_by_kolmogorov_and_smirnov(name: str) -> None:
    draw, distribution = DISTRIBUTIONS[name]
    assert scipy.stats.kstest(np.asarray(draw(KEY), np.float64), distribution.cdf).pvalue > 1e-3


@pytest.mark.parametrize("lam", [0.3, 9.99, 10.0, 1e5])
def test_poisson_by_its_frequencies(lam: float) -> None:
    drawn = nf.random.poisson(KEY, lam, (N,))
    assert drawn.dtype == np.int64
    assert drawn.min() >= 0
    distribution = scipy.stats.poisson(lam)
    edges = np.unique(distribution.ppf(np.linspace(0.02, 0.98, 25)))
    classes = np.searchsorted(edges, drawn)
    chances = np.diff(np.concatenate([[0.0], distribution.cdf(edges), [1.0]]))
    counts = np.bincount(classes, minlength=len(chances))
    assert scipy.stats.chisquare(counts, N * chances).pvalue > 1e-3


def test_poisson_of_edges() -> None:
    same(nf.random.poisson(KEY, np.array([0.0, -1.0, np.nan, np.inf, 1e19])), [0, -1, -1, -1, -1])
    large = nf.random.poisson(KEY, np.array([1e17, 120.0, 1e4]), dtype=np.int64)
    np.testing.assert_allclose(large, [1e17, 120.0, 1e4], rtol=0.5)
    assert nf.random.poisson(KEY, 120.0, dtype=np.int8) == -1


def test_gamma_of_edges() -> None:
    same(nf.random.gamma(KEY, np.array([0.0, -2.0, np.nan, np.inf])), [0.0, np.nan, np.nan, np.inf])


def test_discrete_draws_by_their_frequencies() -> None:
    def fits(drawn: np.ndarray, chances: np.ndarray) -> bool:
        return scipy.stats.chisquare(np.bincount(drawn, minlength=len(chances)), N * chances).pvalue > 1e-3

    p = np.array([0.1, 0.2, 0.3, 0.4])
    assert fits(nf.random.choice(KEY, 4, (N,), p=p), p)
    assert fits(nf.random.categorical(KEY, np.log(p), shape=(N,)), p)
    assert fits(nf.random.randint(KEY, (N,), 0, 7), np.full(7, 1 / 7))
    assert fits(nf.random.bernoulli(KEY, 0.3, (N,)).astype(int), np.array([0.7, 0.3]))
    first = nf.vmap(lambda k: nf.random.permutation(k, 4)[0])(nf.random.split(KEY, N))
    assert fits(first, np.full(4, 0.25))


def test_elements_of_a_vector_and_keys_of_a_split_are_independent() -> None:
    columns = nf.vmap(lambda k: nf.random.normal(k, (3,)))(nf.random.split(KEY, N))
    correlations = np.corrcoef(columns.T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(N)


# -- derivatives


def test_gradients_of_uniform_and_normal() -> None:
    low, high = nf.grad(lambda a, b: nf.random.uniform(KEY, (5,), np.float64, a, b).sum(), argnums=(0, 1))(0.5, 2.0)
    u = nf.random.uniform(KEY, (5,))
    np.testing.assert_allclose([low, high], [(1 - u).sum(), u.sum()], rtol=1e-14)
    mu, sigma = nf.grad(lambda m, s: (m + s * nf.random.normal(KEY, (5,))).sum(), argnums=(0, 1))(0.1, 2.0)
    np.testing.assert_allclose([mu, sigma], [5.0, nf.random.normal(KEY, (5,)).sum()], rtol=1e-14)


@pytest.mark.parametrize("a", [0.05, 2.5, 3000.0])
def test_gamma_samples_move_with_their_parameter_at_a_fixed_level(a: float) -> None:
    """x(a) is the inverse of the distribution function at the sample's level: compared with its differences."""
    x = nf.random.gamma(KEY, a, (200,))
    _, slope = nf.jvp(lambda a: nf.random.gamma(KEY, a, (200,)), (a,), (1.0,))
    h = 1e-4 * a
    lower, upper = scipy.special.gammainc(a, x), scipy.special.gammaincc(a, x)

    def moved(b: float) -> np.ndarray:
        left, right = scipy.special.gammaincinv(b, lower), scipy.special.gammainccinv(b, upper)
        return np.where(lower < 0.5, left, right)

    differences = (8 * (moved(a + h) - moved(a - h)) - (moved(a + 2 * h) - moved(a - 2 * h))) / (12 * h)
    kept = x > 1e-200
    np.testing.assert_allclose(slope[kept], differences[kept], rtol=2e-6)
    log_slope = nf.jvp(lambda a: nf.random.loggamma(KEY, a, (200,)), (a,), (1.0,))[1]
    np.testing.assert_allclose(log_slope[kept] * x[kept], slope[kept], rtol=1e-9)


def test_second_derivatives_of_gamma() -> None:
    f = lambda a: np.log(nf.random.gamma(KEY, a, (10,))).sum()
    level = scipy.special.gammainc(2.0, nf.random.gamma(KEY, 2.0, (10,)))
    h = 1e-3
    at = lambda a: np.log(scipy.special.gammaincinv(a, level)).sum()
    np.testing.assert_allclose(nf.hessian(f)(2.0), (at(2 + h) - 2 * at(2.0) + at(2 - h)) / h**2, rtol=1e-4)


def test_gradients_of_beta_and_dirichlet() -> None:
    """The mean of a differentiated sample is the derivative of the mean."""
    n = 4000
    slope = nf.grad(lambda a: nf.random.beta(KEY, a, 3.0, (n,)).mean())(2.0)
    assert abs(slope - 3 / 25) < 0.01
    alpha = np.array([1.0, 2.0, 3.0])
    jacobian = nf.jacrev(lambda a: nf.random.dirichlet(KEY, a, (n,)).mean(axis=0))(alpha)
    total = alpha.sum()
    np.testing.assert_allclose(jacobian, np.eye(3) / total - alpha[:, None] / total**2, atol=0.01)


def test_derivatives_under_vmap() -> None:
    keys, a = nf.random.split(KEY, 5), np.linspace(0.3, 4.0, 5)
    lanes = nf.vmap(nf.grad(lambda a, k: nf.random.gamma(k, a)))(a, keys)
    same(lanes, [nf.grad(lambda a, k: nf.random.gamma(k, a))(x, k) for x, k in zip(a, keys, strict=True)])


# -- mistakes


@pytest.mark.parametrize(
    ("draw", "error", "words"),
    [
        (lambda: nf.random.uniform(0), TypeError, "expected a key, uint32"),
        (lambda: nf.random.uniform(nf.random.split(KEY, 3)), TypeError, r"nf\.vmap"),
        (lambda: nf.random.uniform(KEY.astype(np.int64)), TypeError, "expected a key"),
        (lambda: nf.random.key(1.5), TypeError, "integer"),
        (lambda: nf.random.key(2**64), OverflowError, "64 bits"),
        (lambda: nf.random.uniform(KEY, (3,), np.int64), TypeError, "dtype int64"),
        (lambda: nf.random.normal(KEY, (3,), np.float16), TypeError, "dtype float16"),
        (lambda: nf.random.uniform(KEY, (3,), np.float64, np.zeros(2)), ValueError, "broadcast"),
        (lambda: nf.random.bernoulli(KEY, 1), TypeError, "float"),
        (lambda: nf.random.gamma(KEY, np.ones(3), (2,)), ValueError, "broadcast"),
        (lambda: nf.random.choice(KEY, 3, (4,), replace=False), ValueError, "without replacement"),
        (lambda: nf.random.choice(KEY, 3, (4,), p=np.ones(2)), ValueError, "p has shape"),
        (lambda: nf.random.choice(KEY, 0, (4,)), ValueError, "nothing to choose"),
        (lambda: nf.random.categorical(KEY, np.zeros((2, 3)), shape=(4,)), ValueError, "must end with"),
        (lambda: nf.random.dirichlet(KEY, 1.0), ValueError, "axis"),
        (lambda: nf.random.permutation(KEY, 1.5), TypeError, "int"),
        (lambda: nf.random.fold_in(KEY, 2**32), OverflowError, "out of bounds"),
    ],
)
def test_mistakes(draw: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        draw()

"""Parts of large arrays with loops of their own: no tests of bounds inside, no divisions for steps; same results."""

import numpy as np
import pytest
from random_graphs import random_arguments, random_graph

import nufunc as nf
from nufunc.codegen import nests, threads
from nufunc.codegen.compile import compile_graph
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.nests import build_nests, complement
from nufunc.codegen.schedule import schedule
from nufunc.ir import interpret
from nufunc.ir.builder import Builder
from nufunc.ir.errors import BoundsError
from nufunc.ir.types import ArrayType
from nufunc.passes.fuse import fuse

rng = np.random.default_rng(8)
U = rng.normal(size=(41, 53))
V = rng.normal(size=5003)


def heat(u):
    u = u.copy()
    u[1:-1, 1:-1] += 0.2 * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1])
    return u


def smoothed(u):
    return np.pad(u[:, 2:] * u[:, :-2], ((0, 0), (1, 1))) + np.sin(u)


def strided(u):
    return u[1::2, ::3] * 2 + u[::2, 1::3][:20, :18] * np.cos(u[1::2, ::3])


def taps(v):
    return v[0:-4:2] + 2 * v[1:-3:2] * v[4::2]


def halves(u):
    u = u.copy()
    u[:30] = np.exp(u[11:]) * 0.1
    return u


def column(u):
    u = u.copy()
    u[:, 3] = u[:, 4] * 2
    u[2:-3, 1:] = u[1:-4, :-1]
    return u


PROGRAMS = {
    f.__name__: (f, x) for f, x in [(heat, U), (smoothed, U), (strided, U), (taps, V), (halves, U), (column, U)]
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_and_gradients(name):
    function, x = PROGRAMS[name]
    np.testing.assert_allclose(nf.jit(function)(x), function(x), rtol=1e-13, atol=1e-15)
    total = lambda x: np.sum(np.sin(function(x)))
    direction = rng.normal(size=x.shape)
    slope = np.sum(nf.grad(total)(x) * direction)
    np.testing.assert_allclose(slope, (total(x + 1e-6 * direction) - total(x - 1e-6 * direction)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("name", PROGRAMS)
def test_repeated_in_a_loop_whose_carry_is_large(name):
    function, x = PROGRAMS[name]
    if function(x).shape != x.shape:
        pytest.skip("no loop without its shape")
    expected = x
    for _ in range(5):
        expected = function(expected)
    np.testing.assert_allclose(
        nf.jit(lambda x: nf.fori_loop(0, 5, lambda i, v: function(v), x))(x), expected, rtol=1e-12
    )
    total = lambda x: np.sum(np.cos(nf.fori_loop(0, 3, lambda i, v: function(v), x)))
    plain = lambda x: np.sum(np.cos(function(function(function(x)))))
    direction = rng.normal(size=x.shape)
    slope = np.sum(nf.grad(total)(x) * direction)
    np.testing.assert_allclose(slope, (plain(x + 1e-6 * direction) - plain(x - 1e-6 * direction)) / 2e-6, rtol=1e-5)


def nests_of(build, shape):
    b = Builder()
    x = b.param(ArrayType(shape, np.dtype(np.float64)))
    region = b.build([build(b, x)])
    return build_nests(region, "n", Sites(), boxed=True), build_nests(region, "n", Sites())


def ops(nest):
    return [i.op for p in nest.phases for i in p.body]


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i1", "?"])
@pytest.mark.parametrize("shape", [(8, 8), (9, 17), (100, 33), (7, 300), (129, 70), (3, 50, 70), (5, 6, 20, 50)])
def test_transpositions(shape, dtype):
    x = (rng.normal(size=shape) * 50).astype(dtype)
    for perm in ((*range(len(shape))[::-1],), (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)):
        np.testing.assert_array_equal(nf.jit(lambda x: x.transpose(perm).copy())(x), x.transpose(perm))
    if shape == (8, 8) and dtype != "?":
        np.testing.assert_array_equal(nf.jit(lambda x: x + 2 * x.T)(x), x + 2 * x.T)
        np.testing.assert_array_equal(nf.jit(lambda x, k: x[k] + x.T)(x, np.arange(8)), x + x.T)


def test_a_transposition_goes_through_squares():
    (nest,) = nests_of(lambda b, x: b.transposed(x, (1, 0)), (300, 310))[0]
    nest = schedule(nest, 64)
    assert nest.turned is not None
    assert nest.lanes == 8
    assert [a.name for a in nest.axes] == ["tile1", "tile0", "i0", "i1"]  # the written axis goes on innermost
    paged = schedule(nests_of(lambda b, x: b.transposed(x, (1, 0)), (200, 1024))[0][0], 64)
    assert [a.name for a in paged.axes][-2:] == ["i1", "i0"]  # unless what is read lies pages apart
    assert "turned" in str(nest)


def test_most_of_a_padded_array_has_no_tests():
    boxed, plain = nests_of(lambda b, x: b.sin(b.pad(x, low=(1, 2), high=(2, 1), interior=(0, 0))), (60, 60))
    assert "ge" in ops(plain[0])
    assert "ge" not in [i.op for i in boxed[0].phases[0].body]
    assert [a.extent for a in (*boxed[0].axes, *boxed[0].phases[0].axes)] == [60, 60]


def test_steps_are_not_divided():
    boxed, plain = nests_of(lambda b, x: b.pad(x, low=(1,), high=(0,), interior=(1,)), (3000,))
    assert "index_mod" in ops(plain[0])
    assert all("index_mod" not in ops(n) and "index_div" not in ops(n) for n in boxed)
    assert len(boxed) == 1  # both residues store side by side


def test_complement():
    seen = np.zeros((5, 6, 7), int)
    box = ((1, 4), (0, 6), (2, 3))
    for part in [box, *complement(seen.shape, box)]:
        seen[tuple(slice(*p) for p in part)] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("first", [1000, 1660, 1860, 2145, 2170])
def test_random_graphs_with_parts_and_tasks_everywhere(first, monkeypatch):
    monkeypatch.setattr(nests, "_WHOLE", 2)
    monkeypatch.setattr(threads, "PARALLEL_WORK", 1)
    monkeypatch.setattr(threads, "TASK_WORK", 1)
    for seed in range(first, first + 30):
        graph = random_graph(seed, steps=25, depth=2)
        arguments = random_arguments(graph, seed)
        with np.errstate(all="ignore"):
            try:
                expected = interpret.run(graph, [a.copy() for a in arguments])
            except BoundsError:
                continue
        for made, wanted in zip(compile_graph(fuse(graph)).slow(*arguments), expected, strict=True):
            np.testing.assert_allclose(made, wanted, rtol=1e-6, atol=1e-8)


def test_functions_that_share_their_work_are_emitted_together():
    both = nf.jit(lambda u: np.sin(u) * np.cos(u) + np.cos(u * 2) + np.sinh(u) / np.cosh(u))
    np.testing.assert_allclose(both(U), np.sin(U) * np.cos(U) + np.cos(U * 2) + np.tanh(U), rtol=1e-14, atol=1e-15)
    apart = nf.jit(lambda u: np.sin(u) + np.cos(u + 1))
    np.testing.assert_allclose(apart(U), np.sin(U) + np.cos(U + 1), rtol=1e-14, atol=1e-15)


def divisions(func, *args):
    text = nf.dump(func, *args, stage="llvm")
    return len([line for line in text.splitlines() if " fdiv " in line])


def test_a_root_divides_once_where_quotients_are_summed():
    x, s = V[:800], np.abs(V[:800]) + 0.1

    def energy(s):
        return np.sum(x / np.sqrt(s))

    func = nf.value_and_grad(energy)
    value, slope = func(s)
    np.testing.assert_allclose(value, energy(s), rtol=1e-14)
    np.testing.assert_allclose(slope, -0.5 * x / s**1.5, rtol=1e-14)
    assert divisions(func, s) == 1
    stored = nf.jit(lambda s: (x / np.sqrt(s), np.sum(1 / np.sqrt(s))))
    np.testing.assert_array_equal(stored(s)[0], x / np.sqrt(s))
    assert divisions(stored, s) == 2


@pytest.mark.parametrize("special", [0.0, -0.0, np.inf, np.nan, -1.0, 5e-324])
@pytest.mark.parametrize("numerator", [0.0, -0.0, 1.0, -3.0, np.inf, np.nan, 1e-310, 1e308])
def test_summed_quotients_by_special_roots(special, numerator):
    x, s = np.full(40, numerator), np.full(40, special)

    def terms(x, s):
        y = np.sqrt(s)
        return np.sum(x / y), np.sum(x / y * (1 / y))

    with np.errstate(all="ignore"):
        expected = terms(x, s)
    np.testing.assert_allclose(nf.jit(terms)(x, s), expected, rtol=1e-14)

"""Tests of bounds that the counter of a loop makes needless, and what updates in a loop need of memory."""

import numpy as np
import pytest
from golden_files import check_golden, golden_files

import nufunc as nf
from nufunc.ir.interpret import run
from nufunc.ir.text import parse_graph
from nufunc.ir.verify import verify
from nufunc.passes.ranges import without_tests
from nufunc.passes.reread import reread
from nufunc.passes.simplify import simplify


@pytest.mark.parametrize("path", golden_files("ranges"))
def test_golden(path):
    check_golden(path, {"ranges": without_tests, "simplify": simplify})


@pytest.mark.parametrize("path", golden_files("reread"))
def test_golden_of_what_is_read_again(path):
    check_golden(path, {"reread": reread, "simplify": simplify})


COMPARED = """graph @f(%x: i64[6]) stage=pure {{
  %n: i64[6] = full{{dtype=i64, shape=(6,), value={modulus}}}()
  %k: i64[6] = full{{dtype=i64, shape=(6,), value={constant}}}()
  %m: i64[6] = mod(%x, %n)
  %a: i64[6] = {op}(%m, %k)
  %low: b1[6] = lt(%a, %k)
  %le: b1[6] = le(%k, %a)
  %gt: b1[6] = gt(%m, %a)
  %ge: b1[6] = ge(%m, %a)
  %eq: b1[6] = eq(%a, %m)
  %ne: b1[6] = ne(%a, %k)
  %s: i64[6] = select(%low, %m, %k)
  %t: b1[6] = lt(%s, %n)
  %v: f64[4] = full{{dtype=f64, shape=(4,), value=1.0}}()
  %z: i64[6] = full{{dtype=i64, shape=(6,), value=0}}()
  %g: f64[6] = gather{{axes=(0,), mode="error"}}(%v, %z)
  return %low, %le, %gt, %ge, %eq, %ne, %t, %g
}}"""


@pytest.mark.parametrize("op", ["add", "sub", "mul", "floor_div", "maximum", "minimum", "mod"])
@pytest.mark.parametrize("modulus", [1, 3, 5])
@pytest.mark.parametrize("constant", [-4, -1, 0, 1, 3, 2**62])
def test_comparisons_are_what_they_were(op, modulus, constant):
    graph = verify(parse_graph(COMPARED.format(op=op, modulus=modulus, constant=constant)))
    changed = verify(without_tests(graph), "ranges")
    x = np.array([-7, -1, 0, 1, 4, 2**40])
    for a, b in zip(run(graph, [x]), run(changed, [x]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_index_outside_is_still_an_error():
    def f(x):
        def body(i, c):
            x[i + 1] = x[i] * 2
            return c

        nf.fori_loop(0, 5, body, 0.0)

    x = np.arange(5.0)
    with pytest.raises(IndexError, match="for an axis of size 5"):
        nf.jit(f)(x)
    np.testing.assert_array_equal(x, np.arange(5.0))
    y = np.ones(6)
    nf.jit(f)(y)
    np.testing.assert_array_equal(y, 2.0 ** np.arange(6))


def workspace(f, *arguments):
    """Bytes of temporaries, relative to the first argument."""
    return nf.jit(f).lower(*arguments)._module.workspace / arguments[0].nbytes


def by_loop(step, length=50):
    def f(u):
        def body(i, c):
            step(u, i)
            return c

        nf.fori_loop(1, length, body, 0.0)

    return f


def stencil(u, i):
    u[1:-1] += 0.1 * (u[2:] - 2 * u[1:-1] + u[:-2])


def row(u, i):
    u[i] = 0.5 * u[i - 1] + u[i]


def shrunk(u, i):
    u *= 0.5


# What NumPy by hand needs besides the array: a second one for a stencil, nothing else for rows and elements.
@pytest.mark.parametrize(("step", "most"), [(stencil, 1.01), (row, 0.03), (shrunk, 0.01)])
def test_an_argument_that_a_loop_updates_is_not_copied(step, most):
    u = np.random.default_rng(0).normal(size=(100, 1000))
    f = by_loop(step)
    assert workspace(f, u) <= most
    found, expected = u.copy(), u.copy()
    nf.jit(f)(found)
    for i in range(1, 50):
        step(expected, i)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def unrolled(step, length):
    def f(u):
        for i in range(1, length + 1):
            step(u, i)

    return f


def returned(step, length):
    def f(x):
        u = x.copy()
        for i in range(1, length + 1):
            step(u, i)
        return u

    return f


# One array besides the argument, or besides argument and result; with an odd number of steps in the argument one more.
@pytest.mark.parametrize(("make", "length", "most"), [(unrolled, 6, 1.01), (unrolled, 5, 2.01), (returned, 7, 1.01)])
def test_a_python_loop_over_a_stencil_needs_two_arrays(make, length, most):
    u = np.random.default_rng(0).normal(size=(20, 1000))
    f = make(stencil, length)
    assert workspace(f, u) <= most
    found, expected = u.copy(), u.copy()
    a, b = nf.jit(f)(found), f(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    if b is not None:
        np.testing.assert_allclose(a, b, rtol=1e-12)


MANY = """
def f(x, y):
    u = x * 2.0
    u[1:-1] = v = np.sin(u[1:-1]) + y[1:-1]
    {first}
    u[1:-1] += v * u[2:]
    u[1:-1] -= 0.5 * u[:-2]
    {second}
    w = u[1:-1] * 3.0
    u[2:] *= w
    return {result}
"""


@pytest.mark.parametrize("first", ["pass", "y[0] = v[3]", "v = v + u[:-2]", "u[5] = 1.0"])
@pytest.mark.parametrize("second", ["pass", "v = v * u[1:-1]", "u[1:-1] = u[2:] * v; u[3:9] = 0.5"])
@pytest.mark.parametrize("result", ["v, u", "w, v"])
def test_what_is_read_again_is_what_was_written(first, second, result):
    space = {"np": np}
    exec(MANY.format(first=first, second=second, result=result), space)
    f = space["f"]
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 9000))
    given = [x.copy(), y.copy()]
    expected, found = f(x, y), nf.jit(f)(*given)
    pairs = [*zip(expected, found, strict=True), (x, given[0]), (y, given[1])]
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-12)

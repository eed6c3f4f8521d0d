"""float16: stored in 16 bits, computed in float32 and rounded after each operation, as NumPy does it."""

import numpy as np
import pytest
from numpy_harness import assert_same

import nufunc as nf
from nufunc.ir import Builder, interpret
from nufunc.ir.types import FLOAT16, type_of
from nufunc.passes.half import without_halves

RNG = np.random.default_rng(4)
EVERY = np.arange(65536, dtype=np.uint16).view(np.float16)
A, B = (RNG.normal(size=(24, 16)).astype(np.float16) for _ in range(2))
HARD = np.array([65520, 65519.999, 65504, 1e300, -1e300, np.inf, -np.inf, 0.0, -0.0, 2.0**-25, 2.0**-24, 5e-324])
NEAR = np.concatenate([HARD, np.nextafter(HARD, 9), RNG.normal(size=9999) * 10.0 ** RNG.integers(-9, 6, 9999)])


def test_all_halves_widen_exactly():
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(nf.jit(lambda x: x.astype(np.float64))(EVERY), EVERY.astype(np.float64))
        np.testing.assert_array_equal(nf.jit(np.signbit)(EVERY), np.signbit(EVERY))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.bool_])
def test_conversions_round_once(dtype):
    with np.errstate(all="ignore"):
        x = NEAR.astype(dtype) if dtype != np.int64 else RNG.integers(-70000, 70000, 9999)
        np.testing.assert_array_equal(nf.jit(lambda x: x.astype(np.float16))(x), x.astype(np.float16))


PROGRAMS = {
    "arithmetic": lambda a, b: (a + b * a) / (b - 3),
    "weak scalars": lambda a, b: a * 2.5 + 1,
    "functions": lambda a, b: np.tanh(np.exp(a) * b),
    "extremes": lambda a, b: np.maximum(np.where(a > b, a, 2), b).max(axis=0),
    "mean": lambda a, b: (a.mean(), a.var(axis=1), a.sum(axis=1)),
    "products": lambda a, b: a @ b.T,
    "running sums": lambda a, b: np.cumsum(a, axis=1),
    "order": lambda a, b: (np.sort(a, axis=0), np.argmax(b), np.argsort(a[0])),
    "moving": lambda a, b: (np.roll(a, 2), a[[3, 1]], np.concatenate([a, b]), np.pad(a, 1)[1:]),
    "promotion": lambda a, b: (a + np.float32(1), a * a.astype(np.int8), np.sin(a.astype(np.int8)), a[0, 0] * 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_like_numpy(name):
    program = PROGRAMS[name]
    actual, wanted = nf.jit(program)(A, B), program(A, B)
    for a, w in zip(*((r if isinstance(r, tuple) else (r,)) for r in (actual, wanted)), strict=True):
        assert type(a) is type(w)
        assert_same(a, w, 1e-3 if name == "mean" else 0 if w.dtype == FLOAT16 else 1e-6)


def test_in_place_and_control_flow():
    def program(a, n):
        a[1:] += a[:-1]
        for i in range(n):
            if a[0, 0] < 9:
                a *= 1.5
            a[0] = a[i]
        return a.sum()

    mine, theirs = A.copy(), A.copy()
    total = nf.jit(program)(mine, np.int64(3))
    assert total == program(theirs, 3)
    np.testing.assert_array_equal(mine, theirs)


def test_transforms():
    f = lambda a: np.sum(np.tanh(a) * a)
    gradient = nf.grad(f)(A)
    assert gradient.dtype == FLOAT16
    wide = nf.grad(f)(A.astype(np.float64))
    np.testing.assert_allclose(gradient, wide, rtol=5e-3, atol=5e-3)
    np.testing.assert_array_equal(nf.vmap(lambda a: np.sqrt(np.abs(a)).max())(A), np.sqrt(np.abs(A)).max(axis=1))
    tangent = nf.jvp(f, (A,), (B,))[1]
    np.testing.assert_allclose(tangent, np.sum(wide * B), rtol=2e-2)


def test_the_pass_leaves_no_halves():
    b = Builder("f")
    x = b.param(type_of(A))
    graph = b.build([b.mul(b.exp(x), x)])
    bits = without_halves(graph)
    assert not [v for node in bits.nodes for v in node.results if v.dtype == FLOAT16]
    (result,) = interpret.run(bits, [A.view(np.uint16)])
    np.testing.assert_array_equal(result.view(np.float16), np.exp(A) * A)


def test_callbacks_take_and_give_halves(capsys):
    def shown(a):
        nf.debug.print("{}", a[0, 0])
        return nf.pure_callback(lambda x: x[::-1] * 2, nf.spec(a.shape, a.dtype), a)

    np.testing.assert_array_equal(nf.jit(shown)(A), A[::-1] * 2)
    assert capsys.readouterr().out == f"{A[0, 0]}\n"


def test_neighbours():
    """nextafter is that of float16, not of the float32 in which everything else is computed."""
    for other in (0.0, -0.0, 1.0, -np.inf, np.nan, 6e-8):
        to = np.full(EVERY.shape, other, np.float16)
        with np.errstate(all="ignore"):
            want = np.nextafter(EVERY, to)
        made = nf.jit(lambda x, y: np.nextafter(x, y))(EVERY, to)
        numbers = ~np.isnan(want)
        np.testing.assert_array_equal(np.isnan(made), ~numbers)
        np.testing.assert_array_equal(made.view(np.uint16)[numbers], want.view(np.uint16)[numbers])

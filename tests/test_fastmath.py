"""The fastmath option: the flags of the code, what they may change, and what they must not."""

import re

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.errors import ArgumentTypeError

FLAGS = re.compile(r"\b(reassoc|contract|arcp|nsz|nnan|ninf|afn|fast)\b")


def program(x, y):
    return np.sum(x * y + x / 3.0) + np.exp(x - y), x - y * x


X = np.linspace(-1.0, 2.0, 301)
Y = np.sin(7 * X)


def test_the_code_says_so_and_is_otherwise_free_of_flags():
    plain, fast = nf.jit(program), nf.jit(program, fastmath=True)
    assert not FLAGS.search(nf.dump(plain, X, Y, stage="llvm"))
    found = set(FLAGS.findall(nf.dump(fast, X, Y, stage="llvm")))
    assert found == {"reassoc", "nsz", "arcp", "contract"}


def test_single_precision_quotients_stay():
    fast = nf.jit(lambda x, y: x / y, fastmath=True)
    x, y = X.astype(np.float32), Y.astype(np.float32)
    assert "arcp" not in nf.dump(fast, x, y, stage="llvm")
    assert not re.search(r"\bv?rcp", nf.dump(fast, x, y, stage="asm"))


def test_results_are_close():
    for got, want in zip(nf.jit(program, fastmath=True)(X, Y), program(X, Y), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_off_is_the_same_to_the_bit_also_beside_a_fast_one():
    before = nf.jit(program)(X, Y)
    nf.jit(program, fastmath=True)(X, Y)
    for got, want in zip(nf.jit(program, fastmath=False)(X, Y), before, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nan_and_infinities_keep_their_meaning(dtype):
    def f(x, y):
        return x / y, x * y + x, x - x, np.isnan(x + y), np.maximum(x, y), np.sqrt(x), np.log1p(x * y)

    x, y = (a.astype(dtype) for a in np.meshgrid([np.inf, -np.inf, np.nan, 1.0, 0.0, -2.0], [np.inf, np.nan, 0.0, 3.0]))
    with np.errstate(all="ignore"):
        wanted = f(x, y)
    for got, want in zip(nf.jit(f, fastmath=True)(x, y), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_elementary_functions_keep_their_digits():
    for function in (np.exp, np.log1p, np.sin, np.arctan2, np.cbrt):
        args = (np.abs(X) + 0.5, Y)[: function.nin]
        got = nf.jit(lambda *a: function(*a), fastmath=True)(*args)
        np.testing.assert_array_equal(got, nf.jit(lambda *a: function(*a))(*args))


def test_it_counts_anywhere_in_the_chain():
    fast = nf.grad(nf.jit(lambda x: np.sum(x * x * x + x), fastmath=True))
    assert FLAGS.search(nf.dump(fast, X, stage="llvm"))
    np.testing.assert_allclose(fast(X), 3 * X**2 + 1, rtol=1e-14)


def test_a_number_is_refused():
    with pytest.raises(ArgumentTypeError, match="fastmath must be True or False, got 1"):
        nf.jit(program, fastmath=1)

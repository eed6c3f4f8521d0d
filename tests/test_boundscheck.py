"""The boundscheck option: indices that are known only when the function runs, checked or clipped into the array."""

import numpy as np
import pytest

import nufunc as nf

X = np.arange(5.0)


def pick(x, i):
    return x[i] * 2


def test_indices_are_checked_unless_told_otherwise():
    with pytest.raises(IndexError, match="out of bounds"):
        nf.jit(pick)(X, np.int64(7))
    np.testing.assert_array_equal(nf.jit(pick)(X, np.array([1, -1])), [2.0, 8.0])


def test_without_checks_they_are_clipped():
    unchecked = nf.jit(pick, boundscheck=False)
    np.testing.assert_array_equal(unchecked(X, np.array([1, -1, 7, 3])), [2.0, 8.0, 8.0, 6.0])
    assert 'mode="error"' not in nf.dump(unchecked, X, np.array([1]), stage="traced")
    with pytest.raises(IndexError):  # the other compilation keeps its checks
        nf.jit(pick)(X, np.array([9]))


def test_static_indices_are_checked_always():
    with pytest.raises(IndexError, match="out of bounds"):
        nf.jit(lambda x: x[9], boundscheck=False)(X)


def test_it_counts_inside_other_functions_and_for_writes():
    @nf.jit(boundscheck=False)
    def inner(x, i):
        x = x.copy()
        x[i] = 0.0
        return x

    assert nf.grad(lambda x: inner(x, np.argmax(x) + 9).sum())(X).tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(IndexError):
        nf.jit(lambda x: inner(x, 0)[np.argmax(x) + 9])(X)


def test_a_wrong_option_is_refused():
    with pytest.raises(TypeError, match="boundscheck"):
        nf.jit(pick, boundscheck="no")

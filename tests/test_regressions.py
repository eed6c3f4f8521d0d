"""Programs that once gave wrong numbers or died: each says what NumPy does and holds compiled code to it."""

import numpy as np
import pytest

import nufunc as nf

NAN = np.nan


@pytest.mark.parametrize("side", ["left", "right"])
def test_searchsorted_puts_nan_last(side: str) -> None:
    values = np.array([1.0, NAN, -1.0, 5.0, np.inf])
    for haystack in (np.array([0.0, 1, 1, 1, 2, NAN]), np.array([0.0, 3.0]), np.array([0, 1, 2]), np.array([NAN, NAN])):
        want = np.searchsorted(haystack, values, side=side)
        np.testing.assert_array_equal(nf.jit(lambda x, v: np.searchsorted(x, v, side=side))(haystack, values), want)
        want = np.searchsorted(haystack, NAN, side=side)
        np.testing.assert_array_equal(nf.jit(lambda x, v: np.searchsorted(x, v, side=side))(haystack, NAN), want)
    whole = np.array([3, 0, 2])
    want = np.searchsorted(np.array([0.0, 2.0, NAN]), whole, side=side)
    got = nf.jit(lambda x, v: np.searchsorted(x, v, side=side))(np.array([0.0, 2.0, NAN]), whole)
    np.testing.assert_array_equal(got, want)

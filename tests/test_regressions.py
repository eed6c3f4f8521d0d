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


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_median_of_nothing_is_nan(axis: int | tuple[int, ...] | None, keepdims: bool) -> None:
    empty = np.zeros((3, 0, 2))
    want = np.median(empty, axis=axis, keepdims=keepdims)
    got = nf.jit(lambda x: np.median(x, axis=axis, keepdims=keepdims))(empty)
    assert np.shape(got) == np.shape(want)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_integers_to_negative_powers_are_refused_at_run_time(dtype):
    power = nf.jit(lambda a, b: a**b)
    a = np.array([2, 3, -1], dtype)
    np.testing.assert_array_equal(power(a, np.array([3, 2, 5], dtype)), [8, 9, -1])
    with pytest.raises(nf.DomainError, match="negative integer powers") as caught:
        power(a, np.array([1, -1, 2], dtype))
    assert caught.value.location.file == __file__
    with pytest.raises(ValueError, match="negative integer powers"):
        power(a, dtype(-1))
    assert power(np.array([2], np.uint8), np.array([3], np.uint8)) == 8

"""Results whose length depends on the data: `size=` cuts them off or fills them up; what does not fit is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf

X = np.array([3.0, 1.0, 2.0, 1.0, 3.0, 0.0])
Y = np.array([2.0, 5.0, 3.0])


def jitted(call: Callable[..., Any], *arrays: np.ndarray) -> Any:
    return nf.jit(call)(*arrays)


def padded(values: np.ndarray, size: int, fill: Any) -> np.ndarray:
    return np.concatenate([values, np.full(size, fill, values.dtype)])[:size]


@pytest.mark.parametrize("size", [0, 2, 4, 9])
def test_unique_is_cut_off_or_filled_up(size: int) -> None:
    wanted, index, inverse, counts = np.unique(X, True, True, True)
    got = jitted(lambda x: np.unique(x, True, True, True, size=size), X)
    np.testing.assert_array_equal(got[0], padded(wanted, size, wanted[0]))
    np.testing.assert_array_equal(got[1], padded(index, size, index[0]))
    np.testing.assert_array_equal(got[2], inverse)
    np.testing.assert_array_equal(got[3], padded(counts, size, 0))
    filled = jitted(lambda x: np.unique(x, size=size, fill_value=-1.0), X)
    np.testing.assert_array_equal(filled, padded(wanted, size, -1.0))


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("name", ["union1d", "intersect1d", "setdiff1d", "setxor1d"])
def test_sets(name: str, size: int) -> None:
    wanted = getattr(np, name)(X, Y)
    got = jitted(lambda x, y: getattr(np, name)(x, y, size=size, fill_value=7.0), X, Y)
    np.testing.assert_array_equal(got, padded(wanted, size, 7.0))
    own = jitted(lambda x, y: getattr(np, name)(x, y, size=size), X, Y)
    np.testing.assert_array_equal(own, padded(wanted, size, wanted[0]))


@pytest.mark.parametrize("size", [0, 1, 3, 200, 9000])
def test_nonzero(size: int) -> None:
    """Small and large: by counting and by writing to places."""
    for x in (X.reshape(2, 3), np.where(np.arange(3000) % 7 == 0, 1.0, 0.0).reshape(30, 100)):
        got = jitted(lambda x: np.nonzero(x, size=size, fill_value=(-1, -2)), x)
        for axis, wanted in enumerate(np.nonzero(x)):
            np.testing.assert_array_equal(got[axis], padded(wanted, size, -1 - axis))
        flat = jitted(lambda x: np.flatnonzero(x, size=size), x)
        np.testing.assert_array_equal(flat, padded(np.flatnonzero(x), size, 0))


def test_every_lane_has_its_own() -> None:
    lanes = np.array([[3.0, 1.0, 3.0], [2.0, 2.0, 2.0]])
    got = nf.vmap(lambda x: np.unique(x, size=2, fill_value=0.0))(lanes)
    np.testing.assert_array_equal(got, [[1.0, 3.0], [2.0, 0.0]])
    got = nf.vmap(lambda x: np.flatnonzero(x > 1.5, size=3, fill_value=9))(lanes)
    np.testing.assert_array_equal(got, [[0, 2, 9], [0, 1, 2]])


def test_gradients_go_to_the_elements() -> None:
    gradient = nf.grad(lambda x: np.unique(x, size=3) @ np.array([1.0, 10.0, 100.0]))(X)
    np.testing.assert_array_equal(gradient, [0.0, 10.0, 100.0, 0.0, 0.0, 1.0])
    gradient = nf.grad(lambda x: x[np.nonzero(x > 1.5, size=2)].sum())(X)
    np.testing.assert_array_equal(gradient, [1.0, 0.0, 1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("name", ["unique", "nonzero", "flatnonzero", "argwhere", "unique_values", "where"])
def test_without_size_the_error_names_it(name: str) -> None:
    with pytest.raises(nf.UnsupportedError, match=rf"np\.{name}\(\.\.\., size=n\)"):
        jitted(lambda x: getattr(np, name)(x), X)


def test_compress_and_extract() -> None:
    mask = X > 1.5
    got = jitted(lambda m, x: np.extract(m, x, size=5, fill_value=-1.0), mask, X)
    np.testing.assert_array_equal(got, padded(X[mask], 5, -1.0))
    table = np.arange(18.0).reshape(3, 6)
    got = jitted(lambda m, x: np.compress(m, x, axis=1, size=4), mask, table)
    wanted = np.compress(mask, table, axis=1)
    np.testing.assert_array_equal(got, np.pad(wanted, ((0, 0), (0, 4 - wanted.shape[1]))))


# -- what is found out when the program runs


def test_bincount_takes_its_length_from_an_argument() -> None:
    numbers = np.array([1, 4, 1, 0])
    np.testing.assert_array_equal(jitted(lambda n: np.bincount(n, length=6), numbers), np.bincount(numbers, None, 6))
    np.testing.assert_array_equal(jitted(lambda n: np.bincount(n, minlength=5), numbers), np.bincount(numbers))
    with pytest.raises(IndexError):
        jitted(lambda n: np.bincount(n, length=4), numbers)
    with pytest.raises(IndexError):
        jitted(lambda n: np.bincount(n, minlength=9), numbers - 1)
    with pytest.raises(nf.UnsupportedError, match="length=n"):
        jitted(lambda n: np.bincount(n), numbers)


def test_levels_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"in the range \[0, 1\]"):
        jitted(lambda x: np.quantile(x, 1.5), X)
    with pytest.raises(IndexError):
        jitted(lambda x, q: np.quantile(x, q), X, np.array(1.5))
    with pytest.raises(IndexError):
        jitted(lambda x, q: np.nanpercentile(x, q), X, np.array([20.0, -3.0]))


def test_weights_that_are_no_weights() -> None:
    call = lambda x, w: np.quantile(x, 0.5, weights=w, method="inverted_cdf")
    with pytest.raises(IndexError):
        jitted(call, X, np.zeros(6))
    with pytest.raises(IndexError):
        jitted(call, X, np.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0]))


def test_lines_of_nan_have_no_largest_element() -> None:
    with pytest.raises(IndexError):
        jitted(lambda x: np.nanargmax(x, axis=1), np.array([[1.0, np.nan], [np.nan, np.nan]]))


MISTAKES: dict[str, tuple[Callable[[np.ndarray], Any], type[Exception], str]] = {
    "kind": (lambda x: np.sort(x, kind="bubble"), ValueError, "sort kind"),
    "kind and stable": (lambda x: np.sort(x, kind="stable", stable=True), ValueError, "kind and stable"),
    "order": (lambda x: np.argsort(x, order="f"), ValueError, "no fields"),
    "kth": (lambda x: np.partition(x, 9), ValueError, r"kth\(=9\) out of bounds \(6\)"),
    "side": (lambda x: np.searchsorted(x, 1.0, side="middle"), ValueError, "search side"),
    "axis": (lambda x: np.sort(x, axis=1), np.exceptions.AxisError, "axis 1 is out of bounds"),
    "bins": (lambda x: np.histogram(x, 0), ValueError, "must be positive"),
    "rule of bins": (lambda x: np.histogram(x, "auto"), nf.UnsupportedError, "depends on the data"),
    "pad mode": (lambda x: np.pad(x, 1, "mirror"), ValueError, "mode 'mirror' is not supported"),
    "pad option": (lambda x: np.pad(x, 1, "edge", constant_values=3), ValueError, "unsupported keyword arguments"),
    "pad width": (lambda x: np.pad(x, -1), ValueError, "negative"),
    "method": (lambda x: np.quantile(x, 0.5, method="best"), ValueError, "not a valid method"),
    "weights": (lambda x: np.quantile(x, 0.5, weights=x), ValueError, "supports weights"),
    "average": (lambda x: np.average(x.reshape(2, 3), weights=x[:3]), TypeError, "Axis must be specified"),
    "cov": (lambda x: np.cov(x, fweights=[1, 2]), RuntimeError, "incompatible numbers of samples"),
    "interp": (lambda x: np.interp(x, x, x[:2]), ValueError, "not of the same length"),
    "period": (lambda x: np.interp(x, x, x, period=0), ValueError, "non-zero"),
    "gradient": (lambda x: np.gradient(x, 1.0, 2.0), TypeError, "invalid number of arguments"),
    "edge_order": (lambda x: np.gradient(x, edge_order=3), ValueError, "not supported"),
    "polyfit": (lambda x: np.polyfit(x, x[:2], 1), TypeError, "same length"),
    "packbits": (lambda x: np.packbits(x), TypeError, "integer or boolean"),
    "real_if_close": (lambda x: np.real_if_close(x + 0j), nf.UnsupportedError, "x.real"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_numpys(name: str) -> None:
    call, kind, words = MISTAKES[name]
    with pytest.raises(kind, match=words) as caught:
        jitted(call, X)
    assert isinstance(caught.value, nf.NufuncError)

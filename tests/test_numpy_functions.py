"""Functions of NumPy that take functions or positions, as users meet them: captured, transformed, with mistakes."""

import numpy as np
import pytest

import nufunc as nf

X = np.array([[0.5, -1.2, 2.0], [3.1, -0.4, 0.9]])


@np.vectorize
def steps_to(limit):
    """How many steps of 0.5 a number takes to pass the limit."""
    position, count = 0.0, 0
    while position < limit:
        position += 0.5
        count += 1
    return count


SCALE = 2.0
scaled = np.vectorize(lambda a, b: a * b * SCALE if a > b else a - b)


def test_vectorized_functions_from_outside_are_traced():
    np.testing.assert_array_equal(nf.jit(lambda x: steps_to(x))(X), steps_to(X))
    f = nf.jit(lambda x, y: scaled(x, y))
    np.testing.assert_allclose(f(X, X[0]), scaled(X, X[0]))
    np.testing.assert_allclose(f(X, X[1] + 9), scaled(X, X[1] + 9))


def test_globals_of_a_vectorized_function_are_read_at_each_call():
    global SCALE
    f = nf.jit(lambda x: scaled(x, -5.0))
    before = f(X)
    SCALE = 4.0
    try:
        np.testing.assert_allclose(f(X), 2 * before)
    finally:
        SCALE = 2.0


def test_derivatives_of_piecewise_do_not_see_the_other_pieces():
    f = lambda x: np.sum(np.piecewise(x, [x > 0, x <= 0], [np.sqrt, lambda q: q**2]))
    x = np.array([4.0, 0.0, -3.0])
    np.testing.assert_allclose(nf.grad(f)(x), [0.25, 0.0, -6.0])
    assert np.isfinite(nf.grad(f)(np.array([0.0, 1.0]))).all()


def test_positions_out_of_bounds_are_errors_at_run_time():
    f = nf.jit(lambda i, j: np.ravel_multi_index((i, j), (3, 4)))
    assert f(np.int64(2), np.int64(1)) == 9
    with pytest.raises(IndexError):
        f(np.int64(3), np.int64(0))
    with pytest.raises(IndexError):
        nf.jit(lambda k: np.unravel_index(k, (3, 4)))(np.array([0, 12]))


def test_reduceat_at_traced_places():
    values, places = np.arange(1.0, 9.0), np.array([0, 5, 2, 2])
    for ufunc in (np.add, np.multiply, np.maximum, np.logaddexp, np.logical_and):
        f = nf.jit(lambda x, i, ufunc=ufunc: ufunc.reduceat(x, i))
        np.testing.assert_allclose(f(values, places), ufunc.reduceat(values, places))
    with pytest.raises(IndexError):
        nf.jit(lambda x, i: np.add.reduceat(x, i))(values, np.array([0, 8]))
    np.testing.assert_allclose(
        nf.jit(lambda x, i: np.divide.reduceat(x, i))(values, places), np.divide.reduceat(values, places)
    )


def test_reduceat_of_many_elements():
    x, places = np.random.default_rng(2).normal(size=(3, 5000)), np.array([0, 70, 9, 9, 4000, 4999, 12])
    f = lambda x, i: np.add.reduceat(x, i, axis=1)
    np.testing.assert_allclose(nf.jit(f)(x, places), f(x, places), rtol=1e-12)
    gradient = nf.grad(lambda x: (f(x, places) ** 2).sum())(x)
    shift = np.random.default_rng(3).normal(size=x.shape)
    slope = ((f(x + 1e-6 * shift, places) ** 2).sum() - (f(x - 1e-6 * shift, places) ** 2).sum()) / 2e-6
    np.testing.assert_allclose((gradient * shift).sum(), slope, rtol=1e-6)


def test_long_reductions_are_loops():
    x = np.linspace(0.5, 1.5, 400).reshape(100, 4)
    for ufunc in (np.divide, np.arctan2, np.hypot, np.logaddexp):
        f = nf.jit(lambda x, ufunc=ufunc: (ufunc.reduce(x), ufunc.accumulate(x)))
        for got, want in zip(f(x), (ufunc.reduce(x), ufunc.accumulate(x)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-11)
    gradient = nf.grad(lambda x: np.logaddexp.reduce(x, axis=None))(x)
    np.testing.assert_allclose(gradient, np.exp(x) / np.exp(x).sum(), rtol=1e-11)


def test_apply_along_axis_traces_its_function_once():
    def middle(row):
        return np.sort(row)[1] * row

    x = np.arange(120.0).reshape(3, 40)[::-1]
    f = nf.jit(lambda x: np.apply_along_axis(middle, 0, x))
    np.testing.assert_array_equal(f(x), np.apply_along_axis(middle, 0, x))
    assert nf.dump(f, x, stage="traced").count(" sort") <= 1


def test_complex_parts_side_by_side_are_a_view():
    def program(z):
        parts = z.view(np.float64)
        parts[:, ::2] = 7.0
        return parts.sum()

    mine, theirs = (np.array([[1 + 2j, 3 - 1j], [0.5j, 2.0]]) for _ in range(2))
    assert nf.jit(program)(mine) == program(theirs)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_medians_of_long_lines(dtype):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5001, 2)).astype(dtype)
    holes = np.where(x > 1, np.nan, x).astype(dtype)
    for y in (x, np.round(x), np.where(x > 0, np.inf, -np.inf).astype(dtype), holes, x[:5000]):
        got = nf.jit(lambda y: (np.median(y), np.median(y, axis=0), np.nanmedian(y, axis=0)))(y)
        for g, w in zip(got, (np.median(y), np.median(y, axis=0), np.nanmedian(y, axis=0)), strict=True):
            np.testing.assert_array_equal(g, w)
            assert g.dtype == w.dtype
    gradient = nf.grad(lambda x: np.median(x, axis=0).sum())(x[:5000])
    assert np.count_nonzero(gradient) == 4
    np.testing.assert_array_equal(gradient.sum(axis=0), [1, 1])


MISTAKES = {
    "insert outside": (lambda x: np.insert(x, 9, 0.0), IndexError, "out of bounds"),
    "insert at a traced place": (lambda x: np.insert(x, np.argmax(x), 0.0), TypeError, "static"),
    "several axes in order": (lambda x: np.divide.reduce(x, axis=(0, 1)), ValueError, "not reorderable"),
    "no identity": (lambda x: np.fmax.reduce(x[:0]), ValueError, "no identity"),
    "conditions and functions": (lambda x: np.piecewise(x, [x > 0], [1, 2, 3]), ValueError, "functions are expected"),
    "objects": (lambda x: np.frompyfunc(lambda a: a, 1, 1)(x) + 1, TypeError, "Python objects"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    call, kind, words = MISTAKES[name]
    with pytest.raises(kind, match=words) as caught:
        nf.jit(call)(X)
    assert __file__ in str(caught.value) or isinstance(caught.value, IndexError)

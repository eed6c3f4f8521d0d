"""partition and argpartition of lines that are not sorted for it, against what NumPy promises."""

from __future__ import annotations

import numpy as np
import pytest

import nufunc as nf


def _is_parted(line: np.ndarray, given: np.ndarray, place: int) -> bool:
    """Whether a line is one that np.partition may give."""
    ranks = np.unique(np.sort(given), return_inverse=True, equal_nan=True)[1]  # the order with NaN last
    of_value = {str(v + 0): r for v, r in zip(np.sort(given).tolist(), ranks.tolist())}
    found = [of_value[str(v + 0)] for v in line.tolist()]
    assert sorted(found) == sorted(ranks.tolist())
    middle = found[place]
    return middle == ranks[place] and max(found[:place], default=-1) <= middle <= min(found[place:])


SHAPES = [((80,), 0), ((3, 70), 1), ((2, 300, 3), -2), ((5000,), -1)]


@pytest.mark.parametrize("dtype", ["?", "u2", "i4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_partitions(dtype: str, shape: tuple[int, ...], axis: int) -> None:
    rng = np.random.default_rng(4)
    x = (rng.normal(size=shape) * 30).astype(dtype)
    if dtype.startswith("f"):
        x = np.where(rng.random(shape) < 0.1, np.asarray(np.nan, dtype), np.round(x) * np.asarray(1, dtype))
    n = x.shape[axis]
    for place in (0, -1, n // 2):
        parts, order = nf.jit(lambda x: (np.partition(x, place, axis), np.argpartition(x, [place], axis)))(x)
        assert parts.dtype == x.dtype
        assert order.dtype == np.int64
        assert parts.shape == order.shape == x.shape
        assert np.array_equal(np.sort(order, axis), np.sort(np.argsort(x, axis), axis))
        for table in (parts, np.take_along_axis(x, order, axis)):
            wanted = np.take(np.sort(x, axis), place, axis)
            assert np.array_equal(np.take(table, place, axis), wanted, equal_nan=dtype.startswith("f"))
            lines, given = (np.moveaxis(t, axis, -1).reshape(-1, n) for t in (table, x))
            assert all(_is_parted(line, own, place % n) for line, own in zip(lines, given, strict=True))


@pytest.mark.parametrize("values", [np.nan, 0.0, np.inf])
@pytest.mark.parametrize("n", [300, 5000])
def test_partitions_of_equal_numbers(values: float, n: int) -> None:
    x = np.full((n, 2), values)
    for place in (0, 7, n - 1):
        parts, order = nf.jit(lambda x: (np.partition(x, place, 0), np.argpartition(x, place, 0)))(x)
        assert np.array_equal(parts, x, equal_nan=True)
        assert np.array_equal(order, np.broadcast_to(np.arange(n)[:, None], x.shape))


def test_partitions_by_several_places_of_nothing_and_in_place() -> None:
    x = np.random.default_rng(5).normal(size=5000)
    found = nf.jit(lambda x: np.partition(x, (10, -20)))(x)
    assert np.array_equal(found[[10, -20]], np.sort(x)[[10, -20]])
    assert nf.jit(lambda x: np.argpartition(x, 0, axis=1))(np.zeros((0, 100))).shape == (0, 100)

    def written(x: np.ndarray) -> np.ndarray:
        r = x.copy()
        r.partition(70)
        return r

    assert nf.jit(written)(x)[70] == np.sort(x)[70]


@pytest.mark.parametrize(("shape", "axis", "place"), [((5000,), 0, 2500), ((300, 3), 0, 0), ((300, 3), 0, -1)])
def test_derivatives_of_partitions(shape: tuple[int, ...], axis: int, place: int) -> None:
    rng = np.random.default_rng(6)
    x, t = rng.normal(size=shape), rng.normal(size=shape)
    order = nf.jit(lambda x: np.argpartition(x, place, axis))(x)
    value, tangent = nf.jit(lambda x, t: nf.jvp(lambda x: np.partition(x, place, axis), (x,), (t,)))(x, t)
    assert np.array_equal(value, np.take_along_axis(x, order, axis))
    assert np.array_equal(tangent, np.take_along_axis(t, order, axis))
    wanted = np.zeros(shape)
    np.put_along_axis(wanted, order, t, axis)
    gradient = nf.grad(lambda x: np.sum(np.partition(x, place, axis) * t))(x)
    assert np.array_equal(gradient, wanted)
    cubes = lambda x: np.sum(np.partition(x, place, axis) ** 3 * t)
    curved = nf.jvp(nf.grad(cubes), (x,), (t,))[1]
    np.testing.assert_allclose(curved, 6 * x * wanted * t, rtol=1e-12)


@pytest.mark.parametrize(("n", "place"), [(5000, 2500), (300, 0), (300, 100)])
def test_partitions_of_many(n: int, place: int) -> None:
    table = np.random.default_rng(7).normal(size=(3, n, 2))
    table[1, 5, 0] = np.nan
    found = nf.vmap(lambda x: (np.partition(x, place, 0), np.argpartition(x, place, 0)))(table)
    alone = nf.jit(lambda x: (np.partition(x, place, 0), np.argpartition(x, place, 0)))
    for k in range(3):
        for got, own in zip(found, alone(table[k]), strict=True):
            assert np.array_equal(got[k], own, equal_nan=True)
    lines = nf.vmap(lambda x: np.partition(x, place), in_dims=1)(table[0])
    assert np.array_equal(lines[:, place], np.sort(table[0], 0)[place])

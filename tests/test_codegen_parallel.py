"""Parallel regions of plans: what is divided, and that results are the same bits whatever the threads."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen.divide import divide
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.nests import build_nests
from nufunc.codegen.schedule import schedule
from nufunc.ir.builder import Builder
from nufunc.ir.errors import BoundsError
from nufunc.ir.types import ArrayType

rng = np.random.default_rng(5)
V = rng.normal(size=300_001)
M = rng.normal(size=(401, 1003))
W = rng.normal(size=(200_003, 3))
Z = V[:100_001] + 1j * V[-100_001:]


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def collatz(n):
    step = lambda s: (np.where(s[0] % 2 == 0, s[0] / 2, 3 * s[0] + 1), s[1] + 1)
    return nf.while_loop(lambda s: s[0] > 1.5, step, (n, 0))[1]


PROGRAMS = {
    "elementwise": (lambda x: np.exp(-x * x) * np.tanh(x), (V,)),
    "total": (lambda x: np.sum(np.sin(x) * x), (V,)),
    "total, more of it": (lambda x: (np.mean(x), np.max(x), np.log(np.sum(x * x) + x[0])), (V,)),
    "columns": (lambda x: np.sum(np.sin(x) * x, axis=0), (M,)),
    "rows": (lambda x: np.sum(np.sin(x) * x, axis=1), (M,)),
    "few columns": (lambda x: np.sum(np.exp(x), axis=0) + 1, (W,)),
    "positions": (lambda x: (np.argmax(np.sin(x)), np.argmin(np.cos(x))), (V,)),
    "positions of NaN": (lambda x: np.argmax(np.where(x > 2, np.nan, x)), (V,)),
    "row program": (softmax, (M,)),
    "transposed": (lambda x: x.T * 2, (M,)),
    "gather": (lambda x: x[(np.abs(x) * 1000).astype(np.int64)], (V,)),
    "complex": (lambda x: (np.sum(np.exp(x)), np.prod(np.exp(1j * x.real))), (Z,)),
    "logical": (lambda x: (np.all(np.exp(x) > 0), np.any(np.sin(x) > 2)), (V,)),
    "integers": (lambda x: np.sum((x * 100).astype(np.int64)), (V,)),
    "product": (lambda x: x @ x.T, (M,)),
    "product with little to sum": (lambda x: x.T @ x[:, :9], (M,)),
    "batched": (lambda x: np.einsum("bij,bkj->bik", x, x), (M[:400, :1000].reshape(40, 100, 100),)),
    "gradient": (nf.grad(lambda x: np.sum(softmax(x) ** 2)), (M,)),
}  # fmt: skip


def flat(result):
    return [np.asarray(r) for r in (result if isinstance(result, tuple) else (result,))]


def with_threads(count, function, *args):
    before = nf.get_num_threads()
    nf.set_num_threads(count)
    try:
        return flat(function(*args))
    finally:
        nf.set_num_threads(before)


@pytest.mark.parametrize("name", PROGRAMS)
def test_bits_do_not_depend_on_threads(name):
    function, args = PROGRAMS[name]
    compiled = nf.jit(function)
    if name != "gradient":
        for made, expected in zip(flat(compiled(*args)), flat(function(*args)), strict=True):
            np.testing.assert_allclose(made, expected, rtol=1e-11, atol=1e-11)
    assert ".region." in nf.dump(compiled, *args, stage="llvm")
    many, one = (with_threads(n, compiled, *args) for n in (nf.get_num_threads(), 1))
    assert [a.tobytes() for a in many] == [a.tobytes() for a in one]


def test_lanes_of_a_map_are_shared_and_stop_on_their_own():
    numbers = rng.integers(1, 3000, 40_001).astype(float)
    compiled = nf.vmap(collatz)
    many, one = (with_threads(n, compiled, numbers)[0] for n in (nf.get_num_threads(), 1))
    assert "region" in nf.dump(compiled, numbers, stage="llvm")
    expected = []
    for n in numbers[:2000]:
        count = 0
        while n > 1.5:
            n, count = (n / 2 if n % 2 == 0 else 3 * n + 1), count + 1
        expected.append(count)
    assert np.array_equal(many, one)
    assert np.array_equal(many[:2000], expected)


def test_an_index_out_of_bounds_in_a_task():
    compiled = nf.jit(lambda x, i: np.sin(x)[i])
    where = rng.integers(0, V.size, V.size)
    np.testing.assert_allclose(compiled(V, where), np.sin(V)[where], rtol=1e-14)
    where[-7] = V.size
    with pytest.raises(BoundsError):
        compiled(V, where)


def nest_of(build, *shapes):
    b = Builder()
    params = [b.param(ArrayType(s, np.dtype(np.float64))) for s in shapes]
    region = b.build([build(b, *params)])
    (nest,) = build_nests(region, "n", Sites())
    return divide(schedule(nest, 64), 64)


def test_what_is_divided():
    assert nest_of(lambda b, x: b.exp(x), (1000,)).nests[0].split is None
    assert nest_of(lambda b, x: b.exp(x), (1000, 1000)).nests[0].split is not None
    first, second = nest_of(lambda b, x: b.reduce_sum(b.exp(x), axes=(0,)), (100_000,)).nests
    assert (first.split, second.split) == ("task", None)
    assert first.tasks > 1
    (columns,) = nest_of(lambda b, x: b.reduce_sum(b.exp(x), axes=(0,)), (500, 2000)).nests
    assert columns.split is not None

"""Products with what follows them: which programs are one group, that each way to run it gives the same numbers, and
why others are not joined."""

import re

import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen import product_groups
from nufunc.codegen.compile import compile_graph, lower
from nufunc.codegen.emit_text import run_grouped
from nufunc.ir import ArrayType, Builder, interpret
from nufunc.ir.product_group import expanded, is_product
from nufunc.ir.verify import verify
from nufunc.passes.fuse import fuse, reasons

F8 = np.dtype(np.float64)


def dense(x, w, b):
    return np.maximum(x @ w + b, 0)


def dense_of_columns(x, w, b):
    return np.tanh((x @ w) * b[: x.shape[0], None])


def scaled(x, w, b):
    return 1 / (1 + np.exp(-0.5 * (x @ w))), x.sum() + b.sum()


def with_mask(x, w, b):
    z = x @ w
    return np.where(z > b, z, 0.1 * z), z > b


def with_product(x, w, b):
    z = x @ w
    return z, np.tanh(z + b)


def softmax(x, w, b):
    z = x @ w + b
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def descent(x, w, b):
    return w - 0.1 * (x.T @ np.tanh(x[:, : w.shape[1]])), b


def accumulated(x, w, b):
    return w + x.T @ x[:, : w.shape[1]]


PROGRAMS = [dense, dense_of_columns, scaled, with_mask, with_product, softmax, descent, accumulated]
SHAPES = [(256, 300, 260), (150, 300, 97), (40, 520, 500), (900, 130, 96)]
CASES = list(zip(SHAPES, [np.float32, np.float64] * 2, strict=True))


def arguments(shape, dtype):
    m, k, n = shape
    rng = np.random.default_rng(m)
    arrays = rng.standard_normal((m, k)), rng.standard_normal((k, n)) / np.sqrt(k), rng.standard_normal(n)
    return [a.astype(dtype) for a in arrays]


def groups(function, *args):
    return re.findall(r'fused\{kind="(\w+)"', nf.dump(function, *args, stage="grouped"))


@pytest.mark.parametrize(("shape", "dtype"), CASES)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_values(program, shape, dtype):
    args = arguments(shape, dtype)
    fits = shape[0] <= shape[2] if program is dense_of_columns else shape[2] <= shape[1]
    if not fits and program in (dense_of_columns, descent, accumulated):
        pytest.skip("shapes do not fit")
    args64 = [a.astype(float) for a in args]
    got, want = nf.jit(program)(*args), program(*args64)
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    for x, y in pairs:
        if y.dtype == bool:
            assert np.mean(x != y) < 1e-4  # next to the threshold
        else:
            np.testing.assert_allclose(x, y, rtol=0, atol=300 * np.finfo(dtype).eps * max(1, np.abs(y).max()))


@pytest.mark.parametrize("program", [dense, with_mask, softmax, descent, accumulated], ids=lambda f: f.__name__)
def test_a_product_and_what_follows_are_one_group(program):
    assert groups(program, *arguments((256, 300, 260), F8)).count("product") == 1


@pytest.mark.parametrize("program", [dense, softmax, with_product], ids=lambda f: f.__name__)
def test_parts_and_the_whole_give_the_same_bits(program, monkeypatch):
    """What follows runs on each part of the product in its task, or behind the whole product."""
    args, found = arguments((256, 300, 260), F8), []
    nf.clear_cache()
    parts = product_groups._parts
    monkeypatch.setattr(product_groups, "_parts", lambda *a: found.append(parts(*a)) or found[-1])
    joined = nf.jit(program)(*args)
    assert any(p is not None for p in found)
    nf.clear_cache()
    monkeypatch.setattr(product_groups, "_parts", lambda *a: None)
    apart = nf.jit(program)(*args)
    for x, y in zip(np.atleast_3d(joined), np.atleast_3d(apart), strict=True):
        np.testing.assert_array_equal(x, y)


def test_one_parallel_region_instead_of_two():
    b = Builder()
    x, w, c = b.param(vec(1024, 256)), b.param(vec(256, 128)), b.param(vec(128))
    z = b.dot(x, w, contract=((1,), (0,)), batch=((), ()))
    grouped = fuse(b.build([b.tanh(b.add(z, b.broadcast_to(c, z.shape)))]))
    regions = lambda g: len(set(re.findall(r"\.region\.\d+", lower(g, "f").text)))
    assert regions(grouped) == 1
    assert regions(expanded(grouped)) == 2


def vec(*shape):
    return ArrayType(shape, F8)


def matmul(b, x, y):
    return b.dot(x, y, contract=((x.ndim - 1,), (0,)), batch=((), ()))


def bias(b, x, w):
    return [b.tanh(b.add(matmul(b, x, w), b.broadcast_to(b.param(vec(w.shape[1])), (x.shape[0], w.shape[1]))))]


def shared(b, x, w):
    z = matmul(b, x, w)
    return [b.exp(z), z]


def rows_summed(b, x, w):
    return [b.reduce_sum(b.exp(matmul(b, x, w)), axes=(1,))]


def columns_summed(b, x, w):
    return [b.reduce_sum(b.exp(matmul(b, x, w)), axes=(0,))]


def chain(b, x, w):
    z = matmul(b, x, w)
    return [b.tanh(b.add(z, matmul(b, b.exp(z), b.param(vec(w.shape[1], w.shape[1])))))]


def two(b, x, w):
    return [b.add(matmul(b, x, w), matmul(b, x, b.param(w.type)))]


def flipped(b, x, w):
    return [b.tanh(b.flip(matmul(b, x, w), axes=(0,)))]


JOINED = {bias: 1, shared: 1, rows_summed: 1, columns_summed: 0, chain: 2, two: 1, flipped: 0}
WHY = {
    columns_summed: "reduce_sum goes across its rows",
    two: "it follows another product",
    flipped: "flip reads it at other indices",
}


@pytest.mark.parametrize("program", JOINED, ids=lambda f: f.__name__)
def test_groups_of_graphs(program):
    """As many groups as expected; verified, interpreted, compiled, run as text and taken apart, all the same."""
    b = Builder()
    graph = b.build(program(b, b.param(vec(90, 60)), b.param(vec(60, 130))))
    grouped = verify(fuse(graph))
    assert sum(map(is_product, grouped.nodes)) == JOINED[program]
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(t.shape) / 8 for t in graph.param_types]
    want = interpret.run(graph, args)
    apart = verify(expanded(grouped))
    assert not any(map(is_product, apart.nodes))
    ways = interpret.run(grouped, args), interpret.run(apart, args), run_grouped(grouped, args)
    for got in (*ways, compile_graph(grouped).slow(*args)):
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13)
    if program in WHY:
        assert any(WHY[program] in line for line in reasons(graph)), reasons(graph)


def test_small_results_are_not_joined():
    b = Builder()
    graph = b.build(bias(b, b.param(vec(30, 60)), b.param(vec(60, 20))))
    assert not any(map(is_product, fuse(graph).nodes))
    assert any("the result is small" in line for line in reasons(graph))


def test_a_weight_updated_in_place():
    def step(w, x, g):
        w -= 0.01 * (x.T @ g)
        return w.sum()

    x, w, g = arguments((256, 300, 260), F8)[0], *np.random.default_rng(0).standard_normal((2, 300, 260))
    g = g[:256]
    expected = w - 0.01 * (x.T @ g)
    total = nf.jit(step)(w, x, g)
    np.testing.assert_allclose(w, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-9)


def test_an_operand_updated_by_its_own_product():
    """Parts of the result may not be written over what other parts still read."""

    def step(x, w):
        x[...] = np.tanh(x @ w)

    x, w = np.random.default_rng(0).standard_normal((2, 300, 300))
    expected = np.tanh(x @ w)
    nf.jit(step)(x, w)
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-12)


def test_results_do_not_depend_on_threads():
    args = arguments((256, 300, 260), np.float32)
    before = nf.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            nf.set_num_threads(min(count, before))
            results.append([nf.jit(f)(*args) for f in (dense, softmax)])
    finally:
        nf.set_num_threads(before)
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)

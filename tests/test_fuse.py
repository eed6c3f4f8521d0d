"""Fusion: how many kernels each of some twenty programs takes, that grouping keeps the meaning, and why it
stops."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir import ArrayType, Builder, interpret
from nufunc.ir.verify import verify
from nufunc.passes.decompose import decompose
from nufunc.passes.fuse import fuse, reasons

F8, I8 = np.dtype(np.float64), np.dtype(np.int64)


def vec(*shape, dtype=F8):
    return ArrayType(shape, np.dtype(dtype))


def rows(b, s, x):
    """A value of the rows, broadcast along them."""
    return b.broadcast(s, shape=x.shape, dims=tuple(range(s.ndim)))


def matmul(b, x, y):
    return b.dot(x, y, contract=((x.ndim - 1,), (0,)), batch=((), ()))


def chain(b, x):
    return [b.mul(b.exp(b.neg(b.mul(x, x))), b.tanh(x))]


def siblings(b, x):
    return [b.sin(x), b.cos(x), b.exp(b.neg(x))]


def sum_of_squares(b, x):
    return [b.reduce_sum(b.mul(x, x), axes=(0, 1))]


def several_sums(b, x):
    return [b.reduce_sum(x, axes=(1,)), b.reduce_max(x, axes=(1,)), b.reduce_sum(b.exp(x), axes=(1,))]


def sums_of_rows_and_columns(b, x):
    return [b.reduce_sum(x, axes=(1,)), b.reduce_sum(x, axes=(0,))]


def softmax(b, x):
    e = b.exp(b.sub(x, rows(b, b.reduce_max(x, axes=(1,)), x)))
    return [b.div(e, rows(b, b.reduce_sum(e, axes=(1,)), x))]


def log_sum_exp(b, x):
    m = b.reduce_max(x, axes=(1,))
    return [b.add(m, b.log(b.reduce_sum(b.exp(b.sub(x, rows(b, m, x))), axes=(1,))))]


def layer_norm(b, x):
    n = b.filled(x.shape[1], vec(x.shape[0]))
    d = b.sub(x, rows(b, b.div(b.reduce_sum(x, axes=(1,)), n), x))
    scale = b.sqrt(b.div(b.reduce_sum(b.mul(d, d), axes=(1,)), n))
    return [b.div(d, rows(b, scale, x))]


def softmax_of_columns(b, x):
    down = lambda s: b.broadcast(s, shape=x.shape, dims=(1,))
    e = b.exp(b.sub(x, down(b.reduce_max(x, axes=(0,)))))
    return [b.div(e, down(b.reduce_sum(e, axes=(0,))))]


def layers(b, x):
    """Two dense layers with tanh: two products and two kernels after them."""
    for n in (50, 60):
        w, bias = b.param(vec(x.shape[1], n)), b.param(vec(n))
        x = b.tanh(b.add(matmul(b, x, w), b.broadcast_to(bias, (x.shape[0], n))))
    return [x]


def product_of_transposes(b, x):
    y = b.param(vec(30, 40))
    return [
        b.dot(b.transpose(x, perm=(1, 0)), b.transpose(y, perm=(1, 0)), contract=((1,), (1,)), batch=((), ()))
    ]


def transposed_chain(b, x):
    return [b.sin(b.transpose(b.exp(x), perm=(1, 0)))]


def returned_transpose(b, x):
    return [b.transpose(b.exp(x), perm=(1, 0))]


def differences(b, x):
    part = lambda first: b.slice(x, start=(first, 0), stop=(x.shape[0] - 1 + first, x.shape[1]), step=(1, 1))
    return [b.mul(b.sub(part(1), part(0)), part(1))]


def sum_of_pads(b, x):
    pad = lambda low: b.pad(b.sin(x), low=(low, 0), high=(2 - low, 0), interior=(0, 0))
    return [b.add(pad(0), b.add(pad(1), pad(2)))]


def reshaped(b, x):
    return [b.reshape(b.exp(x), shape=(x.type.size,))]


def only_layout(b, x):
    return [b.flip(b.transpose(x, perm=(1, 0)), axes=(0,))]


def scalars(b, x):
    s = b.reduce_sum(x, axes=(0, 1))
    t = b.sqrt(s)
    return [b.add(t, b.sin(t)), b.mul(t, b.exp(t))]


def concatenated(b, x):
    return [b.concat(b.sin(x), b.cos(x), axis=0)]


def updated(b, x):
    new = b.slice(b.sin(x), start=(0, 0), stop=(2, 3), step=(1, 1))
    return [b.update(b.exp(x), new, start=(1, 1), stop=(3, 4), step=(1, 1))]


def small_product(b, x):
    w = b.param(vec(40, 1))
    return [b.tanh(matmul(b, x, w))]


def running(b, x):
    return [b.cumsum(b.exp(x), axis=1, reverse=False)]


def gathered(b, x):
    i = b.param(vec(7, dtype=I8))
    return [b.exp(b.gather(x, i, axes=(0,), mode="clip"))]


# program, kernels, library calls
PROGRAMS = [
    (chain, 1, 0), (siblings, 1, 0), (sum_of_squares, 1, 0), (several_sums, 1, 0),
    (sums_of_rows_and_columns, 2, 0), (softmax, 1, 0), (log_sum_exp, 1, 0), (layer_norm, 1, 0),
    (softmax_of_columns, 3, 0), (layers, 2, 2), (product_of_transposes, 0, 1), (transposed_chain, 1, 0),
    (returned_transpose, 1, 0), (differences, 1, 0), (sum_of_pads, 1, 0), (reshaped, 1, 0),
    (only_layout, 1, 0), (scalars, 1, 0), (concatenated, 1, 0), (updated, 1, 0), (small_product, 1, 0),
    (running, 1, 0), (gathered, 1, 0),
]  # fmt: skip


def program(build):
    b = Builder(build.__name__)
    x = b.param(vec(30, 40), "x")
    return verify(b.build(build(b, x)))


def arguments(graph):
    rng = np.random.default_rng(0)
    return [rng.normal(size=p.shape) if p.dtype == F8 else rng.integers(0, 5, p.shape) for p in graph.params]


@pytest.mark.parametrize(("build", "kernels", "calls"), PROGRAMS, ids=[p[0].__name__ for p in PROGRAMS])
def test_number_of_kernels(build, kernels, calls):
    grouped = verify(fuse(program(build)))
    views = [n for n in grouped.nodes if n.prim == "fused" and n.attrs["kind"] == "view"]
    fused = [n for n in grouped.nodes if n.prim == "fused"]
    assert (len(fused) - len(views), len(grouped.nodes) - len(fused)) == (kernels, calls), str(grouped)


@pytest.mark.parametrize("build", [p[0] for p in PROGRAMS])
def test_grouping_keeps_the_meaning(build):
    graph = program(build)
    grouped = fuse(graph)
    assert grouped.stage == "grouped"
    assert grouped.params == graph.params
    for x, y in zip(
        interpret.run(grouped, arguments(graph)), interpret.run(graph, arguments(graph)), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("build", [p[0] for p in PROGRAMS])
def test_compiled_programs(build):
    from nufunc.codegen.compile import compile_graph

    graph = program(build)
    got = compile_graph(fuse(graph)).slow(*arguments(graph))
    for x, y in zip(got, interpret.run(graph, arguments(graph)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)


def test_regions_of_control_nodes_are_grouped():
    b = Builder()
    x = b.param(vec(5, 3))
    inner = Builder("body")
    row = inner.param(vec(3))
    body = inner.build([inner.sin(inner.mul(row, row))])
    graph = fuse(b.build(b.emit("map", [x], {"length": 5, "num_consts": 0}, [body])))
    (node,) = verify(graph).nodes
    assert node.regions[0].stage == "grouped"
    assert [n.prim for n in node.regions[0].nodes] == ["fused"]


def test_reasons_name_what_was_not_fused():
    told = reasons(program(softmax_of_columns))
    assert any("reads the result of reduce_max" in line for line in told)
    assert any("reduces axes (0,), not (1,)" in line for line in reasons(program(sums_of_rows_and_columns)))


def test_a_merge_never_makes_a_cycle():
    """p -> product -> q with p and q of one space: they may not share a kernel around the product."""
    b = Builder()
    x = b.param(vec(40, 40))
    p = b.exp(x)
    q = b.add(p, matmul(b, p, p))
    grouped = verify(fuse(b.build([q, b.tanh(q)])))
    assert [n.prim for n in grouped.nodes] == ["fused", "dot", "fused"]


def test_long_chains_are_cut():
    b = Builder()
    x = b.param(vec(10))
    y = x
    for _ in range(1000):
        y = b.sin(b.add(y, x))
    grouped = verify(fuse(b.build([y])))
    assert 10 < len(grouped.nodes) < 40


def test_deep_layouts_are_cut():
    b = Builder()
    x = b.param(vec(10))
    y = x
    for k in range(300):
        y = (
            b.sin(b.flip(y, axes=(0,)))
            if k % 2
            else b.pad(b.slice(y, start=(1,), stop=(10,), step=(1,)), low=(1,), high=(0,), interior=(0,))
        )
    grouped = verify(fuse(b.build([y])))
    assert 5 < len(grouped.nodes) < 40


def test_products_that_become_loops():
    b = Builder()
    x, y, i = b.param(vec(4, 5)), b.param(vec(5, 6)), b.param(vec(70, 80, dtype=I8))
    outer = b.dot(x, y, contract=((), ()), batch=((), ()))
    graph = b.build([matmul(b, x, y), outer, b.dot(i, i, contract=((0,), (0,)), batch=((), ()))])
    simpler = verify(decompose(graph))
    assert not any(n.prim == "dot" for n in simpler.nodes)
    rng = np.random.default_rng(0)
    args = [rng.normal(size=(4, 5)), rng.normal(size=(5, 6)), rng.integers(0, 9, (70, 80))]
    for got, want in zip(interpret.run(simpler, args), interpret.run(graph, args), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_columns_that_all_pairs_read_are_put_side_by_side_once():
    x = np.random.default_rng(0).normal(size=(300, 3))
    f = lambda x: np.sum(np.tanh(x[:, 0][:, None] - x[:, 1]), axis=1)
    text = nf.dump(f, x, stage="loops")
    assert text.count("x0[3 * ") == 2  # both are copied in one loop
    np.testing.assert_allclose(nf.jit(f)(x), f(x), rtol=1e-12)


def test_a_cross_entropy_and_its_gradient_are_one_pass_over_the_rows():
    def loss(z, y):
        top = z.max(axis=-1, keepdims=True)
        each = np.log(np.exp(z - top).sum(axis=-1)) + top[..., 0]
        return np.mean(each - np.take_along_axis(z, y[..., None], axis=-1)[..., 0])

    z, y = np.random.default_rng(0).normal(size=(30, 12)), np.arange(30) % 12
    text = nf.dump(nf.value_and_grad(loss), z, y, stage="loops")
    assert text.count("def ") == 2  # the other one takes the mean
    value, slope = nf.value_and_grad(loss)(z, y)
    softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(value, loss(z, y), rtol=1e-13)
    np.testing.assert_allclose(slope, (softmax - np.eye(12)[y]) / 30, atol=1e-15)

"""vmap of graphs: every subset of batched parameters against a Python loop over the lanes, also with
derivatives."""

import itertools

import numpy as np
import pytest
from golden_files import check_golden, golden_files
from pass_programs import F64, I64, PROGRAMS, _while, f64, graph_of

from nufunc.ir import Location
from nufunc.ir.errors import ArgumentError
from nufunc.ir.interpret import run
from nufunc.ir.text import parse_graph, print_graph
from nufunc.ir.verify import verify
from nufunc.passes.jvp import jvp
from nufunc.passes.simplify import simplify
from nufunc.passes.transpose import vjp
from nufunc.passes.vmap import VmapOutDimError, batched_outputs, vmap

SIZE = 3
BY_NAME = {p.name: p for p in PROGRAMS}


def lanes_of(array, rng):
    """SIZE variants of an argument, stacked."""
    if array.dtype.kind != "f":
        return np.stack([array, np.roll(array, 1), np.zeros_like(array)])
    return np.stack([array, *(array * rng.uniform(0.5, 1.5, array.shape) for _ in range(SIZE - 1))])


def looped(graph, arguments, in_dims):
    """Results of the graph for each lane, stacked along axis 0."""
    out = []
    for i in range(SIZE):
        lane = [a if d is None else np.take(a, i, axis=d) for a, d in zip(arguments, in_dims, strict=True)]
        out.append(run(graph, lane))
    return [np.stack(results) for results in zip(*out, strict=True)]


def check_vmap(graph, arguments, in_dims, rtol=1e-12):
    out_dims = [0] * len(graph.outputs)
    mapped = verify(vmap(graph, SIZE, in_dims, out_dims))
    want = looped(graph, arguments, in_dims)
    for got, w in zip(run(mapped, arguments), want, strict=True):
        np.testing.assert_allclose(got, w, rtol=rtol, atol=1e-13)
    for got, w in zip(run(verify(simplify(mapped)), arguments), want, strict=True):
        np.testing.assert_allclose(got, w, rtol=rtol, atol=1e-13)


def batches(p, flags, seed=0):
    rng = np.random.default_rng(seed)
    arguments = [lanes_of(a, rng) if f else a for a, f in zip(p.arguments, flags, strict=True)]
    return arguments, [0 if f else None for f in flags]


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_every_subset_of_batched_parameters(p):
    for flags in itertools.product([False, True], repeat=len(p.arguments)):
        check_vmap(p.graph, *batches(p, flags))


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_vmap_of_jvp(p):
    rng = np.random.default_rng(4)
    arguments, in_dims = batches(p, [True] * len(p.arguments))
    tangents = [rng.normal(size=a.shape) for a, w in zip(p.arguments, p.which, strict=True) if w]
    check_vmap(jvp(p.graph, p.which), [*arguments, *tangents], [*in_dims, *[None] * len(tangents)])


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_vmap_of_vjp(p):
    rng = np.random.default_rng(4)
    graph = vjp(p.graph, p.which)
    cotangents = [rng.normal(size=o.shape) for o in p.graph.outputs if o.dtype.kind == "f"]
    for flags in ([True] * len(p.arguments), [i % 2 == 0 for i in range(len(p.arguments))]):
        arguments, in_dims = batches(p, flags)
        check_vmap(graph, [*arguments, *cotangents], [*in_dims, *[None] * len(cotangents)], rtol=1e-10)
    batched = [rng.normal(size=(SIZE, *c.shape)) for c in cotangents]
    nothing = [None] * len(p.arguments)
    check_vmap(graph, [*p.arguments, *batched], [*nothing, *[0] * len(batched)], rtol=1e-10)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_vjp_of_vmap(p):
    """The gradient of a batched program equals the gradients of the lanes (summed where a parameter is
    shared)."""
    rng = np.random.default_rng(4)
    for flags in ([True] * len(p.arguments), [i % 2 == 1 for i in range(len(p.arguments))]):
        arguments, in_dims = batches(p, flags)
        out_dims = [0] * len(p.graph.outputs)
        graph = verify(vjp(vmap(p.graph, SIZE, in_dims, out_dims), p.which))
        cts = [rng.normal(size=(SIZE, *o.shape)) for o in p.graph.outputs if o.dtype.kind == "f"]
        got = run(graph, [*arguments, *cts])[len(out_dims) :]
        lanes = looped(vjp(p.graph, p.which), [*arguments, *cts], [*in_dims, *[0] * len(cts)])[
            len(out_dims) :
        ]
        dims = [d for d, w in zip(in_dims, p.which, strict=True) if w]
        for g, lane, dim in zip(got, lanes, dims, strict=True):
            np.testing.assert_allclose(g, lane if dim == 0 else lane.sum(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_vmap_of_vmap(p):
    inner = vmap(p.graph, 2, [0] * len(p.arguments), [0] * len(p.graph.outputs))
    arguments = [np.stack([a, a]) for a in p.arguments]
    rng = np.random.default_rng(8)
    stacked = [lanes_of(a, rng) for a in arguments]
    check_vmap(inner, stacked, [0] * len(stacked))


# -- dims


def test_in_dims_and_out_dims_are_moved():
    graph = graph_of(lambda b, x, y: (b.mul(b.sin(x), y), y), f64(2, 4), f64(2, 4))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 4, 5))
    mapped = verify(vmap(graph, 5, [1, 2], [2, 1]))
    product, same = run(mapped, [x, y])
    want = np.sin(np.moveaxis(x, 1, 0)) * np.moveaxis(y, 2, 0)
    np.testing.assert_array_equal(product, np.moveaxis(want, 0, 2))
    np.testing.assert_array_equal(same, np.moveaxis(y, 2, 1))
    assert [n.prim for n in mapped.nodes].count("transpose") == 4


def test_unbatched_output_is_repeated_or_kept():
    graph = graph_of(lambda b, x, y: (b.exp(x), b.sin(y)), f64(2), f64(2))
    x, y = np.ones((4, 2)), np.arange(2.0)
    _, kept = run(verify(vmap(graph, 4, [0, None], [0, None])), [x, y])
    np.testing.assert_array_equal(kept, np.sin(y))
    _, repeated = run(verify(vmap(graph, 4, [0, None], [0, 1])), [x, y])
    np.testing.assert_array_equal(repeated, np.repeat(np.sin(y)[:, None], 4, axis=1))


def test_out_dim_none_of_a_batched_output():
    graph = graph_of(lambda b, x, y: (b.sin(y), b.exp(x)), f64(2), f64(2))
    with pytest.raises(VmapOutDimError, match="output 1 is batched") as caught:
        vmap(graph, 4, [0, None], [None, None])
    assert caught.value.output_index == 1
    assert isinstance(caught.value, ArgumentError)


@pytest.mark.parametrize(("in_dims", "out_dims"), [([3], [0]), ([0], [3]), ([0, 0], [0]), ([0], [0, 0])])
def test_dims_that_do_not_exist(in_dims, out_dims):
    with pytest.raises(ArgumentError):
        vmap(graph_of(lambda b, x: b.sin(x), f64(2, 2)), 4, in_dims, out_dims)


def test_batched_outputs():
    p = BY_NAME["scan_mixed_carry"]
    assert batched_outputs(p.graph, 4, [None, None, None]) == [False] * 5
    assert batched_outputs(p.graph, 4, [0, None, None]) == [False, False, True, True, False]
    assert batched_outputs(p.graph, 4, [None, None, 0]) == [False, False, True, True, False]


# -- control flow


def prims(graph):
    return [n.prim for n in graph.walk()]


def test_cond_with_one_index_stays_a_cond():
    p = BY_NAME["cond_index"]
    graph = vmap(p.graph, SIZE, [None, 0, None], [0])
    assert prims(graph).count("cond") == 1
    assert "map" not in prims(graph)


def test_cond_with_an_index_per_lane_becomes_a_map():
    p = BY_NAME["cond_index"]
    graph = vmap(p.graph, SIZE, [0, None, None], [0])
    (node,) = [n for n in graph.nodes if n.prim == "map"]
    assert [n.prim for n in node.regions[0].nodes] == ["cond"]
    assert node.regions[0].name == "cond.lane"


def test_no_nan_from_the_branch_not_taken():
    """The branch that would give NaN is never run for the lanes that do not take it, in derivatives
    neither."""

    def f(b, x):
        regions = (
            graph_of(lambda b, x: b.mul(x, x), f64(), name="square"),
            graph_of(lambda b, x: b.sqrt(x), f64(), name="root"),
        )
        return b.cond(b.gt(x, b.scalar(0.0, F64)), x, regions=regions)

    graph = vmap(vjp(graph_of(f, f64()), [True]), 3, [0, None], [0, 0])
    x = np.array([4.0, -3.0, 0.0])
    value, grad = run(verify(graph), [x, np.float64(1.0)])
    np.testing.assert_array_equal(value, [2.0, 9.0, 0.0])
    np.testing.assert_array_equal(grad, [0.25, -6.0, 0.0])


def test_while_with_different_trip_counts_per_lane():
    p = BY_NAME["while_newton"]
    targets = np.array([2.0, 1e6, 0.81])
    graph = verify(vmap(p.graph, 3, [None, 0], [0, 0]))
    root, count = run(graph, [np.float64(0.9), targets])
    np.testing.assert_allclose(root, np.sqrt(targets), rtol=1e-9)
    assert count[2] == 0
    assert count[1] > count[0] > 0


def test_while_with_one_condition_stays_a_while():
    p = BY_NAME["while_counted"]
    graph = vmap(p.graph, SIZE, [0, None], [None, 0, None])
    assert prims(graph).count("while") == 1
    assert "map" not in prims(graph)
    assert prims(vmap(p.graph, SIZE, [None, 0], [0, 0, 0])).count("map") == 1


def test_while_carry_becomes_batched_late():
    """y follows x one step behind, z follows y: the fixpoint needs two rounds."""

    def body(b, k, x, y, z):
        return b.add(k, b.scalar(1, I64)), b.sin(x), x, y

    def f(b, x):
        start = [b.scalar(0, I64), x, b.scalar(0.0, F64), b.scalar(0.0, F64)]
        return _while(b, lambda b, k, x, y, z: b.lt(k, b.scalar(4, I64)), body, [], [], start)

    check_vmap(graph_of(f, f64()), [np.array([0.1, 0.2, 0.3])], [0])


def test_primitive_without_a_rule_runs_lane_by_lane(monkeypatch):
    from dataclasses import replace

    from nufunc.ir import primitive

    record = primitive.get("atan2")
    monkeypatch.setitem(primitive._REGISTRY, "atan2", replace(record, batch=None))
    graph = graph_of(lambda b, x, y: b.atan2(b.sin(x), y), f64(2), f64(2))
    x = np.random.default_rng(0).normal(size=(SIZE, 2))
    check_vmap(graph, [x, np.ones(2)], [0, None])
    assert prims(vmap(graph, SIZE, [0, None], [0])) == ["sin", "map", "atan2"]


def test_nodes_keep_their_lines_and_regions_their_names():
    here = Location("user.py", 7, "f")
    p = BY_NAME["scan_cond_scan"]
    nodes = [type(n)(n.prim, n.operands, n.attrs, n.regions, n.results, here) for n in p.graph.nodes]
    graph = vmap(p.graph.replace(nodes=tuple(nodes)), SIZE, [0, None], [0, 0])
    assert {n.loc for n in graph.nodes} == {here}
    names = {r.name for n in graph.walk() for r in n.regions}
    assert "body.vmap" in names


def test_text_round_trip():
    for name in ("rnn", "scan_cond_scan", "while_newton"):
        p = BY_NAME[name]
        text = print_graph(vmap(p.graph, SIZE, [0] * len(p.arguments), [0] * len(p.graph.outputs)))
        assert print_graph(parse_graph(text)) == text


@pytest.mark.parametrize("path", golden_files("vmap"))
def test_golden(path):
    check_golden(path, {"vmap": vmap, "vjp": vjp, "jvp": jvp, "simplify": simplify})

"""jvp, linearize, transpose and vjp of graphs: against central differences, each other, and JAX where it is
installed."""

import numpy as np
import pytest
from golden_files import check_golden, golden_files
from pass_programs import F64, I64, PROGRAMS, _scan, f64, graph_of, i64

from nufunc.ir import Location
from nufunc.ir.errors import ArgumentError, DTypeError, UnsupportedError, VerifyError
from nufunc.ir.interpret import run
from nufunc.ir.text import parse_graph, print_graph
from nufunc.ir.verify import verify
from nufunc.passes.jvp import jvp
from nufunc.passes.linearize import linearize
from nufunc.passes.simplify import simplify
from nufunc.passes.transpose import transpose, vjp

BY_NAME = {p.name: p for p in PROGRAMS}


def inexact(arrays):
    return [a for a in arrays if a.dtype.kind == "f"]


def drawn(like, seed=1):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=a.shape)) for a in like]


def chosen(items, flags):
    return [x for x, f in zip(items, flags, strict=True) if f]


def numeric_jvp(graph, arguments, which, tangents, step=1e-5):
    """Central differences along `tangents`."""

    def at(t):
        steps = iter(tangents)
        return inexact(
            run(graph, [a + t * next(steps) if w else a for a, w in zip(arguments, which, strict=True)])
        )

    return [(p - m) / (2 * step) for p, m in zip(at(step), at(-step), strict=True)]


def inner(xs, ys):
    return sum(float(np.sum(x * y)) for x, y in zip(xs, ys, strict=True))


def check_jvp(graph, arguments, which, rtol=2e-6):
    tangents = drawn(chosen(arguments, which))
    out = run(verify(jvp(graph, which)), [*arguments, *tangents])
    for got, want in zip(out, run(graph, arguments), strict=False):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(
        out[len(graph.outputs) :], numeric_jvp(graph, arguments, which, tangents), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-7)


def check_vjp(graph, arguments, which):
    """<ct, J v> = <J' ct, v>."""
    tangents = drawn(chosen(arguments, which))
    dots = run(jvp(graph, which), [*arguments, *tangents])[len(graph.outputs) :]
    cotangents = drawn(dots, seed=2)
    out = run(verify(vjp(graph, which)), [*arguments, *cotangents])
    for got, want in zip(out, run(graph, arguments), strict=False):
        np.testing.assert_allclose(got, want, rtol=1e-14)
    given = out[len(graph.outputs) :]
    assert [g.shape for g in given] == [t.shape for t in tangents]
    assert inner(cotangents, dots) == pytest.approx(inner(given, tangents), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_jvp_matches_central_differences(p):
    check_jvp(p.graph, p.arguments, p.which)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_jvp_by_each_parameter(p):
    for i, active in enumerate(p.which):
        if active:
            check_jvp(p.graph, p.arguments, [k == i for k in range(len(p.which))])


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_linearize_agrees_with_jvp(p):
    lin = linearize(p.graph, p.which)
    out = run(verify(lin.primal), p.arguments)
    residuals = out[len(out) - lin.num_residuals :]
    tangents = drawn(chosen(p.arguments, p.which))
    dots = run(verify(lin.linear), [*residuals, *tangents])
    whole = run(jvp(p.graph, p.which), [*p.arguments, *tangents])
    for got, want in zip([*out[: len(p.graph.outputs)], *dots], whole, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_vjp_is_the_transpose_of_jvp(p):
    check_vjp(p.graph, p.arguments, p.which)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_vjp_by_each_parameter(p):
    for i, active in enumerate(p.which):
        if active:
            check_vjp(p.graph, p.arguments, [k == i for k in range(len(p.which))])


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_transpose_of_the_linear_graph(p):
    lin = linearize(p.graph, p.which)
    residuals = run(lin.primal, p.arguments)[len(p.graph.outputs) :]
    tangents = drawn(chosen(p.arguments, p.which))
    dots = run(lin.linear, [*residuals, *tangents])
    cotangents = drawn(dots, seed=2)
    given = run(verify(transpose(lin.linear, lin.num_residuals)), [*residuals, *cotangents])
    assert inner(cotangents, dots) == pytest.approx(inner(given, tangents), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_transposing_twice_gives_the_linear_graph_back(p):
    lin = linearize(p.graph, p.which)
    residuals = run(lin.primal, p.arguments)[len(p.graph.outputs) :]
    tangents = drawn(chosen(p.arguments, p.which))
    once = transpose(lin.linear, lin.num_residuals)
    twice = verify(transpose(once, lin.num_residuals))
    want = run(lin.linear, [*residuals, *tangents])
    for got, w in zip(run(twice, [*residuals, *tangents]), want, strict=True):
        np.testing.assert_allclose(got, w, rtol=1e-10, atol=1e-12)


def gradient_program(p):
    """The vjp graph with its arguments; differentiable in the parameters and the cotangents."""
    graph = vjp(p.graph, p.which)
    cotangents = drawn(inexact(run(p.graph, p.arguments)), seed=5)
    return graph, [*p.arguments, *cotangents], [*p.which, *[True] * len(cotangents)]


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_jvp_of_vjp(p):
    graph, arguments, which = gradient_program(p)
    check_jvp(graph, arguments, which, rtol=1e-5)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_vjp_of_vjp(p):
    check_vjp(*gradient_program(p))


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_vjp_of_jvp(p):
    graph = jvp(p.graph, p.which)
    tangents = drawn(chosen(p.arguments, p.which), seed=5)
    check_vjp(graph, [*p.arguments, *tangents], [*p.which, *[True] * len(tangents)])


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_simplify_keeps_derivatives(p):
    tangents = drawn(chosen(p.arguments, p.which))
    graph = jvp(p.graph, p.which)
    want = run(graph, [*p.arguments, *tangents])
    for got, w in zip(run(verify(simplify(graph)), [*p.arguments, *tangents]), want, strict=True):
        np.testing.assert_array_equal(got, w)
    graph = vjp(p.graph, p.which)
    cotangents = drawn(inexact(run(p.graph, p.arguments)), seed=5)
    want = run(graph, [*p.arguments, *cotangents])
    for got, w in zip(run(verify(simplify(graph)), [*p.arguments, *cotangents]), want, strict=True):
        np.testing.assert_array_equal(got, w)


@pytest.mark.parametrize("p", PROGRAMS, ids=repr)
def test_nothing_to_differentiate_gives_zeros(p):
    none = [False] * len(p.which)
    out = run(verify(jvp(p.graph, none)), p.arguments)
    primals = run(p.graph, p.arguments)
    for got, like in zip(out[len(primals) :], inexact(primals), strict=True):
        np.testing.assert_array_equal(got, np.zeros_like(like))
    lin = linearize(p.graph, none)
    assert lin.num_residuals == 0
    assert lin.linear.params == ()


# -- structure


def nodes_named(graph, prim):
    return [n for n in graph.walk() if n.prim == prim]


def test_independent_outputs_have_zero_tangents():
    graph = jvp(BY_NAME["partly_independent"].graph, [True, False])
    full = {n.result for n in graph.nodes if n.prim == "full" and n.attrs["value"] == 0.0}
    assert [o in full for o in graph.outputs[4:]] == [True, True, False, True]


def test_only_active_nodes_get_a_linear_part():
    def f(b, x, y):
        return b.mul(b.sin(x), b.exp(y))

    graph = jvp(graph_of(f, f64(3), f64(3)), [True, False])
    assert [n.prim for n in graph.nodes].count("exp") == 1
    assert [n.prim for n in graph.nodes] == ["sin", "cos", "mul", "exp", "mul", "mul"]


def test_fulls_and_constants_are_not_residuals():
    def f(b, x):
        return b.mul(b.sin(x), b.mul(b.like(x, 3.0), b.const(np.arange(3.0))))

    lin = linearize(graph_of(f, f64(3)), [True])
    assert lin.num_residuals == 1
    assert [n.prim for n in lin.primal.nodes].count("cos") == 1
    assert [n.prim for n in lin.linear.nodes].count("cos") == 0


def test_a_broadcast_residual_is_stored_small():
    def f(b, x, y):
        return b.mul(b.broadcast_to(b.exp(y), (100, 3)), x)

    lin = linearize(graph_of(f, f64(100, 3), f64(3)), [True, False])
    assert [o.shape for o in lin.primal.outputs[1:]] == [(3,)]


def test_residuals_are_not_repeated():
    def f(b, x):
        y = b.exp(x)
        return b.mul(y, y), b.mul(y, x)

    lin = linearize(graph_of(f, f64(3)), [True])
    residuals = lin.primal.outputs[2:]
    assert len(set(residuals)) == len(residuals) == 2


def test_loop_invariant_residuals_are_hoisted():
    """sin(k) and cos(k) of rk4 are computed once before the loop: no stack of them, no sine of k in the
    loop."""
    p = BY_NAME["rk4"]
    lin = linearize(p.graph, p.which)
    (scan,) = [n for n in lin.primal.nodes if n.prim == "scan"]
    assert {n.prim for n in lin.primal.nodes} >= {"sin", "cos"}
    assert scan.attrs["num_consts"] >= 1
    consts = set(scan.regions[0].params[: scan.attrs["num_consts"]])
    assert not [n for n in scan.regions[0].nodes if n.prim in ("sin", "cos") and set(n.operands) <= consts]


def test_cotangents_of_consts_accumulate_in_a_carry():
    p = BY_NAME["rnn"]
    graph = vjp(p.graph, p.which)
    backward = [n for n in graph.nodes if n.prim == "scan"][-1]
    assert backward.attrs["reverse"]
    assert backward.attrs["num_carry"] == 4  # h, and the sums for w, u and the bias
    stacked = [r.shape for r in backward.results[4:]]
    assert stacked == [(4, 2)]


def test_map_without_consts_stays_a_map():
    p = BY_NAME["map_consts"]
    graph = vjp(p.graph, [False, True, True])
    assert not nodes_named(graph, "scan")
    assert len(nodes_named(graph, "map")) == 2
    assert len(nodes_named(vjp(p.graph, [True, True, True]), "scan")) == 1


def test_nodes_keep_their_lines():
    here = Location("user.py", 7, "f")

    def f(b, x):
        with b.at(here):
            return b.mul(b.sin(x), x)

    graph = graph_of(f, f64(3))
    assert {n.loc for n in jvp(graph, [True]).nodes} == {here}
    assert {n.loc for n in vjp(graph, [True]).nodes if n.prim != "full"} == {here}


def test_regions_are_named_after_what_they_derive_from():
    names = {r.name for n in jvp(BY_NAME["rk4"].graph, [True, True]).walk() for r in n.regions}
    assert names == {"body.jvp"}


# -- errors


def test_a_linear_condition_is_refused_with_the_line():
    here = Location("user.py", 12, "f")
    p = BY_NAME["while_newton"]
    nodes = [type(n)(n.prim, n.operands, n.attrs, n.regions, n.results, here) for n in p.graph.nodes]
    with pytest.raises(UnsupportedError, match="condition depends on what is linear") as caught:
        transpose(p.graph.replace(nodes=tuple(nodes)), 0)
    assert caught.value.location == here


def test_integers_cannot_be_differentiated():
    graph = graph_of(lambda b, x, k: b.mul(x, b.astype(k, F64)), f64(3), i64(3))
    with pytest.raises(DTypeError, match="number 1 of @f"):
        jvp(graph, [False, True])
    with pytest.raises(DTypeError, match="int64"):
        vjp(graph, [True, True])


def test_which_of_wrong_length():
    with pytest.raises(ArgumentError, match="2 entries"):
        linearize(BY_NAME["scalar_chain"].graph, [True, True])


def test_only_pure_graphs_are_transformed():
    from nufunc.passes.vmap import vmap

    graph = BY_NAME["scalar_chain"].graph.replace(stage="traced")
    for transform in (
        lambda: jvp(graph, [True]),
        lambda: vjp(graph, [True]),
        lambda: transpose(graph, 0),
        lambda: vmap(graph, 3, [0], [0]),
    ):
        with pytest.raises(VerifyError, match="functionalize it first"):
            transform()


def test_transpose_of_what_is_not_linear():
    with pytest.raises(UnsupportedError, match="sin is not linear"):
        transpose(graph_of(lambda b, x: b.sin(x), f64(3)), 0)


# -- nested carries of integers, complex numbers


def test_integer_carries_have_no_tangents():
    p = BY_NAME["scan_mixed_carry"]
    graph = jvp(p.graph, p.which)
    (scan,) = nodes_named(graph, "scan")
    assert scan.attrs["num_carry"] == 4  # the counter, still, moving and the tangent of moving
    assert all(not (t.dtype == I64 and i >= len(p.graph.outputs)) for i, t in enumerate(graph.output_types))


def test_complex_chain_is_bilinear():
    from nufunc.ir import ArrayType

    c = ArrayType((3,), np.dtype(np.complex128))
    graph = graph_of(lambda b, z, w: b.mul(b.exp(z), w), c, c)
    rng = np.random.default_rng(0)
    z, w, tz, tw, ct = (rng.normal(size=3) + 1j * rng.normal(size=3) for _ in range(5))
    dot = run(jvp(graph, [True, True]), [z, w, tz, tw])[1]
    np.testing.assert_allclose(dot, np.exp(z) * tz * w + np.exp(z) * tw, rtol=1e-13)
    gz, gw = run(verify(vjp(graph, [True, True])), [z, w, ct])[1:]
    np.testing.assert_allclose(np.sum(ct * dot), np.sum(gz * tz + gw * tw), rtol=1e-12)


# -- against JAX


def test_rnn_gradient_matches_jax():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    p = BY_NAME["rnn"]
    cotangents = drawn(inexact(run(p.graph, p.arguments)), seed=3)

    def f(w, u, bias, h, xs):
        def body(h, x):
            new = jnp.tanh(w @ h + u @ x + bias)
            return new, new * new

        return jax.lax.scan(body, h, xs)

    with jax.enable_x64(True):
        _, pull = jax.vjp(f, *map(jnp.asarray, p.arguments))
        want = [np.asarray(g) for g in pull(tuple(map(jnp.asarray, cotangents)))]
    got = run(vjp(p.graph, p.which), [*p.arguments, *cotangents])[2:]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-12)


def test_text_round_trip_of_derivatives():
    for name in ("rk4", "scan_cond_scan", "cond_index"):
        p = BY_NAME[name]
        text = print_graph(vjp(p.graph, p.which))
        assert print_graph(parse_graph(text)) == text


def test_transpose_of_a_loop_with_a_carry_that_is_not_linear():
    """The decay factor is known and changes from step to step; only y is linear."""

    def body(b, decay, factor, y):
        return b.mul(factor, decay), b.mul(y, b.sin(factor)), b.mul(y, factor)

    graph = graph_of(
        lambda b, decay, y: _scan(b, body, [decay], [b.exp(decay), y], [], 3)[1:],
        f64(2),
        f64(2),
        name="decaying",
    )
    rng = np.random.default_rng(0)
    decay, y, ct, cts = rng.normal(size=2), rng.normal(size=2), rng.normal(size=2), rng.normal(size=(3, 2))
    last, stack = run(graph, [decay, y])
    (given,) = run(verify(transpose(graph, 1)), [decay, ct, cts])
    np.testing.assert_allclose(inner([ct, cts], [last, stack]), inner([given], [y]), rtol=1e-12)


def test_loop_residuals_that_exist_already_are_not_stacked_again():
    """Of h' = tanh(w h), y = h' the backward pass needs h and h': the latter are ys, and 1 - h'^2 cheap."""

    def body(b, w, h):
        new = b.tanh(b.mul(w, h))
        return new, new

    graph = graph_of(lambda b, w, h: _scan(b, body, [w], [h], [], 4), f64(2), f64(2))
    forward = linearize(graph, [True, True]).primal.nodes[-1]
    assert len(forward.results) == 3  # the carry, ys, and the stack of h


def test_hoisting_leaves_a_loop_that_never_runs_alone():
    """A matrix that has no Cholesky factor is no error in a loop of length 0."""

    def body(b, a, y):
        return (b.mul(b.cholesky(a), y),)

    graph = graph_of(lambda b, a, y: _scan(b, body, [a], [y], [], 0), f64(2, 2), f64(2, 2))
    bad, y = -np.eye(2), np.ones((2, 2))
    out = run(vjp(graph, [True, True]), [bad, y, y])
    np.testing.assert_array_equal(out[1], np.zeros((2, 2)))


# -- golden files


def linear_of(graph, which):
    return linearize(graph, which).linear


def primal_of(graph, which):
    return linearize(graph, which).primal


PASSES = {
    "jvp": jvp,
    "vjp": vjp,
    "primal": primal_of,
    "linear": linear_of,
    "transpose": transpose,
    "simplify": simplify,
}


@pytest.mark.parametrize("path", golden_files("jvp", "linearize", "transpose"))
def test_golden(path):
    check_golden(path, PASSES)

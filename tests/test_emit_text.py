"""Loop nests as text: readable, and executed as plain Python equal to the interpreter."""

import itertools

import numpy as np
import op_samples
import pytest
from pass_programs import PROGRAMS, f64, graph_of, i64

from nufunc.codegen.compile import compile_graph
from nufunc.codegen.emit_text import buffer_names, loops_text, run_grouped
from nufunc.ir import Builder, interpret, primitive
from nufunc.ir.errors import BoundsError, Location
from nufunc.ir.types import ArrayType
from nufunc.passes.fuse import fuse

SKIPPED_KINDS = ("view", "write", "fused")
BY_PRIMITIVE = {
    name: list(rows)
    for name, rows in itertools.groupby(sorted(op_samples.SAMPLES, key=lambda s: s.prim), key=lambda s: s.prim)
    if primitive.get(name).kind not in SKIPPED_KINDS
}


def assert_close(got, want, what=""):
    assert got.dtype == want.dtype, what
    assert got.shape == want.shape, what
    single = got.dtype in (np.float32, np.complex64)
    rtol, atol = (5e-6, 1e-6) if single else (2e-12, 1e-14)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=what)


def check(graph, *arguments):
    """Grouped and run as text equals interpreted; gives the text."""
    arguments = [np.asarray(a) for a in arguments]
    grouped = fuse(graph)
    results = run_grouped(grouped, arguments)
    for got, want in zip(results, interpret.run(graph, arguments), strict=True):
        assert_close(got, want, graph.name)
        assert not any(np.shares_memory(got, a) for a in arguments)
    return loops_text(grouped)


@pytest.mark.parametrize("name", sorted(BY_PRIMITIVE))
def test_text_equals_interpreter(name):
    """All rows of a primitive in one graph, so that neighbours may share loops."""
    rows = BY_PRIMITIVE[name]
    b = Builder(name)
    arguments, outputs, wanted = [], [], []
    for row in rows:
        operands = row.operands()
        outputs += b.inline(row.graph(), [b.param(t) for t in row.types])
        wanted += [(row.id, want) for want in interpret.run(row.graph(), operands)]
        arguments += operands
    results = run_grouped(fuse(b.build(outputs)), arguments)
    for got, (what, want) in zip(results, wanted, strict=True):
        assert_close(got, want, what)


@pytest.mark.parametrize("program", PROGRAMS, ids=repr)
def test_programs(program):
    check(program.graph, *program.arguments)


def test_arguments_of_any_layout():
    graph = graph_of(lambda b, x, y: b.add(b.sin(x), y), f64(3, 4), f64(3, 4))
    x, y = np.arange(12.0).reshape(4, 3).T, np.arange(24.0).reshape(3, 8)[:, ::-2]
    check(graph, x, y)


# -- how the text reads


def test_chain_is_one_loop():
    graph = graph_of(lambda b, x, y: b.exp(b.add(b.mul(x, x), y)), f64(3, 4), f64(3, 4))
    text = check(graph, np.ones((3, 4)), np.arange(12.0).reshape(3, 4))
    assert text == (
        "def loop_0(x0, x1, y0, error):\n"
        "    for i1 in range(12):\n"
        "        v0 = x0[i1]\n"
        "        v1 = v0 * v0\n"
        "        v2 = x1[i1]\n"
        "        v3 = v1 + v2\n"
        "        v4 = exp(v3)\n"
        "        y0[i1] = v4\n"
    )


def test_row_sum_accumulates_inside_the_rows():
    text = check(graph_of(lambda b, x: b.reduce_sum(x, axes=(1,)), f64(3, 4)), np.arange(12.0).reshape(3, 4))
    assert text == (
        "def reduce_0(x0, y0, error):\n"
        "    for i0 in range(3):\n"
        "        a1 = float64(0.0)\n"
        "        for r0_0 in range(4):\n"
        "            v0 = x0[4 * i0 + r0_0]\n"
        "            a1 = a1 + v0\n"
        "        y0[i0] = a1\n"
    )


def test_invariant_values_stand_outside_the_loop():
    def outer(b, x, y):
        return b.mul(b.broadcast(b.exp(x), shape=(3, 4), dims=(0,)), b.broadcast(y, shape=(3, 4), dims=(1,)))

    text = check(graph_of(outer, f64(3), f64(4)), np.arange(3.0), np.arange(4.0))
    lines = text.splitlines()
    inner = next(k for k, line in enumerate(lines) if "range(4)" in line)
    assert sum("exp" in line for line in lines[:inner]) == 1
    assert not any("exp" in line for line in lines[inner:])


def test_the_users_line_stands_beside_a_check():
    location = Location("model.py", 7, "lookup")
    b = Builder("f")
    x, i = b.param(f64(5)), b.param(i64(3))
    with b.at(location):
        value = b.gather(x, i, axes=(0,), mode="error")
    graph = b.build((value,))
    assert "# model.py:7" in check(graph, np.arange(5.0), np.array([0, 4, 2]))
    with pytest.raises(BoundsError, match="out of bounds") as caught:
        run_grouped(fuse(graph), [np.arange(5.0), np.array([0, 5, 2])])
    assert caught.value.location == location
    assert isinstance(caught.value, IndexError)


def test_buffer_names_are_distinct_identifiers():
    assert buffer_names(["x", "x", "a b", "for", "sin", "v3", "i0", "3d", ""]) == [
        "x", "x_", "a_b", "for_", "sin_", "v3_", "i0_", "_3d", "_",
    ]  # fmt: skip


# -- arithmetic


def test_integers_wrap_at_their_own_width():
    i8 = ArrayType((4,), np.dtype(np.int8))
    graph = graph_of(lambda b, x, y: (b.add(x, y), b.mul(x, y), b.neg(x), b.floor_div(x, y)), i8, i8)
    check(graph, np.array([127, -128, -128, 5], np.int8), np.array([1, -1, 2, 0], np.int8))


def test_repeated_constant_place_accumulates():
    """The accumulating store stays in the loop, though neither its address nor its value changes there."""

    def count(b, x):
        places, ones = (b.full(value=v, shape=(5,), dtype=np.dtype(d)) for v, d in ((2, "i8"), (1.0, "f8")))
        return b.scatter_add(x, ones, places, axes=(0,), mode="error")

    graph = graph_of(count, f64(4))
    check(graph, np.zeros(4))
    (compiled,) = compile_graph(fuse(graph)).slow(np.zeros(4))
    np.testing.assert_array_equal(compiled, [0, 0, 5, 0])


def test_unread_guarded_elements_do_not_matter():
    """A pad reads nothing outside its operand, also of an empty one."""
    graph = graph_of(lambda b, x: b.pad(x, low=(2,), high=(1,), interior=(1,)), f64(3))
    check(graph, np.array([1.0, 2.0, 3.0]))
    check(graph_of(lambda b, x: b.pad(x, low=(2,), high=(1,), interior=(0,)), f64(0)), np.zeros(0))


def test_control_flow_runs_regions_as_text():
    b = Builder("f")
    x = b.param(f64(4))
    body = graph_of(lambda b, i, s: (b.add(i, b.like(i, 1)), b.mul(b.sin(s), s)), i64(), f64(4), name="body")
    condition = graph_of(lambda b, i, s: b.lt(i, b.like(i, 5)), i64(), f64(4), name="cond")
    start = b.full(value=0, shape=(), dtype=np.dtype(np.int64))
    results = b.emit("while", [start, x], {"num_cond": 0, "num_body": 0}, [condition, body])
    text = check(b.build(results), np.linspace(0.5, 2, 4))
    assert "sin(" in text

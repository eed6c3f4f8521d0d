"""functionalize: golden graphs, and equality with NumPy running the views and writes in place."""

import numpy as np
import pytest
from golden_files import check_golden, golden_files
from random_graphs import random_arguments, random_graph, same_bits

from nufunc.ir import ArrayType, Builder, Graph
from nufunc.ir.errors import MutationError, UnsupportedError
from nufunc.ir.interpret import run
from nufunc.ir.text import parse_graph, print_graph
from nufunc.ir.verify import verify
from nufunc.passes.functionalize import functionalize
from nufunc.passes.simplify import simplify

PASSES = {"functionalize": functionalize, "simplify": simplify}


@pytest.mark.parametrize("path", golden_files("functionalize"))
def test_golden(path) -> None:
    check_golden(path, PASSES)


def assert_same_as_in_place(graph: Graph, arguments: list[np.ndarray]) -> None:
    """Outputs and final arguments of NumPy's run of the traced graph equal those of the pure one."""
    in_place = [a.copy() for a in arguments]
    outputs = run(verify(graph), in_place)
    pure = verify(functionalize(graph), "functionalize")
    before = [a.copy() for a in arguments]
    found = run(pure, arguments)
    assert all(same_bits(a, b) for a, b in zip(arguments, before, strict=True)), "a pure graph wrote"
    final = list(arguments)
    for k, value in zip(pure.updates, found[len(outputs) :], strict=True):
        final[k] = value
    assert all(same_bits(a, b) for a, b in zip(outputs, found[: len(outputs)], strict=True))
    assert all(same_bits(a, b) for a, b in zip(in_place, final, strict=True))


@pytest.mark.parametrize("seed", range(120))
def test_random_traced_graphs(seed: int) -> None:
    graph = random_graph(seed, "traced", steps=25)
    assert_same_as_in_place(graph, random_arguments(graph, seed))


@pytest.mark.parametrize("path", golden_files("functionalize"))
@pytest.mark.parametrize("flag", [False, True])
def test_golden_inputs_run_as_in_place(path, flag: bool) -> None:
    graph = parse_graph(path.read_text().split("# expected")[0])
    if graph.stage == "traced":
        rng = np.random.default_rng(5)
        arguments = [
            np.array(flag) if p.dtype.kind == "b" else np.asarray(rng.integers(1, 5, p.shape)).astype(p.dtype)
            for p in graph.params
        ]
        assert_same_as_in_place(graph, arguments)


def test_a_pure_graph_is_itself() -> None:
    graph = random_graph(1)
    assert functionalize(graph) is graph


def test_functionalize_is_idempotent() -> None:
    once = functionalize(random_graph(2, "traced"))
    assert print_graph(functionalize(once)) == print_graph(once)


def refused(body: str) -> str:
    text = f"graph @f(%x: f64[2], %m: f64[2,2], %c: f64[2]) stage=traced {{ {body} return %x }}"
    with pytest.raises((MutationError, UnsupportedError)) as caught:
        functionalize(verify(parse_graph(text)))
    assert caught.value.location is not None
    return str(caught.value)


def test_a_broadcast_is_read_only() -> None:
    message = refused(
        """%b: f64[2,2] = view_broadcast{shape=(2, 2), dims=(1,)}(%x) loc("f.py":3)
        write(%b, %m) loc("f.py":4)"""
    )
    assert "read-only" in message


def test_lanes_of_a_map_write_to_no_capture() -> None:
    message = refused(
        """%y: f64[2] = map{length=2, num_consts=1}(%c, %m) [graph @b(%p: f64[2], %q: f64[2]) stage=traced {
            write(%p, %q)
            %r: f64[] = reduce_sum{axes=(0,)}(%p)
            return %r
        }] loc("f.py":5)"""
    )
    assert "lanes of a map" in message
    assert 'File "f.py", line 5' in message


def test_a_condition_does_not_write() -> None:
    message = refused(
        """%y: f64[2] = while{num_cond=1, num_body=0}(%c, %x) [graph @t(%p: f64[2], %q: f64[2]) stage=traced {
            write(%p, %q)
            %r: b1[] = full{value=false, shape=(), dtype=b1}()
            return %r
        }, graph @b(%s: f64[2]) stage=traced { return %s }] loc("f.py":5)"""
    )
    assert "condition of a while loop cannot write" in message


def test_a_scan_does_not_write_what_it_runs_over() -> None:
    message = refused(
        """%r: f64[1,2] = view_slice{start=(0, 0), stop=(1, 2), step=(1, 1)}(%m)
        %row: f64[2] = view_reshape{shape=(2,)}(%r)
        %y: f64[2] = scan{length=2, reverse=false, num_consts=1, num_carry=1}(%row, %x, %m)
            [graph @b(%p: f64[2], %q: f64[2], %i: f64[2]) stage=traced {
                write(%p, %i)
                return %q
            }] loc("f.py":6)"""
    )
    assert "writes to an array that the loop runs over" in message


def test_a_shift_in_place_reads_before_it_writes() -> None:
    """x[1:] = x[:-1] moves every element once."""
    b = Builder("f", "traced")
    x = b.param(ArrayType((5,), np.dtype("f8")))
    head = b.view_slice(x, start=(0,), stop=(4,), step=(1,))
    tail = b.view_slice(x, start=(1,), stop=(5,), step=(1,))
    b.emit("write", (tail, head))
    pure = functionalize(b.build([]))
    (out,) = run(pure, [np.arange(5.0)])
    np.testing.assert_array_equal(out, [0, 0, 1, 2, 3])


def test_many_writes_take_linear_time_and_size() -> None:
    """A loop of x[i] = x[i - 1] + 1, unrolled by the trace."""
    b = Builder("f", "traced")
    n = 3000
    x = b.param(ArrayType((n,), np.dtype("f8")))
    for i in range(1, n):
        before = b.view_slice(x, start=(i - 1,), stop=(i,), step=(1,))
        here = b.view_slice(x, start=(i,), stop=(i + 1,), step=(1,))
        b.emit("write", (here, b.add(before, b.filled(1.0, here.type))))
    pure = simplify(functionalize(b.build([])))
    assert len(pure.nodes) <= 2 * n + 2
    (out,) = run(pure.replace(updates=()), [np.zeros(n)])
    np.testing.assert_array_equal(out, np.arange(n))

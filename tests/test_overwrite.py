"""Results in the memory of parameters, and of operands that die: equal to the interpreter on random programs."""

import numpy as np
import pytest
from test_codegen_random import Program

from nufunc.codegen import buffers
from nufunc.codegen.compile import compile_graph, lower
from nufunc.codegen.overwrite import can_overwrite
from nufunc.codegen.wrapper import MISS, ArgSpec, ResultSpec
from nufunc.ir.interpret import run as interpret
from nufunc.ir.text import parse_graph
from nufunc.passes.fuse import fuse


def placed(graph, rng):
    """(arguments, results, donated): results that are written to arguments of their type, and donated arguments."""
    args = [ArgSpec(t.shape, t.dtype) for t in graph.param_types]
    results, taken = [], set()
    for t in graph.output_types:
        fits = [p for p, s in enumerate(graph.param_types) if s == t and p not in taken]
        source = int(rng.choice(fits)) if fits and rng.random() < 0.5 else None
        taken.add(source)
        results.append(ResultSpec(t.shape, t.dtype, source=source, returned=source is None or rng.random() < 0.5))
    return args, results, [p for p in range(len(args)) if p not in taken and rng.random() < 0.6]


@pytest.mark.parametrize("seed", range(40))
def test_memory_that_is_lent_changes_no_result(seed, monkeypatch):
    monkeypatch.setattr(buffers, "OVERWRITE", 0)
    rng = np.random.default_rng(1000 + seed)
    program = Program(5000 + seed, int(rng.integers(4, 30)))
    args, results, donated = placed(program.graph, rng)
    entry = compile_graph(fuse(program.graph), args, results, donated=donated)
    want = interpret(program.graph, [x.copy() for x in program.arguments])
    given = [x.copy() for x in program.arguments]
    answer = entry.fast(*given)
    assert answer is not MISS
    returned = iter(answer if entry.spec.as_tuple else (answer,))
    found = [next(returned) if r.returned else given[r.source] for r in entry.spec.results]
    for got, slow, expected in zip(found, entry.slow(*program.arguments), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(slow, expected, rtol=1e-9, atol=1e-9)


def grouped(body, params, output):
    """The grouped graph of nodes given as text."""
    return fuse(parse_graph(f"graph @f({params}) stage=pure {{\n{body}\n  return {output}\n}}"))


ROW = """%1: f64[] = reduce_sum{axes=(0)}(%x)
%3: f64[33] = broadcast{dims=(), shape=(33)}(%1)
%2: f64[33] = mul(%3, %x)"""


@pytest.mark.parametrize(
    ("body", "can"),
    [
        ("%2: f64[33] = mul(%x, %y)", True),
        ("%1: f64[33] = flip{axes=(0)}(%x)\n%2: f64[33] = mul(%1, %y)", False),
        ("%1: f64[33] = flip{axes=(0)}(%y)\n%2: f64[33] = mul(%1, %x)", True),
        (ROW, False),
        ("%1: f64[33] = mul(%x, %x)\n%2: f64[33] = add(%1, %x)", True),
        ("%2: f64[33] = cumsum{axis=0, reverse=false}(%x)", False),
    ],
    ids=["elementwise", "flipped", "other flipped", "row", "twice", "running"],
)  # fmt: skip
def test_which_kernels_may_write_over_an_operand(body, can):
    graph = grouped(body, "%x: f64[33], %y: f64[33]", "%2")
    *_, last = graph.nodes
    assert can_overwrite(last, graph.params[0], last.results[-1]) is can


def test_a_donated_argument_is_lent_only_where_nothing_is_copied():
    donated = lower(grouped("%2: f64[33] = mul(%x, %y)", "%x: f64[33], %y: f64[33]", "%2"), "f", donated=[0])
    assert [r.source for r in donated.spec.results] == [0]
    turned = "%1: f64[33] = flip{axes=(0)}(%x)\n%2: f64[33] = mul(%1, %x)"
    kept = lower(grouped(turned, "%x: f64[33], %y: f64[33]", "%2"), "f", donated=[0])
    assert [r.source for r in kept.spec.results] == [None]
    assert kept.workspace == 0

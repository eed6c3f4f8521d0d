"""simplify: a golden graph per rule; the same bits as before on random graphs; nothing left for a second time."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from golden_files import check_golden, golden_files
from random_graphs import SPECIAL, random_arguments, random_array, random_graph, same_bits

from nufunc.ir import ArrayType, Builder, Graph
from nufunc.ir.errors import BoundsError, VerifyError
from nufunc.ir.interpret import run
from nufunc.ir.text import parse_graph, print_graph
from nufunc.ir.verify import verify
from nufunc.passes.functionalize import functionalize
from nufunc.passes.simplify import simplify

F64 = np.dtype("f8")
GOLDEN = golden_files("simplify")


@pytest.mark.parametrize("path", GOLDEN)
def test_golden(path) -> None:
    check_golden(path, {"simplify": simplify})


def assert_same_bits(graph: Graph, arguments: list[np.ndarray]) -> Graph:
    simplified = verify(simplify(graph), "simplify")
    before, after = run(graph, arguments), run(simplified, arguments)
    assert all(same_bits(a, b) for a, b in zip(before, after, strict=True)), print_graph(simplified)
    assert print_graph(simplify(simplified)) == print_graph(simplified), "simplify is not idempotent"
    return simplified


@pytest.mark.parametrize("seed", range(200))
def test_random_graphs_keep_their_bits(seed: int) -> None:
    graph = random_graph(seed, "pure", steps=25)
    assert_same_bits(graph, random_arguments(graph, seed))


@pytest.mark.parametrize("seed", range(60))
def test_random_functionalized_graphs_keep_their_bits(seed: int) -> None:
    graph = functionalize(random_graph(seed, "traced", steps=25))
    assert_same_bits(graph, random_arguments(graph, seed))


@pytest.mark.parametrize("path", GOLDEN)
def test_golden_graphs_keep_their_bits(path) -> None:
    graph = parse_graph(path.read_text().split("# expected")[0])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        arguments = [random_array(rng, p.type) for p in graph.params]
        if path.stem != "index_outside_stays":
            assert_same_bits(graph, arguments)


ALL_FLOATS = np.array([*SPECIAL["f"], -3.5, 1e308, -1e308, 5e-324, -2e-310, 2.0**52 + 0.5])


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0, -0.0, 2.0, -0.5, 3.0, 1e308, 2.0**-1074, float("nan"), float("inf")])
@pytest.mark.parametrize("prim", ["add", "sub", "mul", "div", "maximum", "pow", "fmin", "mod", "floor_div"])
def test_arithmetic_with_a_number_is_exact(prim: str, value: float) -> None:
    b = Builder("f")
    x = b.param(ArrayType(ALL_FLOATS.shape, F64))
    c = b.filled(value, x.type)
    graph = b.build([b.emit(prim, (x, c))[0], b.emit(prim, (c, x))[0]])
    assert_same_bits(graph, [ALL_FLOATS])


@pytest.mark.parametrize("dtype", ["i1", "u1", "i8", "u8"])
@pytest.mark.parametrize("value", [0, 1, 2, 255, -1])
def test_integer_arithmetic_with_a_number_is_exact(dtype: str, value: int) -> None:
    limits = np.iinfo(dtype)
    x_array = np.array([limits.min, 0, 1, 2, 100, limits.max], dtype)
    number = int(np.array(value).astype(dtype))
    b = Builder("f")
    x = b.param(ArrayType(x_array.shape, x_array.dtype))
    c = b.filled(number, x.type)
    prims = ["add", "sub", "mul", "floor_div", "mod", "bit_and", "bit_or", "bit_xor", "maximum"]
    out = [b.emit(p, pair)[0] for p in prims for pair in ((x, c), (c, x), (c, c))]
    out += [b.reduce_sum(c, axes=(0,)), b.reduce_prod(c, axes=(0,)), b.abs(b.neg(x)), b.integer_pow(x, y=2)]
    assert_same_bits(b.build(out), [x_array])


@pytest.mark.parametrize("count", [1, 3, 10, 4096, 1_000_000])
@pytest.mark.parametrize("value", [1.0, 0.1, -3.0, 0.5, 1e308, 2.0**53 + 2, 5e-324, -0.0, float("inf")])
def test_sums_of_one_number_are_exact(value: float, count: int) -> None:
    b = Builder("f")
    graph = b.build([b.reduce_sum(b.filled(value, ArrayType((count,), F64)), axes=(0,))])
    assert_same_bits(graph, [])


@pytest.mark.parametrize("source", ["?", "i1", "u1", "i4", "u4", "i8", "u8", "f4", "f8", "c8", "c16"])
def test_chains_of_conversions_are_exact(source: str) -> None:
    dtypes = [np.dtype(d) for d in ("?", "i1", "u1", "i4", "i8", "u8", "f4", "f8", "c8", "c16")]
    array = random_array(np.random.default_rng(1), ArrayType((8,), np.dtype(source)))
    if array.dtype.kind in "iu":
        array[:2] = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
    elif array.dtype.kind in "fc":
        array = np.where(np.isfinite(array), array, 1)
    b = Builder("f")
    x = b.param(ArrayType(array.shape, array.dtype))
    graph = b.build([b.convert(b.convert(x, dtype=d), dtype=e) for d in dtypes for e in dtypes])
    with np.errstate(all="ignore"):
        assert_same_bits(graph, [array])


def test_traced_graphs_are_refused() -> None:
    with pytest.raises(VerifyError, match="functionalize it first"):
        simplify(random_graph(0, "traced"))


def test_an_error_in_a_branch_not_taken_stays_there() -> None:
    graph = parse_graph("""graph @f(%0: b1[]) stage=pure {
      %1: f64[] = cond(%0) [graph @no() stage=pure {
          %2: f64[] = full{dtype=f64, shape=(), value=1.0}()
          return %2
        }, graph @yes() stage=pure {
          const %3: f64[2] = [1.0, 2.0]
          const %4: i64[] = [5]
          %5: f64[] = gather{axes=(0,), mode="error"}(%3, %4)
          return %5
        }]
      return %1
    }""")
    simplified = verify(simplify(graph))
    assert run(simplified, [np.array(False)])[0] == 1.0
    with pytest.raises(BoundsError):
        run(simplified, [np.array(True)])


@pytest.mark.parametrize("prim", ["gather", "cholesky"])
def test_what_can_raise_is_not_hoisted_out_of_a_loop(prim: str) -> None:
    inside = {
        "gather": '%5: f64[2,2] = gather{axes=(0,), mode="error"}(%3, %9)',
        "cholesky": "%5: f64[2,2] = cholesky(%3)",
    }[prim]
    graph = parse_graph(f"""graph @f(%0: f64[2,2], %1: f64[2,2], %8: i64[2]) stage=pure {{
      %2: f64[2,2] = while{{num_cond=0, num_body=2}}(%0, %8, %1) [graph @c(%6: f64[2,2]) stage=pure {{
          %10: f64[] = reduce_sum{{axes=(0, 1)}}(%6)
          %11: f64[] = full{{dtype=f64, shape=(), value=10.0}}()
          %7: b1[] = lt(%10, %11)
          return %7
        }}, graph @b(%3: f64[2,2], %9: i64[2], %4: f64[2,2]) stage=pure {{
          {inside}
          %12: f64[2,2] = add(%5, %4)
          return %12
        }}]
      return %2
    }}""")
    simplified = verify(simplify(graph))
    assert [n.prim for n in simplified.nodes] == ["while"]
    arguments = [-np.eye(2), np.full((2, 2), 9.0), np.array([7, 7])]
    np.testing.assert_array_equal(run(simplified, arguments)[0], arguments[1])


def large(count: int, step) -> Graph:
    b = Builder("f")
    x = y = b.param(ArrayType((4, 3), F64))
    while len(b.nodes) < count:
        y = step(b, x, y)
    return b.build([y])


def busy(b: Builder, x, y):
    y = b.add(b.mul(b.sin(y), b.filled(float(len(b.nodes) % 7), x.type)), b.neg(x))
    return b.transpose(b.transpose(y, perm=(1, 0)), perm=(1, 0))


def writes(b: Builder, x, y):
    part = {"start": (len(b.nodes) % 4, 0), "stop": (len(b.nodes) % 4 + 1, 3), "step": (1, 1)}
    return b.update(y, b.sin(b.slice(y, **part)), **part)


def grows(b: Builder, x, y):
    return b.slice(b.concat(y, x, axis=0), start=(1, 0), stop=(5, 3), step=(1, 1))


@pytest.mark.parametrize("step", [busy, writes, grows])
def test_work_is_linear(step) -> None:
    def calls(count: int) -> int:
        graph, counted = large(count, step), 0

        def count_call(frame: object, event: str, argument: object) -> None:
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count_call)
        try:
            simplify(graph)
        finally:
            sys.setprofile(None)
        return counted

    assert calls(4000) < 5 * calls(1000)


def test_a_long_chain_of_constants_in_a_body_is_hoisted() -> None:
    inner = Builder("body")
    const, carry = inner.param(ArrayType((2,), F64)), inner.param(ArrayType((2,), F64))
    value = const
    for _ in range(3000):
        value = inner.sin(value)
    body = inner.build([inner.add(carry, value)])
    b = Builder("f")
    x = b.param(ArrayType((2,), F64))
    attrs = {"length": 10, "reverse": False, "num_consts": 1, "num_carry": 1}
    graph = b.build(b.emit("scan", (x, x), attrs, (body,)))
    simplified = simplify(graph)
    assert [n.prim for n in simplified.nodes] == ["sin"] * 3000 + ["scan"]
    assert [n.prim for n in simplified.nodes[-1].regions[0].nodes] == ["add"]


def test_a_chain_of_dead_carries_goes() -> None:
    """Each carry feeds the next; only the first is used."""
    count = 12
    inner = Builder("body")
    carry = [inner.param(ArrayType((), F64)) for _ in range(count)]
    body = inner.build([inner.sin(carry[0]), *(inner.add(a, c) for a, c in pairwise(carry))])
    b = Builder("f")
    xs = [b.param(ArrayType((), F64)) for _ in range(count)]
    attrs = {"length": 3, "reverse": False, "num_consts": 0, "num_carry": count}
    (node,) = simplify(b.build([b.emit("scan", xs, attrs, (body,))[0]])).nodes
    assert node.attrs["num_carry"] == 1
    (node,) = simplify(b.build([b.nodes[0].results[4]])).nodes
    assert node.attrs["num_carry"] == 5

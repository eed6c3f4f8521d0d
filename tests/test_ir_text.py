"""The text of graphs: canonical, parsed back to an equal graph, fast, with errors that name the line."""


import numpy as np
import pytest
from random_graphs import DTYPES, random_array, random_graph, same_bits

from nufunc.ir import ArrayType, Builder, Graph, Location
from nufunc.ir.errors import ParseError, VerifyError
from nufunc.ir.text import graph_hash, parse_attrs, parse_graph, print_graph
from nufunc.ir.verify import verify

F64 = np.dtype("f8")
INF, NAN = float("inf"), float("nan")


def assert_round_trip(graph: Graph) -> Graph:
    text = print_graph(graph)
    parsed = parse_graph(text)
    assert print_graph(parsed) == text
    assert graph_hash(parsed) == graph_hash(graph)
    without = print_graph(graph, locs=False)
    assert print_graph(parse_graph(without)) == without
    assert graph_hash(parse_graph(without)) == graph_hash(graph)
    return parsed


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("stage", ["pure", "traced"])
def test_random_graphs_round_trip(seed: int, stage: str) -> None:
    graph = random_graph(seed, stage, steps=15, locs=True)
    parsed = verify(assert_round_trip(graph))
    for (_, a), (_, b) in zip(graph.consts, parsed.consts, strict=True):
        assert same_bits(a, b)
        assert not b.flags.writeable
    assert [n.loc for n in parsed.walk()] == [n.loc for n in graph.walk()]


ATTRIBUTES = [
    0, -1, 2**70, True, False, None, 0.0, -0.0, 1e300, 5e-324, 0.1, INF, -INF, NAN, 1 + 2j, complex(-0.0, -0.0),
    complex(NAN, -INF), "", "plain", 'quo"te\\', "line\nend\ttab\0", "é 漢 \ud800 \u2028", F64, np.dtype("?"),
    (), (1,), (1, 2.0, "x", None), ((1, (2,)), ()), ("a, b", ")", "# no comment"),
]  # fmt: skip


@pytest.mark.parametrize("value", ATTRIBUTES, ids=repr)
def test_every_attribute_round_trips(value: object) -> None:
    parsed = assert_round_trip(one_full(value))
    found = parsed.nodes[0].attrs["value"]
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_the_sign_of_a_nan_is_kept() -> None:
    for value in (NAN, -NAN):
        parsed = parse_attrs("{x=" + print_graph(one_full(value)).split("value=")[1].split("}")[0] + "}")["x"]
        assert np.signbit(parsed) == np.signbit(value)


def one_full(value: float) -> Graph:
    b = Builder("f")
    b.emit("full", (), {"value": 0.0, "shape": (), "dtype": F64})
    b.nodes[0].attrs = {"value": value}
    return b.build([])


def test_attributes_without_text_are_refused() -> None:
    for value in ([1], np.int64(1), {}, object()):
        with pytest.raises(VerifyError, match="has no text form"):
            print_graph(one_full(value))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0,), (2, 0), (2, 3)], ids=str)
@pytest.mark.parametrize(
    "dtype", sorted({*DTYPES, *map(np.dtype, ("c8", "i2", "i4", "u2", "u4", "u8"))}, key=str), ids=str
)
def test_constants_of_every_dtype(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    b = Builder("f")
    arrays = [random_array(np.random.default_rng(seed), ArrayType(shape, dtype)) for seed in range(4)]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        arrays.append(np.full(shape, limits.max, dtype))
        arrays.append(np.full(shape, limits.min, dtype))
    values = [b.const(array) for array in arrays]
    parsed = assert_round_trip(b.build(values))
    assert all(same_bits(a, p) for a, (_, p) in zip(arrays, parsed.consts, strict=True))


def test_hash_sees_values_types_and_order_but_no_lines() -> None:
    def graph(array: np.ndarray, line: int = 1, prim: str = "sub") -> Graph:
        b = Builder("f")
        x = b.param(ArrayType(array.shape, array.dtype))
        b.loc = Location("a.py", line)
        return b.build([b.emit(prim, (x, b.const(array)))[0]])

    base = np.array([0.0, 1.0])
    same = graph_hash(graph(base))
    assert graph_hash(graph(base, line=2)) == same
    others = [graph(np.array([-0.0, 1.0])), graph(base.astype("f4")), graph(base, prim="add"), graph(base[::-1])]
    assert len({same, *map(graph_hash, others)}) == 5


def test_a_region_that_occurs_twice() -> None:
    inner = Builder("body")
    x = inner.param(ArrayType((), F64))
    body = inner.build([inner.sin(x)])
    b = Builder("f")
    y = b.map(b.param(ArrayType((2,), F64)), regions=(body,), length=2, num_consts=0)
    z = b.map(y, regions=(body,), length=2, num_consts=0)
    verify(assert_round_trip(b.build([z])))


@pytest.mark.parametrize("name", ["f", "<lambda>", "f.<locals>.g", "é", "two words", 'q"', "", "1st", "a-b"])
def test_names_of_graphs(name: str) -> None:
    b = Builder(name)
    assert assert_round_trip(b.build([b.param(ArrayType((), F64))])).name == name


def test_blanks_comments_and_commas_are_free() -> None:
    graph = parse_graph("""# a comment
        graph @f ( %x:f64[2,],
                   %n : i64[] ) stage = pure updates=(0,) { # the head
            %y : f64[2] = reshape { shape = ( 2 , ) } ( %x ) loc ( "f.py" : 3 ) return %n,%y,
        } # the end""")
    assert print_graph(graph) == (
        "graph @f(%0: f64[2], %1: i64[]) stage=pure updates=(0,) {\n"
        '  %2: f64[2] = reshape{shape=(2,)}(%0) loc("f.py":3)\n'
        "  return %1, %2\n"
        "}"
    )


BAD = [
    ("", "line 1: expected 'graph', found 'the end of the text'"),
    ("graph f() {\n return }", "line 1: expected the graph's name, @..., found 'f'"),
    ("graph @f(%x: f64[2]) {\n  return %y\n}", "line 2: %y is used but not defined"),
    ("graph @f(%x: f64[2],\n %x: f64[]) { return }", "line 2: %x is defined twice"),
    ("graph @f(%x: f128[2]) {\n  return %x\n}", "line 1: 'f128' is not a dtype"),
    ("graph @f(%x: f64[2.5]) {\n  return %x\n}", "line 1: expected an extent, found 2.5"),
    ("graph @f(%x: f64[-1]) {\n  return %x\n}", "line 1: expected an extent, found -1"),
    ("graph @f() {\n\n  %1: f64[] = full{value=1, value=2}()\n return }", "line 3: attribute value is given twice"),
    ("graph @f() {\n  %1: f64[] = full{value=word}()\n return }", "line 2: 'word' is neither an attribute's value"),
    ("graph @f() {\n  %1: f64[] = full{value=complex(1)}()\n return }", "line 2: complex(re, im) takes two numbers"),
    ('graph @f() {\n  %1: f64[] = full{value="\\q"}()\n return }', 'line 2: the string "\\q"'),
    ("graph @f() {\n  const %1: f64[2] = [1.0]\n  return %1 }", "line 2: a constant of f64[2]"),
    ("graph @f() {\n  const %1: i64[1] = [1.5]\n  return %1 }", "line 2: the elements of a constant of i64[1] are of"),
    ("graph @f() {\n  const %1: i8[1] = [300]\n  return %1 }", "line 2: a constant of i8[1]"),
    ("graph @f() {\n  const %1: f64[1] = [true]\n  return %1 }", "line 2: the elements of a constant of f64[1] are of"),
    ("graph @f() size=3 { return }", "line 1: a graph has stage and updates, not 'size'"),
    ("graph @f() stage=raw { return }", "line 1: the stages are traced, pure, grouped, not 'raw'"),
    ("graph @f() stage=pure stage=pure { return }", "line 1: stage is given twice"),
    ("graph @f() updates=1 { return }", "line 1: updates are a tuple of ints, not 1"),
    ("graph @f(%x: f64[]) {\n  %y: f64[] = sin(%x\n  return %y\n}", "line 3: expected ')', found 'return'"),
    ("graph @f(%x: f64[]) {\n  %y = sin(%x)\n  return %y\n}", "line 2: expected ':', found '='"),
    ("graph @f(%x: f64[]) {\n  return %x\n", "line 3: expected '}', found 'the end of the text'"),
    ("graph @f() {\n  return\n}\ngraph", "line 4: expected the end, found 'graph'"),
    ("graph @f() {\n  ; return\n}", "line 2: expected a word, a value, a number or a string, found '; return'"),
    ('graph @f() {\n  write() loc("f.py":x)\n return }', "line 2: expected a number, found 'x'"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_malformed_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_graph(text)
    assert message in str(caught.value)


def test_truncated_text_is_always_refused() -> None:
    text = print_graph(random_graph(7, steps=6, locs=True))
    for end in range(0, len(text) - 1, 5):
        with pytest.raises(ParseError):
            parse_graph(text[:end])


def test_attributes_alone() -> None:
    assert parse_attrs("{size=8, in_dims=(0, none)}") == {"size": 8, "in_dims": (0, None)}
    assert parse_attrs(" { } ") == {}
    with pytest.raises(ParseError, match="expected the end"):
        parse_attrs("{size=8} more")


def test_large_graphs_go_through_text() -> None:
    b = Builder("f")
    x = b.param(ArrayType((8, 3), F64))
    for k in range(20_000):
        b.loc = Location("model.py", k % 100)
        x = b.slice(b.sin(x), start=(0, 0), stop=(8, 3), step=(1, 1)) if k % 2 else b.add(x, x)
    graph = b.build([x])
    # some two seconds; anything quadratic in the nodes would take minutes
    assert graph_hash(parse_graph(print_graph(graph))) == graph_hash(graph)

"""The verifier: every rule has an invalid graph with its message; legal graphs of every stage pass."""

import os
from pathlib import Path

import numpy as np
import pytest
from random_graphs import random_graph

from nufunc.ir import ArrayType, Builder, Graph, Node, Value
from nufunc.ir.errors import Location, VerifyError
from nufunc.ir.text import parse_graph
from nufunc.ir.verify import verify

FOLDER = Path(__file__).parent / "golden" / "verify"
F64, I64 = np.dtype("f8"), np.dtype("i8")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ir")), ids=lambda path: path.stem)
def test_invalid_graphs_are_refused_with_their_message(path: Path) -> None:
    source, _, expected = path.read_text().partition("# message\n")
    after = source.partition("\n")[0].removeprefix("# after=") if source.startswith("# after=") else ""
    with pytest.raises(VerifyError) as caught:
        verify(parse_graph(source), after)
    message = "".join(f"# {line}\n" for line in str(caught.value).split("\n"))
    if os.environ.get("NUFUNC_UPDATE_GOLDEN"):
        path.write_text(f"{source}# message\n{message}")
        return
    assert message == expected


def test_the_error_carries_the_users_line() -> None:
    graph = parse_graph((FOLDER / "type_mismatch.ir").read_text())
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert caught.value.location == Location("model.py", 4, "loss")


# -- what no text can say


def pure(nodes: list[Node], outputs: list[Value], params: list[Value], **fields) -> Graph:
    return Graph(params, nodes, outputs, **fields)


def value(*shape: int, dtype: np.dtype = F64) -> Value:
    return Value(ArrayType(shape, dtype))


def test_a_value_is_defined_once() -> None:
    x, y = value(2), value(2)
    node = Node("sin", (x,), {}, (), (y,))
    with pytest.raises(VerifyError, match="result 0 of sin is defined a second time"):
        verify(pure([node, node], [y], [x]))
    with pytest.raises(VerifyError, match="parameter 1 is defined a second time"):
        verify(pure([], [x], [x, x]))
    with pytest.raises(VerifyError, match="constant 0 is defined a second time"):
        verify(pure([], [x], [x], consts=[(x, np.zeros(2))]))


def test_a_value_is_defined_before_its_use() -> None:
    x, y, z = value(2), value(2), value(2)
    nodes = [Node("sin", (z,), {}, (), (y,)), Node("sin", (x,), {}, (), (z,))]
    with pytest.raises(VerifyError, match="operand 0 is used before it is defined") as caught:
        verify(pure(nodes, [y], [x]))
    assert "  -> %1: f64[2] = sin(%2)\n     %2: f64[2] = sin(%0)\n     return %1" in str(caught.value)


def test_a_constant_holds_an_array_of_its_type() -> None:
    x = value(2)
    with pytest.raises(VerifyError, match=r"constant 0 of type f64\[2\] holds an array of type i64\[2\]"):
        verify(pure([], [x], [], consts=[(x, np.zeros(2, I64))]))


@pytest.mark.parametrize(
    ("type", "shown"),
    [(ArrayType((-1,), F64), "float64 of shape (-1,)"), (ArrayType((), np.dtype("M8[s]")), "datetime64[s]")],
)
def test_types_that_cannot_be(type: ArrayType, shown: str) -> None:
    x = Value(type)
    with pytest.raises(VerifyError) as caught:
        verify(pure([], [x], [x]))
    assert f"parameter 0 has an impossible type: {shown}" in str(caught.value)


@pytest.mark.parametrize("attribute", [[0], np.float64(1), np.int64(0), (np.bool_(True),), {}, F64.type])
def test_attributes_print(attribute: object) -> None:
    x, y = value(2), value()
    node = Node("reduce_sum", (x,), {"axes": attribute}, (), (y,))
    with pytest.raises(VerifyError, match=r"attribute axes is .*, which cannot be printed"):
        verify(pure([node], [y], [x]))


def test_unknown_stage() -> None:
    with pytest.raises(VerifyError, match="unknown stage 'lowered'"):
        verify(Graph([], [], [], stage="lowered"))


def test_the_pass_that_ran_last_is_named() -> None:
    with pytest.raises(VerifyError, match=r"output 0 is not defined in the graph \(after pass simplify\)"):
        verify(pure([], [value()], []), "simplify")


def test_a_traced_graph_may_hold_pure_regions() -> None:
    b = Builder("f", "traced")
    x = b.param(ArrayType((2,), F64))
    inner = Builder("body")
    y = inner.param(ArrayType((), F64))
    body = inner.build([inner.sin(y)])
    b.emit("write", (x, b.map(x, regions=(body,), length=2, num_consts=0)))
    graph = b.build([])
    assert verify(graph) is graph


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("stage", ["pure", "traced"])
def test_random_graphs_are_legal(seed: int, stage: str) -> None:
    graph = random_graph(seed, stage)
    assert verify(graph) is graph

"""Golden files: a pipeline, an input graph and the expected graph in one readable text file.

    # vjp which=(true, false) | simplify
    graph @f(...) ...
    # expected
    graph @f.vjp(...) ...

The first line names the passes with their arguments as Python literals (`true`, `false` and `none` as in the
text of graphs). Graphs are compared by their canonical text; NUFUNC_UPDATE_GOLDEN=1 writes the files anew.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from nufunc.ir import Graph
from nufunc.ir.text import parse_graph, print_graph
from nufunc.ir.verify import verify

GOLDEN = Path(__file__).parent / "golden"
_WORDS = {"true": True, "false": False, "none": None}


def golden_files(*folders: str) -> list:
    """A pytest parameter per file of these folders of `tests/golden`."""
    return [pytest.param(p, id=f"{f}/{p.stem}") for f in folders for p in sorted((GOLDEN / f).glob("*.ir"))]


def check_golden(path: Path, passes: Mapping[str, Callable[..., Graph]]) -> None:
    """Run the file's pipeline on its input and compare with what it expects."""
    header, rest = path.read_text().split("\n", 1)
    source, _, expected = rest.partition("# expected\n")
    graph = verify(parse_graph(source))
    for step in header.lstrip("# ").split("|"):
        name, _, arguments = step.strip().partition(" ")
        graph = verify(passes[name](graph, **_arguments(arguments)), name)
    text = print_graph(graph)
    if os.environ.get("NUFUNC_UPDATE_GOLDEN"):
        path.write_text(f"{header}\n{source.rstrip()}\n# expected\n{text.rstrip()}\n")
        return
    assert text == print_graph(parse_graph(expected))


def _arguments(text: str) -> dict:
    found = re.findall(r"(\w+)=(\([^)]*\)|\S+)", text)
    return {key: eval(value, {"__builtins__": {}}, _WORDS) for key, value in found}

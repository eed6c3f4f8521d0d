"""Makes the tables of this folder importable as plain modules, and checks the text of graphs that tests build."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nufunc.ir import Builder, Graph
from nufunc.ir.text import parse_graph, print_graph

sys.path.insert(0, str(Path(__file__).parent))

# Tests compile what they test. Those of the cache on disk switch it on, each in a folder of its own.
os.environ["NUFUNC_CACHE"] = "0"

# Every so many graphs made by a Builder, in whatever test, are printed and parsed back: 1 checks all, 0 none.
ROUND_TRIP = int(os.environ.get("NUFUNC_ROUND_TRIP", "20"))


@pytest.fixture(autouse=True, scope="session")
def graphs_round_trip() -> Iterator[None]:
    """The text of a graph, parsed, prints the same: checked on graphs as the tests of this session build them."""
    build, counter = Builder.build, itertools.count(1)

    def checked(self: Builder, *args, **kwargs) -> Graph:
        graph = build(self, *args, **kwargs)
        if ROUND_TRIP and next(counter) % ROUND_TRIP == 0:
            text = print_graph(graph)
            # some tests build graphs with undefined values, which have no name; rules and callbacks have no text
            assert "%?" in text or "=@" in text or print_graph(parse_graph(text)) == text
        return graph

    Builder.build = checked
    yield
    Builder.build = build

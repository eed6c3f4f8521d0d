"""Runs passes on the text of a graph: python -m nufunc.passes "functionalize; vmap{size=8}" file.ir

The pipeline is a list of passes separated by semicolons, each with attributes in the grammar of `ir/text.py`
(`vmap{size=8, in_dims=(0, none)}`); the graph is read from the file, or from standard input for `-`, verified
after every pass, and printed. `--list` shows the passes.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from nufunc.ir.errors import ArgumentError, NufuncError
from nufunc.ir.graph import Graph
from nufunc.ir.text import parse_attrs, parse_graph, print_graph
from nufunc.ir.types import kind_of
from nufunc.ir.verify import verify
from nufunc.passes.functionalize import functionalize
from nufunc.passes.fuse import fuse
from nufunc.passes.jvp import jvp
from nufunc.passes.linearize import linearize
from nufunc.passes.simplify import simplify
from nufunc.passes.transpose import transpose, vjp
from nufunc.passes.vmap import vmap

_Which = tuple[bool, ...] | None
_Dims = tuple[int | None, ...] | None


def _which(graph: Graph, which: _Which) -> tuple[bool, ...]:
    """The parameters to differentiate: by default all of inexact dtype."""
    return which if which is not None else tuple(kind_of(p.dtype) in "fc" for p in graph.params)


def _vmap(graph: Graph, size: int, in_dims: _Dims = None, out_dims: _Dims = None) -> Graph:
    dims = in_dims if in_dims is not None else (0,) * len(graph.params)
    return vmap(graph, size, dims, out_dims if out_dims is not None else (0,) * len(graph.outputs))


# Name -> (what it does, the pass as a function of the graph and its attributes).
PASSES: dict[str, tuple[str, Callable[..., Graph]]] = {
    "functionalize": ("views and writes removed (traced -> pure)", functionalize),
    "simplify": ("constants folded, equal and dead code removed", simplify),
    "jvp": (
        "tangents beside the values; which=(true, ...)",
        lambda graph, which=None: jvp(graph, _which(graph, which)),
    ),
    "primal": (
        "the primal graph of linearize, with its residuals as last outputs; which=",
        lambda graph, which=None: linearize(graph, _which(graph, which)).primal,
    ),
    "linearize": (
        "the linear graph, from residuals and tangents to tangents; which=",
        lambda graph, which=None: linearize(graph, _which(graph, which)).linear,
    ),
    "transpose": (
        "a linear graph run backwards; residuals=0",
        lambda graph, residuals=0: transpose(graph, residuals),
    ),
    "vjp": ("values and cotangents; which=", lambda graph, which=None: vjp(graph, _which(graph, which))),
    "vmap": ("a batch axis; size=, in_dims=(0, none), out_dims=", _vmap),
    "fuse": ("nodes gathered into groups (pure -> grouped)", fuse),
}


def run_pipeline(text: str, graph: Graph) -> Graph:
    """Apply a pipeline in text form, verifying after each pass.

    >>> from nufunc.ir.text import parse_graph
    >>> graph = parse_graph("graph @f(%x: f64[]) stage=pure { %y: f64[] = sin(%x) return %y }")
    >>> print(run_pipeline("vmap{size=3}", graph))
    graph @f.vmap(%0: f64[3]) stage=pure {
      %1: f64[3] = sin(%0)
      return %1
    }
    """
    verify(graph, "reading")
    for item in filter(None, (part.strip() for part in text.split(";"))):
        name = item.partition("{")[0].strip()
        if name not in PASSES:
            raise ArgumentError(f"unknown pass {name!r}; the passes are {', '.join(PASSES)}")
        function = PASSES[name][1]
        attrs = parse_attrs(item[len(name) :]) if "{" in item else {}
        try:
            inspect.signature(function).bind(graph, **attrs)
        except TypeError as error:
            raise ArgumentError(f"pass {name} does not take these attributes: {error}") from None
        graph = verify(function(graph, **attrs), name)
    return graph


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nufunc.passes", description="Run passes on the text of a graph and print the result."
    )
    parser.add_argument("pipeline", nargs="?", help="passes separated by semicolons")
    parser.add_argument("file", nargs="?", default="-", help="the text of a graph; - for standard input")
    parser.add_argument("--list", action="store_true", help="show the passes")
    options = parser.parse_args(arguments)
    if options.list or options.pipeline is None:
        for name, (what, _) in PASSES.items():
            print(f"{name:14s} {what}")
        return 0
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text()
        print(print_graph(run_pipeline(options.pipeline, parse_graph(text))))
    except (NufuncError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs passes on the text of a graph: python -m nufunc.passes "functionalize; vmap{size=8, in_dims=(0, none)}" file.ir

The pipeline is a list of passes separated by semicolons, each with attributes in the grammar of `ir/text.py`; the graph is
read from the file, or from standard input for `-`, verified after every pass, and printed. `--list` shows the passes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nufunc.ir.errors import ArgumentError, NufuncError
from nufunc.ir.graph import Graph
from nufunc.ir.text import parse_attrs, parse_graph, print_graph
from nufunc.ir.verify import verify
from nufunc.passes.functionalize import functionalize
from nufunc.passes.fuse import fuse
from nufunc.passes.jvp import jvp
from nufunc.passes.linearize import linearize, vjp
from nufunc.passes.simplify import simplify
from nufunc.passes.transpose import transpose
from nufunc.passes.vmap import vmap


def _which(graph: Graph, which: tuple[bool, ...] | None) -> tuple[bool, ...]:
    """The parameters to differentiate: by default all of inexact dtype."""
    return which if which is not None else tuple(p.dtype.kind in "fc" for p in graph.params)


def _vmap(
    graph: Graph, size: int, in_dims: tuple[int | None, ...] | None = None, out_dims: tuple[int | None, ...] | None = None
) -> Graph:
    return vmap(
        graph,
        size,
        in_dims if in_dims is not None else (0,) * len(graph.params),
        out_dims if out_dims is not None else (0,) * len(graph.outputs),
    )


# Name -> (what it does, the pass as a function of the graph and its attributes).
PASSES: dict[str, tuple[str, Callable[..., Graph]]] = {
    "functionalize": ("views and writes removed (traced -> pure)", functionalize),
    "simplify": ("constants folded, equal and dead code removed", simplify),
    "jvp": ("tangents beside the values; which=(true, ...)", lambda g, which=None: jvp(g, _which(g, which))),
    "primal": (
        "the primal graph of linearize, with its residuals as last outputs; which=",
        lambda g, which=None: linearize(g, _which(g, which)).primal,
    ),
    "linearize": (
        "the linear graph, from residuals and tangents to tangents; which=",
        lambda g, which=None: linearize(g, _which(g, which)).linear,
    ),
    "transpose": ("a linear graph run backwards; residuals=0", lambda g, residuals=0: transpose(g, residuals)),
    "vjp": ("values and cotangents; which=", lambda g, which=None: vjp(g, _which(g, which))),
    "vmap": ("a batch axis; size=, in_dims=(0, none), out_dims=", _vmap),
    "fuse": ("nodes gathered into groups (pure -> grouped)", fuse),
}


def run_pipeline(text: str, graph: Graph) -> Graph:
    """Apply a pipeline in text form, verifying after each pass.

    >>> from nufunc.ir.text import parse_graph
    >>> graph = parse_graph("graph @f(%x: f64[]) stage=pure { %y: f64[] = sin(%x) return %y }")
    >>> print(run_pipeline("vmap{size=3}", graph))
    graph @f(%0: f64[3]) stage=pure {
      %1: f64[3] = sin(%0)
      return %1
    }
    """
    verify(graph, "reading")
    for item in filter(None, (part.strip() for part in text.split(";"))):
        name, brace, _ = item.partition("{")
        name = name.strip()
        if name not in PASSES:
            raise ArgumentError(f"unknown pass {name!r}; the passes are {', '.join(PASSES)}")
        attrs: dict[str, Any] = parse_attrs(item[len(name) :].strip()) if brace else {}
        try:
            graph = PASSES[name][1](graph, **attrs)
        except TypeError as error:
            if "keyword argument" not in str(error) and "positional argument" not in str(error):
                raise
            raise ArgumentError(f"pass {name} does not take these attributes: {error}") from None
        verify(graph, name)
    return graph


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nufunc.passes", description=__doc__.partition("\n")[0])
    parser.add_argument("pipeline", nargs="?", help="passes separated by semicolons")
    parser.add_argument("file", nargs="?", default="-", help="a file with the text of a graph; - for standard input")
    parser.add_argument("--list", action="store_true", help="show the passes")
    options = parser.parse_args(arguments)
    if options.list or options.pipeline is None:
        for name, (what, _) in PASSES.items():
            print(f"{name:14s} {what}")
        return 0
    text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text()
    try:
        print(print_graph(run_pipeline(options.pipeline, parse_graph(text))))
    except NufuncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

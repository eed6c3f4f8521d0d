"""Tracing a function of a namespace and running its graph, to compare with NumPy on the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir import interpret
from nufunc.ir.graph import Graph
from nufunc.ir.types import type_of
from nufunc.passes.functionalize import functionalize
from nufunc.tracer.array import Array
from nufunc.tracer.np_namespace import numpy as traced_numpy
from nufunc.tracer.trace import Trace


def trace(call: Callable[..., Any], *arrays: Any) -> tuple[Graph, list[Any]]:
    """The traced graph of call(namespace, *arrays), and the flat results (Arrays or concrete values)."""
    context = Trace()
    with context:
        params = []
        for a in arrays:
            a = np.asarray(a)
            strides = None if a.flags.c_contiguous else tuple(s // a.itemsize for s in a.strides)
            params.append(context.param(type_of(a), strides=strides))
        results = call(traced_numpy, *params)
    flat = list(results) if isinstance(results, (tuple, list)) else [results]
    return context.finish([r for r in flat if isinstance(r, Array)]), flat


def run(call: Callable[..., Any], *arrays: Any, pure: bool = False) -> list[Any]:
    """Results of the traced call: concrete ones as they are, traced ones computed by the interpreter."""
    graph, flat = trace(call, *arrays)
    if pure:
        graph = functionalize(graph)
    values = iter(interpret.run(graph, [np.array(a, copy=True, order="K") for a in arrays]))
    return [next(values) if isinstance(r, Array) else r for r in flat]


def expected(call: Callable[..., Any], *arrays: Any) -> list[Any]:
    """What NumPy gives on copies of the arrays."""
    with np.errstate(all="ignore"):
        results = call(np, *[np.array(a, copy=True, order="K") for a in arrays])
    return list(results) if isinstance(results, (tuple, list)) else [results]


def assert_same(actual: Any, wanted: Any, rtol: float = 1e-12) -> None:
    """Equal shape, dtype and values (to rounding)."""
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape
    assert actual.dtype == wanted.dtype
    if wanted.dtype.kind in "fc":
        np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=rtol)
    else:
        np.testing.assert_array_equal(actual, wanted)

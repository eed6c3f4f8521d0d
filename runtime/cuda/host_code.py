"""Primitives that a device leaves to the host, by the code that is compiled for the processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs
from nufunc.ir.primitive import attr_tuple
from nufunc.ir.types import ArrayType
from nufunc.runtime.compilation import executable_of
from nufunc.runtime.executable import Program
from nufunc.runtime.signatures import Input
from nufunc.tracer import tree

Function = Callable[[Sequence[np.ndarray]], list[np.ndarray]]

_KEPT: dict[Any, Function] = {}


def host_function(prim: str, operands: Sequence[ArrayType], attrs: Attrs) -> Function:
    """The primitive as a function of arrays of these types; it raises what compiled functions raise."""
    key = (prim, tuple(operands), attr_tuple(attrs))
    if key not in _KEPT:
        executable = executable_of(_program(prim, operands, attrs))
        _KEPT[key] = lambda arrays: [np.asarray(r) for r in executable.run(arrays)]
    return _KEPT[key]


def _program(prim: str, operands: Sequence[ArrayType], attrs: Attrs) -> Program:
    b = Builder(prim)
    given = [b.param(t) for t in operands]
    results = b.emit(prim, given, attrs)
    count = len(operands)
    return Program(
        name=prim, graph=b.build(results), positions=tuple(range(count)),
        inputs=tuple(Input("array", t) for t in operands), sources=tuple(f"operand {k}" for k in range(count)),
        scalars=(False,) * len(results), donated=(), read=lambda function: (), failure=lambda function: None, leaves=(),
        structure=tree.flatten(())[1], anchors=(), generators=(), draws=None, stored=frozenset(), fastmath=False,
    )  # fmt: skip

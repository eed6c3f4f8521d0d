"""Tracing a function into a graph of its own, inside an outer trace, and inlining what passes make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentTypeError, MutationError, UnsupportedError
from nufunc.ir.graph import Graph, Value
from nufunc.runtime import pipeline
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.np_selection import Selection
from nufunc.tracer.trace import Trace, require
from nufunc.tracer.usercode import user_location


@dataclass(frozen=True)
class Slot:
    """The place of a graph's output in a result tree, and what kind of scalar it is."""

    index: int
    scalar: bool
    weak: bool


@dataclass(frozen=True)
class Sub:
    """A function traced on its own: a pure graph over its parameters and what it captured.

    `leaves` are the leaves of the result: a Slot where the leaf is an array, else the static object itself.
    """

    graph: Graph
    num_params: int
    captured: tuple[Array, ...]
    leaves: tuple[Any, ...]
    structure: tree.TreeDef

    @property
    def slots(self) -> list[Slot]:
        return [x for x in self.leaves if isinstance(x, Slot)]

    @property
    def num_outputs(self) -> int:
        return len(self.graph.outputs) - len(self.graph.updates)

    def result(self, values: Sequence[Any]) -> Any:
        """The result tree with the arrays in place."""
        return tree.unflatten(self.structure, [values[x.index] if isinstance(x, Slot) else x for x in self.leaves])


def is_number(x: Any) -> bool:
    """Whether a leaf is an array or stands for one."""
    return isinstance(x, Array | np.ndarray | np.generic | bool | int | float | complex)


def as_array(x: Any) -> Array:
    """A numeric leaf as an Array of the current trace or of one around it."""
    if isinstance(x, Array):
        return x
    trace = require(x)
    if isinstance(x, np.ndarray):
        return trace.on_ndarray(x)
    return trace.scalar(x)


def trace_sub(
    call: Callable[[list[Array]], Any],
    templates: Sequence[Any],
    name: str,
    numbers: bool = True,
    parent: Trace | None = None,
    known: Sequence[Array] = (),
) -> Sub:
    """Trace `call` on parameters like `templates` (Arrays, or tuples of type, scalar and perhaps strides).

    `numbers`: numbers and raw arrays in the result become outputs as well; else they stay as they are. `parent`: the
    trace around this one, by default the current one. `known` are arrays of enclosing traces that come first among
    what is captured.
    """
    with Trace(name, parent=parent) as trace:
        trace.once = True
        params = [
            trace.param(t.type, weak=t.weak, strides=t.strides_, scalar=t.scalar)
            if isinstance(t, Array)
            else trace.param(t[0], scalar=t[1], strides=t[2] if len(t) > 2 else None)
            for t in templates
        ]
        for array in known:
            trace.capture(array)
        leaves, structure, outputs = collect(call(params), numbers)
        traced = trace.finish(outputs)
    captured = tuple(array for array, _ in trace.captured.values())
    return Sub(pipeline.pure(traced), len(params), captured, leaves, structure)


def union(*groups: Sequence[Array]) -> tuple[Array, ...]:
    """The arrays of all groups, each once."""
    return tuple({id(a): a for group in groups for a in group}.values())


def over(sub: Sub, captured: Sequence[Array]) -> Graph:
    """The graph of a function with these arrays, which include those that it captured, behind its parameters."""
    params = sub.graph.params
    own = dict(zip(map(id, sub.captured), params[sub.num_params :], strict=True))
    rest = [own.get(id(a)) or Value(a.type) for a in captured]
    return sub.graph.replace(params=(*params[: sub.num_params], *rest))


def collect(result: Any, numbers: bool) -> tuple[tuple[Any, ...], tree.TreeDef, list[Array]]:
    """(leaves with a Slot for each array, structure, arrays) of what a traced function returned.

    NumPy scalars, which NumPy's functions give for arrays that are known, are arrays as well; with `numbers` Python's
    too, which else stay as they are.
    """
    found, structure = tree.flatten(result)
    outputs: list[Array] = []
    leaves: list[Any] = []
    for leaf in found:
        if isinstance(leaf, Selection):
            raise UnsupportedError(
                "x[mask] with a traced mask has no static shape and cannot be returned; return np.where(mask, "
                "x, y), or reduce it",
                user_location(),
            )
        if isinstance(leaf, Array | np.ndarray) or ((numbers or isinstance(leaf, np.generic)) and is_number(leaf)):
            array = as_array(leaf)
            leaves.append(Slot(len(outputs), array.scalar, array.weak))
            outputs.append(array)
        else:
            leaves.append(leaf)
    return tuple(leaves), structure, outputs


def refuse_updates(sub: Sub, names: Sequence[str], transform: str) -> None:
    """Raise where the function wrote to a parameter or to a captured array, which the transform would lose."""
    for index in sub.graph.updates:
        what = f"its argument {names[index]}" if index < sub.num_params else "an array of the enclosing scope"
        raise MutationError(
            f"the function under {transform} writes in place to {what}; work on a copy (x = x.copy()) and return it",
            user_location(),
        )


def inline(graph: Graph, arguments: Sequence[Array | Value]) -> list[Value]:
    """Append a graph to the current trace."""
    trace = require()
    b = trace.b
    return b.inline(graph, [trace.lift(a) for a in arguments])


def wrap(values: Sequence[Value], slots: Sequence[Slot] | None = None) -> list[Array]:
    """Arrays of the current trace for values that were inlined into it."""
    trace = require()
    if slots is None:
        return [trace.wrap(v) for v in values]
    return [trace.wrap(v, scalar=s.scalar and not v.shape, weak=s.weak) for v, s in zip(values, slots, strict=True)]


def write_updates(sub: Sub, arrays: Sequence[Array], values: Sequence[Value]) -> None:
    """Store what the function wrote to its parameters and captures into the arrays that they stand for.

    Everything else that is made of `values` must have been wrapped before: they may be memory that changes now.
    """
    trace = require()
    targets = [*arrays, *sub.captured]
    stored = [trace.wrap(value) for value in values[sub.num_outputs : len(sub.graph.outputs)]]
    for index, new in zip(sub.graph.updates, stored, strict=True):
        trace.write(targets[index], trace.lift(new))


def array_leaves(leaves: Sequence[Any], names: Sequence[str], what: str) -> list[Array]:
    """The leaves as Arrays; ArgumentTypeError naming the one that is none."""
    for leaf, name in zip(leaves, names, strict=True):
        if not is_number(leaf):
            raise ArgumentTypeError(
                f"{what} must be arrays, but {name} is of type {type(leaf).__name__}", user_location()
            )
    return [as_array(leaf) for leaf in leaves]


def rows_of(b: Builder, x: Value, start: int, count: int) -> Value:
    """x[start:start + count]."""
    if count == x.shape[0]:
        return x
    rest = x.shape[1:]
    return b.slice(x, start=(start,) + (0,) * len(rest), stop=(start + count, *rest), step=(1,) * x.ndim)

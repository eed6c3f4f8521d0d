"""The NumPy interpreter: runs a graph of any stage node by node. The oracle of tests, never the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.errors import ArgumentTypeError, LinAlgError, NufuncError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.halves import evaluate
from nufunc.ir.types import TapeType, type_of

Watch = Callable[[Node, Sequence[np.ndarray], Sequence[np.ndarray]], None]
_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Graphs that run inside, regions included, tell `watch` of each node with its operands and results."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def run(graph: Graph, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of `graph` for these arguments.

    Views of a traced graph are NumPy views and its writes happen in place, also in the arguments. Other
    results never share memory with their operands or with each other.
    """
    env: dict[Value, np.ndarray] = {}
    for k, (param, argument) in enumerate(zip(graph.params, arguments, strict=True)):
        env[param] = np.asarray(argument)
        if isinstance(param.type, TapeType):
            if env[param].dtype != param.dtype or env[param].shape != param.shape:
                raise ArgumentTypeError(f"argument {k} of @{graph.name} is no {param.type}")
        elif type_of(env[param]) != param.type:
            raise ArgumentTypeError(
                f"argument {k} of @{graph.name} is {type_of(env[param])}, not {param.type}"
            )
    env.update((value, array.copy() if graph.stage == "traced" else array) for value, array in graph.consts)
    last_use = {o: i for i, node in enumerate(graph.nodes) for o in node.operands}
    keep = set(graph.outputs)
    watch = _WATCH.get()
    for i, node in enumerate(graph.nodes):
        record = primitive.get(node.prim)
        operands = [env[o] for o in node.operands]
        try:
            with np.errstate(all="ignore"):
                results = evaluate(node, operands)
        except NufuncError as error:
            if error.location is None and node.loc is not None:
                raise type(error)(str(error), node.loc) from error
            raise
        except np.linalg.LinAlgError as error:
            raise LinAlgError(str(error), node.loc) from None
        others = list(operands)
        for value, result in zip(node.results, results, strict=True):
            array = np.asarray(result)
            shared = not array.flags.writeable or any(np.may_share_memory(array, o) for o in others)
            if record.kind != "view" and shared:
                array = array.copy()
            others.append(array)
            env[value] = array
        if watch is not None:
            watch(node, operands, [env[value] for value in node.results])
        for o in node.operands:
            if last_use[o] == i and o not in keep:
                env.pop(o, None)
    return [env[o] for o in graph.outputs]

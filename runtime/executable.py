"""Executable: a compiled signature of a function, how its inputs are found, and how its results are handed back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nufunc.ir.errors import MutationError
from nufunc.ir.graph import Graph
from nufunc.runtime.pipeline import Record
from nufunc.runtime.signatures import Input, signature
from nufunc.runtime.subgraph import Slot
from nufunc.tracer import tree


@dataclass(eq=False)
class Executable:
    """One compilation.

    `positions`: the leaves of the arguments that are run-time inputs. They come first, then what the function
    captured, which `read` gives for a function object of the same code (None if a guard fails). `updates` are pairs
    of an input and the output that is written back to it.
    """

    name: str
    graph: Graph
    entry: Any
    positions: tuple[int, ...]
    inputs: tuple[Input, ...]
    sources: tuple[str, ...]
    read: Callable[[Any], tuple[Any, ...] | None]
    leaves: tuple[Any, ...]
    structure: tree.TreeDef
    updates: tuple[tuple[int, int], ...]
    anchors: tuple[Any, ...]
    record: Record | None = None
    front: Callable[[Any, tuple[Any, ...]], Any] | None = None  # the short way here, shared by all who call this

    def captured(self, func: Any) -> tuple[Any, ...] | None:
        """The current values of what the function captures, if this compilation still fits them."""
        values = self.read(func)
        if values is None:
            return None
        if values:
            k = len(self.positions)
            name = lambda: self.sources[k]
            for value in values:
                if signature(value, name) != self.inputs[k]:
                    return None
                k += 1
        return values

    def run(self, values: Sequence[Any]) -> Any:
        """The result for these inputs; what the function writes in place is stored once the whole call has
        succeeded.
        """
        arrays = [
            v if type(v) is np.ndarray and v.dtype is want.type.dtype else _prepared(v, want)
            for v, want in zip(values, self.inputs, strict=True)
        ]
        if self.updates:
            self._check_targets(values)
        results = self.entry.slow(*arrays)
        for source, result in self.updates:
            np.copyto(values[source], results[result])
        return self.unflatten(results)

    def unflatten(self, results: Sequence[Any]) -> Any:
        """The results in the tree that the function returned."""
        return tree.unflatten(
            self.structure, [results[x.index] if isinstance(x, Slot) else x for x in self.leaves]
        )

    def _check_targets(self, values: Sequence[Any]) -> None:
        """Raise before anything is changed: read-only targets as NumPy does, and targets that overlap other inputs."""
        for k, _ in self.updates:
            target = values[k]
            if not isinstance(target, np.ndarray):
                raise MutationError(f"{self.name} writes in place to {self.sources[k]}, which is no array")
            if not target.flags.writeable:
                raise ValueError(f"assignment destination is read-only ({self.sources[k]} of {self.name})")
            for j, other in enumerate(values):
                if j != k and isinstance(other, np.ndarray) and np.may_share_memory(target, other):
                    raise MutationError(
                        f"{self.name} writes in place to {self.sources[k]}, whose memory overlaps "
                        f"{self.sources[j]}; pass a "
                        "copy of one of them"
                    )


def _prepared(value: Any, want: Input) -> Any:
    """The input as the entry takes it: native byte order, a plain ndarray."""
    if want.kind != "array" or (type(value) is np.ndarray and value.dtype.isnative):
        return value
    return np.asarray(value).astype(want.type.dtype, copy=False)

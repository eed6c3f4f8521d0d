"""Program and Executable: a traced signature of a function, how its inputs are found, its results handed back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from nufunc.ir.errors import MutationError
from nufunc.ir.graph import Graph
from nufunc.runtime.signatures import Input, signature
from nufunc.runtime.stored import Origin
from nufunc.runtime.subgraph import Slot
from nufunc.tracer import tree


@dataclass(eq=False)
class Program:
    """What one outermost trace gives, before there is machine code for it.

    `positions`: the leaves of the arguments that are run-time inputs. They come first, then what the function
    captured, which `read` gives for a function object of the same code (None if a guard fails, which `failure` names).
    `scalars` tells which outputs are handed back as NumPy scalars. The last outputs of the graph are its updates.
    `donated` are the inputs whose memory results may take. The last inputs are random numbers, which `draws` makes at
    each call from the function object and the leaves numbered in `generators` (see Note [Draws]). `stored` are the
    inputs that are written through a stretch of memory that they share with others (see Note [Overlapping inputs]).
    `fastmath` is the option of a jit. `device` is the number of the CUDA device that it is for, None for the host.
    """

    name: str
    graph: Graph
    positions: tuple[int, ...]
    inputs: tuple[Input, ...]
    sources: tuple[str, ...]
    scalars: tuple[bool, ...]
    donated: tuple[int, ...]
    read: Callable[[Any], tuple[Any, ...] | None]
    failure: Callable[[Any], str | None]
    leaves: tuple[Any, ...]
    structure: tree.TreeDef
    anchors: tuple[Any, ...]
    generators: tuple[int, ...]
    draws: Callable[[Any, Sequence[Any]], tuple[Any, ...]] | None
    stored: frozenset[int]
    fastmath: bool
    device: int | None = None

    @property
    def num_results(self) -> int:
        """Outputs that are handed back; behind them stand those that are written to inputs."""
        return len(self.graph.outputs) - len(self.graph.updates)

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

    def fits(self, values: Sequence[Any]) -> bool:
        """Whether these inputs, all but the draws, are what this was traced for."""
        name = lambda: "of a call"
        return all(signature(x, name) == want for x, want in zip(values, self.inputs, strict=False))

    def unflatten(self, results: Sequence[Any]) -> Any:
        """The results in the tree that the function returned."""
        return tree.unflatten(
            self.structure, [results[x.index] if isinstance(x, Slot) else x for x in self.leaves]
        )


class Check(Protocol):
    """What looks at the inputs and the results of each call, before anything is written to arguments."""

    def __call__(
        self, executable: Executable, inputs: Sequence[np.ndarray], results: Sequence[Any], /
    ) -> None: ...


@dataclass(eq=False, kw_only=True)
class Executable(Program):
    """A program with its native entry, and where this comes from. `fronts` are the short ways here, by whether they
    take `out=`; all who call this share them.
    """

    check: ClassVar[Check | None] = None  # of each call's results
    entry: Any
    origin: Origin
    fronts: dict[bool, Callable[..., Any]] = field(default_factory=dict)

    @cached_property
    def written(self) -> tuple[int, ...]:
        """The inputs that a call changes: those that the function writes in place, and donated ones that lend their
        memory to a result.
        """
        return (*self.graph.updates, *(k for k in self.donated if k in self.entry.spec.sources))

    def run(self, values: Sequence[Any], outs: Sequence[np.ndarray] = ()) -> list[Any]:
        """The results for these inputs, or with `outs`, one per result, nothing: they are written there.

        What the function writes in place is changed once the whole call has succeeded; a call that fails may leave
        something in `outs` and in donated arrays.
        """
        arrays = [
            v if type(v) is np.ndarray and v.dtype is want.type.dtype else _prepared(v, want)
            for v, want in zip(values, self.inputs, strict=True)
        ]
        entry = self.entry
        if self.written:
            self._check_targets(values)
        if self.check is not None:
            return self._checked(values, arrays, outs)
        if all(arrays[k] is values[k] or arrays[k].dtype == values[k].dtype for k in self.written):
            answer = entry.into(*arrays, *outs) if outs else entry.fast(*arrays)
            if answer is not NotImplemented:
                return list(answer) if entry.spec.as_tuple or outs else [answer]
        return self._stored(entry.slow(*arrays), values, outs)

    def _checked(self, values: Sequence[Any], arrays: Sequence[Any], outs: Sequence[np.ndarray]) -> list[Any]:
        """`run` with the results shown to `check`, before anything is changed."""
        inputs = [np.array(a, want.type.dtype) for a, want in zip(arrays, self.inputs, strict=True)]
        results = self.entry.slow(*arrays)
        if self.check is not None:
            self.check(self, inputs, results)
        return self._stored(results, values, outs)

    def _stored(self, results: Sequence[Any], values: Sequence[Any], outs: Sequence[np.ndarray]) -> list[Any]:
        """The results, with those that stand in arguments written there."""
        count = self.num_results
        for source, result in zip(self.graph.updates, results[count:], strict=True):
            np.copyto(values[source], result)
        for out, result in zip(outs, results[:count]):
            np.copyto(out, result)
        return [] if outs else list(results[:count])

    def _check_targets(self, values: Sequence[Any]) -> None:
        """Raise before anything is changed: read-only targets as NumPy does, and targets that overlap other inputs."""
        for k in self.written:
            target, deed = values[k], "writes in place to" if k in self.graph.updates else "is donated"
            if not target.flags.writeable:
                what = "assignment destination" if k in self.graph.updates else "a donated array"
                raise ValueError(f"{what} is read-only ({self.sources[k]} of {self.name})")
            for j, other in enumerate(values):
                if j != k and isinstance(other, np.ndarray) and np.may_share_memory(target, other):
                    raise MutationError(
                        f"{self.name} {deed} {self.sources[k]}, whose memory overlaps {self.sources[j]}; pass a copy "
                        "of one of them"
                    )


def _prepared(value: Any, want: Input) -> Any:
    """The input as the entry takes it: a plain ndarray, of native byte order, with the dtype object that arrays share,
    which those from pickles do not. A view, where its elements are right.
    """
    if want.kind != "array":
        return value
    if type(value) is np.ndarray and value.dtype.isnative:
        return value.view(want.type.dtype)
    return np.asarray(value).astype(want.type.dtype, copy=False)

"""What a call of a library is made of: routines, loops around them, copies; places are relative to the call.

Note [Calls]
A `Call` of a program becomes steps over the call's own places: "input" are its operands, "output" its results,
"workspace" 0 its scratch memory, and "error" the program's error word. They are data like a program: `Routine`s name
what cuBLAS, cuSOLVER or cuFFT do with numbers and places, `Glue` is a pure graph that runs as loop nests (transposes,
triangles, products of pivots), `Launch` a kernel of its own, `Upload` and `Hosted` stand for what the host does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nufunc.codegen.cuda.program import Copy, Kernel, Launch, Place
from nufunc.ir.graph import Graph
from nufunc.ir.types import ArrayType

ALIGNMENT = 256


@dataclass(frozen=True)
class Routine:
    """A routine of a library on column-major matrices: its name in `nufunc.runtime.cuda.nvidia`, the dtype, the places
    of its arrays by name and its numbers."""

    name: str
    dtype: np.dtype
    places: Mapping[str, Place]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Glue:
    """A pure graph over places, its parameters and then its outputs."""

    graph: Graph
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Hosted:
    """The primitive's own `evaluate` on copies in host memory."""


@dataclass(frozen=True)
class Made:
    """A Glue as the kernels that it becomes, each with the numbers of the places that it is given."""

    kernels: tuple[tuple[Kernel, tuple[int, ...]], ...]
    places: tuple[Place, ...]


LibraryStep = Routine | Glue | Made | Hosted | Launch | Copy


@dataclass(frozen=True)
class Ready:
    """What a call has become, as a stored program holds it: by whom (a route of `nufunc.runtime.cuda.libraries`), its
    steps, all kernels made, and whether they can be recorded."""

    route: str
    steps: tuple[LibraryStep, ...]
    replayable: bool

    @property
    def kernels(self) -> list[Kernel]:
        found = [step.kernel for step in self.steps if isinstance(step, Launch)]
        return found + [k for step in self.steps if isinstance(step, Made) for k, _ in step.kernels]


@dataclass
class Lowered:
    """The steps of a call while they are made, and its scratch memory."""

    prim: str
    operands: tuple[ArrayType, ...]
    results: tuple[ArrayType, ...]
    attrs: Mapping[str, Any]
    site: int = 0
    steps: list[LibraryStep] = field(default_factory=list)
    scratch: int = 0

    def area(self, nbytes: int) -> Place:
        """Fresh scratch memory."""
        place = Place("workspace", 0, self.scratch)
        self.scratch += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return place

    def operand(self, number: int) -> Place:
        return Place("input", number)

    def result(self, number: int) -> Place:
        return Place("output", number)

    def copy(self, target: Place, source: Place, nbytes: int) -> None:
        if nbytes:
            self.steps.append(Copy(target, source, nbytes))

    def glue(self, graph: Graph, *places: Place) -> None:
        self.steps.append(Glue(graph, places))

    def routine(self, name: str, dtype: np.dtype, places: Mapping[str, Place], **numbers: Any) -> None:
        self.steps.append(Routine(name, dtype, places, numbers))


Lower = Callable[[Lowered], None]


def not_empty(lower: Lower) -> Lower:
    """What is made of matrices without elements is left to the primitive's own rule."""

    def lowered(made: Lowered) -> None:
        if made.operands[0].size:
            lower(made)
        else:
            made.steps.append(Hosted())

    return lowered


def count_of(shape: Sequence[int]) -> int:
    """Matrices of a stack."""
    count = 1
    for n in shape[:-2]:
        count *= n
    return count

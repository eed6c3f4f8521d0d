"""What a traced value is when one looks at it: its type, and the transforms around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nufunc.ir.errors import Location
from nufunc.ir.types import ArrayType
from nufunc.tracer.array import Array
from nufunc.tracer.trace import Trace


@dataclass(frozen=True)
class Level:
    """A transform whose function is being traced: its name, the arrays of the enclosing trace that its parameters stand
    for, and for vmap the number of lanes and the axis of each array.
    """

    label: str
    arrays: tuple[Any, ...] = ()
    size: int | None = None
    dims: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.label if self.size is None else f"{self.label}(size={self.size})"


@dataclass(frozen=True)
class TracedValue:
    """A description of a traced value: its type, the transforms around it from the innermost out, and the line of the
    user's program that made it.

    >>> import numpy as np, nufunc as nf
    >>> @nf.vmap
    ... @nf.grad
    ... def f(x):
    ...     print(nf.debug_unwrap(x).levels, nf.debug_unwrap(x).shape)
    ...     return np.sum(x**2)
    >>> f(np.ones((3, 2))).shape
    ('grad', 'vmap(size=3)') (2,)
    (3, 2)
    """

    type: ArrayType
    levels: tuple[str, ...]
    location: Location | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> np.dtype:
        return self.type.dtype


def levels_of(trace: Trace | None) -> list[Level]:
    """The levels from a trace outwards; traces of control flow are none."""
    found = []
    while trace is not None:
        if trace.level is not None:
            found.append(trace.level)
        trace = trace.parent
    return found


def described(x: Array, recurse: bool) -> TracedValue:
    """The description of a traced value; without `recurse` with its innermost level only."""
    names = [str(level) for level in levels_of(x.owner)]
    return TracedValue(x.type, tuple(names if recurse else names[:1]), x.location)


def at_level(
    trace: Trace, label: str, arrays: Sequence[Any] = (), size: int | None = None, dims: Sequence[int] = ()
) -> None:
    """Note what the trace of a transform's function stands for."""
    trace.level = Level(label, tuple(arrays), size, tuple(dims))

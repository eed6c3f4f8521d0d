"""What is made by indexing: np.r_ and np.c_ of traced values, np.mgrid and np.ogrid of static ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, fail, has_traced, is_scalar, result_dtype
from nufunc.tracer.np_creation import arange, array, linspace
from nufunc.tracer.np_join import concatenate
from nufunc.tracer.np_shape import swapaxes


class Grid:
    """np.mgrid[...] and its like: NumPy's for static keys, its result a fresh constant."""

    def __init__(self, name: str, constants: Callable[[Any], Any]) -> None:
        self.name, self.constants = name, constants

    def __getitem__(self, key: Any) -> Any:
        if not has_traced(key) and not has_traced(_bounds(key)):
            return self.constants(getattr(np, self.name)[key])
        if self.name == "r_":
            return _joined(key, 0, 1, -1)
        if self.name == "c_":
            return _joined(key, -1, 2, 0)
        raise fail(UnsupportedError, f"np.{self.name} of traced values; use np.arange or np.linspace with np.meshgrid")

    def __len__(self) -> int:
        return 0


def _bounds(key: Any) -> list[Any]:
    """What stands in the slices of a key."""
    items = key if isinstance(key, tuple) else (key,)
    return [part for item in items if isinstance(item, slice) for part in (item.start, item.stop, item.step)]


def _joined(key: Any, axis: int, ndmin: int, place: int) -> Array:
    """The items joined along an axis, each with at least `ndmin` axes, of which its own stand at `place`."""
    parts: list[Any] = []
    kinds: list[Any] = []
    for k, item in enumerate(key if isinstance(key, tuple) else (key,)):
        if isinstance(item, str):
            if k:
                raise ValueError("special directives must be the first entry.")
            if item in ("r", "c"):
                raise fail(UnsupportedError, f"np.r_[{item!r}, ...] makes a np.matrix; use np.r_ or np.c_")
            numbers = [int(n) for n in item.split(",")]
            axis = numbers[0]
            ndmin, place = (*numbers[1:], *(ndmin, place)[len(numbers) - 1 :])
            continue
        parts.append(_part(item, ndmin, place))
        kinds.append(item if is_scalar(item) else parts[-1])
    kind = result_dtype(*kinds)
    return concatenate([part.astype(kind) for part in parts], axis)


def _part(item: Any, ndmin: int, place: int) -> Array:
    if isinstance(item, slice):
        made = _ranged(item)
        if ndmin > 1:
            made = array(made, ndmin=ndmin)
            return swapaxes(made, -1, place) if place != -1 else made
        return made
    if is_scalar(item):
        return array(item, ndmin=ndmin)
    x = as_array(item)
    missing = ndmin - x.ndim
    made = array(x, ndmin=ndmin)
    if place == -1 or missing <= 0:
        return made
    first = place + missing + 1 if place < 0 else place
    axes = list(range(ndmin))
    return made.transpose(tuple(axes[:first] + axes[missing:] + axes[first:missing]))


def _ranged(item: slice) -> Array:
    start = 0 if item.start is None else item.start
    step = 1 if item.step is None else item.step
    if isinstance(step, complex):
        return as_array(linspace(start, item.stop, num=int(abs(step))))
    return arange(start, item.stop, step)

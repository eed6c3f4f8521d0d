"""Strides as NumPy would have them: whether a reshape is a view, and the memory order of results.

Strides count elements, not bytes; None stands for C order. Arrays that only say how memory lies (as_strided
over one byte) let NumPy's own iterator decide the order of results; their memory is never read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Strides = tuple[int, ...]


def c_strides(shape: Sequence[int]) -> Strides:
    """Strides of a C-contiguous array."""
    strides = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


def canonical(shape: Sequence[int], strides: Strides | None) -> Strides | None:
    """None where the strides are those of C order (axes of extent one do not matter)."""
    if strides is None or 0 in shape:
        return None
    same = all(n == 1 or s == c for n, s, c in zip(shape, strides, c_strides(shape)))
    return None if same else tuple(strides)


def broadcast_strides(shape: Sequence[int], strides: Strides | None, target: Sequence[int]) -> Strides:
    """Strides of the array broadcast to `target`: zero along repeated axes."""
    strides = c_strides(shape) if strides is None else strides
    lead = len(target) - len(shape)
    kept = tuple(0 if n == 1 and t != 1 else s for n, s, t in zip(shape, strides, target[lead:]))
    return (0,) * lead + kept


def result_strides(shape: Sequence[int], operands: Sequence[Strides]) -> Strides | None:
    """The order in which NumPy lays out a result of this shape computed from operands of these strides
    (order 'K').
    """
    if 0 in shape or len(shape) < 2 or not operands:
        return None
    cell = np.zeros(1, np.int8)
    arrays = [np.lib.stride_tricks.as_strided(cell, shape, strides) for strides in operands]
    flags = [["readonly"]] * len(arrays) + [["writeonly", "allocate"]]
    iterator = np.nditer([*arrays, None], op_flags=flags, op_dtypes=[np.int8] * len(flags))  # type: ignore[arg-type]
    return canonical(shape, iterator.operands[-1].strides)


def reshape_strides(
    shape: Sequence[int], strides: Strides | None, target: Sequence[int]
) -> Strides | bool | None:
    """Strides of the array seen in another shape, or False where NumPy has to copy."""
    if strides is None or 0 in shape:
        return None
    old = [(n, s) for n, s in zip(shape, strides) if n != 1]
    result: list[int] = []
    position = 0
    for extent in target:
        if extent == 1:
            result.append(0)
            continue
        if position == len(old):
            return False
        n, s = old[position]
        while n % extent != 0 or n < extent:  # join with the next axis where the two lie in one line
            position += 1
            if position == len(old) or s != old[position][0] * old[position][1]:
                return False
            n, s = n * old[position][0], old[position][1]
        rest = n // extent
        result.append(s * rest)
        if rest == 1:
            position += 1
        else:
            old[position] = (rest, s)
    return canonical(target, tuple(result))

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


def f_strides(shape: Sequence[int]) -> Strides:
    """Strides of a Fortran-contiguous array."""
    return tuple(reversed(c_strides(tuple(reversed(shape)))))


def is_f_contiguous(shape: Sequence[int], strides: Strides | None) -> bool:
    """Whether the transposed array is C-contiguous."""
    own = c_strides(shape) if strides is None else strides
    return canonical(tuple(reversed(shape)), tuple(reversed(own))) is None


def ordered(shape: Sequence[int], strides: Strides | None, order: str | None) -> Strides | None:
    """The strides of a new array of this shape in memory order 'C', 'F', or, after an array of these strides, 'A' or
    'K'.
    """
    if order == "F" or (order == "A" and strides is not None and is_f_contiguous(shape, strides)):
        return canonical(shape, f_strides(shape))
    if order == "K" and strides is not None:
        return like_strides(shape, strides)
    return None


def like_strides(shape: Sequence[int], strides: Strides) -> Strides | None:
    """The strides that NumPy gives a copy, in order 'K', of an array of these strides."""
    if 0 in shape or len(shape) < 2:
        return None
    cell = np.zeros(1, np.int8)
    return canonical(shape, np.empty_like(np.lib.stride_tricks.as_strided(cell, shape, strides)).strides)


def joined_strides(
    shape: Sequence[int], shapes: Sequence[Sequence[int]], strides: Sequence[Strides]
) -> Strides | None:
    """The strides of the concatenation, of this shape, of arrays of these shapes and strides.

    Axes are sorted by stride where all arrays agree; where they do not, C order wins. Axes of extent one say nothing.
    """
    order: list[int] = []
    for axis in range(len(shape)):
        place = len(order)
        for k in range(len(order) - 1, -1, -1):
            other = order[k]
            votes = [abs(s[axis]) > abs(s[other]) for n, s in zip(shapes, strides) if n[axis] != 1 and n[other] != 1]
            if votes and not all(votes):
                break
            if votes:
                place = k
        order.insert(place, axis)
    result = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        result[axis] = step
        step *= max(shape[axis], 1)
    return canonical(shape, tuple(result))


def gathered_strides(lead: Sequence[int], rest: Sequence[int], strides: Strides) -> Strides:
    """The strides of what index arrays of shape `lead` gather: their axes first, in C order, around the other axes in
    the order in which these lay in memory.
    """
    inner = like_strides(rest, strides) or c_strides(rest)
    size = int(np.prod(rest, dtype=np.int64))
    return (*(s * max(size, 1) for s in c_strides(lead)), *inner)


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

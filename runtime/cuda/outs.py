"""Arrays for the results of calls on a device (`out=`): of the device, of other libraries on it, or of the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError
from nufunc.runtime.cuda.entry import overlap
from nufunc.runtime.cuda.interop import adopted
from nufunc.tracer.usercode import user_location


def adopted_outs(given: Sequence[tuple[Any, str]], device: int) -> list[Any]:
    """The arrays to write to; an error where one cannot be written, is elsewhere, or shares memory with another."""
    found: list[tuple[Any, str]] = []
    for leaf, name in given:
        array = leaf if isinstance(leaf, np.ndarray) else adopted(leaf)
        if array is not None and not isinstance(array, np.ndarray):
            if array.device.index != device:
                raise ArgumentError(f"{name} is on {array.device}, the call runs on cuda:{device}", user_location())
            if array.readonly:
                raise ArgumentError(f"{name} is read-only", user_location())
        for other, other_name in found:
            if overlap(array, other):
                raise ArgumentError(f"{name} and {other_name} share memory", user_location())
        found.append((array, name))
    return [array for array, _ in found]

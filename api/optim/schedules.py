"""Learning rates as functions of the number of the step, from 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__nufunc_traceable__ = True

Schedule = Callable[[Any], Any]


def constant(value: float) -> Schedule:
    """The same at every step."""

    def rate(step: Any) -> Any:
        return value

    return rate


def linear(start: float, end: float, steps: int) -> Schedule:
    """From start to end in a straight line over so many steps, then end.

    >>> import nufunc as nf
    >>> [round(float(nf.optim.linear(1., 0., 4)(k)), 2) for k in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    def rate(step: Any) -> Any:
        return start + (end - start) * np.minimum(step / steps, 1.0)

    return rate


def exponential(start: float, decay: float, every: int = 1) -> Schedule:
    """start times decay to the power step / every."""

    def rate(step: Any) -> Any:
        return start * decay ** (step / every)

    return rate


def piecewise(start: float, factors: Sequence[tuple[int, float]]) -> Schedule:
    """start, multiplied by each factor from its step on: piecewise(0.1, [(100, 0.5), (200, 0.5)])."""

    def rate(step: Any) -> Any:
        value: Any = start
        for first, factor in factors:
            value = np.where(step >= first, value * factor, value)
        return value

    return rate


def cosine(start: float, steps: int, end: float = 0.0) -> Schedule:
    """From start to end along half a cosine over so many steps, then end (Loshchilov and Hutter 2017)."""

    def rate(step: Any) -> Any:
        return end + (start - end) * 0.5 * (1 + np.cos(math.pi * np.minimum(step / steps, 1.0)))

    return rate


def warmup_cosine(peak: float, warmup: int, steps: int, end: float = 0.0) -> Schedule:
    """From 0 to peak in a straight line over `warmup` steps, then along half a cosine to end at `steps`."""
    fall = cosine(peak, steps - warmup, end)

    def rate(step: Any) -> Any:
        return np.where(step < warmup, peak * step / max(warmup, 1), fall(np.maximum(step - warmup, 0)))

    return rate

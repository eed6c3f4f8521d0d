"""Primitives over windows, for traced arrays and, compiled for their shapes, for others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nufunc.runtime.function import Transformed
from nufunc.tracer import nn_windows
from nufunc.tracer.trace import current


def convolution(*args: Any) -> Any:
    """See `nufunc.tracer.nn_windows.convolution`."""
    return _run(nn_windows.convolution, *args)


def window_max(*args: Any) -> Any:
    """See `nufunc.tracer.nn_windows.window_max`."""
    return _run(nn_windows.window_max, *args)


def window_sum(*args: Any) -> Any:
    """See `nufunc.tracer.nn_windows.window_sum`."""
    return _run(nn_windows.window_sum, *args)


def _run(function: Callable[..., Any], *args: Any) -> Any:
    """Inside a traced function, append to its graph; outside, compile and run."""
    return function(*args) if current() is not None else _compiled(function)(*args)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Transformed:
    return Transformed((), function)

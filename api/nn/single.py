"""Half precision in layers: computed in float32 and rounded once, as in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.types import is_half

__nufunc_traceable__ = True


def in_single(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which computes in float32 and rounds its result once where its first operand is of half precision;
    SciPy's functions alone would give float64."""

    @functools.wraps(function)
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        dtype = getattr(x, "dtype", None)
        if dtype is None or not is_half(dtype):
            return function(x, *args, **kwargs)
        return function(x.astype(np.float32), *args, **kwargs).astype(dtype)

    return call

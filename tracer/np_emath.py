"""numpy.emath for traced complex values. Of real ones the dtype of its results depends on the data, so that they are
refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError
from nufunc.ir.types import is_complex
from nufunc.tracer.np_core import as_array, fail, is_scalar
from nufunc.tracer.np_ufuncs import UFUNCS


def _checked(name: str, *operands: Any) -> None:
    if not any(is_complex(as_array(x).dtype) for x in operands):
        raise fail(
            UnsupportedError,
            f"np.emath.{name} of traced real values: whether its result is complex depends on them; give complex ones, "
            f"np.emath.{name}(x + 0j), or take np.{name}",
        )


def _function(name: str) -> Callable[..., Any]:
    def call(x: Any) -> Any:
        _checked(name, x)
        return UFUNCS[name](x)

    call.__name__ = call.__qualname__ = name
    return call


def power(x: Any, p: Any) -> Any:
    _checked("power", x)
    exponent = np.asarray(p)[()] if is_scalar(p) else p  # as strong as an array
    return UFUNCS["power"](x, exponent)


def logn(n: Any, x: Any) -> Any:
    _checked("logn", n, x)
    return UFUNCS["log"](as_array(x) + 0j) / UFUNCS["log"](as_array(n) + 0j)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *map(_function, ("sqrt", "log", "log2", "log10", "arccos", "arcsin", "arctanh")), power, logn,
)  # fmt: skip

"""Library functions in traced code: called as they are, but what they compute must not become a constant."""

from __future__ import annotations

import functools
import os
import random
from typing import Any

import numpy as np

from nufunc.ir.errors import UnguardedCaptureError
from nufunc.tracer.usercode import user_location

# Results of these are functions of their arguments: as static as those are.
_PURE = frozenset(
    "abc bisect builtins cmath collections contextlib copy dataclasses enum fractions functools heapq "
    "inspect itertools logging math numbers operator re statistics string textwrap types typing "
    "typing_extensions warnings".split()
)
# Results of these depend on the time or the surroundings: even a number or a text must not become a constant.
_IMPURE = frozenset(("random", "secrets", "time", "_random", "os", "posix", "nt"))
_CHANGING = (random.Random, type(os.environ))


def checked(fn: Any) -> Any:
    """A library function that refuses to return an array or a float: it would become a constant."""
    module = getattr(fn, "__module__", None)
    top = module.partition(".")[0] if isinstance(module, str) else ""
    changing = top in _IMPURE or isinstance(getattr(fn, "__self__", None), _CHANGING)
    if not changing and (not top or top in _PURE or top == "nufunc" or (top.startswith("_") and top[1:] in _PURE)):
        return fn
    refused: tuple[type, ...] = (np.ndarray, np.generic, float, complex)
    if changing:
        refused = (*refused, int, str, bytes)

    @functools.wraps(fn, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        result = fn(*args, **kwargs)
        items = result if type(result) in (tuple, list) else (result,)
        if any(isinstance(item, refused) and not isinstance(item, bool) for item in items):
            raise UnguardedCaptureError(
                f"the library function {module}.{getattr(fn, '__qualname__', fn)} returned a "
                f"{type(result).__name__} that would be computed once, while tracing; compute it outside and "
                "pass it as an argument",
                user_location(),
            )
        return result

    return call

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
# Results of these depend on the time or the surroundings: nothing of them must become a constant.
_IMPURE = frozenset(("random", "secrets", "time", "_random", "os", "posix", "nt", "uuid"))
_CHANGING = (random.Random, type(os.environ))


def checked(fn: Any) -> Any:
    """A library function that refuses to return an array or a float: it would become a constant."""
    module = getattr(fn, "__module__", None)
    top = module.partition(".")[0] if isinstance(module, str) else ""
    changing = top in _IMPURE or isinstance(getattr(fn, "__self__", None), _CHANGING)
    if not changing and (not top or top in _PURE or top == "nufunc" or (top.startswith("_") and top[1:] in _PURE)):
        return fn
    refused: tuple[type, ...] = (object,) if changing else (np.ndarray, np.generic, float, complex)
    kept = (bool, type(None), *_CHANGING)

    @functools.wraps(fn, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        result = fn(*args, **kwargs)
        items = result if type(result) in (tuple, list) else (result,)
        if any(isinstance(item, refused) and not isinstance(item, kept) for item in items):
            raise _computed_once(f"{module}.{getattr(fn, '__qualname__', fn)}", type(result).__name__)
        return result

    return call


def _computed_once(name: str, kind: str) -> UnguardedCaptureError:
    return UnguardedCaptureError(
        f"the library function {name} returned a {kind} that would be computed once, while tracing; compute it outside "
        "and pass it as an argument",
        user_location(),
    )


def without_clock(cls: type) -> type:
    """A library class as traced code sees it: of dates those methods are refused that read the clock."""
    names = _CLOCKS.get(cls.__name__, ()) if cls.__module__ == "datetime" else ()
    return _refusing(cls, names) if names else cls


_CLOCKS = {"date": ("today",), "datetime": ("now", "today", "utcnow")}


class _Like(type):
    """The class of stand-ins that take other objects of their base for their own."""

    def __instancecheck__(cls, obj: Any) -> bool:
        return isinstance(obj, cls.__base__ or object)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.__base__ or object)


@functools.cache
def _refusing(cls: type, names: tuple[str, ...]) -> type:
    def refused(name: str) -> Any:
        def call(made: type, *args: Any, **kwargs: Any) -> Any:
            raise _computed_once(f"{cls.__module__}.{cls.__name__}.{name}", cls.__name__)

        return classmethod(call)

    # what the stand-in makes is of the class itself
    members: dict[str, Any] = {"__new__": lambda made, *args, **kwargs: cls(*args, **kwargs)}
    return _Like(cls.__name__, (cls,), members | {name: refused(name) for name in names})

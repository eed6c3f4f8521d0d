"""Checks of parameters that many NumPy functions share, by name: a mistake is the error that NumPy raises."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError
from nufunc.tracer.usercode import user_location

_CASTING = ("no", "equiv", "safe", "same_kind", "unsafe", "same_value")


def _error(kind: type[Exception], message: str) -> Exception:
    return kind(message, user_location())


def order(value: Any) -> None:
    if value is None or (isinstance(value, str) and value.upper() in ("C", "F", "A", "K")):
        return
    if not isinstance(value, str):
        raise _error(DTypeError, f"order must be str, not {type(value).__name__}")
    raise _error(ShapeError, f"order must be one of 'C', 'F', 'A', or 'K' (got {value!r})")


def keepdims(value: Any) -> None:
    if type(value) is bool or value is np._NoValue or isinstance(value, np.bool):
        return
    try:
        operator.index(value)
    except TypeError:
        raise _error(DTypeError, f"keepdims must be a bool, not {type(value).__name__}") from None


def casting(value: Any) -> None:
    if not isinstance(value, str):
        raise _error(DTypeError, f"casting must be str, not {type(value).__name__}")
    if value not in _CASTING:
        raise _error(
            ShapeError, f"casting must be one of 'no', 'equiv', 'safe', 'same_kind', 'unsafe' (got {value!r})"
        )


def copy(value: Any) -> None:
    if isinstance(value, str):
        raise _error(ShapeError, "strings are not allowed for 'copy' keyword. Use True/False/None instead.")


def decimals(value: Any) -> None:
    try:
        operator.index(value)
    except TypeError:
        raise _error(DTypeError, f"{type(value).__name__!r} object cannot be interpreted as an integer") from None


_BY_NAME: dict[str, Callable[[Any], None]] = {
    "order": order, "keepdims": keepdims, "casting": casting, "copy": copy, "decimals": decimals,
}  # fmt: skip
_OTHER = frozenset({("sort", "order"), ("argsort", "order"), ("partition", "order"), ("argpartition", "order")})


def checks_of(function: Callable[..., Any]) -> tuple[tuple[int, str, Callable[[Any], None]], ...]:
    """Place, name and check of each parameter of a function that has one. It is asked for hundreds of functions while
    they are imported, where `inspect.signature` would take a twentieth of the time."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return ()
    count = code.co_argcount
    return tuple(
        (place if place < count else 10**6, name, _BY_NAME[name])
        for place, name in enumerate(code.co_varnames[: count + code.co_kwonlyargcount])
        if name in _BY_NAME and (function.__name__, name) not in _OTHER
    )


def check(checks: tuple[tuple[int, str, Callable[[Any], None]], ...], args: Any, kwargs: Any) -> None:
    """Run the checks of a call."""
    for place, name, of in checks:
        if place < len(args):
            of(args[place])
        elif name in kwargs:
            of(kwargs[name])

"""How functions that were transformed are pickled: by the rule for functions, and as what stands under their name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, MethodType
from typing import Any


def reduced(obj: Any, func: Any, make: Callable[[Any], Any]) -> Any:
    """What `obj.__reduce__` returns, for an object around the function `func`; `make(base)` is what it returns where
    `base`, the function itself or an object of that name around it, is pickled by the usual rule.

    pickle stores a function as its name, under which, if it was decorated, stands not it but what the decorator made.
    So where that is `obj`, the name is stored; where it is something else around the function, this. cloudpickle also
    stores functions themselves, those of `__main__` above all, whose name means something else in a worker.
    """
    if isinstance(func, MethodType):
        found = _under(type(func.__self__), func.__func__.__name__)
        if getattr(found, "func", None) is func.__func__:  # the method was decorated
            bound = getattr(func.__self__, func.__func__.__name__)
            return (getattr, (func.__self__, func.__func__.__name__)) if _alike(bound, obj) else make(bound)
        return make(func)
    module, name = getattr(func, "__module__", None), getattr(func, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)) or _by_value(module, sys._getframe(2)):
        return make(func)
    found = _under(sys.modules.get(module), name)
    if found is obj:
        return name
    return make(found if found is not func and getattr(found, "func", None) is func else func)


def _under(owner: Any, name: str) -> Any:
    """What stands under a dotted name, or None."""
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return owner


def _alike(bound: Any, obj: Any) -> bool:
    return type(bound) is type(obj) and getattr(bound, "__nufunc_key__", None) == obj.__nufunc_key__


def _by_value(module: str, frame: FrameType | None) -> bool:
    """Whether the pickler that `frame` runs is cloudpickle, or a copy of it, and stores a module's functions whole."""
    scope = frame.f_globals if frame is not None else {}
    if not str(scope.get("__name__", "")).endswith("cloudpickle"):
        return False
    chosen = scope.get("_PICKLE_BY_VALUE_MODULES", ())
    return module == "__main__" or any(module == m or module.startswith(f"{m}.") for m in chosen)

"""How functions that were transformed are pickled: by the rule for functions, and as what stands under their name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, CodeType, FrameType, FunctionType, MethodType
from typing import Any

from nufunc.ir.errors import UnsupportedError


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


@dataclass(frozen=True)
class Closure:
    """A function that a function of this package made, by its place in that and by what it captured."""

    module: str
    place: str
    captured: tuple[Any, ...]
    defaults: tuple[Any, ...] | None

    @staticmethod
    def of(value: Any) -> Any:
        """A value, with such functions in this form."""
        if not (isinstance(value, FunctionType) and "<locals>" in value.__qualname__):
            return value
        if not value.__module__.startswith("nufunc."):
            return value
        captured = tuple(Closure.of(cell.cell_contents) for cell in value.__closure__ or ())
        return Closure(value.__module__, value.__qualname__, captured, value.__defaults__)

    @staticmethod
    def function(value: Any) -> Any:
        """What `of` took, once more."""
        if not isinstance(value, Closure):
            return value
        outer, *inner = value.place.split(".<locals>.")
        module = importlib.import_module(value.module)
        code = getattr(module, outer).__code__
        for name in inner:
            found = [c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name]
            if len(found) != 1:
                raise UnsupportedError(f"{value.module} has no function {value.place} any more")
            code = found[0]
        cells = tuple(CellType(Closure.function(x)) for x in value.captured)
        made = FunctionType(code, vars(module), code.co_name, value.defaults, cells)
        made.__qualname__ = value.place
        return made

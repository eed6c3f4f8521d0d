"""Modules of SciPy for traced values: scipy.special, scipy.linalg and scipy.fft, once the program has imported them."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError
from nufunc.tracer import np_special, sp_fft, sp_linalg
from nufunc.tracer.np_core import fail, has_traced

Rules = Mapping[str, Callable[..., Any]]

RULES: dict[str, Rules] = {
    "scipy.special": np_special.SPECIAL,
    "scipy.linalg": sp_linalg.LINALG,
    "scipy.fft": sp_fft.FFT,
}


class SciPyModule(types.ModuleType):
    """A module of SciPy for traced values; concrete arguments go to SciPy itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = stand_in(self.__name__, name, getattr(importlib.import_module(self.__name__), name))
        setattr(self, name, value)
        return value


_MODULES = {name: SciPyModule(name, f"{name} for traced values.") for name in RULES}
_MADE: dict[tuple[str, str], Any] = {}


def stand_in(module: str, name: str, original: Any) -> Any:
    """The traced function for one of SciPy's."""
    if not callable(original) or isinstance(original, type):
        return original
    if (module, name) in _MADE:
        return _MADE[module, name]
    rule = RULES[module].get(name)

    @functools.wraps(original, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if not has_traced(args) and not has_traced(kwargs):
            from nufunc.tracer.np_namespace import as_constants

            return as_constants(original(*args, **kwargs))
        if rule is None:
            raise fail(UnsupportedError, f"{module}.{name} of a traced value is not supported")
        return rule(*args, **kwargs)

    _MADE[module, name] = call
    return call


def _found(obj: Any) -> tuple[str, str] | None:
    """Module and name of a function of a module that the program has imported."""
    name = getattr(obj, "__name__", None)
    if isinstance(name, str):
        for module in RULES:
            loaded = sys.modules.get(module)
            if loaded is not None and vars(loaded).get(name) is obj:
                return module, name
    return None


def swap(obj: Any) -> Any:
    """What stands for an object in traced code: itself for all but these modules and their functions."""
    if isinstance(obj, types.ModuleType):
        return _MODULES[obj.__name__] if obj is sys.modules.get(obj.__name__) and obj.__name__ in RULES else obj
    if isinstance(obj, (np.ufunc, types.FunctionType)) or type(obj).__module__ == "uarray":  # as all of scipy.fft's
        found = _found(obj)
        if found is not None:
            return stand_in(*found, obj)
    return obj


def traced(function: Any) -> Callable[..., Any] | None:
    """The rule for a function of SciPy that was called on traced values."""
    found = _found(function)
    return None if found is None else RULES[found[0]].get(found[1])

"""What stands in for what: the tables behind NumPy's two protocols and the swap of NumPy's objects for
traced ones.
"""

from __future__ import annotations

import math as _math
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError
from nufunc.tracer import np_fft, np_polynomial, np_series, scipy_views
from nufunc.tracer.np_builtins import BUILTINS, math
from nufunc.tracer.np_core import fail
from nufunc.tracer.np_namespace import GRIDS, Namespace, numpy
from nufunc.tracer.np_random import CLASSES
from nufunc.tracer.np_ufuncs import TracedUfunc


def _functions() -> dict[int, tuple[Any, Callable[..., Any]]]:
    """Traced functions by the identity of NumPy's."""
    table: dict[int, tuple[Any, Callable[..., Any]]] = {}
    modules: list[Namespace] = [numpy, numpy.linalg, numpy.emath]
    for module in modules:
        for value in vars(module).values():
            original = None if isinstance(value, types.ModuleType) else getattr(value, "original", None)
            if original is not None and not getattr(value, "unsupported", False):
                table[id(original)] = (original, value)
    for name, alias in (("amax", "max"), ("amin", "min"), ("around", "round")):
        original = getattr(np, name)
        table[id(original)] = (original, getattr(numpy, alias))
    return table


_TABLE = _functions()
_LATE_RULES = {"fft": np_fft.BY_NAME}  # of parts of NumPy that may not be imported yet


def traced(function: Any) -> Callable[..., Any] | None:
    """The traced function for one of NumPy's (or SciPy's), or None."""
    entry = _TABLE.get(id(function))
    if entry is not None:
        return entry[1]
    for late, names in _LATE_RULES.items():
        module = vars(np).get(late)
        name = getattr(function, "__name__", None)
        if module is not None and name in names and vars(module).get(name) is function:
            found: Callable[..., Any] = names[name]
            return found
    return scipy_views.traced(function)


# -- the swap table


def _swaps() -> dict[int, tuple[Any, Any]]:
    """Stand-ins by the identity of what they stand for."""
    pairs: list[tuple[Any, Any]] = [(_math, math), *BUILTINS.items()]
    pairs += [(np.vectorize, numpy.vectorize), (np.poly1d, numpy.poly1d), (np.finfo, numpy.finfo)]
    pairs.append((np.lib.stride_tricks.as_strided, numpy.lib.stride_tricks.as_strided))
    pairs.extend((getattr(np, name), grid) for name, grid in GRIDS.items())
    pairs.extend((value, getattr(math, name)) for name, value in vars(_math).items() if callable(value))
    pairs += [*_module_pairs(np, numpy), *_module_pairs(np.linalg, numpy.linalg), *_module_pairs(np.emath, numpy.emath)]
    return {id(obj): (obj, stand_in) for obj, stand_in in pairs}


def _module_pairs(
    original: types.ModuleType, module: Any, stand_in: Callable[[str], Any] | None = None
) -> Iterator[tuple[Any, Any]]:
    """A module of NumPy's and its functions, each with its stand-in: what `module` has by that name, if not said."""
    yield original, module
    for name, value in vars(original).items():  # dir and getattr would load numpy.f2py and numpy.testing
        if name.startswith("_") or not callable(value) or isinstance(value, type) or name in GRIDS:
            continue
        yield value, stand_in(name) if stand_in else getattr(module, name)


_SWAPS = _swaps()
_LATE = ["fft", "random", "polynomial"]  # parts of NumPy that nobody has imported yet


def _add_late() -> None:
    """The stand-ins of parts of NumPy that have been imported since."""
    for name in [n for n in _LATE if n in vars(np)]:
        original, traced_module = getattr(np, name), getattr(numpy, name)
        if name == "polynomial":
            pairs = [(original, traced_module)]
            for room in np_polynomial.ROOMS:
                pairs += [*_module_pairs(getattr(original, room), getattr(traced_module, room))]
                name_of = np_series.CLASSES[room]
                pairs.append((getattr(original, name_of), getattr(traced_module, name_of)))
        elif name == "random":  # whose attributes are NumPy's own where nothing is traced, as here they may be
            pairs = [*_module_pairs(original, traced_module, traced_module.stand_in)]
            pairs += [(getattr(original, c), traced_module.stand_in(c)) for c in CLASSES]
        else:
            pairs = [*_module_pairs(original, traced_module)]
        _SWAPS.update((id(obj), (obj, stand_in)) for obj, stand_in in pairs)
        _LATE.remove(name)


def swap(obj: Any) -> Any:
    """What traced code sees instead of `obj`, which is `obj` itself for everything that needs no stand-in."""
    if _LATE:
        _add_late()
    entry = _SWAPS.get(id(obj))
    if entry is not None:
        return entry[1]
    return scipy_views.swap(obj)


_COMPARISONS = (np.less, np.less_equal, np.equal, np.not_equal, np.greater, np.greater_equal)


def array_ufunc(ufunc: np.ufunc, method: str, inputs: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """__array_ufunc__: a NumPy ufunc was called on a traced value."""
    stand_in = traced(ufunc)
    if stand_in is None:
        raise fail(UnsupportedError, f"the ufunc {ufunc.__name__!r} of a traced value is not supported")
    if method == "__call__":
        if ufunc in _COMPARISONS and type(inputs[0]) is np.ndarray and not inputs[0].ndim:
            # the comparison operators of NumPy's scalars pass themselves on as 0-d arrays
            inputs = (inputs[0][()], *inputs[1:])
        return stand_in(*inputs, **kwargs)
    if not isinstance(stand_in, TracedUfunc):
        raise fail(UnsupportedError, f"{ufunc.__name__}.{method} of a traced value is not supported")
    return getattr(stand_in, method)(*inputs, **kwargs)


def array_function(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """__array_function__: a NumPy function was called on a traced value."""
    stand_in = traced(function)
    if stand_in is None:
        name = f"{getattr(function, '__module__', 'numpy')}.{getattr(function, '__name__', function)}"
        raise fail(UnsupportedError, f"{name} of a traced value is not supported")
    return stand_in(*args, **kwargs)

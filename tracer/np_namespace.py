"""nf.numpy: the NumPy namespace as traced code sees it, one module object with all functions.

Outside tracing every function is NumPy's own. What NumPy has and this namespace lacks is there as a function
that calls NumPy on concrete arguments and raises UnsupportedError on traced ones.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.types import kind_of
from nufunc.tracer import (
    np_apply,
    np_calculus,
    np_convolve,
    np_creation,
    np_cumulate,
    np_decompositions,
    np_emath,
    np_extra,
    np_fft,
    np_histograms,
    np_join,
    np_linalg,
    np_misc,
    np_nan,
    np_norms,
    np_padding,
    np_poly1d,
    np_polynomial,
    np_polynomials,
    np_positions,
    np_reduce,
    np_sets,
    np_shape,
    np_solve,
    np_sorting,
    np_special_core,
    np_statistics,
    np_tapers,
    np_views,
    np_writing,
)
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import fail, has_traced, namespace_function
from nufunc.tracer.np_grids import Grid
from nufunc.tracer.np_random import RandomModule
from nufunc.tracer.np_ufuncs import UFUNCS, operator_call
from nufunc.tracer.trace import current


class Namespace(types.ModuleType):
    """A module object that falls back to a NumPy module for what it does not define."""

    def __init__(self, name: str, original: types.ModuleType, doc: str) -> None:
        super().__init__(name, doc)
        self._original = original

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._original, name)
        if self._original is np and name in GRIDS:
            return GRIDS[name]
        if callable(value) and not isinstance(value, type):
            value = unsupported(f"{self._original.__name__}.{name}", value)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._original)})


def unsupported(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's function for concrete arguments (its arrays then become constants), an error for traced
    ones.
    """

    @functools.wraps(original, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if has_traced(args) or has_traced(kwargs):
            raise fail(UnsupportedError, f"{name} of a traced value is not supported")
        return as_constants(original(*args, **kwargs))

    call.original = original  # type: ignore[attr-defined]
    call.unsupported = True  # type: ignore[attr-defined]
    return call


def as_constants(result: Any) -> Any:
    """Concrete arrays that NumPy computed while tracing, as fresh constants of the graph."""
    trace = current()
    if trace is None:
        return result
    if type(result) is np.ndarray:
        return trace.constant(result) if kind_of(result.dtype) in "biufc" else result
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*map(as_constants, result))
    if type(result) in (tuple, list):
        return type(result)(as_constants(item) for item in result)
    return result


GRIDS = {name: Grid(name, as_constants) for name in ("mgrid", "ogrid", "r_", "c_")}


class _Late(Namespace):
    """A part of NumPy that NumPy itself imports at its first use, and so do we."""

    def __init__(self, part: str, doc: str, rules: dict[str, Callable[..., Any]]) -> None:
        types.ModuleType.__init__(self, f"nufunc.numpy.{part}", doc)
        self._part, self._rules = part, rules

    def __getattr__(self, name: str) -> Any:
        if name not in self._rules:
            return super().__getattr__(name)
        made = namespace_function(self._rules[name], as_constants, getattr(self._original, name))
        setattr(self, name, made)
        return made

    @property
    def _original(self) -> types.ModuleType:  # type: ignore[override]
        original: types.ModuleType = getattr(np, self._part)
        return original


def _assign_part(x: Array, part: str, value: Any) -> None:
    """x.real = value and x.imag = value."""
    if x.dtype.kind != "c" and part == "imag":
        raise TypeError("array does not have imaginary part to set")
    getattr(np_views, part)(x)[...] = value


def _ndenumerate(arr: Any) -> Any:
    return np_views.ndenumerate(arr) if current() is not None and has_traced((arr,)) else np.ndenumerate(arr)


def _nditer(op: Any, *args: Any, **kwargs: Any) -> Any:
    """numpy.nditer of concrete arrays; a traced one has no elements yet."""
    if has_traced((op,)) or has_traced(args) or has_traced(tuple(kwargs.values())):
        raise fail(UnsupportedError, "np.nditer of a traced array; use whole arrays, np.ndindex or np.ndenumerate")
    return np.nditer(op, *args, **kwargs)


def _build() -> Namespace:
    module = Namespace("nufunc.numpy", np, "NumPy's namespace as traced code sees it.")
    rooms = (
        np_creation, np_shape, np_views, np_join, np_reduce, np_cumulate, np_misc, np_writing, np_linalg, np_extra,
        np_special_core, np_sorting, np_sets, np_statistics, np_histograms, np_nan, np_calculus, np_padding,
        np_polynomials, np_tapers, np_positions, np_apply, np_convolve,
    )  # fmt: skip
    for room in rooms:
        for function in room.FUNCTIONS:
            folds = room not in (np_creation, np_shape, np_views, np_join, np_writing, np_special_core)
            setattr(module, function.__name__, namespace_function(function, as_constants if folds else None))
    for name, ufunc in UFUNCS.items():
        setattr(module, name, ufunc)
    for alias, name in np_misc.ALIASES.items():
        if hasattr(np, alias):
            setattr(module, alias, getattr(module, name))
    linalg = Namespace("nufunc.numpy.linalg", np.linalg, "numpy.linalg as traced code sees it.")
    for function in (*np_solve.LINALG, *np_decompositions.LINALG, *np_norms.LINALG):
        setattr(linalg, function.__name__, namespace_function(function, as_constants))
    for name in ("outer", "matmul", "tensordot", "trace", "diagonal", "cross", "matrix_transpose", "vecdot"):
        setattr(linalg, name, getattr(np_linalg, f"linalg_{name}", None) or getattr(module, name))
    windows = namespace_function(np_views.sliding_window_view, original=np.lib.stride_tricks.sliding_window_view)
    module._windows = windows  # type: ignore[attr-defined]
    strided = namespace_function(np_views.as_strided, original=np.lib.stride_tricks.as_strided)
    tricks = Namespace("nufunc.numpy.lib.stride_tricks", np.lib.stride_tricks, "Views by strides in traced code.")
    tricks.sliding_window_view, tricks.as_strided = windows, strided  # type: ignore[attr-defined]
    lib = Namespace("nufunc.numpy.lib", np.lib, "numpy.lib as traced code sees it.")
    lib.stride_tricks = tricks  # type: ignore[attr-defined]
    module.lib = lib  # type: ignore[attr-defined]
    module.ndenumerate = _ndenumerate  # type: ignore[attr-defined]
    module.nditer = _nditer  # type: ignore[attr-defined]
    module.vectorize = np_apply.Vectorize  # type: ignore[attr-defined]
    module.poly1d = np_poly1d.Poly1d  # type: ignore[attr-defined]
    for function in (promotion.finfo, promotion.issubdtype, promotion.isdtype, promotion.promote_types):
        setattr(module, function.__name__, function)
    for function in (np_misc.result_type, np_misc.can_cast):  # NumPy's own know less of bfloat16
        setattr(module, function.__name__, namespace_function(function))
    for function in (np_apply.frompyfunc, np_positions.mask_indices):  # static arguments need not be NumPy's
        setattr(module, function.__name__, namespace_function(function))
    module.linalg = linalg  # type: ignore[attr-defined]
    module.fft = _Late("fft", "numpy.fft as traced code sees it.", np_fft.BY_NAME)  # type: ignore[attr-defined]
    emath = Namespace("nufunc.numpy.emath", np.emath, "numpy.emath as traced code sees it.")
    for function in np_emath.FUNCTIONS:
        name = function.__name__
        setattr(emath, name, namespace_function(function, as_constants, getattr(np.emath, name)))
    module.emath = emath  # type: ignore[attr-defined]
    polynomial = np_polynomial.Polynomials("nufunc.numpy.polynomial", "numpy.polynomial as traced code sees it.")
    module.polynomial = polynomial  # type: ignore[attr-defined]
    module.random = RandomModule("nufunc.numpy.random", "numpy.random as traced code sees it.")  # type: ignore[attr-defined]
    module._operator = operator_call  # type: ignore[attr-defined]
    module._flatten = np_shape._flatten  # type: ignore[attr-defined]
    module._assign_part = _assign_part  # type: ignore[attr-defined]
    return module


numpy = _build()

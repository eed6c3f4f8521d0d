"""The classes of numpy.polynomial in traced code: NumPy's own methods over the traced functions of each series."""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import has_traced, is_scalar
from nufunc.tracer.trace import current

CLASSES = {
    "polynomial": "Polynomial", "chebyshev": "Chebyshev", "legendre": "Legendre", "hermite": "Hermite",
    "hermite_e": "HermiteE", "laguerre": "Laguerre",
}  # fmt: skip
_LEFT_OUT = ("__dict__", "__weakref__", "__abstractmethods__", "_abc_impl", "__doc__", "__module__", "__slots__")


class Ends:
    """A domain or window: an array of two, of which classes have a default."""

    def __init__(self, name: str, default: Any) -> None:
        self.name, self.default = f"_{name}", default.tolist()

    def __get__(self, series: Any, owner: Any) -> Any:
        found = self.default if series is None else vars(series).get(self.name, self.default)
        return namespace().asarray(found) if isinstance(found, list) else found

    def __set__(self, series: Any, value: Any) -> None:
        vars(series)[self.name] = value


def base_of(tools: Any, proxy: Any) -> type:
    """What all classes share, with the traced namespace in place of NumPy's."""
    original = np.polynomial.Polynomial.__mro__[1]
    parts: dict[str, Any] = {"__doc__": original.__doc__, "__nufunc_flat__": True}
    names: dict[str, Any] = {**vars(__import__(original.__module__, fromlist=["_"])), "np": proxy, "pu": tools}

    def copied(function: types.FunctionType) -> types.FunctionType:
        made = types.FunctionType(
            function.__code__, names, function.__name__, function.__defaults__, function.__closure__
        )
        made.__kwdefaults__ = function.__kwdefaults__
        made.__doc__ = function.__doc__
        return made

    for key, value in vars(original).items():
        if key in _LEFT_OUT:
            continue
        if isinstance(value, types.FunctionType):
            parts[key] = copied(value)
        elif isinstance(value, classmethod):
            parts[key] = classmethod(copied(value.__func__))  # type: ignore[arg-type]
        elif isinstance(value, property):
            abstract = getattr(value.fget, "__isabstractmethod__", False)
            parts[key] = value if abstract else property(copied(value.fget))  # type: ignore[arg-type]
        else:
            parts[key] = value
    parts["fit"] = classmethod(_fit(tools))
    parts["line"] = lambda self: self.coef
    parts["__new__"] = _new
    parts["__mul__"], parts["__rmul__"] = _cut(parts["__mul__"]), _cut(parts["__rmul__"])
    made: type = type(original.__name__, (), parts)
    names[original.__name__] = made
    return made


def _cut(multiply: Any) -> Any:
    """Products, of which one with the number zero has one coefficient."""

    def product(self: Any, other: Any) -> Any:
        if is_scalar(other) and other == 0:
            return type(self)([0.0], self.domain, self.window, self.symbol)
        return multiply(self, other)

    return product


def mapped(tools: Any) -> Any:
    """polyutils.mapdomain, of series too."""
    original = tools.mapdomain

    def mapdomain(x: Any, old: Any, new: Any) -> Any:
        if not hasattr(type(x), "original"):
            return original(x, old, new)
        offset, scale = tools.mapparms(old, new)
        return offset + scale * x

    return mapdomain


def _new(cls: Any, coef: Any, *args: Any, **kwargs: Any) -> Any:
    """Outside of traces NumPy's own."""
    if current() is None and not has_traced((coef, args, kwargs)):
        return cls.original(coef, *args, **kwargs)
    return object.__new__(cls)


def _fit(tools: Any) -> Any:
    def fit(
        cls: Any, x: Any, y: Any, deg: Any, domain: Any = None, rcond: Any = None, full: bool = False, w: Any = None,
        window: Any = None, symbol: str = "x",
    ) -> Any:  # fmt: skip
        """Least squares; the domain is that of the points unless given."""
        if current() is None and not has_traced((x, y, domain, w)):
            return cls.original.fit(x, y, deg, domain, rcond, full, w, window, symbol)
        if domain is None:
            ends = tools.getdomain(x)
            domain = namespace().where(ends[0] == ends[1], ends + np.array([-1, 1]).tolist(), ends)
        elif isinstance(domain, list) and not domain:
            domain = cls.domain
        window = cls.window if window is None else window
        made = cls._fit(tools.mapdomain(x, domain, window), y, deg, w=w, rcond=rcond, full=full)
        coef = made[0] if full else made
        series = cls(coef, domain=domain, window=window, symbol=symbol)
        return (series, made[1]) if full else series

    return fit


def class_of(room: str, functions: dict[str, Any], base: type) -> type:
    """The class of one kind of series, over its traced functions."""
    original = getattr(np.polynomial, CLASSES[room])
    parts: dict[str, Any] = {"__doc__": original.__doc__, "original": original}
    for key, value in vars(original).items():
        if key in _LEFT_OUT:
            continue
        if key in ("domain", "window"):
            parts[key] = Ends(key, value)
            continue
        function = value.__func__ if isinstance(value, staticmethod) else None
        name = getattr(function, "__name__", "")
        if function is not None:
            own = next((n for n, f in vars(getattr(np.polynomial, room)).items() if f is function), name)
            parts[key] = staticmethod(functions.get(own, function))
        elif not isinstance(value, (types.FunctionType, classmethod, property)):
            parts[key] = value
    return type(original.__name__, (base,), parts)

"""Stand-ins for functions of Python (max, min, sum, any, all, sorted, isinstance, type, hasattr) and for math."""

from __future__ import annotations

import builtins
import functools
import math as _math
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from nufunc.ir.errors import UnsupportedError
from nufunc.ir.types import BOOL, FLOAT64, INT64
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, builder, fail, has_traced, value_of, wrap
from nufunc.tracer.np_misc import where
from nufunc.tracer.np_reduce import all as np_all
from nufunc.tracer.np_reduce import any as np_any
from nufunc.tracer.np_reduce import sum as np_sum
from nufunc.tracer.np_ufuncs import UFUNCS
from nufunc.tracer.trace import require

_MISSING = object()


def _extreme(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """max or min in Python's sense: a later value wins only where it compares as larger (smaller)."""
    compare = "greater" if name == "max" else "less"

    @functools.wraps(original)
    def call(*args: Any, key: Any = None, default: Any = _MISSING) -> Any:
        items = list(args[0]) if len(args) == 1 and not isinstance(args[0], (str, bytes)) else list(args)
        keys = items if key is None else [key(item) for item in items]
        if not has_traced(keys):
            options = {} if default is _MISSING or len(args) != 1 else {"default": default}
            return original(items, key=key, **options)
        if key is not None:
            raise fail(
                UnsupportedError, f"{name}() with a key that is traced; use np.arg{name} and index with it"
            )
        best = items[0]
        for item in items[1:]:
            test = UFUNCS[compare](item, best)
            if type(test) is Array and test.ndim:
                bool(test)  # as in Python, the truth value of an array is an error
            if type(test) is not Array:
                best = item if test else best
            else:
                best = _chosen(test, item, best)
        return best

    return call


def _chosen(test: Array, x: Any, y: Any) -> Array:
    """One of two scalars; weak if both are."""
    weak = all((v.weak if type(v) is Array else not isinstance(v, np.generic)) for v in (x, y))
    return wrap(value_of(where(test, x, y)), weak=weak)


@functools.wraps(builtins.sum)
def sum_(iterable: Iterable[Any], /, start: Any = 0) -> Any:
    if type(iterable) is Array and iterable.ndim and iterable.shape[0] > 8:
        total = np_sum(iterable, axis=0)
        return total if isinstance(start, int) and start == 0 and iterable.dtype != BOOL else start + total
    return builtins.sum(iterable, start)


def _quantifier(original: Callable[..., Any], reduce: Callable[..., Any], join: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(iterable: Iterable[Any], /) -> Any:
        if type(iterable) is Array:
            if iterable.ndim > 1:
                return original(iterable)
            return _truth(reduce(iterable))
        # Python stops at the first item that decides; one that is traced does not, so that the rest are
        # combined
        answer: Any = original is builtins.all
        for item in iterable:
            if type(item) is Array and item.known is None:
                if item.size != 1:
                    bool(item)
                test = item.reshape(()) != 0
                answer = test if type(answer) is bool else UFUNCS[join](answer, test)
            elif bool(item) is not (original is builtins.all):
                return original is not builtins.all
        return _truth(answer)

    return call


def _truth(x: Any) -> Any:
    """A traced bool as Python's own: True + True is 2."""
    return wrap(value_of(x), weak=True) if type(x) is Array else x


@functools.wraps(builtins.sorted)
def sorted_(iterable: Iterable[Any], /, *, key: Any = None, reverse: bool = False) -> Any:
    items = list(iterable)
    if has_traced(items if key is None else [key(item) for item in items]):
        raise fail(UnsupportedError, "sorted() of traced values; use np.sort or np.argsort")
    return builtins.sorted(items, key=key, reverse=reverse)


def represented_type(x: Array) -> type:
    """The type that a traced value has in the untraced program."""
    if not x.scalar:
        return np.ndarray
    if x.weak:
        return {"b": bool, "i": int, "u": int, "f": float, "c": complex}[x.dtype.kind]
    return x.dtype.type


@functools.wraps(builtins.isinstance)
def isinstance_(obj: Any, class_or_tuple: Any, /) -> bool:
    if type(obj) is not Array or class_or_tuple is Array:
        return builtins.isinstance(obj, class_or_tuple)
    return issubclass(represented_type(obj), class_or_tuple)


class _TypeOfType(type):
    """Makes `type_` answer as type does: what a traced value is, and which objects are classes."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is not type_:
            return super().__call__(*args, **kwargs)
        if len(args) != 1 or kwargs:
            return type(*args, **kwargs)
        if type(args[0]) is Array:
            return represented_type(args[0])
        found = type(args[0])
        return type_ if found in (type, _TypeOfType) else found

    def __instancecheck__(cls, obj: object) -> bool:
        return builtins.isinstance(obj, type) if cls is type_ else super().__instancecheck__(obj)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, type) if cls is type_ else super().__subclasscheck__(subclass)


class type_(type, metaclass=_TypeOfType):
    """type in traced code, so that `type(x) is np.ndarray` takes the branch of the untraced program."""


@functools.wraps(builtins.hasattr)
def hasattr_(obj: Any, name: str, /) -> bool:
    return builtins.hasattr(represented_type(obj) if type(obj) is Array else obj, name)


BUILTINS: dict[Any, Any] = {
    builtins.max: _extreme("max", builtins.max),
    builtins.min: _extreme("min", builtins.min),
    builtins.sum: sum_,
    builtins.any: _quantifier(builtins.any, np_any, "logical_or"),
    builtins.all: _quantifier(builtins.all, np_all, "logical_and"),
    builtins.sorted: sorted_,
    builtins.isinstance: isinstance_,
    builtins.type: type_,
    builtins.hasattr: hasattr_,
}


# -- math


def _scalar(x: Any) -> Any:
    """An argument of math: a float64 scalar."""
    array = as_array(x)
    if array.size != 1:
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")
    if array.dtype.kind == "c":
        raise TypeError("must be real number, not complex")
    b = builder()
    return b.astype(b.reshaped(value_of(array), ()), FLOAT64)


_OF_TWO = ("atan2", "copysign", "fmod", "pow", "nextafter", "hypot")


def _float_function(prim: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        count = 2 if prim in _OF_TWO else 1
        if len(args) != count:
            raise TypeError(f"math's {prim} expected {count} argument{'s' * (count > 1)}, got {len(args)}")
        return wrap(builder().emit(prim, [_scalar(x) for x in args])[0], weak=True)

    return call


def _int_function(prim: str) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        b = builder()
        return wrap(b.astype(b.emit(prim, (_scalar(x),))[0], INT64), weak=True)

    return call


def weak_scalar(x: Any) -> Any:
    """A result as a number of Python's."""
    return require().wrap(value_of(x), weak=True, scalar=True)


def _ufunc_function(name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        result = UFUNCS[name](*[wrap(_scalar(x)) for x in args])
        parts = result if isinstance(result, tuple) else (result,)
        weak = tuple(require().wrap(value_of(part), weak=True, scalar=True) for part in parts)
        return weak if isinstance(result, tuple) else weak[0]

    return call


def _frexp(x: Any, /) -> tuple[Any, Any]:
    mantissa, exponent = UFUNCS["frexp"](wrap(_scalar(x)))
    return weak_scalar(mantissa), weak_scalar(exponent.astype(INT64))


def _log(x: Any, base: Any = None) -> Any:
    value = _float_function("log")(x)
    return value if base is None else value / math.log(base)


def _hypot(*coordinates: Any) -> Any:
    if len(coordinates) == 2:
        return _float_function("hypot")(*coordinates)
    return _float_function("sqrt")(builtins.sum(wrap(_scalar(x)) ** 2 for x in coordinates))


def _dist(p: Any, q: Any) -> Any:
    return _hypot(*[a - b for a, b in zip(p, q, strict=True)])


def _prod(iterable: Iterable[Any], /, *, start: Any = 1) -> Any:
    return functools.reduce(lambda a, b: a * b, iterable, start)


def _whole(ufunc: str) -> Callable[..., Any]:
    """gcd or lcm of any number of ints."""

    def call(*integers: Any) -> Any:
        arrays = [as_array(x) for x in integers]
        for x in arrays:
            if x.dtype.kind not in "iu" and not (x.weak and x.dtype == BOOL):
                raise TypeError(f"'{x.dtype}' object cannot be interpreted as an integer")
        whole = [weak_scalar(x.astype(INT64)) for x in arrays]
        return functools.reduce(UFUNCS[ufunc], whole, 0 if ufunc == "gcd" else 1)

    return call


def _sumprod(p: Any, q: Any, /) -> Any:
    return sum_(a * b for a, b in zip(p, q, strict=True))


def _isclose(a: Any, b: Any, *, rel_tol: float = 1e-9, abs_tol: float = 0.0) -> Any:
    x, y = wrap(_scalar(a)), wrap(_scalar(b))
    larger = UFUNCS["maximum"](abs(x), abs(y))
    close = abs(x - y) <= UFUNCS["maximum"](rel_tol * larger, abs_tol)
    return (close & UFUNCS["isfinite"](x) & UFUNCS["isfinite"](y)) | (x == y)


_MATH: dict[str, Callable[..., Any]] = {
    **{
        name: _float_function(prim)
        for name, prim in {
            "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
            "sinh": "sinh",
            "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
            "exp": "exp",
            "exp2": "exp2", "expm1": "expm1", "log1p": "log1p", "log2": "log2", "log10": "log10",
            "sqrt": "sqrt",
            "cbrt": "cbrt", "fabs": "abs", "erf": "erf", "erfc": "erfc", "gamma": "gamma", "lgamma": "lgamma",
            "atan2": "atan2",
            "copysign": "copysign", "fmod": "fmod", "pow": "pow", "nextafter": "nextafter",
        }.items()
    },
    **{name: _int_function(name) for name in ("floor", "ceil", "trunc")},
    **{
        name: _ufunc_function(ufunc)
        for name, ufunc in {
            "degrees": "degrees", "radians": "radians", "isnan": "isnan", "isinf": "isinf",
            "isfinite": "isfinite",
            "modf": "modf",
        }.items()
    },
    "log": _log, "hypot": _hypot, "dist": _dist, "prod": _prod, "isclose": _isclose,
    "frexp": _frexp, "ldexp": lambda x, i, /: weak_scalar(UFUNCS["ldexp"](wrap(_scalar(x)), i)),
    "gcd": _whole("gcd"), "lcm": _whole("lcm"), "sumprod": _sumprod,
    "fsum": lambda seq: _float_function("abs")(0.0) + sum_(seq),
}  # fmt: skip


class MathModule(types.ModuleType):
    """The module math for traced scalars; concrete arguments go to math itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(_math, name)
        if not callable(value):
            return value
        rule = _MATH.get(name)

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not has_traced(args) and not has_traced(kwargs):
                return value(*args, **kwargs)
            if rule is None:
                raise fail(UnsupportedError, f"math.{name} of a traced value is not supported")
            return rule(*args, **kwargs)

        setattr(self, name, call)
        return call


math: Any = MathModule("math", _math.__doc__)

"""numpy.polynomial for traced values: NumPy's own Python code of its functions, run in the traced namespace.

What asks for values there, the cutting off of leading zeros and tests of ranks, is replaced: results keep the length
that the lengths of the coefficients give.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import ArgumentTypeError, ShapeError
from nufunc.ir.types import kind_of
from nufunc.tracer import np_series
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_builtins import isinstance_
from nufunc.tracer.np_core import as_array, fail, has_traced, namespace_function, result_dtype

# The rooms of the package, and the prefix of the functions of each.
ROOMS = {
    "polynomial": "poly", "chebyshev": "cheb", "legendre": "leg", "hermite": "herm", "hermite_e": "herme",
    "laguerre": "lag",
}  # fmt: skip


class _Proxy(types.SimpleNamespace):
    """A module of which some functions are replaced; the rest is the traced namespace's."""

    def __init__(self, source: Callable[[], Any], **replaced: Any) -> None:
        super().__init__(_source=source, **replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source(), name)


def common_type(*arrays: Any) -> Any:
    """numpy.common_type: the float dtype of some arrays, as a type."""
    return result_dtype(*(a.dtype if kind_of(a.dtype) in "fc" else np.dtype(float) for a in map(as_array, arrays))).type


def _trimmed(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda seq: seq if has_traced(seq) else original(seq)


def _series(alist: Sequence[Any], trim: bool = True) -> list[Array]:
    """Coefficients as lines of one float dtype."""
    arrays = [namespace().atleast_1d(as_array(a)) for a in alist]
    for a in arrays:
        if a.size == 0:
            raise fail(ShapeError, "Coefficient array is empty")
        if a.ndim != 1:
            raise fail(ShapeError, "Coefficient array is not 1-d")
    kind = common_type(*arrays)
    return [a.astype(kind) for a in arrays]


def _divided(multiply: Callable[..., Any], c1: Any, c2: Any) -> tuple[Array, Array]:
    """Quotient and remainder of series; the remainder has one coefficient less than the divisor."""
    np_ = namespace()
    rest, by = _series([c1, c2])
    n, m = rest.shape[0], by.shape[0]
    if n < m:
        return rest[:1] * 0, rest
    if m == 1:
        return rest / by[-1], rest[:1] * 0
    quotient = []
    for i in range(n - m, -1, -1):
        product = multiply(np.eye(1, i + 1, i)[0].tolist(), by)
        factor = rest[-1] / product[-1]
        rest = rest[:-1] - factor * product[:-1]
        quotient.append(factor)
    return np_.stack(quotient[::-1]), rest


def _shifted(shift: Callable[..., Any], original: Callable[..., Any], c: Any) -> Any:
    """A series times x; NumPy asks whether one of a single coefficient is zero."""
    if not has_traced(c):
        return original(c).tolist()
    (line,) = _series([c])
    if line.shape[0] > 1:
        return shift(line)
    return shift(namespace().concatenate([line, line * 0]))[:2]


def _fitted(
    vander: Callable[..., Any], x: Any, y: Any, deg: Any, rcond: Any = None, full: bool = False, w: Any = None
) -> Any:
    """Least squares over scaled columns; `deg` is static, an order or a list of the terms."""
    np_ = namespace()
    at, values = as_array(x) + 0.0, as_array(y) + 0.0
    terms = np.asarray(deg)
    if terms.ndim > 1 or terms.dtype.kind not in "iu" or not terms.size:
        raise fail(ArgumentTypeError, "deg must be an int or non-empty 1-D array of int")
    if terms.min() < 0:
        raise fail(ShapeError, "expected deg >= 0")
    if at.ndim != 1 or not at.size:
        raise fail(ArgumentTypeError, f"expected {'1D' if at.ndim != 1 else 'non-empty'} vector for x")
    if values.ndim not in (1, 2):
        raise fail(ArgumentTypeError, "expected 1D or 2D array for y")
    if at.shape[0] != values.shape[0]:
        raise fail(ArgumentTypeError, "expected x and y to have same length")
    highest, chosen = int(terms.max()), sorted(terms.ravel().tolist()) if terms.ndim else None
    left, right = vander(at, highest), values
    if chosen is not None:
        left = np_.stack([left[:, k] for k in chosen], axis=1)
    if w is not None:
        weights = as_array(w) + 0.0
        if weights.shape != at.shape:
            raise fail(ArgumentTypeError, "expected x and w to have same length")
        left = left * weights[:, None]
        right = right * (weights[:, None] if right.ndim == 2 else weights)
    scale = np_.sqrt(np_.sum(np_.abs(left) ** 2, axis=0))
    scale = np_.where(scale == 0, 1, scale).astype(scale.dtype)
    rcond = at.shape[0] * promotion.finfo(at.dtype).eps if rcond is None else rcond
    c, residuals, rank, s = np_.linalg.lstsq(left / scale, right, rcond)
    c = (c.T / scale).T
    if chosen is not None:
        none = np_.zeros(c.shape[1:], c.dtype)
        c = np_.stack([c[chosen.index(k)] if k in chosen else none for k in range(highest + 1)])
    return (c, [residuals, rank, s, rcond]) if full else c


def _copies(module: types.ModuleType, replaced: dict[str, Any]) -> dict[str, Any]:
    """The functions of a module with its names looked up in `replaced` first."""
    names: dict[str, Any] = {**vars(module), **replaced}
    for name, value in vars(module).items():
        code = getattr(value, "_implementation", value)  # behind NumPy's dispatch of some
        if isinstance(code, types.FunctionType) and code.__module__ == module.__name__ and name not in replaced:
            made = types.FunctionType(code.__code__, names, name, code.__defaults__, code.__closure__)
            made.__kwdefaults__ = code.__kwdefaults__
            names[name] = made
    return names


class Polynomials(types.ModuleType):
    """The package numpy.polynomial as traced code sees it; what it has besides functions is NumPy's."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        rooms = {cls: room for room, cls in np_series.CLASSES.items()}
        if name in rooms:
            value = getattr(getattr(self, rooms[name]), name)
        else:
            value = self._room(name) if name in ROOMS else getattr(np.polynomial, name)
        setattr(self, name, value)
        return value

    def _tools(self) -> _Proxy:
        """numpy.polynomial.polyutils, its questions about values answered."""
        if "_pu" not in vars(self):
            original = np.polynomial.polyutils
            proxy = _Proxy(namespace, common_type=common_type)
            replaced = {"np": proxy, "trimseq": _trimmed(original.trimseq), "as_series": _series, "_fit": _fitted}
            self._pu = types.SimpleNamespace(**_copies(original, replaced))
            self._pu.mapdomain = np_series.mapped(self._pu)
        return self._pu  # type: ignore[return-value]

    def _room(self, name: str) -> types.ModuleType:
        from nufunc.tracer.np_namespace import as_constants

        original = getattr(np.polynomial, name)
        proxy = _Proxy(namespace, common_type=common_type)
        la = _Proxy(lambda: namespace().linalg)
        copies = _copies(original, {"np": proxy, "pu": self._tools(), "la": la, "isinstance": isinstance_})
        prefix = ROOMS[name]
        multiply, shift = copies[f"{prefix}mul"], copies[f"{prefix}mulx"]
        copies[f"{prefix}div"] = lambda c1, c2: _divided(multiply, c1, c2)
        copies[f"{prefix}mulx"] = lambda c: _shifted(shift, getattr(original, f"{prefix}mulx"), c)
        room = types.ModuleType(f"nufunc.numpy.polynomial.{name}", original.__doc__)
        for key in vars(original):
            value = copies[key]
            if isinstance(value, types.FunctionType) and not key.startswith("_") and value is not vars(original)[key]:
                value = namespace_function(value, as_constants, vars(original)[key])
            setattr(room, key, value)
        if "_base" not in vars(self):
            self._base = np_series.base_of(self._tools(), proxy)
        setattr(room, np_series.CLASSES[name], np_series.class_of(name, copies, self._base))
        return room



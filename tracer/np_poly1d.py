"""numpy.poly1d in traced code: the polynomial of traced coefficients, the highest power first.

Leading coefficients that happen to be zero are kept, since whether they are depends on the data; those of concrete
coefficients are cut off, as in NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import as_array, fail, has_traced, is_scalar, static_int
from nufunc.tracer.trace import current


class Poly1d:
    """numpy.poly1d."""

    __nufunc_flat__ = True  # an array of its coefficients, where one is asked for
    __array_priority__ = 2000.0
    __array_ufunc__ = None  # array * polynomial is the polynomial's
    __hash__ = None  # type: ignore[assignment]
    coeffs: Array

    def __new__(cls, c_or_r: Any, r: bool = False, variable: str | None = None) -> Any:
        if current() is None and not has_traced(c_or_r) and type(c_or_r) is not Poly1d:
            return np.poly1d(c_or_r, r, variable)
        return super().__new__(cls)

    def __init__(self, c_or_r: Any, r: bool = False, variable: str | None = None) -> None:
        np_ = namespace()
        self.variable = variable or getattr(c_or_r, "variable", "x")
        if isinstance(c_or_r, (Poly1d, np.poly1d)):
            c_or_r = c_or_r.coeffs
        if has_traced(c_or_r) or isinstance(c_or_r, np.ndarray):
            made = np_.poly(c_or_r) if r else np_.atleast_1d(as_array(c_or_r))
            if made.ndim > 1:
                raise fail(ShapeError, "Polynomial must be 1d only.")
            self.coeffs = made if made.size else np_.zeros(1)
        else:
            self.coeffs = np_.asarray(np.poly1d(c_or_r, r).coeffs.copy())

    c = coef = coefficients = property(lambda self: self.coeffs)

    @property
    def order(self) -> int:
        return self.coeffs.shape[0] - 1

    o = order

    @property
    def roots(self) -> Array:
        roots: Array = namespace().roots(self.coeffs)
        return roots

    r = roots

    def line(self) -> Array:
        return self.coeffs

    def __call__(self, val: Any) -> Any:
        return namespace().polyval(self, val)

    def __len__(self) -> int:
        return self.order

    def __iter__(self) -> Iterator[Array]:
        return iter(self.coeffs)

    def __getitem__(self, power: Any) -> Any:
        index = self.order - static_int(power, "power")
        return self.coeffs[index] if 0 <= index <= self.order else self.coeffs.dtype.type(0)

    def __setitem__(self, power: Any, value: Any) -> None:
        index = self.order - static_int(power, "power")
        if not 0 <= index <= self.order:
            raise fail(UnsupportedError, "a new power of a traced np.poly1d; make a new polynomial")
        self.coeffs = self.coeffs.copy()
        self.coeffs[index] = value

    def __neg__(self) -> Poly1d:
        return Poly1d(-self.coeffs)

    def __pos__(self) -> Poly1d:
        return self

    def __add__(self, other: Any) -> Any:
        return namespace().polyadd(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return namespace().polysub(self, other)

    def __rsub__(self, other: Any) -> Any:
        return namespace().polysub(other, self)

    def __mul__(self, other: Any) -> Any:
        if is_scalar(other) or (type(other) is Array and not other.ndim):
            return Poly1d(self.coeffs * other)
        return namespace().polymul(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        if is_scalar(other) or (type(other) is Array and not other.ndim):
            return Poly1d(self.coeffs / other)
        return namespace().polydiv(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return namespace().polydiv(other, self)

    def __pow__(self, power: Any) -> Poly1d:
        count = static_int(power, "power")
        if count < 0:
            raise fail(ShapeError, "Power to non-negative integers only.")
        result = Poly1d([1])
        for _ in range(count):
            result = namespace().polymul(self, result)
        return result

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, (Poly1d, np.poly1d)) or self.order != other.order:
            return False
        return (self.coeffs == as_array(other.coeffs)).all()

    def __ne__(self, other: object) -> Any:
        same = self == other
        return not same if same is False else ~same

    def deriv(self, m: int = 1) -> Any:
        return namespace().polyder(self, m)

    def integ(self, m: int = 1, k: Any = 0) -> Any:
        return namespace().polyint(self, m, k)


def coefficients(p: Any) -> Any:
    """What a polynomial is given by."""
    return p.coeffs if isinstance(p, (Poly1d, np.poly1d)) else p


def of_polynomials(count: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function whose results are polynomials where one of its first `count` arguments is one."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if not any(isinstance(p, (Poly1d, np.poly1d)) for p in args[:count]):
                return result
            return tuple(map(Poly1d, result)) if isinstance(result, tuple) else Poly1d(result)

        return call

    return wrap

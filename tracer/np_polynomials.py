"""Polynomials by their coefficients, the highest power first: NumPy's functions poly, polyadd, polyfit and kin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import ArgumentTypeError, ShapeError
from nufunc.ir.types import is_complex
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import as_array, fail, is_scalar, result_dtype, static_int
from nufunc.tracer.np_poly1d import Poly1d, coefficients, of_polynomials
from nufunc.tracer.trace import require


def _line(p: Any) -> Array:
    return namespace().atleast_1d(as_array(coefficients(p)))


def polyval(p: Any, x: Any) -> Array:
    """numpy.polyval, by Horner's rule."""
    factors = as_array(coefficients(p))
    if isinstance(x, (Poly1d, np.poly1d)):
        composed: Any = Poly1d([0])
        for k in range(factors.shape[0]):
            composed = composed * x + factors[k]
        return composed
    at = as_array(x)
    if is_scalar(x):
        at = as_array(np.asarray(x)[()])  # as strong as an array
    result = namespace().zeros_like(at) if at.ndim else at * 0
    for k in range(factors.shape[0]):
        result = result * at + factors[k]
    return result


def _sum(a1: Any, a2: Any, sign: int) -> Array:
    np_, x, y = namespace(), _line(a1), _line(a2)
    gap = x.shape[0] - y.shape[0]
    if gap > 0:
        y = np_.concatenate([np_.zeros(gap, y.dtype), y])
    elif gap < 0:
        x = np_.concatenate([np_.zeros(-gap, x.dtype), x])
    return x + y if sign > 0 else x - y


@of_polynomials(2)
def polyadd(a1: Any, a2: Any) -> Array:
    return _sum(a1, a2, 1)


@of_polynomials(2)
def polysub(a1: Any, a2: Any) -> Array:
    return _sum(a1, a2, -1)


@of_polynomials(2)
def polymul(a1: Any, a2: Any) -> Array:
    return namespace().convolve(_line(a1), _line(a2))


@of_polynomials(2)
def polydiv(u: Any, v: Any) -> tuple[Array, Array]:
    """numpy.polydiv by synthetic division. The remainder keeps one coefficient less than v, also where leading ones
    happen to vanish, which NumPy cuts off.
    """
    np_, x, y = namespace(), _line(u) + 0.0, _line(v) + 0.0
    kind = result_dtype(x, y)
    m, n = x.shape[0] - 1, y.shape[0] - 1
    x, y = x.astype(kind), y.astype(kind)
    if m < n:
        return np_.zeros(1, kind), x
    scale, rest, quotient = 1.0 / y[0], x, []
    for _ in range(m - n + 1):
        factor = scale * rest[0]
        quotient.append(factor)
        tail = rest[1 : n + 1] - factor * y[1:]
        rest = np_.concatenate([tail, rest[n + 1 :]])
    return np_.stack(quotient), rest if n else np_.zeros(1, kind)


def _order(m: Any, what: str) -> int:
    order = static_int(m, "m")
    if order < 0:
        raise fail(ShapeError, f"Order of {what} must be {'non-negative' if what == 'derivative' else 'positive'}")
    return order


@of_polynomials(1)
def polyder(p: Any, m: int = 1) -> Array:
    x = _line(p)
    for _ in range(_order(m, "derivative")):
        n = x.shape[0] - 1
        x = x[:-1] * require().constant(np.arange(n, 0, -1))
    return x


@of_polynomials(1)
def polyint(p: Any, m: int = 1, k: Any = None) -> Array:
    """numpy.polyint with the constants of integration k."""
    np_, x, order = namespace(), _line(p), _order(m, "integral")
    constants = np_.zeros(order) if k is None else np_.atleast_1d(as_array(k))
    if constants.shape[0] == 1 and order > 1:
        constants = constants[0] * np_.ones(order)
    if constants.shape[0] < order:
        raise fail(ShapeError, "k must be a scalar or a rank-1 array of length 1 or >m.")
    for i in range(order):
        divided = x / require().constant(np.arange(x.shape[0], 0, -1))
        x = np_.concatenate([divided, constants[i : i + 1]])
    return x


def poly(seq_of_zeros: Any) -> Array:
    """numpy.poly: of zeros, or of a square matrix. Of complex zeros the coefficients stay complex, since whether they
    come in conjugate pairs depends on the data.
    """
    np_, zeros = namespace(), _line(seq_of_zeros)
    if zeros.ndim == 2 and zeros.shape[0] == zeros.shape[1] and zeros.shape[0]:
        real = not is_complex(zeros.dtype)
        result = poly(np_.linalg.eigvals(zeros))  # in conjugate pairs, of a real matrix
        return result.real if real else result
    elif zeros.ndim != 1:
        raise fail(ShapeError, "input must be 1d or non-empty square 2d array.")
    kind = np.dtype(float) if zeros.dtype.kind in "iub" or zeros.dtype.itemsize == 2 else zeros.dtype
    zeros = zeros.astype(kind)
    result = np_.ones(1, kind)
    if not zeros.shape[0]:
        return as_array(1.0)[()]
    for i in range(zeros.shape[0]):
        none = np_.zeros(1, kind)
        result = np_.concatenate([result, none]) - np_.concatenate([none, result * zeros[i]])
    return result


def roots(p: Any) -> Array:
    """numpy.roots by the eigenvalues of the companion matrix. Zero coefficients at the ends are not cut off: where the
    leading one is zero the result is not finite.
    """
    np_, x = namespace(), as_array(coefficients(p))
    if x.ndim != 1:
        raise fail(ShapeError, "Input must be a rank-1 array.")
    n = x.shape[0]
    if n < 2:
        return np_.zeros(0)
    if x.dtype.kind in "iub":
        x = x.astype(float)
    first = -x[1:] / x[0]
    return np_.linalg.eigvals(np_.concatenate([first[None], np_.eye(n - 2, n - 1, dtype=x.dtype)]))


def polyfit(
    x: Any, y: Any, deg: Any, rcond: Any = None, full: bool = False, w: Any = None, cov: Any = False
) -> Any:
    """numpy.polyfit: least squares over scaled powers."""
    np_ = namespace()
    powers = np.asarray(deg)
    if powers.ndim > 1 or powers.dtype.kind not in "ui":
        raise fail(ArgumentTypeError, "deg must be an int or non-empty 1-D array of int")
    order = static_int(deg, "deg") + 1
    at, values = as_array(x) + 0.0, as_array(y) + 0.0
    if order < 1:
        raise fail(ShapeError, "expected deg >= 0")
    if at.ndim != 1:
        raise fail(ArgumentTypeError, "expected 1D vector for x")
    if not at.size:
        raise fail(ArgumentTypeError, "expected non-empty vector for x")
    if values.ndim not in (1, 2):
        raise fail(ArgumentTypeError, "expected 1D or 2D array for y")
    if values.shape[0] != at.shape[0]:
        raise fail(ArgumentTypeError, "expected x and y to have same length")
    rcond = at.shape[0] * promotion.finfo(at.dtype).eps if rcond is None else rcond
    left, right = np_.vander(at, order), values
    if w is not None:
        weights = as_array(w) + 0.0
        if weights.ndim != 1:
            raise fail(ArgumentTypeError, "expected a 1-d array for weights")
        if weights.shape[0] != values.shape[0]:
            raise fail(ArgumentTypeError, "expected w and y to have the same length")
        left = left * weights[:, None]
        right = right * (weights[:, None] if right.ndim == 2 else weights)
    scale = np_.sqrt((left * left).sum(axis=0))
    left = left / scale
    c, residuals, rank, s = np_.linalg.lstsq(left, right, rcond)
    c = (c.T / scale).T
    if full:
        return c, residuals, rank, s, rcond
    if not cov:
        return c
    base = np_.linalg.inv(left.T @ left) / np_.outer(scale, scale)
    if isinstance(cov, str) and cov == "unscaled":
        factor: Any = 1
    else:
        if at.shape[0] <= order:
            raise fail(ShapeError, "the number of data points must exceed order to scale the covariance matrix")
        missed = right - left @ (c.T * scale).T
        factor = (missed * missed).sum(axis=0) / (at.shape[0] - order)
    return c, base * factor if values.ndim == 1 else base[:, :, None] * factor


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    polyval, polyadd, polysub, polymul, polydiv, polyder, polyint, poly, roots, polyfit,
)  # fmt: skip


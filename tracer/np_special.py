"""scipy.special for traced values: the functions that are primitives or compositions of them."""

from __future__ import annotations

import functools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

from nufunc.ir.errors import UnsupportedError
from nufunc.ir.types import FLOAT64, is_complex, is_inexact
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import (
    as_array,
    builder,
    elementwise_strides,
    fail,
    finish,
    has_traced,
    result_dtype,
    value_of,
)
from nufunc.tracer.np_misc import where
from nufunc.tracer.np_reduce import max as max_
from nufunc.tracer.np_reduce import sum as sum_
from nufunc.tracer.np_ufuncs import UFUNCS


def _float(x: Any) -> Array:
    array = as_array(x)
    if is_complex(array.dtype):
        raise fail(UnsupportedError, "this function of scipy.special with complex values")
    return array if is_inexact(array.dtype) else array.astype(FLOAT64)


def _elementwise(prim: str) -> Callable[..., Any]:
    def call(x: Any, out: Any = None) -> Any:
        array = _float(x)
        return finish(
            builder().emit(prim, (value_of(array),))[0],
            out,
            prim,
            strides=elementwise_strides(array.shape, [array]),
        )

    return call


def _scalar_like(result: Array, *operands: Any) -> Array:
    """A 0-d result of scalars as the NumPy scalar that a ufunc gives."""
    return result if result.ndim else result[()]


def xlogy(x: Any, y: Any) -> Any:
    """x * log(y), zero where x is zero (unless y is NaN)."""
    p, q = _float(x), _float(y)
    zero = (p == 0) & ~UFUNCS["isnan"](q)
    return _scalar_like(where(zero, 0.0, p * UFUNCS["log"](where(zero, 1.0, q).astype(result_dtype(p, q)))))


def xlog1py(x: Any, y: Any) -> Any:
    p, q = _float(x), _float(y)
    zero = (p == 0) & ~UFUNCS["isnan"](q)
    return _scalar_like(where(zero, 0.0, p * UFUNCS["log1p"](where(zero, 0.0, q).astype(result_dtype(p, q)))))


def entr(x: Any) -> Any:
    """-x log x; zero at zero, -inf below."""
    p = _float(x)
    safe = where(p > 0, p, 1.0).astype(p.dtype)
    value = where(p > 0, -safe * UFUNCS["log"](safe), where(p == 0, 0.0, where(p < 0, -math.inf, p)))
    return _scalar_like(value.astype(p.dtype))


def logit(x: Any) -> Any:
    p = _float(x)
    return UFUNCS["log"](p) - UFUNCS["log1p"](-p)


def log_expit(x: Any) -> Any:
    p = _float(x)
    return -UFUNCS["logaddexp"](as_array(0.0).astype(p.dtype), -p)


def softplus(x: Any) -> Any:
    p = _float(x)
    return UFUNCS["logaddexp"](as_array(0.0).astype(p.dtype), p)


def ndtr(x: Any) -> Any:
    """The normal distribution function, by erfc so that the left tail keeps its digits."""
    p = _float(x)
    return 0.5 * _elementwise("erfc")(p * -math.sqrt(0.5))


def ndtri(y: Any) -> Any:
    """The inverse of `ndtr`; both tails keep their digits."""
    p = _float(y)
    return _elementwise("erfcinv")(p + p) * -math.sqrt(2)


def _shift(a: Array, axis: Any) -> Array:
    """The maximum along `axis`, zero where it is not finite."""
    peak = max_(a, axis=axis, keepdims=True)
    return where(UFUNCS["isfinite"](peak), peak, 0.0).astype(a.dtype)


def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False
) -> Any:
    if return_sign:
        raise fail(UnsupportedError, "scipy.special.logsumexp with return_sign")
    x = _float(a)
    if b is not None:
        weights = as_array(b)
        x = UFUNCS["add"](x, weights * 0)
        shift = _shift(where(weights == 0, -math.inf, x).astype(x.dtype), axis)
        total = sum_(UFUNCS["exp"](x - shift) * weights, axis=axis, keepdims=True)
    else:
        shift = _shift(x, axis)
        total = sum_(UFUNCS["exp"](x - shift), axis=axis, keepdims=True)
    result = UFUNCS["log"](total) + shift
    if keepdims:
        return result
    return sum_(result, axis=axis)  # each reduced axis has extent one


def softmax(x: Any, axis: Any = None) -> Any:
    p = _float(x)
    e = UFUNCS["exp"](p - max_(p, axis=axis, keepdims=True))
    return e / sum_(e, axis=axis, keepdims=True)


def log_softmax(x: Any, axis: Any = None) -> Any:
    p = _float(x)
    shifted = p - _shift(p, axis)
    return shifted - UFUNCS["log"](sum_(UFUNCS["exp"](shifted), axis=axis, keepdims=True))


def rel_entr(x: Any, y: Any) -> Any:
    p, q = _float(x), _float(y)
    inside = (p > 0) & (q > 0)
    ratio = where(inside, p, 1.0) / where(inside, q, 1.0)
    value = where(inside, p * UFUNCS["log"](ratio), where((p == 0) & (q >= 0), 0.0, math.inf))
    return _scalar_like(where(UFUNCS["isnan"](p) | UFUNCS["isnan"](q), math.nan, value))


def betaln(a: Any, b: Any) -> Any:
    p, q = _float(a), _float(b)
    gammaln = _elementwise("lgamma")
    return gammaln(p) + gammaln(q) - gammaln(p + q)


SPECIAL: dict[str, Callable[..., Any]] = {
    "erf": _elementwise("erf"), "erfc": _elementwise("erfc"), "gammaln": _elementwise("lgamma"),
    "loggamma": _elementwise("lgamma"), "digamma": _elementwise("digamma"), "psi": _elementwise("digamma"),
    "expit": _elementwise("logistic"), "logit": logit, "log_expit": log_expit, "softplus": softplus,
    "erfinv": _elementwise("erfinv"), "erfcinv": _elementwise("erfcinv"), "ndtr": ndtr, "ndtri": ndtri,
    "xlogy": xlogy, "xlog1py": xlog1py, "entr": entr, "rel_entr": rel_entr, "betaln": betaln,
    "logsumexp": logsumexp, "softmax": softmax, "log_softmax": log_softmax,
    "log1p": UFUNCS["log1p"], "expm1": UFUNCS["expm1"], "exp2": UFUNCS["exp2"], "cbrt": UFUNCS["cbrt"],
}  # fmt: skip
del SPECIAL["loggamma"]  # of negative numbers NaN in SciPy, finite here


class SpecialModule(types.ModuleType):
    """The module scipy.special for traced values; concrete arguments go to scipy.special itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        import scipy.special

        value = stand_in(name, getattr(scipy.special, name))
        setattr(self, name, value)
        return value


_MADE: dict[str, Any] = {}


def stand_in(name: str, original: Any) -> Any:
    """The traced function for one of scipy.special's."""
    if not callable(original) or isinstance(original, type):
        return original
    if name in _MADE:
        return _MADE[name]
    rule = SPECIAL.get(name)

    @functools.wraps(original, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if not has_traced(args) and not has_traced(kwargs):
            from nufunc.tracer.np_namespace import as_constants

            return as_constants(original(*args, **kwargs))
        if rule is None:
            raise fail(UnsupportedError, f"scipy.special.{name} of a traced value is not supported")
        return rule(*args, **kwargs)

    _MADE[name] = call
    return call


special = SpecialModule("scipy.special", "scipy.special for traced values.")


def loaded() -> Any:
    """scipy.special, if the program has imported it (its import is not cheap)."""
    return sys.modules.get("scipy.special")

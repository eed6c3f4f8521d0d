"""scipy.special for traced values: the functions that are primitives or compositions of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError
from nufunc.ir.types import is_complex
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, fail, result_dtype
from nufunc.tracer.np_gamma import GAMMA
from nufunc.tracer.np_misc import where
from nufunc.tracer.np_reduce import max as max_
from nufunc.tracer.np_reduce import sum as sum_
from nufunc.tracer.np_special_core import elementwise, float_array, i0, i1, loop_dtype, operands, scalar_like
from nufunc.tracer.np_special_more import MORE
from nufunc.tracer.np_ufuncs import UFUNCS


def xlogy(x: Any, y: Any) -> Any:
    """x * log(y), zero where x is zero (unless y is NaN); its slope in x is log(y) there too, where that is finite."""
    (p, q), _ = operands("xlogy", x, y)
    zero = (p == 0) & ((q <= 0) | UFUNCS["isinf"](q))
    return scalar_like(where(zero, 0.0, p * UFUNCS["log"](where(zero, 1.0, q).astype(result_dtype(p, q)))))


def xlog1py(x: Any, y: Any) -> Any:
    (p, q), _ = operands("xlog1py", x, y)
    zero = (p == 0) & ((q <= -1) | UFUNCS["isinf"](q))
    return scalar_like(where(zero, 0.0, p * UFUNCS["log1p"](where(zero, 0.0, q).astype(result_dtype(p, q)))))


def entr(x: Any) -> Any:
    """-x log x; zero at zero, -inf below."""
    (p,), _ = operands("entr", x)
    safe = where(p > 0, p, 1.0).astype(p.dtype)
    at_zero = UFUNCS["sqrt"](where(p == 0, p, 1.0).astype(p.dtype))  # zero, of infinite slope as entr is there
    value = where(p > 0, -safe * UFUNCS["log"](safe), where(p == 0, at_zero, where(p < 0, -math.inf, p)))
    return scalar_like(value.astype(p.dtype))


def logit(x: Any) -> Any:
    """log(x / (1 - x)), by the inverse hyperbolic tangent around 1/2, where it vanishes."""
    p = float_array(x, "logit")
    centred = p + p - 1.0
    near = UFUNCS["abs"](centred) < 0.5
    ratio = where(near, 1.0, p / where(near, 1.0, 1.0 - p)).astype(p.dtype)
    middle = 2.0 * UFUNCS["arctanh"](where(near, centred, 0.0))
    return scalar_like(where(near, middle, UFUNCS["log"](ratio)).astype(p.dtype))


def log_expit(x: Any) -> Any:
    p = float_array(x, "log_expit")
    return -UFUNCS["logaddexp"](as_array(0.0).astype(p.dtype), -p)


def softplus(x: Any) -> Any:
    return UFUNCS["logaddexp"](0, as_array(x))


def ndtr(x: Any) -> Any:
    """The normal distribution function, by erfc so that the left tail keeps its digits."""
    p = float_array(x, "ndtr")
    return 0.5 * elementwise("erfc")(p * -math.sqrt(0.5))


def log_ndtr(x: Any) -> Any:
    """log(ndtr(x)): below -1 by erfcx, which does not vanish; else by log1p, which keeps what is small."""
    p = float_array(x, "log_ndtr")
    low = p < -1.0
    u = where(low, p * -math.sqrt(0.5), 0.0).astype(p.dtype)
    left = UFUNCS["log"](0.5 * elementwise("erfcx")(u)) - u * u
    v = where(low, 0.0, p * math.sqrt(0.5)).astype(p.dtype)
    return scalar_like(where(low, left, UFUNCS["log1p"](-0.5 * elementwise("erfc")(v))).astype(p.dtype))


def ndtri(y: Any) -> Any:
    """The inverse of `ndtr`; both tails keep their digits."""
    p = float_array(y, "ndtri")
    return elementwise("erfcinv")(p + p) * -math.sqrt(2)


def _shift(a: Array, axis: Any) -> Array:
    """The maximum along `axis`, zero where it is not finite."""
    peak = max_(a, axis=axis, keepdims=True)
    return where(UFUNCS["isfinite"](peak), peak, 0.0).astype(a.dtype)


def kl_div(x: Any, y: Any) -> Any:
    (p, q), _ = operands("kl_div", x, y)
    inside = (p > 0) & (q > 0)
    a, b = where(inside, p, 1.0), where(inside, q, 1.0)
    value = where(inside, a * UFUNCS["log"](a / b) - a + b, where((p == 0) & (q >= 0), q, math.inf))
    return scalar_like(where(UFUNCS["isnan"](p) | UFUNCS["isnan"](q), math.nan, value).astype(result_dtype(p, q)))


def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False
) -> Any:
    x = float_array(a)
    if b is not None:
        weights = as_array(b)
        x = UFUNCS["add"](x, weights * 0)
        absent = weights == 0
        x = where(absent, 0.0, x).astype(x.dtype)
        shift = _shift(where(absent, -math.inf, x).astype(x.dtype), axis)
        total = sum_(where(absent, 0.0, UFUNCS["exp"](x - shift) * weights), axis=axis, keepdims=True)
    else:
        shift = _shift(x, axis)
        total = sum_(UFUNCS["exp"](x - shift), axis=axis, keepdims=True)
    sign = None
    if return_sign:
        sign, total = UFUNCS["sign"](total), UFUNCS["abs"](total)
    result = UFUNCS["log"](total) + shift
    if not keepdims:  # each reduced axis has extent one
        result, sign = sum_(result, axis=axis), None if sign is None else sum_(sign, axis=axis)
    return result if sign is None else (result, sign)


def softmax(x: Any, axis: Any = None) -> Any:
    p = as_array(x)
    if p.dtype == np.bool:
        raise fail(DTypeError, "numpy boolean subtract, the `-` operator, is not supported, so nor is softmax of bools")
    e = UFUNCS["exp"](p - max_(p, axis=axis, keepdims=True))
    return e / sum_(e, axis=axis, keepdims=True)


def log_softmax(x: Any, axis: Any = None) -> Any:
    p = as_array(x)
    if p.dtype == np.bool:
        raise fail(DTypeError, "numpy boolean subtract, the `-` operator, is not supported, nor log_softmax of bools")
    shifted = p - _shift(p, axis)
    return shifted - UFUNCS["log"](sum_(UFUNCS["exp"](shifted), axis=axis, keepdims=True))


def rel_entr(x: Any, y: Any) -> Any:
    (p, q), kind = operands("rel_entr", x, y)
    inside = (p > 0) & (q > 0)
    ratio = where(inside, p, 1.0) / where(inside, q, 1.0)
    value = where(inside, p * UFUNCS["log"](ratio), where((p == 0) & (q >= 0), 0.0, math.inf))
    return scalar_like(where(UFUNCS["isnan"](p) | UFUNCS["isnan"](q), math.nan, value).astype(kind))


def _numpys(name: str) -> Callable[..., Any]:
    """A ufunc that NumPy has too, in SciPy's dtypes."""

    def call(x: Any, *out: Any, **keywords: Any) -> Any:
        array = as_array(x)
        kind = loop_dtype(name, [array])
        return UFUNCS[name](x if array.weak or is_complex(array.dtype) else array.astype(kind), *out, **keywords)

    return call


SPECIAL: dict[str, Callable[..., Any]] = {
    **GAMMA, **MORE,
    "erf": elementwise("erf"), "erfc": elementwise("erfc"), "erfcx": elementwise("erfcx"),
    "i0": i0, "i1": i1,
    "i0e": elementwise("i0e"), "i1e": elementwise("i1e"),
    "expit": elementwise("logistic"), "logit": logit, "log_expit": log_expit, "softplus": softplus,
    "erfinv": elementwise("erfinv"), "erfcinv": elementwise("erfcinv"), "ndtr": ndtr, "ndtri": ndtri,
    "xlogy": xlogy, "xlog1py": xlog1py, "entr": entr, "rel_entr": rel_entr, "kl_div": kl_div, "log_ndtr": log_ndtr,
    "logsumexp": logsumexp, "softmax": softmax, "log_softmax": log_softmax,
    **{name: _numpys(name) for name in ("log1p", "expm1", "exp2", "cbrt")},
}  # fmt: skip

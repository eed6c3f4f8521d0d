"""What the functions of scipy.special share: conversion of operands to floats, and calls of one primitive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import DTypeError, UnsupportedError
from nufunc.ir.prims.scipy_special import RULES, WHOLE
from nufunc.ir.types import FLOAT32, FLOAT64, is_complex, is_half, is_inexact
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    elementwise_strides,
    fail,
    finish,
    value_of,
    weak_type,
    wrap,
)
from nufunc.tracer.np_ufuncs import UFUNCS, _masked

_NAMES = {"lgamma": "gammaln", "digamma": "psi", "logistic": "expit"}  # SciPy's, of primitives


def float_array(x: Any, name: str = "") -> Array:
    """An operand as floats, in the dtype that SciPy's ufunc of that name computes in; those of Python stay weak."""
    array = as_array(x)
    if is_complex(array.dtype):
        loop_dtype(name, [array])  # which raises where SciPy has no loop either
        raise fail(UnsupportedError, f"{f'scipy.special.{name}' if name else 'this function'} of complex values")
    if array.weak:
        return wrap(builder().astype(value_of(array), FLOAT64), weak=True)
    if name and not array.weak:
        return array.astype(loop_dtype(name, [array]))
    if is_half(array.dtype):
        return array.astype(FLOAT32)
    return array if is_inexact(array.dtype) else array.astype(FLOAT64)


def loop_dtype(name: str, arrays: Sequence[Array]) -> np.dtype:
    """float32 or float64: the loop that the ufunc of scipy.special takes for these operands. Most take float64 unless
    all operands are float32."""
    ufunc = getattr(sys.modules.get("scipy.special"), name, None)
    if isinstance(ufunc, np.ufunc) and ufunc.nin == len(arrays):
        try:
            found = promotion.resolve_dtypes(ufunc, (*map(weak_type, arrays), *(None,) * ufunc.nout))[-1]
        except TypeError as error:
            raise fail(DTypeError, f"scipy.special.{name}: {error}") from None
        if found in (FLOAT32, FLOAT64):
            return found
    strong = [a.dtype for a in arrays if not a.weak]
    return FLOAT32 if strong and all(kind == FLOAT32 for kind in strong) else FLOAT64


def takes_whole(name: str, arrays: Sequence[Array]) -> bool:
    """Whether the ufunc of scipy.special takes a loop whose first operand is a whole number."""
    ufunc = getattr(sys.modules["scipy.special"], name)
    return bool(ufunc.resolve_dtypes((*map(weak_type, arrays), *(None,) * ufunc.nout))[0].kind in "iu")


def operands(name: str, *xs: Any) -> tuple[list[Array], np.dtype]:
    """Operands of a ufunc of SciPy in the dtype that it computes in."""
    kind = loop_dtype(name, [as_array(x) for x in xs])
    return [float_array(x).astype(kind) for x in xs], kind


def elementwise_of(prim: str, **attrs: Any) -> Callable[..., Any]:
    """A primitive on operands that broadcast and promote, with a ufunc's out= and where=."""
    name = attrs.get("function", _NAMES.get(prim, prim)).partition(".")[0]

    def call(*operands: Any, out: Any = None, where: Any = True, **keywords: Any) -> Any:
        if keywords:
            known = keywords.keys() <= {"casting", "order", "dtype", "subok", "signature", "sig"}
            message = f"scipy.special.{name} with {', '.join(sorted(keywords))}"
            raise fail(UnsupportedError if known else DTypeError, message)
        ufunc = getattr(sys.modules.get("scipy.special"), name, None)
        if isinstance(ufunc, np.ufunc) and ufunc.nout == 1 and len(operands) == ufunc.nin + 1:
            operands, out = operands[:-1], operands[-1]
        arrays = [as_array(x) for x in operands]
        if isinstance(ufunc, np.ufunc) and len(operands) != ufunc.nin:
            raise fail(DTypeError, f"scipy.special.{name} takes {ufunc.nin} operands, not {len(operands)}")
        if any(is_complex(x.dtype) for x in arrays):
            loop_dtype(name, arrays)  # which raises where SciPy has no loop either
            raise fail(UnsupportedError, f"scipy.special.{name} of complex values")
        dtype, b = loop_dtype(name, arrays), builder()
        shape = broadcast_shapes(*(x.shape for x in arrays))
        values = [b.broadcast_to(b.astype(value_of(x), dtype), shape) for x in arrays]
        strides = elementwise_strides(shape, arrays)
        form = {"function": name + WHOLE} if name + WHOLE in RULES and takes_whole(name, arrays) else attrs
        value = b.emit(prim, values, form)[0]
        if where is not True:
            value = _masked(b, value, where, out)
        return finish(value, out, name, strides=strides)

    return call


elementwise = elementwise_of


def scalar_like(result: Array, *operands: Any) -> Array:
    """A 0-d result of scalars as the NumPy scalar that a ufunc gives."""
    return result if result.ndim else result[()]


def _bessel(scaled: str, x: Any, name: str) -> Any:
    """A modified Bessel function from its scaled one, in two factors, so that it overflows no earlier."""
    p = float_array(x, name)
    half = UFUNCS["exp"](UFUNCS["abs"](p) * 0.5)
    return elementwise(scaled)(p) * half * half


def i0(x: Any) -> Any:
    return _bessel("i0e", x, "i0")


def i1(x: Any) -> Any:
    return _bessel("i1e", x, "i1")


def numpy_i0(x: Any) -> Any:
    """numpy.i0: a 0-d result is an array."""
    result = i0(x)
    return result if result.ndim else wrap(value_of(result), scalar=False)


numpy_i0.__name__ = "i0"
FUNCTIONS: tuple[Callable[..., Any], ...] = (numpy_i0,)

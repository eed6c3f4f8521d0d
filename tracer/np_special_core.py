"""What the functions of scipy.special share: conversion of operands to floats, and calls of one primitive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nufunc.ir.errors import UnsupportedError
from nufunc.ir.types import FLOAT64, is_complex, is_inexact
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    elementwise_strides,
    fail,
    finish,
    result_dtype,
    value_of,
    wrap,
)
from nufunc.tracer.np_ufuncs import UFUNCS


def float_array(x: Any) -> Array:
    array = as_array(x)
    if is_complex(array.dtype):
        raise fail(UnsupportedError, "this function of scipy.special with complex values")
    return array if is_inexact(array.dtype) else array.astype(FLOAT64)


def elementwise(prim: str) -> Callable[..., Any]:
    def call(x: Any, out: Any = None) -> Any:
        array = float_array(x)
        return finish(
            builder().emit(prim, (value_of(array),))[0],
            out,
            prim,
            strides=elementwise_strides(array.shape, [array]),
        )

    return call


def elementwise_of(prim: str) -> Callable[..., Any]:
    """A primitive of several operands, which broadcast and promote."""

    def call(*operands: Any) -> Any:
        arrays = [float_array(x) for x in operands]
        dtype, b = result_dtype(*arrays), builder()
        shape = broadcast_shapes(*(x.shape for x in arrays))
        values = [b.broadcast_to(b.astype(value_of(x), dtype), shape) for x in arrays]
        strides = elementwise_strides(shape, arrays)
        return finish(b.emit(prim, values)[0], None, prim, strides=strides)

    return call


def scalar_like(result: Array, *operands: Any) -> Array:
    """A 0-d result of scalars as the NumPy scalar that a ufunc gives."""
    return result if result.ndim else result[()]


def _bessel(scaled: str, x: Any) -> Any:
    """A modified Bessel function from its scaled one, in two factors, so that it overflows no earlier."""
    p = float_array(x)
    half = UFUNCS["exp"](UFUNCS["abs"](p) * 0.5)
    return elementwise(scaled)(p) * half * half


def i0(x: Any) -> Any:
    return _bessel("i0e", x)


def i1(x: Any) -> Any:
    return _bessel("i1e", x)


def numpy_i0(x: Any) -> Any:
    """numpy.i0: a 0-d result is an array."""
    result = i0(x)
    return result if result.ndim else wrap(value_of(result), scalar=type(x) is not Array or x.scalar)


numpy_i0.__name__ = "i0"
FUNCTIONS: tuple[Callable[..., Any], ...] = (numpy_i0,)

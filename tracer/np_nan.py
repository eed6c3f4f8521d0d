"""Reductions and cumulations that take NaN for a missing value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.types import INT64, is_complex, is_inexact
from nufunc.tracer import np_cumulate, np_reduce
from nufunc.tracer.array import Array
from nufunc.tracer.array_operators import namespace
from nufunc.tracer.np_core import as_array, builder, finish, normal_axis, value_of, wrap
from nufunc.tracer.np_misc import where as choose
from nufunc.tracer.np_reduce import NO_VALUE, exact_out, given, mask_of, masked
from nufunc.tracer.np_ufuncs import UFUNCS


def _without_nan(a: Any, fill: Any, where: Any = NO_VALUE) -> tuple[Array, Any]:
    """The array with NaN replaced, and where there was none (and `where` holds)."""
    x = as_array(a)
    if not is_inexact(x.dtype):
        return x, where
    missing = UFUNCS["isnan"](x)
    present = ~missing
    if masked(where):
        present = present & mask_of(where)
    return choose(missing, x.dtype.type(fill), x), present


def nansum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = NO_VALUE, initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
) -> Array:  # fmt: skip
    return np_reduce.sum(_without_nan(a, 0)[0], axis, dtype, out, keepdims, initial, where)


def nanprod(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = NO_VALUE, initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
) -> Array:  # fmt: skip
    return np_reduce.prod(_without_nan(a, 1)[0], axis, dtype, out, keepdims, initial, where)


def nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = NO_VALUE, *, where: Any = NO_VALUE
) -> Array:
    x, present = _without_nan(a, 0, where)
    return np_reduce.mean(x, axis, dtype, out, keepdims, where=present)


def nanvar(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = NO_VALUE, *,
    where: Any = NO_VALUE, mean: Any = NO_VALUE, correction: Any = NO_VALUE,
) -> Array:  # fmt: skip
    x, present = _without_nan(a, 0, where)
    degrees = correction if given(correction) else ddof
    result = np_reduce.var(x, axis, dtype, None, degrees, keepdims, where=present, mean=mean)
    if given(present) and present is not True:  # as many degrees of freedom as values, or fewer: no variance
        count = np_reduce.sum(namespace().broadcast_to(present, x.shape), axis, dtype=INT64, keepdims=keepdims)
        result = choose(count - degrees > 0, result, result.dtype.type(np.nan))
        result = result if result.ndim else result[()]
    return result if out is None else finish(value_of(result), out, "nanvar")




def nanstd(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = NO_VALUE, *,
    where: Any = NO_VALUE, mean: Any = NO_VALUE, correction: Any = NO_VALUE,
) -> Array:  # fmt: skip
    spread = nanvar(a, axis, dtype, None, ddof, keepdims, where=where, mean=mean, correction=correction)
    exact_out(value_of(spread), out, "add")
    return finish(builder().sqrt(value_of(spread)), out, "nanstd", scalar=spread.scalar, strides=spread.strides_)


def _extreme(
    a: Any, axis: Any, out: Any, keepdims: Any, initial: Any, where: Any, sign: int
) -> Array:
    """The largest or smallest number; NaN where there is none."""
    reduce = np_reduce.max if sign > 0 else np_reduce.min
    x = as_array(a)
    if not is_inexact(x.dtype):
        return reduce(x, axis, out, keepdims, initial, where)
    fill = complex(-sign * np.inf, -sign * np.inf) if is_complex(x.dtype) else -sign * np.inf
    filled, present = _without_nan(x, fill, where)
    result = reduce(filled, axis, None, keepdims, initial, where)
    found = np_reduce.any(present, axis, keepdims=keepdims)
    if given(initial):
        found = found | True
    chosen = choose(found, result, x.dtype.type(np.nan))
    chosen = chosen if chosen.ndim else chosen[()]
    exact_out(value_of(chosen), out, "fmax" if sign > 0 else "fmin")
    return chosen if out is None else finish(value_of(chosen), out, "nanmax" if sign > 0 else "nanmin")


def nanmax(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = NO_VALUE, initial: Any = NO_VALUE, where: Any = NO_VALUE
) -> Array:
    return _extreme(a, axis, out, keepdims, initial, where, 1)


def nanmin(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = NO_VALUE, initial: Any = NO_VALUE, where: Any = NO_VALUE
) -> Array:
    return _extreme(a, axis, out, keepdims, initial, where, -1)


def _place(a: Any, axis: Any, out: Any, keepdims: Any, sign: int) -> Array:
    """Where the extreme stands; a line without a number is an IndexError when the program runs."""
    np_, x = namespace(), as_array(a)
    axis = None if not x.ndim and axis in (0, -1) else axis
    find = np_.argmax if sign > 0 else np_.argmin
    if not is_inexact(x.dtype):
        return find(x, axis, out, keepdims=keepdims)
    filled, present = _without_nan(x, -sign * np.inf)
    index = find(filled, axis, keepdims=True)
    found = np_reduce.any(present, axis, keepdims=True)
    b = builder()
    extent = x.size if axis is None else x.shape[normal_axis(axis, x.ndim)]
    checked = np_.where(found, index, extent)
    places = b.iota(shape=(extent,), dtype=INT64, axis=0)
    result = wrap(b.gather(places, value_of(checked), axes=(0,), mode="error"), scalar=False)
    if not keepdims or keepdims is NO_VALUE:
        result = result.reshape(()) if axis is None else np_.squeeze(result, normal_axis(axis, x.ndim))
    return finish(value_of(result), out, "nanargmax" if sign > 0 else "nanargmin")


def nanargmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = NO_VALUE) -> Array:
    return _place(a, axis, out, keepdims, 1)


def nanargmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = NO_VALUE) -> Array:
    return _place(a, axis, out, keepdims, -1)


def nancumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Array:
    return np_cumulate.cumsum(_without_nan(a, 0)[0], axis, dtype, out)


def nancumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Array:
    return np_cumulate.cumprod(_without_nan(a, 1)[0], axis, dtype, out)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    nansum, nanprod, nanmean, nanvar, nanstd, nanmax, nanmin, nanargmax, nanargmin, nancumsum, nancumprod,
)  # fmt: skip

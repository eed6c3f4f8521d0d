"""Selecting, clipping, rounding, comparing, taking: functions that fit no other theme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import BoundsError, DTypeError, ShapeError, UnsupportedError
from nufunc.ir.types import BOOL, INT64, is_complex, is_inexact
from nufunc.tracer.array import Array
from nufunc.tracer.layout import ordered
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    elementwise_strides,
    fail,
    finish,
    is_scalar,
    normal_axis,
    operand_value,
    out_of,
    result_dtype,
    value_of,
    wrap,
)
from nufunc.tracer.np_ufuncs import UFUNCS
from nufunc.tracer.trace import require


def where(condition: Any, x: Any = None, y: Any = None, /, *, size: Any = None, fill_value: Any = None) -> Any:
    """numpy.where; of one argument it is nonzero."""
    if x is None and y is None:
        from nufunc.tracer.np_sorting import needs_size, nonzero

        if size is None:
            raise needs_size("where")
        return nonzero(condition, size=size, fill_value=fill_value)
    if x is None or y is None:
        raise ValueError("either both or neither of x and y should be given")
    operands = [v if is_scalar(v) else as_array(v) for v in (x, y)]
    kind = result_dtype(*operands)
    test = as_array(condition)
    shape = broadcast_shapes(test.shape, *[v.shape if type(v) is Array else () for v in operands])
    trace = require()
    b = trace.b
    mask = b.broadcast_to(b.astype(trace.lift(test), BOOL), shape)
    values = [operand_value(b, trace, v, kind, shape) for v in operands]
    return wrap(b.select(mask, *values), scalar=False, strides=elementwise_strides(shape, [test, *operands]))


def clip(
    a: Any,
    a_min: Any = np._NoValue,
    a_max: Any = np._NoValue,
    out: Any = None,
    *,
    min: Any = np._NoValue,
    max: Any = np._NoValue,
    **kwargs: Any,
) -> Any:
    """numpy.clip; None leaves a side open."""
    if a_min is np._NoValue and a_max is np._NoValue:
        low, high = (None if v is np._NoValue else v for v in (min, max))
    elif a_min is np._NoValue or a_max is np._NoValue:
        missing = "a_min" if a_min is np._NoValue else "a_max"
        raise fail(DTypeError, f"clip() missing 1 required positional argument: {missing!r}")
    elif min is not np._NoValue or max is not np._NoValue:
        raise fail(ShapeError, "Passing `min` or `max` when `a_min` and `a_max` are provided is forbidden.")
    else:
        low, high = a_min, a_max
    x = as_array(a)
    dtype = kwargs.pop("dtype", None)
    if x.dtype.kind in "iu":
        low, high = _open_bound(low, x.dtype, True), _open_bound(high, x.dtype, False)
    if low is None and high is None:
        return UFUNCS["positive"](x, out=out, dtype=dtype, **kwargs)
    if high is None:
        return UFUNCS["maximum"](x, low, out=out, dtype=dtype, **kwargs)
    if low is None:
        return UFUNCS["minimum"](x, high, out=out, dtype=dtype, **kwargs)
    kind = dtype or result_dtype(x, *[v if is_scalar(v) else as_array(v) for v in (low, high)])
    raised = UFUNCS["maximum"](x, low, dtype=kind, **{k: v for k, v in kwargs.items() if k != "where"})
    return UFUNCS["minimum"](raised, high, dtype=kind, out=out, **kwargs)


def _open_bound(bound: Any, dtype: np.dtype, low: bool) -> Any:
    """A Python int beyond the dtype's range on the open side does not bound at all."""
    if isinstance(bound, int) and not isinstance(bound, bool):
        info = np.iinfo(dtype)
        if (low and bound < info.min) or (not low and bound > info.max):
            return None
    return bound


def round(a: Any, decimals: int = 0, out: Any = None) -> Any:
    """numpy.round: scaled by ten to the decimals, to even at halves, as NumPy computes it."""
    x = as_array(a)
    if x.dtype.kind in "iu":
        if decimals >= 0:
            return UFUNCS["positive"](x, out=out)
        scale = 10.0**-decimals
        rounded = UFUNCS["multiply"](UFUNCS["rint"](UFUNCS["divide"](x, scale)), scale)
        return finish(builder().astype(value_of(rounded), x.dtype), out, "round", scalar=x.scalar)
    if decimals == 0:
        return UFUNCS["rint"](x, out=out)
    if x.dtype == BOOL:
        raise fail(DTypeError, "Cannot cast ufunc 'multiply' output from dtype('float64') to dtype('bool') of np.round")
    scale = 10.0 ** abs(decimals)
    first, last = ("multiply", "divide") if decimals > 0 else ("divide", "multiply")
    result = UFUNCS[last](UFUNCS["rint"](UFUNCS[first](x, scale)), scale, out=out)
    if out is None and not result.scalar:
        result.strides_ = ordered(x.shape, x.strides_, "A")
    return result


def fix(x: Any, out: Any = None) -> Any:
    return UFUNCS["trunc"](x, out=out)


# -- complex parts


def angle(z: Any, deg: bool = False) -> Any:
    x = as_array(z)
    result = UFUNCS["arctan2"](x.imag, x.real) if is_complex(x.dtype) else UFUNCS["arctan2"](0, x)
    return result * (180 / np.pi) if deg else result


def iscomplexobj(x: Any) -> bool:
    return as_array(x).dtype.kind == "c"


def isrealobj(x: Any) -> bool:
    return not iscomplexobj(x)


def iscomplex(x: Any) -> Any:
    return as_array(x).imag != 0


def isreal(x: Any) -> Any:
    return as_array(x).imag == 0


# -- elementwise compositions


def sinc(x: Any) -> Any:
    scaled = as_array(x) * np.pi
    safe = where(scaled == 0, 1.0, scaled)
    return _as_scalar(where(scaled == 0, 1.0, UFUNCS["sin"](safe) / safe))


def _as_scalar(x: Array) -> Array:
    """A 0-d result as the NumPy scalar that a ufunc would give."""
    return x if x.ndim else x[()]


def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    source = as_array(x)
    if not is_inexact(source.dtype):
        return source.copy() if copy else source
    if is_complex(source.dtype):
        real, imag = (nan_to_num(part, True, nan, posinf, neginf) for part in (source.real, source.imag))
        made = _complex(real, imag, source)
        if not copy and not source.scalar:
            source[...] = made
            return source
        return made
    info = promotion.finfo(source.dtype)
    result = where(UFUNCS["isnan"](source), nan, source)
    result = where(source == np.inf, info.max if posinf is None else posinf, result)
    result = where(source == -np.inf, info.min if neginf is None else neginf, result).astype(source.dtype)
    if not copy and not source.scalar:
        source[...] = result
        return source
    if source.scalar:
        return _as_scalar(result)
    result.strides_ = ordered(source.shape, source.strides_, "K")
    return result


def _complex(real: Array, imag: Array, source: Array) -> Array:
    """A complex array in the memory order of another."""
    value = builder().complex(value_of(real), value_of(imag))
    return wrap(value, scalar=source.scalar, strides=elementwise_strides(source.shape, [source]))


def isposinf(x: Any, out: Any = None) -> Any:
    return UFUNCS["logical_and"](UFUNCS["isinf"](x), ~UFUNCS["signbit"](x), out)


def isneginf(x: Any, out: Any = None) -> Any:
    return UFUNCS["logical_and"](UFUNCS["isinf"](x), UFUNCS["signbit"](x), out)


def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Any:
    if len(condlist) != len(choicelist):
        raise fail(ShapeError, "list of cases must be same length as list of conditions")
    result: Any = default
    for place, condition in enumerate(condlist):
        if as_array(condition).dtype != BOOL:
            raise fail(DTypeError, f"invalid entry {place} in condlist: should be boolean ndarray")
    for condition, choice in reversed(list(zip(condlist, choicelist))):
        result = where(condition, choice, result)
    if type(result) is Array:
        result.strides_ = None
    return result


def isclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Any:
    x, y = as_array(a), as_array(b)
    if not is_inexact(y.dtype):
        y = y * 1.0
    near = UFUNCS["absolute"](x - y) <= atol + rtol * UFUNCS["absolute"](y)
    near = (near & UFUNCS["isfinite"](y)) | (x == y)
    return near | (UFUNCS["isnan"](x) & UFUNCS["isnan"](y)) if equal_nan else near


def allclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Any:
    from nufunc.tracer.np_reduce import all as all_

    return all_(isclose(a, b, rtol, atol, equal_nan))


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    from nufunc.tracer.np_reduce import all as all_

    x, y = as_array(a1), as_array(a2)
    if x.shape != y.shape:
        return False
    same = x == y
    if equal_nan and is_inexact(x.dtype):
        same = same | (UFUNCS["isnan"](x) & UFUNCS["isnan"](y))
    return all_(same)


def array_equiv(a1: Any, a2: Any) -> Any:
    from nufunc.tracer.np_reduce import all as all_

    x, y = as_array(a1), as_array(a2)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return False
    return all_(x == y)


# -- taking


def clipped_index(indices: Any, extent: int, mode: str) -> Any:
    """Indices of np.take, np.put and np.choose by their mode: what is outside is wrapped, clipped, or left to raise."""
    index = (
        as_array(indices)
        if not isinstance(indices, (list, tuple)) or len(indices)
        else require().constant(np.zeros(0, int))
    )
    if index.dtype.kind not in "iub":
        raise fail(
            DTypeError, f"Cannot cast indices from {index.dtype!r} to int64 according to the rule 'safe'"
        )
    index = index.astype(INT64)
    if mode == "wrap":
        return index % extent
    if mode == "clip":
        return UFUNCS["minimum"](UFUNCS["maximum"](index, 0), extent - 1)
    if mode != "raise":
        raise fail(ShapeError, f"mode must be 'raise', 'wrap' or 'clip', not {mode!r}")
    return index


def take(a: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Any:
    x = as_array(a)
    if axis is None or (not x.ndim and axis in (0, -1)):
        x, axis = x.ravel(), 0
    axis = normal_axis(axis, x.ndim)
    index = clipped_index(indices, x.shape[axis], mode)
    shape = index.shape
    if x.shape[axis] == 0 and index.size:
        raise fail(BoundsError, "cannot do a non-empty take from an empty axes.")
    flat = index.reshape(-1) if index.ndim != 1 else index
    chosen = x[(slice(None),) * axis + (flat,)]
    value = builder().reshaped(value_of(chosen), x.shape[:axis] + shape + x.shape[axis + 1 :])
    target = out_of(out)
    if target is not None and not isinstance(target, (Array, np.ndarray)):
        raise fail(DTypeError, "output must be an array")
    if target is not None and not promotion.can_cast(target.dtype, value.dtype, "safe"):  # NumPy reads it too
        raise fail(
            DTypeError, f"Cannot cast array data from {target.dtype!r} to {value.dtype!r} according to the rule 'safe'"
        )
    return finish(value, out, "take")


def take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
    x, index = as_array(arr), as_array(indices)
    if axis is None:
        x, axis = x.ravel(), 0
    axis = normal_axis(axis, x.ndim)
    return x[along_key(x, index, axis)]


def along_key(x: Array, index: Array, axis: int) -> tuple[Any, ...]:
    """The key of take_along_axis and put_along_axis."""
    if index.dtype.kind not in "iu":
        raise fail(BoundsError, "`indices` must be an integer array")
    if index.ndim != x.ndim:
        raise fail(ShapeError, "`indices` and `arr` must have the same number of dimensions")
    key = []
    for i, extent in enumerate(x.shape):
        place = (1,) * i + (-1,) + (1,) * (x.ndim - i - 1)
        key.append(index if i == axis else require().constant(np.arange(extent).reshape(place)))
    return tuple(key)


def isscalar(element: Any) -> bool:
    return element.scalar if type(element) is Array else np.isscalar(element)


def can_cast(from_: Any, to: Any, casting: str = "safe") -> bool:
    return promotion.can_cast(from_.dtype if type(from_) is Array else from_, to, casting)


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    return result_dtype(
        *[x if type(x) is Array or is_scalar(x) else np.result_type(x) for x in arrays_and_dtypes]
    )


def shares_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    if type(a) is Array and type(b) is Array and a.root is not b.root:
        return False
    if a is b:
        return bool(a.size)
    raise fail(UnsupportedError, "np.shares_memory of views of one traced array")


def may_share_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return shares_memory(a, b, max_work)


def isfortran(a: Any) -> bool:
    flags = as_array(a).flags
    return flags.f_contiguous and not flags.c_contiguous


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    isposinf, isneginf,
    where, clip, round, fix, angle, iscomplexobj, isrealobj,
    iscomplex, isreal,
    sinc, nan_to_num, select, isclose, allclose, array_equal, array_equiv, take, take_along_axis,
    isscalar, can_cast, result_type, shares_memory, may_share_memory, isfortran,
)  # fmt: skip

ALIASES = {"around": "round", "amax": "max", "amin": "min", "row_stack": "vstack", "trapz": "trapezoid"}

__all__ = ["ALIASES", "FUNCTIONS", "out_of"]

"""What every function of the traced NumPy namespace needs: operands, promotion, broadcasting, axes, calling
a ufunc.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.builder import Builder
from nufunc.ir.errors import BoundsError, DTypeError, NufuncError, ShapeError, TraceError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import FLOAT64, INT64, ArrayType, dtype_name, is_float, is_supported
from nufunc.tracer.array import Array
from nufunc.tracer.layout import Strides, broadcast_strides, result_strides
from nufunc.tracer.np_checks import check, checks_of
from nufunc.tracer.trace import Trace, current, require
from nufunc.tracer.usercode import user_location

Scalar = bool | int | float | complex | np.generic
PYTHON_SCALARS = (bool, int, float, complex)


class AxisError(ShapeError, np.exceptions.AxisError):
    """An axis that an array does not have: NumPy's AxisError, so both ValueError and IndexError."""


def fail(kind: type[NufuncError], message: str) -> NufuncError:
    """An error of this kind that names the user's line; to be raised."""
    return kind(message, user_location())


# -- operands


def is_scalar(x: Any) -> bool:
    """A concrete Python or NumPy scalar."""
    return isinstance(x, (*PYTHON_SCALARS, np.generic))


def has_traced(x: Any) -> bool:
    """Whether a traced value stands in `x`, nested lists, tuples and dicts included."""
    if type(x) is Array or hasattr(type(x), "__nufunc_selection__") or hasattr(type(x), "__nufunc_flat__"):
        return True
    if isinstance(x, (list, tuple)):
        return any(has_traced(item) for item in x)
    if isinstance(x, dict):
        return any(has_traced(item) for item in x.values())
    return False


def as_array(x: Any) -> Array:
    """An operand as an Array: scalars keep their weakness, lists are stacked, raw arrays meet the trace's
    policy.
    """
    if type(x) is Array:
        return x
    trace = require()
    if is_scalar(x):
        return trace.scalar(x)
    if isinstance(x, (list, tuple, range)):
        from nufunc.tracer.np_creation import array

        return array(x)
    if isinstance(x, np.ndarray):
        if isinstance(x, (np.ma.MaskedArray, np.matrix)):
            raise fail(UnsupportedError, f"{type(x).__name__} cannot be traced; use a plain ndarray")
        return trace.on_ndarray(x)
    if hasattr(type(x), "__nufunc_flat__"):  # x.flat
        return x.line()
    if hasattr(x, "__array__"):
        return trace.on_ndarray(np.asarray(x))
    raise fail(DTypeError, f"{type(x).__name__!r} object cannot be an operand of a traced NumPy function")


def value_of(x: Any) -> Value:
    """The value of an operand in the current trace."""
    return require(x).lift(x if type(x) is Array else as_array(x))


def wrap(
    value: Value, *, scalar: bool | None = None, strides: Strides | None = None, weak: bool = False
) -> Array:
    """A new Array; a 0-d one is a NumPy scalar unless said otherwise, as results of NumPy functions are."""
    is_zero_dim = not value.type.shape
    return require().wrap(value, scalar=is_zero_dim if scalar is None else scalar, strides=strides, weak=weak)


def builder() -> Builder:
    """The current trace's builder, at the user's line."""
    return require().b


def strides_of(x: Array) -> Strides:
    from nufunc.tracer.layout import c_strides

    return c_strides(x.shape) if x.strides_ is None else x.strides_


def static_int(x: Any, what: str) -> int:
    """A Python int for a parameter that must be static."""
    try:
        return operator.index(x)
    except TraceError:
        raise
    except TypeError:
        raise fail(DTypeError, f"{what} must be an integer, not {type(x).__name__}") from None


def normal_axis(axis: Any, ndim: int, what: str = "") -> int:
    """An axis counted from 0; AxisError outside."""
    index = static_int(axis, "axis")
    if not -ndim <= index < ndim:
        prefix = f"{what}: " if what else ""
        raise fail(AxisError, f"{prefix}axis {index} is out of bounds for array of dimension {ndim}")
    return index % ndim if ndim else 0


def normal_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Axes counted from 0 and increasing, from None (all), an int or a tuple."""
    if axis is None:
        return tuple(range(ndim))
    axes = [normal_axis(a, ndim) for a in (axis if isinstance(axis, (tuple, list)) else (axis,))]
    if len(set(axes)) != len(axes):
        raise fail(ShapeError, "duplicate value in 'axis'")
    return tuple(sorted(axes))


def normal_shape(shape: Any) -> tuple[int, ...]:
    """A shape from an int or a sequence of ints."""
    if type(shape) is Array and shape.known is not None:
        shape = shape.known
    if isinstance(shape, np.ndarray):
        shape = shape.tolist()
    items = shape if isinstance(shape, (tuple, list)) else (shape,)
    sizes = tuple(static_int(n, "a shape") for n in items)
    if any(n < 0 for n in sizes):
        raise fail(ShapeError, "negative dimensions are not allowed")
    return sizes


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's broadcasting; the error shows all shapes."""
    if all(s == shapes[0] for s in shapes):
        return shapes[0] if shapes else ()
    distinct = {s for s in shapes if s}
    if len(distinct) < 2:
        return distinct.pop() if distinct else ()
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        shown = " ".join(str(s).replace(" ", "") for s in shapes)
        raise fail(ShapeError, f"operands could not be broadcast together with shapes {shown}") from None


# -- promotion


def weak_type(x: Any) -> Any:
    """What stands for an operand in promotion: its dtype, or int, float, complex for a weak scalar."""
    if type(x) is Array:
        return _WEAK[x.dtype.kind] if x.weak else x.type.dtype
    if isinstance(x, np.generic):
        return x.dtype
    if isinstance(x, bool):
        return np.dtype(bool)
    # a member of an IntEnum is as strong as a NumPy scalar
    return type(x) if type(x) in _ZEROS else np.asarray(x).dtype


_WEAK: dict[str, Any] = {"b": np.dtype(bool), "i": int, "u": int, "f": float, "c": complex}
_ZEROS: dict[Any, Any] = {int: 0, float: 0.0, complex: 0j}


def result_dtype(*operands: Any) -> np.dtype:
    """numpy.result_type of Arrays, scalars and dtypes."""
    kinds = [x if isinstance(x, np.dtype) else weak_type(x) for x in operands]
    try:
        dtype = promotion.result_type(*[_ZEROS.get(k, k) for k in kinds])
    except TypeError as error:
        raise fail(DTypeError, str(error)) from None
    return checked(dtype)


def checked(dtype: np.dtype) -> np.dtype:
    """The dtype, if nufunc computes with it."""
    try:
        dtype_name(dtype)
    except DTypeError as error:
        raise fail(DTypeError, str(error)) from None
    return dtype


class _Unsupported(Exception):
    """Raised where NumPy's loop has a dtype that nufunc does not compute with."""


@functools.lru_cache(maxsize=4096)
def _resolve(
    ufunc: np.ufunc, kinds: tuple[Any, ...], dtype: np.dtype | None, casting: str, signature: Any
) -> tuple[np.dtype, ...]:
    wanted = (*kinds, *(None,) * ufunc.nout)
    if signature is None and dtype is not None:
        signature = (*(None,) * ufunc.nin, *(dtype,) * ufunc.nout)
    how: dict[str, Any] = {"casting": casting} if casting != "same_kind" else {}
    if signature is not None:
        how["signature"] = signature
    dtypes = promotion.resolve_dtypes(ufunc, wanted, **how)
    if int in kinds and object in dtypes:  # NumPy compares Python's ints as such, of any size; traced ones have 64 bits
        return _resolve(ufunc, tuple([INT64 if k is int else k for k in kinds]), dtype, casting, signature)
    for given in dtypes:
        if not is_supported(given):
            taken = ", ".join(map(str, kinds))
            raise _Unsupported(f"{taken} computes in {given}, which is not supported; convert first")
    return dtypes


def resolve_dtypes(
    ufunc: np.ufunc, operands: Sequence[Any], dtype: Any = None, casting: str = "same_kind", signature: Any = None
) -> tuple[np.dtype, ...]:
    """The dtypes that NumPy's loop for these operands takes and gives."""
    wanted = None if dtype is None else np.dtype(dtype)
    if isinstance(signature, list):
        signature = tuple(signature)
    try:
        return _resolve(ufunc, tuple([weak_type(x) for x in operands]), wanted, casting, signature)
    except _Unsupported as error:
        raise fail(DTypeError, f"{ufunc.__name__} of {error}") from None
    except TypeError as error:
        raise fail(DTypeError, f"{ufunc.__name__}: {error}") from None


def cast_scalar(x: Any, dtype: np.dtype) -> Any:
    """A concrete scalar as a Python scalar of a dtype; an int that does not fit raises OverflowError, as in
    NumPy.
    """
    if dtype is FLOAT64 and type(x) in (int, float):
        return float(x)
    if isinstance(x, int) and not isinstance(x, bool) and dtype.kind in "iu":
        info = np.iinfo(dtype)
        if not info.min <= x <= info.max:
            raise OverflowError(f"Python integer {x} out of bounds for {dtype}")
        return int(x)
    if isinstance(x, int) and is_float(dtype):
        x = float(x)
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype).item()


def operand_value(b: Builder, trace: Trace, x: Any, dtype: np.dtype, shape: tuple[int, ...]) -> Value:
    """An operand converted and broadcast; concrete scalars become `full` of that shape."""
    if type(x) is not Array:
        return b.filled(cast_scalar(x, dtype), ArrayType(shape, dtype))
    return b.broadcast_to(b.astype(trace.lift(x), dtype), shape)


def elementwise_strides(shape: tuple[int, ...], operands: Sequence[Any]) -> Strides | None:
    """Memory order of an elementwise result."""
    arrays = [x for x in operands if type(x) is Array and x.strides_ is not None and x.shape]
    if not arrays:
        return None  # NumPy's iterator ignores repeated axes: C order stays
    arrays = [x for x in operands if type(x) is Array and x.shape]
    return result_strides(shape, [broadcast_strides(x.shape, x.strides_, shape) for x in arrays])


# -- writing results


def store(out: Any, value: Value, name: str, casting: str = "same_kind") -> Array:
    """Write a result into `out`, broadcast and cast by NumPy's rules for `out=`."""
    if isinstance(out, tuple):
        (out,) = out
    target = out if type(out) is Array else as_array(out)
    if broadcast_shapes(value.shape, target.shape) != target.shape:
        raise fail(
            ShapeError,
            f"non-broadcastable output operand with shape {target.shape} doesn't match the broadcast shape "
            f"{value.shape}",
        )
    value = cast_output(value, target.dtype, name, casting)
    require().write(target, builder().broadcast_to(value, target.shape))
    return target


def cast_output(value: Value, dtype: np.dtype, name: str, casting: str) -> Value:
    """A result in the dtype of what it is written to."""
    if not promotion.can_cast(value.dtype, dtype, casting):
        raise fail(
            DTypeError,
            f"Cannot cast {name} output from {value.dtype!r} to {dtype!r} with casting rule '{casting}'",
        )
    return builder().astype(value, dtype)


def out_of(kwargs_out: Any) -> Any:
    """The out argument, where a tuple of one is as good as its element."""
    if isinstance(kwargs_out, tuple) and len(kwargs_out) == 1:
        return kwargs_out[0]
    return kwargs_out


def finish(value: Value, out: Any, name: str, **how: Any) -> Array:
    """A result as a new Array, or written to `out`."""
    out = out_of(out)
    return wrap(value, **how) if out is None else store(out, value, name)


def concrete(argument: Any) -> bool:
    """Whether nothing traced stands in the argument."""
    return not has_traced(argument)


def namespace_function(
    function: Callable[..., Any],
    constants: Callable[[Any], Any] | None = None,
    original: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """A function of the namespace. Outside tracing NumPy's own is called.

    With `constants` it is called for static arguments too (np.prod(x.shape)): numbers stay numbers, arrays
    become constants of the graph. Functions whose results are buffers or views leave it out.
    """
    original = original or _original(function)
    checks = checks_of(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if current() is None:
            if not has_traced(args) and not has_traced(kwargs):
                return original(*args, **kwargs)
        elif args and hasattr(type(args[0]), "__nufunc_selection__"):
            return args[0].__array_function__(function, (), args, kwargs)
        elif constants is not None and "size" not in kwargs:  # NumPy's own have no size=
            static = _static_arguments(args, kwargs)
            if static is not None:
                return constants(original(*static[0], **static[1]))
        if checks:
            check(checks, args, kwargs)
        return function(*args, **kwargs)

    call.original = original  # type: ignore[attr-defined]
    return call


class _NotStatic(Exception):
    """Raised where an argument is not static."""


def _static_arguments(args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """The arguments with traced values that are known replaced by them; None where one is not known."""
    if kwargs.get("out") is not None:
        return None
    try:
        return [static_value(x) for x in args], {k: static_value(v) for k, v in kwargs.items()}
    except _NotStatic:
        return None


def static_value(x: Any) -> Any:
    """The concrete value of an argument."""
    if hasattr(type(x), "__nufunc_flat__"):
        raise _NotStatic
    if type(x) is Array:
        known = x.known
        if known is None or known.size > 4096:
            raise _NotStatic
        return known.item() if x.weak else known[()] if x.scalar else known
    if isinstance(x, np.ndarray) or hasattr(type(x), "__nufunc_selection__"):
        raise _NotStatic
    if isinstance(x, (list, tuple)):
        if type(x) in (list, tuple):
            return type(x)([static_value(item) for item in x])
        if has_traced(x):
            raise _NotStatic
    return x


def _original(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__
    return getattr(np, name, None) or getattr(np.linalg, name)


def check_bounds(index: int, extent: int, axis: int) -> int:
    """A static index counted from 0; BoundsError outside."""
    if not -extent <= index < extent:
        raise fail(BoundsError, f"index {index} is out of bounds for axis {axis} with size {extent}")
    return index + extent if index < 0 else index

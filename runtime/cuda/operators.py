"""Operators of device arrays: each a compiled function of its operands, on the device."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentTypeError
from nufunc.runtime.cuda.arrays import DeviceArray
from nufunc.runtime.cuda.interop import adopted
from nufunc.runtime.function import Transformed
from nufunc.tracer.usercode import user_location

_BINARY = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_UNARY = ("neg", "pos", "abs", "invert")
_METHODS = ("sum", "mean", "max", "min", "prod", "std", "var", "argmax", "argmin", "any", "all", "conj", "cumsum")


@functools.cache
def _compiled(function: Callable[..., Any]) -> Transformed:
    return Transformed((), function)


def _operand(x: Any, dtype: np.dtype) -> Any:
    """An operand that a compiled function takes; Python ints would be constants of the compilation."""
    if isinstance(x, bool):
        return np.bool_(x)
    if isinstance(x, int):
        return dtype.type(x) if dtype.kind in "iufc" and (dtype.kind in "fc" or _fits(x, dtype)) else np.asarray(x)[()]
    return x


def _fits(x: int, dtype: np.dtype) -> bool:
    info = np.iinfo(dtype)
    if not info.min <= x <= info.max:
        raise OverflowError(f"Python integer {x} out of bounds for {dtype}")
    return True


def _is_operand(x: Any) -> bool:
    return isinstance(x, DeviceArray | np.ndarray | np.generic | int | float | complex) or adopted(x) is not None


def _binary(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    plain = getattr(operator, f"{name}_" if name in ("and", "or") else name)
    compute = lambda a, b: plain(a, b)

    def forward(self: DeviceArray, other: Any) -> Any:
        if not _is_operand(other):
            return NotImplemented
        if name == "pow" and type(other) is int:  # whether it is negative, and small, decides how it is computed
            return _power(other)(self)
        return _compiled(compute)(self, _operand(other, self.dtype))

    def backward(self: DeviceArray, other: Any) -> Any:
        return _compiled(compute)(_operand(other, self.dtype), self) if _is_operand(other) else NotImplemented

    return forward, backward


@functools.lru_cache(maxsize=64)
def _power(exponent: int) -> Transformed:
    return Transformed((), lambda a: a**exponent)


def _unary(name: str) -> Callable[..., Any]:
    plain = getattr(operator, name)
    compute = lambda a: plain(a)
    return lambda self: _compiled(compute)(self)


def _method(name: str) -> Callable[..., Any]:
    def call(self: DeviceArray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        if dtype is not None or out is not None:
            raise ArgumentTypeError(f"{name} of a device array takes neither dtype nor out", user_location())
        return _reduction(name, tuple(axis) if isinstance(axis, list) else axis, keepdims)(self)

    call.__name__ = name
    call.__doc__ = f"As NumPy's `{name}`, on the device."
    return call


@functools.lru_cache(maxsize=256)
def _reduction(name: str, axis: Any, keepdims: bool) -> Transformed:
    if name in ("conj", "cumsum"):
        given: dict[str, Any] = {} if name == "conj" else {"axis": axis}
    else:
        given = {"axis": axis, "keepdims": keepdims}
    return Transformed((), lambda a: getattr(a, name)(**given))


@functools.lru_cache(maxsize=64)
def _conversion(dtype: np.dtype) -> Transformed:
    return Transformed((), lambda a: a.astype(dtype))


def converted(array: DeviceArray, dtype: np.dtype) -> DeviceArray:
    return array.copy() if dtype == array.dtype else _conversion(dtype)(array)


# -- NumPy's functions, where they are called on device arrays


@functools.cache
def _function(function: Callable[..., Any]) -> Transformed:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__name__ = getattr(function, "__name__", "function")
    return Transformed((), call)


@functools.cache
def _of_ufunc(ufunc: np.ufunc, method: str) -> Transformed:
    return Transformed((), lambda *args, **kwargs: getattr(ufunc, method)(*args, **kwargs))


def _array_ufunc(self: DeviceArray, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
    function = _of_ufunc(ufunc, method)
    if method == "__call__":
        inputs = tuple(_operand(x, self.dtype) for x in inputs)
    result = function(*inputs, **kwargs)
    if out is None:
        return result
    for target, made in zip(out, result if len(out) > 1 else (result,), strict=True):
        target[...] = made if isinstance(target, DeviceArray) else np.asarray(made)
    return out[0] if len(out) == 1 else out


def _array_function(self: DeviceArray, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    return _function(function)(*args, **kwargs)


# -- keys that hold arrays


def _split(parts: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    """A key with numbers in the place of its arrays, and these."""
    static: list[Any] = []
    arrays: list[Any] = []
    for part in parts:
        found = adopted(part) if not isinstance(part, list | np.ndarray | bool) else np.asarray(part)
        if found is None:
            static.append((None, _hashable(part)))
            continue
        if found.dtype.kind == "b":
            found = np.asarray(found)  # how many are true decides the shape, so the host has to know
            arrays += found.nonzero() if found.ndim else _refuse(part)
            static += [(len(arrays) - found.ndim + k, None) for k in range(found.ndim)]
        elif found.dtype.kind in "iu" or not found.size:
            arrays.append(found if found.dtype.kind in "iu" else np.asarray(found).astype(np.int64))
            static.append((len(arrays) - 1, None))
        else:
            _refuse(part)
    return tuple(static), arrays


def _refuse(part: Any) -> Any:
    raise ArgumentTypeError(f"a device array cannot be indexed by {type(part).__name__}", user_location())


def _hashable(part: Any) -> Any:
    return ("slice", part.start, part.stop, part.step) if isinstance(part, slice) else part


@functools.lru_cache(maxsize=256)
def _indexing(static: tuple[Any, ...]) -> tuple[Transformed, Transformed]:
    def key(arrays: Sequence[Any]) -> tuple[Any, ...]:
        items = []
        for number, part in static:
            if number is not None:
                items.append(arrays[number])
            else:
                items.append(slice(*part[1:]) if isinstance(part, tuple) else part)
        return tuple(items)

    def put_in(array: Any, value: Any, *arrays: Any) -> None:
        array[key(arrays)] = value

    return Transformed((), lambda array, *arrays: array[key(arrays)]), Transformed((), put_in)


def taken(array: DeviceArray, parts: Sequence[Any]) -> DeviceArray:
    static, arrays = _split(parts)
    result: DeviceArray = _indexing(static)[0](array, *arrays)
    return result


def put(array: DeviceArray, parts: Sequence[Any], value: Any) -> None:
    static, arrays = _split(parts)
    _indexing(static)[1](array, _operand(value, array.dtype), *arrays)


def install() -> None:
    """Give the class its operators."""
    kind: Any = DeviceArray
    kind.__array_ufunc__, kind.__array_function__ = _array_ufunc, _array_function
    for name in _BINARY:
        forward, backward = _binary(name)
        setattr(DeviceArray, f"__{name}__", forward)
        setattr(DeviceArray, f"__r{name}__", backward)
    for name in _COMPARISONS:
        setattr(DeviceArray, f"__{name}__", _binary(name)[0])
    for name in _UNARY:
        setattr(DeviceArray, f"__{name}__", _unary(name))
    for name in _METHODS:
        setattr(DeviceArray, name, _method(name))
    for name, attribute in (("real", "real"), ("imag", "imag")):
        part = Transformed((), functools.partial(_part, attribute))
        setattr(DeviceArray, name, property(part))


def _part(attribute: str, array: Any) -> Any:
    return getattr(array, attribute)

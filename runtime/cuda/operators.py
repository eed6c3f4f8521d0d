"""What device arrays do outside of compiled functions: operators, methods and NumPy's functions, each a compiled
function of its operands, on the device."""

from __future__ import annotations

import functools
import operator
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optree

from nufunc.ir.errors import ArgumentTypeError, DeviceWarning, UnsupportedError
from nufunc.ir.types import is_inexact, is_supported
from nufunc.runtime.cuda import strided
from nufunc.runtime.cuda.arrays import DeviceArray, uploaded
from nufunc.runtime.cuda.interop import adopted, refuse_read_only
from nufunc.runtime.function import Transformed
from nufunc.tracer.usercode import user_location

_BINARY = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_UNARY = ("neg", "pos", "abs", "invert")
_METHODS = (
    "sum", "mean", "max", "min", "prod", "std", "var", "argmax", "argmin", "any", "all", "conj", "cumsum", "cumprod",
    "clip", "round", "dot", "repeat", "take", "trace", "diagonal", "nonzero", "argsort", "argpartition", "choose",
    "compress", "searchsorted", "flatten", "sort", "partition", "put",
)  # fmt: skip
_IN_PLACE = ("sort", "partition", "put")
_VIEWS = ("transpose", "swapaxes", "squeeze", "view")


@functools.cache
def _compiled(function: Callable[..., Any]) -> Transformed:
    return Transformed((), function)


def _operand(x: Any, dtype: np.dtype) -> Any:
    """An operand that a compiled function takes; Python ints would be constants of the compilation."""
    if isinstance(x, bool):
        return np.bool_(x)
    if not isinstance(x, int):
        return x
    if is_inexact(dtype):
        return np.asarray(x, dtype)[()]
    return dtype.type(x) if dtype.kind in "iu" and _fits(x, dtype) else np.asarray(x)[()]


def _fits(x: int, dtype: np.dtype) -> bool:
    info = np.iinfo(dtype)
    if not info.min <= x <= info.max:
        raise OverflowError(f"Python integer {x} out of bounds for {dtype}")
    return True


def _is_operand(x: Any) -> bool:
    return isinstance(x, DeviceArray | np.ndarray | np.generic | int | float | complex) or adopted(x) is not None


def _binary(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    plain = divmod if name == "divmod" else getattr(operator, f"{name}_" if name in ("and", "or") else name)
    compute = lambda a, b: plain(a, b)

    def forward(self: DeviceArray, other: Any) -> Any:
        if not _is_operand(other):
            return NotImplemented
        return _compiled(compute)(self, _second(name, other, self.dtype))

    def backward(self: DeviceArray, other: Any) -> Any:
        return _compiled(compute)(_operand(other, self.dtype), self) if _is_operand(other) else NotImplemented

    return forward, backward


def _second(name: str, x: Any, dtype: np.dtype) -> Any:
    """The second operand: of powers an int is a constant, since its sign and size decide how it is computed."""
    return x if name == "pow" and type(x) is int else _operand(x, dtype)


def _unary(name: str) -> Callable[..., Any]:
    plain = getattr(operator, name)
    compute = lambda a: plain(a)
    return lambda self: _compiled(compute)(self)


def _in_place(name: str) -> Callable[..., Any]:
    plain = getattr(operator, f"i{name}")

    def compute(a: Any, b: Any) -> None:
        plain(a, b)

    def forward(self: DeviceArray, other: Any) -> Any:
        if not _is_operand(other):
            return NotImplemented
        refuse_read_only(self, "the array")
        _compiled(compute)(self, _second(name, other, self.dtype))
        return self

    return forward


def _method(name: str) -> Callable[..., Any]:
    compute = lambda a, *args, **kwargs: getattr(a, name)(*args, **kwargs)

    def call(self: DeviceArray, *args: Any, **kwargs: Any) -> Any:
        if name in _IN_PLACE:
            refuse_read_only(self, "the array")
        return _called(compute, f"x.{name}", (self, *args), kwargs)

    call.__name__ = name
    call.__doc__ = f"As NumPy's `{name}`, on the device."
    return call


def _view(name: str) -> Callable[..., Any]:
    def call(self: DeviceArray, *args: Any, **kwargs: Any) -> DeviceArray:
        return strided.rearranged(self, lambda probe: getattr(probe, name)(*args, **kwargs))

    call.__name__ = name
    call.__doc__ = f"As NumPy's `{name}`: the same memory, seen in another way."
    return call


@functools.lru_cache(maxsize=64)
def _conversion(dtype: np.dtype) -> Transformed:
    return Transformed((), lambda a: a.astype(dtype))


def converted(array: DeviceArray, dtype: np.dtype) -> DeviceArray:
    return array.copy() if dtype == array.dtype else _conversion(dtype)(array)


# -- NumPy's functions, where they are called on device arrays


def _called(function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    """A function of device arrays and settings; by NumPy on the host where values decide the shape of its result."""
    try:
        return _compiled(function)(*args, **kwargs)
    except UnsupportedError as error:
        if os.environ.get("NUFUNC_CUDA_FALLBACK") == "0":
            raise
        return _on_host(function, name, args, kwargs, error)


def _on_host(function: Callable[..., Any], name: str, args: Any, kwargs: Any, error: UnsupportedError) -> Any:
    leaves: list[Any] = optree.tree_leaves((args, kwargs))  # type: ignore[arg-type]
    where = next(x.device for x in leaves if isinstance(x, DeviceArray))

    def down(leaf: Any) -> Any:
        if not isinstance(leaf, DeviceArray):
            return leaf
        values = leaf.copy_to_host()
        values.flags.writeable = False  # what would be written here would be lost
        return values

    def up(leaf: Any) -> Any:
        known = isinstance(leaf, np.ndarray | np.generic) and is_supported(leaf.dtype)
        return uploaded(np.asarray(leaf), where) if known else leaf

    given, named = optree.tree_map(down, (args, kwargs))  # type: ignore[arg-type]
    try:
        found = function(*given, **named)
    except ValueError as failure:
        raise error from failure
    warnings.warn(f"{name} is computed on the host: {str(error).splitlines()[0]}", DeviceWarning, stacklevel=4)
    return optree.tree_map(up, found)


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
    name = getattr(function, "__name__", "function")
    if name in ("shares_memory", "may_share_memory"):
        a, b, *rest = args
        return _place(a) == _place(b) and function(_addresses(a), _addresses(b), *rest, **kwargs)
    return _called(function, f"np.{name}", args, kwargs)


def _place(x: Any) -> Any:
    found = adopted(x)
    return None if found is None else found.device


def _addresses(x: Any) -> np.ndarray:
    """An array at the same addresses, which is not read."""
    found = adopted(x)
    return np.asarray(x) if found is None else np.asarray(_Addresses(found))


class _Addresses:
    def __init__(self, array: DeviceArray) -> None:
        strides = array.layout.byte_strides
        self.__array_interface__ = {
            "version": 3, "typestr": f"|V{array.dtype.itemsize}", "shape": array.shape, "strides": strides,
            "data": (array.address, True),
        }  # fmt: skip


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
    for name in (*_BINARY, "divmod"):
        forward, backward = _binary(name)
        setattr(DeviceArray, f"__{name}__", forward)
        setattr(DeviceArray, f"__r{name}__", backward)
    for name in _BINARY:
        setattr(DeviceArray, f"__i{name}__", _in_place(name))
    for name in _COMPARISONS:
        setattr(DeviceArray, f"__{name}__", _binary(name)[0])
    for name in _UNARY:
        setattr(DeviceArray, f"__{name}__", _unary(name))
    for name in _METHODS:
        setattr(DeviceArray, name, _method(name))
    for name in _VIEWS:
        setattr(DeviceArray, name, _view(name))
    kind.fill = lambda self, value: self.__setitem__(..., value)
    for name, attribute in (("real", "real"), ("imag", "imag")):
        part = Transformed((), functools.partial(_part, attribute))
        setattr(DeviceArray, name, property(part))


def _part(attribute: str, array: Any) -> Any:
    return getattr(array, attribute)

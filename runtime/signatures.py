"""Signatures: what of each argument is part of the key of a compilation, and which leaves are run-time inputs."""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, DTypeError, EscapedTracerError
from nufunc.ir.types import HANDLE, ArrayType, is_supported, native, parse_type, tape_of
from nufunc.tracer.array import Array
from nufunc.tracer.np_random import is_generator
from nufunc.tracer.usercode import is_user_class, user_location


class Spec:
    """The shape and dtype of an argument without its values, as `nf.spec` makes it."""  # no dataclass: those are trees

    __slots__ = ("device", "dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, device: int | None = None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device

    def __repr__(self) -> str:
        return f"spec({self.shape}, {self.dtype}" + (")" if self.device is None else f", 'cuda:{self.device}')")


class Input(NamedTuple):
    """A run-time input: "array", "scalar" (a NumPy scalar), "float" or "complex" (Python's). `strides`: in elements,
    where not C order. `device`: the number of the CUDA device where it is, None for the host.
    """

    kind: str
    type: ArrayType
    strides: tuple[int, ...] | None = None
    device: int | None = None


class Itself:
    """An object of a user's class, compared by identity: its own equality may leave out what the function reads."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def exact(x: Any) -> Any:
    """A static value in a form in which zeros of unequal sign differ."""
    if isinstance(x, float | complex):
        return x, repr(x)
    return tuple(exact(item) for item in x) if type(x) is tuple else x


class Static(NamedTuple):
    """A leaf that is part of the key: its type and the object itself, compared by equality."""

    cls: type
    value: Any


Signature = Input | Static

_FLOAT = Input("float", ArrayType((), np.dtype(np.float64)))
_COMPLEX = Input("complex", ArrayType((), np.dtype(np.complex128)))


def signature(x: Any, name: Callable[[], str]) -> Signature:
    """The signature of a leaf; `name()` is how an error calls it."""
    kind = type(x)
    if kind is np.ndarray:
        return _array(x, name)
    if kind is float:
        return _FLOAT
    if kind is complex:
        return _COMPLEX
    if isinstance(x, np.generic):
        return _input("scalar", (), x.dtype, None) or _unsupported(x.dtype, name)
    if isinstance(x, Spec):
        given = _input("array", x.shape, x.dtype, None) or _unsupported(x.dtype, name)
        return given if x.device is None else given._replace(device=x.device)
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray | np.matrix):
            raise ArgumentTypeError(
                f"argument {name()} is a {kind.__name__}, whose own rules would be lost; pass a plain array, "
                f"for instance "
                f"{'x.filled(0)' if isinstance(x, np.ma.MaskedArray) else 'np.asarray(x)'}",
                user_location(),
            )
        return _array(np.asarray(x), name)
    if isinstance(x, Array):
        made = f" It was made at {x.location}." if x.location else ""
        raise EscapedTracerError(
            f"argument {name()} is a traced value that is used after the call that traced it.{made}", user_location()
        )
    if hasattr(kind, "__dlpack_device__") or hasattr(kind, "__cuda_array_interface__"):
        from nufunc.runtime.cuda import interop  # of the arrays of devices nothing is loaded before there are some

        found = interop.adopted(x)
        if found is not None:
            return found.layout.input
    if isinstance(x, types.MethodType | types.FunctionType | types.BuiltinFunctionType):
        return Static(kind, x)
    if is_generator(x):
        return Static(kind, None)  # the one that is given at each call is drawn from
    if hasattr(x, "__array__") and not isinstance(x, type):
        raise ArgumentTypeError(
            f"argument {name()} is of type {kind.__name__}, which is no NumPy array; pass {_as_numpy(x)}",
            user_location(),
        )
    try:
        hash(x)
    except TypeError:
        raise ArgumentTypeError(
            f"argument {name()} is of type {kind.__name__}: expected an array, a number, a tree of these, or a "
            f"hashable "
            "static value",
            user_location(),
        ) from None
    return Static(kind, Itself(x) if is_user_class(kind) and not isinstance(x, enum.Enum) else x)


def _as_numpy(x: Any) -> str:
    """How to make a NumPy array of an array of another library."""
    if str(getattr(x, "dtype", "")) != "torch.bfloat16":
        return "np.asarray(x)"
    return "x.detach().view(torch.int16).numpy().view(nf.bfloat16)"  # torch makes none of bfloat16 itself


@functools.lru_cache(maxsize=4096)
def _input(kind: str, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None) -> Input | None:
    """One object per input, so that keys compare by identity; None for a dtype that nufunc does not compute with."""
    return Input(kind, ArrayType(shape, native(dtype)), strides) if is_supported(dtype.newbyteorder("=")) else None


def _unsupported(dtype: np.dtype, name: Callable[[], str]) -> NoReturn:
    raise DTypeError(
        f"argument {name()} has dtype {dtype}, which is not supported; use bool, integers, bfloat16, float16/32/64 or "
        "complex64/128",
        user_location(),
    )


def _array(x: np.ndarray, name: Callable[[], str]) -> Input:
    if x.dtype == HANDLE:
        from nufunc.codegen.abi import tape_name  # an array of tapes was made by compiled code, so that is loaded

        return _tapes(tape_name(x), x.shape) or _unsupported(x.dtype, name)
    # only the layouts in which NumPy's views differ from those of a C-ordered array enter the key
    strides = None
    shape = x.shape
    if shape and not x.flags.c_contiguous and x.size:
        size = x.itemsize
        strides = tuple([s // size if s % size == 0 else s for s in x.strides])
    return _input("array", shape, x.dtype, strides) or _unsupported(x.dtype, name)


@functools.lru_cache(maxsize=4096)
def _tapes(name: str | None, shape: tuple[int, ...]) -> Input | None:
    """An array of the tapes that a pullback holds; where none has items, their type does not matter."""
    if name is None:
        return None
    return Input("array", (parse_type(name) if name else tape_of(ArrayType((), np.dtype(bool)))).with_shape(shape))


def base_key(func: Any) -> tuple[Any, tuple[Any, ...]]:
    """(key, anchors): what identifies a function apart from its captures, and the objects whose ids stand in the key.

    A plain function is known by its code, so that closures made anew over the same code share what was compiled.
    """
    if isinstance(func, types.FunctionType):
        return ("function", id(func.__code__)), (func.__code__,)
    if isinstance(func, types.MethodType):
        key, anchors = base_key(func.__func__)
        return ("method", key, type(func.__self__)), anchors
    if isinstance(func, functools.partial):
        key, anchors = base_key(func.func)
        return ("partial", key, len(func.args), tuple(func.keywords)), anchors
    itself = isinstance(func, type | np.ufunc | types.BuiltinFunctionType) or getattr(type(func), "by_identity", False)
    if itself or not hasattr(type(func), "__dict__"):
        return ("object", id(func)), (func,)
    call = type(func).__call__
    return ("callable", type(func), id(getattr(call, "__code__", call))), (call,)

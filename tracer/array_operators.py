"""What Array inherits: Python's operators, and the methods that are the NumPy function of the same name."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


@functools.cache
def namespace() -> Any:
    """nf.numpy, which is built on Array and so imported late."""
    from nufunc.tracer import np_namespace

    return np_namespace.numpy


def _ours(x: Any) -> bool:
    """Whether an operator with `x` on the other side is ours: otherwise Python tries the other operand's
    method.
    """
    if isinstance(x, (Operators, float)):
        return True
    kinds = (Operators, bool, int, float, complex, np.generic, list, tuple)
    if isinstance(x, kinds) or hasattr(type(x), "__nufunc_selection__"):
        return True
    return type(x) is np.ndarray or isinstance(x, np.memmap)


def _binary(name: str, x: Any, y: Any, other: Any) -> Any:
    return namespace()._operator(name, (x, y)) if _ours(other) else NotImplemented


def _in_place(name: str, x: Any, other: Any) -> Any:
    """x += other writes to an array; a scalar is rebound to the result."""
    return (
        namespace()._operator(name, (x, other), out=None if x.scalar else x)
        if _ours(other)
        else NotImplemented
    )


class Operators:
    """Operators and forwarding methods of a traced array."""

    __slots__ = ()
    scalar: bool

    def __neg__(self) -> Any:
        return namespace()._operator("negative", (self,))

    def __pos__(self) -> Any:
        return namespace()._operator("positive", (self,))

    def __abs__(self) -> Any:
        return namespace()._operator("absolute", (self,))

    def __invert__(self) -> Any:
        return namespace()._operator("invert", (self,))

    def __eq__(self, other: Any) -> Any:
        return _binary("equal", self, other, other)

    def __ne__(self, other: Any) -> Any:
        return _binary("not_equal", self, other, other)

    def __lt__(self, other: Any) -> Any:
        return _binary("less", self, other, other)

    def __le__(self, other: Any) -> Any:
        return _binary("less_equal", self, other, other)

    def __gt__(self, other: Any) -> Any:
        return _binary("greater", self, other, other)

    def __ge__(self, other: Any) -> Any:
        return _binary("greater_equal", self, other, other)

    def __add__(self, other: Any) -> Any:
        return _binary("add", self, other, other)

    def __radd__(self, other: Any) -> Any:
        return _binary("add", other, self, other)

    def __iadd__(self, other: Any) -> Any:
        return _in_place("add", self, other)

    def __sub__(self, other: Any) -> Any:
        return _binary("subtract", self, other, other)

    def __rsub__(self, other: Any) -> Any:
        return _binary("subtract", other, self, other)

    def __isub__(self, other: Any) -> Any:
        return _in_place("subtract", self, other)

    def __mul__(self, other: Any) -> Any:
        return _binary("multiply", self, other, other)

    def __rmul__(self, other: Any) -> Any:
        return _binary("multiply", other, self, other)

    def __imul__(self, other: Any) -> Any:
        return _in_place("multiply", self, other)

    def __truediv__(self, other: Any) -> Any:
        return _binary("true_divide", self, other, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _binary("true_divide", other, self, other)

    def __itruediv__(self, other: Any) -> Any:
        return _in_place("true_divide", self, other)

    def __floordiv__(self, other: Any) -> Any:
        return _binary("floor_divide", self, other, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _binary("floor_divide", other, self, other)

    def __ifloordiv__(self, other: Any) -> Any:
        return _in_place("floor_divide", self, other)

    def __mod__(self, other: Any) -> Any:
        return _binary("remainder", self, other, other)

    def __rmod__(self, other: Any) -> Any:
        return _binary("remainder", other, self, other)

    def __imod__(self, other: Any) -> Any:
        return _in_place("remainder", self, other)

    def __pow__(self, other: Any) -> Any:
        return _binary("power", self, other, other)

    def __rpow__(self, other: Any) -> Any:
        return _binary("power", other, self, other)

    def __ipow__(self, other: Any) -> Any:
        return _in_place("power", self, other)

    def __and__(self, other: Any) -> Any:
        return _binary("bitwise_and", self, other, other)

    def __rand__(self, other: Any) -> Any:
        return _binary("bitwise_and", other, self, other)

    def __iand__(self, other: Any) -> Any:
        return _in_place("bitwise_and", self, other)

    def __or__(self, other: Any) -> Any:
        return _binary("bitwise_or", self, other, other)

    def __ror__(self, other: Any) -> Any:
        return _binary("bitwise_or", other, self, other)

    def __ior__(self, other: Any) -> Any:
        return _in_place("bitwise_or", self, other)

    def __xor__(self, other: Any) -> Any:
        return _binary("bitwise_xor", self, other, other)

    def __rxor__(self, other: Any) -> Any:
        return _binary("bitwise_xor", other, self, other)

    def __ixor__(self, other: Any) -> Any:
        return _in_place("bitwise_xor", self, other)

    def __lshift__(self, other: Any) -> Any:
        return _binary("left_shift", self, other, other)

    def __rlshift__(self, other: Any) -> Any:
        return _binary("left_shift", other, self, other)

    def __ilshift__(self, other: Any) -> Any:
        return _in_place("left_shift", self, other)

    def __rshift__(self, other: Any) -> Any:
        return _binary("right_shift", self, other, other)

    def __rrshift__(self, other: Any) -> Any:
        return _binary("right_shift", other, self, other)

    def __irshift__(self, other: Any) -> Any:
        return _in_place("right_shift", self, other)

    def __matmul__(self, other: Any) -> Any:
        return _binary("matmul", self, other, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _binary("matmul", other, self, other)

    def __imatmul__(self, other: Any) -> Any:
        return _in_place("matmul", self, other)

    def sum(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().sum(self, *args, **kwargs)

    def prod(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().prod(self, *args, **kwargs)

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().mean(self, *args, **kwargs)

    def std(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().std(self, *args, **kwargs)

    def var(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().var(self, *args, **kwargs)

    def min(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().min(self, *args, **kwargs)

    def max(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().max(self, *args, **kwargs)

    def argmin(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().argmin(self, *args, **kwargs)

    def argmax(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().argmax(self, *args, **kwargs)

    def any(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().any(self, *args, **kwargs)

    def all(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().all(self, *args, **kwargs)

    def cumsum(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().cumsum(self, *args, **kwargs)

    def cumprod(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().cumprod(self, *args, **kwargs)

    def ptp(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().ptp(self, *args, **kwargs)

    def ravel(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().ravel(self, *args, **kwargs)

    def swapaxes(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().swapaxes(self, *args, **kwargs)

    def squeeze(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().squeeze(self, *args, **kwargs)

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().astype(self, *args, **kwargs)

    def clip(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().clip(self, *args, **kwargs)

    def take(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().take(self, *args, **kwargs)

    def repeat(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().repeat(self, *args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().trace(self, *args, **kwargs)

    def diagonal(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().diagonal(self, *args, **kwargs)

    def nonzero(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().nonzero(self, *args, **kwargs)

    def argsort(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().argsort(self, *args, **kwargs)

    def choose(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().choose(self, *args, **kwargs)

    def argpartition(self, *args: Any, **kwargs: Any) -> Any:
        return namespace().argpartition(self, *args, **kwargs)

    __hash__ = None  # type: ignore[assignment]  # unhashable, as an ndarray is

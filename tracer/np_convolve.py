"""numpy.convolve and numpy.correlate, by the primitive `conv`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nufunc.ir.errors import ShapeError
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL, INT64, is_complex
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, builder, fail, result_dtype, value_of, wrap
from nufunc.tracer.np_linalg import strong

_MODES = {0: "valid", 1: "same", 2: "full"}


def _operands(a: Any, v: Any) -> tuple[Array, Array]:
    x, y = strong(as_array(a)), strong(as_array(v))
    if x.ndim > 1 or y.ndim > 1:
        raise fail(ShapeError, "object too deep for desired array")
    x, y = x.reshape((x.size,)), y.reshape((y.size,))
    if not x.size or not y.size:
        raise fail(ShapeError, "a cannot be empty" if not x.size else "v cannot be empty")
    return x, y


def _extent(n: int, k: int, mode: Any) -> tuple[int, int]:
    """The first and the number of the places of the full result that a mode keeps; n >= k."""
    mode = _MODES.get(mode, mode)
    if mode == "full":
        return 0, n + k - 1
    if mode == "same":
        return (k - 1) // 2, n
    if mode == "valid":
        return k - 1, n - k + 1
    raise fail(ShapeError, f"mode must be 'full', 'same' or 'valid', not {mode!r}")


def _sums(x: Array, y: Array, dilation: int, offset: int, extent: int) -> Value:
    """The sum over k of x[p + k dilation - offset] y[k], for each p; bools: whether any product is true."""
    b, kind = builder(), result_dtype(x.dtype, y.dtype)
    wide = INT64 if kind == BOOL else kind
    left, right = (b.astype(b.astype(value_of(v), kind), wide) for v in (x, y))
    made = b.conv(
        left, right, x="x", w="x", out="x", window="x", stride=(1,), dilation=(dilation,), spread=(1,),
        offset=(offset,), extent=(extent,),
    )  # fmt: skip
    return b.astype(made, kind)


def convolve(a: Any, v: Any, mode: Any = "full") -> Array:
    x, y = _operands(a, v)
    if y.size > x.size:
        x, y = y, x
    first, count = _extent(x.size, y.size, mode)
    return wrap(_sums(x, y, -1, -first, count))


def correlate(a: Any, v: Any, mode: Any = "valid") -> Array:
    """A longer second operand is correlated with the first, and the result read backwards."""
    for operand in (a, v):
        if not as_array(operand).ndim:
            raise fail(ShapeError, "object of too small depth for desired array")
    x, y = _operands(a, v)
    swapped = y.size > x.size
    if is_complex(y.dtype):
        y = y.conj()
    if swapped:
        x, y = y, x
    first, count = _extent(x.size, y.size, mode)
    made = _sums(x, y, 1, y.size - 1 - first, count)
    return wrap(builder().flip(made, axes=(0,)) if swapped else made)


FUNCTIONS: tuple[Callable[..., Any], ...] = (convolve, correlate)

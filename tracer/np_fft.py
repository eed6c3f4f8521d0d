"""numpy.fft: the one transform of the last axis that the primitives know, for any axes, lengths and norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError
from nufunc.ir.graph import Value
from nufunc.ir.types import FLOAT32, FLOAT64, is_complex, is_half, is_inexact, real_dtype
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, builder, fail, finish, normal_axis, static_int, value_of
from nufunc.tracer.np_join import roll
from nufunc.tracer.np_ufuncs import UFUNCS

_SWAPPED = {None: "forward", "backward": "forward", "ortho": "ortho", "forward": "backward"}


def _swapped(norm: Any) -> str:
    """The norm of the transform in the other direction."""
    if norm not in _SWAPPED:
        raise fail(ShapeError, f'Invalid norm value {norm}; should be "backward", "ortho" or "forward".')
    return _SWAPPED[norm]


def inexact(a: Any) -> Array:
    x = as_array(a)
    return x if is_inexact(x.dtype) else x.astype(FLOAT64)


def resized(x: Value, axis: int, n: int) -> Value:
    """`x` cropped, or padded with zeros, to n points along an axis."""
    b, extent = builder(), x.shape[axis]
    if n < extent:
        stop = tuple(n if k == axis else m for k, m in enumerate(x.shape))
        return b.slice(x, start=(0,) * x.ndim, stop=stop, step=(1,) * x.ndim)
    if n > extent:
        none = (0,) * x.ndim
        high = tuple(n - extent if k == axis else 0 for k in range(x.ndim))
        return b.pad(x, low=none, high=high, interior=none)
    return x


def _points(n: Any, default: int) -> int:
    points = default if n is None else static_int(n, "the number of points of a transform")
    if points < 1:
        raise fail(ShapeError, f"Invalid number of FFT data points ({points}) specified.")
    return points


def _scaled(x: Value, n: int, norm: Any, forward: bool) -> Value:
    """The factor of a transform of n points."""
    kind = _SWAPPED[_swapped(norm)] if forward else _swapped(norm)
    if kind == "backward":
        return x
    real = real_dtype(x.dtype)
    factor = np.reciprocal(np.sqrt(n, dtype=real) if kind == "ortho" else n, dtype=real)
    b = builder()
    return b.mul(x, b.like(x, factor.item()))


def _along(x: Value, axis: int, transform: Callable[[Value], Value]) -> Value:
    """A transform of the last axis, of another one."""
    b = builder()
    return b.moved(transform(b.moved(x, axis, x.ndim - 1)), x.ndim - 1, axis)


def _axis(x: Array, axis: Any) -> int:
    return normal_axis(axis, x.ndim)


def _complex_transform(a: Any, n: Any, axis: Any, norm: Any, out: Any, inverse: bool) -> Array:
    x = inexact(a)
    k = _axis(x, axis)
    points = _points(n, x.shape[k])
    b = builder()
    z = b.astype(resized(value_of(x), k, points), np.result_type(x.dtype, np.complex64))
    made = _along(z, k, lambda v: b.fft(v, inverse=inverse))
    return finish(_scaled(made, points, norm, not inverse), out, "fft", scalar=False)


def fft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Array:
    return _complex_transform(a, n, axis, norm, out, False)


def ifft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Array:
    return _complex_transform(a, n, axis, norm, out, True)


def rfft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Array:
    x = inexact(a)
    if is_complex(x.dtype):
        raise fail(DTypeError, f"rfft needs real values, got {x.dtype}: numpy.fft.fft takes complex ones")
    k = _axis(x, axis)
    points = _points(n, x.shape[k])
    x = x.astype(FLOAT32) if is_half(x.dtype) else x
    made = _along(resized(value_of(x), k, points), k, lambda v: builder().rfft(v))
    return finish(_scaled(made, points, norm, True), out, "rfft", scalar=False)


def irfft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Array:
    x = inexact(a)
    k = _axis(x, axis)
    points = _points(n, 2 * (x.shape[k] - 1))
    b = builder()
    z = b.astype(resized(value_of(x), k, points // 2 + 1), np.result_type(x.dtype, np.complex64))
    made = _scaled(_along(z, k, lambda v: b.irfft(v, n=points)), points, norm, False)
    return finish(b.astype(made, x.dtype) if is_half(x.dtype) else made, out, "irfft", scalar=False)


def hfft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Array:
    x = inexact(a)
    points = 2 * (x.shape[_axis(x, axis)] - 1) if n is None else n
    return irfft(UFUNCS["conjugate"](x), points, axis, _swapped(norm), out)


def ihfft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Array:
    made = UFUNCS["conjugate"](rfft(a, n, axis, _swapped(norm)))
    return made if out is None else finish(value_of(made), out, "ihfft")


# -- several axes


def _lengths(x: Array, s: Any, axes: Any, half: bool = False) -> tuple[list[int], list[int]]:
    """Points and axes; `half`: the last axis holds the numbers 0 to n // 2 of a transform of n reals."""
    sizes = None if s is None else [static_int(v, "s") for v in s]
    if axes is None:
        places = list(range(x.ndim)) if sizes is None else list(range(x.ndim - len(sizes), x.ndim))
    else:
        places = [_axis(x, k) for k in axes]
    if sizes is None:
        sizes = [x.shape[k] for k in places]
        if half and places:
            sizes[-1] = 2 * (sizes[-1] - 1)
    if len(sizes) != len(places):
        raise fail(ShapeError, "Shape and axes have different lengths.")
    if any(not 0 <= k < x.ndim for k in places):
        raise fail(ShapeError, f"s has {len(sizes)} entries for an array of {x.ndim} dimensions")
    return [x.shape[k] if n == -1 else n for n, k in zip(sizes, places)], places


def _result(x: Array, out: Any, name: str) -> Array:
    return x if out is None else finish(value_of(x), out, name)


def _each(a: Any, s: Any, axes: Any, norm: Any, out: Any, transform: Callable[..., Array]) -> Array:
    x = inexact(a)
    sizes, places = _lengths(x, s, axes)
    for n, k in zip(reversed(sizes), reversed(places)):
        x = transform(x, n, k, norm)
    return _result(x, out, transform.__name__)


def fftn(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Array:
    return _each(a, s, axes, norm, out, fft)


def ifftn(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Array:
    return _each(a, s, axes, norm, out, ifft)


def fft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: Any = None, out: Any = None) -> Array:
    return _each(a, s, axes, norm, out, fft)


def ifft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: Any = None, out: Any = None) -> Array:
    return _each(a, s, axes, norm, out, ifft)


def _need_axes(places: Sequence[int]) -> None:
    if not places:
        raise fail(ShapeError, "at least 1 axis must be transformed")


def rfftn(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Array:
    x = inexact(a)
    sizes, places = _lengths(x, s, axes)
    _need_axes(places)
    x = rfft(x, sizes[-1], places[-1], norm)
    for n, k in zip(reversed(sizes[:-1]), reversed(places[:-1])):
        x = fft(x, n, k, norm)
    return _result(x, out, "rfftn")


def rfft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: Any = None, out: Any = None) -> Array:
    return rfftn(a, s, axes, norm, out)


def irfftn(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Array:
    x = inexact(a)
    sizes, places = _lengths(x, s, axes, half=True)
    _need_axes(places)
    for n, k in zip(sizes[:-1], places[:-1]):
        x = ifft(x, n, k, norm)
    return irfft(x, sizes[-1], places[-1], norm, out)


def irfft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: Any = None, out: Any = None) -> Array:
    return irfftn(a, s, axes, norm, out)


# -- frequencies and shifts


def _frequencies(whole: np.ndarray, n: int, d: Any) -> Array:
    from nufunc.tracer.np_creation import array

    return array(whole) * (1.0 / (n * d))


def fftfreq(n: Any, d: Any = 1.0, device: Any = None) -> Array:
    points = static_int(n, "n")
    return _frequencies(np.concatenate([np.arange((points - 1) // 2 + 1), np.arange(-(points // 2), 0)]), points, d)


def rfftfreq(n: Any, d: Any = 1.0, device: Any = None) -> Array:
    points = static_int(n, "n")
    return _frequencies(np.arange(points // 2 + 1), points, d)


def _shifts(x: Array, axes: Any) -> tuple[tuple[int, ...], list[int]]:
    given = range(x.ndim) if axes is None else axes if isinstance(axes, (tuple, list)) else (axes,)
    places = tuple(_axis(x, k) for k in given)
    return places, [x.shape[k] // 2 for k in places]


def fftshift(x: Any, axes: Any = None) -> Array:
    v = as_array(x)
    places, shift = _shifts(v, axes)
    return roll(v, shift, places)


def ifftshift(x: Any, axes: Any = None) -> Array:
    v = as_array(x)
    places, shift = _shifts(v, axes)
    return roll(v, [-k for k in shift], places)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    fft, ifft, rfft, irfft, hfft, ihfft, fft2, ifft2, fftn, ifftn, rfft2, irfft2, rfftn, irfftn, fftfreq, rfftfreq,
    fftshift, ifftshift,
)  # fmt: skip
BY_NAME = {function.__name__: function for function in FUNCTIONS}



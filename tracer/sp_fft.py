"""scipy.fft for traced values: NumPy's transforms under SciPy's signatures, and those by sines and cosines.

The transforms by cosines and sines are real Fourier transforms of a signal that is continued symmetrically (Makhoul, "A
fast cosine transform in one and two dimensions", 1980, has the cases of types 2 and 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import is_complex
from nufunc.tracer import np_fft
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import builder, fail, normal_axes, normal_axis, static_int, value_of, wrap
from nufunc.tracer.np_fft import inexact, resized


def _one(name: str) -> Callable[..., Array]:
    function = np_fft.BY_NAME[name]

    def call(
        x: Any, n: Any = None, axis: int = -1, norm: Any = None, overwrite_x: bool = False, workers: Any = None, *,
        plan: Any = None,
    ) -> Array:  # fmt: skip
        return function(x, n, axis, norm)

    return call


def _many(name: str, default: Any) -> Callable[..., Array]:
    function = np_fft.BY_NAME[name]

    def call(
        x: Any, s: Any = None, axes: Any = default, norm: Any = None, overwrite_x: bool = False, workers: Any = None, *,
        plan: Any = None,
    ) -> Array:  # fmt: skip
        if isinstance(s, int):
            s = (s,)
        if isinstance(axes, int):
            axes = (axes,)
        return function(x, s, axes, norm)

    return call


# -- transforms by cosines and sines, of the last axis and not normalised


def _phases(n: int, turn: float, start: float = 0.0) -> np.ndarray:
    """exp(i pi turn (k + start)) for k = 0 to n - 1."""
    return np.exp(1j * np.pi * turn * (np.arange(n) + start))


def _times(x: Value, factors: np.ndarray) -> Value:
    b = builder()
    kind = np.result_type(x.dtype, np.complex64)
    return b.mul(b.astype(x, kind), b.broadcast_to(b.const(factors.astype(kind)), x.shape))


def _part(x: Value, start: int, stop: int) -> Value:
    b, n = builder(), x.ndim
    return b.slice(x, start=(*(0,) * (n - 1), start), stop=(*x.shape[:-1], stop), step=(1,) * n)


def _joined(*parts: Value) -> Value:
    return builder().concat(*parts, axis=parts[0].ndim - 1)


def _flipped(x: Value, sign: int = 1) -> Value:
    b = builder()
    back = b.flip(x, axes=(x.ndim - 1,))
    return back if sign > 0 else b.neg(back)


def _cosines(x: Value, kind: int) -> Value:
    b, n = builder(), x.shape[-1]
    if kind == 1:
        return b.real(b.rfft(_joined(x, _flipped(_part(x, 1, n - 1)))))
    if kind == 2:
        return b.real(_times(_part(b.rfft(_joined(x, _flipped(x))), 0, n), _phases(n, -0.5 / n)))
    if kind == 3:
        half = resized(_times(x, _phases(n, 0.5 / n)), x.ndim - 1, n + 1)
        return _part(b.irfft(half, n=2 * n), 0, n)
    return b.real(_fourth(x))


def _sines(x: Value, kind: int) -> Value:
    b, n = builder(), x.shape[-1]
    if kind == 1:
        zero = b.zeros(x.type.with_shape((*x.shape[:-1], 1)))
        return b.neg(b.imag(_part(b.rfft(_joined(zero, x, zero, _flipped(x, -1))), 1, n + 1)))
    if kind == 2:
        whole = _part(b.rfft(_joined(x, _flipped(x, -1))), 1, n + 1)
        return b.neg(b.imag(_times(whole, _phases(n, -0.5 / n, 1))))
    if kind == 3:
        turned = _times(x, -1j * _phases(n, 0.5 / n, 1))
        zero = b.zeros(turned.type.with_shape((*x.shape[:-1], 1)))
        return _part(b.irfft(_joined(zero, turned), n=2 * n), 0, n)
    return b.neg(b.imag(_fourth(x)))


def _fourth(x: Value) -> Value:
    """2 sum of x_n exp(-i pi (2 k + 1) (2 n + 1) / 4 N), whose parts are the two transforms of type 4."""
    b, n = builder(), x.shape[-1]
    wide = resized(_times(x, _phases(n, -0.5 / n)), x.ndim - 1, 2 * n)
    return _times(_part(b.fft(wide, inverse=False), 0, n), 2 * _phases(n, -0.5 / n, 0.5))


def _scaled_ends(x: Value, places: Sequence[int], factor: float) -> Value:
    """Some entries of the last axis times a factor."""
    b = builder()
    factors = np.ones(x.shape[-1], x.dtype)
    factors[list(places)] = factor
    return b.mul(x, b.broadcast_to(b.const(factors), x.shape))


def _ends(sine: bool, kind: int, n: int) -> tuple[list[int], list[int]]:
    """The entries of operand and result that an orthogonal transform has larger and smaller, by the root of 2."""
    if kind == 4 or (sine and kind == 1):
        return [], []
    if kind == 1:
        return [0, n - 1], [0, n - 1]
    end = n - 1 if sine else 0
    return ([], [end]) if kind == 2 else ([end], [])


def _trigonometric(x: Value, sine: bool, kind: int, norm: Any, inverse: bool, orthogonal: Any) -> Value:
    n = x.shape[-1]
    if norm not in (None, "backward", "ortho", "forward"):
        raise fail(ShapeError, f'Invalid norm value {norm!r}, should be "backward", "ortho" or "forward"')
    if kind == 1 and not sine and n < 2:
        raise fail(ShapeError, "DCT-I is not defined for size < 2")
    if inverse:
        kind = {2: 3, 3: 2}.get(kind, kind)
        norm = {None: "forward", "backward": "forward", "forward": "backward"}.get(norm, norm)
    larger, smaller = _ends(sine, kind, n) if (norm == "ortho" if orthogonal is None else orthogonal) else ([], [])
    x = _scaled_ends(x, larger, math.sqrt(2)) if larger else x
    y = (_sines if sine else _cosines)(x, kind)
    y = _scaled_ends(y, smaller, math.sqrt(0.5)) if smaller else y
    period = 2 * (n + (1 if sine else -1) if kind == 1 else n)
    b = builder()
    if norm in ("ortho", "forward"):
        y = b.mul(y, b.like(y, 1 / period if norm == "forward" else 1 / math.sqrt(period)))
    return y


def _of_axis(x: Array, axis: int, n: Any, transform: Callable[[Value], Value]) -> Array:
    b, k = builder(), normal_axis(axis, x.ndim)
    points = x.shape[k] if n is None else static_int(n, "n")
    if points < 1:
        raise fail(ShapeError, f"invalid number of data points ({points}) specified")
    v = b.moved(resized(value_of(x), k, points), k, x.ndim - 1)
    made = b.complex(transform(b.real(v)), transform(b.imag(v))) if is_complex(v.dtype) else transform(v)
    return wrap(b.moved(made, x.ndim - 1, k), scalar=False)


def _kind(type: Any) -> int:
    kind = static_int(type, "type")
    if kind not in (1, 2, 3, 4):
        raise fail(ShapeError, f"invalid type ({kind}): must be 1, 2, 3 or 4")
    return kind


def _trigonometric_function(sine: bool, inverse: bool) -> Callable[..., Array]:
    def call(
        x: Any, type: Any = 2, n: Any = None, axis: int = -1, norm: Any = None, overwrite_x: bool = False,
        workers: Any = None, orthogonalize: Any = None,
    ) -> Array:  # fmt: skip
        kind = _kind(type)
        return _of_axis(
            inexact(x), axis, n, lambda v: _trigonometric(v, sine, kind, norm, inverse, orthogonalize)
        )

    return call


def _trigonometric_axes(sine: bool, inverse: bool) -> Callable[..., Array]:
    def call(
        x: Any, type: Any = 2, s: Any = None, axes: Any = None, norm: Any = None, overwrite_x: bool = False,
        workers: Any = None, *, orthogonalize: Any = None,
    ) -> Array:  # fmt: skip
        if s is not None:
            raise fail(UnsupportedError, "s of scipy.fft.dctn and its relatives; pad or crop the array")
        v, kind = inexact(x), _kind(type)
        for k in normal_axes(axes, v.ndim):
            v = _of_axis(v, k, None, lambda w: _trigonometric(w, sine, kind, norm, inverse, orthogonalize))
        return v

    return call


FFT: dict[str, Callable[..., Any]] = {
    **{name: _one(name) for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")},
    **{name: _many(name, None) for name in ("fftn", "ifftn", "rfftn", "irfftn")},
    **{name: _many(name, (-2, -1)) for name in ("fft2", "ifft2", "rfft2", "irfft2")},
    **{name: np_fft.BY_NAME[name] for name in ("fftfreq", "rfftfreq", "fftshift", "ifftshift")},
    "dct": _trigonometric_function(False, False), "idct": _trigonometric_function(False, True),
    "dst": _trigonometric_function(True, False), "idst": _trigonometric_function(True, True),
    "dctn": _trigonometric_axes(False, False), "idctn": _trigonometric_axes(False, True),
    "dstn": _trigonometric_axes(True, False), "idstn": _trigonometric_axes(True, True),
}  # fmt: skip



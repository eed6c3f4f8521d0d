"""Fourier transforms along the last axis, not normalised: fft, rfft, irfft; and what they become for the processor,
fft_along any axis."""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Jvp, Primitive, get, register
from nufunc.ir.prims.kinds import (
    COMPLEXES,
    FLOATS,
    Arrays,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    axis_index,
    batch_all,
    batch_shifted,
    exact,
    fresh,
    linear_transpose,
    need_axis,
    need_count,
    need_dtype,
)
from nufunc.ir.types import ArrayType, real_dtype


def _need_points(prim: str, types: Types, kinds: str) -> ArrayType:
    need_count(prim, types, 1)
    need_dtype(prim, types[0], kinds)
    if not types[0].shape or not types[0].shape[-1]:
        raise ShapeError(f"{prim}: {types[0]} has no points along a last axis")
    return types[0]


def _itself(name: str) -> Jvp:
    def jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
        return [None if tangents[0] is None else b.emit(name, (tangents[0],), attrs)[0]]

    return jvp


# -- fft


def _fft_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    return (_need_points("fft", types, COMPLEXES),)


def _fft_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    (x,) = arrays
    made = np.fft.ifft(x, norm="forward") if attrs["inverse"] else np.fft.fft(x)
    return [fresh(exact(made, x.dtype))]


register(
    Primitive(
        "fft", "library", _fft_infer, _fft_evaluate, _itself("fft"),
        linear_transpose(lambda b, ct, operands, types, attrs: [b.fft(ct, **attrs)]),  # a symmetric matrix
        batch_all("fft"), attrs=("inverse",),
    )
)  # fmt: skip


# -- rfft and irfft: the numbers 0 to n // 2 of the transform of n reals


def _middle(b: Builder, type: ArrayType, n: int, factor: float) -> Value:
    """A real factor for the numbers that stand for two of the full transform, 1 for the others."""
    index = axis_index(b, type.shape, type.ndim - 1)
    real = type.with_dtype(real_dtype(type.dtype))
    ends = b.eq(index, b.like(index, 0))
    if n % 2 == 0:
        ends = b.bit_or(ends, b.eq(index, b.like(index, n // 2)))
    return b.astype(b.select(ends, b.filled(1, real), b.filled(factor, real)), type.dtype)


def _rfft_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    x = _need_points("rfft", types, FLOATS)
    return (ArrayType((*x.shape[:-1], x.shape[-1] // 2 + 1), np.result_type(x.dtype, np.complex64)),)


def _rfft_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    return [fresh(exact(np.fft.rfft(arrays[0]), np.result_type(arrays[0].dtype, np.complex64)))]


def _rfft_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    n = types[0].shape[-1]
    made = b.irfft(b.mul(b.conj(ct), _middle(b, ct.type, n, 0.5)), n=n)
    return [b.astype(made, types[0].dtype)]  # of half precision there are no transforms


register(
    Primitive(
        "rfft", "library", _rfft_infer, _rfft_evaluate, _itself("rfft"), linear_transpose(_rfft_transpose),
        batch_all("rfft"),
    )
)  # fmt: skip


def _irfft_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    z = _need_points("irfft", types, COMPLEXES)
    if z.shape[-1] != attrs["n"] // 2 + 1:
        raise ShapeError(f"irfft: {z} has {z.shape[-1]} points, but {attrs['n']} reals need n // 2 + 1")
    return (ArrayType((*z.shape[:-1], attrs["n"]), real_dtype(z.dtype)),)


def _irfft_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    made = np.fft.irfft(arrays[0], attrs["n"], norm="forward")
    return [fresh(exact(made, real_dtype(arrays[0].dtype)))]


def _irfft_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    return [b.mul(b.conj(b.rfft(ct)), _middle(b, types[0], attrs["n"], 2.0))]


register(
    Primitive(
        "irfft", "library", _irfft_infer, _irfft_evaluate, _itself("irfft"), linear_transpose(_irfft_transpose),
        batch_all("irfft"), attrs=("n",),
    )
)  # fmt: skip


# -- fft_along: what passes/transform_axes.py makes of a transform between two transpositions, just before code


def along(node_prim: str, attrs: Attrs, axis: int) -> dict[str, object]:
    """The attributes of fft_along for one of the others."""
    inverse = bool(attrs.get("inverse", node_prim == "irfft"))
    return {"prim": node_prim, "inverse": inverse, "n": int(attrs.get("n", 0)), "axis": axis}


def _last_type(type: ArrayType, axis: int) -> ArrayType:
    shape = list(type.shape)
    shape.append(shape.pop(axis))
    return type.with_shape(tuple(shape))


def _base(attrs: Attrs) -> tuple[Primitive, dict[str, object]]:
    prim = attrs["prim"]
    own = {"fft": {"inverse": attrs["inverse"]}, "rfft": {}, "irfft": {"n": attrs["n"]}}
    return get(prim), own[prim]


def _along_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("fft_along", types, 1)
    need_axis("fft_along", attrs["axis"], types[0])
    record, own = _base(attrs)
    (made,) = record.infer([_last_type(types[0], attrs["axis"])], own, ())
    shape = list(made.shape[:-1])
    shape.insert(attrs["axis"], made.shape[-1])
    return (made.with_shape(tuple(shape)),)


def _along_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    record, own = _base(attrs)
    (made,) = record.evaluate([np.moveaxis(arrays[0], attrs["axis"], -1)], own, ())
    return [fresh(np.moveaxis(made, -1, attrs["axis"]))]


register(
    Primitive(
        "fft_along", "library", _along_infer, _along_evaluate, None, None,
        batch_shifted("fft_along", lambda size, attrs: {"axis": attrs["axis"] + 1}),
        attrs=("prim", "inverse", "n", "axis"), differentiable=False,
    )
)  # fmt: skip

"""Reductions over axes, positions of extremes, and running (cumulative) reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Jvp, Primitive, Transpose, register
from nufunc.ir.prims.kinds import (
    ANY,
    BOOLS,
    INTS,
    REALS,
    Arrays,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    axis_index,
    batch_shifted,
    exact,
    linear_jvp,
    linear_transpose,
    need_axes,
    need_axis,
    need_count,
    need_dtype,
    shifted,
)
from nufunc.ir.types import INT64, ArrayType


def _spread(b: Builder, y: Value, axes: Sequence[int], shape: Sequence[int]) -> Value:
    """A reduction's result repeated along the reduced axes."""
    kept = tuple(a for a in range(len(shape)) if a not in axes)
    return b.broadcast(y, shape=tuple(shape), dims=kept)


def _reduce(
    name: str,
    ufunc: np.ufunc,
    kinds: str,
    *,
    has_identity: bool = True,
    jvp: Jvp | None = None,
    transpose: Transpose | None = None,
    differentiable: bool = True,
) -> None:
    def infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
        need_count(name, types, 1)
        (x,), axes = types, attrs["axes"]
        need_dtype(name, x, kinds)
        need_axes(name, axes, x)
        result = x.with_shape(tuple(n for a, n in enumerate(x.shape) if a not in axes))
        if not has_identity and result.size and x.size == 0:
            raise ShapeError(f"{name}: {x} is empty along axes {tuple(axes)}, so there is no extreme")
        return (result,)

    def evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
        (x,) = arrays
        with np.errstate(all="ignore"):
            return [np.array(ufunc.reduce(x, axis=tuple(attrs["axes"]), dtype=x.dtype))]

    register(
        Primitive(
            name, "reduce", infer, evaluate, jvp, transpose,
            batch_shifted(name, lambda size, attrs: {"axes": shifted(attrs["axes"])}),
            attrs=("axes",), differentiable=differentiable,
        )
    )  # fmt: skip


def _exclusive_products(b: Builder, x: Value, axis: int) -> Value:
    """For each element the product of all others along an axis; no division: zeros are no exception."""
    extent = x.shape[axis]
    if extent == 0:
        return x

    def part(v: Value, low: int, high: int) -> Value:
        start = tuple(low if a == axis else 0 for a in range(v.ndim))
        stop = tuple(high if a == axis else n for a, n in enumerate(v.shape))
        return b.slice(v, start=start, stop=stop, step=(1,) * v.ndim)

    one = b.filled(1, x.type.with_shape(tuple(1 if a == axis else n for a, n in enumerate(x.shape))))
    before = b.cumprod(part(x, 0, extent - 1), axis=axis, reverse=False)
    after = b.cumprod(part(x, 1, extent), axis=axis, reverse=True)
    return b.mul(b.concat(one, before, axis=axis), b.concat(after, one, axis=axis))


def _reduce_prod_jvp(
    b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs
) -> list[Maybe]:
    """One axis at a time: the sum of each tangent times the product of the other elements."""
    (x,), (t,) = primals, tangents
    for axis in sorted(attrs["axes"], reverse=True):
        if t is None:
            break
        t = b.reduce_sum(b.mul(t, _exclusive_products(b, x, axis)), axes=(axis,))
        x = b.reduce_prod(x, axes=(axis,))
    return [t]


def _reduce_extreme_jvp(
    b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs
) -> list[Maybe]:
    """The mean of the tangents of all elements that equal the extreme (of none, hence NaN, if it is NaN)."""
    (x,), (t,), (y,), axes = primals, tangents, results, attrs["axes"]
    if t is None or not axes:
        return [t]
    attained = b.eq(x, _spread(b, y, axes, x.shape))
    count = b.reduce_sum(b.astype(attained, x.dtype), axes=axes)
    return [b.div(b.reduce_sum(b.select(attained, t, b.zeros(t.type)), axes=axes), count)]


_reduce(
    "reduce_sum", np.add, ANY, jvp=linear_jvp("reduce_sum"),
    transpose=linear_transpose(
        lambda b, ct, operands, types, attrs: [_spread(b, ct, attrs["axes"], types[0].shape)]
    ),
)  # fmt: skip
_reduce("reduce_prod", np.multiply, ANY, jvp=_reduce_prod_jvp)
_reduce("reduce_max", np.maximum, REALS + BOOLS, has_identity=False, jvp=_reduce_extreme_jvp)
_reduce("reduce_min", np.minimum, REALS + BOOLS, has_identity=False, jvp=_reduce_extreme_jvp)
_reduce("reduce_and", np.bitwise_and, INTS + BOOLS, differentiable=False)
_reduce("reduce_or", np.bitwise_or, INTS + BOOLS, differentiable=False)
_reduce("reduce_xor", np.bitwise_xor, INTS + BOOLS, differentiable=False)


def _next_axis(size: int, attrs: Attrs) -> dict[str, Any]:
    return {"axis": attrs["axis"] + 1}


def _arg_extreme(name: str, function: Callable[..., Any]) -> None:
    def infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
        need_count(name, types, 1)
        (x,), axis = types, attrs["axis"]
        need_dtype(name, x, REALS + BOOLS)
        need_axis(name, axis, x)
        result = ArrayType((*x.shape[:axis], *x.shape[axis + 1 :]), INT64)
        if x.shape[axis] == 0:
            raise ShapeError(f"{name}: {x} is empty along axis {axis}, so there is no extreme")
        return (result,)

    def evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
        return [exact(function(arrays[0], axis=attrs["axis"]), INT64)]

    register(
        Primitive(
            name, "reduce", infer, evaluate, None, None, batch_shifted(name, _next_axis),
            attrs=("axis",), differentiable=False,
        )
    )  # fmt: skip


_arg_extreme("argmax", np.argmax)
_arg_extreme("argmin", np.argmin)


# -- running reductions


def _cumulative(
    name: str, ufunc: np.ufunc, kinds: str, *, jvp: Jvp | None = None, transpose: Transpose | None = None
) -> None:
    def infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
        need_count(name, types, 1)
        need_dtype(name, types[0], kinds)
        need_axis(name, attrs["axis"], types[0])
        return (types[0],)

    def evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
        (x,), axis = arrays, attrs["axis"]
        order = (np.s_[:],) * axis + (np.s_[::-1],) if attrs["reverse"] else ...
        with np.errstate(all="ignore"):
            return [np.array(ufunc.accumulate(x[order], axis=axis, dtype=x.dtype)[order], order="C")]

    register(
        Primitive(
            name,
            "reduce",
            infer,
            evaluate,
            jvp,
            transpose,
            batch_shifted(name, _next_axis),
            attrs=("axis", "reverse"),
            differentiable=jvp is not None,
        )
    )


def _delayed(b: Builder, x: Value, attrs: Attrs, distance: int, first: float) -> Value:
    """`x` moved by `distance` in the direction of the running reduction, `first` taking the free places."""
    axis, extent = attrs["axis"], x.shape[attrs["axis"]]
    low, high = (distance, extent) if attrs["reverse"] else (0, extent - distance)
    start = tuple(low if a == axis else 0 for a in range(x.ndim))
    stop = tuple(high if a == axis else n for a, n in enumerate(x.shape))
    kept = b.slice(x, start=start, stop=stop, step=(1,) * x.ndim)
    free = b.filled(
        first, x.type.with_shape(tuple(distance if a == axis else n for a, n in enumerate(x.shape)))
    )
    return b.concat(*((kept, free) if attrs["reverse"] else (free, kept)), axis=axis)


def _cumprod_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """The product rule over pairs (product, tangent), combined over distances 1, 2, 4, ...: no division."""
    (x,), (t,) = primals, tangents
    distance = 1
    while t is not None and distance < x.shape[attrs["axis"]]:
        before, t_before = _delayed(b, x, attrs, distance, 1), _delayed(b, t, attrs, distance, 0)
        t = b.add(b.mul(t, before), b.mul(x, t_before))
        x = b.mul(x, before)
        distance *= 2
    return [t]


def take_along(b: Builder, x: Value, index: Value, axis: int) -> Value:
    """numpy.take_along_axis for an index of the shape of x; index values must be inside."""
    indices = [index if a == axis else axis_index(b, index.shape, a) for a in range(x.ndim)]
    return b.gather(x, *indices, axes=tuple(range(x.ndim)), mode="clip")


def _running_extreme_jvp(
    b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs
) -> list[Maybe]:
    """The tangent of the last element so far that equals the running extreme (as torch.cummax)."""
    (x,), (t,), (y,), axis = primals, tangents, results, attrs["axis"]
    if t is None or x.type.size == 0:
        return [t]
    position = axis_index(b, x.shape, axis)
    record = b.bit_or(b.eq(x, y), b.isnan(x))
    if attrs["reverse"]:
        winner = b.cummin(b.select(record, position, b.like(position, x.shape[axis])), **attrs)
    else:
        winner = b.cummax(b.select(record, position, b.like(position, -1)), **attrs)
    return [take_along(b, t, winner, axis)]


_cumulative(
    "cumsum", np.add, ANY, jvp=linear_jvp("cumsum"),
    transpose=linear_transpose(
        lambda b, ct, operands, types, attrs: [b.cumsum(ct, axis=attrs["axis"], reverse=not attrs["reverse"])]
    ),
)  # fmt: skip
_cumulative("cumprod", np.multiply, ANY, jvp=_cumprod_jvp)
_cumulative("cummax", np.maximum, REALS + BOOLS, jvp=_running_extreme_jvp)
_cumulative("cummin", np.minimum, REALS + BOOLS, jvp=_running_extreme_jvp)
_cumulative("cumand", np.bitwise_and, INTS + BOOLS)
_cumulative("cumor", np.bitwise_or, INTS + BOOLS)
_cumulative("cumxor", np.bitwise_xor, INTS + BOOLS)

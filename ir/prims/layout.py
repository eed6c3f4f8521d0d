"""Layout primitives: index maps that move elements and compute nothing; all are linear."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError, VerifyError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Infer, Primitive, register
from nufunc.ir.prims.kinds import (
    Maybe,
    Maybes,
    Regions,
    Types,
    batch_shifted,
    fresh,
    linear_jvp,
    linear_transpose,
    need_axes,
    need_axis,
    need_count,
    need_lengths,
    shifted,
)
from nufunc.ir.types import ArrayType

# What each map does to an array of NumPy, as a view wherever there is one: views.py uses these too.
VIEWS: dict[str, Callable[[np.ndarray, Attrs], np.ndarray]] = {}
INFER: dict[str, Infer] = {}


def _layout(
    name: str,
    attrs: tuple[str, ...],
    infer: Infer,
    view: Callable[[np.ndarray, Attrs], np.ndarray],
    transpose: Callable[[Builder, Value, ArrayType, Attrs], Value],
    shift: Callable[[int, Attrs], dict[str, Any]],
) -> None:
    """Register a map of one operand; `transpose(b, ct, operand type, attrs)`."""

    def checked(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
        need_count(name, types, 1)
        return infer(types, attrs, regions)

    VIEWS[name], INFER[name] = view, checked
    rule = linear_transpose(lambda b, ct, operands, types, attrs: [transpose(b, ct, types[0], attrs)])
    register(
        Primitive(
            name, "layout", checked, lambda arrays, attrs, regions: [fresh(view(arrays[0], attrs))],
            linear_jvp(name), rule, batch_shifted(name, shift), attrs=attrs, cheap=True,
        )
    )  # fmt: skip


# -- reshape and transpose


def _reshape_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    shape = tuple(attrs["shape"])
    if any(extent < 0 for extent in shape) or math.prod(shape) != types[0].size:
        raise ShapeError(f"reshape: {types[0]} with {types[0].size} elements does not fit the shape {shape}")
    return (types[0].with_shape(shape),)


_layout(
    "reshape",
    ("shape",),
    _reshape_infer,
    lambda x, attrs: x.reshape(attrs["shape"]),
    lambda b, ct, type, attrs: b.reshaped(ct, type.shape),
    lambda size, attrs: {"shape": (size, *attrs["shape"])},
)


def _transpose_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    perm, shape = attrs["perm"], types[0].shape
    if sorted(perm) != list(range(len(shape))):
        raise ShapeError(
            f"transpose: {tuple(perm)} is not a permutation of the {len(shape)} axes of {types[0]}"
        )
    return (types[0].with_shape(tuple(shape[p] for p in perm)),)


def inverse_permutation(perm: Sequence[int]) -> tuple[int, ...]:
    inverse = [0] * len(perm)
    for position, axis in enumerate(perm):
        inverse[axis] = position
    return tuple(inverse)


_layout(
    "transpose",
    ("perm",),
    _transpose_infer,
    lambda x, attrs: x.transpose(attrs["perm"]),
    lambda b, ct, type, attrs: b.transposed(ct, inverse_permutation(attrs["perm"])),
    lambda size, attrs: {"perm": (0, *shifted(attrs["perm"]))},
)


# -- broadcast


def _broadcast_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    (x,), shape, dims = types, tuple(attrs["shape"]), tuple(attrs["dims"])
    need_lengths("broadcast", x, dims=dims)
    result = x.with_shape(shape)
    need_axes("broadcast", dims, result)
    for axis, dim in enumerate(dims):
        if x.shape[axis] not in (1, shape[dim]):
            raise ShapeError(
                f"broadcast: axis {axis} of {x} has extent {x.shape[axis]}, "
                f"but axis {dim} of the result {result} has {shape[dim]}"
            )
    return (result,)


def _broadcast_view(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    missing = [a for a in range(len(attrs["shape"])) if a not in attrs["dims"]]
    return np.broadcast_to(np.expand_dims(x, tuple(missing)), attrs["shape"])


def _broadcast_transpose(b: Builder, ct: Value, type: ArrayType, attrs: Attrs) -> Value:
    """The sum over what was repeated: new axes, and axes of extent 1 that became longer or empty."""
    kept = {dim for axis, dim in enumerate(attrs["dims"]) if type.shape[axis] == attrs["shape"][dim]}
    return b.reshaped(b.summed(ct, [a for a in range(ct.ndim) if a not in kept]), type.shape)


_layout(
    "broadcast",
    ("shape", "dims"),
    _broadcast_infer,
    _broadcast_view,
    _broadcast_transpose,
    lambda size, attrs: {"shape": (size, *attrs["shape"]), "dims": (0, *shifted(attrs["dims"]))},
)


# -- slice, flip, pad


def slice_shape(prim: str, x: ArrayType, attrs: Attrs) -> tuple[int, ...]:
    """The shape of a slice, after a check of start, stop and step."""
    start, stop, step = attrs["start"], attrs["stop"], attrs["step"]
    need_lengths(prim, x, start=start, stop=stop, step=step)
    for axis, (low, high, by, extent) in enumerate(zip(start, stop, step, x.shape)):
        if not 0 <= low <= high <= extent or by < 1:
            raise ShapeError(
                f"{prim}: {low}:{high}:{by} on axis {axis} of {x} is outside 0 <= start <= stop <= {extent}"
            )
    return tuple(-(-(high - low) // by) for low, high, by in zip(start, stop, step))


def numpy_slices(attrs: Attrs) -> tuple[Any, ...]:
    """The index for NumPy; the Ellipsis keeps x[...] of a 0-d array a view."""
    return (*(slice(*s) for s in zip(attrs["start"], attrs["stop"], attrs["step"])), ...)


def batched_slices(size: int, attrs: Attrs) -> dict[str, Any]:
    return {"start": (0, *attrs["start"]), "stop": (size, *attrs["stop"]), "step": (1, *attrs["step"])}


def _slice_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    return (types[0].with_shape(slice_shape("slice", types[0], attrs)),)


def _slice_transpose(b: Builder, ct: Value, type: ArrayType, attrs: Attrs) -> Value:
    """Zeros around and between the elements."""
    if ct.type.size == 0:
        return b.zeros(type)
    ends = [low + (count - 1) * by + 1 for low, by, count in zip(attrs["start"], attrs["step"], ct.shape)]
    high = tuple(extent - end for extent, end in zip(type.shape, ends))
    return b.pad(ct, low=tuple(attrs["start"]), high=high, interior=tuple(by - 1 for by in attrs["step"]))


_layout(
    "slice",
    ("start", "stop", "step"),
    _slice_infer,
    lambda x, attrs: x[numpy_slices(attrs)],
    _slice_transpose,
    batched_slices,
)


def _flip_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_axes("flip", attrs["axes"], types[0])
    return (types[0],)


_layout(
    "flip",
    ("axes",),
    _flip_infer,
    lambda x, attrs: x[(*(np.s_[::-1] if a in attrs["axes"] else np.s_[:] for a in range(x.ndim)), ...)],
    lambda b, ct, type, attrs: b.flip(ct, axes=attrs["axes"]),
    lambda size, attrs: {"axes": shifted(attrs["axes"])},
)


def _pad_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    (x,), low, high, interior = types, attrs["low"], attrs["high"], attrs["interior"]
    need_lengths("pad", x, low=low, high=high, interior=interior)
    if min((*low, *high, *interior), default=0) < 0:
        raise ShapeError(f"pad: low={low}, high={high}, interior={interior} of {x} must not be negative")
    extents = [n + max(n - 1, 0) * inner for n, inner in zip(x.shape, interior)]
    return (x.with_shape(tuple(a + n + c for a, n, c in zip(low, extents, high))),)


def _inside_of_pad(type: ArrayType, attrs: Attrs) -> dict[str, tuple[int, ...]]:
    """The slice of a pad's result that holds the operand."""
    step = tuple(inner + 1 for inner in attrs["interior"])
    spans = [(n - 1) * by + 1 if n else 0 for n, by in zip(type.shape, step)]
    start = tuple(attrs["low"])
    return {"start": start, "stop": tuple(a + n for a, n in zip(start, spans)), "step": step}


def _pad_view(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    type = ArrayType(x.shape, x.dtype)
    (result,) = _pad_infer([type], attrs, ())
    out = np.zeros(result.shape, x.dtype)
    out[numpy_slices(_inside_of_pad(type, attrs))] = x
    return out


_layout(
    "pad",
    ("low", "high", "interior"),
    _pad_infer,
    _pad_view,
    lambda b, ct, type, attrs: b.slice(ct, **_inside_of_pad(type, attrs)),
    lambda size, attrs: {key: (0, *attrs[key]) for key in ("low", "high", "interior")},
)


# -- concat


def _concat_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    if not types:
        raise VerifyError("concat needs at least one operand")
    first, axis = types[0], attrs["axis"]
    need_axis("concat", axis, first)
    for other in types[1:]:
        same = other.ndim == first.ndim and other.dtype == first.dtype
        if not same or any(a != axis and m != n for a, (m, n) in enumerate(zip(first.shape, other.shape))):
            raise ShapeError(f"concat: {other} does not fit {first} outside axis {axis}")
    extent = sum(t.shape[axis] for t in types)
    return (first.with_shape((*first.shape[:axis], extent, *first.shape[axis + 1 :])),)


def _concat_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    axis, offset = attrs["axis"], 0
    out: list[Maybe] = []
    for operand, type in zip(operands, types):
        if operand is None:
            start = tuple(offset if a == axis else 0 for a in range(type.ndim))
            stop = tuple(low + extent for low, extent in zip(start, type.shape))
            out.append(b.slice(ct, start=start, stop=stop, step=(1,) * type.ndim))
        else:
            out.append(None)
        offset += type.shape[axis]
    return out


register(
    Primitive(
        "concat", "layout", _concat_infer,
        lambda arrays, attrs, regions: [np.concatenate(arrays, axis=attrs["axis"])],
        linear_jvp("concat"), linear_transpose(_concat_transpose),
        batch_shifted("concat", lambda size, attrs: {"axis": attrs["axis"] + 1}), attrs=("axis",),
    )
)  # fmt: skip

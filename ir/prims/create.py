"""Primitives that make arrays from attributes alone: full and iota."""

from __future__ import annotations

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError
from nufunc.ir.graph import Attrs
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import Arrays, Regions, Types, need_axis, need_count
from nufunc.ir.types import ArrayType, dtype_name


def _made(prim: str, types: Types, attrs: Attrs) -> ArrayType:
    need_count(prim, types, 0)
    dtype_name(attrs["dtype"])
    if any(extent < 0 for extent in attrs["shape"]):
        raise ShapeError(f"{prim}: shape {attrs['shape']} has a negative extent")
    return ArrayType(tuple(attrs["shape"]), attrs["dtype"])


def _full_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    if not isinstance(attrs["value"], (bool, int, float, complex)):
        raise DTypeError(f"full: the value must be a Python number, not {type(attrs['value']).__name__}")
    return (_made("full", types, attrs),)


def _full_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    return [np.full(attrs["shape"], attrs["value"], attrs["dtype"])]


def _iota_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    result = _made("iota", types, attrs)
    need_axis("iota", attrs["axis"], result)
    return (result,)


def _iota_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    shape, axis = attrs["shape"], attrs["axis"]
    index = np.arange(shape[axis]).astype(attrs["dtype"])
    return [np.broadcast_to(index.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape).copy()]


register(
    Primitive(
        "full", "create", _full_infer, _full_evaluate,
        attrs=("value", "shape", "dtype"), differentiable=False, cheap=True,
    )
)  # fmt: skip
register(
    Primitive(
        "iota", "create", _iota_infer, _iota_evaluate,
        attrs=("shape", "dtype", "axis"), differentiable=False, cheap=True,
    )
)  # fmt: skip

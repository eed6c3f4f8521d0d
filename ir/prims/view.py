"""Views and writes of traced graphs: results that alias their operand, and a store into its memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError, VerifyError
from nufunc.ir.graph import Attrs
from nufunc.ir.primitive import Infer, Primitive, get, register
from nufunc.ir.prims import layout
from nufunc.ir.prims.kinds import Arrays, Regions, Types, need_count
from nufunc.ir.types import ArrayType

Show = Callable[[np.ndarray, Attrs], np.ndarray]


def _view(name: str, infer: Infer, show: Show, attrs: tuple[str, ...] = ()) -> None:
    """Register a view; `show` gives it of an array of NumPy."""

    def evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
        (x,) = arrays
        out = show(x, attrs)
        if x.size and out.size and not np.may_share_memory(out, x):
            raise VerifyError(f"{name}: an array of strides {x.strides} has no such view; it would be a copy")
        return [out]

    register(Primitive(name, "view", infer, evaluate, attrs=attrs))


for _name in ("slice", "transpose", "reshape", "broadcast", "flip"):
    _view(f"view_{_name}", layout.INFER[_name], layout.VIEWS[_name], get(_name).attrs)
_view("view_real", get("real").infer, lambda x, attrs: x.real)
_view("view_imag", get("imag").infer, lambda x, attrs: x.imag)
_view("view_bitcast", get("bitcast").infer, lambda x, attrs: x.view(attrs["dtype"]), ("dtype",))


def diagonal_length(shape: tuple[int, ...], offset: int) -> int:
    """How many elements the diagonal of the last two axes has, `offset` columns to the right of the main one."""
    rows, columns = shape[-2:]
    return max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)


def _diagonal_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("view_diagonal", types, 1)
    if types[0].ndim < 2:
        raise ShapeError(f"view_diagonal: {types[0]} has fewer than two axes")
    return (types[0].with_shape((*types[0].shape[:-2], diagonal_length(types[0].shape, attrs["offset"]))),)


def _diagonal(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    part = np.diagonal(x, attrs["offset"], -2, -1)
    part.flags.writeable = x.flags.writeable  # NumPy's own is read-only
    return part


_view("view_diagonal", _diagonal_infer, _diagonal, ("offset",))


def _write_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("write", types, 2)
    target, value = types
    if target.shape != value.shape:
        raise ShapeError(f"write: {value} does not fit the target {target}")
    if target.dtype != value.dtype:
        raise DTypeError(f"write: {value} has another dtype than the target {target}")
    return ()


def _write_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    target, value = arrays
    target[...] = value
    return []


register(Primitive("write", "write", _write_infer, _write_evaluate))

"""x[mask] with a traced mask: assignment is a select; reading has no static shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.ir.errors import ShapeError, UnsupportedError
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, fail, is_scalar, value_of
from nufunc.tracer.np_index_parse import Item
from nufunc.tracer.np_indexing import assigned, basic_view
from nufunc.tracer.trace import require


def select_items(x: Array, items: list[Item]) -> Array:
    """Reading through a traced mask."""
    raise fail(
        UnsupportedError,
        "x[mask] with a traced mask has no static shape: use np.where(mask, x, y), or reduce with where=mask",
    )


def assign_items(x: Array, items: list[Item], value: Any) -> None:
    """x[..., mask, ...] = value, where the value does not vary along the selected elements."""
    others = {item.kind for item in items} - {"mask", "slice", "new", "int"}
    masks = [item for item in items if item.kind == "mask"]
    if others or len(masks) > 1 or ("int" in {i.kind for i in items}):
        raise fail(UnsupportedError, "a traced mask beside other indices; use np.where(mask, new, x)")
    mask: Array = masks[0].value
    y = basic_view(x, items)
    place = items.index(masks[0])
    trace = require()
    b = trace.b
    rest = y.ndim - place - mask.ndim
    if not is_scalar(value):
        operand = as_array(value)
        if operand.ndim > rest:
            shape = operand.shape
            along = shape[len(shape) - rest - 1]
            if along != 1:
                raise fail(
                    UnsupportedError,
                    "x[mask] = values with one value per selected element needs a static mask; use "
                    "np.where(mask, values, x)",
                )
            before = shape[: len(shape) - rest - 1]
            value = operand.reshape((*before, *(1,) * mask.ndim, *shape[len(shape) - rest :]))
    stored = assigned(value, y.dtype, y.shape)
    dims = tuple(range(place, place + mask.ndim))
    spread = value_of(mask)
    if spread.shape != y.shape:
        spread = b.broadcast(spread, shape=y.shape, dims=dims)
    trace.write(y, b.select(spread, stored, value_of(y)))


__all__ = ["ShapeError", "assign_items", "np", "select_items"]

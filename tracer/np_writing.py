"""Functions that write to an array: copyto, put and its kin, place, putmask, fill_diagonal, and ufunc.at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError
from nufunc.ir.promotion import can_cast
from nufunc.ir.types import BOOL, INT64, kind_of
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import (
    as_array,
    broadcast_shapes,
    builder,
    fail,
    is_scalar,
    normal_axis,
    result_dtype,
    value_of,
    wrap,
)
from nufunc.tracer.np_index_parse import Item, parse
from nufunc.tracer.np_indexing import advanced_indices, basic_view, repeated, scatter
from nufunc.tracer.np_misc import along_key, clipped_index
from nufunc.tracer.np_misc import where as choose_where
from nufunc.tracer.trace import require

_RANK = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}


def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    """numpy.copyto."""
    target, source = as_array(dst), as_array(src)
    if source.weak and casting != "unsafe" and _RANK[source.dtype.kind] > _RANK[kind_of(target.dtype)]:
        raise fail(
            DTypeError, f"Cannot cast a scalar from {source.dtype!r} to {target.dtype!r} by the rule '{casting}'"
        )
    if not source.weak and not can_cast(source.dtype, target.dtype, casting):
        raise fail(
            DTypeError,
            f"Cannot cast array data from {source.dtype!r} to {target.dtype!r} according to the rule "
            f"'{casting}'",
        )
    if where is True:
        target[...] = source
        return
    mask = as_array(where)
    if mask.dtype != BOOL:
        raise fail(DTypeError, f"where must be a bool array, not {mask.dtype}")
    if broadcast_shapes(target.shape, mask.shape) != target.shape:
        raise fail(ShapeError, f"could not broadcast where mask from shape {mask.shape} into shape {target.shape}")
    target[...] = choose_where(mask, source.astype(target.dtype), target)


def put_along_axis(arr: Any, indices: Any, values: Any, axis: Any) -> None:
    """numpy.put_along_axis."""
    x, index = as_array(arr), as_array(indices)
    if axis is None:
        x.flat[index] = values
        return
    x[along_key(x, index, normal_axis(axis, x.ndim))] = values


def put(a: Any, ind: Any, v: Any, mode: str = "raise") -> None:
    """numpy.put: values are repeated as needed; of repeated indices the last one wins."""
    x = as_array(a)
    index = clipped_index(ind, x.size, mode).reshape(-1)
    values = as_array(v).reshape(-1)
    if not index.size or not values.size:
        return
    x.flat[index] = repeated(values, index.size)


def place(arr: Any, mask: Any, vals: Any) -> None:
    """numpy.place: the n-th place where the mask holds gets the n-th value, repeated as needed."""
    x, values = as_array(arr), as_array(vals).reshape(-1)
    if isinstance(vals, (Array, np.ndarray)) and not values.weak and not can_cast(values.dtype, x.dtype, "safe"):
        raise fail(
            DTypeError, f"Cannot cast array data from {values.dtype!r} to {x.dtype!r} according to the rule 'safe'"
        )
    chosen = as_array(mask).astype(BOOL).reshape(-1)
    if chosen.size != x.size:
        raise fail(ShapeError, "place: mask and data must be the same size")
    if not values.size:
        raise fail(ShapeError, "Cannot insert from an empty array!")
    if not x.size:
        return
    order = chosen.astype(INT64).cumsum() - 1
    stored = values[order % values.size].reshape(x.shape)
    x[...] = choose_where(chosen.reshape(x.shape), stored.astype(x.dtype), x)


def putmask(a: Any, mask: Any, values: Any) -> None:
    """numpy.putmask: where the mask holds, a[n] = values[n] in flat order, values repeated as needed."""
    x, chosen = as_array(a), as_array(mask)
    if chosen.size != x.size:
        raise fail(ShapeError, "putmask: mask and data must be the same size")
    line = as_array(values).reshape(-1)
    if isinstance(values, (Array, np.ndarray)) and not line.weak and not can_cast(line.dtype, x.dtype, "safe"):
        raise fail(DTypeError, f"Cannot cast array data from {line.dtype!r} to {x.dtype!r} by the rule 'safe'")
    if not line.size or not x.size:
        return
    stored = repeated(line, x.size)
    stored = stored.reshape(x.shape) if stored.size == x.size else stored.reshape(())
    x[...] = choose_where(chosen.reshape(x.shape), stored.astype(x.dtype), x)


def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    """numpy.fill_diagonal."""
    x = as_array(a)
    if x.ndim < 2:
        raise fail(ShapeError, "array must be at least 2-d")
    end = None
    if x.ndim == 2:
        step = x.shape[1] + 1
        if not wrap:
            end = x.shape[1] * x.shape[1]
    else:
        if len(set(x.shape)) > 1:
            raise fail(ShapeError, "All dimensions of input must be of equal length")
        step = 1 + int(np.cumprod(x.shape[:-1]).sum())
    x.flat[:end:step] = val


def choose(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Any:
    """numpy.choose: from the arrays `choices`, at each place the one whose number stands in `a`."""
    from nufunc.tracer.np_core import finish
    from nufunc.tracer.np_join import stack
    from nufunc.tracer.np_shape import broadcast_arrays

    kind = result_dtype(*[x if is_scalar(x) else as_array(x) for x in choices])
    number, *rest = broadcast_arrays(a, *choices)
    rest = [x.astype(kind) for x in rest]
    table = stack(rest)
    index = clipped_index(number.reshape(-1), len(rest), mode)
    line = table.reshape(len(rest), -1)
    chosen = line[index, require().constant(np.arange(line.shape[1]))]
    return finish(builder().reshaped(value_of(chosen), number.shape), out, "choose")


# -- ufunc.at


def ufunc_at(ufunc: Any, a: Any, indices: Any, operand: Any) -> None:
    """ufunc.at(a, indices, operand): every index in turn, so that repeated ones see what was stored before."""
    original = ufunc.original
    if original.nout != 1:
        raise fail(ShapeError, "Only single output ufuncs supported at this time")
    if operand is None and original.nin == 2:
        raise fail(ShapeError, "second operand needed for ufunc")
    if operand is not None and original.nin == 1:
        raise fail(ShapeError, "second operand provided when ufunc is unary")
    x = as_array(a)
    items, _ = parse(x, indices)
    kinds = {item.kind for item in items}
    if "mask" in kinds:
        _at_mask(ufunc, x, indices, operand)
    elif "array" not in kinds:
        x[indices] = _computed(ufunc, x, x[indices], operand)  # no index occurs twice
    elif ufunc.__name__ in ("add", "subtract") and x.dtype != BOOL:
        _accumulate(ufunc, x, items, operand)
    else:
        _one_by_one(ufunc, x, items, operand)


def _computed(ufunc: Any, x: Array, part: Any, operand: Any) -> Any:
    """The ufunc of a part of x, cast to its dtype by the rule for outputs."""
    result = ufunc(part) if operand is None else ufunc(part, operand)
    if not can_cast(result.dtype, x.dtype, "same_kind"):
        raise fail(
            DTypeError,
            f"Cannot cast ufunc '{ufunc.__name__}' output from {result.dtype!r} to {x.dtype!r} with casting rule "
            "'same_kind'",
        )
    return result


def _at_mask(ufunc: Any, x: Array, mask: Any, operand: Any) -> None:
    """A traced mask names no element twice; values come one per selected element, or one for all."""
    if operand is None or is_scalar(operand) or as_array(operand).size == 1:
        x[mask] = _computed(ufunc, x, x[mask], operand if operand is None else _single(operand))
        return
    spread = x.copy().astype(as_array(operand).dtype)
    spread[mask] = operand
    result = _computed(ufunc, x, x, spread)
    chosen = as_array(mask)
    shape = chosen.shape + (1,) * (x.ndim - chosen.ndim)
    x[...] = choose_where(chosen.reshape(shape), result.astype(x.dtype), x)


def _single(operand: Any) -> Any:
    return operand if is_scalar(operand) else as_array(operand).reshape(())


def _accumulate(ufunc: Any, x: Array, items: list[Item], operand: Any) -> None:
    dtype = np.min_scalar_type(operand) if is_scalar(operand) else as_array(operand).dtype
    if not can_cast(dtype, x.dtype, "same_kind"):
        raise fail(
            DTypeError, f"np.{ufunc.__name__}.at cannot cast its operand to {x.dtype} with casting rule 'same_kind'"
        )
    value = operand if ufunc.__name__ == "add" else -as_array(operand)
    y = basic_view(x, items)
    axes, indices, place, inside, lead = advanced_indices(y, items)
    positions = list(range(place, place + len(lead)))
    require().write(y, scatter(y, axes, indices, positions, lead, inside, value, "scatter_add"))


def _one_by_one(ufunc: Any, x: Array, items: list[Item], operand: Any) -> None:
    """A loop over the places that the index arrays name, in C order."""
    from nufunc.tracer.control import scan

    y = basic_view(x, items)
    axes, _, place, _, shape = advanced_indices(y, items)
    b = builder()
    given = [value_of(as_array(item.value)) for item in items if item.kind in ("dynamic", "array")]
    lines = [wrap(b.reshaped(b.broadcast_to(index, shape), (_size(shape),)), scalar=False) for index in given]
    kept = tuple(n for k, n in enumerate(y.shape) if k not in axes)
    one = operand is None or is_scalar(operand) or as_array(operand).size == 1
    rows = () if one else (_operand_rows(operand, kept, place, shape),)
    single = None if operand is None or not one else _single(operand)

    def body(carry: Any, line: tuple[Any, ...]) -> tuple[Any, None]:
        key: list[Any] = [slice(None)] * y.ndim
        for k, index in zip(axes, line):
            key[k] = index
        y[tuple(key)] = _computed(ufunc, x, y[tuple(key)], single if one else line[-1])
        return carry, None

    if _size(shape):
        scan(body, 0, (*lines, *rows))


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _operand_rows(operand: Any, kept: tuple[int, ...], place: int, shape: tuple[int, ...]) -> Array:
    """One row of the operand per place that the index arrays name."""
    whole = (*kept[:place], *shape, *kept[place:])
    source = as_array(operand)
    b = builder()
    value = b.broadcast_to(value_of(source), whole)
    lead = tuple(range(place, place + len(shape)))
    perm = (*lead, *(k for k in range(len(whole)) if k not in lead))
    return wrap(b.reshaped(b.transposed(value, perm), (_size(shape), *kept)), scalar=False)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    copyto, put, put_along_axis, place, putmask, fill_diagonal, choose,
)  # fmt: skip

"""Methods of ufuncs: reduce, accumulate and reduceat of any ufunc of two operands.

What a primitive reduces (sums, products, extremes, any and all) goes there. Of the others, those that may be
regrouped are folded by halves, the rest from the first element to the last: written out where there are few, as a scan
where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.errors import BoundsError, DTypeError, ShapeError
from nufunc.ir.types import BOOL, INT64, is_float
from nufunc.tracer import np_cumulate, np_reduce
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.np_checks import keepdims as check_keepdims
from nufunc.tracer.np_core import (
    as_array,
    builder,
    checked,
    elementwise_strides,
    fail,
    finish,
    normal_axis,
    out_of,
    value_of,
    wrap,
)
from nufunc.tracer.np_reduce import NO_VALUE, exact_out, given, mask_of, masked, reduction_axes
from nufunc.tracer.trace import require

# Regrouping changes the rounding at most; of these NumPy reduces several axes at once too (but lcm).
_REGROUPED = frozenset(
    "fmax fmin maximum minimum logaddexp logaddexp2 hypot gcd lcm bitwise_and bitwise_or bitwise_xor logical_and "
    "logical_or logical_xor add multiply".split()
)
_SEVERAL_AXES = _REGROUPED - {"lcm"}
_IDEMPOTENT = frozenset("fmax fmin maximum minimum bitwise_and bitwise_or logical_and logical_or".split())
_BITS = {f"bitwise_{op}": (f"reduce_{op}", f"cum{op}") for op in ("and", "or", "xor")}
_WRITTEN_OUT = 8  # steps; more become a loop
_MASKED = 4096  # elements times segments up to which each segment looks at all elements


def loop_dtype(ufunc: Any, x: Array, dtype: Any) -> np.dtype:
    """The dtype in which the ufunc reduces x."""
    if ufunc.nin != 2 or ufunc.nout != 1:
        raise ValueError(f"{ufunc.__name__}: reductions are of ufuncs with two operands and one result")
    if dtype is not None:
        return check_dtype(dtype)
    if ufunc.__name__.startswith("logical_"):
        return BOOL
    if ufunc.__name__ in ("add", "multiply"):
        return np_reduce.accumulator(x.dtype)
    try:
        kinds = promotion.resolve_dtypes(ufunc.original, (x.dtype, x.dtype, None), reduction=True)
    except TypeError as error:
        raise fail(DTypeError, f"{ufunc.__name__}.reduce: {error}") from None
    return checked(kinds[0])


def _identity(ufunc: Any, kind: np.dtype) -> Any:
    """What does not change a result, or None."""
    identity = ufunc.identity
    return None if identity is None else np.asarray(identity).astype(kind)[()]


def _step(ufunc: Any, kind: np.dtype) -> Callable[[Array, Array], Array]:
    """One application of the ufunc, in the dtype of the reduction."""

    def step(a: Array, b: Array) -> Array:
        result: Array = ufunc(a, b)
        return result if result.dtype == kind else result.astype(kind)

    return step


def reduce(
    ufunc: Any,
    array: Any,
    axis: Any = 0,
    dtype: Any = None,
    out: Any = None,
    keepdims: bool = False,
    initial: Any = NO_VALUE,
    where: Any = NO_VALUE,
) -> Array:
    """ufunc.reduce."""
    x, name = as_array(array), ufunc.__name__
    check_keepdims(keepdims)
    direct = _direct(name, x, axis, dtype, out, keepdims, initial, where)
    if direct is not None:
        return direct
    kind = loop_dtype(ufunc, x, dtype)
    axes = reduction_axes(axis, x.ndim)
    if len(axes) > 1 and name not in _SEVERAL_AXES:
        raise fail(
            ShapeError, f"reduction operation '{name}' is not reorderable, so at most one axis may be specified"
        )
    rows = _rows(x.astype(kind), axes)
    mask = None
    if masked(where):
        mask = _rows(_mask(where, x.shape), axes)
    result = _folded(ufunc, rows, kind, initial, mask)
    if keepdims:
        result = result.reshape(tuple(1 if k in axes else n for k, n in enumerate(x.shape)))
    kept = [k for k in range(x.ndim) if k not in axes] if not keepdims else []
    strides = np_reduce.result_order(x, axes, keepdims) if kept else None
    exact_out(value_of(result), out, name)
    return finish(value_of(result), out, name, strides=strides)


def _direct(
    name: str, x: Array, axis: Any, dtype: Any, out: Any, keepdims: bool, initial: Any, where: Any
) -> Array | None:
    """The reductions that are primitives, or None."""
    if name in ("add", "multiply"):
        total = np_reduce.sum if name == "add" else np_reduce.prod
        return total(x, axis, dtype, out, keepdims, initial, where)
    if name in ("maximum", "minimum") and x.dtype.kind != "c" and dtype is None:
        extreme = np_reduce.max if name == "maximum" else np_reduce.min
        return extreme(x, axis, out, keepdims, initial, where)
    of_bools = name in ("bitwise_and", "bitwise_or") and x.dtype == BOOL
    if (name in ("logical_and", "logical_or") or of_bools) and dtype is None and not given(initial):
        every = np_reduce.all if name.endswith("and") else np_reduce.any
        return every(x, axis, out, keepdims, where=where)
    plain = dtype is None and not given(initial) and not masked(where)
    if name in ("fmax", "fmin") and is_float(x.dtype) and plain:
        return _without_nan(name, x, axis, out, keepdims) if x.size else None
    if name in _BITS and x.dtype.kind in "iu" and plain:
        axes = reduction_axes(axis, x.ndim)
        value = builder().emit(_BITS[name][0], (value_of(x),), {"axes": tuple(axes)})[0]
        if keepdims:
            value = builder().reshaped(value, tuple(1 if k in axes else n for k, n in enumerate(x.shape)))
        strides = np_reduce.result_order(x, axes, keepdims) if value.shape else None
        exact_out(value, out, name)
        return finish(value, out, name, strides=strides)
    return None


def _without_nan(name: str, x: Array, axis: Any, out: Any, keepdims: bool) -> Array:
    """The extreme of what is no NaN; NaN where there is nothing else."""
    b, axes = builder(), tuple(reduction_axes(axis, x.ndim))
    value = value_of(x)
    nan = b.isnan(value)
    numbers = b.select(nan, b.like(value, -np.inf if name == "fmax" else np.inf), value)
    found = b.emit("reduce_max" if name == "fmax" else "reduce_min", (numbers,), {"axes": axes})[0]
    found = b.select(b.reduce_and(nan, axes=axes), b.like(found, np.nan), found)
    if keepdims:
        found = b.reshaped(found, tuple(1 if k in axes else n for k, n in enumerate(x.shape)))
    strides = np_reduce.result_order(x, axes, keepdims) if found.shape else None
    exact_out(found, out, name)
    return finish(found, out, name, strides=strides)


def _mask(where: Any, shape: tuple[int, ...]) -> Array:
    from nufunc.tracer.np_shape import broadcast_to

    return broadcast_to(mask_of(where), shape)


def _rows(x: Array, axes: Sequence[int]) -> Array:
    """The axes that go, as one axis in front."""
    b = builder()
    rest = tuple(k for k in range(x.ndim) if k not in axes)
    value = b.transposed(value_of(x), (*axes, *rest))
    count = int(np.prod([x.shape[k] for k in axes], dtype=np.int64))
    return wrap(b.reshaped(value, (count, *(x.shape[k] for k in rest))), scalar=False)


def _folded(ufunc: Any, rows: Array, kind: np.dtype, initial: Any, mask: Array | None) -> Array:
    """All rows joined into one."""
    step, count = _step(ufunc, kind), rows.shape[0]
    identity = _identity(ufunc, kind)
    start = initial if given(initial) else None
    if mask is not None:
        if start is None and identity is None:
            raise fail(
                ShapeError,
                f"reduction operation '{ufunc.__name__}' does not have an identity, so to use a where mask one has to "
                "specify 'initial'",
            )
        return _fold_masked(step, rows, mask, _filled(identity if start is None else start, rows, kind))
    if count == 0:
        if start is None and identity is None:
            raise fail(ShapeError, f"zero-size array to reduction operation {ufunc.__name__} which has no identity")
        return _filled(identity if start is None else start, rows, kind)
    if ufunc.__name__ in _REGROUPED and ufunc.__name__ != "gcd":  # which comes to 1 soon, in order
        total = _by_halves(step, rows)
        return total if start is None else step(_filled(start, rows, kind), total)
    first, rest = (rows[0], rows[1:]) if start is None else (_filled(start, rows, kind), rows)
    if ufunc.__name__ == "subtract":
        difference: Array = first - np_reduce.sum(rest, 0, kind)
        return difference
    return _in_order(step, first, rest)


def _filled(value: Any, rows: Array, kind: np.dtype) -> Array:
    """A row of one value."""
    from nufunc.tracer.np_shape import broadcast_to

    if isinstance(value, str):
        raise fail(ShapeError, f"could not convert string to {kind}: {value!r}")
    return broadcast_to(as_array(value).astype(kind), rows.shape[1:])


def _by_halves(step: Callable[[Array, Array], Array], rows: Array) -> Array:
    """Halves joined until one row is left."""
    while (count := rows.shape[0]) > 1:
        half = count // 2
        joined = step(rows[:half], rows[half : 2 * half])
        if count % 2:
            from nufunc.tracer.np_join import concatenate

            joined = concatenate([joined, rows[-1:]]) if half > 1 else step(joined, rows[-1:])
        rows = joined
    return rows[0]


def _in_order(step: Callable[[Array, Array], Array], first: Array, rest: Array) -> Array:
    """From the first row to the last."""
    if rest.shape[0] <= _WRITTEN_OUT:
        for row in rest:
            first = step(first, row)
        return first
    from nufunc.tracer.control import scan

    total: Array = scan(lambda carry, row: (step(carry, row), None), first, rest)[0]
    return total


def _fold_masked(step: Callable[[Array, Array], Array], rows: Array, mask: Array, first: Array) -> Array:
    """From the first row to the last, leaving out what the mask does."""
    from nufunc.tracer.control import scan
    from nufunc.tracer.np_misc import where

    def join(total: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        row, chosen = item
        return where(chosen, step(total, where(chosen, row, total)), total), None

    if rows.shape[0] <= _WRITTEN_OUT:
        for item in zip(rows, mask):
            first, _ = join(first, item)
        return first
    total: Array = scan(join, first, (rows, mask))[0]
    return total


def accumulate(ufunc: Any, array: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Array:
    """ufunc.accumulate."""
    x, name = as_array(array), ufunc.__name__
    if x.ndim == 0:
        raise fail(DTypeError, "cannot accumulate on a scalar")
    if axis is None and x.ndim > 1:
        raise fail(ShapeError, "accumulate does not allow multiple axes")
    index = 0 if axis is None else normal_axis(axis, x.ndim)
    if name in ("add", "multiply"):
        return np_cumulate.cumulated("cumsum" if name == "add" else "cumprod", x, index, dtype, out)
    return accumulated(ufunc, x, index, loop_dtype(ufunc, x, dtype), out)


def accumulated(ufunc: Any, x: Array, index: int, kind: np.dtype, out: Any) -> Array:
    """What the ufunc makes of each element and those before it, one after the other in this dtype."""
    y, name = x.astype(kind), ufunc.__name__
    strides = elementwise_strides(x.shape, [x])
    if name in ("maximum", "minimum") and kind.kind != "c":
        prim = "cummax" if name == "maximum" else "cummin"
        value = builder().emit(prim, (value_of(y),), {"axis": index, "reverse": False})[0]
        return finish(value, out, name, scalar=False, strides=strides)
    if name in _BITS and kind.kind in "iub":
        value = builder().emit(_BITS[name][1], (value_of(y),), {"axis": index, "reverse": False})[0]
        return finish(value, out, name, scalar=False, strides=strides)
    if name == "subtract":  # a - b is a + (-b), to the last bit
        b, operand = builder(), value_of(y)
        place = b.iota(shape=y.shape, dtype=INT64, axis=index)
        signed = b.select(b.eq(place, b.like(place, 0)), operand, b.neg(operand))
        value = b.cumsum(signed, axis=index, reverse=False)
        return finish(value, out, name, scalar=False, strides=strides)
    rows = wrap(builder().moved(value_of(y), index, 0), scalar=False)
    totals = value_of(_running(_step(ufunc, kind), rows)) if rows.shape[0] else value_of(rows)
    return finish(builder().moved(totals, 0, index), out, name, scalar=False, strides=strides)


def _running(step: Callable[[Array, Array], Array], rows: Array) -> Array:
    """What each row and all before it make."""
    from nufunc.tracer.np_join import concatenate, stack

    if rows.shape[0] <= _WRITTEN_OUT:
        totals = [rows[0]]
        for row in rows[1:]:
            totals.append(step(totals[-1], row))
        return stack(totals)
    from nufunc.tracer.control import scan

    def join(total: Array, row: Array) -> tuple[Array, Array]:
        total = step(total, row)
        return total, total

    return concatenate([rows[:1], scan(join, rows[0], rows[1:])[1]])


# -- reduceat


def reduceat(ufunc: Any, array: Any, indices: Any, axis: int, dtype: Any, out: Any) -> Array:
    """ufunc.reduceat: from each index to the next; the element alone where the next one is not larger."""
    x, places = as_array(array), as_array(indices)
    if x.ndim == 0:
        raise fail(DTypeError, "cannot reduceat on a scalar")
    if places.dtype.kind not in "iub" and places.size:
        raise fail(DTypeError, f"Cannot cast indices from {places.dtype!r} to {INT64!r} by the rule 'safe'")
    if places.ndim != 1:
        raise fail(ShapeError, "object too deep for desired array" if places.ndim else "object of too small depth")
    if axis is None and x.ndim > 1:
        raise fail(ShapeError, "reduceat does not allow multiple axes")
    index = 0 if axis is None else normal_axis(axis, x.ndim)
    known = places.known
    if known is None or known.size > 64:
        result = _segments(ufunc, x, places, index, dtype)
    else:
        result = _pieces(ufunc, x, known.astype(np.int64).tolist(), index, dtype)
    return result if out_of(out) is None else finish(value_of(result), out, ufunc.__name__)


def _pieces(ufunc: Any, x: Array, starts: list[int], index: int, dtype: Any) -> Array:
    """One reduction for each static index."""
    from nufunc.tracer.np_join import concatenate

    outside = [i for i in starts if not 0 <= i < x.shape[index]]
    if outside:
        raise fail(BoundsError, f"index {outside[0]} out-of-bounds in {ufunc.__name__}.reduceat [0, {x.shape[index]})")
    parts, lead = [], (slice(None),) * index
    for first, last in zip(starts, [*starts[1:], x.shape[index]]):
        part = x[(*lead, slice(first, max(last, first + 1)))]
        parts.append(reduce(ufunc, part, axis=index, dtype=dtype, keepdims=True))
    if not parts:
        return x[(*lead, slice(0, 0))].astype(loop_dtype(ufunc, x, dtype))
    return concatenate(parts, index)


def _segments(ufunc: Any, x: Array, places: Array, index: int, dtype: Any) -> Array:
    """Traced indices, or many: where these are few, every segment reduces all rows, with the others left out; else each
    goes through its own.
    """
    from nufunc.tracer.np_join import concatenate
    from nufunc.tracer.np_misc import take, where

    kind, count = loop_dtype(ufunc, x, dtype), x.shape[index]
    rows = wrap(builder().moved(value_of(x.astype(kind)), index, 0), scalar=False)
    first = places.astype(INT64)
    starts = where(first < 0, count, first)  # a negative one is out of bounds here
    alone = take(rows, starts, axis=0)
    after = concatenate([first[1:], require().constant(np.array([count]))])
    if count * places.size > _MASKED or (ufunc.__name__ not in _IDEMPOTENT and _identity(ufunc, kind) is None):
        result = _one_by_one(_step(ufunc, kind), rows, starts, after, alone)
        return wrap(builder().moved(value_of(result), 0, index), scalar=False)
    at = require().constant(np.arange(count))[:, None]
    inside = (at >= first) & ((at < after) | (at == first))
    inside = inside.reshape((*inside.shape, *(1,) * (rows.ndim - 1)))
    neutral: Any = alone[None] if ufunc.__name__ in _IDEMPOTENT else _identity(ufunc, kind)
    own = (at == first).reshape(inside.shape)
    held = where(own, alone[None], rows[:, None])
    filled = where(inside, held, as_array(neutral)).astype(kind)
    result = reduce(ufunc, filled, axis=0, dtype=dtype)
    return wrap(builder().moved(value_of(result), 0, index), scalar=False)


def _one_by_one(
    step: Callable[[Array, Array], Array], rows: Array, starts: Array, after: Array, alone: Array
) -> Array:
    """Each segment from its first row to its last."""
    from nufunc.tracer.control import map, while_loop

    def segment(item: tuple[Array, Array, Array]) -> Array:
        start, end, first = item

        def join(state: tuple[Array, Array]) -> tuple[Array, Array]:
            at, total = state
            return at + 1, step(total, rows[at])

        result: Array = while_loop(lambda state: state[0] < end, join, (start + 1, first))[1]
        return result

    made: Array = map(segment, (starts, after, alone))
    return made

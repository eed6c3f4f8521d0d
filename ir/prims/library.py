"""Primitives that libraries compute: dot (general matrix product), sort and argsort."""

from __future__ import annotations

import math

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError, ShapeError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import (
    BOOLS,
    REALS,
    Arrays,
    Batched,
    Dims,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    batch_shifted,
    exact,
    fresh,
    linear_transpose,
    need_axis,
    need_count,
    need_dtype,
    shifted,
    summed_terms,
)
from nufunc.ir.prims.layout import inverse_permutation
from nufunc.ir.prims.reduce import take_along
from nufunc.ir.types import INT64, ArrayType

# -- dot


def dot_free_axes(attrs: Attrs, which: int, ndim: int) -> tuple[int, ...]:
    """The axes of an operand of dot (0 or 1) that are neither contracted nor batch axes."""
    taken = (*attrs["contract"][which], *attrs["batch"][which])
    return tuple(a for a in range(ndim) if a not in taken)


def _dot_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("dot", types, 2)
    x, y = types
    if x.dtype != y.dtype:
        raise DTypeError(f"dot: operands of different dtypes: {x}, {y}")
    for what, key in (("contracted", "contract"), ("batch", "batch")):
        if len(attrs[key][0]) != len(attrs[key][1]):
            raise ShapeError(f"dot: as many {what} axes of {x} as of {y} are needed: {attrs[key]}")
        for i, j in zip(*attrs[key]):
            need_axis("dot", i, x)
            need_axis("dot", j, y)
            if x.shape[i] != y.shape[j]:
                raise ShapeError(
                    f"dot: {what} extents differ: "
                    f"{x} axis {i} has {x.shape[i]}, {y} axis {j} has {y.shape[j]}"
                )
    for which, type in enumerate(types):
        named = (*attrs["contract"][which], *attrs["batch"][which])
        if len(set(named)) != len(named):
            raise ShapeError(f"dot: an axis of {type} is named twice: {named}")
    lead = tuple(x.shape[a] for a in attrs["batch"][0])
    free = [tuple(t.shape[a] for a in dot_free_axes(attrs, which, t.ndim)) for which, t in enumerate(types)]
    return (x.with_shape(lead + free[0] + free[1]),)


def _dot_evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    """numpy.matmul of both operands, arranged as [batch, free, contracted] and [batch, contracted, free]."""
    x, y = arrays
    lead = tuple(x.shape[a] for a in attrs["batch"][0])
    inner = math.prod(x.shape[a] for a in attrs["contract"][0])
    x_free, y_free = (dot_free_axes(attrs, which, v.ndim) for which, v in enumerate(arrays))
    rows, columns = tuple(x.shape[a] for a in x_free), tuple(y.shape[a] for a in y_free)
    left = x.transpose((*attrs["batch"][0], *x_free, *attrs["contract"][0]))
    right = y.transpose((*attrs["batch"][1], *attrs["contract"][1], *y_free))
    with np.errstate(all="ignore"):
        out = np.matmul(
            left.reshape((*lead, math.prod(rows), inner)), right.reshape((*lead, inner, math.prod(columns)))
        )
    return [out.reshape(lead + rows + columns)]


def _dot_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    (x, y), (tx, ty) = primals, tangents
    terms = [None if tx is None else b.dot(tx, y, **attrs), None if ty is None else b.dot(x, ty, **attrs)]
    return [summed_terms(b, terms)]


def _dot_transpose_one(b: Builder, ct: Value, other: Value, types: Types, attrs: Attrs, which: int) -> Value:
    """The cotangent of operand `which`: ct contracted with the other operand along that one's free axes."""
    target, rest = types[which], types[1 - which]
    lead = len(attrs["batch"][0])
    mine = dot_free_axes(attrs, which, target.ndim)
    others = dot_free_axes(attrs, 1 - which, rest.ndim)
    first = lead + (len(mine) if which == 0 else 0)  # where the other's free axes stand in ct
    ct_axes = tuple(range(first, first + len(others)))
    # The product's axes are batch, then my free ones and those that the other contracts (in their order there),
    # or the other way round: whichever needs no transposition.
    partner = dict(zip(attrs["contract"][1 - which], attrs["contract"][which]))
    inner = tuple(partner[a] for a in sorted(partner))
    batch, others_batch = tuple(range(lead)), tuple(attrs["batch"][1 - which])
    order = (*attrs["batch"][which], *inner, *mine)
    if order == tuple(range(target.ndim)):
        return b.dot(other, ct, contract=(others, ct_axes), batch=(others_batch, batch))
    back = b.dot(ct, other, contract=(ct_axes, others), batch=(batch, others_batch))
    return b.transposed(back, inverse_permutation((*attrs["batch"][which], *mine, *inner)))


def _dot_transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    x, y = operands
    return [
        None if y is None else _dot_transpose_one(b, ct, y, types, attrs, 0),
        None if x is None else _dot_transpose_one(b, ct, x, types, attrs, 1),
    ]


def _dot_batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
    """Both batched: one more batch axis. One batched: its axis is the first free one, moved to the front."""
    x, y = operands
    contract = tuple(axes if d is None else shifted(axes) for axes, d in zip(attrs["contract"], dims))
    batch = tuple(axes if d is None else shifted(axes) for axes, d in zip(attrs["batch"], dims))
    if None not in dims:
        return [b.dot(x, y, contract=contract, batch=((0, *batch[0]), (0, *batch[1])))], [0]
    out = b.dot(x, y, contract=contract, batch=batch)
    place = len(batch[0]) + (len(dot_free_axes(attrs, 0, x.ndim)) if dims[0] is None else 0)
    return [b.moved(out, place, 0)], [0]


register(
    Primitive(
        "dot", "library", _dot_infer, _dot_evaluate, _dot_jvp, linear_transpose(_dot_transpose), _dot_batch,
        attrs=("contract", "batch"),
    )
)  # fmt: skip


def matmul(b: Builder, x: Value, y: Value) -> Value:
    """The product of stacks of matrices, [..., n, k] and [..., k, m], with equal leading axes."""
    lead = tuple(range(x.ndim - 2))
    return b.dot(x, y, contract=((x.ndim - 1,), (y.ndim - 2,)), batch=(lead, lead))


# -- sort


def _sort_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("sort", types, 1)
    need_dtype("sort", types[0], BOOLS + REALS)
    need_axis("sort", attrs["axis"], types[0])
    return (types[0],)


def _argsort_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("argsort", types, 1)
    need_dtype("argsort", types[0], BOOLS + REALS)
    need_axis("argsort", attrs["axis"], types[0])
    return (types[0].with_dtype(INT64),)


def _sort_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    """The tangents in the order of the elements."""
    (x,), (t,) = primals, tangents
    return [None if t is None else take_along(b, t, b.argsort(x, **attrs), attrs["axis"])]


register(
    Primitive(
        "sort", "library", _sort_infer,
        lambda arrays, attrs, regions: [fresh(np.sort(arrays[0], axis=attrs["axis"], kind="stable"))],
        _sort_jvp, None, batch_shifted("sort", lambda size, attrs: {"axis": attrs["axis"] + 1}),
        attrs=("axis",),
    )
)  # fmt: skip
register(
    Primitive(
        "argsort", "library", _argsort_infer,
        lambda arrays, attrs, regions: [
            fresh(exact(np.argsort(arrays[0], axis=attrs["axis"], kind="stable"), INT64))
        ],
        None, None, batch_shifted("argsort", lambda size, attrs: {"axis": attrs["axis"] + 1}),
        attrs=("axis",), differentiable=False,
    )
)  # fmt: skip

"""Bits of bytes: pack_bits and unpack_bits along the last axis, as numpy.packbits has them."""

from __future__ import annotations

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ShapeError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.prims.composite import composite
from nufunc.ir.prims.kinds import BOOLS, Regions, Types, Values, axis_index, need_count, need_dtype
from nufunc.ir.types import ArrayType

_BYTE = np.dtype(np.uint8)


def _pack_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("pack_bits", types, 1)
    need_dtype("pack_bits", types[0], BOOLS)
    if not types[0].shape or types[0].shape[-1] % 8:
        raise ShapeError(f"pack_bits: the last axis of {types[0]} is no multiple of 8")
    return (ArrayType((*types[0].shape[:-1], types[0].shape[-1] // 8), _BYTE),)


def _places(b: Builder, like: Value, attrs: Attrs) -> Value:
    """How far each of eight bits is shifted."""
    place = b.astype(axis_index(b, like.shape, like.ndim - 1), _BYTE)
    return place if attrs["little"] else b.sub(b.like(place, 7), place)


def _pack_body(b: Builder, operands: Values, attrs: Attrs) -> list[Value]:
    (x,) = operands
    bits = b.reshaped(b.astype(x, _BYTE), (*x.shape[:-1], x.shape[-1] // 8, 8))
    return [b.reduce_sum(b.shift_left(bits, _places(b, bits, attrs)), axes=(x.ndim,))]


def _unpack_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("unpack_bits", types, 1)
    if types[0].dtype != _BYTE or not types[0].shape:
        raise ShapeError(f"unpack_bits: {types[0]} are no bytes along an axis")
    return (types[0].with_shape((*types[0].shape[:-1], 8 * types[0].shape[-1])),)


def _unpack_body(b: Builder, operands: Values, attrs: Attrs) -> list[Value]:
    (x,) = operands
    spread = b.broadcast(x, shape=(*x.shape, 8), dims=tuple(range(x.ndim)))
    bits = b.bit_and(b.shift_right(spread, _places(b, spread, attrs)), b.like(spread, 1))
    return [b.reshaped(bits, (*x.shape[:-1], 8 * x.shape[-1]))]


composite("pack_bits", _pack_infer, _pack_body, None, attrs=("little",), native=True, differentiable=False)
composite("unpack_bits", _unpack_infer, _unpack_body, None, attrs=("little",), native=True, differentiable=False)

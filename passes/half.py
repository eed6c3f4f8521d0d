"""float16 and bfloat16, whose operations are done in float32: the last pass before kernels are made.

What only moves elements moves halves; everything else widens its operands to float32, computes there, and rounds its
results to half precision, to even at ties: one operation after the other, as NumPy's loops do. Devices convert and
multiply matrices of halves themselves; for processors, arrays of halves become arrays of uint16 that hold the same
bits, after which no value has a dtype of 16 bits, and the conversions are integer arithmetic.

float64 becomes float16 with one rounding, as in NumPy, and bfloat16 by way of float32, as in ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.halves import MOVING, in_single
from nufunc.ir.types import FLOAT16, FLOAT32, FLOAT64, ArrayType, TapeType, is_bfloat16, is_half, tape_of

_BITS, _WORD = np.dtype(np.uint16), np.dtype(np.uint32)
_OF_DEVICES = frozenset(("full", "bitcast", "convert", "dot", "conv", "sort", "argsort"))  # which have these of halves


def widened_halves(graph: Graph) -> Graph:
    """The graph with halves only where they are stored, moved, sorted, converted, or multiplied by matrices."""
    if not any(_is_half(v.type) for v in _values(graph)):
        return graph
    b = Builder(graph.name, graph.stage)
    env: dict[Value, Value] = {p: b.param(p.type, p.hint) for p in graph.params}
    b.consts += graph.consts
    env.update((value, value) for value, _ in graph.consts)
    for node in graph.nodes:
        operands, regions = [env[o] for o in node.operands], [widened_halves(region) for region in node.regions]
        with b.at(node.loc):
            if _moves(node) or node.prim in _OF_DEVICES or primitive.get(node.prim).kind == "host":
                results: Sequence[Value] = b.emit(node.prim, operands, node.attrs, regions)
            elif node.prim == "nextafter":
                own, wide = [_cast(b, o, _BITS) for o in operands], [b.astype(o, FLOAT32) for o in operands]
                results = [_cast(b, _neighbours(b, own, wide, node.result.dtype), node.result.dtype)]
            else:
                wide = [b.astype(o, FLOAT32) if is_half(o.dtype) else o for o in operands]
                pairs = zip(b.emit(node.prim, wide, in_single(node.attrs), regions), node.results, strict=True)
                results = [b.astype(r, w.dtype) if is_half(w.dtype) else r for r, w in pairs]
        env.update(zip(node.results, results, strict=True))
    return b.build([env[o] for o in graph.outputs], graph.updates)


def _moves(node: Node) -> bool:
    """Whether a node takes and gives halves as they are."""
    if not any(_is_half(v.type) for v in (*node.operands, *node.results)):
        return True
    return node.prim in MOVING or primitive.get(node.prim).kind == "control" or bool(node.regions)


def without_halves(graph: Graph) -> Graph:
    """The graph with the bits of halves as uint16; parameters and outputs too."""
    if not any(_is_half(v.type) for v in _values(graph)):
        return graph
    b = Builder(graph.name, graph.stage)
    env: dict[Value, Value] = {p: b.param(_stored(p.type), p.hint) for p in graph.params}
    for value, array in graph.consts:
        env[value] = Value(_stored(value.type), value.hint)
        b.consts.append((env[value], array.view(_BITS) if is_half(array.dtype) else array))
    for node in graph.nodes:
        with b.at(node.loc):
            results = _node(b, node, [env[o] for o in node.operands])
        env.update(zip(node.results, results, strict=True))
    return b.build([env[o] for o in graph.outputs], graph.updates)


def _values(graph: Graph) -> list[Value]:
    """All values of a graph and its regions."""
    found = [*graph.params, *(v for v, _ in graph.consts)]
    for node in graph.nodes:
        found += node.results
        for region in node.regions:
            found += _values(region)
    return found


def _is_half(type: ArrayType) -> bool:
    return _is_half(type.item) if isinstance(type, TapeType) else is_half(type.dtype)


def _stored(type: ArrayType) -> ArrayType:
    if not _is_half(type):
        return type
    return tape_of(_stored(type.item), type.shape) if isinstance(type, TapeType) else type.with_dtype(_BITS)


def _node(b: Builder, node: Node, operands: list[Value]) -> Sequence[Value]:
    regions = [without_halves(region) for region in node.regions]
    halves = [o.dtype if is_half(o.dtype) else None for o in node.operands]
    if node.prim == "full" and is_half(node.result.dtype):
        bits = np.array(node.attrs["value"], node.result.dtype).view(_BITS).item()
        return b.emit("full", (), {**node.attrs, "value": bits, "dtype": _BITS})
    if node.prim == "bitcast" and (halves[0] or is_half(node.result.dtype)):
        return b.emit("bitcast", operands, {"dtype": _BITS if is_half(node.result.dtype) else node.attrs["dtype"]})
    if _moves(node):
        return b.emit(node.prim, operands, _retyped(node), regions)
    if node.prim == "callback":
        return b.emit("callback", operands, {"host": node.attrs["host"].of_bits(_stored)})
    if node.prim == "convert":
        return [_converted(b, operands[0], halves[0], node.result.dtype)]
    wide = [_widened(b, o, half) if half else o for o, half in zip(operands, halves, strict=True)]
    if node.prim == "nextafter" and halves[0]:
        return [_neighbours(b, operands, wide, halves[0])]
    results = b.emit(node.prim, wide, in_single(node.attrs), regions)
    return [_narrowed(b, r, w.dtype) if _is_half(w.type) else r for r, w in zip(results, node.results, strict=True)]


def _retyped(node: Node) -> dict[str, object]:
    """The attributes of a node that moves bits."""
    return {k: _BITS if isinstance(v, np.dtype) and is_half(v) else v for k, v in node.attrs.items()}


def _converted(b: Builder, x: Value, half: np.dtype | None, target: np.dtype) -> Value:
    if half is not None:
        x = _widened(b, x, half)
    if not is_half(target):
        return b.astype(x, target)
    if x.dtype == FLOAT64 and target == FLOAT16:
        return _narrowed(b, _to_odd(b, x), target)
    if x.dtype.kind == "c":
        return _converted(b, b.real(x), None, target)
    return _narrowed(b, b.astype(x, FLOAT32), target)


def _cast(b: Builder, x: Value, dtype: np.dtype) -> Value:
    """The bits of x as another dtype of the same size."""
    return x if x.dtype == dtype else b.emit("bitcast", (x,), {"dtype": dtype})[0]


def _widened(b: Builder, x: Value, half: np.dtype) -> Value:
    """Bits of half precision as float32. Those of bfloat16 are the upper ones; the exponent of float16 is moved by a
    product, which also scales what is below the normal numbers; infinities and NaN take the highest exponent."""
    word = b.astype(x, _WORD)
    if is_bfloat16(half):
        return _cast(b, b.shift_left(word, b.like(word, 16)), FLOAT32)
    size = b.bit_and(word, b.like(word, 0x7FFF))
    moved = b.shift_left(size, b.like(size, 13))
    scaled = _cast(b, b.mul(_cast(b, moved, FLOAT32), b.filled(2.0**112, moved.type.with_dtype(FLOAT32))), _WORD)
    special = b.ge(size, b.like(size, 0x7C00))
    bits = b.select(special, b.bit_or(moved, b.like(moved, 0x7F800000)), scaled)
    sign = b.shift_left(b.bit_and(word, b.like(word, 0x8000)), b.like(word, 16))
    return _cast(b, b.bit_or(bits, sign), FLOAT32)


def _narrowed(b: Builder, x: Value, half: np.dtype) -> Value:
    """float32 as bits of half precision, rounded to even."""
    if is_bfloat16(half):
        return _upper(b, x)
    word = _cast(b, x, _WORD)
    size = b.bit_and(word, b.like(word, 0x7FFFFFFF))
    odd = b.bit_and(b.shift_right(size, b.like(size, 13)), b.like(size, 1))
    bias = ((15 - 127) << 23) + 0xFFF & 0xFFFFFFFF
    normal = b.shift_right(b.add(b.add(size, b.like(size, bias)), odd), b.like(size, 13))
    # below the normal numbers an addition shifts and rounds
    magic = 126 << 23
    lifted = _cast(b, b.add(_cast(b, size, FLOAT32), b.filled(0.5, x.type.with_dtype(FLOAT32))), _WORD)
    tiny = b.sub(lifted, b.like(lifted, magic))
    above = b.select(b.gt(size, b.like(size, 0x7F800000)), b.like(size, 0x7E00), b.like(size, 0x7C00))
    bits = b.select(b.lt(size, b.like(size, 113 << 23)), tiny, normal)
    bits = b.select(b.ge(size, b.like(size, 143 << 23)), above, bits)
    sign = b.shift_right(b.bit_and(word, b.like(word, 0x80000000)), b.like(word, 16))
    return b.astype(b.bit_or(bits, sign), _BITS)


def _upper(b: Builder, x: Value) -> Value:
    """The upper bits of float32, rounded to even, are bfloat16. NaN, which rounding could make infinite, becomes a
    quiet one of its sign."""
    word = _cast(b, x, _WORD)
    last = b.bit_and(b.shift_right(word, b.like(word, 16)), b.like(word, 1))
    rounded = b.add(word, b.add(last, b.like(word, 0x7FFF)))
    nan = b.bit_or(b.bit_and(word, b.like(word, 0x80000000)), b.like(word, 0x7FC00000))
    return b.astype(b.shift_right(b.select(b.isnan(x), nan, rounded), b.like(word, 16)), _BITS)


def _neighbours(b: Builder, bits: Sequence[Value], wide: Sequence[Value], half: np.dtype) -> Value:
    """nextafter, which float32 does not help with: of the bits of halves and of what these are. Between zeros of two
    signs float16 stays where it is in NumPy, bfloat16 does not in ml_dtypes."""
    (own, to), (x, y) = bits, wide
    zero, one = b.like(x, 0), b.like(own, 1)
    larger = b.eq(b.lt(x, y), b.gt(x, zero))
    moved = b.select(larger, b.add(own, one), b.sub(own, one))
    least = b.bit_or(b.bit_and(to, b.like(to, 0x8000)), one)
    made = b.select(b.eq(x, y), to if is_bfloat16(half) else own, b.select(b.eq(x, zero), least, moved))
    return b.select(b.isnan(x), own, b.select(b.isnan(y), to, made))


def _to_odd(b: Builder, x: Value) -> Value:
    """float64 as float32, truncated, with the last bit set where something was lost: then a second rounding is as good
    as a single one."""
    near = b.astype(x, FLOAT32)
    back = b.astype(near, FLOAT64)
    word = _cast(b, near, _WORD)
    down = b.astype(b.gt(b.abs(back), b.abs(x)), _WORD)
    lost = b.astype(b.ne(back, x), _WORD)
    return _cast(b, b.bit_or(b.sub(word, down), lost), FLOAT32)

"""Index-mapping primitives at symbolic indices, and tables of accumulating ones (see `nest_builder`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.codegen.loops import Accumulator, Affine
from nufunc.ir.errors import UnsupportedError, VerifyError
from nufunc.ir.graph import Node
from nufunc.ir.types import INT64

if TYPE_CHECKING:
    from nufunc.codegen.nest_builder import NestBuilder

Index = tuple[Affine, ...]
CUMULATIVE = {
    "cumsum": "add", "cumprod": "mul", "cummax": "maximum", "cummin": "minimum", "cumand": "bit_and", "cumor": "bit_or",
    "cumxor": "bit_xor",
}  # fmt: skip
REDUCTIONS = {
    "reduce_sum": "add", "reduce_prod": "mul", "reduce_max": "maximum", "reduce_min": "minimum",
    "reduce_and": "bit_and", "reduce_or": "bit_or", "reduce_xor": "bit_xor",
    "argmax": "argmax", "argmin": "argmin",
}  # fmt: skip
ASSEMBLY = ("concat", "update", "dynamic_update", "scatter_set", "scatter_add")


def identity(op: str, dtype: np.dtype) -> Any:
    """The value that changes nothing under a combination; -0.0 for floats, so that a running sum of -0.0 keeps its
    sign."""
    kind = dtype.kind
    if op == "add":
        return False if kind == "b" else 0 if kind in "iu" else -0.0 if kind == "f" else complex(-0.0, -0.0)
    if op in ("mul", "bit_and"):
        return True if kind == "b" else -1 if op == "bit_and" else 1 if kind in "iu" else 1.0 if kind == "f" else 1 + 0j
    if op in ("bit_or", "bit_xor"):
        return False if kind == "b" else 0
    low = op in ("maximum", "argmax")
    if kind == "f":
        return -math.inf if low else math.inf
    if kind == "b":
        return not low
    info = np.iinfo(dtype)
    return int(info.min if low else info.max)


# -- rules of the primitives that are index maps


def _reshape(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    return b.at_address(node.operands[0], b.linear(index, node.result.shape), guard)


def _transpose(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    source = [Affine()] * len(index)
    for k, axis in enumerate(node.attrs["perm"]):
        source[axis] = index[k]
    return b.at(node.operands[0], tuple(source), guard)


def _broadcast(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    x = node.operands[0]
    source = tuple(Affine() if x.shape[k] == 1 else index[dim] for k, dim in enumerate(node.attrs["dims"]))
    return b.at(x, source, guard)


def _slice(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    steps = zip(index, node.attrs["start"], node.attrs["step"], strict=True)
    return b.at(node.operands[0], tuple(i * step + start for i, start, step in steps), guard)


def _flip(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    shape, axes = node.result.shape, node.attrs["axes"]
    return b.at(
        node.operands[0],
        tuple(i * -1 + (shape[k] - 1) if k in axes else i for k, i in enumerate(index)),
        guard,
    )


def _zero(dtype: np.dtype) -> Any:
    return np.zeros((), dtype).item()


def _pad(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    x, attrs = node.operands[0], node.attrs
    test: int | None = None
    source = []
    for i, n, low, interior in zip(index, x.shape, attrs["low"], attrs["interior"], strict=True):
        found = b.stepped(i + -low, n, interior + 1, test)
        if found is None:
            return b.const(_zero(x.dtype), x.dtype)
        i, test = found
        source.append(i)
    inside = b.both(guard, test)
    return b.choose(test, lambda: b.at(x, tuple(source), inside), lambda: b.const(_zero(x.dtype), x.dtype), x.dtype)


def _concat(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    axis, dtype = node.attrs["axis"], node.result.dtype
    chosen: int | None = None
    end = node.result.shape[axis]
    for x in reversed(node.operands):
        end -= x.shape[axis]
        shifted = index[axis] + -end
        possible, test = b.within(shifted, 0, x.shape[axis], None)
        if not possible:
            continue
        here = b.at(x, (*index[:axis], shifted, *index[axis + 1 :]), b.both(guard, test))
        chosen = here if chosen is None or test is None else b.emit("select", (test, here, chosen), dtype)
    if chosen is None:
        raise VerifyError("concat of nothing is read", node.loc)
    return chosen


def _update(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    base, value = node.operands
    test: int | None = None
    source = []
    starts, steps = node.attrs["start"], node.attrs["step"]
    for i, n, start, step in zip(index, value.shape, starts, steps, strict=True):
        found = b.stepped(i + -start, n, step, test)
        if found is None:
            return b.at(base, index, guard)
        i, test = found
        source.append(i)
    inside = b.both(guard, test)
    return b.choose(test, lambda: b.at(value, tuple(source), inside), lambda: b.at(base, index, guard), base.dtype)


def _dynamic_slice(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    starts = b.window(node, 1, node.result.shape)
    return b.at(node.operands[0], tuple(i + s for i, s in zip(index, starts)), guard)


def _dynamic_update(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    base, value = node.operands[:2]
    test: int | None = None
    source = []
    for i, s, n in zip(index, b.window(node, 2, value.shape), value.shape, strict=True):
        i = i + s * -1
        possible, test = b.within(i, 0, n, test)
        if not possible:
            return b.at(base, index, guard)
        source.append(i)
    inside = b.both(guard, test)
    return b.choose(test, lambda: b.at(value, tuple(source), inside), lambda: b.at(base, index, guard), base.dtype)


def _gather(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    x = node.operands[0]
    ndim = node.operands[1].ndim if len(node.operands) > 1 else 0
    found = dict(zip(node.attrs["axes"], b.looked_up(node, 1, index[:ndim], guard)))
    rest = iter(index[ndim:])
    return b.at(x, tuple(found[k] if k in found else next(rest) for k in range(x.ndim)), guard)


def _iota(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    value, dtype = b.index_value(index[node.attrs["axis"]]), node.result.dtype
    return value if dtype == INT64 else b.emit("convert", (value,), dtype, attrs={"dtype": dtype})


def _full(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    return b.const(node.attrs["value"], node.result.dtype)


def _cumulative(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    """The running value; the nest's serial axis goes through the operand in the direction of accumulation."""
    axis = node.attrs["axis"]
    if guard is not None or index != b.full_index:
        raise UnsupportedError(f"{node.prim} read at other indices than its own", node.loc)
    x = node.operands[0]
    value = b.at(x, index, None)
    number = b.next_id
    b.next_id += 1
    b.dtypes[number] = x.dtype
    op = CUMULATIVE[node.prim]
    b.accumulators.append(Accumulator(number, op, value, identity(op, x.dtype), x.dtype))
    return b.emit("running", (value,), x.dtype, attrs={"accumulator": number, "axis": axis})


def _reduced(b: NestBuilder, node: Node, index: Index, guard: int | None) -> int:
    key = (node.result, b.outer_index, None)
    if index != b.outer_index or key not in b.memo:
        raise VerifyError(f"{node.prim} is read in its own nest at other indices than its own", node.loc)
    return b.memo[key]


RULES: dict[str, Callable[[NestBuilder, Node, Index, int | None], int]] = {
    "reshape": _reshape, "transpose": _transpose, "broadcast": _broadcast, "slice": _slice, "flip": _flip,
    "pad": _pad, "concat": _concat, "update": _update, "dynamic_slice": _dynamic_slice,
    "dynamic_update": _dynamic_update, "gather": _gather, "iota": _iota, "full": _full,
    **dict.fromkeys(CUMULATIVE, _cumulative), **dict.fromkeys(REDUCTIONS, _reduced),
}  # fmt: skip

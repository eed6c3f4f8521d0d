"""What fusion asks about single nodes: layouts, stacks, updates, reads through broadcasts and reshapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nufunc.ir import primitive
from nufunc.ir.graph import Node, Value

CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumand", "cumor", "cumxor")
ASSEMBLY = ("concat", "update", "dynamic_update", "scatter_set", "scatter_add")
READS = ("gather", "dynamic_slice")
_STACK = 8  # arrays of a stack that a group stores
_MANY, _AGAIN = 1 << 14, 32  # elements of a broadcast, and how often it repeats each, that make a copy worth it


def is_layout(node: Node) -> bool:
    return primitive.get(node.prim).kind in ("layout", "create") and node.prim != "concat"


def stacked_shape(node: Node) -> tuple[int, ...] | None:
    """The shape of what a concatenation puts side by side, where it is a stack of a few arrays: a group of this space
    can store them. None for other nodes."""
    if node.prim != "concat" or len(node.operands) > _STACK or node.result.ndim < 2:
        return None
    axis = node.attrs["axis"]
    if any(o.shape[axis] != 1 for o in node.operands):
        return None
    shape = node.result.shape
    return (*shape[:axis], *shape[axis + 1 :])


def splits_only(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a reshape only splits axes and inserts or removes axes of one, so that indices stay affine."""
    rest = [n for n in after if n != 1]
    for extent in (n for n in before if n != 1):
        product = 1
        while product < extent and rest:
            product *= rest.pop(0)
        if product != extent:
            return False
    return not rest


def repeats_apart(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a broadcast reads again and again elements that a slice takes from far apart, so that they are better put
    side by side once (the columns of points of which all pairs are looked at)."""
    if node.prim != "broadcast" or node.result.type.size < _MANY or not node.operands[0].type.size:
        return False
    x = node.operands[0]
    if node.result.type.size < _AGAIN * x.type.size or x.type.size == 1:
        return False
    at = producers.get(x)
    while at is not None and at.prim == "reshape":
        at = producers.get(at.operands[0])
    if at is None or at.prim != "slice":
        return False
    inner = max(k for k, n in enumerate(at.result.shape) if n != 1)
    return bool(at.attrs["step"][inner] * math.prod(at.operands[0].shape[inner + 1 :]) > 1)


def replaces_most(node: Node) -> bool:
    """Whether an update leaves so little of its base that a new array costs less than what an update in place needs:
    the value on its own first, where it is computed from the base."""
    if node.prim != "update" or set(node.attrs["step"]) != {1}:
        return False
    return bool(2 * node.operands[1].type.size >= node.result.type.size)


def read_through(node: Node, index: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The operand's index in terms of the result's, for broadcasts and reshapes; None is an index of an axis
    of one, and stands also for all that a reshape does beyond moving such axes."""
    x = node.operands[0]
    if node.prim == "broadcast":
        return tuple(None if x.shape[k] == 1 else index[dim] for k, dim in enumerate(node.attrs["dims"]))
    moved = [k for n, k in zip(node.result.shape, index) if n != 1]
    if [n for n in x.shape if n != 1] != [n for n in node.result.shape if n != 1]:
        return (None,) * x.ndim
    return tuple(None if n == 1 else moved.pop(0) for n in x.shape)

"""Strided views of values: what a chain of layout nodes is as an offset and strides into memory, where it is
one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value


@dataclass(frozen=True)
class Strided:
    """Elements of the contiguous value `base` at offset + sum of index * stride, all counted in elements."""

    base: Value
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def merged(self, axes: Sequence[int]) -> tuple[int, int] | None:
        """Extent and stride of several axes (in this order) as one, or None."""
        extent, stride = 1, 1
        for axis in reversed(axes):
            n, s = self.shape[axis], self.strides[axis]
            if n == 1:
                continue
            if extent == 1:
                extent, stride = n, s
            elif s == stride * extent:
                extent *= n
            else:
                return None
        return extent, stride


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def resolve(value: Value, views: Mapping[Value, Node]) -> Strided | None:
    """What `value` is by strides; `views` are the view nodes by result. None where strides cannot say it."""
    node = views.get(value)
    if node is None:
        return Strided(value, 0, value.shape, row_major(value.shape))
    current = resolve(node.operands[0], views)
    for inner in node.regions[0].nodes:
        if current is None:
            return None
        current = _applied(current, inner)
    return current


def materialised(value: Value, views: Mapping[Value, Node], perm: Sequence[int]) -> tuple[Value, Graph]:
    """The stored value behind a view, and the graph that computes the transposed view of it."""
    chain = []
    while value in views:
        chain.append(views[value])
        value = views[value].operands[0]
    b = Builder("packed")
    current = b.param(value.type)
    for node in reversed(chain):
        (current,) = b.inline(node.regions[0], [current])
    return value, b.build([b.emit("transpose", (current,), {"perm": tuple(perm)})[0]])


def _applied(view: Strided, node: Node) -> Strided | None:
    shape, attrs = node.result.shape, node.attrs
    if node.prim == "transpose":
        return Strided(view.base, view.offset, shape, tuple(view.strides[p] for p in attrs["perm"]))
    if node.prim == "slice":
        offset = view.offset + sum(start * s for start, s in zip(attrs["start"], view.strides))
        return Strided(
            view.base, offset, shape, tuple(s * step for s, step in zip(view.strides, attrs["step"]))
        )
    if node.prim == "broadcast":
        strides = [0] * len(shape)
        for k, dim in enumerate(attrs["dims"]):
            strides[dim] = view.strides[k] if view.shape[k] == shape[dim] else 0
        return Strided(view.base, view.offset, shape, tuple(strides))
    if node.prim == "reshape":
        reshaped = _reshaped(view.shape, view.strides, shape)
        return None if reshaped is None else Strided(view.base, view.offset, shape, reshaped)
    return None


def _reshaped(
    shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides of a reshape without a copy, or None."""
    if 0 in shape:
        return row_major(new)
    old = [(n, s) for n, s in zip(shape, strides) if n != 1]
    result: list[int] = []
    k = 0
    pending = list(new)
    while k < len(old):
        extent, stride = old[k]
        group: list[int] = []
        product = 1
        while product < extent or product % extent:
            if not pending:
                return None
            group.append(pending.pop(0))
            product *= group[-1]
            while extent < product and k + 1 < len(old):  # the group spans the next axis too
                following, inner = old[k + 1]
                if stride != following * inner:
                    return None
                extent, stride, k = extent * following, inner, k + 1
        if product != extent:
            return None
        result += [stride * s for s in row_major(group)]
        k += 1
    return tuple(result + [1] * len(pending)) if all(n == 1 for n in pending) else None

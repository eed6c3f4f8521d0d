"""Elementwise kernels that write their result over an operand: which nodes can, and their nests.

Note [Overwriting]
A donated argument, or one that is written in place, lends its memory to a result. The kernel that makes this result may
still read the argument if each point reads exactly the element that it then writes. Its nest is changed in two ways:
both buffers become one, since a nest's buffers are taken to be disjoint, and where lanes do not divide an axis the
rest becomes a nest of its own, since the last block would otherwise read again what the one before has written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nufunc.codegen.loops import Affine, Axis, LoopNest, Phase
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.nests import build_nests
from nufunc.codegen.schedule import collapse, schedule
from nufunc.ir.graph import Node, Value
from nufunc.ir.product_group import halves, is_product

_WIDEST = 64  # bytes of a vector register at most


def can_overwrite(node: Node, operand: Value, result: Value) -> bool:
    """Whether `result` of a node may stand in the memory of its operand, which nothing reads later."""
    if is_product(node):  # the product reads its operands while parts of the result are written
        made = halves(node)
        if made.follow is None or operand in made.dot.operands or result not in made.follow.results:
            return False
        node = made.follow
    if node.prim != "fused" or node.operands.count(operand) != 1 or operand.type != result.type:
        return False
    nests = build_nests(node.regions[0], node.attrs["kind"], Sites())
    if len(nests) == 1 and schedule(nests[0], _WIDEST).turned is not None:
        return False  # squares of a transposition are faster than what overwriting leaves of it
    return len(nests) == 1 and _in_step(nests[0], *buffer_numbers(node, operand, result))


def buffer_numbers(node: Node, operand: Value, result: Value) -> tuple[int, int]:
    """The buffers of an operand and a result in the nests of a fused node."""
    inputs = len(node.operands) + len(node.regions[0].consts)
    return node.operands.index(operand), inputs + node.results.index(result)


def _in_step(nest: LoopNest, operand: int, result: int) -> bool:
    """Whether each point reads of the operand the element that it stores afterwards, and no point stores it again."""
    if len(nest.phases) != 1 or nest.phases[0].accumulators or any(a.kind == "serial" for a in nest.all_axes()):
        return False
    body = nest.phases[0].body
    stores = [k for k, i in enumerate(body) if i.op == "store" and i.buffer == result]
    loads = [k for k, i in enumerate(body) if i.op == "load" and i.buffer == operand]
    if len(stores) != 1 or any(k > stores[0] for k in loads):
        return False
    store = body[stores[0]]
    axes = {a.name for a in nest.all_axes() if a.extent > 1}
    whole = store.guard is None and store.attrs["mode"] == "set" and {k for k, _ in store.index.terms} == axes
    return whole and all(body[k].index == store.index for k in loads)


def overwriting(nests: Sequence[LoopNest], pairs: Sequence[tuple[int, int]], vector_bytes: int) -> list[LoopNest]:
    """The nests of a node with each (operand, result) pair of buffers made one."""
    merged = dict(pairs)
    found = []
    for nest in nests:
        phases = tuple(_rebuffered(p, merged) for p in nest.phases)
        found += _exact(collapse(replace(nest, phases=phases)), vector_bytes)
    return found


def _rebuffered(phase: Phase, merged: dict[int, int]) -> Phase:
    return replace(phase, body=tuple(replace(i, buffer=merged.get(i.buffer, i.buffer)) for i in phase.body))


def _exact(nest: LoopNest, vector_bytes: int) -> list[LoopNest]:
    """The nest in one or two pieces whose lanes divide the extent of their axis."""
    planned = schedule(nest, vector_bytes)
    name, lanes = (planned.vector, planned.lanes) if planned.vector else (planned.phases[0].vector, 0)
    lanes = lanes or planned.phases[0].lanes
    axis = next((a for a in nest.all_axes() if a.name == name), None)
    if axis is None or axis.extent % lanes == 0:
        return [replace(nest, exact=True)]
    most = axis.extent - axis.extent % lanes
    return [_part(nest, axis, 0, most), _part(nest, axis, most, axis.extent)]


def _part(nest: LoopNest, axis: Axis, start: int, stop: int) -> LoopNest:
    """The nest for a part of one of its axes."""
    cut = lambda axes: tuple(replace(a, extent=stop - start) if a.name == axis.name else a for a in axes)
    moved = lambda index: Affine(index.const + start * index.coefficient(axis.name), index.terms)
    phases = tuple(
        replace(p, axes=cut(p.axes), body=tuple(replace(i, index=moved(i.index)) for i in p.body)) for p in nest.phases
    )
    return replace(nest, axes=cut(nest.axes), phases=phases, exact=True)

"""Product groups of a plan: a dot and the loops over its result, part by part in one parallel region.

Note [Parts of a product group]
A part is a range of rows or of columns of the product, or a product of a batch. What follows is one nest, of which a
call computes a range of one outer axis. A nest can go through a part if the part's elements are those that the points
of a range of that axis read, and the vectors along the axis do not reach over the range's ends. Otherwise, and where
the work is too little to be divided or only a division into unequal tasks has such parts, the nests run behind the
whole product, as they do for any other group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llvmlite import ir

from nufunc.codegen.buffers import aligned
from nufunc.codegen.llvm import I64
from nufunc.codegen.loops import Affine, Axis, LoopNest
from nufunc.codegen.nests import build_nests
from nufunc.codegen.overwrite import buffer_numbers, can_overwrite, overwriting
from nufunc.codegen.products import Follow, Work, emit_work, plan_dot
from nufunc.codegen.schedule import schedule
from nufunc.codegen.strided import row_major
from nufunc.ir.graph import Node, Value
from nufunc.ir.product_group import Halves, halves

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

BALANCE = 1.05  # of the cost of the best division that one which the loops can follow may have


@dataclass(frozen=True)
class _Parts:
    """A product in parts and how a nest goes through them: `step` elements of the product belong to a point of the
    axis that `nest` is split along, or columns where it is divided into columns."""

    work: Work
    nest: LoopNest
    step: int

    @property
    def across(self) -> bool:
        return self.work.part is not None and self.work.parts[1] > 1


def scratch(plan: Plan, node: Node) -> int:
    made = halves(node)
    return _whole_bytes(made) + max(w.memory for w in _works(plan, made))


def _whole_bytes(made: Halves) -> int:
    """Bytes for the product where it is no result."""
    return 0 if made.follow is None or made.stored else aligned(made.product.type.nbytes)


def _works(plan: Plan, made: Halves) -> list[Work]:
    """The ways to do the product, best first: divided freely, into columns alone, into rows alone."""
    order = made.turned or tuple(range(made.dot.result.ndim))
    shape = [made.dot.result.shape[a] for a in order]
    steps = dict(zip(order, row_major(shape), strict=True))
    strides = [steps[a] for a in range(len(shape))]
    ways = (None,) if made.follow is None else (None, 1, 0)
    return [plan_dot(plan, made.dot, made.dot.operands, strides, along) for along in ways]


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    made = halves(node)
    works, memory = _works(plan, made), scope.scratch(node)
    rest = plan.at(memory, _whole_bytes(made))
    if made.follow is None:
        emit_work(plan, scope, works[0], rest, scope.pointer(node.result))
        return
    nests, place, buffer = _nests(plan, scope, node, made)
    product = memory if place is None else scope.pointer(place)
    pointers = [product, *(scope.pointer(o) for o in made.follow.operands[1:])]
    pointers += [plan.constant(array) for _, array in made.follow.regions[0].consts]
    pointers += [scope.pointer(r) for r in made.follow.results]
    if works[0].tasks > 1 and not plan.in_task and len(nests) == 1:
        nest = schedule(nests[0], plan.vector_bytes)
        for work in works:
            parts = _parts(work, nest, buffer, made.product.type.size)
            if parts is not None and parts.work.cost <= BALANCE * works[0].cost:
                emit_work(plan, scope, parts.work, rest, product, _follow(plan, parts, pointers))
                return
    emit_work(plan, scope, works[0], rest, product)
    for nest in nests:
        plan.nest(nest, pointers)


def _nests(plan: Plan, scope: Scope, node: Node, made: Halves) -> tuple[list[LoopNest], Value | None, int]:
    """What follows as nests, the result in whose memory the product stands, if any, and the buffer that it is."""
    follow = made.follow
    assert follow is not None
    pairs = scope.frame.overwritten.get(node, [])
    if made.stored:
        return _overwriting(plan, follow, pairs), node.results[-1], 0
    taken = {result for _, result in pairs}
    free = (r for r in follow.results if r not in taken and scope.frame.of(r) not in scope.frame.on_stack)
    place = next((r for r in free if can_overwrite(follow, made.product, r)), None)
    if place is not None:
        nests = _overwriting(plan, follow, [*pairs, (made.product, place)])
        if len(nests) == 1:
            return nests, place, buffer_numbers(follow, made.product, place)[1]
    return _overwriting(plan, follow, pairs), None, 0


def _overwriting(plan: Plan, follow: Node, pairs: Sequence[tuple[Value, Value]]) -> list[LoopNest]:
    """The nests of a group with the results of some pairs in the memory of operands."""
    nests = build_nests(follow.regions[0], follow.attrs["kind"], plan.sites)
    numbers = [buffer_numbers(follow, *pair) for pair in pairs]
    return overwriting(nests, numbers, plan.vector_bytes) if pairs else nests


def _parts(work: Work, nest: LoopNest, buffer: int, size: int) -> _Parts | None:
    """How a nest goes through the parts of a product of `size` elements; None where it cannot."""
    spec = work.spec
    if spec is None or work.tasks == 1 or (spec.m > 1 and spec.c_stride != spec.n) or nest.turned:
        return None
    loops = work.shape.loops
    if len(loops) > 1 or (loops and loops[0].strides[2] != spec.m * spec.n):
        return None
    if any(i.op == "check" for p in nest.phases for i in p.body):
        return None
    loads = [i.index for p in nest.phases for i in p.body if i.op == "load" and i.buffer == buffer]
    for axis in nest.axes:
        if axis.part is None and axis.kind == "parallel":
            found = _along(work, nest, axis, loads, size)
            if found is not None:
                return found
    return None


def _along(work: Work, nest: LoopNest, axis: Axis, loads: Sequence[Affine], size: int) -> _Parts | None:
    """Parts that are ranges of one axis of the nest."""
    assert work.spec is not None
    m, n = work.spec.m, work.spec.n
    step = loads[0].coefficient(axis.name)
    if step < 1 or any(i.const or i.coefficient(axis.name) != step for i in loads):
        return None
    others = [[(k, c) for k, c in i.terms if k != axis.name] for i in loads]
    if any(isinstance(k, int) for terms in others for k, _ in terms):
        return None
    lanes, split = nest.step(axis), replace(nest, split=axis.name)
    extents = {a.name: a.extent for a in nest.all_axes()}
    across = work.part is not None and work.parts[1] > 1
    if across:
        apart = not work.shape.loops and work.parts[0] == 1 and step == 1 and axis.extent == n
        apart = apart and all(c % n == 0 for terms in others for _, c in terms)
        unit = work.units[1]
    else:
        inside = (sum(c * (extents[str(k)] - 1) for k, c in terms) for terms in others)
        apart = axis.extent * step == size and all(span < step for span in inside)
        unit = m * n if work.part is None else work.units[0] * n
    if not apart:
        return None
    if work.part is not None and work.shape.loops:
        unit = math.gcd(unit, m * n)
    elif work.part is not None and unit % (step * lanes):
        unit = math.lcm(unit, step * lanes, 1 if across else n)
        coarser = work.coarser((work.units[0], unit) if across else (unit // n, work.units[1]))
        if coarser is None:
            return None
        work = coarser
    if unit % (step * lanes) or (axis.extent % lanes and axis.extent % (unit // step) < lanes):
        return None
    return _Parts(work, split, step)


def _follow(plan: Plan, parts: _Parts, pointers: list[ir.Value]) -> Follow:
    assert parts.work.spec is not None
    n = parts.work.spec.n

    def emit(inside: Sequence[ir.Value], offset: ir.Value, ranges: Sequence[ir.Value]) -> None:
        b = plan.b
        bounds = ranges[2:] if parts.across else [b.add(offset, b.mul(row, I64(n))) for row in ranges[:2]]
        start, stop = (b.sdiv(bound, I64(parts.step)) for bound in bounds)
        plan.nest_range(parts.nest, inside, start, stop)

    return Follow(pointers, emit)

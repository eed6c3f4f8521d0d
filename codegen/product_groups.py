"""Product groups of a plan: a dot and the loops over its result, part by part in one parallel region.

Note [Parts of a product group]
A part is a range of rows or of columns of the product, or a product of a batch. What follows is one nest, of which a
call computes a range of one outer axis. A nest can go through a part if the part's elements are those that the points
of a range of that axis read, and the vectors along the axis do not reach over the range's ends. Otherwise, and where
the work is too little to be divided, the nests run behind the whole product, as they do for any other group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llvmlite import ir

from nufunc.codegen import gemm
from nufunc.codegen.buffers import aligned
from nufunc.codegen.llvm import I64
from nufunc.codegen.loops import Axis, LoopNest
from nufunc.codegen.nests import build_nests
from nufunc.codegen.overwrite import buffer_numbers, overwriting
from nufunc.codegen.products import Follow, Work, emit_work, plan_dot
from nufunc.codegen.schedule import schedule
from nufunc.codegen.strided import row_major
from nufunc.ir.graph import Node, Value
from nufunc.ir.product_group import Halves, halves

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope


@dataclass(frozen=True)
class _Parts:
    """How a nest goes through parts: `axis` is split, and `step` elements of the product belong to a point of it."""

    nest: LoopNest
    axis: Axis
    step: int


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
    made, works = halves(node), _works(plan, halves(node))
    memory = scope.scratch(node)
    rest = plan.at(memory, _whole_bytes(made))
    if made.follow is None:
        emit_work(plan, scope, works[0], rest, scope.pointer(node.result))
        return
    product = scope.pointer(node.results[-1]) if made.stored else memory
    nests = _nests(plan, scope, node, made)
    pointers = [product, *(scope.pointer(o) for o in made.follow.operands[1:])]
    pointers += [plan.constant(array) for _, array in made.follow.regions[0].consts]
    pointers += [scope.pointer(r) for r in made.follow.results]
    if works[0].tasks > 1 and not plan.in_task:
        for work in works:
            parts = _parts(plan, work, nests, made.product)
            if parts is not None:
                emit_work(plan, scope, work, rest, product, _follow(plan, work, parts, pointers))
                return
    emit_work(plan, scope, works[0], rest, product)
    for nest in nests:
        plan.nest(nest, pointers)


def _nests(plan: Plan, scope: Scope, node: Node, made: Halves) -> list[LoopNest]:
    assert made.follow is not None
    overwritten = scope.frame.overwritten.get(node, [])
    nests = build_nests(made.follow.regions[0], made.follow.attrs["kind"], plan.sites)
    if overwritten:
        pairs = [buffer_numbers(made.follow, *pair) for pair in overwritten]
        nests = overwriting(nests, pairs, plan.vector_bytes)
    return nests


def _parts(plan: Plan, work: Work, nests: Sequence[LoopNest], product: Value) -> _Parts | None:
    """How what follows goes through the parts of a product; None where it cannot."""
    if len(nests) != 1 or work.spec is None or work.tasks == 1:
        return None
    nest, (m, n) = schedule(nests[0], plan.vector_bytes), (work.spec.m, work.spec.n)
    if any(i.op == "check" for p in nest.phases for i in p.body) or nest.turned:
        return None
    lone = not work.shape.loops
    rows, columns = gemm.kernel(work.spec, work.part).units
    if work.part is None:
        if len(work.shape.loops) != 1 or work.shape.loops[0].strides[2] != m * n or not _is_dense(work):
            return None
        unit, across = m * n, False
    elif work.parts[1] == 1:
        if not (lone or work.shape.loops[0].strides[2] == m * n) or len(work.shape.loops) > 1 or not _is_dense(work):
            return None
        unit, across = math.gcd(rows * n, m * n) if work.shape.loops else rows * n, False
    elif work.parts[0] == 1 and lone and _is_dense(work):
        unit, across = columns, True
    else:
        return None
    loads = [i.index for p in nest.phases for i in p.body if i.op == "load" and i.buffer == 0]
    extents = {a.name: a.extent for a in nest.all_axes()}
    for axis in nest.axes:
        step = loads[0].coefficient(axis.name)
        if axis.part is not None or axis.kind != "parallel" or step < 1 or unit % step:
            continue
        whole = n if across else product.type.size
        if axis.extent * step != whole or any(i.const or i.coefficient(axis.name) != step for i in loads):
            continue
        others = [(k, c) for i in loads for k, c in i.terms if k != axis.name]
        if any(isinstance(k, int) for k, _ in others):
            continue
        if across:
            apart = all(c % n == 0 for _, c in others)
        else:
            apart = all(
                sum(c * (extents[k] - 1) for k, c in i.terms if k != axis.name and isinstance(k, str)) < step
                for i in loads
            )
        lanes = nest.step(axis)
        if not apart or (unit // step) % lanes or (axis.extent % lanes and (axis.extent % (unit // step)) < lanes):
            continue
        return _Parts(replace(nest, split=axis.name), axis, step)
    return None


def _is_dense(work: Work) -> bool:
    """Whether a product's elements lie side by side."""
    spec = work.spec
    return spec is not None and (spec.m == 1 or spec.c_stride == spec.n)


def _follow(plan: Plan, work: Work, parts: _Parts, pointers: list[ir.Value]) -> Follow:
    assert work.spec is not None
    n, across = work.spec.n, work.part is not None and work.parts[1] > 1

    def emit(inside: Sequence[ir.Value], offset: ir.Value, ranges: Sequence[ir.Value]) -> None:
        b = plan.b
        bounds = ranges[2:] if across else [b.add(offset, b.mul(row, I64(n))) for row in ranges[:2]]
        start, stop = (b.sdiv(bound, I64(parts.step)) for bound in bounds)
        plan.nest_range(parts.nest, inside, start, stop)

    return Follow(pointers, emit)

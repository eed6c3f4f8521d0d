"""Loops over arrays whose elements go their ways alone: which they are, and their split among threads.

Note [Lanes of a loop]
Where all that the body of a loop computes along one axis stays at its place of this axis (particles in a field, points
of a grid that do not look at their neighbours, whatever vmap has made of a loop), a thread can run the whole loop for
one place: then carries are registers, nothing is stored between iterations, and there is one launch. An array of N * m
elements belongs to N lanes in one of two ways, the same for all arrays of a loop: a lane has m elements side by side
("major") or every N-th ("minor"). Where a lane's part is larger than what a thread keeps for itself, a block runs the
loop for it ("rows", as those of a batch that goes through a recurrent network): arrays stay where they are, but none
may lie where another has been, since blocks do not wait for each other. What the loop only reads may be of any form.
Every lane computes numbers and conditions for itself, so these must not depend on lanes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nufunc.codegen.buffers import is_view
from nufunc.codegen.cuda import control_nests
from nufunc.codegen.cuda.control_nests import BlockNest, Home, ThreadNest
from nufunc.codegen.loops import Affine, Axis, Inst, Key, LoopNest
from nufunc.codegen.nest_builder import Sites
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import TapeType

Nests = Callable[[Node], Sequence[LoopNest]]
_FEWEST = 256  # lanes from which a thread each is worth it
_MOST = 16  # elements of an array that belong to one lane
_LOOKED_AT = 1 << 16  # points of a nest at which a guard is looked at
_TESTS: dict[str, Callable[..., Any]] = {
    "ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt, "bit_and": operator.and_,
    "bit_or": operator.or_,
}  # fmt: skip
_ALONE = 64  # points of what every lane computes for itself


@dataclass(frozen=True)
class Split:
    """How arrays belong to lanes."""

    lanes: int
    major: bool

    def elements(self, size: int) -> int:
        return size // self.lanes

    def flat(self, element: int, size: int) -> str:
        """The place in the array of a lane's element."""
        if self.major:
            return f"{self.elements(size)} * lane + {element}"
        return f"{element * self.lanes} + lane"

    def own(self, index: Affine, axis: str) -> Affine:
        """An index of an array without the part that is the lane's."""
        rest = Affine(index.const, tuple((k, c) for k, c in index.terms if k != axis))
        if self.major:
            return rest
        return Affine(rest.const // self.lanes, tuple((k, c // self.lanes) for k, c in rest.terms))


def split(node: Node, nests: Nests, fewest: int = _FEWEST, most: int = _MOST) -> Split | None:
    """The split of a scan or while; None where it has none. `nests` gives those of a fused node or a dot. A lane has at
    most so many elements of an array."""
    if node.prim not in ("scan", "while") or any(isinstance(v.type, TapeType) for v in (*node.operands, *node.results)):
        return None
    if any(n.prim not in ("fused", "dot") for r in node.regions for n in r.nodes):
        return None
    extents = {a.extent for r in node.regions for n in r.nodes if not is_view(n) for t in nests(n) for a in t.axes}
    for lanes in sorted((n for n in extents if n >= fewest), reverse=True):
        for major in (True, False):
            made = Split(lanes, major)
            if all(_Check(node, r, made, nests, most).holds() for r in node.regions):
                return made
    return None


class _Check:
    """Whether a region is split."""

    def __init__(self, node: Node, region: Graph, made: Split, nests: Nests, most: int) -> None:
        self.region, self.split, self.nests, self.most = region, made, nests, most
        self.read_only = set(_read_only(node, region))
        self.read_only.update(v for v, _ in region.consts)

    def holds(self) -> bool:
        for node in self.region.nodes:
            if is_view(node):
                if node.operands[0] in self.read_only:
                    self.read_only.add(node.result)
            elif not all(self.nest(node, nest) for nest in self.nests(node)):
                return False
        return all(v.type.size == 1 or self.belongs(v) for v in self.region.outputs)

    def belongs(self, value: Value) -> bool:
        size = value.type.size
        return size > 0 and size % self.split.lanes == 0 and self.split.elements(size) <= self.most

    def nest(self, node: Node, nest: LoopNest) -> bool:
        if any(b.scratch for b in nest.buffers):
            return False
        consts = node.regions[0].consts if node.prim == "fused" else ()
        operands = node.operands if node.prim == "fused" else dict.fromkeys(node.operands)
        inputs: list[Value | None] = [*operands, *(None for _ in consts)]
        buffers = [*inputs, *node.results]
        own = [k for k, v in enumerate(buffers) if v is not None and v.type.size != 1 and v not in self.read_only]
        if not all(self.belongs(buffers[k]) for k in own):  # type: ignore[arg-type]
            return False
        accesses = [i for p in nest.phases for i in p.body if i.op in ("load", "store") and i.buffer in own]
        numbers = {k for k, v in enumerate(buffers) if k >= len(inputs) and v is not None and v.type.size == 1}
        stores = {i.buffer for p in nest.phases for i in p.body if i.op == "store"}
        if not accesses:
            return control_nests.count(nest.axes) * control_nests.reduced_points(nest) <= _ALONE
        if numbers & stores:
            return False
        return lane_axis(nest, accesses, self.split, {k: buffers[k].type.size for k in own}) is not None  # type: ignore[union-attr]


def _read_only(node: Node, region: Graph) -> Sequence[Value]:
    """The parameters of a region that no iteration changes, or that are items."""
    if node.prim == "scan":
        first, count = node.attrs["num_consts"], node.attrs["num_carry"]
        return (*region.params[:first], *region.params[first + count :])
    return region.params[: node.attrs["num_cond"] if region is node.regions[0] else node.attrs["num_body"]]


def lane_axis(nest: LoopNest, accesses: Sequence[Inst], made: Split, sizes: dict[int, int]) -> Axis | None:
    """The outer axis that counts lanes in all accesses to arrays that belong to them."""
    extents = {a.name: a.extent for a in nest.all_axes()}
    for axis in nest.axes:
        fits = axis.kind == "parallel" and axis.extent == made.lanes
        if fits and all(_belongs(nest, i, axis.name, made, sizes[i.buffer], extents) for i in accesses):
            return axis
    return None


def _belongs(nest: LoopNest, inst: Inst, axis: str, made: Split, size: int, extents: dict[str, int]) -> bool:
    """Whether an access is to an element of the lane that the axis counts, wherever its guard holds."""
    if _stays(inst.index, axis, made, size, extents):
        return True
    if inst.guard is None or inst.index.coefficient(axis) != (made.elements(size) if made.major else 1):
        return False
    known = {i.id: i for p in nest.phases for i in p.body}
    own = made.own(inst.index, axis)
    names = _axes_of(inst.guard, known) | {k for k, _ in own.terms}
    unit = 1 if made.major else made.lanes
    whole = not any(c % unit for c in (inst.index.const, *(c for k, c in inst.index.terms if k != axis)))
    if axis in names or not whole or any(isinstance(k, int) for k in names):
        return False
    ordered = sorted(map(str, names))
    if math.prod(extents[n] for n in ordered) > _LOOKED_AT:
        return False
    points = np.indices([extents[n] for n in ordered])
    at: dict[Key, Any] = dict(zip(ordered, points, strict=True))
    place = _affine(own, known, at)
    outside = (place < 0) | (place >= made.elements(size))
    return not np.any(outside & (_value(inst.guard, known, at) != 0))


def _axes_of(number: int, known: dict[int, Inst]) -> set[Key]:
    """The axes that a value of tests of indices depends on; its own number where it is anything else."""
    inst = known.get(number)
    if inst is None or inst.op not in ("index", "const", *_TESTS):
        return {number}
    found: set[Key] = set().union(*(_axes_of(a, known) for a in inst.args))
    for key, _ in inst.index.terms:
        found |= {key} if isinstance(key, str) else _axes_of(key, known)
    return found


def _value(number: int, known: dict[int, Inst], at: dict[Key, Any]) -> Any:
    """A value at many points."""
    inst = known[number]
    if inst.op == "const":
        return np.int64(inst.attrs["value"])
    if inst.op == "index":
        return _affine(inst.index, known, at)
    return np.int64(_TESTS[inst.op](*(_value(a, known, at) for a in inst.args)))


def _affine(index: Affine, known: dict[int, Inst], at: dict[Key, Any]) -> Any:
    return index.const + sum(c * (at[k] if isinstance(k, str) else _value(k, known, at)) for k, c in index.terms)


def _stays(index: Affine, axis: str, made: Split, size: int, extents: dict[str, int]) -> bool:
    """Whether an access is to an element of the lane that the axis counts."""
    elements = made.elements(size)
    if index.coefficient(axis) != (elements if made.major else 1):
        return False
    low = high = index.const
    unit = 1 if made.major else made.lanes
    if index.const % unit:
        return False
    for key, c in index.terms:
        if key == axis:
            continue
        if isinstance(key, int) or c % unit:
            return False
        span = c * (extents[key] - 1)
        low, high = low + min(span, 0), high + max(span, 0)
    return low >= 0 and high < elements * unit


def axis_of(nest: LoopNest, homes: Sequence[Home], made: Split) -> str:
    """The name of the axis of a nest that counts lanes; "" where every lane computes the same."""
    own = [i for p in nest.phases for i in p.body if i.op in ("load", "store") and homes[i.buffer].lane]
    if not own:
        return ""
    axis = lane_axis(nest, own, made, {i.buffer: homes[i.buffer].lane for i in own})
    assert axis is not None
    return axis.name


class RowNest(BlockNest):
    """A nest run by a block for its lane."""

    def __init__(
        self, nest: LoopNest, homes: Sequence[Home], sites: Sites, depth: int, threads: int, made: Split
    ) -> None:
        self.axis = axis_of(nest, homes, made)
        alone = replace(nest, axes=tuple(replace(a, extent=1) if a.name == self.axis else a for a in nest.axes))
        super().__init__(alone, homes, sites, depth, threads)

    def split(self, axes: Sequence[Axis], name: str) -> None:
        super().split([a for a in axes if a.name != self.axis], name)
        if any(a.name == self.axis for a in axes):
            self.line(f"{self.axis} = lane")


class LaneNest(ThreadNest):
    """A nest run by a thread for its lane."""

    def __init__(self, nest: LoopNest, homes: Sequence[Home], sites: Sites, depth: int, made: Split) -> None:
        super().__init__(nest, homes, sites, depth)
        self.made, self.axis = made, axis_of(nest, homes, made)

    def loop(self, axis: Axis) -> None:
        if axis.name == self.axis:
            self.line(f"{axis.name} = lane")
        else:
            super().loop(axis)

    def place(self, inst: Inst) -> str:
        home = self.homes[inst.buffer]
        index = self.made.own(inst.index, self.axis) if home.lane and not home.area else inst.index
        return self.affine(index)

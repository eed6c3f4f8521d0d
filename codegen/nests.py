"""Which nests a fused region becomes: one as a rule; several for what is put together from parts, and for the parts
of a large array of which most need no tests of bounds, no masks and no divisions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nufunc.codegen.loops import Affine, Axis, AxisKind, LoopNest, Phase
from nufunc.codegen.nest_builder import Index, NestBuilder, Sites
from nufunc.codegen.nest_rules import ASSEMBLY, CUMULATIVE, REDUCTIONS
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import INT64, ArrayType, TapeType

_TOGETHER = 8  # operands of a concat up to which one nest stores them all
_RESIDUES = 16  # nests times stores for axes with steps
_WHOLE = 1024  # points of a nest from which it is worth more code to have most of them without tests of bounds

Box = tuple[tuple[int, int], ...]  # from and to, of each axis


def complement(shape: Sequence[int], box: Sequence[tuple[int, int]]) -> list[Box]:
    """Boxes that cover what a box leaves of an array."""
    boxes: list[Box] = []
    for k, (low, high) in enumerate(box):
        rest = [(0, n) for n in shape[k + 1 :]]
        boxes += [(*box[:k], part, *rest) for part in ((0, low), (high, shape[k]))]
    return [b for b in boxes if all(low < high for low, high in b)]


def build_nests(region: Graph, name: str, sites: Sites, boxed: bool = False) -> list[LoopNest]:
    """The nests that compute a fused region, in order; buffers are its parameters, its constants, then its
    outputs. With `boxed` what lies in the midst of an array has loops of its own, without tests of bounds."""
    region = _without_tapes(region)
    producers = {r: n for n in region.nodes for r in n.results}
    if len(region.outputs) == 1:
        node = producers.get(region.outputs[0])
        if node is not None and node.prim in ASSEMBLY:
            return [n for n in _Assembly(region, name, sites, producers, boxed).build(node) if n is not None]
    builder = NestBuilder(region, name, sites, producers)
    nest = builder.build()
    if nest is None:
        return []
    if boxed and builder.steps and _is_large(builder, nest):
        return _stepped_nests((region, name, sites, producers), builder)
    boxes = _boxes(builder, nest) if boxed else []
    return _boxed_nests((region, name, sites, producers), boxes, lambda b, _, i: b.store_all(i)) if boxes else [nest]


def narrowed(nest: LoopNest) -> tuple[LoopNest, list[int]]:
    """The nest over the buffers that it reads or writes, and their numbers. An array that is put together from a
    thousand parts has a thousand nests, each of which knows two of the thousand buffers.
    """
    used = sorted({i.buffer for p in nest.phases for i in p.body if i.buffer >= 0})
    if len(used) == len(nest.buffers):
        return nest, used
    number = {k: n for n, k in enumerate(used)}
    phases = tuple(
        replace(p, body=tuple(replace(i, buffer=number.get(i.buffer, -1)) for i in p.body)) for p in nest.phases
    )
    copies = None if nest.copies is None else number[nest.copies]
    buffers = tuple(nest.buffers[k] for k in used)
    return replace(nest, buffers=buffers, phases=phases, copies=copies), used


def _without_tapes(region: Graph) -> Graph:
    """The region with numbers for tapes, which layout operations move like these."""
    if not any(isinstance(p.type, TapeType) for p in region.params):
        return region
    b = Builder(region.name)
    params = [b.param(ArrayType(p.shape, INT64) if isinstance(p.type, TapeType) else p.type) for p in region.params]
    return b.build(b.inline(region, params))


def _stepped_nests(args: tuple[Any, ...], seen: NestBuilder) -> list[LoopNest]:
    """Nests for the residues of axes along which every step-th point reads something (the transpose of a slice with
    steps), so that nothing is divided. Those of the last axis share one loop: what they store is side by side."""
    shape = seen.space()[0]
    steps = [min(seen.steps.get(f"i{k}", 1), n) for k, n in enumerate(shape)]
    if math.prod(steps) > _RESIDUES:
        steps = [1] * len(shape)
    together = shape[-1] % steps[-1] == 0
    residues = [range(s) for s in steps]
    nests = []
    for outer in itertools.product(*residues[:-1], [0] if together else residues[-1]):
        b = NestBuilder(*args)
        extents = [len(range(r, n, s)) for r, n, s in zip(outer, shape, steps, strict=True)]
        axes, index = b.axes(extents, "i", ["parallel"] * len(shape))
        for last in residues[-1] if together else [outer[-1]]:
            place = zip(index, steps, (*outer[:-1], last), strict=True)
            b.store_all(tuple(i * s + r for i, s, r in place))
        nests.append(LoopNest(b.name, tuple(b.buffers), tuple(axes), (Phase((), tuple(b.body)),)))
    return nests


def _boxed_nests(
    args: tuple[Any, ...], boxes: Sequence[Box], store: Callable[[NestBuilder, int, Index], None]
) -> list[LoopNest]:
    """Nests that go through boxes, together row by row where these differ along the last axis only, so that what
    stands side by side in memory is written together. `store` is told a box's number and an index in it."""
    rows: dict[Box, list[int]] = {}
    for number, box in enumerate(boxes):
        rows.setdefault(box[:-1], []).append(number)
    nests = []
    for outer, numbers in rows.items():
        b = NestBuilder(*args)
        axes, index = _part_axes(b, outer)
        phases = []
        for number in numbers:
            b.body = []
            low, high = boxes[number][-1]
            inner, (last,) = b.axes((high - low,), f"r{number}_", ["parallel"])
            store(b, number, (*index, last + low))
            phases.append(Phase(tuple(inner), tuple(b.body)))
        if len(phases) == 1:
            axes, phases = [*axes, *phases[0].axes], [Phase((), phases[0].body)]
        nests.append(LoopNest(b.name, tuple(b.buffers), tuple(axes), tuple(phases)))
    return nests


def _is_large(b: NestBuilder, nest: LoopNest) -> bool:
    """Whether it is elementwise and worth more code."""
    shape = b.space()[0]
    plain = not any(n.prim in REDUCTIONS or n.prim in CUMULATIVE for n in b.region.nodes)
    return plain and all(a.kind == "parallel" for a in nest.axes) and len(shape) > 0 and math.prod(shape) >= _WHOLE


def _boxes(b: NestBuilder, nest: LoopNest) -> list[Box]:
    """Parts of an elementwise nest of which the first needs no tests of bounds; none where that is not worth it."""
    shape = b.space()[0]
    inner = [(0, n) for n in shape]
    if not _is_large(b, nest) or len(nest.axes) > 3:
        return []
    for index, low, high in b.tests:
        (key, c), *more = index.terms
        if more or not isinstance(key, str) or c not in (1, -1):
            continue
        k, ends = int(key[1:]), sorted(((low - index.const) * c, (high - 1 - index.const) * c))
        inner[k] = (max(inner[k][0], ends[0]), min(inner[k][1], ends[1] + 1))
    if any(low >= high for low, high in inner) or 2 * math.prod(h - l for l, h in inner) < math.prod(shape):
        return []
    around = complement(shape, inner)
    return [tuple(inner), *around] if around else []


def _part_axes(b: NestBuilder, box: Box) -> tuple[list[Axis], Index]:
    """Axes and indices of a part of an elementwise space."""
    axes, index = b.axes([high - low for low, high in box], "i", ["parallel"] * len(box))
    return axes, tuple(i + low for i, (low, _) in zip(index, box, strict=True))


class _Assembly:
    """Nests of an output that is put together from parts, each over its own space."""

    def __init__(
        self, region: Graph, name: str, sites: Sites, producers: dict[Value, Node], boxed: bool = False
    ) -> None:
        self.args, self.boxed = (region, name, sites, producers), boxed

    def build(self, node: Node) -> list[LoopNest | None]:
        if node.prim == "concat":
            return self.concat(node)
        if node.prim == "update" and self.boxed and set(node.attrs["step"]) == {1} and node.operands[1].type.size > 1:
            return self.update(node)
        base = self.part(node.operands[0], lambda b, i: i, copies=True)
        if node.prim == "update":
            start, step = node.attrs["start"], node.attrs["step"]
            where = lambda b, i: tuple(x * s + first for x, s, first in zip(i, step, start))
            return [base, self.part(node.operands[1], where)]
        if node.prim == "dynamic_update":
            sizes = node.operands[1].shape
            move = lambda b, i: tuple(x + s for x, s in zip(i, b.window(node, 2, sizes)))
            return [base, self.part(node.operands[1], move)]
        ndim = node.operands[2].ndim if len(node.operands) > 2 else 0
        mode = "add" if node.prim == "scatter_add" else "set"
        return [
            base,
            self.part(node.operands[1], lambda b, i: _scattered(b, node, i, ndim), serial=ndim, mode=mode),
        ]

    def update(self, node: Node) -> list[LoopNest | None]:
        """A new array from an update's value and what it leaves of the base."""
        base, value = node.operands
        start = node.attrs["start"]
        box = tuple((first, first + n) for first, n in zip(start, value.shape, strict=True))

        def store(b: NestBuilder, number: int, index: Index) -> None:
            inside = tuple(i + -first for i, first in zip(index, start, strict=True))
            read = b.at(base, index, None) if number else b.at(value, inside, None)
            b.store(0, read, b.linear(index, base.shape))

        return list(_boxed_nests(self.args, [box, *complement(base.shape, box)], store))

    def concat(self, node: Node) -> list[LoopNest | None]:
        axis, offset, nests = node.attrs["axis"], 0, []
        if len(node.operands) <= _TOGETHER and all(o.shape == node.operands[0].shape for o in node.operands):
            return [self.together(node, axis)]
        for operand in node.operands:
            shift = Affine(offset)
            move = lambda b, i, shift=shift: tuple(x + shift if k == axis else x for k, x in enumerate(i))
            nests.append(self.part(operand, move))
            offset += operand.shape[axis]
        return nests

    def together(self, node: Node, axis: int) -> LoopNest | None:
        """One nest for all operands of a concat, whose spaces are equal: they share what they read."""
        shape = node.operands[0].shape
        if 0 in shape:
            return None
        b = NestBuilder(*self.args)
        axes, index = b.axes(shape, "i", ["parallel"] * len(shape))
        for k, operand in enumerate(node.operands):
            value = b.at(operand, index, None)
            target = (*index[:axis], index[axis] + k * shape[axis], *index[axis + 1 :])
            b.store(0, value, b.linear(target, node.result.shape))
        return LoopNest(b.name, tuple(b.buffers), tuple(axes), (Phase((), tuple(b.body)),))

    def part(
        self,
        value: Value,
        where: Callable[..., Index],
        *,
        copies: bool = False,
        serial: int = 0,
        mode: str = "set",
    ) -> LoopNest | None:
        """The nest that stores `value` into the output at the indices that `where` gives."""
        if 0 in value.shape:
            return None
        b = NestBuilder(*self.args)
        kinds: list[AxisKind] = ["serial" if k < serial else "parallel" for k in range(value.ndim)]
        axes, index = b.axes(value.shape, "i", kinds)
        shape = b.region.outputs[0].shape
        target = where(b, index)
        b.store(0, b.at(value, index, None), b.linear(target, shape), mode=mode)
        source = b.input_number.get(value) if copies else None
        phase = Phase((), tuple(b.body))
        return LoopNest(b.name, tuple(b.buffers), tuple(axes), (phase,), exact=mode == "add", copies=source)


def _scattered(b: NestBuilder, node: Node, index: Index, ndim: int) -> Index:
    found = dict(zip(node.attrs["axes"], b.looked_up(node, 2, index[:ndim], None)))
    rest = iter(index[ndim:])
    return tuple(found[k] if k in found else next(rest) for k in range(node.operands[0].ndim))

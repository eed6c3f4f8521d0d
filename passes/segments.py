"""Long scans in segments: of a scan of T steps about sqrt(T) carries are kept, and the steps between them are computed
again, a segment at a time, so that a derivative needs memory for some 2 sqrt(T) steps instead of T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.passes.control_parts import Loop, chosen, chunks, rejected
from nufunc.passes.rewrite import rewritten

_LEAST = 4  # steps of a scan that is worth it


def segmented(graph: Graph) -> Graph:
    """The graph with its scans, also those in regions, as scans over checkpointed segments."""
    counters: dict[Value, int] = {}  # arrays start, start + 1, ... -> start

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        if node.prim == "scan" and node.attrs["length"] >= _LEAST:
            return _Segments(b, node, operands, counters).emit()
        if node.regions:
            return None
        results = b.copy_node(node, operands)
        _find_counter(b.nodes[-1], counters, b)
        return results

    return rewritten(graph, rule, segmented)


def _find_counter(node: Node, counters: dict[Value, int], b: Builder) -> None:
    if node.prim == "iota" and node.result.ndim == 1:
        counters[node.result] = 0
    if node.prim == "add" and node.result.ndim == 1:
        fills = {n.result: n.attrs["value"] for n in b.nodes if n.prim == "full"}
        x, y = node.operands
        for one, other in ((x, y), (y, x)):
            if one in counters and other in fills:
                counters[node.result] = counters[one] + fills[other]


class _Segments:
    """One scan, emitted in segments. What counts the steps is computed, so that no memory goes over all of them."""

    def __init__(self, b: Builder, node: Node, operands: Sequence[Value], counters: dict[Value, int]) -> None:
        self.b, self.loop = b, Loop.of(node)
        self.consts, self.carry, self.xs = self.loop.roles(operands)
        self.counts = [x in counters for x in self.xs]
        self.starts = [counters[x] for x in chosen(self.xs, self.counts)]
        self.length = node.attrs["length"]
        self.size = math.isqrt(self.length - 1) + 1
        self.number, self.rest = divmod(self.length, self.size)
        self.item_types = [x.type.with_shape(x.shape[1:]) for x in self.xs]

    def emit(self) -> list[Value]:
        b, reverse, full = self.b, self.loop.reverse, self.number * self.size
        first = self.rest if reverse else 0  # where the whole segments begin; the remaining steps come after them
        rows = [self._rows(x, first, full, (self.number, self.size)) for x in rejected(self.xs, self.counts)]
        indices = [b.iota(shape=(self.number,), dtype=t.dtype, axis=0) for t in chosen(self.item_types, self.counts)]
        counts = {"num_consts": len(self.consts), "num_carry": len(self.carry)}
        attrs = {"length": self.number, "reverse": reverse, **counts}
        operands = (*self.consts, *self.carry, *rows, *indices)
        carry, stacks = chunks(b.emit("scan", operands, attrs, (self._outer_body(first),)), len(self.carry))
        ys = [b.reshaped(y, (full, *y.shape[2:])) for y in stacks]
        if self.rest:
            start = 0 if reverse else full
            tail = [self._rows(x, start, self.rest, (self.rest,)) for x in rejected(self.xs, self.counts)]
            bases = [b.scalar(s + start, t.dtype) for s, t in zip(self.starts, chosen(self.item_types, self.counts))]
            carry, more = chunks(self._checkpoint(b, self.rest, [*self.consts, *carry, *tail, *bases]), len(carry))
            pairs = zip(more, ys, strict=True) if reverse else zip(ys, more, strict=True)
            ys = [b.concat(x, y, axis=0) for x, y in pairs]
        return [*carry, *ys]

    def _rows(self, x: Value, start: int, count: int, lead: tuple[int, ...]) -> Value:
        rest = x.shape[1:]
        if count != x.shape[0]:
            zeros = (0,) * len(rest)
            x = self.b.slice(x, start=(start, *zeros), stop=(start + count, *rest), step=(1,) * x.ndim)
        return self.b.reshaped(x, (*lead, *rest))

    def _params(self, b: Builder, size: int) -> list[Value]:
        """Parameters for consts, carry, rows of the arrays that are run over, and a number per counter."""
        rows = [t.batched(size) for t in rejected(self.item_types, self.counts)]
        numbers = chosen(self.item_types, self.counts)
        return [b.param(t) for t in (*(v.type for v in (*self.consts, *self.carry)), *rows, *numbers)]

    def _outer_body(self, first: int) -> Graph:
        """One segment: the numbers of the segment become those of its first step."""
        b = Builder(f"{self.loop.body.name}.segments")
        given = self._params(b, self.size)
        given, segments = chunks(given, len(given) - len(self.starts))
        bases = [
            b.add(b.mul(s, b.like(s, self.size)), b.like(s, start + first))
            for s, start in zip(segments, self.starts, strict=True)
        ]
        return b.build(self._checkpoint(b, self.size, [*given, *bases]))

    def _checkpoint(self, b: Builder, size: int, operands: Sequence[Value]) -> list[Value]:
        region = Builder(f"{self.loop.body.name}.segment")
        consts, carry, rest = chunks(self._params(region, size), len(self.consts), len(self.carry))
        rows, bases = chunks(rest, len(rest) - len(self.starts))
        steps = [region.iota(shape=(size,), dtype=v.dtype, axis=0) for v in bases]
        loop = Loop("scan", size, self.loop.reverse, 0, 0, self.loop.body)
        carry, ys = loop.emit(region, self._body(), [*consts, *bases], carry, [*rows, *steps])
        attrs = {"save": (), "again": False}
        return list(b.emit("checkpoint", operands, attrs, (region.build([*carry, *ys]),)))

    def _body(self) -> Graph:
        """The scan's body over (consts, bases, carry, items, steps)."""
        b = Builder(self.loop.body.name)
        numbers = chosen(self.item_types, self.counts)
        consts = [b.param(v.type) for v in self.consts]
        bases = [b.param(t) for t in numbers]
        carry = [b.param(v.type) for v in self.carry]
        items = iter([b.param(t) for t in rejected(self.item_types, self.counts)])
        counted = iter([b.add(base, b.param(base.type)) for base in bases])
        xs = [next(counted) if counts else next(items) for counts in self.counts]
        return b.build(b.inline(self.loop.body, [*consts, *carry, *xs]))

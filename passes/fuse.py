"""Fusion: groups the nodes of a pure graph into `fused` nodes, so that the top level holds fused, library
and control nodes.

Note [Groups]
Nodes are visited in order; each computing node joins a group with its iteration space or starts one. A group
has one space (the shape that its elementwise members have and its reductions read) and one set of reduced
axes. Layout nodes belong to no group: they are index maps, copied into every region that reads through them,
and so are elementwise nodes that are cheap to compute again or that only one reader reads at other indices.
A value that a group computes is stored if something outside reads it. Merging keeps the graph of groups
acyclic.

Row programs: elementwise nodes of the results of a group's reductions join it. Where a group reduces the
last axes and these are short, so do nodes of the full space that read such values broadcast along the rows
(softmax, layer norm); the group then goes through each row several times, while it is in the cache.

A stack (a concatenation of arrays of one space side by side) is stored by the group that computes its parts. An update
whose base others read too is no copy but a selection that its one reader makes; one that replaces most of its base and
computes it from the base is written anew; other updates wait for their value, and may then be in place.

Kinds of fused nodes: "loop" (elementwise), "reduce", "scan" (cumulative), "copy" (a layout that must stand
in memory), "view" (a layout that its readers can express by strides: reshapes, and operands of dot),
"assemble" (concat, update, scatter).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import is_half
from nufunc.passes.columns import by_columns
from nufunc.passes.convolutions import normal_convolutions
from nufunc.passes.decompose import decompose
from nufunc.passes.fuse_products import join_products
from nufunc.passes.fuse_regions import rebuild
from nufunc.passes.fuse_rules import (
    ASSEMBLY,
    CUMULATIVE,
    read_through,
    stacked_shape,
)
from nufunc.passes.fuse_storage import Storage
from nufunc.passes.pairs import sums_of_pairs
from nufunc.passes.reread import reread
from nufunc.passes.squeeze import squeezed
from nufunc.passes.structure import structured
from nufunc.passes.windows import written_out

_SIBLINGS = 16  # groups that read the same value looked at, the latest, so that the time stays linear
_SEARCH = 400  # groups looked at to find out whether one depends on another
_LARGEST = 96  # members of a group; beyond, registers spill and compile time grows faster than the gain
_SMALL = 64  # elements up to which unrelated groups of one space are merged
_ROW = 4096  # elements of a row up to which what follows its reductions stays with them


def fuse(graph: Graph, reasons: list[str] | None = None) -> Graph:
    """The grouped graph. `reasons` collects why neighbours were not fused."""
    reasons = [] if reasons is None else reasons
    written = written_out(normal_convolutions(reread(graph)))
    prepared = squeezed(sums_of_pairs(by_columns(decompose(structured(written)))))
    return join_products(Fusion(prepared, reasons).run(), reasons)


def reasons(graph: Graph) -> list[str]:
    """Why neighbouring nodes of a pure graph do not share a kernel, one line per refusal."""
    collected: list[str] = []
    fuse(graph, collected)
    return collected


def _size(*groups: Sequence[Node]) -> int:
    """How many members groups have together, as far as it matters. Conversions of halves, which only devices have here,
    are parts of what they stand between."""
    size = sum(map(len, groups))
    if size < _LARGEST:
        return size
    return size - sum(1 for group in groups for node in group if node.prim == "convert" and _of_half(node))


def _of_half(node: Node) -> bool:
    return is_half(node.result.dtype) or is_half(node.operands[0].dtype)


class Unit:
    """A group under construction, or a library or control node that stands alone."""

    def __init__(self, order: int, kind: str) -> None:
        self.order, self.kind = order, kind
        self.members: list[Node] = []
        self.space: tuple[int, ...] | None = None
        self.axes: tuple[int, ...] | None = None
        self.sources: dict[Unit, list[tuple[Value, bool]]] = {}  # producer -> (value, read at the same index)

    @property
    def stacks(self) -> bool:
        return any(n.prim == "concat" for n in self.members)

    def __repr__(self) -> str:
        return f"<{self.kind} {', '.join(n.prim for n in self.members)}>"


class Fusion(Storage):
    def __init__(self, graph: Graph, reasons: list[str]) -> None:
        super().__init__(graph)
        self.reasons = reasons
        self.units: list[Unit] = []
        self.unit_of: dict[Node, Unit] = {}
        self.readers: dict[Value, list[Unit]] = {}
        self.of_rows: set[Node] = set()  # reductions, and what groups compute of their results alone

    def _again_from_outside(self, value: Value, *units: Unit) -> bool:
        """Whether a value may be computed again at other indices, without anything dear that these groups compute."""
        if not self.is_trivial(value):
            return False
        stack = [value]
        while stack:
            for operand in self.producers[stack.pop()].operands:
                for leaf, _ in self.leaves(operand):
                    producer = self.producers.get(leaf)
                    if producer is not None and self.is_trivial(leaf):
                        stack.append(leaf)
                    elif producer is not None and self.unit_of[producer] in units:
                        return False
        return True

    def run(self) -> Graph:
        self.classify()
        for order, node in enumerate(self.graph.nodes):
            if self.alone(node):
                unit = self._new(order, "alone", node)
                for operand in node.operands:
                    self._read(unit, operand, False)
            elif not self.is_inline(node) or node.result in self.needed:
                self._place(order, node)
        return rebuild(self)

    def again(self, region: Graph) -> Graph:
        """A region grouped like this graph."""
        return fuse(region, self.reasons)

    def _new(self, order: int, kind: str, node: Node) -> Unit:
        unit = Unit(order, kind)
        self.units.append(unit)
        self._add(unit, node)
        return unit

    def _add(self, unit: Unit, node: Node) -> None:
        unit.members.append(node)
        self.unit_of[node] = unit

    def _read(self, unit: Unit, value: Value, same: bool) -> None:
        readers = self.readers.setdefault(value, [])
        if unit not in readers:
            readers.append(unit)
        node = self.producers.get(value)
        if node is not None:
            source = self.unit_of[node]
            if source is not unit:
                unit.sources.setdefault(source, []).append((value, same))

    def _space(self, node: Node) -> tuple[str, tuple[int, ...], tuple[int, ...] | None]:
        if node.prim in CUMULATIVE:
            return "scan", node.operands[0].shape, (node.attrs["axis"],)
        if self.kind(node) == "reduce":
            axes = (node.attrs["axis"],) if "axis" in node.attrs else tuple(sorted(node.attrs["axes"]))
            return "reduce", node.operands[0].shape, axes
        stacked = stacked_shape(node)
        if stacked is not None:
            return "loop", stacked, None
        return "loop", node.result.shape, None

    def _place(self, order: int, node: Node) -> None:
        if (node.prim in ASSEMBLY and stacked_shape(node) is None) or (self.is_inline(node) and not self.is_cut(node)):
            kind = "assemble" if node.prim in ASSEMBLY else "copy"
            single = self._new(order, kind, node)
            for operand in node.operands:
                for leaf, _ in self.leaves(operand):
                    self._read(single, leaf, False)
            return
        kind, space, axes = self._space(node)
        found: dict[Value, bool] = {}
        for operand in node.operands:
            stacks = stacked_shape(node) is not None
            for leaf, same in self.stacked_leaves(operand) if stacks else self.leaves(operand):
                found[leaf] = found.get(leaf, True) and same
        sources = list(found.items())
        unit: Unit | None = None
        for candidate in self._candidates(sources, space):
            if unit is None:
                refusal = self._refusal(candidate, node, kind, space, axes, sources)
                if refusal:
                    self._note(candidate, node, refusal)
                else:
                    unit = candidate
            elif self._mergeable(unit, candidate) and not self._refusal(candidate, node, kind, space, axes, sources):
                self._merge(unit, candidate)
        if unit is None:
            unit = self._new(order, kind, node)
            unit.space = space
        else:
            self._add(unit, node)
        if axes is not None:
            unit.kind, unit.axes = kind, axes
        if axes is not None or unit.space != space:
            self.of_rows.add(node)
        for leaf, same in sources:
            self._read(unit, leaf, same)
            for behind in self._behind(leaf):
                readers = self.readers.setdefault(behind, [])
                if unit not in readers:
                    readers.append(unit)

    def _behind(self, leaf: Value) -> list[Value]:
        """What stands behind a value that is rather computed again."""
        if not self.is_trivial(leaf):
            return []
        return [found for o in self.producers[leaf].operands for found, _ in self.leaves(o)]

    def _candidates(self, sources: list[tuple[Value, bool]], space: tuple[int, ...]) -> list[Unit]:
        """Groups worth joining: those that produce what is read, those that read it too, and small ones of
        this space."""
        found: dict[Unit, None] = {}
        for leaf, _ in reversed(sources):
            producer = self.producers.get(leaf)
            if producer is not None and self.unit_of[producer].space is not None:
                found[self.unit_of[producer]] = None
        for leaf, _ in sources:
            for value in (leaf, *self._behind(leaf)):
                for unit in self.readers.get(value, ())[-_SIBLINGS:]:
                    if unit.space == space:
                        found[unit] = None
        if math.prod(space) <= _SMALL:
            for unit in reversed(self.units):
                if unit.space == space:
                    found[unit] = None
                    break
        # rows first: what follows them elsewhere would keep others from following them
        return sorted(found, key=lambda unit: unit.space == space)

    def _refusal(
        self, unit: Unit, node: Node, kind: str, space: tuple[int, ...], axes: tuple[int, ...] | None,
        sources: list[tuple[Value, bool]],
    ) -> str:  # fmt: skip
        """Why `node` cannot join `unit`; empty if it can."""
        after_rows = unit.space != space
        if (axes is not None and unit.stacks) or (unit.axes is not None and stacked_shape(node) is not None):
            return "what reduces does not store a stack"
        if after_rows and not (axes is None and self._is_of_rows(unit, node, space)):
            return f"its space is {space}, not {unit.space}"
        if unit.kind == "scan" or (kind == "scan" and unit.axes is not None):
            return "a cumulative operation ends a group"
        if axes is not None and unit.axes is not None and axes != unit.axes:
            return f"it reduces axes {axes}, not {unit.axes}"
        if _size(unit.members) >= _LARGEST:
            return "the group is large"
        for leaf, same in sources:
            producer = self.producers.get(leaf)
            if producer is None:
                continue
            source = self.unit_of[producer]
            if source is unit:
                if producer in self.of_rows and not after_rows:
                    if not self._along_rows(unit, node, leaf):
                        return f"it reads the result of {producer.prim}"
                    continue
                if after_rows and not (producer in self.of_rows and same):
                    return f"it reads {producer.prim} of the whole space"
                if not (same or self._again_from_outside(leaf, unit)):
                    return f"it reads {producer.prim} at other indices"
            elif self._reaches(source, unit):
                return "a value between them is computed elsewhere"
        return ""

    def _short_rows(self, unit: Unit) -> bool:
        """Whether a group reduces its last axes, and rows are short enough to go through again."""
        if unit.kind != "reduce" or unit.space is None or unit.axes is None:
            return False
        rank, count = len(unit.space), len(unit.axes)
        if unit.axes != tuple(range(rank - count, rank)):
            return False
        return math.prod(unit.space[rank - count :]) <= _ROW

    def _is_of_rows(self, unit: Unit, node: Node, space: tuple[int, ...]) -> bool:
        """Whether a node has the shape of a group's reductions and reads one."""
        if unit.kind != "reduce" or unit.space is None or unit.axes is None:
            return False
        if space != tuple(n for k, n in enumerate(unit.space) if k not in unit.axes):
            return False
        return any(self.producers.get(leaf) in self.of_rows for o in node.operands for leaf, _ in self.leaves(o))

    def _along_rows(self, unit: Unit, node: Node, leaf: Value) -> bool:
        """Whether `node` reads a value of the rows of its group only broadcast along the rows."""
        if not self._short_rows(unit) or unit.space is None or unit.axes is None:
            return False
        kept = tuple(range(len(unit.space) - len(unit.axes)))
        for operand in node.operands:
            if any(found is leaf for found, _ in self.leaves(operand)):
                index: tuple[int | None, ...] = tuple(range(operand.ndim))
                value = operand
                while value is not leaf:
                    inner = self.producers[value]
                    if inner.prim not in ("broadcast", "reshape"):
                        return False
                    index = read_through(inner, index)
                    value = inner.operands[0]
                wanted = tuple(None if unit.space[k] == 1 else k for k in kept)
                if tuple(None if leaf.shape[p] == 1 else k for p, k in enumerate(index)) != wanted:
                    return False
        return True

    def _note(self, unit: Unit, node: Node, why: str) -> None:
        names = ", ".join(dict.fromkeys(n.prim for n in unit.members[:4]))
        at = f" ({node.loc})" if node.loc is not None else ""
        self.reasons.append(f"{node.prim}{at} is not fused with the group of {names}: {why}")

    def _reaches(self, unit: Unit, target: Unit, skip_direct: bool = False) -> bool:
        """Whether `unit` needs, directly or not, what `target` computes; assumed where that would take long to say."""
        stack = [s for s in unit.sources if not (skip_direct and s is target)]
        seen = set(stack)
        while stack:
            if len(seen) > _SEARCH:
                return True
            at = stack.pop()
            if at is target:
                return True
            for source in at.sources:
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
        return False

    def _mergeable(self, a: Unit, b: Unit) -> bool:
        """Whether two groups of one space can become one."""
        if a.space != b.space or "scan" in (a.kind, b.kind) or _size(a.members, b.members) > _LARGEST:
            return False
        if a.axes is not None and b.axes is not None and a.axes != b.axes:
            return False
        if (a.axes is not None or b.axes is not None) and (a.stacks or b.stacks):
            return False
        for reader, source in ((a, b), (b, a)):
            if self._reaches(reader, source, skip_direct=True):
                return False
            for value, same in reader.sources.get(source, ()):
                if self.producers[value] in self.of_rows or not (same or self._again_from_outside(value, a, b)):
                    return False
        return True

    def _merge(self, into: Unit, other: Unit) -> None:
        for node in other.members:
            self._add(into, node)
        if other.axes is not None:
            into.kind, into.axes = other.kind, other.axes
        into.order = min(into.order, other.order)
        for source, values in other.sources.items():
            if source is not into:
                into.sources.setdefault(source, []).extend(values)
        into.sources.pop(other, None)
        self.units.remove(other)
        for unit in self.units:
            if other in unit.sources:
                values = unit.sources.pop(other)
                if unit is not into:
                    unit.sources.setdefault(into, []).extend(values)
        for readers in self.readers.values():
            if other in readers:
                readers.remove(other)
                if into not in readers:
                    readers.append(into)

"""Construction of loop nests: a fused region, asked for the value of each output at symbolic indices.

Layout primitives are answered by rewriting the indices, so they cost nothing; each (value, indices) pair is
computed once. What reads outside its operand (pad, concat, update) is answered with guards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.codegen.loops import Accumulator, Affine, Axis, AxisKind, Buffer, Inst, LoopNest, Phase, op_cost
from nufunc.codegen.nest_rules import ASSEMBLY, CUMULATIVE, REDUCTIONS, RULES, identity
from nufunc.ir import primitive
from nufunc.ir.errors import Location, VerifyError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import BOOL, INT64

Index = tuple[Affine, ...]
_TOGETHER = 8  # operands of a concat up to which one nest stores them all
_WHOLE = 1024  # points of a nest from which it is worth more code to have most of them without tests of bounds
_KEPT_COST, _KEPT_ROW = 4, 16  # from which cost, and length of rows, a value is kept from phase to phase


Box = tuple[tuple[int, int], ...]  # from and to, of each axis


def complement(shape: Sequence[int], box: Sequence[tuple[int, int]]) -> list[Box]:
    """Boxes that cover what a box leaves of an array."""
    boxes: list[Box] = []
    for k, (low, high) in enumerate(box):
        rest = [(0, n) for n in shape[k + 1 :]]
        boxes += [(*box[:k], part, *rest) for part in ((0, low), (high, shape[k]))]
    return [b for b in boxes if all(low < high for low, high in b)]


class Sites:
    """Error sites of a plan: code (from 1) -> what went wrong and where."""

    def __init__(self) -> None:
        self.sites: dict[int, tuple[str, Location | None]] = {}

    def add(self, kind: str, loc: Location | None) -> int:
        code = len(self.sites) + 1
        self.sites[code] = (kind, loc)
        return code


def build_nests(region: Graph, name: str, sites: Sites, boxed: bool = False) -> list[LoopNest]:
    """The nests that compute a fused region, in order; buffers are its parameters, its constants, then its
    outputs. With `boxed` what lies in the midst of an array has loops of its own, without tests of bounds."""
    producers = {r: n for n in region.nodes for r in n.results}
    if len(region.outputs) == 1:
        node = producers.get(region.outputs[0])
        if node is not None and node.prim in ASSEMBLY:
            return [n for n in _Assembly(region, name, sites, producers, boxed).build(node) if n is not None]
    builder = NestBuilder(region, name, sites, producers)
    nest = builder.build()
    if nest is None:
        return []
    boxes = builder.boxes(nest) if boxed else []
    return _boxed_nests((region, name, sites, producers), boxes, lambda b, _, i: b.store_all(i)) if boxes else [nest]


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
        axes, index = b.part_axes(outer)
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


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


class NestBuilder:
    """Builds one nest; `at` answers what a value is at given indices."""

    def __init__(self, region: Graph, name: str, sites: Sites, producers: dict[Value, Node]) -> None:
        self.region, self.name, self.sites, self.producers = region, name, sites, producers
        self.tests: list[tuple[Affine, int, int]] = []  # of indices that are inside their operand for some points only
        inputs = [*region.params, *(v for v, _ in region.consts)]
        self.input_number = {v: k for k, v in enumerate(inputs)}
        self.buffers = [Buffer(v.hint or f"x{k}", v.dtype, v.type.size) for k, v in enumerate(inputs)]
        self.outputs: dict[int, int] = {}
        for k, v in enumerate(region.outputs):
            self.outputs[k] = len(self.buffers)
            self.buffers.append(Buffer(v.hint or f"y{k}", v.dtype, v.type.size, written=True))
        self.memo: dict[Any, int] = {}
        self.extents: dict[str, int] = {}
        self.dtypes: dict[int, np.dtype] = {}
        self.body: list[Inst] = []
        self.next_id = 0
        self.levels: dict[Value, int] = {}
        self.accumulators: list[Accumulator] = []
        self.done: list[tuple[Index, Affine]] = []  # of each phase built: its full index, and its position in the row
        self.rows: dict[Value, int] = {}  # values kept between phases -> scratch buffer

    # -- instructions

    def emit(self, op: str, args: Sequence[int], dtype: np.dtype, **fields: Any) -> int:
        attrs = fields.pop("attrs", {})
        index, guard, buffer = fields.get("index", Affine()), fields.get("guard"), fields.get("buffer", -1)
        key = (op, tuple(args), dtype, primitive.attr_tuple(attrs), index, guard, buffer)
        if op not in ("store", "running") and key in self.memo:
            return self.memo[key]
        number = self.memo[key] = self.next_id
        self.next_id += 1
        self.body.append(Inst(number, op, tuple(args), dtype, attrs, buffer, index, guard))
        self.dtypes[number] = dtype
        return number

    def const(self, value: Any, dtype: np.dtype) -> int:
        return self.emit("const", (), dtype, attrs={"value": np.dtype(dtype).type(value).item()})

    def index_value(self, index: Affine) -> int:
        """An affine form as an i64 value."""
        if index.const == 0 and len(index.terms) == 1 and index.terms[0][1] == 1:
            key = index.terms[0][0]
            if isinstance(key, int):
                return key
        return self.emit("index", (), INT64, index=index)

    def axes(self, shape: Sequence[int], prefix: str, kinds: Sequence[AxisKind]) -> tuple[list[Axis], Index]:
        """An axis per extent other than 1, and the indices that they are."""
        made, index = [], []
        for k, (extent, kind) in enumerate(zip(shape, kinds, strict=True)):
            if extent == 1:
                index.append(Affine())
                continue
            axis = Axis(f"{prefix}{k}", extent, kind)
            self.extents[axis.name] = extent
            made.append(axis)
            index.append(Affine.of(axis.name))
        return made, tuple(index)

    def part_axes(self, box: Box) -> tuple[list[Axis], Index]:
        """Axes and indices of a part of an elementwise space."""
        axes, index = self.axes([high - low for low, high in box], "i", ["parallel"] * len(box))
        return axes, tuple(i + low for i, (low, _) in zip(index, box, strict=True))

    def boxes(self, nest: LoopNest) -> list[Box]:
        """Parts of an elementwise nest of which the first needs no tests of bounds; none where that is not worth it."""
        shape = self._space()[0]
        inner = [(0, n) for n in shape]
        if len(nest.phases) > 1 or nest.phases[0].axes or math.prod(shape) < _WHOLE or len(nest.axes) > 3:
            return []
        for index, low, high in self.tests:
            (key, c), *more = index.terms
            if more or not isinstance(key, str) or c not in (1, -1):
                continue
            k, ends = int(key[1:]), sorted(((low - index.const) * c, (high - 1 - index.const) * c))
            inner[k] = (max(inner[k][0], ends[0]), min(inner[k][1], ends[1] + 1))
        if any(low >= high for low, high in inner) or 2 * math.prod(h - l for l, h in inner) < math.prod(shape):
            return []
        around = complement(shape, inner)
        return [tuple(inner), *around] if around else []

    def range_of(self, index: Affine) -> tuple[float, float]:
        """The least and greatest value of an affine form (infinite where it holds computed values)."""
        low = high = float(index.const)
        for key, c in index.terms:
            if isinstance(key, int):
                return -math.inf, math.inf
            span = c * (self.extents[key] - 1)
            low, high = low + min(span, 0), high + max(span, 0)
        return low, high

    # -- the whole nest

    def build(self) -> LoopNest | None:
        full, reduced, serial, reverse = self._space()
        reduce_nodes = [n for n in self.region.nodes if n.prim in REDUCTIONS]
        level = {v: self.level(v) for v in self.region.outputs}
        if 0 in [n for k, n in enumerate(full) if serial or k not in reduced]:
            return None
        kept = [k for k in range(len(full)) if k not in reduced]
        outer, outer_index = self.axes([full[k] for k in kept], "i", ["parallel"] * len(kept))
        last = max(level.values(), default=0)
        self.phases: list[tuple[list[Axis], list[Inst], list[Accumulator]]] = []
        for p in range(last + 1):
            self.body, self.accumulators = [], []
            reducing = [n for n in reduce_nodes if self.level(n.operands[0]) == p]
            stored = [k for k, v in enumerate(self.region.outputs) if level[v] == p]
            whole = bool(reducing) or serial or any(self.region.outputs[k].shape == full for k in stored)
            inner: list[Axis] = []
            index: list[Affine] = [Affine()] * len(full)
            for position, k in enumerate(kept):
                index[k] = outer_index[position]
            if whole and reduced:
                order = sorted(reduced)
                kind: AxisKind = "serial" if serial else "reduce" if reducing else "parallel"
                inner, inner_index = self.axes([full[k] for k in order], f"r{p}_", [kind] * len(order))
                for position, k in enumerate(order):
                    i = inner_index[position]
                    index[k] = i * -1 + (full[k] - 1) if reverse else i
            self.full_index, self.outer_index = tuple(index), outer_index
            row = [k for k in range(len(full)) if k in reduced]
            self.row_address = self.linear([index[k] for k in row], [full[k] for k in row])
            self.row_size = math.prod(full[k] for k in row)
            for node in reducing:
                self._reduce(node, full)
            for k in stored:
                value = self.region.outputs[k]
                if self._stack(value) is not None:
                    self.store_output(k, self.full_index)
                    continue
                where = outer_index if reduced and not serial and len(value.shape) == len(kept) else self.full_index
                self.store(k, self.at(value, where, None), self.linear(where, value.shape))
            if inner and any(a.extent == 0 for a in inner):
                self._empty(self.accumulators)
                inner, self.accumulators = [], []
            self.phases.append((inner, self.body, self.accumulators))
            self.done.append((self.full_index, self.row_address))
        phases = tuple(Phase(tuple(axes), tuple(body), tuple(accs)) for axes, body, accs in self.phases)
        return LoopNest(self.name, tuple(self.buffers), tuple(outer), phases)

    def _empty(self, accumulators: Sequence[Accumulator]) -> None:
        """Reductions over nothing: their results are the identities."""
        self.body[:] = [
            Inst(a.id, "const", (), a.dtype, {"value": np.dtype(a.dtype).type(a.init + 0).item()}) for a in accumulators
        ]

    def _space(self) -> tuple[tuple[int, ...], set[int], bool, bool]:
        """The full iteration space, the axes that are reduced or serial, whether serial, and whether
        backwards."""
        for node in self.region.nodes:
            if node.prim in CUMULATIVE:
                return node.operands[0].shape, {node.attrs["axis"]}, True, node.attrs["reverse"]
            if node.prim in ("argmax", "argmin"):
                return node.operands[0].shape, {node.attrs["axis"]}, False, False
            if node.prim in REDUCTIONS:
                return node.operands[0].shape, set(node.attrs["axes"]), False, False
        first = self.region.outputs[0]
        stack = self._stack(first)
        return first.shape if stack is None else _without(first.shape, stack.attrs["axis"]), set(), False, False

    def _stack(self, output: Value) -> Node | None:
        """The concatenation behind an output that a group stores with others of the space of its operands."""
        node = self.producers.get(output)
        return node if node is not None and node.prim == "concat" else None

    def level(self, value: Value) -> int:
        """How many reductions stand one behind the other before a value."""
        stack = [value]
        while stack:
            v = stack[-1]
            node = self.producers.get(v)
            missing = [o for o in node.operands if o not in self.levels] if node is not None else []
            if missing:
                stack.extend(missing)
                continue
            own = 0
            if node is not None:
                own = max((self.levels[o] for o in node.operands), default=0) + (node.prim in REDUCTIONS)
            self.levels[v] = own
            stack.pop()
        return self.levels[value]

    def _reduce(self, node: Node, full: tuple[int, ...]) -> None:
        value = self.at(node.operands[0], self.full_index, None)
        op, dtype = REDUCTIONS[node.prim], node.operands[0].dtype
        position = None
        if op in ("argmax", "argmin"):
            position = self.index_value(self.full_index[node.attrs["axis"]])
        number = self.next_id
        self.next_id += 1
        self.dtypes[number] = node.result.dtype
        init = identity(op, dtype)
        self.accumulators.append(Accumulator(number, op, value, init, dtype, position))
        self.memo[(node.result, self.outer_index, None)] = number

    def store(self, output: int, value: int, address: Affine, mode: str = "set", guard: int | None = None) -> None:
        attrs = {"mode": mode}
        buffer = self.outputs[output]
        self.emit("store", (value,), self.dtypes[value], attrs=attrs, buffer=buffer, index=address, guard=guard)

    def store_all(self, index: Index) -> None:
        """All outputs of an elementwise region at a point."""
        for k in range(len(self.region.outputs)):
            self.store_output(k, index)

    def store_output(self, k: int, index: Index) -> None:
        """An output at a point of its space; of a stack the elements that stand side by side."""
        value = self.region.outputs[k]
        stack = self._stack(value)
        if stack is None:
            self.store(k, self.at(value, index, None), self.linear(index, value.shape))
            return
        axis = stack.attrs["axis"]
        for number, operand in enumerate(stack.operands):
            part = self.at(operand, (*index[:axis], Affine(), *index[axis:]), None)
            self.store(k, part, self.linear((*index[:axis], Affine(number), *index[axis:]), value.shape))

    # -- values at indices

    def at(self, value: Value, index: Index, guard: int | None) -> int:
        """The id of `value[index]`; computed only where `guard` holds."""
        key = (value, index, guard)
        if key not in self.memo:
            kept = self._kept(value) if self.done and guard is None and index == self.full_index else None
            self.memo[key] = self._at(value, index, guard) if kept is None else kept
        return self.memo[key]

    def _kept(self, value: Value) -> int | None:
        """A dear value that an earlier phase has computed at this point: read back from the output where it
        was stored, or from a row of scratch memory; None where it is to be computed."""
        node = self.producers.get(value)
        if node is None or op_cost(node.prim) < _KEPT_COST or self.row_size < _KEPT_ROW:
            return None
        earlier = next((p for p, (index, _) in enumerate(self.done) if (value, index, None) in self.memo), None)
        if earlier is None or not self.phases[earlier][0]:
            return None
        if value in self.region.outputs:
            buffer, address = (
                self.outputs[self.region.outputs.index(value)],
                self.linear(self.full_index, value.shape),
            )
        else:
            address = self.row_address
            if value not in self.rows:
                self.rows[value] = len(self.buffers)
                self.buffers.append(Buffer(f"row{len(self.rows)}", value.dtype, self.row_size, True, True))
                index, place = self.done[earlier]
                self._store_in(earlier, self.memo[(value, index, None)], self.rows[value], place)
            buffer = self.rows[value]
        return self.emit("load", (), value.dtype, buffer=buffer, index=address)

    def _store_in(self, phase: int, value: int, buffer: int, address: Affine) -> None:
        body = self.phases[phase][1]
        body.append(Inst(self.next_id, "store", (value,), self.dtypes[value], {"mode": "set"}, buffer, address))
        self.next_id += 1

    def _at(self, value: Value, index: Index, guard: int | None) -> int:
        if value in self.input_number:
            return self.load(value, self.linear(index, value.shape), guard)
        node = self.producers[value]
        if primitive.get(node.prim).kind == "elementwise":
            args = [self.at(o, index, guard) for o in node.operands]
            return self.emit(node.prim, args, value.dtype, attrs=node.attrs)
        rule = RULES.get(node.prim)
        if rule is None:
            raise VerifyError(f"{node.prim} cannot stand in a fused region here", node.loc)
        return rule(self, node, index, guard)

    def load(self, value: Value, address: Affine, guard: int | None) -> int:
        return self.emit("load", (), value.dtype, buffer=self.input_number[value], index=address, guard=guard)

    def linear(self, index: Sequence[Affine], shape: Sequence[int]) -> Affine:
        """The address of an element of a C-contiguous array."""
        address = Affine()
        for position, extent in zip(index, shape, strict=True):
            address = address * extent + position
        return address

    def at_address(self, value: Value, address: Affine, guard: int | None) -> int:
        """`value.ravel()[address]`."""
        node = self.producers.get(value)
        if node is None:
            return self.load(value, address, guard)
        if node.prim == "reshape":
            return self.at_address(node.operands[0], address, guard)
        if primitive.get(node.prim).kind == "elementwise":
            key = (value, "flat", address, guard)
            if key not in self.memo:
                args = [self.at_address(o, address, guard) for o in node.operands]
                self.memo[key] = self.emit(node.prim, args, value.dtype, attrs=node.attrs)
            return self.memo[key]
        return self.at(value, self.split(address, value.shape), guard)

    def split(self, address: Affine, shape: Sequence[int]) -> Index:
        """The indices whose address in an array of `shape` is `address`."""
        index: list[Affine] = []
        rest = address
        for stride in [math.prod(shape[k + 1 :]) for k in range(len(shape))]:
            high, rest = self._divmod(rest, stride)
            index.append(high)
        return tuple(index)

    def _divmod(self, address: Affine, by: int) -> tuple[Affine, Affine]:
        if by == 1:
            return address, Affine()
        high = Affine(address.const // by, tuple((k, c // by) for k, c in address.terms if c % by == 0))
        low = Affine(address.const % by, tuple((k, c) for k, c in address.terms if c % by))
        least, greatest = self.range_of(low)
        if least >= 0 and greatest < by:
            return high, low
        whole = self.index_value(address)
        quotient = self.emit("index_div", (whole,), INT64, attrs={"by": by})
        remainder = self.emit("index_mod", (whole,), INT64, attrs={"by": by})
        return Affine.of(quotient), Affine.of(remainder)

    # -- guards

    def within(self, index: Affine, low: int, high: int, guard: int | None) -> tuple[bool, int | None]:
        """The condition low <= index < high joined to a guard. False first: it never holds."""
        least, greatest = self.range_of(index)
        if greatest < low or least >= high:
            return False, None
        if least < low or greatest >= high:
            self.tests.append((index, low, high))
        for holds, op, bound in ((least >= low, "ge", low), (greatest < high, "lt", high)):
            if not holds:
                test = self.emit(op, (self.index_value(index), self.const(bound, INT64)), BOOL)
                guard = self.both(guard, test)
        return True, guard

    def both(self, a: int | None, b: int | None) -> int | None:
        if a is None or b is None:
            return b if a is None else a
        return a if a == b else self.emit("bit_and", (a, b), BOOL)

    def choose(self, test: int | None, yes: Callable[[], int], no: Callable[[], int], dtype: np.dtype) -> int:
        return yes() if test is None else self.emit("select", (test, yes(), no()), dtype)

    def clamped(self, value: int, high: int) -> int:
        """An i64 value limited to 0 <= value <= high."""
        low = self.emit("maximum", (value, self.const(0, INT64)), INT64)
        return self.emit("minimum", (low, self.const(high, INT64)), INT64)

    def window(self, node: Node, first: int, sizes: Sequence[int]) -> list[Affine]:
        """The clamped starts of dynamic_slice and dynamic_update, whose operands from `first` on are the
        starts."""
        shape = node.operands[0].shape
        starts = [self.at(s, (), None) for s in node.operands[first:]]
        return [Affine.of(self.clamped(s, n - m)) for s, n, m in zip(starts, shape, sizes, strict=True)]

    def looked_up(self, node: Node, first: int, index: Index, guard: int | None) -> list[Affine]:
        """The checked indices of gather and scatter at a point of their index arrays."""
        found = []
        for axis, operand in zip(node.attrs["axes"], node.operands[first:], strict=True):
            value, extent = self.at(operand, index, guard), node.operands[0].shape[axis]
            if node.attrs["mode"] == "clip":
                found.append(Affine.of(self.clamped(value, extent - 1)))
                continue
            attrs = {"extent": extent, "site": self.sites.add("index", node.loc)}
            found.append(Affine.of(self.emit("check", (value,), INT64, attrs=attrs, guard=guard)))
        return found


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

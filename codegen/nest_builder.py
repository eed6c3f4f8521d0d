"""Construction of loop nests: a fused region, asked for the value of each output at symbolic indices.

Layout primitives are answered by rewriting the indices, so they cost nothing; each (value, indices) pair is
computed once. What reads outside its operand (pad, concat, update) is answered with guards.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.codegen import checks
from nufunc.codegen.loops import Accumulator, Affine, Axis, AxisKind, Buffer, Inst, LoopNest, Phase
from nufunc.codegen.nest_rules import CUMULATIVE, REDUCTIONS, RULES, identity
from nufunc.codegen.schedule import op_cost
from nufunc.ir import primitive
from nufunc.ir.errors import BoundsError, DomainError, LinAlgError, Location, OutOfMemoryError, VerifyError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import BOOL, INT64

if TYPE_CHECKING:
    from nufunc.codegen.callback import HostCall

Index = tuple[Affine, ...]
_KEPT_COST, _KEPT_ROW = 4, 16  # from which cost, and length of rows, a value is kept from phase to phase


class Sites:
    """Error sites of a plan: code (from 1) -> what went wrong and where."""

    def __init__(self) -> None:
        self.sites: dict[int, tuple[str | HostCall, Location | None]] = {}

    def add(self, kind: str | HostCall, loc: Location | None) -> int:
        code = len(self.sites) + 1
        self.sites[code] = (kind, loc)
        return code


def site_error(kind: str | HostCall, loc: Location | None, index: int | None = None) -> BaseException:
    """The exception of an error site; `index`: the one that was outside, if it is known."""
    if not isinstance(kind, str):
        return kind.error()
    if kind == "memory":
        return OutOfMemoryError("there is no memory for the values that the derivative of this loop needs", loc)
    if checks.is_index(kind):
        return BoundsError(checks.index_message(kind, index), loc)
    if kind == "power":
        return DomainError("integers to negative integer powers are not allowed; convert one of them to float", loc)
    return LinAlgError(kind, loc)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


@functools.lru_cache(maxsize=1)
def _interface(region: Graph) -> tuple[dict[Value, int], tuple[Buffer, ...]]:
    """The numbers of a region's inputs, and its buffers: inputs, then outputs. It is asked for once per nest, and an
    array that is put together from parts has as many nests as buffers.
    """
    inputs = [*region.params, *(v for v, _ in region.consts)]
    buffers = [Buffer(v.hint or f"x{k}", v.dtype, v.type.size) for k, v in enumerate(inputs)]
    buffers += [Buffer(v.hint or f"y{k}", v.dtype, v.type.size, written=True) for k, v in enumerate(region.outputs)]
    return {v: k for k, v in enumerate(inputs)}, tuple(buffers)


class NestBuilder:
    """Builds one nest; `at` answers what a value is at given indices."""

    def __init__(self, region: Graph, name: str, sites: Sites, producers: dict[Value, Node]) -> None:
        self.region, self.name, self.sites, self.producers = region, name, sites, producers
        self.steps: dict[str, int] = {}  # axes of which only every step-th point reads something
        self.tests: list[tuple[Affine, int, int]] = []  # of indices that are inside their operand for some points only
        self.input_number, buffers = _interface(region)
        self.buffers = list(buffers)
        self.outputs = {k: len(self.input_number) + k for k in range(len(region.outputs))}
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
        full, reduced, serial, reverse = self.space()
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
                self._empty(inner, self.accumulators)
                inner, self.accumulators = [], []
            self.phases.append((inner, self.body, self.accumulators))
            self.done.append((self.full_index, self.row_address))
        phases = tuple(Phase(tuple(axes), tuple(body), tuple(accs)) for axes, body, accs in self.phases)
        return LoopNest(self.name, tuple(self.buffers), tuple(outer), phases)

    def _empty(self, inner: Sequence[Axis], accumulators: Sequence[Accumulator]) -> None:
        """Reductions over nothing: their results are the identities. What depends on outer axes alone stays."""
        names, dropped, kept = {a.name for a in inner}, set[int](), []
        for inst in self.body:
            if any(k in names for k, _ in inst.index.terms) or any(u in dropped for u in inst.uses()):
                dropped.add(inst.id)
            else:
                kept.append(inst)
        self.body[:] = kept + [
            Inst(a.id, "const", (), a.dtype, {"value": np.dtype(a.dtype).type(a.init + 0).item()}) for a in accumulators
        ]

    def space(self) -> tuple[tuple[int, ...], set[int], bool, bool]:
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
        if op == "add" and dtype.kind in "fc":
            init = 0.0 if dtype.kind == "f" else 0j  # sums start from 0.0 as NumPy's do: those of -0.0 are 0.0
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
            return self.elementwise(node, [self.at(o, index, guard) for o in node.operands], guard)
        rule = RULES.get(node.prim)
        if rule is None:
            raise VerifyError(f"{node.prim} cannot stand in a fused region here", node.loc)
        return rule(self, node, index, guard)

    def elementwise(self, node: Node, args: list[int], guard: int | None) -> int:
        """One element of an elementwise node."""
        dtype = node.result.dtype
        if node.prim == "pow" and dtype.kind == "i":
            attrs = {"extent": np.iinfo(np.int64).max, "site": self.sites.add("power", node.loc)}
            wide = self.emit("convert", (args[1],), INT64, attrs={"dtype": INT64})
            checked = self.emit("check", (wide,), INT64, attrs=attrs, guard=guard)
            args = [args[0], self.emit("convert", (checked,), dtype, attrs={"dtype": dtype})]
        return self.emit(node.prim, args, dtype, attrs=node.attrs)

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
                self.memo[key] = self.elementwise(node, args, guard)
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

    def stepped(self, index: Affine, extent: int, step: int, guard: int | None) -> tuple[Affine, int | None] | None:
        """The position of `index` among every step-th place of `extent` places, and the guard under which it is one
        of them; None where it never is."""
        if all(c % step == 0 for _, c in index.terms):
            place = Affine(index.const // step, tuple((k, c // step) for k, c in index.terms))
            possible, guard = self.within(place, 0, extent, guard)
            return (place, guard) if possible and index.const % step == 0 else None
        possible, guard = self.within(index, 0, (extent - 1) * step + 1 if extent else 0, guard)
        if not possible:
            return None
        (key, c), *more = index.terms
        if not more and isinstance(key, str) and c in (1, -1):
            self.steps[key] = math.lcm(step, self.steps.get(key, 1))
        position = self.index_value(index)
        rest = self.emit("index_mod", (position,), INT64, attrs={"by": step})
        guard = self.both(guard, self.emit("eq", (rest, self.const(0, INT64)), BOOL))
        return Affine.of(self.emit("index_div", (position,), INT64, attrs={"by": step})), guard

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

    def _counts_from_end(self, value: Value) -> bool:
        """Whether an index array is `select(i < 0, i + extent, i)`, as negative ones count from the end."""
        while (node := self.producers.get(value)) is not None and len(node.operands) == 1:
            value = node.operands[0]
        if node is None or node.prim != "select":
            return False
        added = self.producers.get(node.operands[1])
        return added is not None and added.prim == "add" and node.operands[2] in added.operands

    def looked_up(self, node: Node, first: int, index: Index, guard: int | None) -> list[Affine]:
        """The checked indices of gather and scatter at a point of their index arrays."""
        found = []
        for axis, operand in zip(node.attrs["axes"], node.operands[first:], strict=True):
            value, extent = self.at(operand, index, guard), node.operands[0].shape[axis]
            if node.attrs["mode"] == "clip":
                found.append(Affine.of(self.clamped(value, extent - 1)))
                continue
            kind = checks.index_kind(extent, self._counts_from_end(operand))
            attrs = {"extent": extent, "site": self.sites.add(kind, node.loc)}
            found.append(Affine.of(self.emit("check", (value,), INT64, attrs=attrs, guard=guard)))
        return found

"""Staged loops: a body traced as the body of a while node, whose carry is what the iterations change.

A loop is rotated: whether it goes on is computed before the first iteration and at the end of each, as Python would, so
that a condition with effects has each of them once. The iterations that concrete flags and conditions allow
run in Python first; what remains begins where they ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nufunc.ir.errors import TraceError
from nufunc.ir.graph import Graph
from nufunc.ir.types import BOOL, ArrayType
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.staging_regions import (
    SLOTS,
    Cells,
    captured_by,
    contents,
    described,
    get,
    graph_of,
    put,
    region,
    restore,
)
from nufunc.tracer.staging_values import (
    NEVER,
    UNBOUND,
    Alias,
    Kind,
    Undefined,
    as_array,
    changeable,
    common,
    converted,
    is_number,
    joined,
    kind_of,
    made_in,
    negated,
    perhaps_same,
    place,
    roots,
    same_static,
    shows_memory,
    wrapped,
)
from nufunc.tracer.staging_watch import Watch
from nufunc.tracer.trace import Trace, require
from nufunc.tracer.usercode import user_location

_TRUTH = ArrayType((), BOOL)


class OneIterationError(Exception):
    """The body ends the loop always: it is a branch, not a loop."""


class WrittenCarryError(Exception):
    """A variable's array is written in place and then replaced: the first iteration writes to the array from before."""


@dataclass(eq=False)
class _Variable:
    """How one variable of the loop is treated.

    carried: its leaves are the loop's carry. fixed: never bound anew, but its array is written to. flag, slot: see
    `staging_run`. hidden: it has no value at the start of an iteration.
    """

    name: str
    entry: Any
    treatment: str = "carried"
    reason: str = ""
    kinds: list[Kind | None] = field(default_factory=list)  # per leaf; None for a constant
    leaves: list[Any] = field(default_factory=list)
    structure: tree.TreeDef | None = None
    params: list[Any] = field(default_factory=list)
    unchanged: bool = False  # carried, but the body never binds it to anything else
    end: Any = None  # the value at the end of the body
    ends: list[Any] = field(default_factory=list)

    def hide(self, reason: str) -> None:
        self.treatment, self.reason = "hidden", reason


class StagedLoop:
    """One loop over cells: `step` runs the body and gives whether the loop goes on."""

    def __init__(
        self,
        step: Callable[[], Any],
        cells: Cells,
        flags: Sequence[str],
        what: str,
        *,
        runs_once: bool,
        fresh: Trace | None,
    ) -> None:
        self.step = step
        self.cells = cells
        self.flags = flags
        self.what = what
        self.runs_once = runs_once  # whether the first iteration runs for sure
        self.fresh = fresh  # arrays made in this trace are known to be shown by one variable only
        self.where = place(user_location())
        self.variables = [self._variable(name) for name in cells]

    def _variable(self, name: str) -> _Variable:
        entry = get(self.cells[name])
        var = _Variable(name, entry)
        if name in self.flags:
            var.treatment = "flag"
        elif name in SLOTS:
            var.treatment = "slot"
        elif isinstance(entry, Undefined):
            var.hide("" if entry is UNBOUND else entry.reason)
        else:
            var.leaves, var.structure = tree.flatten(entry)
            var.kinds = [kind_of(leaf) if is_number(leaf) else None for leaf in var.leaves]
        return var

    def run(self, start: Any, watched: Sequence[Any]) -> None:
        """Emit the loop; `start` is whether it begins at all."""
        entry = contents(self.cells)
        try:
            while True:
                trace, go_on = self._trace(watched)
                changed = [self._settle(v, trace) for v in self.variables]
                if not any(changed):
                    break
            self._check_writes(trace)
        finally:
            restore(self.cells, entry)
        if go_on is False:
            raise OneIterationError
        if go_on is True:
            raise TraceError(
                f"{self.what} never ends: its condition does not depend on what it changes", user_location()
            )
        self._emit(trace, start, go_on)

    # -- tracing the body

    def _trace(self, watched: Sequence[Any]) -> tuple[Trace, Any]:
        with region("while.body", f"the body of {self.what}") as trace:
            self._enter(trace)
            watch = Watch(list(watched), list(self.cells.values()))
            go_on = self.step()
            for var in self.variables:
                var.end = get(self.cells[var.name])
        watch.check(self._again, f"the body of {self.what}")
        return trace, go_on

    def _again(self) -> None:
        with Trace("again") as trace:
            self._enter(trace)
            self.step()

    def _enter(self, trace: Trace) -> None:
        """The variables at the start of an iteration."""
        for var in self.variables:
            var.params = []
            value = var.entry
            if var.treatment == "flag":
                value = False
            elif var.treatment == "slot":
                value = UNBOUND
            elif var.treatment == "hidden":
                value = Undefined(var.reason) if var.reason else UNBOUND
            elif var.treatment == "carried":
                var.params = [
                    leaf if k is None else trace.param(k.type, weak=k.weak, scalar=k.scalar)
                    for leaf, k in zip(var.leaves, var.kinds, strict=True)
                ]
                value = tree.unflatten(tree.structure(var.entry), var.params)
            put(self.cells[var.name], value)

    def _settle(self, var: _Variable, trace: Trace) -> bool:
        """Compare what the body made of a variable with what it was given; True if the body must be traced again."""
        if isinstance(var.end, Undefined):
            var.ends = []
            if var.treatment == "carried":
                var.hide(var.end.reason if var.end is not UNBOUND else "is deleted in the loop")
                return True
            return False
        var.ends, structure = tree.flatten(var.end)
        if var.treatment != "carried":
            return False
        if structure != var.structure:
            return self._mismatch(var, var.entry, var.end)
        if all(a is b for a, b in zip(var.params, var.ends, strict=True)):
            if any(_written(p) for p in var.params):
                var.treatment = "fixed"  # the writes are to the array from before the loop
                return True
            var.unchanged = True
            return False
        var.unchanged = changed = False
        for k, (param, end) in enumerate(zip(var.params, var.ends, strict=True)):
            kind = var.kinds[k]
            if kind is None or not is_number(end):
                if not same_static(param, end):
                    return self._mismatch(var, var.leaves[k], end)
                continue
            with trace:
                met = common([kind, kind_of(end)])
            if met is None:
                return self._mismatch(var, var.leaves[k], end)
            if met != kind:
                var.kinds[k], changed = met, True
        return changed

    def _mismatch(self, var: _Variable, before: Any, after: Any) -> bool:
        var.hide(
            f"is {described(before)} before {self.what} {self.where} and {described(after)} after an iteration, but "
            "the variables of a loop on a traced condition keep their types; give it its later type before the loop"
        )
        return True

    def _check_writes(self, trace: Trace) -> None:
        """No array that is carried by value may be written to where something else shows the same memory."""
        for var in self.variables:
            for leaf, param in zip(var.leaves, var.params, strict=False):
                if var.treatment == "carried" and _written(param) and not self._is_fresh(var, leaf):
                    raise WrittenCarryError(var.name)

    def _is_fresh(self, var: _Variable, leaf: Any) -> bool:
        if self.fresh is None or not isinstance(leaf, Array) or not made_in(leaf, self.fresh):
            return False
        others = [x for v in self.variables for x in v.leaves if x is not leaf and shows_memory(x)]
        return not any(roots(leaf) & roots(x) for x in others)

    # -- emitting the loop

    def _emit(self, body: Trace, start: Any, go_on: Array) -> None:
        slots = [(var, k, kind) for var in self.variables for k, kind in self._carried(var, body)]
        with body:
            ends = [body.b.astype(body.lift(as_array(go_on)), BOOL)]
            ends += [converted(v.ends[k], kind) for v, k, kind in slots]
            params = [body.param(_TRUTH).value]
            for var, k, kind in slots:
                own = var.params[k] if var.treatment == "carried" else None
                params.append(own.value if isinstance(own, Array) else body.param(kind.type).value)
        trace = require()
        captured = captured_by(body)
        graph = graph_of(body, ends, captured, params)
        carry = [trace.b.astype(trace.lift(as_array(start)), BOOL)]
        carry += [converted(v.leaves[k] if v.leaves else NEVER, kind) for v, k, kind in slots]
        operands = [*(trace.lift(a) for a in captured), *carry]
        regions = (_first([v.type for v in carry]), graph)
        results = trace.b.emit("while", operands, {"num_cond": 0, "num_body": len(captured)}, regions)
        found = {(v.name, k): wrapped(r, kind) for (v, k, kind), r in zip(slots, results[1:], strict=True)}
        self._leave(body, start, found)

    def _carried(self, var: _Variable, body: Trace) -> list[tuple[int, Kind]]:
        """The leaves of a variable that the loop hands on, or only out, with their kinds."""
        if var.treatment == "carried":
            return [(k, kind) for k, kind in enumerate(var.kinds) if kind is not None]
        if not self._is_handed_out(var):
            return []
        with body:
            kinds = [kind_of(end) if is_number(end) else None for end in var.ends]
        if var.treatment in ("slot", "flag") and not isinstance(var.entry, Undefined):
            kinds = self._met(var, kinds)
        return [(k, kind) for k, kind in enumerate(kinds) if kind is not None]

    def _is_handed_out(self, var: _Variable) -> bool:
        """Whether a variable that has no value at the start of an iteration has another one after the loop."""
        if var.treatment == "flag":
            return var.end is not False
        return bool(var.ends) and (var.treatment == "slot" or (var.treatment == "hidden" and self.runs_once))

    def _met(self, var: _Variable, kinds: list[Kind | None]) -> list[Kind | None]:
        """The kinds of a flag or result that may have been set before the loop, which then does not run."""
        var.leaves, structure = tree.flatten(var.entry)
        met: list[Kind | None] = []
        if structure == tree.structure(var.end):
            for before, end, kind in zip(var.leaves, var.ends, kinds, strict=True):
                both = common([kind_of(before), kind]) if kind is not None and is_number(before) else None
                if both is None and not same_static(before, end):
                    break
                met.append(both)
            else:
                return met
        var.hide(
            f"is {described(var.entry)} or {described(var.end)}, depending on where {self.what} {self.where} returns"
        )
        var.ends = []
        return []

    def _leave(self, body: Trace, start: Any, found: dict[tuple[str, int], Array]) -> None:
        """Give the variables their values after the loop."""
        skipped = None if self.runs_once or start is True else negated(as_array(start))
        for var in self.variables:
            cell = self.cells[var.name]
            if var.treatment == "fixed" or var.unchanged:
                continue
            if var.treatment == "carried" or self._is_handed_out(var):
                leaves = []
                for k, end in enumerate(var.ends):
                    result = found.get((var.name, k), end)
                    if result is not end:
                        result = joined(result, self._aliases(var, k, body, skipped, found), var.name, self.where)
                    leaves.append(result)
                last = tree.unflatten(tree.structure(var.end), leaves)
                if var.treatment == "carried" and changeable(var.entry):
                    perhaps_same(var.name, changeable(var.entry), last, user_location())
                put(cell, last)
            elif var.treatment == "hidden":
                put(cell, self._without_value(var))

    def _without_value(self, var: _Variable) -> Any:
        if var.end is UNBOUND and var.entry is UNBOUND:
            return UNBOUND
        if var.reason:
            return Undefined(var.reason)
        return Undefined(
            f"is assigned only in {self.what} {self.where}, which may run no iteration; assign it before the loop too"
        )

    def _aliases(
        self, var: _Variable, k: int, body: Trace, skipped: Array | None, found: dict[tuple[str, int], Array]
    ) -> list[Alias]:
        """What the last value of a variable may share its memory with."""
        end = var.ends[k]
        if not shows_memory(end):
            return []
        aliases: list[Alias] = []
        mine = roots(end)
        entry = var.leaves[k] if var.treatment == "carried" else None
        if skipped is not None and isinstance(entry, Array) and shows_memory(entry):
            aliases.append(Alias(skipped, entry))
        if not made_in(end, body):
            aliases.append(Alias(None, end))
        for other in self.variables:
            for j, param in enumerate(other.params):
                if shows_memory(param) and param.root in mine and shows_memory(other.leaves[j]):
                    aliases.append(Alias(None, other.leaves[j]))
            for j, sibling in enumerate(other.ends):
                result = found.get((other.name, j))
                if (
                    result is not None
                    and (other is not var or j != k)
                    and shows_memory(sibling)
                    and roots(sibling) & mine
                ):
                    aliases.append(Alias(None, result))
        return aliases


def _written(param: Any) -> bool:
    return shows_memory(param) and param.root.version > 0


def _first(types: list[ArrayType]) -> Graph:
    """The condition of a rotated loop: the first of its carry."""
    test = Trace("while.cond")
    with test:
        params = [test.param(t).value for t in types]
    return graph_of(test, params[:1], [], params)

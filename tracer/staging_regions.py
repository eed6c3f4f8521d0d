"""Regions of staged control flow: bodies traced on the variables (cells) of the user's function, and their meeting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any

from nufunc.ir.errors import Location, NufuncError, TraceError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.prims.host import has_effect
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.staging_values import (
    NEVER,
    UNBOUND,
    Alias,
    Kind,
    Undefined,
    changeable,
    choose,
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
from nufunc.tracer.trace import Trace, current, require
from nufunc.tracer.usercode import is_user_frame, user_location

Cells = Mapping[str, CellType]
SLOTS = ("@value", "@result")  # variables that are read only where they have been assigned


def cells_of(names: Sequence[str], *functions: FunctionType | None) -> dict[str, CellType]:
    """The cells of the user's variables that staged functions bind."""
    found: dict[str, CellType] = {}
    for fn in functions:
        if fn is not None:
            found.update(zip(fn.__code__.co_freevars, fn.__closure__ or ()))
    return {name: found[name] for name in names if name in found}


def get(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return UNBOUND


def put(cell: CellType, value: Any) -> None:
    if value is not UNBOUND:
        cell.cell_contents = value
    elif get(cell) is not UNBOUND:
        del cell.cell_contents


def contents(cells: Cells) -> dict[str, Any]:
    return {name: get(cell) for name, cell in cells.items()}


def restore(cells: Cells, values: Mapping[str, Any]) -> None:
    for name, cell in cells.items():
        put(cell, values[name])


def in_region() -> bool:
    """Whether a path of staged control flow is being traced."""
    trace = current()
    while trace is not None:
        if trace.builder.name in _REGIONS:
            return True
        trace = trace.parent
    return False


_REGIONS = ("cond.then", "cond.else", "while.body", "operand")


@contextmanager
def region(name: str, what: str) -> Iterator[Trace]:
    """A trace for a path of staged control flow; what the user's code raises there is an error of staging."""
    trace = Trace(name)
    where = user_location()
    try:
        with trace:
            yield trace
    except NufuncError:
        raise
    except RecursionError as error:
        raise TraceError(
            f"tracing {what} did not end: a function calls itself without end where the condition that would end it is "
            "traced, since both of its branches are traced; write a loop",
            where,
        ) from error
    except Exception as error:
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise TraceError(
            f"tracing {what}, which runs on a traced condition, raised {message}; all paths are traced, whatever the "
            "values are, so that an exception cannot depend on them",
            _raised_at(error) or where,
        ) from error


def _raised_at(error: BaseException) -> Location | None:
    """The innermost line of user code in an exception's traceback."""
    found = None
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if is_user_frame(traceback.tb_frame):
            found = Location(code.co_filename, traceback.tb_lineno, code.co_qualname)
        traceback = traceback.tb_next
    return found


def graph_of(trace: Trace, outputs: Sequence[Any], captured: Sequence[Array], params: Sequence[Value]) -> Graph:
    """The region over (captured..., params...), for a list of captured arrays that includes its own."""
    graph = trace.finish(outputs)
    own = {id(array): value for array, value in trace.captured.values()}
    consts = [own.get(id(a)) or Value(a.type) for a in captured]
    return graph.replace(params=(*consts, *params))


def captured_by(*traces: Trace) -> list[Array]:
    """The arrays that any of the regions captured, each once."""
    return list({id(array): array for trace in traces for array, _ in trace.captured.values()}.values())


# -- branches


@dataclass
class _Meeting:
    """One leaf of a variable after a cond: an output of the node, or a choice between values that exist."""

    leaves: tuple[Any, Any]  # on the true and on the false path
    kind: Kind
    output: int | None


def branch(
    pred: Array, first: Callable[[], Any] | None, second: Callable[[], Any] | None, cells: Cells, watched: Sequence[Any]
) -> None:
    """Trace both paths on the same variables, and give the variables the values of the path that is taken."""
    where = user_location()
    entry = contents(cells)
    watch = Watch([f for f in (*watched, first, second) if isinstance(f, FunctionType)], list(cells.values()))
    traces: list[Trace] = []
    ends: list[dict[str, Any]] = []
    for fn, path in ((first, "a branch"), (second, "a branch")):
        restore(cells, entry)
        with region("cond.then" if fn is first else "cond.else", path) as trace:
            if fn is not None:
                fn()
        ends.append(contents(cells))
        traces.append(trace)
        if fn is not None:
            watch.check(_again(fn, cells, entry), path)
    restore(cells, entry)
    _Joiner(pred, traces, ends, watch, place(where)).join(cells)


def _again(fn: Callable[[], Any], cells: Cells, entry: Mapping[str, Any]) -> Callable[[], Any]:
    def again() -> None:
        restore(cells, entry)
        with Trace("again"):
            fn()

    return again


class _Joiner:
    """The end of two paths: their outputs, the cond node, and the variables' values after it."""

    def __init__(self, pred: Array, traces: list[Trace], ends: list[dict[str, Any]], watch: Watch, where: str) -> None:
        self.pred = pred
        self.traces = traces
        self.ends = ends
        self.watch = watch
        self.where = where
        self.outputs: list[_Meeting] = []

    def join(self, cells: Cells) -> None:
        plans: dict[str, Any] = {}
        pairs: dict[tuple[int, int], str] = {}
        for name in cells:
            x, y = (end[name] for end in self.ends)
            known = pairs.setdefault((id(x), id(y)), name)
            plans[name] = plans[known] if known != name else self.plan(name, x, y)
        results = self.emit()
        made: dict[int, Any] = {}
        for name, cell in cells.items():
            plan = plans[name]
            if id(plan) not in made:
                made[id(plan)] = self.value(name, plan, results)
            put(cell, made[id(plan)])

    def plan(self, name: str, x: Any, y: Any) -> Any:
        """(value,) where both paths agree; an Undefined; or (structure, leaves)."""
        if x is y:
            return (x,)
        missing = [isinstance(v, Undefined) for v in (x, y)]
        if all(missing):
            return (x if x is not UNBOUND else y,)
        if any(missing):
            if name not in SLOTS:
                path = "false" if missing[1] else "true"
                reason = (
                    f"has no value where the condition of the statement {self.where} is {path}; assign it on both paths"
                )
                return (Undefined(reason),)
            return self.never_read(name, y if missing[0] else x, int(missing[0]))
        (xs, first), (ys, second) = tree.flatten(x), tree.flatten(y)
        if first != second:
            return (self.differs(x, y),)
        leaves = []
        for a, b in zip(xs, ys, strict=True):
            leaf = self.leaf(a, b)
            if leaf is None:
                return (self.differs(a, b),)
            leaves.append(leaf)
        return first, leaves

    def never_read(self, name: str, x: Any, side: int) -> Any:
        """The plan of a variable that only one path assigns, and that only what follows this path reads."""
        found, structure = tree.flatten(x)
        leaves: list[Any] = []
        for leaf in found:
            if not (isinstance(leaf, Array) and leaf.owner is self.traces[side]):
                leaves.append((leaf,))
                continue
            leaves.append(_Meeting((NEVER, leaf) if side else (leaf, NEVER), kind_of(leaf), len(self.outputs)))
            self.outputs.append(leaves[-1])
        return structure, leaves

    def differs(self, x: Any, y: Any) -> Undefined:
        return Undefined(
            f"is {described(x)} where the condition of the statement {self.where} is true, but {described(y)} where it "
            "is false; a traced condition cannot decide between the two"
        )

    def leaf(self, x: Any, y: Any) -> Any:
        """What a leaf is after the paths: (constant,), a meeting, or None where they do not fit."""
        if same_static(x, y):
            return (x,)
        if not (is_number(x) and is_number(y)):
            return None
        with self.traces[0]:
            first = kind_of(x)
        with self.traces[1]:
            kind = common([first, kind_of(y)])
        if kind is None:
            return None
        outside = all(not isinstance(v, Array) or v.owner is not t for v, t in zip((x, y), self.traces, strict=True))
        meeting = _Meeting((x, y), kind, None)
        if not (outside and not any(shows_memory(v) for v in (x, y)) and kind.scalar):
            meeting.output = len(self.outputs)
            self.outputs.append(meeting)
        return meeting

    def emit(self) -> list[Array]:
        """The cond node, where there is anything that it computes or writes."""
        values = []
        for side, trace in enumerate(self.traces):
            with trace:
                values.append([converted(m.leaves[side], m.kind) for m in self.outputs])
        if not self.outputs and not any(_matter(trace.builder.nodes) for trace in self.traces):
            return []
        captured = captured_by(*self.traces)
        graphs = [graph_of(t, v, captured, ()) for t, v in zip(self.traces, values, strict=True)]
        trace = require()
        operands = [trace.lift(self.pred), *(trace.lift(a) for a in captured)]
        results = trace.b.emit("cond", operands, {}, graphs[::-1])
        return [wrapped(v, m.kind) for v, m in zip(results, self.outputs, strict=True)]

    def value(self, name: str, plan: Any, results: list[Array]) -> Any:
        if len(plan) == 1:
            return plan[0]
        structure, leaves = plan
        found = [leaf[0] if isinstance(leaf, tuple) else self.met(name, leaf, results) for leaf in leaves]
        met = tree.unflatten(structure, found)
        old = [c for end in self.ends for c in changeable(end[name]) if self.watch.holds(c)]
        if old:
            perhaps_same(name, old, met, user_location())
        return met

    def met(self, name: str, meeting: _Meeting, results: list[Array]) -> Array:
        if meeting.output is None:
            return choose(self.pred, *meeting.leaves, meeting.kind)
        aliases = []
        for side, (leaf, trace) in enumerate(zip(meeting.leaves, self.traces, strict=True)):
            if not shows_memory(leaf):
                continue
            if leaf.owner is not trace:
                aliases.append(Alias(self.pred if side == 0 else negated(self.pred), leaf))
            elif not made_in(leaf, trace):
                aliases.append(Alias(None, leaf))
        aliases += self._shared(meeting, results)
        return joined(results[meeting.output], aliases, name, self.where)

    def _shared(self, meeting: _Meeting, results: list[Array]) -> list[Alias]:
        """Other results whose memory was that of this one on a path."""
        found = []
        for side, leaf in enumerate(meeting.leaves):
            for other in self.outputs:
                sibling = other.leaves[side]
                if (
                    other is not meeting
                    and shows_memory(leaf)
                    and shows_memory(sibling)
                    and roots(leaf) & roots(sibling)
                ):
                    found.append(Alias(None, results[other.output or 0]))
        return found


def _matter(nodes: Sequence[Node]) -> bool:
    """Whether nodes matter without results: they store into memory, or have another effect."""
    return any(n.prim == "write" or has_effect(n) or any(_matter(r.nodes) for r in n.regions) for n in nodes)


def described(x: Any) -> str:
    """A value in messages."""
    if isinstance(x, Undefined):
        return "nothing"
    if isinstance(x, Array):
        return str(kind_of(x))
    if isinstance(x, str | int | float | complex | bool | type(None)):
        text = repr(x)
        return text if len(text) < 40 else f"a {type(x).__name__}"
    return f"a {type(x).__name__}" + (f" of length {len(x)}" if isinstance(x, list | tuple | dict) else "")

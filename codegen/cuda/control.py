"""Control nodes of a program, driven by the host: loops with their carries, maps, branches.

The carries of a loop stand in the node's results, and in second places where the body does not work in place. A loop of
known length runs its body in pairs, from the first place to the second and back, so that nothing is copied; one of
unknown length copies back. A node's scratch memory begins with the second places and a flag, then the frames of its
regions follow, which share theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nufunc.codegen import buffers
from nufunc.codegen.buffers import ALIGNMENT, Frame, aligned
from nufunc.codegen.cuda.program import (
    Branch,
    Operand,
    Place,
    Record,
    Repeat,
    Replay,
    Scoped,
    Step,
    TapeStep,
    While,
)  # fmt: skip
from nufunc.codegen.tapes import makes_tapes
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import ArrayType, TapeType

if TYPE_CHECKING:
    from nufunc.codegen.cuda.plan import Planner, Scope


def scratch(planner: Planner, node: Node, frames: list[Frame]) -> int:
    """Bytes of scratch memory of a control node, given its regions' frames."""
    flag = ALIGNMENT if node.prim in ("while", "record") else 0
    items = sum(aligned(max(t.nbytes, 1)) for types in _item_types(node) for t in types)
    return sum(buffers.second_sizes(node, frames)) + flag + items + max((aligned(f.size) for f in frames), default=0)


def _item_types(node: Node) -> tuple[list[ArrayType], list[ArrayType]]:
    """The items of tapes that the body of a record or replay reads, and those that it makes."""
    if node.prim == "record":
        count = len(node.operands) - node.attrs["num_cond"] - node.attrs["num_body"]
        return [], [o.type for o in node.regions[1].outputs[count:]]
    if node.prim == "replay":
        body = node.regions[0]
        first, count = node.attrs["num_consts"] + node.attrs["num_carry"], node.attrs["num_carry"]
        return [p.type for p in body.params[first:]], [o.type for o in body.outputs[count:]]
    return [], []


class _Carries:
    """The places of a loop's carries: `places[0]` and `places[1]`, which are the same where the body works in place.
    The results stand in `places[0]` where the loop ends after an even number of steps from there."""

    def __init__(self, planner: Planner, scope: Scope, node: Node, initial: Sequence[Value], start: int = 0) -> None:
        self.planner = planner
        sizes = buffers.second_sizes(node, scope.frame.frames[node])
        first = [scope.place(r) for r in node.results[: len(sizes)]]
        self.bytes = [r.type.nbytes for r in node.results[: len(sizes)]]
        second, offset = [], 0
        for place, size in zip(first, sizes, strict=True):
            second.append(scope.scratch(node).moved(offset) if size else place)
            offset += size
        self.places = (first, second)
        self.rest = scope.scratch(node).moved(offset)
        for target, value, count in zip(self.places[start], initial, self.bytes, strict=True):
            planner.copy(target, scope.place(value), count)

    def back(self) -> None:
        """Copy from the second places to the first."""
        for target, source, count in zip(*self.places, self.bytes, strict=True):
            self.planner.copy(target, source, count)


class _Rows:
    """The stacked operands and results of a scan or map, and the constant operands."""

    def __init__(self, scope: Scope, node: Node, consts: int, carries: int) -> None:
        body = node.regions[0]
        self.last = node.attrs["length"] - 1
        self.back = node.attrs.get("reverse", False)
        self.fixed = [scope.place(o) for o in node.operands[:consts]]
        self.xs = [scope.place(o) for o in node.operands[consts + carries :]]
        self.ys = [scope.place(r) for r in node.results[carries:]]
        self.x_bytes = [t.type.nbytes for t in body.params[consts + carries :]]
        self.y_bytes = [o.type.nbytes for o in body.outputs[carries:]]

    def at(self, first: int, loop: int | None = None, step: int = 1) -> tuple[list[Place], list[Place]]:
        """The places of the row of iteration `first` + `step` * the loop's."""
        row, sign = (self.last - first, -1) if self.back else (first, 1)

        def here(places: Sequence[Place], sizes: Sequence[int]) -> list[Place]:
            moved = [p.moved(row * n) for p, n in zip(places, sizes, strict=True)]
            return [p.along(loop, sign * step * n) for p, n in zip(moved, sizes, strict=True)]

        return here(self.xs, self.x_bytes), here(self.ys, self.y_bytes)


def _scan(planner: Planner, scope: Scope, node: Node) -> None:
    body, frame = node.regions[0], scope.frame.frames[node][0]
    length, consts, count = node.attrs["length"], node.attrs["num_consts"], node.attrs["num_carry"]
    carry = _Carries(planner, scope, node, node.operands[consts : consts + count], length % 2)
    rows = _Rows(scope, node, consts, count)
    if length == 0:
        return

    def once(side: int, first: int, loop: int | None, step: int) -> None:
        """From one side to the other, which is the one of the results after the last iteration."""
        xs, ys = rows.at(first, loop, step)
        current, following = carry.places[side], carry.places[1 - side]
        planner.run(body, frame, [*rows.fixed, *current, *xs], [*following, *ys], carry.rest)

    alone = carry.places[0] == carry.places[1]
    if alone:
        with repeated(planner, length, body) as loop:
            once(0, 0, loop, 1)
        return
    if length % 2:
        once(1, 0, None, 1)
    with repeated(planner, length // 2, body) as loop:
        once(0, length % 2, loop, 2)
        once(1, length % 2 + 1, loop, 2)


class repeated:
    """A Repeat of what is added inside; the number of the loop, or None where there is a single iteration."""

    def __init__(self, planner: Planner, length: int, body: Graph) -> None:
        self.planner, self.length, self.body = planner, length, body
        self.loop = next(planner.loops) if length > 1 else None

    def __enter__(self) -> int | None:
        self.inside = self.planner.into()
        self.steps = self.inside.__enter__()
        return self.loop

    def __exit__(self, *error: object) -> None:
        self.inside.__exit__(None, None, None)
        if self.loop is None:
            self.planner.steps += self.steps if self.length else []
        elif self.steps:
            self.planner.steps.append(Repeat(self.loop, self.length, False, _scoped(self.body, self.steps)))


def _map(planner: Planner, scope: Scope, node: Node) -> None:
    body, frame, length = node.regions[0], scope.frame.frames[node][0], node.attrs["length"]
    if length == 0:
        return
    rows = _Rows(scope, node, node.attrs["num_consts"], 0)
    with repeated(planner, length, body) as loop:
        xs, ys = rows.at(0, loop)
        planner.run(body, frame, [*rows.fixed, *xs], ys, scope.scratch(node))


def _while(planner: Planner, scope: Scope, node: Node) -> None:
    """while and record."""
    (cond, body), (cond_frame, body_frame) = node.regions, scope.frame.frames[node]
    nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
    fixed = [scope.place(o) for o in node.operands[: nc + nb]]
    carry = _Carries(planner, scope, node, node.operands[nc + nb :])
    flag = carry.rest
    items, arena = _items(_item_types(node)[1], flag.moved(ALIGNMENT))
    current, following = carry.places
    with planner.into() as condition:
        planner.run(cond, cond_frame, [*fixed[:nc], *current], [flag], arena)
    with planner.into() as steps:
        planner.run(body, body_frame, [*fixed[nc:], *current], [*following, *(i.place for i in items)], arena)
        carry.back()
    if node.prim == "while":
        planner.steps.append(While(tuple(condition), flag, _scoped(body, steps)))
        return
    *tapes, count = [scope.place(r) for r in node.results[len(current) :]]
    inside = _scoped(body, steps)
    planner.steps.append(Record(tuple(condition), flag, inside, tuple(items), tuple(tapes), count))


def _items(types: Sequence[ArrayType], place: Place) -> tuple[list[Operand], Place]:
    """Places for the items of tapes, and what lies behind them."""
    found = []
    for type_ in types:
        found.append(Operand(place, type_))
        place = place.moved(aligned(max(type_.nbytes, 1)))
    return found, place


def _scoped(body: Graph, steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps of a body, which forget its tapes where it gives none away."""
    if not makes_tapes(body) or any(isinstance(o.type, TapeType) for o in body.outputs):
        return tuple(steps)
    return (Scoped(tuple(steps)),)


def _replay(planner: Planner, scope: Scope, node: Node) -> None:
    body, frame = node.regions[0], scope.frame.frames[node][0]
    consts, count = node.attrs["num_consts"], node.attrs["num_carry"]
    length, *operands = [scope.place(o) for o in node.operands]
    carry = _Carries(planner, scope, node, node.operands[1 + consts : 1 + consts + count])
    read, made = _item_types(node)
    items, place = _items(read, carry.rest)
    outs, arena = _items(made, place)
    current, following = carry.places
    with planner.into() as steps:
        arguments = [*operands[:consts], *current, *(i.place for i in items)]
        planner.run(body, frame, arguments, [*following, *(o.place for o in outs)], arena)
        carry.back()
    results = tuple(scope.place(r) for r in node.results[count:])
    tapes = tuple(operands[consts + count :])
    inside = _scoped(body, steps)
    planner.steps.append(Replay(length, node.attrs["reverse"], tapes, tuple(items), inside, tuple(outs), results))


def _tape_zeros(planner: Planner, scope: Scope, node: Node) -> None:
    zeros = planner.zeros(node.result.type.size)
    planner.copy(scope.place(node.result), zeros, node.result.type.nbytes)


def _tape_step(planner: Planner, scope: Scope, node: Node) -> None:
    operands, result = ([Operand(scope.place(v), v.type) for v in values] for values in (node.operands, node.results))
    leaf: ArrayType = node.result.type
    while isinstance(leaf, TapeType):
        leaf = leaf.item
    kernel = planner.adding(leaf) if node.prim == "tape_add" else None
    planner.steps.append(TapeStep(node.prim, tuple(operands), result[0], kernel))


def _cond(planner: Planner, scope: Scope, node: Node) -> None:
    args = [scope.place(o) for o in node.operands[1:]]
    results, branches = [scope.place(r) for r in node.results], []
    for region, frame in zip(node.regions, scope.frame.frames[node], strict=True):
        with planner.into() as steps:
            planner.run(region, frame, args, results, scope.scratch(node))
        branches.append(tuple(steps))
    if any(branches):
        planner.steps.append(Branch(scope.operand(node.operands[0]), tuple(branches)))


def _checkpoint(planner: Planner, scope: Scope, node: Node) -> None:
    (region,), (frame,) = node.regions, scope.frame.frames[node]
    arguments, results = ([scope.place(v) for v in values] for values in (node.operands, node.results))
    planner.run(region, frame, arguments, results, scope.scratch(node))


def _named(planner: Planner, scope: Scope, node: Node) -> None:
    planner.copy(scope.place(node.result), scope.place(node.operands[0]), node.result.type.nbytes)


STEPS: dict[str, Callable[[Planner, Scope, Node], None]] = {
    "scan": _scan, "map": _map, "while": _while, "cond": _cond, "checkpoint": _checkpoint, "named": _named,
    "record": _while, "replay": _replay, "tape_zeros": _tape_zeros, "tape_add": _tape_step, "tape_join": _tape_step,
    "tape_split": _tape_step,
}  # fmt: skip

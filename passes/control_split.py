"""Partial evaluation of cond, loops and checkpoint: each becomes a known node and an unknown one that share
residuals.

A rule gets the splitter (see `linearize`), the node and the flags of its unknown operands. Residuals of a
loop's body are stacked only where they differ between iterations: operands are handed over as they are, and
what depends on the consts alone is computed once, before the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import ArrayType
from nufunc.passes.control_parts import (
    Loop,
    chosen,
    chunks,
    dependent,
    dependent_outputs,
    either,
    rejected,
    stable_loop_flags,
    stable_while_flags,
)
from nufunc.passes.dead_code import eliminate_dead_code
from nufunc.passes.recompute import recomputing, smaller
from nufunc.passes.simplify_control import MAY_RAISE

if TYPE_CHECKING:
    from nufunc.passes.linearize import Split, Splitter

Rule = Callable[["Splitter", Node, Sequence[bool]], None]


# -- cond


def split_cond(s: Splitter, node: Node, flags: Sequence[bool]) -> None:
    """Residuals of different branches share slots by type; a branch fills those that it does not use with
    zeros."""
    if flags[0] or s.stays_whole(node, flags):
        s.keep_unknown(node)
        return
    arg_flags = list(flags[1:])
    forced = [False] * len(node.results)
    for branch in node.regions:
        forced = either(forced, dependent_outputs(branch, arg_flags))
    splits = [s.split(branch, arg_flags, forced) for branch in node.regions]
    known_args = [s.known(o) for o in rejected(node.operands[1:], arg_flags)]
    direct, slots, places = _assign_slots(splits)
    index = s.known(node.operands[0])
    num_known = len(node.results) - sum(forced)
    known_branches = [_known_branch(sp, slots, place) for sp, place in zip(splits, places, strict=True)]
    results: Sequence[Value] = ()
    if num_known or slots:
        results = s.kb.emit("cond", (index, *known_args), node.attrs, known_branches)
    s.set_known(rejected(node.results, forced), results[:num_known])
    if any(forced):
        branches = [
            _unknown_branch(sp, direct, slots, p, known_args) for sp, p in zip(splits, places, strict=True)
        ]
        shared = [s.residual(known_args[i]) for i in direct]
        operands = [s.residual(index), *shared, *(s.residual(v) for v in results[num_known:])]
        operands += [s.unknown(o) for o in chosen(node.operands[1:], arg_flags)]
        s.set_unknown(chosen(node.results, forced), s.ub.emit("cond", operands, node.attrs, branches))


def _assign_slots(splits: Sequence[Split]) -> tuple[list[int], list[ArrayType], list[list[int | None]]]:
    """Where the residuals of each branch go: known arguments used as they are, the slots' types, and a slot
    per residual (None where it is a known argument)."""
    direct: list[int] = []
    slots: list[ArrayType] = []
    places: list[list[int | None]] = []
    for split in splits:
        taken: set[int] = set()
        place: list[int | None] = []
        for residual in split.residuals:
            if residual in split.known.params:
                position = split.known.params.index(residual)
                direct += [] if position in direct else [position]
                place.append(None)
                continue
            slot = next((i for i, t in enumerate(slots) if t == residual.type and i not in taken), len(slots))
            if slot == len(slots):
                slots.append(residual.type)
            taken.add(slot)
            place.append(slot)
        places.append(place)
    return direct, slots, places


def _known_branch(split: Split, slots: Sequence[ArrayType], place: Sequence[int | None]) -> Graph:
    b = Builder(split.known.name)
    out = b.inline(split.known, [b.param(p.type, p.hint) for p in split.known.params])
    outputs, residuals = chunks(out, len(out) - split.num_residuals)
    filled = {slot: r for slot, r in zip(place, residuals, strict=True) if slot is not None}
    return b.build([*outputs, *(filled[i] if i in filled else b.zeros(t) for i, t in enumerate(slots))])


def _unknown_branch(
    split: Split,
    direct: Sequence[int],
    slots: Sequence[ArrayType],
    place: Sequence[int | None],
    args: Sequence[Value],
) -> Graph:
    """Parameters: the known arguments in `direct`, the slots, the unknown arguments."""
    residual_params, unknown_params = chunks(split.unknown.params, split.num_residuals)
    by_slot = {slot: p for slot, p in zip(place, residual_params, strict=True) if slot is not None}
    by_arg = {
        split.known.params.index(r): p
        for r, p, slot in zip(split.residuals, residual_params, place, strict=True)
        if slot is None
    }
    params = [by_arg.get(i) or Value(args[i].type) for i in direct]
    params += [by_slot.get(i) or Value(t) for i, t in enumerate(slots)]
    return split.unknown.replace(params=(*params, *unknown_params))


# -- scan and map


@dataclass
class _LoopResiduals:
    """The residuals of a loop's body by the way in which they reach the unknown loop.

    The first three map the residual's position to where it comes from: an operand of the known loop, the
    hoisted computation, or the stacked results.
    """

    as_const: dict[int, int] = field(default_factory=dict)
    as_x: dict[int, int] = field(default_factory=dict)
    hoisted: dict[int, int] = field(default_factory=dict)
    stacked: dict[int, int] = field(default_factory=dict)
    hoisted_values: list[Value] = field(default_factory=list)
    new_ys: list[Value] = field(default_factory=list)


def split_loop(s: Splitter, node: Node, flags: Sequence[bool]) -> None:
    """scan, map and replay: the known loop runs first and stacks residuals, the unknown one reads them."""
    loop = Loop.of(node)
    if any(flags[: loop.lead]) or s.stays_whole(node, flags):
        s.keep_unknown(node)
        return
    flags = stable_loop_flags(loop, flags)
    carry_flags = loop.roles(flags)[1]
    forced = [*carry_flags, *[False] * (len(node.results) - loop.num_carry)]
    # A carry is not stacked unless it is a residual; inputs and stacked results are there in any case.
    free = [
        [not carried] * len(v) for carried, v in zip((False, True, False), loop.roles(flags), strict=True)
    ]
    free += [[False] * loop.num_carry, [True] * (len(node.results) - loop.num_carry)]
    split = s.split(loop.body, flags, forced, [f for role in free for f in role])
    known_roles = [rejected(r, f) for r, f in zip(loop.given(node.operands), loop.roles(flags), strict=True)]
    consts, carry, xs = [[s.known(o) for o in role] for role in known_roles]
    if loop.length is None:
        split = smaller(split, len(consts), len(carry))
    out_flags = list(split.unknown_outputs)
    num_carry, num_outputs = len(carry), len(out_flags) - sum(out_flags)
    lead = [s.known(o) for o in node.operands[: loop.lead]]
    found = _classify(split, len(consts), num_carry, num_outputs, runs=bool(loop.length))
    hoisted = _hoisted(s, split, found, consts)
    ys: list[Value] = []
    if num_outputs or found.new_ys:
        body = _known_body(split, len(consts), num_outputs, found)
        carried, ys = loop.emit(s.kb, body, [*consts, *hoisted], carry, xs, lead)
        s.set_known(rejected(node.results, out_flags), [*carried, *ys[: num_outputs - num_carry]])
    unknown = chosen(node.results, out_flags)
    operands = node.operands[loop.lead :]
    _emit_unknown_loop(s, unknown, operands, loop, split, flags, found, (consts, xs, hoisted, ys), lead)


def _hoisted(s: Splitter, split: Split, found: _LoopResiduals, consts: Sequence[Value]) -> list[Value]:
    """The values that are computed once, before the loop."""
    if not found.hoisted_values:
        return []
    outside = split.known.replace(params=split.known.params[: len(consts)], outputs=tuple(found.hoisted_values))
    return s.kb.inline(eliminate_dead_code(outside), consts)


def _classify(
    split: Split, num_consts: int, num_carry: int, num_outputs: int, *, runs: bool
) -> _LoopResiduals:
    """A loop that may never run (`runs` is False) hoists nothing that can fail, since what never runs cannot."""
    params = split.known.params
    varying = dependent(split.known, [i >= num_consts for i in range(len(params))])
    ys = list(split.known.outputs[num_carry:num_outputs])
    found = _LoopResiduals()
    for i, residual in enumerate(split.residuals):
        position = params.index(residual) if residual in params else -1
        if 0 <= position < num_consts:
            found.as_const[i] = position
        elif position >= num_consts + num_carry:
            found.as_x[i] = position - num_consts - num_carry
        elif residual not in varying and (runs or not _can_fail(split.known, residual)):
            found.hoisted[i] = len(found.hoisted_values)
            found.hoisted_values.append(residual)
        elif residual in ys:
            found.stacked[i] = ys.index(residual)
        else:
            found.stacked[i] = len(ys) + len(found.new_ys)
            found.new_ys.append(residual)
    return found


def _can_fail(graph: Graph, value: Value) -> bool:
    """Whether computing a value can raise an error, or may take a loop."""
    needed = {value}
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.results):
            if node.regions or node.prim in MAY_RAISE or node.attrs.get("mode") == "error":
                return True
            needed.update(node.operands)
    return False


def _known_body(split: Split, num_consts: int, num_outputs: int, found: _LoopResiduals) -> Graph:
    """The known body with hoisted values as further consts and the stacked residuals as further ys."""
    known = split.known
    params = [*known.params[:num_consts], *found.hoisted_values, *known.params[num_consts:]]
    given = set(found.hoisted_values)
    nodes = [n for n in known.nodes if not (n.results and all(r in given for r in n.results))]
    if any(r in given for n in nodes for r in n.results):
        nodes = [_without(n, given) for n in nodes]
    body = known.replace(
        params=tuple(params), nodes=tuple(nodes), outputs=(*known.outputs[:num_outputs], *found.new_ys)
    )
    return eliminate_dead_code(body)


def _without(node: Node, given: set[Value]) -> Node:
    """The node with results that are given from outside renamed away."""
    if not any(r in given for r in node.results):
        return node
    results = [Value(r.type) if r in given else r for r in node.results]
    return Node(node.prim, node.operands, node.attrs, node.regions, results, node.loc)


def _emit_unknown_loop(
    s: Splitter, results: Sequence[Value], operands: Sequence[Value], loop: Loop, split: Split, flags: Sequence[bool],
    found: _LoopResiduals, sources: tuple[list[Value], list[Value], list[Value], list[Value]], lead: Sequence[Value],
) -> None:  # fmt: skip
    """`operands` are given for the parameters of the loop's body, `results` those of its unknown outputs."""
    if not any(split.unknown_outputs):
        return
    consts, xs, hoisted, ys = sources
    invariant = {i: consts[k] for i, k in found.as_const.items()} | {
        i: hoisted[k] for i, k in found.hoisted.items()
    }
    varying = {i: xs[k] for i, k in found.as_x.items()} | {i: ys[k] for i, k in found.stacked.items()}
    residual_params, unknown_params = chunks(split.unknown.params, split.num_residuals)
    counts = [sum(role) for role in loop.roles(flags)]
    const_params, carry_params, x_params = chunks(unknown_params, counts[0], counts[1])
    params = [
        *(residual_params[i] for i in invariant), *const_params, *carry_params,
        *(residual_params[i] for i in varying), *x_params,
    ]  # fmt: skip
    body = split.unknown.replace(params=tuple(params))
    unknown = [
        [s.unknown(o) for o in chosen(role, f)]
        for role, f in zip(loop.roles(operands), loop.roles(flags), strict=True)
    ]
    carried, new_ys = loop.emit(
        s.ub, body, [*(s.residual(v) for v in invariant.values()), *unknown[0]], unknown[1],
        [*(s.residual(v) for v in varying.values()), *unknown[2]], [s.residual(v) for v in lead],
    )  # fmt: skip
    s.set_unknown(results, [*carried, *new_ys])


# -- while and record


def split_while(s: Splitter, node: Node, flags: Sequence[bool]) -> None:
    """The known carries run first and record residuals on tapes, which the unknown loop replays."""
    carry_flags = stable_while_flags(node, flags)
    if carry_flags is None:
        s.keep_unknown(node)
        return
    (cond, body), count = node.regions, len(carry_flags)
    cond_flags, const_flags, _ = chunks(flags, node.attrs["num_cond"], node.attrs["num_body"])
    tested, const_operands, start = chunks(node.operands, len(cond_flags), len(const_flags))
    body_flags = [*const_flags, *carry_flags]
    num_ys = len(body.outputs) - count
    free = [*[True] * len(const_flags), *[False] * count, *[False] * count, *[True] * num_ys]
    split = s.split(body, body_flags, [*carry_flags, *[False] * num_ys], free)
    consts = [s.known(o) for o in rejected(const_operands, const_flags)]
    carry = [s.known(o) for o in rejected(start, carry_flags)]
    split = smaller(split, len(consts), len(carry))
    out_flags = split.unknown_outputs
    num_outputs = len(out_flags) - sum(out_flags)
    found = _classify(split, len(consts), len(carry), num_outputs, runs=False)
    hoisted = _hoisted(s, split, found, consts)
    known_cond = cond.replace(params=tuple(rejected(cond.params, [*cond_flags, *carry_flags])))
    known_body = _known_body(split, len(consts), num_outputs, found)
    known_tested = [s.known(o) for o in rejected(tested, cond_flags)]
    attrs = {"num_cond": len(known_tested), "num_body": len(consts) + len(hoisted)}
    results = s.kb.emit("record", (*known_tested, *consts, *hoisted, *carry), attrs, (known_cond, known_body))
    ends, ys, trips = chunks(results, len(carry), len(results) - 1 - len(carry))
    own = node.results[: len(out_flags)]
    s.set_known(rejected(own, out_flags), [*ends, *ys[: num_outputs - len(carry)]])
    if node.prim == "record":
        s.set_known(node.results[-1:], trips)
    loop = Loop("replay", None, False, len(const_flags), count, body)
    operands = [*const_operands, *start]
    sources = (consts, list[Value](), hoisted, ys)
    _emit_unknown_loop(s, chosen(own, out_flags), operands, loop, split, body_flags, found, sources, trips)


# -- checkpoint


def split_checkpoint(s: Splitter, node: Node, flags: Sequence[bool]) -> None:
    """What is known is computed on both sides: the unknown one begins with the arguments and what the policy saves."""
    if s.stays_whole(node, flags):
        s.keep_unknown(node)
        return
    split = recomputing(s.split(node.regions[0], flags), node.attrs["save"])
    arguments = [s.known(o) for o in rejected(node.operands, flags)]
    number = {p: k for k, p in enumerate(split.known.params)}
    saved = [r for r in split.residuals if r not in number]
    num_outputs = len(split.known.outputs) - split.num_residuals
    known = split.known.replace(outputs=(*split.known.outputs[:num_outputs], *saved))
    results: Sequence[Value] = ()
    if known.outputs:
        attrs = {**node.attrs, "again": False}
        results = s.kb.emit("checkpoint", arguments, attrs, (eliminate_dead_code(known),))
    s.set_known(rejected(node.results, split.unknown_outputs), results[:num_outputs])
    if any(split.unknown_outputs):
        at = dict(zip(saved, results[num_outputs:], strict=True))
        residuals = [arguments[number[r]] if r in number else at[r] for r in split.residuals]
        operands = [*map(s.residual, residuals), *(s.unknown(o) for o in chosen(node.operands, flags))]
        results = s.ub.emit("checkpoint", operands, {**node.attrs, "again": True}, (split.unknown,))
        s.set_unknown(chosen(node.results, split.unknown_outputs), results)


RULES: dict[str, Rule] = {
    "cond": split_cond, "while": split_while, "record": split_while, "scan": split_loop, "map": split_loop,
    "replay": split_loop, "checkpoint": split_checkpoint,
}  # fmt: skip

"""Transposition of cond, loops and checkpoint: cotangents travel backwards through the same control flow.

A rule gets the builder, the node, the cotangents of its results (None is zero), its operands (None where
linear) and the function that transposes a region; it gives a cotangent per operand. The cotangents of what a
loop captures accumulate in a carry, so that no stack of them is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nufunc.ir.builder import Builder
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.passes.control_parts import Loop, OpenRegion, chosen, chunks, either, flags_of, grown_flags, merge, present

Values = Sequence["Value | None"]
TransposeRegion = Callable[[Graph, Sequence[bool], Sequence[bool]], OpenRegion]
Rule = Callable[[Builder, Node, Values, Values, TransposeRegion], list["Value | None"]]


def transpose_cond(
    b: Builder, node: Node, cotangents: Values, operands: Values, transpose_region: TransposeRegion
) -> list[Value | None]:
    """Every branch gives the cotangents that any branch gives."""
    index, args = operands[0], operands[1:]
    if index is None:
        raise UnsupportedError("cond cannot be transposed with respect to its index", node.loc)
    linear = [a is None for a in args]
    branches = [transpose_region(branch, linear, flags_of(cotangents)) for branch in node.regions]
    active = [False] * sum(linear)
    for branch in branches:
        active = either(active, branch.active)
    like = chosen(node.operands[1:], linear)
    regions = [r.close([*r.params, *present(r.extra_params)], r.extras(active, like)) for r in branches]
    results = b.emit("cond", (index, *present(args), *present(cotangents)), node.attrs, regions)
    return [None, *_spread(linear, merge(active, results))]


def transpose_while(
    b: Builder, node: Node, cotangents: Values, operands: Values, transpose_region: TransposeRegion
) -> list[Value | None]:
    """Refused: what is differentiated is split into `record` and `replay` before."""
    raise UnsupportedError(f"{node.prim} cannot be transposed where its condition depends on what is linear", node.loc)


def transpose_loop(
    b: Builder, node: Node, cotangents: Values, operands: Values, transpose_region: TransposeRegion
) -> list[Value | None]:
    """scan, map and replay: a loop in the other direction whose carry holds the cotangents of the carry and of the
    consts."""
    loop = Loop.of(node)
    if any(o is None for o in operands[: loop.lead]):
        raise UnsupportedError("replay cannot be transposed with respect to the number of iterations", node.loc)
    consts, start, xs = loop.given(operands)
    # A linear carry that starts as a known value starts as zero: nothing has flowed in yet.
    roles = [[o is None for o in consts], [True] * len(start), [o is None for o in xs]]
    linear = [flag for role in roles for flag in role]
    const_like, carry_like, _ = [
        chosen(role, f) for role, f in zip(loop.given(node.operands), roles, strict=True)
    ]
    carry_cts, y_cts = loop.outs(cotangents)
    y_active = flags_of(y_cts)

    def build(flags: list[bool]) -> tuple[OpenRegion, list[bool]]:
        region = transpose_region(loop.body, linear, [*flags, *y_active])
        return region, chunks(region.active, len(const_like), loop.num_carry)[1]

    question = ("transpose", loop.num_carry, *linear, *flags_of(cotangents))
    region, carry_active = grown_flags(loop.body, question, flags_of(carry_cts), build)
    const_active, _, x_active = chunks(region.active, len(const_like), loop.num_carry)
    body = _backward_body(region, loop, roles[0], carry_active, carry_like)
    totals = [
        b.zeros(v.type) if c is None else c for c, v, a in zip(carry_cts, carry_like, carry_active) if a
    ]
    totals += [b.zeros(v.type) for v in chosen(const_like, const_active)]
    opposite = Loop(loop.prim, loop.length, not loop.reverse, 0, 0, body)
    lead = present(operands[: loop.lead])
    carried, stacked = opposite.emit(b, body, present(consts), totals, [*present(xs), *present(y_cts)], lead)
    carry_out, const_out = chunks(carried, sum(carry_active))
    out = [*merge(const_active, const_out), *merge(carry_active, carry_out), *merge(x_active, stacked)]
    return [*[None for _ in lead], *_spread(linear, out)]


def _backward_body(
    region: OpenRegion,
    loop: Loop,
    const_linear: list[bool],
    carry_active: list[bool],
    carry_like: list[Value],
) -> Graph:
    """(consts, cotangents of carry, sums for consts, xs, cotangents of ys) -> (carry, sums, cotangents of
    xs)."""
    b = region.b
    consts, xs = chunks(region.params, const_linear.count(False))
    carry_params, y_params = loop.outs(region.extra_params)
    const_cts, carry_cts, x_cts = chunks(region.extra, sum(const_linear), loop.num_carry)
    sums: list[Value] = []
    new_sums: list[Value] = []
    for cotangent in present(const_cts):
        sums.append(Value(cotangent.type))
        new_sums += present([b.added(sums[-1], cotangent)])
    new_carry = [
        b.zeros(v.type) if c is None else c
        for c, v, a in zip(carry_cts, carry_like, carry_active, strict=True)
        if a
    ]
    return region.close(
        [*consts, *present(carry_params), *sums, *xs, *present(y_params)],
        [*new_carry, *new_sums, *present(x_cts)],
    )


def _spread(linear: Sequence[bool], cotangents: Values) -> list[Value | None]:
    """The cotangents of linear operands at their places among all operands."""
    rest = iter(cotangents)
    return [next(rest) if l else None for l in linear]


def transpose_checkpoint(
    b: Builder, node: Node, cotangents: Values, operands: Values, transpose_region: TransposeRegion
) -> list[Value | None]:
    """What the region computes from known operands is computed again where the cotangents have arrived."""
    linear = [o is None for o in operands]
    region = transpose_region(node.regions[0], linear, flags_of(cotangents))
    graph = region.close([*region.params, *present(region.extra_params)], present(region.extra))
    results = b.emit("checkpoint", (*present(operands), *present(cotangents)), {**node.attrs, "again": True}, (graph,))
    return _spread(linear, merge(region.active, results))


RULES: dict[str, Rule] = {
    "cond": transpose_cond, "while": transpose_while, "record": transpose_while, "scan": transpose_loop,
    "map": transpose_loop, "replay": transpose_loop, "checkpoint": transpose_checkpoint,
}  # fmt: skip

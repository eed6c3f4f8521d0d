"""Forward-mode rules of cond, loops and checkpoint: tangents travel beside the primals through the same
control flow.

A rule gets the builder, the node, its operands and their tangents (None is zero) and the function that
differentiates a region; it gives the results and their tangents. Which carries of a loop have tangents is
found by a fixpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.passes.control_parts import Loop, OpenRegion, chosen, chunks, either, flags_of, grown_flags, merge, present

Differentiate = Callable[[Graph, Sequence[bool]], OpenRegion]
Tangents = Sequence["Value | None"]
Rule = Callable[
    [Builder, Node, Sequence[Value], Tangents, Differentiate], tuple[list[Value], list["Value | None"]]
]


def jvp_cond(
    b: Builder, node: Node, operands: Sequence[Value], tangents: Tangents, differentiate: Differentiate
) -> tuple[list[Value], list[Value | None]]:
    """Every branch gives the tangents that any branch gives."""
    branches = [differentiate(branch, flags_of(tangents[1:])) for branch in node.regions]
    active = [False] * len(node.results)
    for branch in branches:
        active = either(active, branch.active)
    regions = [
        r.close([*r.params, *present(r.extra_params)], [*r.outputs, *r.extras(active, r.outputs)])
        for r in branches
    ]
    results = b.emit("cond", (*operands, *present(tangents[1:])), node.attrs, regions)
    outputs, dots = chunks(results, len(active))
    return outputs, merge(active, dots)


def jvp_while(
    b: Builder, node: Node, operands: Sequence[Value], tangents: Tangents, differentiate: Differentiate
) -> tuple[list[Value], list[Value | None]]:
    """while and record: the tangents of the carry are carried too; the condition looks at the primals alone."""
    cond, body = node.regions
    num_cond, num_body = node.attrs["num_cond"], node.attrs["num_body"]
    cond_consts, body_consts, carry = chunks(operands, num_cond, num_body)
    _, const_dots, carry_dots = chunks(tangents, num_cond, num_body)
    const_flags, start, count = flags_of(const_dots), flags_of(carry_dots), len(carry)

    def build(flags: list[bool]) -> tuple[OpenRegion, list[bool]]:
        region = differentiate(body, [*const_flags, *flags])
        return region, region.active[:count]

    region, active = grown_flags(body, ("jvp", count, *const_flags, *start), start, build)
    consts, carried = chunks(region.params, num_body)
    dots = chunks(region.extra_params, num_body)
    y_active = region.active[count:]
    new_carry, new_ys = chunks(region.outputs, count)
    carry_out, y_out = chunks(region.extras([*active, *y_active], region.outputs), sum(active))
    new_body = region.close(
        [*consts, *present(dots[0]), *carried, *present(dots[1])], [*new_carry, *carry_out, *new_ys, *y_out]
    )
    unused = [Value(c.type) for c in chosen(carry, active)]
    new_cond = cond.replace(params=(*cond.params, *unused))
    new_consts = [*body_consts, *present(const_dots)]
    attrs = {"num_cond": num_cond, "num_body": len(new_consts)}
    dot_carry = _instantiated(b, carry, carry_dots, active)
    results = b.emit(node.prim, (*cond_consts, *new_consts, *carry, *dot_carry), attrs, (new_cond, new_body))
    ends, end_dots, ys, y_dots, count_of = chunks(results, count, sum(active), len(y_active), sum(y_active))
    return [*ends, *ys, *count_of], [*merge(active, end_dots), *merge(y_active, y_dots), *[None for _ in count_of]]


def jvp_loop(
    b: Builder, node: Node, operands: Sequence[Value], tangents: Tangents, differentiate: Differentiate
) -> tuple[list[Value], list[Value | None]]:
    """scan, map and replay: tangents of consts, carry and xs stand behind the primals of their role."""
    loop = Loop.of(node)
    consts, carry, xs = loop.given(operands)
    const_dots, carry_dots, x_dots = loop.given(tangents)
    const_flags, start, x_flags = (flags_of(dots) for dots in (const_dots, carry_dots, x_dots))

    def build(flags: list[bool]) -> tuple[OpenRegion, list[bool]]:
        region = differentiate(loop.body, [*const_flags, *flags, *x_flags])
        return region, loop.outs(region.active)[0]

    question = ("jvp", len(carry), *const_flags, *start, *x_flags)
    region, active = grown_flags(loop.body, question, start, build)
    params: list[Value] = []
    for primal, dot in zip(loop.roles(region.params), loop.roles(region.extra_params), strict=True):
        params += [*primal, *present(dot)]
    new_carry, new_ys = loop.outs(region.outputs)
    y_active = loop.outs(region.active)[1]
    dots = region.extras([*active, *y_active], region.outputs)
    carry_out, y_out = chunks(dots, sum(active))
    body = region.close(params, [*new_carry, *carry_out, *new_ys, *y_out])
    carried, ys = loop.emit(
        b, body, [*consts, *present(const_dots)],
        [*carry, *_instantiated(b, carry, carry_dots, active)], [*xs, *present(x_dots)], operands[: loop.lead],
    )  # fmt: skip
    out_carry, out_carry_dots = chunks(carried, len(carry))
    out_ys, out_y_dots = chunks(ys, len(new_ys))
    return [*out_carry, *out_ys], [*merge(active, out_carry_dots), *merge(y_active, out_y_dots)]


def _instantiated(
    b: Builder, primals: Sequence[Value], dots: Tangents, active: Sequence[bool]
) -> list[Value]:
    return [b.zeros(p.type) if d is None else d for p, d, a in zip(primals, dots, active, strict=True) if a]


def jvp_checkpoint(
    b: Builder, node: Node, operands: Sequence[Value], tangents: Tangents, differentiate: Differentiate
) -> tuple[list[Value], list[Value | None]]:
    """The derivative is computed under the same policy."""
    region = differentiate(node.regions[0], flags_of(tangents))
    active = region.active
    graph = region.close([*region.params, *present(region.extra_params)], [*region.outputs, *present(region.extra)])
    results = b.emit("checkpoint", (*operands, *present(tangents)), node.attrs, (graph,))
    outputs, dots = chunks(results, len(active))
    return outputs, merge(active, dots)


RULES: dict[str, Rule] = {
    "cond": jvp_cond, "while": jvp_while, "record": jvp_while, "scan": jvp_loop, "map": jvp_loop, "replay": jvp_loop,
    "checkpoint": jvp_checkpoint,
}  # fmt: skip

"""Batching of cond, loops and checkpoint.

A rule gets the builder, the number of lanes, the node, its operands (lanes on axis 0), which of them are
batched, and the function that batches a region; it gives the results and which of them are batched. Where
lanes could take different branches or numbers of iterations the node runs lane by lane, in a `map`, so that
each branches and stops on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.prims.host import calls_host
from nufunc.passes.control_parts import Loop, chosen, chunks, either, grown_flags, rejected


@dataclass
class BatchedRegion:
    """A batched region under construction."""

    b: Builder
    size: int
    outputs: list[Value]
    batched: list[bool]

    def close(self, batched: Sequence[bool]) -> Graph:
        """The region with these outputs batched; one that is the same in all lanes is repeated."""
        pairs = zip(self.outputs, self.batched, batched, strict=True)
        return self.b.build(
            [repeated(self.b, o, self.size) if want and not is_ else o for o, is_, want in pairs]
        )


BatchRegion = Callable[[Graph, int, Sequence[bool]], BatchedRegion]
Batched = tuple[Sequence[Value], Sequence[bool]]
Rule = Callable[[Builder, int, Node, Sequence[Value], Sequence[bool], BatchRegion], Batched]


def repeated(b: Builder, x: Value, size: int) -> Value:
    """`size` times the same along a new axis 0."""
    dims = tuple(range(1, x.ndim + 1))
    return b.emit("broadcast", (x,), {"shape": (size, *x.shape), "dims": dims})[0]


def lane_by_lane(
    b: Builder, size: int, node: Node, operands: Sequence[Value], batched: Sequence[bool]
) -> Batched:
    """The node in a `map` over the lanes: right for every primitive."""
    body = Builder(f"{node.prim}.lane")
    params = [Value(o.type, o.hint) for o in node.operands]
    body.params = [*rejected(params, batched), *chosen(params, batched)]
    consts = rejected(operands, batched)
    region = body.build(body.copy_node(node, params))
    attrs = {"length": size, "num_consts": len(consts)}
    lanes = (*consts, *chosen(operands, batched))
    if calls_host(node):  # one after the other
        results = b.emit("scan", lanes, {**attrs, "reverse": False, "num_carry": 0}, (region,))
    else:
        results = b.emit("map", lanes, attrs, (region,))
    return results, [True] * len(results)


def batch_cond(
    b: Builder,
    size: int,
    node: Node,
    operands: Sequence[Value],
    batched: Sequence[bool],
    batch_region: BatchRegion,
) -> Batched:
    """One branch for all lanes where the index is one; every branch batches what any branch batches."""
    if batched[0]:
        return lane_by_lane(b, size, node, operands, batched)
    branches = [batch_region(branch, size, batched[1:]) for branch in node.regions]
    out = [False] * len(node.results)
    for branch in branches:
        out = either(out, branch.batched)
    return b.emit("cond", operands, node.attrs, [branch.close(out) for branch in branches]), out


def batch_while(
    b: Builder,
    size: int,
    node: Node,
    operands: Sequence[Value],
    batched: Sequence[bool],
    batch_region: BatchRegion,
) -> Batched:
    """while and record: one loop over whole batches where the condition is one for all lanes."""
    cond, body = node.regions
    cond_consts, body_consts, carry = chunks(batched, node.attrs["num_cond"], node.attrs["num_body"])
    before, count = carry, len(carry)

    def build(flags: list[bool]) -> tuple[BatchedRegion, list[bool]]:
        region = batch_region(body, size, [*body_consts, *flags])
        return region, region.batched[:count]

    region, carry = grown_flags(body, ("vmap", size, count, *body_consts, *before), before, build)
    test = batch_region(cond, size, [*cond_consts, *carry])
    if test.batched[0]:
        return lane_by_lane(b, size, node, operands, batched)
    first = len(operands) - count
    start = _grown(b, size, operands[first:], before, carry)
    ys = region.batched[count:]
    results = b.emit(
        node.prim, (*operands[:first], *start), node.attrs, (test.close([False]), region.close([*carry, *ys]))
    )
    ends, tapes, trips = chunks(results, count, len(ys))
    return [*ends, *_lanes_outside(b, size, tapes, ys), *trips], [*carry, *ys, *[False for _ in trips]]


def _lanes_outside(b: Builder, size: int, tapes: Sequence[Value], batched: Sequence[bool]) -> list[Value]:
    """Batches of tapes from tapes of batches."""
    return [b.tape_split(t, lanes=size) if f else t for t, f in zip(tapes, batched, strict=True)]


def batch_loop(
    b: Builder,
    size: int,
    node: Node,
    operands: Sequence[Value],
    batched: Sequence[bool],
    batch_region: BatchRegion,
) -> Batched:
    """scan and map: the lanes stay behind the axis that the loop runs over. replay: they move into the tapes' items."""
    loop = Loop.of(node)
    if any(batched[: loop.lead]):
        return lane_by_lane(b, size, node, operands, batched)
    const_flags, before, x_flags = loop.given(batched)

    def build(flags: list[bool]) -> tuple[BatchedRegion, list[bool]]:
        region = batch_region(loop.body, size, [*const_flags, *flags, *x_flags])
        return region, loop.outs(region.batched)[0]

    question = ("vmap", size, loop.num_carry, *const_flags, *before, *x_flags)
    region, carry_flags = grown_flags(loop.body, question, before, build)
    out_ys = loop.outs(region.batched)[1]
    consts, carry, xs = loop.given(operands)
    inside = b.tape_join if loop.length is None else lambda x: b.moved(x, 0, 1)
    moved = [inside(x) if f else x for x, f in zip(xs, x_flags, strict=True)]
    body = region.close([*carry_flags, *out_ys])
    start = _grown(b, size, carry, before, carry_flags)
    carried, ys = loop.emit(b, body, consts, start, moved, operands[: loop.lead])
    if loop.length is None:
        ys = _lanes_outside(b, size, ys, out_ys)
    else:
        ys = [b.moved(y, 1, 0) if f else y for y, f in zip(ys, out_ys, strict=True)]
    return [*carried, *ys], [*carry_flags, *out_ys]


def _grown(
    b: Builder, size: int, values: Sequence[Value], before: Sequence[bool], after: Sequence[bool]
) -> list[Value]:
    """Start values of carries, repeated where a carry turned out to be batched."""
    triples = zip(values, before, after, strict=True)
    return [repeated(b, v, size) if want and not is_ else v for v, is_, want in triples]


def batch_checkpoint(
    b: Builder,
    size: int,
    node: Node,
    operands: Sequence[Value],
    batched: Sequence[bool],
    batch_region: BatchRegion,
) -> Batched:
    region = batch_region(node.regions[0], size, batched)
    return b.emit("checkpoint", operands, node.attrs, (region.close(region.batched),)), region.batched


RULES: dict[str, Rule] = {
    "cond": batch_cond, "while": batch_while, "record": batch_while, "scan": batch_loop, "map": batch_loop,
    "replay": batch_loop, "checkpoint": batch_checkpoint,
}  # fmt: skip

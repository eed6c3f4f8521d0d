"""Control nodes in simplify: known branches and short loops inlined, constants and repeats sunk into bodies.

What does not change from one iteration to the next leaves the body: carries that stay become constants,
results that are the same each time are repeated outside, and work on constants alone is done once, before the
loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import TapeType
from nufunc.passes.control_parts import chunks
from nufunc.passes.dead_code import eliminate_dead_code

if TYPE_CHECKING:
    from nufunc.passes.simplify import ControlRule, Simplifier

# -- cond


def _cond(s: Simplifier, node: Node) -> Sequence[Value]:
    fill = s.fill_of(node.operands[0])
    if fill is not None:
        branch = node.regions[min(max(int(fill), 0), len(node.regions) - 1)]
        return s.inline(branch, node.operands[1:])
    operands, branches = _sunk(s, node.operands[1:], node.regions)
    branches = [s.simplified(r) for r in branches]
    again = Node("cond", (node.operands[0], *operands), node.attrs, branches, node.results, node.loc)
    results = s.copy(again)
    known = zip(*(_known_outputs(branch) for branch in branches), strict=True)
    return [_common(s, found, operands, r) or r for found, r in zip(known, results, strict=True)]


def _common(
    s: Simplifier, found: Sequence[int | Node | None], operands: Sequence[Value], result: Value
) -> Value | None:
    """A result that is one operand, or one number, in all branches."""
    first = found[0]
    if isinstance(first, int):
        return operands[first] if all(other == first for other in found) else None
    fills = {primitive.attr_tuple(f.attrs) for f in found if isinstance(f, Node)}
    all_fills = all(isinstance(f, Node) for f in found)
    return s.full(first.attrs["value"], result) if first and all_fills and len(fills) == 1 else None


def _known_outputs(region: Graph) -> list[int | Node | None]:
    """For each output the number of the parameter, or the `full`, that it is; None for another one."""
    known: dict[Value, int | Node] = {p: k for k, p in enumerate(region.params)}
    known |= {n.results[0]: n for n in region.nodes if n.prim == "full"}
    return [known.get(o) for o in region.outputs]


def _sunk(s: Simplifier, operands: Sequence[Value], regions: Sequence[Graph]) -> tuple[list[Value], list[Graph]]:
    """Operands of the regions' first parameters without fills, which the regions make, and without
    repetitions."""
    kept: dict[Value, int] = {}
    fills: dict[int, Node] = {}
    for k, operand in enumerate(operands):
        made = s.made_by(operand, "full")
        if made is not None:
            fills[k] = made
        else:
            kept.setdefault(operand, k)
    if len(kept) == len(operands):
        return list(operands), list(regions)
    return list(kept), [_rebound(region, operands, kept, fills) for region in regions]


def _rebound(region: Graph, operands: Sequence[Value], kept: dict[Value, int], fills: dict[int, Node]) -> Graph:
    """The region with fewer first parameters: `fills` made inside, the others each once."""
    b = Builder(region.name, region.stage)
    new = {k: b.param(region.params[k].type, region.params[k].hint) for k in kept.values()}
    for k, made in fills.items():
        (new[k],) = b.emit("full", (), made.attrs)
    first = [new[k] if k in new else new[kept[o]] for k, o in enumerate(operands)]
    rest = [b.param(p.type, p.hint) for p in region.params[len(operands) :]]
    return b.build(b.inline(region, [*first, *rest]))


# -- scan and map


@dataclass
class _Loop:
    """The parts of a scan, a map or a replay, whose length is None and which has the number of iterations in `lead`."""

    prim: str
    length: int | None
    reverse: bool
    consts: list[Value]
    carry: list[Value]
    items: list[Value]
    body: Graph
    ys: list[Value]
    lead: Sequence[Value] = ()

    def node(self, node: Node) -> Node:
        """A node like `node`, which this was made of."""
        attrs: dict[str, Any] = {"num_consts": len(self.consts)}
        if self.length is not None:
            attrs["length"] = self.length
        if self.prim != "map":
            attrs |= {"reverse": self.reverse, "num_carry": len(self.carry)}
        operands = (*self.lead, *self.consts, *self.carry, *self.items)
        results = (*(Value(c.type, c.hint) for c in self.carry), *self.ys)
        return Node(self.prim, operands, attrs, (self.body,), results, node.loc)


def _loop(s: Simplifier, node: Node) -> Sequence[Value]:
    a = node.attrs
    ncon, ncar = a["num_consts"], a.get("num_carry", 0)
    lead, operands = chunks(node.operands, 1 if node.prim == "replay" else 0)
    loop = _Loop(
        node.prim,
        a.get("length"),
        a.get("reverse", False),
        operands[:ncon],
        operands[ncon : ncon + ncar],
        operands[ncon + ncar :],
        node.regions[0],
        list(node.results[ncar:]),
        lead,
    )
    if loop.length == 0:
        return [*loop.carry, *(s.full(0, r) for r in loop.ys)]
    if loop.length == 1:
        return _once(s, loop)
    # where each carry's final value is: itself in the new loop, or a value outside
    finals: list[Value | None] = [None] * ncar
    places = list(range(ncar))
    twins: dict[int, int] = {}
    while True:
        loop = _sink_items(s, loop)
        consts, (body,) = _sunk(s, loop.consts, [loop.body])
        loop = replace(loop, consts=consts, body=s.simplified(body))
        stay = _unchanged(loop.body, len(loop.consts), len(loop.carry))
        if stay:
            for j in stay:
                finals[places[j]] = loop.carry[j]
            places = [k for j, k in enumerate(places) if j not in stay]
            loop = _constant_carries(loop, stay)
            continue
        pair = _twin_carries(loop)
        if pair is not None:
            twins[places[pair[1]]] = places[pair[0]]
            del places[pair[1]]
            loop = _without_twin(loop, *pair)
            continue
        values, body = _hoisted(s, loop.body, loop.consts)
        if not values:
            break
        loop = replace(loop, consts=[*loop.consts, *values], body=body)
    results = s.copy(loop.node(node))
    for k, r in zip(places, results, strict=False):
        finals[k] = r
    for k in reversed(twins):  # a twin may have become one of another carry later
        finals[k] = finals[twins[k]]
    ncar = len(loop.carry)
    known = _known_outputs(loop.body)[ncar:]
    stacked = [_known_stack(s, loop, found, r) or r for found, r in zip(known, results[ncar:], strict=True)]
    return [*(f for f in finals if f is not None), *stacked]


def _twin_carries(loop: _Loop) -> tuple[int, int] | None:
    """Two carries that start as one value and are given one value in each iteration, as after u[...] = v."""
    seen: dict[tuple[Value, Value], int] = {}
    for k, pair in enumerate(zip(loop.carry, loop.body.outputs, strict=False)):
        first = seen.setdefault(pair, k)
        if first != k:
            return first, k
    return None


def _without_twin(loop: _Loop, first: int, second: int) -> _Loop:
    """The loop with the second of two equal carries left out."""
    n, body = len(loop.consts), loop.body
    b = Builder(body.name, body.stage)
    new = [b.param(p.type, p.hint) for k, p in enumerate(body.params) if k != n + second]
    given = [*new[: n + second], new[n + first], *new[n + second :]]
    outputs = b.inline(body, given)
    del outputs[second]
    carry = [c for k, c in enumerate(loop.carry) if k != second]
    return replace(loop, carry=carry, body=b.build(outputs))


def _once(s: Simplifier, loop: _Loop) -> list[Value]:
    """A loop of one iteration, inlined."""
    items = [s.again("reshape", (x,), {"shape": x.shape[1:]}) for x in loop.items]
    out = s.inline(loop.body, [*loop.consts, *loop.carry, *items])
    ncar = len(loop.carry)
    return [*out[:ncar], *(s.again("reshape", (y,), {"shape": (1, *y.shape)}) for y in out[ncar:])]


def _sink_items(s: Simplifier, loop: _Loop) -> _Loop:
    """Items that are the same in every iteration become constants."""
    consts, items, repeated = [], [], {}
    for k, x in enumerate(loop.items):
        fill, made = s.fill_of(x), s.made_by(x, "broadcast")
        if isinstance(x.type, TapeType) and loop.length is None:
            if s.made_by(x, "tape_zeros") is None:
                items.append(x)
                continue
            repeated[k] = s.full(0, Value(x.type.item))
        elif fill is not None:
            repeated[k] = s.full(fill, Value(x.type.with_shape(x.shape[1:])))
        elif made and 0 not in made.attrs["dims"]:
            dims = tuple(d - 1 for d in made.attrs["dims"])
            repeated[k] = s.again("broadcast", made.operands, {"shape": x.shape[1:], "dims": dims})
        else:
            items.append(x)
            continue
        consts.append(repeated[k])
    if not repeated:
        return loop
    start = len(loop.body.params) - len(loop.items)
    p = loop.body.params
    moved = [p[start + k] for k in repeated]
    kept = [p[start + k] for k in range(len(loop.items)) if k not in repeated]
    n = len(loop.consts)
    body = loop.body.replace(params=(*p[:n], *moved, *p[n:start], *kept))
    return replace(loop, consts=[*loop.consts, *consts], items=items, body=body)


def _unchanged(body: Graph, first: int, count: int) -> list[int]:
    """The carries that each iteration hands on as they are."""
    return [j for j in range(count) if body.outputs[j] is body.params[first + j]]


def _constant_carries(loop: _Loop, stay: Sequence[int]) -> _Loop:
    n, count, p, out = len(loop.consts), len(loop.carry), loop.body.params, loop.body.outputs
    go = [j for j in range(count) if j not in stay]
    params = (*p[:n], *(p[n + j] for j in stay), *(p[n + j] for j in go), *p[n + count :])
    body = loop.body.replace(params=params, outputs=(*(out[j] for j in go), *out[count:]))
    consts = [*loop.consts, *(loop.carry[j] for j in stay)]
    return replace(loop, consts=consts, carry=[loop.carry[j] for j in go], body=body)


def _known_stack(s: Simplifier, loop: _Loop, found: int | Node | None, result: Value) -> Value | None:
    """A stacked result without the loop: the items themselves, or one value repeated."""
    if isinstance(found, Node):
        if loop.length is None and not is_zero(found.attrs["value"]):
            return None
        return s.full(found.attrs["value"], result)
    start = len(loop.consts) + len(loop.carry)
    if found is None or len(loop.consts) <= found < start:
        return None
    if found >= start:
        return loop.items[found - start]
    if loop.length is None:
        return None
    const = loop.consts[found]
    dims = tuple(range(1, const.ndim + 1))
    return s.again("broadcast", (const,), {"shape": (loop.length, *const.shape), "dims": dims})


def is_zero(value: Any) -> bool:
    """Whether a number is made of zero bits, as what a tape without items reads as."""
    return not np.asarray(value).tobytes().strip(b"\0")


# -- while and record


def _while(s: Simplifier, node: Node) -> Sequence[Value]:
    nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
    tested, consts, carry = chunks(node.operands, nc, nb)
    test, body = node.regions
    finals: list[Value | None] = [None] * len(carry)
    places = list(range(len(carry)))
    while True:
        tested, (test,) = _sunk(s, tested, [test])
        consts, (body,) = _sunk(s, consts, [body])
        test, body = s.simplified(test), s.simplified(body)
        (again,) = _known_outputs(test)
        never = isinstance(again, Node) and not again.attrs["value"]
        stay = list(range(len(carry))) if never else _unchanged(body, len(consts), len(carry))
        if never or (len(stay) == len(carry) and node.prim == "while"):  # no iteration, or only such as change nothing
            for j in stay:
                finals[places[j]] = carry[j]
            rest = node.results[len(finals) :]
            return [*(f for f in finals if f is not None), *(s.full(0, r) for r in rest)]
        if stay:
            for j in stay:
                finals[places[j]] = carry[j]
            go = [j for j in range(len(carry)) if j not in stay]
            test = _reordered(test, len(tested), stay, go)
            body = _reordered(body, len(consts), stay, go)
            body = body.replace(outputs=(*(body.outputs[j] for j in go), *body.outputs[len(carry) :]))
            still = [carry[j] for j in stay]
            tested, consts, carry = [*tested, *still], [*consts, *still], [carry[j] for j in go]
            places = [places[j] for j in go]
            continue
        more_tested, test = _hoisted(s, test, tested)
        more_consts, body = _hoisted(s, body, consts)
        if not more_tested and not more_consts:
            break
        tested, consts = [*tested, *more_tested], [*consts, *more_consts]
    attrs = {"num_cond": len(tested), "num_body": len(consts)}
    types = (*(Value(c.type, c.hint) for c in carry), *node.results[len(finals) :])
    results = s.copy(Node(node.prim, (*tested, *consts, *carry), attrs, (test, body), types, node.loc))
    for k, r in zip(places, results, strict=False):
        finals[k] = r
    return [*(f for f in finals if f is not None), *results[len(carry) :]]


def _reordered(region: Graph, num_consts: int, stay: Sequence[int], go: Sequence[int]) -> Graph:
    """The region with the carries that stay behind its constants, and the others after them."""
    p = region.params
    return region.replace(params=(*p[:num_consts], *(p[num_consts + j] for j in (*stay, *go))))


# -- work that is the same in every iteration

_HOISTED_KINDS = ("elementwise", "reduce", "layout", "create", "index", "library")
MAY_RAISE = ("cholesky", "solve", "triangular_solve", "det", "slogdet")


def _hoisted(s: Simplifier, body: Graph, consts: Sequence[Value]) -> tuple[list[Value], Graph]:
    """Values for new constants and the body over (old constants, new constants, the rest).

    Outside go reductions, products and expensive functions of constants, and cheap ones whose result is
    no larger than what they read; layout and fills stay in the body, where they are free. Whatever can
    raise stays: a while loop may never come to it.
    """
    outside: dict[Value, Value] = dict(zip(body.params, consts, strict=False))
    small = {v: v.type.nbytes for v in outside}  # how much memory a value is made of, looking through layout
    worth: list[Node] = []
    for node in body.nodes:
        if not _movable(node) or any(o not in small for o in node.operands):
            continue
        size = sum(small[o] for o in set(node.operands))
        free = primitive.get(node.prim).kind in ("layout", "create")
        gains = not free and (not primitive.get(node.prim).cheap or node.result.type.nbytes <= size)
        if gains:
            worth.append(node)
        for r in node.results:
            small[r] = r.type.nbytes if gains else size
    if not worth:
        return [], body
    values = _outside(s, body, outside, worth)
    swap = {node.result: Value(node.result.type, node.result.hint) for node in worth}
    n = len(consts)
    params = (*body.params[:n], *swap.values(), *body.params[n:])
    nodes = [
        Node(m.prim, [swap.get(o, o) for o in m.operands], m.attrs, m.regions, m.results, m.loc)
        for m in body.nodes
        if not (m.results and m.results[0] in swap)
    ]
    outputs = [swap.get(o, o) for o in body.outputs]
    return values, eliminate_dead_code(body.replace(params=params, nodes=nodes, outputs=outputs))


def _movable(node: Node) -> bool:
    kind = primitive.get(node.prim).kind
    raises = node.prim in MAY_RAISE or node.attrs.get("mode") == "error"
    return kind in _HOISTED_KINDS and not node.regions and not raises and len(node.results) == 1


def _outside(s: Simplifier, body: Graph, outside: dict[Value, Value], worth: Sequence[Node]) -> list[Value]:
    """The results of `worth`, computed before the loop with all that they need."""
    needed = {node.result for node in worth}
    for node in reversed(body.nodes):
        if not needed.isdisjoint(node.results):
            needed.update(node.operands)
    for node in body.nodes:
        if not needed.isdisjoint(node.results):
            with s.b.at(node.loc):
                results = s.step(node, [outside[o] for o in node.operands])
            outside.update(zip(node.results, results, strict=True))
    return [outside[node.result] for node in worth]


# -- checkpoint


def _checkpoint(s: Simplifier, node: Node) -> Sequence[Value]:
    operands, (region,) = _sunk(s, node.operands, node.regions)
    region = s.simplified(region)
    if not region.nodes:
        return s.inline(region, operands)
    return s.copy(Node("checkpoint", operands, node.attrs, (region,), node.results, node.loc))


RULES: dict[str, ControlRule] = {
    "cond": _cond, "scan": _loop, "map": _loop, "replay": _loop, "while": _while, "record": _while,
    "checkpoint": _checkpoint,
}  # fmt: skip

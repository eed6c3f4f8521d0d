"""Products and sums that leave loops of known length: those of items before, those of what is stacked behind.

Where a loop launches kernels, small products are the dearest of them, and some need not be made step by step. The
products of items with what stays the same are one product of all items (x[t] @ w of a recurrent network); so are
products that are only stacked (the gradients of items). A carry to which each step adds a product or a sum, and that
nothing else reads, is one product or sum along time as well (the gradients of weights): the loop stacks the factors
that are not stacked yet. What is left often has lanes that do not meet (Note [Lanes of a loop]). Sums are in another
order.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value

Carry = tuple[Value, Value, Value, Value]  # parameter, first value, output, result
_SHORTEST = 8  # iterations from which it is worth it
_ROOM = 1 << 29  # bytes of what is stacked for it, at most
_LARGE = 1 << 18  # bytes of what is rather summed up where it is made than stacked


def hoisted(node: Node) -> list[Node]:
    """A scan, and what has left it, in order."""
    if node.prim != "scan" or node.attrs["length"] < _SHORTEST:
        return [node]
    work = _Loop(node)
    work.products_of_items()
    work.products_of_results()
    work.sums()
    return [node] if not work.before and not work.behind else [*work.before, work.node(), *work.behind]


class _Loop:
    """A scan that is changed."""

    def __init__(self, node: Node) -> None:
        self.old, self.body, self.length = node, node.regions[0], node.attrs["length"]
        first, second = node.attrs["num_consts"], node.attrs["num_consts"] + node.attrs["num_carry"]
        count = node.attrs["num_carry"]
        self.consts = list(zip(self.body.params[:first], node.operands[:first], strict=True))
        self.items = list(zip(self.body.params[second:], node.operands[second:], strict=True))
        carries = (self.body.params[first:second], node.operands[first:second], self.body.outputs, node.results)
        self.carries: list[Carry] = list(zip(*(c[:count] for c in carries), strict=True))
        self.stacked = list(zip(self.body.outputs[count:], node.results[count:], strict=True))
        self.nodes = list(self.body.nodes)
        self.before: list[Node] = []
        self.behind: list[Node] = []

    def node(self) -> Node:
        params = [v for v, _ in (*self.consts, *((c[0], c[1]) for c in self.carries), *self.items)]
        operands = [o for _, o in (*self.consts, *((c[0], c[1]) for c in self.carries), *self.items)]
        outputs = [*(c[2] for c in self.carries), *(o for o, _ in self.stacked)]
        results = [*(c[3] for c in self.carries), *(r for _, r in self.stacked)]
        body = Graph(params, self.nodes, outputs, consts=self.body.consts, stage=self.body.stage, name=self.body.name)
        attrs = {**self.old.attrs, "num_consts": len(self.consts), "num_carry": len(self.carries)}
        return Node("scan", operands, attrs, (body,), results, self.old.loc)

    # -- in front of the loop

    def products_of_items(self) -> None:
        items, consts = dict(self.items), dict(self.consts)
        for dot in [n for n in self.nodes if n.prim == "dot"]:
            x, w = dot.operands
            if x in items and w in consts and not dot.attrs["batch"][0]:
                inner, other = dot.attrs["contract"]
                attrs = {"contract": (tuple(a + 1 for a in inner), other), "batch": ((), ())}
                whole = Value(dot.result.type.batched(self.length))
                self.before.append(Node("dot", (items[x], consts[w]), attrs, (), (whole,), dot.loc))
                self.items.append((dot.result, whole))
                self.nodes.remove(dot)

    # -- behind it

    def products_of_results(self) -> None:
        consts = dict(self.consts)
        for value, result in list(self.stacked):
            dot = next((n for n in self.nodes if n.prim == "dot" and n.result is value), None)
            if dot is None or any(value in n.operands for n in self.nodes) or self.outputs().count(value) != 1:
                continue
            x, w = dot.operands
            if w not in consts or not self.varies(x) or dot.attrs["batch"][0] or not self.fits([x]):
                continue
            inner, other = dot.attrs["contract"]
            attrs = {"contract": (tuple(a + 1 for a in inner), other), "batch": ((), ())}
            self.stacked.remove((value, result))
            self.nodes.remove(dot)
            self.behind.append(Node("dot", (self.along_time(x), consts[w]), attrs, (), (result,), dot.loc))

    def sums(self) -> None:
        for carry in list(self.carries):
            adding = self.adding(carry)
            if adding is None:
                continue
            term = _term(adding, carry[0], carry[2])
            dot = next((n for n in self.nodes if n.prim == "dot" and n.result is term), None)
            if dot is not None:
                self.sum_of_products(carry, adding, dot)
            elif term is None:
                self.sum_of_sums(carry, adding)

    def outputs(self) -> list[Value]:
        return [*(c[2] for c in self.carries), *(o for o, _ in self.stacked)]

    def adding(self, carry: Carry) -> Node | None:
        """The group that makes a carry, if nothing else reads it."""
        param, _, output, _ = carry
        readers = [n for n in self.nodes if param in n.operands]
        makers = [n for n in self.nodes if output in n.results]
        outputs = self.outputs()
        if readers != makers or len(makers) != 1 or outputs.count(output) != 1 or param in outputs:
            return None
        (adding,) = makers
        plain = adding.prim == "fused" and adding.attrs["kind"] in ("loop", "reduce")
        return adding if plain and not any(output in n.operands for n in self.nodes) else None

    def sum_of_products(self, carry: Carry, adding: Node, dot: Node) -> None:
        once = sum(n.operands.count(dot.result) for n in self.nodes) == 1 and dot.result not in self.outputs()
        if dot.attrs["batch"][0] or not once or not all(map(self.varies, dot.operands)) or not self.fits(dot.operands):
            return
        factors = [self.along_time(o) for o in dot.operands]
        self.nodes.remove(dot)
        self.leave(carry, adding, _without(adding, carry[2]))
        contract = tuple((0, *(a + 1 for a in axes)) for axes in dot.attrs["contract"])
        total = Value(dot.result.type)
        self.behind.append(Node("dot", factors, {"contract": contract, "batch": ((), ())}, (), (total,), dot.loc))
        b = Builder("fused", "pure")
        region = b.build(b.emit("add", (b.param(carry[1].type), b.param(total.type))))
        self.behind.append(Node("fused", (carry[1], total), {"kind": "loop"}, (region,), (carry[3],), dot.loc))

    def sum_of_sums(self, carry: Carry, adding: Node) -> None:
        found = _summed(adding, carry[0], carry[2])
        if found is None or not self.fits([found[0]]):
            return
        inner, axes = found
        region = adding.regions[0]
        inside = dict(zip(region.params, adding.operands, strict=True))
        if inner in inside:
            value, changed = inside[inner], _without(adding, carry[2])
        else:
            known = dict(zip(region.outputs, adding.results, strict=True))
            value = known.get(inner) or Value(inner.type)
            changed = _without(adding, carry[2], () if inner in known else ((value, inner),))
        kept = any(value is v for v, _ in (*self.items, *self.stacked))
        if not self.varies(value) or (not kept and value.type.nbytes > _LARGE):
            return
        self.leave(carry, adding, changed)
        stacked = self.along_time(value)
        b = Builder("fused", "pure")
        first, items = b.param(carry[1].type), b.param(stacked.type)
        (total,) = b.emit("reduce_sum", (items,), {"axes": (0, *(a + 1 for a in axes))})
        region = b.build(b.emit("add", (first, b.reshaped(total, first.shape))))
        self.behind.append(Node("fused", (carry[1], stacked), {"kind": "reduce"}, (region,), (carry[3],), adding.loc))

    def leave(self, carry: Carry, adding: Node, changed: Node) -> None:
        """The loop without a carry."""
        self.carries.remove(carry)
        self.nodes[self.nodes.index(adding)] = changed
        self.nodes = [n for n in self.nodes if n.results or n.prim != "fused"]

    def fits(self, values: Sequence[Value]) -> bool:
        return sum(v.type.nbytes for v in values) * self.length <= _ROOM

    def varies(self, value: Value) -> bool:
        """Whether it is another in each iteration."""
        return all(value is not v for v, _ in (*self.consts, *self.body.consts))

    def along_time(self, value: Value) -> Value:
        """The values of all iterations."""
        known = next((s for v, s in itertools.chain(self.items, self.stacked) if v is value), None)
        if known is None:
            known = Value(value.type.batched(self.length))
            self.stacked.append((value, known))
        return known


def _term(adding: Node, param: Value, output: Value) -> Value | None:
    """What a group adds to a parameter for one of its results, without doing anything else with either."""
    region = adding.regions[0]
    inside = dict(zip(region.params, adding.operands, strict=True))
    target = region.outputs[adding.results.index(output)]
    last = next((n for n in region.nodes if target in n.results), None)
    if last is None or last.prim != "add" or region.outputs.count(target) != 1:
        return None
    if any(o not in inside for o in last.operands) or any(target in n.operands for n in region.nodes):
        return None
    terms = [inside[o] for o in last.operands]
    reads = sum(inside.get(o) is param for n in region.nodes for o in n.operands)
    if terms.count(param) != 1 or reads != 1 or adding.operands.count(param) != 1:
        return None
    term = next(t for t in terms if t is not param)
    inner = next(p for p, v in inside.items() if v is term)
    return term if sum(n.operands.count(inner) for n in region.nodes) == 1 else None


def _summed(adding: Node, param: Value, output: Value) -> tuple[Value, tuple[int, ...]] | None:
    """What inside a group is summed up and added to a parameter for one of its results, and the axes."""
    region = adding.regions[0]
    inside = dict(zip(region.params, adding.operands, strict=True))
    producers = {r: n for n in region.nodes for r in n.results}
    target = region.outputs[adding.results.index(output)]
    last = producers.get(target)
    if last is None or last.prim != "add" or region.outputs.count(target) != 1 or adding.operands.count(param) != 1:
        return None
    reads = sum(inside.get(o) is param for n in region.nodes for o in n.operands)
    if reads != 1 or any(target in n.operands for n in region.nodes):
        return None
    for own, other in (last.operands, last.operands[::-1]):
        if inside.get(own) is param:
            node = producers.get(other)
            while node is not None and node.prim == "reshape":
                node = producers.get(node.operands[0])
            if node is not None and node.prim == "reduce_sum":
                return node.operands[0], tuple(node.attrs["axes"])
    return None


def _without(node: Node, result: Value, more: Sequence[tuple[Value, Value]] = ()) -> Node:
    """A group without one of its results, and without what only that one needed; with `more` results of what is inside
    it."""
    region = node.regions[0]
    kept = [(r, o) for r, o in zip(node.results, region.outputs, strict=True) if r is not result] + list(more)
    needed, nodes = {o for _, o in kept}, []
    for inner in reversed(region.nodes):
        if not needed.isdisjoint(inner.results):
            nodes.append(inner)
            needed.update(inner.operands)
    pairs = [(p, v) for p, v in zip(region.params, node.operands, strict=True) if p in needed]
    consts = [(v, a) for v, a in region.consts if v in needed]
    made = Graph(
        [p for p, _ in pairs], nodes[::-1], [o for _, o in kept], consts=consts, stage=region.stage, name=region.name
    )
    reduces = any(n.prim.startswith("reduce") for n in nodes)
    attrs = {"kind": "reduce" if reduces else "loop"}
    return Node("fused", [v for _, v in pairs], attrs, (made,), [r for r, _ in kept], node.loc)

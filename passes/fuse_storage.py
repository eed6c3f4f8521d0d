"""What fusion stores: which values must stand in memory, which their readers compute, and from what.

A value that a group computes is stored if something outside reads it. Layout nodes never are, nor what is cheaper to
compute again; a node that one reader reads at other indices than its own is absorbed by that reader.
"""

from __future__ import annotations

from nufunc.ir import primitive
from nufunc.ir.graph import Graph, Node, Value
from nufunc.passes.fuse_rules import (
    ASSEMBLY,
    READS,
    is_layout,
    repeats_apart,
    replaces_most,
    splits_only,
    stacked_shape,
)

_CHEAP = frozenset(
    "add sub mul neg abs maximum minimum fmax fmin select eq ne lt le gt ge convert bit_and bit_or "
    "bit_xor bit_not sign floor ceil trunc rint isnan isinf isfinite signbit real imag conj complex "
    "copysign stop_gradient bitcast".split()
)
_READ_SEARCH = 60  # values looked at to find out whether one would read another
_OFTEN = 4  # reads of an element that make storing it worth it
_CHEAP_COST = 3  # cheap operations in a row that are rather computed again than stored
_DEEP = 40  # nodes in a row that a reader computes in place


class Storage:
    """The graph that is grouped, and what of it is stored."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = {r: n for n in graph.nodes for r in n.results}
        self.users: dict[Value, list[Node]] = {}
        for node in graph.nodes:
            for operand in dict.fromkeys(node.operands):
                self.users.setdefault(operand, []).append(node)
        self.outputs = set(graph.outputs)
        self.needed: set[Value] = set()  # must stand in memory whatever happens
        self.cost: dict[Value, int] = {}  # of elementwise results, what a reader repeats who computes them
        self.through: dict[Value, int] = {}  # the same of what is read through layouts and indices
        self.absorbed: set[Node] = set()
        self._leaves: dict[Value, list[tuple[Value, bool]]] = {}

    def kind(self, node: Node) -> str:
        return primitive.get(node.prim).kind

    def alone(self, node: Node) -> bool:
        return self.kind(node) in ("library", "control", "derived", "host", "fused")

    def is_inline(self, node: Node) -> bool:
        """Whether readers compute it themselves."""
        return is_layout(node) or node.prim in READS or node in self.absorbed

    def is_trivial(self, value: Value) -> bool:
        """Whether it is cheaper to compute again than to store."""
        return self.cost.get(value, _CHEAP_COST + 1) <= _CHEAP_COST and value not in self.needed

    def classify(self) -> None:
        for node in self.graph.nodes:
            if self.alone(node):
                self.needed.update(node.operands)
            if is_layout(node) or node.prim in READS:
                behind = max((self._cost(o) for o in node.operands), default=0)
                self.through[node.result] = int(node.prim in READS) + behind
            elif self.kind(node) == "elementwise" and node.prim in _CHEAP:
                self.cost[node.result] = 1 + sum(self._cost(o) for o in node.operands)
        self.needed.update(self.graph.outputs)
        for node in self.graph.nodes:
            if node.prim == "gather" and node.result.type.size >= _OFTEN * node.operands[0].type.size:
                maker = self.producers.get(node.operands[0])
                if maker is not None and self.kind(maker) == "elementwise":
                    self.needed.add(node.operands[0])  # each of its elements would be computed again and again
            if repeats_apart(node, self.producers):
                self.needed.add(node.operands[0])
            if node.prim == "reshape" and node.result in self.needed:
                source = self._behind_reshapes(node.operands[0])
                if source in self.producers and self.kind(self.producers[source]) == "elementwise":
                    self.needed.add(source)  # what is needed is the same memory
            if node.prim == "reshape" and not splits_only(node.operands[0].shape, node.result.shape):
                source = self._behind_reshapes(node.operands[0])
                if not self._is_flat(source):
                    self.needed.add(source)
            elif node.prim in ASSEMBLY and node.prim != "concat" and not replaces_most(node):
                # what is written where it is also read from is computed before, so that the update can be in
                # place
                self.needed.update(o for o in node.operands[1:] if self._reads(o, node.operands[0]))
        for node in reversed(self.graph.nodes):
            if not node.results or node.results[0] in self.needed:
                continue
            if self._is_absorbed(node) if self.kind(node) == "elementwise" else self._is_passing(node):
                self.absorbed.add(node)
        self._limit_depth()

    def _is_passing(self, node: Node) -> bool:
        """An update whose base others read too, so that it would be a copy, and which one elementwise reader takes."""
        if node.prim != "update" or set(node.attrs["step"]) != {1}:
            return False
        users, base = self.users.get(node.result, []), node.operands[0]
        if len(users) != 1 or self.kind(users[0]) != "elementwise" or len(self.users[base]) == 1:
            return False
        producer = self.producers.get(base)
        return producer is None or producer.prim not in ASSEMBLY

    def _limit_depth(self) -> None:
        """Store a value now and then along what would be computed in place from far away."""
        depth: dict[Value, int] = {}
        for node in self.graph.nodes:
            if not self.is_inline(node) or node.result in self.needed:
                continue
            depth[node.result] = 1 + max((depth.get(o, 0) for o in node.operands), default=0)
            if depth[node.result] > _DEEP:
                depth[node.result] = 0
                self.needed.add(node.result)
                self.absorbed.discard(node)

    def _cost(self, value: Value) -> int:
        """Cheap operations that a reader of `value` repeats; what is dear to compute is stored, and read."""
        cost = self.cost.get(value, 0)
        return self.through.get(value, cost if cost <= _CHEAP_COST else 0)

    def _behind_reshapes(self, value: Value) -> Value:
        node = self.producers.get(value)
        while node is not None and node.prim == "reshape":
            value = node.operands[0]
            node = self.producers.get(value)
        return value

    def _reads(self, value: Value, base: Value) -> bool:
        """Whether `value`, computed where it is used, would read `base`, as far as a bounded search can tell."""
        stack, seen = [value], {value}
        while stack:
            if len(seen) > _READ_SEARCH:
                return True
            node = self.producers.get(stack.pop())
            if node is None or not (self.kind(node) == "elementwise" or is_layout(node) or node.prim in READS):
                continue
            if base in node.operands:
                return True
            fresh = [o for o in node.operands if o not in seen]
            seen.update(fresh)
            stack.extend(fresh)
        return False

    def _is_flat(self, value: Value) -> bool:
        """Whether an element of it can be computed from its address alone: every reshape of it is then
        free."""
        stack = [value]
        while stack:
            node = self.producers.get(stack.pop())
            if node is None or node.prim == "full" or self.alone(node) or self.kind(node) == "reduce":
                continue
            if node.prim != "reshape" and self.kind(node) != "elementwise":
                return False
            stack.extend(node.operands)
        return True

    def _is_absorbed(self, node: Node) -> bool:
        """One reader only, at other indices than its own or absorbed itself, that does not repeat elements: it
        computes the value itself."""
        value, size = node.result, node.result.type.size
        moved, reshaped = False, True
        while True:
            users = self.users.get(value, [])
            if len(users) != 1 or value in self.needed or users[0].operands.count(value) != 1:
                return False
            user = users[0]
            if user.prim in ASSEMBLY:
                return stacked_shape(user) is None  # a group stores a stack as it computes its parts
            if not is_layout(user) and user.prim not in READS:
                return (moved or user in self.absorbed) and not self.alone(user)
            if user.prim != "pad" and user.result.type.size > size:
                return False
            reshaped = reshaped and user.prim == "reshape"
            if user.result in self.needed:  # stored by a copy, unless strides or an alias can say it
                read_by_dots = all(u.prim == "dot" for u in self.users.get(user.result, []))
                return not reshaped and not (read_by_dots and user.result not in self.outputs)
            value, moved = user.result, True

    def leaves(self, value: Value) -> list[tuple[Value, bool]]:
        """The stored values that a reader of `value` reads, each with whether at the reader's own index."""
        node = self.producers.get(value)
        if node is None or (not self.is_inline(node)) or value in self.needed:
            return [(value, True)]
        if value not in self._leaves:
            found: dict[Value, bool] = {}
            for k, operand in enumerate(node.operands):
                of_elements = node.prim == "gather" and k > 0 and operand.shape == value.shape
                direct = of_elements or self.kind(node) == "elementwise"
                for leaf, same in self.leaves(operand):
                    found[leaf] = found.get(leaf, True) and same and direct
            self._leaves[value] = list(found.items())
        return self._leaves[value]

    def is_cut(self, node: Node) -> bool:
        """A slice that must stand in memory, of a stored value and in its order: a group stores it with others."""
        users, cut = self.users.get(node.result, []), False
        if node.result not in self.outputs and all(u.prim == "dot" for u in users):
            return False  # strides can say it
        at: Node | None = node
        while at is not None and at.prim in ("slice", "reshape"):
            cut = cut or at.prim == "slice"
            value = at.operands[0]
            at = self.producers.get(value)
            if at is None or not self.is_inline(at) or value in self.needed:
                return cut
        return False

    def stacked_leaves(self, operand: Value) -> list[tuple[Value, bool]]:
        """The leaves of an operand of a stack, each with whether it is read at the index of the stack's space."""
        node = self.producers.get(operand)
        if node is not None and node.prim == "reshape" and operand not in self.needed:
            value = node.operands[0]
            if [n for n in value.shape if n != 1] == [n for n in operand.shape if n != 1] and value.ndim < operand.ndim:
                return self.leaves(value)
        return [(leaf, False) for leaf, _ in self.leaves(operand)]

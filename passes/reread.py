"""What has been written into an array is read there: one kernel per step of an unrolled loop that updates in place.

    u1 = update(u0, v1); v2 = f(u1, v1); u2 = update(u0, v2)

is what `u[1:-1] += ...` leaves in each step of a Python loop, since simplify forwards what is written to who reads it.
But v1 cannot stay in registers until u1 has been written and is read at other places; so each step would store both.
Here later readers take v1 from u1, and u2 is an update of u1, which is the same outside:

    u1 = update(u0, v1); v2 = f(u1, slice(u1)); u2 = update(u1, v2)
"""

from __future__ import annotations

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value

_LARGE = 1 << 14  # bytes of an update from which it is worth while
_FAR = 400  # nodes after an update that are looked at, so that the time stays linear


def reread(graph: Graph) -> Graph:
    """The graph (pure) with values that were written to an array read from it, where they would be kept twice."""
    if not any(_is_large(n) for n in graph.nodes):
        return graph
    return _Reread(graph).run()


def _is_large(node: Node) -> bool:
    return node.prim == "update" and node.operands[1].type.nbytes >= _LARGE


class _Reread:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.place = {n: k for k, n in enumerate(graph.nodes)}
        self.producers = {r: n for n in graph.nodes for r in n.results}
        self.readers: dict[Value, list[Node]] = {}
        for node in graph.nodes:
            for operand in dict.fromkeys(node.operands):
                self.readers.setdefault(operand, []).append(node)
        self.outputs = set(graph.outputs)

    def run(self) -> Graph:
        b = Builder(self.graph.name, self.graph.stage)
        env: dict[Value, Value] = {v: v for v in (*self.graph.params, *(v for v, _ in self.graph.consts))}
        latest: dict[Value, Node] = {}  # base -> the last update of it whose readers look into it
        for node in self.graph.nodes:
            operands = [env[o] for o in node.operands]
            before = latest.get(node.operands[0]) if node.prim == "update" else None
            if before is not None and before.attrs == node.attrs and self._reads(node.operands[1], before.result):
                operands[0] = env[before.result]
            results = b.copy_node(node, operands)
            env.update(zip(node.results, results, strict=True))
            if _is_large(node) and self._is_read_later(node):
                latest[node.operands[0]] = node
                with b.at(node.loc):
                    env[node.operands[1]] = b.slice(results[0], **node.attrs)
        return self.graph.replace(
            nodes=b.nodes, outputs=[env[o] for o in self.graph.outputs], consts=[*self.graph.consts, *b.consts]
        )

    def _is_read_later(self, update: Node) -> bool:
        """Whether what an update writes has other readers, all of them after it and for the sake of what needs the
        updated array anyway; which nothing overwrites.
        """
        value, updated = update.operands[1], update.result
        maker = self.producers.get(value)
        if maker is None or primitive.get(maker.prim).kind != "elementwise" or value in self.outputs:
            return False
        others = [n for n in self.readers[value] if n is not update]
        if not others or any(self.place[n] < self.place[update] for n in others):
            return False
        looking = self.readers.get(updated, [])
        if any(n.regions or (n.operands[0] is updated and _overwrites(n)) for n in looking):
            return False
        first = self.place[update] + 1
        near = self.graph.nodes[first : first + _FAR]
        needing: set[Value] = {updated}
        for node in near:
            if not needing.isdisjoint(node.operands):
                needing.update(node.results)
        helping: set[Node] = set()  # nodes whose results only those use that need the updated array
        for node in reversed(near):
            users = [u for r in node.results for u in self.readers.get(r, ())]
            needs = all(u in helping or not needing.isdisjoint(u.results) for u in users)
            if not needing.isdisjoint(node.results) or (users and needs and self.outputs.isdisjoint(node.results)):
                helping.add(node)
        return all(n in helping for n in others)

    def _reads(self, value: Value, array: Value) -> bool:
        """Whether a value is computed from an array, element by element and by indices alone."""
        stack, seen = [value], {value}
        while stack and len(seen) < _FAR:
            node = self.producers.get(stack.pop())
            if node is None or primitive.get(node.prim).kind not in ("elementwise", "layout"):
                continue
            if array in node.operands:
                return True
            new = [o for o in node.operands if o not in seen]
            seen.update(new)
            stack += new
        return False


def _overwrites(node: Node) -> bool:
    return node.prim in ("update", "dynamic_update", "scatter_set", "scatter_add")

"""Axes of one left out: elementwise nodes and reductions are written over arrays without axes of extent 1, so that what
`keepdims` gives has the space of the rows that it belongs to, and groups meet that differ in such axes alone."""

from __future__ import annotations

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value

_REDUCTIONS = frozenset(f"reduce_{name}" for name in ("sum", "prod", "max", "min", "and", "or"))


def squeezed(graph: Graph) -> Graph:
    """The same graph over such arrays; regions are left to whoever visits them."""
    if not any(_applies(n) for n in graph.nodes):
        return graph
    return _Pass(graph).run()


def _applies(node: Node) -> bool:
    if primitive.get(node.prim).kind == "elementwise":
        return 1 in node.result.shape
    return node.prim in _REDUCTIONS and 1 in node.operands[0].shape and bool(_axes(node))


def _axes(node: Node) -> tuple[int, ...]:
    """The reduced axes, among the operand's axes other than one."""
    shape = node.operands[0].shape
    return tuple(sum(n != 1 for n in shape[:a]) for a in node.attrs["axes"] if shape[a] != 1)


class _Pass:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.b = graph, Builder(graph.name, graph.stage)
        self.env: dict[Value, Value] = {v: v for v in (*graph.params, *(v for v, _ in graph.consts))}
        self.thin: dict[Value, Value] = {}  # the values of nodes written without axes of one

    def run(self) -> Graph:
        for node in self.graph.nodes:
            with self.b.at(node.loc):
                if _applies(node):
                    self._thin(node)
                elif not self._from_thin(node):
                    results = self.b.copy_node(node, [self.whole(o) for o in node.operands])
                    self.env.update(zip(node.results, results, strict=True))
        return self.graph.replace(nodes=self.b.nodes, outputs=[self.whole(o) for o in self.graph.outputs])

    def whole(self, value: Value) -> Value:
        """A value in its own shape."""
        if value not in self.env:
            self.env[value] = self.b.reshaped(self.thin[value], value.shape)
        return self.env[value]

    def slim(self, value: Value) -> Value:
        """A value without axes of one."""
        if 1 not in value.shape:
            return self.whole(value)
        if value not in self.thin:
            self.thin[value] = self.b.reshaped(self.env[value], [n for n in value.shape if n != 1])
        return self.thin[value]

    def _thin(self, node: Node) -> None:
        operands = [self.slim(o) for o in node.operands]
        attrs = {"axes": _axes(node)} if node.prim in _REDUCTIONS else node.attrs
        (made,) = self.b.emit(node.prim, operands, attrs)
        (self.thin if 1 in node.result.shape else self.env)[node.result] = made

    def _from_thin(self, node: Node) -> bool:
        """Layouts of values without axes of one, and fills, said of these values."""
        if len(node.results) != 1:
            return False
        shape = node.result.shape
        if node.prim == "full" and 1 in shape:
            rest = tuple(n for n in shape if n != 1)
            self.thin[node.result] = self.b.filled(node.attrs["value"], node.result.type.with_shape(rest))
            return True
        x = node.operands[0] if node.operands else None
        if x is None:
            return False
        if node.prim == "reshape" and [n for n in x.shape if n != 1] == [n for n in shape if n != 1]:
            (self.thin if 1 in shape else self.env)[node.result] = self.slim(x)
            return True
        if x not in self.thin:
            return False
        if node.prim == "reshape":
            self.env[node.result] = self.b.reshaped(self.thin[x], shape)
            return True
        if node.prim == "broadcast":
            dims = tuple(d for d, n in zip(node.attrs["dims"], x.shape, strict=True) if n != 1)
            self.env[node.result] = self.b.emit("broadcast", (self.thin[x],), {"shape": shape, "dims": dims})[0]
            return True
        return False

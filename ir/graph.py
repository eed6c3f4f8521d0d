"""Graph, Node and Value: a frozen list of nodes in SSA form, with nested graphs as regions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import Location
from nufunc.ir.types import ArrayType

STAGES = ("traced", "pure", "grouped")
Attrs = Mapping[str, Any]


class Value:
    """One array of a graph, defined once: as a parameter, a constant or a result. Compared by identity."""

    __slots__ = ("hint", "type")

    def __init__(self, type: ArrayType, hint: str = "") -> None:
        self.type = type
        self.hint = hint

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> np.dtype:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    def __repr__(self) -> str:
        return f"<Value {self.hint or hex(id(self))}: {self.type}>"


class Node:
    """One operation: the name of its primitive, operands, attributes, regions, results and the user's line."""

    __slots__ = ("attrs", "loc", "operands", "prim", "regions", "results")

    def __init__(
        self,
        prim: str,
        operands: Sequence[Value],
        attrs: Attrs,
        regions: Sequence[Graph],
        results: Sequence[Value],
        loc: Location | None = None,
    ) -> None:
        self.prim = prim
        self.operands = tuple(operands)
        self.attrs = attrs
        self.regions = tuple(regions)
        self.results = tuple(results)
        self.loc = loc

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    def __repr__(self) -> str:
        return f"<Node {self.prim} -> {', '.join(str(r.type) for r in self.results)}>"


class Graph:
    """A function over arrays. Frozen: passes build new graphs and never change one.

    `consts` are arrays that belong to the graph. `updates[k]` is the index of the parameter that the
    k-th of the last `len(updates)` outputs is to be written back to. `facts` is where passes remember what they
    found out about this graph, which stays true; loops ask the same of their bodies at every level of a nest.
    """

    __slots__ = ("consts", "facts", "name", "nodes", "outputs", "params", "stage", "updates")

    def __init__(
        self,
        params: Sequence[Value],
        nodes: Sequence[Node],
        outputs: Sequence[Value],
        *,
        consts: Sequence[tuple[Value, np.ndarray]] = (),
        stage: str = "pure",
        name: str = "f",
        updates: Sequence[int] = (),
    ) -> None:
        self.params = tuple(params)
        self.consts = tuple(consts)
        self.nodes = tuple(nodes)
        self.outputs = tuple(outputs)
        self.stage = stage
        self.name = name
        self.updates = tuple(updates)
        self.facts: dict[Any, Any] = {}

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        state = {name: getattr(self, name) for name in self.__slots__}
        return None, {**state, "facts": {}}

    @property
    def param_types(self) -> tuple[ArrayType, ...]:
        return tuple(p.type for p in self.params)

    @property
    def output_types(self) -> tuple[ArrayType, ...]:
        return tuple(o.type for o in self.outputs)

    def replace(self, **changes: Any) -> Graph:
        """A graph with some fields changed (values and nodes are shared, since they are never changed)."""
        fields: dict[str, Any] = {
            "params": self.params, "nodes": self.nodes, "outputs": self.outputs, "consts": self.consts,
            "stage": self.stage, "name": self.name, "updates": self.updates,
        }  # fmt: skip
        fields.update(changes)
        return Graph(fields.pop("params"), fields.pop("nodes"), fields.pop("outputs"), **fields)

    def walk(self) -> Iterator[Node]:
        """All nodes, those of regions included, in order."""
        for node in self.nodes:
            yield node
            for region in node.regions:
                yield from region.walk()

    def __str__(self) -> str:
        from nufunc.ir.text import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        params = ", ".join(str(p.type) for p in self.params)
        outputs = ", ".join(str(o.type) for o in self.outputs)
        return f"<Graph @{self.name} ({params}) -> ({outputs}), {len(self.nodes)} nodes, {self.stage}>"

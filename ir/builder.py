"""Builder: appends nodes to a graph under construction, inferring the types of results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.errors import Location, NufuncError
from nufunc.ir.graph import Attrs, Graph, Node, Value
from nufunc.ir.types import ArrayType, TapeType, element, type_of


class Builder:
    """Builds one graph. `b.sin(x)` emits the primitive `sin` and gives its result.

    A primitive with one result gives that Value, one with another number of results a tuple of Values.
    Nodes carry `b.loc`, which passes set to the line of the node that they work on.
    """

    def __init__(self, name: str = "f", stage: str = "pure") -> None:
        self.name = name
        self.stage = stage
        self.loc: Location | None = None
        self.params: list[Value] = []
        self.nodes: list[Node] = []
        self.consts: list[tuple[Value, np.ndarray]] = []
        self._fulls: dict[Any, Value] = {}

    # -- parameters, constants, the finished graph

    def param(self, type: ArrayType, hint: str = "") -> Value:
        """A new parameter."""
        value = Value(type, hint)
        self.params.append(value)
        return value

    def const(self, array: np.ndarray, hint: str = "") -> Value:
        """A constant of the graph; the array is copied, since its owner may change it later."""
        array = np.array(array, dtype=type_of(array).dtype, order="C")
        array.flags.writeable = False
        value = Value(type_of(array), hint)
        self.consts.append((value, array))
        return value

    def build(self, outputs: Sequence[Value], updates: Sequence[int] = ()) -> Graph:
        """The graph of what has been emitted."""
        return Graph(
            self.params, self.nodes, outputs, consts=self.consts, stage=self.stage, name=self.name, updates=updates
        )

    # -- nodes

    def emit(
        self, prim: str, operands: Sequence[Value], attrs: Attrs | None = None, regions: Sequence[Graph] = ()
    ) -> tuple[Value, ...]:
        """Append a node and give its results; an error of type inference carries the current location."""
        attrs = {} if attrs is None else attrs
        try:
            types = primitive.get(prim).infer([v.type for v in operands], attrs, regions)
        except NufuncError as error:
            if error.location is None and self.loc is not None:
                raise type(error)(str(error), self.loc) from None
            raise
        results = tuple([Value(t) for t in types])
        self.nodes.append(Node(prim, operands, attrs, regions, results, self.loc))
        return results

    def __getattr__(self, prim: str) -> Callable[..., Any]:
        if prim.startswith("_"):
            raise AttributeError(prim)
        primitive.get(prim)  # a wrong name fails here, with its name

        def emit(*operands: Value, regions: Sequence[Graph] = (), **attrs: Any) -> Any:
            results = self.emit(prim, operands, attrs, regions)
            return results[0] if len(results) == 1 else results

        return emit

    def at(self, loc: Location | None) -> _At:
        """A context: nodes emitted inside carry `loc`."""
        return _At(self, loc)

    def copy_node(self, node: Node, operands: Sequence[Value]) -> tuple[Value, ...]:
        """Append a node like `node` on other operands of the same types."""
        if [o.type for o in node.operands] == [o.type for o in operands]:  # a list compares by identity first
            results = tuple([Value(r.type, r.hint) for r in node.results])
            self.nodes.append(Node(node.prim, operands, node.attrs, node.regions, results, node.loc))
            return results
        with self.at(node.loc):
            return self.emit(node.prim, operands, node.attrs, node.regions)

    def inline(self, graph: Graph, arguments: Sequence[Value]) -> list[Value]:
        """Append all of `graph` with its parameters bound to `arguments`; gives the values of its outputs."""
        env: dict[Value, Value] = dict(zip(graph.params, arguments, strict=True))
        for value, array in graph.consts:
            env[value] = self.const(array, value.hint)
        for node in graph.nodes:
            env.update(zip(node.results, self.copy_node(node, [env[o] for o in node.operands]), strict=True))
        return [env[o] for o in graph.outputs]

    # -- small conveniences that rules use

    def scalar(self, value: Any, dtype: np.dtype) -> Value:
        """A scalar constant."""
        return self.filled(value, ArrayType((), np.dtype(dtype)))

    def filled(self, value: Any, type: ArrayType) -> Value:
        """An array of one Python scalar, made once per builder (only in pure graphs: in a traced one it is a
        buffer).
        """
        if isinstance(type, TapeType):
            return self.emit("tape_zeros", (), {"type": str(type)})[0]
        value = element(value, type.dtype)
        if self.stage == "traced":
            return self.emit("full", (), {"value": value, "shape": type.shape, "dtype": type.dtype})[0]
        key = (primitive.attr_tuple({"value": value}), type)
        if key not in self._fulls:
            self._fulls[key] = self.emit("full", (), {"value": value, "shape": type.shape, "dtype": type.dtype})[0]
        return self._fulls[key]

    def like(self, x: Value, value: Any) -> Value:
        """An array of the type of `x` filled with `value`."""
        return self.filled(value, x.type)

    def zeros(self, type: ArrayType) -> Value:
        return self.filled(0, type)

    def astype(self, x: Value, dtype: np.dtype) -> Value:
        """`x` converted, or itself."""
        if x.type.dtype is dtype:
            return x
        dtype = np.dtype(dtype)
        return x if x.dtype == dtype else self.emit("convert", (x,), {"dtype": dtype})[0]

    def broadcast_to(self, x: Value, shape: Sequence[int]) -> Value:
        """NumPy's broadcasting: new axes lead; `x` itself where the shape is right."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        dims = tuple(range(len(shape) - x.ndim, len(shape)))
        return self.emit("broadcast", (x,), {"shape": shape, "dims": dims})[0]

    def reshaped(self, x: Value, shape: Sequence[int]) -> Value:
        shape = tuple(shape)
        return x if x.shape == shape else self.emit("reshape", (x,), {"shape": shape})[0]

    def transposed(self, x: Value, perm: Sequence[int]) -> Value:
        perm = tuple(perm)
        return x if perm == tuple(range(x.ndim)) else self.emit("transpose", (x,), {"perm": perm})[0]

    def moved(self, x: Value, source: int, target: int) -> Value:
        """numpy.moveaxis for one axis."""
        perm = [i for i in range(x.ndim) if i != source]
        perm.insert(target, source)
        return self.transposed(x, perm)

    def summed(self, x: Value, axes: Sequence[int]) -> Value:
        axes = tuple(axes)
        if axes and isinstance(x.type, TapeType):
            return self._summed_tapes(x, axes)
        return self.emit("reduce_sum", (x,), {"axes": axes})[0] if axes else x

    def _summed_tapes(self, x: Value, axes: tuple[int, ...]) -> Value:
        """Tapes added up one after the other, by a scan over the axes that go."""
        kept = [a for a in range(x.ndim) if a not in axes]
        rest = tuple(x.shape[a] for a in kept)
        rows = self.reshaped(self.transposed(x, (*axes, *kept)), (math.prod(x.shape[a] for a in axes), math.prod(rest)))
        total, zeros = Builder("tape_sum"), self.zeros(x.type.with_shape((math.prod(rest),)))
        body = total.build([total.tape_add(total.param(zeros.type), total.param(zeros.type))])
        attrs = {"length": rows.shape[0], "reverse": False, "num_consts": 0, "num_carry": 1}
        return self.reshaped(self.emit("scan", (zeros, rows), attrs, (body,))[0], rest)

    def added(self, x: Value | None, y: Value | None) -> Value | None:
        """The sum of two cotangents or tangents, None being zero."""
        if x is None:
            return y
        if y is None:
            return x
        return self.emit("tape_add" if isinstance(x.type, TapeType) else "add", (x, y))[0]


class _At:
    """What `Builder.at` gives; passes enter one per node, so it is no generator."""

    __slots__ = ("before", "builder", "loc")

    def __init__(self, builder: Builder, loc: Location | None) -> None:
        self.builder = builder
        self.loc = loc

    def __enter__(self) -> None:
        self.before = self.builder.loc
        self.builder.loc = self.loc

    def __exit__(self, *exception: object) -> None:
        self.builder.loc = self.before

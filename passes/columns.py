"""Columns: arrays that are put together from a few slices along an axis (the x, y, z of points, the members of a small
state) and taken apart again are computed slice by slice, so that neither happens.

A value is known by its columns where it is a concatenation, a padding or an update along a short axis, or elementwise
of such values. Slices along that axis and reductions over it then read columns; whoever needs the whole array gets
the concatenation of them, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value

MOST = 4  # columns of a value
_SUMS = {"reduce_sum": "add", "reduce_max": "maximum", "reduce_min": "minimum", "reduce_prod": "mul"}


@dataclass(frozen=True)
class _Columns:
    axis: int
    values: tuple[Value, ...]  # each without the axis


def by_columns(graph: Graph) -> Graph:
    """The same graph with such values taken apart; regions are left to whoever visits them."""
    if not any(_taken_apart(n) for n in graph.nodes):
        return graph
    return _Pass(graph).run()


def _taken_apart(node: Node) -> bool:
    """Whether a node takes one column of a few, or all of them one by one."""
    if node.prim in _SUMS:
        return _short_axis(node) is not None
    if node.prim != "slice":
        return False
    shape, whole = node.result.shape, node.operands[0].shape
    return any(n == 1 < m <= MOST for n, m in zip(shape, whole, strict=True))


def _short_axis(node: Node) -> int | None:
    """The short axis that a reduction goes over, if that is its only one; or the last one, which it leaves: there
    vectors would be short, or far apart in memory."""
    x, axes = node.operands[0], node.attrs["axes"]
    if x.ndim < 2 or (len(axes) != 1 and x.ndim - 1 in axes):
        return None
    axis = axes[0] if len(axes) == 1 and x.shape[axes[0]] <= MOST else x.ndim - 1
    return axis if 1 < x.shape[axis] <= MOST else None


class _Pass:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.b = graph, Builder(graph.name, graph.stage)
        self.env: dict[Value, Value] = {v: v for v in (*graph.params, *(v for v, _ in graph.consts))}
        self.columns: dict[Value, _Columns] = {}
        self.pieces: dict[tuple[Value, int, int], Value] = {}
        self.producers = {r: n for n in graph.nodes for r in n.results}
        self.wanted, self.only = _wanted(graph)

    def run(self) -> Graph:
        for node in self.graph.nodes:
            with self.b.at(node.loc):
                rule = _RULES.get(node.prim)
                if primitive.get(node.prim).kind == "elementwise":
                    rule = _Pass.elementwise
                if rule is None or not rule(self, node):
                    results = self.b.copy_node(node, [self.whole(o) for o in node.operands])
                    self.env.update(zip(node.results, results, strict=True))
        return self.graph.replace(nodes=self.b.nodes, outputs=[self.whole(o) for o in self.graph.outputs])

    # -- values

    def whole(self, value: Value) -> Value:
        """A value as one array."""
        if value not in self.env:
            with self.b.at(self.producers[value].loc):
                known = self.columns[value]
                shape = (*value.shape[: known.axis], 1, *value.shape[known.axis + 1 :])
                parts = [self.b.reshaped(v, shape) for v in known.values]
                (made,) = self.b.emit("concat", parts, {"axis": known.axis}) if len(parts) > 1 else parts
                self.env[value] = made
        return self.env[value]

    def column(self, value: Value, axis: int, k: int) -> Value:
        """One column of a value, without the axis."""
        known = self.columns.get(value)
        if known is not None and known.axis == axis:
            return known.values[k]
        key = (value, axis, k)
        if key not in self.pieces:
            self.pieces[key] = self._piece(value, axis, k)
        return self.pieces[key]

    def _piece(self, value: Value, axis: int, k: int) -> Value:
        b, shape = self.b, (*value.shape[:axis], *value.shape[axis + 1 :])
        node = self.producers.get(value)
        if node is not None and node.prim == "full":
            return b.emit("full", (), {**node.attrs, "shape": shape})[0]
        if node is not None and node.prim == "broadcast" and value not in self.columns:
            x, dims = node.operands[0], node.attrs["dims"]
            rest = tuple(d - (d > axis) for d in dims if d != axis)
            if axis not in dims:
                x = self.whole(x)
                return x if x.shape == shape else b.emit("broadcast", (x,), {"shape": shape, "dims": rest})[0]
            if x.ndim > 1 or x.shape[0] == value.shape[axis]:
                own = dims.index(axis)
                part = self.column(x, own, k if x.shape[own] > 1 else 0)
                return part if part.shape == shape else b.emit("broadcast", (part,), {"shape": shape, "dims": rest})[0]
        if node is not None and node.prim == "reshape" and value.shape[axis] == 1 and node.operands[0].shape == shape:
            return self.whole(node.operands[0])
        whole = self.whole(value)
        start = tuple(k if a == axis else 0 for a in range(value.ndim))
        stop = tuple(k + 1 if a == axis else n for a, n in enumerate(value.shape))
        attrs = {"start": start, "stop": stop, "step": (1,) * value.ndim}
        return b.reshaped(b.emit("slice", (whole,), attrs)[0], shape)

    def keep(self, node: Node, axis: int, values: list[Value]) -> bool:
        self.columns[node.result] = _Columns(axis, tuple(values))
        return True

    # -- rules: whether the result is now known by its columns (or otherwise)

    def elementwise(self, node: Node) -> bool:
        axes = {self.columns[o].axis for o in node.operands if o in self.columns} or self.only.get(node.result, set())
        if len(axes) != 1:
            return False
        (axis,) = axes
        if axis not in self.wanted.get(node.result, ()) and any(
            o in self.env for o in node.operands if o in self.columns
        ):
            return False  # they stand in memory anyway
        values = []
        for k in range(node.result.shape[axis]):
            parts = [self.column(o, axis, k) for o in node.operands]
            values.append(self.b.emit(node.prim, parts, node.attrs)[0])
        return self.keep(node, axis, values)

    def concat(self, node: Node) -> bool:
        axis = node.attrs["axis"]
        stacked = all(o.shape[axis] == 1 for o in node.operands)
        if not 1 < node.result.shape[axis] <= MOST or node.result.ndim < 2:
            return False
        if not stacked and axis not in self.wanted.get(node.result, ()):
            return False
        return self.keep(node, axis, [self.column(o, axis, k) for o in node.operands for k in range(o.shape[axis])])

    def pad(self, node: Node) -> bool:
        x, attrs, result = node.operands[0], node.attrs, node.result
        padded = [k for k in range(x.ndim) if x.shape[k] != result.shape[k]]
        if len(padded) != 1 or x.ndim < 2:
            return False
        (axis,) = padded
        if not 1 < result.shape[axis] <= MOST or axis not in self.wanted.get(result, ()):
            return False
        zero = self.b.filled(0, result.type.with_shape((*x.shape[:axis], *x.shape[axis + 1 :])))
        values = [zero] * result.shape[axis]
        for k in range(x.shape[axis]):
            values[attrs["low"][axis] + k * (attrs["interior"][axis] + 1)] = self.column(x, axis, k)
        return self.keep(node, axis, values)

    def slice(self, node: Node) -> bool:
        known = self.columns.get(node.operands[0])
        attrs = node.attrs
        if known is None:
            return False
        axis, rest = known.axis, {}
        for name in ("start", "stop", "step"):
            rest[name] = (*attrs[name][:axis], *attrs[name][axis + 1 :])
        chosen = known.values[attrs["start"][axis] : attrs["stop"][axis] : attrs["step"][axis]]
        if not chosen:
            return False
        shape = (*node.result.shape[:axis], *node.result.shape[axis + 1 :])
        return self.keep(node, axis, [v if v.shape == shape else self.b.emit("slice", (v,), rest)[0] for v in chosen])

    def reshape(self, node: Node) -> bool:
        known = self.columns.get(node.operands[0])
        if known is None or len(known.values) != 1 or known.values[0].shape != node.result.shape:
            return False
        self.env[node.result] = known.values[0]
        return True

    def reduce(self, node: Node) -> bool:
        known = self.columns.get(node.operands[0])
        if known is None:
            return False
        axes = node.attrs["axes"]
        if known.axis not in axes:
            rest = tuple(a - (a > known.axis) for a in axes)
            reduced = [self.b.emit(node.prim, (v,), {"axes": rest})[0] for v in known.values]
            return self.keep(node, known.axis - sum(a < known.axis for a in axes), reduced)
        if tuple(axes) != (known.axis,):
            return False
        total, *more = known.values
        for value in more:
            total = self.b.emit(_SUMS[node.prim], (total, value))[0]
        self.env[node.result] = total
        return True


_RULES: dict[str, Callable[[_Pass, Node], bool]] = {
    "concat": _Pass.concat, "pad": _Pass.pad, "slice": _Pass.slice, "reshape": _Pass.reshape,
    **dict.fromkeys(_SUMS, _Pass.reduce),
}  # fmt: skip


def _wanted(graph: Graph) -> tuple[dict[Value, set[int]], dict[Value, set[int]]]:
    """For each value the short axes along which somebody takes columns of it, or of what is elementwise of it; and
    those along which everybody does."""
    wanted: dict[Value, set[int]] = {}
    only: dict[Value, set[int]] = {v: set() for v in graph.outputs}
    for node in reversed(graph.nodes):
        some: set[int] = set()
        every: set[int] = set()
        if node.prim == "slice" and _taken_apart(node):
            shape, whole = node.result.shape, node.operands[0].shape
            some = every = {k for k, (n, m) in enumerate(zip(shape, whole, strict=True)) if n == 1 < m <= MOST}
        elif primitive.get(node.prim).kind == "elementwise" or node.prim in ("concat", "pad"):
            some, every = wanted.get(node.result, set()), only.get(node.result, set())
        elif node.prim in _SUMS:
            axis = _short_axis(node)
            some = every = {axis} if axis is not None else set()
        for operand in node.operands:
            wanted.setdefault(operand, set()).update(some)
            only[operand] = only[operand] & every if operand in only else set(every)
    return wanted, only

"""simplify: constant folding, common subexpressions, algebra that is exact for every input, and dead code.

Only rewrites that give the same bits are made: `x * 1`, `x - 0.0` and `-(-x)` go, `x + 0.0`, `0 * x`, `x - x`
and `x / x` stay, since a signed zero, an infinity or a NaN would come out differently (which NaN it is, its
sign and payload, is not kept). The rules stand in `simplify_rules` (algebra), `simplify_layout` and
`simplify_control`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.errors import NufuncError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.halves import evaluate
from nufunc.ir.types import FLOAT64, TapeType
from nufunc.passes import simplify_control, simplify_layout, simplify_rules
from nufunc.passes.control_parts import need_pure
from nufunc.passes.dead_code import eliminate_dead_code

Rule = Callable[["Simplifier", Node], "Value | None"]
ControlRule = Callable[["Simplifier", Node], "Sequence[Value] | None"]

CONTROL_RULES: dict[str, ControlRule] = simplify_control.RULES
def _undone(prim: str) -> Rule:
    """tape_join of tape_split is nothing, and so is the other way round."""

    def rule(s: Simplifier, node: Node) -> Value | None:
        made = s.made_by(node.operands[0], prim)
        return made.operands[0] if made and made.operands[0].type == node.result.type else None

    return rule


RULES: dict[str, tuple[Rule, ...]] = {
    prim: simplify_rules.RULES.get(prim, ()) + simplify_layout.RULES.get(prim, ())
    for prim in (*simplify_rules.RULES, *simplify_layout.RULES)
} | {"tape_join": (_undone("tape_split"),), "tape_split": (_undone("tape_join"),)}

_ENDS = 8  # elements at both ends of a constant by which equal ones are looked up
_FOLD_LIMIT = 4096  # elements of a constant that is computed while compiling
# Which of -0.0 and 0.0 these give depends on the order of the operands.
_ORDERED = frozenset(("maximum", "minimum", "fmax", "fmin"))


class Simplifier:
    """One forward walk; `node_of` tells how a value of the new graph is made."""

    def __init__(self, graph: Graph) -> None:
        self.b = Builder(graph.name, graph.stage)
        self.node_of: dict[Value, Node] = {}
        self.arrays: dict[Value, np.ndarray] = {}
        self.seen: dict[Any, tuple[Value, ...]] = {}

    def run(self, graph: Graph) -> Graph:
        params = [self.b.param(p.type, p.hint) for p in graph.params]
        outputs = self.inline(graph, params)
        simplified = eliminate_dead_code(self.b.build(outputs, graph.updates))
        simplified.facts["simplified"] = True
        return simplified

    def inline(self, graph: Graph, arguments: Sequence[Value]) -> list[Value]:
        """The outputs of `graph` on these arguments."""
        env = dict(zip(graph.params, arguments, strict=True))
        for value, array in graph.consts:
            env[value] = self.constant(array, value)
        for node in graph.nodes:
            with self.b.at(node.loc):
                operands = [env[o] for o in node.operands]
                env.update(zip(node.results, self.step(node, operands), strict=True))
        return [env[o] for o in graph.outputs]

    def step(self, node: Node, operands: Sequence[Value]) -> Sequence[Value]:
        """Values equal to the node's results."""
        node = Node(node.prim, operands, node.attrs, node.regions, node.results, node.loc)
        if node.regions:
            rule = CONTROL_RULES.get(node.prim)
            results = rule(self, node) if rule else None
            return self.copy(node) if results is None else results
        for value_rule in RULES.get(node.prim, ()):
            replaced = value_rule(self, node)
            if replaced is not None:
                return (replaced,)
        if primitive.get(node.prim).kind == "host":
            return self.copy(node)  # called as often as it is written, and only at run time
        folded = self.fold(node)
        return self.emit(node) if folded is None else (folded,)

    def emit(self, node: Node) -> tuple[Value, ...]:
        """The node's results, or those of an equal node before it."""
        operands = node.operands
        if len(operands) == 2 and primitive.get(node.prim).commutative and node.prim not in _ORDERED:
            operands = tuple(sorted(operands, key=id))
        key = (node.prim, operands, primitive.attr_tuple(node.attrs))
        if key not in self.seen:
            self.seen[key] = self.copy(node)
        return self.seen[key]

    def copy(self, node: Node) -> tuple[Value, ...]:
        results = tuple(Value(r.type, r.hint) for r in node.results)
        new = Node(node.prim, node.operands, node.attrs, node.regions, results, node.loc)
        self.b.nodes.append(new)
        self.node_of.update((r, new) for r in results)
        return results

    def constant(self, array: np.ndarray, like: Value) -> Value:
        """A constant: a `full` where all elements have the same bits, and an equal one before it."""
        items = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, array.itemsize)
        if array.size and (items[0] == items[-1]).all() and (items == items[0]).all():
            return self.full(array.flat[0].item(), like)
        key = (like.type, items[:_ENDS].tobytes(), items[-_ENDS:].tobytes())
        for value in self.seen.get(key, ()):
            known = self.arrays[value]
            if known is array or known.tobytes() == array.tobytes():
                return value
        value = self.b.const(array, like.hint)
        self.arrays[value] = self.b.consts[-1][1]
        self.seen[key] = (*self.seen.get(key, ()), value)
        return value

    # -- what rules ask

    def simplified(self, region: Graph) -> Graph:
        """A region on its own."""
        return simplify(region)

    def made_by(self, value: Value, prim: str) -> Node | None:
        """The node that makes `value`, if it is of this primitive."""
        node = self.node_of.get(value)
        return node if node is not None and node.prim == prim else None

    def fill_of(self, value: Value) -> Any:
        """The Python scalar that all elements of `value` equal, or None."""
        node = self.made_by(value, "full")
        return None if node is None else node.attrs["value"]

    def full(self, value: Any, like: Value) -> Value:
        """An array of the type of `like` filled with a scalar, as NumPy converts it to the dtype; of tapes, zeros."""
        if isinstance(like.type, TapeType):
            return self.emit(Node("tape_zeros", (), {"type": str(like.type)}, (), (Value(like.type),), self.b.loc))[0]
        attrs = {"value": _scalar(value, like.dtype), "shape": like.shape, "dtype": like.dtype}
        return self.emit(Node("full", (), attrs, (), (Value(like.type),), self.b.loc))[0]

    def again(
        self,
        prim: str,
        operands: Sequence[Value],
        attrs: dict[str, Any] | None = None,
        regions: Sequence[Graph] = (),
    ) -> Value:
        """A new node of one result, itself simplified."""
        attrs = {} if attrs is None else attrs
        (type,) = primitive.get(prim).infer([o.type for o in operands], attrs, regions)
        return self.step(Node(prim, operands, attrs, regions, (Value(type),), self.b.loc), operands)[0]

    def fold(self, node: Node) -> Value | None:
        """The node's value where its operands are constants: a `full` if it is uniform, else an array."""
        record = primitive.get(node.prim)
        if (
            not node.operands
            or len(node.results) != 1
            or record.kind not in ("elementwise", "layout", "reduce", "index")
        ):
            return None
        fills = [self.fill_of(o) for o in node.operands]
        if record.kind == "elementwise" and None not in fills:
            arrays = [np.full((), v, o.dtype) for v, o in zip(fills, node.operands, strict=True)]
            return self.full(_evaluate(arrays, node).item(), node.result)
        # only from an array: fills and iota alone are cheaper to write as such than as a table
        if not any(o in self.arrays for o in node.operands):
            return None
        if max(v.type.size for v in (node.result, *node.operands)) > _FOLD_LIMIT:
            return None
        if any(f is None and o not in self.arrays for f, o in zip(fills, node.operands, strict=True)):
            return None
        arrays = [
            self.arrays[o] if f is None else np.full(o.shape, f, o.dtype)
            for f, o in zip(fills, node.operands, strict=True)
        ]
        try:
            array = _evaluate(arrays, node)
        except NufuncError:
            return None  # an index outside: an error when the node runs, if ever it does
        return self.constant(array, node.result)


def _scalar(value: Any, dtype: np.dtype) -> Any:
    if dtype == FLOAT64 and type(value) is float:
        return value
    if isinstance(value, complex) and dtype.kind != "c":
        value = value.real
    with np.errstate(all="ignore"):
        return np.full((), value, dtype).item()


def _evaluate(arrays: list[np.ndarray], node: Node) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(evaluate(node, arrays)[0])


def simplify(graph: Graph) -> Graph:
    """An equal, smaller graph (bit for bit the same results). Takes and gives pure graphs.

    >>> from nufunc.ir.text import parse_graph
    >>> graph = parse_graph('''
    ... graph @f(%x: f64[2]) stage=pure {
    ...   %one: f64[2] = full{value=1.0, shape=(2,), dtype=f64}()
    ...   %y: f64[2] = mul(%x, %one)
    ...   %z: f64[2] = add(%y, %x)
    ...   %unused: f64[2] = sin(%z)
    ...   return %z
    ... }''')
    >>> print(simplify(graph))
    graph @f(%0: f64[2]) stage=pure {
      %1: f64[2] = add(%0, %0)
      return %1
    }
    """
    need_pure(graph)
    return graph if "simplified" in graph.facts else Simplifier(graph).run(graph)

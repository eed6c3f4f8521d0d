"""simplify: constant folding, common subexpressions, algebra that is exact for every input, and dead code.

Only rewrites that give the same bits are made: `x * 1`, `x - 0.0` and `-(-x)` go, `x + 0.0`, `0 * x`, `x - x` and `x / x` stay, since
a signed zero, an infinity or a NaN would come out differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import is_inexact
from nufunc.passes.dead_code import eliminate_dead_code

_FOLD_LIMIT = 4096  # elements of a constant that is computed while compiling


class Simplifier:
    """One forward walk; `node_of` tells how a value of the new graph is made."""

    def __init__(self, graph: Graph) -> None:
        self.b = Builder(graph.name, graph.stage)
        self.node_of: dict[Value, Node] = {}
        self.arrays: dict[Value, np.ndarray] = {}
        self.seen: dict[Any, tuple[Value, ...]] = {}

    def run(self, graph: Graph) -> Graph:
        env: dict[Value, Value] = {p: self.b.param(p.type, p.hint) for p in graph.params}
        for value, array in graph.consts:
            if array.size and array.tobytes() == array.reshape(-1)[:1].tobytes() * array.size:
                env[value] = self.b.filled(array.flat[0].item(), value.type)
                continue
            env[value] = self.b.const(array, value.hint)
            self.arrays[env[value]] = array
        for node in graph.nodes:
            with self.b.at(node.loc):
                operands = [env[o] for o in node.operands]
                env.update(zip(node.results, self.step(node, operands), strict=True))
        outputs = [env[o] for o in graph.outputs]
        return eliminate_dead_code(self.b.build(outputs, graph.updates))

    def step(self, node: Node, operands: list[Value]) -> Sequence[Value]:
        """Values equal to the node's results."""
        node = Node(node.prim, operands, node.attrs, [simplify(r) for r in node.regions], node.results, node.loc)
        if not node.regions:
            rule = _RULES.get(node.prim)
            replaced = rule(self, node) if rule else None
            if replaced is None:
                replaced = self.fold(node)
            if replaced is not None:
                return (replaced,)
        elif node.prim in _CONTROL_RULES:
            results = _CONTROL_RULES[node.prim](self, node)
            if results is not None:
                return results
        return self.emit(node)

    def emit(self, node: Node) -> tuple[Value, ...]:
        """The node's results, or those of an equal node before it."""
        if node.regions:
            return self.copy(node)
        operands = node.operands
        if len(operands) == 2 and primitive.get(node.prim).commutative:
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

    # -- what rules ask

    def made_by(self, value: Value, prim: str) -> Node | None:
        """The node that makes `value`, if it is of this primitive."""
        node = self.node_of.get(value)
        return node if node is not None and node.prim == prim else None

    def fill_of(self, value: Value) -> Any:
        """The Python scalar that all elements of `value` equal, or None."""
        node = self.made_by(value, "full")
        return None if node is None else node.attrs["value"]

    def full(self, value: Any, like: Value) -> Value:
        attrs = {"value": value, "shape": like.shape, "dtype": like.dtype}
        return self.emit(Node("full", (), attrs, (), (like,), self.b.loc))[0]

    def again(self, prim: str, operands: Sequence[Value], attrs: dict[str, Any], like: Value) -> Value:
        """A new node in place of another one with the result type of `like`, itself simplified."""
        return self.step(Node(prim, operands, attrs, (), (like,), self.b.loc), list(operands))[0]

    def fold(self, node: Node) -> Value | None:
        """The node's value where all of its operands are constants: a `full` if it is uniform, else an array."""
        record = primitive.get(node.prim)
        if not node.operands or len(node.results) != 1 or record.kind not in ("elementwise", "layout", "reduce", "index"):
            return None
        fills = [self.fill_of(o) for o in node.operands]
        if record.kind == "elementwise" and None not in fills:
            arrays = [np.array(v, o.dtype) for v, o in zip(fills, node.operands, strict=True)]
            return self.full(_evaluate(record, arrays, node).item(), node.result)
        if node.result.type.size > _FOLD_LIMIT or any(o not in self.arrays for o in node.operands):
            return None
        array = _evaluate(record, [self.arrays[o] for o in node.operands], node)
        value = self.b.const(array)
        self.arrays[value] = array
        return value


def _evaluate(record: primitive.Primitive, arrays: list[np.ndarray], node: Node) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(record.evaluate(arrays, node.attrs, ())[0])


def simplify(graph: Graph) -> Graph:
    """An equal, smaller graph (bit for bit the same results). Takes and gives pure graphs."""
    return Simplifier(graph).run(graph)


Rule = Callable[[Simplifier, Node], "Value | None"]


def _is(value: Any, number: float) -> bool:
    """Whether a fill is this number, signed zeros apart; booleans are no numbers here."""
    return value is not None and not isinstance(value, bool) and value == number and (
        number != 0 or np.signbit(np.real(value)) == np.signbit(number)
    )


def _add(s: Simplifier, node: Node) -> Value | None:
    x, y = node.operands
    zero = -0.0 if is_inexact(x.dtype) else 0
    if x.dtype.kind in "iuf":
        if _is(s.fill_of(y), zero):
            return x
        if _is(s.fill_of(x), zero):
            return y
    return None


def _sub(s: Simplifier, node: Node) -> Value | None:
    x, y = node.operands
    return x if x.dtype.kind in "iuf" and _is(s.fill_of(y), 0) else None


def _mul(s: Simplifier, node: Node) -> Value | None:
    x, y = node.operands
    if x.dtype.kind not in "iuf":
        return None
    for a, c in ((x, s.fill_of(y)), (y, s.fill_of(x))):
        if _is(c, 1):
            return a
        if _is(c, -1) and a.dtype.kind == "f":
            return s.again("neg", (a,), {}, node.result)
    return None


def _div(s: Simplifier, node: Node) -> Value | None:
    x, y = node.operands
    return x if _is(s.fill_of(y), 1) and x.dtype.kind == "f" else None


def _neg(s: Simplifier, node: Node) -> Value | None:
    inner = s.made_by(node.operands[0], "neg")
    return inner.operands[0] if inner else None


def _integer_pow(s: Simplifier, node: Node) -> Value | None:
    (x,), y = node.operands, node.attrs["y"]
    if y == 1:
        return x
    if y == 2 and x.dtype.kind in "iuf":
        return s.again("mul", (x, x), {}, node.result)
    return None


def _convert(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    return x if x.dtype == node.attrs["dtype"] else None


def _select(s: Simplifier, node: Node) -> Value | None:
    c, x, y = node.operands
    if x is y:
        return x
    fill = s.fill_of(c)
    return None if fill is None else (x if fill else y)


def _uniform_layout(s: Simplifier, node: Node) -> Value | None:
    fill = s.fill_of(node.operands[0])
    return None if fill is None else s.full(fill, node.result)


def _transpose(s: Simplifier, node: Node) -> Value | None:
    (x,), perm = node.operands, node.attrs["perm"]
    if perm == tuple(range(x.ndim)):
        return x
    inner = s.made_by(x, "transpose")
    if inner:
        first = inner.attrs["perm"]
        return s.again("transpose", inner.operands, {"perm": tuple(first[i] for i in perm)}, node.result)
    return _uniform_layout(s, node)


def _reshape(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    if x.shape == node.result.shape:
        return x
    inner = s.made_by(x, "reshape")
    if inner:
        return s.again("reshape", inner.operands, node.attrs, node.result)
    return _uniform_layout(s, node)


def _broadcast(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    if x.shape == node.result.shape:
        return x
    inner = s.made_by(x, "broadcast")
    if inner:
        dims = tuple(node.attrs["dims"][d] for d in inner.attrs["dims"])
        return s.again("broadcast", inner.operands, {"shape": node.attrs["shape"], "dims": dims}, node.result)
    return _uniform_layout(s, node)


def _slice(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    a = node.attrs
    if x.shape == node.result.shape and all(step == 1 for step in a["step"]):
        return x
    inner = s.made_by(x, "slice")
    if inner:
        i = inner.attrs
        start = tuple(p + q * t for p, q, t in zip(i["start"], a["start"], i["step"], strict=True))
        step = tuple(p * q for p, q in zip(i["step"], a["step"], strict=True))
        # the stop that numpy.arange would need for as many items, within the source
        stop = tuple(
            min(max(f + (n - 1) * t + 1, f), e) if n else f
            for f, n, t, e in zip(start, node.result.shape, step, inner.operands[0].shape, strict=True)
        )
        if all(f <= e for f, e in zip(start, inner.operands[0].shape, strict=True)):
            return s.again("slice", inner.operands, {"start": start, "stop": stop, "step": step}, node.result)
    return _uniform_layout(s, node)


def _flip(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    if not node.attrs["axes"]:
        return x
    inner = s.made_by(x, "flip")
    if inner:
        axes = tuple(sorted(set(node.attrs["axes"]) ^ set(inner.attrs["axes"])))
        return s.again("flip", inner.operands, {"axes": axes}, node.result)
    return _uniform_layout(s, node)


def _pad(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    if x.shape == node.result.shape:
        return x
    fill = s.fill_of(x)
    return s.full(fill, node.result) if fill is not None and not fill and not np.signbit(np.real(fill)) else None


def _concat(s: Simplifier, node: Node) -> Value | None:
    return node.operands[0] if len(node.operands) == 1 else None


def _update(s: Simplifier, node: Node) -> Value | None:
    base, value = node.operands
    return value if base.type == value.type else None


def _reduce(s: Simplifier, node: Node) -> Value | None:
    return node.operands[0] if not node.attrs["axes"] else None


def _reduce_sum(s: Simplifier, node: Node) -> Value | None:
    (x,) = node.operands
    if not node.attrs["axes"]:
        return x
    return s.full(0, node.result) if _is(s.fill_of(x), 0) else None


_RULES: dict[str, Rule] = {
    "add": _add, "sub": _sub, "mul": _mul, "div": _div, "neg": _neg, "integer_pow": _integer_pow, "convert": _convert,
    "select": _select, "transpose": _transpose, "reshape": _reshape, "broadcast": _broadcast, "slice": _slice,
    "flip": _flip, "pad": _pad, "concat": _concat, "update": _update, "reduce_sum": _reduce_sum,
    **dict.fromkeys(("reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or"), _reduce),
}  # fmt: skip


# -- control nodes


def _cond(s: Simplifier, node: Node) -> Sequence[Value] | None:
    fill = s.fill_of(node.operands[0])
    if fill is None:
        return None
    return _inlined(s, node.regions[min(max(int(fill), 0), len(node.regions) - 1)], node.operands[1:])


def _scan(s: Simplifier, node: Node) -> Sequence[Value] | None:
    ncon, ncar = node.attrs["num_consts"], node.attrs["num_carry"]
    if node.attrs["length"] == 0:
        ys = [s.full(0, r) for r in node.results[ncar:]]
        return [*node.operands[ncon : ncon + ncar], *ys]
    if node.attrs["length"] == 1:
        xs = [s.again("reshape", (x,), {"shape": x.shape[1:]}, Value(x.type.with_shape(x.shape[1:])))
              for x in node.operands[ncon + ncar :]]  # fmt: skip
        out = _inlined(s, node.regions[0], [*node.operands[: ncon + ncar], *xs])
        ys = [s.again("reshape", (y,), {"shape": r.shape}, r) for y, r in zip(out[ncar:], node.results[ncar:], strict=True)]
        return [*out[:ncar], *ys]
    return None


def _inlined(s: Simplifier, region: Graph, arguments: Sequence[Value]) -> list[Value]:
    env = dict(zip(region.params, arguments, strict=True))
    for value, array in region.consts:
        env[value] = s.b.const(array, value.hint)
        s.arrays[env[value]] = array
    for node in region.nodes:
        with s.b.at(node.loc):
            env.update(zip(node.results, s.step(node, [env[o] for o in node.operands]), strict=True))
    return [env[o] for o in region.outputs]


_CONTROL_RULES: dict[str, Callable[[Simplifier, Node], Sequence[Value] | None]] = {"cond": _cond, "scan": _scan}

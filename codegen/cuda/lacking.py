"""Groups with functions that devices lack, taken apart: these functions go to the host, what is around them stays."""

from __future__ import annotations

import numpy as np

from nufunc.codegen.cuda.device_calls import CALLS
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Node, Value


def lacks(function: str) -> bool:
    """Whether kernels have no such function of scipy.special."""
    return f"scipy_{function}" not in CALLS


def taken_apart(node: Node) -> list[Node]:
    """A fused node as nodes of one operation each, if it has a function that devices lack; otherwise as it is."""
    if node.prim != "fused" or not any(_is_lacking(n) for n in node.regions[0].nodes):
        return [node]
    region = node.regions[0]
    made: list[Node] = []
    env: dict[Value, Value] = dict(zip(region.params, node.operands, strict=True))
    for value, array in region.consts:
        env[value] = Value(value.type, value.hint)
        made.append(_constant(array, env[value]))
    results: dict[Value, Value] = {}
    for inner, outer in zip(region.outputs, node.results, strict=True):
        if inner in env or inner in results:  # it is there already under another name
            continue
        results[inner] = outer
    for own in region.nodes:
        for r in own.results:
            env[r] = results.get(r) or Value(r.type, r.hint)
        made.append(_alone(own, env))
    for inner, outer in zip(region.outputs, node.results, strict=True):
        if env[inner] is not outer:
            made.append(_copy(env[inner], outer, node))
    return made


def _is_lacking(node: Node) -> bool:
    return node.prim == "scipy" and lacks(node.attrs["function"])


def _alone(node: Node, env: dict[Value, Value]) -> Node:
    operands, results = [env[o] for o in node.operands], [env[r] for r in node.results]
    if _is_lacking(node):
        return Node(node.prim, operands, node.attrs, (), results, node.loc)
    b = Builder("fused", "pure")
    distinct = list(dict.fromkeys(operands))
    params = {o: b.param(o.type) for o in distinct}
    with b.at(node.loc):
        found = b.emit(node.prim, [params[o] for o in operands], dict(node.attrs))
    return Node("fused", distinct, {"kind": "loop"}, (b.build(found),), results, node.loc)


def _constant(array: np.ndarray, value: Value) -> Node:
    b = Builder("fused", "pure")
    own = Value(value.type)
    b.consts.append((own, array))
    return Node("fused", (), {"kind": "copy"}, (b.build([b.reshaped(own, value.shape)]),), (value,))


def _copy(source: Value, target: Value, node: Node) -> Node:
    b = Builder("fused", "pure")
    region = b.build([b.reshaped(b.param(source.type), target.shape)])
    return Node("fused", [source], {"kind": "copy"}, (region,), (target,), node.loc)

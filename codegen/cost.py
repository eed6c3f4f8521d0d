"""How long the nodes of a grouped graph take, roughly: what decides about tasks before there are loop nests."""

from __future__ import annotations

import math

from nufunc.codegen.schedule import op_cost
from nufunc.ir.graph import Graph, Node
from nufunc.ir.prims.conv import conv_steps
from nufunc.ir.product_group import expanded

ITERATIONS = 32  # of a while loop, whose number nobody knows
_LANES = 4  # elements of a vector, taken as if no loop were perfect
_CYCLES_PER_NS = 3


def graph_work(graph: Graph) -> float:
    """Nanoseconds of one thread."""
    return sum(node_work(n) for n in expanded(graph).nodes)


def node_work(node: Node) -> float:
    """Nanoseconds of one thread for a node with its regions."""
    inner = [graph_work(r) for r in node.regions] if node.prim != "fused" else []
    if node.prim in ("scan", "map"):
        return float(node.attrs["length"] * inner[0])
    if node.prim in ("while", "record", "replay"):
        return ITERATIONS * sum(inner)
    if node.prim == "cond":
        return max(inner)
    if node.prim == "checkpoint":
        return inner[0]
    size = max((v.type.size for v in (*node.operands, *node.results)), default=1)
    if node.prim == "fused":
        return 0.0 if node.attrs["kind"] == "view" else sum(map(_cycles, node.regions[0].nodes)) / _CYCLES_PER_NS
    if node.prim == "dot":
        contracted = math.prod(node.operands[0].shape[a] for a in node.attrs["contract"][0])
        return node.result.type.size * contracted / _LANES / _CYCLES_PER_NS
    if node.prim == "conv":
        steps = conv_steps([o.type for o in node.operands], node.attrs)
        return node.result.type.size * steps / _LANES / _CYCLES_PER_NS
    rows = node.operands[0].shape[-1] if node.operands and node.operands[0].shape else 1
    if node.prim == "fft_along":
        rows = node.operands[0].shape[node.attrs["axis"]]
    if node.prim in ("fft", "rfft", "irfft", "fft_along"):
        return size * (1 + math.log2(rows + 1))
    if node.prim == "require":
        return float(size) / _LANES
    return float(size * (rows if node.prim not in ("sort", "argsort") else 8 + 4 * math.log2(rows + 1)))


def _cycles(node: Node) -> float:
    size = max((v.type.size for v in (*node.operands, *node.results)), default=1)
    cost = op_cost(node.prim)
    return max(size / _LANES, 1.0) * (cost if cost > 1 else 0.4)

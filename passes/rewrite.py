"""The walk of the passes that replace single nodes and leave the rest of a graph as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Graph, Node, Value

NodeRule = Callable[[Builder, Node, list[Value]], Sequence[Value] | None]


def rewritten(graph: Graph, rule: NodeRule, within: Callable[[Graph], Graph] | None = None) -> Graph:
    """The graph with what `rule` emits in the place of each node.

    The rule gets the builder, the node and the operands that stand for the node's own, and gives values for the
    node's results, or None for a node that stays. `within` rewrites regions, before the rule sees their node; without
    it they stay as they are.
    """
    b = Builder(graph.name, graph.stage)
    env: dict[Value, Value] = {v: v for v in (*graph.params, *(v for v, _ in graph.consts))}
    for node in graph.nodes:
        operands = [env[o] for o in node.operands]
        if within is not None and node.regions:
            regions = [within(region) for region in node.regions]
            node = Node(node.prim, node.operands, node.attrs, regions, node.results, node.loc)
        with b.at(node.loc):
            results = rule(b, node, operands)
            if results is None and within is not None and node.regions:
                results = b.emit(node.prim, operands, node.attrs, node.regions)  # results may have other types
            elif results is None:
                results = b.copy_node(node, operands)
        env.update(zip(node.results, results, strict=True))
    return graph.replace(nodes=b.nodes, outputs=[env[o] for o in graph.outputs], consts=[*graph.consts, *b.consts])

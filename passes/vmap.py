"""Vectorisation: a graph over arrays that have a batch axis more, written as primitives over whole
batches."""

from __future__ import annotations

from collections.abc import Sequence

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.passes import control_vmap
from nufunc.passes.control_parts import derived_name, need_pure
from nufunc.passes.control_vmap import BatchedRegion
from nufunc.passes.custom import batch_callback, batch_custom

Dim = int | None
_RULES = {**control_vmap.RULES, "custom": batch_custom, "callback": batch_callback}


class VmapOutDimError(ArgumentError):
    """An output that is batched, but has out_dim None; `output_index` is its number."""

    def __init__(self, message: str, output_index: int) -> None:
        super().__init__(message)
        self.output_index = output_index


def vmap(graph: Graph, size: int, in_dims: Sequence[Dim], out_dims: Sequence[Dim]) -> Graph:
    """The graph over `size` lanes.

    `in_dims[i]` is the axis of the new i-th parameter that numbers the lanes, None where all lanes share it;
    `out_dims` say the same of the outputs. An output that does not differ between lanes is repeated where its
    out_dim is an int.
    """
    need_pure(graph)
    if len(in_dims) != len(graph.params):
        raise ArgumentError(f"{len(in_dims)} in_dims for the {len(graph.params)} parameters of @{graph.name}")
    if len(out_dims) != len(graph.outputs):
        raise ArgumentError(f"{len(out_dims)} out_dims for the {len(graph.outputs)} outputs of @{graph.name}")
    b = Builder(derived_name(graph.name, "vmap"))
    params: list[Value] = []
    operands: list[Value] = []
    for param, dim in zip(graph.params, in_dims, strict=True):
        if dim is None:
            params.append(b.param(param.type, param.hint))
            operands.append(params[-1])
            continue
        if not 0 <= dim <= param.ndim:
            raise ArgumentError(
                f"in_dim {dim} is outside the {param.ndim + 1} axes of a batched {param.type}"
            )
        shape = (*param.shape[:dim], size, *param.shape[dim:])
        params.append(b.param(param.type.with_shape(shape), param.hint))
        operands.append(b.moved(params[-1], dim, 0))
    outputs, batched = batch_into(b, graph, size, operands, [d is not None for d in in_dims])
    triples = zip(outputs, batched, out_dims, strict=True)
    final = [_placed(b, size, i, output, flag, dim) for i, (output, flag, dim) in enumerate(triples)]
    return b.build(final, graph.updates)


def batched_outputs(graph: Graph, size: int, in_dims: Sequence[Dim]) -> list[bool]:
    """Which outputs of `graph` differ between lanes when it is vectorised with these in_dims."""
    return batch_region(graph, size, [d is not None for d in in_dims]).batched


def _placed(b: Builder, size: int, index: int, output: Value, batched: bool, dim: Dim) -> Value:
    if dim is None:
        if batched:
            raise VmapOutDimError(f"output {index} is batched, so that its out_dim cannot be None", index)
        return output
    ndim = output.ndim if batched else output.ndim + 1
    if not 0 <= dim < ndim:
        raise ArgumentError(f"out_dim {dim} of output {index} is outside its {ndim} axes")
    if batched:
        return b.moved(output, 0, dim)
    dims = tuple(i for i in range(ndim) if i != dim)
    return b.emit(
        "broadcast", (output,), {"shape": (*output.shape[:dim], size, *output.shape[dim:]), "dims": dims}
    )[0]


def batch_region(graph: Graph, size: int, batched: Sequence[bool]) -> BatchedRegion:
    """A batched graph as an open region: which of its outputs are to be batched is still free to grow."""
    b = Builder(derived_name(graph.name, "vmap"))
    params = [
        b.param(p.type.batched(size) if f else p.type, p.hint)
        for p, f in zip(graph.params, batched, strict=True)
    ]
    outputs, flags = batch_into(b, graph, size, params, batched)
    return BatchedRegion(b, size, outputs, flags)


def batch_into(
    b: Builder, graph: Graph, size: int, operands: Sequence[Value], batched: Sequence[bool]
) -> tuple[list[Value], list[bool]]:
    """Emit a graph over batches whose lanes stand on axis 0; gives its outputs and which of them are
    batched."""
    env: dict[Value, Value] = dict(zip(graph.params, operands, strict=True))
    lanes = {p for p, f in zip(graph.params, batched, strict=True) if f}
    for value, array in graph.consts:
        env[value] = Value(value.type, value.hint)
        b.consts.append((env[value], array))
    for node in graph.nodes:
        flags = [o in lanes for o in node.operands]
        with b.at(node.loc):
            results, out = _batch_node(b, size, node, [env[o] for o in node.operands], flags)
        env.update(zip(node.results, results, strict=True))
        lanes.update(r for r, f in zip(node.results, out, strict=True) if f)
    return [env[o] for o in graph.outputs], [o in lanes for o in graph.outputs]


def _batch_node(
    b: Builder, size: int, node: Node, operands: Sequence[Value], batched: Sequence[bool]
) -> tuple[Sequence[Value], Sequence[bool]]:
    """The one place that chooses the rule of a node; what has none runs lane by lane."""
    if not any(batched):
        return b.copy_node(node, operands), [False] * len(node.results)
    if node.prim in _RULES:
        return _RULES[node.prim](b, size, node, operands, batched, batch_region)
    rule = primitive.get(node.prim).batch
    if rule is None:
        return control_vmap.lane_by_lane(b, size, node, operands, batched)
    results, dims = rule(b, size, operands, [0 if f else None for f in batched], node.attrs)
    return results, [d is not None for d in dims]

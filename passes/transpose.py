"""Transposition of linear graphs, and with it reverse-mode differentiation."""

from __future__ import annotations

from collections.abc import Sequence

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentError, UnsupportedError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import is_inexact
from nufunc.passes import control_transpose
from nufunc.passes.control_parts import OpenRegion, derived_name, need_pure, present
from nufunc.passes.custom import transpose_custom
from nufunc.passes.linearize import linearize, split_graph
from nufunc.passes.masks import MaskedSums, follow

_RULES = {**control_transpose.RULES, "custom": transpose_custom}


def transpose(linear: Graph, num_residuals: int) -> Graph:
    """The transpose of a graph that is linear in its parameters from number `num_residuals` on.

    Parameters: the residuals and a cotangent per output. Outputs: a cotangent per linear parameter. What does
    not depend on linear parameters is computed forward. For complex numbers this is the bilinear transpose,
    without conjugation.
    """
    need_pure(linear)
    if not 0 <= num_residuals <= len(linear.params):
        raise ArgumentError(
            f"{num_residuals} residuals, but @{linear.name} takes {len(linear.params)} arrays"
        )
    num_linear = len(linear.params) - num_residuals
    split = split_graph(
        linear, [False] * num_residuals + [True] * num_linear, [is_inexact(o.dtype) for o in linear.outputs], whole=True
    )
    b = Builder(derived_name(linear.name, "transpose"))
    given = [b.param(p.type, p.hint) for p in linear.params[:num_residuals]]
    cotangents = [b.param(o.type) for o in linear.outputs]
    known = b.inline(split.known, given)
    operands = [*known[len(known) - split.num_residuals :], *[None] * num_linear]
    used = [c for c, u in zip(cotangents, split.unknown_outputs, strict=True) if u]
    out = backward(b, split.unknown, operands, used)
    return b.build(_filled(b, out[split.num_residuals :], linear.params[num_residuals:]))


def vjp(graph: Graph, which: Sequence[bool]) -> Graph:
    """The graph and its reverse-mode derivative in one.

    Parameters: those of `graph` and a cotangent per output of floating or complex dtype. Outputs: those of
    `graph` and a cotangent for each parameter with a True in `which`.
    """
    lin = linearize(graph, which)
    b = Builder(derived_name(graph.name, "vjp"))
    primals = [b.param(p.type, p.hint) for p in graph.params]
    cotangents = [b.param(o.type) for o in graph.outputs if is_inexact(o.dtype)]
    out = b.inline(lin.primal, primals)
    outputs, residuals = out[: len(graph.outputs)], out[len(graph.outputs) :]
    linear_params = lin.linear.params[lin.num_residuals :]
    grads = backward(b, lin.linear, [*residuals, *[None] * len(linear_params)], cotangents)
    return b.build([*outputs, *_filled(b, grads[lin.num_residuals :], linear_params)])


def _filled(b: Builder, cotangents: Sequence[Value | None], like: Sequence[Value]) -> list[Value]:
    return [b.zeros(v.type) if c is None else c for c, v in zip(cotangents, like, strict=True)]


def transpose_region(graph: Graph, linear: Sequence[bool], active: Sequence[bool]) -> OpenRegion:
    """The transpose of a region as an open one: `params` are the parameters that are not linear,
    `extra_params` a cotangent per output (None where `active` has False), `extra` a cotangent per linear
    parameter."""
    b = Builder(derived_name(graph.name, "transpose"))
    operands = [None if l else b.param(p.type, p.hint) for p, l in zip(graph.params, linear, strict=True)]
    cotangents = [b.param(o.type) if a else None for o, a in zip(graph.outputs, active, strict=True)]
    out = backward(b, graph, operands, cotangents)
    return OpenRegion(
        b, present(operands), [], cotangents, [c for c, l in zip(out, linear, strict=True) if l]
    )


def backward(
    b: Builder, graph: Graph, operands: Sequence[Value | None], cotangents: Sequence[Value | None]
) -> list[Value | None]:
    """Emit the transpose of a linear graph; gives a cotangent (None is zero) per parameter.

    `operands[i]` is None where the graph is linear in its i-th parameter. Control nodes with linear operands
    have only linear results, as `split_graph` leaves them.
    """
    env: dict[Value, Value] = {p: o for p, o in zip(graph.params, operands, strict=True) if o is not None}
    for value, array in graph.consts:
        env[value] = Value(value.type, value.hint)
        b.consts.append((env[value], array))
    linear: list[Node] = []
    for node in graph.nodes:
        if all(o in env for o in node.operands):
            env.update(zip(node.results, b.copy_node(node, [env[o] for o in node.operands]), strict=True))
        else:
            linear.append(node)
    totals = MaskedSums(b)
    for output, cotangent in zip(graph.outputs, cotangents, strict=True):
        if output not in env and cotangent is not None:
            totals.add(output, cotangent, None)
    for node in reversed(linear):
        received = [totals.take(r) for r in node.results]
        if all(c is None for c, _ in received):
            continue
        with b.at(node.loc):
            known = [env.get(o) for o in node.operands]
            given = _transpose_node(b, node, [c for c, _ in received], known)
            given, masks = follow(b, node, given, known, received[0][1] if len(received) == 1 else None)
            for operand, cotangent, mask in zip(node.operands, given, masks, strict=True):
                if operand not in env and cotangent is not None:
                    totals.add(operand, cotangent, mask)
    return [totals.take(p)[0] for p in graph.params]


def _transpose_node(
    b: Builder, node: Node, cotangents: Sequence[Value | None], operands: Sequence[Value | None]
) -> Sequence[Value | None]:
    """The one place that chooses the rule of a node."""
    if node.prim in _RULES:
        return _RULES[node.prim](b, node, cotangents, operands, transpose_region)
    record = primitive.get(node.prim)
    if record.transpose is None:
        raise UnsupportedError(f"{node.prim} is not linear here, so that it cannot be transposed", node.loc)
    return record.transpose(b, cotangents, operands, [o.type for o in node.operands], node.attrs)

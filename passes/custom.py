"""Custom calls: how the passes treat a `custom` node, and the rules that need no user code.

A rule answers in graphs: `jvp` for the results with their tangents, `transpose` for the cotangents of the operands
in which the call is linear. Its own answers are those for its body; rules override them. Once nothing is
differentiated any more, `expand` puts the bodies in the place of the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nufunc.ir.builder import Builder
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.prims.custom import Rule
from nufunc.ir.prims.host import Host
from nufunc.ir.types import ArrayType
from nufunc.passes.control_parts import OpenRegion, chosen, derived_name, flags_of, merge, present, rejected
from nufunc.passes.control_vmap import lane_by_lane, repeated
from nufunc.passes.rewrite import rewritten

Flags = Sequence[bool]
Differentiate = Callable[[Graph, Flags], OpenRegion]
TransposeRegion = Callable[[Graph, Flags, Flags], OpenRegion]
Values = Sequence["Value | None"]


class CustomRule(Rule):
    """A rule that answers with the derivatives of its body."""

    def jvp(self, active: Flags, differentiate: Differentiate) -> tuple[Graph, Flags]:
        """A graph (operands, tangents of the active ones) -> (results, tangents of the flagged results)."""
        region = differentiate(self.body(), active)
        params = [*region.params, *present(region.extra_params)]
        return region.close(params, [*region.outputs, *present(region.extra)]), region.active

    def transpose(self, linear: Flags, given: Flags, transpose_region: TransposeRegion) -> tuple[Graph, Flags]:
        """A graph (operands that are not linear, cotangents of the given results) -> (cotangents of the flagged ones
        of the linear operands).
        """
        region = transpose_region(self.body(), linear, given)
        return region.close([*region.params, *present(region.extra_params)], present(region.extra)), region.active


# -- what the passes do with a node


def jvp_custom(
    b: Builder, node: Node, operands: Sequence[Value], tangents: Values, differentiate: Differentiate
) -> tuple[list[Value], list[Value | None]]:
    """The results and their tangents as the rule gives them."""
    graph, flags = _rule(node).jvp(flags_of(tangents), differentiate)
    out = b.inline(graph, [*operands, *present(tangents)])
    count = len(node.results)
    return out[:count], merge(flags, out[count:])


def transpose_custom(
    b: Builder, node: Node, cotangents: Values, operands: Values, transpose_region: TransposeRegion
) -> list[Value | None]:
    """The cotangents of the linear operands as the rule gives them."""
    linear = [o is None for o in operands]
    graph, flags = _rule(node).transpose(linear, flags_of(cotangents), transpose_region)
    found = iter(merge(flags, b.inline(graph, [*present(operands), *present(cotangents)])))
    return [next(found) if is_linear else None for is_linear in linear]


def batch_custom(
    b: Builder, size: int, node: Node, operands: Sequence[Value], batched: Flags, batch_region: object
) -> tuple[Sequence[Value], Flags]:
    """A call whose rule works on all lanes at once."""
    results = b.emit("custom", operands, {"rule": Batched(_rule(node), size, batched)})
    return results, [True] * len(results)


def batch_callback(
    b: Builder, size: int, node: Node, operands: Sequence[Value], batched: Flags, batch_region: object
) -> tuple[Sequence[Value], Flags]:
    """All lanes in one call where the function takes them, else one after the other."""
    host: Host = node.attrs["host"]
    if host.batch is None:
        return lane_by_lane(b, size, node, operands, batched)
    wide = [o if f else repeated(b, o, size) for o, f in zip(operands, batched, strict=True)]
    results = b.emit("callback", wide, {"host": host.batch(size, batched)})
    return results, [True] * len(results)


def _rule(node: Node) -> CustomRule:
    rule: CustomRule = node.attrs["rule"]
    return rule


def expand(graph: Graph) -> Graph:
    """The graph with the body of each custom call in its place."""
    if not any(node.prim == "custom" for node in graph.walk()):
        return graph

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        return b.inline(expand(_body(node)), operands) if node.prim == "custom" else None

    return rewritten(graph, rule, expand)


def _body(node: Node) -> Graph:
    try:
        return _rule(node).body()
    except UnsupportedError as error:
        if error.location is None:
            raise type(error)(str(error), node.loc) from None
        raise


# -- rules


class Batched(CustomRule):
    """A rule over `size` lanes, which stand on axis 0 of the batched operands and of all results."""

    def __init__(self, inner: CustomRule, size: int, batched: Flags) -> None:
        self.inner, self.size, self.batched = inner, size, tuple(batched)
        self.name = derived_name(inner.name, "vmap")
        pairs = zip(inner.operand_types, batched, strict=True)
        self.operand_types = tuple(t.batched(size) if f else t for t, f in pairs)
        self.result_types = tuple(t.batched(size) for t in inner.result_types)

    def body(self) -> Graph:
        return self._lanes(self.inner.body(), self.batched)

    def jvp(self, active: Flags, differentiate: Differentiate) -> tuple[Graph, Flags]:
        graph, flags = self.inner.jvp(active, differentiate)
        return self._lanes(graph, [*self.batched, *chosen(self.batched, active)]), flags

    def transpose(self, linear: Flags, given: Flags, transpose_region: TransposeRegion) -> tuple[Graph, Flags]:
        graph, flags = self.inner.transpose(linear, given, transpose_region)
        known = rejected(self.batched, linear)
        lanes = self._lanes(graph, [*known, *[True] * (len(graph.params) - len(known))])
        b = Builder(lanes.name)
        out = b.inline(lanes, [b.param(p.type, p.hint) for p in lanes.params])
        # what all lanes share gets the sum of their cotangents
        mapped = chosen(chosen(self.batched, linear), flags)
        return b.build([c if m else b.summed(c, (0,)) for c, m in zip(out, mapped, strict=True)]), flags

    def _lanes(self, graph: Graph, batched: Flags) -> Graph:
        from nufunc.passes.vmap import vmap  # which knows this file's rules for nodes

        return vmap(graph, self.size, [0 if f else None for f in batched], [0] * len(graph.outputs))


class Pullback(CustomRule):
    """A linear map that is known by its transpose alone: (residuals, tangents) -> tangents of the results.

    `back(given)` is a graph (residuals, cotangents of the given results) -> cotangents, with the flags of the operands
    behind the residuals that get one.
    """

    def __init__(
        self, name: str, residual_types: Sequence[ArrayType], tangent_types: Sequence[ArrayType],
        result_types: Sequence[ArrayType], back: Callable[[tuple[bool, ...]], tuple[Graph, Flags]],
    ) -> None:  # fmt: skip
        self.name = name
        self.num_residuals = len(residual_types)
        self.operand_types = (*residual_types, *tangent_types)
        self.result_types = tuple(result_types)
        self.back = back

    def body(self) -> Graph:
        from nufunc.passes.transpose import transpose  # which knows this file's rules for nodes

        graph, flags = self.back((True,) * len(self.result_types))
        try:
            linear = transpose(graph, self.num_residuals)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"forward-mode derivatives of {self.name} need the transpose of its backward rule, which is not linear "
                f"in the cotangents ({error.args[0]}); use reverse mode, or define the function with nf.custom_jvp",
                error.location,
            ) from None
        b = Builder(derived_name(self.name, "linear"))
        params = [b.param(t) for t in self.operand_types]
        residuals, tangents = params[: self.num_residuals], params[self.num_residuals :]
        return b.build(b.inline(linear, [*residuals, *chosen(tangents, flags)]))

    def transpose(self, linear: Flags, given: Flags, transpose_region: TransposeRegion) -> tuple[Graph, Flags]:
        if any(linear[: self.num_residuals]):
            raise UnsupportedError(f"{self.name} is not linear in its residuals")
        graph, flags = self.back(tuple(given))
        wanted = linear[self.num_residuals :]
        b = Builder(graph.name)
        residuals = [b.param(t) for t in self.operand_types[: self.num_residuals]]
        for type_ in rejected(self.operand_types[self.num_residuals :], wanted):
            b.param(type_)  # a tangent that is known: its cotangent is not asked for
        cotangents = [b.param(t) for t in chosen(self.result_types, given)]
        found = merge(flags, b.inline(graph, [*residuals, *cotangents]))
        kept = chosen(found, wanted)
        return b.build(present(kept)), flags_of(kept)

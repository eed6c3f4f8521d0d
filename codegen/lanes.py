"""Maps whose body is a scalar program with control flow, run many lanes at a time in vector registers.

Note [Lanes]
The body's values are vectors, one element per lane of the map. A loop goes on while any of its lanes does; lanes that
have stopped keep their values, and what is computed for them meanwhile is thrown away. A branch is skipped where no
lane takes it. Only programs without memory of their own can be run like this: scalars, elementwise primitives, while,
cond, and scan without stacked operands. The last block overlaps the one before, as in loop nests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from nufunc.codegen.emit_memory import Memory
from nufunc.codegen.llvm import I1, I64, constant, register_type, splat
from nufunc.codegen.scalars import Scalars
from nufunc.ir import primitive
from nufunc.ir.graph import Graph, Node, Value

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan

REGISTERS = 4  # that a value takes: enough independent work to hide the latency of chains of dependent operations
_LEAST = 4
_MOVES = ("reshape", "broadcast", "transpose", "stop_gradient")


def width(node: Node, vector_bytes: int) -> int:
    """Lanes that a map runs at a time; 1 where its body is no scalar program."""
    most = min(REGISTERS * vector_bytes // 8, node.attrs["length"])
    lanes = 1 << (max(most, 1).bit_length() - 1)
    return lanes if lanes >= _LEAST and _is_scalar(node.regions[0]) else 1


def _is_scalar(graph: Graph) -> bool:
    values = (*graph.params, *(r for n in graph.nodes for r in n.results), *(v for v, _ in graph.consts))
    return all(v.shape == () and v.dtype.kind != "c" for v in values) and all(_runs(n) for n in graph.nodes)


def _runs(node: Node) -> bool:
    if node.prim == "fused":
        return all(
            n.prim == "full" or n.prim in _MOVES or primitive.get(n.prim).kind == "elementwise"
            for n in node.regions[0].nodes
        ) and _is_scalar_region(node.regions[0])
    if node.prim == "scan" and (len(node.operands) != node.attrs["num_consts"] + node.attrs["num_carry"]
                                or len(node.results) != node.attrs["num_carry"]):  # fmt: skip
        return False
    return node.prim in ("while", "cond", "scan") and all(_is_scalar(r) for r in node.regions)


def _is_scalar_region(region: Graph) -> bool:
    values = (*region.params, *(r for n in region.nodes for r in n.results))
    return not region.consts and all(v.type.size == 1 and v.dtype.kind != "c" for v in values)


class Lanes:
    """Emits the body of such a map for `lanes` lanes from a row on."""

    def __init__(self, plan: Plan, lanes: int) -> None:
        self.plan, self.b, self.lanes = plan, plan.b, lanes
        self.scalars, self.memory = Scalars(plan.b, plan.has_fma), Memory(plan.b)

    def block(
        self, node: Node, fixed: Sequence[ir.Value], xs: Sequence[ir.Value], ys: Sequence[ir.Value], row: Any
    ) -> None:
        """`fixed`, `xs`, `ys` are the addresses of constant operands, stacked operands and results."""
        body, b = node.regions[0], self.b
        count = len(fixed)
        values = [
            splat(b, self.memory.load(p, I64(0), v.dtype), self.lanes)
            for p, v in zip(fixed, body.params[:count], strict=True)
        ]
        values += [
            self.memory.load_vector(p, row, v.dtype, self.lanes, None, False)
            for p, v in zip(xs, body.params[count:], strict=True)
        ]
        everywhere = constant(ir.VectorType(I1, self.lanes), 1)
        for p, v, made in zip(ys, body.outputs, self.run(body, values, everywhere), strict=True):
            self.memory.store_vector(p, row, v.dtype, made, None)

    def run(self, graph: Graph, arguments: Sequence[Any], active: ir.Value) -> list[Any]:
        """The outputs of a graph for the lanes of a mask."""
        env: dict[Value, Any] = dict(zip(graph.params, arguments, strict=True))
        for value, array in graph.consts:
            env[value] = constant(register_type(value.dtype, self.lanes), array.item())
        for node in graph.nodes:
            operands = [env[o] for o in node.operands]
            if node.prim == "fused":
                results = self.run(node.regions[0], operands, active)
            elif node.prim in _CONTROL:
                results = _CONTROL[node.prim](self, node, operands, active)
            else:
                results = [self.single(node, operands)]
            env.update(zip(node.results, results, strict=True))
        return [env[o] for o in graph.outputs]

    def single(self, node: Node, operands: list[Any]) -> Any:
        if node.prim == "full":
            return constant(register_type(node.result.dtype, self.lanes), node.attrs["value"])
        if node.prim in _MOVES:
            return operands[0]
        dtypes = [o.dtype for o in node.operands]
        return self.scalars.emit(node.prim, operands, dtypes, node.result.dtype, node.attrs)

    def blocks(self, *names: str) -> list[ir.Block]:
        return [self.plan.function.append_basic_block(n) for n in names]

    def chosen(self, mask: ir.Value, new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
        return [self.b.select(mask, n, o) for n, o in zip(new, old, strict=True)]

    def while_(self, node: Node, operands: list[Any], active: ir.Value) -> list[Any]:
        b, (cond, body) = self.b, node.regions
        nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
        start = [*operands[nc + nb :], active]
        before = b.block
        head, inside, after = self.blocks("head", "inside", "after")
        b.branch(head)
        b.position_at_end(head)
        phis: list[Any] = [b.phi(v.type) for v in start]
        for phi, value in zip(phis, start, strict=True):
            phi.add_incoming(value, before)
        *carry, going = phis
        (more,) = self.run(cond, [*operands[:nc], *carry], going)
        going = b.and_(going, more)
        b.cbranch(self.memory.any(going), inside, after)
        b.position_at_end(inside)
        new = self.run(body, [*operands[nc : nc + nb], *carry], going)
        for phi, value in zip(phis, [*self.chosen(going, new, carry), going], strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return list(carry)

    def scan(self, node: Node, operands: list[Any], active: ir.Value) -> list[Any]:
        if node.attrs["length"] == 0:
            return operands[node.attrs["num_consts"] :]
        consts = node.attrs["num_consts"]
        loop = self.plan.loop(node.attrs["length"])
        loop.__enter__()
        phis = [loop.carry(v) for v in operands[consts:]]
        new = self.run(node.regions[0], [*operands[:consts], *phis], active)
        loop.finish(list(zip(phis, new, strict=True)))
        return new

    def cond(self, node: Node, operands: list[Any], active: ir.Value) -> list[Any]:
        index, *arguments = operands
        last = len(node.regions) - 1
        results: list[Any] | None = None
        for k, region in enumerate(node.regions):
            takes = self.b.and_(active, self.takes(index, k, last))
            results = self.branch(region, arguments, takes, results)
        assert results is not None
        return results

    def takes(self, index: ir.Value, k: int, last: int) -> ir.Value:
        """The lanes whose clamped index is k."""
        b = self.b
        if index.type.element == I1:
            return index if k else b.not_(index)
        if k == 0:
            return (
                b.icmp_signed("<=", index, constant(index.type, 0))
                if last
                else constant(ir.VectorType(I1, self.lanes), 1)
            )
        return b.icmp_signed(">=" if k == last else "==", index, constant(index.type, k))

    def branch(self, region: Graph, arguments: list[Any], takes: ir.Value, others: list[Any] | None) -> list[Any]:
        """`others` with the lanes that take a branch replaced."""
        b = self.b
        if others is None:
            others = [constant(register_type(o.dtype, self.lanes), 0) for o in region.outputs]
        before = b.block
        inside, after = self.blocks("branch", "after")
        b.cbranch(self.memory.any(takes), inside, after)
        b.position_at_end(inside)
        new = self.chosen(takes, self.run(region, arguments, takes), others)
        end = b.block
        b.branch(after)
        b.position_at_end(after)
        results = []
        for value, other in zip(new, others, strict=True):
            phi = b.phi(value.type)
            phi.add_incoming(value, end)
            phi.add_incoming(other, before)
            results.append(phi)
        return results


_CONTROL = {"while": Lanes.while_, "scan": Lanes.scan, "cond": Lanes.cond}

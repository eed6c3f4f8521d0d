"""Implicit differentiation: solutions of linear systems and of equations, whose derivatives do not run through the
solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentTypeError, UnsupportedError
from nufunc.ir.graph import Graph, Value
from nufunc.ir.types import ArrayType, is_inexact
from nufunc.passes.control_parts import OpenRegion, chosen, merge, present
from nufunc.passes.custom import CustomRule, Differentiate, Flags, TransposeRegion
from nufunc.passes.jvp import jvp
from nufunc.passes.transpose import transpose
from nufunc.runtime.subgraph import Sub, as_array, inline, is_number, over, refuse_updates, trace_sub, union, wrap
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.trace import require
from nufunc.tracer.usercode import user_location

Function = Callable[..., Any]


class _Unknown:
    """The tree of arrays that is solved for."""

    def __init__(self, like: Any, label: str, name: str) -> None:
        leaves, self.structure = tree.flatten(like)
        for path, leaf in zip(tree.paths(like), leaves, strict=True):
            if not is_number(leaf) or not is_inexact(as_array(leaf).dtype):
                kind = as_array(leaf).dtype if is_number(leaf) else type(leaf).__name__
                raise ArgumentTypeError(
                    f"{label}: {name}{path} must be a float or complex array, got {kind}", user_location()
                )
        self.label, self.arrays = label, [as_array(leaf) for leaf in leaves]
        self.types = [a.type for a in self.arrays]
        self.templates = [(a.type, a.scalar) for a in self.arrays]

    def tree(self, arrays: Sequence[Any]) -> Any:
        return tree.unflatten(self.structure, arrays)

    def trace(self, call: Callable[[list[Array]], Any], what: str, copies: int = 1) -> Sub:
        """A function traced on `copies` such trees, which must give one."""
        sub = trace_sub(call, self.templates * copies, f"{self.label}.{what}")
        refuse_updates(sub, ["x"] * sub.num_params, self.label)
        if sub.structure != self.structure:
            raise ArgumentTypeError(
                f"{self.label}: {what} must return a tree of the structure {self.structure}, got {sub.structure}",
                user_location(),
            )
        if list(sub.graph.output_types) != self.types:
            shown = [", ".join(map(str, types)) for types in (self.types, sub.graph.output_types)]
            raise ArgumentTypeError(
                f"{self.label}: {what} must return arrays of the types {shown[0]}, got {shown[1]}", user_location()
            )
        return sub

    def function(self, graph: Graph, before: Sequence[Array], after: Sequence[Array]) -> Function:
        """A graph (before, the unknown, after) -> a tree like it, as a function of the unknown."""

        def apply(x: Any) -> Any:
            leaves, structure = tree.flatten(x)
            if structure != self.structure:
                raise ArgumentTypeError(
                    f"{self.label}: expected a tree of the structure {self.structure}, got {structure}",
                    user_location(),
                )
            values = inline(graph, [*before, *map(as_array, leaves), *after])
            return self.tree([wrap([v])[0] for v in values])

        return apply


# -- linear systems


def _moved(
    b: Builder, region: OpenRegion, unknown: Sequence[Value], captured: Sequence[Value], dots: Sequence[Value | None]
) -> list[Value | None]:
    """By how much a function moves, at a fixed unknown, when what it captures moves by `dots`."""
    graph = region.close([*region.params, *present(region.extra_params)], present(region.extra))
    return merge(region.active, b.inline(graph, [*unknown, *captured, *present(dots)]))


class LinearSolve(CustomRule):
    """x with matvec(x) = b over operands (b, what the functions capture); linear in b.

    All graphs are over such operands; `matvec` has x in the place of b.
    """

    def __init__(
        self, count: int, matvec: Graph, solve: Graph, transposed: tuple[Graph, Graph] | None
    ) -> None:
        self.name = "linear_solve"
        self.count, self.matvec, self.solve, self.transposed = count, matvec, solve, transposed
        self.operand_types, self.result_types = solve.param_types, solve.output_types

    def body(self) -> Graph:
        return self.solve

    def jvp(self, active: Flags, differentiate: Differentiate) -> tuple[Graph, Flags]:
        """dx solves the same system with db - (dA) x on the right."""
        b, n = Builder(self.name), self.count
        operands = [b.param(t) for t in self.operand_types]
        dots = [b.param(t) if a else None for t, a in zip(self.operand_types, active, strict=True)]
        solution = b.emit("custom", operands, {"rule": self})
        right = dots[:n]
        if any(active[n:]):
            moved = _moved(b, differentiate(self.matvec, [*[False] * n, *active[n:]]), solution, operands[n:], dots[n:])
            right = [b.added(r, None if m is None else b.neg(m)) for r, m in zip(right, moved, strict=True)]
        if not any(r is not None for r in right):
            return b.build(solution), [False] * n
        filled = [b.zeros(t) if r is None else r for r, t in zip(right, self.operand_types, strict=False)]
        tangents = b.emit("custom", [*filled, *operands[n:]], {"rule": self})
        return b.build([*solution, *tangents]), [True] * n

    def transpose(self, linear: Flags, given: Flags, transpose_region: TransposeRegion) -> tuple[Graph, Flags]:
        n = self.count
        if any(linear[n:]):
            raise UnsupportedError("linear_solve is linear in its right-hand side alone")
        if self.transposed is None:
            raise UnsupportedError(
                "reverse-mode derivatives of custom_linear_solve need transpose_solve, or symmetric=True"
            )
        matvec, solve = self.transposed
        b = Builder(f"{self.name}.transpose")
        for type_, is_linear in zip(self.operand_types[:n], linear, strict=False):
            _ = None if is_linear else b.param(type_)
        captured = [b.param(t) for t in self.operand_types[n:]]
        right = [b.param(t) if g else None for t, g in zip(self.result_types, given, strict=True)]
        filled = [b.zeros(t) if r is None else r for r, t in zip(right, self.result_types, strict=True)]
        rule = LinearSolve(n, matvec, solve, (self.matvec, self.solve))
        out = b.emit("custom", [*filled, *captured], {"rule": rule})
        return b.build(chosen(out, linear[:n])), [True] * sum(linear[:n])


def linear_solve(
    matvec: Function, b: Any, solve: Function, transpose_solve: Function | None, symmetric: bool
) -> Any:
    """See `nufunc.custom_linear_solve`."""
    unknown = _Unknown(b, "custom_linear_solve", "b")
    n = len(unknown.arrays)
    matrix = unknown.trace(lambda x: matvec(unknown.tree(x)), "matvec")
    apply = unknown.function(matrix.graph, (), matrix.captured)
    solver = unknown.trace(lambda x: solve(apply, unknown.tree(x)), "solve")
    back = None
    if symmetric:
        back = solver
        turned = matrix.graph
    elif transpose_solve is not None:
        # the transpose takes what matvec captures first, as residuals
        captures = matrix.graph.replace(params=(*matrix.graph.params[n:], *matrix.graph.params[:n]))
        turned = transpose(captures, len(matrix.captured))
        turned = turned.replace(params=(*turned.params[len(matrix.captured) :], *turned.params[: len(matrix.captured)]))
        apply_back = unknown.function(turned, (), matrix.captured)
        back = unknown.trace(lambda x: transpose_solve(apply_back, unknown.tree(x)), "transpose_solve")
    captured = union(matrix.captured, solver.captured, back.captured if back is not None else ())
    transposed = None
    if back is not None:
        turned_sub = Sub(turned, n, matrix.captured, matrix.leaves, matrix.structure)
        transposed = over(turned_sub, captured), over(back, captured)
    rule = LinearSolve(n, over(matrix, captured), over(solver, captured), transposed)
    values = _emit(rule, unknown.arrays, captured)
    return solver.result(wrap(values, solver.slots))


def _emit(rule: CustomRule, arrays: Sequence[Array], captured: Sequence[Array]) -> Sequence[Value]:
    trace = require()
    return trace.b.emit("custom", [trace.lift(a) for a in (*arrays, *captured)], {"rule": rule})


# -- roots


class Root(CustomRule):
    """x with f(x) = 0 over operands (first guess, what the functions capture).

    By the implicit function theorem, dx solves f'(x) dx = -(df)(x), where df is the derivative of f for what it
    captures.
    """

    def __init__(self, count: int, f: Graph, solve: Graph, tangent_solve: Graph) -> None:
        self.name = "root"
        self.count, self.f, self.solve, self.tangent_solve = count, f, solve, tangent_solve
        self.operand_types: tuple[ArrayType, ...] = solve.param_types
        self.result_types = solve.output_types

    def body(self) -> Graph:
        return self.solve

    def jvp(self, active: Flags, differentiate: Differentiate) -> tuple[Graph, Flags]:
        b, n = Builder(self.name), self.count
        operands = [b.param(t) for t in self.operand_types]
        dots = [b.param(t) if a else None for t, a in zip(self.operand_types, active, strict=True)]
        root = b.emit("custom", operands, {"rule": self})
        region = differentiate(self.f, [*[False] * n, *active[n:]])
        if not any(region.active):  # the guess does not matter
            return b.build(root), [False] * n
        moved = _moved(b, region, root, operands[n:], dots[n:])
        right = [b.zeros(t) if m is None else b.neg(m) for m, t in zip(moved, self.result_types, strict=True)]
        return b.build([*root, *b.inline(self.tangent_solve, [*root, *right, *operands[n:]])]), [True] * n


def root(f: Function, initial_guess: Any, solve: Function, tangent_solve: Function) -> Any:
    """See `nufunc.custom_root`."""
    unknown = _Unknown(initial_guess, "custom_root", "initial_guess")
    n = len(unknown.arrays)
    equation = unknown.trace(lambda x: f(unknown.tree(x)), "f")
    solver = unknown.trace(
        lambda x: solve(unknown.function(equation.graph, (), equation.captured), unknown.tree(x)), "solve"
    )
    slope = jvp(equation.graph, [True] * n + [False] * len(equation.captured))  # (x, captured, dx) -> (f, f' dx)
    slope = slope.replace(outputs=slope.outputs[n:])

    def solve_tangent(params: list[Array]) -> Any:
        apply = unknown.function(slope, (*params[:n], *equation.captured), ())
        return tangent_solve(apply, unknown.tree(params[n:]))

    tangent = unknown.trace(solve_tangent, "tangent_solve", copies=2)
    captured = union(equation.captured, solver.captured, tangent.captured)
    rule = Root(n, over(equation, captured), over(solver, captured), over(tangent, captured))
    return solver.result(wrap(_emit(rule, unknown.arrays, captured), solver.slots))

"""The differentiating transforms: grad, vjp, jvp, linearize and linear_transpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nufunc.ir.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from nufunc.ir.types import is_complex, is_inexact
from nufunc.runtime import pipeline
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.selection import Selection, check_inexact, matching, select, trace_with_aux
from nufunc.runtime.subgraph import Slot, Sub, inline, refuse_updates, wrap, write_updates
from nufunc.runtime.transform import Callee, Transform
from nufunc.runtime.updates import admit_all, admit_updates, refuse_differentiated
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.trace import require
from nufunc.tracer.usercode import user_location


def primal_part(sub: Sub, arrays: Sequence[Array], outputs: Sequence[bool]) -> tuple[list[Any], Any, list[Any]]:
    """Inline the primal part of a function with derivatives for all of its parameters.

    Gives its outputs, the pullback graph for the selected outputs, and the residuals' values.
    """
    which = [True] * sub.num_params + [False] * len(sub.captured)
    primal, back, count = pipeline.pulled_back(sub.graph, which, outputs)
    values = inline(primal, [*arrays, *sub.captured])
    return values[: len(values) - count], back, values[len(values) - count :]


@dataclass(frozen=True)
class Grad(Transform):
    """The gradient of a scalar function; `value` says what comes with it: "", "after" (grad, value) or "before"."""

    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    argnames: str | tuple[str, ...] | None = None
    holomorphic: bool = False
    value: str = ""

    @property
    def label(self) -> str:
        return {"": "grad", "after": "grad_and_value", "before": "value_and_grad"}[self.value]

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = select(callee, args, kwargs, self.argnums, self.argnames, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, self.has_aux, self.label)
        admit_updates(sub, chosen.arrays, chosen.names, refuse_differentiated(sub, chosen.names, self.label))
        self._check_output(sub, count, callee)
        values, back, residuals = primal_part(sub, chosen.arrays, [True] + [False] * (len(sub.graph.outputs) - 1))
        trace = require()
        one = trace.b.filled(1, sub.graph.outputs[0].type)
        grads = inline(back, [*residuals, one])
        grads = [_conjugated(g) if is_complex(g.dtype) and not self.holomorphic else g for g in grads]
        gradient = chosen.pack(wrap(grads, [Slot(k, a.scalar, False) for k, a in enumerate(chosen.arrays)]))
        result = sub.result(wrap(values[: sub.num_outputs], sub.slots))
        write_updates(sub, chosen.arrays, values)
        if self.value:
            value = result if self.has_aux else result[0]
            return (gradient, value) if self.value == "after" else (value, gradient)
        return (gradient, result[1]) if self.has_aux else gradient

    def _check_output(self, sub: Sub, count: int, callee: Callee) -> None:
        where = callee.location()
        if not sub.structure.is_leaf() and (count != 1 or not sub.structure.children()[0].is_leaf()):
            raise ArgumentTypeError(
                f"{self.label}: Expected {callee.name}(*args) to return a single scalar array, got a "
                f"{getattr(sub.structure.children()[0].type, '__name__', 'tree')}; use has_aux=True for more results",
                where,
            )
        output = sub.graph.outputs[0].type
        if output.shape != ():
            raise ShapeError(
                f"{self.label}: Expected {callee.name}(*args) to return a scalar array, got array with "
                f"{output.ndim} dims "
                f"(shape {output.shape}). Maybe you wanted to use the vjp or jacrev APIs instead?",
                where,
            )
        if not is_inexact(output.dtype):
            raise DTypeError(
                f"{self.label}: {callee.name} returned {output.dtype}, but derivatives need a float output", where
            )
        if is_complex(output.dtype) and not self.holomorphic:
            raise DTypeError(
                f"{self.label}: {callee.name} returned a complex number; return a real one (such as its abs or "
                f"real part), "
                "or pass holomorphic=True",
                where,
            )


def _conjugated(value: Any) -> Any:
    return require().b.conj(value)


@dataclass(frozen=True)
class Vjp(Transform):
    """(output, pullback[, aux]); the pullback holds the residuals."""

    has_aux: bool = False

    @property
    def label(self) -> str:
        return "vjp"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args:
            raise ArgumentError("vjp: got no primals", user_location())
        chosen = select(callee, args, {}, tuple(range(len(args))), None, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, self.has_aux, self.label)
        admit_updates(sub, chosen.arrays, chosen.names, refuse_differentiated(sub, chosen.names, self.label))
        check_inexact(sub, count, callee, "vjp: All outputs of f must be floating-point or complex")
        outputs = [k < count for k in range(len(sub.graph.outputs))]
        values, back, residuals = primal_part(sub, chosen.arrays, outputs)
        result = sub.result(wrap(values[: sub.num_outputs], sub.slots))
        out_spec = tree.structure(result[0])
        pullback = GraphFunction(
            "vjp_fn", back, tuple(wrap(residuals)), out_spec, tuple(chosen.structures),
            tuple(s.scalar for s in (Slot(0, a.scalar, False) for a in chosen.arrays)), conjugate=True,
        )  # fmt: skip
        write_updates(sub, chosen.arrays, values)
        return (result[0], pullback, result[1]) if self.has_aux else (result[0], pullback)


def _check_pair(callee: Callee, primals: Any, tangents: Any, label: str) -> tuple[Selection, list[Array]]:
    """Primals and tangents of equal trees, shapes and dtypes, as Arrays."""
    for what, value in (("primals", primals), ("tangents", tangents)):
        if not isinstance(value, tuple):
            raise ArgumentTypeError(
                f"{label}: Expected {what} to be a tuple, got {type(value).__name__}", user_location()
            )
    if not tree.leaves(primals):
        raise ArgumentError(f"{label}: Expected at least one array in primals", user_location())
    chosen = select(callee, primals, {}, tuple(range(len(primals))), None, label)
    found, spec = tree.flatten(tangents)
    if spec != tree.structure(primals):
        raise ArgumentTypeError(
            f"{label}: Expected primals and tangents to have the same python structure, but primals have "
            f"{tree.structure(primals)} and tangents {spec}",
            user_location(),
        )
    arrays = matching(found, [a.type for a in chosen.arrays], [f"tangent of argument {n}" for n in chosen.names], label)
    return chosen, arrays


@dataclass(frozen=True)
class Jvp(Transform):
    """(output, tangent[, aux]) of a function called as f(primals, tangents)."""

    has_aux: bool = False
    strict: bool = False

    @property
    def label(self) -> str:
        return "jvp"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        primals, tangents = args
        chosen, moved = _check_pair(callee, primals, tangents, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, self.has_aux, self.label)
        admit_updates(sub, chosen.arrays, chosen.names, admit_all)
        check_inexact(sub, count, callee, "jvp: all outputs of f must be floating-point or complex")
        if self.strict:
            _check_dependence(sub, count, callee)
        values, pushed = _forward(sub, chosen.arrays, moved, count)
        result = sub.result(wrap(values[: sub.num_outputs], sub.slots))
        spec = tree.structure(result[0])
        tangent = tree.unflatten(spec, wrap(pushed, sub.slots[:count]))
        write_updates(sub, chosen.arrays, values)
        return (result[0], tangent, result[1]) if self.has_aux else (result[0], tangent)


def _forward(sub: Sub, arrays: Sequence[Array], tangents: Sequence[Array], count: int) -> tuple[list[Any], list[Any]]:
    which = [True] * sub.num_params + [False] * len(sub.captured)
    values = inline(pipeline.derivative(sub.graph, which), [*arrays, *sub.captured, *tangents])
    number = len(sub.graph.outputs)
    return values[:number], values[number : number + count]


def _check_dependence(sub: Sub, count: int, callee: Callee) -> None:
    """strict=True: every output must depend on an input."""
    reached = set(sub.graph.params[: sub.num_params])
    for node in sub.graph.nodes:
        if any(o in reached for o in node.operands):
            reached.update(node.results)
    for k in range(count):
        if sub.graph.outputs[k] not in reached:
            raise ArgumentError(
                f"jvp(f, primals, tangents, strict=True): output {k} of {callee.name} is independent of all inputs",
                callee.location(),
            )


@dataclass(frozen=True)
class Linearize(Transform):
    """(output, jvp_fn), where jvp_fn is linear and holds the residuals."""

    @property
    def label(self) -> str:
        return "linearize"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args:
            raise ArgumentError("linearize: got no primals", user_location())
        chosen = select(callee, args, {}, tuple(range(len(args))), None, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, False, self.label)
        admit_updates(sub, chosen.arrays, chosen.names, admit_all)
        check_inexact(sub, count, callee, "linearize: all outputs of f must be floating-point or complex")
        which = [True] * sub.num_params + [False] * len(sub.captured)
        primal, linear, num = pipeline.pushed_forward(sub.graph, which)
        values = inline(primal, [*chosen.arrays, *sub.captured])
        (output,) = sub.result(wrap(values[: sub.num_outputs], sub.slots))
        linear = linear.replace(outputs=linear.outputs[:count])
        jvp_fn = GraphFunction(
            "jvp_fn", linear, tuple(wrap(values[len(values) - num :])), tree.structure(args), (tree.structure(output),),
            tuple(s.scalar for s in sub.slots), variadic=True, bare=True,
        )  # fmt: skip
        write_updates(sub, chosen.arrays, values)
        return output, jvp_fn


@dataclass(frozen=True)
class LinearTranspose(Transform):
    """The transpose of a linear function: takes a cotangent of its output, gives a tuple of cotangents."""

    @property
    def label(self) -> str:
        return "linear_transpose"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = select(callee, args, {}, tuple(range(len(args))), None, self.label)
        sub, count = trace_with_aux(callee, chosen.arrays, chosen.rebuild, False, self.label)
        refuse_updates(sub, chosen.names, self.label)
        check_inexact(sub, count, callee, "linear_transpose: all outputs of f must be floating-point or complex")
        graph, n = sub.graph, sub.num_params
        graph = graph.replace(params=(*graph.params[n:], *graph.params[:n]))
        back = pipeline.transposed(graph, len(graph.params) - n)
        captured = [require().wrap(require().lift(a)) for a in sub.captured]
        return GraphFunction(
            "transpose_fn", back, tuple(captured), sub.structure.children()[0], tuple(chosen.structures),
            tuple(a.scalar for a in chosen.arrays),
        )  # fmt: skip

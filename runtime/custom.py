"""Functions with derivative rules of the user's: the function and its rules traced into a `custom` node.

Note [Rules that call their function]
    The rule of f may call f, and does so as a habit. So a rule is not part of the graph: it is an attribute, traced
    once at the outermost call of f, which finds what it captures and its mistakes, and again where a call inside the
    rule is itself differentiated. That later trace takes place when the trace around f may be finished, so whatever a
    rule captures must be an operand of the call: inside a rule, f takes all that the rule was found to capture.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from nufunc.ir.builder import Builder
from nufunc.ir.errors import ArgumentTypeError, DTypeError, ShapeError, UnsupportedError
from nufunc.ir.graph import Graph
from nufunc.ir.types import ArrayType, is_complex, is_inexact
from nufunc.passes.control_parts import chosen
from nufunc.passes.custom import CustomRule, Differentiate, Flags, Pullback
from nufunc.runtime.subgraph import Slot, Sub, as_array, is_number, over, refuse_updates, trace_sub, union, wrap
from nufunc.tracer import tree
from nufunc.tracer.array import Array
from nufunc.tracer.trace import Trace, require
from nufunc.tracer.usercode import user_location
from nufunc.tracer.view import active_session

Function = Callable[..., Any]


@dataclass
class _Inside:
    """A rule that is being traced: the arrays that it is known to capture, and whether it calls its function."""

    captured: tuple[Array, ...]
    met: bool = False


class _Rules(threading.local):
    def __init__(self) -> None:
        self.inside: dict[Hashable, _Inside] = {}


_RULES = _Rules()


@contextmanager
def _tracing_rule_of(key: Hashable, captured: Sequence[Array]) -> Iterator[_Inside]:
    before = _RULES.inside.get(key)
    state = _RULES.inside[key] = _Inside(tuple(captured))
    try:
        yield state
    finally:
        if before is None:
            del _RULES.inside[key]
        else:
            _RULES.inside[key] = before


class Call:
    """The arguments of a call: arrays and floats are operands, everything else is as it was.

    `nondiff` are the positions of arguments that are handed to the rules as they are.
    """

    def __init__(self, name: str, args: Sequence[Any], nondiff: Sequence[int]) -> None:
        self.name = name
        self.nondiff = [args[i] for i in nondiff]
        self._fixed = dict(zip(nondiff, self.nondiff, strict=True))
        self._count = len(args)
        given = tuple(a for i, a in enumerate(args) if i not in self._fixed)
        self.leaves, self.structure = tree.flatten(given)
        self.paths = tree.paths(given)
        self.places = [k for k, x in enumerate(self.leaves) if is_number(x) and not isinstance(x, bool | int)]
        self.arrays = [as_array(self.leaves[k]) for k in self.places]
        self.smooth = [is_inexact(a.dtype) for a in self.arrays]
        self.location = user_location()
        # where a trace of the rules takes up later
        self._trace, self._session = require(), active_session()

    def primals(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments that have derivatives, with these arrays in place."""
        leaves = list(self.leaves)
        for k, array in zip(self.places, arrays, strict=True):
            leaves[k] = array
        primals: tuple[Any, ...] = tree.unflatten(self.structure, leaves)
        return primals

    def arguments(self, primals: Sequence[Any]) -> list[Any]:
        """All arguments, in their order."""
        rest = iter(primals)
        return [self._fixed[i] if i in self._fixed else next(rest) for i in range(self._count)]

    def tangents(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Trees like the arguments of a tangent per smooth array, None where there is none."""
        leaves: list[Any] = [None] * len(self.leaves)
        rest = iter(arrays)
        for k, smooth in zip(self.places, self.smooth, strict=True):
            leaves[k] = next(rest) if smooth else None
        tangents: tuple[Any, ...] = tree.unflatten(self.structure, leaves)
        return tangents

    def trace(self, call: Callable[[list[Array]], Any], templates: Sequence[Any], known: Sequence[Array] | None) -> Sub:
        """A function of the rules, traced; with `known` it may capture nothing else."""
        trace = require()
        if _outermost(trace) is not _outermost(self._trace):
            raise UnsupportedError(
                f"{self.name} was called in an earlier traced function, and its rule would have to be traced again: "
                "differentiate as often as needed inside one function",
                user_location(),
            )
        parent = trace if known is None else self._trace
        with self._session or nullcontext():
            sub = trace_sub(call, templates, self.name, parent=parent, known=known or ())
        if self._session is not None:
            self._session.unseen.check()
        if known is not None and len(sub.captured) != len(known):
            raise UnsupportedError(
                f"the rule of {self.name} uses a traced value which it did not use when it was first traced: pass it "
                "as an argument",
                user_location(),
            )
        refuse_updates(sub, [f"{self.name}{path}" for path in self.paths], f"the rule of {self.name}")
        return sub


def _outermost(trace: Trace) -> Trace:
    while trace.parent is not None:
        trace = trace.parent
    return trace


# -- the custom node


def call_custom(
    key: Hashable, call: Call, func: Function, make_rule: Callable[[Call, Sub], _UserRule]
) -> Any:
    """func(*arguments) as a custom node. `key` tells calls of one function from those of others."""
    primal = trace_sub(lambda arrays: func(*call.arguments(call.primals(arrays))), call.arrays, call.name)
    refuse_updates(primal, [f"{call.name}{path}" for path in call.paths], f"a custom rule ({call.name})")
    rule = make_rule(call, primal)
    outer = _RULES.inside.get(key)
    if outer is not None:
        outer.met = True
        rule.captured = union(primal.captured, outer.captured)
    else:
        with _tracing_rule_of(key, ()) as inside:
            found = rule.trace(None)
        rule.captured = union(primal.captured, found)
        if inside.met and found:  # calls in the rule take what it captures, now that this is known
            with _tracing_rule_of(key, rule.captured):
                rule.trace(rule.captured)
    rule.key = key
    trace = require()
    values = [trace.lift(a) for a in (*call.arrays, *rule.captured)]
    rule.operand_types = tuple(v.type for v in values)
    rule.result_types = primal.graph.output_types
    return primal.result(wrap(trace.b.emit("custom", values, {"rule": rule}), primal.slots))


class _UserRule(CustomRule):
    """What the rules of custom_jvp and custom_vjp share: the call, its graph, and what all of it captures."""

    def __init__(self, call: Call, primal: Sub) -> None:
        self.name = call.name
        self.call = call
        self.primal = primal
        self.key: Hashable = None
        self.captured: tuple[Array, ...] = ()
        self._body: Graph | None = None

    def trace(self, known: Sequence[Array] | None) -> tuple[Array, ...]:
        """Trace the rule and keep it; gives what it captures."""
        raise NotImplementedError

    def body(self) -> Graph:
        if self._body is None:
            self._body = over(self.primal, self.captured)
        return self._body

    def retrace(self) -> None:
        """Trace the rule of a call that was made inside a rule."""
        with _tracing_rule_of(self.key, self.captured):
            self.trace(self.captured)

    def active_operands(self, active: Flags) -> list[bool]:
        """Which of the smooth operands are active; what is captured must not be."""
        count = len(self.call.arrays)
        if any(active[count:]):
            raise UnsupportedError(
                f"{self.name} has a derivative rule, and uses a differentiated value that is no argument of it, for "
                "which the rule says nothing; pass the value as an argument (and not among nondiff_argnums)",
                self.call.location,
            )
        return chosen(active[:count], self.call.smooth)


def _checked(leaf: Any, want: ArrayType, what: str) -> Array:
    """A tangent or cotangent that a rule gave, as an array of the type that it must have."""
    if not is_number(leaf):
        raise ArgumentTypeError(f"{what} must be an array or None, got {type(leaf).__name__}", user_location())
    array = as_array(leaf)
    if array.shape != want.shape:
        raise ShapeError(f"{what} must have shape {want.shape}, got {array.shape}", user_location())
    if array.dtype == want.dtype:
        return array
    if not array.weak or (is_complex(array.dtype) and not is_complex(want.dtype)):
        raise DTypeError(f"{what} must have dtype {want.dtype}, got {array.dtype}", user_location())
    trace = require()
    return trace.wrap(trace.b.astype(trace.lift(array), want.dtype), scalar=array.scalar)


def _up_to(structure: tree.TreeDef, found: Any, what: str) -> list[Any]:
    """The items of `found` at the leaves of a structure."""
    try:
        return list(structure.flatten_up_to(found))
    except ValueError:
        raise ArgumentTypeError(
            f"{what} must have the structure {structure}, got {tree.structure(found)}", user_location()
        ) from None


# -- custom_jvp


class JvpRule(_UserRule):
    """rule(*nondiff, primals, tangents) -> (result, tangent of the result)."""

    def __init__(self, call: Call, primal: Sub, rule: Function, symbolic_zeros: bool) -> None:
        super().__init__(call, primal)
        self.rule = rule
        self.symbolic_zeros = symbolic_zeros
        self._traced: dict[tuple[bool, ...], tuple[Sub, list[bool]]] = {}

    def trace(self, known: Sequence[Array] | None) -> tuple[Array, ...]:
        return self._pushed((True,) * sum(self.call.smooth), known)[0].captured

    def _pushed(self, active: tuple[bool, ...], known: Sequence[Array] | None) -> tuple[Sub, list[bool]]:
        """The rule traced on the primals and the active tangents, and which results it gives a tangent."""
        call, slots = self.call, self.primal.slots
        flags: list[bool] = []
        count = len(call.arrays)

        def run(params: list[Array]) -> Any:
            moved = iter(params[count:])
            tangents = call.tangents([next(moved) if a else None for a in active])
            given = self.rule(*call.nondiff, call.primals(params[:count]), tangents)
            if not isinstance(given, tuple) or len(given) != 2:
                raise ArgumentTypeError(
                    f"the rule of {self.name} must return a pair: the result and its tangent", user_location()
                )
            structure = self.primal.structure
            outs = self._results(_up_to(structure, given[0], f"the result of the rule of {self.name}"))
            dots = _up_to(structure, given[1], f"the tangent of the rule of {self.name}")
            dots = [dot for dot, leaf in zip(dots, self.primal.leaves, strict=True) if isinstance(leaf, Slot)]
            types = [self.primal.graph.outputs[s.index].type for s in slots]
            flags[:] = [dot is not None and is_inexact(t.dtype) for dot, t in zip(dots, types, strict=True)]
            what = f"the tangent of the rule of {self.name}"
            return outs, [_checked(d, t, what) for d, t, f in zip(dots, types, flags, strict=True) if f]

        smooth = chosen(call.arrays, call.smooth)
        moved = [(a.type, a.scalar) for a in chosen(smooth, active)]
        sub = call.trace(run, [*call.arrays, *moved], known)
        found = self._traced[active] = (sub, flags)
        return found

    def _results(self, leaves: list[Any]) -> list[Array]:
        given = [leaf for leaf, own in zip(leaves, self.primal.leaves, strict=True) if isinstance(own, Slot)]
        types = [self.primal.graph.outputs[s.index].type for s in self.primal.slots]
        return [_checked(x, t, f"the result of the rule of {self.name}") for x, t in zip(given, types, strict=True)]

    def jvp(self, active: Flags, differentiate: Differentiate) -> tuple[Graph, Flags]:
        moving = self.active_operands(active)
        pattern = tuple(moving) if self.symbolic_zeros else (True,) * len(moving)
        if pattern not in self._traced:
            with _tracing_rule_of(self.key, self.captured):
                self._pushed(pattern, self.captured)
        sub, flags = self._traced[pattern]
        graph = over(sub, self.captured)
        b = Builder(graph.name)
        operands = [b.param(t) for t in self.operand_types]
        count = len(self.call.arrays)
        tangents = []
        for type_, moves, wanted in zip(chosen(self.operand_types[:count], self.call.smooth), moving, pattern):
            dot = b.param(type_) if moves else b.zeros(type_)
            tangents += [dot] if wanted else []
        return b.build(b.inline(graph, [*operands[:count], *tangents, *operands[count:]])), flags


# -- custom_vjp


class VjpRule(_UserRule):
    """fwd(*args) -> (result, residuals); bwd(*nondiff, residuals, cotangent) -> a cotangent per argument."""

    def __init__(self, call: Call, primal: Sub, fwd: Function, bwd: Function, symbolic_zeros: bool) -> None:
        super().__init__(call, primal)
        self.fwd, self.bwd, self.symbolic_zeros = fwd, bwd, symbolic_zeros
        self._forward: Sub | None = None
        self._backward: dict[tuple[bool, ...], tuple[Sub, list[bool]]] = {}

    def trace(self, known: Sequence[Array] | None) -> tuple[Array, ...]:
        forward = self._traced_forward(known)
        backward = self._traced_backward((True,) * len(self._result_types()), known)[0]
        return union(forward.captured, backward.captured)

    def _result_types(self) -> list[ArrayType]:
        """The types of the results that have derivatives."""
        return [t for t in self.primal.graph.output_types if is_inexact(t.dtype)]

    def _traced_forward(self, known: Sequence[Array] | None) -> Sub:
        call, primal = self.call, self.primal

        def run(params: list[Array]) -> Any:
            given = self.fwd(*call.arguments(call.primals(params)))
            if not isinstance(given, tuple) or len(given) != 2:
                raise ArgumentTypeError(
                    f"the forward rule of {self.name} must return a pair: the result and what the backward rule needs",
                    user_location(),
                )
            what = f"the result of the forward rule of {self.name}"
            leaves = _up_to(primal.structure, given[0], what)
            outs = [x for x, own in zip(leaves, primal.leaves, strict=True) if isinstance(own, Slot)]
            types = [primal.graph.outputs[s.index].type for s in primal.slots]
            return [_checked(x, t, what) for x, t in zip(outs, types, strict=True)], given[1]

        self._forward = call.trace(run, call.arrays, known)
        return self._forward

    def _traced_backward(self, given: tuple[bool, ...], known: Sequence[Array] | None) -> tuple[Sub, list[bool]]:
        """The backward rule traced on residuals and cotangents of the given results, and which smooth operands get a
        cotangent.
        """
        call, forward = self.call, self._forward
        assert forward is not None
        count = len(self.primal.slots)
        slots = [Slot(s.index - count, s.scalar, s.weak) if isinstance(s, Slot) else s for s in forward.leaves[count:]]
        types = forward.graph.output_types[count:]
        residuals = [(t, s.scalar) for s, t in zip(forward.slots[count:], types, strict=True)]
        results = [s for s in self.primal.slots if is_inexact(self.primal.graph.outputs[s.index].dtype)]
        cotangents = [(t, s.scalar) for t, s in zip(self._result_types(), results, strict=True)]
        flags: list[bool] = []

        def run(params: list[Array]) -> Any:
            held = params[: len(residuals)]
            kept = [held[s.index] if isinstance(s, Slot) else s for s in slots]
            moved = iter(_conjugated(params[len(residuals) :]))
            leaves = [
                next(moved) if isinstance(s, Slot) and s in results and given[results.index(s)] else None
                for s in self.primal.leaves
            ]
            cotangent = tree.unflatten(self.primal.structure, leaves)
            out = self.bwd(*call.nondiff, tree.unflatten(forward.structure.children()[1], kept), cotangent)
            return self._cotangents(out, flags)

        sub = call.trace(run, [*residuals, *chosen(cotangents, given)], known)
        found = self._backward[given] = (sub, flags)
        return found

    def _cotangents(self, out: Any, flags: list[bool]) -> list[Array]:
        """What the backward rule returned, as one array per smooth operand whose flag is then set."""
        call, what = self.call, f"what the backward rule of {self.name} returns"
        if not isinstance(out, tuple | list) or len(out) != len(call.structure.children()):
            raise ArgumentTypeError(
                f"{what} must be a tuple with a cotangent for each of the {len(call.structure.children())} "
                f"differentiable arguments, got {type(out).__name__}"
                + (f" of {len(out)}" if isinstance(out, tuple | list) else ""),
                user_location(),
            )
        given: list[Any] = []
        for spec, item in zip(call.structure.children(), out, strict=True):
            given += [None] * spec.num_leaves if item is None else _up_to(spec, item, what)
        smooth = chosen(zip(call.arrays, call.places, strict=True), call.smooth)
        flags[:] = [given[k] is not None for _, k in smooth]
        arrays = [
            _checked(given[k], a.type, f"{what} for {self.name}{call.paths[k]}")
            for a, k in smooth
            if given[k] is not None
        ]
        return _conjugated(arrays)

    def jvp(self, active: Flags, differentiate: Differentiate) -> tuple[Graph, Flags]:
        moving = self.active_operands(active)
        if self._forward is None:
            self.retrace()
        forward = self._forward
        assert forward is not None
        graph = over(forward, self.captured)
        b = Builder(graph.name)
        operands = [b.param(t) for t in self.operand_types]
        count = len(self.call.arrays)
        smooth = chosen(self.operand_types[:count], self.call.smooth)
        tangents = [b.param(t) for t in chosen(smooth, moving)]
        values = b.inline(graph, operands)
        num = len(self.primal.slots)
        residuals = [*values[num:], *operands[count:]]
        pullback = Pullback(
            self.name, [r.type for r in residuals], [t.type for t in tangents], self._result_types(),
            lambda given: self._back(given, moving),
        )  # fmt: skip
        dots = b.emit("custom", [*residuals, *tangents], {"rule": pullback})
        return b.build([*values[:num], *dots]), [is_inexact(v.dtype) for v in values[:num]]

    def _back(self, given: tuple[bool, ...], moving: Flags) -> tuple[Graph, Flags]:
        """See `Pullback`: over (residuals, what is captured, cotangents of the given results)."""
        pattern = given if self.symbolic_zeros else (True,) * len(given)
        if pattern not in self._backward:
            with _tracing_rule_of(self.key, self.captured):
                self._traced_backward(pattern, self.captured)
        sub, flags = self._backward[pattern]
        graph = over(sub, self.captured)
        num = sub.num_params - sum(pattern)
        b = Builder(graph.name)
        residuals = [b.param(p.type) for p in graph.params[:num]]
        captured = [b.param(p.type) for p in graph.params[sub.num_params :]]
        cotangents = []
        for type_, is_given, wanted in zip(self._result_types(), given, pattern, strict=True):
            cotangent = b.param(type_) if is_given else b.zeros(type_) if wanted else None
            cotangents += [cotangent] if cotangent is not None else []
        out = iter(b.inline(graph, [*residuals, *cotangents, *captured]))
        found = [next(out) if f else None for f in flags]
        kept = chosen(found, moving)
        return b.build([c for c in kept if c is not None]), [c is not None for c in kept]


def _conjugated(arrays: Sequence[Array]) -> list[Array]:
    """Between torch's cotangents, which users see, and the bilinear ones of the passes."""
    trace = require()
    return [
        trace.wrap(trace.b.conj(trace.lift(a)), scalar=a.scalar) if is_complex(a.dtype) else a for a in arrays
    ]

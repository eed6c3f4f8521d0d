"""From a grouped graph to a callable: lowering to one LLVM module, machine code, and the native entry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nufunc.codegen import checks
from nufunc.codegen.callspec import plan_symbol
from nufunc.codegen.cost import graph_work
from nufunc.codegen.loading import OPTIMISE, Compiled
from nufunc.codegen.loops import LoopNest
from nufunc.codegen.nest_builder import site_error
from nufunc.codegen.objects import ObjectCode
from nufunc.codegen.wrapper import ArgSpec, CallSpec, ResultSpec, declare_plan, emit_wrapper
from nufunc.ir.errors import Location
from nufunc.ir.graph import Graph

if TYPE_CHECKING:
    from llvmlite import ir

    from nufunc.codegen.callback import HostCall
    from nufunc.codegen.clock import Clock
    from nufunc.ir.prims.host import Host

INLINE_CALLS = 6  # call sites up to which a function of vmath is dissolved
RELEASE_GIL = 20_000  # elements of arguments and results from which other threads may run meanwhile,
LONG = 100_000  # or nanoseconds of work


@dataclass(frozen=True)
class Lowered:
    """A grouped graph as one LLVM module. `copied` are the outputs that are copied at the end. `externs` fill the
    plan's table: names of BLAS or LAPACK routines, and constants. `sites` tells what each error code means."""

    name: str
    grouped: Graph
    text: str
    nests: tuple[LoopNest, ...]
    workspace: int
    copied: tuple[int, ...]
    externs: tuple[str | np.ndarray | HostCall, ...]
    sites: dict[int, tuple[str | HostCall, Location | None]]
    spec: CallSpec
    clock: Clock | None = None

    def loops(self) -> str:
        """The loop nests, readable."""
        return "\n\n".join(str(n) for n in self.nests)

    def error(self, code: int, index: int | None = None) -> BaseException:
        """The exception of an error code; `index`: the one that was outside, if it is known."""
        return site_error(*self.sites[code], index)


def symbol(name: str) -> str:
    """A name that LLVM accepts."""
    return "nf_" + re.sub(r"\W", "_", name)


def lower(
    grouped: Graph,
    name: str,
    args: Sequence[ArgSpec] | None = None,
    results: Sequence[ResultSpec] | None = None,
    donated: Iterable[int] = (),
    fastmath: bool = False,
    timed: bool = False,
    standalone: bool = False,
) -> Lowered:
    """Lower to LLVM text: the plan and its native wrapper. Results in `donated` arguments are found here; those that
    `results` puts into arguments are written there once the plan cannot fail any more. With `timed` a clock measures
    each node; with `standalone` there is the plan alone, without Python."""
    from llvmlite import ir

    from nufunc.codegen import tapes, x86
    from nufunc.codegen.backend import target
    from nufunc.codegen.clock import Clock
    from nufunc.codegen.plan import Plan

    host = target()
    clock = Clock(grouped) if timed else None
    args = [ArgSpec(t.shape, t.dtype) for t in grouped.param_types] if args is None else args
    results = [ResultSpec(t.shape, t.dtype) for t in grouped.output_types] if results is None else results
    prefix = symbol(name)

    def emitted(lent: dict[int, int], early: Iterable[int]) -> tuple[ir.Module, Plan]:
        module = ir.Module(name)
        x86.allow(module, host.features)
        plan = Plan(
            grouped, declare_plan(module, prefix), host.vector_bits // 8, host.has_fma, lent, tuple(early), clock
        )
        plan.signals = not standalone
        plan.emit()
        return module, plan

    updates = {k: r.source for k, r in enumerate(results) if r.source is not None}
    given = _lent(grouped, args, results, donated)
    module, plan = emitted({**given, **updates}, {**given, **updates})
    if given:  # a copy at the end is no better than a result of its own
        kept = {k: p for k, p in given.items() if k not in plan.copied}
        if kept != given:
            given = kept
            module, plan = emitted({**given, **updates}, {**given, **updates})
    if updates and plan.sites.sites:  # the plan may fail half-way
        module, plan = emitted({**given, **updates}, given)
    results = [replace(r, scalar=False, source=given[k]) if k in given else r for k, r in enumerate(results)]
    work = sum(t.size for t in (*grouped.param_types, *grouped.output_types))
    spec = CallSpec(
        tuple(args),
        tuple(results),
        plan.workspace,
        release_gil=work >= RELEASE_GIL or plan.regions > 0 or graph_work(grouped) >= LONG,
        polls=plan.budget is not None or bool(tapes.outside(grouped)),
    )
    if fastmath:
        _relax(module)
    if not standalone:
        emit_wrapper(module, module.get_global(plan_symbol(prefix)), spec, prefix)
    _mark_inline(module, plan.small)
    return Lowered(
        name,
        grouped,
        str(module),
        tuple(plan.nests),
        plan.workspace,
        plan.copied,
        tuple(plan.externs),
        dict(plan.sites.sites),
        spec,
        clock,
    )


def _lent(
    grouped: Graph, args: Sequence[ArgSpec], results: Sequence[ResultSpec], donated: Iterable[int]
) -> dict[int, int]:
    """For results, by number, the donated argument of the same type whose memory they take, each in its turn."""
    left = [p for p in donated if args[p].kind == "array" and args[p].dtype.kind != "O"]
    found: dict[int, int] = {}
    for k, (result, value) in enumerate(zip(results, grouped.outputs, strict=True)):
        fits = [p for p in left if (args[p].shape, args[p].dtype) == (result.shape, result.dtype)]
        if result.source is None and fits and value not in grouped.params and grouped.outputs.count(value) == 1:
            found[k] = fits[0]
            left.remove(fits[0])
    return found


_FAST = ("reassoc", "nsz", "arcp", "contract")


def _relax(module: ir.Module) -> None:
    """Note [Fastmath]: sums and products of nests may be reordered and contracted, the sign of a zero result may
    change, and double-precision quotients by one divisor may become products with its reciprocal. NaN and infinities
    keep their meaning. Quotients of f32 stay, since LLVM would estimate their reciprocals, with NaN for 1/0. The
    functions of vector mathematics are left out: they live on the exact errors of sums."""
    for function in module.functions:
        if function.name.startswith("nf."):
            continue
        for block in function.blocks:
            for instruction in block.instructions:
                if getattr(instruction, "opname", "") in ("fadd", "fsub", "fmul", "fdiv"):
                    double = "double" in str(instruction.type)
                    instruction.flags = [f for f in _FAST if double or f != "arcp"]


def _mark_inline(module: ir.Module, small: set[str]) -> None:
    """Have small nests and functions of vmath that are called from few places dissolve into their callers."""
    calls: dict[str, int] = {}
    for function in module.functions:
        for block in function.blocks:
            for instruction in block.instructions:
                callee = getattr(instruction, "callee", None)
                if callee is not None:
                    name = getattr(callee, "name", "")
                    calls[name] = calls.get(name, 0) + 1
    for function in module.functions:
        internal = function.linkage == "internal" and function.name.startswith("nf.")
        if (
            (internal or function.name in small)
            and calls.get(function.name, 0) <= INLINE_CALLS
            and "noinline" not in function.attributes
        ):
            function.attributes.add("alwaysinline")


def object_code(entry: Compiled, locations: Sequence[Location], hosts: Sequence[Host]) -> ObjectCode | None:
    """An entry as a value; None where it is measured, or calls a Python function, or may fail at a place, that is none
    of the program's."""
    from nufunc.codegen.backend import target
    from nufunc.codegen.callback import PREFIX

    if entry.found is not None:
        return entry.found
    lowered, numbers = entry.lowered, {loc: k for k, loc in enumerate(locations)}
    known = {host: f"{PREFIX}{k}" for k, host in enumerate(hosts)}
    externs = [e if isinstance(e, str | np.ndarray) else known.get(e.host.origin) for e in lowered.externs]
    named = tuple(e for e in externs if e is not None)
    kinds = {
        code: kind if isinstance(kind, str) else known.get(kind.host.origin)
        for code, (kind, _) in lowered.sites.items()
    }
    sites = {
        code: (kind, None if loc is None else numbers[loc])
        for code, (_, loc) in lowered.sites.items()
        if (kind := kinds[code]) is not None and (loc is None or loc in numbers)
    }
    if lowered.clock is not None or len(named) < len(lowered.externs) or len(sites) < len(lowered.sites):
        return None
    return ObjectCode(target().key, symbol(lowered.name), lowered.spec, named, sites, entry.executable.object_code)


def compile_graph(
    grouped: Graph,
    args: Sequence[ArgSpec] | None = None,
    results: Sequence[ResultSpec] | None = None,
    name: str = "f",
    donated: Iterable[int] = (),
) -> Compiled:
    """Compile a grouped graph. `args` and `results` say how they are passed; left out: as arrays."""
    return compile_lowered(lower(grouped, name, args, results, donated))


def compile_lowered(lowered: Lowered) -> Compiled:
    """Machine code for a lowered graph."""
    from nufunc.codegen.backend import compile_module

    executable = compile_module(lowered.text, lowered.name, OPTIMISE)
    prefix, keep = symbol(lowered.name), lowered
    error = lambda code: lowered.error(code, checks.taken())
    return Compiled(executable, prefix, lowered.spec, lowered.externs, error, keep, lambda: lowered)

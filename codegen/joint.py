"""What instructions of one body share: found before the CPU emitter emits them one by one.

Note [Roots]
The slope of x / sqrt(s) multiplies with 1 / sqrt(s), so that its body divides twice by one root, and divisions are what
such loops take their time with (forces, distances, norms). A quotient that nothing reads but products and sums is
computed as x times the reciprocal: its error is one ulp at most instead of half an ulp, as many as the product with the
next factor adds. Nothing else can differ, since a root is zero, infinite, NaN, or far from the ends of the range, and
with these both ways agree. Quotients that are stored, compared or handed to functions stay correctly rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nufunc.codegen import scipy_calls, vmath
from nufunc.codegen.loops import Inst, LoopNest, Phase

_JOINT = {name: (joint, both) for both, joint in (vmath.JOINT | scipy_calls.JOINT).items() for name in both}


def partners(phase: Phase) -> dict[int, tuple[str, Inst, Inst]]:
    """Pairs of real functions of one operand that cost little more together: by the one that comes first, the joint
    function's name and both in the order of its results."""
    found: dict[tuple[str, int], Inst] = {}
    pairs = {}
    for inst in phase.body:
        name = inst.attrs["function"] if inst.op == "scipy" else inst.op
        if name in _JOINT and inst.dtype.kind == "f":
            joint, both = _JOINT[name]
            place = both.index(name)
            before = found.get((both[1 - place], inst.args[0]))
            if before is not None and before.dtype == inst.dtype:
                pairs[before.id] = joint, *((before, inst) if place else (inst, before))
            found[name, inst.args[0]] = inst
    return pairs


def quotients(nest: LoopNest, phase: Phase, place: Callable[[Inst], Any]) -> dict[int, tuple[Inst, bool]]:
    """Quotients that are products with a reciprocal, and whether they are the first to need it. See Note [Roots].
    Instructions with equal `place` are computed side by side."""
    insts = {i.id: i for i in phase.body}
    divisions = [i for i in phase.body if i.op == "div" and i.dtype.kind == "f"]
    roots = [i for i in divisions if i.args[1] in insts and insts[i.args[1]].op == "sqrt"]
    reciprocals = {i.args[1]: i for i in roots if _is_one(insts.get(i.args[0]))}
    if len(roots) == len(reciprocals) or not reciprocals:
        return {}
    exact = _exact_uses(nest, phase)
    found: dict[int, tuple[Inst, bool]] = {}
    known: set[int] = set()
    for inst in roots:
        reciprocal = reciprocals.get(inst.args[1])
        if inst is reciprocal:
            known.add(inst.id)
        elif reciprocal is not None and inst.id not in exact and place(inst) == place(reciprocal):
            found[inst.id] = reciprocal, reciprocal.id not in known
            known.add(reciprocal.id)
    return found


def _is_one(inst: Inst | None) -> bool:
    return inst is not None and inst.op == "const" and inst.attrs["value"] == 1


def _exact_uses(nest: LoopNest, phase: Phase) -> set[int]:
    """Values that something else reads than products and sums of this phase."""
    inner = {i.id for i in phase.body if i.op == "mul"}
    others = {a for p in nest.phases for i in p.body if i.id not in inner for a in i.uses()}
    others.update(acc.value for p in nest.phases for acc in p.accumulators if p is not phase or acc.op != "add")
    return others

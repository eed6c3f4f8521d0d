"""How a nest runs: neighbouring axes joined, the axis that vectors run along, the order of loops; and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nufunc.codegen.loops import (
    SHORT_STEP,
    Affine,
    Axis,
    Inst,
    LoopNest,
    Phase,
    lies_across,
    varying,
)
from nufunc.ir.types import real_dtype


def _accesses(insts: Sequence[Inst]) -> list[Affine]:
    return [i.index for i in insts if i.op in ("load", "store", "index")]


def collapse(nest: LoopNest) -> LoopNest:
    """Merge neighbouring axes that every address passes through in step, so that loops are few and long."""
    axes = list(nest.axes)
    phases = list(nest.phases)
    merged: list[Axis] = []
    for axis in axes:
        if merged and _in_step(merged[-1], axis, [i for p in phases for i in p.body]):
            joint, outer = _joined(merged.pop(), axis)
            phases = [_renamed(p, outer, axis.name, joint.name) for p in phases]
            axis = joint
        merged.append(axis)
    done = []
    for phase in phases:
        inner: list[Axis] = []
        for axis in phase.axes:
            if inner and _in_step(inner[-1], axis, phase.body):
                joint, outer = _joined(inner.pop(), axis)
                phase = _renamed(phase, outer, axis.name, joint.name)
                axis = joint
            inner.append(axis)
        done.append(Phase(tuple(inner), phase.body, phase.accumulators))
    return replace(nest, axes=tuple(merged), phases=tuple(done))


def _joined(outer: Axis, inner: Axis) -> tuple[Axis, str]:
    return Axis(inner.name, outer.extent * inner.extent, inner.kind), outer.name


def _in_step(outer: Axis, inner: Axis, insts: Sequence[Inst]) -> bool:
    if outer.kind != inner.kind:
        return False
    return all(a.coefficient(outer.name) == a.coefficient(inner.name) * inner.extent for a in _accesses(insts))


def _renamed(phase: Phase, outer: str, inner: str, name: str) -> Phase:
    body = tuple(
        Inst(i.id, i.op, i.args, i.dtype, i.attrs, i.buffer, i.index.merged(outer, inner, name), i.guard)
        for i in phase.body
    )
    return Phase(phase.axes, body, phase.accumulators)


# -- which axis runs over the lanes of vectors

_RUN = 16  # registers of sums of columns, of 64 bytes
_LITTLE = 16384  # points of a nest below which one register per vector is enough
_MUCH = 1 << 18  # points from which a long body is worth its code four times over
_TWICE = 1.06  # times the least work, for more registers at a time
_LONG_BODY, _LONGEST_BODY = 60, 240  # cycles of a body

_DEAR = {
    "div": 4, "sqrt": 5, "exp": 12, "log": 12, "expm1": 16, "log1p": 16, "sin": 16, "cos": 16,
    "tan": 24, "tanh": 16, "pow": 40, "erf": 20, "erfc": 24, "logistic": 16, "exp2": 12, "log2": 12,
    "erfinv": 30, "erfcinv": 30, "erfcx": 30, "gamma": 40, "gammainc": 400, "gammaincc": 400, "betainc": 400,
    "i0e": 24, "i1e": 24, "scipy": 400,
    "log10": 12, "sinh": 20, "cosh": 20, "asin": 20, "acos": 20, "atan": 16, "atan2": 24,
    "asinh": 24, "acosh": 24, "atanh": 20, "cbrt": 20, "hypot": 8, "lgamma": 40, "digamma": 40,
    "threefry2x32": 30, "floor_div": 8, "mod": 8, "fmod": 8,
}  # fmt: skip


def op_cost(op: str) -> int:
    """Roughly the cycles of an elementwise primitive on one vector."""
    return _DEAR.get(op, 1)


def schedule(nest: LoopNest, vector_bytes: int, past: bool = False) -> LoopNest:
    """Collapse axes, choose the vectorised ones and the lanes, and put these loops innermost. `past`: large results are
    stored past the caches."""
    nest = collapse(nest)
    insts = [i for p in nest.phases for i in p.body]
    if not any(a.extent > 1 for a in nest.all_axes()):
        return nest
    item = max([real_dtype(i.dtype).itemsize for i in insts if i.dtype.kind in "fc"] or [0])
    item = item or max([i.dtype.itemsize for i in insts if i.op in ("load", "store")] or [8])
    width = max(1, vector_bytes // item)
    outer = [(_outer_cost(nest, a, width), k, a) for k, a in enumerate(nest.axes) if a.kind == "parallel"]
    if any(b.scratch for b in nest.buffers):  # it holds one row, not one per lane
        outer = []
    inner = [(_inner_choice(nest, p, width)) for p in nest.phases]
    inner_cost = sum(cost for cost, _ in inner)
    best = min(outer, key=lambda t: (t[0], -t[1]), default=None)
    if best is not None and best[0] < 0.98 * inner_cost:
        axis = best[2]
        unroll = _unroll(nest, nest.phases, axis.name)
        if unroll == 4 and any(p.accumulators for p in nest.phases):  # sums of columns: long runs of every row
            unroll = max(4, _RUN // max(len(p.accumulators) for p in nest.phases))
            unroll = 1 << (min(unroll, _RUN * vector_bytes // 64).bit_length() - 1)
        lanes = _lanes(axis.extent, width, unroll, nest.exact)
        axes = _last(nest.axes, axis)
        along = _along_lines(nest, axis) if lanes > 1 else None
        turned = None
        if along is not None:
            square = min(lanes, _SQUARE)
            if along.extent >= square and not nest.exact and not any(i.dtype.kind == "c" for i in insts):
                lanes, turned = square, along.name
            axes = _squared(nest, axis, along, lanes, past) if turned else _tiled(axes, axis, along)
        return replace(nest, axes=axes, vector=axis.name if lanes > 1 else None, lanes=lanes, turned=turned)
    phases = []
    for phase, (_, chosen) in zip(nest.phases, inner, strict=True):
        if chosen is None:
            phases.append(phase)
            continue
        lanes = _lanes(chosen.extent, width, _unroll(nest, (phase,), chosen.name), nest.exact)
        vector = chosen.name if lanes > 1 else None
        phases.append(Phase(_last(phase.axes, chosen), phase.body, phase.accumulators, vector, lanes))
    return replace(nest, phases=tuple(phases))


_LINES = 64  # rows of a transposition that are written side by side: as many pages as the processor knows well
_TILES = ((32, 256), (64, 64), (64, 16))  # sides of a tile of squares, the outer loop's first; measured
_PAST_RUN = 128  # bytes of a row of the result that are written together where it is stored past the caches
_PAGE = 4096  # bytes; lines so far apart share their place in the first cache
_SQUARE = 16  # lanes of a turned axis at most, since its points are written out


def _squared(nest: LoopNest, vector: Axis, along: Axis, lanes: int, past: bool) -> tuple[Axis, ...]:
    """Tiles of a transposition; in each, what is written goes on along its memory, since a line that is read again
    costs less than one that is written again: unless rows that are read lie whole pages apart, where they push each
    other out of the cache."""
    accesses = [i for p in nest.phases for i in p.body if i.op in ("load", "store")]
    turned = any(i.op == "store" and lies_across(i, vector.name, along.name) for i in accesses)
    inner, outer = (along, vector) if turned else (vector, along)
    rest = tuple(a for a in nest.axes if a not in (vector, along))
    if past:  # whole rows are read side by side, which can be foreseen
        size = max(i.dtype.itemsize for i in accesses if i.op == "store")
        parts = max(1, -(-inner.extent // max(lanes, _PAST_RUN // size)))
        return (*rest, Axis("tile", parts), outer, replace(inner, part=("tile", parts, lanes)))
    strides = {
        op: [abs(i.index.coefficient(row.name)) * i.dtype.itemsize for i in accesses if i.op == op]
        for op, row in (("load", inner), ("store", outer))
    }
    clash = {op: any(s and s % _PAGE == 0 for s in found) for op, found in strides.items()}
    sides = _TILES[clash["load"] + (clash["load"] and clash["store"])]
    if clash["load"]:
        inner, outer = outer, inner
    tiles: list[Axis] = []
    loops: list[Axis] = []
    for axis, side in zip((outer, inner), sides, strict=True):
        parts = -(-axis.extent // side)
        if parts > 1:
            tiles.append(Axis(f"tile{len(tiles)}", parts))
            axis = Axis(axis.name, axis.extent, axis.kind, (tiles[-1].name, parts, lanes))
        loops.append(axis)
    return (*rest, *reversed(tiles), *loops)


def _tiled(axes: tuple[Axis, ...], vector: Axis, along: Axis) -> tuple[Axis, ...]:
    """With the loop over `along` innermost, in parts whose number is a loop outside the vectors' one."""
    rest = tuple(a for a in axes if a not in (vector, along))
    parts = -(-along.extent // _LINES)
    if parts == 1:
        return (*rest, vector, along)
    return (*rest, Axis("tile", parts), vector, Axis(along.name, along.extent, along.kind, ("tile", parts, 1)))


def _along_lines(nest: LoopNest, vector: Axis) -> Axis | None:
    """Where lanes lie far apart in memory, as in a transposition: the axis along which the next elements of the same
    cache lines come. Its loop is the innermost, so that each line is fetched once."""
    if any(p.axes or p.accumulators for p in nest.phases):
        return None
    for inst in (i for p in nest.phases for i in p.body if i.op in ("load", "store")):
        for axis in nest.axes:
            if axis.kind == "parallel" and axis != vector and lies_across(inst, vector.name, axis.name):
                return axis
    return None


def _unroll(nest: LoopNest, phases: Sequence[Phase], axis: str) -> int:
    """How many registers wide vectors are. Short accumulations want many independent sums, elementary functions have
    long chains of dependent operations; very long bodies, gathers and little work are not worth the code."""
    points = max(_points((*nest.axes, *p.axes)) for p in phases)
    insts = [i for p in phases for i in p.body]
    cost = sum(op_cost(i.op) for i in insts if i.op not in ("load", "store", "const", "index"))
    gathers = any(
        abs(i.index.coefficient(axis)) > 1 or any(isinstance(k, int) for k, _ in i.index.terms) for i in insts
    )
    if gathers and points >= _LITTLE and _waits_for_reads(insts):
        return 4  # a search: each read waits for the one before, so that several go side by side
    if gathers or points < _LITTLE or cost > _LONGEST_BODY:
        return 1
    if cost > _LONG_BODY:  # a gradient of tanh, exp, sin and log1p: 5% less time with two, 15% with four
        return 4 if points >= _MUCH else 2
    accumulates = any(p.accumulators for p in phases)
    # short sums, and the long chains of tan, pow, erfinv, lgamma: up to a fifth faster than with two (on AVX-512)
    return 4 if (cost <= 8 if accumulates else cost >= 24) else 2


def _waits_for_reads(insts: Sequence[Inst]) -> bool:
    """Whether a place that is read follows from what was read at a computed place."""
    found: set[int] = set()
    for inst in insts:  # in the order in which they are computed
        computed = [k for k, _ in inst.index.terms if isinstance(k, int)]
        behind = any(a in found for a in inst.uses())
        if inst.op == "load" and computed and behind:
            return True
        if (inst.op == "load" and computed) or behind:
            found.add(inst.id)
    return False


def _last(axes: tuple[Axis, ...], axis: Axis) -> tuple[Axis, ...]:
    return (*(a for a in axes if a != axis), axis)


def _lanes(extent: int, width: int, unroll: int, exact: bool) -> int:
    """Lanes of a power of two: the most whose work is about the least, since beyond the register's width they
    interleave, which hides more than a few points that are computed twice."""
    work = {1: extent * width}
    lanes = 2
    while lanes <= min(width * unroll, extent):
        if not exact or extent % lanes == 0:
            work[lanes] = -(-extent // lanes) * max(lanes, width)
        lanes *= 2
    least = min(work.values())
    return max(lanes for lanes, cost in work.items() if cost <= _TWICE * least)


def _outer_cost(nest: LoopNest, axis: Axis, width: int) -> float:
    total, lanes = 0.0, _effective(axis.extent, width)
    known: set[int] = set()
    for phase in nest.phases:
        known = varying(nest, phase, axis.name, known)
        known.update(a.id for a in phase.accumulators if a.value in known)
        points = _points((*nest.axes, *phase.axes))
        total += points * sum(inst_cost(i, axis.name, known, lanes) for i in phase.body)
    return total


def _inner_choice(nest: LoopNest, phase: Phase, width: int) -> tuple[float, Axis | None]:
    """The cheapest axis of a phase to vectorise (None: none), and the cost."""
    points = _points((*nest.axes, *phase.axes))
    scalar = points * sum(inst_cost(i, "", set(), 1) for i in phase.body)
    best: tuple[float, Axis | None] = (float(scalar), None)
    running = [i for i in phase.body if i.op == "running"]
    if running:  # of ints it is over in a cycle, as are loads and stores beside it
        return (scalar / 3 if all(i.dtype.kind in "iub" for i in running) else scalar), None
    for axis in phase.axes:
        if axis.kind == "serial" or axis.extent == 1:
            continue
        known = varying(nest, phase, axis.name, set())
        lanes = _effective(axis.extent, width)
        cost = points * sum(inst_cost(i, axis.name, known, lanes) for i in phase.body)
        cost += 8 * points / axis.extent * len(phase.accumulators)  # combining the lanes
        if cost < best[0]:
            best = (cost, axis)
    return best


def points(nest: LoopNest) -> int:
    """Executions of the innermost bodies."""
    return sum(_points((*nest.axes, *p.axes)) for p in nest.phases)


def _points(axes: Sequence[Axis]) -> int:
    total = 1
    for axis in axes:
        total *= axis.trips
    return total


def _effective(extent: int, width: int) -> float:
    lanes = _lanes(extent, width, 1, False)
    return extent / -(-extent // lanes)


def inst_cost(inst: Inst, axis: str, known: set[int], lanes: float) -> float:
    """Cycles per point of an instruction that runs on `lanes` points of an axis at a time."""
    if inst.op == "const":
        return 0.0
    if lanes == 1:
        return 1.0 if inst.op in ("load", "store", "index") else float(op_cost(inst.op))
    if inst.id not in known:
        return 0.1  # hoisted, or one scalar for all lanes
    if inst.op in ("load", "store"):
        step = inst.index.coefficient(axis)
        if any(k in known for k, _ in inst.index.terms if isinstance(k, int)):
            return 1.2
        if step == 1 or step == -1:
            return (1.0 if step == 1 else 1.5) / lanes
        return step / lanes if inst.op == "load" and 1 < step <= SHORT_STEP else 1.2
    if inst.op in ("floor_div", "mod", "fmod", "index_div", "index_mod") and inst.dtype.kind in "iu":
        return 6.0 if inst.dtype.itemsize == 8 else 16.0 / lanes  # processors divide vectors of floats alone
    return op_cost(inst.op) / lanes

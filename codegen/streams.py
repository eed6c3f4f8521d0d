"""What a nest should do about main memory: stores that pass the caches by, and rows that are asked for before they are
needed.

Note [Streams]
A store brings its line into the cache before it writes it, unless it fills whole lines and says that nobody will read
them soon. A result that is larger than the caches will not be found there anyway, so it is stored past them: a copy of
64 MB goes at 57 GB/s instead of 42 on one core, a transposition, whose lines push each other out, at 34 instead of 21.
Such stores need lines that begin where vectors do. The nest's form tells this except for the pointers themselves, so a
nest is emitted twice and the plan chooses when it runs. Results from NumPy's allocator are aligned to 16 bytes only;
those of Note [Result pool] serve.

The processor foresees reads that go on through memory, not those that leave a page at every step, as sums of columns
do. There the loop asks for what it needs some rows later: sums of the columns of 64 MB at 36 GB/s instead of 26. So do
long bodies, several operands, and sums of short runs: exp of 64 MB in float32 at 47 GB/s instead of 32, a + b c at 48
instead of 43, sums over the first and last axis of three at 36 instead of 26.
"""

from __future__ import annotations

from dataclasses import replace

from nufunc.codegen.loops import Inst, LoopNest, Phase, lies_across
from nufunc.codegen.schedule import collapse, op_cost, points, schedule

PAST = 1 << 25  # bytes of a result from which it is stored past the caches
FAR = 1 << 24  # bytes of an operand from which its rows are asked for beforehand: in the third cache this gains nothing
LINE = 64
_ROWS = 16  # rows ahead
_STEP = 2048  # bytes from row to row at least, or ahead in short runs: half a page
_RUN = 256  # bytes ahead along many rows
_NEAR = 512  # bytes ahead along few
_LONG = 8  # cycles of a body that is long
_JUMP = 4  # runs apart that the next run of a short one lies


def streaming(nest: LoopNest, vector_bytes: int) -> tuple[LoopNest, ...]:
    """An unscheduled nest scheduled for stores past the caches, perhaps in two parts; none where it has none."""
    if not any(b.written and b.size * b.dtype.itemsize >= PAST for b in nest.buffers):
        return ()
    whole, *rest = _cut(nest, vector_bytes)
    nest = schedule(whole, vector_bytes, past=True)
    past = frozenset(k for k in range(len(nest.buffers)) if _passes(nest, k))
    return (replace(nest, past=past), *(schedule(n, vector_bytes) for n in rest)) if past else ()


def _cut(nest: LoopNest, vector_bytes: int) -> list[LoopNest]:
    """An elementwise nest over one axis without the elements that fill no vector, and these."""
    nest = collapse(nest)
    if len(nest.axes) != 1 or len(nest.phases) != 1 or nest.phases[0].axes or nest.exact:
        return [nest]
    (axis,), lanes = nest.axes, schedule(nest, vector_bytes).lanes
    left = axis.extent % lanes
    return [_part(nest, 0, axis.extent - left), _part(nest, axis.extent - left, left)] if left else [nest]


def _part(nest: LoopNest, start: int, count: int) -> LoopNest:
    """A nest over a part of its only axis."""
    (axis,), (phase,) = nest.axes, nest.phases
    body = tuple(replace(i, index=i.index + start * i.index.coefficient(axis.name)) for i in phase.body)
    return replace(nest, axes=(replace(axis, extent=count),), phases=(replace(phase, body=body),))


def _passes(nest: LoopNest, number: int) -> bool:
    """Whether a buffer is large, mostly written here, in whole lines alone if it begins with one, and not read."""
    buffer = nest.buffers[number]
    if buffer.scratch or min(buffer.size, 2 * points(nest)) * buffer.dtype.itemsize < PAST:
        return False
    uses = [(p, i) for p in nest.phases for i in p.body if i.buffer == number]
    return bool(uses) and all(i.op == "store" and _whole_lines(nest, p, i) for p, i in uses)


def _whole_lines(nest: LoopNest, phase: Phase, inst: Inst) -> bool:
    size = inst.dtype.itemsize
    vector, lanes = (phase.vector, phase.lanes) if phase.vector else (nest.vector, nest.lanes)
    if vector is None or inst.attrs["mode"] != "set" or inst.guard is not None or inst.dtype.kind == "c":
        return False
    along = vector
    if nest.turned is not None and lies_across(inst, vector, nest.turned):
        along = nest.turned
    axes = {a.name: a for a in nest.all_axes()}
    if inst.index.coefficient(along) != 1 or axes[along].extent % lanes or lanes * size % LINE:
        return False
    far = [c for key, c in inst.index.terms if key != along]
    return not _computed(inst) and all(c * size % LINE == 0 for c in (*far, inst.index.const))


def ahead(nest: LoopNest, phase: Phase) -> dict[int, int]:
    """Loads of large operands by vectors that go from row to row, or along many rows at a time: how many elements ahead
    is what to ask for."""
    if nest.turned is not None:
        across = [i for i in phase.body if i.op == "load" and nest.past and _is_large(nest, i) and i.guard is None]
        return {i.id: _RUN // i.dtype.itemsize for i in across if not _computed(i)}
    if phase.vector is not None:
        return _jumping(nest, phase, phase.vector)
    if nest.vector is None:
        return {}
    if not phase.axes:
        return _along(nest, phase)
    along, found = phase.axes[-1], {}
    for inst in phase.body:
        if inst.op != "load" or inst.guard is not None or inst.index.coefficient(nest.vector) != 1:
            continue
        step = inst.index.coefficient(along.name)
        large = _is_large(nest, inst) and along.trips > 2 * _ROWS
        if large and not _computed(inst) and step * inst.dtype.itemsize >= _STEP:
            found[inst.id] = _ROWS * step
    return found


def _jumping(nest: LoopNest, phase: Phase, vector: str) -> dict[int, int]:
    """The large operands of a reduction that are read in short runs, which come back to go on where they ended."""
    inner = next(a for a in phase.axes if a.name == vector)
    loads = [i for i in phase.body if i.op == "load" and i.guard is None and i.index.coefficient(vector) == 1]
    if len(phase.axes) < 2 or not phase.accumulators:
        return {}
    found = [i for i in loads if _is_large(nest, i) and not _computed(i)]
    page = 2 * _STEP
    return {i.id: (page if inner.extent * i.dtype.itemsize >= page else _STEP) // i.dtype.itemsize for i in found}


def _along(nest: LoopNest, phase: Phase) -> dict[int, int]:
    """The large operands of an elementwise nest that are read in short runs, or in order where there are several or
    much is done with each: too few instructions are then under way to reach far ahead."""
    loads = [
        i for i in phase.body
        if i.op == "load" and i.guard is None and i.index.coefficient(nest.vector or "") == 1 and _is_large(nest, i)
    ]  # fmt: skip
    cost = sum(op_cost(i.op) for i in phase.body if i.op not in ("load", "store", "const", "index"))
    if len(nest.phases) > 1 or phase.accumulators:
        return {}
    found = {}
    if len(nest.axes) > 1:
        outer, inner = nest.axes[-2:]
        jumps = [i for i in loads if i.index.coefficient(outer.name) >= _JUMP * inner.extent]
        found.update({i.id: _STEP // i.dtype.itemsize for i in jumps if not _computed(i)})
    if len({i.buffer for i in loads}) + (cost >= _LONG) >= 2:
        found.update({i.id: _NEAR // i.dtype.itemsize for i in loads if i.id not in found and not _computed(i)})
    return found


def _is_large(nest: LoopNest, inst: Inst) -> bool:
    buffer = nest.buffers[inst.buffer]
    return buffer.size * buffer.dtype.itemsize >= FAR


def _computed(inst: Inst) -> bool:
    """Whether the place depends on values."""
    return any(isinstance(key, int) for key, _ in inst.index.terms)

"""Calls whose written arrays overlap others in memory: the pattern of the overlap, and a compilation made for it.

Note [Overlapping inputs]
Where a function writes to an input, and inputs share memory, what it reads depends on how they do. Such inputs form a
group: one stretch of memory, in which each of them has an offset and strides. The pattern of all groups is part of the
key of the compilation. The trace gets one more parameter per group, the stretch as a line, and hands out a view of it
for each member, read and written through index arithmetic, as NumPy would have them alias. At a call the stretch is
packed from the members, and unpacked into those that were written once the whole call has succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import MutationError
from nufunc.ir.graph import Value
from nufunc.ir.types import INT64, ArrayType
from nufunc.runtime.executable import Executable, Program
from nufunc.runtime.signatures import Input
from nufunc.tracer.array import Array, DynamicView
from nufunc.tracer.layout import canonical
from nufunc.tracer.trace import Trace


@dataclass(frozen=True)
class Member:
    """An input that lies in a stretch: which one, where its first element is, its strides in elements."""

    index: int
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]

    def within(self, line: Any) -> Any:
        """The elements of the member in a stretch."""
        step = line.itemsize
        if not isinstance(line, np.ndarray):  # on a device
            return line.view_of(self.shape, tuple(s * step for s in self.strides), self.offset * step)
        return np.ndarray(self.shape, line.dtype, line, self.offset * step, tuple(s * step for s in self.strides))


class Group(NamedTuple):
    """Inputs that lie in one stretch of so many elements, on a device where it says which."""

    type: ArrayType
    members: tuple[Member, ...]
    device: int | None = None

    def packed(self, values: Sequence[Any]) -> Any:
        """A copy of the stretch; what lies between the members is zero, or on a device what is there."""
        if self.device is not None:
            first = self.members[0]
            array = values[first.index]
            step = array.itemsize
            return array.view_of((self.type.size,), (step,), -first.offset * step).copy()
        line = np.zeros(self.type.size, self.type.dtype)
        for member in self.members:
            member.within(line)[...] = values[member.index]
        return line


Pattern = tuple[Group, ...]


def overlap_of(program: Program, written: Sequence[int], values: Sequence[Any]) -> Pattern:
    """The groups of inputs that share memory with an input that is written; empty for almost all calls."""
    kinds: Any = np.ndarray
    share: Any = np.may_share_memory
    if program.device is not None:
        from nufunc.runtime.cuda.entry import DeviceArray, overlap

        kinds, share = np.ndarray | DeviceArray, overlap
    arrays = {k: v for k, v in enumerate(values) if isinstance(v, kinds) and v.size}
    groups: list[set[int]] = []
    for k in written:
        if k not in arrays or any(k in group for group in groups):
            continue
        group, new = {k}, [k]
        while new:
            one = arrays[new.pop()]
            found = [j for j, other in arrays.items() if j not in group and share(one, other)]
            group.update(found)
            new += found
        if len(group) > 1:
            groups.append(group)
    return tuple(_group(program, sorted(group), arrays) for group in groups)


def _bounds(x: Any) -> tuple[int, int, int]:
    """The lowest address of an array, the one behind its highest, and that of its first element."""
    if isinstance(x, np.ndarray):
        return (*np.lib.array_utils.byte_bounds(x), x.__array_interface__["data"][0])
    low, high = x.layout.bounds
    return x.address + low, x.address + high, x.address


def _group(program: Program, group: Sequence[int], arrays: dict[int, Any]) -> Group:
    first = arrays[group[0]]
    size = first.itemsize
    bounds = [_bounds(arrays[k]) for k in group]
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    members = []
    for k in group:
        x = arrays[k]
        address = _bounds(x)[2] - low
        if x.dtype != first.dtype or not x.dtype.isnative or any(n % size for n in (address, *x.strides)):
            raise MutationError(
                f"{program.name} writes in place to {program.sources[group[0]]}, whose memory overlaps "
                f"{program.sources[group[1]]} with other elements; pass a copy of one of them"
            )
        members.append(Member(k, x.shape, address // size, tuple(s // size for s in x.strides)))
    line = ArrayType(((high - low) // size,), first.dtype.newbyteorder("="))
    return Group(line, tuple(members), None if isinstance(first, np.ndarray) else first.device.index)


class Stretches:
    """The parameters of one trace for the groups of a pattern, and the views of them that stand for inputs."""

    def __init__(self, trace: Trace, pattern: Pattern) -> None:
        self.trace = trace
        self.lines = [trace.param(group.type) for group in pattern]
        self.places = {
            m.index: (line, m) for line, group in zip(self.lines, pattern, strict=True) for m in group.members
        }
        self.written: set[int] = set()
        self.inputs = [Input("array", group.type, None, group.device) for group in pattern]

    def stand_in(self, index: int, given: Array) -> Array:
        """The view of a stretch for an input; other inputs are `given` themselves."""
        if index not in self.places:
            return given
        line, member = self.places[index]

        def read(trace: Trace, base: Array) -> Value:
            b = trace.b
            return b.gather(trace.lift(base), _index(b, member), axes=(0,), mode="clip")

        def store(trace: Trace, base: Array, updated: Value) -> None:
            self.written.add(index)
            b = trace.b
            whole = b.scatter_set(trace.lift(base), updated, _index(b, member), axes=(0,), mode="clip")
            trace.write(base, whole)

        with self.trace:
            value = read(self.trace, line)
        strides = canonical(member.shape, member.strides)
        view = Array(self.trace, value, base=line, via=DynamicView(read, store), strides=strides)
        self.trace.remember(view, value)
        return view


def _index(b: Builder, member: Member) -> Value:
    """The place of each element of a member in its stretch."""
    shape = member.shape
    index = b.filled(member.offset, ArrayType(shape, INT64))
    for axis, stride in enumerate(member.strides):
        if stride and shape[axis] > 1:
            steps = b.iota(shape=shape, dtype=INT64, axis=axis)
            index = b.add(index, b.mul(steps, b.filled(stride, steps.type)))
    return index


def _copy(target: Any, source: Any) -> None:
    if isinstance(target, np.ndarray):
        np.copyto(target, source)
        return
    from nufunc.runtime.cuda.strided import copy_into

    copy_into(target, source)


def run_overlapping(
    executable: Executable, pattern: Pattern, values: Sequence[Any], outs: Sequence[np.ndarray] = ()
) -> list[Any]:
    """The results for inputs that overlap like this; written members are changed once the whole call has succeeded."""
    for k in executable.stored:
        target = values[k]
        if target.readonly if hasattr(target, "readonly") else not target.flags.writeable:
            raise ValueError(f"assignment destination is read-only ({executable.sources[k]} of {executable.name})")
    lines = [group.packed(values) for group in pattern]
    results = executable.run([*values, *lines], outs)
    for line, group in zip(lines, pattern, strict=True):
        for member in group.members:
            if member.index in executable.stored:
                _copy(values[member.index], member.within(line))
    return results

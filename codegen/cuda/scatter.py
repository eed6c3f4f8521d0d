"""Kernels of scattered writes: where several elements have one target, the order of NumPy decides, in every run.

Note [Scattered writes]
An element's `key` is the address of its target, without what the window adds. Keys are sorted stably with the numbers
of their elements, so that those of one target stand in a row, in NumPy's order. Of a row the first one does the work:
it adds all of them one after the other to what is there, or stores the last. Long rows are cut at multiples of 32, of
32 times 32, and so on: other threads have added what such a chunk has of a row that it begins in the midst of, each
from at most 32 sums of smaller chunks, so that no thread adds many. Integers are added by atomic operations, whose
order does not matter. Few elements are done by one thread for each point of the window.

The last of several stores needs no order where there are not many more targets than elements: each target notes the
greatest number of an element that goes there, by atomic operations, and that element alone is stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nufunc.codegen.cuda.sorting import Lines
from nufunc.codegen.cuda.writer import BLOCKS, CudaWriter, Kernel, named, parallel
from nufunc.codegen.loops import Affine, Buffer, Inst, LoopNest
from nufunc.codegen.nest_builder import Sites
from nufunc.codegen.text_scalars import expression, number
from nufunc.ir.types import ArrayType

_FEW = 16  # elements that one thread adds
_CHUNK = 32  # elements, or smaller chunks, of a chunk
_SPARSE, _SMALL = 16, 1 << 16  # targets for each element, and targets, up to which they are numbered one by one


def scatter_kernels(
    nest: LoopNest, name: str, sites: Sites | None, threads: int, few: int = _FEW
) -> list[Kernel] | None:
    """The kernels of a nest that writes scattered elements, which have the same buffers; None where the nest is no
    such, or where its elements are few."""
    store = _scattered(nest)
    serial = [a for a in nest.axes if a.kind == "serial"]
    count = math.prod(a.extent for a in serial)
    if store is None or count <= few:
        return None
    if store.attrs["mode"] == "add" and store.dtype.kind in "iu" and store.dtype.itemsize >= 4:
        return [_Writer(nest, store, sites, threads).kernel(name, "atomic")]
    if store.attrs["mode"] == "set":
        writer = _Writer(nest, store, sites, threads)
        if writer.numbered():
            writer.scratch = (Buffer("part0", np.dtype(np.int32), writer.targets, True),)
            names = {"none": f"{name}_none", "latest": f"{name}_last", "won": name}
            return [writer.kernel(own, what) for what, own in names.items()]
    writer = _Writer(nest, store, sites, threads)
    writer.sort_keys()
    made = [writer.kernel(f"{name}_keys", "keys"), *writer.sorting(f"{name}_order")]
    if store.attrs["mode"] == "set":
        return [*made, writer.kernel(name, "last")]
    for level, unit in enumerate(writer.units):
        writer.chunk_level = level
        made.append(writer.kernel(f"{name}_sums{unit}", "sums"))
    return [*made, writer.kernel(name, "row")]


def _scattered(nest: LoopNest) -> Inst | None:
    """The only store of a nest of one element per point, if its serial axes alone decide where it goes."""
    serial = {a.name for a in nest.axes if a.kind == "serial"}
    if len(nest.phases) != 1 or nest.phases[0].axes or nest.phases[0].accumulators or not serial:
        return None
    body = nest.phases[0].body
    stores = [i for i in body if i.op == "store"]
    if len(stores) != 1 or stores[0].guard is not None or any(b.scratch for b in nest.buffers):
        return None
    axes = _axes_of(body)
    places = [key for key, _ in stores[0].index.terms if isinstance(key, int)]
    return stores[0] if places and all(axes[p] <= serial for p in places) else None


def _axes_of(body: Iterable[Inst]) -> dict[int, frozenset[str]]:
    """The axes that each value depends on."""
    axes: dict[int, frozenset[str]] = {}
    for inst in body:
        own = {k for k, _ in inst.index.terms if isinstance(k, str)}
        axes[inst.id] = frozenset(own.union(*(axes[u] for u in inst.uses())))
    return axes


class _Writer(CudaWriter):
    """Writes the kernels of one nest; see Note [Scattered writes]."""

    def __init__(self, nest: LoopNest, store: Inst, sites: Sites | None, threads: int) -> None:
        super().__init__(nest, named(nest), sites, threads)
        self.target = store
        self.windows = list(parallel(nest.axes))
        self.serial = [a for a in nest.axes if a.kind == "serial"]
        self.axes = _axes_of(nest.phases[0].body)
        self.size = math.prod(a.extent for a in self.windows)
        self.count = math.prod(a.extent for a in self.serial)
        self.units: list[int] = []  # elements of chunks, level by level
        self.chunk_level = 0
        names = {a.name for a in self.windows}
        terms = store.index.terms
        self.offset = Affine(0, tuple(t for t in terms if t[0] in names))
        self.key = Affine(store.index.const, tuple(t for t in terms if t[0] not in names))
        self.scratch: tuple[Buffer, ...] = ()
        first = {i.id for i in nest.phases[0].body if self.axes[i.id] <= names}
        places = self._needed(k for k, _ in self.key.terms if isinstance(k, int))
        values = self._needed(store.args)
        body = [i for i in nest.phases[0].body if i.op != "store"]
        self.of_key = [i for i in body if i.id in places]
        self.of_window = [i for i in body if i.id in values and i.id in first]
        self.of_element = [i for i in body if i.id in values and i.id not in first]

    def _needed(self, values: Iterable[int]) -> set[int]:
        needed = set(values)
        for inst in reversed(self.nest.phases[0].body):
            if inst.id in needed:
                needed.update(inst.uses())
        return needed

    def sort_keys(self) -> None:
        """Scratch memory for keys, order, what sorting needs, and sums of chunks; the names are none that a user's
        array gets."""
        keys = np.dtype(np.int32 if self.nest.buffers[self.target.buffer].size < 2**31 else np.int64)
        self.sorted = Lines.of("argsort", ArrayType((self.count,), keys), 0, self.threads)
        own = [Buffer("part0", keys, self.count, True), Buffer("part1", np.dtype(np.int64), self.count, True)]
        sorting = [Buffer(f"part{k}", b.dtype, b.size, True) for k, b in enumerate(self.sorted.scratch, 2)]
        if self.target.attrs["mode"] == "add":
            powers = itertools.takewhile(lambda unit: unit < self.count, (_CHUNK**k for k in itertools.count(1)))
            self.units = list(powers)
        sums = [
            Buffer(f"part1{k}", self.target.dtype, -(-self.count // unit) * self.size, True)
            for k, unit in enumerate(self.units)
        ]
        self.scratch = (*own, *sorting, *sums)

    # -- kernels

    def kernel(self, name: str, what: str) -> Kernel:
        self.lines = list[str]()
        points: int = getattr(self, "_" + what)()
        blocks = -(-points // self.threads)
        return self._made(name, self.names, [s.name for s in self.scratch], self.lines, blocks, self.threads)

    def sorting(self, name: str) -> list[Kernel]:
        """The kernels that sort keys; the nest's own arrays, which they do not touch, are numbers to them."""
        others = [f"_{k}" for k in range(len(self.nest.buffers))]
        scratch = ["x", "y", *(b.name for b in self.sorted.scratch)]
        scratch += [s.name for s in self.scratch[len(scratch) :]]
        return [
            self._made(
                name + part.suffix, others, scratch, ["    " + t for t in part.text], part.blocks, self.sorted.threads
            )
            for part in self.sorted.parts()
        ]

    def _made(
        self, name: str, names: Sequence[str], scratch: Sequence[str], lines: list[str], blocks: int, threads: int
    ) -> Kernel:
        source = "\n".join((f"def {name}({', '.join((*names, *scratch, 'error'))}):", *lines)) + "\n"
        buffers = (*self.nest.buffers, *self.scratch)
        return Kernel(name, source, buffers, len(self.scratch), min(max(blocks, 1), BLOCKS), threads)

    def _keys(self) -> int:
        self._over(self.count)
        self.split(self.serial, "point")
        self._insts(self.of_key)
        self.line(f"part0[point] = {self.scratch[0].dtype.name}({self.affine(self.key)})")
        return self.count

    def _atomic(self) -> int:
        self._over(self.count * self.size)
        self._window()
        self._insts([*self.of_window])
        self._element(f"point // {self.size}", key=True)
        place = self.affine(self.target.index)
        self.line(f"cuda.atomic.add({self.names[self.target.buffer]}, {place}, {self.value(self.target.args[0])})")
        return self.count * self.size

    @property
    def unit(self) -> int:
        """What all keys are multiples of, beside a constant."""
        return math.gcd(*(c for _, c in self.key.terms))

    @property
    def targets(self) -> int:
        """Places that keys may have, in units."""
        return -(-self.nest.buffers[self.target.buffer].size // self.unit)

    def numbered(self) -> bool:
        """Whether targets are numbered one by one."""
        plain = self.key.const == 0 and all(c > 0 for _, c in self.key.terms)
        return plain and self.targets <= max(_SPARSE * self.count, _SMALL) and self.count < 2**31

    def _number(self) -> str:
        """The number of a target."""
        return f"({self.affine(Affine(0, self.key.terms))}) // {self.unit}"

    def _none(self) -> int:
        self._over(self.targets)
        self.line("part0[point] = -1")
        return self.targets

    def _latest(self) -> int:
        """Each target notes the last element."""
        self._over(self.count)
        self.split(self.serial, "point")
        self._insts(self.of_key)
        self.line(f"cuda.atomic.max(part0, {self._number()}, int32(point))")
        return self.count

    def _won(self) -> int:
        """The elements that were noted are stored."""
        self._over(self.count * self.size)
        self.line(f"item = point // {self.size}")
        self.split(self.serial, "item")
        self._insts(self.of_key)
        self.line(f"source = part0[{self._number()}]")
        self._if("source == item", self._store_won)
        return self.count * self.size

    def _store_won(self) -> None:
        self._window()
        done = {i.id for i in self.of_key}
        self._insts(i for i in (*self.of_window, *self.of_element) if i.id not in done)
        self.store(self.target)

    def _last(self) -> int:
        """The last element of each row is stored."""
        self._over(self.count * self.size)
        self.line(f"item = point // {self.size}")
        self.line("source = part1[item]")
        self.line("key = part0[source]")
        self.line(f"same = item + 1 < {self.count}")
        self._if("same", lambda: self.line("same = part0[part1[item + 1]] == key"))
        self._if("not same", self._store_last)
        return self.count * self.size

    def _store_last(self) -> None:
        self._window()
        self._insts(self.of_window)
        self._element("source")
        value = self.stored(self.value(self.target.args[0]), self.target.dtype)
        self.line(f"{self._place()} = {value}")

    def _row(self) -> int:
        """The first element of each row adds all of them."""
        self._over(self.count * self.size)
        self.line(f"first = point // {self.size}")
        self.line("key = part0[part1[first]]")
        self.line("inside = first == 0")
        self._if("not inside", lambda: self.line("inside = part0[part1[first - 1]] != key"))
        self._if("inside", self._add_row)
        return self.count * self.size

    def _add_row(self) -> None:
        self._window()
        self._insts(self.of_window)
        dtype = self.target.dtype
        there = self._place()
        self.line(f"a0 = {f'({there} != 0)' if dtype.kind == 'b' else there}")
        self.line("item = first")
        smallest = self.units[0] if self.units else self.count
        self.line(f"width = min({self.count}, first // {smallest} * {smallest} + {smallest})")
        self._sum()
        if self.units:
            self._same_behind("item == width and ")
        for level, unit in enumerate(self.units):
            larger = self.units[level + 1] if level + 1 < len(self.units) else None
            further = "same" if larger is None else f"same and item % {larger} != 0"
            self.line(f"inside = {further}")
            self.line("while inside:")
            self.depth += 1
            self._add(self._chunk_sum(level))
            self.line(f"item = item + {unit}")
            self._same_behind()
            self.line(f"inside = {further}")
            self.depth -= 1
        self.line(f"{there} = {self.stored('a0', dtype)}")

    def _sums(self) -> int:
        """For each chunk of a level that begins in the midst of a row, the sum of those of its elements that belong to
        the row."""
        unit = self.units[self.chunk_level]
        points = -(-self.count // unit) * self.size
        self._over(points)
        self.line(f"first = point // {self.size} * {unit}")
        self.line("key = part0[part1[first]]")
        self.line("inside = first > 0")
        self._if("inside", lambda: self.line("inside = part0[part1[first - 1]] == key"))
        self._if("inside", self._sum_chunk)
        return points

    def _sum_chunk(self) -> None:
        dtype, level = self.target.dtype, self.chunk_level
        self._window()
        self._insts(self.of_window)
        self.line(f"a0 = {number(0, dtype)}")
        self.line("item = first")
        self.line(f"width = min({self.count}, first + {self.units[level]})")
        if level:
            self.line("same = True")
            self.line("while same:")
            self.depth += 1
            self._add(self._chunk_sum(level - 1))
            self.line(f"item = item + {self.units[level - 1]}")
            self._same_behind("item < width and ")
            self.depth -= 1
        else:
            self._sum()
        self.line(f"part1{level}[point] = {self.stored('a0', dtype)}")

    def _chunk_sum(self, level: int) -> str:
        text = f"part1{level}[item // {self.units[level]} * {self.size} + point % {self.size}]"
        return f"({text} != 0)" if self.target.dtype.kind == "b" else text

    def _same_behind(self, test: str = "") -> None:
        """`same`: whether there is an element at `item` and it is of the row."""
        self.line(f"same = {test}item < {self.count}")
        self._if("same", lambda: self.line("same = part0[part1[item]] == key"))

    # -- pieces

    def _over(self, points: int) -> None:
        self.depth = 1
        self.line(f"for point in range({self.first('cuda.grid(1)')}, {points}, cuda.gridsize(1)):")
        self.depth = 2

    def _if(self, test: str, then: Callable[[], None]) -> None:
        self.line(f"if {test}:")
        self.depth += 1
        then()
        self.depth -= 1

    def _window(self) -> None:
        """The axes of the window, the last one fastest from thread to thread."""
        self.line(f"block = point % {self.size}")
        self.split(self.windows, "block")

    def _element(self, source: str, key: bool = False) -> None:
        self.line(f"thread = {source}")
        self.split(self.serial, "thread")
        done = {i.id for i in self.of_window}
        of_key = [i for i in self.of_key if key and i.id not in done]
        done.update(i.id for i in of_key)
        self._insts(of_key)
        self._insts([i for i in self.of_element if i.id not in done])

    def _sum(self) -> None:
        """Add the elements from `item` on to `a0`, as long as they are of the row and before `width`."""
        self.line("same = True")
        self.line("while same:")
        self.depth += 1
        self._element("part1[item]")
        self._add(self.value(self.target.args[0]))
        self.line("item = item + 1")
        self.line("same = item < width")
        self._if("same", lambda: self.line("same = part0[part1[item]] == key"))
        self.depth -= 1

    def _add(self, value: str) -> None:
        dtype = self.target.dtype
        self.line(f"a0 = {expression('add', ('a0', value), (dtype, dtype), dtype, {})}")

    def _insts(self, insts: Iterable[Inst]) -> None:
        for inst in insts:
            self.inst(self.nest.phases[0], inst)

    def _place(self) -> str:
        offset = self.affine(self.offset)
        return f"{self.names[self.target.buffer]}[key{'' if offset == '0' else f' + {offset}'}]"

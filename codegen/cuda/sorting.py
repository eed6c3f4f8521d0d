"""sort and argsort on a device: tiles sorted in shared memory by a bitonic network, longer lines merged from them.

Lines along the axis are compared by keys, signed or unsigned integers of NumPy's order: NaN is the largest, both zeros
are one. Beside a key goes its place in the line, which decides between equal keys: so the network, which moves equal
elements past each other, gives the stable order, and values need not be carried along. Merging never asks for places,
as those of the left run are the smaller ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nufunc.codegen.cuda.writer import BLOCKS, NARROW, Kernel
from nufunc.codegen.loops import Buffer
from nufunc.codegen.text_scalars import BITS, type_text
from nufunc.ir.types import INT64, ArrayType

_TILE = 2048  # elements that one block sorts, at most
_WARP = 32


def sort_kernels(
    prim: str, type_: ArrayType, axis: int, name: str, threads: int = 256, tile: int = _TILE
) -> list[Kernel]:
    """The kernels of `sort` or `argsort` of an array, to be launched in order.

    All have the same buffers: the operand, the result (which does not overlap it), and then `scratch` ones of
    workspace, as the kernels of a nest do. There are none for an array without elements.
    """
    if type_.size == 0:
        return []
    lines = Lines.of(prim, type_, axis, threads, tile)
    x = Buffer("x", type_.dtype, type_.size)
    y = Buffer("y", INT64 if prim == "argsort" else type_.dtype, type_.size, written=True)
    buffers = (x, y, *lines.scratch)
    head = ", ".join((*(b.name for b in buffers), "error"))
    made = []
    for part in lines.parts():
        source = "\n".join((f"def {name}{part.suffix}({head}):", *("    " + text for text in part.text))) + "\n"
        blocks = min(part.blocks, BLOCKS)
        made.append(Kernel(name + part.suffix, source, buffers, len(lines.scratch), blocks, lines.threads))
    return made


class Part(NamedTuple):
    """The text of one kernel over the buffers x, y and the scratch memory, indented by nothing."""

    suffix: str
    text: list[str]
    blocks: int


@dataclass(frozen=True)
class Lines:
    """The lines of an array along an axis; `tile` is a power of two."""

    prim: str
    type: ArrayType
    axis: int
    threads: int
    tile: int

    @staticmethod
    def of(prim: str, type_: ArrayType, axis: int, threads: int, tile: int = _TILE) -> Lines:
        tile = min(tile, max(2, 1 << (type_.shape[axis] - 1).bit_length()))
        pairs = type_.size // type_.shape[axis] * tile // 2
        threads = min(threads, max(_WARP, 1 << (pairs - 1).bit_length()))
        return Lines(prim, type_, axis, threads, tile)

    @property
    def length(self) -> int:
        return self.type.shape[self.axis]

    @property
    def inner(self) -> int:
        """The distance of neighbours in a line, the number of lines that lie between each other."""
        return math.prod(self.type.shape[self.axis + 1 :])

    @property
    def count(self) -> int:
        return self.type.size // self.length

    @property
    def place_dtype(self) -> np.dtype:
        return np.dtype(np.int32 if self.length < 2**31 - self.tile else np.int64)

    @property
    def widths(self) -> list[int]:
        """Of the runs that are merged, one pass after the other."""
        return [self.tile << k for k in range((-(-self.length // self.tile) - 1).bit_length())]

    @property
    def scratch(self) -> list[Buffer]:
        """Keys and places, twice where more than one pass goes from the one to the other."""
        kinds = (("keys", _key_dtype(self.type.dtype)), ("places", self.place_dtype))
        sets = range(min(len(self.widths), 2))
        return [Buffer(f"{word}{k}", dtype, self.type.size, written=True) for k in sets for word, dtype in kinds]

    def parts(self) -> list[Part]:
        if not self.widths:
            return [Part("", self._short(), -(-self.count // self._together()))]
        tiles = self.count * -(-self.length // self.tile)
        made = [Part("_tiles", self._tiles(tiles), tiles)]
        for k, width in enumerate(self.widths):
            text = self._merge(width, k % 2, last=k == len(self.widths) - 1)
            made.append(Part(f"_merge{width}", text, tiles))
        return made

    # -- text

    def _first(self, text: str) -> str:
        """A number that is counted from: of 64 bits where there are many elements."""
        return f"int64({text})" if self.type.size >= NARROW else text

    def _at(self, line: str, place: str) -> str:
        """The address of an element of a line."""
        if self.inner == 1:
            return f"{line} * {self.length} + {place}"
        return f"{line} // {self.inner} * {self.length * self.inner} + {line} % {self.inner} + {place} * {self.inner}"

    def _result(self, line: str, place: str, source: str) -> str:
        """Write the element that was at `source` of a line to its place."""
        value = f"int64({source})" if self.prim == "argsort" else f"x[{self._at(line, source)}]"
        if self.prim == "sort" and self.type.dtype.kind == "b":
            value = f"uint8({value} != 0)"
        return f"y[{self._at(line, place)}] = {value}"

    def _together(self) -> int:
        """Short lines that one block sorts at a time."""
        return max(1, 2 * self.threads // self.tile)

    def _memory(self, size: int) -> list[str]:
        key, place = _key_dtype(self.type.dtype).name, self.place_dtype.name
        return [
            f"key = cuda.shared.array({size}, {key})",
            f"place = cuda.shared.array({size}, {place})",
            "thread = cuda.threadIdx.x",
        ]

    def _network(self, size: int) -> list[str]:
        """Sort each stretch of `tile` elements in shared memory; begins and ends with a barrier."""
        return [
            "cuda.syncthreads()",
            "size = 2",
            f"while size <= {self.tile}:",
            "    step = size // 2",
            "    while step > 0:",
            f"        for pair in range(thread, {size // 2}, {self.threads}):",
            "            i = pair // step * (2 * step) + pair % step",
            "            j = i + step",
            "            own = key[i]",
            "            other = key[j]",
            "            greater = own > other or (own == other and place[i] > place[j])",
            f"            upwards = i & size == 0 or size == {self.tile}",
            "            if greater == upwards:",
            "                key[i] = other",
            "                key[j] = own",
            "                moved = place[i]",
            "                place[i] = place[j]",
            "                place[j] = moved",
            "        cuda.syncthreads()",
            "        step = step // 2",
            "    size = size * 2",
        ]

    def _fill(self, known: str, line: str, at: str) -> list[str]:
        """Take an element, or if `known` does not hold what is sorted behind all."""
        dtype = self.type.dtype
        return [
            f"if {known}:",
            f"    v = x[{self._at(line, at)}]",
            *("    " + text for text in _key(dtype)),
            "    key[k] = number",
            "else:",
            f"    key[k] = {np.iinfo(_key_dtype(dtype)).max}",
            f"place[k] = {at}",
        ]

    def _short(self) -> list[str]:
        """Lines that fit into a tile: as many of them at a time as there is room for."""
        together, tile = self._together(), self.tile
        size = together * tile
        where = ["line = first + k // {t}", "at = k % {t}"]
        if self.inner > 1:  # neighbouring threads read neighbours: those of other lines
            where = ["line = first + item % {n}", "at = item // {n}", "k = item % {n} * {t} + at"]
        where = [text.format(t=tile, n=together) for text in where]
        over = f"for {'item' if self.inner > 1 else 'k'} in range(thread, {size}, {self.threads}):"
        known = f"at < {self.length} and line < {self.count}"
        body = [
            f"first = tile * {together}",
            over,
            *("    " + text for text in (*where, *self._fill(known, "line", "at"))),
            *self._network(size),
            over,
            *("    " + text for text in where),
            f"    if {known}:",
            "        source = place[k]",
            f"        {self._result('line', 'at', 'source')}",
            "cuda.syncthreads()",
        ]
        tiles = -(-self.count // together)
        loop = f"for tile in range({self._first('cuda.blockIdx.x')}, {tiles}, cuda.gridDim.x):"
        return [*self._memory(size), loop, *("    " + text for text in body)]

    def _tiles(self, tiles: int) -> list[str]:
        """Sort the tiles of long lines, to `keys0` and `places0`."""
        each = -(-self.length // self.tile)
        over = f"for k in range(thread, {self.tile}, {self.threads}):"
        body = [
            f"line = tile // {each}",
            f"first = tile % {each} * {self.tile}",
            over,
            "    at = first + k",
            *("    " + text for text in self._fill(f"at < {self.length}", "line", "at")),
            *self._network(self.tile),
            over,
            f"    if first + k < {self.length}:",
            f"        to = line * {self.length} + first + k",
            "        keys0[to] = key[k]",
            "        places0[to] = place[k]",
            "cuda.syncthreads()",
        ]
        loop = f"for tile in range({self._first('cuda.blockIdx.x')}, {tiles}, cuda.gridDim.x):"
        return [*self._memory(self.tile), loop, *("    " + text for text in body)]

    def _merge(self, width: int, source: int, last: bool) -> list[str]:
        """Merge runs of `width` pairwise. A block finds by bisection what comes from either run to its part of the
        result; each element then finds its place among those of the other run. Of equal keys the left one goes
        first."""
        n, each = self.length, -(-self.length // self.tile)
        keys, places = f"keys{source}", f"places{source}"
        take = [f"from_ = {places}[base + taken]", self._result("line", "out", "from_")]
        if not last:
            take = [f"{word}{1 - source}[base + out] = {word}{source}[base + taken]" for word in ("keys", "places")]
        taken = "taken = (start + left if k < lefts else origin) + k"
        body = [
            f"line = tile // {each}",
            f"base = line * {n}",
            f"first = tile % {each} * {self.tile}",
            f"start = first // {2 * width} * {2 * width}",
            f"middle = min(start + {width}, {n})",
            f"stop = min(start + {2 * width}, {n})",
            "before = first - start",
            f"behind = min(before + {self.tile}, stop - start)",
            *_cut(keys, "before"),
            "left = low",
            *_cut(keys, "behind"),
            "lefts = low - left",
            "total = behind - before",
            "origin = middle + before - left - lefts",
            f"for k in range(thread, total, {self.threads}):",
            f"    {taken}",
            f"    key[k] = {keys}[base + taken]",
            "cuda.syncthreads()",
            f"for k in range(thread, total, {self.threads}):",
            "    own = key[k]",
            "    of_left = k < lefts",
            "    low = lefts if of_left else 0",
            "    high = total if of_left else lefts",
            "    while low < high:",
            "        half = (low + high) // 2",
            "        other = key[half]",
            "        if other < own or (other == own and not of_left):",
            "            low = half + 1",
            "        else:",
            "            high = half",
            "    out = first + k + low - lefts",
            f"    {taken}",
            *("    " + text for text in take),
            "cuda.syncthreads()",
        ]
        loop = f"for tile in range({self._first('cuda.blockIdx.x')}, {self.count * each}, cuda.gridDim.x):"
        key = f"key = cuda.shared.array({self.tile}, {_key_dtype(self.type.dtype).name})"
        return [key, "thread = cuda.threadIdx.x", loop, *("    " + text for text in body)]


def _cut(keys: str, before: str) -> list[str]:
    """`low`: how many of the first `before` elements of a merged pair come from the left run."""
    return [
        f"low = max(0, {before} - (stop - middle))",
        f"high = min({before}, middle - start)",
        "while low < high:",
        "    half = (low + high) // 2",
        f"    if {keys}[base + (start + half)] <= {keys}[base + (middle + {before} - 1 - half)]:",
        "        low = half + 1",
        "    else:",
        "        high = half",
    ]


def _key_dtype(dtype: np.dtype) -> np.dtype:
    if dtype.itemsize == 8:
        return np.dtype(np.uint64 if dtype.kind == "u" else np.int64)
    return np.dtype(np.uint32 if dtype == np.uint32 else np.int32)


def _key(dtype: np.dtype) -> list[str]:
    """`number`, of the same order as `v`."""
    key = _key_dtype(dtype)
    if dtype.kind == "b":
        return ["number = int32(1 if v != 0 else 0)"]
    if dtype.kind in "iu":
        return [f"number = {key.name}(v)"]
    wide = "v" if dtype.itemsize == key.itemsize else f"float{8 * key.itemsize}(v)"
    return [
        f"number = {BITS[f'i{key.itemsize}']}({wide})",
        "if number < 0:",
        f"    number = {type_text(key)}(number ^ {np.iinfo(key).max})",
        "if v == 0:",
        f"    number = {type_text(key)}(0)",
        "if v != v:",
        f"    number = {type_text(key)}({np.iinfo(key).max})",
    ]

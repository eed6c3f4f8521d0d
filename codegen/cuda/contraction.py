"""Sums of products by a kernel of our own: products and convolutions of any form, in tiles of shared memory.

Note [Contractions]
Every array has letters, as in einsum, each with a stride. A letter belongs to the batch, to the rows (free in the left
operand), to the columns (free in the right one), or is summed over. A tile of rows and columns belongs to a block; it
goes through the summed letters by `depth`, of which both operands' parts stand in shared memory, zeros where there is
nothing; each thread has some rows and columns of the tile in registers, and reads neighbouring ones at once. What a
step needs is brought to registers during the step before. A convolution is the same with windows: where a letter p of
the result and k of the kernel meet, the other operand is read at q (Note [Convolution as a trilinear form] in
ir/prims/conv.py), or zero. Where there are few tiles and much to sum, parts of the sum are left apart and added up in
order, so that results do not depend on the device. Halves become float32 on their way to shared memory, and sums are
rounded where they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.loops import Buffer
from nufunc.codegen.text_scalars import type_text
from nufunc.ir.types import FLOAT32

Letters = tuple[tuple[str, int], ...]  # names of variables with their extents, the last one the fastest
BLOCKS = 256  # that a device should have to do at least
DEEP = 512  # terms of a part of a sum at least


@dataclass(frozen=True)
class Window:
    """An axis of an operand that is read at q * spread == p * stride + k * dilation - offset, below `extent`."""

    p: str
    k: str
    stride: int
    dilation: int
    spread: int
    offset: int
    extent: int
    step: int  # elements of memory from one q to the next


@dataclass(frozen=True)
class Side:
    """An operand: the strides of its letters, and its windows."""

    strides: Mapping[str, int]
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True)
class Contraction:
    """See Note [Contractions]; `result` are the strides of what is made. It is computed in `dtype`; `stored` is that of
    the arrays."""

    dtype: np.dtype
    batch: Letters
    rows: Letters
    columns: Letters
    summed: Letters
    left: Side
    right: Side
    result: Mapping[str, int]
    sizes: tuple[int, int, int]  # elements of the arrays
    stored: np.dtype


@dataclass(frozen=True)
class Tile:
    """Threads of a block by rows and columns, what each of them has of both, and how deep a step is."""

    down: int = 16
    across: int = 16
    rows: int = 4
    columns: int = 4
    depth: int = 16

    @property
    def threads(self) -> int:
        return self.down * self.across

    @property
    def height(self) -> int:
        return self.down * self.rows

    @property
    def width(self) -> int:
        return self.across * self.columns


def size(letters: Letters) -> int:
    return math.prod(extent for _, extent in letters)


def tile_for(made: Contraction) -> Tile:
    m, n = size(made.rows), size(made.columns)
    most = 2 if made.dtype.kind == "c" else 4
    tile = Tile(rows=most, columns=most)
    large = Tile(rows=8, columns=8, depth=8)
    blocks = tiles_of(made, large) * max(1, size(made.summed) // DEEP)
    if made.dtype == FLOAT32 and min(m, n) > large.height // 2 and blocks >= BLOCKS // 2:
        return large
    while tile.rows > 1 and m <= tile.height // 2:
        tile = replace(tile, rows=tile.rows // 2)
    while tile.columns > 1 and n <= tile.width // 2:
        tile = replace(tile, columns=tile.columns // 2)
    return tile


def tiles_of(made: Contraction, tile: Tile) -> int:
    return size(made.batch) * -(-size(made.rows) // tile.height) * -(-size(made.columns) // tile.width)


def parts_of(made: Contraction, tile: Tile) -> int:
    """Into how many parts the sums are divided."""
    return max(1, min(BLOCKS // max(tiles_of(made, tile), 1), size(made.summed) // DEEP))


def kernel(made: Contraction, name: str, tile: Tile, parts: int = 1) -> Kernel:
    """The kernel over left, right and the result, which with parts is there as many times."""
    source = "\n".join(_Writer(made, tile, parts).write(name)) + "\n"
    left, right, result = made.sizes
    buffers = (
        Buffer("left", made.stored, left), Buffer("right", made.stored, right),
        Buffer("out", made.stored if parts == 1 else made.dtype, result * parts, written=True),
    )  # fmt: skip
    return Kernel(name, source, buffers, 0, min(tiles_of(made, tile) * parts, 1 << 20), tile.threads)


class _Writer:
    def __init__(self, made: Contraction, tile: Tile, parts: int) -> None:
        self.made, self.tile, self.parts = made, tile, parts
        self.lines: list[str] = []
        self.depth = 1
        self.type = type_text(made.dtype)
        self.extents = dict((*made.batch, *made.rows, *made.columns, *made.summed))
        self.m, self.n, self.k = size(made.rows), size(made.columns), size(made.summed)

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def write(self, name: str) -> list[str]:
        tile, made = self.tile, self.made
        down, over = -(-self.m // tile.height), -(-self.n // tile.width)
        count = size(made.batch)
        steps = -(-self.k // tile.depth)
        per = -(-steps // self.parts) * tile.depth
        self.line(f"lefts = cuda.shared.array({tile.depth * self.stride('left')}, {self.type})")
        self.line(f"rights = cuda.shared.array({tile.depth * self.stride('right')}, {self.type})")
        wide = max(made.sizes) * self.parts >= 2**31  # beyond what 32 bits count
        thread, block, blocks = (
            f"int64({text})" if wide else text for text in ("cuda.threadIdx.x", "cuda.blockIdx.x", "cuda.gridDim.x")
        )
        self.line(f"thread = {thread}")
        self.line(f"across = thread % {tile.across}")
        self.line(f"down = thread // {tile.across}")
        self.line(f"for tile in range({block}, {down * over * count * self.parts}, {blocks}):")
        self.depth += 1
        self.line(f"column0 = tile % {over} * {tile.width}")
        self.line(f"row0 = tile // {over} % {down} * {tile.height}")
        self.line(f"number = tile // {over * down} % {count}")
        self.line(f"part = tile // {over * down * count}")
        self.line(f"first = part * {per}")
        self.line(f"last = min(first + {per}, {self.k})")
        self.decode(made.batch, "number", "")
        sides = [
            _Loads(self, "left", made.left, made.rows, "row", self.m, tile.height),
            _Loads(self, "right", made.right, made.columns, "column", self.n, tile.width),
        ]
        for side in sides:
            side.before()
        self.sums(lambda i, j: self.line(f"c{i}_{j} = {self.type}(0)"))
        for side in sides:
            side.fetch("first")
        self.line(f"for k0 in range(first, last, {tile.depth}):")
        self.depth += 1
        for side in sides:
            side.keep()
        self.line("cuda.syncthreads()")
        self.line(f"after = k0 + {tile.depth}")
        for side in sides:
            side.fetch("after")
        self.products()
        self.line("cuda.syncthreads()")
        self.depth -= 1
        self.store()
        parameters = "left, right, out, error"
        return [f"def {name}({parameters}):", *self.lines]

    def sums(self, do: Callable[[int, int], None]) -> None:
        for i in range(self.tile.rows):
            for j in range(self.tile.columns):
                do(i, j)

    def decode(self, letters: Letters, number: str, suffix: str) -> None:
        """The letters from a number that counts their points, the last one fastest."""
        stride = 1
        for k, (name, extent) in reversed(list(enumerate(letters))):
            if extent == 1:
                self.line(f"{name}{suffix} = 0")
                continue
            outer = math.prod(e for _, e in letters[:k])
            text = number if stride == 1 else f"{number} // {stride}"
            self.line(f"{name}{suffix} = {text}" + (f" % {extent}" if outer != 1 else ""))
            stride *= extent

    def offset(self, strides: Mapping[str, int], names: Sequence[tuple[str, str]]) -> str:
        """The sum of letters times their strides; names are letters with the suffix of their variable."""
        terms = [
            f"{letter}{suffix}" + (f" * {strides[letter]}" if strides[letter] != 1 else "")
            for letter, suffix in names
            if strides.get(letter) and self.extents[letter] != 1
        ]
        return " + ".join(terms) or "0"

    def vector(self, count: int) -> int:
        """How many of a thread's rows or columns are neighbours: what 16 bytes hold."""
        return min(count, max(1, 16 // self.made.dtype.itemsize))

    def stride(self, name: str) -> int:
        """Elements from one step of the sum to the next in shared memory."""
        tile = self.tile
        length, count = (tile.height, tile.rows) if name == "left" else (tile.width, tile.columns)
        return length + self.vector(count)

    def index(self, name: str, number: int) -> str:
        """The row or column in the tile of a thread's number `number`."""
        tile = self.tile
        sides = {"left": ("down", tile.down, tile.rows), "right": ("across", tile.across, tile.columns)}
        word, threads, count = sides[name]
        vector = self.vector(count)
        text = word if vector == 1 else f"{word} * {vector}"
        offset = number // vector * threads * vector + number % vector
        return f"{text} + {offset}" if offset else text

    def products(self) -> None:
        tile = self.tile
        self.line(f"for kk in range({tile.depth}):")
        self.depth += 1
        for name, letter, count in (("left", "a", tile.rows), ("right", "b", tile.columns)):
            vector = self.vector(count)
            for number in range(0, count, vector):
                place = f"kk * {self.stride(name)} + {self.index(name, number)}"
                if vector == 1:
                    self.line(f"{letter}{number} = {name}s[{place}]")
                else:
                    names = ", ".join(f"{letter}{k}" for k in range(number, number + vector))
                    self.line(f"{names} = load_vec({name}s, {place}, {vector})")
        if self.made.dtype.kind == "c":
            self.sums(lambda i, j: self.line(f"c{i}_{j} = c{i}_{j} + a{i} * b{j}"))
        else:
            self.sums(lambda i, j: self.line(f"c{i}_{j} = cuda.fma(a{i}, b{j}, c{i}_{j})"))
        self.depth -= 1

    def store(self) -> None:
        tile, made = self.tile, self.made
        base = self.offset(made.result, [(letter, "") for letter, _ in made.batch])
        if self.parts > 1:
            base = f"{base} + part * {made.sizes[2]}"
        self.line(f"to = {base}")
        for j in range(tile.columns):
            self.line(f"column = column0 + {self.index('right', j)}")
            self.decode(made.columns, "column", f"_{j}")
            self.line(f"to_{j} = " + self.offset(made.result, [(letter, f"_{j}") for letter, _ in made.columns]))
        for i in range(tile.rows):
            self.line(f"row = row0 + {self.index('left', i)}")
            self.line(f"if row < {self.m}:")
            self.depth += 1
            self.decode(made.rows, "row", "")
            self.line("at = to + " + self.offset(made.result, [(letter, "") for letter, _ in made.rows]))
            for j in range(tile.columns):
                self.line(f"if column0 + {self.index('right', j)} < {self.n}:")
                self.line(f"    out[at + to_{j}] = {self.stored(f'c{i}_{j}')}")
            self.depth -= 1

    def stored(self, value: str) -> str:
        """A sum as it lies in memory; parts of sums are not rounded."""
        made = self.made
        return value if self.parts > 1 or made.stored == made.dtype else f"{type_text(made.stored)}({value})"

    def read(self, element: str) -> str:
        """An element of memory as a number."""
        return element if self.made.stored == self.made.dtype else f"{self.type}({element})"


class _Loads:
    """How the threads of a block bring an operand's part of a step to shared memory.

    `free` are the letters of its rows or columns. Neighbouring threads read along these where they are the contiguous
    ones, else along the summed ones.
    """

    def __init__(
        self, writer: _Writer, name: str, side: Side, free: Letters, word: str, extent: int, length: int
    ) -> None:
        self.writer, self.name, self.side, self.free = writer, name, side, free
        self.word, self.extent, self.length = word, extent, length
        tile = writer.tile
        self.along = self.contiguous(free) or not self.contiguous(writer.made.summed)
        self.fast = min(length if self.along else tile.depth, tile.threads)
        self.count = length * tile.depth // tile.threads
        self.step = tile.threads // self.fast

    def contiguous(self, letters: Letters) -> bool:
        """Whether neighbours along the fastest letter are neighbours in memory."""
        names = [name for name, extent in letters if extent != 1][-1:]
        windows = [w for w in self.side.windows if names and names[0] in (w.p, w.k)]
        if windows:
            return windows[0].step == 1
        return bool(names) and self.side.strides.get(names[0]) == 1

    def places(self, it: int) -> tuple[str, str]:
        """The free and the summed index in the tile of the element that a thread brings as its number `it`."""
        length, depth, threads = self.length, self.writer.tile.depth, self.writer.tile.threads
        if self.along:
            if threads >= length:
                return f"thread % {length}", f"thread // {length} + {it * (threads // length)}"
            each = length // threads
            return f"thread + {it % each * threads}", str(it // each)
        return f"thread // {depth} + {it * (threads // depth)}", f"thread % {depth}"

    def frees(self) -> list[int]:
        """The loads with a free index of their own; the others share that of the first one."""
        if not self.along:
            return list(range(self.count))
        return list(range(max(1, self.length // self.writer.tile.threads)))

    def before(self) -> None:
        """What does not change with the step: the place of each row or column."""
        w, name = self.writer, self.name
        batch = [(letter, "") for letter, _ in w.made.batch]
        for it in self.frees():
            w.line(f"{self.word}_{name}{it} = {self.word}0 + {self.places(it)[0]}")
            suffix = f"_{name}{it}"
            w.decode(self.free, f"{self.word}_{name}{it}", suffix)
            names = [*batch, *((letter, suffix) for letter, _ in self.free)]
            w.line(f"{name}_at{it} = " + w.offset(self.side.strides, names))
            for number, window in enumerate(self.side.windows):
                known = suffix if window.p in dict(self.free) else ""
                p = f"{window.p}{known}" if w.extents[window.p] != 1 else "0"
                w.line(f"{name}_w{number}_{it} = {p} * {window.stride} - {window.offset}")

    def fetch(self, start: str) -> None:
        """Bring the thread's elements of the step that begins at `start` to registers."""
        w, name = self.writer, self.name
        frees = self.frees()
        for it in range(self.count):
            at = frees[it % len(frees)]
            if it == 0 or (self.along and it % len(frees) == 0):
                w.line(f"inner = {start} + {self.places(it)[1]}")
                w.decode(w.made.summed, "inner", "")
                w.line(f"{name}_in = " + w.offset(self.side.strides, [(letter, "") for letter, _ in w.made.summed]))
            w.line(f"{name}_{it} = {w.type}(0)")
            w.line(f"if {self.word}_{name}{at} < {self.extent} and inner < last:")
            w.depth += 1
            self.read(f"{name}_at{at} + {name}_in", at, f"{name}_{it}")
            w.depth -= 1

    def keep(self) -> None:
        """And from there to shared memory."""
        for it in range(self.count):
            place, inner = self.places(it)
            self.writer.line(
                f"{self.name}s[({inner}) * {self.writer.stride(self.name)} + {place}] = {self.name}_{it}"
            )

    def read(self, offset: str, at: int, value: str) -> None:
        """The element at an offset, with its windows, to the variable `value`."""
        w, name, tests = self.writer, self.name, []
        for number, window in enumerate(self.side.windows):
            k = window.k if w.extents[window.k] != 1 else "0"
            w.line(f"q{number} = {name}_w{number}_{at} + {k} * {window.dilation}")
            tests.append(f"q{number} >= 0 and q{number} < {window.extent * window.spread}")
            q = f"q{number}"
            if window.spread != 1:
                tests.append(f"q{number} % {window.spread} == 0")
                q = f"q{number} // {window.spread}"
            offset += f" + {q} * {window.step}"
        if not tests:
            w.line(f"{value} = {w.read(f'{name}[{offset}]')}")
            return
        w.line(f"if {' and '.join(tests)}:")
        w.line(f"    {value} = {w.read(f'{name}[{offset}]')}")

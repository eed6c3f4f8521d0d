"""Shapes of own convolutions: the loops around register tiles, how rows and lanes are chosen, what is packed.

Note [Convolutions as tiles]
A tile keeps `rows` x `vectors` sums in registers. Its lanes are free channels of w (o), which is packed so that each
step reads whole vectors; its rows are neighbouring elements of the result, whose elements of x stand at constant
distances, one broadcast each; its steps are the channels summed over and the kernel. So any stride and dilation is
a number in an address, x is read where it is, and copied, a block at a time into the cache, only where there is
padding. The same holds for the gradient of a kernel: there rows are elements of the kernel (and channels of x), and
steps are the examples and the elements of the cotangent. Sums are turned in registers before they are stored, since the
result has its window, not its channels, innermost. Where x is spread (the gradient of a convolution with a stride), an
element of the kernel meets every so-manieth row of a tile, and for other axes one residue of the result's index.

Everything here is arithmetic on shapes; no code is emitted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nufunc.codegen.strided import row_major
from nufunc.ir.graph import Node

PANEL_BYTES = 256 << 10  # of w met at a time: a share of the second-level cache
BLOCK_BYTES = 512 << 10  # of copied x for the same panel
LATENCY = 8  # sums at least for all multipliers to be busy
MOST_ROWS = 28  # of a tile
MOST_VECTORS = 4


@dataclass(frozen=True)
class Axis:
    """A loop over one or several axes in step: its extent, and how many elements apart its neighbours are in x, in
    packed w and in the result."""

    letters: str
    extent: int
    x: int
    w: int
    out: int


@dataclass(frozen=True)
class Window:
    """A window axis: element p of the result and k of the kernel meet element (p * stride + k * dilation - offset) /
    spread of x; only where the stride is 1 is the spread another number."""

    letter: str
    extent: int  # of the result
    kernel: int
    n: int  # of x
    stride: int
    dilation: int
    offset: int
    spread: int

    @property
    def reach(self) -> tuple[int, int]:
        """The first element of x that is read, and the one behind the last, inside or not."""
        ends = [
            p * self.stride + k * self.dilation - self.offset
            for p in (0, self.extent - 1) for k in (0, self.kernel - 1)
        ]  # fmt: skip
        return -(-min(ends) // self.spread), max(ends) // self.spread + 1

    def kernel_of(self, residue: int) -> list[tuple[int, int]]:
        """The elements of the kernel that elements of the result with this index modulo the spread meet, each with
        where the first of these elements of the result meets it in x."""
        places = [(k, residue * self.stride + k * self.dilation - self.offset) for k in range(self.kernel)]
        return [(k, q // self.spread) for k, q in places if q % self.spread == 0]


@dataclass(frozen=True)
class Rows:
    """The rows of a tile: all of the innermost axes behind `axis`, and `step` elements of that one."""

    axis: int
    step: int
    rest: int  # elements that the last tile along the axis has fewer than the others, 0: none
    count: int


@dataclass(frozen=True)
class Conv:
    """How a convolution is done. `outer` are loops around it, `m` the examples, a `block` of which are done together;
    `o` channels are cut into panels of `vectors` vectors; `summed` channels, `chunk` of the first at a time."""

    dtype: np.dtype
    lanes: int
    outer: tuple[Axis, ...]
    m: Axis
    o: Axis
    summed: tuple[Axis, ...]
    windows: tuple[Window, ...]
    x_strides: tuple[int, ...]  # of the windows
    out_strides: tuple[int, ...]
    x_shape: tuple[tuple[str, int], ...]  # of x, axes in step as one
    packs: bool
    block: int
    chunk: int
    vectors: int
    rows: Rows

    @property
    def panels(self) -> int:
        return -(-self.o.extent // (self.vectors * self.lanes))

    @property
    def width(self) -> int:
        """Channels of a panel; what vectors read behind them is not stored."""
        return -(-self.o.extent // self.panels)

    @property
    def spread(self) -> bool:
        return any(w.spread > 1 for w in self.windows)

    @property
    def steps(self) -> int:
        """Of a whole sum."""
        return math.prod(a.extent for a in self.summed) * math.prod(w.kernel for w in self.windows)

    @property
    def chunks(self) -> int:
        return self.summed[0].extent // self.chunk if self.summed else 1

    @property
    def packed_x(self) -> tuple[int, ...]:
        """The shape of a block of x that is copied."""
        inner = [self.chunk, *(a.extent for a in self.summed[1:])] if self.summed else []
        return (self.block, *inner, *(stop - start for start, stop in (w.reach for w in self.windows)))

    @property
    def x_bytes(self) -> int:
        return math.prod(self.packed_x) * self.dtype.itemsize if self.packs else 0

    @property
    def w_bytes(self) -> int:
        groups = math.prod(a.extent for a in self.outer if a.w)
        return (groups * self.panels * self.steps * self.width + self.lanes) * self.dtype.itemsize

    @property
    def units(self) -> int:
        """Pieces of work that share nothing but panels."""
        return math.prod(a.extent for a in self.outer) * (self.m.extent // self.block)

    @property
    def strides(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Of examples, channels summed over and windows, in x as tiles read it."""
        if not self.packs:
            return self.m.x, tuple(a.x for a in self.summed), self.x_strides
        m, *rest = row_major(self.packed_x)
        return m, tuple(rest[: len(self.summed)]), tuple(rest[len(self.summed) :])

    @property
    def row_axes(self) -> tuple[Axis, ...]:
        """The axes of the result that tiles go through in a block, as tiles read x."""
        m, _, strides = self.strides
        windows = zip(self.windows, strides, self.out_strides, strict=True)
        inner = (Axis(w.letter, w.extent, w.stride * x, 0, out) for w, x, out in windows)  # of spread ones per residue
        return (replace(self.m, extent=self.block, x=m), *inner)

    @property
    def origin(self) -> int:
        """Where the first element of the result meets that of the kernel, in elements of x as tiles read it."""
        if self.spread:  # taps say it
            return 0
        places = (-w.offset - (w.reach[0] if self.packs else 0) for w in self.windows)
        return sum(p * s for p, s in zip(places, self.strides[2], strict=True))

    @property
    def loops(self) -> tuple[tuple[int, int], ...]:
        """The steps of a tile: how often, and how far x goes on."""
        _, summed, strides = self.strides
        channels = [(self.chunk if k == 0 else a.extent, x) for k, (a, x) in enumerate(zip(self.summed, summed))]
        if self.spread:
            return tuple(channels)
        kernel = [(w.kernel, w.dilation * s) for w, s in zip(self.windows, strides, strict=True)]
        return (*channels, *kernel)

    @property
    def work(self) -> float:
        """Nanoseconds of one thread."""
        rows = self.m.extent * math.prod(w.extent for w in self.windows) * math.prod(a.extent for a in self.outer)
        steps = self.steps / math.prod(w.spread for w in self.windows)
        return rows * self.panels * self.vectors * steps / 4 + rows * self.o.extent / 8


def conv_shape(node: Node, vector_bytes: int, registers: int) -> Conv:
    """How the convolution `node`, in normal form (see `passes.convolutions`), is done."""
    attrs, (x, w) = node.attrs, node.operands
    out_shape, window, dtype = node.result.shape, attrs["window"], x.dtype
    x_strides = dict(zip(attrs["x"], row_major(x.shape), strict=True))
    out_strides = dict(zip(attrs["out"], row_major(out_shape), strict=True))
    extents = {**dict(zip(attrs["x"], x.shape)), **dict(zip(attrs["w"], w.shape)), **dict(zip(attrs["out"], out_shape))}
    free = [letter for letter in attrs["out"] if letter not in window]

    def axis(letter: str) -> Axis:
        chosen = int(letter in attrs["w"])  # whether panels of w belong to it
        return Axis(letter, extents[letter], x_strides.get(letter, 0), chosen, out_strides.get(letter, 0))

    m = _merged([axis(n) for n in free if n not in attrs["w"]])
    o = _merged([axis(n) for n in free if n not in attrs["x"]])
    both = _merged([axis(n) for n in free if n in attrs["x"] and n in attrs["w"]])
    summed = _merged([axis(n) for n in attrs["x"] if n not in attrs["out"]])
    one = Axis("", 1, 0, 0, 0)
    inner_m, inner_o = (m or [one])[-1], (o or [one])[-1]
    numbers = zip(attrs["stride"], attrs["dilation"], attrs["offset"], attrs["spread"], strict=True)
    windows = tuple(
        Window(n, extent, w.shape[attrs["w"].index(n)], x.shape[attrs["x"].index(n)], *rest)
        for n, extent, rest in zip(window, attrs["extent"], numbers, strict=True)
    )
    packs = any(v.reach[0] < 0 or v.reach[1] > v.n for v in windows)
    joint = {n: a for a in (*m, *both, *summed) for n in a.letters}
    x_shape = {joint[n].letters if n in joint else n: joint[n].extent if n in joint else extents_of_x
               for n, extents_of_x in zip(attrs["x"], x.shape, strict=True) if n in joint or n in window}  # fmt: skip
    strides = tuple(x_strides[n] for n in window), tuple(out_strides[n] for n in window)
    lanes = min(vector_bytes // dtype.itemsize, max(4, 1 << (inner_o.extent - 1).bit_length()))
    made = Conv(
        dtype, lanes, (*both, *m[:-1], *o[:-1]), inner_m, inner_o, tuple(summed), windows,
        *strides, tuple(x_shape.items()), packs, 1, summed[0].extent if summed else 1, 1, Rows(0, 1, 0, 1),
    )  # fmt: skip
    return _with_panels(_cut(made, registers))


def _merged(axes: Sequence[Axis]) -> list[Axis]:
    """Without axes of one, and with neighbours that x and the result pass through in step as one."""
    made: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        if made and (made[-1].x, made[-1].out) == (axis.x * axis.extent, axis.out * axis.extent):
            before = made.pop()
            axis = replace(axis, letters=before.letters + axis.letters, extent=axis.extent * before.extent)
        made.append(axis)
    return made


def _cut(shape: Conv, registers: int) -> Conv:
    """With tiles, blocks and panels chosen."""
    best: tuple[float, Conv] | None = None
    most = shape.m.extent
    whole = replace(shape, block=most)
    for vectors in range(1, min(MOST_VECTORS, -(-shape.o.extent // shape.lanes)) + 1):
        for rows in _candidates(whole, min(MOST_ROWS, (registers - vectors - 1) // vectors)):
            cost = _cost(whole, vectors, rows)
            if best is None or cost < best[0]:
                best = cost, replace(shape, vectors=vectors, rows=rows)
    assert best is not None
    made = best[1]
    size = made.dtype.itemsize
    if made.summed:
        per = made.steps // made.summed[0].extent * made.width * size
        made = replace(made, chunk=_divisor(made.summed[0].extent, PANEL_BYTES // per))
    least = made.rows.step if made.rows.axis == 0 else 1
    one = max(math.prod(made.packed_x) * size, 1)  # of block 1
    fits = BLOCK_BYTES // one if made.w_bytes > PANEL_BYTES or least > 1 else 1
    block = _divisor(most, max(fits, least))
    if made.rows.axis == 0 and block % made.rows.step:
        block = most
    rest = block % made.rows.step if made.rows.axis == 0 else made.rows.rest
    made = replace(made, block=block, rows=replace(made.rows, rest=rest))
    return made


def _divisor(n: int, most: int) -> int:
    """The largest divisor up to `most`, or n where it is not much more and divisors are small."""
    found = max(d for d in range(1, max(1, min(n, most)) + 1) if n % d == 0)
    return n if found * 4 < min(n, most) and n <= 4 * most else found


def _candidates(shape: Conv, most: int) -> list[Rows]:
    """Boxes of neighbouring elements of the result: part of one axis and all of those behind it."""
    axes, inner = shape.row_axes, 1
    if shape.spread:
        extent, unit = axes[-1].extent, shape.windows[-1].spread
        whole = {min(extent, step) for step in range(unit, max(most, unit) + 1, unit)}
        return [Rows(len(axes) - 1, step, extent % step, step) for step in sorted(whole)]
    found: list[Rows] = []
    for k in range(len(axes) - 1, -1, -1):
        axis = axes[k]
        steps = range(1, min(axis.extent, most // inner) + 1)
        found += [Rows(k, step, axis.extent % step, step * inner) for step in steps]
        if inner * axis.extent > most or (k and axes[k - 1].out != axis.extent * axis.out):
            break
        inner *= axis.extent
    return found


def _cost(shape: Conv, vectors: int, rows: Rows) -> float:
    """Cycles of a block."""
    axes = shape.row_axes
    outside = math.prod(a.extent for a in axes[: rows.axis])
    inner = rows.count // rows.step
    full, rest = divmod(axes[rows.axis].extent, rows.step)
    panels = -(-shape.o.extent // (vectors * shape.lanes))
    total = 0.0
    steps = shape.steps / math.prod(w.spread for w in shape.windows)
    for count, times in ((rows.count, full), (rest * inner, 1 if rest else 0)):
        sums = count * vectors
        step = max(sums, count + vectors, LATENCY) / 2 + 0.02 * (count + vectors)
        total += panels * times * (steps * step + 4 * sums + count + 20)
    return total * outside * (1.02 if rest else 1.0)


def _with_panels(shape: Conv) -> Conv:
    """With the distances of panels in packed w of the loops outside."""
    panel = shape.panels * shape.steps * shape.width
    outer: list[Axis] = []
    for axis in reversed(shape.outer):
        outer.append(replace(axis, w=axis.w * panel))
        panel *= axis.extent if axis.w else 1
    return replace(shape, outer=tuple(reversed(outer)))


Taps = tuple[tuple[int, int, int], ...]  # step in packed w, place in x, first row


def taps(shape: Conv, residues: Sequence[int]) -> Taps:
    """For x that is spread, the elements of the kernel that meet a tile in which the result's indices along all window
    axes but the last have these residues."""
    strides, found = shape.strides[2], []
    last = shape.windows[-1]
    meets = [w.kernel_of(r) for w, r in zip(shape.windows[:-1], residues, strict=True)]
    meets.append(sorted((*pair, r) for r in range(last.spread) for pair in last.kernel_of(r)))  # type: ignore[misc]
    for place in itertools.product(*meets):
        number, at = 0, 0
        for window, (k, q, *_), stride in zip(shape.windows, place, strides, strict=True):
            number = number * window.kernel + k
            at += (q - (window.reach[0] if shape.packs else 0)) * stride
        found.append((number, at, place[-1][-1]))
    return tuple(found)


def box(shape: Conv, step: int) -> tuple[int, ...]:
    """Where the rows of a tile stand in x, from the first."""
    axes, rows = shape.row_axes, shape.rows
    if shape.spread:
        return tuple(i // shape.windows[-1].spread * axes[-1].x for i in range(step))
    ranges = [range(step), *(range(a.extent) for a in axes[rows.axis + 1 :])]
    strides = [a.x for a in axes[rows.axis :]]
    return tuple(sum(i * s for i, s in zip(place, strides, strict=True)) for place in itertools.product(*ranges))

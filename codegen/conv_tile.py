"""Register tiles of convolutions: sums over channels and kernel of one broadcast of x per row times vectors of w.

All distances are numbers in the tile's key, so that every address is a register plus a displacement. Sums are turned
in registers, so that the rows of one lane are stored side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from nufunc.codegen.gemm_tile import Vectors, first_lanes, repeated
from nufunc.codegen.llvm import I1, I32, I64, POINTER, Poison

UNROLL = 320  # products of vectors up to which loops are unrolled whole,
PART = 128  # and up to which the innermost one is in part


@dataclass(frozen=True)
class Tile:
    """One kind of tile; distances in elements. `rows`: where they stand in x. Steps read `vectors` of every `width`
    elements of w, and go through x as the `loops` say, (number, distance) from the outermost on. Lane l of the `valid`
    ones is stored at l * lane_stride."""

    dtype: np.dtype
    lanes: int
    rows: tuple[int, ...]
    vectors: int
    valid: int
    width: int
    loops: tuple[tuple[int, int], ...]
    lane_stride: int
    taps: tuple[tuple[int, int, int], ...] | None  # (step of w, distance in x, first row) of an iteration; else loops
    apart: int  # a tap meets every so-manieth row from its first
    period: int  # steps of w that an iteration of taps passes
    adds: bool  # whether it may add to what is there
    has_fma: bool

    @property
    def name(self) -> str:
        steps = (n for loop in self.loops for n in loop)
        sizes = (self.vectors, self.valid, self.width)
        parts: tuple[Any, ...] = (*self.rows, "v", *sizes, "l", *steps, "s", self.lane_stride)
        if self.taps is not None:
            parts += ("t", *(n for tap in self.taps for n in tap), "a", self.apart, self.period)
        text = "_".join(str(p).replace("-", "m") for p in parts)
        return f"nf.conv.{self.dtype.str[1:]}.{self.lanes}.{text}{'.add' * self.adds}{'' if self.has_fma else '.nofma'}"


def tile_function(module: ir.Module, tile: Tile) -> ir.Function:
    """void (ptr x, ptr w, ptr out, i1 add), once per module."""
    if tile.name in module.globals:
        return module.globals[tile.name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER, I1]), tile.name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    for pointer in function.args[:3]:
        pointer.add_attribute("noalias")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    _Emitter(b, tile, function).emit()
    b.ret_void()
    return function


class _Emitter:
    def __init__(self, b: ir.IRBuilder, tile: Tile, function: ir.Function) -> None:
        self.b, self.tile = b, tile
        self.v = Vectors(b, tile.dtype, tile.has_fma)
        self.x, self.w, self.out, self.add = function.args

    def emit(self) -> None:
        tile = self.tile
        taps, loops = self._unrolled()
        zeros = [self.v.zero(tile.lanes) for _ in range(len(tile.rows) * tile.vectors)]
        sums = self._loops(loops, taps, [self.x, self.w, *zeros])[2:]
        for j in range(tile.vectors):
            for first in range(0, len(tile.rows), tile.lanes):
                rows = sums[j :: tile.vectors][first : first + tile.lanes]
                self._store(rows, first, j * tile.lanes)

    def _unrolled(self) -> tuple[Sequence[tuple[int, int, int]], list[tuple[int, int]]]:
        """The taps of one iteration, and the loops around them."""
        if self.tile.taps is not None:
            return self.tile.taps, list(self.tile.loops if self.tile.taps else ())
        loops, offsets = list(self.tile.loops), [0]
        products = len(self.tile.rows) * self.tile.vectors
        while loops and loops[-1][0] * len(offsets) * products <= UNROLL:
            count, step = loops.pop()
            offsets = [i * step + o for i in range(count) for o in offsets]
        if len(offsets) == 1 and loops:
            count, step = loops.pop()
            part = max(d for d in range(1, count + 1) if count % d == 0 and (d == 1 or d * products <= PART))
            offsets = [i * step for i in range(part)]
            loops.append((count // part, step * part))
        return [(k, offset, 0) for k, offset in enumerate(offsets)], loops

    def _loops(
        self, loops: Sequence[tuple[int, int]], taps: Sequence[tuple[int, int, int]], state: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """Run through the loops from a state: pointers into x and w, and sums."""
        if not loops:
            return self._steps(taps, state)
        (count, step), *inner = loops

        def body(now: Sequence[ir.Value]) -> list[ir.Value]:
            return [self.v.at(now[0], step), *self._loops(inner, taps, now)[1:]]

        return repeated(self.b, I64(count), state, body) if count > 1 else body(state)

    def _steps(self, taps: Sequence[tuple[int, int, int]], state: Sequence[ir.Value]) -> list[ir.Value]:
        tile, v = self.tile, self.v
        x, w, *sums = state
        for k, offset, first in taps:
            row = [v.load(w, k * tile.width + j * tile.lanes, tile.lanes) for j in range(tile.vectors)]
            for i in range(first, len(tile.rows), tile.apart):
                one = v.splat(v.scalar(x, tile.rows[i] + offset), tile.lanes)
                for j in range(tile.vectors):
                    at = i * tile.vectors + j
                    sums[at] = v.fma(one, row[j], sums[at])
        return [x, v.at(w, (len(taps) if tile.taps is None else tile.period) * tile.width), *sums]

    def _store(self, rows: Sequence[ir.Value], first: int, lane: int) -> None:
        """Store the lanes from `lane` on of some rows, from row `first` on."""
        tile, v, b = self.tile, self.v, self.b
        lanes = min(tile.lanes, tile.valid - lane)
        turned = self._turned(rows)
        count = 1 << (len(rows) - 1).bit_length()
        mask = first_lanes(count, len(rows))
        for k in range(lanes):
            value = self._part(turned, k, count)
            place = v.at(self.out, (lane + k) * tile.lane_stride + first)
            if tile.adds:
                value = self._added(value, place, count, mask)
            if count == 1:
                b.store(value, place, align=v.size)
            else:
                v.store(value, place, 0, mask)

    def _added(self, value: ir.Value, place: ir.Value, count: int, mask: ir.Constant | None) -> ir.Value:
        """With what stands there already, where the tile is told to add."""
        v, b = self.v, self.b
        if count == 1:
            before = v.scalar(place)
            zero = ir.Constant(before.type, 0.0)
        else:
            before, zero = v.load(place, 0, count, mask), v.zero(count)
        return b.fadd(value, b.select(self.add, before, zero))

    def _turned(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """Vectors that hold, one lane after the other, that lane of all rows (their number made a power of two).

        Interleaving the halves of a list of vectors turns the bits of an element's number by one; as often as the
        number of rows has bits, rows and lanes have changed places.
        """
        count, lanes = 1 << (len(rows) - 1).bit_length(), self.tile.lanes
        type_ = ir.VectorType(self.v.element, lanes)
        vectors: list[ir.Value] = [*rows, *(Poison(type_) for _ in range(count - len(rows)))]
        half = lanes // 2
        picks = [
            ir.Constant(ir.VectorType(I32, lanes), [k // 2 + start + k % 2 * lanes for k in range(lanes)])
            for start in (0, half)
        ]  # fmt: skip
        for _ in range(count.bit_length() - 1):
            pairs = zip(vectors[: count // 2], vectors[count // 2 :], strict=True)
            vectors = [self.b.shuffle_vector(x, y, p) for x, y in pairs for p in picks]
        return vectors

    def _part(self, turned: Sequence[ir.Value], lane: int, count: int) -> ir.Value:
        """The `count` elements of one lane; one of them as a number."""
        vector, start = divmod(lane * count, self.tile.lanes)
        value = turned[vector]
        if count == 1:
            return self.b.extract_element(value, I32(start))
        if count == self.tile.lanes:
            return value
        picks = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
        return self.b.shuffle_vector(value, Poison(value.type), picks)

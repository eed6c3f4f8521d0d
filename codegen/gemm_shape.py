"""Shapes of own matrix products: what a product is, the register tile it is cut into, and how its blocks lie in the
caches.

Everything here is arithmetic on shapes; no code is emitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from nufunc.codegen.gemm_tile import Machine, registers

KC = 512  # steps of k per block; C is read and written once per block
MC_BYTES = 256 << 10  # of A packed at a time: a share of the second-level cache
NC_BYTES = 3 << 20  # of B packed at a time: a share of the third-level cache
IN_PLACE_BYTES = 512 << 10  # matrices up to this size are read where they are,
CROWDED_BYTES = 32 << 10  # or this size where their rows fall into the same few sets of a cache,
FEW, FEW_BYTES = 256, 2 << 20  # and up to that size where they meet so few rows or columns of the other matrix:
# packing costs about the work of fifty
LARGE = 32768  # products of vectors from which the processor's register tile is preferred, shared by all products
PREFERENCE = 0.968  # of its time another tile has to take at most
MOST_ROWS = 16  # of a register tile: more take longer to compile and are no faster
EDGE_COST = 0.02  # share of a product's time at which an edge is worth the tile, to be compiled, that it needs
SUPPORTED = (np.dtype(np.float32), np.dtype(np.float64))

Part = tuple[int, int]  # rows and columns


@dataclass(frozen=True)
class Spec:
    """One kind of product, C[m, n] = A[m, k] B[k, n]. Strides are in elements; C's columns are adjacent."""

    dtype: np.dtype
    m: int
    n: int
    k: int
    a_strides: tuple[int, int]
    b_strides: tuple[int, int]
    c_stride: int
    vector_bytes: int
    registers: int
    has_fma: bool

    @property
    def lanes(self) -> int:
        return self.vector_bytes // self.dtype.itemsize

    @property
    def name(self) -> str:
        strides = "_".join(map(str, (*self.a_strides, *self.b_strides, self.c_stride)))
        return f"{self.dtype.str[1:]}.{self.m}x{self.n}x{self.k}.{strides}"

    def transposed(self) -> Spec:
        """The product of the transposed matrices in the other order, for a single column of C."""
        a, b = self.b_strides[::-1], self.a_strides[::-1]
        return replace(self, m=self.n, n=self.m, a_strides=a, b_strides=b, c_stride=self.m)


def product_spec(
    target: Machine, dtype: np.dtype, shape: tuple[int, int, int], a: tuple[int, int], b: tuple[int, int], c_stride: int
) -> Spec:
    """The product of shape (m, n, k). Strides of axes of extent 1 do not matter: they become those of a packed
    row-major matrix."""
    dtype, (m, n, k) = np.dtype(dtype), shape
    if dtype not in SUPPORTED:
        raise ValueError(f"matrix products are emitted for float32 and float64, not {dtype}")
    a = (a[0] if m > 1 else k, a[1] if k > 1 else 1)
    b = (b[0] if k > 1 else n, b[1] if n > 1 else 1)
    return Spec(dtype, m, n, k, a, b, c_stride, target.vector_bits // 8, registers(target), target.has_fma)


def edge_widths(spec: Spec, columns: int) -> tuple[tuple[int, ...], int]:
    """Vectors that cover `columns`: full ones and a narrower last one, and how many lanes of the last are used."""
    full, rest = divmod(columns, spec.lanes)
    if not rest:
        return (spec.lanes,) * full, spec.lanes
    least = min(spec.lanes, 16 // spec.dtype.itemsize)
    narrow = max(least, 1 << (rest - 1).bit_length())
    return (spec.lanes,) * full + (narrow,), rest


def _tile_cost(spec: Spec, rows: int, columns: int) -> float:
    """Cycles of one register tile, for two fma and two loads per cycle and four cycles of latency."""
    vectors = len(edge_widths(spec, columns)[0])
    step = max(rows * vectors / 2, (rows + vectors) / 2, 2.0) + 0.02 * (rows + vectors)
    return spec.k * step + rows * vectors + rows + 12


def _cost(spec: Spec, rows: int, vectors: int) -> float:
    """Cycles of a product cut into tiles of so many rows and vectors."""
    columns = vectors * spec.lanes
    row_tiles, row_rest = divmod(spec.m, rows)
    column_tiles, column_rest = divmod(spec.n, columns)
    cost = row_tiles * column_tiles * _tile_cost(spec, rows, columns)
    if row_rest:
        cost += column_tiles * _tile_cost(spec, row_rest, columns)
    if column_rest:
        cost += row_tiles * _tile_cost(spec, rows, column_rest)
    if row_rest and column_rest:
        cost += _tile_cost(spec, row_rest, column_rest)
    return cost * (1 + EDGE_COST * (bool(row_rest) + bool(column_rest)))


@cache
def register_tile(spec: Spec) -> tuple[int, int]:
    """Rows and vectors of the register tile that leaves the least of the matrix to edges."""
    candidates = [
        (rows, vectors)
        for vectors in range(1, min(8, -(-spec.n // spec.lanes)) + 1)
        for rows in range(1, min(spec.m, MOST_ROWS, max(1, (spec.registers - vectors - 1) // vectors)) + 1)
    ]  # besides the sums, registers hold a row of B and one element of A
    best = min(candidates, key=lambda tile: (_cost(spec, *tile), -tile[0]), default=(1, 1))
    usual = (8, 3) if spec.registers > 16 else (6, 2)
    large = spec.m * spec.n * spec.k >= LARGE * spec.lanes
    if large and usual in candidates and _cost(spec, *best) > PREFERENCE * _cost(spec, *usual):
        return usual
    return best


@dataclass(frozen=True)
class Blocking:
    """How a product is cut. `rows` and `columns` are the register tile's, `a_width` and `columns` the strides of
    packed panels."""

    rows: int
    columns: int
    kc: int
    mc: int  # row tiles per block
    nc: int  # column tiles per block
    pack_a: bool
    pack_b: bool
    a_width: int
    a_bytes: int
    b_bytes: int


def _in_place(extent: int, stride: int, other: int, meets: int, size: int) -> bool:
    """Whether tiles read a matrix where it is: `extent` rows of `other` adjacent elements, which meets so many rows
    or columns of the other matrix."""
    crowded = stride * size % 2048 == 0 and extent > 1
    most = FEW_BYTES if meets <= FEW else CROWDED_BYTES if crowded else IN_PLACE_BYTES
    return extent * other * size <= most


@cache
def blocking(spec: Spec, part: Part) -> Blocking:
    """The blocks of a product that is computed in parts of at most so many rows and columns. What a call computes of
    C, and how its operands are read, changes no bit: the blocks of k follow from the product alone."""
    rows, vectors = register_tile(spec)
    size, columns = spec.dtype.itemsize, vectors * spec.lanes
    row_tiles, column_tiles = -(-part[0] // rows), -(-part[1] // columns)
    blocks = max(1, -(-spec.k // KC))
    kc = 8 * math.ceil(spec.k / blocks / 8) if blocks > 1 else spec.k
    pack_b = spec.b_strides[1] != 1
    if row_tiles > 2:
        pack_b = pack_b or not _in_place(spec.k, spec.b_strides[0], part[1], part[0], size)
    along_k = spec.a_strides[1] == 1
    lines = (part[0], spec.a_strides[0], spec.k) if along_k else (spec.k, spec.a_strides[1], part[0])
    pack_a = column_tiles > 2 and not _in_place(*lines, part[1], size)
    piece = 16 // size
    a_width = -(-rows // piece) * piece
    mc = min(row_tiles, max(1, MC_BYTES // (kc * a_width * size))) if pack_a else row_tiles
    nc = min(column_tiles, max(1, NC_BYTES // (kc * columns * size))) if pack_b else column_tiles
    a_bytes = mc * kc * a_width * size if pack_a else 0
    b_bytes = nc * kc * columns * size if pack_b else 0
    a_bytes, b_bytes = (-(-v // 64) * 64 for v in (a_bytes, b_bytes))
    return Blocking(rows, columns, kc, mc, nc, pack_a, pack_b, a_width, a_bytes, b_bytes)

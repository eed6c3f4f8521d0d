"""What a dot is in memory: matrices with strides, loops around them, copies where strides cannot say it.

Note [Dots as matrices]
A dot's axes are batch axes, free axes of either operand and contracted ones. Contracted axes become one axis of both
matrices; of the free axes of an operand those that go through it and the result in step become one, and one of these
the rows (or columns) of the matrix. What is left is a loop around the product, as batch axes are: so transposed
operands, transposed results and stacks of matrices cost no copy. The result's strides may be those of a transposition
of the dot; the product is then computed with its operands exchanged where its columns are not adjacent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nufunc.codegen.gemm_shape import SUPPORTED
from nufunc.codegen.strided import Strided, resolve, row_major
from nufunc.ir.graph import Node, Value

ROWS_OF_A_LOOP = 8  # rows at least for a loop of products to be better than one product of a copy


@dataclass(frozen=True)
class Axis:
    """An axis of a dot, or several in step: its extent, and its strides in x, y and the result, 0 where it is not."""

    extent: int
    strides: tuple[int, int, int]


@dataclass(frozen=True)
class Operand:
    """Where an operand is read: a strided view, or a copy in the order `packed`."""

    value: Value
    source: Strided | None
    packed: tuple[int, ...] | None


@dataclass(frozen=True)
class Shape:
    """A dot as loops around C[m, n] = A[m, k] B[k, n]. With `exchanged` A is y."""

    operands: tuple[Operand, Operand]
    loops: tuple[Axis, ...]
    m: Axis
    n: Axis
    k: tuple[int, int, int]  # extent, stride in x, stride in y
    exchanged: bool

    @property
    def count(self) -> int:
        return math.prod(loop.extent for loop in self.loops)

    @property
    def strides(self) -> tuple[tuple[int, int], tuple[int, int], int]:
        """Strides of A along m and k, of B along k and n, and of C along m."""
        first, second = (1, 0) if self.exchanged else (0, 1)
        a, b = (self.m.strides[first], self.k[1 + first]), (self.k[1 + second], self.n.strides[second])
        return a, b, self.m.strides[2] if self.m.extent > 1 else self.n.extent


def axis_groups(node: Node) -> list[tuple[list[int], list[int], list[int]]]:
    """Batch, free and contracted axes of both operands, the contracted in the order that the larger one has: where
    they cannot be one axis of both, the other is copied."""
    contract, batch = node.attrs["contract"], node.attrs["batch"]
    larger = 0 if node.operands[0].type.size >= node.operands[1].type.size else 1
    order = sorted(range(len(contract[0])), key=lambda k: contract[larger][k])
    made = []
    for side, operand in enumerate(node.operands):
        inner, outer = [contract[side][k] for k in order], list(batch[side])
        made.append((outer, [a for a in range(operand.ndim) if a not in inner and a not in outer], inner))
    return made


def dot_shape(node: Node, operands: Sequence[Value], views: Mapping[Value, Node], strides: Sequence[int]) -> Shape:
    """The dot of `operands`, which `views` may name, into a result with these strides along the dot's axes."""
    groups = axis_groups(node)
    made = [_operand(v, g, views) for v, g in zip(operands, groups, strict=True)]
    free: list[list[Axis]] = []
    place = len(groups[0][0])
    for side, (_, axes, _) in enumerate(groups):
        along = list(strides[place : place + len(axes)])
        place += len(axes)
        found = _free_axes(made[side], axes, along, side)
        if not _readable(made[side], found, groups[side][2]):  # a copy in the result's order lies in step with it
            order = [a for _, a in sorted(zip(along, axes, strict=True), key=lambda t: -t[0])]
            batch, _, inner = groups[side]
            made[side] = Operand(operands[side], None, (*batch, *order, *inner))
            found = _free_axes(made[side], axes, along, side)
        free.append(found)
    (m, rows), (n, columns) = (_chosen(axes) for axes in free)
    exchanged = n.extent > 1 and n.strides[2] != 1
    if exchanged:
        m, n = n, m
    (extent, x_step), (_, y_step) = (_contracted_of(o, g[2]) for o, g in zip(made, groups, strict=True))
    loops = _merged([*_batch_axes(made, groups, strides), *rows, *columns])
    return Shape((made[0], made[1]), tuple(loops), m, n, (extent, x_step, y_step), exchanged)


def transposable(node: Node, strides: Sequence[int]) -> bool:
    """Whether a dot can be computed into a result of these strides: a free axis must lie innermost."""
    if node.result.dtype not in SUPPORTED:
        return False
    free = range(len(node.attrs["batch"][0]), node.result.ndim)
    return any(strides[a] == 1 and node.result.shape[a] > 1 for a in free)


def _operand(value: Value, groups: tuple[list[int], list[int], list[int]], views: Mapping[Value, Node]) -> Operand:
    source = resolve(value, views)
    batch, free, inner = groups
    if source is not None and source.merged(inner) is not None:
        return Operand(value, source, None)
    return Operand(value, None, (*batch, *free, *inner))


def axis_strides(operand: Operand) -> tuple[int, ...]:
    """Strides along the operand's axes."""
    if operand.source is not None:
        return operand.source.strides
    assert operand.packed is not None
    shape = operand.value.shape
    steps = dict(zip(operand.packed, row_major([shape[a] for a in operand.packed]), strict=True))
    return tuple(steps[a] for a in range(len(shape)))


def _free_axes(operand: Operand, axes: Sequence[int], along: Sequence[int], side: int) -> list[Axis]:
    """The free axes, outermost in the result first, those in step in operand and result as one."""
    own = axis_strides(operand)
    made = []
    for axis, result in sorted(zip(axes, along, strict=True), key=lambda t: -t[1]):
        here = (own[axis], 0) if side == 0 else (0, own[axis])
        made.append(Axis(operand.value.shape[axis], (*here, result)))
    return _merged(made)


def _merged(axes: Sequence[Axis]) -> list[Axis]:
    """Without axes of one, and with neighbours that all arrays pass through in step as one."""
    merged: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        if merged and merged[-1].strides == tuple(s * axis.extent for s in axis.strides):
            axis = Axis(axis.extent * merged.pop().extent, axis.strides)
        merged.append(axis)
    return merged


def _chosen(axes: list[Axis]) -> tuple[Axis, list[Axis]]:
    """The axis that is the matrix's rows or columns, and the others: the one adjacent in the result, or the longest."""
    if not axes:
        return Axis(1, (0, 0, 0)), []
    best = max(axes, key=lambda a: (a.strides[2] == 1, a.extent))
    return best, [a for a in axes if a is not best]


def _readable(operand: Operand, axes: list[Axis], inner: Sequence[int]) -> bool:
    """Whether a product reads an operand where it is, and a loop over all its free axes but one is no worse than a
    copy. BLAS, for complex numbers, wants one unit stride and no overlap."""
    if operand.value.dtype in SUPPORTED:
        return len(axes) < 2 or _chosen(axes)[0].extent >= ROWS_OF_A_LOOP
    rows, merged = _chosen(axes)[0], _contracted_of(operand, inner)
    lines = ((rows.extent, max(rows.strides[:2])), merged)
    return len(axes) < 2 and any(blas_lines(*pair) for pair in (lines, lines[::-1]))


def blas_lines(rows: tuple[int, int], columns: tuple[int, int]) -> bool:
    """Whether (extent, stride) of rows and columns are lines of adjacent elements that do not overlap."""
    (n, s), (m, t) = rows, columns
    return (t == 1 or m == 1) and (s >= max(m, 1) or n == 1)


def _contracted_of(operand: Operand, inner: Sequence[int]) -> tuple[int, int]:
    merged = Strided(operand.value, 0, operand.value.shape, axis_strides(operand)).merged(inner)
    assert merged is not None
    return merged


def _batch_axes(
    operands: Sequence[Operand], groups: Sequence[tuple[list[int], list[int], list[int]]], strides: Sequence[int]
) -> list[Axis]:
    own = [axis_strides(o) for o in operands]
    pairs = zip(groups[0][0], groups[1][0], strict=True)
    shape = operands[0].value.shape
    return [Axis(shape[x], (own[0][x], own[1][y], strides[k])) for k, (x, y) in enumerate(pairs)]

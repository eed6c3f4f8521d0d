"""Jacobians: a linear graph run on every unit vector, by rows or by columns, a chunk of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError
from nufunc.ir.graph import Graph, Value
from nufunc.ir.types import INT64, ArrayType, is_complex, is_inexact
from nufunc.passes.basis import is_pushed
from nufunc.runtime import pipeline
from nufunc.runtime.differentiation import primal_part
from nufunc.runtime.selection import Selection, check_inexact, select, trace_with_aux
from nufunc.runtime.subgraph import Sub, inline, rows_of, wrap, write_updates
from nufunc.runtime.transform import Callee, Transform
from nufunc.runtime.updates import admit_all, admit_updates, refuse_differentiated
from nufunc.tracer import tree
from nufunc.tracer.np_random import Lanes
from nufunc.tracer.trace import require
from nufunc.tracer.usercode import user_location


@dataclass(frozen=True)
class Jacobian(Transform):
    """Jacobians by rows (mode "rev") or columns (mode "fwd"), `chunk_size` of them at a time."""

    mode: str
    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    chunk_size: int | None = None
    holomorphic: bool = False
    randomness: str = "same"

    @property
    def label(self) -> str:
        return f"jac{self.mode}"

    def apply(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = select(callee, args, kwargs, self.argnums, None, self.label)

        def rebuild(values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if self.randomness != "same":
                require().lanes = Lanes(self.randomness, -1, self.label)
            return chosen.rebuild(values)

        sub, count = trace_with_aux(callee, chosen.arrays, rebuild, self.has_aux, self.label)
        refused = refuse_differentiated(sub, chosen.names, self.label) if self.mode == "rev" else admit_all
        admit_updates(sub, chosen.arrays, chosen.names, refused)
        check_inexact(sub, count, callee, f"{self.label}: all outputs of f must be floating-point or complex")
        self._check_complex(sub, count, chosen, callee)
        outs = [o.type for o in sub.graph.outputs[:count]]
        ins = [a.type for a in chosen.arrays]
        blocks, values = (self._rows if self.mode == "rev" else self._columns)(sub, chosen, ins, outs, count)
        result = sub.result(wrap(values[: sub.num_outputs], sub.slots))
        # the output's tree, at each leaf the tree of the selected arguments
        nested = [chosen.pack(wrap(blocks[k])) for k in range(count)]
        jacobian = tree.unflatten(tree.structure(result[0]), nested)
        write_updates(sub, chosen.arrays, values)
        return (jacobian, result[1]) if self.has_aux else jacobian

    def _check_complex(self, sub: Sub, count: int, chosen: Selection, callee: Callee) -> None:
        if self.holomorphic:
            return
        for a, name in zip(chosen.arrays, chosen.names, strict=True):
            if is_complex(a.dtype):
                raise DTypeError(
                    f"{self.label}: argument {name} is complex; pass holomorphic=True for a holomorphic function",
                    user_location(),
                )
        for k in range(count):
            if is_complex(sub.graph.outputs[k].dtype):
                raise DTypeError(
                    f"{self.label}: output {k} of {callee.name} is complex; pass holomorphic=True for a "
                    f"holomorphic function",
                    callee.location(),
                )

    def _rows(
        self, sub: Sub, chosen: Selection, ins: list[ArrayType], outs: list[ArrayType], count: int
    ) -> tuple[list[list[Any]], list[Any]]:
        values, back, residuals = primal_part(sub, chosen.arrays, [k < count for k in range(len(sub.graph.outputs))])
        b, chunk = require().b, self.chunk_size
        if chunk is None and is_pushed(back, len(residuals)):
            graph = pipeline.jacobian(back, len(residuals), last=False)
            chunk = _chunk(graph, sum(t.size for t in outs))
            if chunk is None:
                pushed = b.inline(graph, residuals)
                return [pushed[k :: len(outs)] for k in range(len(outs))], values
        rows = _over_basis(back, residuals, outs, chunk)
        blocks: list[list[Any]] = []
        starts = _starts(outs)
        for k, out in enumerate(outs):
            cut = [rows_of(b, r, starts[k], out.size) for r in rows]
            blocks.append([b.reshaped(c, (*out.shape, *t.shape)) for c, t in zip(cut, ins, strict=True)])
        return blocks, values

    def _columns(
        self, sub: Sub, chosen: Selection, ins: list[ArrayType], outs: list[ArrayType], count: int
    ) -> tuple[list[list[Any]], list[Any]]:
        which = [True] * sub.num_params + [False] * len(sub.captured)
        primal, linear, num = pipeline.pushed_forward(sub.graph, which)
        inexact = [k for k, o in enumerate(sub.graph.outputs) if is_inexact(o.dtype)]
        kept = [o for o, k in zip(linear.outputs, inexact, strict=True) if k < count]
        values = inline(primal, [*chosen.arrays, *sub.captured])
        residuals, values = values[len(values) - num :], values[: len(values) - num]
        linear = linear.replace(outputs=tuple(kept))
        b, chunk = require().b, self.chunk_size
        if chunk is None and is_pushed(linear, num):
            graph = pipeline.jacobian(linear, num, last=True)
            chunk = _chunk(graph, sum(t.size for t in ins))
            if chunk is None:
                pushed = b.inline(graph, residuals)
                return [pushed[k * len(ins) : (k + 1) * len(ins)] for k in range(len(outs))], values
        columns = _over_basis(linear, residuals, ins, chunk)
        blocks: list[list[Any]] = [[] for _ in outs]
        starts = _starts(ins)
        for out, column, row in zip(outs, columns, blocks, strict=True):
            for start, t in zip(starts, ins, strict=True):
                cut = rows_of(b, column, start, t.size)
                cut = b.transposed(cut, (*range(1, out.ndim + 1), 0))
                row.append(b.reshaped(cut, (*out.shape, *t.shape)))
        return blocks, values


_LARGE, _PART = 64 << 20, 16 << 20  # bytes of an intermediate array that is cut, and of its parts
_LEAST = 16  # unit vectors at a time


def _chunk(graph: Graph, total: int) -> int | None:
    """How many of `total` unit vectors to push at a time, where the arrays between are much larger than the caches and
    than the result; None for all."""
    largest = max((v.type.nbytes for n in graph.nodes for v in n.results), default=0)
    results = sum(o.type.nbytes for o in graph.outputs)
    if largest < _LARGE or largest < 2 * results:
        return None
    chunk = max(_LEAST, total * _PART // largest // _LEAST * _LEAST)
    return chunk if 2 * chunk <= total else None


def _starts(types: Sequence[ArrayType]) -> list[int]:
    starts, total = [], 0
    for t in types:
        starts.append(total)
        total += t.size
    return starts


def _unit_rows(b: Builder, types: Sequence[ArrayType], index: Value | int, size: int) -> list[Value]:
    """Rows index .. index+size of the identity over all elements of `types`, cut into arrays of these types."""
    parts = []
    for start, t in zip(_starts(types), types, strict=True):
        shape = (size, t.size)
        row = b.iota(shape=shape, dtype=INT64, axis=0)
        if isinstance(index, int):
            offset = b.filled(index - start, ArrayType(shape, INT64))
        else:
            offset = b.broadcast_to(b.sub(index, b.scalar(start, INT64)), shape)
        hit = b.eq(b.add(row, offset), b.iota(shape=shape, dtype=INT64, axis=1))
        parts.append(b.reshaped(b.astype(hit, t.dtype), (size, *t.shape)))
    return parts


def _over_basis(
    linear: Graph, residuals: Sequence[Value], types: Sequence[ArrayType], chunk_size: int | None
) -> list[Value]:
    """The outputs of a linear graph for every unit vector of its linear parameters, stacked on axis 0."""
    b = require().b
    total = sum(t.size for t in types)
    in_dims: list[int | None] = [None] * len(residuals) + [0] * len(types)
    out_dims: list[int | None] = [0] * len(linear.outputs)
    if chunk_size is None or chunk_size >= total:
        rows = pipeline.vmapped(linear, total, in_dims, out_dims)
        return b.inline(rows, [*residuals, *_unit_rows(b, types, 0, total)])
    chunks, rest = divmod(total, chunk_size)
    inner = Builder(f"{linear.name}.chunk")
    held = [inner.param(r.type) for r in residuals]
    index = inner.param(ArrayType((), INT64))
    rows = pipeline.vmapped(linear, chunk_size, in_dims, out_dims)
    body = inner.build(inner.inline(rows, [*held, *_unit_rows(inner, types, index, chunk_size)]))
    first = b.mul(b.iota(shape=(chunks,), dtype=INT64, axis=0), b.filled(chunk_size, ArrayType((chunks,), INT64)))
    stacked = b.emit("map", [*residuals, first], {"length": chunks, "num_consts": len(residuals)}, (body,))
    results = [b.reshaped(s, (chunks * chunk_size, *s.shape[2:])) for s in stacked]
    if rest:
        rows = pipeline.vmapped(linear, rest, in_dims, out_dims)
        last = b.inline(rows, [*residuals, *_unit_rows(b, types, chunks * chunk_size, rest)])
        results = [b.concat(r, part, axis=0) for r, part in zip(results, last, strict=True)]
    return results

"""Temporaries within a limit: how many lanes the transforms of a chain compute at once for `jit(max_bytes=...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from nufunc.ir.errors import ArgumentError
from nufunc.runtime import pipeline
from nufunc.runtime.batching import Vmap
from nufunc.runtime.compilation import lower_program
from nufunc.runtime.executable import Program
from nufunc.runtime.jacobian import Jacobian
from nufunc.runtime.stored import workspace_of
from nufunc.runtime.transform import Transform
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.codegen.compile import Lowered

Chain = tuple[Transform, ...]


def fitting(transforms: Chain, limit: int, trace: Callable[[Chain], Program]) -> Chain:
    """The chain with a `chunk_size` for each vmap and Jacobian that has none, such that temporaries take `limit` bytes
    at most: the largest power of two that fits. Programs are traced for it, and lowered where it is not on disk what
    they take, not compiled.
    """

    def lowered(program: Program) -> Lowered:
        with pipeline.recording(None):
            return lower_program(program)

    def traced(chain: Chain) -> tuple[Program, bool]:
        with pipeline.recording(None):
            program = trace(chain)
        return program, workspace_of(program, lambda: lowered(program).workspace) <= limit

    whole, fits = traced(transforms)
    if fits:
        return transforms
    found, size, last = None, 1, whole
    most = max((v.type.size for v in (*whole.graph.params, *whole.graph.outputs)), default=1)
    while size <= most and any(_is_free(t) for t in transforms):  # there are no more lanes than elements
        chain = tuple(_chunked(t, size) for t in transforms)
        last, fits = traced(chain)
        if not fits:
            break
        found, size = chain, 2 * size
    if found is None:
        first = lowered(whole)
        raise ArgumentError(_refusal(limit, first, first if last is whole else lowered(last)), user_location())
    return found


def _is_free(transform: Transform) -> bool:
    return isinstance(transform, Vmap | Jacobian) and transform.chunk_size is None


def _chunked(transform: Transform, size: int) -> Transform:
    if isinstance(transform, Vmap | Jacobian) and transform.chunk_size is None:
        return dataclasses.replace(transform, chunk_size=size)
    return transform


def _refusal(limit: int, whole: Lowered, last: Lowered) -> str:
    from nufunc.codegen.counts import count

    rows = count(last.grouped, last.spec, last.copied).rows
    most = sorted(rows, key=lambda row: row.bytes_written // row.times, reverse=True)[:3]
    lines = [f"{row.name} writes {row.bytes_written // row.times:,} bytes ({row.location})" for row in most]
    least = "" if last is whole else f", {last.workspace:,} with one lane at a time"
    return (
        f"jit: temporaries of {whole.name} take {whole.workspace:,} bytes{least}; max_bytes={limit:,} allows less. "
        f"The largest: {'; '.join(lines)}"
    )

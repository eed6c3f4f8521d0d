"""Tapes inside kernels: loops of threads that keep what they need for their way back.

Note [Tapes of threads]
Each thread has room for a limited number of items of each tape, chosen by the threads and the memory that all may take.
Items of all threads lie next to each other, so that threads in step read and write neighbours. A loop that needs more
leaves a flag and ends, and the host drives the whole node anew (Note [Handles] of `runtime.cuda.tapes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nufunc.codegen.buffers import ALIGNMENT, Frame, aligned
from nufunc.codegen.cuda import control_choice
from nufunc.codegen.cuda.control_loops import Carries, Homes, leave_unless
from nufunc.codegen.cuda.control_nests import Home
from nufunc.codegen.cuda.program import Place
from nufunc.codegen.text_scalars import number
from nufunc.ir.graph import Node
from nufunc.ir.types import INT64, ArrayType, TapeType

if TYPE_CHECKING:
    from nufunc.codegen.cuda.control_kernels import Writer

THREADS = 64  # of a block whose threads are lanes
_TAPE_BYTES, _MOST_ITEMS, _FEWEST_ITEMS = 1 << 28, 4096, 16  # of the tapes of all threads; of one
_TAPE_BLOCKS = 512


@dataclass(frozen=True)
class Recording:
    """The tapes of a map in threads: room for `most` items each, for every one of `threads`. `nbytes` are those of all,
    behind a flag that tells that this was not enough."""

    most: int
    threads: int
    nbytes: int


def recording(node: Node) -> Recording | None:
    """Where the tapes of a map in a kernel lie; None where there are none."""
    if node.prim != "map" or not control_choice.records(node):
        return None
    items = [v.type.item for r in node.regions for n in r.walk() for v in n.results if isinstance(v.type, TapeType)]
    each = sum(aligned(max(t.nbytes, 1)) for t in items)
    threads = min(-(-node.attrs["length"] // THREADS), _TAPE_BLOCKS) * THREADS
    most = max(_FEWEST_ITEMS, min(_MOST_ITEMS, _TAPE_BYTES // max(each * threads, 1)))
    return Recording(most, threads, ALIGNMENT + sum(aligned(t.nbytes * most * threads) for t in items))


def room(w: Writer, item: ArrayType) -> Home:
    """The memory of a tape, of all threads."""
    made = w.recording
    assert made is not None
    type_ = ArrayType((item.size * made.most * made.threads,), item.dtype)
    home = w.memory(w.own_arena.moved(w.pool), type_)
    w.pool += aligned(type_.nbytes)
    w.written.add(home.name)
    return home


def kept(w: Writer, tape: Home, row: str, element: int, size: int) -> str:
    """The place of an element of an item."""
    assert w.recording is not None
    return tape.element(f"({row} * {size} + {element}) * {w.recording.threads} + cuda.grid(1)")


def append(w: Writer, tape: Home, row: str, value: Home, item: ArrayType) -> None:
    for k in range(item.size):
        text = value.stored(value.name) if value.register else value.element(str(k))
        w.line(f"{kept(w, tape, row, k, item.size)} = {text}")


def taken(w: Writer, tape: Home | None, row: str, item: ArrayType) -> Home:
    """An item that is read, of zeros where the tape has none."""
    if item.size == 1:
        home = Home(w.fresh("reg"), item.dtype, register=True)
        test = " != 0" if item.dtype.kind == "b" else ""
        text = number(0, item.dtype) if tape is None else kept(w, tape, row, 0, 1) + test
        w.line(f"{home.name} = {text}")
        return home
    home = w.stacked(item)
    for k in range(item.size):
        kind = "uint8(0)" if item.dtype.kind == "b" else number(0, item.dtype)
        w.line(f"{home.element(str(k))} = {kind if tape is None else kept(w, tape, row, k, item.size)}")
    return home


def record(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Homes, arena: Place
) -> list[Home]:
    """The homes of carries, of tapes, and the number of iterations."""
    cond, body = node.regions
    nc, nb = node.attrs["num_cond"], node.attrs["num_body"]
    carry = Carries(w, node, frames, operands[nc + nb :], results, arena)
    types = [o.type for o in body.outputs[len(carry.types) :]]
    tapes = [room(w, t) for t in types]
    assert w.recording is not None
    length, most = w.fresh("reg"), w.recording.most
    w.line(f"{length} = int64(0)")
    with w.indented("while True:"):
        leave_unless(w, node, cond, frames[0], [*operands[:nc], *carry.current], carry.arena)
        with w.indented(f"if {length} >= {most}:"):
            w.line(f"{w.memory(w.own_arena, ArrayType((), INT64)).name}[0] = int64(1)")
            w.line("break")
        own = [None if t.size == 1 else w.stacked(t) for t in types]
        made = w.region(
            body, frames[1], [*operands[nc : nc + nb], *carry.current], [*carry.following, *own], carry.arena
        )
        for tape, value, type_ in zip(tapes, made[len(carry.types) :], types, strict=True):
            append(w, tape, length, value, type_)
        carry.step(made[: len(carry.types)])
        w.line(f"{length} = {length} + 1")
    w.written.add(w.memory(w.own_arena, ArrayType((), INT64)).name)
    return [*carry.finish(), *tapes, Home(length, INT64, register=True)]


def replay(
    w: Writer, node: Node, frames: Sequence[Frame], operands: Sequence[Home], results: Homes, arena: Place,
    read: Sequence[Home | None],
) -> list[Home]:  # fmt: skip
    """The homes of carries and tapes. `read` are the homes of the tapes that are read; None: of zeros."""
    body, consts, count = node.regions[0], node.attrs["num_consts"], node.attrs["num_carry"]
    length = w.loaded(operands[0]).name
    carry = Carries(w, node, frames, operands[1 + consts :], results, arena)
    types = [o.type for o in body.outputs[count:]]
    tapes = [room(w, t) for t in types]
    index = w.fresh("turn")
    with w.indented(f"for {index} in range({length}):"):
        row = f"({length} - 1 - {index})" if node.attrs["reverse"] else index
        xs = [taken(w, t, row, p.type) for t, p in zip(read, body.params[consts + count :], strict=True)]
        own = [None if t.size == 1 else w.stacked(t) for t in types]
        arguments = [*operands[1 : 1 + consts], *carry.current, *xs]
        made = w.region(body, frames[0], arguments, [*carry.following, *own], carry.arena)
        for tape, value, type_ in zip(tapes, made[count:], types, strict=True):
            append(w, tape, row, value, type_)
        carry.step(made[:count])
    return [*carry.finish(), *tapes]

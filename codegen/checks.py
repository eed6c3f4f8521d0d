"""Checks of indices: how a nest notes the first that is outside, and how its number comes to the error's message.

Note [Offending index]
An error word of a plan is a block of `ERROR_SIZE` bytes: the code of the site (i32), and from `INDEX_AT` on the index
(i64), counted from the array's first element. Both are written in a branch that is taken once in a call that fails, so
the number costs nothing where all is well. A task of a parallel region leaves its index in a slot of its own, from
which the region takes that of the task whose code it takes. A plan that fails tells the index to `REPORT`, a function
of Python in the plan's table, which keeps it for its thread until the exception is made; plans that run without Python
have no such slot, and messages without a number.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llvmlite import ir

    from nufunc.codegen.plan import Plan

REPORT = "nufunc.report"  # its name among a plan's externs
ERROR_SIZE, INDEX_AT = 16, 8
_KIND, _FROM_END = "index ", " from end"
_LAST = threading.local()


def index_kind(extent: int, from_end: bool) -> str:
    """The kind of the site of an index into an axis; `from_end`: negative ones had the extent added."""
    return f"{_KIND}{extent}{_FROM_END if from_end else ''}"


def is_index(kind: object) -> bool:
    return isinstance(kind, str) and kind.startswith(_KIND)


def index_message(kind: str, index: int | None) -> str:
    """What the error of such a site says; index: as it was noted, None where it is not known."""
    text, from_end, _ = kind.removeprefix(_KIND).partition(_FROM_END)
    extent = int(text)
    if index is not None and index < 0:
        index = index - extent if from_end else None  # it was negative, or a step beyond the start of what is read
    return f"index {'' if index is None else f'{index} is '}out of bounds for an axis of size {extent}"


# -- in machine code


def emit_check(
    b: ir.IRBuilder, value: ir.Value, extent: int, guard: ir.Value | None, site: int, error: ir.Value
) -> ir.Value:
    """The index, 0 where it is outside; then the site is noted, unless the lane's guard is false."""
    from nufunc.codegen.llvm import I32, constant

    name = f"nf.check.{value.type}{'' if guard is None else '.guarded'}".replace(" ", "")
    function = b.module.globals.get(name) or _check_function(b.module, name, value.type, guard)
    guards = [] if guard is None else [guard]
    return b.call(function, [value, constant(value.type, extent), *guards, I32(site), error])


def _check_function(module: ir.Module, name: str, type_: ir.Type, guard: ir.Value | None) -> ir.Function:
    from llvmlite import ir

    from nufunc.codegen.emit_memory import Memory
    from nufunc.codegen.llvm import I8, I32, I64, POINTER, constant, lanes_of

    guards = [] if guard is None else [guard.type]
    function = ir.Function(module, ir.FunctionType(type_, [type_, type_, *guards, I32, POINTER]), name)
    function.linkage = "internal"
    function.attributes.add("alwaysinline")
    value, extent, *given, site, error = function.args
    b = ir.IRBuilder(function.append_basic_block())
    wrong, done = (function.append_basic_block(n) for n in ("wrong", "done"))
    inside = b.icmp_unsigned("<", value, extent)
    bad = b.not_(inside)
    if given:
        bad = b.and_(bad, given[0])
    lanes = lanes_of(type_)
    b.cbranch(Memory(b).any(bad) if lanes > 1 else bad, wrong, done).set_weights([1, 4000])
    b.position_at_end(wrong)
    index = value
    if lanes > 1:
        word = ir.IntType(lanes)
        first = b.cttz(b.bitcast(bad, word), ir.Constant(ir.IntType(1), 1))
        wide = first if lanes == 32 else b.zext(first, I32) if lanes < 32 else b.trunc(first, I32)
        index = b.extract_element(value, wide)
    place = b.gep(error, [I64(INDEX_AT)], inbounds=True, source_etype=I8)
    held = b.load(error, typ=I32)
    fresh = b.icmp_signed("==", held, I32(0))  # the first counts
    b.store(b.select(fresh, site, held), error)
    b.store(b.select(fresh, index, b.load(place, typ=I64)), place, align=8)
    b.branch(done)
    b.position_at_end(done)
    b.ret(b.select(inside, value, constant(type_, 0)))
    return function


def emit_report(plan: Plan) -> None:
    """Where a plan ends with an error: tell the index, if that may be the reason."""
    from nufunc.codegen.library import call_extern
    from nufunc.codegen.llvm import I64, ir

    if plan.signals and any(is_index(kind) for kind, _ in plan.sites.sites.values()):
        call_extern(plan, REPORT, ir.VoidType(), [plan.b.load(plan.at(plan.error, INDEX_AT), typ=I64)])


# -- in the process


def _note(index: int) -> None:
    _LAST.index = index


@functools.cache
def _native() -> ctypes._FuncPointer:
    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(_note)


def address() -> int:
    """The address of `REPORT`."""
    return int(ctypes.cast(_native(), ctypes.c_void_p).value or 0)


def taken() -> int | None:
    """The index that this thread's last failed call told, once."""
    index, _LAST.index = getattr(_LAST, "index", None), None
    return index

"""Calls of Python functions from a plan: a C function that makes arrays of the operands' memory and stores the
results.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nufunc.ir.graph import Node
from nufunc.ir.prims.host import Host
from nufunc.ir.types import ArrayType

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope


PREFIX = "nufunc.host:"  # in object code, before the number of a program's host


class HostCall:
    """int (ptr operands, ptr results): calls a Host, taking the GIL. 0, or 1 with the exception kept for its thread."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._raised = threading.local()
        self._native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(self._run)
        self.address = int(ctypes.cast(self._native, ctypes.c_void_p).value or 0)

    def _run(self, operands: int, results: int) -> int:
        try:
            given = [a.copy() for a in _arrays(operands, self.host.operand_types)]
            for target, made in zip(
                _arrays(results, self.host.result_types), self.host.function(*given), strict=True
            ):
                target[...] = made
        except BaseException as error:  # noqa: BLE001 - handed to the caller of the plan, which raises it
            self._raised.error = error
            return 1
        return 0

    def error(self) -> BaseException:
        """The exception that ended this thread's last call."""
        error: BaseException = self._raised.error
        self._raised.error = None
        return error


def _arrays(table: int, types: Sequence[ArrayType]) -> list[np.ndarray]:
    pointers = (ctypes.c_void_p * max(len(types), 1)).from_address(table)
    made = []
    for pointer, type_ in zip(pointers, types, strict=False):
        if type_.size:
            memory = memoryview((ctypes.c_char * type_.nbytes).from_address(pointer))
            made.append(np.frombuffer(memory.cast("B"), type_.dtype).reshape(type_.shape))
        else:
            made.append(np.empty(type_.shape, type_.dtype))
    return made


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    from nufunc.codegen.library import call_address  # which imports this file
    from nufunc.codegen.llvm import I32

    call = HostCall(node.attrs["host"])
    tables = []
    for values in (node.operands, node.results):
        table = plan.alloca(8 * max(len(values), 1), 8)
        for k, value in enumerate(values):
            plan.b.store(scope.pointer(value), plan.at(table, 8 * k))
        tables.append(table)
    failed = call_address(plan, plan.held(call), I32, tables)
    code = plan.site(call, node.loc)
    plan.b.store(plan.b.select(plan.b.icmp_signed("==", failed, I32(0)), I32(0), I32(code)), plan.error)
    plan.check_error()

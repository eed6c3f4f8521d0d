"""Fourier transforms in a plan: calls of NumPy's own loops, see Note [Loops of NumPy's FFT] in codegen/fft_loops.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from nufunc.codegen import fft_loops
from nufunc.codegen.library import Caller, call_address
from nufunc.codegen.llvm import I64
from nufunc.ir import primitive
from nufunc.ir.graph import Node
from nufunc.ir.prims.host import Host
from nufunc.ir.types import real_dtype

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan, Scope

PRIMITIVES = ("fft", "rfft", "irfft")


def _loop_name(node: Node) -> str:
    if node.prim == "fft":
        return "ifft" if node.attrs["inverse"] else "fft"
    if node.prim == "irfft":
        return "irfft"
    return "rfft_n_odd" if node.operands[0].shape[-1] % 2 else "rfft_n_even"


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    x, y = node.operands[0].type, node.results[0].type
    if not y.size:
        return
    if not fft_loops.available():
        _call_back(plan, scope, node)
        return
    real = real_dtype(x.dtype)
    key = f"{fft_loops.PREFIX}{_loop_name(node)}/{real.char}:"
    (n, m), (item, made) = (x.shape[-1], y.shape[-1]), (x.dtype.itemsize, y.dtype.itemsize)
    args = [scope.pointer(node.operands[0]), Caller(plan).value(1, real), scope.pointer(node.results[0])]
    sizes = [I64(k) for k in (math.prod(x.shape[:-1]), n, m)]
    steps = [I64(k) for k in (n * item, 0, m * made, item, made)]
    places = []
    for values in (args, sizes, steps):
        place = plan.alloca(8 * len(values), 8)
        for k, value in enumerate(values):
            plan.b.store(value, plan.at(place, 8 * k))
        places.append(place)
    call_address(plan, plan.extern(key + "function"), ir.VoidType(), [*places, plan.extern(key + "data")])


def _call_back(plan: Plan, scope: Scope, node: Node) -> None:
    """numpy.fft itself, through the interpreter's rule of the primitive."""
    from nufunc.codegen import callback

    record = primitive.get(node.prim)

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        return list(record.evaluate(list(arrays), node.attrs, ()))

    host = Host(f"numpy.fft:{node.prim}", run, [o.type for o in node.operands], [r.type for r in node.results])
    callback.emit(plan, scope, Node("callback", node.operands, {"host": host}, (), node.results, node.loc))

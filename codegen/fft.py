"""Fourier transforms in a plan: calls of NumPy's own loops, see Note [Loops of NumPy's FFT] in codegen/fft_loops.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

PRIMITIVES = ("fft", "rfft", "irfft", "fft_along")


def _loop_name(prim: str, node: Node, points: int) -> str:
    if prim == "fft":
        return "ifft" if node.attrs["inverse"] else "fft"
    if prim == "irfft":
        return "irfft"
    return "rfft_n_odd" if points % 2 else "rfft_n_even"


def emit(plan: Plan, scope: Scope, node: Node) -> None:
    x, y = node.operands[0].type, node.results[0].type
    if not y.size:
        return
    if not fft_loops.available():
        _call_back(plan, scope, node)
        return
    prim, axis = node.attrs.get("prim", node.prim), node.attrs.get("axis", x.ndim - 1)
    real, (n, m) = real_dtype(x.dtype), (x.shape[axis], y.shape[axis])
    item, made = x.dtype.itemsize, y.dtype.itemsize
    key = f"{fft_loops.PREFIX}{_loop_name(prim, node, n)}/{real.char}:"
    source, result, one = scope.pointer(node.operands[0]), scope.pointer(node.results[0]), Caller(plan).value(1, real)
    before, behind = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    if behind == 1:
        _call(plan, key, [source, one, result], (before, n, m), (n * item, 0, m * made, item, made))
        return
    loop = plan.loop(before)
    k = loop.__enter__()
    at = lambda place, size: plan.at(place, plan.b.mul(k, I64(size)))
    inside = [at(source, n * behind * item), one, at(result, m * behind * made)]
    _call(plan, key, inside, (behind, n, m), (item, 0, made, behind * item, behind * made))
    loop.finish([])


def _call(
    plan: Plan, key: str, args: Sequence[ir.Value], extents: Sequence[int], strides: Sequence[int]
) -> None:
    """The loop `key` over rows: pointers, the number of rows with their points, bytes from row to row and within."""
    sizes, steps = ([I64(k) for k in numbers] for numbers in (extents, strides))
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

"""Kernels of factorisations that all plans of a process share: a module per kernel, compiled when a plan first needs it
and never freed. A plan finds them through its table, by names that say dtype, vectors and kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from nufunc.codegen import backend
from nufunc.codegen.factor import BLOCK, TRIANGLE, Factor
from nufunc.codegen.library import call_address
from nufunc.codegen.loading import OPTIMISE

if TYPE_CHECKING:
    from nufunc.codegen.plan import Plan

PREFIX = "nufunc.factor."  # of the names of these functions among a plan's externs

_KERNELS: dict[str, Callable[[Factor], ir.Function]] = {
    "cholesky": lambda f: f.cholesky(BLOCK + 1),
    "cholesky.small": lambda f: f.cholesky(1),
    "forward": lambda f: f.forward(),
    "forward.tiles": lambda f: f.forward(TRIANGLE),
    "forward.single": lambda f: f.forward(1),
    "lu": lambda f: f.lu(f.panel + 1),
    "lu.small": lambda f: f.lu(1),
    "exchange": lambda f: f.exchange(),
}
_known: dict[str, backend.Executable] = {}  # by names, the module that defines the kernel, perhaps for another one
_compiling = threading.RLock()


def call(plan: Plan, kernels: Factor, kernel: ir.Function, args: Sequence[ir.Value]) -> ir.Value:
    """Call a kernel that `kernels` declares."""
    *_, kind = kernel.name.split(".", 3)
    arithmetic = "fma" if kernels.has_fma else "plain"
    name = f"{PREFIX}{kernels.dtype.str[1:]}.{kernels.lanes}.{arithmetic}.{kind}"
    return call_address(plan, plan.extern(name), kernel.function_type.return_type, args)


def address(name: str) -> int:
    """The address of a kernel by its name among a plan's externs."""
    with _compiling:
        if name not in _known:
            module = _module(name)
            stem = name[: -len(_parts(name)[-1])]
            executable = backend.library_module(str(module), name, OPTIMISE)
            for function in module.functions:
                kind = _kind(function.name)
                if kind in _KERNELS:
                    _known.setdefault(stem + kind, executable)
        return _known[name].address(exported(name))


def exported(name: str) -> str:
    """The symbol of a kernel by its name among a plan's externs."""
    dtype, _, _, kind = _parts(name)
    return f"nf.factor.{dtype}.{kind}"


def text(name: str) -> str:
    """The LLVM text of the module that has a kernel."""
    return str(_module(name))


def _parts(name: str) -> list[str]:
    """dtype, lanes, arithmetic, kernel."""
    return name.removeprefix(PREFIX).split(".", 3)


def _kind(symbol: str) -> str:
    return symbol.split(".", 3)[-1]


def _module(name: str) -> ir.Module:
    dtype, lanes, arithmetic, kind = _parts(name)
    element = np.dtype(dtype)
    bits = 8 * element.itemsize * int(lanes)
    machine = replace(backend.target(), vector_bits=bits, has_fma=arithmetic == "fma")
    module = ir.Module(name)
    _KERNELS[kind](Factor(module, element, machine))
    for function in module.functions:
        if not function.is_declaration and _kind(function.name) in _KERNELS:
            function.linkage = "external"
    return module

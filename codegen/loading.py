"""Compiled: the entry of a plan whose machine code is there, just made or from object code; nothing is emitted here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nufunc.codegen import backend, checks
from nufunc.codegen.callspec import CallSpec
from nufunc.codegen.objects import ObjectCode
from nufunc.codegen.wrapper import Entry
from nufunc.ir.errors import Location

if TYPE_CHECKING:
    from nufunc.codegen.callback import HostCall
    from nufunc.codegen.compile import Lowered
    from nufunc.ir.prims.host import Host

# Kernels are emitted with their loops, vectors and invariant code in place: what is left is to dissolve
# small functions and stack slots and to clean up. LLVM's -O3 pipeline takes five to twenty times as long and
# gives no faster code (measured on elementwise chains, sums, softmax, an MLP's gradient).
PASSES = ("always_inliner", "sroa", "instruction_combine", "simplify_cfg")
OPTIMISE = backend.Optimise(passes=PASSES)


class Compiled(Entry):
    """An Entry that can be looked into; `lower` gives what it was compiled from. `found` is what it was loaded from."""

    found: ObjectCode | None = None

    def __init__(
        self, executable: backend.Executable, prefix: str, spec: CallSpec,
        externs: Sequence[str | np.ndarray | HostCall], on_error: Callable[[int], BaseException], keep: object,
        lower: Callable[[], Lowered],
    ) -> None:  # fmt: skip
        self.executable, self._lower = executable, lower
        super().__init__(executable, prefix, spec, [extern_address(e) for e in externs], on_error, keep)

    @cached_property
    def lowered(self) -> Lowered:
        return self._lower()

    def llvm(self) -> str:
        """The optimised LLVM text."""
        return backend.optimised_text(self.lowered.text, self.lowered.name, OPTIMISE)

    def assembly(self) -> str:
        return backend.assembly_text(self.lowered.text, self.lowered.name, OPTIMISE)

    def loops(self) -> str:
        return self.lowered.loops()

    @property
    def workspace(self) -> int:
        return self.spec.workspace


def load_object(
    found: ObjectCode, locations: Sequence[Location], hosts: Sequence[Host], lower: Callable[[], Lowered]
) -> Compiled:
    """The entry of object code for this target. `locations` and `hosts` are those of the program that it is loaded for;
    `lower` makes what the code was made from, if that is asked for."""
    executable = backend.load_object(found.code, found.prefix)
    calls = _host_calls(hosts)

    def error(code: int) -> BaseException:
        from nufunc.codegen.nest_builder import site_error

        kind, place = found.sites[code]
        return site_error(calls.get(kind, kind), None if place is None else locations[place], checks.taken())

    externs = [calls.get(e, e) if isinstance(e, str) else e for e in found.externs]
    entry = Compiled(executable, found.prefix, found.spec, externs, error, (found, calls), lower)
    entry.found = found
    return entry


def _host_calls(hosts: Sequence[Host]) -> dict[str, HostCall]:
    """What calls Python functions, by the names that stand for them in object code."""
    if not hosts:
        return {}
    from nufunc.codegen.callback import PREFIX, HostCall

    return {f"{PREFIX}{k}": HostCall(host) for k, host in enumerate(hosts)}


# Where the functions of a plan's table come from, by the beginnings of their names: `address` of these modules, each
# imported where one of its functions is met.
LIBRARIES = {
    "nufunc.tape.": "tape_library",
    "nufunc.factor.": "factor_library",
    "numpy.fft:": "fft_loops",
    "numpy.sort.": "numpy_sort",
}


def extern_address(extern: str | np.ndarray | HostCall) -> int:
    """What stands in the plan's table: the address of a constant, of a routine, of the launch of threads, or of what is
    told an index."""
    if isinstance(extern, np.ndarray):
        return int(extern.__array_interface__["data"][0])
    if not isinstance(extern, str):
        return extern.address
    for prefix, module in LIBRARIES.items():
        if extern.startswith(prefix):
            return int(importlib.import_module(f"nufunc.codegen.{module}").address(extern))
    from nufunc.codegen import abi, blas, threads

    if extern == checks.REPORT:
        return checks.address()
    if extern.startswith("Py"):
        return abi.python_address(extern)
    return threads.launch_address() if extern == threads.LAUNCH else blas.address(extern)

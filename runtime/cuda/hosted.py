"""Programs that cannot run on a device as they are: computed on the host, between copies down and up again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nufunc.codegen.callspec import CallSpec
from nufunc.ir.errors import DeviceWarning, UnsupportedError
from nufunc.ir.types import HANDLE, TapeType
from nufunc.runtime.cuda.arrays import DeviceArray, downloaded, uploaded
from nufunc.runtime.cuda.devices import device_of
from nufunc.runtime.cuda.entry import store
from nufunc.runtime.cuda.interop import adopted
from nufunc.runtime.executable import Executable, Program
from nufunc.runtime.stored import Origin


class HostedEntry:
    """The entry of a program for the host, for calls with arrays of a device."""

    def __init__(self, executable: Executable, index: int, on_device: bool) -> None:
        self.executable, self.index, self.on_device = executable, index, on_device
        self.spec: CallSpec = executable.entry.spec

    def fast(self, *args: Any) -> Any:
        return NotImplemented

    into = fast

    def slow(self, *args: Any) -> list[Any]:
        results: list[Any] = self.executable.entry.slow(*map(_down, args))
        return results

    def call(self, values: Sequence[Any], outs: Sequence[Any]) -> list[Any]:
        """Results on the device, those in arguments written there."""
        given = [_down(v) for v in values]
        results = self.executable.run(given)
        for k in self.executable.written:
            if not isinstance(values[k], np.ndarray):
                store(adopted(values[k]), self._up(given[k]))
        own = {id(given[k]): values[k] for k in self.executable.written}
        for out, result in zip(outs, results, strict=False):
            store(out, self._up(np.asarray(result)))
        return [] if outs else [own[id(r)] if id(r) in own else self._up(r) for r in results]

    def _up(self, result: Any) -> Any:
        if not self.on_device or result.dtype == HANDLE:
            return result
        return uploaded(np.asarray(result), device_of(self.index))


@dataclass(eq=False, kw_only=True)
class HostedExecutable(Executable):
    """A program for a device that the host runs."""

    entry: HostedEntry

    def run(self, values: Sequence[Any], outs: Sequence[Any] = ()) -> list[Any]:
        return self.entry.call(values, outs)


def _down(value: Any) -> Any:
    array = value if isinstance(value, np.ndarray | np.generic | float | complex) else adopted(value)
    return downloaded(array) if isinstance(array, DeviceArray) else array


def hosted(program: Program, reason: str, compile_: Callable[[Program], Executable]) -> HostedExecutable:
    """A program that a device cannot run, for calls with arrays of the device; says so."""
    assert program.device is not None
    if any(isinstance(s.type, TapeType) and s.device is not None for s in program.inputs):
        raise UnsupportedError(f"{program.name} reads tapes of a device, and cannot run there: {reason}")
    warnings.warn(
        f"{program.name} runs on the host, between copies from and to cuda:{program.device}: {reason.splitlines()[0]}",
        DeviceWarning,
        stacklevel=2,
    )
    inputs = tuple(s._replace(device=None) for s in program.inputs)
    executable = compile_(replace(program, device=None, inputs=inputs))
    on_device = any(s.device is not None for s in program.inputs)
    origin = Origin("compiled for the host", None, reason, executable.origin.seconds)
    return HostedExecutable(
        **vars(program), entry=HostedEntry(executable, program.device, on_device), origin=origin
    )

"""Device programs in the cache on disk: found under their key and loaded, or planned, compiled and stored.

A loaded program needs neither the passes behind the simplified graph, nor the planner, nor what compiles kernels: its
kernels name their machine code, which is kept on disk one by one. What keys hold is said in Note [Keys] of
`nufunc.runtime.stored`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nufunc.codegen.cuda.portable import Portable, UnstorableError, unpack
from nufunc.codegen.cuda.program import Call
from nufunc.codegen.cuda.program import Program as Steps
from nufunc.ir.errors import NufuncError
from nufunc.runtime.cuda import libraries
from nufunc.runtime.cuda.compiled import DeviceExecutable, executable_for, executable_with
from nufunc.runtime.cuda.devices import device_of
from nufunc.runtime.disk_cache import DISK
from nufunc.runtime.stored import Address, Origin, address_now, store

if TYPE_CHECKING:
    from nufunc.runtime.cuda.compiled import DeviceLowered
    from nufunc.runtime.executable import Program


def executable_of(program: Program, lower: Callable[[], Any], fresh: bool = False) -> DeviceExecutable:
    """A program for a device: loaded, or by way of `lower` planned and stored. With `fresh` it is planned in any case.
    UnsupportedError where a device cannot run it."""
    begin = time.perf_counter()
    address = address_now(program)
    if isinstance(address, Address) and not fresh:
        found = _loaded(program, address)
        if found is not None:
            found.origin = Origin("loaded", address.key, None, time.perf_counter() - begin)
            return found
    lowered: DeviceLowered = lower()
    made = executable_for(program, lowered)
    seconds = time.perf_counter() - begin
    if isinstance(address, str):
        made.origin = Origin("compiled", None, address, seconds)
    else:
        made.origin = Origin("compiled", address.key, _store(program, address, lowered, made), seconds)
    return made


def _loaded(program: Program, address: Address) -> DeviceExecutable | None:
    data = DISK.get(address.key)
    if data is None:
        return None
    try:
        portable = unpack(data, address.locations, address.hosts)
    except NufuncError as error:
        DISK.discard(address.key, str(error))
        return None
    assert program.device is not None
    driver = device_of(program.device).driver
    for kernel, name in portable.names.items():
        driver.named(kernel, name)
    for call, found in zip(_calls(portable.program), portable.ready, strict=True):
        libraries.give(call, found)
    return executable_with(program, replace(portable.program, name=program.name), portable.placed)


def _calls(steps: Steps) -> list[Call]:
    return [step for step in steps.walk() if isinstance(step, Call)]


def _store(program: Program, address: Address, lowered: DeviceLowered, made: DeviceExecutable) -> str | None:
    """Store what was planned; None, or why it was not stored."""
    machine = made.entry.machine
    kernels = dict.fromkeys([*lowered.steps.kernels, *libraries.kernels(machine.calls, machine.driver)])
    names = {kernel: machine.driver.name_of(kernel) for kernel in kernels}
    ready = tuple(libraries.ready(call, machine.driver) for call in machine.calls)
    try:
        data = Portable(lowered.steps, lowered.placed, names, ready).pack(address.locations, address.hosts)
    except UnstorableError as error:
        return str(error)
    return store(program, address, data)

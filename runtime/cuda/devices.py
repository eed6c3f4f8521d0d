"""Devices of the process: which there are, which one a thread works on, its current stream.

`NUFUNC_CUDA_SIMULATOR=N` gives N devices of host memory instead of NVIDIA's, so that everything runs without one.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import ArgumentError, ArgumentTypeError, NoDeviceError, NoDriverError
from nufunc.runtime.cuda.driver import Driver, of_this_thread
from nufunc.runtime.cuda.memory import Pool, shown
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.runtime.cuda.execute import Machine


class _Current(threading.local):
    """What a thread works on: devices entered by `with`, innermost last, and streams by device."""

    def __init__(self) -> None:
        self.entered: list[Device | None] = []
        self.streams: dict[int, Any] = {}


CURRENT = _Current()
_DEVICES: dict[int, Device] = {}
_LOCK = threading.RLock()


class Device:
    """A CUDA device. As a context it is where functions run whose arguments are all of the host.

    >>> import nufunc as nf
    >>> nf.device("cuda:0")
    <cuda:0, simulated device 0>
    """

    def __init__(self, index: int, driver: Driver) -> None:
        self.index, self.driver = index, driver
        limit = driver.memory()[1] // 4
        self.pool = Pool(driver, limit)
        self.no_checks = driver.word()  # for kernels that check nothing
        self.unchecked: set[Machine] = set()  # with checks, that ran since the host last looked
        self.lasting: dict[Any, Any] = {}  # streams of others by number: memory that they used waits for them later on

    def __repr__(self) -> str:
        return f"<{self}, {self.name}>"

    def __str__(self) -> str:
        return f"cuda:{self.index}"

    def __reduce__(self) -> Any:
        return device, (str(self),)

    def __enter__(self) -> Device:
        CURRENT.entered.append(self)
        _contexts_changed(1)
        return self

    def __exit__(self, *_: object) -> None:
        CURRENT.entered.pop()
        _contexts_changed(-1)

    @property
    def name(self) -> str:
        return self.driver.name

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability, as (major, minor)."""
        return self.driver.capability

    @property
    def memory(self) -> Memory:
        """How much memory there is, and how much of it arrays of this process use."""
        free, total = self.driver.memory()
        return Memory(total, free, self.pool.used, self.pool.kept)

    @property
    def stream(self) -> Any:
        """The stream that this thread's calls are queued on."""
        return CURRENT.streams.get(self.index, 0)

    @contextmanager
    def on_stream(self, stream: Any) -> Iterator[Device]:
        """Inside, in this thread, calls are queued on this stream: an object of another library (with
        `__cuda_stream__`, or CuPy's, torch's or Numba's), or its number. The default is CUDA's default stream.
        """
        number = number_of_stream(stream)
        self.driver.refuse_capture(number)
        self.lasting[number] = stream
        before, CURRENT.streams[self.index] = self.stream, number
        try:
            with self:
                yield self
        finally:
            CURRENT.streams[self.index] = before

    def synchronize(self) -> None:
        """Wait for all calls of this thread's stream; raises what failed in one of them."""
        stream = self.stream
        self.driver.synchronize(stream)
        self.check(stream)

    def check(self, stream: Any) -> None:
        """After the host has waited for a stream: raise what a run there has found wrong."""
        if not self.unchecked:
            return
        machines = list(self.unchecked)
        self.unchecked.clear()
        errors = []
        for machine in machines:
            error = machine.failed(stream)
            if error is None:
                machine.passed(stream)
            else:
                errors.append(error)
        if errors:
            raise errors[0]

    def trim(self) -> None:
        """Give memory that no array uses back to the system."""
        self.pool.trim()


class Memory:
    """Bytes of a device: `total`, `free`, in arrays of this process (`used`), and kept by it for new ones (`kept`)."""

    __slots__ = ("free", "kept", "total", "used")

    def __init__(self, total: int, free: int, used: int, kept: int) -> None:
        self.total, self.free, self.used, self.kept = total, free, used, kept

    def __repr__(self) -> str:
        return f"<{shown(self.used)} used, {shown(self.kept)} kept, {shown(self.free)} of {shown(self.total)} free>"


class Processor:
    """The host as a device: a context inside of which functions of arrays of the host run there."""

    def __repr__(self) -> str:
        return "<cpu>"

    def __str__(self) -> str:
        return "cpu"

    def __reduce__(self) -> Any:
        return device, ("cpu",)

    def __enter__(self) -> Processor:
        CURRENT.entered.append(None)
        _contexts_changed(1)
        return self

    def __exit__(self, *_: object) -> None:
        CURRENT.entered.pop()
        _contexts_changed(-1)


CPU = Processor()


# -- which there are


def simulated() -> int:
    """How many devices NUFUNC_CUDA_SIMULATOR asks for."""
    text = os.environ.get("NUFUNC_CUDA_SIMULATOR", "")
    return int(text) if text.isdigit() else 0


def count() -> int:
    """How many CUDA devices there are; NoDriverError where there is no driver."""
    found = simulated()
    if found:
        return found
    from nufunc.runtime.cuda import hardware

    return hardware.count()


def device_of(index: int) -> Device:
    """A device by its number."""
    found = _DEVICES.get(index)
    if found is None:
        with _LOCK:
            found = _DEVICES.get(index)
            if found is None:
                found = _DEVICES[index] = Device(index, _driver(index))
    return found


def _driver(index: int) -> Driver:
    total = count()
    if not 0 <= index < total:
        there = f"there {'is' if total == 1 else 'are'} {total}" if total else "there is none"
        raise NoDeviceError(f"no CUDA device has the number {index}: {there}", user_location())
    if simulated():
        from nufunc.runtime.cuda.simulated import SimulatedDriver

        return SimulatedDriver(index)
    from nufunc.runtime.cuda.hardware import HardwareDriver

    return HardwareDriver(index)


def devices() -> list[Device]:
    """The CUDA devices of this process, as CUDA numbers them; none where there is no driver.

    >>> import nufunc as nf
    >>> nf.devices()
    [<cuda:0, simulated device 0>]
    """
    try:
        return [device_of(k) for k in range(count())]
    except (NoDriverError, NoDeviceError):
        return []


def device(name: Any = "cuda:0") -> Device | Processor:
    """A device by its name: "cuda" (the first), "cuda:1", "cpu", or its number; left out, the first.

    As a context it is where functions run whose arguments are all of the host: `with nf.device("cuda:0"): f(x)`
    computes on the device and gives NumPy arrays. Arguments that are arrays of a device need no context. A device tells
    its `name`, `capability` and `memory`, and has `synchronize()`, `trim()` and `on_stream(stream)`.

    Raises
    ------
    NoDriverError : there is no NVIDIA driver, or no cuda-bindings. NoDeviceError : no device has this number.
    """
    if isinstance(name, Device | Processor):
        return name
    if isinstance(name, int | np.integer) and not isinstance(name, bool):
        return device_of(int(name))
    if not isinstance(name, str):
        raise ArgumentTypeError(f'device takes a name such as "cuda:0" or "cpu", got {name!r}', user_location())
    if name == "cpu":
        return CPU
    found = re.fullmatch(r"(?:cuda|gpu)(?::(\d+))?", name)
    if found is None:
        raise ArgumentError(f'device: expected "cuda", "cuda:N" or "cpu", got {name!r}', user_location())
    return device_of(int(found[1] or 0))


def synchronize(where: Any = None) -> None:
    """Wait until a device (by default all that were used) has done what this thread's stream holds, and raise what
    failed in it: an index out of bounds, a singular matrix, a kernel that broke.
    """
    if where is None:
        for one in list(_DEVICES.values()):
            one.synchronize()
        return
    found = device(where)
    if isinstance(found, Device):
        found.synchronize()


# -- which one a call runs on


def entered() -> Device | None:
    """The device of the innermost context around, if it is one."""
    return CURRENT.entered[-1] if CURRENT.entered else None


_OPEN = [0]  # contexts, in all threads


def _contexts_changed(by: int) -> None:
    from nufunc.runtime.function import look_at_contexts  # whose import this file does not wait for

    with _LOCK:
        _OPEN[0] += by
        look_at_contexts(_OPEN[0] > 0)


def number_of_stream(stream: Any) -> int:
    """The handle of a stream of another library."""
    if stream is None:
        return 0
    if isinstance(stream, int) and not isinstance(stream, bool):
        return of_this_thread() if stream == 2 else 0 if stream == 1 else stream  # 1: the default stream's other name
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return number_of_stream(int(protocol()[1]))
    for attribute in ("cuda_stream", "ptr", "handle"):  # torch, CuPy, Numba
        found = getattr(stream, attribute, None)
        if isinstance(found, ctypes.c_void_p):
            found = found.value or 0
        if isinstance(found, int):
            return number_of_stream(found)
    raise ArgumentTypeError(f"expected a CUDA stream or its number, got {type(stream).__name__}", user_location())


def _close() -> None:
    for one in _DEVICES.values():
        one.pool.close()
        driver: Any = one.driver
        driver.hold = lambda owner, streams: None  # which needs no modules, since these go before the last arrays


atexit.register(_close)

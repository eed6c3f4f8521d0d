"""A device of host memory: addresses of NumPy's bytes, kernels run by the simulator, everything at once and counted.

Note [Simulated memory]
Memory is poisoned when it is allocated and when it is handed out anew: floats read NaN there, integers -1. An address
is looked up among the allocations, so that a kernel or a copy that reaches beyond one, or into one that was freed or is
nobody's at the moment, is an error with the names of both. Host memory that other libraries lend (arrays that say that
they are on this device) is lent for as long as they live.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import DeviceError
from nufunc.runtime.cuda.driver import known_to_others
from nufunc.runtime.cuda.memory import no_memory

if TYPE_CHECKING:
    from nufunc.codegen.cuda.kernels import Kernel

_ALIGNMENT = 256
_POISON = 0xFF
_SIZE = 1 << 34  # bytes that a simulated device says it has


class _Allocation:
    """Bytes from `address` on; `lent` are the stretches of it that are in use."""

    def __init__(self, nbytes: int) -> None:
        self.memory = np.full(nbytes + _ALIGNMENT, _POISON, np.uint8)
        self.address = -(-self.memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        self.nbytes = nbytes
        self.live = True


class SimulatedDriver:
    """One simulated device. `counts` is how often something was done: allocate, free, upload, download, copy, clear,
    launch (of all kernels), launch:NAME, record, update, replay, synchronize, wait, mark, unmark."""

    capability = (8, 0)
    multiprocessors = 4
    simulated = True

    def __init__(self, index: int = 0, size: int = _SIZE) -> None:
        self.index = index
        self.name = f"simulated device {index}"
        self.size = size
        self.used = 0
        self.counts: Counter[str] = Counter()
        self._allocations: dict[int, _Allocation] = {}
        self._starts: list[int] = []  # addresses of allocations, in order
        self._words: dict[int, np.ndarray] = {}
        self._loaded: dict[Any, Any] = {}
        self._streams = 0
        self.recording_stream, self.recording = self.new_stream(), threading.RLock()
        self._replaying = threading.RLock()
        self.make_room: Callable[[], None] | None = None

    def entered(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    # -- memory

    def allocate(self, nbytes: int, stream: Any) -> int:
        if self.used + nbytes > self.size:
            raise no_memory(nbytes, *self.memory())
        self.counts["allocate"] += 1
        made = _Allocation(nbytes)
        self.used += nbytes
        self._allocations[made.address] = made
        bisect.insort(self._starts, made.address)
        return made.address

    def free(self, address: int, stream: Any) -> None:
        self.counts["free"] += 1
        found = self._allocations.pop(address)
        self._starts.remove(address)
        self.used -= found.nbytes

    def release(self) -> None:
        pass

    def lend(self, address: int, nbytes: int) -> None:
        found = self._allocations[address]
        found.live = True
        found.memory[:] = _POISON

    def take_back(self, address: int, nbytes: int) -> None:
        found = self._allocations[address]
        found.live = False
        found.memory[:] = _POISON

    def memory(self) -> tuple[int, int]:
        return self.size - self.used, self.size

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        """The bytes from an address on, all of one allocation in use, or of memory that is not this device's own."""
        if not nbytes:
            return np.empty(0, np.uint8)
        place = bisect.bisect_right(self._starts, address) - 1
        if place >= 0:
            found = self._allocations[self._starts[place]]
            if address < found.address + max(found.nbytes, 1):
                if not found.live:
                    raise DeviceError(f"use of device memory at {address:#x} after it was given back")
                if address + nbytes > found.address + found.nbytes:
                    raise DeviceError(
                        f"use of {nbytes} bytes at {address:#x}, {address - found.address} behind the start of "
                        f"{found.nbytes} bytes of device memory"
                    )
        if not address:
            raise DeviceError(f"use of {nbytes} bytes of device memory at address 0")
        buffer: Any = (ctypes.c_char * nbytes).from_address(address)
        return np.frombuffer(buffer, np.uint8)

    def array_at(self, address: int, dtype: np.dtype, size: int) -> np.ndarray:
        """The line of `size` elements at an address."""
        return self.bytes_at(address, size * dtype.itemsize).view(dtype)

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        self.counts["upload"] += 1
        self.bytes_at(address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def send(self, address: int, data: bytes, stream: Any) -> None:
        self.upload(address, np.frombuffer(data, np.uint8), stream)

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        self.counts["download"] += 1
        array.reshape(-1).view(np.uint8)[:] = self.bytes_at(address, array.nbytes)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        if isinstance(stream, _Recorder):
            return stream.keep("copy", target, source, nbytes)
        self.counts["copy"] += 1
        if nbytes and target < source + nbytes and source < target + nbytes:
            raise DeviceError(f"a copy of {nbytes} bytes onto memory that overlaps its source")
        self.bytes_at(target, nbytes)[:] = self.bytes_at(source, nbytes)

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        if isinstance(stream, _Recorder):
            return stream.keep("clear", address, nbytes)
        self.counts["clear"] += 1
        self.bytes_at(address, nbytes)[:] = 0

    def word(self) -> tuple[int, np.ndarray]:
        view = np.zeros(1, np.int32)
        address = view.ctypes.data
        self._words[address] = view
        return address, view

    def report(self, address: int, stream: Any) -> None:
        pass  # the host sees it as it is

    def hold(self, owner: Any, streams: Sequence[Any]) -> None:
        self.counts["hold"] += 1

    # -- kernels

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        pass

    def load(self, kernel: Kernel) -> Any:
        if kernel not in self._loaded:
            self._loaded[kernel] = kernel
        return self._loaded[kernel]

    def name_of(self, kernel: Kernel) -> str | None:
        return None  # it is its text

    def named(self, kernel: Kernel, name: str | None) -> None:
        pass

    def launch(self, function: Any, addresses: Sequence[int], stream: Any) -> None:
        kernel: Kernel = function
        if isinstance(stream, _Recorder):
            return stream.keep("launch", function, addresses)
        self.counts["launch"] += 1
        self.counts[f"launch:{kernel.name}"] += 1
        buffers = kernel.buffers
        arrays = [self.array_at(a, b.dtype, b.size) for a, b in zip(addresses, buffers, strict=False)]
        error = self._words.get(addresses[len(buffers)])
        if error is None:
            error = self.array_at(addresses[len(buffers)], np.dtype(np.int32), 1)
        _simulator()(kernel, [*arrays, error])

    def host(self, run: Callable[[], None], stream: Any) -> None:
        """Queue something that the host does in device memory."""
        if isinstance(stream, _Recorder):
            return stream.keep("host", run)
        self.counts["host"] += 1
        run()

    # -- order

    def synchronize(self, stream: Any) -> None:
        self.counts["synchronize"] += 1

    def wait(self, stream: Any, other: Any) -> None:
        self.counts["wait"] += 1

    def mark(self, stream: Any) -> Any:
        """The time of the host, which does everything at once."""
        self.counts["mark"] += 1
        return time.perf_counter()

    def seconds(self, begin: Any, end: Any) -> float:
        return float(end - begin)

    def unmark(self, marks: Sequence[Any]) -> None:
        self.counts["unmark"] += len(marks)

    def new_stream(self) -> Any:
        self._streams += 1
        return self._streams + 16

    def external(self, stream: Any) -> int:
        return known_to_others(stream)

    def refuse_capture(self, stream: Any) -> None:
        pass

    # -- graphs: what a run queues, with its addresses, so that a replay uses no others

    def record(self, run: Callable[[Any], None], before: Any = None) -> Any:
        self.counts["record"] += 1
        self.counts["update"] += before is not None
        recorder = _Recorder()
        run(recorder)
        return recorder.calls

    def replay(self, graph: Any, stream: Any) -> None:
        with self._replaying:  # graphs of a stream share memory, and other threads are on the same one
            self.counts["replay"] += 1
            for name, arguments in graph:
                getattr(self, name)(*arguments, stream)

    def drop(self, graph: Any) -> None:
        graph.clear()


class _Recorder:
    """The stream that a recorded run is given: what is queued on it is kept."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def keep(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, arguments))


def _simulator() -> Callable[[Kernel, Sequence[np.ndarray]], None]:
    run: Callable[[Kernel, Sequence[np.ndarray]], None]
    run = importlib.import_module("nufunc.codegen.cuda.simulate").simulate
    return run

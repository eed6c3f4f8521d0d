"""What the runtime asks of a device; `hardware` answers with NVIDIA's driver, `simulated` with host memory.

Addresses are integers. A stream is an opaque handle of its driver, 0 is the default stream. Everything that takes a
stream is queued on it and returns at once; what fails later fails in `synchronize`.

Note [Default streams of threads]
CUDA's number 2 is another stream in each thread, so that memory known to be used on "2" would pass between threads
without an order. Here each thread's has a number of its own, too large for a handle. What another thread queues for
such a stream goes to the default stream of all: it runs after everything on the streams of threads, and what is queued
on these later runs after it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from nufunc.codegen.cuda.kernels import Kernel


_HANDLES = 1 << 64  # below are handles of CUDA's
_numbers = itertools.count(1)


class _Own(threading.local):
    """The number of this thread's default stream."""

    def __init__(self) -> None:
        self.number = next(_numbers) * _HANDLES + 2


_OWN = _Own()


def of_this_thread() -> int:
    """The default stream of this thread; see Note [Default streams of threads]."""
    return _OWN.number


def here(stream: Any) -> int:
    """The handle by which this thread queues work of a stream."""
    number = int(stream)
    return number if number < _HANDLES else 2 if number == _OWN.number else 0


def known_to_others(stream: Any) -> int:
    """The number of a stream for other libraries, any thread of theirs: those of threads are in order with 1."""
    number = int(stream)
    return number if 0 < number < _HANDLES else 1


class Driver(Protocol):
    """One device."""

    index: int
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    simulated: bool

    def entered(self) -> AbstractContextManager[None]:
        """Inside, the device is the current one of this thread, for libraries that are called directly."""

    def allocate(self, nbytes: int, stream: Any) -> int:
        """The address of fresh memory, aligned to 256 bytes, usable by what is queued on the stream from now on.
        DeviceMemoryError where there is none."""

    make_room: Callable[[], None] | None  # gives back memory that nobody needs; its pool's

    def free(self, address: int, stream: Any) -> None:
        """Give memory back, once what is queued on the stream has run."""

    def release(self) -> None:
        """Give what was freed back to the system."""

    def lend(self, address: int, nbytes: int) -> None:
        """Memory that was allocated is handed out; its bytes mean nothing."""

    def take_back(self, address: int, nbytes: int) -> None:
        """Memory that was lent is nobody's."""

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        """Copy a contiguous host array to the device; it may be changed afterwards."""

    def send(self, address: int, data: bytes, stream: Any) -> None:
        """Copy a few bytes to the device, with as little ado as there can be."""

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        """Copy from the device into a contiguous host array; waits for it."""

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Copy on the device."""

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        """Fill with zero bytes."""

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        """Compile kernels together, before they are loaded one by one."""

    def load(self, kernel: Kernel) -> Any:
        """A kernel, compiled and ready to launch; the same for equal kernels."""

    def name_of(self, kernel: Kernel) -> str | None:
        """The name under which the machine code of a kernel that was loaded is kept on disk, if it is."""

    def named(self, kernel: Kernel, name: str | None) -> None:
        """What `name_of` gave in another process: the code of a kernel that is loaded later."""

    def launch(self, function: Any, addresses: Sequence[int], stream: Any) -> None:
        """Queue a kernel: the addresses of its buffers and then that of the error word."""

    def synchronize(self, stream: Any) -> None:
        """Wait for all that is queued on the stream."""

    def wait(self, stream: Any, other: Any) -> None:
        """What is queued on `stream` from now on runs after what is queued on `other` now."""

    def new_stream(self) -> Any:
        """A further stream."""

    def mark(self, stream: Any) -> Any:
        """The time when what is queued on the stream now is done."""

    def seconds(self, begin: Any, end: Any) -> float:
        """From one mark to another, once the device has passed both."""

    def unmark(self, marks: Sequence[Any]) -> None:
        """Marks are not needed any more."""

    def word(self) -> tuple[int, np.ndarray]:
        """The address of an i32 on the device, 0 at first, and an array of the host that `report` copies it to."""

    def report(self, address: int, stream: Any) -> None:
        """Queue the copy of a word to the host's array."""

    def hold(self, owner: Any, streams: Sequence[Any]) -> None:
        """Keep an object until what is queued on these streams now has run."""

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and bytes in all."""

    def refuse_capture(self, stream: Any) -> None:
        """An error where a stream is being captured by somebody else."""

    recording_stream: Any

    @property
    def recording(self) -> AbstractContextManager[Any]:
        """Held by who queues on that stream, so that no graph gets what is another thread's."""

    def record(self, run: Callable[[Any], None], before: Any = None) -> Any:
        """A graph of what `run` queues on `recording_stream`, instead of doing it. One made `before` for the
        same steps with other addresses is changed, where that can be done, and not to be used any more."""

    def replay(self, graph: Any, stream: Any) -> None:
        """Queue a recorded graph."""

    def drop(self, graph: Any) -> None:
        """Forget a recorded graph, once it has run."""

    def external(self, stream: Any) -> int:
        """The number by which other libraries know a stream (`stream` of `__cuda_array_interface__`)."""

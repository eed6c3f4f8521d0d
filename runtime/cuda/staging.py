"""Pinned memory of the host between its arrays and a device's.

Note [Host memory]
Copies from pageable memory need not have read it when they return. So small uploads go through a ring of pinned
memory, whose quarters are used again once events say that their copies have been made; large ones wait. Large downloads
alternate between two pinned buffers, so that the copy out of one hides behind the copy into the other.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nufunc.runtime.cuda.hardware import HardwareDriver

_RING, _QUARTERS = 1 << 23, 4
_QUARTER = _RING // _QUARTERS
CHUNK = 1 << 22  # bytes of a download at a time


class Staging:
    """A ring of pinned memory for uploads; see Note [Host memory]."""

    def __init__(self, driver: HardwareDriver) -> None:
        self.driver = driver
        self.memory = driver.pinned(_RING)
        self.bytes = self.memory.data
        self.address = int(self.memory.ctypes.data)
        self.quarter, self.position = 0, 0
        self.streams: set[Any] = set()  # that copy out of this quarter
        self.events: list[list[Any]] = [[] for _ in range(_QUARTERS)]

    def place(self, array: np.ndarray, stream: Any) -> int:
        """The address of a copy of an array that is about to be queued on a stream."""
        start = self.room(array.nbytes)
        self.memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        self.streams.add(stream)
        return self.address + start

    def room(self, nbytes: int) -> int:
        """Where so many bytes of the ring begin that no copy reads any more."""
        nbytes = (nbytes + 63) & -64
        if self.position + nbytes > _QUARTER:
            events = map(self.driver.event_if_there, self.streams)
            self.events[self.quarter] = [event for event in events if event is not None]
            self.streams = set()
            self.quarter, self.position = (self.quarter + 1) % _QUARTERS, 0
            for event in self.events[self.quarter]:
                self.driver.await_event(event)
            self.events[self.quarter] = []
        start = self.quarter * _QUARTER + self.position
        self.position += nbytes
        return start


class Landing:
    """Two pinned buffers for large downloads; see Note [Host memory]."""

    def __init__(self, driver: HardwareDriver) -> None:
        self.driver = driver
        self.buffers = [driver.pinned(CHUNK) for _ in range(2)]
        self.lock = threading.Lock()

    def fetch(self, array: np.ndarray, address: int, stream: Any) -> None:
        target = array.reshape(-1).view(np.uint8)
        with self.lock:
            try:
                self._pieces(target, address, stream)
            except BaseException:
                self.driver.synchronize(stream)  # copies that are under way must not meet the next download's
                raise

    def _pieces(self, target: np.ndarray, address: int, stream: Any) -> None:
        driver = self.driver
        coming: list[tuple[int, int, Any]] = []
        for k, start in enumerate(range(0, target.size, CHUNK)):
            size = min(CHUNK, target.size - start)
            if len(coming) == 2:
                self._land(target, *coming.pop(0))
            place = self.buffers[k % 2].ctypes.data
            driver.copy_down(place, address + start, size, stream)
            coming.append((k, start, driver.event(stream)))
        for one in coming:
            self._land(target, *one)

    def _land(self, target: np.ndarray, k: int, start: int, event: Any) -> None:
        self.driver.await_event(event)
        size = min(CHUNK, target.size - start)
        target[start : start + size] = self.buffers[k % 2][:size]

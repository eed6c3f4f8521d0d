"""What the runtime asks of a device; `hardware` answers with NVIDIA's driver, `simulated` with host memory.

Addresses are integers. A stream is an opaque handle of its driver, 0 is the default stream. Everything that takes a
stream is queued on it and returns at once; what fails later fails in `synchronize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from nufunc.codegen.cuda.kernels import Kernel


class Driver(Protocol):
    """One device."""

    index: int
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    simulated: bool

    def allocate(self, nbytes: int, stream: Any) -> int:
        """The address of fresh memory, aligned to 256 bytes, usable by what is queued on the stream from now on."""

    def free(self, address: int, stream: Any) -> None:
        """Give memory back, once what is queued on the stream has run."""

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        """Copy a contiguous host array to the device; it may be changed afterwards."""

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        """Copy from the device into a contiguous host array; waits for it."""

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Copy on the device."""

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        """Fill with zero bytes."""

    def load(self, kernel: Kernel) -> Any:
        """A kernel, compiled and ready to launch; the same for equal kernels."""

    def launch(self, function: Any, addresses: Sequence[int], stream: Any) -> None:
        """Queue a kernel: the addresses of its buffers and then that of the error word."""

    def synchronize(self, stream: Any) -> None:
        """Wait for all that is queued on the stream."""

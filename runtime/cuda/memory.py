"""Memory of a device: blocks that return to free lists when nothing refers to them, in the order of streams.

Note [Blocks]
A block belongs to the stream that it was taken on: what is queued there later may use it at once when it is given back,
since it runs later. So giving back costs nothing and waits for nothing. A block that other streams use too tells which
(`others`); its own stream waits for them before the block is handed out again. Blocks of one size and stream are handed
out last in, first out, so that a loop of equal calls meets the same addresses again, and recorded graphs with them.

Blocks return whenever Python lets go of their last owner, also in the middle of other code and in other threads, so
nothing here takes a lock: a list's `append` and `pop` are atomic.
"""

from __future__ import annotations

from typing import Any

from nufunc.ir.errors import DeviceMemoryError, Location
from nufunc.runtime.cuda.driver import Driver

_GRAIN = 512
_LARGE = 1 << 26  # from here sizes are rounded to a grain of
_LARGE_GRAIN = 1 << 21


def rounded(nbytes: int) -> int:
    """The size of the block for so many bytes: few sizes, at most a sixteenth is lost beyond small ones."""
    if nbytes >= _LARGE:
        return -(-nbytes // _LARGE_GRAIN) * _LARGE_GRAIN
    grain = max(_GRAIN, 1 << max(nbytes.bit_length() - 5, 0))
    return -(-max(nbytes, 1) // grain) * grain


class Block:
    """Memory in use, until the object dies."""

    __slots__ = ("__weakref__", "address", "others", "pool", "size", "stream")

    def __init__(self, pool: Pool, address: int, size: int, stream: Any) -> None:
        self.pool, self.address, self.size, self.stream = pool, address, size, stream
        self.others: tuple[Any, ...] = ()

    def __del__(self) -> None:
        self.pool.give(self)


class Foreign:
    """Memory of another library, in use as long as its `owner` is held."""

    __slots__ = ("address", "others", "owner", "size", "stream")

    def __init__(self, address: int, size: int, owner: Any, stream: Any = 0) -> None:
        self.address, self.size, self.owner, self.stream = address, size, owner, stream
        self.others: tuple[Any, ...] = ()


class Pool:
    """The memory of one device. At most `limit` bytes of blocks that nobody uses are kept."""

    def __init__(self, driver: Driver, limit: int) -> None:
        self.driver, self.limit = driver, limit
        self.kept = 0  # bytes in free lists
        self.used = 0  # bytes in use
        self._free: dict[tuple[Any, int], list[int]] = {}
        self._closed = False

    def take(self, nbytes: int, stream: Any, location: Location | None = None) -> Block:
        """A block, for what is queued on the stream from now on; an error names the user's `location`."""
        size = rounded(nbytes)
        free = self._free.get((stream, size))
        try:
            address = free.pop() if free else 0
        except IndexError:  # another thread has taken it
            address = 0
        if address:
            self.kept -= size
        else:
            address = self._allocated(size, stream, location)
        self.used += size
        self.driver.lend(address, size)
        return Block(self, address, size, stream)

    def _allocated(self, size: int, stream: Any, location: Location | None) -> int:
        try:
            return self.driver.allocate(size, stream)
        except DeviceMemoryError:
            self.trim()
            self.driver.synchronize(stream)
        try:
            return self.driver.allocate(size, stream)
        except DeviceMemoryError:
            raise no_memory(size, *self.driver.memory(), location) from None

    def give(self, block: Block) -> None:
        """Called when a block dies."""
        address, size, stream = block.address, block.size, block.stream
        self.used -= size
        if self._closed:
            return
        for other in block.others:
            self.driver.wait(stream, other)
        self.driver.take_back(address, size)
        if self.kept + size > self.limit:
            self.driver.free(address, stream)
            return
        self.kept += size
        self._free.setdefault((stream, size), []).append(address)

    def trim(self) -> None:
        """Give all that nobody uses back to the device."""
        for (stream, size), free in list(self._free.items()):
            while free:
                try:
                    address = free.pop()
                except IndexError:
                    break
                self.kept -= size
                self.driver.free(address, stream)

    def close(self) -> None:
        """The process ends: blocks that die from now on are nobody's concern."""
        self._closed = True


def no_memory(nbytes: int, free: int, total: int, location: Location | None = None) -> DeviceMemoryError:
    return DeviceMemoryError(
        f"the device has no memory left for {shown(nbytes)}: {shown(free)} of {shown(total)} are free; let go of "
        "arrays, split the call (chunk_size, max_bytes), or compute the derivative of long loops with nf.checkpoint",
        location,
    )


def shown(nbytes: float) -> str:
    """A number of bytes, for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if nbytes < 1024 or unit == "GiB":
            break
        nbytes /= 1024
    return f"{nbytes:.0f} bytes" if unit == "bytes" else f"{nbytes:.1f} {unit}"

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

import gc
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from nufunc.ir.errors import DeviceError, DeviceMemoryError, Location
from nufunc.runtime.cuda.driver import Driver
from nufunc.tracer.usercode import user_location

Where = Callable[[], Location | None]

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
    """Memory in use, until the object dies. `free` is the list that its address then returns to."""

    __slots__ = ("__weakref__", "address", "free", "others", "pool", "size", "stream")

    def __init__(self, pool: Pool, address: int, size: int, stream: Any, free: list[int]) -> None:
        self.pool, self.address, self.size, self.stream, self.free = pool, address, size, stream, free
        self.others: tuple[Any, ...] = ()

    def __del__(self) -> None:
        pool = self.pool
        if pool.plain and not self.others and pool.kept < pool.room:
            pool.kept += self.size
            self.free.append(self.address)
        else:
            pool.give(self)


class Foreign:
    """Memory of another library, in use as long as its `owner` is held: until nobody refers to it, and what was queued
    by then has run, since the other library may be on a stream that waits for nothing.
    """

    __slots__ = ("address", "driver", "others", "owner", "size", "stream")

    def __init__(self, address: int, size: int, owner: Any, driver: Driver, stream: Any) -> None:
        self.address, self.size, self.owner, self.driver, self.stream = address, size, owner, driver, stream
        self.others: tuple[Any, ...] = ()

    def __del__(self) -> None:
        try:
            self.driver.hold(self.owner, (self.stream, *self.others))
        except DeviceError:
            return  # a broken device uses nobody's memory


def ordered(block: Block | Foreign, stream: Any, driver: Driver) -> None:
    """What is queued on the stream from now on may read and write the block."""
    if block.stream == stream and not block.others:
        return
    for other in {block.stream, *block.others} - {stream}:
        driver.wait(stream, other)
    own = (stream,) if stream != block.stream else ()
    if threading.active_count() == 1:  # what the others have queued, all of it, is waited for
        block.others = own
    elif stream not in block.others:
        block.others += own


def scratch(driver: Driver, nbytes: int, stream: Any) -> int:
    """Memory beside the pool, for what is about to be queued; to be given back with `free`."""
    try:
        return driver.allocate(nbytes, stream)
    except DeviceMemoryError:
        if driver.make_room is None:
            raise
        driver.make_room()
        return driver.allocate(nbytes, stream)


class Pool:
    """The memory of one device. At most `limit` bytes of blocks that nobody uses are kept."""

    def __init__(self, driver: Driver, limit: int) -> None:
        self.driver, self.limit = driver, limit
        driver.make_room = self.trim
        self.room = limit - limit // 16  # below which any but huge blocks fit
        self.kept = 0  # bytes in free lists
        self.allocated = 0  # bytes in all
        self.allocations = 0  # how often memory was asked of the device
        self.plain = not driver.simulated  # the driver wants to know nothing about blocks that come and go
        self.users: WeakSet[Any] = WeakSet()  # that hold memory to be faster, and can let go of it (`forget`)
        self._free: dict[tuple[Any, int], list[int]] = {}

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self.allocated - self.kept

    def take(self, nbytes: int, stream: Any, where: Where | None = None) -> Block:
        """A block, for what is queued on the stream from now on; `where` gives the user's line for an error."""
        return self.take_sized(rounded(nbytes), stream, where)

    def take_sized(self, size: int, stream: Any, where: Where | None = None) -> Block:
        """`take` for a size that is `rounded`."""
        free = self._free.get((stream, size))
        if free is None:
            free = self._free.setdefault((stream, size), [])
        try:
            address = free.pop()
            self.kept -= size
        except IndexError:
            address = self._allocated(size, stream, where)
        if not self.plain:
            self.driver.lend(address, size)
        return Block(self, address, size, stream, free)

    def _allocated(self, size: int, stream: Any, where: Where | None) -> int:
        """Memory of the device, for which there is more and more room: without what is kept for later, and then without
        what only serves to be faster, and what nobody reaches any more."""
        for more in (self._return_kept, self.trim, None):
            try:
                address = self.driver.allocate(size, stream)
                self.allocated += size
                self.allocations += 1
                return address
            except DeviceMemoryError:
                if more is None:
                    location = user_location() if where is None else where()
                    raise no_memory(size, *self.driver.memory(), location) from None
                if more == self.trim:
                    gc.collect()
                more()
        raise AssertionError

    def give(self, block: Block) -> None:
        """What a dying block does that is not plain."""
        address, size, stream = block.address, block.size, block.stream
        if self.limit < 0:
            return
        try:
            for other in block.others:
                self.driver.wait(stream, other)
            if self.kept + size > self.limit:
                self.allocated -= size
                self.driver.free(address, stream)
                return
        except DeviceError:
            return  # a broken device, and its memory with it
        self.driver.take_back(address, size)
        self.kept += size
        block.free.append(address)

    def trim(self) -> None:
        """Give all that no array uses back to the device."""
        for user in list(self.users):
            user.forget()
        self._return_kept()

    def _return_kept(self) -> None:
        for (stream, size), free in list(self._free.items()):
            while free:
                try:
                    address = free.pop()
                except IndexError:
                    break
                self.kept -= size
                self.allocated -= size
                self.driver.free(address, stream)
        self.driver.release()

    def close(self) -> None:
        """The process ends: blocks that die from now on are nobody's concern."""
        self.limit = self.room = -1


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

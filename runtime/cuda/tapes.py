"""Tapes on a device: loops of unknown length, driven by the host, that write and read them.

Note [Handles]
In device memory a tape is a number, an i64, by which the process knows it; 0 is a tape of zeros. So kernels move arrays
of tapes like arrays of numbers. A tape's items lie in blocks of device memory that the host has taken as the loop went
on, each twice as large as the one before. A tape lives as long as something of the host refers to it: the run that
made it, a tape whose items it is among, or whoever was given it (`held`). The steps of a loop whose body gives no tapes
away are `Scoped`, so that those of an iteration die with it.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nufunc.codegen.cuda.program import Place, Record, Replay, Scoped, Step, TapeStep
from nufunc.ir.errors import DeviceError
from nufunc.ir.types import ArrayType, TapeType
from nufunc.runtime.cuda.driver import Driver
from nufunc.runtime.cuda.memory import Pool, ordered

_FIRST = 16  # items of a tape's first block, or as many as fit into
_FIRST_BYTES = 4096
_HANDLE = np.dtype(np.int64)

_numbers = itertools.count(1)
_known: weakref.WeakValueDictionary[int, Tape] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class Tape:
    """Items of `nbytes` each, by address. `blocks` own the memory, `inner` are the tapes that items consist of."""

    __slots__ = ("__weakref__", "blocks", "handle", "inner", "items", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.items: list[int] = []
        self.blocks: list[Any] = []
        self.inner: list[Tape] = []
        with _lock:
            self.handle = next(_numbers)
            _known[self.handle] = self


def held(handles: Iterable[int]) -> list[Tape]:
    """The tapes of some handles, for whoever keeps them alive."""
    return [tape for tape in map(_found, handles) if tape is not None]


def _found(handle: int) -> Tape | None:
    """The tape of a handle; None for 0, which stands for zeros."""
    if not handle:
        return None
    tape = _known.get(int(handle))
    if tape is None:
        raise DeviceError("what a loop of unknown length has recorded on the device is gone, or was never there")
    return tape


class Tapes:
    """The tapes of one run. `at` and `run`, given with each step, say where places are and run steps inside it."""

    def __init__(self, driver: Driver, pool: Pool, stream: Any, launch: Callable[..., None]) -> None:
        """`launch(kernel, addresses)` queues a kernel."""
        self.driver, self.pool, self.stream, self.launch = driver, pool, stream, launch
        self.made: list[Tape] = []

    def step(
        self, step: Step, at: Callable[[Place], int], run: Callable[[Sequence[Step]], None],
        holds: Callable[[Place], bool],
    ) -> None:  # fmt: skip
        """Run a step that has to do with tapes; `holds` reads a flag."""
        match step:
            case Scoped():
                before = len(self.made)
                run(step.body)
                del self.made[before:]
            case Record():
                self.record(step, at, run, holds)
            case Replay():
                self.replay(step, at, run)
            case TapeStep():
                self.operation(step, at)

    # -- memory

    def tape(self, handle: int) -> Tape | None:
        """A tape that is about to be read on this run's stream, which another one may have written."""
        tape = _found(handle)
        for block in () if tape is None else tape.blocks:
            ordered(block, self.stream, self.driver)
        return tape

    def new(self, nbytes: int) -> Tape:
        tape = Tape(nbytes)
        self.made.append(tape)
        return tape

    def room(self, tape: Tape) -> int:
        """The address of one more item."""
        count = len(tape.items)
        first = max(1, min(_FIRST, _FIRST_BYTES // max(tape.nbytes, 1)))
        size = first << max(len(tape.blocks) - 1, 0)  # of the last block
        before = first * ((1 << max(len(tape.blocks) - 1, 0)) - 1)
        if not tape.blocks or count == before + size:
            size = size * 2 if tape.blocks else first
            before = count
            tape.blocks.append(self.pool.take(max(tape.nbytes, 1) * size, self.stream))
        tape.items.append(tape.blocks[-1].address + (count - before) * tape.nbytes)
        return tape.items[-1]

    def read(self, address: int, count: int) -> list[int]:
        array = np.zeros(count, _HANDLE)
        if count:
            self.driver.download(array, address, self.stream)
        return [int(n) for n in array]

    def write(self, address: int, numbers: Sequence[int]) -> None:
        if numbers:
            self.driver.upload(address, np.array(numbers, _HANDLE), self.stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        if nbytes:
            self.driver.copy(target, source, nbytes, self.stream)

    def append(self, tape: Tape, source: int, type_: ArrayType) -> None:
        """A copy of an item becomes the next one."""
        self.copy(self.room(tape), source, tape.nbytes)
        self.refer(tape, source, type_)

    def refer(self, tape: Tape, source: int, type_: ArrayType) -> None:
        if isinstance(type_, TapeType):
            tape.inner += held(self.read(source, type_.size))

    # -- loops

    def record(
        self, step: Record, at: Callable[[Place], int], run: Callable[[Sequence[Step]], None],
        holds: Callable[[Place], bool],
    ) -> None:  # fmt: skip
        tapes = [self.new(item.type.nbytes) for item in step.items]
        count = 0
        run(step.condition)
        while holds(step.flag):
            run(step.body)
            for tape, item in zip(tapes, step.items, strict=True):
                self.append(tape, at(item.place), item.type)
            count += 1
            run(step.condition)
        for tape, place in zip(tapes, step.tapes, strict=True):
            self.write(at(place), [tape.handle])
        self.write(at(step.count), [count])

    def replay(
        self, step: Replay, at: Callable[[Place], int], run: Callable[[Sequence[Step]], None]
    ) -> None:
        (length,) = self.read(at(step.length), 1)
        read = [self.tape(self.read(at(place), 1)[0]) for place in step.tapes]
        made = [self.new(item.type.nbytes) for item in step.made]
        for tape in made:
            for _ in range(length):
                self.room(tape)
        for i in reversed(range(length)) if step.reverse else range(length):
            for source, item in zip(read, step.items, strict=True):
                self.item(source, i, at(item.place), item.type.nbytes)
            run(step.body)
            for tape, item in zip(made, step.made, strict=True):
                self.copy(tape.items[i], at(item.place), tape.nbytes)
                self.refer(tape, at(item.place), item.type)
        for tape, place in zip(made, step.results, strict=True):
            self.write(at(place), [tape.handle])

    def item(self, tape: Tape | None, number: int, target: int, nbytes: int) -> None:
        """An item of a tape, of zeros where that has none."""
        if tape is not None:
            self.copy(target, tape.items[number], nbytes)
        elif nbytes:
            self.driver.clear(target, nbytes, self.stream)

    # -- single tapes

    def operation(self, step: TapeStep, at: Callable[[Place], int]) -> None:
        given = [self.read(at(o.place), o.type.size) for o in step.operands]
        type_ = step.result.type
        assert isinstance(type_, TapeType)
        match step.prim:
            case "tape_add":
                made = [self.sum(x, y, type_.item, step.kernel) for x, y in zip(*given, strict=True)]
            case "tape_join":
                made = [self.joined(given[0], type_.item)]
            case _:
                made = self.parts(given[0][0], type_)
        self.write(at(step.result.place), made)

    def sum(self, x: int, y: int, item: ArrayType, kernel: Any) -> int:
        first, second = self.tape(x), self.tape(y)
        if first is None or second is None:
            return x or y
        tape = self.new(item.nbytes)
        for p, q in zip(first.items, second.items, strict=True):
            target = self.room(tape)
            if isinstance(item, TapeType):
                pairs = zip(self.read(p, item.size), self.read(q, item.size), strict=True)
                inner = [self.sum(m, n, item.item, kernel) for m, n in pairs]
                self.write(target, inner)
                tape.inner += held(inner)
            elif item.nbytes:
                self.launch(kernel, [p, q, target])
        return tape.handle

    def joined(self, handles: Sequence[int], item: ArrayType) -> int:
        lanes = [self.tape(h) for h in handles]
        longest = max((len(t.items) for t in lanes if t is not None), default=None)
        if longest is None:
            return 0
        each = item.nbytes // len(lanes)
        tape = self.new(item.nbytes)
        for i in range(longest):
            target = self.room(tape)
            for k, lane in enumerate(lanes):
                self.item(lane, i, target + k * each, each)
        tape.inner += [inner for lane in lanes if lane is not None for inner in lane.inner]
        return tape.handle

    def parts(self, handle: int, type_: TapeType) -> list[int]:
        """The lanes of a tape of batches, which lie in its memory."""
        whole, made = self.tape(handle), []
        if whole is None:
            return [0] * type_.size
        for k in range(type_.size):
            tape = self.new(type_.item.nbytes)
            tape.items = [address + k * tape.nbytes for address in whole.items]
            tape.blocks, tape.inner = list(whole.blocks), list(whole.inner)
            made.append(tape.handle)
        return made

"""Profiles of functions on devices: the device's own times of each step of a run, of whole runs, of a copy.

Note [Times of a device]
Two marks stand around each step that is queued, two around the whole run, and the device tells the time between them.
It would wait for the host between short steps; so before a run that the host is not needed in, copies of a large array
are queued that take longer than the host needs for queueing, and the steps then run without gaps. These copies leave
little of what is used in caches. A mark takes a microsecond or two, by which short steps seem longer.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.codegen.cuda import work
from nufunc.codegen.cuda.program import Call, Launch, Step
from nufunc.runtime.cuda import libraries
from nufunc.runtime.cuda.arrays import uploaded
from nufunc.runtime.cuda.devices import Device, device_of
from nufunc.runtime.cuda.execute import Machine
from nufunc.runtime.cuda.interop import adopted
from nufunc.runtime.cuda.steps import Loops, Run, Stopped
from nufunc.runtime.profile import DeviceTimes, Profile, Timed

if TYPE_CHECKING:
    from nufunc.runtime.cuda.compiled import DeviceExecutable, DeviceLowered
    from nufunc.runtime.cuda.driver import Driver
    from nufunc.runtime.executable import Executable, Program

_LARGE = 1 << 28  # bytes of a copy
_SMALL = 1 << 22  # on a simulated device
_TIMED = 200  # runs of a step in a loop that are timed
_FEWEST, _MOST = 5, 200  # calls
_WARM = {"replayed": 2, "steps": 1, "queued": 1}  # calls before those that count; the second one is recorded
_LONGEST = 0.05  # seconds of copies before a run


_BANDWIDTHS: weakref.WeakKeyDictionary[Driver, float] = weakref.WeakKeyDictionary()  # measured once


class Copies:
    """Copies of a large array on a device: their bandwidth, and something for it to do."""

    def __init__(self, device: Device) -> None:
        self.driver = driver = device.driver
        self.nbytes = _SMALL if driver.simulated else min(_LARGE, driver.memory()[0] // 8)
        self.blocks = [device.pool.take(self.nbytes, device.stream) for _ in range(2)]
        if driver not in _BANDWIDTHS:
            taken = [self._timed(device.stream) for _ in range(7)]
            _BANDWIDTHS[driver] = 2 * self.nbytes / max(statistics.median(taken[1:]), 1e-9)
        self.bandwidth = _BANDWIDTHS[driver]  # bytes per second, read and written

    def _timed(self, stream: Any) -> float:
        marks = [self.driver.mark(stream)]
        self.queue(1, stream)
        marks.append(self.driver.mark(stream))
        self.driver.synchronize(stream)
        seconds = self.driver.seconds(*marks)
        self.driver.unmark(marks)
        return seconds

    def queue(self, count: int, stream: Any) -> None:
        target, source = (block.address for block in self.blocks)
        for _ in range(count):
            self.driver.copy(target, source, self.nbytes, stream)

    def lead(self, seconds: float, stream: Any) -> None:
        """Queue copies that take about so long."""
        self.queue(math.ceil(min(seconds, _LONGEST) * self.bandwidth / (2 * self.nbytes)), stream)


class TimedRun(Run):
    """A run with marks around its steps, by the identity of these."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.times: dict[int, int] = {}
        self.marks: dict[int, list[tuple[Any, Any]]] = {}

    def step(self, step: Step, loops: Loops) -> None:
        count = self.times[id(step)] = self.times.get(id(step), 0) + 1
        if count > _TIMED:
            super().step(step, loops)
            return
        begin = self.driver.mark(self.stream)
        super().step(step, loops)
        self.marks.setdefault(id(step), []).append((begin, self.driver.mark(self.stream)))


class TimedMachine(Machine):
    """A machine that measures its runs: `steps` (each step), `queued` (all of them), `replayed` (a recorded one), by
    the number of `runs` of that kind; `way` says which kind is next."""

    way = "replayed"

    def measure(self, copies: Copies) -> None:
        self.copies = copies
        self.steps: list[dict[int, tuple[int, float]]] = []  # (times, seconds) of each step
        self.whole: dict[str, list[float]] = {"steps": [], "queued": [], "replayed": []}
        self.queueing: dict[str, float] = {}  # seconds of the host

    def discard(self, way: str) -> None:
        """What was measured of runs of this kind."""
        self.whole[way].clear()
        if way == "steps":
            self.steps.clear()

    def run(self, inputs: Sequence[int], outputs: Sequence[int], stream: Any) -> Run | None:
        driver, way = self.driver, self.way
        if way == "replayed" and (stream, *inputs, *outputs) not in self.graphs:  # it is recorded now, or warms up
            return super().run(inputs, outputs, stream)
        if self.replayable and not driver.simulated and way in self.queueing:
            self.copies.lead(1.5 * self.queueing[way] + 1e-4, stream)
        self.ready(stream)
        run: Run | None = None
        started, begin = time.perf_counter(), driver.mark(stream)
        if way == "steps":
            run = TimedRun(self, inputs, outputs, self._workspace(stream), stream)
            with contextlib.suppress(Stopped):
                run.all()
        elif way == "queued":
            run = self.queue(inputs, outputs, stream)
        else:
            super().run(inputs, outputs, stream)
        end, taken = driver.mark(stream), time.perf_counter() - started
        self.queueing[way] = min(taken, self.queueing.get(way, taken))
        driver.synchronize(stream)
        self.whole[way].append(driver.seconds(begin, end))
        driver.unmark((begin, end))
        if isinstance(run, TimedRun):
            self.steps.append(self._read(run))
        return run

    def _read(self, run: TimedRun) -> dict[int, tuple[int, float]]:
        found = {}
        for key, marks in run.marks.items():
            seconds = math.fsum(self.driver.seconds(*pair) for pair in marks) * run.times[key] / len(marks)
            found[key] = run.times[key], seconds
            self.driver.unmark([mark for pair in marks for mark in pair])
        return found


def measured(
    program: Program, plain: Executable, timed: DeviceExecutable, lowered: DeviceLowered, values: Sequence[Any],
    seconds: float,
) -> Profile:  # fmt: skip
    """The profile of a program for a device, run for about so many seconds; `timed` is its executable to be changed."""
    assert program.device is not None
    device = device_of(program.device)
    call = Caller(plain, values, device)
    memory = _memory(call, device)
    machine = TimedMachine(lowered.steps, device.driver, device.pool)
    machine.measure(Copies(device))
    timed.entry.machine = machine
    fewest = 1 if device.driver.simulated else _FEWEST
    taken = _repeat(call, seconds / 4, fewest)
    steps = Caller(timed, values, device)
    for way in ("replayed", "steps", "queued"):
        machine.way = way
        if way != "replayed" or machine.replayable:
            for _ in range(_WARM[way]):
                steps()
            machine.discard(way)
            _repeat(steps, seconds / 4, fewest)
    median = {way: statistics.median(times) for way, times in machine.whole.items() if times}
    machine.copies.blocks.clear()
    device.pool.trim()
    there = sum(way.input.type.nbytes for way in timed.entry.ways if way.layout is not None)
    lasting = there + sum(c.nbytes for c in lowered.steps.constants)
    times = DeviceTimes(
        f"{device}, {device.name}", device.driver.simulated, machine.copies.bandwidth, median["queued"],
        median.get("replayed"), *_transfers(timed), *memory, lasting + memory[0],
    )  # fmt: skip
    rows = _rows(lowered, machine)
    return Profile(program.name, tuple(rows), min(taken), median["steps"], len(machine.steps), times)


class Caller:
    """Calls of a compilation, with arrays of their own in the place of those that they change."""

    def __init__(self, executable: Executable, values: Sequence[Any], device: Device) -> None:
        self.executable, self.values, self.device = executable, values, device

    def given(self) -> list[Any]:
        return [_own(v) if k in self.executable.written else v for k, v in enumerate(self.values)]

    def __call__(self, given: Sequence[Any] | None = None) -> float:
        """The seconds of a call, until the device is done. What fails in it is raised."""
        given = self.given() if given is None else given
        self.device.synchronize()
        start = time.perf_counter()
        results = self.executable.run(given)
        self.device.synchronize()
        taken = time.perf_counter() - start
        del results
        return taken


def _own(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic | float | complex):
        return np.array(value)
    array = adopted(value)
    assert array is not None
    return array.copy()


def _repeat(call: Caller, seconds: float, fewest: int) -> list[float]:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < fewest or (len(taken) < _MOST and time.perf_counter() < until):
        taken.append(call())
    return taken


def _memory(call: Caller, device: Device) -> tuple[int, int, int]:
    """How many bytes a call takes that finds none kept, in how many pieces, and in how many a later one."""
    pool, given = device.pool, call.given()
    device.synchronize()
    pool.trim()
    nbytes, pieces = pool.allocated, pool.allocations
    call(given)
    nbytes, pieces, later = pool.allocated - nbytes, pool.allocations - pieces, 0
    del given
    for _ in range(3):  # the second one may be recorded, with memory of its own
        before = pool.allocations
        call()
        later = pool.allocations - before
    return nbytes, pieces, later


def _transfers(executable: DeviceExecutable) -> tuple[int, int]:
    """Bytes that a call copies from the host, and to it."""
    entry = executable.entry
    up = sum(way.input.type.nbytes for way in entry.ways if way.layout is None)
    back = entry.spec.results
    down = sum(
        operand.type.nbytes
        for result, operand in zip(back, entry.steps.outputs, strict=True)
        if not entry.on_device or (result.source is not None and entry.ways[result.source].layout is None)
    )
    return up, down


def _rows(lowered: DeviceLowered, machine: TimedMachine) -> list[Timed]:
    counted = work.work(lowered.steps, lowered.origins)
    seconds: dict[int, float] = {}
    times: dict[int, int] = {}
    for run in machine.steps:
        for key, (count, _) in run.items():
            times[key] = count
    for key in times:
        seconds[key] = statistics.median(run.get(key, (0, 0.0))[1] for run in machine.steps)
    how = _by(machine.driver)

    def listed(steps: Sequence[Step], depth: int, around: int | None) -> list[Timed]:
        found: dict[Any, Timed] = {}
        for k, step in enumerate(steps):
            if id(step) not in times:
                continue
            node, by = lowered.origins.nodes.get(id(step)), how(step)
            inside = listed(work.inner(step), depth + 1, k if around is None else around)
            own = max(seconds[id(step)] - sum(r.seconds for r in inside), 0.0)
            row = counted[id(step)].repeated(times[id(step)])
            made = Timed(row, own, depth, k if around is None else around, by)
            # loops of known length are there twice, from the first places of their carries to the second and back
            same = None if around is None or inside or node is None else (id(node[1]), by, row.name)
            if same in found:
                found[same] = _together(found[same], made)
                continue
            found[same if same is not None else id(step)] = made
            found.update((object(), r) for r in inside)
        return list(found.values())

    return listed(lowered.steps.steps, 0, None)


def _together(a: Timed, b: Timed) -> Timed:
    """Two rows as one."""
    names = ("times", "flops", "transcendentals", "bytes_read", "bytes_written")
    both = {name: getattr(a.kernel, name) + getattr(b.kernel, name) for name in names}
    return replace(a, kernel=replace(a.kernel, **both), seconds=a.seconds + b.seconds)


def _by(driver: Driver) -> Callable[[Step], str]:
    """Who does a step: the kernel as `nf.dump` of the stage "device" names it, or a library."""

    def by(step: Step) -> str:
        if isinstance(step, Launch):
            return f"{step.kernel.name}<{step.kernel.blocks}, {step.kernel.threads}>"
        if not isinstance(step, Call):
            return ""
        return libraries.who(step, driver)

    return by


def product_rate(device: Device, dtype: np.dtype[Any]) -> float:
    """Flops per second of a matrix product on a device."""
    from nufunc.runtime.function import Transformed

    n, count = (128, 1) if device.driver.simulated else (4096, 5)
    square = uploaded(np.ones((n, n), dtype), device)
    product = Transformed((), lambda a: a @ a)
    taken = []
    for _ in range(5):
        device.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            product(square)
        device.synchronize()
        taken.append((time.perf_counter() - start) / count)
    return 2 * n**3 / min(taken)

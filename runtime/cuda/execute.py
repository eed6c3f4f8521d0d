"""Machine: a device program on a device, and its runs: memory, steps in order, recorded graphs, failed checks.

Note [Failed checks]
A device tells of a failed check by the program's error word. It is 0 until a kernel writes the key of a check to it,
and each run ends with a copy of it to the host, which looks whenever it has waited for the device anyway, and before
the next run of the same program. Since runs go on until then, those since the host last found 0 share a `Span`: once
one of them failed, the results of all of them raise the failure whenever they are looked at. Then the word is cleared.

Note [Recorded runs]
A program that never waits for the host is recorded at its second run and replayed from then on. A recorded graph knows
addresses: those of inputs and outputs are its key, its workspace and its numbers are its own. Few are kept per program;
the oldest is changed to new addresses when they come up, if the device can do that. Where every run has new addresses,
to record would be a waste, and steps are queued one by one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.codegen.callback import HostCall
from nufunc.codegen.cuda.program import (
    Branch,
    Call,
    Copy,
    Host,
    Launch,
    Operand,
    Place,
    Program,
    Repeat,
    Step,
    While,
)
from nufunc.codegen.nest_builder import site_error
from nufunc.ir.errors import Location
from nufunc.ir.types import BOOL, ArrayType
from nufunc.runtime.cuda import libraries
from nufunc.runtime.cuda.driver import Driver
from nufunc.runtime.cuda.memory import Block, Pool
from nufunc.runtime.cuda.tapes import Tapes

MAX_GRAPHS = 8  # recorded runs kept per program
_AGAIN = 64  # runs with new addresses all the time after which one is recorded nevertheless


class Span:
    """Runs whose checks were not looked at in between; `failure` once one of them is known to have failed."""

    __slots__ = ("failure",)

    def __init__(self) -> None:
        self.failure: BaseException | None = None


class Stopped(Exception):
    """The steps of a run end here: a check has failed."""


class Recorded:
    """A graph with the memory that it holds, the numbers it reads, and the stream that it last ran on."""

    __slots__ = ("graph", "held", "numbers", "stream")

    def __init__(self, graph: Any, held: Block | None, numbers: Block | None, stream: Any) -> None:
        self.graph, self.held, self.numbers, self.stream = graph, held, numbers, stream


class Machine:
    """A program on a device: its kernels loaded, its constants uploaded."""

    def __init__(self, program: Program, driver: Driver, pool: Pool, location: Location | None = None) -> None:
        self.program, self.driver, self.pool, self.location = program, driver, pool, location
        driver.prepare(program.kernels)
        self.functions = {kernel: driver.load(kernel) for kernel in program.kernels}
        self.constants = [self._uploaded(array) for array in program.constants]
        self.replayable = program.replayable and not _hosted(program, driver)
        self.runs = 0
        self.missed = self.strange = 0  # the last run with new addresses, and how many of these came in a row
        self.graphs: dict[Any, Recorded] = {}
        self.recording = threading.Lock()
        self.word, self.view = driver.word()
        self.checked = bool(program.sites) and any(
            not isinstance(kind, HostCall) for kind, _ in program.sites.values()
        )
        self.span = Span() if self.checked else None

    def __del__(self) -> None:
        graphs = getattr(self, "graphs", None)
        for recorded in list(graphs.values()) if graphs else ():
            self.driver.drop(recorded.graph)

    def _uploaded(self, array: np.ndarray) -> Block:
        block = self.pool.take(array.nbytes, 0, self.location)
        if array.nbytes:
            self.driver.upload(block.address, np.ascontiguousarray(array), 0)
        return block

    # -- checks

    def failed(self, stream: Any) -> BaseException | None:
        """The failure that the device has told of so far; the runs of its span fail with it."""
        if self.span is None or not self.view[0]:
            return None
        self.driver.synchronize(stream)
        code = int(self.view[0])
        self.driver.clear(self.word, 4, stream)
        self.view[0] = 0
        error = self.span.failure = site_error(*self.program.sites[code])
        self.span = Span()
        return error

    def passed(self) -> None:
        """The device has done all that was queued, and no check has failed."""
        if self.span is not None:
            self.span = Span()

    # -- runs

    def run(self, inputs: Sequence[int], outputs: Sequence[int], stream: Any) -> None:
        """Queue the steps, on memory for the inputs and for those outputs that are not inputs."""
        self.runs += 1
        if not self.replayable:
            self.queue(inputs, outputs, stream)
            return
        if self.runs == 1:
            self.first(inputs, outputs, stream)
            return
        key = (*inputs, *outputs)
        recorded = self.graphs.get(key)
        if recorded is None:
            self.strange = self.strange + 1 if self.runs - self.missed <= 1 else 0
            self.missed = self.runs
            if self.strange > 2 * MAX_GRAPHS and self.strange % _AGAIN:
                self.queue(inputs, outputs, stream)
                return
            recorded = self.recorded(key, inputs, outputs, stream)
        self.replay(recorded, stream)

    def replay(self, recorded: Recorded, stream: Any) -> None:
        if recorded.stream != stream:  # its workspace is in use on another stream
            self.driver.wait(stream, recorded.stream)
            recorded.stream = stream
        self.driver.replay(recorded.graph, stream)

    def recorded(self, key: Any, inputs: Sequence[int], outputs: Sequence[int], stream: Any) -> Recorded:
        """A graph for these addresses, made now."""
        with self.recording:
            found = self.graphs.get(key)
            if found is not None:
                return found
            before = None
            if len(self.graphs) >= MAX_GRAPHS:
                before = self.graphs.pop(next(iter(self.graphs)))
            workspace = self._workspace(stream) if before is None else before.held
            if before is not None and before.stream != stream:
                self.driver.wait(stream, before.stream)
            bases = self._bases(inputs, outputs, workspace)
            graph = self.driver.record(
                lambda within: self._all(bases, within),
                None if before is None else before.graph,
            )
            made = self.graphs[key] = Recorded(graph, workspace, None, stream)
            return made

    def first(self, inputs: Sequence[int], outputs: Sequence[int], stream: Any) -> None:
        """The first run, on the stream of recordings where libraries are called: what they make at their first use on a
        stream cannot be recorded."""
        driver, within = self.driver, self.driver.recording_stream
        if not any(isinstance(step, Call) for step in self.program.walk()):
            self.queue(inputs, outputs, stream)
            return
        driver.wait(within, stream)
        self.queue(inputs, outputs, within)
        driver.wait(stream, within)

    def queue(self, inputs: Sequence[int], outputs: Sequence[int], stream: Any) -> None:
        """Queue the steps one by one."""
        workspace = self._workspace(stream)
        with contextlib.suppress(Stopped):  # the error word says why
            self._all(self._bases(inputs, outputs, workspace), stream)

    def _workspace(self, stream: Any) -> Block | None:
        nbytes = self.program.workspace
        return self.pool.take(nbytes, stream, self.location) if nbytes else None

    def _bases(
        self, inputs: Sequence[int], outputs: Sequence[int], workspace: Block | None
    ) -> dict[str, Sequence[int]]:
        return {
            "input": inputs, "output": outputs, "constant": [b.address for b in self.constants],
            "workspace": [0 if workspace is None else workspace.address], "error": [self.word],
        }  # fmt: skip

    def _all(self, bases: dict[str, Sequence[int]], stream: Any) -> None:
        launch = lambda kernel, addresses: self.driver.launch(
            self.functions[kernel], [*addresses, self.word], stream
        )
        kept: Any = [Tapes(self.driver, self.pool, stream, launch)]
        self._steps(self.program.steps, {**bases, "tapes": kept}, {}, stream)
        if self.checked:
            self.driver.report(self.word, stream)

    def _steps(
        self, steps: Sequence[Step], bases: dict[str, Sequence[int]], loops: dict[int, int], stream: Any
    ) -> None:
        at = lambda place: address(place, bases, loops)
        for step in steps:
            match step:
                case Launch():
                    self.driver.launch(self.functions[step.kernel], [*map(at, step.places), self.word], stream)
                case Copy():
                    if step.nbytes:
                        self.driver.copy(at(step.target), at(step.source), step.nbytes, stream)
                case Call():
                    self._call(step, at, stream)
                case Repeat():
                    for i in reversed(range(step.length)) if step.reverse else range(step.length):
                        self._steps(step.body, bases, {**loops, step.loop: i}, stream)
                case While():
                    self._while(step, bases, loops, stream)
                case Branch():
                    number = self._read(step.index, at, stream)
                    branch = step.branches[min(max(number, 0), len(step.branches) - 1)]
                    self._steps(branch, bases, loops, stream)
                case Host():
                    self._host(step, at, stream)
                case _:
                    tapes: Any = bases["tapes"][0]
                    inside = lambda steps: self._steps(steps, bases, loops, stream)
                    holds = lambda place: self._read(Operand(place, ArrayType((), BOOL)), at, stream) != 0
                    tapes.step(step, at, inside, holds)

    def _while(
        self, step: While, bases: dict[str, Sequence[int]], loops: dict[int, int], stream: Any
    ) -> None:
        flag = np.zeros(1, np.bool_)
        while True:
            self._steps(step.condition, bases, loops, stream)
            self._look(flag, address(step.flag, bases, loops), stream)
            if not flag[0]:
                return
            self._steps(step.body, bases, loops, stream)

    def _read(self, operand: Operand, at: Any, stream: Any) -> int:
        value = np.zeros(1, operand.type.dtype)
        self._look(value, at(operand.place), stream)
        return int(value[0])

    def _look(self, array: np.ndarray, address: int, stream: Any) -> None:
        """Read a number; a run ends where a check has failed, since what that leaves may keep a loop going for ever."""
        if self.checked:
            self.driver.report(self.word, stream)
        self.driver.download(array, address, stream)
        if self.checked and self.view[0]:
            raise Stopped

    def _call(self, step: Call, at: Any, stream: Any) -> None:
        places = [o.place for o in (*step.operands, *step.results)]
        scratch = 0 if step.workspace is None else at(step.workspace)
        addresses = [*map(at, places), scratch, self.word]
        driver: Any = self.driver
        if driver.simulated:
            driver.host(lambda: libraries.run(step, driver, addresses, 0), stream)
        else:
            libraries.run(step, driver, addresses, stream)

    def _host(self, step: Host, at: Any, stream: Any) -> None:
        given = [np.empty(o.type.shape, o.type.dtype) for o in step.operands]
        if self.checked:
            self.driver.report(self.word, stream)
        for array, operand in zip(given, step.operands, strict=True):
            if array.size:
                self.driver.download(array, at(operand.place), stream)
        self.driver.synchronize(stream)
        if self.checked and self.view[0]:
            raise Stopped
        made = step.call.host.function(*given)
        for operand, value in zip(step.results, made, strict=True):
            if operand.type.size:
                array = np.broadcast_to(np.asarray(value, operand.type.dtype), operand.type.shape)
                self.driver.upload(at(operand.place), np.ascontiguousarray(array), stream)


def _hosted(program: Program, driver: Driver) -> bool:
    """Whether a call needs the host, or cannot be recorded for another reason."""
    return any(isinstance(step, Call) and not libraries.replayable(step, driver) for step in program.walk())


def address(place: Place, bases: dict[str, Sequence[int]], loops: dict[int, int]) -> int:
    """Where a place is, in an iteration of the loops around it."""
    base = bases[place.space][place.number] + place.offset
    for loop, size in place.steps:
        base += size * loops[loop]
    return base

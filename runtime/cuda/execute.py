"""Machine: a device program on a device, and its runs: memory, steps in order, recorded graphs, failed checks.

Note [Failed checks]
A device tells of a failed check by the program's error word. It is 0 until a kernel writes the key of a check to it,
and each run ends with a copy of it to the host, which looks whenever it has waited for the device anyway, and before
the next run of the same program. Since runs go on until then, those since the host last found 0 share a `Span`: once
one of them failed, the results of all of them raise the failure whenever they are looked at. Then the word is cleared.

Note [Recorded runs]
A program that never waits for the host is recorded when addresses come up for the second time, usually at its second
run, and replayed from then on. A recorded graph knows addresses: the stream and those of inputs and outputs are its
key. The graphs of a stream, whose runs follow each other, share a workspace. Few are kept per program; the oldest is
changed to new addresses, if the device can do that. To record costs several times what it takes to queue the steps one
by one, so runs whose addresses do not come back before many others are queued. A device without memory first loses all
graphs with their workspaces.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.codegen.callback import HostCall
from nufunc.codegen.cuda.library_steps import ALIGNMENT
from nufunc.codegen.cuda.program import Call, Program
from nufunc.ir.errors import DeviceError, DeviceMemoryError, DeviceWarning, Location, LostDeviceError
from nufunc.runtime.cuda import libraries
from nufunc.runtime.cuda.driver import Driver
from nufunc.runtime.cuda.memory import Block, Pool
from nufunc.runtime.cuda.steps import Run, Stopped

MAX_GRAPHS = 8  # recorded runs kept per program
_MISSED = 16  # runs that were not recorded whose addresses are remembered


class Span:
    """Runs whose checks were not looked at in between; `failure` once one of them is known to have failed."""

    __slots__ = ("failure",)

    def __init__(self) -> None:
        self.failure: BaseException | None = None


class Recorded:
    """A graph with what it refers to: its workspace, and what libraries keep for it."""

    __slots__ = ("graph", "held", "kept")

    def __init__(self, graph: Any, held: Block | None, kept: Sequence[Any]) -> None:
        self.graph, self.held, self.kept = graph, held, kept


class Machine:
    """A program on a device: its kernels loaded, its constants uploaded."""

    def __init__(self, program: Program, driver: Driver, pool: Pool, location: Location | None = None) -> None:
        self.program, self.driver, self.pool = program, driver, pool
        self.where = lambda: location
        calls = [step for step in program.walk() if isinstance(step, Call)]
        driver.prepare([*program.kernels, *libraries.kernels(calls, driver)])
        self.functions = {kernel: driver.load(kernel) for kernel in program.kernels}
        self.constants = [self._uploaded(array) for array in program.constants]
        self.calls = [step for step in program.walk() if isinstance(step, Call)]
        self.replayable = program.replayable and all(libraries.replayable(step, driver) for step in self.calls)
        self.spare = libraries.spare_of(self.calls, driver)  # bytes of a workspace behind the program's
        self.runs = 0
        self.begun = False  # whether a run has been queued, so that what is made at first use is there
        self.streams: set[Any] = set()  # that it ran on
        self.missed: dict[Any, None] = {}  # the addresses of the last runs that were not recorded
        self.graphs: dict[Any, Recorded] = {}
        self.workspaces: dict[Any, Block | None] = {}  # of recorded runs, by stream
        self.recording = threading.RLock()
        pool.users.add(self)
        self.word, self.view = driver.word()
        self.checked = bool(program.sites) and any(
            not isinstance(kind, HostCall) for kind, _ in program.sites.values()
        )
        self.span = Span() if self.checked else None

    def __del__(self) -> None:
        graphs = getattr(self, "graphs", None)
        for recorded in list(graphs.values()) if graphs else ():
            self.driver.drop(recorded.graph)
        for block in getattr(self, "constants", ()):  # which are the default stream's
            block.others = tuple(self.streams - {0})

    def _uploaded(self, array: np.ndarray) -> Block:
        block = self.pool.take(array.nbytes, 0, self.where)
        if array.nbytes:
            self.driver.upload(block.address, np.ascontiguousarray(array), 0)
        return block

    # -- checks

    def failed(self, stream: Any) -> BaseException | None:
        """The failure that the device has told of so far; the runs of its span fail with it."""
        if self.span is None or not self.view[0]:
            return None
        for other in self.streams - {stream}:  # whose copies of the word come before it is cleared
            self.driver.wait(stream, other)
        self.driver.synchronize(stream)
        from nufunc.codegen.nest_builder import site_error  # which brings what kernels are made with

        code = int(self.view[0])
        self.driver.clear(self.word, 4, stream)
        self.view[0] = 0
        error = self.span.failure = site_error(*self.program.sites[code])
        self.span = Span()
        return error

    def passed(self, stream: Any) -> None:
        """The device has done all that a stream holds, and no check has failed: what follows is another span."""
        if self.span is not None and self.streams <= {stream}:
            self.span = Span()

    # -- runs

    def run(self, inputs: Sequence[int], outputs: Sequence[int], stream: Any) -> Run | None:
        """Queue the steps, on memory for the inputs and for those outputs that are not inputs. The run, which holds the
        tapes that it made, where it was not recorded."""
        self.runs += 1
        self.ready(stream)
        if not self.replayable:
            return self.queue(inputs, outputs, stream)
        key = (stream, *inputs, *outputs)
        if not self.begun:
            self.first(inputs, outputs, stream)
            self.begun = True
            self._again(key)
            return None
        recorded = self.graphs.get(key)
        if recorded is None:
            if not self._again(key):
                return self.queue(inputs, outputs, stream)
            try:
                recorded = self.recorded(key, inputs, outputs, stream)
            except LostDeviceError:
                raise
            except DeviceMemoryError:  # for the graph
                return self.queue(inputs, outputs, stream)
            except DeviceError as error:
                self.replayable = False
                warnings.warn(
                    f"{self.program.name}: a run cannot be recorded ({error}); all are queued step by step",
                    DeviceWarning, stacklevel=2,
                )  # fmt: skip
                return self.queue(inputs, outputs, stream)
        self.driver.replay(recorded.graph, stream)
        return None

    def ready(self, stream: Any) -> None:
        """Steps can be queued on this stream."""
        if stream not in self.streams:
            self.streams.add(stream)
            if stream:
                self.driver.wait(stream, 0)  # on which the constants were uploaded

    def _again(self, key: Any) -> bool:
        """Whether there was a run like this one not long ago; there has been one from now on."""
        with self.recording:
            if key in self.missed:
                del self.missed[key]
                return True
            self.missed[key] = None
            if len(self.missed) > _MISSED:
                del self.missed[next(iter(self.missed))]
            return False

    def recorded(self, key: Any, inputs: Sequence[int], outputs: Sequence[int], stream: Any) -> Recorded:
        """A graph for these addresses, made now."""
        with self.recording:
            found = self.graphs.get(key)
            if found is not None:
                return found
            before = None
            if len(self.graphs) >= MAX_GRAPHS:
                before = self.graphs.pop(next(iter(self.graphs)))
            if threading.active_count() > 1:  # another thread may be about to replay it as it is
                before = None
            workspace = self.workspaces.get(stream)
            if workspace is None:
                workspace = self._workspace(stream)
            with libraries.keeping(stream) as kept:
                graph = self.driver.record(
                    lambda within: Run(self, inputs, outputs, workspace, within).all(),
                    None if before is None else before.graph,
                )
            self.workspaces[stream] = workspace
            made = self.graphs[key] = Recorded(graph, workspace, kept)
            for other in self.workspaces.keys() - {key[0] for key in self.graphs}:
                del self.workspaces[other]
            return made

    def forget(self) -> None:
        """Let go of all recorded runs and their workspaces, but for those that are being made."""
        if self.recording.acquire(blocking=False):
            try:
                self.graphs.clear()
                self.workspaces.clear()
            finally:
                self.recording.release()

    def first(self, inputs: Sequence[int], outputs: Sequence[int], stream: Any) -> None:
        """The first run, on the stream of recordings where libraries are called: what they make at their first use on a
        stream cannot be recorded."""
        driver, within = self.driver, self.driver.recording_stream
        if not self.calls:
            self.queue(inputs, outputs, stream)
            return
        with driver.recording, libraries.keeping(stream, recorded=False):
            workspace = self._workspace(stream)
            driver.wait(within, stream)
            try:
                self.queue(inputs, outputs, within, workspace)
            finally:
                driver.wait(stream, within)

    def queue(self, inputs: Sequence[int], outputs: Sequence[int], stream: Any, workspace: Block | None = None) -> Run:
        """Queue the steps one by one."""
        run = Run(self, inputs, outputs, self._workspace(stream) if workspace is None else workspace, stream)
        with contextlib.suppress(Stopped):  # the error word says why
            run.all()
        return run

    @property
    def spare_at(self) -> int:
        return -(-self.program.workspace // ALIGNMENT) * ALIGNMENT

    def _workspace(self, stream: Any) -> Block | None:
        nbytes = self.spare_at + self.spare
        return self.pool.take(nbytes, stream, self.where) if nbytes else None

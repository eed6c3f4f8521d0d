"""Run: one run of a device program, its steps queued in order on memory for its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.codegen.cuda.program import (
    Branch,
    Call,
    Copy,
    Host,
    Launch,
    Operand,
    Place,
    Record,
    Repeat,
    Replay,
    Scoped,
    Step,
    TapeStep,
    While,
)
from nufunc.runtime.cuda import libraries
from nufunc.runtime.cuda.tapes import Tapes

if TYPE_CHECKING:
    from nufunc.runtime.cuda.execute import Machine
    from nufunc.runtime.cuda.memory import Block

Loops = dict[int, int]  # iterations of the loops around, by number


class Stopped(Exception):
    """The steps of a run end here: a check has failed."""


class Run:
    """The steps of a machine's program on these addresses and a stream."""

    def __init__(
        self, machine: Machine, inputs: Sequence[int], outputs: Sequence[int], workspace: Block | None, stream: Any
    ) -> None:
        self.machine, self.driver, self.stream = machine, machine.driver, stream
        self.workspace = workspace  # held as long as the run
        self.bases: dict[str, Sequence[int]] = {
            "input": inputs, "output": outputs, "constant": [b.address for b in machine.constants],
            "workspace": [0 if workspace is None else workspace.address], "error": [machine.word],
        }  # fmt: skip
        self.tapes: Tapes | None = None

    def all(self) -> None:
        self.steps(self.machine.program.steps, {})
        self.report()

    def report(self) -> None:
        if self.machine.checked:
            self.driver.report(self.machine.word, self.stream)

    def at(self, place: Place, loops: Loops) -> int:
        """The address of a place, in an iteration of the loops around it."""
        base = self.bases[place.space][place.number] + place.offset
        for loop, size in place.steps:
            base += size * loops[loop]
        return base

    def steps(self, steps: Sequence[Step], loops: Loops) -> None:
        for step in steps:
            self.step(step, loops)

    def step(self, step: Step, loops: Loops) -> None:
        match step:
            case Launch():
                self.launch(step.kernel, [self.at(place, loops) for place in step.places])
            case Copy():
                if step.nbytes:
                    target, source = self.at(step.target, loops), self.at(step.source, loops)
                    self.driver.copy(target, source, step.nbytes, self.stream)
            case Call():
                self.call(step, loops)
            case Repeat():
                for i in reversed(range(step.length)) if step.reverse else range(step.length):
                    self.steps(step.body, {**loops, step.loop: i})
            case While():
                self.steps(step.condition, loops)
                while self.holds(step.flag, loops):
                    self.steps(step.body, loops)
                    self.steps(step.condition, loops)
            case Branch():
                number = min(max(self.number(step.index, loops), 0), len(step.branches) - 1)
                self.steps(step.branches[number], loops)
            case Host():
                self.host(step, loops)
            case Record() | Replay() | TapeStep() | Scoped():
                self.tape(step, loops)

    def launch(self, kernel: Any, addresses: Sequence[int]) -> None:
        machine = self.machine
        self.driver.launch(machine.functions[kernel], [*addresses, machine.word], self.stream)

    def call(self, step: Call, loops: Loops) -> None:
        places = [o.place for o in (*step.operands, *step.results)]
        scratch = 0 if step.workspace is None else self.at(step.workspace, loops)
        addresses = [*(self.at(p, loops) for p in places), scratch, self.machine.word]
        spare = 0
        if self.machine.spare and self.workspace is not None:
            spare = self.workspace.address + self.machine.spare_at
        driver: Any = self.driver
        if driver.simulated:
            driver.host(lambda: libraries.run(step, driver, addresses, 0, spare), self.stream)
        else:
            libraries.run(step, driver, addresses, self.stream, spare)

    def tape(self, step: Step, loops: Loops) -> None:
        if self.tapes is None:
            self.tapes = Tapes(self.driver, self.machine.pool, self.stream, self.launch)
        at: Callable[[Place], int] = lambda place: self.at(place, loops)
        self.tapes.step(step, at, lambda body: self.steps(body, loops), lambda flag: self.holds(flag, loops))

    # -- what the host looks at

    def holds(self, flag: Place, loops: Loops) -> bool:
        return bool(self.look(np.zeros(1, np.bool_), flag, loops))

    def number(self, operand: Operand, loops: Loops) -> int:
        return int(self.look(np.zeros(1, operand.type.dtype), operand.place, loops))

    def look(self, array: np.ndarray, place: Place, loops: Loops) -> Any:
        """Read a number; a run ends where a check has failed, since what that leaves may keep a loop going for ever."""
        self.report()
        self.driver.download(array, self.at(place, loops), self.stream)
        self.stop_if_failed()
        return array[0]

    def stop_if_failed(self) -> None:
        if self.machine.checked and self.machine.view[0]:
            raise Stopped

    def host(self, step: Host, loops: Loops) -> None:
        self.report()
        given = [np.empty(o.type.shape, o.type.dtype) for o in step.operands]
        for array, operand in zip(given, step.operands, strict=True):
            if array.size:
                self.driver.download(array, self.at(operand.place, loops), self.stream)
        self.driver.synchronize(self.stream)
        self.stop_if_failed()
        made = step.call.host.function(*given)
        for operand, value in zip(step.results, made, strict=True):
            if operand.type.size:
                array = np.broadcast_to(np.asarray(value, operand.type.dtype), operand.type.shape)
                address = self.at(operand.place, loops)
                self.driver.upload(address, np.ascontiguousarray(array), self.stream)

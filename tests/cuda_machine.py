"""Runs programs for devices over NumPy memory, kernel by kernel, for the tests of plans."""

import numpy as np

from nufunc.codegen.cuda.plan import device_program
from nufunc.codegen.cuda.program import Branch, Call, Copy, Host, Launch, Operand, Place, Program, Repeat, While
from nufunc.codegen.cuda.simulate import simulate
from nufunc.codegen.nest_builder import site_error
from nufunc.ir import primitive
from nufunc.ir.types import is_half
from nufunc.runtime import pipeline
from nufunc.runtime.cuda.execute import Machine as DeviceMachine
from nufunc.runtime.cuda.memory import Pool
from nufunc.runtime.cuda.simulated import SimulatedDriver
from nufunc.runtime.function import Transformed


class Machine:
    """One run: memory for every space, and what was counted."""

    def __init__(self, program: Program, arrays: list[np.ndarray]) -> None:
        self.program = program
        given = [np.array(a, t.dtype, order="C", copy=True) for a, t in zip(arrays, program.inputs, strict=True)]
        self.memory: dict[tuple[str, int], np.ndarray] = {("workspace", 0): noise(program.workspace)}
        self.memory.update((("input", k), raw(a)) for k, a in enumerate(given))
        self.memory.update((("constant", k), raw(a)) for k, a in enumerate(program.constants))
        for operand in program.outputs:
            key = (operand.place.space, operand.place.number)
            self.memory.setdefault(key, noise(operand.place.offset + operand.type.nbytes))
        self.error = np.zeros(1, np.int32)
        self.counters: dict[int, int] = {}
        self.launched = 0
        self.races = False  # whether threads that touch one element between barriers are errors

    def run(self) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            self.steps(self.program.steps)
        if self.error[0]:
            raise site_error(*self.program.sites[int(self.error[0])])
        return [self.array(o).copy() for o in self.program.outputs]

    def bytes(self, place: Place, size: int) -> np.ndarray:
        offset = place.offset + sum(self.counters[loop] * step for loop, step in place.steps)
        memory = self.memory[place.space, place.number]
        assert 0 <= offset <= memory.size - size, f"{place} with {size} bytes is outside"
        return memory[offset : offset + size]

    def array(self, operand: Operand) -> np.ndarray:
        type_ = operand.type
        return self.bytes(operand.place, type_.nbytes).view(type_.dtype).reshape(type_.shape)

    def steps(self, steps) -> None:
        for step in steps:
            getattr(self, type(step).__name__.lower())(step)

    def launch(self, step: Launch) -> None:
        self.launched += 1
        buffers = step.kernel.buffers
        assert len(buffers) == len(step.places)
        arrays = [self.bytes(p, b.size * b.dtype.itemsize).view(b.dtype) for p, b in zip(step.places, buffers)]
        simulate(step.kernel, [*arrays, self.error], races=self.races)

    def copy(self, step: Copy) -> None:
        source, target = self.bytes(step.source, step.nbytes), self.bytes(step.target, step.nbytes)
        assert not np.may_share_memory(source, target), step
        target[:] = source

    def call(self, step: Call) -> None:
        operands = [self.array(o) for o in step.operands]
        operands = [o.astype(np.float32) if is_half(o.dtype) else o for o in operands]
        try:
            results = primitive.get(step.prim).evaluate(operands, step.attrs, ())
        except np.linalg.LinAlgError:
            assert step.site
            self.error[0] = self.error[0] or step.site
            return
        for target, made in zip(step.results, results, strict=True):
            self.array(target)[...] = made

    def host(self, step: Host) -> None:
        made = step.call.host.function(*[self.array(o).copy() for o in step.operands])
        for target, result in zip(step.results, made, strict=True):
            self.array(target)[...] = result

    def repeat(self, step: Repeat) -> None:
        for i in reversed(range(step.length)) if step.reverse else range(step.length):
            self.counters[step.loop] = i
            self.steps(step.body)
        del self.counters[step.loop]

    def branch(self, step: Branch) -> None:
        index = int(self.array(step.index))
        self.steps(step.branches[min(max(index, 0), len(step.branches) - 1)])

    def while_(self, step: While) -> None:
        while True:
            self.steps(step.condition)
            if self.error[0] or not self.bytes(step.flag, 1)[0]:
                return
            self.steps(step.body)


setattr(Machine, "while", Machine.while_)


def raw(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def noise(size: int) -> np.ndarray:
    """Memory in which whatever is read before it is written shows: NaN, and large numbers."""
    return np.full(size, 0xFF, np.uint8)


def device_run(function, *arguments, races=False):
    """The device program of a function of arrays, and what a run of it gives, as a list."""
    transformed = function if isinstance(function, Transformed) else Transformed((), function)
    traced, values = transformed.program_of(arguments, {})
    program = device_program(pipeline.grouped(traced.graph, []), "f")
    machine = Machine(program, [np.asarray(v) for v in values])
    machine.races = races
    results = machine.run()
    return program, results[: len(results) - len(traced.graph.updates)]


def driven(function, *arguments):
    """The same on a simulated driver, by what runs programs on devices."""
    transformed = function if isinstance(function, Transformed) else Transformed((), function)
    traced, values = transformed.program_of(arguments, {})
    program = device_program(pipeline.grouped(traced.graph, []), "f")
    driver = SimulatedDriver()
    pool = Pool(driver, 0)
    machine = DeviceMachine(program, driver, pool)
    given = [np.array(v, t.dtype, order="C") for v, t in zip(values, program.inputs, strict=True)]
    inputs = [pool.take(a.nbytes, 0) for a in given]
    for block, array in zip(inputs, given, strict=True):
        if array.size:
            driver.upload(block.address, array, 0)
    own = [o for o in program.outputs if o.place.space == "output"]
    outputs = [pool.take(o.type.nbytes, 0) for o in own]
    machine.run([b.address for b in inputs], [b.address for b in outputs], 0)
    results = [np.empty(o.type.shape, o.type.dtype) for o in own]
    for block, array in zip(outputs, results, strict=True):
        if array.size:
            driver.download(array, block.address, 0)
    error = machine.failed(0)
    if error is not None:
        raise error
    del inputs, outputs, block, machine
    return program, results, driver

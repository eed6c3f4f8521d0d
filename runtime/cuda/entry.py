"""DeviceEntry: a compiled program as calls use it, with inputs on the device or on the host, results where they belong.

Note [Calls on a device]
Results are device arrays where any input is one, else NumPy arrays, copied down once the device is done. An input on
the host is copied up at each call: an array into a block of its own, numbers all together into one. Arrays that a call
writes (in place, donated) are used where they are; for strided ones and those of the host the program works on a copy,
whose values are put back at the end, after all checks.

The short way, `fast`, is a function of Python made for the signature: it compares each input's layout, an object that
equal layouts share, takes memory for the results, and queues the recorded run for these addresses. Whatever is not as
usual (memory of other libraries, other streams, arrays that overlap) takes the long way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from nufunc.codegen.callspec import ArgSpec, CallSpec, ResultSpec
from nufunc.codegen.cuda.program import Program as Steps
from nufunc.ir.errors import ArgumentTypeError, Location, MutationError
from nufunc.ir.types import TapeType
from nufunc.runtime.cuda.arrays import (
    DeviceArray,
    DeviceTapes,
    Layout,
    downloaded,
    fresh,
    layout,
    layout_of,
    sound,
    uploaded,
    use,
)
from nufunc.runtime.cuda.devices import Device
from nufunc.runtime.cuda.execute import Machine
from nufunc.runtime.cuda.interop import adopted
from nufunc.runtime.cuda.memory import Block, Foreign
from nufunc.runtime.cuda.tapes import held
from nufunc.runtime.signatures import Input
from nufunc.tracer.usercode import user_location

_ALIGNED = 16  # bytes between numbers that travel together


@dataclass(frozen=True)
class Way:
    """How an input gets to the program: where it is, whether strided memory is read as it lies, whether it is written.

    `number`: its place among the numbers of a call, -1 for arrays.
    """

    input: Input
    layout: Layout | None  # None: of the host
    placed: bool
    written: bool
    number: int


class DeviceEntry:
    """A program on a device. `spec` says which results stand in which arguments, as for native entries."""

    def __init__(
        self, steps: Steps, device: Device, spec: CallSpec, inputs: Sequence[Input], placed: Set[int],
        sources: Sequence[str], name: str, location: Location | None = None,
    ) -> None:  # fmt: skip
        self.steps, self.device, self.spec, self.sources, self.name = steps, device, spec, sources, name
        self.machine = Machine(steps, device.driver, device.pool, location)
        written, numbers, self.ways = spec.sources, 0, []
        for k, want in enumerate(inputs):
            lay, number = None, -1
            if want.device is not None:
                size = want.type.dtype.itemsize
                strides = None if want.strides is None else tuple(s * size for s in want.strides)
                lay = layout_of(device, want.type)
                if strides is not None:
                    lay = layout(device, want.type.shape, want.type.dtype, strides)
            elif want.type.nbytes <= _ALIGNED and k not in written and want.type.size:
                number, numbers = numbers, numbers + 1
            self.ways.append(Way(want, lay, k in placed, k in written, number))
        self.numbers = numbers * _ALIGNED
        self.on_device = any(way.layout is not None for way in self.ways)
        self.results = [layout_of(device, o.type) for o in steps.outputs]
        self.gives_tapes = any(isinstance(o.type, TapeType) for o in steps.outputs)
        # the outputs of the program that have a memory of their own, in the order of their numbers
        self.own = [k for k, o in enumerate(steps.outputs) if o.place.space == "output"]
        self._fast: Callable[..., Any] | None = None

    # -- the short way

    @property
    def fast(self) -> Callable[..., Any]:
        if self._fast is None:
            from nufunc.runtime.cuda.short import short_way

            self._fast = short_way(self)
        return self._fast

    def into(self, *args: Any) -> Any:
        """With `out=` every call takes the long way."""
        return NotImplemented

    # -- the long way

    def slow(self, *args: Any) -> list[Any]:
        """The results, those in arguments included, as arrays of their own: nothing is written to arguments."""
        copies = [self._present(v, w).copy() if w.written else v for v, w in zip(args, self.ways, strict=True)]
        return self.call(copies, (), everything=True)

    def call(self, values: Sequence[Any], outs: Sequence[Any] = (), everything: bool = False) -> list[Any]:
        """The results for these inputs, or with `outs` nothing: they are written there. What the function writes is in
        its arguments when this returns, or will be when the device gets there."""
        device, machine = self.device, self.machine
        stream = device.stream
        self._raise_failed(stream)
        given = [self._present(v, way) for v, way in zip(values, self.ways, strict=True)]
        self._check_written(given)
        here = self._upload_all(given, stream)
        taken: list[tuple[int, Any]] = []  # results with their memory
        for k in self.own:
            target = outs[k] if k < len(outs) and self._direct(outs[k], given) else None
            if target is None:
                target = fresh(self.results[k])
            use(target, stream)
            taken.append((k, target))
        run = machine.run([a for a, _ in here], [t.address for _, t in taken], stream)
        if machine.checked:
            device.unchecked.add(machine)
        if self.gives_tapes:
            taken = [(k, self._with_tapes(k, t, stream)) for k, t in taken]
        del run  # its tapes live on in those that refer to them
        return self._finished(values, given, here, dict(taken), outs, everything, stream)

    def _with_tapes(self, k: int, array: DeviceArray, stream: Any) -> DeviceArray:
        """A result that consists of tapes, with these; without, where a check has failed."""
        if not isinstance(self.steps.outputs[k].type, TapeType):
            return array
        handles = np.zeros(array.size, np.int64)
        if array.size:
            self.device.driver.download(handles, array.address, stream)
        failed = self.machine.checked and bool(self.machine.view[0])
        return DeviceTapes(array, [] if failed else held(handles))

    def _raise_failed(self, stream: Any) -> None:
        error = self.machine.failed(stream)
        if error is not None:
            raise error

    def _present(self, value: Any, way: Way) -> Any:
        """An input as a device array of ours, or a NumPy array."""
        if way.layout is None:
            if isinstance(value, np.ndarray) and (value.dtype is way.input.type.dtype or way.written):
                return value
            return np.asarray(value, way.input.type.dtype)
        array = adopted(value)
        if array is None or array.layout is not way.layout:
            raise ArgumentTypeError(f"{self.name}: an argument is no longer what it was: {type(value).__name__}")
        if not way.written:  # what a failed call was to write has kept its values
            sound(array)
        return array

    def _check_written(self, given: Sequence[Any]) -> None:
        """Raise before anything is changed: read-only targets, and targets that overlap other inputs."""
        for k, way in enumerate(self.ways):
            if not way.written:
                continue
            target = given[k]
            returned = any(r.source == k and r.returned for r in self.spec.results)
            writable = target.flags.writeable if isinstance(target, np.ndarray) else not target.readonly
            if not writable:
                what = "a donated array" if returned else "assignment destination"
                raise ValueError(f"{what} is read-only ({self.sources[k]} of {self.name})")
            for j, other in enumerate(given):
                if j != k and overlap(target, other):
                    deed = "is donated" if returned else "writes in place to"
                    raise MutationError(
                        f"{self.name} {deed} {self.sources[k]}, whose memory overlaps {self.sources[j]}; pass a copy "
                        "of one of them",
                        user_location(),
                    )

    def _direct(self, out: Any, given: Sequence[Any]) -> bool:
        """Whether a result may be computed right where the caller wants it."""
        if type(out) is not DeviceArray or out.layout.strides is not None or out.device is not self.device:
            return False
        return not any(overlap(out, other) for other in given)

    def _upload_all(self, given: Sequence[Any], stream: Any) -> list[tuple[int, Any]]:
        """(address, who holds it) of each input."""
        from nufunc.runtime.cuda.strided import contiguous

        here: list[tuple[int, Any]] = []
        pool, driver = self.device.pool, self.device.driver
        numbers = pool.take(self.numbers, stream, self.machine.where) if self.numbers else None
        if numbers is not None:
            staged = np.zeros(self.numbers, np.uint8)
            for value, way in zip(given, self.ways, strict=True):
                if way.number >= 0:
                    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
                    staged[way.number * _ALIGNED :][: data.size] = data
            driver.upload(numbers.address, staged, stream)
        for value, way in zip(given, self.ways, strict=True):
            if way.number >= 0:
                assert numbers is not None
                here.append((numbers.address + way.number * _ALIGNED, numbers))
            elif isinstance(value, DeviceArray):
                array = value
                if way.layout is not None and way.layout.strides is not None and not way.placed:
                    array = contiguous(value)
                use(array, stream)
                here.append((array.address + array.layout.bounds[0], array))
            else:
                block = pool.take(value.nbytes, stream, self.machine.where)
                if value.nbytes:
                    native = value.astype(way.input.type.dtype, copy=False)
                    driver.upload(block.address, np.ascontiguousarray(native), stream)
                here.append((block.address, block))
        return here

    def _finished(
        self, values: Sequence[Any], given: Sequence[Any], here: Sequence[tuple[int, Any]], own: dict[int, DeviceArray],
        outs: Sequence[Any], everything: bool, stream: Any,
    ) -> list[Any]:  # fmt: skip
        """The results where they belong; what stands in copies of arguments is put back."""
        span = self.machine.span
        made: list[Any] = []
        to_host = not self.on_device or any(isinstance(v, np.ndarray) for v in self._targets(given, outs))
        if to_host and self.machine.checked:
            self.device.synchronize()  # raises: nothing of the host is written after a failed check
        for k, (result, operand) in enumerate(zip(self.spec.results, self.steps.outputs, strict=True)):
            if k in own:
                array = own[k]
            else:
                address, holder = here[operand.place.number]
                block = holder if isinstance(holder, Block | Foreign) else holder.block
                array = DeviceArray(self.results[k], block, address)
            if span is not None:
                array.span = span
            source = result.source if result.source is not None else None
            if source is not None and not everything:
                target = self._put_back(given[source], values[source], array)
                if not result.returned:
                    continue
                array = target
            if k < len(outs):
                if outs[k] is not array:
                    store(outs[k], array)
            elif self.on_device:
                made.append(array)
            else:
                host = array if isinstance(array, np.ndarray) else downloaded(array)
                made.append(host[()] if result.scalar else host)
        return made

    def _targets(self, given: Sequence[Any], outs: Sequence[Any]) -> list[Any]:
        return [*(given[k] for k in self.spec.sources), *outs]

    def _put_back(self, given: Any, value: Any, array: DeviceArray) -> Any:
        """The argument in which a result stands, with the result in it."""
        if type(given) is DeviceArray:
            if given.address == array.address and given.layout is array.layout:
                given.span = array.span
            else:
                store(given, array)
            return value if type(value) is DeviceArray else given
        np.copyto(given, downloaded(array))
        return value


def overlap(a: Any, b: Any) -> bool:
    """Whether two inputs may share memory."""
    if type(a) is DeviceArray and type(b) is DeviceArray:
        (low, high), (first, last) = a.layout.bounds, b.layout.bounds
        return a.address + low < b.address + last and b.address + first < a.address + high
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b)


def store(target: Any, array: Any) -> None:
    """Write an array into one of the same shape and dtype, on the device or on the host."""
    if isinstance(target, np.ndarray):
        np.copyto(target, downloaded(array) if isinstance(array, DeviceArray) else array)
        return
    if isinstance(array, np.ndarray | np.generic):
        array = uploaded(np.asarray(array), target.device)
    if type(target) is not DeviceArray:
        target = adopted(target)
    from nufunc.runtime.cuda.strided import copy_into

    copy_into(target, array)


def specs(args: Sequence[ArgSpec], results: Sequence[ResultSpec], steps: Steps) -> CallSpec:
    """The calls of a program: results whose memory is that of an input stand in that argument."""
    made = []
    for result, operand in zip(results, steps.outputs, strict=True):
        if operand.place.space == "input" and result.source is None:
            result = ResultSpec(result.shape, result.dtype, False, operand.place.number)
        made.append(result)
    return CallSpec(tuple(args), tuple(made), steps.workspace)

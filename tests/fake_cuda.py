"""A strict stand-in of `cuda.bindings.driver` over host memory, for tests of the code that calls it.

Every call is first made to the real function, which converts its arguments and then fails for want of libcuda: a wrong
name, count or kind of argument fails the test. What is queued then runs as late as it may, and in no more order than
streams and events give it (`fake_streams`); kernels run in the simulator. What the driver refuses is refused, and what
it leaves undefined is a problem, which fails the test at its end: memory used after it was given back or by a stream
that nothing orders, handles used after they were destroyed, calls without the right context, copies of a recording from
memory that may change, kernels loaded while something is recorded.
"""

import ctypes
import gc
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import numpy as np
import pytest
from fake_streams import LEGACY, Access, Allocation, Streams, Work

import nufunc as nf
from nufunc.codegen.cuda.codes import Code
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.simulate import simulate
from nufunc.runtime.cuda import arrays, devices, hardware

real = pytest.importorskip("cuda.bindings.driver")

RESULT = real.CUresult
OK = RESULT.CUDA_SUCCESS
ALIGNMENT = 256
CONTEXTLESS = frozenset((
    "cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuCtxGetCurrent", "cuGetErrorString", "cuDeviceGetDefaultMemPool",
    "cuMemPoolSetAttribute", "cuMemPoolTrimTo", "cuDeviceGraphMemTrim", "cuGraphDestroy", "cuGraphExecDestroy",
    "cuPointerGetAttribute",
))  # fmt: skip


def has_driver() -> bool:
    try:
        real.cuInit(0)
    except RuntimeError:
        return False
    return True


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch, made: "FakeCuda") -> Iterator["FakeCuda"]:
    """Devices are those of this stand-in, and none are known yet."""
    if has_driver():
        pytest.skip("the stand-in needs a machine without NVIDIA's driver")
    monkeypatch.delenv("NUFUNC_CUDA_SIMULATOR", raising=False)
    monkeypatch.setattr(devices, "_DEVICES", {})
    monkeypatch.setattr(arrays, "_LAYOUTS", WeakValueDictionary())
    monkeypatch.setattr(hardware, "api", lambda: made)
    monkeypatch.setattr(hardware, "_THREAD", hardware._Process())
    monkeypatch.setattr("nufunc.codegen.cuda.compile.compiled", made.compiled)
    monkeypatch.setattr("nufunc.codegen.cuda.compile.compiled_together", made.compiled_together)
    nf.clear_cache()
    yield made
    gc.collect()
    for device in devices._DEVICES.values():
        device.pool.close()
    nf.clear_cache()
    assert not made.captures, "a recording was not ended"
    assert not made.problems, "\n".join(made.problems)


@dataclass(eq=False)
class Event:
    device: int
    timed: bool = True
    work: Work | None = None
    capture: "Capture | None" = None


@dataclass
class Node:
    """A call in a graph: what it does, and the bytes that it touches."""

    name: str
    run: object
    accesses: list[Access]


@dataclass
class Capture:
    thread: int
    nodes: list[Node] = field(default_factory=list)
    invalid: bool = False


@dataclass
class Executable:
    nodes: list[Node]
    last: Work | None = None


class FakeCuda:
    """`fail` names the result of functions that shall fail, `broken` that of all after an error that stays; `busy`:
    nothing is done before somebody waits for it; `switching`: other threads run at each call; `calls` counts,
    `problems` tells what would go wrong."""

    def __init__(self, devices: int = 1, version: int = real.CUDA_VERSION, total: int = 1 << 30) -> None:
        self.devices, self.version, self.total = devices, version, total
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, object] = {}
        self.broken: object = None
        self.busy = False
        self.switching = False
        self.lock = threading.RLock()
        self.problems: list[str] = []
        self.streams = Streams(self.problems)
        self.numbers = itertools.count(0x1000)
        self.memory: dict[int, np.ndarray] = {}  # of devices and pinned, as long as something queued may use it
        self.allocations: dict[int, Allocation] = {}
        self.pinned: list[int] = []
        self.kernels: dict[str, Kernel] = {}  # by symbol
        self.functions: dict[int, tuple[Kernel, int]] = {}
        self.stream_devices: dict[int, int] = {}
        self.destroyed: set[int] = set()
        self.events: dict[int, Event] = {}
        self.captures: dict[int, Capture] = {}
        self.graphs: dict[int, list[Node]] = {}
        self.executables: dict[int, Executable] = {}
        self.contexts = threading.local()
        self._converted: set[object] = set()

    def __getattr__(self, name: str):
        made = getattr(real, name)
        if not name.startswith("cu") or isinstance(made, type):
            return made
        body = getattr(type(self), f"do_{name}")

        def call(*args):
            self.calls[name] += 1
            kinds = (name, tuple(type(a) for a in args))
            if kinds not in self._converted:
                self._converted.add(kinds)  # at first: blocks may die while the real module looks for its library
                with pytest.raises(RuntimeError):  # it is not there, once the arguments have been converted
                    made(*args)
            if self.broken is not None and name not in ("cuGetErrorString", "cuCtxSetCurrent"):
                return self.broken, None
            if name in self.fail:
                return self.fail[name], None
            if name not in CONTEXTLESS and self.current is None:
                return RESULT.CUDA_ERROR_INVALID_CONTEXT, None
            if any(isinstance(a, real.CUstream) and int(a) in self.destroyed for a in args):
                return RESULT.CUDA_ERROR_INVALID_HANDLE, None
            if self.switching:
                time.sleep(0)
            with self.lock:
                return body(self, *args)

        return call

    # -- what is asked of a device

    @property
    def current(self) -> int | None:
        """The context of this thread."""
        return getattr(self.contexts, "current", None)

    @property
    def device(self) -> int:
        return (self.current or 0x77) - 0x77

    def do_cuInit(self, flags):
        return (OK,)

    def do_cuDriverGetVersion(self):
        return OK, self.version

    def do_cuDeviceGetCount(self):
        return OK, self.devices

    def do_cuDeviceGet(self, index):
        assert index < self.devices
        return OK, real.CUdevice(index)

    def do_cuDeviceGetName(self, length, device):
        return OK, b"Fake device\0".ljust(length, b"\0")

    def do_cuDeviceGetAttribute(self, attribute, device):
        known = real.CUdevice_attribute
        return OK, {
            known.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: 8,
            known.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: 0,
            known.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: 4, known.CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: 1,
        }[attribute]  # fmt: skip

    def do_cuDevicePrimaryCtxRetain(self, device):
        return OK, real.CUcontext(0x77 + int(device))

    def do_cuCtxSetCurrent(self, context):
        self.contexts.current = int(context) or None
        return (OK,)

    def do_cuCtxGetCurrent(self):
        return OK, real.CUcontext(self.current or 0)

    def do_cuGetErrorString(self, result):
        return OK, b"what it means"

    def do_cuDeviceGetDefaultMemPool(self, device):
        return OK, real.CUmemoryPool(5 + int(device))

    def do_cuMemPoolTrimTo(self, pool, kept):
        return (OK,)

    def do_cuDeviceGraphMemTrim(self, device):
        return (OK,)

    def do_cuMemPoolSetAttribute(self, pool, attribute, value):
        return (OK,)

    def do_cuPointerGetAttribute(self, attribute, address):
        found = self.allocation(int(address), 1)
        return (OK, found.device) if found is not None else (RESULT.CUDA_ERROR_INVALID_VALUE, None)

    # -- memory

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def allocation(self, address: int, nbytes: int) -> Allocation | None:
        for found in self.allocations.values():
            if found.address <= address and address + nbytes <= found.address + found.nbytes:
                return found
        return None

    def bytes(self, address, nbytes) -> np.ndarray:
        """Memory, by who is at work on it."""
        address = int(address)
        for start, memory in self.memory.items():
            if start <= address < start + memory.size:
                assert address + nbytes <= start + memory.size, "beyond an allocation"
                return memory[address - start : address - start + nbytes]
        raise AssertionError(f"no memory at {address:#x}")

    def made(self, nbytes: int, device: int) -> int:
        memory = np.full(nbytes + ALIGNMENT, 0xFF, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        address = memory.ctypes.data + start
        self.memory[address] = memory[start : start + nbytes]
        self.allocations[address] = Allocation(address, nbytes, device)
        return address

    def do_cuMemAllocAsync(self, nbytes, stream):
        used = sum(a.nbytes for a in self.allocations.values() if a.device >= 0 and not a.freed)
        if used + nbytes > self.total:
            return RESULT.CUDA_ERROR_OUT_OF_MEMORY, None
        assert nbytes, "an allocation of no bytes"
        address = self.made(nbytes, self.device)
        access = Access(address, nbytes, "w")
        found = self.queued("cuMemAllocAsync", stream, lambda: None, [access])
        return (OK, real.CUdeviceptr(address)) if found == (OK,) else (*found, None)

    def do_cuMemAllocFromPoolAsync(self, nbytes, pool, stream):
        assert int(pool) == 5 + self.device
        return self.do_cuMemAllocAsync(nbytes, stream)

    def do_cuMemFreeAsync(self, address, stream):
        address = int(address)
        found = self.allocations.get(address)
        if found is None or found.freed:
            self.problem(f"memory at {address:#x} is given back twice")
            return (RESULT.CUDA_ERROR_INVALID_VALUE,)

        def gone() -> None:
            if int(stream) not in self.captures:
                self.memory.pop(address)[:] = 0xFF
                del self.allocations[address]

        access = Access(address, found.nbytes, "w")
        answer = self.queued("cuMemFreeAsync", stream, gone, [access])
        if int(stream) not in self.captures:
            found.freed = f"given back on {int(stream):#x}"
        return answer

    def do_cuMemGetInfo(self):
        used = sum(a.nbytes for a in self.allocations.values() if a.device >= 0 and not a.freed)
        return OK, self.total - used, self.total

    def do_cuMemHostAlloc(self, nbytes, flags):
        self.pinned.append(self.made(nbytes, -1))
        return OK, self.pinned[-1]

    def is_pinned(self, address: int, nbytes: int) -> bool:
        found = self.allocation(address, nbytes)
        return found is not None and found.device < 0

    def do_cuMemcpyHtoDAsync(self, target, source, nbytes, stream):
        pinned = self.is_pinned(source, nbytes)
        if int(stream) in self.captures:
            self.problem("a copy from the host is recorded, whose memory may be another one when it is replayed")

        def run() -> None:
            self.bytes(target, nbytes)[:] = np.frombuffer((ctypes.c_char * nbytes).from_address(source), np.uint8)

        accesses = [Access(int(target), nbytes, "w"), *([Access(source, nbytes, "r")] if pinned else [])]
        return self.queued("cuMemcpyHtoDAsync", stream, run, accesses)

    def do_cuMemcpyDtoHAsync(self, target, source, nbytes, stream):
        pinned = self.is_pinned(target, nbytes)
        run = lambda: ctypes.memmove(target, self.bytes(source, nbytes).ctypes.data, nbytes)
        accesses = [Access(int(source), nbytes, "r"), *([Access(target, nbytes, "a")] if pinned else [])]
        if int(stream) in self.captures and not pinned:
            self.problem("a copy to memory that is not pinned is recorded")
        answer = self.queued("cuMemcpyDtoHAsync", stream, run, accesses)
        if not pinned and int(stream) not in self.captures:
            self.streams.finish(self.streams.last[self.key(stream)])  # the driver waits for such copies
        return answer

    def do_cuMemcpyDtoDAsync(self, target, source, nbytes, stream):
        def run() -> None:
            self.bytes(target, nbytes)[:] = self.bytes(source, nbytes).copy()

        accesses = [Access(int(source), nbytes, "r"), Access(int(target), nbytes, "w")]
        if int(target) < int(source) + nbytes and int(source) < int(target) + nbytes:
            self.problem("a copy between places that overlap")
        return self.queued("cuMemcpyDtoDAsync", stream, run, accesses)

    def do_cuMemsetD8Async(self, address, value, nbytes, stream):
        def run() -> None:
            self.bytes(address, nbytes)[:] = value

        return self.queued("cuMemsetD8Async", stream, run, [Access(int(address), nbytes, "w")])

    # -- queues

    def key(self, stream):
        """A stream of this thread and context as `Streams` knows it."""
        number = int(stream)
        if number in (0, 1):
            return LEGACY if self.device == 0 else (LEGACY, self.device)
        if number == 2:
            key = (2, self.device, threading.get_ident())
            self.streams.blocking.add(key)
            return key
        if self.stream_devices.setdefault(number, self.device) != self.device:
            self.problem(f"stream {number:#x} is used in the context of another device")
        return number

    def queued(self, name, stream, run, accesses, needs=()) -> tuple:
        """Put a call on a stream, or into the graph that is recorded there."""
        key, capture = self.key(stream), self.captures.get(int(stream))
        if capture is not None:
            capture.nodes.append(Node(name, run, accesses))
            return (RESULT.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,) if capture.invalid else (OK,)
        self.streams.queue(key, name, run, self.checked(name, accesses), needs)
        return (OK,)

    def checked(self, name: str, accesses: list[Access]) -> list[tuple[Allocation, Access]]:
        """Accesses with the memory that they are in, which has to be there."""
        made = []
        for access in accesses:
            if not access.nbytes:
                continue
            found = self.allocation(access.address, access.nbytes)
            if found is None:
                raise AssertionError(f"{name} of {access.nbytes} bytes at {access.address:#x}, where no memory is")
            if found.freed:
                self.problem(f"{name} uses memory that was {found.freed}")
            if found.device not in (-1, self.device):
                self.problem(f"{name} on device {self.device} uses memory of device {found.device}")
            made.append((found, access))
        return made

    def library(self, stream: int, run) -> None:
        """A call of a library: recorded, or run once all before it has."""
        capture = self.captures.get(stream)
        if capture is not None:
            capture.nodes.append(Node("library", run, []))
            return
        self.streams.finish(self.streams.last.get(self.key(stream)), known=False)
        run()

    def settle(self) -> None:
        """Everything that is queued runs, and the host does not know."""
        self.streams.finish_all(known=False)

    def do_cuStreamSynchronize(self, stream):
        if self.captures.get(int(stream)) is not None:
            self.captures[int(stream)].invalid = True
            return (RESULT.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        key = self.key(stream)
        self.streams.finish(self.streams.last.get(key))
        if key == LEGACY:
            for other in self.streams.blocking:
                self.streams.finish(self.streams.last.get(other))
        return (OK,)

    def do_cuStreamCreate(self, flags):
        number = next(self.numbers)
        self.stream_devices[number] = self.device
        if not flags & 1:
            self.streams.blocking.add(number)
        return OK, real.CUstream(number)

    def destroy_stream(self, number: int) -> None:
        """Another library destroys a stream of its own."""
        self.destroyed.add(number)

    def do_cuStreamIsCapturing(self, stream):
        status = real.CUstreamCaptureStatus
        found = self.captures.get(int(stream))
        return OK, status.CU_STREAM_CAPTURE_STATUS_NONE if found is None else status.CU_STREAM_CAPTURE_STATUS_ACTIVE

    def do_cuCtxSynchronize(self):
        if self.captures:
            for capture in self.captures.values():
                capture.invalid = True
            return (RESULT.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        self.streams.finish_all()
        return (OK,)

    # -- events

    def event(self, event) -> Event:
        found = self.events.get(int(event))
        if found is None:
            self.problem(f"event {int(event):#x} is used after it was destroyed")
            raise AssertionError("no such event")
        return found

    def do_cuEventCreate(self, flags):
        number = next(self.numbers)
        self.events[number] = Event(self.device, not flags & int(real.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        return OK, real.CUevent(number)

    def do_cuEventRecord(self, event, stream):
        found, key = self.event(event), self.key(stream)
        if found.device != self.device:
            return (RESULT.CUDA_ERROR_INVALID_HANDLE,)
        found.capture = self.captures.get(int(stream))
        if found.capture is None:
            found.work = self.streams.queue(key, "cuEventRecord", None)
        return (OK,)

    def do_cuEventElapsedTime(self, begin, end):
        found = [self.event(event) for event in (begin, end)]
        if not all(e.timed and e.work is not None for e in found):
            return RESULT.CUDA_ERROR_INVALID_HANDLE, None
        if not all(e.work.done for e in found):
            return RESULT.CUDA_ERROR_NOT_READY, None
        return OK, float(found[1].work.number - found[0].work.number)  # milliseconds: one for each piece of work

    def do_cuEventSynchronize(self, event):
        found = self.event(event)
        if found.capture is not None:
            found.capture.invalid = True
            return (RESULT.CUDA_ERROR_CAPTURED_EVENT,)
        self.streams.finish(found.work)
        return (OK,)

    def do_cuEventQuery(self, event):
        found = self.event(event)
        if found.work is not None and not found.work.done:
            if self.busy:
                return (RESULT.CUDA_ERROR_NOT_READY,)
            self.streams.finish(found.work)
        return (OK,)

    def do_cuEventDestroy(self, event):
        self.event(event)
        del self.events[int(event)]
        return (OK,)

    def do_cuStreamWaitEvent(self, stream, event, flags):
        found, capture, key = self.event(event), self.captures.get(int(stream)), self.key(stream)
        if found.capture is not capture:
            for one in (found.capture, capture):
                if one is not None:
                    one.invalid = True
            return (RESULT.CUDA_ERROR_STREAM_CAPTURE_ISOLATION,)
        if capture is None:
            self.streams.queue(key, "cuStreamWaitEvent", None, needs=[found.work])
        return (OK,)

    # -- kernels

    def compiled_together(self, kernels, capability, store=None):
        return [self.compiled(k, capability, store) for k in kernels]

    def compiled(self, kernel, capability, store=None):
        assert capability == (8, 0)
        symbol = f"{kernel.name}_{abs(hash(kernel))}"
        self.kernels[symbol] = kernel
        return Code(f"module of {symbol}", symbol, "// ptx", None if kernel.name.startswith("copy") else b"cubin")

    def loaded(self, what: str) -> None:
        if any(capture.thread == threading.get_ident() for capture in self.captures.values()):
            self.problem(f"{what} while a run is recorded")

    def do_cuModuleLoadData(self, image):
        assert image == b"cubin"
        self.loaded("code is loaded")
        return OK, real.CUmodule(next(self.numbers))

    def do_cuModuleLoadDataEx(self, image, count, options, values):
        assert image == b"// ptx\0"
        assert count == len(options) == len(values)
        self.loaded("code is loaded")
        return OK, real.CUmodule(next(self.numbers))

    def do_cuModuleGetFunction(self, module, name):
        self.loaded("a kernel is loaded")
        number = next(self.numbers)
        self.functions[number] = self.kernels[name.decode()], self.device
        return OK, real.CUfunction(number)

    def do_cuLaunchKernel(self, function, x, y, z, tx, ty, tz, shared, stream, params, extra):
        kernel, device = self.functions[int(function)]
        if device != self.device:
            return (RESULT.CUDA_ERROR_INVALID_HANDLE,)
        assert (x, y, z, tx, ty, tz, shared, extra) == (kernel.blocks, 1, 1, kernel.threads, 1, 1, 0, 0)
        values, types = params
        assert len(values) == len(types) == len(kernel.buffers) + 1
        accesses = [
            Access(address, b.size * b.dtype.itemsize, "w" if b.written else "r")
            for address, b in zip(values, kernel.buffers, strict=False)
        ]
        for access, b in zip(accesses, kernel.buffers, strict=True):
            assert access.address % min(b.dtype.itemsize, 16) == 0, "an address that is no multiple of its items"
        accesses.append(Access(values[-1], 4, "a"))

        def run() -> None:
            given = [self.bytes(a.address, a.nbytes).view(b.dtype) for a, b in zip(accesses, kernel.buffers)]
            simulate(kernel, [*given, self.bytes(values[-1], 4).view(np.int32)])

        return self.queued("cuLaunchKernel", stream, run, accesses)

    # -- graphs

    def do_cuStreamBeginCapture(self, stream, mode):
        if int(stream) in (0, 1):
            return (RESULT.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        if int(stream) in self.captures:
            return (RESULT.CUDA_ERROR_ILLEGAL_STATE,)
        if self.key(stream) in self.streams.blocking:
            self.problem("a stream is captured on which the default stream waits")
        assert mode == real.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED, "finalizers may run in between"
        self.captures[int(stream)] = Capture(threading.get_ident())
        return (OK,)

    def do_cuStreamEndCapture(self, stream):
        capture = self.captures.pop(int(stream), None)
        if capture is None:
            return RESULT.CUDA_ERROR_ILLEGAL_STATE, None
        if capture.invalid:
            return RESULT.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        number = next(self.numbers)
        self.graphs[number] = capture.nodes
        return OK, real.CUgraph(number)

    def do_cuGraphInstantiate(self, graph, flags):
        number = next(self.numbers)
        self.executables[number] = Executable(self.graphs[int(graph)])
        return OK, real.CUgraphExec(number)

    def do_cuGraphExecUpdate(self, executable, graph):
        old, new = self.executables[int(executable)], self.graphs[int(graph)]
        names = [node.name for node in new]
        if [node.name for node in old.nodes] != names or "cuMemAllocAsync" in names:
            return RESULT.CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, None
        old.nodes = new
        return OK, real.CUgraphExecUpdateResultInfo()

    def do_cuGraphLaunch(self, executable, stream):
        found = self.executables.get(int(executable))
        if found is None:
            self.problem("a graph is launched after it was destroyed")
            return (RESULT.CUDA_ERROR_INVALID_VALUE,)
        if int(stream) in self.captures:
            self.problem("a graph is launched while its stream is recorded")
        nodes = found.nodes

        def run() -> None:
            for node in nodes:
                node.run()

        touched = self.checked("cuGraphLaunch", _joined(nodes))
        found.last = self.streams.queue(self.key(stream), "cuGraphLaunch", run, touched, [found.last])
        return (OK,)

    def do_cuGraphExecDestroy(self, executable):
        del self.executables[int(executable)]
        return (OK,)

    def do_cuGraphDestroy(self, graph):
        del self.graphs[int(graph)]
        return (OK,)


def _joined(nodes: list[Node]) -> list[Access]:
    """What the nodes of a graph touch, which are in order among themselves."""
    rank = {"r": 0, "a": 1, "w": 2}
    found: dict[tuple[int, int], str] = {}
    for node in nodes:
        for access in node.accesses:
            key = access.address, access.nbytes
            found[key] = max(found.get(key, "r"), access.kind, key=rank.__getitem__)
    return [Access(*key, kind) for key, kind in found.items()]

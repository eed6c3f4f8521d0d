"""NVIDIA's driver behind the protocol of `nufunc.runtime.cuda.driver`, by way of cuda-bindings.

Note [Contexts of CUDA]
All work happens in the device's primary context, which other libraries of the process share, retained at first use and
current in each thread that gets here. With one device it stays so. With several, what the driver is asked for sets it
and puts back the one that was there, since for other libraries this is the device that they work on, and memory may be
given back in the middle of anything. A fork leaves the child a context that does not work: it is told so at once.

Note [Recording]
Graphs are captured on a stream of their own, non-blocking, since the default stream cannot be captured and would be
waited for; they are replayed on whatever stream the call has. The capture is a relaxed one: finalizers that run in
between, in this thread or another one, may give memory back and order streams.

Note [Streams that are gone]
Streams of other libraries are numbers here, and their owners may destroy them while memory remembers that it was used
there. The driver then says that there is no such stream, and everything on the device is waited for instead, which what
was queued there is a part of.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import (
    ArgumentError,
    DeviceError,
    DriverTooOldError,
    NoDeviceError,
    NoDriverError,
)
from nufunc.runtime.cuda.answers import GONE, TOO_OLD, checked, error_of, named
from nufunc.runtime.cuda.driver import here, known_to_others
from nufunc.runtime.cuda.kept import Kernels
from nufunc.runtime.cuda.memory import no_memory
from nufunc.runtime.cuda.staging import CHUNK, Landing, Staging

if TYPE_CHECKING:
    from nufunc.codegen.cuda.program import Kernel

_STAGED = 1 << 20  # bytes up to which an upload goes through the ring
_WORDS = 1024  # error words to a page
_MANY = 0xFFFFFFFFFFFFFFFF
_ENTRIES = (  # the methods that others call, and that need the context
    "allocate", "free", "release", "memory", "pinned", "upload", "send", "download", "copy", "clear", "hold", "word",
    "report", "load", "launch", "synchronize", "finish", "wait", "event", "mark", "seconds", "unmark", "new_stream",
    "record", "replay", "refuse_capture",
)  # fmt: skip


class _Process(threading.local):
    """What the threads of this process know: the device whose context is current here."""

    bound: int | None = None


_THREAD = _Process()
_FORKED = [False]
_LOCK = threading.RLock()


def _forked() -> None:
    _FORKED[0] = True


@functools.cache
def api() -> Any:
    """`cuda.bindings.driver`, with the driver started."""
    try:
        module = importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise NoDriverError(
            f"the package cuda-bindings cannot be imported ({error}); install nufunc with its extra: "
            'pip install "nufunc[cuda]" (or cuda13, for drivers from 580 on)'
        ) from error
    started(module)
    os.register_at_fork(after_in_child=_forked)
    return module


def started(module: Any) -> None:
    """Start the driver, or say why it does not."""
    try:
        answer = module.cuInit(0)
    except RuntimeError as error:
        if "not found" in str(error) and "cuInit" in str(error):
            raise DriverTooOldError(f"the NVIDIA driver is too old: {error}") from error
        raise NoDriverError(
            f"no NVIDIA driver: libcuda.so.1 was not found ({str(error).splitlines()[0]}); NUFUNC_CUDA_SIMULATOR=1 "
            "runs everything in host memory"
        ) from error
    number = int(answer[0])
    if number == 100:
        raise NoDeviceError("the NVIDIA driver finds no CUDA device (CUDA_VISIBLE_DEVICES may hide it)")
    if number in TOO_OLD:
        raise DriverTooOldError(f"the NVIDIA driver does not fit: {named(module, answer[0])}")
    if number:
        raise NoDriverError(f"the NVIDIA driver does not start: {named(module, answer[0])}")
    version, made_for = int(module.cuDriverGetVersion()[1]), int(module.CUDA_VERSION)
    if version // 1000 < made_for // 1000:
        raise DriverTooOldError(
            f"the NVIDIA driver supports CUDA {version // 1000}.{version % 1000 // 10}, but the installed packages "
            f"make code of CUDA {made_for // 1000}; update the driver, or install nufunc[cuda], not nufunc[cuda13]"
        )


def count() -> int:
    if _FORKED[0]:
        _refuse_fork()
    return int(checked(api(), api().cuDeviceGetCount(), "count devices"))


def device_at(address: int) -> int:
    """The number of the device that memory belongs to; a context has to be current."""
    module = api()
    attribute = module.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(checked(module, module.cuPointerGetAttribute(attribute, address), "look at an array"))


def _refuse_fork() -> None:
    raise DeviceError(
        "CUDA was in use before this process was forked, and cannot be used in it; start processes with "
        "multiprocessing's 'spawn' or 'forkserver'"
    )


class HardwareDriver:
    """One device of NVIDIA's."""

    simulated = False

    def __init__(self, index: int, module: Any = None) -> None:
        self._api = cuda = api() if module is None else module
        self.index = index
        self._device = self._ask(cuda.cuDeviceGet(index), "open a device")
        self._several = int(self._ask(cuda.cuDeviceGetCount(), "count devices")) > 1
        name = self._ask(cuda.cuDeviceGetName(256, self._device), "name a device")
        self.name = (name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0 ")
        known = cuda.CUdevice_attribute
        self.capability = (
            self._attribute(known.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(known.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self.multiprocessors = self._attribute(known.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self._context = self._ask(cuda.cuDevicePrimaryCtxRetain(self._device), "open a device")
        self._streams: dict[Any, Any] = {}
        self._functions: dict[Kernel, Any] = {}
        self._kernels = Kernels(self.capability)
        self._modules: dict[str, Any] = {}
        self.recording = threading.RLock()
        self._capturing = False
        self.make_room: Callable[[], None] | None = None
        self._dropped: list[Any] = []  # executable graphs that nobody refers to
        self._held: deque[tuple[list[Any], Any]] = deque()  # events, and what has to live until they have passed
        with self.entered():
            self._begin()
        if self._several:
            for name in _ENTRIES:
                setattr(self, name, self._put_back(getattr(self, name)))

    def _begin(self) -> None:
        cuda, known = self._api, self._api.CUdevice_attribute
        self._pooled = bool(self._attribute(known.CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED))
        self._pool: Any = None
        if self._pooled:
            what = "open the pool of memory"
            self._pool = self._ask(cuda.cuDeviceGetDefaultMemPool(self._device), what)
            attribute = cuda.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
            self._ask(cuda.cuMemPoolSetAttribute(self._pool, attribute, cuda.cuuint64_t(_MANY)), what)
        self.recording_stream = self.new_stream()
        self._staging: Staging | None = None
        self._landing: Landing | None = None
        self._marks: list[Any] = []  # events with times that nobody uses
        self._free_words: list[tuple[int, np.ndarray]] = []
        self._views: dict[int, np.ndarray] = {}

    # -- calls of the driver

    def _ask(self, answer: tuple[Any, ...], what: str) -> Any:
        return checked(self._api, answer, what)

    def _attribute(self, which: Any) -> int:
        return int(self._ask(self._api.cuDeviceGetAttribute(which, self._device), "ask about a device"))

    def _enter(self) -> None:
        """Make the context current; see Note [Contexts of CUDA]."""
        if _FORKED[0]:
            _refuse_fork()
        if _THREAD.bound != self.index:
            self._ask(self._api.cuCtxSetCurrent(self._context), "use a device")
            _THREAD.bound = self.index

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        if not self._several or _THREAD.bound == self.index:  # which is forgotten on the way out
            self._enter()
            yield
            return
        if _FORKED[0]:
            _refuse_fork()
        inner, before = _THREAD.bound, self._ask(self._api.cuCtxGetCurrent(), "use a device")
        other = int(before) != int(self._context)
        try:
            if other:
                self._enter()
            _THREAD.bound = self.index
            yield
        finally:
            if other:
                self._api.cuCtxSetCurrent(before)
            _THREAD.bound = inner

    def _put_back(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method after which the context is the one that was there before."""

        @functools.wraps(method)
        def call(*args: Any) -> Any:
            if _THREAD.bound == self.index or _FORKED[0]:  # of which the method itself tells
                return method(*args)
            with self.entered():
                return method(*args)

        return call

    def native(self, stream: Any) -> int:
        """The stream as C functions take it."""
        return here(stream)

    def stream_of(self, stream: Any) -> Any:
        """The stream as cuda-bindings takes it."""
        found = self._streams.get(stream)
        if found is None:
            number = here(stream)
            found = self._streams.setdefault(number, self._api.CUstream(number))
        return found

    def external(self, stream: Any) -> int:
        return known_to_others(stream)

    def refuse_capture(self, stream: Any) -> None:
        self._enter()
        if int(self._ask(self._api.cuStreamIsCapturing(self.stream_of(stream)), "look at a stream")):
            raise ArgumentError(
                "calls cannot be queued on a stream that is being captured: memory that they use is given to others "
                "before the graph is replayed; nufunc records its calls by itself"
            )

    # -- memory

    def allocate(self, nbytes: int, stream: Any) -> int:
        self._enter()
        cuda = self._api
        if self._pooled:
            answer = cuda.cuMemAllocFromPoolAsync(nbytes, self._pool, self.stream_of(stream))
        else:
            answer = cuda.cuMemAlloc(nbytes)
        if int(answer[0]) == 2:
            raise no_memory(nbytes, *self.memory())
        return int(self._ask(answer, f"allocate {nbytes} bytes"))

    def free(self, address: int, stream: Any) -> None:
        if _FORKED[0]:
            return  # it is the parent's
        self._enter()
        if self._pooled:
            answer = self._api.cuMemFreeAsync(address, self.stream_of(stream))
            if int(answer[0]) in GONE and stream:
                self.finish()
                answer = self._api.cuMemFreeAsync(address, self.stream_of(0))
            self._ask(answer, "free memory")
        else:
            self._ask(self._api.cuMemFree(address), "free memory")

    def lend(self, address: int, nbytes: int) -> None:
        pass

    def take_back(self, address: int, nbytes: int) -> None:
        pass

    def release(self) -> None:
        self._enter()
        if self.recording.acquire(blocking=False):  # else another thread records, which waiting for all would end
            try:
                if not self._capturing:
                    self._forget_dropped()
                    self.finish()
            finally:
                self.recording.release()
        self._let_go()
        if self._pooled:
            self._ask(self._api.cuMemPoolTrimTo(self._pool, 0), "give memory back")
            self._ask(self._api.cuDeviceGraphMemTrim(self._device), "give memory back")  # of recorded runs

    def memory(self) -> tuple[int, int]:
        self._enter()
        free, total = self._ask(self._api.cuMemGetInfo(), "ask for free memory")
        return int(free), int(total)

    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes of the host that the device copies from and to by itself; they stay until the process ends."""
        self._enter()
        address = int(self._ask(self._api.cuMemHostAlloc(nbytes, 1), "allocate pinned memory"))  # 1: for all contexts
        buffer: Any = (ctypes.c_char * nbytes).from_address(address)
        return np.frombuffer(buffer, np.uint8)

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        self._enter()
        cuda, nbytes = self._api, array.nbytes
        if nbytes > _STAGED:
            self._ask(cuda.cuMemcpyHtoDAsync(address, array.ctypes.data, nbytes, self.stream_of(stream)), "upload")
            self.synchronize(stream)
            return
        with _LOCK:
            if self._staging is None:
                self._staging = Staging(self)
            source = self._staging.place(array, stream)
            self._ask(cuda.cuMemcpyHtoDAsync(address, source, nbytes, self.stream_of(stream)), "upload")

    def send(self, address: int, data: bytes, stream: Any) -> None:
        staging = self._staging
        if staging is None or stream not in staging.streams:
            self.upload(address, np.frombuffer(data, np.uint8), stream)
            return
        if _THREAD.bound != self.index or _FORKED[0]:
            self._enter()
        nbytes = len(data)
        with _LOCK:
            start = staging.room(nbytes)
            staging.bytes[start : start + nbytes] = data
            staging.streams.add(stream)
            target = self._streams.get(stream) or self.stream_of(stream)
            answer = self._api.cuMemcpyHtoDAsync(address, staging.address + start, nbytes, target)
        if answer[0]:
            raise error_of(self._api, answer[0], "upload")

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        self._enter()
        if array.nbytes > CHUNK:
            with _LOCK:
                if self._landing is None:
                    self._landing = Landing(self)
            self._landing.fetch(array, address, stream)
            return
        self.copy_down(array.ctypes.data, address, array.nbytes, stream)
        self.synchronize(stream)

    def copy_down(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Queue a copy to memory of the host."""
        self._ask(self._api.cuMemcpyDtoHAsync(target, source, nbytes, self.stream_of(stream)), "download")

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._enter()
        self._ask(self._api.cuMemcpyDtoDAsync(target, source, nbytes, self.stream_of(stream)), "copy")

    def clear(self, address: int, nbytes: int, stream: Any) -> None:
        self._enter()
        self._ask(self._api.cuMemsetD8Async(address, 0, nbytes, self.stream_of(stream)), "clear memory")

    def hold(self, owner: Any, streams: Sequence[Any]) -> None:
        if sys.is_finalizing() or _FORKED[0]:
            return
        self._enter()
        self._let_go()
        events = [event for event in map(self.event_if_there, streams) if event is not None]
        self._held.append((events, owner))

    def _let_go(self) -> None:
        """Forget what was held for work that is done."""
        while self._held:
            try:
                oldest = self._held.popleft()
            except IndexError:  # another thread was faster
                break
            if any(int(self._api.cuEventQuery(event)[0]) for event in oldest[0]):
                self._held.appendleft(oldest)
                break
            for event in oldest[0]:
                self._ask(self._api.cuEventDestroy(event), "wait for the device")

    # -- error words

    def word(self) -> tuple[int, np.ndarray]:
        with _LOCK:
            if not self._free_words:
                start = self.allocate(4 * _WORDS, 0)
                self.clear(start, 4 * _WORDS, 0)
                self.synchronize(0)
                views = self.pinned(4 * _WORDS).view(np.int32)
                views[:] = 0
                self._free_words = [(start + 4 * k, views[k : k + 1]) for k in reversed(range(_WORDS))]
            address, view = self._free_words.pop()
            self._views[address] = view
            return address, view

    def report(self, address: int, stream: Any) -> None:
        self._enter()
        view = self._views[address]
        self._ask(self._api.cuMemcpyDtoHAsync(view.ctypes.data, address, 4, self.stream_of(stream)), "report")

    # -- kernels

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        self._kernels.prepare([kernel for kernel in kernels if kernel not in self._functions])

    def name_of(self, kernel: Kernel) -> str | None:
        return self._kernels.name_of(kernel)

    def named(self, kernel: Kernel, name: str | None) -> None:
        self._kernels.named(kernel, name)

    def load(self, kernel: Kernel) -> Any:
        found = self._functions.get(kernel)
        if found is not None:
            return found
        code = self._kernels.code(kernel)
        with _LOCK:
            self._enter()
            if code.module not in self._modules:
                self._modules[code.module] = self._module(code.ptx, code.cubin, kernel.name)
            module = self._modules[code.module]
            function = self._ask(self._api.cuModuleGetFunction(module, code.symbol.encode()), f"load {kernel.name}")
            types = (ctypes.c_void_p,) * (len(kernel.buffers) + 1)
            found = self._functions[kernel] = (function, kernel.blocks, kernel.threads, types, kernel.name)
        return found

    def _module(self, ptx: str, cubin: bytes | None, name: str) -> Any:
        cuda = self._api
        if cubin is not None:
            return self._ask(cuda.cuModuleLoadData(cubin), f"load {name}")
        log = bytearray(1 << 14)
        options = [cuda.CUjit_option.CU_JIT_ERROR_LOG_BUFFER, cuda.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
        answer = cuda.cuModuleLoadDataEx(ptx.encode() + b"\0", 2, options, [log, len(log)])
        if answer[0]:
            said = bytes(log).split(b"\0", 1)[0].decode(errors="replace").strip()
            raise type(error_of(cuda, answer[0], name))(
                f"the driver refuses the code of {name}: {named(cuda, answer[0])}\n{said}"
            )
        return answer[1]

    def launch(self, function: Any, addresses: Sequence[int], stream: Any) -> None:
        self._enter()
        code, blocks, threads, types, name = function
        if not blocks:
            return
        answer = self._api.cuLaunchKernel(
            code, blocks, 1, 1, threads, 1, 1, 0, self.stream_of(stream), (tuple(addresses), types), 0
        )
        if answer[0]:
            raise error_of(self._api, answer[0], f"launch of {name} ({blocks} blocks of {threads} threads)")

    # -- order

    def synchronize(self, stream: Any) -> None:
        self._enter()
        self._ask(self._api.cuStreamSynchronize(self.stream_of(stream)), "wait for the device")
        if self._held:
            self._let_go()

    def finish(self) -> None:
        """Wait for all streams, also those of others."""
        self._ask(self._api.cuCtxSynchronize(), "wait for the device")

    def wait(self, stream: Any, other: Any) -> None:
        self._enter()
        event = self.event_if_there(other)
        if event is not None:
            self._ask(self._api.cuStreamWaitEvent(self.stream_of(stream), event, 0), "order streams")
            self._ask(self._api.cuEventDestroy(event), "order streams")  # the driver keeps it until it has passed

    def event(self, stream: Any) -> Any:
        """What a stream holds now, as an event."""
        event, answer = self._recorded_event(stream)
        self._ask(answer, "record an event")
        return event

    def event_if_there(self, stream: Any) -> Any:
        """The same, or None once all is done; see Note [Streams that are gone]."""
        event, answer = self._recorded_event(stream)
        if int(answer[0]) in GONE:
            self._ask(self._api.cuEventDestroy(event), "order streams")
            self.finish()
            return None
        self._ask(answer, "record an event")
        return event

    def _recorded_event(self, stream: Any) -> tuple[Any, tuple[Any, ...]]:
        flags = int(self._api.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        event = self._ask(self._api.cuEventCreate(flags), "make an event")
        return event, self._api.cuEventRecord(event, self.stream_of(stream))

    def mark(self, stream: Any) -> Any:
        self._enter()
        if self._marks:
            event = self._marks.pop()
        else:
            event = self._ask(self._api.cuEventCreate(int(self._api.CUevent_flags.CU_EVENT_DEFAULT)), "make an event")
        self._ask(self._api.cuEventRecord(event, self.stream_of(stream)), "record an event")
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        self._enter()
        return float(self._ask(self._api.cuEventElapsedTime(begin, end), "read a time")) / 1e3

    def unmark(self, marks: Sequence[Any]) -> None:
        self._marks += marks

    def await_event(self, event: Any) -> None:
        """Wait until what the event stands for is done, and forget it."""
        self._ask(self._api.cuEventSynchronize(event), "wait for the device")
        self._ask(self._api.cuEventDestroy(event), "wait for the device")

    def new_stream(self) -> Any:
        self._enter()
        flags = int(self._api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        made = self._ask(self._api.cuStreamCreate(flags), "make a stream")
        self._streams[int(made)] = made
        return int(made)

    # -- graphs

    def record(self, run: Callable[[Any], None], before: Any = None) -> Any:
        cuda = self._api
        with self.recording:
            self._enter()
            self._forget_dropped()
            graph = self._captured(run)
        try:
            if before is not None and not int(cuda.cuGraphExecUpdate(before.graph, graph)[0]):
                return before
            return _Graph(self._ask(cuda.cuGraphInstantiate(graph, 0), "record a run"), self._dropped)
        finally:
            self._ask(cuda.cuGraphDestroy(graph), "record a run")

    def _captured(self, run: Callable[[Any], None]) -> Any:
        """The graph of what a function queues. However it ends, the stream is not left in the middle of a capture."""
        cuda, stream = self._api, self.stream_of(self.recording_stream)
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        try:
            self._capturing = True
            self._ask(cuda.cuStreamBeginCapture(stream, mode), "record a run")
            run(self.recording_stream)
        except BaseException:
            answer = cuda.cuStreamEndCapture(stream)
            if not answer[0] and int(answer[1]):
                cuda.cuGraphDestroy(answer[1])
            raise
        finally:
            self._capturing = False
        return self._ask(cuda.cuStreamEndCapture(stream), "record a run")

    def replay(self, graph: Any, stream: Any) -> None:
        if _THREAD.bound != self.index or _FORKED[0]:
            self._enter()
        answer = self._api.cuGraphLaunch(graph.graph, self._streams.get(stream) or self.stream_of(stream))
        if answer[0]:
            raise error_of(self._api, answer[0], "launch of a recorded run")

    def drop(self, graph: Any) -> None:
        """Nothing: another thread may be about to replay it, and whoever refers to it last drops it."""

    def _forget_dropped(self) -> None:
        """Destroy graphs that nobody refers to; the driver waits for one that runs."""
        while self._dropped:
            self._ask(self._api.cuGraphExecDestroy(self._dropped.pop()), "forget a recorded run")


class _Graph:
    """An executable graph. When nobody refers to it, it goes to `dropped`."""

    __slots__ = ("dropped", "graph")

    def __init__(self, graph: Any, dropped: list[Any]) -> None:
        self.graph, self.dropped = graph, dropped

    def __del__(self) -> None:
        self.dropped.append(self.graph)

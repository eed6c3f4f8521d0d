"""A stand-in of `cuda.bindings.driver` over host memory, for tests of the code that calls it.

Every call is first made to the real function, which converts its arguments and then fails for want of libcuda: a wrong
name, count or kind of argument fails the test. Then it happens in host memory; kernels run in the simulator. Streams
are kept in order by doing everything at once, except what is captured.
"""

import ctypes
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen.cuda.compile import Code
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.simulate import simulate
from nufunc.runtime.cuda import arrays, devices, hardware

real = pytest.importorskip("cuda.bindings.driver")

OK = real.CUresult.CUDA_SUCCESS
CAPTURABLE = ("cuMemcpyDtoDAsync", "cuMemcpyDtoHAsync", "cuMemsetD8Async", "cuLaunchKernel", "cuEventRecord",
              "cuStreamWaitEvent", "cuMemcpyHtoDAsync")  # fmt: skip


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
    for device in devices._DEVICES.values():
        device.pool.close()
    nf.clear_cache()


class FakeCuda:
    """`fail` names the result of functions that shall fail; `calls` counts them."""

    def __init__(self, devices: int = 1, version: int = real.CUDA_VERSION, total: int = 1 << 30) -> None:
        self.devices, self.version, self.total = devices, version, total
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, object] = {}
        self.memory: dict[int, np.ndarray] = {}
        self.kernels: dict[str, Kernel] = {}  # by symbol
        self.functions: dict[int, Kernel] = {}
        self.capturing: dict[int, list] = {}
        self.graphs: dict[int, list] = {}
        self.executables: dict[int, list] = {}
        self.numbers = itertools.count(0x1000)
        self.current: object = None
        self.busy = False
        self.asking = False

    def __getattr__(self, name: str):
        made = getattr(real, name)
        if not name.startswith("cu") or isinstance(made, type):
            return made
        body = getattr(type(self), f"do_{name}")

        def call(*args):
            self.calls[name] += 1
            if not self.asking:  # blocks may die, and be given back, while the real module looks for its library
                self.asking = True
                with pytest.raises(RuntimeError):  # it is not there, once the arguments have been converted
                    made(*args)
                self.asking = False
            if name in self.fail:
                return (self.fail[name], None)
            stream = next((int(a) for a in args if isinstance(a, real.CUstream)), None)
            if stream in self.capturing and "Capture" not in name:
                assert name in CAPTURABLE, f"{name} while its stream is captured"
                self.capturing[stream].append((name, args))
                return (OK,)
            return body(self, *args)

        return call

    # -- what is asked of a device

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
        self.current = int(context)
        return (OK,)

    def do_cuGetErrorString(self, result):
        return OK, b"what it means"

    def do_cuDeviceGetDefaultMemPool(self, device):
        return OK, real.CUmemoryPool(5)

    def do_cuMemPoolTrimTo(self, pool, kept):
        return (OK,)

    def do_cuMemPoolSetAttribute(self, pool, attribute, value):
        return (OK,)

    # -- memory

    def bytes(self, address, nbytes) -> np.ndarray:
        address = int(address)
        for start, memory in self.memory.items():
            if start <= address < start + memory.size:
                assert address + nbytes <= start + memory.size, "beyond an allocation"
                return memory[address - start : address - start + nbytes]
        raise AssertionError(f"no device memory at {address:#x}")

    def do_cuMemAllocAsync(self, nbytes, stream):
        if sum(m.size for m in self.memory.values()) + nbytes > self.total:
            return real.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        memory = np.full(nbytes, 0xFF, np.uint8)
        self.memory[memory.ctypes.data] = memory
        return OK, real.CUdeviceptr(memory.ctypes.data)

    def do_cuMemFreeAsync(self, address, stream):
        del self.memory[int(address)]
        return (OK,)

    def do_cuMemGetInfo(self):
        return OK, self.total - sum(m.size for m in self.memory.values()), self.total

    def do_cuMemHostAlloc(self, nbytes, flags):
        self.pinned = getattr(self, "pinned", [])
        self.pinned.append(np.empty(nbytes, np.uint8))
        return OK, self.pinned[-1].ctypes.data

    def do_cuMemcpyHtoDAsync(self, target, source, nbytes, stream):
        self.bytes(target, nbytes)[:] = np.frombuffer((ctypes.c_char * nbytes).from_address(source), np.uint8)
        return (OK,)

    def do_cuMemcpyDtoHAsync(self, target, source, nbytes, stream):
        ctypes.memmove(target, self.bytes(source, nbytes).ctypes.data, nbytes)
        return (OK,)

    def do_cuMemcpyDtoDAsync(self, target, source, nbytes, stream):
        self.bytes(target, nbytes)[:] = self.bytes(source, nbytes)
        return (OK,)

    def do_cuMemsetD8Async(self, address, value, nbytes, stream):
        self.bytes(address, nbytes)[:] = value
        return (OK,)

    # -- kernels

    def compiled_together(self, kernels, capability, store=None):
        return [self.compiled(k, capability, store) for k in kernels]

    def compiled(self, kernel, capability, store=None):
        assert capability == (8, 0)
        symbol = f"{kernel.name}_{abs(hash(kernel))}"
        self.kernels[symbol] = kernel
        return Code(f"module of {symbol}", symbol, "// ptx", None if kernel.name.startswith("copy") else b"cubin")

    def do_cuModuleLoadData(self, image):
        assert image == b"cubin"
        return OK, real.CUmodule(next(self.numbers))

    def do_cuModuleLoadDataEx(self, image, count, options, values):
        assert image == b"// ptx\0"
        assert count == len(options) == len(values)
        return OK, real.CUmodule(next(self.numbers))

    def do_cuModuleGetFunction(self, module, name):
        number = next(self.numbers)
        self.functions[number] = self.kernels[name.decode()]
        return OK, real.CUfunction(number)

    def do_cuLaunchKernel(self, function, x, y, z, tx, ty, tz, shared, stream, params, extra):
        kernel = self.functions[int(function)]
        assert (x, y, z, tx, ty, tz, shared, extra) == (kernel.blocks, 1, 1, kernel.threads, 1, 1, 0, 0)
        values, types = params
        assert len(values) == len(types) == len(kernel.buffers) + 1
        given = [self.bytes(a, b.size * b.dtype.itemsize).view(b.dtype) for a, b in zip(values, kernel.buffers)]
        simulate(kernel, [*given, self.bytes(values[-1], 4).view(np.int32)])
        return (OK,)

    # -- order

    def do_cuStreamSynchronize(self, stream):
        return (OK,)

    def do_cuStreamCreate(self, flags):
        return OK, real.CUstream(next(self.numbers))

    def do_cuEventCreate(self, flags):
        return OK, real.CUevent(next(self.numbers))

    def do_cuEventRecord(self, event, stream):
        return (OK,)

    def do_cuEventSynchronize(self, event):
        return (OK,)

    def do_cuEventQuery(self, event):
        return (real.CUresult.CUDA_ERROR_NOT_READY if self.busy else OK,)

    def do_cuEventDestroy(self, event):
        return (OK,)

    def do_cuStreamWaitEvent(self, stream, event, flags):
        return (OK,)

    def do_cuStreamBeginCapture(self, stream, mode):
        assert int(stream), "the default stream cannot be captured"
        self.capturing[int(stream)] = []
        return (OK,)

    def do_cuStreamEndCapture(self, stream):
        number = next(self.numbers)
        self.graphs[number] = self.capturing.pop(int(stream))
        return OK, real.CUgraph(number)

    def do_cuGraphInstantiate(self, graph, flags):
        number = next(self.numbers)
        self.executables[number] = self.graphs[int(graph)]
        return OK, real.CUgraphExec(number)

    def do_cuGraphExecUpdate(self, executable, graph):
        old, new = self.executables[int(executable)], self.graphs[int(graph)]
        if [name for name, _ in old] != [name for name, _ in new]:
            return real.CUresult.CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, None
        self.executables[int(executable)] = new
        return OK, real.CUgraphExecUpdateResultInfo()

    def do_cuGraphLaunch(self, executable, stream):
        for name, args in self.executables[int(executable)]:
            assert getattr(self, f"do_{name}")(*args) == (OK,)
        return (OK,)

    def do_cuGraphExecDestroy(self, executable):
        del self.executables[int(executable)]
        return (OK,)

    def do_cuGraphDestroy(self, graph):
        del self.graphs[int(graph)]
        return (OK,)

    def do_cuPointerGetAttribute(self, attribute, address):
        self.bytes(address, 1)
        return OK, 0

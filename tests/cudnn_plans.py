"""Ask libcudnn itself, on a machine without a device, for plans on one: a program for a process of its own.

cuDNN plans for a device that is described by its properties, for compilers on other machines. What is asked for are
the operations that `codegen.cuda.library_cudnn` makes of convolutions and their derivatives. The first argument is a
library that stands in for libcuda, which some of cuDNN's parts want to be there. Prints a line of JSON for each plan;
77 is returned where there is no cuDNN that can do this.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from typing import Any

import numpy as np

from nufunc.codegen.cuda import library_cudnn
from nufunc.codegen.cuda.library_cudnn import Convolution
from nufunc.codegen.cuda.library_steps import Lowered, Routine
from nufunc.ir import primitive
from nufunc.ir.prims.conv import NUMBERS_OF_WINDOW, _for_w, _for_x
from nufunc.ir.types import ArrayType, bfloat16
from nufunc.runtime.cuda import cudnn

DEVICE_PROPERTIES, JSON, CHAR = 38, 2702, 24  # a kind of descriptor, its attribute and that one's type
PROPERTIES_OF = {cudnn.HEURISTICS: 204, cudnn.PLAN: 407, cudnn.ENGINE: 1307}  # the attribute for them
PLAN_JSON, ENGINE_GRAPH, ENGINE_NUMBER = 405, 1300, 1301
H100 = {
    "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0, "deviceName": "NVIDIA H100 80GB HBM3",
    "totalGlobalMem": 85017493504, "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
    "regsPerBlock": 65536, "multiProcessorCount": 132, "smCountOrigin": 0, "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448, "oversizedSharedMemoryPerBlock": 0,
    "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1, "smClockRateKHz": 1980000,
    "memClockRateKHz": 2619000, "memoryBusWidth": 5120, "l2CacheSize": 52428800,
}  # fmt: skip
FORMS = {  # letters of x, w and the result, shapes, and of each letter of the window stride, dilation and padding
    "plain": ("nchw", "ochw", "nohw", (8, 64, 28, 28), (64, 64, 3, 3), [(1, 1, 1)] * 2),
    "strided": ("nchw", "ochw", "nohw", (8, 64, 28, 28), (128, 64, 3, 3), [(2, 1, 1)] * 2),
    "dilated": ("nchw", "ochw", "nohw", (8, 16, 28, 28), (32, 16, 3, 3), [(1, 2, 2)] * 2),
    "first": ("nchw", "ochw", "nohw", (4, 3, 64, 64), (32, 3, 7, 7), [(2, 1, 3)] * 2),
    "pointwise": ("nchw", "ochw", "nohw", (8, 64, 14, 14), (256, 64, 1, 1), [(1, 1, 0)] * 2),
    "uneven": ("nchw", "ochw", "nohw", (8, 16, 27, 28), (32, 16, 4, 3), [(2, 1, 1), (1, 1, 0)]),
    "line": ("ncw", "ocw", "now", (8, 32, 512), (64, 32, 9), [(1, 1, 4)]),
    "volume": ("ncdhw", "ocdhw", "nodhw", (2, 16, 12, 12, 12), (32, 16, 3, 3, 3), [(1, 1, 1)] * 3),
    "depthwise": ("nghw", "ghw", "nghw", (8, 64, 28, 28), (64, 3, 3), [(1, 1, 1)] * 2),
    "channels last": ("nhwc", "hwco", "nhwo", (8, 28, 28, 64), (3, 3, 64, 64), [(1, 1, 1)] * 2),
    "ensemble": ("nchw", "aochw", "anohw", (8, 16, 28, 28), (4, 32, 16, 3, 3), [(1, 1, 1)] * 2),
    "ensemble and batches": ("anchw", "aochw", "anohw", (4, 8, 16, 28, 28), (4, 32, 16, 3, 3), [(1, 1, 1)] * 2),
    "samples": ("anchw", "aochw", "anohw", (8, 1, 16, 28, 28), (8, 32, 16, 3, 3), [(1, 1, 1)] * 2),
}


class Absent(cudnn.Handle):
    """A device that is not there."""

    def __init__(self, library: cudnn.Library) -> None:
        self.library, self.address = library, 0
        self.device = library.create(DEVICE_PROPERTIES)
        text = json.dumps(H100).encode() + b"\0"
        array = ctypes.create_string_buffer(text)
        library.call("cudnnBackendSetAttribute", self.device.address, JSON, CHAR, len(text), ctypes.addressof(array))
        self.device.finalized()
        self.graph: Any = None

    def bind(self, descriptor: cudnn.Descriptor, kind: int) -> None:
        if kind == cudnn.GRAPH:
            self.graph = descriptor
        else:
            descriptor.put(PROPERTIES_OF[kind], "descriptor", self.device.address)

    def notes(self, config: cudnn.Descriptor) -> set[int]:
        """An engine has to be made anew by its number, which a plan tells: that of a configuration asks the device."""
        plan, engine = self.library.create(cudnn.PLAN), self.library.create(cudnn.ENGINE)
        try:
            self.bind(plan, cudnn.PLAN)
            plan.put(401, "descriptor", config.address)
            plan.finalized()
            count, text = ctypes.c_int64(), ctypes.create_string_buffer(1 << 17)
            self.library.call(
                "cudnnBackendGetAttribute", plan.address, PLAN_JSON, CHAR, len(text), ctypes.addressof(count),
                ctypes.addressof(text),
            )  # fmt: skip
            engine.put(ENGINE_GRAPH, "descriptor", self.graph.address)
            engine.put(ENGINE_NUMBER, "int64", json.loads(text.value)["engine"]["engineId"])
            self.bind(engine, cudnn.ENGINE)
            self.last = sorted(engine.finalized().get(1303, "note", 10))
            return set(self.last)
        finally:
            plan.destroy()
            engine.destroy()


def convolutions(form: str, dtype: np.dtype) -> list[tuple[Convolution, int]]:
    """A convolution and those for both cotangents, with the memory that they may work in."""
    x, w, out, left, right, numbers = FORMS[form]
    window = "".join(n for n in x if n in "dhw")
    rows = []
    for n, (stride, dilation, padding) in zip(window, numbers, strict=True):
        reach = left[x.index(n)] + 2 * padding - dilation * (right[w.index(n)] - 1) - 1
        rows.append((stride, dilation, 1, padding, reach // stride + 1))
    columns = zip(*rows, strict=True)
    attrs = {"x": x, "w": w, "out": out, "window": window, **dict(zip(NUMBERS_OF_WINDOW, columns, strict=True))}
    types = [ArrayType(left, dtype), ArrayType(right, dtype)]
    (result,) = primitive.get("conv").infer(types, attrs, ())
    found = []
    for operands, how in (
        (types, attrs), ([result, types[1]], _for_x(types, attrs)), ([types[0], result], _for_w(types, attrs))
    ):  # fmt: skip
        results = primitive.get("conv").infer(operands, how, ())
        made = Lowered("conv", tuple(operands), tuple(results), how)
        library_cudnn.lower_cudnn(made)
        (routine,) = (step for step in made.steps if isinstance(step, Routine))
        found.append((routine.numbers["convolution"], routine.numbers["limit"]))
    return found


def main() -> int:
    ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
    library = cudnn.library()
    if library is None or library.functions.cudnnGetVersion() < 91100:
        return 77
    library_cudnn.SMALL = 0
    handle = Absent(library)
    halves = [np.dtype(np.float16), *([bfloat16()] if importlib.util.find_spec("ml_dtypes") else [])]
    for form in FORMS:
        for dtype in (np.dtype(np.float32), np.dtype(np.float64), *halves):
            for convolution, limit in convolutions(form, dtype):
                for tf32 in (False, True) if dtype == np.float32 else (False,):
                    plan = cudnn.planned(handle, convolution, limit, tf32)
                    print(json.dumps({
                        "form": form, "dtype": dtype.name, "operation": convolution.operation, "tf32": tf32,
                        "limit": limit, "workspace": None if plan is None else plan.workspace, "notes": handle.last,
                    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A stand-in of libcudnn on host memory: the C functions that `nufunc.runtime.cuda.cudnn` calls, as its header says.

They are real C functions, so that ctypes converts arguments as it does for the library. Descriptors have the
attributes, types and counts of the header; operations are checked as they are finalized, and what is not allowed is a
problem, which a test looks for at its end. `engines` are what heuristics propose: some that must not be taken, which
compute other numbers. The workspace is poisoned.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nufunc.ir.types import bfloat16

P, I32, I64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
SIGNATURES = {
    "cudnnCreate": (P,), "cudnnSetStream": (P, P), "cudnnBackendCreateDescriptor": (I32, P),
    "cudnnBackendDestroyDescriptor": (P,), "cudnnBackendFinalize": (P,),
    "cudnnBackendSetAttribute": (P, I32, I32, I64, P), "cudnnBackendGetAttribute": (P, I32, I32, I64, P, P),
    "cudnnBackendExecute": (P, P, P), "cudnnGetLastErrorString": (P, ctypes.c_size_t),
}  # fmt: skip
HANDLE, DATA_TYPE, INT64, FLOAT, DOUBLE, POINTER, MODE, HEUR, NOTE, DESCRIPTOR = 0, 1, 3, 4, 5, 6, 7, 8, 11, 15
CTYPES = {
    HANDLE: P, DATA_TYPE: I32, INT64: I64, FLOAT: ctypes.c_float, DOUBLE: ctypes.c_double, POINTER: P, MODE: I32,
    HEUR: I32, NOTE: I32, DESCRIPTOR: P,
}  # fmt: skip
CONVOLUTION, ENGINE, CONFIG, HEURISTICS, PLAN, FPROP, WGRAD, DGRAD, GRAPH, PACK, TENSOR = (
    1, 2, 3, 4, 5, 10, 11, 12, 15, 16, 17,
)  # fmt: skip
FIRST = {FPROP: 700, DGRAD: 706, WGRAD: 712}
NAMES = {FPROP: "fprop", DGRAD: "dgrad", WGRAD: "wgrad"}
SCALE = {FLOAT, DOUBLE}
ATTRIBUTES: dict[int, dict[int, set[int]]] = {  # by kind of descriptor: names, and the types that they may have
    CONVOLUTION: {100: {DATA_TYPE}, 101: {MODE}, **{k: {INT64} for k in range(102, 107)}},
    HEURISTICS: {200: {HEUR}, 201: {DESCRIPTOR}},
    PLAN: {400: {HANDLE}, 401: {DESCRIPTOR}},
    GRAPH: {800: {HANDLE}, 801: {DESCRIPTOR}},
    TENSOR: {900: {INT64}, 901: {DATA_TYPE}, 902: {INT64}, 903: {INT64}, 906: {INT64}},
    PACK: {1000: {INT64}, 1001: {POINTER}, 1003: {POINTER}},
    **{
        kind: {first: SCALE, first + 1: SCALE, **{first + k: {DESCRIPTOR} for k in range(2, 6)}}
        for kind, first in FIRST.items()
    },
}
SUCCESS, BAD_PARAM, NOT_SUPPORTED, EXECUTION_FAILED = 0, 2000, 3000, 5000
TENSOR_CORE, FFT, NONDETERMINISTIC = 0, 3, 4


@dataclass(frozen=True)
class Engine:
    """What a plan does: its notes, the memory it works in, whether it can be made ready, and whether its numbers are
    right."""

    notes: tuple[int, ...] = ()
    workspace: int = 0
    supported: bool = True
    right: bool = True


ENGINES = (
    Engine((NONDETERMINISTIC,), right=False), Engine((TENSOR_CORE,)), Engine(workspace=1 << 40, right=False),
    Engine(supported=False), Engine((9,), workspace=1000),
)  # fmt: skip
FALLBACK = (Engine((FFT,), right=False), Engine())


@dataclass
class Descriptor:
    kind: int
    values: dict[int, list[Any]] = field(default_factory=dict)
    final: bool = False
    engine: Engine | None = None


class FakeCudnn:
    """`queued` runs what is executed on a stream; `capturing` says whether something is recorded now."""

    def __init__(self, engines: tuple[Engine, ...] = ENGINES, fallback: tuple[Engine, ...] = FALLBACK) -> None:
        self.engines = {3: engines, 2: fallback}
        self.calls: Counter[str] = Counter()
        self.notes: list[tuple[int, ...]] = []  # of the engines that were run
        self.workspaces: list[int] = []  # that they got
        self.problems: list[str] = []
        self.descriptors: dict[int, Descriptor] = {}
        self.handles: dict[int, int] = {}
        self.numbers = itertools.count(0x1000, 16)
        self.inside = 0
        self.lock = threading.Lock()
        self.queued: Callable[[int, Callable[[], None]], None] = lambda stream, run: run()
        self.capturing: Callable[[], bool] = lambda: False
        self.said = b""
        for name, arguments in SIGNATURES.items():
            setattr(self, name, ctypes.CFUNCTYPE(I32, *arguments)(self._guarded(name)))

    def cudnnGetVersion(self) -> int:
        return 90000

    def cudnnGetErrorString(self, status: int) -> bytes:
        return f"CUDNN_STATUS_{status}".encode()

    def _guarded(self, name: str) -> Callable[..., int]:
        """A function whose errors are problems, and that is in use by one thread at a time."""
        function = getattr(self, "do_" + name)

        def call(*args: Any) -> int:
            with self.lock:
                self.inside += 1
                if self.inside > 1:
                    self.problems.append(f"{name} while another thread uses the library")
            self.calls[name] += 1
            try:
                status: int = function(*(a or 0 for a in args))
            except AssertionError as error:
                self.problems.append(f"{name}: {error}")
                status = BAD_PARAM
            finally:
                with self.lock:
                    self.inside -= 1
            return status

        return call

    def do_cudnnGetLastErrorString(self, target: int, size: int) -> int:
        ctypes.memmove(target, self.said[: size - 1] + b"\0", min(size, len(self.said) + 1))
        return SUCCESS

    def do_cudnnCreate(self, target: int) -> int:
        assert not self.capturing(), "a handle is made while something is recorded"
        handle = next(self.numbers)
        self.handles[handle] = 0
        P.from_address(target).value = handle
        return SUCCESS

    def do_cudnnSetStream(self, handle: int, stream: int) -> int:
        assert handle in self.handles, "no handle"
        self.handles[handle] = stream
        return SUCCESS

    def do_cudnnBackendCreateDescriptor(self, kind: int, target: int) -> int:
        assert kind in (*ATTRIBUTES, ENGINE, CONFIG), f"kind {kind} of descriptor"
        assert kind == PACK or not self.capturing(), f"descriptor of kind {kind} while something is recorded"
        address = next(self.numbers)
        self.descriptors[address] = Descriptor(kind)
        P.from_address(target).value = address
        return SUCCESS

    def do_cudnnBackendDestroyDescriptor(self, address: int) -> int:
        assert self.descriptors.pop(address, None), "destroyed twice"
        return SUCCESS

    def known(self, address: int, kind: int | None = None) -> Descriptor:
        found = self.descriptors.get(address)
        assert found is not None, "a descriptor that is not there"
        assert kind in (None, found.kind), f"kind {found.kind} of descriptor instead of {kind}"
        return found

    def do_cudnnBackendSetAttribute(self, address: int, name: int, type_: int, count: int, source: int) -> int:
        target = self.known(address)
        assert not target.final, "an attribute of what is finalized"
        assert type_ in ATTRIBUTES[target.kind].get(name, ()), f"attribute {name} of type {type_}"
        values = list((CTYPES[type_] * count).from_address(source))
        if type_ == DESCRIPTOR:
            assert all(self.known(v or 0).final or self.known(v or 0).kind == CONFIG for v in values), "not finalized"
        target.values[name] = values
        return SUCCESS

    def do_cudnnBackendGetAttribute(
        self, address: int, name: int, type_: int, most: int, count: int, target: int
    ) -> int:
        given = self.known(address)
        assert given.final or given.kind in (CONFIG, ENGINE), "an attribute of what is not finalized"
        wanted = {
            (HEURISTICS, 202): DESCRIPTOR, (CONFIG, 301): DESCRIPTOR, (ENGINE, 1303): NOTE, (PLAN, 402): INT64,
        }.get((given.kind, name))  # fmt: skip
        assert type_ == wanted, f"attribute {name} of type {type_}"
        if name == 202:
            engines = self.engines[given.values[200][0]]
            I64.from_address(count).value = min(most, len(engines)) if most else len(engines)
            places = list((P * most).from_address(target)) if most else []
            for place, engine in zip(places, engines, strict=False):
                made = self.known(place, CONFIG)
                made.engine, made.values = engine, {201: given.values[201]}
            return SUCCESS
        assert given.engine is not None
        if name == 301:
            self.known(P.from_address(target).value or 0, ENGINE).engine = given.engine
            values: tuple[int, ...] = (0,)
        else:
            values = given.engine.notes if name == 1303 else (given.engine.workspace,)
            assert most >= len(values)
            for k, value in enumerate(values):
                (CTYPES[type_] * most).from_address(target)[k] = value
        I64.from_address(count).value = len(values)
        return SUCCESS

    # -- what is finalized

    def do_cudnnBackendFinalize(self, address: int) -> int:
        made = self.known(address)
        assert not made.final, "finalized twice"
        missing = set(ATTRIBUTES[made.kind]) - set(made.values)
        assert not missing, f"attributes {sorted(missing)} of kind {made.kind} are missing"
        if made.kind == PLAN:
            config = self.known(made.values[401][0], CONFIG)
            assert made.values[400][0] in self.handles, "no handle"
            made.engine = config.engine
            made.values |= config.values
            if made.engine is not None and not made.engine.supported:
                self.said = b"the engine cannot do that"
                return NOT_SUPPORTED
        elif made.kind == CONVOLUTION:
            self.check_window(made)
        elif made.kind == TENSOR:
            self.check_tensor(made)
        elif made.kind in FIRST:
            self.check_operation(made)
        made.final = True
        return SUCCESS

    def check_window(self, made: Descriptor) -> None:
        (count,) = made.values[106]
        for name in (102, 103, 104, 105):
            assert len(made.values[name]) == count, "lengths of the window"
            assert all(n >= (name <= 103) for n in made.values[name]), f"window: {made.values}"
        assert made.values[100] in ([0], [1]), "sums are of single or double precision"
        assert made.values[101] in ([0], [1])

    def check_tensor(self, made: Descriptor) -> None:
        shape, strides = made.values[902], made.values[903]
        assert len(shape) == len(strides) >= 4, "axes"
        assert all(n > 0 for n in (*shape, *strides)), "extents and strides are positive"
        assert made.values[900][0] % size_of(made) == 0

    def check_operation(self, made: Descriptor) -> None:
        first = FIRST[made.kind]
        window = self.known(made.values[first + 2][0], CONVOLUTION)
        tensors = [self.known(made.values[first + k][0], TENSOR) for k in (3, 4, 5)]
        filter, image, response = (t.values[902] for t in tensors)
        assert len({t.values[901][0] for t in tensors}) == 1, "dtypes"
        assert len({t.values[906][0] for t in tensors}) == 3, "unique numbers"
        double = tensors[0].values[901] == [1]
        assert window.values[100] == [int(double)]
        assert (made.values[first], made.values[first + 1]) == ([1.0], [0.0])
        dilation, stride, post, pre = (window.values[k] for k in (102, 103, 104, 105))
        assert len(filter) == len(image) == len(response) == len(pre) + 2, "axes"
        assert image[0] == response[0], "items"
        assert filter[0] == response[1], "channels of the response"
        groups, rest = divmod(image[1], filter[1])
        assert groups > 0, "groups"
        assert not rest, "groups"
        assert filter[0] % groups == 0, "groups"
        for k, (i, f, r) in enumerate(zip(image[2:], filter[2:], response[2:], strict=True)):
            found = (i + pre[k] + post[k] - dilation[k] * (f - 1) - 1) // stride[k] + 1
            assert found == r, f"the response has {found} elements, not {r}"

    # -- runs

    def do_cudnnBackendExecute(self, handle: int, plan: int, pack: int) -> int:
        assert handle in self.handles, "no handle"
        made, given = self.known(plan, PLAN), self.known(pack, PACK)
        assert made.final
        assert given.final
        assert made.values[400] == [handle]
        engine = made.engine
        assert engine is not None
        graph = self.known(made.values[201][0], GRAPH)
        operation = self.known(graph.values[801][0])
        pointers = dict(zip(given.values[1000], given.values[1001], strict=True))
        (workspace,) = given.values[1003]
        self.calls[NAMES[operation.kind]] += 1
        self.notes.append(engine.notes)

        def run() -> None:
            if engine.workspace:
                self.workspaces.append(workspace)
                assert workspace, "no workspace"
                assert workspace % 256 == 0
                ctypes.memset(workspace, 0xFF, engine.workspace)
            self.compute(operation, pointers, engine)

        self.queued(self.handles[handle], run)
        return SUCCESS

    def compute(self, operation: Descriptor, pointers: dict[int, int], engine: Engine) -> None:
        """By the definition, one element of the filter after the other."""
        first = FIRST[operation.kind]
        window = self.known(operation.values[first + 2][0])
        filter, image, response = (
            array_at(self.known(operation.values[first + k][0]), pointers) for k in (3, 4, 5)
        )
        groups = image.shape[1] // filter.shape[1]
        if window.values[101] == [0]:  # what is called convolution reads the filter backwards
            filter = filter[(slice(None), slice(None), *[slice(None, None, -1)] * (filter.ndim - 2))]
        views = [
            split(image, 1, groups), split(filter, 0, groups), split(response, 1, groups),
        ]  # fmt: skip
        target = {DGRAD: 0, WGRAD: 1, FPROP: 2}[operation.kind]
        kind = np.float64 if image.dtype == np.float64 else np.float32
        parts = [np.array(v, kind) for v in views]
        parts[target][...] = 0
        letters = ["ngc", "gkc", "ngk"]
        for places in meetings(window, image.shape[2:], filter.shape[2:], response.shape[2:]):
            picked = [p[(..., *where)] for p, where in zip(parts, places, strict=True)]
            axes = ["xyz"[: len(pre)] for pre in (places[0], (), places[0])]
            names = [a + b for a, b in zip(letters, axes, strict=True)]
            others = [k for k in range(3) if k != target]
            text = ",".join(names[k] for k in others) + "->" + names[target]
            with np.errstate(all="ignore"):
                parts[target][(..., *places[target])] += np.einsum(text, *(picked[k] for k in others))
        with np.errstate(all="ignore"):
            views[target][...] = (parts[target] if engine.right else parts[target] * np.nan).astype(image.dtype)


def meetings(
    window: Descriptor, image: tuple[int, ...], filter: tuple[int, ...], response: tuple[int, ...]
) -> Iterator[tuple[Any, Any, Any]]:
    """Elements of image, filter and response that meet: slices, numbers and slices."""
    dilation, stride, _, pre = (window.values[k] for k in (102, 103, 104, 105))
    for place in itertools.product(*map(range, filter)):
        of_image, of_response = [], []
        for k, f in enumerate(place):
            start = f * dilation[k] - pre[k]
            least = max(0, -(start // stride[k]))
            most = min(response[k], (image[k] - 1 - start) // stride[k] + 1)
            if most <= least:
                break
            of_response.append(slice(least, most))
            of_image.append(slice(start + least * stride[k], start + (most - 1) * stride[k] + 1, stride[k]))
        else:
            yield tuple(of_image), place, tuple(of_response)


def size_of(tensor: Descriptor) -> int:
    return {0: 4, 1: 8, 2: 2, 9: 2}[tensor.values[901][0]]


def array_at(tensor: Descriptor, pointers: dict[int, int]) -> np.ndarray:
    """The memory of a tensor."""
    number = tensor.values[901][0]
    dtype = np.dtype({0: np.float32, 1: np.float64, 2: np.float16}[number]) if number != 9 else bfloat16()
    address = pointers[tensor.values[906][0]]
    assert address, "a null address"
    assert address % tensor.values[900][0] == 0, "an address that is not aligned as was said"
    shape, strides = tensor.values[902], tensor.values[903]
    count = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    memory = np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype)
    return np.lib.stride_tricks.as_strided(memory, shape, [s * dtype.itemsize for s in strides])


def split(array: np.ndarray, axis: int, groups: int) -> np.ndarray:
    """A view with an axis of groups of its own."""
    shape = (*array.shape[:axis], groups, array.shape[axis] // groups, *array.shape[axis + 1 :])
    stride = array.strides[axis]
    strides = (*array.strides[:axis], stride * shape[axis + 1], stride, *array.strides[axis + 1 :])
    return np.lib.stride_tricks.as_strided(array, shape, strides)

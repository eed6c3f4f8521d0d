"""cuDNN's graph interface, as far as convolutions need it, by ctypes: plans that are built once, and their runs.

Note [Plans of cuDNN]
cuDNN describes an operation by descriptors, opaque objects with attributes that are then finalized, and answers with a
list of engines that can do it, the best first. A plan is an engine made ready. The first one is taken that gives the
same bits in every run, computes in the precision that was asked for, and works in the memory that the program has for
it; there may be none, and then our own kernel does it. Plans are built before a program first runs, so that nothing is
loaded or allocated while it is recorded, and are never given back: recorded runs read what belongs to them.

NVIDIA's own bindings for Python, nvidia-cudnn-frontend, are not used: they bring packages of half a gigabyte that
convolutions have no need of. The library's C functions are those of all its versions 9, and torch and JAX install it.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from nufunc.codegen.cuda.library_cudnn import OPERATIONS, ROLES, Convolution, Tensor
from nufunc.ir.errors import DeviceError, DeviceWarning
from nufunc.runtime.cuda.driver import Driver
from nufunc.runtime.cuda.memory import scratch

_VERSION = 90000
ALIGNMENT = 16  # of arrays, in bytes, without which the better engines do not work

SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "cudnnGetVersion": (ctypes.c_size_t, ()),
    "cudnnGetErrorString": (ctypes.c_char_p, (ctypes.c_int,)),
    "cudnnGetLastErrorString": (None, (ctypes.c_char_p, ctypes.c_size_t)),
    "cudnnCreate": (ctypes.c_int, (ctypes.c_void_p,)),
    "cudnnSetStream": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p)),
    "cudnnBackendCreateDescriptor": (ctypes.c_int, (ctypes.c_int, ctypes.c_void_p)),
    "cudnnBackendDestroyDescriptor": (ctypes.c_int, (ctypes.c_void_p,)),
    "cudnnBackendFinalize": (ctypes.c_int, (ctypes.c_void_p,)),
    "cudnnBackendSetAttribute": (
        ctypes.c_int, (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p),
    ),
    "cudnnBackendGetAttribute": (
        ctypes.c_int, (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p),
    ),
    "cudnnBackendExecute": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)),
}  # fmt: skip

# Kinds of descriptors (CUDNN_BACKEND_..._DESCRIPTOR) and their attributes (CUDNN_ATTR_...).
CONVOLUTION, ENGINE, ENGINE_CONFIG, HEURISTICS, PLAN, GRAPH, VARIANT_PACK, TENSOR = 1, 2, 3, 4, 5, 15, 16, 17
_OPERATION = {"fprop": (10, 700), "dgrad": (12, 706), "wgrad": (11, 712)}  # kind, first attribute: see _graph
_COMPUTE_TYPE, _MODE, _DILATIONS, _STRIDES, _POST, _PRE, _SPATIAL = range(100, 107)
_HEURISTICS_MODE, _HEURISTICS_GRAPH, _HEURISTICS_RESULTS = 200, 201, 202
_CONFIG_ENGINE, _PLAN_HANDLE, _PLAN_CONFIG, _PLAN_WORKSPACE = 301, 400, 401, 402
_GRAPH_HANDLE, _GRAPH_OPERATIONS = 800, 801
_ALIGNMENT, _DATA_TYPE, _DIMENSIONS, _TENSOR_STRIDES, _UNIQUE_ID = 900, 901, 902, 903, 906
_PACK_IDS, _PACK_POINTERS, _PACK_WORKSPACE = 1000, 1001, 1003
_ENGINE_NOTES = 1303

# Types of attributes (CUDNN_TYPE_...).
TYPES: dict[str, tuple[int, Any]] = {
    "handle": (0, ctypes.c_void_p), "data_type": (1, ctypes.c_int), "int64": (3, ctypes.c_int64),
    "float": (4, ctypes.c_float), "double": (5, ctypes.c_double), "pointer": (6, ctypes.c_void_p),
    "convolution_mode": (7, ctypes.c_int), "heuristics_mode": (8, ctypes.c_int), "note": (11, ctypes.c_int),
    "descriptor": (15, ctypes.c_void_p),
}  # fmt: skip
_DATA = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 9}
_BACKWARDS, _AS_IT_IS = 0, 1  # CUDNN_CONVOLUTION, CUDNN_CROSS_CORRELATION
_MODES = (3, 2)  # CUDNN_HEUR_MODE_A, and CUDNN_HEUR_MODE_FALLBACK: what works, slow or not
_NOTES = 10  # as many kinds of notes are there
_TENSOR_CORE, _DOWN_CONVERT, _HALF_SUMS, _FFT, _NONDETERMINISTIC, _TILE_6, _TILE_13 = 0, 1, 2, 3, 4, 7, 8
# Large tiles of Winograd's method, and Fourier transforms, lose digits and spread a NaN over the image.
_NEVER = frozenset((_HALF_SUMS, _FFT, _NONDETERMINISTIC, _TILE_6, _TILE_13))

_LOCK = threading.RLock()
_LIBRARIES: list[Library | None] = []
_handles: dict[int, Handle] = {}
_plans: dict[Any, Plan | None] = {}


class CudnnError(RuntimeError):
    """What cuDNN does not do, or fails in."""


class Library:
    """The functions of libcudnn, which raise CudnnError."""

    def __init__(self, functions: Any) -> None:
        self.functions = functions

    def call(self, name: str, *args: Any) -> None:
        status = getattr(self.functions, name)(*args)
        if status:
            said = ctypes.create_string_buffer(1024)
            self.functions.cudnnGetLastErrorString(said, len(said))
            text = self.functions.cudnnGetErrorString(status).decode()
            raise CudnnError(f"{text} in {name} {said.value.decode(errors='replace')}".rstrip())

    def create(self, kind: int) -> Descriptor:
        found = ctypes.c_void_p()
        self.call("cudnnBackendCreateDescriptor", kind, ctypes.addressof(found))
        return Descriptor(self, found.value or 0)


class Descriptor:
    """An object of cuDNN, which lives until it is destroyed."""

    def __init__(self, library: Library, address: int) -> None:
        self.library, self.address = library, address

    def put(self, attribute: int, kind: str, *values: Any) -> None:
        code, type_ = TYPES[kind]
        array = (type_ * len(values))(*values)
        self.library.call(
            "cudnnBackendSetAttribute", self.address, attribute, code, len(values), ctypes.addressof(array)
        )

    def get(self, attribute: int, kind: str, most: int, given: Sequence[int] = ()) -> list[Any]:
        """At most so many values; descriptors are written to those that are `given`."""
        code, type_ = TYPES[kind]
        array, count = (type_ * max(most, 1))(*given), ctypes.c_int64()
        self.library.call(
            "cudnnBackendGetAttribute", self.address, attribute, code, most, ctypes.addressof(count),
            ctypes.addressof(array) if most else None,
        )  # fmt: skip
        return list(array)[: count.value] if most else [None] * count.value

    def finalized(self) -> Descriptor:
        self.library.call("cudnnBackendFinalize", self.address)
        return self

    def destroy(self) -> None:
        self.library.call("cudnnBackendDestroyDescriptor", self.address)


class Handle:
    """cuDNN on a device. It works on one stream after the other, for one thread at a time."""

    def __init__(self, library: Library) -> None:
        self.library = library
        found = ctypes.c_void_p()
        library.call("cudnnCreate", ctypes.addressof(found))
        self.address = found.value or 0

    def bind(self, descriptor: Descriptor, kind: int) -> None:
        """Say which device a descriptor is for."""
        attribute = {GRAPH: _GRAPH_HANDLE, PLAN: _PLAN_HANDLE}.get(kind)
        if attribute is not None:
            descriptor.put(attribute, "handle", self.address)

    def notes(self, config: Descriptor) -> set[int]:
        """What an engine's numbers are like."""
        engine = self.library.create(ENGINE)
        try:
            config.get(_CONFIG_ENGINE, "descriptor", 1, [engine.address])
            return set(engine.get(_ENGINE_NOTES, "note", _NOTES))
        finally:
            engine.destroy()


class Plan:
    """A convolution made ready for a device, with what it refers to, and the bytes that it works in."""

    def __init__(self, handle: Handle, descriptor: Descriptor, convolution: Convolution, kept: Sequence[Any]) -> None:
        self.handle, self.descriptor, self.convolution, self.kept = handle, descriptor, convolution, kept
        (self.workspace,) = descriptor.get(_PLAN_WORKSPACE, "int64", 1)


def library() -> Library | None:
    """cuDNN; None where it is not installed."""
    with _LOCK:
        if not _LIBRARIES:
            _LIBRARIES.append(_loaded())
        return _LIBRARIES[0]


def _loaded() -> Library | None:
    try:
        path = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cudnn").abs_path
        functions = ctypes.CDLL(path)
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, RuntimeError, OSError, AttributeError):
        return None
    return Library(functions) if functions.cudnnGetVersion() >= _VERSION else None


def plan(driver: Driver, convolution: Convolution, limit: int, tf32: bool) -> Plan | None:
    """The plan for a convolution on a device, in at most so many bytes; None where cuDNN has none."""
    key = (driver.index, convolution, limit, tf32)
    with _LOCK:
        if key not in _plans:
            with driver.entered():
                handle = _handle(driver)
                _plans[key] = None if handle is None else planned(handle, convolution, limit, tf32)
        return _plans[key]


def _handle(driver: Driver) -> Handle | None:
    found = library()
    if found is not None and driver.index not in _handles:
        try:
            _handles[driver.index] = Handle(found)
        except CudnnError as error:
            _LIBRARIES[:] = [None]
            warnings.warn(f"cuDNN cannot be used: {error}", DeviceWarning, stacklevel=2)
    return _handles.get(driver.index)


def planned(handle: Handle, convolution: Convolution, limit: int, tf32: bool) -> Plan | None:
    """See Note [Plans of cuDNN]."""
    refused = _NEVER
    if convolution.dtype == "float32" and not tf32:
        refused |= {_TENSOR_CORE, _DOWN_CONVERT}
    kept: list[Descriptor] = []
    try:
        graph = _graph(handle, convolution, kept)
    except CudnnError:
        _destroy(kept)
        return None
    for mode in _MODES:
        configs = _configs(handle, graph, mode)
        while configs:
            config = configs.pop(0)
            found = _built(handle, config, limit, refused)
            if found is not None:
                _destroy(configs)
                return Plan(handle, found, convolution, [*kept, config])
            config.destroy()
    _destroy(kept)
    return None


def _destroy(descriptors: Sequence[Descriptor]) -> None:
    for descriptor in reversed(descriptors):
        descriptor.destroy()


def _configs(handle: Handle, graph: Descriptor, mode: int) -> list[Descriptor]:
    """The engines that cuDNN proposes, the best first."""
    made = handle.library
    heuristics = made.create(HEURISTICS)
    found: list[Descriptor] = []
    try:
        heuristics.put(_HEURISTICS_GRAPH, "descriptor", graph.address)
        heuristics.put(_HEURISTICS_MODE, "heuristics_mode", mode)
        handle.bind(heuristics, HEURISTICS)
        heuristics.finalized()
        count = len(heuristics.get(_HEURISTICS_RESULTS, "descriptor", 0))
        found += [made.create(ENGINE_CONFIG) for _ in range(count)]
        used = heuristics.get(_HEURISTICS_RESULTS, "descriptor", count, [c.address for c in found]) if count else []
    except CudnnError:
        used = []
    finally:
        heuristics.destroy()
    _destroy(found[len(used) :])
    return found[: len(used)]


def _built(handle: Handle, config: Descriptor, limit: int, refused: frozenset[int]) -> Descriptor | None:
    """The plan of an engine, if it may be taken."""
    plan = None
    try:
        if not refused.isdisjoint(handle.notes(config)):
            return None
        plan = handle.library.create(PLAN)
        handle.bind(plan, PLAN)
        plan.put(_PLAN_CONFIG, "descriptor", config.address)
        plan.finalized()
        if plan.get(_PLAN_WORKSPACE, "int64", 1)[0] <= limit:
            return plan
    except CudnnError:
        pass
    if plan is not None:
        plan.destroy()
    return None


def _graph(handle: Handle, convolution: Convolution, kept: list[Descriptor]) -> Descriptor:
    """The graph of one operation. What it refers to is kept."""

    def made(kind: int) -> Descriptor:
        kept.append(handle.library.create(kind))
        return kept[-1]

    number = _DATA[convolution.dtype]
    double = convolution.dtype == "float64"
    window = made(CONVOLUTION)
    window.put(_SPATIAL, "int64", len(convolution.pre))
    window.put(_COMPUTE_TYPE, "data_type", _DATA["float64" if double else "float32"])
    window.put(_MODE, "convolution_mode", _BACKWARDS if convolution.backwards else _AS_IT_IS)
    numbers = (convolution.dilation, convolution.stride, convolution.post, convolution.pre)
    for attribute, values in zip((_DILATIONS, _STRIDES, _POST, _PRE), numbers, strict=True):
        window.put(attribute, "int64", *values)
    window.finalized()
    kind, first = _OPERATION[convolution.operation]
    operation = made(kind)
    one = "double" if double else "float"
    operation.put(first, one, 1.0)  # result = 1 * convolution + 0 * result
    operation.put(first + 1, one, 0.0)
    operation.put(first + 2, "descriptor", window.address)
    for attribute, role in ((first + 3, "filter"), (first + 4, "image"), (first + 5, "response")):
        tensor, given = made(TENSOR), getattr(convolution, role)
        tensor.put(_UNIQUE_ID, "int64", ROLES.index(role) + 1)
        tensor.put(_DATA_TYPE, "data_type", number)
        tensor.put(_ALIGNMENT, "int64", ALIGNMENT)
        tensor.put(_DIMENSIONS, "int64", *given.shape)
        tensor.put(_TENSOR_STRIDES, "int64", *given.strides)
        operation.put(attribute, "descriptor", tensor.finalized().address)
    operation.finalized()
    graph = made(GRAPH)
    handle.bind(graph, GRAPH)
    graph.put(_GRAPH_OPERATIONS, "descriptor", operation.address)
    return graph.finalized()


def run(plan: Plan, driver: Driver, stream: Any, places: Mapping[str, int], workspace: int = 0) -> None:
    """Queue a convolution. `workspace` is the address of as many bytes as the plan works in, or 0, and then there is
    memory for this run alone."""
    with _LOCK, driver.entered():
        try:
            _run(plan, driver, stream, places, workspace)
        except CudnnError as error:
            name = f"{plan.convolution.operation} of {plan.convolution.dtype}"
            raise DeviceError(f"cuDNN fails in {name}: {error}") from error


def _run(plan: Plan, driver: Driver, stream: Any, places: Mapping[str, int], workspace: int) -> None:
    """Arrays that lie as those of slices may are copied to where cuDNN can read and write them."""
    number = int(getattr(driver, "native", int)(stream))
    plan.handle.library.call("cudnnSetStream", plan.handle.address, number)
    computed = next(role for role, name in OPERATIONS.items() if name == plan.convolution.operation)
    pointers = [places[role] for role in ROLES]
    spaces: list[tuple[str, int, int]] = []
    try:
        if plan.workspace and not workspace:
            workspace = scratch(driver, plan.workspace, stream)
            spaces.append(("workspace", workspace, plan.workspace))
        for k, role in enumerate(ROLES):
            if pointers[k] % ALIGNMENT:
                nbytes = _extent(getattr(plan.convolution, role), plan.convolution.dtype)
                pointers[k] = scratch(driver, nbytes, stream)
                spaces.append((role, pointers[k], nbytes))
                if role != computed:
                    driver.copy(pointers[k], places[role], nbytes, stream)
        _execute(plan, pointers, workspace)
        for role, address, nbytes in spaces:
            if role == computed:
                driver.copy(places[role], address, nbytes, stream)
    finally:
        for _, address, _ in spaces:
            driver.free(address, stream)


def _extent(tensor: Tensor, dtype: str) -> int:
    """Bytes from the first element to the end of the last one."""
    size = {"float64": 8, "float32": 4}.get(dtype, 2)
    return size * (1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)))


def _execute(plan: Plan, pointers: Sequence[int], workspace: int) -> None:
    pack = plan.handle.library.create(VARIANT_PACK)
    try:
        pack.put(_PACK_IDS, "int64", *range(1, len(pointers) + 1))
        pack.put(_PACK_POINTERS, "pointer", *pointers)
        pack.put(_PACK_WORKSPACE, "pointer", workspace)
        pack.finalized()
        plan.handle.library.call(
            "cudnnBackendExecute", plan.handle.address, plan.descriptor.address, pack.address
        )
    finally:
        pack.destroy()

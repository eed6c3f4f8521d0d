"""cuBLAS, cuSOLVER and cuFFT through nvmath-python's bindings, one routine each; all matrices are by columns.

Handles belong to a device; what works in memory of its own (the solvers) runs on one stream after the other. Nothing
here waits for the device: info words stay where they are, and memory that a library works in is given to it, of a size
that it tells. Matrices lie apart by `stride_...` elements.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from nufunc.ir.errors import DeviceError, NufuncError
from nufunc.ir.types import FLOAT32, is_bfloat16, is_half, real_dtype
from nufunc.runtime.cuda.driver import Driver
from nufunc.runtime.cuda.memory import scratch

LETTER = {"f4": "s", "f8": "d", "c8": "c", "c16": "z"}
_DATA = {"f4": 0, "f8": 1, "f2": 2, "c8": 4, "c16": 5, "bf16": 14}  # CUDA_R_32F, R_64F, R_16F, C_32F, C_64F, R_16BF
_FLOAT32, _TF32, _FLOAT64 = 68, 77, 70  # CUBLAS_COMPUTE_32F, _32F_FAST_TF32, _64F
_DEFAULT = -1  # CUBLAS_GEMM_DEFAULT
_WHOLE_SUMS = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, in the default mode: parts of sums are no halves
_LIMIT = 2**31 - 1  # of what the routines of 32 bits are given

_lock = threading.RLock()
_handles: dict[int, Handles] = {}
_memo: dict[str, Any] = {}

Places = Mapping[str, int]
Numbers = Mapping[str, Any]


def _code(dtype: np.dtype) -> str:
    return "bf16" if is_bfloat16(dtype) else dtype.kind + str(dtype.itemsize)


def module(name: str) -> Any:
    """A module of nvmath.bindings; None where nvmath-python or the library itself is not installed."""
    if name not in _memo:
        try:
            found = importlib.import_module(f"nvmath.bindings.{name}")
            importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib(name.removesuffix("Dn"))
            _memo[name] = found
        except (ImportError, RuntimeError, OSError):
            _memo[name] = None
    return _memo[name]


def available() -> bool:
    """Whether NVIDIA's libraries can be called."""
    return all(module(name) is not None for name in ("cublas", "cusolverDn", "cufft"))


def _scalars(dtype: np.dtype) -> tuple[int, int]:
    """The addresses of 1 and 0 in host memory, where the libraries read such factors by default; for halves, which are
    multiplied in float32, in this."""
    dtype = FLOAT32 if is_half(dtype) else dtype
    key = f"scalars {_code(dtype)}"
    if key not in _memo:
        _memo[key] = np.array([1, 0], dtype)
    first = _memo[key].ctypes.data
    return first, first + dtype.itemsize


class Plan:
    """A plan of cuFFT, the bytes that it works in, and the streams that it ran on. It ends among the `dead`."""

    __slots__ = ("__weakref__", "dead", "number", "size", "streams")

    def __init__(self, number: int, size: int, dead: list[tuple[int, set[Any]]]) -> None:
        self.number, self.size, self.dead = number, size, dead
        self.streams: set[Any] = set()

    def __del__(self) -> None:
        self.dead.append((self.number, self.streams))


class _Recording(threading.local):
    """What the calls of this thread refer to, the stream that they run for, and whether they are recorded."""

    kept: list[Any] | None = None
    stream: Any = 0
    recorded = False


_RECORDING = _Recording()


@contextmanager
def keeping(stream: Any, recorded: bool) -> Iterator[list[Any]]:
    """Inside, what calls refer to is put into the list."""
    _RECORDING.kept, _RECORDING.stream, _RECORDING.recorded = [], stream, recorded
    try:
        yield _RECORDING.kept
    finally:
        _RECORDING.kept, _RECORDING.recorded = None, False


class Handles:
    """The libraries' handles for a device, and the stream that is asked for now."""

    def __init__(self) -> None:
        self.driver: Any = None
        self.stream: Any = 0
        self.number = 0
        self.solved_on: Any = None  # the stream that the solvers ran on last
        self.blas_handle = self.solver_handle = self.solver_params = self.rotations = 0
        self.plans: WeakValueDictionary[Any, Plan] = WeakValueDictionary()
        self.recent: dict[Any, Plan] = {}  # those used last, the last at the end; recordings hold others
        self.dead: list[tuple[int, set[Any]]] = []  # plans that nobody refers to, and the streams that they ran on

    def blas(self, places: Places, numbers: Numbers) -> tuple[Any, int]:
        library = module("cublas")
        if not self.blas_handle:
            self.blas_handle = library.create()
            library.set_math_mode(self.blas_handle, _WHOLE_SUMS)
        library.set_stream(self.blas_handle, self.number)  # which takes the workspace away
        library.set_workspace(self.blas_handle, places["workspace"], numbers["workspace_bytes"])
        return library, self.blas_handle

    def solver(self) -> tuple[Any, int]:
        library = module("cusolverDn")
        if not self.solver_handle:
            self.solver_handle = library.create()
        if self.solved_on not in (None, self.stream):
            self.driver.wait(self.stream, self.solved_on)
        self.solved_on = self.stream
        library.set_stream(self.solver_handle, self.number)
        return library, self.solver_handle

    def plan(self, library: Any, kind: int, n: int, batch: int) -> Plan:
        """A plan for transforms side by side."""
        key = (kind, n, batch)
        found = self.plans.get(key)
        if found is None:
            self._forget(library)
            number = library.create()
            library.set_auto_allocation(number, 0)
            size = library.make_plan_many64(number, 1, [n], 0, 1, 0, 0, 1, 0, kind, batch)
            found = self.plans[key] = Plan(number, size, self.dead)
        self.recent.pop(key, None)
        self.recent[key] = found
        if len(self.recent) > _MOST_PLANS:
            del self.recent[next(iter(self.recent))]
        if _RECORDING.kept is None:
            found.streams.add(self.stream)
        else:
            _RECORDING.kept.append(found)
            found.streams.add(_RECORDING.stream)
        return found

    def _forget(self, library: Any) -> None:
        """Destroy plans that nobody refers to, once what runs has read their tables; not while a run is recorded."""
        if not self.dead or _RECORDING.recorded:
            return
        dead = [self.dead.pop() for _ in range(len(self.dead))]
        for stream in {s for _, streams in dead for s in streams} - {self.stream}:
            self.driver.wait(self.stream, stream)
        self.driver.synchronize(self.stream)
        for number, _ in dead:
            library.destroy(number)

    def params(self, library: Any) -> int:
        if not self.solver_params:
            self.solver_params = library.create_params()
        return self.solver_params

    def with_both(self, device: int, host: int, use: Callable[[int, int], None]) -> None:
        """Run something in memory of both sides; what the host lends it gets back when all is done."""
        beside = np.empty(max(host, 16), np.uint8)
        self.with_space(device, lambda space: use(space, beside.ctypes.data))
        if host:
            self.driver.synchronize(self.stream)

    def with_space(self, nbytes: int, use: Callable[[int], None]) -> None:
        """Run something in so many bytes of fresh memory."""
        address = scratch(self.driver, max(nbytes, 256), self.stream)
        try:
            use(address)
        finally:
            self.driver.free(address, self.stream)


def call(name: str, driver: Driver, stream: Any, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """Queue a routine."""
    with _lock, driver.entered():
        handles = _handles.setdefault(driver.index, Handles())
        handles.driver, handles.stream = driver, stream
        handles.number = int(getattr(driver, "native", int)(stream))
        try:
            ROUTINES[name](handles, dtype, places, numbers)
        except NufuncError:
            raise
        except _errors() as error:
            raise DeviceError(f"NVIDIA's library fails in {name} of {dtype}: {error}") from error


def _errors() -> tuple[type[Exception], ...]:
    """What the bindings raise."""
    if "errors" not in _memo:
        owners = {"cublas": "cuBLASError", "cusolver": "cuSOLVERError", "cufft": "cuFFTError"}
        found = (getattr(module(name), word, None) for name, word in owners.items())
        _memo["errors"] = (RuntimeError, *(kind for kind in found if kind is not None))
    errors: tuple[type[Exception], ...] = _memo["errors"]
    return errors


# -- cuBLAS


def tf32() -> bool:
    """Whether products of float32 may round their operands to 10 bits; by default they are computed in full."""
    return os.environ.get("NUFUNC_CUDA_TF32", "") not in ("", "0")


def _gemm(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """c = op(a) op(b), for each of a batch."""
    library, handle = handles.blas(places, numbers)
    one, zero = _scalars(dtype)
    sizes = [numbers[k] for k in ("m", "n", "k", "lda", "ldb", "ldc", "batch")]
    m, n, k, lda, ldb, ldc, batch = sizes
    function = library.gemm_strided_batched_ex if max(sizes) <= _LIMIT else library.gemm_strided_batched_ex_64
    double, rounded = real_dtype(dtype).itemsize == 8, tf32() and not is_half(dtype)
    compute = _FLOAT64 if double else _TF32 if rounded else _FLOAT32
    data = _DATA[_code(dtype)]
    function(
        handle, int(numbers["transa"]), int(numbers["transb"]), m, n, k, one,
        places["a"], data, lda, numbers["stride_a"], places["b"], data, ldb, numbers["stride_b"], zero,
        places["c"], data, ldc, numbers["stride_c"], batch, compute, _DEFAULT,
    )  # fmt: skip


def _gemv(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """y = op(a) x, for each of a batch."""
    library, handle = handles.blas(places, numbers)
    one, zero = _scalars(dtype)
    sizes = [numbers[k] for k in ("m", "n", "lda", "incx", "incy", "batch")]
    m, n, lda, incx, incy, batch = sizes
    suffix = "" if max(sizes) <= _LIMIT else "_64"
    getattr(library, f"{LETTER[_code(dtype)]}gemv_strided_batched{suffix}")(
        handle, int(numbers["trans"]), m, n, one, places["a"], lda, numbers["stride_a"],
        places["x"], incx, numbers["stride_x"], zero, places["y"], incy, numbers["stride_y"], batch,
    )  # fmt: skip


def _trsm(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """b = b op(a)^-1 for each of a batch, in place; a is a triangle, to the right."""
    library, handle = handles.blas(places, numbers)
    one, _ = _scalars(dtype)
    sizes = [numbers[k] for k in ("m", "n", "lda", "ldb")]
    m, n, lda, ldb = sizes
    flags = [int(numbers[k]) for k in ("right", "upper", "trans", "unit")]
    function = getattr(library, f"{LETTER[_code(dtype)]}trsm" + ("" if max(sizes) <= _LIMIT else "_64"))
    for i in range(numbers["batch"]):
        a, b = _matrix(dtype, places, numbers, i, "a", "b")
        function(handle, *flags, m, n, one, a, lda, b, ldb)


def _matrix(dtype: np.dtype, places: Places, numbers: Numbers, i: int, *names: str) -> list[int]:
    """The addresses of matrix i of arrays."""
    return [places[name] + i * numbers[f"stride_{name}"] * dtype.itemsize for name in names]


# -- cuSOLVER


def _potrf(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    library, handle = handles.solver()
    letter, (upper, n, lda) = LETTER[_code(dtype)], (int(numbers["upper"]), numbers["n"], numbers["lda"])
    items = getattr(library, f"{letter}potrf_buffer_size")(handle, upper, n, places["a"], lda)

    def run(space: int) -> None:
        for i in range(numbers["batch"]):
            (a,) = _matrix(dtype, places, numbers, i, "a")
            getattr(library, f"{letter}potrf")(handle, upper, n, a, lda, space, items, places["info"] + 4 * i)

    handles.with_space(items * dtype.itemsize, run)


def _getrf(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    library, handle = handles.solver()
    letter, (m, n, lda) = LETTER[_code(dtype)], (numbers["m"], numbers["n"], numbers["lda"])
    items = getattr(library, f"{letter}getrf_buffer_size")(handle, m, n, places["a"], lda)

    def run(space: int) -> None:
        for i in range(numbers["batch"]):
            (a,) = _matrix(dtype, places, numbers, i, "a")
            exchanges = places["exchanges"] + 4 * i * numbers["stride_exchanges"]
            getattr(library, f"{letter}getrf")(handle, m, n, a, lda, space, exchanges, places["info"] + 4 * i)

    handles.with_space(items * dtype.itemsize, run)


def _getrs(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    library, handle = handles.solver()
    function = getattr(library, f"{LETTER[_code(dtype)]}getrs")
    for i in range(numbers["batch"]):
        a, b = _matrix(dtype, places, numbers, i, "a", "b")
        exchanges = places["exchanges"] + 4 * i * numbers["stride_exchanges"]
        function(
            handle, int(numbers["trans"]), numbers["n"], numbers["nrhs"], a, numbers["lda"], exchanges, b,
            numbers["ldb"], places["info"],
        )  # fmt: skip


def _geqrf(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    library, handle = handles.solver()
    letter, (m, n, lda) = LETTER[_code(dtype)], (numbers["m"], numbers["n"], numbers["lda"])
    items = getattr(library, f"{letter}geqrf_buffer_size")(handle, m, n, places["a"], lda)

    def run(space: int) -> None:
        for i in range(numbers["batch"]):
            a, tau = _matrix(dtype, places, numbers, i, "a", "tau")
            getattr(library, f"{letter}geqrf")(handle, m, n, a, lda, tau, space, items, places["info"])

    handles.with_space(items * dtype.itemsize, run)


def _orgqr(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    library, handle = handles.solver()
    name = LETTER[_code(dtype)] + ("ungqr" if dtype.kind == "c" else "orgqr")
    m, n, k, lda = (numbers[key] for key in ("m", "n", "k", "lda"))
    items = getattr(library, f"{name}_buffer_size")(handle, m, n, k, places["a"], lda, places["tau"])

    def run(space: int) -> None:
        for i in range(numbers["batch"]):
            a, tau = _matrix(dtype, places, numbers, i, "a", "tau")
            getattr(library, name)(handle, m, n, k, a, lda, tau, space, items, places["info"])

    handles.with_space(items * dtype.itemsize, run)


def _syevd(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    library, handle = handles.solver()
    name = LETTER[_code(dtype)] + ("heevd" if dtype.kind == "c" else "syevd")
    given = int(numbers["vectors"]), int(numbers["upper"]), numbers["n"]
    real = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    lda = numbers["lda"]
    items = getattr(library, f"{name}_buffer_size")(handle, *given, places["a"], lda, places["w"])

    def run(space: int) -> None:
        for i in range(numbers["batch"]):
            (a,) = _matrix(dtype, places, numbers, i, "a")
            w = places["w"] + i * numbers["stride_w"] * real
            getattr(library, name)(handle, *given, a, lda, w, space, items, places["info"] + 4 * i)

    handles.with_space(items * dtype.itemsize, run)


def _syev(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """A stack at once, side by side, or one matrix."""
    if numbers["batch"] == 1:
        _syevd(handles, dtype, places, numbers)
        return
    library, handle = handles.solver()
    real = _DATA[f"f{dtype.itemsize // (2 if dtype.kind == 'c' else 1)}"]
    data = _DATA[_code(dtype)]
    given = (
        handle, handles.params(library), int(numbers["vectors"]), int(numbers["upper"]), numbers["n"], data,
        places["a"], numbers["lda"], real, places["w"], data,
    )  # fmt: skip
    device, host = library.xsyev_batched_buffer_size(*given, numbers["batch"])

    def run(space: int, beside: int) -> None:
        library.xsyev_batched(*given, space, device, beside, host, places["info"], numbers["batch"])

    handles.with_both(device, host, run)


def _geev(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """Right vectors where there is a place for them; of real matrices all results are real, as LAPACK's."""
    library, handle = handles.solver()
    data, n, vectors = _DATA[_code(dtype)], numbers["n"], "vr" in places

    def given(i: int) -> tuple[int, ...]:
        a, w = _matrix(dtype, places, numbers, i, "a", "w")
        vr = _matrix(dtype, places, numbers, i, "vr")[0] if vectors else 0
        return (
            handle, handles.params(library), 0, int(vectors), n, data, a, numbers["lda"], data, w, data, 0, 1, data, vr,
            numbers["ldvr"], data,
        )  # fmt: skip

    device, host = library.xgeev_buffer_size(*given(0))

    def run(space: int, beside: int) -> None:
        for i in range(numbers["batch"]):
            library.xgeev(*given(i), space, device, beside, host, places["info"] + 4 * i)

    handles.with_both(device, host, run)


def _gesvd(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    library, handle = handles.solver()
    letter, (m, n, lda) = LETTER[_code(dtype)], (numbers["m"], numbers["n"], numbers["lda"])
    real = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    job = ord(numbers["job"])
    items = getattr(library, f"{letter}gesvd_buffer_size")(handle, m, n)

    def run(space: int) -> None:
        for i in range(numbers["batch"]):
            (a,) = _matrix(dtype, places, numbers, i, "a")
            u, vt = _matrix(dtype, places, numbers, i, "u", "vt") if "u" in places else (0, 0)
            s, rwork = (places[key] + i * numbers["stride_s"] * real for key in ("s", "rwork"))
            getattr(library, f"{letter}gesvd")(
                handle, job, job, m, n, a, lda, s, u, numbers["ldu"], vt, numbers["ldvt"], space, items, rwork,
                places["info"] + 4 * i,
            )  # fmt: skip

    handles.with_space(items * dtype.itemsize, run)


def _gesvdj_batched(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    library, handle = handles.solver()
    name, batch = f"{LETTER[_code(dtype)]}gesvdj_batched", numbers["batch"]
    if not handles.rotations:
        handles.rotations = library.create_gesvdj_info()
    given = (
        handle, int(numbers["vectors"]), numbers["m"], numbers["n"], places["a"], numbers["lda"], places["s"],
        places["u"], numbers["ldu"], places["v"], numbers["ldv"],
    )  # fmt: skip
    items = getattr(library, f"{name}_buffer_size")(*given, handles.rotations, batch)

    def run(space: int) -> None:
        getattr(library, name)(*given, space, items, places["info"], handles.rotations, batch)

    handles.with_space(items * dtype.itemsize, run)


# -- cuFFT

_KINDS = {  # the routine, and its number as a type of plan
    ("c2c", 8): ("exec_c2c", 0x29), ("c2c", 16): ("exec_z2z", 0x69), ("r2c", 4): ("exec_r2c", 0x2A),
    ("r2c", 8): ("exec_d2z", 0x6A), ("c2r", 8): ("exec_c2r", 0x2C), ("c2r", 16): ("exec_z2d", 0x6C),
}  # fmt: skip
_MOST_PLANS = 64


def _fft(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """Transforms of n points, side by side."""
    library, kind = module("cufft"), numbers["kind"]
    name, number = _KINDS[kind, dtype.itemsize]
    made = handles.plan(library, number, numbers["n"], numbers["batch"])
    plan, work = made.number, made.size
    library.set_stream(plan, handles.number)
    x, y = places["x"], places["y"]
    driver, stream = handles.driver, handles.stream
    if kind == "r2c" and x % (2 * dtype.itemsize):
        driver.copy(places["aligned_x"], x, numbers["x_bytes"], stream)
        x = places["aligned_x"]
    if kind == "c2r" and y % dtype.itemsize:
        y = places["aligned_y"]
    direction = [1 if numbers["inverse"] else -1] if kind == "c2c" else []

    def run(space: int) -> None:
        library.set_work_area(plan, space)
        getattr(library, name)(plan, x, y, *direction)

    if work <= numbers["workspace_bytes"]:
        run(places["workspace"])
    else:
        handles.with_space(work, run)
    if y != places["y"]:
        driver.copy(places["y"], y, numbers["y_bytes"], stream)


ROUTINES: dict[str, Callable[[Handles, np.dtype, Places, Numbers], None]] = {
    "gemm": _gemm, "gemv": _gemv, "trsm": _trsm, "potrf": _potrf, "getrf": _getrf, "getrs": _getrs, "geqrf": _geqrf,
    "orgqr": _orgqr, "syevd": _syev, "geev": _geev, "gesvd": _gesvd, "gesvdj_batched": _gesvdj_batched, "fft": _fft,
}  # fmt: skip

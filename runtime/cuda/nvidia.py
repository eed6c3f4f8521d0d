"""cuBLAS, cuSOLVER and cuFFT through nvmath-python's bindings, one routine each; all matrices are by columns.

Handles belong to a device and a stream. Nothing here waits for the device: info words stay where they are, and memory
that a library works in is given to it, of a size that it tells. Matrices lie apart by `stride_...` elements.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nufunc.runtime.cuda.driver import Driver

LETTER = {"f4": "s", "f8": "d", "c8": "c", "c16": "z"}
_DATA = {"f4": 0, "f8": 1, "c8": 4, "c16": 5}  # CUDA_R_32F, CUDA_R_64F, CUDA_C_32F, CUDA_C_64F
_FLOAT32, _TF32, _FLOAT64 = 68, 77, 70  # CUBLAS_COMPUTE_32F, _32F_FAST_TF32, _64F
_DEFAULT = -1  # CUBLAS_GEMM_DEFAULT
_LIMIT = 2**31 - 1  # of what the routines of 32 bits are given

_lock = threading.RLock()
_handles: dict[tuple[int, int], Handles] = {}
_memo: dict[str, Any] = {}

Places = Mapping[str, int]
Numbers = Mapping[str, Any]


def _code(dtype: np.dtype) -> str:
    return dtype.kind + str(dtype.itemsize)


def module(name: str) -> Any:
    """A module of nvmath.bindings; None where nvmath-python or the library itself is not installed."""
    if name not in _memo:
        try:
            _memo[name] = importlib.import_module(f"nvmath.bindings.{name}")
        except ImportError:
            _memo[name] = None
    return _memo[name]


def available() -> bool:
    """Whether NVIDIA's libraries can be called."""
    return all(module(name) is not None for name in ("cublas", "cusolverDn", "cufft"))


def _scalars(dtype: np.dtype) -> tuple[int, int]:
    """The addresses of 1 and 0 in host memory, where the libraries read such factors by default."""
    key = f"scalars {_code(dtype)}"
    if key not in _memo:
        _memo[key] = np.array([1, 0], dtype)
    first = _memo[key].ctypes.data
    return first, first + dtype.itemsize


class Handles:
    """The libraries' handles for a device and a stream."""

    def __init__(self, driver: Driver, stream: Any) -> None:
        self.driver, self.stream = driver, stream
        self.number = _number(driver, stream)
        self.blas_handle = self.solver_handle = 0
        self.plans: dict[Any, tuple[int, int]] = {}

    def blas(self) -> tuple[Any, int]:
        library = module("cublas")
        if not self.blas_handle:
            self.blas_handle = library.create()
        library.set_stream(self.blas_handle, self.number)
        return library, self.blas_handle

    def solver(self) -> tuple[Any, int]:
        library = module("cusolverDn")
        if not self.solver_handle:
            self.solver_handle = library.create()
        library.set_stream(self.solver_handle, self.number)
        return library, self.solver_handle

    def with_space(self, nbytes: int, use: Callable[[int], None]) -> None:
        """Run something in so many bytes of fresh memory."""
        address = self.driver.allocate(max(nbytes, 256), self.stream)
        try:
            use(address)
        finally:
            self.driver.free(address, self.stream)


def _number(driver: Driver, stream: Any) -> int:
    """A stream as the libraries know it."""
    return int(getattr(driver, "native", int)(stream))


def call(name: str, driver: Driver, stream: Any, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """Queue a routine."""
    with _lock:
        key = (driver.index, _number(driver, stream))
        if key not in _handles:
            _handles[key] = Handles(driver, stream)
        handles = _handles[key]
        handles.stream = stream
        ROUTINES[name](handles, dtype, places, numbers)


# -- cuBLAS


def tf32() -> bool:
    """Whether products of float32 may round their operands to 10 bits; by default they are computed in full."""
    return os.environ.get("NUFUNC_CUDA_TF32", "") not in ("", "0")


def _gemm(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """c = op(a) op(b), for each of a batch."""
    library, handle = handles.blas()
    library.set_workspace(handle, places["workspace"], numbers["workspace_bytes"])  # set_stream takes it away
    one, zero = _scalars(dtype)
    sizes = [numbers[k] for k in ("m", "n", "k", "lda", "ldb", "ldc", "batch")]
    m, n, k, lda, ldb, ldc, batch = sizes
    function = library.gemm_strided_batched_ex if max(sizes) <= _LIMIT else library.gemm_strided_batched_ex_64
    compute = _FLOAT64 if dtype.itemsize // (2 if dtype.kind == "c" else 1) == 8 else _TF32 if tf32() else _FLOAT32
    data = _DATA[_code(dtype)]
    function(
        handle, int(numbers["transa"]), int(numbers["transb"]), m, n, k, one,
        places["a"], data, lda, numbers["stride_a"], places["b"], data, ldb, numbers["stride_b"], zero,
        places["c"], data, ldc, numbers["stride_c"], batch, compute, _DEFAULT,
    )  # fmt: skip


def _gemv(handles: Handles, dtype: np.dtype, places: Places, numbers: Numbers) -> None:
    """y = op(a) x, for each of a batch."""
    library, handle = handles.blas()
    one, zero = _scalars(dtype)
    sizes = [numbers[k] for k in ("m", "n", "lda", "incx", "incy", "batch")]
    m, n, lda, incx, incy, batch = sizes
    suffix = "" if max(sizes) <= _LIMIT else "_64"
    getattr(library, f"{LETTER[_code(dtype)]}gemv_strided_batched{suffix}")(
        handle, int(numbers["trans"]), m, n, one, places["a"], lda, numbers["stride_a"],
        places["x"], incx, numbers["stride_x"], zero, places["y"], incy, numbers["stride_y"], batch,
    )  # fmt: skip


ROUTINES: dict[str, Callable[[Handles, np.dtype, Places, Numbers], None]] = {"gemm": _gemm, "gemv": _gemv}

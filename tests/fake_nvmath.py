"""NVIDIA's libraries as nvmath-python binds them, on host memory: what their documentation says, by NumPy.

Every routine works on column-major matrices at addresses, with leading dimensions, strides and operation flags, so that
a wrong one gives a wrong number. What is not allowed (a leading dimension that is too small, a null address, a
workspace that was never given) is an AssertionError. What the documentation leaves open is poisoned: the parts of
matrices that a routine does not define, and its workspace.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import Any

import numpy as np

DTYPES = {"s": np.dtype("f4"), "d": np.dtype("f8"), "c": np.dtype("c8"), "z": np.dtype("c16")}
DATA = {0: np.dtype("f4"), 1: np.dtype("f8"), 4: np.dtype("c8"), 5: np.dtype("c16")}
COMPUTE = {0: (68, 77), 4: (68, 77), 1: (70,), 5: (70,)}  # data type -> compute types that it may have


def line(address: int, dtype: np.dtype, size: int) -> np.ndarray:
    """`size` elements of memory."""
    if not size:
        return np.empty(0, dtype)
    assert address, "a null address"
    return np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)


def matrix(address: int, dtype: np.dtype, rows: int, columns: int, lead: int) -> np.ndarray:
    """A view of a column-major matrix."""
    assert lead >= max(1, rows), f"leading dimension {lead} of {rows} rows"
    size = lead * (columns - 1) + rows if rows and columns else 0
    memory = line(address, dtype, size)
    if not size:
        return np.empty((rows, columns), dtype)
    return np.lib.stride_tricks.as_strided(memory, (rows, columns), (dtype.itemsize, lead * dtype.itemsize))


def operated(x: np.ndarray, flag: int) -> np.ndarray:
    assert flag in (0, 1, 2), flag
    return x if flag == 0 else x.T if flag == 1 else x.conj().T


def scalar(address: int, dtype: np.dtype) -> Any:
    return line(address, dtype, 1)[0]


def put(target: np.ndarray, value: np.ndarray, beta: Any) -> None:
    """target = value + beta target, where what beta = 0 leaves is not read."""
    target[...] = value if beta == 0 else value + beta * target


class Handle:
    """Handles, their streams and workspaces; counts calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.made = 0
        self.streams: dict[int, int] = {}
        self.workspaces: dict[int, int] = {}

    def create(self) -> int:
        self.made += 1
        return 1000 + self.made

    def destroy(self, handle: int) -> None:
        self.known(handle)

    def known(self, handle: int) -> None:
        assert 1000 < handle <= 1000 + self.made, "a handle that was never made"

    def set_stream(self, handle: int, stream: int) -> None:
        self.known(handle)
        self.streams[handle] = stream
        self.workspaces.pop(handle, None)

    def ready(self, handle: int, name: str) -> None:
        self.known(handle)
        assert handle in self.streams, "no stream was set"
        self.calls[name] += 1


class Cublas(Handle):
    def set_workspace(self, handle: int, workspace: int, nbytes: int) -> None:
        self.known(handle)
        assert workspace % 256 == 0
        line(workspace, np.dtype("u1"), nbytes)[:] = 0xFF
        self.workspaces[handle] = nbytes

    def gemm_strided_batched_ex(
        self, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, atype: int, lda: int,
        stride_a: int, b: int, btype: int, ldb: int, stride_b: int, beta: int, c: int, ctype: int, ldc: int,
        stride_c: int, batch_count: int, compute_type: int, algo: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "gemm")
        assert handle in self.workspaces, "set_stream takes the workspace away"
        assert atype == btype == ctype
        assert compute_type in COMPUTE[atype]
        assert algo == -1
        dtype = DATA[atype]
        for i in range(batch_count):
            one, two, three = (
                p + i * s * dtype.itemsize for p, s in ((a, stride_a), (b, stride_b), (c, stride_c))
            )
            x = matrix(one, dtype, *((m, k) if transa == 0 else (k, m)), lda)
            y = matrix(two, dtype, *((k, n) if transb == 0 else (n, k)), ldb)
            made = scalar(alpha, dtype) * (operated(x, transa) @ operated(y, transb))
            put(matrix(three, dtype, m, n, ldc), made, scalar(beta, dtype))

    gemm_strided_batched_ex_64 = gemm_strided_batched_ex

    def gemv(
        self, dtype: np.dtype, handle: int, trans: int, m: int, n: int, alpha: int, a: int, lda: int, stride_a: int,
        x: int, incx: int, stride_x: int, beta: int, y: int, incy: int, stride_y: int, batch_count: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "gemv")
        assert incx
        assert incy
        for i in range(batch_count):
            one, two, three = (
                p + i * s * dtype.itemsize for p, s in ((a, stride_a), (x, stride_x), (y, stride_y))
            )
            rows, columns = (m, n) if trans == 0 else (n, m)
            given = matrix(two, dtype, 1, columns, incx)[0] if columns > 1 else line(two, dtype, columns)
            made = matrix(three, dtype, 1, rows, incy)[0]
            found = scalar(alpha, dtype) * (operated(matrix(one, dtype, m, n, lda), trans) @ given)
            put(made, found, scalar(beta, dtype))

    def __getattr__(self, name: str) -> Any:
        for suffix, function in (("gemv_strided_batched", "gemv"), ("trsm", "trsm_of")):
            if name[1:].removesuffix("_64") == suffix and name[0] in DTYPES:
                return lambda *args: getattr(self, function)(DTYPES[name[0]], *args)
        raise AttributeError(name)

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

from nufunc.ir.types import bfloat16

DTYPES = {"s": np.dtype("f4"), "d": np.dtype("f8"), "c": np.dtype("c8"), "z": np.dtype("c16")}
DATA = {
    0: np.dtype("f4"), 1: np.dtype("f8"), 2: np.dtype("f2"), 4: np.dtype("c8"), 5: np.dtype("c16"), 14: bfloat16(),
}  # fmt: skip
COMPUTE = {  # data type -> compute types that it may have
    0: (68, 77), 4: (68, 77), 1: (70,), 5: (70,), 2: (68,), 14: (68,),
}  # fmt: skip
WHOLE_SUMS = 16  # without it, parts of sums may be rounded to the type of the result


def line(address: int, dtype: np.dtype, size: int) -> np.ndarray:
    """`size` elements of memory."""
    if not size:
        return np.empty(0, dtype)
    assert address, "a null address"
    memory = np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), np.uint8)
    return memory.view(dtype)  # a buffer cannot say that it is of bfloat16


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


def substituted(triangle: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The solution with a triangle, infinite or NaN where an entry of its diagonal is 0."""
    x, n = np.array(sides), len(triangle)
    lower = not np.triu(triangle, 1).any()
    with np.errstate(all="ignore"):
        for k in range(n) if lower else reversed(range(n)):
            rest = slice(k + 1, n) if lower else slice(0, k)
            x[k] /= triangle[k, k]
            x[rest] -= np.outer(triangle[rest, k], x[k])
    return x


class Handle:
    """Handles, their streams and workspaces; counts calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.made = 0
        self.streams: dict[int, int] = {}
        self.workspaces: dict[int, int] = {}
        self.modes: dict[int, int] = {}

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
    def ready(self, handle: int, name: str) -> None:
        super().ready(handle, name)
        assert self.workspaces.get(handle, 0) >= 1 << 14, "set_stream takes the workspace away"

    def set_math_mode(self, handle: int, mode: int) -> None:
        self.known(handle)
        self.modes[handle] = mode

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
            if dtype.itemsize == 2:  # factors and sums are of the compute type
                assert self.modes.get(handle, 0) & WHOLE_SUMS
                x, y = x.astype(np.float32), y.astype(np.float32)
            made = scalar(alpha, x.dtype) * (operated(x, transa) @ operated(y, transb))
            put(matrix(three, dtype, m, n, ldc), made.astype(dtype), scalar(beta, x.dtype))

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

    def trsm_of(
        self, dtype: np.dtype, handle: int, side: int, uplo: int, trans: int, diag: int, m: int, n: int, alpha: int,
        a: int, lda: int, b: int, ldb: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "trsm")
        assert {side, uplo, diag} <= {0, 1}
        order = n if side else m
        x, sides = matrix(a, dtype, order, order, lda), matrix(b, dtype, m, n, ldb)
        triangle = np.tril(x) if uplo == 0 else np.triu(x)
        if diag:
            np.fill_diagonal(triangle, 1)
        triangle = operated(triangle, trans)
        given = scalar(alpha, dtype) * sides
        sides[...] = substituted(triangle.T, given.T).T if side else substituted(triangle, given)

    def __getattr__(self, name: str) -> Any:
        for suffix, function in (("gemv_strided_batched", "gemv"), ("trsm", "trsm_of")):
            if name[1:].removesuffix("_64") == suffix and name[0] in DTYPES:
                return lambda *args: getattr(self, function)(DTYPES[name[0]], *args)
        raise AttributeError(name)


class CusolverDn(Handle):
    """The dense solvers. Info words are those of LAPACK; a buffer is poisoned by whoever works in it."""

    def space(self, address: int, dtype: np.dtype, items: int, wanted: int) -> None:
        assert items == wanted, (items, wanted)
        line(address, dtype, items).view(np.uint8)[:] = 0xFF

    def tell(self, address: int, info: int) -> None:
        line(address, np.dtype("i4"), 1)[0] = info

    def __getattr__(self, name: str) -> Any:
        letter, rest = name[0], name[1:]
        size, rest = rest.endswith("_buffer_size"), rest.removesuffix("_buffer_size")
        rest = {"heevd": "syevd", "ungqr": "orgqr"}.get(rest, rest)
        if rest in ("syevd", "orgqr"):  # the names differ for real and complex numbers
            assert (name[1:3] in ("he", "un")) == (letter in "cz"), f"there is no {name}"
        found = f"{rest}_size_of" if size else f"{rest}_of"
        if letter not in DTYPES or not hasattr(type(self), found):
            raise AttributeError(name)
        return lambda *args: getattr(self, found)(DTYPES[letter], *args)

    def potrf_size_of(self, dtype: np.dtype, handle: int, uplo: int, n: int, a: int, lda: int) -> int:
        self.known(handle)
        return 3 * n

    def potrf_of(
        self, dtype: np.dtype, handle: int, uplo: int, n: int, a: int, lda: int, workspace: int, lwork: int,
        dev_info: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "potrf")
        self.space(workspace, dtype, lwork, 3 * n)
        x = matrix(a, dtype, n, n, lda)
        half = np.tril(x) if uplo == 0 else np.triu(x)
        whole = half + np.conj(half.T) - np.diag(np.diag(half).real)
        try:
            factor = np.linalg.cholesky(whole)
        except np.linalg.LinAlgError:
            self.tell(dev_info, 1)
            return
        chosen = np.tri(n, dtype=bool) if uplo == 0 else np.tri(n, dtype=bool).T
        x[chosen] = (factor if uplo == 0 else factor.conj().T)[chosen]
        self.tell(dev_info, 0)

    def getrf_size_of(self, dtype: np.dtype, handle: int, m: int, n: int, a: int, lda: int) -> int:
        self.known(handle)
        return 2 * m + n

    def getrf_of(
        self, dtype: np.dtype, handle: int, m: int, n: int, a: int, lda: int, workspace: int, dev_ipiv: int,
        dev_info: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "getrf")
        self.space(workspace, dtype, 2 * m + n, 2 * m + n)
        x, exchanges, info = matrix(a, dtype, m, n, lda), line(dev_ipiv, np.dtype("i4"), min(m, n)), 0
        for k in range(min(m, n)):
            p = k + int((np.abs(x[k:, k].real) + np.abs(x[k:, k].imag)).argmax())
            exchanges[k] = p + 1
            x[[k, p]] = x[[p, k]]
            if x[k, k] == 0:
                info = info or k + 1
            with np.errstate(all="ignore"):
                x[k + 1 :, k] /= x[k, k]
                x[k + 1 :, k + 1 :] -= np.outer(x[k + 1 :, k], x[k, k + 1 :])
        self.tell(dev_info, info)

    def getrs_of(
        self, dtype: np.dtype, handle: int, trans: int, n: int, nrhs: int, a: int, lda: int, dev_ipiv: int, b: int,
        ldb: int, dev_info: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "getrs")
        x, sides = matrix(a, dtype, n, n, lda), matrix(b, dtype, n, nrhs, ldb)
        order = np.arange(n)
        for k, p in enumerate(line(dev_ipiv, np.dtype("i4"), n)):
            order[[k, p - 1]] = order[[p - 1, k]]
        whole = np.empty_like(x)
        whole[order] = (np.tril(x, -1) + np.eye(n)) @ np.triu(x)
        try:
            sides[...] = np.linalg.solve(operated(whole, trans), sides)
        except np.linalg.LinAlgError:
            sides[...] = np.nan
        self.tell(dev_info, 0)

    def geqrf_size_of(self, dtype: np.dtype, handle: int, m: int, n: int, a: int, lda: int) -> int:
        self.known(handle)
        return 5 * n

    def geqrf_of(
        self, dtype: np.dtype, handle: int, m: int, n: int, a: int, lda: int, tau: int, workspace: int, lwork: int,
        dev_info: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "geqrf")
        self.space(workspace, dtype, lwork, 5 * n)
        x = matrix(a, dtype, m, n, lda)
        raw, factors = np.linalg.qr(x, "raw")
        x[...], line(tau, dtype, min(m, n))[:] = raw.T, factors
        self.tell(dev_info, 0)

    def orgqr_size_of(self, dtype: np.dtype, handle: int, m: int, n: int, k: int, a: int, lda: int, tau: int) -> int:
        self.known(handle)
        return 4 * n

    def orgqr_of(
        self, dtype: np.dtype, handle: int, m: int, n: int, k: int, a: int, lda: int, tau: int, work: int, lwork: int,
        info: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "orgqr")
        self.space(work, dtype, lwork, 4 * n)
        assert m >= n >= k
        x, factors = matrix(a, dtype, m, n, lda), line(tau, dtype, k)
        q = np.eye(m, dtype=dtype)
        for j in range(k):
            v = np.zeros(m, dtype)
            v[j], v[j + 1 :] = 1, x[j + 1 :, j]
            q = q @ (np.eye(m) - factors[j] * np.outer(v, v.conj()))
        x[...] = q[:, :n]
        self.tell(info, 0)

    def syevd_size_of(
        self, dtype: np.dtype, handle: int, jobz: int, uplo: int, n: int, a: int, lda: int, w: int
    ) -> int:
        self.known(handle)
        return 6 * n

    def syevd_of(
        self, dtype: np.dtype, handle: int, jobz: int, uplo: int, n: int, a: int, lda: int, w: int, work: int,
        lwork: int, info: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "syevd")
        self.space(work, dtype, lwork, 6 * n)
        x = matrix(a, dtype, n, n, lda)
        values, vectors = np.linalg.eigh(x, "L" if uplo == 0 else "U")
        line(w, values.dtype, n)[:] = values
        x[...] = vectors if jobz else np.nan
        self.tell(info, 0)

    def create_params(self) -> int:
        return 77

    def xsyev_batched_buffer_size(self, *given: int) -> tuple[int, int]:
        handle, params, _, _, n, atype, _, _, wtype, _, compute, batch = given
        self.known(handle)
        assert params == 77
        assert atype == compute
        assert DATA[wtype] == np.empty(0, DATA[atype]).real.dtype
        return 64 * n * batch, 32 * n

    def xsyev_batched(self, *given: int) -> None:
        *first, space, device, beside, host, info, batch = given
        assert (device, host) == self.xsyev_batched_buffer_size(*first, batch)
        handle, _, jobz, uplo, n, atype, a, lda, _, w, _ = first
        dtype = DATA[atype]
        line(space, np.dtype("u1"), device)[:] = line(beside, np.dtype("u1"), host)[0]
        work = np.empty(6 * n, dtype)
        for k in range(batch):
            one, values = a + k * lda * n * dtype.itemsize, w + k * n * DATA[given[8]].itemsize
            self.syevd_of(dtype, handle, jobz, uplo, n, one, lda, values, work.ctypes.data, 6 * n, info + 4 * k)
        self.calls["syevd"] -= batch
        self.calls["syev_batched"] += 1

    def xgeev_buffer_size(self, *given: int) -> tuple[int, int]:
        handle, params, jobvl, _, n, atype, _, _, wtype, _, _, _, _, rtype, _, _, compute = given
        self.known(handle)
        assert params == 77
        assert jobvl == 0, "left vectors are not there"
        assert atype == wtype == rtype == compute
        return 48 * n, 24 * n

    def xgeev(self, *given: int) -> None:
        *first, space, device, beside, host, info = given
        assert (device, host) == self.xgeev_buffer_size(*first)
        handle, _, _, jobvr, n, atype, a, lda, _, w, _, _, ldvl, _, vr, ldvr, _ = first
        self.ready(handle, "geev")
        dtype = DATA[atype]
        line(space, np.dtype("u1"), device)[:] = line(beside, np.dtype("u1"), host)[0]
        assert ldvl >= 1
        x = matrix(a, dtype, n, n, lda)
        if not np.isfinite(x).all():
            line(w, dtype, n)[:] = np.nan
            self.tell(info, 0)
            return
        values, vectors = np.linalg.eig(x)
        if dtype.kind == "c":
            line(w, dtype, n)[:] = values
        else:
            line(w, dtype, 2 * n)[:] = np.concatenate([values.real, values.imag])
            vectors = np.where(values.imag < 0, np.roll(vectors.imag, 1, axis=1), vectors.real)
        x[...] = np.nan
        if jobvr:
            matrix(vr, dtype, n, n, ldvr)[...] = vectors
        self.tell(info, 0)

    def gesvd_size_of(self, dtype: np.dtype, handle: int, m: int, n: int) -> int:
        self.known(handle)
        return m + 7 * n

    def gesvd_of(
        self, dtype: np.dtype, handle: int, jobu: int, jobvt: int, m: int, n: int, a: int, lda: int, s: int, u: int,
        ldu: int, vt: int, ldvt: int, work: int, lwork: int, rwork: int, info: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "gesvd")
        self.space(work, dtype, lwork, m + 7 * n)
        assert m >= n, "gesvd has no matrices that are wider than high"
        x, real = matrix(a, dtype, m, n, lda), np.empty(0, dtype).real.dtype
        line(rwork, real, max(n - 1, 0))[:] = np.nan
        assert jobu == jobvt
        try:
            left, values, right = np.linalg.svd(x, full_matrices=chr(jobu) == "A")
        except np.linalg.LinAlgError:
            self.tell(info, 1)
            return
        x[...] = np.nan
        line(s, real, n)[:] = values
        if chr(jobu) != "N":
            assert chr(jobu) in "AS"
            matrix(u, dtype, m, m if chr(jobu) == "A" else n, ldu)[...] = left
            matrix(vt, dtype, n, n, ldvt)[...] = right
        self.tell(info, 0)

    def create_gesvdj_info(self) -> int:
        return 99

    def gesvdj_batched_size_of(self, dtype: np.dtype, handle: int, *given: int) -> int:
        self.known(handle)
        _, m, n, *_, params, batch = given
        assert len(given) == 12
        assert params == 99
        return (m + n) * batch

    def gesvdj_batched_of(
        self, dtype: np.dtype, handle: int, jobz: int, m: int, n: int, a: int, lda: int, s: int, u: int, ldu: int,
        v: int, ldv: int, work: int, lwork: int, info: int, params: int, batch_size: int,
    ) -> None:  # fmt: skip
        self.ready(handle, "gesvdj_batched")
        self.space(work, dtype, lwork, (m + n) * batch_size)
        assert params == 99
        assert max(m, n) <= 32
        for i in range(batch_size):
            one, left, right = (
                p + i * size * dtype.itemsize for p, size in ((a, lda * n), (u, ldu * m), (v, ldv * n))
            )
            made, values, vectors = np.linalg.svd(matrix(one, dtype, m, n, lda))
            line(s + i * min(m, n) * values.itemsize, values.dtype, min(m, n))[:] = values
            if jobz:
                matrix(left, dtype, m, m, ldu)[...] = made
                matrix(right, dtype, n, n, ldv)[...] = vectors.conj().T
            self.tell(info + 4 * i, 0)


class Cufft:
    """Plans by number: kind, points, transforms, the size of what they work in, where that is, a stream."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.plans: dict[int, dict[str, Any]] = {}

    def create(self) -> int:
        number = len(self.plans) + 1
        self.plans[number] = {}
        return number

    def destroy(self, plan: int) -> None:
        self.plans[plan]["gone"] = True

    def set_auto_allocation(self, plan: int, auto_allocate: int) -> None:
        self.plans[plan]["automatic"] = auto_allocate

    def make_plan_many64(
        self, plan: int, rank: int, n: list[int], inembed: int, istride: int, idist: int, onembed: int, ostride: int,
        odist: int, type: int, batch: int,
    ) -> int:  # fmt: skip
        assert len(n) == rank == 1
        assert n[0] > 1
        assert inembed == onembed == 0, "strides are those of arrays side by side then"
        made = self.plans[plan]
        assert made.get("automatic") == 0
        made |= {"type": type, "n": n[0], "batch": batch, "size": 16 * n[0]}
        return 16 * n[0]

    def set_work_area(self, plan: int, work_area: int) -> None:
        self.plans[plan]["area"] = work_area

    def set_stream(self, plan: int, stream: int) -> None:
        self.plans[plan]["stream"] = stream

    def given(self, plan: int, name: str, type: int, x: int, y: int, dtypes: str) -> tuple[int, np.ndarray, np.ndarray]:
        self.calls[name] += 1
        made = self.plans[plan]
        assert made["type"] == type
        assert "stream" in made
        assert "gone" not in made
        line(made["area"], np.dtype("u1"), made["size"])[:] = 0xFF
        n, arrays = made["n"], []
        for address, code in zip((x, y), dtypes.split(), strict=True):
            dtype = np.dtype(code)
            points = n if dtypes.split()[0] == dtypes.split()[1] or dtype.kind == "f" else n // 2 + 1
            assert address % (dtype.itemsize * (2 if dtype.kind == "f" else 1)) == 0, "not aligned"
            arrays.append(line(address, dtype, made["batch"] * points).reshape(made["batch"], points))
        return n, arrays[0], arrays[1]

    def complex_of(self, plan: int, type: int, x: int, y: int, direction: int, code: str) -> None:
        n, given, made = self.given(plan, "c2c", type, x, y, f"{code} {code}")
        made[...] = np.fft.fft(given) if direction == -1 else np.fft.ifft(given) * n
        assert direction in (-1, 1)

    def exec_c2c(self, plan: int, idata: int, odata: int, direction: int) -> None:
        self.complex_of(plan, 0x29, idata, odata, direction, "c8")

    def exec_z2z(self, plan: int, idata: int, odata: int, direction: int) -> None:
        self.complex_of(plan, 0x69, idata, odata, direction, "c16")

    def forward(self, plan: int, type: int, x: int, y: int, codes: str) -> None:
        _, given, made = self.given(plan, "r2c", type, x, y, codes)
        made[...] = np.fft.rfft(given)

    def exec_r2c(self, plan: int, idata: int, odata: int) -> None:
        self.forward(plan, 0x2A, idata, odata, "f4 c8")

    def exec_d2z(self, plan: int, idata: int, odata: int) -> None:
        self.forward(plan, 0x6A, idata, odata, "f8 c16")

    def backward(self, plan: int, type: int, x: int, y: int, codes: str) -> None:
        n, given, made = self.given(plan, "c2r", type, x, y, codes)
        ends = [0, n // 2] if n % 2 == 0 else [0]
        assert not given[:, ends].imag.any(), "what is open where numbers are not those of reals"
        made[...] = np.fft.irfft(given, n) * n
        given[...] = np.nan

    def exec_c2r(self, plan: int, idata: int, odata: int) -> None:
        self.backward(plan, 0x2C, idata, odata, "c8 f4")

    def exec_z2d(self, plan: int, idata: int, odata: int) -> None:
        self.backward(plan, 0x6C, idata, odata, "c16 f8")

"""Primitives that libraries compute on a device: NVIDIA's routines, run by NumPy on host memory (`fake_nvmath`), and
our own kernels in the simulator, against the primitives' own rules."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_nvmath
from cuda_device import HARDWARE

from nufunc.codegen.cuda import contraction, libraries, library_linalg, small_matrices
from nufunc.codegen.cuda.compile import compiled_together
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.program import Call, Operand, Place
from nufunc.codegen.cuda.simulate import simulate
from nufunc.ir import primitive
from nufunc.ir.errors import DeviceError
from nufunc.ir.types import ArrayType, bfloat16, dtype_name, is_half, type_of
from nufunc.runtime.cuda import cudnn, nvidia
from nufunc.runtime.cuda import libraries as running
from nufunc.runtime.cuda.simulated import SimulatedDriver

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
HALVES = [np.float16, bfloat16().type]
SITE = 7


class Fakes:
    """The three libraries."""

    def __init__(self) -> None:
        self.cublas, self.cusolverDn, self.cufft = fake_nvmath.Cublas(), fake_nvmath.CusolverDn(), fake_nvmath.Cufft()

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name, None)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """NVIDIA's libraries for all that they can do; on hardware these themselves, and what nobody looks at."""
    made = Fakes()
    if not HARDWARE:
        monkeypatch.setattr(nvidia, "module", lambda name: made[name])
        monkeypatch.setattr(nvidia, "_handles", {})
        monkeypatch.setattr(cudnn, "library", lambda: None)  # test_cuda_conv.py
    elif not nvidia.available():
        pytest.skip("nvmath-python is not installed")
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "nvidia")
    monkeypatch.setattr(libraries, "_is_small", lambda made: False)
    monkeypatch.setattr(libraries, "_KEPT", {})
    return made


def device() -> Any:
    return hardware() if HARDWARE else SimulatedDriver()


@functools.cache
def hardware() -> Any:
    from nufunc.runtime.cuda.hardware import HardwareDriver

    return HardwareDriver(0)


def device_call(
    prim: str, arrays: Sequence[np.ndarray], attrs: dict[str, Any]
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Results of a call on a device, those of the primitive's own rule, and the error word."""
    driver, record = device(), primitive.get(prim)
    operands = [type_of(a) for a in arrays]
    results = list(record.infer(operands, attrs, ()))
    scratch = _scratch(prim, operands, results, attrs)
    types = [*operands, *results]
    places = [driver.allocate(max(t.nbytes, 1), 0) for t in types]
    for place, array in zip(places, arrays, strict=False):
        if array.size:
            driver.upload(place, np.ascontiguousarray(array), 0)
    space = driver.allocate(scratch, 0) if scratch else 0
    word, view = driver.word()
    call = Call(
        prim, tuple(Operand(Place("input", k), t) for k, t in enumerate(operands)),
        tuple(Operand(Place("output", k), t) for k, t in enumerate(results)), attrs, None, scratch, None, SITE,
    )  # fmt: skip
    running.run(call, driver, [*places, space, word], 0)
    made = [_fetched(driver, t, place) for t, place in zip(results, places[len(operands) :], strict=True)]
    for array, place in zip(arrays, places, strict=False):  # operands are read only
        np.testing.assert_array_equal(_fetched(driver, type_of(array), place), array)
    driver.report(word, 0)
    driver.synchronize(0)
    error = int(view[0])
    for place in (*places, *([space] if space else [])):
        driver.free(place, 0)
    if error:
        return made, [], error
    with np.errstate(all="ignore"):
        wide = [a.astype(np.float32) if is_half(a.dtype) else a for a in arrays]
        wanted = [np.asarray(r) for r in record.evaluate(wide, attrs, ())]
        return made, [r.astype(t.dtype) if is_half(t.dtype) else r for r, t in zip(wanted, results, strict=True)], 0


def _fetched(driver: Any, type_: ArrayType, place: int) -> np.ndarray:
    array = np.empty(type_.shape, type_.dtype)
    if array.size:
        driver.download(array, place, 0)
    return array


def _scratch(prim: str, operands: list[ArrayType], results: list[ArrayType], attrs: dict[str, Any]) -> int:
    lowered = [libraries.lowered(prim, operands, results, attrs, SITE, has) for has in (True, False)]
    return max(made.scratch for made in lowered)


def numbers(shape: Sequence[int], dtype: Any, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([seed, *shape])
    made = random.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        made = made + 1j * random.standard_normal(shape)
    return made.astype(dtype)


def close(made: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    assert len(made) == len(wanted)
    for x, y in zip(made, wanted, strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        tolerance = {"f16": 1e-2, "bf16": 4e-2, "f32": 2e-4, "c64": 2e-4}.get(dtype_name(x.dtype), 1e-9)
        if is_half(x.dtype):
            x, y = x.astype(np.float32), y.astype(np.float32)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


# -- products: shapes of the operands, contracted axes, batch axes

DOTS = [
    ((5, 7), (7, 3), ((1,), (0,)), ((), ())),
    ((7, 5), (7, 3), ((0,), (0,)), ((), ())),
    ((5, 7), (3, 7), ((1,), (1,)), ((), ())),
    ((7, 5), (3, 7), ((0,), (1,)), ((), ())),
    ((4, 5, 7), (4, 7, 3), ((2,), (1,)), ((0,), (0,))),
    ((5, 4, 7), (7, 3, 4), ((2,), (0,)), ((1,), (2,))),
    ((4, 5, 7), (7, 4, 3), ((2,), (0,)), ((0,), (1,))),
    ((2, 4, 5, 7), (2, 4, 7, 3), ((3,), (2,)), ((0, 1), (0, 1))),
    ((2, 4, 5, 7), (4, 2, 7, 3), ((3,), (2,)), ((0, 1), (1, 0))),
    ((5, 2, 7), (2, 7, 3), ((1, 2), (0, 1)), ((), ())),
    ((5, 2, 7), (7, 2, 3), ((1, 2), (1, 0)), ((), ())),
    ((2, 5, 7), (7, 3, 2), ((0, 2), (2, 0)), ((), ())),
    ((5, 2, 7), (7, 3), ((2,), (0,)), ((), ())),
    ((5, 7, 2), (7, 3), ((1,), (0,)), ((), ())),
    ((5, 7), (7,), ((1,), (0,)), ((), ())),
    ((7, 5), (7,), ((0,), (0,)), ((), ())),
    ((7,), (7, 5), ((0,), (0,)), ((), ())),
    ((7,), (5, 7), ((0,), (1,)), ((), ())),
    ((4, 5, 7), (4, 7), ((2,), (1,)), ((0,), (0,))),
    ((4, 5, 7), (7, 4), ((2,), (0,)), ((0,), (1,))),
    ((7, 4), (4, 7, 5), ((0,), (1,)), ((1,), (0,))),
    ((5, 7), (5, 7), ((1,), (1,)), ((0,), (0,))),
    ((7, 5), (5, 7), ((0,), (1,)), ((1,), (0,))),
    ((7,), (7,), ((0,), (0,)), ((), ())),
    ((5, 1), (1, 3), ((1,), (0,)), ((), ())),
    ((1, 7), (7, 3), ((1,), (0,)), ((), ())),
    ((5, 7), (7, 1), ((1,), (0,)), ((), ())),
    ((4, 5), (4, 3), ((), ()), ((0,), (0,))),
    ((5, 1, 7), (1, 7, 3), ((2,), (1,)), ((1,), (0,))),
    ((3, 2, 5), (2, 3, 4), ((0, 1), (1, 0)), ((), ())),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES])
@pytest.mark.parametrize("way", ["nvidia", "own"])
def test_products(fakes: Fakes, monkeypatch: pytest.MonkeyPatch, dtype: Any, way: str) -> None:
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", way)
    small = contraction.Tile(4, 4, 2, 2, 4)
    monkeypatch.setattr("nufunc.codegen.cuda.library_products.tile_for", lambda form: small)
    monkeypatch.setattr(libraries, "_KEPT", {})
    for k, (left, right, contract, batch) in enumerate(DOTS):
        arrays = [numbers(left, dtype, k), numbers(right, dtype, k + 1)]
        made, wanted, error = device_call("dot", arrays, {"contract": contract, "batch": batch})
        assert not error
        close(made, wanted)
    if HARDWARE:
        return
    if way == "nvidia":
        assert fakes.cublas.calls["gemm"] > 10
        assert fakes.cublas.calls["gemv"] > 5 or dtype in HALVES
    else:
        assert not fakes.cublas.calls


@pytest.mark.skipif(HARDWARE, reason="of the stand-in")
@pytest.mark.parametrize("dtype", HALVES)
def test_products_of_halves_know_no_tf32(fakes: Fakes, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    """Which is for operands of float32 alone; cuBLAS refuses it for others."""
    monkeypatch.setenv("NUFUNC_CUDA_TF32", "1")
    arrays = [numbers((5, 7), dtype), numbers((7, 3), dtype)]
    made, wanted, _ = device_call("dot", arrays, {"contract": ((1,), (0,)), "batch": ((), ())})
    close(made, wanted)
    assert fakes.cublas.calls["gemm"] == 1


# -- convolutions: letters of x, w and the result, shapes, and per letter of the window stride, dilation, spread, offset

CONVS = [
    ("nch", "och", "noh", "h", (2, 3, 9), (4, 3, 3), [(1, 1, 1, 0, 7)]),
    ("nch", "och", "noh", "h", (2, 3, 9), (4, 3, 3), [(2, 1, 1, 1, 5)]),
    ("nch", "och", "noh", "h", (2, 3, 9), (4, 3, 3), [(1, 2, 1, 2, 9)]),
    ("nch", "och", "noh", "h", (2, 3, 5), (4, 3, 3), [(1, 1, 2, 2, 11)]),
    ("nch", "och", "noh", "h", (2, 3, 5), (4, 3, 3), [(-1, 1, 1, -4, 5)]),
    ("nch", "och", "noh", "h", (2, 3, 9), (4, 3, 3), [(2, -1, 1, -2, 4)]),
    ("nchw", "ochw", "nohw", "hw", (2, 3, 6, 5), (4, 3, 3, 2), [(1, 1, 1, 1, 6), (2, 1, 1, 0, 2)]),
    ("nhwc", "hwco", "nohw", "hw", (2, 6, 5, 3), (3, 2, 3, 4), [(1, 1, 1, 1, 6), (2, 1, 1, 0, 2)]),
    ("ngch", "goch", "ngoh", "h", (2, 3, 2, 7), (3, 4, 2, 3), [(1, 1, 1, 1, 7)]),
    ("nch", "noh", "och", "h", (5, 3, 9), (5, 4, 7), [(1, 1, 1, 0, 3)]),
    ("nch", "noh", "och", "h", (5, 3, 9), (5, 4, 4), [(1, 2, 1, 1, 3)]),
    ("noh", "och", "nch", "h", (2, 4, 7), (4, 3, 3), [(1, -1, 1, 0, 9)]),
    ("ch", "oh", "coh", "h", (3, 6), (4, 3), [(1, 1, 1, 1, 6)]),
]  # fmt: skip


def conv_attrs(x: str, w: str, out: str, window: str, rows: list[tuple[int, ...]]) -> dict[str, Any]:
    names = ("stride", "dilation", "spread", "offset", "extent")
    found = {name: tuple(row[k] for row in rows) for k, name in enumerate(names)}
    return {"x": x, "w": w, "out": out, "window": window, **found}


@pytest.mark.parametrize("way", ["nvidia", "own"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, *HALVES])
def test_convolutions(fakes: Fakes, monkeypatch: pytest.MonkeyPatch, dtype: Any, way: str) -> None:
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", way)
    small = contraction.Tile(4, 4, 2, 2, 4)
    monkeypatch.setattr("nufunc.codegen.cuda.library_products.tile_for", lambda form: small)
    monkeypatch.setattr(libraries, "_KEPT", {})
    for k, (x, w, out, window, left, right, rows) in enumerate(CONVS):
        arrays = [numbers(left, dtype, k), numbers(right, dtype, k + 1)]
        made, wanted, error = device_call("conv", arrays, conv_attrs(x, w, out, window, rows))
        assert not error
        close(made, wanted)


@pytest.mark.parametrize(("m", "n", "k"), [(40, 70, 20), (70, 20, 5), (17, 18, 100)])
def test_tiles_of_full_size(fakes: Fakes, monkeypatch: pytest.MonkeyPatch, m: int, n: int, k: int) -> None:
    """Also sums in several parts, and of halves, which are rounded once."""
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "own")
    monkeypatch.setattr(contraction, "DEEP", 40)
    arrays = [numbers((k, m), np.float32), numbers((n, k), np.float32)]
    for dtype in HALVES if k == 100 else ():
        halves = [a.astype(dtype) for a in arrays]
        (made,), _, error = device_call("dot", halves, {"contract": ((0,), (1,)), "batch": ((), ())})
        assert not error
        exact = halves[0].astype(np.float64).T @ halves[1].astype(np.float64).T
        assert made.dtype == dtype
        near = 2.0**-8 if dtype != np.float16 else 2.0**-11
        np.testing.assert_allclose(made.astype(np.float64), exact, rtol=1.01 * near, atol=1e-5)
    made, wanted, error = device_call("dot", arrays, {"contract": ((0,), (1,)), "batch": ((), ())})
    assert not error
    close(made, wanted)


# -- linear algebra

SQUARES = [(1, 1), (2, 2), (5, 5), (3, 4, 4), (2, 3, 3, 3), (0, 3, 3), (0, 0), (2, 0, 0)]
RECTANGLES = [*SQUARES, (5, 3), (3, 5), (2, 6, 4), (2, 4, 6), (1, 4), (4, 1), (4, 0), (0, 4), (2, 4, 0)]


def positive(shape: Sequence[int], dtype: Any) -> np.ndarray:
    a = numbers(shape, np.complex128 if np.dtype(dtype).kind == "c" else np.float64)
    return (a @ np.conj(np.swapaxes(a, -1, -2)) + 3 * np.eye(shape[-1])).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cholesky_and_eigh(fakes: Fakes, dtype: Any) -> None:
    for shape in SQUARES:
        a = positive(shape, dtype)
        made, wanted, error = device_call("cholesky", [a + np.triu(numbers(shape, dtype), 1)], {})
        assert not error
        close(made, wanted)
        for lower, vectors in ((True, True), (False, True), (True, False)):
            spoilt = a + (np.triu(numbers(shape, dtype), 1) if lower else np.tril(numbers(shape, dtype), -1))
            made, wanted, error = device_call("eigh", [spoilt], {"lower": lower, "vectors": vectors})
            assert not error
            close(made[:1], wanted[:1])
            if vectors and a.size:
                values, v = made
                close([a @ v, np.conj(np.swapaxes(v, -1, -2)) @ v], [v * values[..., None, :].astype(dtype),
                      np.broadcast_to(np.eye(shape[-1], dtype=dtype), shape)])  # fmt: skip
    if not HARDWARE:
        calls = fakes.cusolverDn.calls
        assert (calls["potrf"], calls["syevd"], calls["syev_batched"]) == (1 + 1 + 1 + 3 + 6, 3 * 3, 3 * 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equations(fakes: Fakes, dtype: Any) -> None:
    for shape in SQUARES:
        a = numbers(shape, dtype) + 2 * np.eye(shape[-1], dtype=dtype)
        for columns in (1, 3):
            b = numbers((*shape[:-1], columns), dtype, 1)
            made, wanted, error = device_call("solve", [a, b], {})
            assert not error
            close(made, wanted)
            for k in range(8):
                attrs = {"lower": bool(k & 1), "trans": bool(k & 2), "unit": bool(k & 4)}
                made, wanted, error = device_call("triangular_solve", [a, b], attrs)
                assert not error
                close(made, wanted)
        for prim in ("det", "slogdet"):
            made, wanted, error = device_call(prim, [a], {})
            assert not error
            close(made, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_factorizations(fakes: Fakes, dtype: Any) -> None:
    for shape in RECTANGLES:
        a = numbers(shape, dtype)
        for prim, attrs in [
            ("lu", {}), *(("qr", {"full": full, "vectors": v}) for full in (True, False) for v in (True, False)),
            ("householder", {}),
        ]:  # fmt: skip
            made, wanted, error = device_call(prim, [a], attrs)
            assert not error
            close(made, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stacks", [True, False])
def test_singular_values(fakes: Fakes, monkeypatch: pytest.MonkeyPatch, dtype: Any, stacks: bool) -> None:
    if not stacks:
        monkeypatch.setattr(library_linalg, "SMALL_SVD", 0)
    for shape in RECTANGLES:
        a = numbers(shape, dtype)
        for full, vectors in ((False, True), (True, True), (False, False)):
            made, wanted, error = device_call("svd", [a], {"full": full, "vectors": vectors})
            assert not error
            close([m for m in made if m.ndim < len(shape)], [w for w in wanted if w.ndim < len(shape)])
            if vectors and a.size:
                (u, s, vh), k = made, min(shape[-2:])
                close([(u[..., :k] * s[..., None, :].astype(dtype)) @ vh[..., :k, :]], [a])
                for q in (np.conj(np.swapaxes(u, -1, -2)) @ u, vh @ np.conj(np.swapaxes(vh, -1, -2))):
                    close([q], [np.broadcast_to(np.eye(q.shape[-1], dtype=dtype), q.shape)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_eigenvalues(fakes: Fakes, dtype: Any) -> None:
    for shape in SQUARES:
        a = numbers(shape, dtype)
        for vectors in (True, False):
            made, wanted, error = device_call("eig", [a], {"vectors": vectors})
            assert not error
            order = [np.argsort(np.round(w[0], 3), axis=-1, kind="stable") for w in (made, wanted)]
            close(*([np.take_along_axis(w[0], o, -1)] for w, o in zip((made, wanted), order, strict=True)))
            if vectors and a.size:
                w, v = made
                close([a @ v, np.linalg.norm(v, axis=-2)], [v * w[..., None, :], np.ones(w.shape, w.real.dtype)])
    assert device_call("eig", [np.full((2, 2), np.nan)], {"vectors": True})[2] == SITE


def test_failures_are_told(fakes: Fakes) -> None:
    """The site in the error word: one matrix of a stack is enough."""
    a = np.stack([np.eye(3), np.diag([1.0, -1.0, 1.0])])
    assert device_call("cholesky", [a], {})[2] == SITE
    a[1] = 1
    assert device_call("solve", [a, np.ones((2, 3, 1))], {})[2] == SITE
    made, _, error = device_call("slogdet", [a], {})
    assert not error
    np.testing.assert_array_equal(made, [[1, 0], [0, -np.inf]])
    assert device_call("svd", [np.full((2, 2), np.nan)], {"full": False, "vectors": True})[2] == SITE
    assert device_call("require", [np.ones(2), np.array(False)], {"message": "no"})[2] == SITE
    made, wanted, error = device_call("require", [np.ones(2), np.array(True)], {"message": "no"})
    assert not error
    close(made, wanted)


@pytest.mark.parametrize(
    ("memory", "dtype"), [*(("fast", t) for t in DTYPES), ("global", np.complex64), ("thread", np.float64)]
)
def test_small_matrices(fakes: Fakes, monkeypatch: pytest.MonkeyPatch, dtype: Any, memory: str) -> None:
    """Kernels of our own, with the matrices in shared, global or a thread's memory."""
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "own")
    if memory == "global":
        monkeypatch.setattr(small_matrices, "SHARED", 0)
    if memory == "thread":
        monkeypatch.setattr(small_matrices, "MANY", 2)
    for shape in [(1, 1), (5, 5), (3, 4, 4), (0, 3, 3), (2, 0, 0)]:
        a = positive(shape, dtype)
        results = [device_call("cholesky", [a], {})]
        a = numbers(shape, dtype)
        results += [device_call(prim, [a], {}) for prim in ("det", "slogdet")]
        for columns in (1, 3):
            b = numbers((*shape[:-1], columns), dtype, 1)
            results.append(device_call("solve", [a, b], {}))
            for k in range(8):
                attrs = {"lower": bool(k & 1), "trans": bool(k & 2), "unit": bool(k & 4)}
                results.append(device_call("triangular_solve", [a, b], attrs))
        for made, wanted, error in results:
            assert not error
            close(made, wanted)
    for shape in [(5, 5), (3, 4, 4), (5, 3), (3, 5), (2, 6, 4), (1, 4), (4, 1), (0, 4), (4, 0)]:
        a = numbers(shape, dtype)
        for prim, attrs in [("lu", {}), ("householder", {}), *(("qr", {"full": f, "vectors": True}) for f in (0, 1))]:
            made, wanted, error = device_call(prim, [a], attrs)
            assert not error
            close(made, wanted)
    for shape in [(1, 1), (2, 2), (2, 5, 5)]:
        a = positive(shape, dtype)
        for lower, vectors in ((True, True), (False, False)):
            hidden = np.triu(numbers(shape, dtype), 1) if lower else np.tril(numbers(shape, dtype), -1)
            made, wanted, error = device_call("eigh", [a + hidden], {"lower": lower, "vectors": vectors})
            assert not error
            close(made[:1], wanted[:1])
            if vectors:
                w, v = made
                close([a @ v, np.conj(np.swapaxes(v, -1, -2)) @ v], [v * w[..., None, :].astype(dtype),
                      np.broadcast_to(np.eye(shape[-1], dtype=dtype), shape)])  # fmt: skip
    for same in (np.zeros((3, 3), dtype), np.eye(3, dtype=dtype), np.ones((3, 3), dtype)):
        made, wanted, error = device_call("eigh", [same], {"lower": True, "vectors": True})
        assert not error
        close(made[:1], wanted[:1])
    assert np.isnan(device_call("eigh", [np.full((2, 2), np.nan, dtype)], {"lower": True, "vectors": True})[0][0]).all()
    special = np.zeros((4, 3), dtype)
    special[0], special[2:, 1] = 1e-30, 3
    made, wanted, error = device_call("qr", [special], {"full": True, "vectors": True})
    close(made, wanted)
    singular = np.ones((2, 3, 3), dtype)
    made, wanted, error = device_call("slogdet", [singular], {})
    close(made, wanted)
    assert device_call("solve", [singular, singular], {})[2] == SITE
    assert device_call("cholesky", [-positive((2, 3, 3), dtype)], {})[2] == SITE
    made, wanted, error = device_call("lu", [singular], {})
    close(made, wanted)
    assert not fakes.cusolverDn.calls
    assert not fakes.cublas.calls


@pytest.mark.skipif(HARDWARE, reason="of the simulator")
def test_kernels_have_no_races_and_compile(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another order of threads, with a watch on every access; and as PTX."""
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "own")
    monkeypatch.setattr(small_matrices, "SHARED", 200)
    monkeypatch.setattr(contraction, "DEEP", 16)
    small = contraction.Tile(4, 4, 2, 2, 4)
    monkeypatch.setattr("nufunc.codegen.cuda.library_products.tile_for", lambda form: small)
    kernels: list[Kernel] = []

    def watched(kernel: Kernel, arrays: list[np.ndarray]) -> None:
        kernels.append(kernel)
        simulate(kernel, arrays, order=3, races=len(kernels) <= 23)

    monkeypatch.setattr("nufunc.runtime.cuda.simulated._simulator", lambda: watched)
    for dtype in (np.float32, np.complex128):
        a, right = positive((2, 3, 3), dtype), numbers((2, 3, 2), dtype)
        product = {"contract": ((2,), (1,)), "batch": ((0,), (0,))}
        flags = {"lower": True, "trans": True, "unit": False}
        for prim, arrays, attrs in [
            ("cholesky", [a], {}), ("solve", [a, right], {}), ("triangular_solve", [a, right], flags),
            ("slogdet", [a], {}), ("det", [a[:1]], {}), ("lu", [numbers((2, 3, 4), dtype)], {}),
            ("qr", [numbers((2, 4, 3), dtype)], {"full": True, "vectors": True}), ("householder", [a], {}),
            ("eigh", [a[:1]], {"lower": True, "vectors": False}),
            ("dot", [numbers((2, 9, 32), dtype), numbers((2, 32, 6), dtype)], product),
        ]:  # fmt: skip
            made, wanted, error = device_call(prim, arrays, attrs)
            assert not error
            close(made, wanted)
    x, w, out, window, left, right_shape, rows = CONVS[6]
    arrays = [numbers(left, np.float32), numbers(right_shape, np.float32)]
    made, wanted, error = device_call("conv", arrays, conv_attrs(x, w, out, window, rows))
    close(made, wanted)
    assert len(kernels) == 23
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "nvidia")
    for dtype in (np.float64, np.complex64):
        for prim, shape, attrs in [
            ("cholesky", (5, 5), {}), ("slogdet", (2, 4, 4), {}), ("qr", (5, 3), {"full": True, "vectors": True}),
            ("svd", (2, 3, 4), {"full": False, "vectors": True}), ("eig", (3, 3), {"vectors": True}),
            ("irfft", (2, 4), {"n": 6}), ("lu", (3, 4), {}),
        ]:  # fmt: skip
            a = positive(shape, dtype) if prim == "cholesky" else numbers(shape, dtype)
            device_call(prim, [a.astype(np.complex64) if prim == "irfft" else a], attrs)
    assert len(kernels) > 40
    pytest.importorskip("numba.cuda")
    for kernel, code in zip(kernels, compiled_together(kernels, (8, 0)), strict=True):
        assert f".entry {code.symbol}" in code.ptx, kernel.name


def test_loops_whose_threads_meet_are_not_written_out() -> None:
    """Else an elimination of 32 rows takes a minute to compile."""
    pytest.importorskip("numba.cuda")
    types = [ArrayType((4, 32, 32), np.dtype(np.float32)), ArrayType((4, 32, 1), np.dtype(np.float32))]
    (step,) = libraries.lowered("solve", types, types[1:], {}, SITE, False).steps
    (code,) = compiled_together([step.kernel], (8, 0))
    assert code.ptx.count("bar.sync") < 40


def test_errors_of_the_libraries(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    if HARDWARE:
        pytest.skip("of the stand-in")

    def refused(*args: int) -> int:
        raise RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(fakes.cusolverDn, "create", refused)
    with pytest.raises(DeviceError, match="fails in potrf of float64: CUSOLVER_STATUS_ALLOC_FAILED"):
        device_call("cholesky", [np.eye(3)], {})


# -- Fourier transforms


@pytest.mark.parametrize("single", [True, False])
def test_fourier_transforms(fakes: Fakes, single: bool) -> None:
    real, full = (np.float32, np.complex64) if single else (np.float64, np.complex128)
    for shape in [(1,), (2,), (7,), (8,), (3, 6), (2, 3, 5), (3, 1), (0, 4)]:
        for inverse in (True, False):
            made, wanted, error = device_call("fft", [numbers(shape, full)], {"inverse": inverse})
            close(made, wanted)
        made, wanted, error = device_call("rfft", [numbers(shape, real)], {})
        close(made, wanted)
        points = (*shape[:-1], shape[-1] // 2 + 1)
        made, wanted, error = device_call("irfft", [numbers(points, full)], {"n": shape[-1]})
        close(made, wanted)
        assert not error
    assert HARDWARE or set(fakes.cufft.calls) == {"c2c", "r2c", "c2r"}
